/*
 * value-target - scored rollouts in, lambda-returns out.
 *
 *     takes   scored frames of a run's batches (or, between pipes, any)
 *     gives   one target frame for each: the value target of every state of the response
 *
 * In a run the values come from the run's own snapshots, as old as --refresh allows; lambda = 1 needs no values.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/json.h"
#include "base/log.h"
#include "base/option.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/stop.h"
#include "learn/returns.h"
#include "model/model.h"
#include "text/retokenize.h"
#include "value-target/valuer.h"
#include "wire/edge.h"
#include "wire/remote_model.h"

struct options {
    const char *model, *endpoint, *run, *reward, *policy, *split;
    const char *value_tokenizer, *quant_name;
    enum tensor_type quant;
    double lambda, gamma;
    int64_t refresh, threads;
    bool no_terminal_state, keep_packed;
};

static struct options options_read(int argc, char **argv)
{
    static struct options options = { .quant = TENSOR_TYPE_COUNT, .gamma = 1, .refresh = 2 };
    options.endpoint = getenv("VAS_STORE");
    const struct option_spec specs[] = {
        { 's', "store", "ENDPOINT", OPTION_TEXT, &options.endpoint, 0, 0,
          "store to work for (default VAS_STORE; without: frames on stdin and stdout)" },
        EDGE_KEY_OPTIONS,
        { 0, "run", "NAME", OPTION_NAME, &options.run, 1, NAME_BYTES, "training run in the store" },
        { 0, "reward", "NAME", OPTION_NAME, &options.reward, 1, NAME_BYTES, "which reward's scores the run is trained on" },
        { 0, "policy", "NAME", OPTION_NAME, &options.policy, 1, NAME_BYTES, "whose rollouts (default base)" },
        { 0, "split", "NAME", OPTION_NAME, &options.split, 1, NAME_BYTES, "prompts of this split (default train)" },
        { 0, "lambda", "X", OPTION_NUMBER, &options.lambda, 0, 1,
          "trace decay; 1 is the score itself and needs no values\n(default 0.95; between pipes without -m: 1)" },
        { 0, "gamma", "X", OPTION_NUMBER, &options.gamma, 0, 1, "discount per token (default 1)" },
        { 0, "refresh", "STEPS", OPTION_INT, &options.refresh, 1, 1000000,
          "values come from weights at most so many steps old (default 2)" },
        { 0, "no-terminal-state", NULL, OPTION_FLAG, &options.no_terminal_state, 0, 0,
          "leave the state after the last token untrained, as the\nreference implementation does" },
        { 'm', "model", "DIR", OPTION_TEXT, &options.model, 0, 0, "between pipes: value model whose values are used" },
        { 0, "value-tokenizer", "DIR|FILE", OPTION_TEXT, &options.value_tokenizer, 0, 0,
          "tokenizer of the value model where it is not the policy's:\n"
          "the states are then those of its own tokens of the same text" },
        { 0, "quant", MODEL_QUANTS, OPTION_CHOICE, &options.quant_name, 0, 0,
          "round the value model's matrices on load: less memory,\nother values (default: as in the file)" },
        MODEL_KEEP_PACKED_OPTION(options.keep_packed),
        { 't', "threads", "N", OPTION_INT, &options.threads, 1, 256, "threads (default: the cores this process may use)" },
    };
    static const struct option_usage usage = {
        .program = "vas-value-target",
        .example = "value-target -s $VAS_STORE --run kind --reward vader",
        .synopsis = "value-target -s ENDPOINT --run NAME --reward NAME [options]\n"
                    "          value-target [--lambda X -m VALUE] < scored > targets",
        .summary = "Computes lambda-returns, the targets that a value model is trained on.",
        .exit_codes = "  0   the run has all its targets, or the input ended\n  64  usage\n  65  a frame or a model is bad\n"
                      "  66  the value model or its tokenizer is missing\n"
                      "  69  no store answers\n  71  the value model needs more memory than there is\n"
                      "  74  output could not be written\n  75  stopped before the end\n  77  the store refuses this worker's key\n"
                      "  78  the run was begun with other settings\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (options.endpoint != NULL && (options.run == NULL || options.reward == NULL))
        options_refuse("a store needs --run and --reward");
    if (options.endpoint == NULL && (options.run != NULL || options.reward != NULL))
        options_refuse("--run and --reward are for a store: name it with --store or VAS_STORE");
    if (options.endpoint == NULL && (options.policy != NULL || options.split != NULL))
        options_refuse("--policy and --split are for a store: between pipes every scored frame becomes a target");
    options.policy = options.policy != NULL ? options.policy : "base";
    options.split = options.split != NULL ? options.split : "train";
    if (options.endpoint != NULL && options.model != NULL)
        options_refuse("-m is for pipes; in a store the values come from the run's own snapshots");
    options.quant = model_quant_from_name(options.quant_name);
    if (!options_given("lambda"))
        options.lambda = options.endpoint != NULL || options.model != NULL ? 0.95 : 1;
    else if (options.lambda < 1 && options.endpoint == NULL && options.model == NULL)
        options_refuse("--lambda %g needs values: name a value model with -m", options.lambda);
    return options;
}

/* own: the value model's tokenizer where it has one of its own. */
static char *settings_text(const struct options *options, const struct tokenizer *own)
{
    if (options->endpoint == NULL)
        return NULL;
    json_t *json = json_pack("{s:s, s:{s:s, s:s, s:s, s:f, s:f, s:I, s:b}}", "run", options->run, "target", "reward",
                             options->reward, "policy", options->policy, "split", options->split, "lambda", options->lambda,
                             "gamma", options->gamma,
                             "refresh", (json_int_t)options->refresh, "terminal", !options->no_terminal_state);
    CHECK(json != NULL);
    if (options->quant_name != NULL)
        json_object_set_new(json_object_get(json, "target"), "quant", json_string(tensor_formats[options->quant].name));
    if (own != NULL)
        json_object_set_new(json_object_get(json, "target"), "state_tokenizer", json_string(tokenizer_key(own)));
    char *text = json_text(json);
    json_decref(json);
    return text;
}

