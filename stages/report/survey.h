/*
 * survey.h - what a report says, read from a store and computed once, before anything is written.
 */
#ifndef REPORT_SURVEY_H
#define REPORT_SURVEY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "report/statistics.h"
#include "store/db.h"

struct survey_options {
    const char *reward;    // only this one; NULL: all
    const char *split;     // whose prompts are compared
    int64_t prompts_shown; // prompts whose responses are shown as text
};

enum result_kind {
    RESULT_BASE,       // the policy that others are compared with: KL 0
    RESULT_BEST_OF_N,  // of the base's samples
    RESULT_OTHER,      // neither steered nor the base
    RESULT_STEERED,
};

struct policy {
    const char *name;
    json_t *spec;         // object; {} when it is none
    bool steered, imported;
    const char *series;   // policies that differ only in the size of their betas share it; "" unless steered
    double beta;          // sum over its value models
    size_t value_count;
    int64_t rollouts, failed;  // in the split
    int64_t missing;      // of the samples that were last asked for, neither there nor failed
    double tokens_per_s;  // of a worker, of the time that it did not wait; NaN: not reported
};

/* A policy under one reward, or best-of-n of the base policy. */
struct result {
    enum result_kind kind;
    const struct policy *policy;
    const char *label;       // name of the policy, or "best of 4"
    size_t n;                // of best-of-n
    size_t count, prompts;   // responses with a score, and how many prompts they answer
    double *score, *kl;      // (count), by prompt; kl NaN where not measured; NULL for best-of-n
    int64_t *prompt, *tokens;
    struct estimate mean;    // of the score
    struct estimate drift;   // KL from the base, nats per response; an upper bound for best-of-n
    double tokens_mean;      // of a response; NaN for best-of-n
};

/* One response to a shown prompt. */
struct example {
    const char *response;  // NULL: none is stored
    double score;
};

/* All policies under one reward. */
struct comparison {
    const char *reward, *spec;
    int64_t failed;               // responses that could not be scored, of all splits
    struct result *results;       // base, best-of-n, others, steered by KL
    size_t count;
    size_t *shown;                // (shown_count) indices of results whose responses are shown, the base first
    size_t shown_count;
    const char **prompts;         // (prompt_count)
    struct example *examples;     // (prompt_count, shown_count)
    size_t prompt_count;
};

enum curve { CURVE_LOSS, CURVE_VALUE_MEAN, CURVE_TARGET_MEAN, CURVE_EXPLAINED_VARIANCE, CURVE_GRADIENT_NORM, CURVE_COUNT };
extern const char *const curve_names[CURVE_COUNT];  // as train calls them

struct run {
    const char *name, *target, *train, *policy, *reward;
    int64_t rollouts, batches, targets, failed, step;
    bool final;
    int64_t *steps;               // (count)
    double *curves[CURVE_COUNT];  // (count) each, NaN where not reported
    size_t count;
};

struct failure_count {
    const char *stage, *name, *reason;  // the first reason
    int64_t count;
};

struct survey {
    struct arena arena;  // holds all of it
    struct survey_options options;
    const char *path;
    struct policy *policies;
    size_t policy_count;
    struct comparison *comparisons;
    size_t comparison_count;
    struct run *runs;
    size_t run_count;
    struct failure_count *failures;
    size_t failure_count;
    int64_t prompts;          // of the split
    const char *splits;       // "train (510), eval (64)"
    const char *rewards;      // "vader, length"
    const char *lacks;        // why there is nothing to compare; NULL when there is
};

/* 0; 65 the reward is not in the store or the store is damaged, logged.  Afterwards survey_free in any case. */
int survey_read(struct survey *survey, struct db *db, const struct survey_options *options);
void survey_free(struct survey *survey);

/* Rollouts of the policy without a score: still to be scored, or failed. */
int64_t result_unscored(const struct result *result);

#endif
