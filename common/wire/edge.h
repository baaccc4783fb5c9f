/*
 * edge.h - where a stage's inputs come from and its outputs go to: a store, or standard input and output.
 *
 * As a worker of a store the edge says hello, asks for as many items as the stage can hold, keeps every output until the
 * store has committed it, answers heartbeats, and survives a store that is restarted.  Between pipes it reads
 * frames from standard input and writes them to standard output.  The stage cannot tell the difference.
 *
 * Not thread-safe.  A stage calls edge_take at least every few seconds, also when it wants nothing (max 0): that is its heartbeat;
 * or edge_background_begin, before it computes for long.
 */
#ifndef WIRE_EDGE_H
#define WIRE_EDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/frame.h"

struct edge;

struct edge_options {
    const char *endpoint;     // of the store; NULL: pipes
    const char *stage;        // "rollout"
    const char *settings;     // JSON object for hello, see schemas/README.md; NULL in pipes
    enum frame_type takes;    // the only frame type that edge_take gives
    bool takes_nothing;       // a source: never reads
    bool gives_nothing;       // a sink: in a pipe, frames that it does not take end here
    bool follow;              // wait for more when nothing is missing
    size_t hold_max;          // items the stage may hold at once, >= 1; the store never sends more than that
};

/*
 * Files with the keys of this process, for stores at tcp:// that want some (curve.h); both or neither.  NULL: the
 * environment's VAS_KEY and VAS_STORE_KEY.
 */
struct edge_keys {
    const char *own, *store;
};
extern struct edge_keys edge_keys;

struct curve_pair;
/*
 * Reads them for a store at this endpoint: into *pair and store_key (CURVE_KEY_SIZE), and into *files where they were, NULL when
 * none are to be used.  An exit code, logged.
 */
int edge_keys_read(struct edge_keys *files, struct curve_pair *pair, char *store_key, const char *endpoint);

/* The options that set them, for the table of a program (option.h). */
#define EDGE_KEY_OPTIONS \
    { 0, "key", "FILE", OPTION_TEXT, &edge_keys.own, 0, 0, \
      "this worker's secret key, for a store that wants keys\n(default VAS_KEY)" }, \
    { 0, "store-key", "FILE", OPTION_TEXT, &edge_keys.store, 0, 0, "that store's public key (default VAS_STORE_KEY)" }

/*
 * NULL on failure, logged; *code is then the exit code: 64 standard input is a terminal or the endpoint is none, 69 no store
 * answers within 30 s, 77 the store refuses our key, or we the store's, 78 the store refused the settings, 75 a signal came
 * first, or what is wrong with a key file.  Installs stop.h.
 */
struct edge *edge_open(const struct edge_options *options, int *code);

bool edge_is_pipe(const struct edge *edge);
/* What the store added in its welcome, a JSON object; "{}" in pipes.  Valid until edge_close. */
const char *edge_welcome(const struct edge *edge);
/* Outputs that the store lacked at the welcome, for progress; 0 when not known. */
int64_t edge_missing(const struct edge *edge);

enum edge_status {
    EDGE_BATCH,    // at least one frame
    EDGE_EMPTY,    // nothing now; only when wait is false
    EDGE_END,      // no more: end of input; nothing is missing and follow is not set; or nothing can ever be missing again
    EDGE_STOPPED,  // SIGTERM or SIGINT: finish what is held, then close
    EDGE_FAILED,   // logged
};

struct batch {
    struct frame *frames;  // (count), valid until edge_done
    size_t count;
};

/*
 * Takes 1 to max frames.  wait: until there is one; otherwise returns at once.  max 0 only serves the connection and
 * sends what was given (EDGE_EMPTY or EDGE_FAILED).  Several batches may be open at once.
 * Targets of a store come in whole batches, so max and hold_max must have room for one.
 * Frames of another type in a pipe are passed through to standard output (a rollout stream keeps its metrics).
 * Frames that do not decode are refused with a line on standard error, counted, and skipped.
 */
enum edge_status edge_take(struct edge *edge, struct batch *batch, size_t max, bool wait);
/*
 * The frames of the batch end; those whose outputs are still to come stay leased.  An item counts against hold_max until its
 * output or failure is given; an item without a lease (item 0: what train takes) until now.
 */
void edge_done(struct edge *edge, struct batch *batch);

/*
 * Sends an output.  Copies.  An output whose item is set ends that lease.  Waits while 1024 outputs or 64 MiB are unacknowledged.
 * 0, or -1 when it can never arrive (logged): no store for 10 minutes, or standard output broken or a terminal.
 */
int edge_give(struct edge *edge, struct frame *output);
/* Instead of an output: this item cannot be done.  In a pipe it is logged and counted. */
int edge_fail(struct edge *edge, int64_t item, const char *reason);

/*
 * Appends the bytes of a checkpoint, their digest verified: kind "weights" or "full", step -1 for the newest.
 * 0 and *found_step; 1 when there is none (always in pipes); -1 on failure, logged.
 */
int edge_fetch(struct edge *edge, const char *run, int64_t step, const char *kind, struct buffer *out, int64_t *found_step);
/*
 * The files of a model that the store shares, by name or digest: appends the JSON array of the frame "model".  A store's edge only.
 * 0; 1 when the store has no such model, -1 on failure, logged.
 */
int edge_fetch_model(struct edge *edge, const char *model, struct buffer *files);
/*
 * Bytes [offset, size) of the file that has this SHA-256, piece by piece in order; take returns 0 to go on.  The bytes are not
 * verified.  0; 1 when the store refuses it, logged; -1 on failure, logged; or what take returned.
 */
typedef int file_taker(void *context, const void *data, size_t size);
int edge_fetch_file(struct edge *edge, const char *sha256, int64_t offset, int64_t size, file_taker *take, void *context);
/*
 * Sends a checkpoint to the store in chunks while the stage goes on, and takes content over; waits until the one before is on its
 * way.  Later outputs may arrive before it.  0, or -1 logged: the store has refused an output meanwhile, or cannot be reached.
 */
int edge_give_checkpoint(struct edge *edge, const char *run, int64_t step, int64_t batch, const char *kind, bool final,
                         struct buffer *content);

/*
 * Between these a thread of the edge keeps the conversation with the store going, sending what was given and taking in what comes,
 * while the stage computes: it calls nothing of the edge, nor effort.h.
 */
void edge_background_begin(struct edge *edge);
void edge_background_end(struct edge *edge);

/*
 * Waits until every output is committed, says bye, flushes.  Returns the stage's exit code: status is the last that
 * edge_take gave, or EDGE_FAILED when the stage itself failed.
 *
 *     0   all was handled                         74  standard output could not be written
 *     64  standard output is a terminal           75  stopped before the end, or no store for 10 minutes
 *     65  frames or outputs were refused,         77  the store refuses our key
 *         or EDGE_FAILED without another reason   78  the store refused to talk further
 *
 * In a pipe an item given to edge_fail makes it 65; a store keeps such items as failures.
 */
int edge_close(struct edge *edge, enum edge_status status);

#endif
