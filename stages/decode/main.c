/*
 * decode - prompts in, responses of the steered policy out.
 *
 *     takes   prompts: from the command line, a file or standard input as text; from a store or a pipe as frames
 *     gives   text or JSON lines; rollout frames where it took prompt frames
 *
 * With --score it samples nothing and says how likely given text is.
 */
#include <stdlib.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/option.h"
#include "base/pool.h"
#include "base/stop.h"
#include "decode/score.h"
#include "decode/text.h"
#include "decode/values.h"
#include "sample/base_policy.h"
#include "sample/serve.h"
#include "score/scorer.h"
#include "text/prompt.h"
#include "wire/edge.h"
#include "wire/frame.h"
#include "wire/remote_model.h"

struct options {
    struct serve_options serve;
    struct scorer_options scorer;
    struct base_policy base;
    struct option_list values, value_tokenizers;
    const char *chat, *value_quant;
    double beta, skip_sure;
    int64_t candidates, guide_every, best_of, batch, context, threads, samples;
    bool greedy, json, score;
    char *const *operands;
    size_t operand_count;
};

/* Options of value models say nothing where there is none: one was forgotten. */
static void value_options_check(const struct options *options)
{
    static const char *const names[] = { "beta", "candidates", "guide-every", "skip-sure", "value-quant", "value-tokenizer" };
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (options_given(names[i]) && options->values.count == 0)
            options_refuse("--%s is for value models, and there is no --value", names[i]);
}

static void options_check(struct options *options)
{
    struct serve_options *serve = &options->serve;
    size_t scorers = scorer_kinds(&options->scorer);
    base_policy_check(&options->base);
    value_options_check(options);
    if (options->greedy)
        serve->sampling.temperature = 0;
    if (options->best_of > 0 && options->samples > 0)
        options_refuse("--best-of and --samples cannot both be given");
    if (options->best_of > 0 && scorers != 1)
        options_refuse("--best-of needs a reward, one of --lexicon FILE, --exec COMMAND and --reward-model DIR");
    if (options->best_of == 0 && scorers > 0)
        options_refuse("--lexicon, --exec and --reward-model are for --best-of N");
    serve->samples = options->best_of > 0 ? options->best_of : options->samples > 0 ? options->samples : 1;

    if (options->score) {
        if (options->operand_count > 1)
            options_refuse("--score takes one FILE, not %zu", options->operand_count);
        if (options->values.count > 1)
            options_refuse("--score takes one --value, not %zu", options->values.count);
        if (options->best_of > 0 || serve->policy != NULL)
            options_refuse("--score samples nothing: no --best-of, no --policy");
    } else if (options->operand_count > 0) {
        if (serve->policy != NULL)
            options_refuse("--policy is for prompts of a store or a pipe, not for \"%s\"", options->operands[0]);
        if (serve->split != NULL || serve->follow)
            options_refuse("--%s is for prompts of a store, not for \"%s\"", serve->follow ? "follow" : "split",
                           options->operands[0]);
    } else {
        if (serve->endpoint == NULL && serve->policy == NULL)
            options_refuse("no prompt: give a text, a FILE, - for standard input, --store, or --policy for frames in a pipe");
        if (options->best_of > 0 || options->json)
            options_refuse("--best-of and --json are for prompts that are text");
        if (options->chat != NULL)
            options_refuse("--chat is for messages in a FILE; 'tokenize' has it for prompts of a store or a pipe");
    }
    serve->split = serve->split != NULL ? serve->split : "eval";
}