/* The value model at hand; in a run it changes with the snapshot that a frame asks for. */
struct snapshot {
    struct pool *pool;
    enum tensor_type quant;
    struct valuer *valuer;
    char *tokenizer_key;  // whose ids it knows; NULL in a run, where train refuses others
    int64_t step;
};

/* That of options.model, where there is one.  An exit code. */
static int snapshot_open(struct snapshot *snapshot, const struct options *options)
{
    int code = EX_OK;
    if (options->model == NULL)
        return code;
    snapshot->tokenizer_key = tokenizer_key_of_model(options->model, &code);
    if (snapshot->tokenizer_key != NULL)
        snapshot->valuer = valuer_open(options->model, options->quant, options->keep_packed, snapshot->pool, &code);
    return snapshot->valuer != NULL ? EX_OK : code;
}

static void snapshot_close(struct snapshot *snapshot)
{
    valuer_close(snapshot->valuer);
    free(snapshot->tokenizer_key);
}

/* 0; 1 with a reason when the run has dropped that snapshot, since others have made this target meanwhile; -1. */
static int snapshot_use(struct snapshot *snapshot, struct edge *edge, const struct frame_scored *scored, char reason[256])
{
    if (edge_is_pipe(edge) || scored->step < 0 || (snapshot->valuer != NULL && snapshot->step == scored->step))
        return 0;
    struct buffer content = { 0 };
    int64_t found;
    char name[64];
    snprintf(name, sizeof name, "snapshot of step %lld", (long long)scored->step);
    int fetched = edge_fetch(edge, scored->run, scored->step, "weights", &content, &found);
    if (fetched > 0)
        snprintf(reason, 256, "run \"%s\" has no %s", scored->run, name);
    valuer_close(snapshot->valuer);
    snapshot->valuer =
        fetched == 0 ? valuer_from_checkpoint(content.data, content.size, name, snapshot->quant, snapshot->pool) : NULL;
    snapshot->step = scored->step;
    free(content.data);
    return fetched > 0 ? 1 : snapshot->valuer != NULL ? 0 : -1;
}

/* The tokens whose states are valued: the policy's, or the value model's own of the same text. */
struct states {
    struct token_list ids;  // of prompt and response
    size_t P, R;
    const char *tokenizer_key;  // whose ids
};

static void states_set(struct states *states, const struct frame_scored *scored, const struct tokenizer *own)
{
    states->ids.count = 0;
    states->tokenizer_key = own != NULL ? tokenizer_key(own) : scored->tokenizer;
    if (strcmp(states->tokenizer_key, scored->tokenizer) != 0) {
        states->P = retokenize_rollout(own, scored->prompt, scored->response, scored->stopped, &states->ids);
        states->R = states->ids.count > states->P ? states->ids.count - states->P : 0;
        return;
    }
    for (size_t t = 0; t < scored->prompt_tokens.count; t++)
        token_list_add(&states->ids, scored->prompt_tokens.at[t]);
    for (size_t t = 0; t < scored->response_tokens.count; t++)
        token_list_add(&states->ids, scored->response_tokens.at[t]);
    states->P = scored->prompt_tokens.count;
    states->R = scored->response_tokens.count;
}

