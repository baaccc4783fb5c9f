/*
 * The gradient of the whole loss, weight by weight, against central differences of the loss along that gradient
 * and along a random direction.  A single element would drown in float32's rounding; a direction does not.
 */
#include "learn/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/philox.h"
#include "base/pool.h"
#include "../check.h"

enum { ROWS = 40, COUNTED = 30, SEQUENCES = 4, VOCABULARY = 23 };

static struct model_config config_of(int64_t head_count, int64_t kv_head_count, int64_t head_size, bool tied)
{
    return (struct model_config){
        .vocab_size = VOCABULARY, .channel_count = 20, .layer_count = 2, .head_count = head_count, .kv_head_count = kv_head_count,
        .head_size = head_size, .ff_count = 14, .position_max = 32, .rope_theta = 100.0, .norm_epsilon = 1e-3,
        .tied_embeddings = tied,
    };
}

/* Sequences of 1, 25, 6 and 8 tokens; three rows in four count. */
struct rows {
    int32_t token[ROWS], position[ROWS], next[ROWS];
    size_t start[SEQUENCES + 1], row[ROWS];
    float target[ROWS];
    struct packed_rows packed;
};

static void rows_fill(struct rows *rows)
{
    const size_t start[SEQUENCES + 1] = { 0, 1, 26, 32, ROWS };
    memcpy(rows->start, start, sizeof start);
    size_t counted = 0;
    for (size_t sequence = 0; sequence < SEQUENCES; sequence++) {
        for (size_t m = start[sequence]; m < start[sequence + 1]; m++) {
            rows->token[m] = (int32_t)(philox_uniform(3, PHILOX_DATA, 0, 0, (uint32_t)m) * VOCABULARY);
            rows->position[m] = (int32_t)(m - start[sequence]);
            if (m % 4 == 2)
                continue;
            rows->row[counted] = m;
            rows->next[counted] = (int32_t)(philox_uniform(3, PHILOX_DATA, 1, 0, (uint32_t)m) * VOCABULARY);
            rows->target[counted] = (float)philox_normal(3, PHILOX_DATA, 2, 0, (uint32_t)m);
            counted++;
        }
    }
    rows->packed = (struct packed_rows){
        .M = ROWS, .sequences = SEQUENCES, .counted = counted, .token = rows->token, .position = rows->position,
        .start = rows->start, .row = rows->row, .target = rows->target, .next = rows->next,
    };
}

/* (loss(p + h u) - loss(p - h u)) / 2h for the unit vector u along direction, on one weight. */
static double slope_along(struct network *network, const struct parameter *parameter, const double *direction,
                          const struct rows *rows)
{
    const double h = 2e-2;  // float32 losses near 3 differ by 1e-2: rounding of 1e-6 and h^2 each leave about 1e-4
    float *p = network->parameters.floats + parameter->first, *old = memory_alloc(parameter->count, sizeof *old);
    float value[ROWS];
    double norm = 0.0, loss[2];
    memcpy(old, p, parameter->count * sizeof *p);
    for (size_t i = 0; i < parameter->count; i++)
        norm += direction[i] * direction[i];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < parameter->count; i++)
            p[i] = (float)(old[i] + (side == 0 ? h : -h) * direction[i] / sqrt(norm));
        loss[side] = network_loss(network, &rows->packed, 1.0f, false, value) / COUNTED;
    }
    memcpy(p, old, parameter->count * sizeof *p);
    free(old);
    return (loss[0] - loss[1]) / (2 * h);
}

static void expect_slopes(struct network *network, const struct rows *rows)
{
    const struct parameters *parameters = &network->parameters;
    for (size_t i = 0; i < parameters->table_count && parameters->table[i].trained; i++) {
        const struct parameter *parameter = &parameters->table[i];
        const float *gradient = parameters->gradients + parameter->first;
        double *direction = memory_alloc(parameter->count, sizeof *direction);
        for (int kind = 0; kind < 2; kind++) {
            double length = 0.0, slope = 0.0;
            for (size_t k = 0; k < parameter->count; k++) {
                direction[k] = kind == 0 ? gradient[k] : philox_normal(9, PHILOX_DATA, i, 0, (uint32_t)k);
                length += direction[k] * direction[k];
                slope += direction[k] * gradient[k];
            }
            double expected = slope_along(network, parameter, direction, rows);
            if (!(fabs(slope / sqrt(length) - expected) <= 1e-4 + 4e-3 * fabs(expected)))
                TEST_FAIL("slope %d of %s is %.7g, differences say %.7g", kind, parameter->name, slope / sqrt(length), expected);
        }
        free(direction);
    }
}

