/* desk.c - see desk.h. */
#define _GNU_SOURCE
#include "store/desk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/json.h"
#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "store/checkpoint.h"
#include "store/lines.h"
#include "store/pin.h"
#include "store/put.h"
#include "store/rate.h"
#include "store/settings.h"
#include "store/shared.h"
#include "store/status.h"
#include "wire/frame.h"

enum {
    WORKERS_MAX = 1 << 14,
    WANT_MAX = 1 << 20,
    HAND_OUT_ITEMS = 16,           // to one worker before the next one's turn
    HAND_OUT_BYTES = 64 << 20,     // in one turn
    PIECES_BYTES = 4 << 20,        // of files, to one worker in one turn
    ASKED_BYTES = 16 << 10,        // of frames that ask for them
};

static const double BEAT_S = 2;

struct worker {
    void *peer;
    size_t peer_size;
    size_t at;                // in the desk's workers
    char *name;
    struct settings settings;
    struct line *line;        // NULL: takes no items
    int64_t policy, reward, run;
    int64_t want;             // items
    struct item_list held;
    double heard_s, said_s;
    bool spoke;               // since the last commit
    struct rate rate;         // of outputs, or of batches handed to train
    long long outputs;        // that were new
    int64_t effort_ms[EFFORT_COUNT], unstored_ms[EFFORT_COUNT];  // as it reported: in this conversation, and not yet stored of that
    bool taken_over;          // another train has its run
    bool told;                // that nothing can be handed out now
    bool idle_due;
    int64_t told_missing;
    bool told_final;
    int32_t *acks;            // (ack_count) outputs to acknowledge after the commit
    size_t ack_count, ack_capacity;
    struct buffer asked;      // fetch, find and read frames, until they are answered
    /* Items that went back while it was silent, in case it has vanished. */
    bool silent, blamed;
    struct work_item *lost;   // (lost_count)
    size_t lost_count;
};

struct reply {
    size_t peer_at, peer_size, at, size;  // in the buffer of replies
};

struct desk {
    struct db *db;
    struct desk_options options;
    struct lines lines;
    struct worker **workers;  // (worker_count)
    struct map by_peer;       // the same
    size_t worker_count, turn;
    struct arena arena;
    struct buffer replies;
    struct reply *index;      // (index_count)
    size_t index_count, index_capacity;
    bool failed;              // something since the last commit could not be read or written
    bool in_trouble;          // and it has been said
    bool news;                // rows were added since the last commit
    double looked_s;          // for changes by other processes
    double tokenize_s;        // when a tokenize was last here, or the desk was opened; 0: not yet known
    struct desk_counters counters;
};

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

static void reply(struct desk *desk, struct worker *worker, const struct frame *frame, double now_s)
{
    worker->said_s = now_s;
    reply_to(desk, worker->peer, worker->peer_size, frame);
}

static void beat(struct desk *desk, struct worker *worker, double now_s)
{
    struct frame frame = frame_make(FRAME_beat);
    reply(desk, worker, &frame, now_s);
}

static void refuse(struct desk *desk, const void *peer, size_t peer_size, int64_t item, int64_t output, bool fatal, const char *reason)
{
    struct frame frame = frame_make(FRAME_refusal);
    frame.refusal.item = item;
    frame.refusal.output = output;
    frame.refusal.fatal = fatal;
    frame.refusal.reason = reason;
    reply_to(desk, peer, peer_size, &frame);
    desk->counters.refused++;
    log_event("refused: %s", reason);
}

/* ---- workers ---- */

static struct worker *worker_find(const struct desk *desk, const void *peer, size_t peer_size)
{
    return map_find(&desk->by_peer, peer, peer_size);
}

/* Much that was sent to it has not left the store. */
static bool is_crowded(const struct desk *desk, const struct worker *worker)
{
    return desk->options.crowded != NULL && desk->options.crowded(desk->options.of, worker->peer, worker->peer_size);
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

static void worker_free(struct worker *worker)
{
    settings_free(&worker->settings);
    free(worker->peer);
    free(worker->name);
    free(worker->acks);
    free(worker->lost);
    free(worker->asked.data);
    free(worker);
}

static void worker_add(struct desk *desk, struct worker *worker)
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
static void worker_leave(struct desk *desk, struct worker *worker)
{
    desk->failed |= store_effort(desk, worker) != 0;
    worker_end(desk, worker);
}

static void worker_pardon(struct worker *worker)
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
            log_event("worker \"%s\" is silent stage=%s held=%zu", worker->name, stage_name(worker->settings.stage), worker->held.count);
            worker_remember_items(worker);
            worker->silent = true;
        } else if (silence_s >= BEAT_S && now_s - worker->said_s >= BEAT_S && !worker->blamed) {
            beat(desk, worker, now_s);
        }
    }
}

