/* config.c - the checks of a model's shape and the table of its weights; see config.h. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/adapter.h"
#include "model/config_parts.h"
#include "model/gguf.h"
#include "model/llama2c.h"

/* The limits keep every product of the model's sizes inside int64_t. */
const struct config_count config_counts[CONFIG_COUNTS] = {
#define AT(field) offsetof(struct model_config, field)
    { AT(vocab_size), "vocab_size", "vocab_size", NULL, 1 << 24 },
    { AT(channel_count), "hidden_size", "n_embd", "embedding_length", 1 << 17 },
    { AT(layer_count), "num_hidden_layers", "n_layer", "block_count", 1 << 12 },
    { AT(head_count), "num_attention_heads", "n_head", "attention.head_count", 1 << 12 },
    { AT(kv_head_count), "num_key_value_heads", NULL, "attention.head_count_kv", 1 << 12 },
    { AT(head_size), "head_dim", NULL, "attention.key_length", 1 << 12 },
    { AT(ff_count), "intermediate_size", "n_inner", "feed_forward_length", 1 << 20 },
    { AT(position_max), "max_position_embeddings", "n_positions", "context_length", 1 << 24 },
#undef AT
};
enum { LABELS_MAX = 1 << 16, WINDOW_MAX = 1 << 30 };

int64_t *config_count_at(struct model_config *config, const struct config_count *count)
{
    return (int64_t *)(void *)((char *)config + count->offset);
}

int config_count_set(struct model_config *config, const struct config_count *count, const char *key, int64_t number,
                     const char *name)
{
    if (number < 1 || number > count->max) {
        log_error("model \"%s\": %s is %lld, it must be 1 to %lld", name, key, (long long)number, (long long)count->max);
        return -1;
    }
    *config_count_at(config, count) = number;
    return 0;
}

int config_bound(double number, double min, double max, const char *what, const char *name)
{
    if (number >= min && number <= max)
        return 0;
    log_error("model \"%s\": %s is %g, it must be %g to %g", name, what, number, min, max);
    return -1;
}

/* ---- checks ---- */

/* Counts that the others imply. */
static int complete_counts(struct model_config *config, const char *name)
{
    if (config->kv_head_count == 0)
        config->kv_head_count = config->head_count;
    if (config->family == FAMILY_GPT2 && config->ff_count == 0)
        config->ff_count = 4 * config->channel_count;
    if (config->head_size == 0 && config->head_count > 0) {
        if (config->channel_count % config->head_count != 0) {
            log_error("model \"%s\": hidden size %lld is no multiple of its %lld heads", name,
                      (long long)config->channel_count, (long long)config->head_count);
            return -1;
        }
        config->head_size = config->channel_count / config->head_count;
    }
    for (size_t i = 0; i < CONFIG_COUNTS; i++) {
        const struct config_count *count = &config_counts[i];
        const char *key = config->family == FAMILY_GPT2 && count->gpt2_key != NULL ? count->gpt2_key : count->json_key;
        if (*config_count_at(config, count) == 0) {
            log_error("model \"%s\": it does not say its %s", name, key);
            return -1;
        }
        if (config_count_set(config, count, key, *config_count_at(config, count), name) != 0)
            return -1;
    }
    return 0;
}

static int check_counts(const struct model_config *config, const char *name)
{
    if (config->head_count % config->kv_head_count != 0) {
        log_error("model \"%s\": %lld heads cannot share %lld key/value heads evenly", name,
                  (long long)config->head_count, (long long)config->kv_head_count);
        return -1;
    }
    if (!config->learned_positions && config->head_size % 2 != 0) {
        log_error("model \"%s\": head size is %lld, it must be even", name, (long long)config->head_size);
        return -1;
    }
    if (config->family == FAMILY_GPT2 && config->head_count * config->head_size != config->channel_count) {
        log_error("model \"%s\": %lld heads of size %lld do not make its %lld channels", name, (long long)config->head_count,
                  (long long)config->head_size, (long long)config->channel_count);
        return -1;
    }
    return config_bound((double)config->label_count, 0, LABELS_MAX, "the number of labels", name);
}

