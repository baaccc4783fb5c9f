/*
 * activations.h - room for what a pass over M rows keeps from forward to backward, and for gradients on the way down.
 *
 * Arrays of things that a config lacks are empty.
 *
 *     M rows   C channels   L layers   F feed-forward width   A = NH HS   QK = (NH + NKV) HS   Q = QK + NKV HS
 *     G = 2F, gate and up together, or F where there is no gate   V vocabulary   R rank of LoRA
 */
#ifndef LEARN_ACTIVATIONS_H
#define LEARN_ACTIVATIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "learn/attention.h"
#include "learn/parameters.h"

enum {
    LOGIT_ROWS = 192,        // counted rows of a task
    NORM_GRADIENTS = 8,      // vectors of a layer's norms
    ADAPTER_COLUMNS = 128, ADAPTER_ROWS = 128,  // of a task of an adapter's gradient, and rows that it sums at once
    LOGITS_MAX = 16 << 20,   // logits held at once: 384 rows of a vocabulary of 32,000
};

struct sizes {
    size_t C, L, F, A, QK, Q, G, NH, NKV, HS, V, R;
    size_t lora_parts;      // targets in a layer
    size_t norm_width;      // the widest norm
};
struct sizes sizes_from(const struct parameters *parameters);

/* Rows of a task: few enough for the second-level cache, and so that 2, 4 or 8 threads end together. */
size_t row_block(size_t M);

struct activations {
    bool recompute;         // what forward keeps is one layer's only, but for x
    size_t M, T;            // rows, and longest sequence, that there is room for
    float *block;           // holds all of the following but angles and scratch
    // kept by forward, a layer each, or, to recompute, of the last layer run: L is 1 but in x
    float *x;               // (L + 1, M, C): before each layer, after the last
    float *rstd_attn;       // (L, M)
    float *norm_attn;       // (L, M, C)
    float *qk;              // (L, M, QK): queries and keys before their norms
    float *rstd_qk;         // (L, M, NH + NKV)
    float *qkv;             // (L, M, Q), rotated
    float *attn;            // (L, M, A)
    float *lse;             // (L, M, NH)
    float *attn_out;        // (L, M, C): before its norm
    float *rstd_attn_post;  // (L, M)
    float *mid;             // (L, M, C)
    float *rstd_ff;         // (L, M)
    float *norm_ff;         // (L, M, C)
    float *gate_up;         // (L, M, G)
    float *lora_down;       // (lora_parts, L, M, R): x A^T
    float *ff_out;          // (L, M, C): before its norm
    float *rstd_ff_post;    // (L, M)
    // for one layer at a time
    float *act, *dact;      // (M, F)
    float *dgate_up;        // (M, G)
    float *dattn;           // (M, A)
    float *dqkv;            // (M, Q)
    float *dqk;             // (M, QK)
    float *dx, *dmid, *dx_next;  // (M, C): gradients of x, mid and the next layer's x
    float *dattn_out, *dff_out;  // (M, C)
    float *dnorm;           // (M, C)
    float *dnorm_parts;     // (NORM_GRADIENTS, blocks, norm_width): a part for each block of rows
    float *weights_packed;  // the matrices of a layer for product.h
    float *inputs_packed;   // what they are multiplied with
    float *adapters_packed; // their adapters
    float *lora_up;         // (lora_parts, M, R): scale dy B
    // heads
    float *rstd_final;      // (M)
    float *hidden;          // (M, C) after the final norm
    float *dhidden;         // (M, C)
    float *chosen;          // (M, C): hidden of counted rows
    float *dchosen;         // (M, C)
    float *loss;            // (M) of counted rows
    float *dvalue;          // (M)
    float *logits;          // (logit rows, V)

    float *cosine, *sine;   // (T, HS / 2)
    float *scratch;         // (threads, scratch_count), for attention, rows of rounded matrices and adapters
    size_t scratch_count;
};

/* Where row m of layer l begins in what forward keeps but x, in rows, in a pass over M rows. */
static inline size_t kept_row(const struct activations *activations, size_t M, size_t l, size_t m)
{
    return activations->recompute ? m : l * M + m;
}

/* Makes room for M rows whose longest sequence has T positions; never less than before. */
void activations_reserve(struct activations *activations, const struct parameters *parameters, size_t M, size_t T, size_t threads);
void activations_free(struct activations *activations);

/* Bytes that activations_reserve takes. */
size_t activations_size_bytes(const struct parameters *parameters, bool recompute, size_t M, size_t T, size_t threads);

/* Counted rows whose logits are held at once: whole blocks where there are more. */
size_t logit_rows(const struct parameters *parameters, size_t M);

static inline size_t blocks_of(size_t count, size_t block)
{
    return (count + block - 1) / block;
}

static inline size_t block_size(size_t count, size_t block, size_t index)
{
    return count - index * block < block ? count - index * block : block;
}

#endif
