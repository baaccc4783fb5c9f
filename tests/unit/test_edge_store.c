/*
 * test_edge_store.c - an edge as the worker of a small real store: a thread with a ROUTER that speaks the protocol of
 * schemas/README.md and misbehaves as told.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/effort.h"
#include "base/memory.h"
#include "base/progress.h"
#include "../check.h"
#include "wire/edge_parts.h"
#include "wire/outputs.h"
#include "wire/remote_model.h"

enum { ITEMS_MAX = 4000, HOLD_MAX = 32 };

static const struct edge_times quick = { .beat = 0.05, .lost = 0.3, .open = 1.0, .give_up = 1.5, .stop = 0.3 };

/* The store: what it is to do, what it saw.  One worker at a time. */
static struct hub {
    int items;              // outputs that are missing at first
    bool targets;           // items are targets in batches of 8, without leases
    int restart_every;      // outputs after which it forgets everything but what is stored
    bool restart_once;
    int lose_acks;          // so many acks are never sent
    int stall_after;        // outputs after which it says nothing for stall_s
    double stall_s;
    bool vanish;            // for good, instead
    int refuse_output;      // this item's output is refused; -1: none
    const char *refuse_hello;
    int fatal_after;        // outputs
    bool reads_holds;
    bool final;             // idle says that nothing can be missing again
    const char *checkpoint; // that fetch finds
    size_t checkpoint_size;
    int replacements;       // so many times a second piece is refused, since a newer checkpoint is there
    bool wrong_digest;

    char endpoint[64];
    pthread_t thread;
    void *context, *socket;
    volatile bool ends;
    int64_t told_ms[EFFORT_COUNT];  // by beats and byes

    unsigned char worker[64];
    size_t worker_size;     // 0: knows nobody
    int credit, held, outputs, repeated, hellos, byes, failures, beats, incarnation, unacked_seen;
    bool leased[ITEMS_MAX], stored[ITEMS_MAX];
    bool wanted_too_much, wrong_lease, acked_any;
    int64_t named[ITEMS_MAX];  // leases that hold frames named in this incarnation; 0: none
    int holds;
    bool wanted_before_holds;
    struct buffer received; // of a checkpoint
    const char *refuse_kind; // of checkpoints; NULL: none
    int pieces_sent, pieces_until_restart;
    int64_t read_ahead_max; // highest offset that was asked for
    const char *files;      // that every model has; NULL: none
    double silent_until_s;
} hub;

/* ---- the store's side ---- */

static void hub_send(struct frame frame)
{
    struct buffer bytes = { 0 };
    frame_encode(&frame, &bytes);
    if (zmq_send(hub.socket, hub.worker, hub.worker_size, ZMQ_SNDMORE) >= 0)
        zmq_send(hub.socket, bytes.data, bytes.size, 0);
    free(bytes.data);
}

