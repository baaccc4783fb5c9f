/* desk.c - takes the frames of workers, and knows who is here.  See desk.h and desk_parts.h. */
#define _GNU_SOURCE
#include "store/desk_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "store/checkpoint.h"
#include "store/pin.h"
#include "store/put.h"
#include "store/status.h"

enum {
    WANT_MAX = 1 << 20,
    ASKED_BYTES = 16 << 10,        // of frames that ask for pieces of files
};

static const double BEAT_S = 2;

static double wall_s(void)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    return (double)now.tv_sec + 1e-6 * (double)now.tv_usec;
}

/* ---- replies ---- */

static void reply_to(struct desk *desk, const void *peer, size_t peer_size, const struct frame *frame)
{
    struct reply reply = { .peer_at = desk->replies.size, .peer_size = peer_size };
    buffer_append(&desk->replies, peer, peer_size);
    reply.at = desk->replies.size;
    frame_encode(frame, &desk->replies);
    reply.size = desk->replies.size - reply.at;
    if (desk->index_count == desk->index_capacity) {
        desk->index_capacity = desk->index_capacity ? 2 * desk->index_capacity : 256;
        desk->index = memory_grow(desk->index, desk->index_capacity, sizeof *desk->index);
    }
    desk->index[desk->index_count++] = reply;
}

void desk_reply(struct desk *desk, struct worker *worker, const struct frame *frame, double now_s)
{
    worker->said_s = now_s;
    reply_to(desk, worker->peer, worker->peer_size, frame);
}

static void beat(struct desk *desk, struct worker *worker, double now_s)
{
    struct frame frame = frame_make(FRAME_beat);
    desk_reply(desk, worker, &frame, now_s);
}

/* Makes a reason what a frame can carry: texts of others may have been cut in it inside a character. */
static void reason_mend(char *reason)
{
    while (*(reason += utf8_valid_prefix(reason, strlen(reason))) != '\0')
        *reason = '?';
}

void desk_refuse(struct desk *desk, const void *peer, size_t peer_size, int64_t item, int64_t output, bool fatal,
                 const char *reason)
{
    char text[STORE_REASON_BYTES];
    struct frame frame = frame_make(FRAME_refusal);
    snprintf(text, sizeof text, "%s", reason);
    reason_mend(text);
    frame.refusal.item = item;
    frame.refusal.output = output;
    frame.refusal.fatal = fatal;
    frame.refusal.reason = text;
    reply_to(desk, peer, peer_size, &frame);
    desk->counters.refused++;
    log_event("refused: %s", text);
}

/* ---- workers ---- */

struct worker *worker_find(const struct desk *desk, const void *peer, size_t peer_size)
{
    return map_find(&desk->by_peer, peer, peer_size);
}

/* What it holds goes back to its line, last item first, so that the order stays. */
static void worker_return_items(struct worker *worker)
{
    while (worker->held.last != NULL)
        item_return(worker->held.last);
}

static void worker_remember_items(struct worker *worker)
{
    if (worker->held.count == 0)
        return;
    worker->lost = memory_grow(worker->lost, worker->lost_count + worker->held.count, sizeof *worker->lost);
    for (const struct item *item = worker->held.first; item != NULL; item = item->after)
        worker->lost[worker->lost_count++] = item->key;
    worker_return_items(worker);
}

void worker_free(struct worker *worker)
{
    settings_free(&worker->settings);
    free(worker->peer);
    free(worker->name);
    free(worker->acks);
    free(worker->lost);
    free(worker->asked.data);
    free(worker);
}

void worker_add(struct desk *desk, struct worker *worker)
{
    worker->at = desk->worker_count;
    desk->workers = memory_grow(desk->workers, desk->worker_count + 1, sizeof *desk->workers);
    desk->workers[desk->worker_count++] = worker;
    map_add(&desk->by_peer, worker->peer, worker->peer_size, worker);
}

/* Forgets a conversation: what it held is offered to others, and nothing is held against anything. */
static void worker_end(struct desk *desk, struct worker *worker)
{
    worker_return_items(worker);
    if (worker->line != NULL)
        worker->line->workers--;
    if (worker->settings.stage == STAGE_TOKENIZE)
        desk->lines.sources--;
    lines_changed(&desk->lines);
    struct worker *last = desk->workers[--desk->worker_count];
    desk->workers[worker->at] = last;
    last->at = worker->at;
    map_remove(&desk->by_peer, worker->peer, worker->peer_size);
    worker_free(worker);
}

