/*
 * edge_store.c - an edge as a worker of a store.  See edge.h, and schemas/README.md for the protocol.
 *
 * A conversation begins with hello.  When one ends (the store was restarted, the connection broke) nothing of it is
 * relied on: credit is 0 again, items that the stage has not seen are forgotten since they will be offered again,
 * outputs without an ack are sent again, without their leases, and the items that the stage has are named to the store.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"
#include "wire/connection.h"
#include "wire/edge_parts.h"
#include "wire/outputs.h"

/* A store that is just starting answers within this time; a longer silence is worth a line. */
static const double TELL_S = 2;

/* A worker that has no reason to beat says after so many beats' time what it did with it. */
static const double BUSY_BEATS = 5;

enum {
    RECEIVE_MAX = 1024,
    LINGER_MS = 1000,
};

/* An item that has arrived and that the stage has not taken. */
struct pending {
    zmq_msg_t message;
    int64_t batch, batch_size;  // of a target; batch_size 0: of anything else
};

/* An item that the stage has, or had until it gave the output. */
struct lease {
    int64_t item;          // as the stage knows it: the same in all conversations
    int64_t store_item;    // as the store knows it, in that conversation
    int64_t conversation;  // in which it was handed out, or named last
    struct buffer hold;    // the frame that names it
};

struct edge_store {
    struct edge_times times;
    char worker[128];
    struct connection connection;
    struct arena scratch;   // of the frame being read
    struct buffer sending;

    bool talks;             // welcomed in this conversation
    bool reads_holds;       // as the welcome said
    bool was_lost;          // and nothing was heard since
    int64_t conversation;
    double served_s, connected_s, hello_s, beat_s, sent_s, heard_s;  // times of the last
    double asked_s;         // when the first frame since heard_s was sent; 0: none
    char *welcome;          // settings of the first one
    int64_t missing;
    bool telling;                     // a beat that says what became of time is not answered
    int64_t telling_ms[EFFORT_COUNT]; // that time

    struct pending *pending;          // ring of hold_max
    size_t pending_first, pending_count;
    struct lease *leases;             // (hold_max)
    size_t lease_count;
    int64_t last_item;
    size_t unleased;                  // items without a lease that the stage has
    size_t credit;                    // wanted and not arrived
    bool idle, idle_final;            // the store's last word was that it has nothing to hand out
    int64_t idle_missing;

    struct outputs outputs;
    double output_s;                  // when the last output was sent
    int64_t parcel_refused;           // outputs refused before the last checkpoint
    struct question *question;        // NULL: none

    pthread_t background;             // serves while the stage computes
    bool in_background;
    atomic_bool background_ends;
    int wake;                         // eventfd that ends its wait
};

/* ---- sending ---- */

static bool send_bytes(struct edge_store *store, const void *data, size_t size)
{
    double now_s = clock_s();
    if (store->asked_s == 0)
        store->asked_s = now_s;
    if (zmq_send(store->connection.socket, data, size, ZMQ_DONTWAIT) < 0)
        return false;  // no connection, or too much on its way: whoever wanted this tries again
    store->sent_s = now_s;
    return true;
}

static bool send_frame(struct edge_store *store, const struct frame *frame)
{
    store->sending.size = 0;
    frame_encode(frame, &store->sending);
    return send_bytes(store, store->sending.data, store->sending.size);
}

bool store_send(struct edge *edge, const struct frame *frame)
{
    return send_frame(edge->store, frame);
}

static void send_hello(struct edge *edge)
{
    struct edge_store *store = edge->store;
    struct frame frame = frame_make(FRAME_hello);
    frame.hello.stage = edge->options.stage;
    frame.hello.worker = store->worker;
    frame.hello.settings = edge->options.settings;
    frame.hello.again = store->welcome != NULL;
    if (send_frame(store, &frame))
        store->hello_s = clock_s();
}

/*
 * A beat or a bye, with what became of the time since the last one.  The store answers a beat: until then it may not have heard it,
 * and when the conversation ends instead, the next one tells it again.
 */
