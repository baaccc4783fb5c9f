/*
 * ask.h - asks the process that serves a store how it is.
 */
#ifndef STORE_ASK_H
#define STORE_ASK_H

#include <jansson.h>

struct asker;

/* NULL on failure, logged; *code is then the exit code: 64 the endpoint is none, or what is wrong with a key file (edge.h). */
struct asker *asker_open(const char *endpoint, int *code);
void asker_close(struct asker *asker);
/* Its status (status.h), or NULL when none that can be read came within wait_s.  The caller json_decref()s. */
json_t *asker_ask(struct asker *asker, double wait_s);

#endif