/* The values of states 0 .. R.  0; 1 with a reason when this item cannot be done; -1. */
static int compute_values(struct snapshot *snapshot, struct edge *edge, const struct frame_scored *scored,
                          const struct states *states, float *values, char reason[256])
{
    size_t P = states->P, R = states->R;
    int used = snapshot_use(snapshot, edge, scored, reason);
    if (used != 0)
        return used;
    if (snapshot->tokenizer_key != NULL && strcmp(snapshot->tokenizer_key, states->tokenizer_key) != 0) {
        log_error("the value model was trained on ids of tokenizer %.16s, these are of %.16s", snapshot->tokenizer_key,
                  states->tokenizer_key);
        log_hint("--value-tokenizer names the value model's own");
        return -1;
    }
    if (snapshot->valuer == NULL) {
        snprintf(reason, 256, "the item names no snapshot to compute values with");
        return 1;
    }
    enum effort before = effort_enter(EFFORT_COMPUTE);
    int valued = valuer_values(snapshot->valuer, values, states->ids.at, P, states->ids.at + P, R, reason);
    effort_enter(before);
    if (valued != 0)
        return 1;
    for (size_t n = 0; n <= R; n++) {
        if (!isfinite(values[n])) {
            snprintf(reason, 256, "the value of state %zu is %g", n, (double)values[n]);
            return 1;
        }
    }
    return 0;
}

/* The arena is emptied first.  0, or -1 when the stage cannot go on. */
static int give_target(const struct options *options, const struct tokenizer *own, struct snapshot *snapshot, struct edge *edge,
                       struct arena *arena, struct states *states, const struct frame *item)
{
    const struct frame_scored *scored = &item->scored;
    states_set(states, scored, own);
    size_t R = states->R;
    if (R == 0)
        return edge_fail(edge, scored->item, "the response has no token of the value model's tokenizer");
    bool needs_values = options->lambda < 1;
    float *values = NULL;  // (R + 1)
    arena_reset(arena);
    if (needs_values) {
        char reason[256];
        values = arena_alloc(arena, R + 1, sizeof *values);
        int computed = compute_values(snapshot, edge, scored, states, values, reason);
        if (computed != 0)
            return computed > 0 ? edge_fail(edge, scored->item, reason) : -1;
    }
    float *targets = arena_alloc(arena, R + 1, sizeof *targets);  // (R + 1)
    returns_lambda(targets, values, R, (float)scored->score,
                   (struct returns_config){ .gamma = (float)options->gamma, .lambda = (float)options->lambda });

    struct frame frame = frame_extended(FRAME_target, item);
    struct frame_target *target = &frame.target;
    if (strcmp(states->tokenizer_key, scored->tokenizer) != 0)
        target->state_tokenizer = states->tokenizer_key;
    target->values = (struct floats){ values, needs_values ? R + 1 : 0 };
    target->targets = (struct floats){ targets, R + !options->no_terminal_state };
    return edge_give(edge, &frame);
}

/* The rewards of what came through a pipe. */
struct rewards {
    char *first;
    bool several;
};

/* Two scores of a response, in units that need not be the same, are two targets: seldom what was meant, so it is said, once. */
static void rewards_note(struct rewards *rewards, const char *reward)
{
    if (rewards->first == NULL)
        rewards->first = memory_text(reward);
    if (rewards->several || strcmp(rewards->first, reward) == 0)
        return;
    rewards->several = true;
    log_error("scores of several rewards come in, \"%s\" and \"%s\": each becomes a target", rewards->first, reward);
    log_hint("where these are stored rollouts, leave out their \"score\" to give them another");
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);
    stop_install();

    int code = model_fetch(&options.model, options.endpoint);
    if (code == EX_OK)
        code = model_fetch(&options.value_tokenizer, options.endpoint);
    if (code != EX_OK)
        return code;
    struct tokenizer *own = NULL;
    if (options.value_tokenizer != NULL && (own = tokenizer_open(options.value_tokenizer, &code)) == NULL)
        return code;
    struct snapshot snapshot = { .pool = pool_open((size_t)options.threads), .quant = options.quant };
    if ((code = snapshot_open(&snapshot, &options)) != EX_OK)
        return code;
    char *settings = settings_text(&options, own);
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = options.endpoint, .stage = "value-target",
                                      .settings = settings, .takes = FRAME_scored, .hold_max = 64 }, &code);
    free(settings);
    if (edge == NULL)
        return code;

    struct states states = { 0 };
    struct rewards rewards = { 0 };
    struct arena arena;
    arena_init(&arena, "targets", 256 << 20);
    struct progress progress;
    int64_t missing = edge_missing(edge);
    progress_start(&progress, "computed", "targets", missing > 1 ? missing : 0);  // 1: the run is not planned yet
    int64_t given = 0;
    struct batch batch;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, 64, true)) == EDGE_BATCH) {
        bool failed = false;
        for (size_t i = 0; i < batch.count && !failed; i++) {
            if (edge_is_pipe(edge))
                rewards_note(&rewards, batch.frames[i].scored.reward);
            failed = give_target(&options, own, &snapshot, edge, &arena, &states, &batch.frames[i]) != 0;
        }
        progress_set(&progress, given += (int64_t)batch.count);
        edge_done(edge, &batch);
        if (failed) {
            status = EDGE_FAILED;
            break;
        }
    }
    progress_end(&progress);

    code = edge_close(edge, status);
    arena_free(&arena);
    free(states.ids.at);
    free(rewards.first);
    tokenizer_close(own);
    snapshot_close(&snapshot);
    pool_close(snapshot.pool);
    return code;
}
