/*
 * connection.h - the socket of a worker to its store: keys, options, handshakes.  What is said over it is edge_store.c's affair.
 */
#ifndef WIRE_CONNECTION_H
#define WIRE_CONNECTION_H

#include <stdbool.h>

#include "wire/curve.h"
#include "wire/edge.h"
#include "wire/handshake.h"

struct connection {
    const char *endpoint;        // borrowed
    int receive_max;             // messages that may wait in the socket
    void *context, *socket;      // socket NULL: not connected
    struct handshakes handshakes;
    struct edge_keys key_files;  // NULL: no keys
    struct curve_pair key;
    char store_key[CURVE_KEY_SIZE];
    int broken;                  // handshakes since the last that did not break
};

/* Reads the keys and connects.  An exit code, logged; connection_close in any case. */
int connection_open(struct connection *connection, const char *endpoint, int receive_max);
/* Anew, with another socket. */
int connection_renew(struct connection *connection);
/* What came of its handshakes since the last call: 0, or the exit code with which a store that refuses the key is left, logged. */
int connection_judge(struct connection *connection);
/* The store does not prove that it has its key; that was logged. */
bool connection_lacks_proof(const struct connection *connection);
/* What was sent may take so long to go out. */
void connection_close(struct connection *connection, int linger_ms);

#endif
