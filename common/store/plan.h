/*
 * plan.h - which rollouts make up each batch of a training run, fixed when the run is planned.
 *
 * schemas/README.md, "The plan of a run", is the specification.  Memory: 8 bytes for each prompt of the set and 4 for each rollout
 * in each of up to four epochs that are being worked on; 8 more for each rollout that was imported.
 */
#ifndef STORE_PLAN_H
#define STORE_PLAN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/db.h"

enum { PLAN_WINDOW_PROMPTS = 64, PLAN_ORDERS = 4 };

struct plan_member {
    int64_t prompt;  // row id
    int64_t sample;
};

/* An imported rollout. */
struct plan_place {
    uint32_t prompt;  // which of the plan's
    int32_t sample;
};

struct plan_order {
    int64_t epoch;    // -1: none
    uint64_t used;
    uint32_t *order;  // (count) positions of the epoch to members
};

struct plan {
    int64_t run, policy, reward;  // row ids
    char *name;                   // of the run
    char *state_tokenizer;        // of the states of its targets; "": the prompts'
    bool imported;                // the policy's rollouts came from elsewhere
    size_t count;                 // members, by prompt, sample
    int64_t *prompts;             // (prompt_count) row ids
    size_t prompt_count;
    int64_t samples;              // of each prompt; 0: places says which
    struct plan_place *places;    // (count) of an imported policy, else NULL
    uint32_t *window_ends;        // (prompt_count / PLAN_WINDOW_PROMPTS, rounded up) members before the end of each window
    int64_t batch, epochs, updates, refresh;
    uint64_t seed;
    double lambda;
    int64_t epoch_batches, batches;
    struct plan_order orders[PLAN_ORDERS];  // of the epochs used last
    uint64_t clock;
};

/*
 * Whether settings can be pinned as part ("target" or "train") of the run: types, limits, and that they go together with the
 * other part where that is pinned.  1, 0 with a line in reason, -1 on failure (db_trouble).
 */
int plan_check(struct db *db, const char *run, const char *part, const json_t *settings, char *reason);

enum plan_status {
    PLAN_MADE,    // now or before
    PLAN_WAITS,   // reason says for what
    PLAN_FAILED,  // db_trouble
};

/* Plans the run if everything it needs is known.  Writes in a transaction that it begins where there is none. */
enum plan_status plan_make(struct db *db, int64_t run, char *reason);

/* NULL when the run is not planned, or on failure (db_trouble).  The caller plan_free()s. */
struct plan *plan_load(struct db *db, int64_t run);
void plan_free(struct plan *plan);

/* Prompts that a set planned now would have beside the plan's, -1 on failure (db_trouble).  An imported policy has none. */
int64_t plan_left_out(struct db *db, const struct plan *plan);

/* Member i of 0 .. count-1. */
struct plan_member plan_member(const struct plan *plan, size_t i);

/* The members of batch b, 0 <= b < batches, in training order, into members; returns plan_batch_size. */
size_t plan_batch(struct plan *plan, int64_t b, struct plan_member *members);

/* How many that are. */
size_t plan_batch_size(const struct plan *plan, int64_t b);
/* Whether that sample of that prompt is one of them. */
bool plan_batch_has(struct plan *plan, int64_t b, int64_t prompt, int64_t sample);

/*
 * The order of one epoch, a permutation of 0 .. count-1.  window_ends: of the windows that make up the members, ascending up to
 * count; used for epoch 0 only.
 */
void plan_permute(uint32_t *order, size_t count, const uint32_t *window_ends, uint64_t seed, int64_t epoch);

/*
 * Step of the snapshot that gives the values of a batch before which so many updates were made: the newest that is at least one
 * update old, so that values are computed while the batch before is trained on.  -1 when lambda is 1.
 */
int64_t plan_snapshot(const struct plan *plan, int64_t updates_before);

#endif
