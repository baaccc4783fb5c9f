/* lines.c - see lines.h. */
#include "store/lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/checkpoint.h"
#include "store/pin.h"

enum {
    CHAIN_COUNT = 1 << 16,
    PREFETCH = 256,            // items that are looked up at once
    PREFETCH_BELOW = 128,      // queued ones, so that the end of the work is seen before it comes
    LOOKAHEAD_ROLLOUTS = 1024, // of a run's plan, past the first that lacks its target
    LEASED_MAX = 1 << 24,      // items
};

static const double FILL_PAUSE_S = 0.02;   // between two looks that may find nothing
static const double COUNT_PAUSE_S = 0.25;  // between two counts

/* ---- lists, chains, leases ---- */

static void list_take_out(struct item *item)
{
    struct item_list *list = item->list;
    *(item->before ? &item->before->after : &list->first) = item->after;
    *(item->after ? &item->after->before : &list->last) = item->before;
    list->count--;
    item->list = NULL;
    item->before = item->after = NULL;
}

static void list_put_first(struct item_list *list, struct item *item)
{
    item->after = list->first;
    *(list->first ? &list->first->before : &list->last) = item;
    list->first = item;
    item->list = list;
    list->count++;
}

static void list_put_last(struct item_list *list, struct item *item)
{
    item->before = list->last;
    *(list->last ? &list->last->after : &list->first) = item;
    list->last = item;
    item->list = list;
    list->count++;
}

static struct item **chain_of(const struct line *line, struct work_item key)
{
    uint64_t mixed = (uint64_t)(uintptr_t)line * 0x9E3779B97F4A7C15u ^ (uint64_t)key.a * 0xC2B2AE3D27D4EB4Fu
                     ^ (uint64_t)key.b * 0x165667B19E3779F9u;
    return &line->lines->chains[(mixed ^ mixed >> 29) % CHAIN_COUNT];
}

static struct item *item_find(const struct line *line, struct work_item key)
{
    struct item *item = *chain_of(line, key);
    while (item != NULL && (item->line != line || item->key.a != key.a || item->key.b != key.b))
        item = item->chain;
    return item;
}

/* Queues an item; NULL when it is queued or handed out already. */
static struct item *item_add(struct line *line, struct work_item key)
{
    if (item_find(line, key) != NULL)
        return NULL;
    struct item **chain = chain_of(line, key);
    struct item *item = memory_alloc(1, sizeof *item);
    *item = (struct item){ .line = line, .key = key, .chain = *chain };
    *chain = item;
    list_put_last(&line->ready, item);
    return item;
}

static void item_free(struct item *item)
{
    struct item **at = chain_of(item->line, item->key);
    while (*at != item)
        at = &(*at)->chain;
    *at = item->chain;
    free(item);
}

static void lease_give(struct item *item, int64_t lease)
{
    struct lines *lines = item->line->lines;
    struct item **chain = &lines->leases[lease % CHAIN_COUNT];
    item->lease = lease;
    item->lease_chain = *chain;
    *chain = item;
    item->line->leased++;
    lines->leased++;
}

static void lease_end(struct item *item)
{
    struct lines *lines = item->line->lines;
    struct item **at = &lines->leases[item->lease % CHAIN_COUNT];
    while (*at != item)
        at = &(*at)->lease_chain;
    *at = item->lease_chain;
    item->lease = 0;
    item->line->leased--;
    lines->leased--;
}

struct item *lines_leased(struct lines *lines, int64_t lease, const struct item_list *holder)
{
    struct item *item = lines->leases[lease % CHAIN_COUNT];
    while (item != NULL && (item->lease != lease || item->list != holder))
        item = item->lease_chain;
    return item;
}

void item_done(struct item *item)
{
    list_take_out(item);
    if (item->lease != 0)
        lease_end(item);
    item_free(item);
}

