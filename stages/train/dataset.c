/* dataset.c - see dataset.h. */
#include "train/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"

void dataset_init(struct dataset *dataset)
{
    *dataset = (struct dataset){ 0 };
    arena_init(&dataset->arena, "training examples", (size_t)8 << 30);
}

void dataset_reset(struct dataset *dataset)
{
    arena_reset(&dataset->arena);
    dataset->count = 0;
}

void dataset_free(struct dataset *dataset)
{
    arena_free(&dataset->arena);
    free(dataset->examples);
}

static void dataset_append(struct dataset *dataset, struct example example)
{
    if (dataset->count == dataset->capacity) {
        dataset->capacity = dataset->capacity ? 2 * dataset->capacity : 64;
        dataset->examples = memory_grow(dataset->examples, dataset->capacity, sizeof *dataset->examples);
    }
    dataset->examples[dataset->count++] = example;
}

static int tokens_check(const int32_t *tokens, size_t count, const struct model_config *config, char reason[256])
{
    for (size_t t = 0; t < count; t++) {
        if (tokens[t] < 0 || tokens[t] >= config->vocab_size) {
            snprintf(reason, 256, "token id %d is outside the vocabulary of %lld", tokens[t], (long long)config->vocab_size);
            return -1;
        }
    }
    return 0;
}

int dataset_add_target(struct dataset *dataset, const struct frame_target *target, const struct model_config *config,
                       char reason[256])
{
    size_t P = target->prompt_tokens.count, R = target->response_tokens.count, T = P + R;
    if (T > (size_t)config->position_max) {
        snprintf(reason, 256, "prompt and response have %zu tokens, the model's context is %lld", T, (long long)config->position_max);
        return -1;
    }
    if (target->targets.count > R + 1) {
        snprintf(reason, 256, "%zu targets for the %zu states of a response", target->targets.count, R + 1);
        return -1;
    }
    int32_t *tokens = arena_alloc(&dataset->arena, T, sizeof *tokens);  // (T)
    float *values = arena_alloc(&dataset->arena, T, sizeof *values);    // (T)
    float *mask = arena_alloc(&dataset->arena, T, sizeof *mask);        // (T)
    memcpy(tokens, target->prompt_tokens.at, P * sizeof *tokens);
    memcpy(tokens + P, target->response_tokens.at, R * sizeof *tokens);
    if (tokens_check(tokens, T, config, reason) != 0)
        return -1;
    memset(values, 0, T * sizeof *values);
    memset(mask, 0, T * sizeof *mask);
    for (size_t n = 0; n < target->targets.count; n++) {
        values[P - 1 + n] = target->targets.at[n];
        mask[P - 1 + n] = 1.0f;
    }
    dataset_append(dataset, (struct example){ .tokens = tokens, .T = T, .target = values, .mask = mask });
    return 0;
}

int dataset_add_document(struct dataset *dataset, const struct frame_prompt *document, const struct model_config *config,
                         char reason[256])
{
    const int32_t *from = document->prompt_tokens.at;
    size_t left = document->prompt_tokens.count;
    if (tokens_check(from, left, config, reason) != 0)
        return -1;
    while (left >= 2) {  // one token predicts nothing
        size_t T = left < (size_t)config->position_max ? left : (size_t)config->position_max;
        int32_t *tokens = arena_alloc(&dataset->arena, T, sizeof *tokens);  // (T)
        memcpy(tokens, from, T * sizeof *tokens);
        dataset_append(dataset, (struct example){ .tokens = tokens, .T = T });
        from += T;
        left -= T;
    }
    return 0;
}

void dataset_key(const struct dataset *dataset, char *key)
{
    struct digest digest;
    digest_init(&digest);
    for (size_t i = 0; i < dataset->count; i++) {
        const struct example *example = &dataset->examples[i];
        digest_add(&digest, &example->T, sizeof example->T);
        digest_add(&digest, example->tokens, example->T * sizeof *example->tokens);
        if (example->target != NULL)
            digest_add(&digest, example->target, example->T * sizeof *example->target);
        if (example->mask != NULL)
            digest_add(&digest, example->mask, example->T * sizeof *example->mask);
    }
    digest_key(&digest, key);
}
