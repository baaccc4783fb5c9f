/*
 * work.h - what is missing, and the frames that ask for it.
 *
 * Scans go forward from a cursor along an index, so that looking for more never reads again what was looked at.  Items that
 * failed for good are not missing.
 *
 * Functions return -1 on failure (db_trouble).
 */
#ifndef STORE_WORK_H
#define STORE_WORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/db.h"
#include "store/plan.h"
#include "wire/frame.h"

/* An item: (prompt, sample), (rollout, 0) or (batch, rollout), row ids and numbers. */
struct work_item {
    int64_t a, b;
};

/* Samples that a policy lacks: of each prompt of the split and the policy's tokenizer, 0 .. samples-1. */
struct work_samples {
    int64_t policy, samples;
    const char *split;
    int64_t prompt, sample;  // cursor: looked at up to here; both 0 at first
    bool inside;             // the cursor's prompt has more samples
};
/* The next missing ones, in prompt order, the samples of a prompt next to each other.  Their number, 0 at the end. */
int64_t work_samples_scan(struct db *db, struct work_samples *key, struct work_item *items, size_t max);
/* How many there are, wherever the cursor is. */
int64_t work_samples_count(struct db *db, const struct work_samples *key);
/* 1 when the split has prompts and none of them is of the policy's tokenizer; tokenizer is then that of one of them.  0, -1. */
int work_split_foreign(struct db *db, int64_t policy, const char *split, char *tokenizer, size_t size);
int work_samples_done(struct db *db, const struct work_samples *key, struct work_item item);
/* The item that a worker names; the same for scores and targets.  1; 0 when it is none that is missing, -1. */
int work_samples_named(struct db *db, const struct work_samples *key, const struct frame_hold *hold, struct work_item *item);

/* Rollouts that a reward lacks scores of. */
struct work_scores {
    int64_t reward;
    int64_t policy;     // 0: of all policies
    const char *split;  // "": of all splits
    int64_t rollout;    // cursor
};
int64_t work_scores_scan(struct db *db, struct work_scores *key, struct work_item *items, size_t max);
int64_t work_scores_count(struct db *db, const struct work_scores *key);
int work_scores_done(struct db *db, const struct work_scores *key, struct work_item item);
int work_scores_named(struct db *db, const struct work_scores *key, const struct frame_hold *hold, struct work_item *item);

/* How far one rollout of a batch is. */
struct work_member {
    int64_t rollout;      // row id, 0: not sampled
    bool scored, target;  // it has a score, a target in this batch
    bool failed;          // it was given up before it had a target
};
int work_member(struct db *db, const struct plan *plan, int64_t batch, const struct plan_member *member, struct work_member *state);
int work_target_done(struct db *db, int64_t run, struct work_item item);
int work_target_named(struct db *db, struct plan *plan, const struct frame_hold *hold, struct work_item *item);
/* Targets of the run so far. */
int64_t work_targets_count(struct db *db, int64_t run);

/* The frames; texts and arrays borrow from arena.  1, 0 when there is no such row, -1. */
int work_prompt_frame(struct db *db, int64_t prompt, int64_t sample, struct arena *arena, struct frame *frame);
int work_rollout_frame(struct db *db, int64_t rollout, struct arena *arena, struct frame *frame);
/* Delivery and plan fields are left to the caller. */
int work_scored_frame(struct db *db, int64_t rollout, int64_t reward, struct arena *arena, struct frame *frame);
int work_target_frame(struct db *db, const struct plan *plan, int64_t batch, int64_t rollout, struct arena *arena,
                      struct frame *frame);

#endif
