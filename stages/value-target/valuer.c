/* valuer.c - see valuer.h. */
#include "value-target/valuer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "base/memory.h"
#include "model/model.h"
#include "model/weights.h"

struct valuer {
    struct model *model;
    struct cache *cache;
    int32_t *tokens;  // (position_max)
    float *hidden;    // (position_max, C)
};

static struct valuer *valuer_from_model(struct model *model)
{
    const struct model_config *config = model_config(model);
    struct valuer *valuer = memory_alloc(1, sizeof *valuer);
    valuer->model = model;
    valuer->cache = cache_open(model, (size_t)config->position_max + 2 * CACHE_PAGE_POSITIONS);
    valuer->tokens = memory_alloc((size_t)config->position_max, sizeof *valuer->tokens);
    valuer->hidden = memory_alloc((size_t)(config->position_max * config->channel_count), sizeof *valuer->hidden);
    return valuer;
}

struct valuer *valuer_open(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code)
{
    struct model *model = model_open_quantised(path, quant, keep_packed, pool, code);
    if (model == NULL)
        return NULL;
    if (!model_has_value_head(model)) {
        log_error("model \"%s\" has no value head (tensor \"v_head.summary.weight\")", path);
        log_hint("'train' writes value models; --lambda 1 needs none");
        model_close(model);
        *code = EX_DATAERR;
        return NULL;
    }
    return valuer_from_model(model);
}

struct valuer *valuer_from_checkpoint(const void *data, size_t size, const char *name, enum tensor_type quant, struct pool *pool)
{
    struct weights *weights = weights_from_memory(data, size, name);
    if (weights == NULL)
        return NULL;
    struct model_config config;
    struct model *model = NULL;
    int code;
    if (model_config_from_checkpoint(&config, weights, name) == 0)
        model = model_from_weights_quantised(weights, &config, name, quant, pool, &code);
    weights_close(weights);
    return model != NULL ? valuer_from_model(model) : NULL;
}

void valuer_close(struct valuer *valuer)
{
    if (valuer == NULL)
        return;
    free(valuer->hidden);
    free(valuer->tokens);
    cache_close(valuer->cache);
    model_close(valuer->model);
    free(valuer);
}

int valuer_values(struct valuer *valuer, float *values, const int32_t *prompt, size_t P, const int32_t *response, size_t R,
                  char reason[256])
{
    const struct model_config *config = model_config(valuer->model);
    if (P + R > (size_t)config->position_max) {
        snprintf(reason, 256, "prompt and response have %zu tokens, the value model's context is %lld", P + R,
                 (long long)config->position_max);
        return -1;
    }
    memcpy(valuer->tokens, prompt, P * sizeof *prompt);
    memcpy(valuer->tokens + P, response, R * sizeof *response);
    for (size_t t = 0; t < P + R; t++) {
        if (valuer->tokens[t] < 0 || valuer->tokens[t] >= config->vocab_size) {
            snprintf(reason, 256, "token id %d is outside the value model's vocabulary of %lld", valuer->tokens[t],
                     (long long)config->vocab_size);
            return -1;
        }
    }
    int32_t sequence = sequence_open(valuer->cache);
    model_extend(valuer->model, valuer->cache, sequence, valuer->tokens, P + R, valuer->hidden, NULL);
    sequence_close(valuer->cache, sequence);
    model_values(valuer->model, valuer->hidden + (P - 1) * (size_t)config->channel_count, R + 1, values);
    return 0;
}
