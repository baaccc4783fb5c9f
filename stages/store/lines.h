/*
 * lines.h - the lines of work in which workers wait, and what has been handed out of them.
 *
 * A line is all the work of one key: the samples that a policy lacks in a split, the scores that a reward lacks, the
 * targets that a run lacks, the batches of a run.  Nothing here outlives the process: a line is found again in the
 * database, and an item that was handed out and not answered is still missing there.
 *
 * An item that fails or whose holder vanishes ITEM_ATTEMPTS times is written down as a failure and no longer offered.
 * For the attempts after ITEM_SUSPECT it is offered only to a worker that holds nothing else, so that an innocent item is
 * not condemned for having been held beside a deadly one.
 *
 * Functions that read or write the store return -1 on failure (db_trouble).
 */
#ifndef STORE_LINES_H
#define STORE_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/db.h"
#include "store/plan.h"
#include "store/put.h"
#include "store/work.h"
#include "wire/frame.h"

enum {
    ITEM_ATTEMPTS = 4,
    ITEM_SUSPECT = 2,  // after so many it is held alone, so that what the last two tell is about this item
};

enum line_kind {
    LINE_SAMPLES,  // prompts to rollout and decode
    LINE_SCORES,   // rollouts to reward
    LINE_TARGETS,  // scored rollouts to value-target
    LINE_BATCHES,  // whole batches of targets to train
};

struct item;
struct item_list {
    struct item *first, *last;
    size_t count;
};

struct item {
    struct line *line;
    struct work_item key;
    int64_t step;             // LINE_TARGETS: of the snapshot
    int64_t attempts;         // that failed or ended their worker
    int64_t lease;            // 0: not handed out
    struct item_list *list;   // a queue of its line, or what its holder holds
    struct item *before, *after, *chain, *lease_chain;
};

struct line {
    struct lines *lines;
    enum line_kind kind;
    char stage[16];           // for failures
    int64_t workers;          // conversations that wait here
    struct item_list ready, suspects;
    size_t leased;
    bool drained;             // the last look left nothing behind that is not in a queue; never of LINE_TARGETS
    size_t room;              // of all workers here: items that they want or hold
    double rests_until_s;     // nothing is handed out before
    /* LINE_SAMPLES, LINE_SCORES */
    struct work_samples samples;
    struct work_scores scores;
    char *split, *policy;     // LINE_SCORES: policy by name, which may not exist yet; "": all
    /* LINE_TARGETS, LINE_BATCHES */
    int64_t run;
    struct plan *plan;        // borrowed from lines; NULL until planned
    char *waits;              // for what, while not planned
    bool final;               // nothing can be missing again
    int64_t newest_step;      // a snapshot that was seen, so that it is not looked for again
    int64_t head;             // LINE_TARGETS: batches before it have all their targets; LINE_BATCHES: the one that comes next
    int64_t base_batch, base_step, empty;  // step at a batch, and batches since then of which every rollout had failed
    int64_t *batch_rollouts;  // LINE_BATCHES: (batch_count) of batch head - 1, being sent
    size_t batch_count, batch_sent;
    /* When it was last looked whether there is more. */
    uint64_t filled_change, counted_change;
    double filled_s, counted_s;
    int64_t counted;          // outputs that are missing and in no queue
};

struct lines {
    struct db *db;
    struct line **lines;      // (count)
    size_t count;
    struct plan **plans;      // (plan_count) of runs
    size_t plan_count;
    int64_t sources;          // conversations with a tokenize
    uint64_t change;          // grows when the store may have got rows
    uint64_t planned_change;
    struct item **chains;     // by line and key
    struct item **leases;     // chains by lease
    size_t leased;
    int64_t last_lease;
};

void lines_open(struct lines *lines, struct db *db);
void lines_close(struct lines *lines);
/* Rows may have been added: lines look again. */
void lines_changed(struct lines *lines);
/* Rows may have been taken away: cursors go back to the beginning. */
void lines_rescan(struct lines *lines);

/* The line of that key, made if there is none.  Texts are copied. */
struct line *lines_samples(struct lines *lines, const char *stage, int64_t policy, const char *split, int64_t samples);
struct line *lines_scores(struct lines *lines, int64_t reward, const char *policy, const char *split);
struct line *lines_run(struct lines *lines, enum line_kind kind, int64_t run);

/* Plans runs that wait for it, in a transaction of its own.  0 or -1. */
int lines_plan(struct lines *lines);
/* The plan of a run, loaded once; NULL while there is none. */
struct plan *lines_find_plan(struct lines *lines, int64_t run);

/* Whether it holds a suspect, and gets nothing beside it. */
bool holds_suspect(const struct item_list *holder);

/*
 * The next item for this holder, now leased to it; NULL in *item when there is none now.  Of the last items of a line each holder
 * gets a share as large as its room, so that all end together.
 */
int line_take(struct line *line, struct item_list *holder, size_t room, double now_s, struct item **item);
/* Its frame, lease included.  1; 0 when its output is no longer missing: item_done it. */
int line_frame(struct line *line, const struct item *item, struct arena *arena, struct frame *frame);

/*
 * An item that this holder has from an earlier conversation is leased to it again, under the number that it had, if it is missing
 * and nobody else's.  0 or -1.
 */
int line_hold(struct line *line, struct item_list *holder, const struct frame_hold *hold);

/* LINE_BATCHES: begins with the batch that comes next after the newest full checkpoint. */
int line_restart(struct line *line);
/* The next target of the run's batches, in order, when the whole batch is there.  1, 0 not now, -1. */
int line_target_frame(struct line *line, double now_s, struct arena *arena, struct frame *frame);

/* Outputs of this line that are missing and that somebody is still to make. */
int line_missing(struct line *line, double now_s, int64_t *missing);

/* NULL when nothing is leased under this number to this holder. */
struct item *lines_leased(struct lines *lines, int64_t lease, const struct item_list *holder);
/* Ends an item, answered or not missing any more. */
void item_done(struct item *item);
/* Back to the front of its line. */
void item_return(struct item *item);
/* Counts a failed attempt against an item that is queued or handed out; the last one becomes a failure row.  0 or -1. */
int line_blame(struct line *line, struct work_item key, const char *reason, double wall_s);
/* Takes a count back: its worker has turned out to be alive. */
void line_pardon(struct line *line, struct work_item key);

#endif
