/*
 * status.h - how far everything is, as JSON and as a table.
 *
 *     {"db": FILE, "served": true,
 *      "stages":   [{"stage", "key", "split", "done", "missing", "failed", "leased", "workers", "per_s", "left_s", "step",
 *                    "final"}],
 *      "workers":  [{"worker", "stage", "key", "split", "held", "outputs", "per_s", "silent_s", "compute_s", "wait_s",
 *                    "wire_s", "other_s"}],
 *      "efforts":  [{"stage", "key", "compute_s", "wait_s", "wire_s", "other_s"}],
 *      "failures": [{"stage", "key", "attempts", "reason"}]}
 *
 * leased, workers, per_s, left_s and the list of workers are known to the process that serves the store only; left_s where there is
 * a rate.  efforts are of all workers that there ever were, failures the first few.
 */
#ifndef STORE_STATUS_H
#define STORE_STATUS_H

#include <jansson.h>

#include "base/memory.h"
#include "store/db.h"
#include "store/desk.h"

/* NULL on failure, logged.  The caller json_decref()s.  desk: NULL unless this process serves the store. */
json_t *status_read(struct db *db, const struct desk *desk, double now_s);

/* Whether what another process sent can be printed. */
bool status_is_sound(const json_t *status);
/* Replaces what could steer a terminal in its texts, then appends a table. */
void status_print(struct buffer *out, json_t *status);

#endif