static int item_give_up(struct item *item, const char *reason, double wall_s)
{
    const struct line *line = item->line;
    struct failure_key key = { .stage = line->stage };
    if (line->kind == LINE_SAMPLES) {
        key.policy = line->samples.policy;
        key.prompt = item->key.a;
        key.sample = item->key.b;
    } else if (line->kind == LINE_SCORES) {
        key.reward = line->scores.reward;
        key.rollout = item->key.a;
    } else {
        key.run = line->run;
        key.batch = item->key.a;
        key.rollout = item->key.b;
    }
    log_event("gave up an item stage=%s item=%lld/%lld attempts=%lld reason=%s", line->stage, (long long)item->key.a,
              (long long)item->key.b, (long long)item->attempts, reason);
    enum put_status put = put_failure(line->lines->db, &key, item->attempts, reason, wall_s);
    item_free(item);
    return put == PUT_NEW || put == PUT_HAD ? 0 : -1;
}

static void item_queue(struct item *item)
{
    list_put_first(item->attempts >= ITEM_SUSPECT ? &item->line->suspects : &item->line->ready, item);
}

void item_return(struct item *item)
{
    list_take_out(item);
    lease_end(item);
    item_queue(item);
}

int line_blame(struct line *line, struct work_item key, const char *reason, double wall_s)
{
    struct item *item = item_find(line, key);
    if (item == NULL)
        return 0;
    item->attempts++;
    if (item->lease != 0)  // somebody else tries it now
        return 0;
    list_take_out(item);
    if (item->attempts >= ITEM_ATTEMPTS)
        return item_give_up(item, reason, wall_s);
    item_queue(item);
    return 0;
}

void line_pardon(struct line *line, struct work_item key)
{
    struct item *item = item_find(line, key);
    if (item == NULL || item->attempts == 0)
        return;
    item->attempts--;
    if (item->lease == 0) {
        list_take_out(item);
        item_queue(item);
    }
}

/* ---- all lines ---- */

void lines_open(struct lines *lines, struct db *db)
{
    *lines = (struct lines){ .db = db, .change = 1 };
    lines->chains = memory_alloc(CHAIN_COUNT, sizeof *lines->chains);
    lines->leases = memory_alloc(CHAIN_COUNT, sizeof *lines->leases);
    /* So that a lease of an earlier process is never taken for one of this. */
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) < 0)
        random = (uint64_t)(uintptr_t)lines;
    lines->last_lease = (int64_t)(random % INT_HIGH);
}

void lines_close(struct lines *lines)
{
    for (size_t i = 0; i < CHAIN_COUNT; i++)
        for (struct item *item = lines->chains[i], *next; item != NULL; item = next) {
            next = item->chain;
            free(item);
        }
    for (size_t i = 0; i < lines->count; i++) {
        free(lines->lines[i]->split);
        free(lines->lines[i]->policy);
        free(lines->lines[i]->waits);
        free(lines->lines[i]->batch_rollouts);
        free(lines->lines[i]);
    }
    for (size_t i = 0; i < lines->plan_count; i++)
        plan_free(lines->plans[i]);
    free(lines->lines);
    free(lines->plans);
    free(lines->chains);
    free(lines->leases);
}

void lines_changed(struct lines *lines)
{
    lines->change++;
}

void lines_rescan(struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++) {
        struct line *line = lines->lines[i];
        line->samples.prompt = line->samples.sample = line->scores.rollout = 0;
        line->samples.inside = false;
        if (line->kind == LINE_TARGETS) {
            line->head = line->base_batch;
            line->empty = 0;
        }
    }
    lines->change++;
}

static struct line *line_add(struct lines *lines, enum line_kind kind, const char *stage, const char *split, const char *policy)
{
    struct line *line = memory_alloc(1, sizeof *line);
    *line = (struct line){ .lines = lines, .kind = kind, .split = memory_text(split), .policy = memory_text(policy),
                           .newest_step = -1 };
    snprintf(line->stage, sizeof line->stage, "%s", stage);
    lines->lines = memory_grow(lines->lines, lines->count + 1, sizeof *lines->lines);
    lines->lines[lines->count++] = line;
    return line;
}