static void send_effort(struct edge_store *store, struct frame *frame)
{
    int64_t ms[EFFORT_COUNT];
    effort_untold(ms, EFFORT_MS_HIGH);
    for (int i = 0; i < EFFORT_COUNT; i++)
        ms[i] = frame->type == FRAME_beat && store->telling ? 0 : ms[i] - store->telling_ms[i];
    if (frame->type == FRAME_beat) {
        frame->beat.compute_ms = ms[EFFORT_COMPUTE];
        frame->beat.wait_ms = ms[EFFORT_WAIT];
        frame->beat.wire_ms = ms[EFFORT_WIRE];
        frame->beat.other_ms = ms[EFFORT_OTHER];
    } else {
        frame->bye.compute_ms = ms[EFFORT_COMPUTE];
        frame->bye.wait_ms = ms[EFFORT_WAIT];
        frame->bye.wire_ms = ms[EFFORT_WIRE];
        frame->bye.other_ms = ms[EFFORT_OTHER];
    }
    if (!send_frame(store, frame))
        return;
    if (frame->type == FRAME_bye) {
        effort_told(store->telling_ms);
        effort_told(ms);
    } else if (!store->telling) {
        memcpy(store->telling_ms, ms, sizeof ms);
        store->telling = true;
    }
}

static void forget_telling(struct edge_store *store)
{
    memset(store->telling_ms, 0, sizeof store->telling_ms);
    store->telling = false;
}

static void send_beat(struct edge_store *store)
{
    struct frame frame = frame_make(FRAME_beat);
    frame.beat.held = (int64_t)(store->lease_count + store->unleased + store->pending_count);
    store->beat_s = clock_s();
    send_effort(store, &frame);
}

/* Names what the stage has from earlier conversations. */
static void send_holds(struct edge_store *store)
{
    for (size_t i = 0; store->reads_holds && i < store->lease_count; i++) {
        struct lease *lease = &store->leases[i];
        if (lease->conversation == store->conversation)
            continue;
        if (!send_bytes(store, lease->hold.data, lease->hold.size))
            return;
        lease->conversation = store->conversation;
    }
}

/* In portions, so that an item more or less is not a message each. */
static void send_want(struct edge *edge)
{
    struct edge_store *store = edge->store;
    size_t held = store->credit + store->pending_count + store->lease_count + store->unleased;
    size_t room = edge->options.hold_max > held ? edge->options.hold_max - held : 0;
    if (edge->options.takes_nothing || stop_requested() || room == 0)
        return;
    if (store->credit > 0 && room < edge->options.hold_max / 8)
        return;
    struct frame frame = frame_make(FRAME_want);
    frame.want.count = (int64_t)room;
    if (send_frame(store, &frame))
        store->credit += room;
}

static void send_outputs(struct edge_store *store)
{
    for (const struct output *output; (output = outputs_next(&store->outputs)) != NULL; outputs_sent(&store->outputs)) {
        if (!send_bytes(store, output->bytes, output->size))
            return;
        store->output_s = store->sent_s;
    }
}

/* ---- conversations ---- */

static void pending_pop(struct edge *edge)
{
    struct edge_store *store = edge->store;
    zmq_msg_close(&store->pending[store->pending_first].message);
    store->pending_first = (store->pending_first + 1) % edge->options.hold_max;
    store->pending_count--;
}

static void begin_conversation(struct edge *edge)
{
    struct edge_store *store = edge->store;
    store->conversation++;
    forget_telling(store);
    store->talks = store->idle = false;
    store->credit = 0;
    while (store->pending_count > 0)
        pending_pop(edge);
    outputs_drop_leases(&store->outputs, &store->scratch);
    store->hello_s = 0;
}

static void give_up(struct edge *edge, const char *what, double after_s)
{
    log_error("store \"%s\" %s for %.0f s, %lld outputs are not stored", edge->options.endpoint, what, after_s,
              (long long)outputs_count(&edge->store->outputs));
    log_hint("what is not stored is offered again to the next worker");
    edge->failure = EX_TEMPFAIL;
}

static void connect_again(struct edge *edge)
{
    struct edge_store *store = edge->store;
    if (!store->was_lost)
        log_error("store \"%s\" has not answered for %.0f s, connecting again", edge->options.endpoint, store->times.lost);
    store->was_lost = true;
    edge->failure = connection_renew(&store->connection);
    store->connected_s = clock_s();
    begin_conversation(edge);
}

/* ---- receiving ---- */

static void receive_welcome(struct edge *edge, const struct frame_welcome *welcome)
{
    struct edge_store *store = edge->store;
    if (store->talks)
        return;  // a hello was sent twice
    store->talks = true;
    store->reads_holds = welcome->holds;
    if (!stop_requested())  // a store that forgets us again and again, its disk being full, must not keep us
        store->outputs.acked_s = clock_s();
    if (store->welcome == NULL) {
        store->welcome = memory_text(welcome->settings);
        store->missing = welcome->missing;
    } else {
        log_event("store \"%s\" is back, %lld outputs are sent again", edge->options.endpoint,
                  (long long)outputs_count(&store->outputs));
    }
    store->was_lost = false;
}