/* In the transaction of other rows, so that idle workers cause none.  0 or -1. */
static int store_effort(struct desk *desk, struct worker *worker)
{
    int64_t sum = 0;
    for (int i = 0; i < EFFORT_COUNT; i++)
        sum += worker->unstored_ms[i];
    if (sum == 0)
        return 0;
    int put = put_effort(desk->db, stage_name(worker->settings.stage), settings_name(&worker->settings), worker->unstored_ms);
    memset(worker->unstored_ms, 0, sizeof worker->unstored_ms);
    return put;
}

/* The end of a conversation in which nothing went wrong with the store. */
void worker_leave(struct desk *desk, struct worker *worker)
{
    desk->failed |= store_effort(desk, worker) != 0;
    worker_end(desk, worker);
}

void worker_pardon(struct worker *worker)
{
    for (size_t i = 0; worker->blamed && i < worker->lost_count; i++)
        line_pardon(worker->line, worker->lost[i]);
    worker->blamed = worker->silent = false;
    worker->lost_count = 0;
}

static void worker_blame(struct desk *desk, struct worker *worker)
{
    for (size_t i = 0; !worker->blamed && i < worker->lost_count; i++)
        if (line_blame(worker->line, worker->lost[i], "its worker vanished while holding it", wall_s()) != 0)
            desk->failed = true;
    worker->blamed = true;
}

void desk_unreachable(struct desk *desk, const void *peer, size_t peer_size, double now_s)
{
    struct worker *worker = worker_find(desk, peer, peer_size);
    if (worker == NULL || worker->blamed)
        return;
    log_event("worker \"%s\" is gone stage=%s held=%zu silent_s=%.1f", worker->name, stage_name(worker->settings.stage),
              worker->held.count, now_s - worker->heard_s);
    worker_remember_items(worker);
    worker->silent = true;
    worker->want = 0;
    worker->asked.size = 0;
    worker_blame(desk, worker);
}

/* Beats to the quiet; items of the silent go back; the vanished are forgotten. */
static void watch_silence(struct desk *desk, double now_s)
{
    for (size_t i = desk->worker_count; i-- > 0; ) {
        struct worker *worker = desk->workers[i];
        double silence_s = now_s - worker->heard_s;
        if (silence_s >= desk->options.lease_s) {
            worker_remember_items(worker);
            worker_blame(desk, worker);
            worker_leave(desk, worker);
        } else if (silence_s >= desk->options.silent_s && !worker->silent) {
            log_event("worker \"%s\" is silent stage=%s held=%zu", worker->name, stage_name(worker->settings.stage),
                      worker->held.count);
            worker_remember_items(worker);
            worker->silent = true;
        } else if (silence_s >= BEAT_S && now_s - worker->said_s >= BEAT_S && !worker->blamed) {
            beat(desk, worker, now_s);
        }
    }
}

/* ---- outputs ---- */

/* One of the names in a frame is not what its sender announced. */
static bool names_other(const char *field, const char *name, const char *announced, char *reason)
{
    if (strcmp(name, announced) == 0)
        return false;
    snprintf(reason, STORE_REASON_BYTES, "field \"%s\" is \"%s\", this worker announced \"%s\"", field, name, announced);
    return true;
}