struct line *lines_samples(struct lines *lines, const char *stage, int64_t policy, const char *split, int64_t samples)
{
    struct line *line = NULL;
    for (size_t i = 0; i < lines->count && line == NULL; i++)
        if (lines->lines[i]->kind == LINE_SAMPLES && lines->lines[i]->samples.policy == policy
            && strcmp(lines->lines[i]->split, split) == 0)
            line = lines->lines[i];
    if (line == NULL) {
        line = line_add(lines, LINE_SAMPLES, stage, split, "");
        line->samples = (struct work_samples){ .policy = policy, .samples = samples, .split = line->split };
    }
    if (line->samples.samples != samples) {  // prompts that were complete may not be
        line->samples = (struct work_samples){ .policy = policy, .samples = samples, .split = line->split };
        lines->change++;
    }
    return line;
}

struct line *lines_scores(struct lines *lines, int64_t reward, const char *policy, const char *split)
{
    for (size_t i = 0; i < lines->count; i++) {
        struct line *line = lines->lines[i];
        if (line->kind == LINE_SCORES && line->scores.reward == reward && strcmp(line->split, split) == 0
            && strcmp(line->policy, policy) == 0)
            return line;
    }
    struct line *line = line_add(lines, LINE_SCORES, "reward", split, policy);
    line->scores = (struct work_scores){ .reward = reward, .split = line->split };
    return line;
}

struct line *lines_run(struct lines *lines, enum line_kind kind, int64_t run)
{
    for (size_t i = 0; i < lines->count; i++)
        if (lines->lines[i]->kind == kind && lines->lines[i]->run == run)
            return lines->lines[i];
    struct line *line = line_add(lines, kind, kind == LINE_TARGETS ? "value-target" : "train", "", "");
    line->run = run;
    lines->change++;
    return line;
}

/* ---- plans ---- */

struct plan *lines_find_plan(struct lines *lines, int64_t run)
{
    for (size_t i = 0; i < lines->plan_count; i++)
        if (lines->plans[i]->run == run)
            return lines->plans[i];
    struct plan *plan = plan_load(lines->db, run);
    if (plan != NULL) {
        lines->plans = memory_grow(lines->plans, lines->plan_count + 1, sizeof *lines->plans);
        lines->plans[lines->plan_count++] = plan;
    }
    return plan;
}

static int line_plan(struct line *line)
{
    struct db *db = line->lines->db;
    char reason[STORE_REASON_BYTES];
    enum plan_status status = plan_make(db, line->run, reason);
    if (status == PLAN_FAILED || db_commit(db) != 0)
        return -1;
    if (status == PLAN_WAITS) {
        if (line->waits == NULL || strcmp(line->waits, reason) != 0) {
            free(line->waits);
            line->waits = memory_text(reason);
            log_event("%s waits for %s", line->stage, reason);
        }
        return 0;
    }
    struct checkpoint_newest newest;
    line->plan = lines_find_plan(line->lines, line->run);
    if (line->plan == NULL || checkpoint_newest(db, line->run, "full", &newest) != 0)
        return -1;
    line->head = line->base_batch = newest.batch;
    line->base_step = newest.step > 0 ? newest.step : 0;
    return 0;
}

int lines_plan(struct lines *lines)
{
    if (lines->planned_change == lines->change)
        return 0;
    for (size_t i = 0; i < lines->count; i++) {
        struct line *line = lines->lines[i];
        if ((line->kind == LINE_TARGETS || line->kind == LINE_BATCHES) && line->plan == NULL && line_plan(line) != 0)
            return -1;
    }
    lines->planned_change = lines->change;
    return 0;
}

/* ---- finding what is missing ---- */

/*
 * Rollouts of a batch that can have their targets now are queued, if the snapshot that they need is there.  1 when nothing of
 * the batch is missing any more, 0, -1.
 */
static int fill_batch(struct line *line, int64_t b, int64_t step, bool ready, bool *empty)
{
    struct plan *plan = line->plan;
    struct plan_member *members = memory_alloc((size_t)plan->batch, sizeof *members);
    size_t count = plan_batch(plan, b, members), failed = 0;
    int complete = 1;
    for (size_t i = 0; i < count && complete >= 0; i++) {
        struct work_member state;
        if (work_member(line->lines->db, plan, b, &members[i], &state) != 0) {
            complete = -1;
        } else if (state.failed) {
            failed++;
        } else if (!state.target) {
            complete = 0;
            struct item *item = state.scored && ready ? item_add(line, (struct work_item){ b, state.rollout }) : NULL;
            if (item != NULL)
                item->step = step;
        }
    }
    free(members);
    *empty = failed == count;
    return complete;
}

