/*
 * adamw.h - Adam with decoupled weight decay (arXiv 1711.05101), gradients clipped by their global norm.
 *
 * Parameters, gradients and both moments are float32 and lie in the same order; they are cut into blocks that threads
 * share, each wholly decayed or not.  The square of the norm is added up in double, block after block, so no bit
 * depends on the number of threads.
 *
 * Where a gradient and both moments are 0 a step changes nothing but by decay: of an embedding whose tokens have not been met it
 * reads the gradient only.
 */
#ifndef LEARN_ADAMW_H
#define LEARN_ADAMW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"

struct adamw_options {
    double beta1, beta2, epsilon, weight_decay;
};

enum { ADAMW_CHUNK = 256, ADAMW_BLOCK = 32 * ADAMW_CHUNK };  // floats: four arrays of a block fit the second-level cache

struct adamw_block {
    size_t first, count;  // floats
    bool decayed;
    uint32_t resting;     // chunks, of ADAMW_CHUNK floats, whose moments are known to be 0
};

struct adamw {
    struct adamw_options options;
    struct pool *pool;
    struct adamw_block *blocks;
    size_t block_count;
    double *squares;      // (block_count)
    size_t count;
    float *m, *v;         // (count): means of the gradient and of its square
};

/* Moments of count floats, zero.  Keeps pool. */
void adamw_init(struct adamw *adamw, const struct adamw_options *options, size_t count, struct pool *pool);
void adamw_free(struct adamw *adamw);
/* Appends count floats from first on; every float belongs to one call. */
void adamw_cover(struct adamw *adamw, size_t first, size_t count, bool decayed);

/* The Euclidean norm of all gradients; not finite if one of them is not. */
double adamw_norm(struct adamw *adamw, const float *gradients);
/* To be called when m and v were written by others. */
void adamw_moments_changed(struct adamw *adamw);
/* Update number step (from 1) with gradients times gradient_scale. */
void adamw_step(struct adamw *adamw, float *parameters, const float *gradients, double gradient_scale,
                double learning_rate, int64_t step);

#endif
