/*
 * reduce.h - the gradient of a batch: that of its parts, added up here and across ranks in the order of sum_tree.h.
 *
 * A rank computes its parts one after the other.  For each: reduce_part, which empties the gradients; the backward passes over the
 * part, the last of which may say through reduce_ready how far down it has come; reduce_part_end.  Then reduce_end.  From the
 * rank's last part on what is ready is added up across ranks while the backward pass goes on.
 */
#ifndef LEARN_REDUCE_H
#define LEARN_REDUCE_H

#include <stddef.h>

#include "base/pool.h"
#include "learn/parameters.h"
#include "learn/ranks.h"
#include "learn/sum_tree.h"

struct reduce {
    struct parameters *parameters;
    struct ranks *ranks;
    struct pool *pool;
    struct sum_span span;    // this rank's parts
    float **waiting;         // (waiting_max) of trained_count: the first waiting_count wait for the other half of their node
    size_t waiting_max, waiting_count;
    size_t part;             // at work
    size_t closing;          // nodes whose sum is complete with it
    size_t ready;            // floats from here on are this rank's sum so far
    size_t *bounds;          // (bound_count) falling to 0: from one to the next is one sum across ranks, whatever is ready when
    size_t bound_count, bounds_begun;
};

/* Keeps all three; ranks_count(ranks) <= parts. */
void reduce_init(struct reduce *reduce, struct parameters *parameters, size_t parts, struct ranks *ranks, struct pool *pool);
void reduce_free(struct reduce *reduce);

void reduce_part(struct reduce *reduce, size_t part);
/* The part's gradient is complete in the floats from first on.  context: the reduce. */
void reduce_ready(void *context, size_t first);
void reduce_part_end(struct reduce *reduce);
/* The parameters' gradients are those of the batch. */
void reduce_end(struct reduce *reduce);

/* Bytes that reduce_init and what follows take. */
size_t reduce_size_bytes(const struct parameters *parameters, size_t parts, const struct ranks *ranks);

#endif
