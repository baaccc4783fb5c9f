/* peers.c - see peers.h. */
#include "store/peers.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "wire/curve.h"

enum { FRAME_COST = 256 };               // bytes that a queued frame takes beside its content
static const double PEER_STALLED_S = 60, PEER_STALLED_CROWDED_S = 10;
static const double PEER_QUIET_S = 600;  // an unused entry is forgotten

struct peer {
    size_t id_size;
    int connection;         // file descriptor, -1: not known
    char key[CURVE_KEY_SIZE];
    double heard_s;
    double moved_s;         // when it was last seen to take something, or had nothing to take
    size_t given, moved;    // bytes put into the queue, and of these taken when last looked
    atomic_size_t taken;    // bytes that have left it
    int nonsense;           // frames
    bool cut;
    char id[];
};

struct peers {
    void *router;
    struct map by_id;
    struct peer **by_connection;  // (connection_count) who was heard there last
    size_t connection_count;
    size_t given;           // of all, those forgotten too
    atomic_size_t taken;
};

/* A frame in ZeroMQ's hands, until its thread calls frame_left. */
struct sent {
    struct peers *peers;
    struct peer *peer;      // stays until everything of it has left
    size_t cost;
    char data[];
};

static void frame_left(void *data, void *hint)
{
    struct sent *sent = hint;
    (void)data;
    atomic_fetch_add(&sent->peers->taken, sent->cost);
    atomic_fetch_add(&sent->peer->taken, sent->cost);
    free(sent);
}

static size_t queued(const struct peer *peer)
{
    return peer->given - atomic_load(&peer->taken);
}

static size_t queued_all(const struct peers *peers)
{
    return peers->given - atomic_load(&peers->taken);
}

/*
 * ZeroMQ offers no way to end a connection of a ROUTER, so its socket is shut down behind ZeroMQ's back.  Should ZeroMQ have
 * closed it already and the number mean another connection by now, that one is made anew by its worker.
 */
static void shut(int connection)
{
    if (connection >= 0)
        shutdown(connection, SHUT_RDWR);
}

void connection_cut(zmq_msg_t *frame)
{
    shut(zmq_msg_get(frame, ZMQ_SRCFD));
}

static void peer_cut(struct peer *peer)
{
    peer->cut = true;
    shut(peer->connection);
}

static struct peer *peer_of(struct peers *peers, const void *id, size_t id_size, double now_s)
{
    struct peer *peer = map_find(&peers->by_id, id, id_size);
    if (peer == NULL) {
        peer = memory_alloc(1, sizeof *peer + id_size);
        memcpy(peer->id, id, id_size);
        peer->id_size = id_size;
        peer->connection = -1;
        peer->heard_s = peer->moved_s = now_s;
        map_add(&peers->by_id, peer->id, id_size, peer);
    }
    return peer;
}

static void peer_disconnect(struct peers *peers, struct peer *peer)
{
    if (peer->connection >= 0)
        peers->by_connection[peer->connection] = NULL;
    peer->connection = -1;
}

/* Whoever had this connection has it no more. */
static void peer_connect(struct peers *peers, struct peer *peer, int connection)
{
    peer->cut = false;
    peer->nonsense = 0;
    if (connection < 0)
        return;
    size_t need = (size_t)connection + 1, count = peers->connection_count;
    if (need > count) {
        peers->connection_count = 2 * need;
        peers->by_connection = memory_grow(peers->by_connection, peers->connection_count, sizeof *peers->by_connection);
        memset(peers->by_connection + count, 0, (peers->connection_count - count) * sizeof *peers->by_connection);
    }
    if (peers->by_connection[connection] != NULL)
        peer_disconnect(peers, peers->by_connection[connection]);
    peers->by_connection[connection] = peer;
    peer->connection = connection;
}

bool peers_hear(struct peers *peers, const void *id, size_t id_size, zmq_msg_t *frame, double now_s)
{
    struct peer *peer = peer_of(peers, id, id_size, now_s);
    const char *key = zmq_msg_gets(frame, "User-Id");
    int connection = zmq_msg_get(frame, ZMQ_SRCFD);
    if (connection != peer->connection) {
        peer_disconnect(peers, peer);
        peer_connect(peers, peer, connection);
    }
    peer->heard_s = now_s;
    peer->key[0] = '\0';
    if (key != NULL)
        strncat(peer->key, key, sizeof peer->key - 1);
    return !peer->cut;
}

void peers_distrust(struct peers *peers, const void *id, size_t id_size, size_t frame_size)
{
    struct peer *peer = map_find(&peers->by_id, id, id_size);
    if (peer == NULL || peer->cut || (++peer->nonsense < NONSENSE_MAX && frame_size <= NONSENSE_BYTES))
        return;
    log_event("cut off a peer that sent nonsense frames=%d bytes=%zu", peer->nonsense, frame_size);
    peer_cut(peer);
}