static void receive_ack(struct edge_store *store, const struct frame_ack *ack)
{
    for (size_t i = 0; i < ack->outputs.count; i++)
        outputs_release(&store->outputs, ack->outputs.at[i]);
    store->outputs.acked_s = clock_s();
}

static void receive_refusal(struct edge *edge, const struct frame_refusal *refusal)
{
    struct edge_store *store = edge->store;
    bool answers_output = refusal->output != 0;
    if (!refusal->fatal && !answers_output && store->question != NULL && store->talks) {
        log_debug("store \"%s\": %s", edge->options.endpoint, refusal->reason);
        if (!store->question->ended)  // else it asked for more, ahead
            store->question->refused(store->question, refusal->reason);
        return;
    }
    log_error("store \"%s\" refused%s: %s", edge->options.endpoint, answers_output ? " an output" : "", refusal->reason);
    if (answers_output && outputs_release(&store->outputs, refusal->output)) {
        store->outputs.acked_s = clock_s();
        edge->refused++;
    }
    if (refusal->fatal) {
        if (!store->talks)
            log_hint("what a name means is fixed by its first use: choose another --policy, --reward or --run");
        edge->failure = EX_CONFIG;
    } else if (!store->talks && !answers_output) {
        edge->failure = EX_DATAERR;
    }
}

/* Takes the message over. */
static void receive_item(struct edge *edge, const struct frame *frame, zmq_msg_t *message)
{
    struct edge_store *store = edge->store;
    if (!store->talks || store->credit == 0) {
        log_error("store \"%s\" sent a %s that was not wanted", edge->options.endpoint, frame_type_name(frame->type));
        return;
    }
    store->credit--;
    store->idle = false;
    struct pending *pending = &store->pending[(store->pending_first + store->pending_count++) % edge->options.hold_max];
    *pending = (struct pending){ 0 };
    if (frame->type == FRAME_target) {
        pending->batch = frame->target.batch;
        pending->batch_size = frame->target.batch_size;
    }
    zmq_msg_init(&pending->message);
    zmq_msg_move(&pending->message, message);
}

static void receive_message(struct edge *edge, zmq_msg_t *message)
{
    struct edge_store *store = edge->store;
    struct frame frame;
    char reason[512];
    store->heard_s = clock_s();
    store->asked_s = 0;
    arena_reset(&store->scratch);
    if (frame_decode(&frame, zmq_msg_data(message), zmq_msg_size(message), &store->scratch, reason) != 0) {
        log_error("store \"%s\" sent what cannot be read: %s", edge->options.endpoint, reason);
        edge->refused++;
        return;
    }
    if (frame.type == FRAME_welcome)
        receive_welcome(edge, &frame.welcome);
    else if (frame.type == FRAME_ack)
        receive_ack(store, &frame.ack);
    else if (frame.type == FRAME_refusal)
        receive_refusal(edge, &frame.refusal);
    else if (store->question != NULL && store->question->answer(store->question, edge, &frame))
        store->question->heard_s = store->heard_s;
    else if (frame.type == edge->options.takes && !edge->options.takes_nothing)
        receive_item(edge, &frame, message);
    else if (frame.type == FRAME_idle) {
        store->idle = store->talks;
        store->idle_missing = frame.idle.missing;
        store->idle_final = frame.idle.final;
    } else if (frame.type == FRAME_stranger) {
        if (store->talks)
            begin_conversation(edge);  // else it answers what was sent before the hello
    } else if (frame.type == FRAME_beat) {
        effort_told(store->telling_ms);
        forget_telling(store);
    } else {
        log_error("store \"%s\" sent a %s frame, which is not for a %s worker", edge->options.endpoint,
                  frame_type_name(frame.type), edge->options.stage);
    }
}

static void receive_all(struct edge *edge)
{
    for (int i = 0; i < RECEIVE_MAX && edge->failure == 0; i++) {
        zmq_msg_t message;
        zmq_msg_init(&message);
        bool got = zmq_msg_recv(&message, edge->store->connection.socket, ZMQ_DONTWAIT) >= 0;
        if (got)
            receive_message(edge, &message);
        zmq_msg_close(&message);
        if (!got)
            return;
    }
}

/* ---- one turn ---- */

static bool is_due(double last_s, double interval_s, double now_s)
{
    return now_s - last_s >= interval_s;
}

