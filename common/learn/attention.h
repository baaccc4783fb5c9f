/*
 * attention.h - causal attention of one sequence with grouped key/value heads, forward and exact backward.
 *
 * Works on one key/value head and the query heads that share it, which is the unit that threads share.  The
 * probabilities are not kept: backward computes them again from the log of their sums, block of queries by block, so
 * memory grows with T and not with T^2.
 *
 *     T positions   NH heads   NKV key/value heads   HS head size   Q = (NH + 2 NKV) HS
 */
#ifndef LEARN_ATTENTION_H
#define LEARN_ATTENTION_H

#include <stddef.h>

#include "learn/product.h"

struct attention_shape {
    size_t NH, NKV, HS;
    size_t window;  // a position sees itself and the window - 1 before it; 0: all
    float scale;    // of the scores q . k
    float cap;      // scaled scores become cap * tanh(score / cap); 0: none
    enum products products;  // BF16: also of probabilities and their gradients; softmax stays in float32
};

/* Floats of scratch that a call for a sequence of T positions needs, whatever its products, 64-byte aligned. */
size_t attention_scratch_count(size_t T, struct attention_shape shape);

/* Fills the heads of out and lse that belong to key/value head g. */
void attention_forward(float *out,        // (T, NH * HS) out
                       float *lse,        // (T, NH) out: log of the sum of exp(scores)
                       const float *qkv,  // (T, Q): queries and keys rotated
                       size_t T, size_t g, struct attention_shape shape, float *scratch);
/* Fills the parts of dqkv that belong to key/value head g. */
void attention_backward(float *dqkv,        // (T, Q) out
                        const float *dout,  // (T, NH * HS)
                        const float *out,   // (T, NH * HS)
                        const float *lse,   // (T, NH)
                        const float *qkv,   // (T, Q)
                        size_t T, size_t g, struct attention_shape shape, float *scratch);

#endif
