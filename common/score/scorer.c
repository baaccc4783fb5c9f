/* scorer.c - see scorer.h. */
#include "score/scorer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "score/scorer_backend.h"

static const struct scorer_backend *const backends[] = { &scorer_lexicon, &scorer_exec, &scorer_model };

static const double score_max = 1e30;  // the limit of "score" in schemas/frames.def

struct scorer {
    const struct scorer_backend *backend;
    void *state;
    double scale;
    char *spec;
};

static char *spec_text(const struct scorer *scorer)
{
    json_t *spec = json_object();
    json_object_set_new(spec, "kind", json_string(scorer->backend->kind));
    json_object_set_new(spec, "scale", json_real(scorer->scale));
    scorer->backend->describe(scorer->state, spec);
    char *text = json_text(spec);
    json_decref(spec);
    return text;
}

size_t scorer_kinds(const struct scorer_options *options)
{
    size_t chosen = 0;
    for (size_t i = 0; i < COUNT_OF(backends); i++)
        chosen += backends[i]->source(options) != NULL;
    return chosen;
}

struct scorer *scorer_open(const struct scorer_options *options, int *code)
{
    *code = EX_USAGE;
    if (scorer_kinds(options) != 1) {
        log_error("%s scorer is needed: a lexicon, a command or a reward model", scorer_kinds(options) == 0 ? "a" : "only one");
        return NULL;
    }
    if (options->model == NULL
        && (options->label != NULL || options->join != NULL || options->truncate != NULL || options->quant != NULL)) {
        log_error("label, join, truncate and quant are options of a reward model, and there is none");
        return NULL;
    }
    size_t i = 0;
    while (backends[i]->source(options) == NULL)
        i++;
    const struct scorer_backend *backend = backends[i];
    if (options->scale == 0 || !isfinite(options->scale)) {
        log_error("--scale is %g, must not be 0", options->scale);
        return NULL;
    }
    void *state = backend->open(options, code);
    if (state == NULL)
        return NULL;

    struct scorer *scorer = memory_alloc(1, sizeof *scorer);
    *scorer = (struct scorer){ .backend = backend, .state = state, .scale = options->scale };
    scorer->spec = spec_text(scorer);
    *code = EX_OK;
    return scorer;
}

void scorer_close(struct scorer *scorer)
{
    if (scorer == NULL)
        return;
    scorer->backend->close(scorer->state);
    free(scorer->spec);
    free(scorer);
}

const char *scorer_spec(const struct scorer *scorer)
{
    return scorer->spec;
}

void scorer_fail(struct scorer_result *result, const char *format, ...)
{
    result->status = SCORER_FAILED;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result->reason, sizeof result->reason, format, arguments);
    va_end(arguments);
}

int scorer_score(struct scorer *scorer, const struct scorer_text *texts, size_t count, struct scorer_result *results)
{
    for (size_t i = 0; i < count; i++)
        results[i] = (struct scorer_result){ .status = SCORER_LEFT };
    int status = scorer->backend->score(scorer->state, texts, count, results);
    for (size_t i = 0; i < count; i++) {
        if (results[i].status != SCORER_SCORED)
            continue;
        results[i].score *= scorer->scale;
        if (!(fabs(results[i].score) <= score_max))
            scorer_fail(&results[i], "score is %g, must be within %g", results[i].score, score_max);
    }
    return status;
}
