/*
 * rollout - prompts in, sampled responses out.
 *
 *     takes   prompt frames that have fewer rollouts than asked for under this policy
 *     gives   rollout frames: the base policy's responses with their log-probabilities
 *
 * A rollout is a function of the policy's spec, its prompt and its sample number, so a rollout made twice, anywhere,
 * has the same bytes.
 */
#include <stdlib.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/option.h"
#include "base/pool.h"
#include "base/stop.h"
#include "sample/base_policy.h"
#include "sample/serve.h"
#include "wire/edge.h"
#include "wire/frame.h"

struct options {
    struct serve_options serve;
    struct base_policy base;
    int64_t batch, context, threads;
};

static struct options options_read(int argc, char **argv)
{
    static struct options options = {
        .serve = { .stage = "rollout", .policy = "base", .split = "train", .samples = 8, .max_new_tokens = 128,
                   .sampling = { .temperature = 1, .top_p = 1 } },
        .batch = 32,
    };
    struct serve_options *serve = &options.serve;
    serve->endpoint = getenv("VAS_STORE");
    const struct option_spec specs[] = {
        BASE_POLICY_OPTION_SPECS(options.base),
        { 's', "store", "ENDPOINT", OPTION_TEXT, &serve->endpoint, 0, 0,
          "store to work for (default VAS_STORE; without: frames on\nstdin and stdout)" },
        EDGE_KEY_OPTIONS,
        { 0, "policy", "NAME", OPTION_NAME, &serve->policy, 1, NAME_BYTES, "what the rollouts' policy is called (default base)" },
        { 0, "split", "NAME", OPTION_NAME, &serve->split, 1, NAME_BYTES, "in a store: prompts of this split (default train)" },
        { 0, "follow", NULL, OPTION_FLAG, &serve->follow, 0, 0, "in a store: wait for more prompts when all are answered" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "sampling" },
        { 'n', "samples", "N", OPTION_INT, &serve->samples, 1, 1048576, "responses to each prompt (default 8)" },
        { 0, "context", "TOKENS", OPTION_INT, &options.context, 2, 1048576,
          "length limit of prompt and response together\n(default: the model's own, at most 8192)" },
        SAMPLING_OPTION_SPECS(*serve),
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "speed; the rollouts are the same" },
        MODEL_KEEP_PACKED_OPTION(options.base.keep_packed),
        { 0, "batch", "ROWS", OPTION_INT, &options.batch, 1, 4096, "responses sampled at once (default 32)" },
        { 't', "threads", "N", OPTION_INT, &options.threads, 1, 256, "threads (default: the cores this process may use)" },
    };
    static const struct option_usage usage = {
        .program = "vas-rollout",
        .example = "tokenize -m model.gguf prompts.jsonl | rollout -m model.gguf -n 8 | tap",
        .synopsis = "rollout -m MODEL [-s ENDPOINT] [options]",
        .summary = "Samples responses to prompts from the base policy.",
        .exit_codes = "  0   every prompt has its rollouts\n  64  usage\n  65  a frame, a prompt or the model is bad\n"
                      "  66  the model is missing\n  69  no store answers\n  71  the model needs more memory than there is\n"
                      "  74  output could not be written\n  75  stopped before the end\n"
                      "  77  the store refuses this worker's key\n  78  the policy's name already means something else\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    base_policy_check(&options.base);
    return options;
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);
    struct base_policy *base = &options.base;
    stop_install();

    struct pool *pool = pool_open((size_t)options.threads);
    int code = base_policy_open(base, options.serve.endpoint, pool);
    if (code == EX_OK)
        code = serve(&options.serve, &(struct generate_options){
            .base_name = base->path, .base = base->model, .tokenizer = base->tokenizer, .candidates = 1,
            .batch = (size_t)options.batch, .max_new_tokens = (size_t)options.serve.max_new_tokens,
            .context = (size_t)options.context, .pool = pool,
        });

    base_policy_close(base);
    pool_close(pool);
    return code;
}
