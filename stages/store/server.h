/*
 * server.h - the store's process: one database, one ROUTER socket, group commit.
 *
 * What has arrived is taken together and committed together, so that one fsync serves many outputs; nothing is
 * acknowledged before.
 */
#ifndef STORE_SERVER_H
#define STORE_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include "store/desk.h"

struct server;

struct server_options {
    const char *db;                // path
    const char *const *endpoints;  // (endpoint_count); none: ipc://DB.sock
    size_t endpoint_count;
    const char *key, *allow;       // files, see curve.h and admit.h: tcp:// endpoints want keys; NULL: they do not
    struct desk_options desk;
};

/* NULL on failure, logged; *code is then the exit code. */
struct server *server_open(const struct server_options *options, int *code);
/* Serves until SIGTERM or SIGINT (stop.h).  The exit code: 0, or 74 when the store could not go on. */
int server_run(struct server *server);
void server_close(struct server *server);

/*
 * Whether a store may bind there: ipc:// with a path that fits a socket's name; tcp:// on a loopback address, or anywhere when
 * the store wants keys.  0, or -1 with a line in reason (512 bytes).
 */
int endpoint_check(const char *endpoint, bool wants_keys, char *reason);

#endif
