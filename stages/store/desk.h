/*
 * desk.h - the store's side of every conversation: frames of workers in, rows and replies out.
 *
 * Knows no socket and no clock, so tests play any worker at any time.  The caller gives it what arrived, commits, lets it hand
 * out work, and then delivers the parcels:
 *
 *     desk_take(...) for each frame that is there
 *     desk_commit(...)       everything taken is durable, or the conversations it came from are forgotten and
 *                            begin anew, with the outputs that were not acknowledged
 *     desk_turn(...)         items, idle, beats; ends the silent
 *     parcels                sent, then desk_sent()
 */
#ifndef STORE_DESK_H
#define STORE_DESK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/effort.h"
#include "store/db.h"

struct desk;

struct desk_options {
    double silent_s;  // the items of a worker that was silent so long are offered to others (default 15)
    double lease_s;   // a worker that was silent so long has vanished, and its items are counted against it (default 60)
    int64_t keep_weights;  // of each run (checkpoint.h)
    /* Whether to send a worker no items and no pieces of files now, since it has not read the last; NULL: never. */
    bool (*crowded)(const void *of, const void *peer, size_t peer_size);
    const void *of;
};

enum desk_status {
    DESK_FINE,
    DESK_LATER,   // the disk is full or the like, logged once: go on, try again
    DESK_BROKEN,  // logged: the store cannot go on
};

/* A frame for a worker.  Borrows from the desk until desk_sent. */
struct parcel {
    const void *peer;  // routing id
    size_t peer_size;
    const void *data;
    size_t size;
};

/* Keeps db. */
struct desk *desk_open(struct db *db, const struct desk_options *options);
void desk_close(struct desk *desk);

/* now_s: of a clock that never goes back.  False: the frame could not be read, which its sender has been told. */
bool desk_take(struct desk *desk, const void *peer, size_t peer_size, const void *data, size_t size, double now_s);
enum desk_status desk_commit(struct desk *desk, double now_s);
enum desk_status desk_turn(struct desk *desk, double now_s);

/* Parcel i of 0 .. count-1, in the order in which they are to be sent. */
size_t desk_parcel_count(const struct desk *desk);
struct parcel desk_parcel(const struct desk *desk, size_t i);
void desk_sent(struct desk *desk);
/* Bytes of replies that wait; the caller stops taking frames when they are many. */
size_t desk_parcel_bytes(const struct desk *desk);
/* Nobody is at the other end any more. */
void desk_unreachable(struct desk *desk, const void *peer, size_t peer_size, double now_s);
/* Workers are waiting for items: call desk_turn again soon. */
bool desk_waits(const struct desk *desk);

/* What there is to say about a worker.  Texts borrow from the desk. */
struct desk_worker {
    const char *name, *stage, *key, *split;  // key: the name of its policy, reward or run, or its tokenizer
    size_t held;
    long long outputs;     // that were new
    double per_s;          // of them, of late; of train the batches
    double silent_s;
    double seconds[EFFORT_COUNT];   // what it did with its time
    double unstored[EFFORT_COUNT];  // the part of that which is not in the file
};
size_t desk_worker_count(const struct desk *desk);
/* Worker i of 0 .. count-1. */
struct desk_worker desk_worker(const struct desk *desk, size_t i, double now_s);

struct desk_counters {
    size_t workers, leased;
    long long taken, stored, duplicates, refused;
};
struct desk_counters desk_count(const struct desk *desk);

#endif
