/*
 * train - value targets in, a value model out.
 *
 *     takes   target frames, whole batches of a run in order; with --objective lm prompt frames as documents
 *     gives   checkpoints and metrics to the store; with -o a Hugging Face directory
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "base/pool.h"
#include "base/stop.h"
#include "learn/blas.h"
#include "learn/ranks.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/model.h"
#include "model/weights.h"
#include "text/tokenizer.h"
#include "train/learner.h"
#include "train/team.h"
#include "wire/edge.h"
#include "wire/remote_model.h"

struct options {
    const char *model, *endpoint, *objective, *schedule, *lora_targets, *products, *quant;
    struct learner_options learner;
    struct trainer_options trainer;
    double learning_rate;
    int64_t seed, threads;
    bool from_scratch;
};

/* Refuses what does not go together, and makes of names what they stand for. */
static void options_settle(struct options *options)
{
    struct learner_options *learner = &options->learner;
    if (options->model == NULL)
        options_refuse("-m is missing: which model to start from?");
    bool lm = strcmp(options->objective, "lm") == 0;
    if (lm)
        options->endpoint = NULL;  // documents come through a pipe
    if (options->endpoint != NULL && learner->run == NULL)
        options_refuse("a store needs --run");
    if (options->endpoint == NULL && learner->run != NULL)
        options_refuse("--run is for a value model from a store: name the store with --store or VAS_STORE");
    if (options->endpoint == NULL && learner->output == NULL)
        options_refuse("-o is missing: where to write the model?");
    if (strcmp(options->products, "bf16") == 0)
        options->trainer.products = PRODUCTS_BF16;
    if (lora_targets_read(options->lora_targets, &options->trainer.lora.targets) != 0)
        options_refuse("--lora-targets is \"%s\", must be some of q,k,v,o,gate,up,down", options->lora_targets);
    if (options->trainer.lora.rank > 0 && options->from_scratch)
        options_refuse("--lora keeps the weights of a model, and --from-scratch has none");
    if (options->trainer.lora.alpha > 0 && options->trainer.lora.rank == 0)
        options_refuse("--lora-alpha needs --lora");
    if (options->quant != NULL)
        options->trainer.lora.base_type = model_quant_from_name(options->quant);
    if (options->quant != NULL && options->trainer.lora.rank == 0)
        options_refuse("--quant needs --lora: weights that are trained are float32");
    learner->objective = lm ? OBJECTIVE_LM : OBJECTIVE_VALUE;
    learner->seed = (uint64_t)options->seed;
    if (learner->updates == 0)
        learner->updates = lm ? 1 : 2;
    learner->decay = strcmp(options->schedule, "cosine") == 0;
}

