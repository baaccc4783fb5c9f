/*
 * read.h - what a store holds, for programs that only look: report, status, export.
 *
 * Each question is an iterator:
 *
 *     struct read *rows = read_policies(db);
 *     struct read_policy policy;
 *     while (read_policy_next(rows, &policy))
 *         ...
 *     if (read_end(rows) != 0)
 *         ...
 *
 * Texts and arrays of a row are valid until the next row or read_end.  An empty name asks for all.  Several iterators may
 * be open at once.
 */
#ifndef STORE_READ_H
#define STORE_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/effort.h"
#include "store/db.h"

struct read;

/* 0, or -1 when reading failed (logged): the rows so far are then not all. */
int read_end(struct read *rows);

/* One row for each policy and split in which it was asked for or has rollouts, by name and split. */
struct read_policy {
    const char *name, *spec, *split;
    int64_t samples;   // of each prompt that were last asked for; 0 for an imported policy
    int64_t prompts;   // in the split, of the policy's tokenizer
    int64_t rollouts;  // in the split
    int64_t failed;    // samples given up
    int64_t missing;   // of the samples that were last asked for
};
struct read *read_policies(struct db *db);
bool read_policy_next(struct read *rows, struct read_policy *row);

struct read_reward {
    const char *name, *spec;
    int64_t scores, failed;
};
struct read *read_rewards(struct db *db);
bool read_reward_next(struct read *rows, struct read_reward *row);

struct read_split {
    const char *split;
    int64_t prompts;
};
struct read *read_splits(struct db *db);
bool read_split_next(struct read *rows, struct read_split *row);

/* A scored rollout, without its texts: by prompt, sample. */
struct read_score {
    int64_t prompt;    // id, for read_texts
    int64_t sample;
    double score;
    double kl;         // nats; NaN when not measured
    double logprob;    // sum over the response, nats; NaN when not known
    int64_t tokens;    // of the response
    bool stopped;      // by a stop token
};
struct read *read_scores(struct db *db, const char *policy, const char *reward, const char *split);
bool read_score_next(struct read *rows, struct read_score *row);

/* Rollouts with their texts, by policy, prompt, sample; one row for each score,
   or one with NaN when reward is empty and there is none. */
struct read_text {
    int64_t prompt_id, sample;
    const char *policy, *split, *prompt, *response;
    const char *reward;  // "" when not scored
    double score, kl;    // NaN when there is none
    bool stopped;
    int64_t tokens;      // of the response
};
/* prompt 0 asks for all prompts. */
struct read *read_texts(struct db *db, const char *policy, const char *reward, const char *split, int64_t prompt);
bool read_text_next(struct read *rows, struct read_text *row);

struct read_run {
    const char *name;
    const char *target, *train;   // settings, JSON; "" when not yet named
    const char *policy, *reward;  // "" until planned
    int64_t rollouts, batches;    // of the plan; 0 until planned
    int64_t targets, failed;      // so far
    int64_t batch, step;          // next batch and step of the newest checkpoint; -1 when there is none
    bool final;                   // its last checkpoint is stored
};
struct read *read_runs(struct db *db);
bool read_run_next(struct read *rows, struct read_run *row);

/* Numbers reported for a run or a policy, by subject and step; one row for each subject, step.  Those of step 0 are sums over
   workers. */
struct read_metric {
    const char *subject;
    int64_t step;
    const char *numbers;  // JSON object: name to number
    double at_s;          // seconds since 1970
};
struct read *read_metrics(struct db *db, const char *subject);
bool read_metric_next(struct read *rows, struct read_metric *row);

/* What workers did with their time, by stage and name of policy, reward, run or tokenizer. */
struct read_effort {
    const char *stage, *name;
    double seconds[EFFORT_COUNT];
};
struct read *read_efforts(struct db *db);
bool read_effort_next(struct read *rows, struct read_effort *row);

struct read_failure {
    const char *stage, *name;  // name of the policy, reward or run
    int64_t attempts;
    const char *reason;
};
struct read *read_failures(struct db *db);
bool read_failure_next(struct read *rows, struct read_failure *row);

#endif