/* 1 when the values of the batch can be computed, 0 not yet, -1. */
static int snapshot_ready(struct line *line, int64_t step)
{
    if (step < 0 || step == line->newest_step)
        return 1;
    int has = checkpoint_has(line->lines->db, line->run, "weights", step);
    if (has == 1)
        line->newest_step = step;
    return has;
}

static int64_t fill_targets(struct line *line)
{
    struct plan *plan = line->plan;
    if (plan == NULL)
        return 0;
    size_t before = line->ready.count;
    int64_t ahead = LOOKAHEAD_ROLLOUTS / plan->batch + 2;
    for (int64_t b = line->head; b < plan->batches && b < line->head + ahead && line->ready.count < before + PREFETCH; b++) {
        int64_t step = plan_snapshot(plan, line->base_step + (b - line->base_batch - line->empty) * plan->updates);
        int ready = snapshot_ready(line, step);
        if (ready < 0)
            return -1;
        bool empty;
        /* Also without the snapshot: it may be complete, and the snapshot gone. */
        int complete = fill_batch(line, b, step, ready, &empty);
        if (complete < 0)
            return -1;
        if (!complete && !ready)
            break;
        if (complete && b == line->head) {
            line->head++;
            line->empty += empty;
        }
    }
    return (int64_t)(line->ready.count - before);
}

static int64_t fill_scores(struct line *line, struct work_item *items)
{
    if (line->policy[0] != '\0' && line->scores.policy == 0) {
        line->scores.policy = find_policy(line->lines->db, line->policy);
        if (line->scores.policy <= 0) {
            int64_t found = line->scores.policy;
            line->scores.policy = 0;
            return found;
        }
    }
    return work_scores_scan(line->lines->db, &line->scores, items, PREFETCH);
}

/* Looks for more when little is queued. */
static int line_fill(struct line *line, double now_s)
{
    size_t enough = line->kind == LINE_TARGETS ? 1 : PREFETCH_BELOW;
    if (line->ready.count + line->suspects.count >= enough || line->filled_change == line->lines->change
        || now_s - line->filled_s < FILL_PAUSE_S)
        return 0;
    struct work_item items[PREFETCH];
    uint64_t change = line->lines->change;
    int64_t found = 0;
    do {
        found = line->kind == LINE_SAMPLES ? work_samples_scan(line->lines->db, &line->samples, items, PREFETCH)
              : line->kind == LINE_SCORES ? fill_scores(line, items) : fill_targets(line);
        if (found < 0)
            return -1;
        if (line->kind != LINE_TARGETS)
            for (int64_t i = 0; i < found; i++)
                item_add(line, items[i]);
    } while (found > 0 && line->ready.count == 0);  // all of these were known
    line->drained = line->kind != LINE_TARGETS && found < PREFETCH;
    if (found == 0) {
        line->filled_change = change;
        line->filled_s = now_s;
    }
    return 0;
}

bool holds_suspect(const struct item_list *holder)
{
    return holder->first != NULL && holder->first->attempts >= ITEM_SUSPECT;
}

static bool has_share(const struct line *line, const struct item_list *holder, size_t room)
{
    size_t left = line->ready.count + line->suspects.count + line->leased;
    return !line->drained || holder->count * line->room < left * room;
}

/*
 * The next item that is ready: of samples, one of a prompt that no other worker has begun while there is one, since each worker
 * runs a prompt once for all samples of it that it gets.
 */