static int check_rope(struct model_config *config, const char *name)
{
    struct rope_scaling *rope = &config->rope;
    bool ramp = rope->kind == ROPE_YARN || rope->kind == ROPE_LLAMA3;
    if (config_bound(config->rope_theta, 1, 1e12, "rope_theta", name) != 0)
        return -1;
    if ((ramp || rope->kind == ROPE_LINEAR || rope->kind == ROPE_DYNAMIC)
        && config_bound(rope->factor, 1, 1e6, "the factor of rope_scaling", name) != 0)
        return -1;
    if ((ramp || rope->kind == ROPE_LONGROPE)
        && config_bound((double)rope->original_positions, 1, 1 << 24, "original_max_position_embeddings", name) != 0)
        return -1;
    if (rope->kind == ROPE_LONGROPE
        && config_bound((double)config->head_size, 2, 2 * ROPE_FACTORS_MAX, "longrope's head size", name) != 0)
        return -1;
    if ((rope->kind == ROPE_YARN || rope->kind == ROPE_LONGROPE)
        && config_bound(rope->attention_factor, 1e-6, 1e6, "attention_factor", name) != 0)
        return -1;
    if (rope->kind == ROPE_LLAMA3
        && (config_bound(rope->low_frequency, 1e-6, 1e6, "low_freq_factor", name) != 0
            || config_bound(rope->high_frequency, nextafter(rope->low_frequency, INFINITY), 1e6, "high_freq_factor", name) != 0))
        return -1;
    if (rope->kind == ROPE_YARN  // whose ramp divides by the logarithm of theta
        && (config_bound(config->rope_theta, 1.001, 1e12, "rope_theta", name) != 0
            || config_bound(rope->beta_slow, 1e-6, 1e6, "beta_slow", name) != 0
            || config_bound(rope->beta_fast, rope->beta_slow, 1e6, "beta_fast", name) != 0))
        return -1;
    if (rope->kind == ROPE_DEFAULT || (rope->kind == ROPE_LINEAR && rope->factor == 1))
        *rope = (struct rope_scaling){ 0 };  // one spelling for what means the same
    if (rope->kind != ROPE_LONGROPE)
        return 0;
    for (int64_t c = 0; c < config->head_size / 2; c++)
        if (config_bound((double)rope->factors[c], 1e-6, 1e6, "a short factor", name) != 0
            || config_bound((double)rope->long_factors[c], 1e-6, 1e6, "a long factor", name) != 0)
            return -1;
    return config_bound((double)rope->long_positions, (double)config->position_max, 1 << 24, "max_position_embeddings", name);
}

static bool layer_has_window(const struct model_config *config, int64_t l)
{
    int64_t period = config->window_period > 0 ? config->window_period : 1;
    return config->window > 0 && l >= config->window_first && (l - config->window_first) % period == 0;
}

static int check_arithmetic(struct model_config *config, const char *name)
{
    if (config_bound(config->norm_epsilon, 1e-30, 0.1, "norm epsilon", name) != 0
        || config_bound((double)config->window, 0, WINDOW_MAX, "sliding_window", name) != 0)
        return -1;
    if (config->attention_cap != 0 && config_bound(config->attention_cap, 1e-3, 1e6, "attn_logit_softcapping", name) != 0)
        return -1;
    if (config->logit_cap != 0 && config_bound(config->logit_cap, 1e-3, 1e6, "final_logit_softcapping", name) != 0)
        return -1;
    if (config->attention_scale != 0 && config_bound(config->attention_scale, 1e-6, 1e3, "the scale of attention", name) != 0)
        return -1;
    /* One spelling for what means the same. */
    if (config->window == 0 || config->window_first >= config->layer_count)
        config->window = config->window_first = config->window_period = 0;
    else if (config->window_period == 0 || config->window_first == config->layer_count - 1)
        config->window_period = 1;
    return 0;
}

int config_complete(struct model_config *config, const char *name)
{
    if (complete_counts(config, name) != 0 || check_counts(config, name) != 0 || check_arithmetic(config, name) != 0)
        return -1;
    if (config->family == FAMILY_GEMMA2)  // rounded where transformers rounds it
        config->embedding_scale = (double)(float)sqrt((double)config->channel_count);
    return config->learned_positions ? 0 : check_rope(config, name);
}

int64_t config_window(const struct model_config *config, int64_t l)
{
    return layer_has_window(config, l) && config->window < config->position_max ? config->window : config->position_max;
}

/* ---- scalings that config.json and GGUF share ---- */

double config_longrope_attention(double factor, int64_t original_positions)
{
    return factor > 1 && original_positions > 1 ? sqrt(1 + log(factor) / log((double)original_positions)) : 1;
}

double config_yarn_attention(double factor)
{
    return factor > 1 ? 0.1 * log(factor) + 1 : 1;
}

void config_longrope(struct model_config *config, double attention_factor)
{
    struct rope_scaling *rope = &config->rope;
    rope->kind = ROPE_LONGROPE;
    rope->long_positions = config->position_max;
    if (config->position_max > rope->original_positions)
        config->position_max = rope->original_positions;
    double factor = (double)rope->long_positions / (double)rope->original_positions;
    rope->attention_factor = attention_factor;
    if (attention_factor == 0)
        rope->attention_factor = config_longrope_attention(factor, rope->original_positions);
}

/* ---- files ---- */

