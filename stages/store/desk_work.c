/* desk_work.c - items and pieces of files for who has room for them, to each in turn.  See desk_parts.h. */
#define _GNU_SOURCE
#include "store/desk_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "store/checkpoint.h"
#include "store/shared.h"

enum {
    HAND_OUT_ITEMS = 16,           // to one worker before the next one's turn
    HAND_OUT_BYTES = 64 << 20,     // in one turn
    PIECES_BYTES = 4 << 20,        // of files, to one worker in one turn
};

/* Much that was sent to it has not left the store. */
static bool is_crowded(const struct desk *desk, const struct worker *worker)
{
    return desk->options.crowded != NULL && desk->options.crowded(desk->options.of, worker->peer, worker->peer_size);
}

/* ---- what workers asked for ---- */

static void answer_fetch(struct desk *desk, struct worker *worker, const struct frame_fetch *fetch, double now_s)
{
    struct frame chunk;
    int found = checkpoint_fetch(desk->db, fetch, &desk->arena, &chunk);
    if (found > 0) {
        desk_reply(desk, worker, &chunk, now_s);
    } else if (found < 0) {
        desk->failed = true;
    } else {
        char reason[STORE_REASON_BYTES];
        snprintf(reason, sizeof reason, "there is no checkpoint \"%s\" of run \"%s\", step %lld, with bytes at offset %lld",
                 fetch->kind, fetch->run, (long long)fetch->step, (long long)fetch->offset);
        desk_refuse(desk, worker->peer, worker->peer_size, 0, 0, false, reason);
    }
}

/* Answers one frame that asks. */
static void answer(struct desk *desk, struct worker *worker, const struct frame *asked, double now_s)
{
    struct frame frame;
    char reason[STORE_REASON_BYTES];
    if (asked->type == FRAME_fetch) {
        answer_fetch(desk, worker, &asked->fetch, now_s);
        return;
    }
    int found = asked->type == FRAME_find ? shared_model(desk->db, &asked->find, &desk->arena, &frame, reason)
                                          : shared_file(desk->db, &asked->read, &desk->arena, &frame, reason);
    if (found > 0)
        desk_reply(desk, worker, &frame, now_s);
    else if (found < 0)
        desk->failed = true;
    else
        desk_refuse(desk, worker->peer, worker->peer_size, 0, 0, false, reason);
}

/* What one worker asked for, first things first. */
static void answer_worker(struct desk *desk, struct worker *worker, double now_s)
{
    size_t before = desk->replies.size;
    while (worker->asked.size > 0 && desk->replies.size - before < PIECES_BYTES && !desk->failed) {
        struct frame frame;
        char reason[STORE_REASON_BYTES];
        size_t size = (size_t)frame_extent(worker->asked.data, worker->asked.size);
        arena_reset(&desk->arena);
        int decoded = frame_decode(&frame, worker->asked.data, size, &desk->arena, reason);
        CHECK(decoded == 0);  // it was read when it arrived
        worker->asked.size -= size;
        memmove(worker->asked.data, worker->asked.data + size, worker->asked.size);
        answer(desk, worker, &frame, now_s);
    }
}

/* Pieces of files are large: a few for each worker in a turn, and none while the last are still on their way. */
void desk_answer(struct desk *desk, double now_s)
{
    for (size_t i = 0; i < desk->worker_count && desk->replies.size < HAND_OUT_BYTES; i++) {
        struct worker *worker = desk->workers[(desk->turn + i) % desk->worker_count];
        if (worker->asked.size > 0 && !is_crowded(desk, worker))
            answer_worker(desk, worker, now_s);
    }
}

/* ---- items ---- */

/* What it can hold at once. */
static size_t worker_room(const struct worker *worker)
{
    return worker->held.count + (size_t)worker->want;
}

/* The next frame for this worker.  1, 0 nothing now, -1. */
static int next_frame(struct desk *desk, struct worker *worker, double now_s, struct frame *frame)
{
    struct line *line = worker->line;
    if (line->kind == LINE_BATCHES)
        return line_target_frame(line, now_s, &desk->arena, frame);
    for (;;) {
        struct item *item;
        if (line_take(line, &worker->held, worker_room(worker), now_s, &item) != 0)
            return -1;
        if (item == NULL)
            return 0;
        int made = line_frame(line, item, &desk->arena, frame);
        if (made < 0)
            item_return(item);
        if (made != 0)
            return made;
        item_done(item);  // made by somebody else meanwhile
    }
}

/* Up to HAND_OUT_ITEMS for one worker.  How many, or -1. */
static int hand_out(struct desk *desk, struct worker *worker, double now_s)
{
    int given = 0;
    while (worker->want > 0 && given < HAND_OUT_ITEMS && desk->replies.size < HAND_OUT_BYTES) {
        struct frame frame;
        arena_reset(&desk->arena);
        int made = next_frame(desk, worker, now_s, &frame);
        if (made < 0)
            return -1;
        if (made == 0)
            break;
        desk_reply(desk, worker, &frame, now_s);
        worker->want--;
        worker->told = false;
        given++;
        if (frame.type == FRAME_target && worker->line->batch_sent == worker->line->batch_count)
            rate_add(&worker->rate, 1, now_s);
    }
    return given;
}

static int tell_idle(struct desk *desk, struct worker *worker, double now_s)
{
    int64_t missing;
    if (line_missing(worker->line, now_s, &missing) != 0)
        return -1;
    bool final = worker->line->final;
    bool due = !worker->told || worker->idle_due || (missing == 0 && worker->told_missing != 0) || (final && !worker->told_final);
    worker->idle_due = false;
    if (!due)
        return 0;
    struct frame idle = frame_make(FRAME_idle);
    idle.idle.missing = worker->told_missing = missing;
    idle.idle.final = worker->told_final = final;
    worker->told = true;
    desk_reply(desk, worker, &idle, now_s);
    return 0;
}

/* Whether it may be handed something now. */
static bool can_take(const struct desk *desk, const struct worker *worker)
{
    return worker->line != NULL && worker->want > 0 && !worker->silent && !holds_suspect(&worker->held)
           && !is_crowded(desk, worker);
}

/* No share of the last items is kept for a worker that cannot take it now. */
static void count_room(struct desk *desk)
{
    for (size_t i = 0; i < desk->lines.count; i++)
        desk->lines.lines[i]->room = 0;
    for (size_t i = 0; i < desk->worker_count; i++) {
        const struct worker *worker = desk->workers[i];
        if (worker->line != NULL)
            worker->line->room += can_take(desk, worker) ? worker_room(worker) : worker->held.count;
    }
}

static int hand_out_turns(struct desk *desk, double now_s)
{
    bool more = true;
    count_room(desk);
    while (more && desk->replies.size < HAND_OUT_BYTES) {
        more = false;
        for (size_t i = 0; i < desk->worker_count; i++) {
            struct worker *worker = desk->workers[(desk->turn + i) % desk->worker_count];
            if (!can_take(desk, worker))
                continue;
            int given = hand_out(desk, worker, now_s);
            if (given < 0)
                return -1;
            more |= given > 0 && worker->want > 0;
        }
        desk->turn++;
    }
    for (size_t i = 0; !more && i < desk->worker_count; i++) {
        struct worker *worker = desk->workers[i];
        if (worker->line != NULL && worker->want > 0 && !worker->silent && tell_idle(desk, worker, now_s) != 0)
            return -1;
    }
    return 0;
}

int desk_hand_out(struct desk *desk, double now_s)
{
    int result = db_read_begin(desk->db);
    if (result == 0)
        result = hand_out_turns(desk, now_s);
    db_read_end(desk->db);
    return result;
}