static enum put_status put_output(struct desk *desk, struct worker *worker, const struct frame *frame, char *reason)
{
    const struct settings *settings = &worker->settings;
    bool tokenize = settings->stage == STAGE_TOKENIZE;
    bool sampler = worker->policy != 0 && settings->stage != STAGE_REWARD;
    if (frame->type == FRAME_prompt && tokenize)
        return names_other("tokenizer", frame->prompt.tokenizer, settings->tokenizer, reason)
               ? PUT_REFUSED : put_prompt(desk->db, &frame->prompt, reason);
    if (frame->type == FRAME_rollout && sampler)
        return names_other("policy", frame->rollout.policy, settings->policy, reason)
               ? PUT_REFUSED : put_rollout(desk->db, &frame->rollout, worker->policy, reason);
    if (frame->type == FRAME_scored && worker->reward != 0)
        return names_other("reward", frame->scored.reward, settings->reward, reason)
               ? PUT_REFUSED : put_score(desk->db, &frame->scored, worker->reward, reason);
    if (frame->type == FRAME_target && settings->stage == STAGE_VALUE_TARGET && worker->run != 0) {
        if (names_other("run", frame->target.run, settings->run, reason))
            return PUT_REFUSED;
        struct plan *plan = lines_find_plan(&desk->lines, worker->run);
        if (plan != NULL)
            return put_target(desk->db, &frame->target, plan, reason);
        snprintf(reason, STORE_REASON_BYTES, "run \"%s\" is not planned yet", settings->run);
        return PUT_REFUSED;
    }
    if (frame->type == FRAME_checkpoint && settings->stage == STAGE_TRAIN && worker->run != 0)
        return names_other("run", frame->checkpoint.run, settings->run, reason)
               ? PUT_REFUSED : checkpoint_put(desk->db, &frame->checkpoint, worker->run, desk->options.keep_weights, reason);
    if (frame->type == FRAME_metric && (worker->run != 0 || sampler))
        return put_metric(desk->db, &frame->metric, wall_s(), reason);
    snprintf(reason, STORE_REASON_BYTES, "stage \"%s\" with these settings does not send %s frames", stage_name(settings->stage),
             frame_type_name(frame->type));
    return PUT_REFUSED;
}

static void acknowledge(struct worker *worker, int64_t output)
{
    if (output == 0)
        return;
    if (worker->ack_count == worker->ack_capacity) {
        worker->ack_capacity = worker->ack_capacity ? 2 * worker->ack_capacity : 64;
        worker->acks = memory_grow(worker->acks, worker->ack_capacity, sizeof *worker->acks);
    }
    worker->acks[worker->ack_count++] = (int32_t)output;
}

/* An item that its worker could not do, or did wrong. */
static void fail_item(struct desk *desk, struct item *item, const char *reason)
{
    struct line *line = item->line;
    struct work_item key = item->key;
    item_return(item);
    if (line_blame(line, key, reason, wall_s()) != 0)
        desk->failed = true;
    lines_changed(&desk->lines);
}

static void take_output(struct desk *desk, struct worker *worker, struct frame *frame, double now_s)
{
    char reason[STORE_REASON_BYTES];
    int64_t output = *frame_output(frame);
    struct item *item = lines_leased(&desk->lines, *frame_item(frame), &worker->held);
    enum put_status put = put_output(desk, worker, frame, reason);
    switch (put) {
    case PUT_NEW:
    case PUT_HAD:
        desk->counters.stored += put == PUT_NEW;
        desk->counters.duplicates += put == PUT_HAD;
        desk->news |= put == PUT_NEW;
        worker->outputs += put == PUT_NEW;
        if (put == PUT_NEW && worker->settings.stage != STAGE_TRAIN)
            rate_add(&worker->rate, 1, now_s);
        acknowledge(worker, output);
        if (item != NULL)
            item_done(item);
        break;
    case PUT_REFUSED:
        reason_mend(reason);
        desk_refuse(desk, worker->peer, worker->peer_size, *frame_item(frame), output, false, reason);
        if (item != NULL)
            fail_item(desk, item, reason);
        break;
    case PUT_FAILED:
        desk->failed = true;
    }
}

static void take_failed(struct desk *desk, struct worker *worker, int64_t lease, int64_t output, const char *reason)
{
    struct item *item = lines_leased(&desk->lines, lease, &worker->held);
    acknowledge(worker, output);
    if (item == NULL)
        return;
    log_event("worker \"%s\" could not do an item stage=%s: %s", worker->name, stage_name(worker->settings.stage), reason);
    fail_item(desk, item, reason);
}

/* Answers come when the worker has read what was sent before.  Of fetches the last one counts. */
static void take_question(struct desk *desk, struct worker *worker, const struct frame *frame)
{
    if (frame->type == FRAME_fetch)
        worker->asked.size = 0;
    if (worker->asked.size < ASKED_BYTES)
        frame_encode(frame, &worker->asked);
    else
        desk_refuse(desk, worker->peer, worker->peer_size, 0, 0, false, "this worker asks for more pieces than it reads");
}