static void expect_gradient(struct model_config config, enum objective objective, struct lora_options lora)
{
    struct pool *pool = pool_open(1);
    struct network network;
    struct rows rows;
    float value[ROWS];
    network_init(&network, &config, objective, &lora, PRODUCTS_FLOAT32, false, pool);
    for (size_t i = 0; i < network.parameters.count; i++)
        network.parameters.floats[i] = 0.3f * (float)philox_normal(5, PHILOX_DATA, 0, 0, (uint32_t)i);
    rows_fill(&rows);
    EXPECT_INT(rows.packed.counted, COUNTED);
    network_loss(&network, &rows.packed, 1.0f / COUNTED, true, value);
    expect_slopes(&network, &rows);
    network_free(&network);
    pool_close(pool);
}

static const struct lora_options none;

/* Goal: the value loss, heads that share keys, embeddings tied or not (then the LM head has no gradient at all). */
static void test_value_loss(void)
{
    expect_gradient(config_of(4, 2, 6, false), OBJECTIVE_VALUE, none);
    expect_gradient(config_of(2, 1, 10, true), OBJECTIVE_VALUE, none);
}

/* Goal: cross entropy with an LM head of its own. */
static void test_lm_loss_untied(void)
{
    expect_gradient(config_of(4, 2, 6, false), OBJECTIVE_LM, none);
}

/* Goal: cross entropy where the embedding is met at both ends. */
static void test_lm_loss_tied(void)
{
    expect_gradient(config_of(3, 3, 8, true), OBJECTIVE_LM, none);
}

/* Goal: biases everywhere, LayerNorm, learned positions and a plain feed-forward (GPT-2's arithmetic). */
static void test_layer_norm_and_biases(void)
{
    struct model_config config = config_of(4, 4, 5, true);
    config.norm = NORM_LAYER;
    config.learned_positions = config.plain_ff = config.qkv_bias = config.o_bias = config.ff_bias = true;
    for (config.activation = ACTIVATION_GELU_TANH; config.activation <= ACTIVATION_GELU; config.activation++) {
        expect_gradient(config, OBJECTIVE_VALUE, none);
        expect_gradient(config, OBJECTIVE_LM, none);
    }
}

/* Goal: norms of single heads, and biases of q, k, v only (Qwen's arithmetic), beside gated biases. */
static void test_head_norms(void)
{
    struct model_config config = config_of(4, 2, 6, false);
    config.qk_norm = config.qkv_bias = config.ff_bias = true;
    expect_gradient(config, OBJECTIVE_VALUE, none);
    expect_gradient(config, OBJECTIVE_LM, none);
}

/* Goal: post norms, scales, soft caps, a gated GELU and a window in every other layer (Gemma-2's arithmetic). */
static void test_post_norms_caps_and_windows(void)
{
    struct model_config config = config_of(4, 2, 6, true);
    config.post_norms = true;
    config.activation = ACTIVATION_GELU_TANH;
    config.embedding_scale = 1.7;
    config.attention_scale = 0.6;
    config.attention_cap = 1.2;
    config.logit_cap = 1.5;
    config.window = 5;
    config.window_period = 2;
    expect_gradient(config, OBJECTIVE_VALUE, none);
    expect_gradient(config, OBJECTIVE_LM, none);
}

/* Goal: adapters of all matrices, of some, gated and plain, have the gradients of W + alpha / R B A,
   and nothing else but the value head has any. */
static void test_lora(void)
{
    struct lora_options lora = { .rank = 3, .alpha = 4.5 };
    EXPECT_INT(lora_targets_read("q,k,v,o,gate,up,down", &lora.targets), 0);
    expect_gradient(config_of(4, 2, 6, false), OBJECTIVE_VALUE, lora);
    expect_gradient(config_of(4, 2, 6, true), OBJECTIVE_LM, lora);
    EXPECT_INT(lora_targets_read("v,down,up", &lora.targets), 0);
    struct model_config config = config_of(2, 2, 5, true);
    config.learned_positions = config.plain_ff = config.qkv_bias = config.o_bias = config.ff_bias = config.post_norms = true;
    expect_gradient(config, OBJECTIVE_VALUE, lora);
    expect_gradient(config, OBJECTIVE_LM, lora);
}

int main(void)
{
    RUN(test_value_loss);
    RUN(test_lm_loss_untied);
    RUN(test_lm_loss_tied);
    RUN(test_layer_norm_and_biases);
    RUN(test_head_norms);
    RUN(test_post_norms_caps_and_windows);
    RUN(test_lora);
    return tests_end();
}
