/*
 * admit.h - who may talk to a store that has a key: the public keys in a file or directory, which may change at any time.
 *
 * ZeroMQ asks about each handshake (ZAP, RFC 27).  A key that is added is let in at once; one that is taken away, within some
 * seconds, loses its open connections too (server.c).  A list that cannot be read leaves the last one in force.
 */
#ifndef STORE_ADMIT_H
#define STORE_ADMIT_H

#include <stdbool.h>

struct admit;

/*
 * allow: a file with public keys, or a directory whose files *.pub have them.  Before the first zmq_bind, so that nobody
 * slips in.  NULL on failure, logged; *code is then the exit code.
 */
struct admit *admit_open(void *context, const char *allow, int *code);
void admit_close(struct admit *admit);

/* To wait on; when it is readable, admit_answer. */
void *admit_socket(const struct admit *admit);
void admit_answer(struct admit *admit);
/* Looks at the list now and then.  True when it has changed. */
bool admit_turn(struct admit *admit, double now_s);
bool admit_allows(const struct admit *admit, const char *key);

#endif
