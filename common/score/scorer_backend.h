/*
 * scorer_backend.h - what a kind of scorer supplies; only scorer.c and the backends include it.
 */
#ifndef SCORE_SCORER_BACKEND_H
#define SCORE_SCORER_BACKEND_H

#include <jansson.h>

#include "score/scorer.h"

struct scorer_backend {
    const char *kind;

    /* Which option chooses this kind; NULL when it is not given. */
    const char *(*source)(const struct scorer_options *options);
    /* NULL on failure, logged, with the exit code. */
    void *(*open)(const struct scorer_options *options, int *code);
    void (*close)(void *state);
    /* Adds to spec whatever decides the scores, apart from kind and scale. */
    void (*describe)(const void *state, json_t *spec);
    /* As scorer_score, before the scale.  Every result comes in as SCORER_LEFT. */
    int (*score)(void *state, const struct scorer_text *texts, size_t count, struct scorer_result *results);
};

extern const struct scorer_backend scorer_lexicon, scorer_exec, scorer_model;

/* The result's item cannot be scored. */
void scorer_fail(struct scorer_result *result, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