static void hub_bind(void)
{
    int linger_ms = 0, mandatory = 1;
    hub.socket = zmq_socket(hub.context, ZMQ_ROUTER);
    zmq_setsockopt(hub.socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(hub.socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory);
    for (int tries = 0; zmq_bind(hub.socket, hub.endpoint) != 0 && tries < 100; tries++)
        usleep(10000);
}

static void hub_forget(void)
{
    hub.credit = hub.held = 0;
    memset(hub.leased, 0, sizeof hub.leased);
    memset(hub.named, 0, sizeof hub.named);
}

static void hub_restart(void)
{
    zmq_close(hub.socket);
    hub.worker_size = 0;
    hub.incarnation++;
    hub_forget();
    hub_bind();
}

/* Leases of different incarnations have the same numbers for different items. */
static int64_t lease_of(int index)
{
    return 1 + (index + hub.incarnation * 7) % hub.items;
}

static int missing_count(void)
{
    int missing = 0;
    for (int i = 0; i < hub.items; i++)
        missing += !hub.stored[i];
    return missing;
}

static struct frame make_item(int index)
{
    static const int32_t tokens[] = { 1, 2, 3 };
    static const float values[] = { 0.5f };
    struct frame frame = frame_make(hub.targets ? FRAME_target : FRAME_prompt);
    struct frame_target *target = &frame.target;
    target->item = hub.targets ? 0 : lease_of(index);
    target->prompt_key = "key";
    target->tokenizer = "tokenizer";
    target->split = "train";
    target->prompt = "Once";
    target->prompt_tokens = (struct tokens){ tokens, 3 };
    target->sample = index;
    if (hub.targets) {
        target->policy = target->reward = "name";
        target->response = "upon";
        target->response_tokens = (struct tokens){ tokens, 1 };
        target->score = 1;
        target->targets = (struct floats){ values, 1 };
        target->batch = index / 8;
        target->batch_size = index / 8 == hub.items / 8 ? hub.items % 8 : 8;
    }
    return frame;
}

static void hub_hand_out(void)
{
    int sent = 0;
    for (int i = 0; i < hub.items && hub.credit > 0; i++) {
        if (hub.stored[i] || hub.leased[i])
            continue;
        hub.leased[i] = true;
        hub.credit--;
        hub.held += !hub.targets;
        hub_send(make_item(i));
        sent++;
    }
    if (hub.credit > 0 && sent == 0) {
        struct frame idle = frame_make(FRAME_idle);
        idle.idle.missing = hub.targets ? 0 : missing_count();
        idle.idle.final = hub.final;
        hub_send(idle);
    }
}

static void hub_ack(int64_t output)
{
    if (hub.lose_acks > 0) {
        hub.lose_acks--;
        return;
    }
    hub.acked_any = true;
    struct frame frame = frame_make(FRAME_ack);
    int32_t number = (int32_t)output;
    frame.ack.outputs = (struct tokens){ &number, 1 };
    hub_send(frame);
}

static void hub_refuse(int64_t output, const char *reason, bool fatal)
{
    struct frame frame = frame_make(FRAME_refusal);
    frame.refusal.output = output;
    frame.refusal.reason = reason;
    frame.refusal.fatal = fatal;
    hub_send(frame);
}

static void hub_take_rollout(const struct frame_rollout *rollout)
{
    int index = (int)rollout->sample;
    if (hub.named[index] != 0 ? rollout->item != hub.named[index] : rollout->item != 0 && rollout->item != lease_of(index))
        hub.wrong_lease = true;
    if (rollout->item != 0 && hub.leased[index]) {
        hub.leased[index] = false;
        hub.held--;
    }
    hub.outputs++;
    hub.unacked_seen += !hub.acked_any;
    if (index == hub.refuse_output) {
        hub.refuse_output = -1;
        hub.stored[index] = true;
        hub_refuse(rollout->output, "field \"policy\" is \"other\"", false);
        return;
    }
    hub.repeated += hub.stored[index];
    hub.stored[index] = true;
    if (hub.fatal_after > 0 && hub.outputs >= hub.fatal_after)
        hub_refuse(0, "another worker trains this run", true);
    else if (hub.restart_every > 0 && hub.outputs % hub.restart_every == 0 && !(hub.restart_once && hub.incarnation > 0))
        hub_restart();  // stored, but nobody is told
    else
        hub_ack(rollout->output);
    if (hub.stall_after > 0 && hub.outputs == hub.stall_after)
        hub.silent_until_s = hub.vanish ? INFINITY : clock_s() + hub.stall_s;
}

static void hub_take_hold(const struct frame_hold *hold)
{
    int index = (int)hold->sample;
    hub.holds++;
    hub.wanted_before_holds |= hub.credit > 0;
    EXPECT_TEXT(hold->prompt_key, "key");
    if (hub.stored[index] || hub.leased[index])
        return;
    hub.named[index] = hold->item;
    hub.leased[index] = true;
    hub.held++;
}

static void hub_answer_fetch(const struct frame_fetch *fetch)
{
    enum { PIECE = 1 << 20 };
    if (hub.checkpoint == NULL) {
        hub_refuse(0, "run \"r\" has no checkpoint", false);
        return;
    }
    if (fetch->offset > 0 && hub.replacements > 0) {
        hub.replacements--;
        hub_refuse(0, "run \"r\" has no checkpoint of step 40", false);
        return;
    }
    struct digest digest;
    char sha256[DIGEST_HEX_SIZE];
    digest_init(&digest);
    digest_add(&digest, hub.checkpoint, hub.checkpoint_size);
    digest_hex(&digest, sha256);
    if (hub.wrong_digest)
        sha256[0] = sha256[0] == '0' ? '1' : '0';
    size_t offset = (size_t)fetch->offset, left = hub.checkpoint_size - offset;
    struct frame frame = frame_make(FRAME_checkpoint);
    frame.checkpoint.run = fetch->run;
    frame.checkpoint.step = fetch->step < 0 ? 40 : fetch->step;
    frame.checkpoint.kind = fetch->kind;
    frame.checkpoint.sha256 = sha256;
    frame.checkpoint.size = (int64_t)hub.checkpoint_size;
    frame.checkpoint.offset = fetch->offset;
    frame.checkpoint.data = (struct bytes){ (const unsigned char *)hub.checkpoint + offset, left < PIECE ? left : PIECE };
    hub_send(frame);
    if (++hub.pieces_sent == hub.pieces_until_restart)
        hub_restart();
}

static void hub_answer_find(const struct frame_find *find)
{
    if (hub.checkpoint == NULL) {
        hub_refuse(0, "no such model", false);
        return;
    }
    struct frame frame = frame_make(FRAME_model);
    frame.model.model = find->model;
    frame.model.files = hub.files != NULL ? hub.files : "[]";
    hub_send(frame);
}

static void hub_answer_read(const struct frame_read *read)
{
    size_t left = hub.checkpoint_size - (size_t)read->offset;
    if (hub.checkpoint == NULL) {
        hub_refuse(0, "no such file", false);
        return;
    }
    struct frame frame = frame_make(FRAME_piece);
    frame.piece.sha256 = read->sha256;
    frame.piece.offset = read->offset;
    frame.piece.data = (struct bytes){ (const unsigned char *)hub.checkpoint + read->offset, left < (size_t)read->size
                                       ? left : (size_t)read->size };
    hub.read_ahead_max = read->offset > hub.read_ahead_max ? read->offset : hub.read_ahead_max;
    if (hub.vanish) {
        if (++hub.pieces_sent == 16)
            hub.silent_until_s = INFINITY;
        return;
    }
    hub_send(frame);
    if (++hub.pieces_sent == hub.pieces_until_restart)
        hub_restart();
}

static void hub_take_checkpoint(const struct frame_checkpoint *piece)
{
    if (hub.refuse_kind != NULL && strcmp(piece->kind, hub.refuse_kind) == 0) {
        hub_refuse(piece->output, "another content is stored", false);
        return;
    }
    if ((size_t)piece->offset == hub.received.size)
        buffer_append(&hub.received, piece->data.at, piece->data.size);
    if (++hub.pieces_sent == hub.pieces_until_restart)
        hub_restart();
    else
        hub_ack(piece->output);
}

static void hub_hear_effort(int64_t compute_ms, int64_t wait_ms, int64_t wire_ms, int64_t other_ms)
{
    hub.told_ms[EFFORT_COMPUTE] += compute_ms;
    hub.told_ms[EFFORT_WAIT] += wait_ms;
    hub.told_ms[EFFORT_WIRE] += wire_ms;
    hub.told_ms[EFFORT_OTHER] += other_ms;
}

static void hub_hear(const struct frame *frame)
{
    struct frame welcome = frame_make(FRAME_welcome);
    switch (frame->type) {
    case FRAME_hello:
        hub.hellos++;
        hub_forget();
        if (hub.refuse_hello != NULL) {
            hub_refuse(0, hub.refuse_hello, true);
            break;
        }
        welcome.welcome.settings = "{\"checkpoint\":-1}";
        welcome.welcome.missing = missing_count();
        welcome.welcome.holds = hub.reads_holds;
        hub_send(welcome);
        break;
    case FRAME_want:
        hub.credit += (int)frame->want.count;
        if (hub.credit + hub.held > HOLD_MAX)
            hub.wanted_too_much = true;
        hub_hand_out();
        break;
    case FRAME_beat:
        hub.beats++;
        hub_hear_effort(frame->beat.compute_ms, frame->beat.wait_ms, frame->beat.wire_ms, frame->beat.other_ms);
        hub_send(frame_make(FRAME_beat));
        hub_hand_out();
        break;
    case FRAME_hold: hub_take_hold(&frame->hold); break;
    case FRAME_rollout: hub_take_rollout(&frame->rollout); break;
    case FRAME_failed:
        hub.failures++;
        hub.stored[(frame->failed.item + hub.items - 1 - hub.incarnation * 7 % hub.items) % hub.items] = true;
        hub.held--;
        hub_ack(frame->failed.output);
        break;
    case FRAME_fetch: hub_answer_fetch(&frame->fetch); break;
    case FRAME_find: hub_answer_find(&frame->find); break;
    case FRAME_read: hub_answer_read(&frame->read); break;
    case FRAME_checkpoint: hub_take_checkpoint(&frame->checkpoint); break;
    case FRAME_bye:
        hub.byes++;
        hub_hear_effort(frame->bye.compute_ms, frame->bye.wait_ms, frame->bye.wire_ms, frame->bye.other_ms);
        break;
    default: break;
    }
}

static void *hub_run(void *nothing)
{
    struct arena arena;
    arena_init(&arena, "hub", 64 << 20);
    hub_bind();
    while (!hub.ends) {
        zmq_pollitem_t item = { .socket = hub.socket, .events = ZMQ_POLLIN };
        if (zmq_poll(&item, 1, 10) <= 0)
            continue;
        unsigned char worker[64];
        int worker_size = zmq_recv(hub.socket, worker, sizeof worker, 0);
        zmq_msg_t message;
        zmq_msg_init(&message);
        zmq_msg_recv(&message, hub.socket, 0);
        struct frame frame;
        char reason[512];
        arena_reset(&arena);
        int decoded = frame_decode(&frame, zmq_msg_data(&message), zmq_msg_size(&message), &arena, reason);
        CHECK(decoded == 0);
        bool known = worker_size == (int)hub.worker_size && memcmp(worker, hub.worker, hub.worker_size) == 0;
        if (clock_s() < hub.silent_until_s) {
            // says nothing, and has not heard it either
        } else if (known || frame.type == FRAME_hello) {
            memcpy(hub.worker, worker, (size_t)worker_size);
            hub.worker_size = (size_t)worker_size;
            hub_hear(&frame);
        } else if (frame.type != FRAME_bye) {
            unsigned char kept[64];
            size_t kept_size = hub.worker_size;
            memcpy(kept, hub.worker, sizeof kept);
            memcpy(hub.worker, worker, (size_t)worker_size);
            hub.worker_size = (size_t)worker_size;
            hub_send(frame_make(FRAME_stranger));
            memcpy(hub.worker, kept, sizeof kept);
            hub.worker_size = kept_size;
        }
        zmq_msg_close(&message);
    }
    zmq_close(hub.socket);
    arena_free(&arena);
    return nothing;
}

static void hub_start(struct hub plan)
{
    static int turn;
    hub = plan;
    snprintf(hub.endpoint, sizeof hub.endpoint, "ipc:///tmp/test_edge_store.%d.%d", (int)getpid(), turn++);
    hub.context = zmq_ctx_new();
    pthread_create(&hub.thread, NULL, hub_run, NULL);
}

static void hub_stop(void)
{
    hub.ends = true;
    pthread_join(hub.thread, NULL);
    zmq_ctx_term(hub.context);
    unlink(hub.endpoint + strlen("ipc://"));
    free(hub.received.data);
}

/* ---- the worker's side ---- */

static struct edge *open_worker(bool follow, int *code)
{
    return edge_open_timed(&(struct edge_options){ .endpoint = hub.endpoint, .stage = "rollout", .settings = "{}", .follow = follow,
                                                   .takes = hub.targets ? FRAME_target : FRAME_prompt, .hold_max = HOLD_MAX },
                           &quick, code);
}

static int give_rollout(struct edge *edge, const struct frame_prompt *prompt)
{
    struct frame frame = frame_make(FRAME_rollout);
    frame.rollout.item = prompt->item;
    frame.rollout.prompt_key = prompt->prompt_key;
    frame.rollout.tokenizer = prompt->tokenizer;
    frame.rollout.split = prompt->split;
    frame.rollout.prompt = prompt->prompt;
    frame.rollout.prompt_tokens = prompt->prompt_tokens;
    frame.rollout.sample = prompt->sample;
    frame.rollout.policy = "policy";
    frame.rollout.response = "upon a time";
    frame.rollout.response_tokens = prompt->prompt_tokens;
    return edge_give(edge, &frame);
}

/* Answers everything in batches; up to two batches are open at once, and answered in reverse. */
static enum edge_status answer_all(struct edge *edge)
{
    struct batch batches[2];
    enum edge_status status;
    while ((status = edge_take(edge, &batches[0], 7, true)) == EDGE_BATCH) {
        size_t count = 1;
        if (edge_take(edge, &batches[1], 5, false) == EDGE_BATCH)
            count = 2;
        while (count-- > 0) {
            for (size_t i = batches[count].count; i-- > 0; )
                if (give_rollout(edge, &batches[count].frames[i].prompt) != 0)
                    return EDGE_FAILED;
            edge_done(edge, &batches[count]);
        }
    }
    return status;
}

static void expect_all_stored(void)
{
    EXPECT_INT(missing_count(), 0);
    EXPECT(!hub.wanted_too_much);
    EXPECT(!hub.wrong_lease);
}

static void run_worker(int expected_code)
{
    int code;
    struct edge *edge = open_worker(false, &code);
    if (edge == NULL) {
        TEST_FAIL("could not open, code %d", code);
        return;
    }
    enum edge_status status = answer_all(edge);
    EXPECT_INT(edge_close(edge, status), expected_code);
}

/* Goal: every item is answered once, credit stays within bounds, and the worker says bye. */
static void test_all_items_are_answered(void)
{
    hub_start((struct hub){ .items = 1000, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    EXPECT_INT(edge_missing(edge), 1000);
    EXPECT_TEXT(edge_welcome(edge), "{\"checkpoint\":-1}");
    EXPECT(!edge_is_pipe(edge));
    enum edge_status status = answer_all(edge);
    EXPECT_INT(status, EDGE_END);
    EXPECT_INT(edge->taken, 1000);
    EXPECT_INT(edge_close(edge, status), 0);
    usleep(50000);
    hub_stop();
    expect_all_stored();
    EXPECT_INT(hub.repeated, 0);
    EXPECT_INT(hub.byes, 1);
}

/* Goal: outputs whose ack was lost are sent again until there is one. */
static void test_lost_acks(void)
{
    hub_start((struct hub){ .items = 100, .lose_acks = 20, .refuse_output = -1 });
    run_worker(0);
    hub_stop();
    expect_all_stored();
    EXPECT(hub.repeated >= 20);
}

/* Goal: a store that is restarted every 50 outputs, with leases numbered anew, gets everything; no lease ends another item. */
static void test_restarts(void)
{
    hub_start((struct hub){ .items = 300, .restart_every = 50, .refuse_output = -1 });
    run_worker(0);
    hub_stop();
    expect_all_stored();
    EXPECT(hub.incarnation >= 5);
    EXPECT(hub.hellos >= hub.incarnation);
}

/* A worker that has some items while the store is restarted after the output of others. */
static void run_holder(bool reads_holds)
{
    hub_start((struct hub){ .items = 60, .restart_every = 5, .restart_once = true, .reads_holds = reads_holds,
                            .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    struct batch kept, batch, none;
    EXPECT_INT(edge_take(edge, &kept, 7, true), EDGE_BATCH);
    for (int given = 0; given < 5; given++) {
        EXPECT_INT(edge_take(edge, &batch, 1, true), EDGE_BATCH);
        give_rollout(edge, &batch.frames[0].prompt);
        edge_done(edge, &batch);
    }
    for (double end_s = clock_s() + 2; hub.hellos < 2 && clock_s() < end_s; usleep(1000))
        edge_take(edge, &none, 0, false);
    for (double end_s = clock_s() + 0.2; clock_s() < end_s; usleep(1000))
        edge_take(edge, &none, 0, false);
    for (size_t i = 0; i < kept.count; i++)
        EXPECT((hub.named[kept.frames[i].prompt.sample] != 0) == reads_holds);
    for (size_t i = 0; i < kept.count; i++)
        give_rollout(edge, &kept.frames[i].prompt);
    edge_done(edge, &kept);
    EXPECT_INT(edge_close(edge, answer_all(edge)), 0);
    hub_stop();
    expect_all_stored();
}

/* Goal: a restarted store is told what the stage has before it is asked for more, and the outputs of that end their leases. */
static void test_holds(void)
{
    run_holder(true);
    EXPECT(!hub.wanted_before_holds);
}

/* Goal: a store that does not read hold frames is sent none. */
static void test_no_holds(void)
{
    run_holder(false);
    EXPECT_INT(hub.holds, 0);
}

/* Goal: a store that says nothing for a while gets a new connection and then everything. */
static void test_silence(void)
{
    hub_start((struct hub){ .items = 100, .stall_after = 30, .stall_s = 0.6, .refuse_output = -1 });
    run_worker(0);
    hub_stop();
    expect_all_stored();
    EXPECT(hub.hellos >= 2);
}

/* Goal: a store that is gone for good ends the worker with 75, from take and from give. */
static void test_gone_store(void)
{
    hub_start((struct hub){ .items = 100, .stall_after = 10, .vanish = true, .refuse_output = -1 });
    double start_s = clock_s();
    run_worker(EX_TEMPFAIL);
    EXPECT(clock_s() - start_s < 5);
    hub_stop();
}

/* Goal: where nobody answers, opening fails with 69; where nothing can be, with 64. */
static void test_no_store(void)
{
    int code = 0;
    snprintf(hub.endpoint, sizeof hub.endpoint, "ipc:///tmp/test_edge_store.none");
    EXPECT(open_worker(false, &code) == NULL);
    EXPECT_INT(code, EX_UNAVAILABLE);
    snprintf(hub.endpoint, sizeof hub.endpoint, "nonsense");
    EXPECT(open_worker(false, &code) == NULL);
    EXPECT_INT(code, EX_USAGE);
}

/* Goal: settings that the store refuses are exit code 78, at hello and later. */
static void test_fatal_refusals(void)
{
    int code = 0;
    hub_start((struct hub){ .items = 10, .refuse_hello = "policy \"p\" has seed 1, not 2", .refuse_output = -1 });
    EXPECT(open_worker(false, &code) == NULL);
    EXPECT_INT(code, EX_CONFIG);
    hub_stop();
    hub_start((struct hub){ .items = 100, .fatal_after = 20, .refuse_output = -1 });
    run_worker(EX_CONFIG);
    hub_stop();
}

/* Goal: a refused output is not sent again, the others arrive, and the code says that something was refused. */
static void test_refused_output(void)
{
    hub_start((struct hub){ .items = 50, .refuse_output = 17 });
    run_worker(EX_DATAERR);
    hub_stop();
    expect_all_stored();
    EXPECT_INT(hub.outputs, 50);
}

/* Goal: items that cannot be done are reported, each once, and end their lease. */
static void test_failed_items(void)
{
    hub_start((struct hub){ .items = 40, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    struct batch batch;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, 8, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < batch.count; i++)
            EXPECT_INT(edge_fail(edge, batch.frames[i].prompt.item, i % 2 ? "too long: \xff" : ""), 0);
        edge_done(edge, &batch);
    }
    EXPECT_INT(edge_close(edge, status), 0);
    hub_stop();
    expect_all_stored();
    EXPECT_INT(hub.failures, 40);
}

/* Goal: at most 1024 outputs are on their way without an ack. */
static void test_outputs_are_bounded(void)
{
    hub_start((struct hub){ .items = 3000, .lose_acks = 1024, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    static const int32_t tokens[] = { 1 };
    for (int i = 0; i < 3000; i++) {
        struct frame prompt = frame_make(FRAME_prompt);
        prompt.prompt.prompt_key = prompt.prompt.tokenizer = prompt.prompt.split = "x";
        prompt.prompt.prompt_tokens = (struct tokens){ tokens, 1 };
        prompt.prompt.sample = i;
        EXPECT_INT(give_rollout(edge, &prompt.prompt), 0);
    }
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();
    EXPECT_INT(missing_count(), 0);
    EXPECT_INT(hub.unacked_seen, 1024 + 1);  // and the first that is sent again, which is acknowledged
}

/* Goal: targets arrive in whole batches, in order, the last one smaller. */
static void test_whole_batches(void)
{
    hub_start((struct hub){ .items = 8 * 20 + 3, .targets = true, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    struct batch batch;
    enum edge_status status;
    int64_t next = 0;
    while ((status = edge_take(edge, &batch, 9, true)) == EDGE_BATCH) {
        EXPECT_INT(batch.count, next < 160 ? 8 : 3);
        for (size_t i = 0; i < batch.count; i++)
            EXPECT_INT(batch.frames[i].target.sample, next++);
        edge_done(edge, &batch);
    }
    EXPECT_INT(status, EDGE_END);
    EXPECT_INT(next, 163);
    EXPECT_INT(edge_close(edge, status), 0);
    hub_stop();
    EXPECT(!hub.wanted_too_much);
}

/* Goal: with its beats and its bye a worker tells all of its time, also one that is too busy to beat for any other reason. */
static void test_effort_is_told(void)
{
    hub_start((struct hub){ .items = 200, .refuse_output = -1 });
    int code;
    int64_t untold[EFFORT_COUNT];
    double before[EFFORT_COUNT], after[EFFORT_COUNT];
    effort_untold(untold, INT64_MAX);
    effort_told(untold);
    effort_read(before);
    struct edge *edge = open_worker(false, &code);
    struct batch batch;
    enum edge_status status;
    int beats = 0;
    while ((status = edge_take(edge, &batch, 1, true)) == EDGE_BATCH) {
        enum effort outside = effort_enter(EFFORT_COMPUTE);
        usleep(5000);
        effort_enter(outside);
        EXPECT_INT(give_rollout(edge, &batch.frames[0].prompt), 0);
        edge_done(edge, &batch);
        beats = hub.beats;
    }
    EXPECT(beats > 0);
    effort_read(after);
    EXPECT(after[EFFORT_COMPUTE] - before[EFFORT_COMPUTE] >= 200 * 0.005);
    EXPECT_INT(edge_close(edge, status), 0);
    hub_stop();
    EXPECT_NEAR((double)hub.told_ms[EFFORT_COMPUTE], 1000 * (after[EFFORT_COMPUTE] - before[EFFORT_COMPUTE]), 2);
    EXPECT_NEAR((double)hub.told_ms[EFFORT_WAIT], 1000 * (after[EFFORT_WAIT] - before[EFFORT_WAIT]), 2);
    EXPECT((double)hub.told_ms[EFFORT_OTHER] >= 1000 * (after[EFFORT_OTHER] - before[EFFORT_OTHER]) - 2);
}

/* Goal: a worker that follows stays when nothing is missing, beating, and leaves when nothing can be missing again. */
static void test_follow(void)
{
    hub_start((struct hub){ .items = 20, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(true, &code);
    struct batch batch;
    enum edge_status status = EDGE_EMPTY;
    for (double start_s = clock_s(); clock_s() < start_s + 0.4; usleep(5000)) {
        status = edge_take(edge, &batch, 32, false);
        if (status != EDGE_BATCH)
            continue;
        for (size_t i = 0; i < batch.count; i++)
            give_rollout(edge, &batch.frames[i].prompt);
        edge_done(edge, &batch);
    }
    EXPECT_INT(status, EDGE_EMPTY);
    EXPECT(hub.beats >= 3);
    hub.final = true;
    EXPECT_INT(edge_take(edge, &batch, 32, true), EDGE_END);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();
    expect_all_stored();
}

static char *random_bytes(size_t size)
{
    char *bytes = memory_alloc(size, 1);
    uint32_t state = 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525 + 1013904223;
        bytes[i] = (char)(state >> 24);
    }
    return bytes;
}

/* Goal: a checkpoint in ten pieces arrives whole though the store is restarted after the third. */
static void test_fetch(void)
{
    size_t size = (9 << 20) + 12345;
    char *content = random_bytes(size);
    hub_start((struct hub){ .checkpoint = content, .checkpoint_size = size, .pieces_until_restart = 3, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    struct buffer out = { 0 };
    int64_t step = 0;
    EXPECT_INT(edge_fetch(edge, "r", -1, "weights", &out, &step), 0);
    EXPECT_INT(step, 40);
    EXPECT_INT(out.size, size);
    EXPECT(out.size == size && memcmp(out.data, content, size) == 0);
    EXPECT_INT(edge_fetch(edge, "r", 7, "weights", &out, &step), 0);
    EXPECT_INT(step, 7);
    EXPECT_INT(out.size, 2 * size);  // appended
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();
    EXPECT(hub.hellos >= 2);  // more where a piece takes longer than the worker waits
    free(out.data);
    free(content);
}

/* Goal: where newer checkpoints replace the newest while it is fetched, it is fetched anew, but not for ever. */
static void test_fetch_while_replaced(void)
{
    size_t size = (2 << 20) + 5;
    char *content = random_bytes(size);
    for (int replacements = 2; replacements <= 3; replacements++) {
        hub_start((struct hub){ .checkpoint = content, .checkpoint_size = size, .replacements = replacements, .refuse_output = -1 });
        int code;
        struct edge *edge = open_worker(false, &code);
        struct buffer out = { 0 };
        int64_t step = 0;
        EXPECT_INT(edge_fetch(edge, "r", -1, "weights", &out, &step), replacements == 2 ? 0 : -1);
        if (replacements == 2)
            EXPECT(out.size == size && memcmp(out.data, content, size) == 0);
        EXPECT_INT(edge_close(edge, EDGE_END), 0);
        hub_stop();
        free(out.data);
    }
    free(content);
}

/* Goal: a checkpoint that is not there is told from one that is damaged. */
static void test_fetch_nothing_or_damaged(void)
{
    int code;
    int64_t step = 0;
    struct buffer out = { 0 };
    hub_start((struct hub){ .refuse_output = -1 });
    struct edge *edge = open_worker(false, &code);
    EXPECT_INT(edge_fetch(edge, "r", -1, "full", &out, &step), 1);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();

    hub_start((struct hub){ .checkpoint = "damaged", .checkpoint_size = 7, .wrong_digest = true, .refuse_output = -1 });
    edge = open_worker(false, &code);
    EXPECT_INT(edge_fetch(edge, "r", -1, "full", &out, &step), -1);
    EXPECT_INT(edge_close(edge, EDGE_FAILED), EX_DATAERR);
    hub_stop();
    free(out.data);
}

static const char file_sha256[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static int append_piece(void *context, const void *data, size_t size)
{
    buffer_append(context, data, size);
    return 0;
}

static int refuse_piece(void *context, const void *data, size_t size)
{
    (void)context, (void)data, (void)size;
    return 7;
}

/* Goal: a file arrives whole and in order from any byte on, though the store is restarted on the way. */
static void test_fetch_file(void)
{
    size_t size = (9 << 20) + 12345, begin = 54321;
    char *content = random_bytes(size);
    hub_start((struct hub){ .checkpoint = content, .checkpoint_size = size, .pieces_until_restart = 3, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    struct buffer files = { 0 }, out = { 0 };
    EXPECT_INT(edge_fetch_model(edge, "m", &files), 0);
    EXPECT(files.size == 2 && memcmp(files.data, "[]", 2) == 0);
    EXPECT_INT(edge_fetch_file(edge, file_sha256, (int64_t)begin, (int64_t)size, append_piece, &out), 0);
    EXPECT(out.size == size - begin && memcmp(out.data, content + begin, out.size) == 0);
    EXPECT_INT(edge_fetch_file(edge, file_sha256, (int64_t)size, (int64_t)size, refuse_piece, NULL), 0);  // nothing to take
    EXPECT_INT(edge_fetch_file(edge, file_sha256, 0, (int64_t)size, refuse_piece, NULL), 7);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();
    EXPECT(hub.hellos >= 2);
    free(files.data);
    free(out.data);
    free(content);
}

/* Goal: what the store does not share is told from a store that is gone, and no more than 4 MiB are asked for in advance. */
static void test_fetch_no_file(void)
{
    int code;
    struct buffer out = { 0 };
    hub_start((struct hub){ .refuse_output = -1 });
    struct edge *edge = open_worker(false, &code);
    EXPECT_INT(edge_fetch_model(edge, "m", &out), 1);
    EXPECT_INT(edge_fetch_file(edge, file_sha256, 0, 1 << 30, append_piece, &out), 1);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();

    hub_start((struct hub){ .checkpoint = "", .vanish = true, .refuse_output = -1 });
    edge = open_worker(false, &code);
    EXPECT_INT(edge_fetch_file(edge, file_sha256, 0, 1 << 30, append_piece, &out), -1);
    EXPECT_INT(edge_close(edge, EDGE_FAILED), EX_TEMPFAIL);
    hub_stop();
    EXPECT_INT(out.size, 0);
    EXPECT_INT(hub.read_ahead_max, (4 << 20) - (256 << 10));
    free(out.data);
}

/* Fetches "store:NAME" from a store that says these are its files, and that each has this content. */
static int fetch_from(const char *name, const char *files, const char *content)
{
    const char *model = name;
    hub_start((struct hub){ .checkpoint = content, .checkpoint_size = strlen(content), .files = files, .refuse_output = -1 });
    int code = model_fetch(&model, hub.endpoint);
    hub_stop();
    return code;
}

/* Goal: a store that lies can neither write outside the cache, nor have other bytes used than those that were asked for. */
static void test_lying_store(void)
{
    char cache[64], outside[80], command[80];
    test_directory(cache, sizeof cache);
    setenv("VAS_CACHE", cache, 1);
    snprintf(outside, sizeof outside, "%s/evil", cache);
#define FILES(name, sha256) "[{\"name\": \"" name "\", \"size\": 3, \"sha256\": \"" sha256 "\"}]"
#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  /* SHA-256 of "abc" */
    EXPECT_INT(fetch_from("store:m", FILES("../../evil", ABC), "abc"), EX_DATAERR);
    EXPECT(access(outside, F_OK) != 0);
    EXPECT_INT(fetch_from("store:m", "no JSON", "abc"), EX_DATAERR);
    EXPECT_INT(fetch_from("store:m", FILES("a.gguf", ABC), "abd"), EX_DATAERR);
    EXPECT_INT(fetch_from("store:0123456789abcdef0123456789abcdef", FILES("a.gguf", ABC), "abc"), EX_DATAERR);
    EXPECT_INT(fetch_from("store:m", FILES("a.gguf", ABC), "abc"), EX_OK);
    snprintf(command, sizeof command, "rm -rf %s", cache);
    EXPECT_INT(system(command), 0);
}

/* Goal: a checkpoint larger than what an edge keeps unacknowledged is stored whole while the stage computes,
   though the store is restarted. */
static void test_give_checkpoint(void)
{
    enum { SIZE = (OUTPUTS_BYTES_MAX + (9 << 20)) | 1 };
    char *expected = random_bytes(SIZE);
    struct buffer content = { 0 };
    buffer_append(&content, expected, SIZE);
    hub_start((struct hub){ .pieces_until_restart = 1, .refuse_output = -1 });
    int code;
    struct edge *edge = open_worker(false, &code);
    EXPECT_INT(edge_give_checkpoint(edge, "r", 3, 4, "full", true, &content), 0);
    EXPECT(content.data == NULL);
    edge_background_begin(edge);
    for (double start_s = clock_s(); hub.received.size < SIZE && clock_s() < start_s + 60; usleep(5000)) {
    }
    edge_background_end(edge);
    EXPECT_INT(hub.received.size, SIZE);
    EXPECT(hub.received.size == SIZE && memcmp(hub.received.data, expected, SIZE) == 0);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    hub_stop();
    free(expected);
}

/* Goal: a stage that has nothing more to do is not at its end before its checkpoint is stored,
   and hears of one that was refused. */
static void test_give_checkpoints(void)
{
    struct buffer first = { 0 }, second = { 0 }, third = { 0 };
    buffer_append(&first, "first", 5);
    buffer_append(&second, "second", 6);
    buffer_append(&third, "third", 5);
    hub_start((struct hub){ .refuse_kind = "weights", .refuse_output = -1 });
    int code;
    struct batch batch;
    struct edge *edge = open_worker(false, &code);
    EXPECT_INT(edge_give_checkpoint(edge, "r", 3, 4, "full", false, &first), 0);
    EXPECT_INT(edge_take(edge, &batch, 8, true), EDGE_END);
    EXPECT(hub.received.size == 5 && memcmp(hub.received.data, "first", 5) == 0);
    EXPECT_INT(edge_give_checkpoint(edge, "r", 3, 4, "weights", false, &second), 0);
    EXPECT_INT(edge_take(edge, &batch, 8, true), EDGE_END);
    EXPECT_INT(edge_give_checkpoint(edge, "r", 5, 4, "full", true, &third), -1);
    EXPECT_INT(edge_close(edge, EDGE_FAILED), EX_DATAERR);
    hub_stop();
}

/* Goal: a signal ends the taking; what is held can still be given and is stored; the code asks to be started again. */
static void test_stop(void)
{
    fflush(stdout);
    int child = fork();
    if (child == 0) {
        hub_start((struct hub){ .items = 500, .refuse_output = -1 });
        int code;
        struct edge *edge = open_worker(false, &code);
        struct batch batch;
        EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_BATCH);
        size_t count = batch.count;
        raise(SIGTERM);
        struct batch none;
        EXPECT_INT(edge_take(edge, &none, 4, true), EDGE_STOPPED);
        for (size_t i = 0; i < count; i++)
            give_rollout(edge, &batch.frames[i].prompt);
        edge_done(edge, &batch);
        code = edge_close(edge, EDGE_STOPPED);
        hub_stop();
        EXPECT_INT(missing_count(), 500 - count);
        _exit(test_case_failed ? 1 : code);
    }
    int state = 0;
    while (waitpid(child, &state, 0) < 0) {
    }
    EXPECT_INT(WEXITSTATUS(state), EX_TEMPFAIL);
}

int main(void)
{
    log_open("test", getenv("VERBOSE") ? 1 : -1);
    if (!getenv("VERBOSE") && freopen("/dev/null", "w", stderr) == NULL)
        return 74;  // the refusals and lost connections are meant
    RUN(test_all_items_are_answered);
    RUN(test_lost_acks);
    RUN(test_restarts);
    RUN(test_holds);
    RUN(test_no_holds);
    RUN(test_silence);
    RUN(test_gone_store);
    RUN(test_no_store);
    RUN(test_fatal_refusals);
    RUN(test_refused_output);
    RUN(test_failed_items);
    RUN(test_outputs_are_bounded);
    RUN(test_whole_batches);
    RUN(test_follow);
    RUN(test_effort_is_told);
    RUN(test_fetch);
    RUN(test_fetch_while_replaced);
    RUN(test_fetch_nothing_or_damaged);
    RUN(test_fetch_file);
    RUN(test_fetch_no_file);
    RUN(test_lying_store);
    RUN(test_give_checkpoint);
    RUN(test_give_checkpoints);
    RUN(test_stop);
    return tests_end();
}
