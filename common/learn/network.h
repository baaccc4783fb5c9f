/*
 * network.h - a decoder with its parameters, and the loss of packed sequences with its gradient, in float32.
 *
 * Runs every family that a model_config describes: what differs between families is a flag of the config.  A value model has a
 * value head and keeps the LM head of its weights untouched; a language model has no value head.
 *
 * Work is cut by shapes alone (blocks of rows, heads of sequences, blocks of weights) and handed to the pool; what several tasks
 * contribute to one sum is added in task order.  So no bit depends on the number of threads.
 *
 *     M rows   C channels   L layers   V vocabulary
 */
#ifndef LEARN_NETWORK_H
#define LEARN_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "learn/activations.h"
#include "learn/parameters.h"
#include "learn/product.h"

/* Weights of a layer that are multiplied as one; their parts lie together, and so do their biases. */
enum linear_name { LINEAR_QKV, LINEAR_O, LINEAR_GATE_UP, LINEAR_DOWN, LINEAR_COUNT };
enum { LINEAR_PARTS_MAX = 3 };
struct linear {
    size_t N, K;
    size_t part_count;
    struct linear_part {
        enum weight_role role;
        size_t first, rows;     // of the N outputs
        size_t adapter;         // its place among the targets of the matrix; SIZE_MAX: no target
    } parts[LINEAR_PARTS_MAX];
    size_t adapter_first, adapter_count;  // targets of a layer before these, and these
    enum weight_role bias;      // of the first part
};

struct network {
    struct parameters parameters;
    struct linear linears[LINEAR_COUNT];
    const struct product_kernels *products;
    struct pool *pool;
    struct activations activations;
    // Called in a backward pass when it has nothing more to add to the gradients from first on; NULL: nobody asks.
    void (*ready)(void *ready_context, size_t first);
    void *ready_context;
};

/* Parameters are zero.  Keeps pool. */
void network_init(struct network *network, const struct model_config *config, enum objective objective,
                  const struct lora_options *lora, enum products products, bool recompute, struct pool *pool);
void network_free(struct network *network);

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
 * The sum of the counted rows' losses.  With backward, scale times its gradient is added to the parameters' gradients.
 * value: (counted) out, or NULL for language models.
 */
double network_loss(struct network *network, const struct packed_rows *rows, float scale, bool backward, float *value);

#endif
