/*
 * network.h - the parameters of a decoder, and the loss of packed sequences with its gradient, in float32.
 *
 * The Llama family: RMSNorm, rotary positions in Hugging Face's row order, grouped key/value heads, SwiGLU, tied or untied
 * embeddings.  A value model has a value head and keeps the LM head of its weights untouched; a language model has
 * no value head.
 *
 * Work is cut by shapes alone (blocks of rows, heads of sequences, blocks of weights) and handed to the pool; what several tasks
 * contribute to one sum is added in task order.  So no bit depends on the number of threads.
 *
 *     M rows   C channels   L layers   F feed-forward width   A = NH HS   Q = (NH + 2 NKV) HS
 */
#ifndef LEARN_NETWORK_H
#define LEARN_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "learn/trainer.h"
#include "model/config.h"

/* One weight among the parameters.  Trained ones come first, in the order of a forward pass; a frozen LM head is last. */
struct parameter {
    enum weight_role role;
    int64_t layer;        // 0 where there is one for all layers
    char name[WEIGHT_NAME_SIZE];  // Hugging Face's
    size_t rank;
    int64_t shape[2];
    size_t first, count;  // floats in parameters
};

/* Where the weights of one layer begin, in floats; q, k, v and gate, up lie together and are multiplied as one. */
struct layer_offsets {
    size_t attn_norm, qkv, o, ff_norm, gate_up, down;
};

struct activations;

struct network {
    struct model_config config;
    enum objective objective;
    struct pool *pool;

    struct parameter *table;      // (table_count)
    size_t table_count;
    size_t count, trained_count;  // floats
    float *parameters;            // (count)
    float *gradients;             // (trained_count), sums since network_zero_gradients
    struct layer_offsets *layers; // (L)
    size_t embedding, final_norm, lm_head, value, value_bias;  // first floats; lm_head is the embedding if tied

    struct activations *activations;
};

/* Parameters are zero.  Keeps pool. */
void network_init(struct network *network, const struct model_config *config, enum objective objective, struct pool *pool);
void network_free(struct network *network);

/* Like transformers: normal with deviation 0.02, those that end a residual branch divided by sqrt(2L), norms 1, value head 0. */
void network_randomise(struct network *network, uint64_t seed);

void network_zero_gradients(struct network *network);

/* Sequences one after the other, and the rows that count in the loss. */
struct packed_rows {
    size_t M, sequences, counted;
    const int32_t *token;     // (M)
    const int32_t *position;  // (M)
    const size_t *start;      // (sequences + 1): first row of each, then M
    const size_t *row;        // (counted) ascending
    const float *target;      // (counted) value objective
    const int32_t *next;      // (counted) language models: token ids
};

/*
 * The sum of the counted rows' losses.  With backward, scale times its gradient is added to gradients.
 * value: (counted) out, or NULL for language models.
 */
double network_loss(struct network *network, const struct packed_rows *rows, float scale, bool backward, float *value);

#endif
