/* tiny_model.h - small Llama models with random weights, made in memory, for tests of what runs on a model. */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <math.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "model/model.h"
#include "model/weights.h"

/* Grouped-query attention, no size a multiple of a panel but the channels of a head. */
static const struct model_config tiny_config = {
    .family = FAMILY_LLAMA, .vocab_size = 61, .channel_count = 40, .layer_count = 2, .head_count = 4, .kv_head_count = 2,
    .head_size = 10, .ff_count = 52, .position_max = 400, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

/* A safetensors file with a value head; the same for the same seed.  Large weights: attention is far from uniform. */
static inline struct buffer tiny_safetensors(const struct model_config *config, uint64_t seed)
{
    struct tensor_out tensors[64];
    char names[COUNT_OF(tensors)][WEIGHT_NAME_SIZE];
    size_t count = 0;
    for (int role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        if (!weight_present(config, (enum weight_role)role))
            continue;
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            struct tensor_out *tensor = &tensors[count];
            CHECK(count < COUNT_OF(tensors));
            weight_name((enum weight_role)role, l, names[count]);
            *tensor = (struct tensor_out){ .name = names[count] };
            tensor->rank = weight_shape(config, (enum weight_role)role, tensor->shape);
            size_t rows = tensor->rank > 1 ? (size_t)tensor->shape[0] : 1, columns = (size_t)tensor->shape[tensor->rank - 1];
            float *data = memory_alloc(rows * columns, sizeof *data);
            for (size_t i = 0; i < rows * columns; i++) {
                double noise = philox_normal(seed, PHILOX_INIT, count, 0, (uint32_t)i);
                data[i] = (float)(tensor->rank == 1 ? 1.0 + 0.2 * noise : 1.5 * noise / sqrt((double)columns));
            }
            tensor->data = data;
            count++;
        }
    }
    struct buffer file = { 0 };
    safetensors_write(&file, tensors, count, NULL, 0);
    for (size_t i = 0; i < count; i++)
        free((void *)tensors[i].data);
    return file;
}

/* quant: TENSOR_TYPE_COUNT for float32. */
static inline struct model *tiny_model_quantised(const struct model_config *config, uint64_t seed, enum tensor_type quant,
                                                 struct pool *pool)
{
    int code;
    struct buffer file = tiny_safetensors(config, seed);
    struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
    CHECK(weights != NULL);
    struct model *model = model_from_weights_quantised(weights, config, "tiny", quant, pool, &code);
    CHECK(model != NULL);
    weights_close(weights);
    free(file.data);
    return model;
}

static inline struct model *tiny_model(const struct model_config *config, uint64_t seed, struct pool *pool)
{
    return tiny_model_quantised(config, seed, TENSOR_TYPE_COUNT, pool);
}

#endif