static struct options options_read(int argc, char **argv)
{
    static struct options options = {
        .serve = { .stage = "decode", .max_new_tokens = 128, .sampling = { .temperature = 1, .top_p = 1 } },
        .scorer = SCORER_DEFAULTS, .beta = 3, .candidates = 20, .guide_every = 1, .batch = 32,
    };
    struct serve_options *serve = &options.serve;
    serve->endpoint = getenv("VAS_STORE");
    const struct option_spec specs[] = {
        BASE_POLICY_OPTION_SPECS(options.base),
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "steering" },
        { 0, "value", "NAME[:BETA]", OPTION_LIST, &options.values, 0, 0,
          "value model: a directory, or a training run (RUN@STEP: of that\n"
          "step, if it was kept) or shared model (store:NAME) of the\n"
          "store; may be given several times, each with its own weight" },
        { 0, "beta", "B", OPTION_NUMBER, &options.beta, -BETA_MAX, BETA_MAX,
          "weight of value models that name none; 0 is the base\npolicy, negative steers away (default 3)" },
        { 0, "value-tokenizer", "DIR|FILE", OPTION_LIST, &options.value_tokenizers, 0, 0,
          "tokenizer of a value model that does not share the base\npolicy's: it is asked about the text of each candidate" },
        { 0, "value-quant", MODEL_QUANTS, OPTION_CHOICE, &options.value_quant, 0, 0,
          "round the value models' matrices, as --quant does the base\npolicy's" },
        { 0, "candidates", "K", OPTION_INT, &options.candidates, 1, CANDIDATES_MAX,
          "tokens that are steered: the K likeliest (default 20)" },
        { 0, "guide-every", "B", OPTION_INT, &options.guide_every, 1, GUIDE_EVERY_MAX,
          "steer only every B-th token of a response, from the first on; the\nothers are the base policy's (default 1)" },
        { 0, "skip-sure", "P", OPTION_NUMBER, &options.skip_sure, 0, 0.999,
          "do not value candidates that are too unlikely to matter: left out,\n"
          "no values within the range seen in the response could change a\n"
          "share of more than P of the draws (default 0: value all)" },
        { 0, "best-of", "N", OPTION_INT, &options.best_of, 1, 65536, "sample N responses, give the one with the highest score" },
        SCORER_OPTION_SPECS(options.scorer, 0, "reward-"),
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "sampling" },
        { 'n', "samples", "N", OPTION_INT, &options.samples, 1, 1048576, "responses to each prompt (default 1)" },
        { 0, "context", "TOKENS", OPTION_INT, &options.context, 2, 1048576,
          "length limit of prompt and response together\n(default: the models' own, at most 8192)" },
        SAMPLING_OPTION_SPECS(*serve),
        { 0, "greedy", NULL, OPTION_FLAG, &options.greedy, 0, 0, "always the likeliest token" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "what to do" },
        CHAT_OPTION(options.chat),
        { 0, "json", NULL, OPTION_FLAG, &options.json, 0, 0,
          "JSON lines with tokens, logprob and KL instead of text, or\nwith \"error\" and \"line\" where a line cannot be answered" },
        { 0, "score", NULL, OPTION_FLAG, &options.score, 0, 0,
          "sample nothing: JSON lines of {\"tokens\"} or {\"prompt\",\n\"response\"} in, their logprobs (and values) out" },
        { 's', "store", "ENDPOINT", OPTION_TEXT, &serve->endpoint, 0, 0,
          "store with the training runs; without a prompt: the store\nto work for (default VAS_STORE)" },
        EDGE_KEY_OPTIONS,
        { 0, "policy", "NAME", OPTION_NAME, &serve->policy, 1, NAME_BYTES,
          "what the steered policy is called in the store\n(default \"vas NAME:BETA\"; without --value: base)" },
        { 0, "split", "NAME", OPTION_NAME, &serve->split, 1, NAME_BYTES, "in a store: prompts of this split (default eval)" },
        { 0, "follow", NULL, OPTION_FLAG, &serve->follow, 0, 0, "in a store: wait for more prompts when all are answered" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "speed; the responses are the same" },
        MODEL_KEEP_PACKED_OPTION(options.base.keep_packed),
        { 0, "batch", "ROWS", OPTION_INT, &options.batch, 1, 4096, "responses sampled at once (default 32)" },
        { 't', "threads", "N", OPTION_INT, &options.threads, 1, 256, "threads (default: the cores this process may use)" },
    };
    static const struct option_usage usage = {
        .program = "vas-decode",
        .example = "decode -m model.gguf 'Once upon a time'\n"
                   "          decode -m model.gguf --value value/ --beta 5 -n 4 --json prompts.jsonl",
        .synopsis = "decode -m MODEL [--value NAME[:BETA]]... [options] PROMPT | FILE | -\n"
                    "          decode -m MODEL [--value NAME[:BETA]]... -s ENDPOINT [--policy NAME]\n"
                    "          decode -m MODEL --score [FILE]",
        .summary = "Answers prompts with the base policy, steered by value models.\n"
                   "A FILE has a prompt a line, or JSON lines with \"prompt\" or \"messages\", and what a line wants otherwise: "
                   "\"decode\":\n{\"beta\": 5, \"temperature\": 0.7, \"top_p\": 0.9, \"top_k\": 40, \"seed\": 1, "
                   "\"max_new_tokens\": 64}, a list of betas for several\nvalue models.  The empty prompt '' is the begin token "
                   "alone; empty lines are not read.",
        .exit_codes = "  0   every prompt was answered\n  64  usage\n"
                      "  65  a prompt is bad (others were answered), or a model is or does not fit\n  66  a file is missing\n"
                      "  69  no store answers, or --exec does not score any more\n  71  a model needs more memory than there is\n"
                      "  74  input could not be read, or output not written\n"
                      "  75  stopped before the end\n  77  the store refuses this worker's key\n"
                      "  78  the policy's name already means something else\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    options.operands = argv + first;
    options.operand_count = (size_t)(argc - first);
    options_check(&options);
    return options;
}