/* ---- hello ---- */

enum greeting { WELCOME, REFUSED, FAILED };

static enum greeting greeting_of_pin(int64_t pinned)
{
    return pinned > 0 ? WELCOME : pinned == 0 ? REFUSED : FAILED;
}

static enum greeting greet_tokenize(struct desk *desk, struct worker *worker, char *reason)
{
    const struct settings *settings = &worker->settings;
    json_t *imported = json_pack("{s:b}", "imported", 1);
    enum greeting greeting = announce_source(desk->db, settings->tokenizer) == 0 ? WELCOME : FAILED;
    if (greeting == WELCOME && settings->policy[0] != '\0')
        greeting = greeting_of_pin(worker->policy = pin_policy(desk->db, settings->policy, imported, reason));
    if (greeting == WELCOME && settings->reward[0] != '\0')
        greeting = greeting_of_pin(worker->reward = pin_reward(desk->db, settings->reward, imported, reason));
    json_decref(imported);
    return greeting;
}

static enum greeting greet_sampler(struct desk *desk, struct worker *worker, int64_t *missing, char *reason)
{
    const struct settings *settings = &worker->settings;
    if (settings->policy[0] == '\0')
        return WELCOME;
    worker->policy = pin_policy(desk->db, settings->policy, settings->spec, reason);
    if (worker->policy <= 0)
        return greeting_of_pin(worker->policy);
    char tokenizer[NAME_BYTES + 1];
    int foreign = work_split_foreign(desk->db, worker->policy, settings->split, tokenizer, sizeof tokenizer);
    if (foreign != 0) {
        snprintf(reason, STORE_REASON_BYTES, "split \"%s\" has prompts of tokenizer %s, not of the tokenizer of policy \"%s\"",
                 settings->split, tokenizer, settings->policy);
        return foreign > 0 ? REFUSED : FAILED;
    }
    if (announce_samples(desk->db, worker->policy, settings->split, settings->samples) != 0)
        return FAILED;
    worker->line = lines_samples(&desk->lines, stage_name(settings->stage), worker->policy, settings->split, settings->samples);
    *missing = work_samples_count(desk->db, &worker->line->samples);
    return *missing < 0 ? FAILED : WELCOME;
}

static enum greeting greet_reward(struct desk *desk, struct worker *worker, int64_t *missing, char *reason)
{
    const struct settings *settings = &worker->settings;
    worker->reward = pin_reward(desk->db, settings->reward, settings->spec, reason);
    if (worker->reward <= 0)
        return greeting_of_pin(worker->reward);
    int64_t policy = settings->policy[0] != '\0' ? find_policy(desk->db, settings->policy) : 0;
    worker->line = lines_scores(&desk->lines, worker->reward, settings->policy, settings->split);
    worker->line->scores.policy = policy > 0 ? policy : 0;
    *missing = policy == 0 && settings->policy[0] != '\0' ? 0 : work_scores_count(desk->db, &worker->line->scores);
    return *missing < 0 || policy < 0 ? FAILED : WELCOME;
}

/* A second train of a run takes over. */
static void take_over(struct desk *desk, const struct worker *successor)
{
    for (size_t i = 0; i < desk->worker_count; i++) {
        struct worker *worker = desk->workers[i];
        if (worker != successor && worker->settings.stage == STAGE_TRAIN && worker->run == successor->run && !worker->taken_over) {
            worker->taken_over = true;
            worker->want = 0;
        }
    }
}

static enum greeting greet_run(struct desk *desk, struct worker *worker, json_t *welcome, int64_t *missing, double now_s, char *reason)
{
    const struct settings *settings = &worker->settings;
    if (settings->run[0] == '\0')
        return WELCOME;
    bool train = settings->stage == STAGE_TRAIN;
    const char *part = train ? "train" : "target";
    int fits = plan_check(desk->db, settings->run, part, settings->part, reason);
    if (fits <= 0)
        return fits < 0 ? FAILED : REFUSED;
    worker->run = pin_run(desk->db, settings->run, part, settings->part, reason);
    if (worker->run <= 0)
        return greeting_of_pin(worker->run);
    worker->line = lines_run(&desk->lines, train ? LINE_BATCHES : LINE_TARGETS, worker->run);
    lines_changed(&desk->lines);
    if (lines_plan(&desk->lines) != 0)
        return FAILED;
    if (train) {
        struct checkpoint_newest newest;
        take_over(desk, worker);
        if (line_restart(worker->line) != 0 || checkpoint_newest(desk->db, worker->run, "full", &newest) != 0)
            return FAILED;
        json_object_set_new(welcome, "checkpoint", json_integer(newest.step));
    }
    return line_missing(worker->line, now_s, missing) == 0 ? WELCOME : FAILED;
}