static struct item *next_ready(const struct line *line, const struct item_list *holder)
{
    struct item *item = line->ready.first;
    int64_t begun = 0;  // a prompt, by another
    for (int looked = 0; line->kind == LINE_SAMPLES && item != NULL && looked < PREFETCH; looked++, item = item->after) {
        if (item->key.a == begun)
            continue;
        const struct item *before = item_find(line, (struct work_item){ item->key.a, item->key.b - 1 });
        if (before == NULL || before->lease == 0 || before->list == holder)
            return item;
        begun = item->key.a;
    }
    return line->ready.first;
}

/* From a queue of its line. */
static void item_lend(struct item *item, struct item_list *holder, int64_t lease)
{
    list_take_out(item);
    lease_give(item, lease);
    list_put_last(holder, item);
}

int line_hold(struct line *line, struct item_list *holder, const struct frame_hold *hold)
{
    struct lines *lines = line->lines;
    struct work_item key;
    if (holds_suspect(holder) || lines->leased == LEASED_MAX || lines_leased(lines, hold->item, holder) != NULL)
        return 0;
    int missing = line->kind == LINE_SAMPLES ? work_samples_named(lines->db, &line->samples, hold, &key)
                : line->kind == LINE_SCORES ? work_scores_named(lines->db, &line->scores, hold, &key)
                : line->kind == LINE_TARGETS && line->plan != NULL ? work_target_named(lines->db, line->plan, hold, &key) : 0;
    if (missing <= 0)
        return missing;
    struct item *item = item_find(line, key);
    if (item == NULL) {
        item = item_add(line, key);
        item->step = hold->step;
    }
    if (item->lease == 0 && (item->attempts < ITEM_SUSPECT || holder->count == 0))
        item_lend(item, holder, hold->item);
    return 0;
}

int line_take(struct line *line, struct item_list *holder, size_t room, double now_s, struct item **item)
{
    *item = NULL;
    if (holds_suspect(holder) || line->lines->leased == LEASED_MAX || now_s < line->rests_until_s)
        return 0;
    if (line_fill(line, now_s) != 0)
        return -1;
    if (!has_share(line, holder, room))
        return 0;
    if (line->suspects.count > 0 && holder->count == 0)
        *item = line->suspects.first;
    else
        *item = next_ready(line, holder);
    if (*item != NULL)
        item_lend(*item, holder, line->lines->last_lease = line->lines->last_lease % INT_HIGH + 1);
    return 0;
}

int line_frame(struct line *line, const struct item *item, struct arena *arena, struct frame *frame)
{
    struct db *db = line->lines->db;
    int done = line->kind == LINE_SAMPLES ? work_samples_done(db, &line->samples, item->key)
             : line->kind == LINE_SCORES ? work_scores_done(db, &line->scores, item->key)
                                         : work_target_done(db, line->run, item->key);
    if (done != 0)
        return done < 0 ? -1 : 0;
    int made = line->kind == LINE_SAMPLES ? work_prompt_frame(db, item->key.a, item->key.b, arena, frame)
             : line->kind == LINE_SCORES ? work_rollout_frame(db, item->key.a, arena, frame)
             : work_scored_frame(db, item->key.b, line->plan->reward, arena, frame);
    if (made <= 0)
        return made;
    *frame_item(frame) = item->lease;
    if (line->kind == LINE_TARGETS) {
        frame->scored.run = line->plan->name;
        frame->scored.batch = item->key.a;
        frame->scored.batch_size = (int64_t)plan_batch_size(line->plan, item->key.a);
        frame->scored.batches = line->plan->batches;
        frame->scored.step = item->step;
    }
    return 1;
}

/* ---- whole batches ---- */

int line_restart(struct line *line)
{
    struct checkpoint_newest newest;
    if (checkpoint_newest(line->lines->db, line->run, "full", &newest) != 0)
        return -1;
    line->head = newest.batch;
    line->batch_count = line->batch_sent = 0;
    line->filled_change = 0;
    line->final = newest.final;
    return 0;
}

