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
    struct right weight[LINEAR_COUNT], input[LINEAR_COUNT];  // matrices of the layer, and what they were multiplied with, as far as packed
    bool again;          // a forward step computes once more what it kept
    float scale;
    bool backward;
    size_t first, chunk; // counted rows whose logits are held
};

/* Tokens to hidden states after the final norm. */
void layers_forward(struct pass *pass);
/* From dhidden to the gradients of everything below the heads. */
void layers_backward(struct pass *pass);

/* The loss of the counted rows, with backward its gradient and dhidden.  value: (counted) out. */
double heads_loss(struct pass *pass, float *value);

#endif
