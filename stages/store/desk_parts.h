/*
 * desk_parts.h - what the files of the desk share: desk.c takes frames and keeps the workers, desk_hello.c greets who is new,
 * desk_work.c hands out items and pieces of files.  Only for them.
 */
#ifndef STORE_DESK_PARTS_H
#define STORE_DESK_PARTS_H

#include "base/effort.h"
#include "base/map.h"
#include "base/memory.h"
#include "store/desk.h"
#include "store/lines.h"
#include "store/rate.h"
#include "store/settings.h"
#include "wire/frame.h"

struct worker {
    void *peer;
    size_t peer_size;
    size_t at;                // in the desk's workers
    char *name;
    struct settings settings;
    struct line *line;        // NULL: takes no items
    int64_t policy, reward, run;
    int64_t want;             // items
    struct item_list held;
    double heard_s, said_s;
    bool spoke;               // since the last commit
    bool welcomed;            // its hello is committed, and was told of
    int64_t missing_at_first; // the outputs that its welcome told
    struct rate rate;         // of outputs, or of batches handed to train
    long long outputs;        // that were new
    int64_t effort_ms[EFFORT_COUNT], unstored_ms[EFFORT_COUNT];  // as it reported: in this conversation, and not yet stored of that
    bool taken_over;          // another train has its run
    bool told;                // that nothing can be handed out now
    bool idle_due;
    int64_t told_missing;
    bool told_final;
    int32_t *acks;            // (ack_count) outputs to acknowledge after the commit
    size_t ack_count, ack_capacity;
    struct buffer asked;      // fetch, find and read frames, until they are answered
    /* Items that went back while it was silent, in case it has vanished. */
    bool silent, blamed;
    struct work_item *lost;   // (lost_count)
    size_t lost_count;
};

struct reply {
    size_t peer_at, peer_size, at, size;  // in the buffer of replies
};

struct desk {
    struct db *db;
    struct desk_options options;
    struct lines lines;
    struct worker **workers;  // (worker_count)
    struct map by_peer;       // the same
    size_t worker_count, turn;
    struct arena arena;
    struct buffer replies;
    struct reply *index;      // (index_count)
    size_t index_count, index_capacity;
    bool failed;              // something since the last commit could not be read or written
    bool in_trouble;          // and it has been said
    bool news;                // rows were added since the last commit
    double looked_s;          // for changes by other processes
    double opened_s;          // when the first frame came; 0: not yet
    double tokenize_s;        // when a tokenize was last here, or the desk was opened; 0: not yet known
    struct desk_counters counters, committed;  // committed: as they were at the last commit
};

/* Frames among the parcels.  A refusal may also go to somebody who is no worker. */
void desk_reply(struct desk *desk, struct worker *worker, const struct frame *frame, double now_s);
/* Finds what others have changed in the database meanwhile ('store retry'). */
void desk_look(struct desk *desk);
void desk_refuse(struct desk *desk, const void *peer, size_t peer_size, int64_t item, int64_t output, bool fatal,
                 const char *reason);

struct worker *worker_find(const struct desk *desk, const void *peer, size_t peer_size);
void worker_add(struct desk *desk, struct worker *worker);  // keeps worker
void worker_free(struct worker *worker);                    // that was not added
/* The end of a conversation: what the worker held is offered to others, and nothing is held against anything. */
void worker_leave(struct desk *desk, struct worker *worker);
/* It was only slow: what was counted against its items is taken back. */
void worker_pardon(struct worker *worker);

/* A hello, from whoever it comes. */
void desk_greet(struct desk *desk, const void *peer, size_t peer_size, const struct frame_hello *hello, double now_s);

/* To who has read what it was sent: answers to what it asked for; items, as many as it wants.  0 or -1. */
void desk_answer(struct desk *desk, double now_s);
int desk_hand_out(struct desk *desk, double now_s);

#endif
