/*
 * put.h - outputs of workers become rows.
 *
 * Each function checks the keys of a frame against the store and inserts it under its unique key, inside a transaction that
 * it begins where there is none.  What the store has already is left as it is.
 */
#ifndef STORE_PUT_H
#define STORE_PUT_H

#include <stdint.h>

#include "base/effort.h"
#include "store/db.h"
#include "store/plan.h"
#include "wire/frame.h"

enum put_status {
    PUT_NEW,      // a row was inserted
    PUT_HAD,      // it was there already
    PUT_REFUSED,  // reason says why: refuse the frame
    PUT_FAILED,   // the store could not be written: db_trouble, db_reason
};

enum put_status put_prompt(struct db *db, const struct frame_prompt *prompt, char *reason);
/* policy: the one that its sender announced, by name and id. */
enum put_status put_rollout(struct db *db, const struct frame_rollout *rollout, int64_t policy, char *reason);
enum put_status put_score(struct db *db, const struct frame_scored *scored, int64_t reward, char *reason);
/* The batch must hold the rollout according to plan. */
enum put_status put_target(struct db *db, const struct frame_target *target, struct plan *plan, char *reason);
/* A later report of the same subject and step replaces the earlier one; of step 0 it is added to it, number by number.
   now_s: seconds since 1970. */
enum put_status put_metric(struct db *db, const struct frame_metric *metric, double now_s, char *reason);

/* Adds to what the workers of this stage and name did with their time.  0 or -1. */
int put_effort(struct db *db, const char *stage, const char *name, const int64_t ms[EFFORT_COUNT]);

/* Which item, by the keys of its output. */
struct failure_key {
    const char *stage;
    int64_t policy, prompt, sample;  // rollout, decode
    int64_t reward, rollout;         // reward
    int64_t run, batch;              // value-target, with rollout
};
enum put_status put_failure(struct db *db, const struct failure_key *key, int64_t attempts, const char *reason, double now_s);
/* Deletes failures of a stage ("": of all) and of a name ("": any), so that their items are offered again.  Their number, or -1. */
int64_t failures_forget(struct db *db, const char *stage, const char *name);

#endif
