/*
 * edge_parts.h - what the two lives of an edge share.  Only for edge*.c and their tests.
 */
#ifndef WIRE_EDGE_PARTS_H
#define WIRE_EDGE_PARTS_H

#include "wire/edge.h"

/* All in seconds. */
struct edge_times {
    double beat;     // between beats, and between hellos until the welcome
    double lost;     // of silence until the connection is made anew, or until outputs are sent again
    double open;     // until the first welcome
    double give_up;  // of silence until the worker leaves
    double stop;     // the same once it was asked to stop
};

enum {
    SLICE_MS = 200,                // the longest wait that does not look for a signal
    BATCH_BYTES_MAX = 256 << 20,   // of one batch's frames
};

/* The memory behind a struct batch. */
struct batch_memory {
    struct batch_memory *next;
    struct arena arena;
    struct frame *frames;
    size_t count, capacity;  // frames
    size_t bytes;            // of the frames as they arrived
    size_t unleased;         // frames that no output will answer
};

struct edge {
    struct edge_options options;  // its texts are the edge's own
    int failure;                  // exit code once nothing can be done any more; 0
    int64_t taken, given, failed, refused, passed;  // frames
    struct batch_memory *batches;  // that the stage has
    struct batch_memory *spare;
    struct edge_pipe *pipe;        // one of these two
    struct edge_store *store;
};

/* Empty memory for a batch; batch_give hands it to the stage, batch_drop takes it back. */
struct batch_memory *batch_begin(struct edge *edge);
struct frame *batch_slot(struct batch_memory *memory);  // where the next frame goes; counts when count is raised
void batch_give(struct edge *edge, struct batch_memory *memory, struct batch *batch);
void batch_drop(struct edge *edge, struct batch_memory *memory);

struct edge *edge_open_timed(const struct edge_options *options, const struct edge_times *times, int *code);

int pipe_open(struct edge *edge);  // an exit code
void pipe_close(struct edge *edge);
enum edge_status pipe_take(struct edge *edge, struct batch *batch, size_t max, bool wait);
int pipe_give(struct edge *edge, const struct frame *output);

int store_open(struct edge *edge, const struct edge_times *times);  // an exit code
void store_close(struct edge *edge);
enum edge_status store_take(struct edge *edge, struct batch *batch, size_t max, bool wait);
void store_done(struct edge *edge, const struct batch_memory *memory);
int store_give(struct edge *edge, struct frame *output);
/* The frame says all but digest, offset and data. */
int store_give_checkpoint(struct edge *edge, const struct frame *frame, struct buffer *content);
void store_background_begin(struct edge *edge);
void store_background_end(struct edge *edge);
const char *store_welcome(const struct edge *edge);
int64_t store_missing(const struct edge *edge);
/* False when it could not be sent now. */
bool store_send(struct edge *edge, const struct frame *frame);

/* What a worker asks a store beside work (edge_fetch.c). */
struct question {
    void (*ask)(struct question *question, struct edge *edge);  // sends what is still to be asked; called in every turn
    void (*forget)(struct question *question);                  // what was asked may never be answered
    bool (*answer)(struct question *question, struct edge *edge, const struct frame *frame);  // false: the frame is no answer
    void (*refused)(struct question *question, const char *reason);
    bool ended;
    int64_t conversation;  // in which it was asked; -1: not yet
    double heard_s;        // when it was asked or an answer came
};
/* Until it has ended.  0, or -1: the store is gone or a signal came first, logged. */
int store_ask(struct edge *edge, struct question *question);

#endif