static int config_open_directory(struct model_config *config, const char *path)
{
    char *file = memory_printf("%s/config.json", path);
    int code = EX_DATAERR;
    if (!file_exists(file)) {
        log_error("model \"%s\": it has no config.json", path);
        code = EX_NOINPUT;
    } else {
        json_t *json = json_read(file);
        if (json != NULL && config_from_json(config, json, path) == 0)
            code = EX_OK;
        json_decref(json);
    }
    free(file);
    return code;
}

static int config_open_file(struct model_config *config, const char *path)
{
    struct file_map map;
    int code = file_map(&map, path), result = -1;
    if (code != EX_OK)
        return code;
    if (llama2c_is(path, map.data, map.size)) {
        result = llama2c_config(config, map.data, map.size, path);
    } else {
        struct gguf *gguf = gguf_from_memory(map.data, map.size, path);
        if (gguf != NULL)
            result = config_from_gguf(config, gguf, path);
        gguf_close(gguf);
    }
    file_unmap(&map);
    return result == 0 ? EX_OK : EX_DATAERR;
}

int config_open(struct model_config *config, const char *path)
{
    int code;
    char *model = adapter_base_path(path, &code);
    if (model == NULL)
        return code;
    code = file_is_directory(model) ? config_open_directory(config, model) : config_open_file(config, model);
    free(model);
    if (code == EX_OK && config->rope.kind == ROPE_LONGROPE && config->rope.long_positions > config->position_max)
        log_event("model \"%s\": context limited to %lld of %lld tokens, longrope's long factors are not supported", path,
                  (long long)config->position_max, (long long)config->rope.long_positions);
    return code;
}

/* ---- the weights ---- */

const struct weight_spec weight_specs[WEIGHT_ROLE_COUNT] = {
#define LAYER "model.layers.%d."
    { WEIGHT_EMBEDDING, "model.embed_tokens.weight", { DIMENSION_V, DIMENSION_C }, false },
    { WEIGHT_POSITION, "model.embed_positions.weight", { DIMENSION_P, DIMENSION_C }, false },
    { WEIGHT_ATTN_NORM, LAYER "input_layernorm.weight", { DIMENSION_C }, true },
    { WEIGHT_ATTN_NORM_BIAS, LAYER "input_layernorm.bias", { DIMENSION_C }, true },
    { WEIGHT_Q, LAYER "self_attn.q_proj.weight", { DIMENSION_Q, DIMENSION_C }, true },
    { WEIGHT_K, LAYER "self_attn.k_proj.weight", { DIMENSION_KV, DIMENSION_C }, true },
    { WEIGHT_V, LAYER "self_attn.v_proj.weight", { DIMENSION_KV, DIMENSION_C }, true },
    { WEIGHT_Q_BIAS, LAYER "self_attn.q_proj.bias", { DIMENSION_Q }, true },
    { WEIGHT_K_BIAS, LAYER "self_attn.k_proj.bias", { DIMENSION_KV }, true },
    { WEIGHT_V_BIAS, LAYER "self_attn.v_proj.bias", { DIMENSION_KV }, true },
    { WEIGHT_Q_NORM, LAYER "self_attn.q_norm.weight", { DIMENSION_HS }, true },
    { WEIGHT_K_NORM, LAYER "self_attn.k_norm.weight", { DIMENSION_HS }, true },
    { WEIGHT_O, LAYER "self_attn.o_proj.weight", { DIMENSION_C, DIMENSION_Q }, true },
    { WEIGHT_O_BIAS, LAYER "self_attn.o_proj.bias", { DIMENSION_C }, true },
    { WEIGHT_ATTN_POST_NORM, LAYER "post_self_attn_layernorm.weight", { DIMENSION_C }, true },
    { WEIGHT_FF_NORM, LAYER "post_attention_layernorm.weight", { DIMENSION_C }, true },
    { WEIGHT_FF_NORM_BIAS, LAYER "post_attention_layernorm.bias", { DIMENSION_C }, true },
    { WEIGHT_GATE, LAYER "mlp.gate_proj.weight", { DIMENSION_F, DIMENSION_C }, true },
    { WEIGHT_UP, LAYER "mlp.up_proj.weight", { DIMENSION_F, DIMENSION_C }, true },
    { WEIGHT_GATE_BIAS, LAYER "mlp.gate_proj.bias", { DIMENSION_F }, true },
    { WEIGHT_UP_BIAS, LAYER "mlp.up_proj.bias", { DIMENSION_F }, true },
    { WEIGHT_DOWN, LAYER "mlp.down_proj.weight", { DIMENSION_C, DIMENSION_F }, true },
    { WEIGHT_DOWN_BIAS, LAYER "mlp.down_proj.bias", { DIMENSION_C }, true },
    { WEIGHT_FF_POST_NORM, LAYER "post_mlp_layernorm.weight", { DIMENSION_C }, true },
    { WEIGHT_FINAL_NORM, "model.norm.weight", { DIMENSION_C }, false },
    { WEIGHT_FINAL_NORM_BIAS, "model.norm.bias", { DIMENSION_C }, false },
    { WEIGHT_LM_HEAD, "lm_head.weight", { DIMENSION_V, DIMENSION_C }, false },
    { WEIGHT_SCORE, "score.weight", { DIMENSION_N, DIMENSION_C }, false },
    { WEIGHT_VALUE, "v_head.summary.weight", { DIMENSION_1, DIMENSION_C }, false },
    { WEIGHT_VALUE_BIAS, "v_head.summary.bias", { DIMENSION_1 }, false },
#undef LAYER
};