/* 0, or -1 with the frame given back by ZeroMQ. */
static int send_both(void *router, const struct peer *peer, zmq_msg_t *message)
{
    int sent;
    do
        sent = zmq_send(router, peer->id, peer->id_size, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    while (sent < 0 && zmq_errno() == EINTR);
    if (sent < 0)
        return -1;
    do
        sent = zmq_msg_send(message, router, ZMQ_DONTWAIT);
    while (sent < 0 && zmq_errno() == EINTR);
    return sent < 0 ? -1 : 0;
}

int peers_send(struct peers *peers, const void *id, size_t id_size, const void *data, size_t size, double now_s)
{
    struct peer *peer = peer_of(peers, id, id_size, now_s);
    size_t cost = size + FRAME_COST, waits = queued(peer);
    if (peer->cut)
        return -1;
    if (waits + cost > PEER_MAX || (queued_all(peers) + cost > PEERS_MAX && waits + cost > PEER_LEAST)) {
        log_event("cut off a peer that leaves %zu bytes unread, all together %zu", waits, queued_all(peers));
        peer_cut(peer);
        return -1;
    }
    struct sent *sent = memory_alloc(1, sizeof *sent + size);
    zmq_msg_t message;
    *sent = (struct sent){ peers, peer, cost };
    memcpy(sent->data, data, size);
    zmq_msg_init_data(&message, sent->data, size, frame_left, sent);
    if (waits == 0)
        peer->moved_s = now_s;
    peer->given += cost;
    peers->given += cost;
    if (send_both(peers->router, peer, &message) == 0)
        return 0;
    if (zmq_errno() == EAGAIN) {
        log_event("cut off a peer that leaves too many frames unread, %zu bytes", waits);
        peer_cut(peer);
    }
    zmq_msg_close(&message);  // which counts it as having left
    return -1;
}

bool peers_crowded(const struct peers *peers, const void *id, size_t id_size)
{
    const struct peer *peer = map_find(&peers->by_id, id, id_size);
    return peer != NULL && (peer->cut || queued(peer) >= PEER_CROWDED || queued_all(peers) >= PEERS_CROWDED);
}

void peers_turn(struct peers *peers, double now_s, void (*gone)(void *of, const void *id, size_t id_size), void *of)
{
    struct peer **quiet = NULL;
    size_t quiet_count = 0, at = 0;
    double patience_s = queued_all(peers) < PEERS_CROWDED ? PEER_STALLED_S : PEER_STALLED_CROWDED_S;
    for (struct peer *peer; (peer = map_next(&peers->by_id, &at)) != NULL; ) {
        size_t taken = atomic_load(&peer->taken);
        if (taken != peer->moved || taken == peer->given)
            peer->moved_s = now_s;
        peer->moved = taken;
        if (!peer->cut && now_s - peer->moved_s >= patience_s) {
            log_event("cut off a peer that has left %zu bytes unread for %.0f s", queued(peer), patience_s);
            peer_cut(peer);
            gone(of, peer->id, peer->id_size);
        }
        if (taken == peer->given && now_s - peer->heard_s >= PEER_QUIET_S) {
            quiet = memory_grow(quiet, quiet_count + 1, sizeof *quiet);
            quiet[quiet_count++] = peer;
        }
    }
    for (size_t i = 0; i < quiet_count; i++) {
        peer_disconnect(peers, quiet[i]);
        free(map_remove(&peers->by_id, quiet[i]->id, quiet[i]->id_size));
    }
    free(quiet);
}

void peers_judge(struct peers *peers, bool (*allowed)(const void *by, const char *key), const void *by,
                 void (*gone)(void *of, const void *id, size_t id_size), void *of)
{
    size_t at = 0, count = 0;
    for (struct peer *peer; (peer = map_next(&peers->by_id, &at)) != NULL; ) {
        if (peer->connection < 0 || peer->cut || peer->key[0] == '\0' || allowed(by, peer->key))
            continue;
        peer_cut(peer);
        gone(of, peer->id, peer->id_size);
        count++;
    }
    if (count > 0)
        log_event("cut off connections=%zu whose keys are no longer allowed", count);
}

struct peers *peers_open(void *router)
{
    struct peers *peers = memory_alloc(1, sizeof *peers);
    peers->router = router;
    return peers;
}

void peers_close(struct peers *peers)
{
    if (peers == NULL)
        return;
    size_t at = 0;
    for (struct peer *peer; (peer = map_next(&peers->by_id, &at)) != NULL; )
        free(peer);
    map_free(&peers->by_id);
    free(peers->by_connection);
    free(peers);
}
