/*
 * handshake.h - what became of the connections of a socket before the first frame: ZeroMQ itself says nothing and tries for ever.
 */
#ifndef WIRE_HANDSHAKE_H
#define WIRE_HANDSHAKE_H

#include <stdbool.h>

enum handshake {
    HANDSHAKE_NONE,      // nothing new
    HANDSHAKE_DONE,
    HANDSHAKE_REFUSED,   // our key is not on the other side's list
    HANDSHAKE_OTHER,     // one side wants keys, the other does not
    HANDSHAKE_BROKEN,    // cut off: the link, or a key of the other side that it does not have
};

struct handshakes {
    void *socket, *events;
};

/* Before zmq_connect.  0 or -1. */
int handshakes_open(struct handshakes *handshakes, void *context, void *socket);
enum handshake handshakes_next(struct handshakes *handshakes);
/*
 * What broken handshakes may mean: a store breaks off before it has said whether it wants keys.  Asks the store at tcp://HOST:PORT
 * on a connection of its own, for a second at most: HANDSHAKE_OTHER when one of the two wants keys and the other does not,
 * HANDSHAKE_BROKEN when that is not so or it does not answer.
 */
enum handshake handshake_probe(const char *endpoint, bool has_key);
/* Before the socket is closed. */
void handshakes_close(struct handshakes *handshakes);

#endif
