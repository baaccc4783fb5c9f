/* random_adapter.h - adapters with random matrices and a value head, written as PEFT's files, for tests of what runs on them. */
#ifndef TESTS_RANDOM_ADAPTER_H
#define TESTS_RANDOM_ADAPTER_H

#include <math.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "model/adapter.h"

static inline float *random_floats(size_t count, double scale, uint64_t seed, uint32_t stream)
{
    float *floats = memory_alloc(count, sizeof *floats);
    for (size_t i = 0; i < count; i++)
        floats[i] = (float)(scale * philox_normal(seed, PHILOX_INIT, stream, 0, (uint32_t)i));
    return floats;
}

/* Adapts these roles, those that config has, in every layer; outputs change by about half of what they are. */
static inline void random_adapter(const char *directory, const char *base, const struct model_config *config, size_t rank,
                                  const enum weight_role *roles, size_t role_count, uint64_t seed)
{
    struct adapter_part parts[64];
    size_t count = 0, C = (size_t)config->channel_count;
    for (int64_t l = 0; l < config->layer_count; l++) {
        for (size_t i = 0; i < role_count; i++) {
            struct adapter_module module;
            if (!adapter_module(config, roles[i], l, &module))
                continue;
            CHECK(count < sizeof parts / sizeof *parts);
            parts[count] = (struct adapter_part){ roles[i], l, random_floats(rank * module.K, 1 / sqrt((double)module.K), seed,
                                                  (uint32_t)(2 * count)),
                                                  random_floats(module.rows * rank, 0.3 / sqrt((double)rank), seed,
                                                                (uint32_t)(2 * count + 1)) };
            count++;
        }
    }
    float *head = random_floats(C, 1 / sqrt((double)C), seed, UINT32_MAX), bias = 0.25f;
    CHECK(adapter_export(&(struct adapter_out){ .parts = parts, .part_count = count, .rank = rank, .alpha = 2.0 * (double)rank,
                                                .base = base, .config = config, .value_weight = head, .value_bias = &bias },
                                                directory) == 0);
    for (size_t i = 0; i < count; i++) {
        free((void *)parts[i].a);
        free((void *)parts[i].b);
    }
    free(head);
}

#endif
