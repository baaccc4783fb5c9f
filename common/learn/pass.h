/*
 * pass.h - one pass over packed rows, as network.c cuts it into layers and heads.  Internal to common/learn.
 *
 * Functions that take a block or a task are run by the threads of the pool.
 */
#ifndef LEARN_PASS_H
#define LEARN_PASS_H

#include "learn/network.h"

enum {
    OUTPUT_BLOCK = 192,  // rows of a weight whose gradient is one task
    CHANNEL_BLOCK = 64,  // channels of an embedding whose gradient is one task
};

struct pass {
    struct network *network;
    const struct model_config *config;
    const struct packed_rows *rows;
    struct activations *a;
    struct sizes s;
    size_t M;            // of this pass: layers lie M rows apart
    size_t block;        // rows of a task
    size_t l;            // the layer at work
    struct right weight[LINEAR_COUNT];  // the layer's matrices, as far as they are packed
    struct right input[LINEAR_COUNT];   // what they were multiplied with, as far as it is packed
    struct right a_packed[LINEAR_COUNT], b_packed[LINEAR_COUNT][LINEAR_PARTS_MAX];  // their adapters: all A as one, and scale B
    bool again;          // a forward step computes once more what it kept
    float scale;
    bool backward;
    size_t first, chunk; // counted rows whose logits are held
};

/* Tokens to hidden states after the final norm. */
void layers_forward(struct pass *pass);
/* From dhidden to the gradients of everything below the heads. */
void layers_backward(struct pass *pass);

/*
 * Adapters of a matrix: y += scale (x A^T) B^T for each target among its parts.  y, x, dy and dx point to row m; where a matrix has
 * no target nothing happens.
 */
void adapters_place(struct pass *pass, bool forward);
void adapters_pack(const struct pass *pass, enum linear_name name, size_t l, size_t thread);
void adapters_forward(const struct pass *pass, enum linear_name name, size_t l, float *y, const float *x, size_t m, size_t count);
/* Only what forward keeps for backward: x A^T. */
void adapters_down(const struct pass *pass, enum linear_name name, size_t l, const float *x, size_t m, size_t count);
/* dx NULL: nobody asks for it. */
void adapters_backward(const struct pass *pass, enum linear_name name, float *dx, const float *dy, size_t m, size_t count);
/* A task adds to the gradients of some columns of A or rows of B.  x: (M, K) and dy: (M, N), all rows. */
size_t adapters_gradient_tasks(const struct pass *pass, enum linear_name name);
void adapters_gradient(const struct pass *pass, enum linear_name name, const float *x, const float *dy, size_t task, size_t thread);

/* The loss of the counted rows, with backward its gradient and dhidden.  value: (counted) out. */
double heads_loss(struct pass *pass, float *value);

#endif
