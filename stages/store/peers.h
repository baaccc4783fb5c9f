/*
 * peers.h - the connections of the store's socket: what is still here of what was sent to each, whose key each came with, and
 * cutting one off.
 *
 * ZeroMQ queues what a peer does not read, and counts frames only.  Here the bytes are counted, of each peer and of all, so that
 * neither one that never reads nor ten thousand that seldom do can make the store grow:
 *
 *     a peer with PEER_CROWDED bytes, or any while all have PEERS_CROWDED, gets no more items and pieces of files
 *     a peer that would have more than PEER_MAX, or PEER_LEAST while all have PEERS_MAX, is cut off
 *     so is one that has taken nothing for PEER_STALLED_S; while all have PEERS_CROWDED, so that others get on, sooner,
 *     and one that sends frames that cannot be read: NONSENSE_MAX of them, or one larger than NONSENSE_BYTES
 */
#ifndef STORE_PEERS_H
#define STORE_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <zmq.h>

enum {
    PEER_CROWDED = 4 << 20,
    PEERS_CROWDED = 128 << 20,
    PEER_MAX = 192 << 20,    // more than one turn of the desk gives
    PEERS_MAX = 320 << 20,   // the same for all, crowded as they are
    PEER_LEAST = 16 << 10,
    NONSENSE_MAX = 32,
    NONSENSE_BYTES = 1 << 20,
};

struct peers;

struct peers *peers_open(void *router);
/* After the socket's context has ended: until then ZeroMQ has what was sent. */
void peers_close(struct peers *peers);

/* A frame has come from there.  False: its sender was cut off before, and it does not count. */
bool peers_hear(struct peers *peers, const void *id, size_t id_size, zmq_msg_t *frame, double now_s);
/* And it could not be read. */
void peers_distrust(struct peers *peers, const void *id, size_t id_size, size_t frame_size);
/* Copies.  0, or -1: nobody is there, or not any more. */
int peers_send(struct peers *peers, const void *id, size_t id_size, const void *data, size_t size, double now_s);
bool peers_crowded(const struct peers *peers, const void *id, size_t id_size);

/* Now and then: cuts off the stalled, forgets those that are long quiet.  gone is told of each that was cut off. */
void peers_turn(struct peers *peers, double now_s, void (*gone)(void *of, const void *id, size_t id_size), void *of);
/* Cuts off every peer that came with a key for which allowed is false. */
void peers_judge(struct peers *peers, bool (*allowed)(const void *by, const char *key), const void *by,
                 void (*gone)(void *of, const void *id, size_t id_size), void *of);
/* Ends the connection on which this frame came. */
void connection_cut(zmq_msg_t *frame);

#endif