/* Time that the stage spent elsewhere says nothing about the store. */
static void forgive_absence(struct edge_store *store, double now_s)
{
    double absence_s = now_s - store->served_s - store->times.lost / 3;
    if (absence_s > 0) {
        if (store->asked_s > 0)
            store->asked_s += absence_s;
        store->connected_s += absence_s;
        store->outputs.acked_s += absence_s;
    }
    store->served_s = now_s;
}

static void judge_silence(struct edge *edge, double now_s)
{
    struct edge_store *store = edge->store;
    double patience_s = stop_requested() ? store->times.stop : store->times.give_up;
    if (store->asked_s > 0 && is_due(store->asked_s, patience_s, now_s)) {
        give_up(edge, "has not answered", patience_s);
    } else if (store->asked_s > 0 && is_due(store->asked_s, store->times.lost, now_s)
               && is_due(store->connected_s, store->times.lost, now_s)) {
        connect_again(edge);
    } else if (store->talks && outputs_count(&store->outputs) > 0) {
        if (is_due(store->outputs.acked_s, patience_s, now_s))
            give_up(edge, "has stored nothing", patience_s);
        else if (outputs_next(&store->outputs) == NULL && is_due(store->outputs.acked_s, store->times.lost, now_s)
                 && is_due(store->output_s, store->times.lost, now_s))
            outputs_send_again(&store->outputs);
    }
}

static void ask(struct edge *edge, struct question *question, double now_s)
{
    struct edge_store *store = edge->store;
    if (question->conversation != store->conversation || is_due(question->heard_s, store->times.lost, now_s)) {
        question->conversation = store->conversation;
        question->heard_s = now_s;
        question->forget(question);
    }
    question->ask(question, edge);
}

static void send_all(struct edge *edge, double now_s)
{
    struct edge_store *store = edge->store;
    if (!store->talks) {
        if (is_due(store->hello_s, store->times.beat, now_s))
            send_hello(edge);
        return;
    }
    send_holds(store);
    parcel_give(&store->outputs);
    send_outputs(store);
    if (store->question != NULL && !store->question->ended)
        ask(edge, store->question, now_s);
    send_want(edge);
    double quiet_since_s = store->sent_s < store->heard_s ? store->sent_s : store->heard_s;
    if ((is_due(quiet_since_s, store->times.beat, now_s) && is_due(store->beat_s, store->times.beat, now_s))
        || is_due(store->beat_s, BUSY_BEATS * store->times.beat, now_s))
        send_beat(store);
}

/* Sends what is due, waits up to wait_ms for the store, which is time spent on waits_as, and takes in all that it has sent. */
static void serve(struct edge *edge, int wait_ms, enum effort waits_as)
{
    struct edge_store *store = edge->store;
    if (edge->failure != 0)
        return;
    double now_s = clock_s();
    forgive_absence(store, now_s);
    edge->failure = connection_judge(&store->connection);
    receive_all(edge);
    if (edge->failure == 0)
        judge_silence(edge, now_s);
    if (edge->failure != 0)
        return;
    send_all(edge, now_s);
    if (wait_ms == 0)
        return;
    bool has_more = store->talks ? outputs_next(&store->outputs) != NULL : store->hello_s == 0;
    zmq_pollitem_t items[] = { { .socket = store->connection.socket, .events = (short)(ZMQ_POLLIN | (has_more ? ZMQ_POLLOUT : 0)) },
                               { .fd = store->wake, .events = ZMQ_POLLIN } };
    enum effort before = effort_enter(waits_as);
    zmq_poll(items, store->in_background ? 2 : 1, wait_ms);
    effort_enter(before);
    receive_all(edge);
    store->served_s = clock_s();
}

/* ---- what edge.c calls ---- */