static enum greeting greet(struct desk *desk, struct worker *worker, json_t *welcome, int64_t *missing, double now_s, char *reason)
{
    switch (worker->settings.stage) {
    case STAGE_TOKENIZE:
        return greet_tokenize(desk, worker, reason);
    case STAGE_ROLLOUT:
    case STAGE_DECODE:
        return greet_sampler(desk, worker, missing, reason);
    case STAGE_REWARD:
        return greet_reward(desk, worker, missing, reason);
    case STAGE_VALUE_TARGET:
    case STAGE_TRAIN:
        return greet_run(desk, worker, welcome, missing, now_s, reason);
    case STAGE_FETCH:
        return WELCOME;
    case STAGE_COUNT:
        break;
    }
    CHECK(!"settings_read gives one of the seven stages");
    return FAILED;
}

/* The worker's earlier conversations: on this connection, or on one that broke. */
static void end_earlier(struct desk *desk, const void *peer, size_t peer_size, const char *name, enum worker_stage stage)
{
    const struct worker *same = worker_find(desk, peer, peer_size);
    for (size_t i = desk->worker_count; i-- > 0; ) {
        struct worker *worker = desk->workers[i];
        if (worker == same || (worker->silent && worker->settings.stage == stage && strcmp(worker->name, name) == 0)) {
            worker_pardon(worker);
            worker_leave(desk, worker);
        }
    }
}

static void take_hello(struct desk *desk, const void *peer, size_t peer_size, const struct frame_hello *hello, double now_s)
{
    char reason[STORE_REASON_BYTES] = "";
    struct settings settings;
    if (settings_read(&settings, hello, reason) != 0) {
        refuse(desk, peer, peer_size, 0, 0, true, reason);
        settings_free(&settings);
        return;
    }
    end_earlier(desk, peer, peer_size, hello->worker, settings.stage);
    if (desk->worker_count == WORKERS_MAX) {
        snprintf(reason, sizeof reason, "the store serves %d workers already", WORKERS_MAX);
        refuse(desk, peer, peer_size, 0, 0, true, reason);
        settings_free(&settings);
        return;
    }
    struct worker *worker = memory_alloc(1, sizeof *worker);
    *worker = (struct worker){ .peer = memcpy(memory_alloc(peer_size, 1), peer, peer_size), .peer_size = peer_size,
                               .name = memory_text(hello->worker), .settings = settings, .heard_s = now_s, .spoke = true };
    rate_begin(&worker->rate, now_s);
    json_t *welcome = json_object();
    int64_t missing = 0;
    enum greeting greeting = greet(desk, worker, welcome, &missing, now_s, reason);
    if (greeting == FAILED && db_trouble(desk->db) == DB_REFUSED) {
        snprintf(reason, sizeof reason, "the store cannot hold these settings: %s", db_reason(desk->db));
        greeting = REFUSED;
    }
    if (greeting != WELCOME) {
        if (greeting == REFUSED)
            refuse(desk, peer, peer_size, 0, 0, true, reason);
        else
            desk->failed = true;
        worker_free(worker);
    } else {
        worker_add(desk, worker);
        if (worker->line != NULL)
            worker->line->workers++;
        desk->lines.sources += settings.stage == STAGE_TOKENIZE;
        lines_changed(&desk->lines);
        char *text = json_text(welcome);
        struct frame frame = frame_make(FRAME_welcome);
        frame.welcome.settings = text;
        frame.welcome.missing = missing;
        reply(desk, worker, &frame, now_s);
        free(text);
        log_event("worker \"%s\" is here stage=%s missing=%lld", worker->name, hello->stage, (long long)missing);
    }
    json_decref(welcome);
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
    enum put_status put;
    if (output > INT32_MAX) {
        snprintf(reason, sizeof reason, "field \"output\" is %lld, must be at most %d", (long long)output, INT32_MAX);
        put = PUT_REFUSED;
    } else {
        put = put_output(desk, worker, frame, reason);
    }
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
        refuse(desk, worker->peer, worker->peer_size, *frame_item(frame), output, false, reason);
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
    acknowledge(worker, output <= INT32_MAX ? output : 0);
    if (item == NULL)
        return;
    log_event("worker \"%s\" could not do an item stage=%s: %s", worker->name, stage_name(worker->settings.stage), reason);
    fail_item(desk, item, reason);
}

