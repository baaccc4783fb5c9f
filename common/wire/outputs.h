/*
 * outputs.h - outputs of a worker that the store has not acknowledged yet, and the checkpoint of which chunks are still to become
 * outputs.
 *
 * Output n, counted from 0 over the life of the worker, keeps its bytes until an ack or a refusal names it.  One beyond the limits
 * must wait: outputs_are_full.
 */
#ifndef WIRE_OUTPUTS_H
#define WIRE_OUTPUTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/memory.h"
#include "wire/frame.h"

enum {
    OUTPUTS_MAX = 1024,
    OUTPUTS_BYTES_MAX = 64 << 20,  // beyond which no further output is kept
};

/* A checkpoint of which some chunks are still to become outputs. */
struct parcel {
    struct frame frame;      // of a chunk; run and kind are the parcel's own
    char sha256[DIGEST_HEX_SIZE];
    struct buffer content;   // data NULL: there is none
    size_t given;            // bytes
};

struct output {
    char *bytes;  // NULL once acknowledged
    size_t size;
};

struct outputs {
    struct output kept[OUTPUTS_MAX];  // output n is in kept[n % OUTPUTS_MAX]
    int64_t first, unsent, next;      // first <= unsent <= next; the first without an ack, not sent, not made
    size_t bytes;
    double acked_s;                   // when the last ack came, or something to acknowledge
    struct parcel parcel;
};

bool outputs_are_full(const struct outputs *outputs);
/* Neither an output nor a chunk waits for its ack. */
bool outputs_are_done(const struct outputs *outputs);
static inline int64_t outputs_count(const struct outputs *outputs)
{
    return outputs->next - outputs->first;
}

/* A new one, encoded, its number filled in. */
void outputs_add(struct outputs *outputs, struct frame *frame);
/* The next one to send, NULL when all are on their way; outputs_sent says that it is. */
const struct output *outputs_next(struct outputs *outputs);
void outputs_sent(struct outputs *outputs);
/* All without an ack are sent again. */
void outputs_send_again(struct outputs *outputs);
/* As that, for a store that does not know their leases any more.  scratch is overwritten. */
void outputs_drop_leases(struct outputs *outputs, struct arena *scratch);
/* The output with this number on the wire is the store's, or refused.  False: there is none. */
bool outputs_release(struct outputs *outputs, int64_t number);
void outputs_free(struct outputs *outputs);

/* Takes the content over; the frame says all but digest, offset and data.  What was left of one before is dropped. */
void parcel_put(struct outputs *outputs, const struct frame *frame, struct buffer *content);
bool parcel_waits(const struct outputs *outputs);
/* Chunks become outputs as there is room. */
void parcel_give(struct outputs *outputs);

#endif