int store_open(struct edge *edge, const struct edge_times *times)
{
    CHECK(edge->options.settings != NULL);
    struct edge_store *store = edge->store = memory_alloc(1, sizeof *store);
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(store->worker, sizeof store->worker, "%s, process %ld", host, (long)getpid());
    store->times = *times;
    store->pending = memory_alloc(edge->options.hold_max, sizeof *store->pending);
    store->leases = memory_alloc(edge->options.hold_max, sizeof *store->leases);
    arena_init(&store->scratch, "frame", 2 * (size_t)FRAME_SIZE_MAX);
    store->wake = eventfd(0, EFD_CLOEXEC);
    CHECK(store->wake >= 0);
    double start_s = clock_s();
    edge->failure = connection_open(&store->connection, edge->options.endpoint, (int)edge->options.hold_max + RECEIVE_MAX);
    store->served_s = store->connected_s = start_s;
    begin_conversation(edge);
    bool told = false;
    while (edge->failure == 0 && !store->talks) {
        serve(edge, SLICE_MS, EFFORT_WIRE);
        if (!told && is_due(start_s, TELL_S, clock_s())) {
            log_event("waiting for a store at \"%s\"", edge->options.endpoint);
            told = true;
        }
        if (stop_requested()) {
            edge->failure = EX_TEMPFAIL;
        } else if (!store->talks && edge->failure == 0 && is_due(start_s, times->open, clock_s())) {
            if (connection_lacks_proof(&store->connection)) {
                edge->failure = EX_NOPERM;
                break;
            }
            log_error("no store answers at \"%s\", waited %.0f s", edge->options.endpoint, times->open);
            log_hint("start one with 'store serve --db FILE --listen %s'", edge->options.endpoint);
            edge->failure = EX_UNAVAILABLE;
        }
    }
    int code = edge->failure;
    if (code != EX_OK)
        store_close(edge);
    return code;
}

const char *store_welcome(const struct edge *edge)
{
    return edge->store->welcome;
}

int64_t store_missing(const struct edge *edge)
{
    return edge->store->missing;
}

/* How many of the pending items can go to the stage: targets only as whole batches, so that no conversation ends within one. */
static size_t ready_count(const struct edge *edge, size_t max)
{
    const struct edge_store *store = edge->store;
    size_t hold_max = edge->options.hold_max, ready = 0;
    while (ready < store->pending_count && ready < max) {
        const struct pending *first = &store->pending[(store->pending_first + ready) % hold_max];
        size_t of_batch = 1;
        while (ready + of_batch < store->pending_count && (int64_t)of_batch < first->batch_size
               && store->pending[(store->pending_first + ready + of_batch) % hold_max].batch == first->batch)
            of_batch++;
        bool is_whole = (int64_t)of_batch >= first->batch_size || of_batch >= max || of_batch >= hold_max;
        if (!is_whole || (ready > 0 && ready + of_batch > max))
            break;
        ready += of_batch;
    }
    return ready < max ? ready : max;
}

static void take_pending(struct edge *edge, struct batch_memory *memory, size_t count)
{
    struct edge_store *store = edge->store;
    while (memory->count < count && memory->bytes < BATCH_BYTES_MAX) {
        zmq_msg_t *message = &store->pending[store->pending_first].message;
        struct frame *frame = batch_slot(memory);
        char reason[512];
        int decoded = frame_decode(frame, zmq_msg_data(message), zmq_msg_size(message), &memory->arena, reason);
        CHECK(decoded == 0);  // it was read when it arrived
        int64_t *item = frame_item(frame);
        if (*item != 0) {
            struct lease *lease = &store->leases[store->lease_count++];
            struct frame hold = frame_extended(FRAME_hold, frame);
            *lease = (struct lease){ .item = ++store->last_item, .store_item = *item, .conversation = store->conversation };
            frame_encode(&hold, &lease->hold);
            *item = store->last_item;
        } else {
            memory->unleased++;
            store->unleased++;
        }
        memory->count++;
        memory->bytes += zmq_msg_size(message);
        pending_pop(edge);
    }
}

static bool is_at_end(const struct edge *edge)
{
    const struct edge_store *store = edge->store;
    if (edge->options.takes_nothing)
        return true;
    bool nothing_missing = store->idle_missing == 0 && !edge->options.follow;
    return store->idle && (store->idle_final || nothing_missing) && outputs_are_done(&store->outputs);
}

enum edge_status store_take(struct edge *edge, struct batch *batch, size_t max, bool wait)
{
    struct edge_store *store = edge->store;
    for (int wait_ms = 0; ; wait_ms = SLICE_MS) {
        serve(edge, wait_ms, EFFORT_WAIT);
        if (edge->failure != 0)
            return EDGE_FAILED;
        if (max == 0)
            return EDGE_EMPTY;
        if (stop_requested())
            return EDGE_STOPPED;
        size_t ready = ready_count(edge, max);
        if (ready > 0) {
            struct batch_memory *memory = batch_begin(edge);
            take_pending(edge, memory, ready);
            batch_give(edge, memory, batch);
            return EDGE_BATCH;
        }
        if (is_at_end(edge))
            return EDGE_END;
        if (!wait)
            return EDGE_EMPTY;
        CHECK(store->lease_count + store->unleased < edge->options.hold_max);  // else nothing can ever come
    }
}