static void answer_fetch(struct desk *desk, struct worker *worker, const struct frame_fetch *fetch, double now_s)
{
    struct frame chunk;
    int found = checkpoint_fetch(desk->db, fetch, &desk->arena, &chunk);
    if (found > 0) {
        reply(desk, worker, &chunk, now_s);
    } else if (found < 0) {
        desk->failed = true;
    } else {
        char reason[STORE_REASON_BYTES];
        snprintf(reason, sizeof reason, "there is no checkpoint \"%s\" of run \"%s\", step %lld, with bytes at offset %lld", fetch->kind,
                 fetch->run, (long long)fetch->step, (long long)fetch->offset);
        refuse(desk, worker->peer, worker->peer_size, 0, 0, false, reason);
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
        reply(desk, worker, &frame, now_s);
    else if (found < 0)
        desk->failed = true;
    else
        refuse(desk, worker->peer, worker->peer_size, 0, 0, false, reason);
}

/* Answers come when the worker has read what was sent before.  Of fetches the last one counts. */
static void take_question(struct desk *desk, struct worker *worker, const struct frame *frame)
{
    if (frame->type == FRAME_fetch)
        worker->asked.size = 0;
    if (worker->asked.size < ASKED_BYTES)
        frame_encode(frame, &worker->asked);
    else
        refuse(desk, worker->peer, worker->peer_size, 0, 0, false, "this worker asks for more pieces than it reads");
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
        refuse(desk, worker->peer, worker->peer_size, 0, 0, true, reason);
        worker_leave(desk, worker);
        return;
    }
    switch (frame->type) {
    case FRAME_want:
        worker->want = worker->want + frame->want.count < WANT_MAX ? worker->want + frame->want.count : WANT_MAX;
        worker->told = false;
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
        refuse(desk, worker->peer, worker->peer_size, 0, 0, false, reason);
    }
}

static void take_ask(struct desk *desk, const void *peer, size_t peer_size, double now_s)
{
    json_t *status = status_read(desk->db, desk, now_s);
    if (status == NULL) {
        desk->failed = true;
        return;
    }
    char *text = json_text(status);
    if (strlen(text) > TEXT_BYTES) {
        free(text);
        json_array_clear(json_object_get(status, "workers"));
        text = json_text(status);
    }
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
    if (frame_decode(&frame, data, size, &desk->arena, reason) != 0) {
        refuse(desk, peer, peer_size, 0, 0, false, reason);
        return false;
    }
    if (frame.type == FRAME_hello) {
        take_hello(desk, peer, peer_size, &frame.hello, now_s);
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
    for (size_t i = 0; i < desk->worker_count; i++) {
        struct worker *worker = desk->workers[i];
        worker->spoke = false;
        if (worker->ack_count == 0)
            continue;
        struct frame ack = frame_make(FRAME_ack);
        ack.ack.outputs = (struct tokens){ worker->acks, worker->ack_count };
        reply(desk, worker, &ack, now_s);
        worker->ack_count = 0;
    }
    return DESK_FINE;
}

/* ---- work ---- */

/* The next frame for this worker.  1, 0 nothing now, -1. */
static int next_frame(struct desk *desk, struct worker *worker, double now_s, struct frame *frame)
{
    struct line *line = worker->line;
    if (line->kind == LINE_BATCHES)
        return line_target_frame(line, now_s, &desk->arena, frame);
    for (;;) {
        struct item *item;
        if (line_take(line, &worker->held, now_s, &item) != 0)
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
        reply(desk, worker, &frame, now_s);
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
    reply(desk, worker, &idle, now_s);
    return 0;
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
static void answer_workers(struct desk *desk, double now_s)
{
    for (size_t i = 0; i < desk->worker_count && desk->replies.size < HAND_OUT_BYTES; i++) {
        struct worker *worker = desk->workers[(desk->turn + i) % desk->worker_count];
        if (worker->asked.size > 0 && !is_crowded(desk, worker))
            answer_worker(desk, worker, now_s);
    }
}

static int hand_out_turns(struct desk *desk, double now_s)
{
    bool more = true;
    while (more && desk->replies.size < HAND_OUT_BYTES) {
        more = false;
        for (size_t i = 0; i < desk->worker_count; i++) {
            struct worker *worker = desk->workers[(desk->turn + i) % desk->worker_count];
            if (worker->line == NULL || worker->want == 0 || worker->silent || is_crowded(desk, worker))
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

static int hand_out_all(struct desk *desk, double now_s)
{
    int result = db_read_begin(desk->db);
    if (result == 0)
        result = hand_out_turns(desk, now_s);
    db_read_end(desk->db);
    return result;
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
        if (db_changed(desk->db))
            lines_rescan(&desk->lines);
    }
    answer_workers(desk, now_s);
    if (desk->failed || lines_plan(&desk->lines) != 0 || hand_out_all(desk, now_s) != 0 || db_commit(desk->db) != 0)
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
    struct desk_worker seen = { .name = worker->name, .stage = stage_name(settings->stage), .key = settings_name(settings), .split = settings->split,
                                .held = worker->held.count, .outputs = worker->outputs, .per_s = rate_per_s(&worker->rate, now_s),
                                .silent_s = now_s - worker->heard_s };
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