static int64_t dimension_size(const struct model_config *config, enum weight_dimension dimension)
{
    switch (dimension) {
    case DIMENSION_V:  return config->vocab_size;
    case DIMENSION_C:  return config->channel_count;
    case DIMENSION_Q:  return config->head_count * config->head_size;
    case DIMENSION_KV: return config->kv_head_count * config->head_size;
    case DIMENSION_F:  return config->ff_count;
    case DIMENSION_HS: return config->head_size;
    case DIMENSION_P:  return config->position_max;
    case DIMENSION_N:  return config->label_count;
    case DIMENSION_1:
    case DIMENSION_NONE: break;
    }
    return 1;
}

size_t weight_shape(const struct model_config *config, enum weight_role role, int64_t shape[2])
{
    const struct weight_spec *spec = &weight_specs[role];
    shape[0] = dimension_size(config, spec->shape[0]);
    shape[1] = dimension_size(config, spec->shape[1]);
    return spec->shape[1] == DIMENSION_NONE ? 1 : 2;
}

bool weight_present(const struct model_config *config, enum weight_role role)
{
    switch (role) {
    case WEIGHT_POSITION:        return config->learned_positions;
    case WEIGHT_ATTN_NORM_BIAS:
    case WEIGHT_FF_NORM_BIAS:
    case WEIGHT_FINAL_NORM_BIAS: return config->norm == NORM_LAYER;
    case WEIGHT_Q_BIAS:
    case WEIGHT_K_BIAS:
    case WEIGHT_V_BIAS:          return config->qkv_bias;
    case WEIGHT_Q_NORM:
    case WEIGHT_K_NORM:          return config->qk_norm;
    case WEIGHT_O_BIAS:          return config->o_bias;
    case WEIGHT_ATTN_POST_NORM:
    case WEIGHT_FF_POST_NORM:    return config->post_norms;
    case WEIGHT_GATE:            return !config->plain_ff;
    case WEIGHT_GATE_BIAS:       return !config->plain_ff && config->ff_bias;
    case WEIGHT_UP_BIAS:
    case WEIGHT_DOWN_BIAS:       return config->ff_bias;
    case WEIGHT_LM_HEAD:         return !config->tied_embeddings && config->label_count == 0;
    case WEIGHT_SCORE:           return config->label_count > 0;
    default:                     return true;
    }
}

bool weight_required(const struct model_config *config, enum weight_role role)
{
    return weight_present(config, role) && role != WEIGHT_VALUE && role != WEIGHT_VALUE_BIAS;
}

int64_t config_parameter_count(const struct model_config *config)
{
    int64_t count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t shape[2];
        weight_shape(config, role, shape);
        if (weight_required(config, role))
            count += shape[0] * shape[1] * (weight_specs[role].per_layer ? config->layer_count : 1);
    }
    return count;
}

void weight_name_fill(const char *pattern, int64_t layer, char out[WEIGHT_NAME_SIZE])
{
    const char *gap = strstr(pattern, "%d");
    if (gap == NULL)
        snprintf(out, WEIGHT_NAME_SIZE, "%s", pattern);
    else
        snprintf(out, WEIGHT_NAME_SIZE, "%.*s%lld%s", (int)(gap - pattern), pattern, (long long)layer, gap + 2);
}

bool weight_name_matches(const char *pattern, const char *name)
{
    const char *gap = strstr(pattern, "%d");
    if (gap == NULL)
        return strcmp(pattern, name) == 0;
    size_t before = (size_t)(gap - pattern);
    if (strncmp(pattern, name, before) != 0)
        return false;
    size_t digits = strspn(name + before, "0123456789");
    return digits >= 1 && digits <= 6 && (digits == 1 || name[before] != '0') && strcmp(gap + 2, name + before + digits) == 0;
}

void weight_name(enum weight_role role, int64_t layer, char out[WEIGHT_NAME_SIZE])
{
    weight_name_fill(weight_specs[role].name, layer, out);
}