static struct options options_read(int argc, char **argv)
{
    static struct options options = {
        .objective = "value", .schedule = "cosine", .learning_rate = -1,
        .learner = { .batch = 32, .epochs = 2, .refresh = 2, .checkpoint_every = 100 },
        .lora_targets = "q,k,v,o", .products = "float32",
        .trainer = { .warmup_steps = -1, .clip_norm = -1, .weight_decay = -1 },
    };
    options.endpoint = getenv("VAS_STORE");
    struct learner_options *learner = &options.learner;
    const struct option_spec specs[] = {
        { 'm', "model", "DIR|FILE", OPTION_TEXT, &options.model, 0, 0,
          "model to start from, store:NAME for one that the store shares;\na value model gets a zero value head" },
        { 'o', "output", "DIR", OPTION_TEXT, &learner->output, 0, 0, "write the trained model here as a Hugging Face directory" },
        { 's', "store", "ENDPOINT", OPTION_TEXT, &options.endpoint, 0, 0,
          "store to work for (default VAS_STORE; without: frames on stdin)" },
        EDGE_KEY_OPTIONS,
        { 0, "run", "NAME", OPTION_NAME, &learner->run, 1, NAME_BYTES, "training run in the store" },
        { 0, "objective", "value|lm", OPTION_CHOICE, &options.objective, 0, 0,
          "lm: next-token prediction on documents (default value)" },
        { 0, "from-scratch", NULL, OPTION_FLAG, &options.from_scratch, 0, 0,
          "random weights: -m needs only config.json and tokenizer.json" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "the data" },
        { 0, "batch", "N", OPTION_INT, &learner->batch, 1, 524288, "rollouts in a batch (default 32)" },
        { 0, "epochs", "N", OPTION_INT, &learner->epochs, 1, 100000, "passes over the rollouts (default 2)" },
        { 0, "updates", "N", OPTION_INT, &learner->updates, 1, 1000, "updates on each batch (default 2; lm: 1)" },
        { 0, "seed", "N", OPTION_INT, &options.seed, 0, 9007199254740991.0,
          "of the order of the rollouts and of random weights (default 0)" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "the optimiser (AdamW)" },
        { 0, "lr", "X", OPTION_NUMBER, &options.learning_rate, 0, 10, "learning rate at its peak (default 1e-3; lm: 3e-3)" },
        { 0, "warmup", "STEPS", OPTION_INT, &options.trainer.warmup_steps, 0, 1e9,
          "steps in which the learning rate rises (default 20; lm: 100)" },
        { 0, "schedule", "cosine|constant", OPTION_CHOICE, &options.schedule, 0, 0,
          "cosine: the learning rate falls to a tenth by the last step\n(default cosine)" },
        { 0, "weight-decay", "X", OPTION_NUMBER, &options.trainer.weight_decay, 0, 1,
          "decoupled weight decay (default 0; lm: 0.1)" },
        { 0, "clip", "X", OPTION_NUMBER, &options.trainer.clip_norm, 0, 1e9, "largest norm of the gradient, 0: any (default 1)" },
        { 0, "products", "float32|bf16", OPTION_CHOICE, &options.products, 0, 0,
          "bf16: matrices are multiplied as BF16 and summed in float32, on\nprocessors with AMX (default float32)" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "low-rank adapters (LoRA)" },
        { 0, "lora", "RANK", OPTION_INT, &options.trainer.lora.rank, 1, 65536,
          "keep the model's weights, train adapters of this rank and the value\n"
          "head; -o DIR holds them merged, DIR/adapter as PEFT reads them" },
        { 0, "lora-alpha", "A", OPTION_NUMBER, &options.trainer.lora.alpha, 1e-9, 1e9,
          "the adapters' product counts A / RANK times (default twice the rank)" },
        { 0, "lora-targets", "LIST", OPTION_TEXT, &options.lora_targets, 0, 0, "of q,k,v,o,gate,up,down (default q,k,v,o)" },
        { 0, "quant", MODEL_QUANTS, OPTION_CHOICE, &options.quant, 0, 0,
          "round the matrices that --lora keeps: less memory;\nwhat -o DIR holds merged is rounded too" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "the run" },
        { 0, "recompute", NULL, OPTION_FLAG, &options.trainer.recompute, 0, 0,
          "hold one layer's activations and compute them again: less memory, more\n"
          "time, the same bytes (default: where there is no memory for all)" },
        { 0, "refresh", "STEPS", OPTION_INT, &learner->refresh, 1, 1000000,
          "steps between snapshots for value-target (default 2)" },
        { 0, "parts", "N", OPTION_INT, &options.trainer.parts, 1, 1048576,
          "parts of a batch whose gradients are added in a tree: as many ranks or\n"
          "fewer give the same bytes (default: the ranks that mpirun starts)" },
        { 0, "checkpoint-every", "STEPS", OPTION_INT, &learner->checkpoint_every, 1, 1000000,
          "steps between checkpoints to resume from (default 100)" },
        { 't', "threads", "N", OPTION_INT, &options.threads, 1, 256, "threads (default: the cores this process may use)" },
    };
    static const struct option_usage usage = {
        .program = "vas-train",
        .example = "train -s $VAS_STORE -m model.gguf --run kind -o value/",
        .synopsis = "train -s ENDPOINT -m MODEL --run NAME [-o DIR] [options]\n          train -m MODEL -o DIR [options] < targets",
        .summary = "Trains a value model on lambda-returns, or a language model on documents.",
        .exit_codes = "  0   the run is complete\n  64  usage\n  65  a model or a frame is bad\n  66  the model is missing\n"
                      "  69  no store answers, or the processor lacks --products\n  70  the loss is not finite\n"
                      "  71  this machine has less memory than training takes\n"
                      "  73  another model is where -o points\n  74  output could not be written\n"
                      "  75  stopped before the end: the same command resumes\n  77  the store refuses this worker's key\n"
                      "  78  the run or checkpoint was begun with other settings\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    options_settle(&options);
    return options;
}

/* Defaults of the objective, and what the command line says over them.  Keeps base_key. */
static struct trainer_options trainer_settings(const struct options *options, const char *base_key)
{
    struct trainer_options settings = trainer_defaults(options->learner.objective);
    if (options->learning_rate >= 0)
        settings.learning_rate = options->learning_rate;
    if (options->trainer.warmup_steps >= 0)
        settings.warmup_steps = options->trainer.warmup_steps;
    if (options->trainer.weight_decay >= 0)
        settings.weight_decay = options->trainer.weight_decay;
    if (options->trainer.clip_norm >= 0)
        settings.clip_norm = options->trainer.clip_norm;
    settings.seed = options->learner.seed;
    settings.parts = options->trainer.parts;
    settings.ranks = options->trainer.ranks;
    settings.recompute = options->trainer.recompute;
    settings.products = options->trainer.products;
    settings.lora = options->trainer.lora;
    settings.lora.base_key = base_key;
    if (settings.lora.rank > 0 && settings.lora.alpha == 0)
        settings.lora.alpha = 2.0 * (double)settings.lora.rank;
    return settings;
}

static char *settings_text(const struct options *options, const struct trainer_options *trainer, const char *init_key)
{
    if (options->endpoint == NULL)
        return NULL;
    const struct learner_options *learner = &options->learner;
    json_t *json = json_pack("{s:s, s:{s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:s, s:I, s:f, s:f}}", "run", learner->run, "train",
                             "batch", (json_int_t)learner->batch, "epochs", (json_int_t)learner->epochs,
                             "updates", (json_int_t)learner->updates, "refresh", (json_int_t)learner->refresh,
                             "seed", (json_int_t)learner->seed, "init", init_key, "learning_rate", trainer->learning_rate,
                             "schedule", options->schedule, "warmup", (json_int_t)trainer->warmup_steps, "weight_decay",
                             trainer->weight_decay, "clip", trainer->clip_norm);
    CHECK(json != NULL);
    if (trainer->parts > 1)
        json_object_set_new(json_object_get(json, "train"), "parts", json_integer(trainer->parts));
    if (trainer->products == PRODUCTS_BF16)
        json_object_set_new(json_object_get(json, "train"), "products", json_string("bf16"));
    if (trainer->lora.rank > 0) {
        char *lora = lora_text(&trainer->lora);
        json_object_set_new(json_object_get(json, "train"), "lora", json_string(lora));
        free(lora);
    }
    char *text = json_text(json);
    json_decref(json);
    return text;
}

/* What rank 0 does: the run itself.  Returns an exit code. */
static int lead(const struct options *options, struct learner *learner)
{
    int code;
    char *hello = settings_text(options, &learner->settings, learner->init_key);
    learner->edge = edge_open(&(struct edge_options){ .endpoint = options->endpoint, .stage = "train", .settings = hello,
                                  .takes = options->learner.objective == OBJECTIVE_LM ? FRAME_prompt : FRAME_target,
                                  .gives_nothing = options->endpoint == NULL,
                                  .hold_max = 2 * (size_t)options->learner.batch }, &code);
    free(hello);
    if (learner->edge == NULL)
        return code;

    enum edge_status status = options->endpoint != NULL ? learner_run_store(learner, &code) : learner_run_pipe(learner, &code);
    if (options->endpoint != NULL && status == EDGE_END && learner->options.output != NULL && learner_export(learner) != 0)
        code = EX_IOERR;
    team_end(learner);

    int edge_code = edge_close(learner->edge, status);
    bool edge_failed = edge_code != EX_OK && edge_code != EX_DATAERR;  // it knows whether starting again helps
    return edge_failed || code == 0 ? edge_code : code;
}

/* How the ranks share the work; EX_OK, or EX_USAGE. */
static int ranks_settle(struct options *options, struct ranks *ranks)
{
    const int64_t count = (int64_t)ranks_count(ranks), batch = options->learner.batch;
    const bool parts_given = options->trainer.parts > 0;
    options->trainer.ranks = ranks;
    if (ranks_index(ranks) > 0)
        log_open(memory_printf("vas-train[%zu]", ranks_index(ranks)), -1);
    if (!parts_given)
        options->trainer.parts = count;
    if (options->threads == 0)
        options->threads = (int64_t)(pool_cores() / ranks_here(ranks));
    if (options->threads == 0)
        options->threads = 1;
    if (options->trainer.parts >= count && options->trainer.parts <= batch)
        return EX_OK;
    if (ranks_index(ranks) == 0 && options->trainer.parts < count)
        log_error("--parts is %lld, but %lld ranks were started, each of which takes one at least",
                  (long long)options->trainer.parts, (long long)count);
    else if (ranks_index(ranks) == 0)
        log_error("%lld %s, but a batch has %lld rollouts (--batch)", (long long)options->trainer.parts,
                  parts_given ? "parts (--parts)" : "ranks were started", (long long)batch);
    ranks_close(ranks);
    return EX_USAGE;
}

/* What training begins with, none where that is random, and its key.  Returns an exit code. */
static int init_open(const struct options *options, const struct model_config *config, struct pool *pool, struct weights **weights,
                     char key[KEY_SIZE])
{
    snprintf(key, KEY_SIZE, "random");
    int code = EX_OK;
    *weights = options->from_scratch ? NULL : weights_open(options->model, &code);
    if (*weights == NULL)
        return code;
    if (weights_check(*weights, config) != 0)
        return EX_DATAERR;
    weights_key(*weights, config, pool, key);
    return EX_OK;
}

int main(int argc, char **argv)
{
    blas_settle(argv);
    struct options options = options_read(argc, argv);
    stop_install();
    struct ranks *ranks;
    int code = ranks_open(&ranks);
    if (code == EX_OK)
        code = ranks_settle(&options, ranks);
    if (code != EX_OK)
        return code;

    code = model_fetch(&options.model, options.endpoint);
    if (code != EX_OK)
        return code;
    options.learner.model = options.model;
    if (options.trainer.lora.rank > 0 && adapter_is_directory(options.model)) {
        log_error("cannot adapt \"%s\": it is an adapter itself", options.model);
        log_hint("'model export' merges it into a model");
        return EX_DATAERR;
    }
    if (options.learner.output != NULL)
        code = model_output_check(options.learner.output, options.from_scratch ? NULL : options.model);
    if (code != EX_OK)
        return code;
    struct model_config config;
    code = config_open(&config, options.model);
    struct tokenizer *tokenizer = code == EX_OK ? tokenizer_open(options.model, &code) : NULL;
    struct pool *pool = pool_open((size_t)options.threads);
    struct weights *weights = NULL;
    char init_key[KEY_SIZE];
    if (tokenizer != NULL)
        code = init_open(&options, &config, pool, &weights, init_key);
    if (code == EX_OK) {
        struct learner learner = { .options = options.learner, .settings = trainer_settings(&options, init_key),
                                   .config = &config, .weights = weights, .init_key = init_key, .tokenizer = tokenizer,
                                   .pool = pool };
        code = ranks_index(ranks) == 0 ? lead(&options, &learner) : team_follow(&learner);
        trainer_close(learner.trainer);
    }
    pool_close(pool);
    weights_close(weights);
    tokenizer_close(tokenizer);
    return code;
}