static void take_effort(struct worker *worker, const int64_t ms[EFFORT_COUNT])
{
    for (int i = 0; i < EFFORT_COUNT; i++) {
        worker->effort_ms[i] += ms[i];
        worker->unstored_ms[i] += ms[i];
    }
}

/* ---- frames ---- */

static void take_bye(struct desk *desk, struct worker *worker)
{
    log_event("worker \"%s\" left stage=%s", worker->name, stage_name(worker->settings.stage));
    const char *tokenizer = worker->settings.tokenizer;
    bool alone = worker->settings.stage == STAGE_TOKENIZE;
    for (size_t i = 0; i < desk->worker_count; i++)
        if (desk->workers[i] != worker && strcmp(desk->workers[i]->settings.tokenizer, tokenizer) == 0)
            alone = false;
    if (alone && announce_source_ended(desk->db, tokenizer) != 0) {
        desk->failed = true;
        return;
    }
    desk->news |= alone;
    worker_leave(desk, worker);
}

static void take_known(struct desk *desk, struct worker *worker, struct frame *frame, double now_s)
{
    char reason[STORE_REASON_BYTES];
    if (worker->blamed && frame->type != FRAME_bye) {  // frames to it were lost: it must not wait for them
        struct frame stranger = frame_make(FRAME_stranger);
        reply_to(desk, worker->peer, worker->peer_size, &stranger);
        return;
    }
    worker->heard_s = now_s;
    worker->spoke = true;
    if (worker->silent)
        worker_pardon(worker);
    if (worker->taken_over) {
        snprintf(reason, sizeof reason, "another train worker has taken over run \"%s\"", worker->settings.run);
        desk_refuse(desk, worker->peer, worker->peer_size, 0, 0, true, reason);
        worker_leave(desk, worker);
        return;
    }
    switch (frame->type) {
    case FRAME_want:
        worker->want = worker->want + frame->want.count < WANT_MAX ? worker->want + frame->want.count : WANT_MAX;
        worker->told = false;
        return;
    case FRAME_hold:
        if (worker->line != NULL && line_hold(worker->line, &worker->held, &frame->hold) != 0)
            desk->failed = true;
        return;
    case FRAME_beat:
        take_effort(worker, (int64_t[]){ [EFFORT_COMPUTE] = frame->beat.compute_ms, [EFFORT_WAIT] = frame->beat.wait_ms,
                                         [EFFORT_WIRE] = frame->beat.wire_ms, [EFFORT_OTHER] = frame->beat.other_ms });
        beat(desk, worker, now_s);
        worker->idle_due = true;
        return;
    case FRAME_fetch: case FRAME_find: case FRAME_read:
        take_question(desk, worker, frame);
        return;
    case FRAME_bye:
        take_effort(worker, (int64_t[]){ [EFFORT_COMPUTE] = frame->bye.compute_ms, [EFFORT_WAIT] = frame->bye.wait_ms,
                                         [EFFORT_WIRE] = frame->bye.wire_ms, [EFFORT_OTHER] = frame->bye.other_ms });
        take_bye(desk, worker);
        return;
    case FRAME_failed:
        take_failed(desk, worker, frame->failed.item, frame->failed.output, frame->failed.reason);
        return;
    case FRAME_refusal:
        take_failed(desk, worker, frame->refusal.item, 0, frame->refusal.reason);
        return;
    case FRAME_prompt: case FRAME_rollout: case FRAME_scored: case FRAME_target: case FRAME_checkpoint: case FRAME_metric:
        take_output(desk, worker, frame, now_s);
        return;
    default:
        snprintf(reason, sizeof reason, "a worker does not send %s frames", frame_type_name(frame->type));
        desk_refuse(desk, worker->peer, worker->peer_size, 0, 0, false, reason);
    }
}

