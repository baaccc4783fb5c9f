/* dataset.c - see dataset.h. */
#include "train/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "text/retokenize.h"

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

/* Tokens of prompt and response (T) in the arena, of which the first P are the prompt's.  NULL with a line in reason. */
static const int32_t *states_tokens(struct dataset *dataset, const struct frame_target *target, const struct tokenizer *tokenizer,
                                    size_t *P, size_t *T, char reason[256])
{
    const char *key = tokenizer_key(tokenizer), *wanted = target->state_tokenizer[0] ? target->state_tokenizer : target->tokenizer;
    if (strcmp(wanted, key) != 0) {
        snprintf(reason, 256,
                 "its states are of tokenizer %s, the model's is %s; value-target --value-tokenizer makes them of the model's",
                 wanted, key);
        return NULL;
    }
    struct token_list own = { 0 };
    size_t prompt = target->prompt_tokens.count, response = target->response_tokens.count;
    *P = prompt;
    *T = prompt + response;
    if (target->state_tokenizer[0]) {
        *P = retokenize_rollout(tokenizer, target->prompt, target->response, target->stopped, &own);
        *T = own.count;
    }
    int32_t *tokens = arena_alloc(&dataset->arena, *T, sizeof *tokens);
    if (target->state_tokenizer[0]) {
        memcpy(tokens, own.at, *T * sizeof *tokens);
    } else {
        memcpy(tokens, target->prompt_tokens.at, prompt * sizeof *tokens);
        memcpy(tokens + prompt, target->response_tokens.at, response * sizeof *tokens);
    }
    free(own.at);
    return tokens;
}

int dataset_add_target(struct dataset *dataset, const struct frame_target *target, const struct model_config *config,
                       const struct tokenizer *tokenizer, char reason[256])
{
    size_t P, T;
    const int32_t *tokens = states_tokens(dataset, target, tokenizer, &P, &T, reason);
    if (tokens == NULL)
        return -1;
    if (T > (size_t)config->position_max) {
        snprintf(reason, 256, "prompt and response have %zu tokens, the model's context is %lld", T,
                 (long long)config->position_max);
        return 1;
    }
    if (T < P || target->targets.count > T - P + 1) {
        snprintf(reason, 256, "%zu targets for the %zu states of a response", target->targets.count, T < P ? 0 : T - P + 1);
        return -1;
    }
    if (tokens_check(tokens, T, config, reason) != 0)
        return -1;
    float *values = arena_alloc(&dataset->arena, T, sizeof *values);    // (T)
    float *mask = arena_alloc(&dataset->arena, T, sizeof *mask);        // (T)
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
                         const struct tokenizer *tokenizer, char reason[256])
{
    if (strcmp(document->tokenizer, tokenizer_key(tokenizer)) != 0) {
        snprintf(reason, 256, "its tokenizer is %s, the model's is %s", document->tokenizer, tokenizer_key(tokenizer));
        return -1;
    }
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
