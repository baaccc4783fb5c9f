/*
 * reward - rollouts in, scores out.
 *
 *     takes   rollout frames without a score of this name
 *     gives   one scored frame for each, or a failure that says why
 *
 * Keeps nothing: a score exists once the store has committed it, and until then its rollout is offered again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/option.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/stop.h"
#include "model/model.h"
#include "reward/scoring.h"
#include "wire/edge.h"
#include "wire/remote_model.h"

struct options {
    struct scorer_options scorer;
    const char *endpoint, *reward, *policy, *split;
    int64_t batch, threads;
    bool follow;
};

static struct options options_read(int argc, char **argv)
{
    static struct options options = { .scorer = SCORER_DEFAULTS, .batch = 64 };
    options.endpoint = getenv("VAS_STORE");
    const struct option_spec specs[] = {
        { 0, "name", "NAME", OPTION_NAME, &options.reward, 1, NAME_BYTES, "what the reward is called" },
        SCORER_OPTION_SPECS(options.scorer, 'm', ""),
        MODEL_KEEP_PACKED_OPTION(options.scorer.keep_packed),
        { 's', "store", "ENDPOINT", OPTION_TEXT, &options.endpoint, 0, 0,
          "store to work for (default VAS_STORE; without: frames on\nstdin and stdout)" },
        EDGE_KEY_OPTIONS,
        { 0, "follow", NULL, OPTION_FLAG, &options.follow, 0, 0, "in a store: wait for more rollouts when all are scored" },
        { 0, "split", "NAME", OPTION_NAME, &options.split, 1, NAME_BYTES, "in a store: only prompts of this split" },
        { 0, "policy", "NAME", OPTION_NAME, &options.policy, 1, NAME_BYTES, "in a store: only rollouts of this policy" },
        { 0, "batch", "N", OPTION_INT, &options.batch, 1, 4096, "responses scored at once (default 64)" },
        { 't', "threads", "N", OPTION_INT, &options.threads, 1, 256,
          "of a reward model (default: the cores this process may use)" },
    };
    static const struct option_usage usage = {
        .program = "vas-reward",
        .example = "rollout -m model.gguf < prompts | reward --name vader --lexicon vader_lexicon.txt | tap",
        .synopsis = "reward --name NAME --lexicon FILE | --exec COMMAND | -m DIR [-s ENDPOINT] [options]",
        .summary = "Scores responses: one number for each.",
        .exit_codes = "  0   every rollout has its score, or is kept as a failure\n  64  usage\n"
                      "  65  a frame, the lexicon or the model is bad; between pipes also: a response could not be scored\n"
                      "  66  the lexicon or the model is missing\n  69  no store answers, or the command is of no use\n"
                      "  74  output could not be written\n  75  stopped before the end\n  77  the store refuses this worker's key\n"
                      "  78  the reward's name already means something else\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (options.reward == NULL)
        options_refuse("--name is missing: what is the reward called?");
    if (scorer_kinds(&options.scorer) != 1)
        options_refuse("%s scorer is needed: --lexicon FILE, --exec COMMAND or --model DIR",
                       scorer_kinds(&options.scorer) == 0 ? "a" : "only one");
    if (options.endpoint == NULL && (options.split != NULL || options.policy != NULL || options.follow))
        options_refuse("--split, --policy and --follow need a store (-s)");
    return options;
}

static char *settings_text(const struct options *options, const char *spec)
{
    if (options->endpoint == NULL)
        return NULL;
    json_t *json = json_pack("{s:s, s:o, s:s*, s:s*}", "reward", options->reward, "spec", json_loads(spec, 0, NULL),
                             "split", options->split, "policy", options->policy);
    CHECK(json != NULL);
    char *text = json_text(json);
    json_decref(json);
    return text;
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);
    stop_install();

    int code = model_fetch(&options.scorer.model, options.endpoint);
    if (code != EX_OK)
        return code;
    struct scoring scoring = { .reward = options.reward };
    options.scorer.wait = scoring_wait;
    options.scorer.wait_context = &scoring;
    struct pool *pool = options.scorer.pool = options.scorer.model != NULL ? pool_open((size_t)options.threads) : NULL;
    scoring.scorer = scorer_open(&options.scorer, &code);
    if (scoring.scorer == NULL) {
        pool_close(pool);
        return code;
    }
    char *settings = settings_text(&options, scorer_spec(scoring.scorer));
    scoring.edge = edge_open(&(struct edge_options){ .endpoint = options.endpoint, .stage = "reward", .settings = settings,
                                 .takes = FRAME_rollout, .follow = options.follow, .hold_max = 2 * (size_t)options.batch }, &code);
    free(settings);
    if (scoring.edge == NULL) {
        scorer_close(scoring.scorer);
        pool_close(pool);
        return code;
    }

    struct progress progress;
    progress_start(&progress, "scored", "responses", edge_missing(scoring.edge));
    enum scoring_status done = SCORING_DONE;
    enum edge_status status = EDGE_BATCH;
    struct batch rollouts;
    while (done == SCORING_DONE && (status = edge_take(scoring.edge, &rollouts, (size_t)options.batch, true)) == EDGE_BATCH) {
        done = score_rollouts(&scoring, &rollouts);
        edge_done(scoring.edge, &rollouts);
        if (scoring.scored > 0)
            snprintf(progress.note, sizeof progress.note, "mean=%.4f failed=%lld", scoring.score_sum / (double)scoring.scored,
                     (long long)scoring.failed);
        progress_set(&progress, scoring.scored + scoring.failed);
    }
    progress_end(&progress);

    if (done != SCORING_DONE)
        status = done == SCORING_LEFT ? EDGE_STOPPED : EDGE_FAILED;
    code = edge_close(scoring.edge, status);
    scorer_close(scoring.scorer);
    pool_close(pool);
    return done == SCORING_BROKEN ? EX_UNAVAILABLE : code;
}