/* As text of at most TEXT_BYTES: lists that a frame has no room for are emptied, what is longest as a rule first.  The caller frees. */
static char *status_text(json_t *status)
{
    static const char *const lists[] = { "workers", "failures", "stages", "efforts" };
    char *text = json_text(status);
    for (size_t i = 0; i < COUNT_OF(lists) && strlen(text) > TEXT_BYTES; i++) {
        free(text);
        json_array_clear(json_object_get(status, lists[i]));
        text = json_text(status);
        log_event("a frame has no room for the status: sent without its %s", lists[i]);
    }
    return text;
}

static void take_ask(struct desk *desk, const void *peer, size_t peer_size, double now_s)
{
    json_t *status = status_read(desk->db, desk, now_s);
    if (status == NULL) {
        desk->failed = true;
        return;
    }
    char *text = status_text(status);
    struct frame frame = frame_make(FRAME_status);
    frame.status.status = text;
    reply_to(desk, peer, peer_size, &frame);
    free(text);
    json_decref(status);
}

bool desk_take(struct desk *desk, const void *peer, size_t peer_size, const void *data, size_t size, double now_s)
{
    struct frame frame;
    char reason[STORE_REASON_BYTES];
    struct worker *worker = worker_find(desk, peer, peer_size);
    arena_reset(&desk->arena);
    desk->counters.taken++;
    if (desk->opened_s == 0)
        desk->opened_s = now_s;
    if (frame_decode(&frame, data, size, &desk->arena, reason) != 0) {
        desk_refuse(desk, peer, peer_size, 0, 0, false, reason);
        return false;
    }
    if (frame.type == FRAME_hello) {
        desk_greet(desk, peer, peer_size, &frame.hello, now_s);
    } else if (frame.type == FRAME_ask) {
        take_ask(desk, peer, peer_size, now_s);
    } else if (worker != NULL) {
        take_known(desk, worker, &frame, now_s);
    } else if (frame.type != FRAME_bye) {
        struct frame stranger = frame_make(FRAME_stranger);
        reply_to(desk, peer, peer_size, &stranger);
    }
    return true;
}

/* Rolls back, and forgets every conversation that took part: it begins anew with what was not acknowledged. */
static enum desk_status give_back(struct desk *desk)
{
    enum db_trouble trouble = db_trouble(desk->db);
    if (!desk->in_trouble || trouble == DB_BROKEN)
        log_error("could not write store \"%s\": %s", db_path(desk->db), db_reason(desk->db));
    if (!desk->in_trouble && trouble != DB_BROKEN)
        log_hint("nothing is lost: outputs stay with the workers until the store can be written");
    desk->in_trouble = true;
    desk->failed = desk->news = false;
    desk->counters.stored = desk->committed.stored;
    desk->counters.duplicates = desk->committed.duplicates;
    db_rollback(desk->db);
    for (size_t i = desk->worker_count; i-- > 0; )
        if (desk->workers[i]->spoke)
            worker_end(desk, desk->workers[i]);
    lines_rescan(&desk->lines);
    return trouble == DB_BROKEN ? DESK_BROKEN : DESK_LATER;
}

enum desk_status desk_commit(struct desk *desk, double now_s)
{
    bool wrote = db_writing(desk->db);
    for (size_t i = 0; wrote && i < desk->worker_count; i++)
        desk->failed |= store_effort(desk, desk->workers[i]) != 0;
    if (desk->failed || db_commit(desk->db) != 0) {
        desk_sent(desk);
        return give_back(desk);
    }
    if (wrote && desk->in_trouble) {
        desk->in_trouble = false;
        log_event("store \"%s\" can be written again", db_path(desk->db));
    }
    if (desk->news)
        lines_changed(&desk->lines);
    desk->news = false;
    desk->committed = desk->counters;
    for (size_t i = 0; i < desk->worker_count; i++) {
        struct worker *worker = desk->workers[i];
        worker->spoke = false;
        if (!worker->welcomed && !desk->in_trouble) {
            log_event("worker \"%s\" is here stage=%s missing=%lld", worker->name, stage_name(worker->settings.stage),
                      (long long)worker->missing_at_first);
            worker->welcomed = true;
        }
        if (worker->ack_count == 0)
            continue;
        struct frame ack = frame_make(FRAME_ack);
        ack.ack.outputs = (struct tokens){ worker->acks, worker->ack_count };
        desk_reply(desk, worker, &ack, now_s);
        worker->ack_count = 0;
    }
    return DESK_FINE;
}