void store_done(struct edge *edge, const struct batch_memory *memory)
{
    edge->store->unleased -= memory->unleased;
}

/* Ends the hold on an item and returns the store's name for it, 0 when the store has forgotten it. */
static int64_t end_lease(struct edge_store *store, int64_t item)
{
    for (size_t i = 0; i < store->lease_count; i++) {
        if (store->leases[i].item == item) {
            struct lease lease = store->leases[i];
            store->leases[i] = store->leases[--store->lease_count];
            free(lease.hold.data);
            return lease.conversation == store->conversation ? lease.store_item : 0;
        }
    }
    return 0;
}

int store_give(struct edge *edge, struct frame *output)
{
    struct edge_store *store = edge->store;
    if (outputs_are_full(&store->outputs) || is_due(store->served_s, 0.05, clock_s()))
        serve(edge, 0, EFFORT_WIRE);
    while (edge->failure == 0 && outputs_are_full(&store->outputs))
        serve(edge, SLICE_MS, EFFORT_WIRE);
    if (edge->failure != 0)
        return -1;
    struct frame copy = *output;
    if (*frame_item(&copy) != 0)
        *frame_item(&copy) = end_lease(store, *frame_item(&copy));
    if (copy.type == FRAME_failed && copy.failed.item == 0)
        return 0;  // the store will offer the item again
    outputs_add(&store->outputs, &copy);
    if (store->talks)
        send_outputs(store);
    return 0;
}

int store_give_checkpoint(struct edge *edge, const struct frame *frame, struct buffer *content)
{
    struct edge_store *store = edge->store;
    while (edge->failure == 0 && parcel_waits(&store->outputs))
        serve(edge, SLICE_MS, EFFORT_WIRE);
    parcel_put(&store->outputs, frame, content);
    int64_t refused = edge->refused - store->parcel_refused;
    store->parcel_refused = edge->refused;
    return edge->failure == 0 && refused == 0 ? 0 : -1;
}

/* ---- while the stage computes ---- */

static void *serve_background(void *context)
{
    struct edge *edge = context;
    while (edge->failure == 0 && !atomic_load(&edge->store->background_ends))
        serve(edge, SLICE_MS, EFFORT_COMPUTE);
    return NULL;
}

void store_background_begin(struct edge *edge)
{
    struct edge_store *store = edge->store;
    sigset_t all, before;
    atomic_store(&store->background_ends, false);
    store->in_background = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&store->background, NULL, serve_background, edge);
    CHECK(error == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void store_background_end(struct edge *edge)
{
    struct edge_store *store = edge->store;
    uint64_t one = 1;
    atomic_store(&store->background_ends, true);
    ssize_t moved = write(store->wake, &one, sizeof one);
    pthread_join(store->background, NULL);
    moved += read(store->wake, &one, sizeof one);
    CHECK(moved == 2 * (ssize_t)sizeof one);
    store->in_background = false;
}

int store_ask(struct edge *edge, struct question *question)
{
    struct edge_store *store = edge->store;
    question->conversation = -1;
    store->question = question;
    enum effort before = effort_enter(EFFORT_WIRE);
    while (edge->failure == 0 && !question->ended && !stop_requested())
        serve(edge, SLICE_MS, EFFORT_WIRE);
    effort_enter(before);
    store->question = NULL;
    if (question->ended)
        return 0;
    if (edge->failure == 0) {
        log_error("stopped while fetching from store \"%s\"", edge->options.endpoint);
        edge->failure = EX_TEMPFAIL;
    }
    return -1;
}

void store_close(struct edge *edge)
{
    struct edge_store *store = edge->store;
    while (edge->failure == 0 && !outputs_are_done(&store->outputs))
        serve(edge, SLICE_MS, EFFORT_WIRE);
    struct frame bye = frame_make(FRAME_bye);
    bool cut_short = edge->options.takes_nothing && stop_requested();  // a source that says bye has given everything
    if (store->connection.socket != NULL && store->talks && !cut_short)
        send_effort(store, &bye);
    connection_close(&store->connection, store->talks ? LINGER_MS : 0);
    while (store->pending_count > 0)
        pending_pop(edge);
    outputs_free(&store->outputs);
    close(store->wake);
    arena_free(&store->scratch);
    free(store->sending.data);
    free(store->pending);
    while (store->lease_count > 0)
        free(store->leases[--store->lease_count].hold.data);
    free(store->leases);
    free(store->welcome);
    free(store);
    edge->store = NULL;
}