static int run_text(const struct options *options, const struct generate_options *generate)
{
    int code;
    struct scorer *scorer = NULL;
    struct scorer_options scorer_options = options->scorer;
    scorer_options.pool = generate->pool;
    scorer_options.keep_packed = options->base.keep_packed;
    if (options->best_of > 0 && (scorer = scorer_open(&scorer_options, &code)) == NULL)
        return code;
    code = text_run(&(struct text_options){
        .operands = options->operands, .operand_count = options->operand_count, .samples = options->serve.samples,
        .line = { .sampling = options->serve.sampling, .seed = options->serve.seed,
                  .max_new_tokens = options->serve.max_new_tokens },
        .chat = options->chat, .scorer = scorer, .json = options->json,
    }, generate);
    scorer_close(scorer);
    return code;
}

static int run_serve(const struct options *options, const struct generate_options *generate, const struct values *values)
{
    struct serve_options serve_options = options->serve;
    char *name = NULL;
    if (serve_options.policy == NULL)
        serve_options.policy = name = values_policy_name(values);
    int code = serve(&serve_options, generate);
    free(name);
    return code;
}

/* Those of the store become paths; the base policy and value models are fetched where they are opened. */
static int models_fetch(struct options *options)
{
    const char *endpoint = options->serve.endpoint;
    int code = model_fetch(&options->scorer.model, endpoint);
    for (size_t i = 0; i < options->value_tokenizers.count && code == EX_OK; i++)
        code = model_fetch(&options->value_tokenizers.items[i], endpoint);
    return code;
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);
    struct base_policy *base = &options.base;
    stop_install();

    int code = models_fetch(&options);
    if (code != EX_OK)
        return code;
    struct pool *pool = pool_open((size_t)options.threads);
    struct values values = { 0 };
    code = base_policy_open(base, options.serve.endpoint, pool);
    if (code == EX_OK)
        code = values_open(&values, &options.values, options.beta, model_quant_from_name(options.value_quant), base->keep_packed,
                           options.serve.endpoint, pool);
    if (code == EX_OK)
        code = values_use_tokenizers(&values, &options.value_tokenizers, base->tokenizer);

    if (code == EX_OK) {
        struct generate_options generate = {
            .base_name = base->path, .base = base->model, .tokenizer = base->tokenizer, .values = values.models,
            .value_count = values.count, .candidates = (size_t)options.candidates, .guide_every = (size_t)options.guide_every,
            .skip_share = options.skip_sure, .batch = (size_t)options.batch,
            .max_new_tokens = (size_t)options.serve.max_new_tokens, .context = (size_t)options.context, .pool = pool,
        };
        if (options.score)
            code = score_run(options.operand_count > 0 ? options.operands[0] : "-", &generate);
        else if (options.operand_count > 0)
            code = run_text(&options, &generate);
        else
            code = run_serve(&options, &generate, &values);
    }

    values_close(&values);
    base_policy_close(base);
    pool_close(pool);
    return code;
}