/* ---- one turn ---- */

void desk_look(struct desk *desk)
{
    if (db_changed(desk->db))
        lines_rescan(&desk->lines);
}

/* A tokenize that vanished for good must not keep runs from being planned. */
static void watch_sources(struct desk *desk, double now_s)
{
    if (desk->lines.sources > 0 || desk->tokenize_s == 0)
        desk->tokenize_s = now_s;
    if (now_s - desk->tokenize_s < desk->options.lease_s)
        return;
    desk->tokenize_s = now_s;
    int64_t vanished = announce_sources_vanished(desk->db);
    desk->failed |= vanished < 0;
    if (vanished > 0) {
        log_event("a tokenize began and never ended: going on with the prompts that are stored");
        lines_changed(&desk->lines);
    }
}

enum desk_status desk_turn(struct desk *desk, double now_s)
{
    watch_silence(desk, now_s);
    watch_sources(desk, now_s);
    if (now_s - desk->looked_s >= 1) {
        desk->looked_s = now_s;
        desk_look(desk);
    }
    desk_answer(desk, now_s);
    if (desk->failed || lines_plan(&desk->lines) != 0 || desk_hand_out(desk, now_s) != 0 || db_commit(desk->db) != 0)
        return give_back(desk);
    return DESK_FINE;
}

/* ---- the rest ---- */

size_t desk_parcel_count(const struct desk *desk)
{
    return desk->index_count;
}

struct parcel desk_parcel(const struct desk *desk, size_t i)
{
    CHECK(i < desk->index_count);
    const struct reply *at = &desk->index[i];
    return (struct parcel){ desk->replies.data + at->peer_at, at->peer_size, desk->replies.data + at->at, at->size };
}

void desk_sent(struct desk *desk)
{
    desk->replies.size = 0;
    desk->index_count = 0;
}

size_t desk_parcel_bytes(const struct desk *desk)
{
    return desk->replies.size;
}

bool desk_waits(const struct desk *desk)
{
    for (size_t i = 0; i < desk->worker_count; i++)
        if ((desk->workers[i]->line != NULL && desk->workers[i]->want > 0) || desk->workers[i]->asked.size > 0)
            return true;
    return false;
}

size_t desk_worker_count(const struct desk *desk)
{
    return desk->worker_count;
}

struct desk_worker desk_worker(const struct desk *desk, size_t i, double now_s)
{
    CHECK(i < desk->worker_count);
    const struct worker *worker = desk->workers[i];
    const struct settings *settings = &worker->settings;
    struct desk_worker seen = { .name = worker->name, .stage = stage_name(settings->stage), .key = settings_name(settings),
                                .split = settings->split, .held = worker->held.count, .outputs = worker->outputs,
                                .per_s = rate_per_s(&worker->rate, now_s), .silent_s = now_s - worker->heard_s };
    for (int k = 0; k < EFFORT_COUNT; k++) {
        seen.seconds[k] = 1e-3 * (double)worker->effort_ms[k];
        seen.unstored[k] = 1e-3 * (double)worker->unstored_ms[k];
    }
    return seen;
}

struct desk_counters desk_count(const struct desk *desk)
{
    struct desk_counters counters = desk->counters;
    counters.workers = desk->worker_count;
    for (size_t i = 0; i < desk->lines.count; i++)
        counters.leased += desk->lines.lines[i]->leased;
    return counters;
}

struct desk *desk_open(struct db *db, const struct desk_options *options)
{
    struct desk *desk = memory_alloc(1, sizeof *desk);
    desk->db = db;
    desk->options = *options;
    lines_open(&desk->lines, db);
    arena_init(&desk->arena, "frame", 4 * (size_t)FRAME_SIZE_MAX);
    return desk;
}

void desk_close(struct desk *desk)
{
    if (desk == NULL)
        return;
    for (size_t i = 0; i < desk->worker_count; i++)
        worker_free(desk->workers[i]);
    lines_close(&desk->lines);
    arena_free(&desk->arena);
    free(desk->workers);
    map_free(&desk->by_peer);
    free(desk->replies.data);
    free(desk->index);
    free(desk);
}