/* Gathers the rollouts of the batch that comes next.  1, 0 when some are still missing, -1. */
static int gather_batch(struct line *line)
{
    struct plan *plan = line->plan;
    struct plan_member *members = memory_alloc((size_t)plan->batch, sizeof *members);
    size_t count = plan_batch(plan, line->head, members);
    int complete = 1;
    line->batch_rollouts = memory_grow(line->batch_rollouts, (size_t)plan->batch, sizeof *line->batch_rollouts);
    line->batch_count = line->batch_sent = 0;
    for (size_t i = 0; i < count && complete > 0; i++) {
        struct work_member state;
        if (work_member(line->lines->db, plan, line->head, &members[i], &state) != 0)
            complete = -1;
        else if (state.target)
            line->batch_rollouts[line->batch_count++] = state.rollout;
        else if (!state.failed)
            complete = 0;
    }
    free(members);
    if (complete <= 0)
        line->batch_count = 0;
    return complete;
}

int line_target_frame(struct line *line, double now_s, struct arena *arena, struct frame *frame)
{
    if (line->plan == NULL)
        return 0;
    while (line->batch_sent == line->batch_count) {
        if (line->head >= line->plan->batches || line->filled_change == line->lines->change
            || now_s - line->filled_s < FILL_PAUSE_S)
            return 0;
        uint64_t change = line->lines->change;
        int gathered = gather_batch(line);
        if (gathered <= 0) {
            line->filled_change = change;
            line->filled_s = now_s;
            return gathered;
        }
        line->head++;
        line->final = line->batch_count == 0 && line->head == line->plan->batches;  // nothing left to train on
    }
    int made = work_target_frame(line->lines->db, line->plan, line->head - 1, line->batch_rollouts[line->batch_sent], arena, frame);
    if (made > 0) {
        frame->target.batch_size = (int64_t)line->batch_count;
        line->batch_sent++;
    }
    return made;
}

/* ---- counting ---- */

/* Rollouts that somebody is making of which this line will want scores. */
static int64_t count_coming(const struct line *line)
{
    int64_t coming = line->lines->sources > 0;
    for (size_t i = 0; i < line->lines->count; i++) {
        struct line *other = line->lines->lines[i];
        if (other->kind != LINE_SAMPLES || other->workers == 0
            || (line->scores.policy != 0 && other->samples.policy != line->scores.policy)
            || (line->split[0] != '\0' && strcmp(line->split, other->split) != 0))
            continue;
        int64_t missing = work_samples_count(line->lines->db, &other->samples);
        if (missing < 0)
            return -1;
        coming += missing;
    }
    return coming;
}

static int64_t count_run(struct line *line)
{
    if (line->kind == LINE_BATCHES) {
        struct checkpoint_newest newest;
        if (checkpoint_newest(line->lines->db, line->run, "full", &newest) != 0)
            return -1;
        line->final |= newest.final;
        int64_t left = line->plan != NULL ? line->plan->batches - newest.batch : 0;
        return line->final ? 0 : left > 0 ? left : 1;
    }
    line->final = line->plan != NULL && line->head >= line->plan->batches;
    if (line->final || line->plan == NULL)
        return line->plan == NULL;
    int64_t done = work_targets_count(line->lines->db, line->run);
    int64_t left = (int64_t)line->plan->count * line->plan->epochs - done;
    return done < 0 ? -1 : left > 0 ? left : 1;
}

int line_missing(struct line *line, double now_s, int64_t *missing)
{
    struct lines *lines = line->lines;
    bool run = line->kind == LINE_TARGETS || line->kind == LINE_BATCHES;
    bool unseen = !run && line->filled_change != lines->change;  // rows that nobody has looked through may hold work
    if (line->kind == LINE_SAMPLES) {
        line->counted = lines->sources > 0;
    } else if (!unseen && line->counted_change != lines->change
               && (line->counted_change == 0 || now_s - line->counted_s >= COUNT_PAUSE_S)) {
        uint64_t change = lines->change;
        int64_t counted = run ? count_run(line) : count_coming(line);
        if (counted < 0)
            return -1;
        line->counted = counted;
        line->counted_change = change;
        line->counted_s = now_s;
    }
    unseen |= line->kind == LINE_SCORES && line->counted_change != lines->change;
    *missing = line->counted + (run ? 0 : (int64_t)(line->ready.count + line->suspects.count + line->leased) + unseen);
    return 0;
}
