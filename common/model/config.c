/*
 * config.c - see config.h.
 *
 * What is not supported is refused by name: a model that runs with the wrong arithmetic is worse than none.
 */
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
#include "model/gguf.h"

/*
 * The counts of a config: where they stand, how both formats call them, their largest value.  The limits keep every
 * product of the model's sizes inside int64_t.
 */
static const struct config_field {
    size_t offset;
    const char *json_key;
    const char *gguf_key;  // NULL: see config_from_gguf
    int64_t max;
    bool optional;         // config_complete knows the default
} fields[] = {  // vocab_size first
    { offsetof(struct model_config, vocab_size), "vocab_size", NULL, 1 << 24, false },
    { offsetof(struct model_config, channel_count), "hidden_size", "llama.embedding_length", 1 << 17, false },
    { offsetof(struct model_config, layer_count), "num_hidden_layers", "llama.block_count", 1 << 12, false },
    { offsetof(struct model_config, head_count), "num_attention_heads", "llama.attention.head_count", 1 << 12, false },
    { offsetof(struct model_config, kv_head_count), "num_key_value_heads", "llama.attention.head_count_kv", 1 << 12, true },
    { offsetof(struct model_config, head_size), "head_dim", "llama.attention.key_length", 1 << 12, true },
    { offsetof(struct model_config, ff_count), "intermediate_size", "llama.feed_forward_length", 1 << 20, false },
    { offsetof(struct model_config, position_max), "max_position_embeddings", "llama.context_length", 1 << 24, false },
};

static const double rope_theta_default = 10000, norm_epsilon_default = 1e-6;  // transformers' and llama.cpp's

static int64_t *field_of(struct model_config *config, const struct config_field *field)
{
    return (int64_t *)(void *)((char *)config + field->offset);
}

static int field_set(struct model_config *config, const struct config_field *field, const char *key, int64_t number,
                     const char *name)
{
    if (number < 1 || number > field->max) {
        log_error("model \"%s\": %s is %lld, it must be 1 to %lld", name, key, (long long)number, (long long)field->max);
        return -1;
    }
    *field_of(config, field) = number;
    return 0;
}

/* Fills what may be left out and checks what the fields owe to each other. */
static int config_complete(struct model_config *config, const char *name)
{
    if (config->kv_head_count == 0)
        config->kv_head_count = config->head_count;
    if (config->head_size == 0) {
        if (config->channel_count % config->head_count != 0) {
            log_error("model \"%s\": hidden size %lld is no multiple of its %lld heads", name,
                      (long long)config->channel_count, (long long)config->head_count);
            return -1;
        }
        config->head_size = config->channel_count / config->head_count;
    }
    if (config->head_count % config->kv_head_count != 0) {
        log_error("model \"%s\": %lld heads cannot share %lld key/value heads evenly", name,
                  (long long)config->head_count, (long long)config->kv_head_count);
        return -1;
    }
    if (config->head_size % 2 != 0) {
        log_error("model \"%s\": head size is %lld, it must be even", name, (long long)config->head_size);
        return -1;
    }
    if (!(config->rope_theta >= 1 && config->rope_theta <= 1e12)) {
        log_error("model \"%s\": rope theta is %g, it must be 1 to 1e12", name, config->rope_theta);
        return -1;
    }
    if (!(config->norm_epsilon > 0 && config->norm_epsilon <= 0.1)) {
        log_error("model \"%s\": norm epsilon is %g, it must be above 0 and at most 0.1", name, config->norm_epsilon);
        return -1;
    }
    return 0;
}

/* ---- config.json ---- */

/* NULL where the key is missing or null, which config files mean the same by. */
static const json_t *json_present(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    return json_is_null(value) ? NULL : value;
}

/* Reads key into out unless it is absent. */
static int json_number(double *out, const json_t *json, const char *key, const char *name)
{
    const json_t *value = json_present(json, key);
    if (value == NULL)
        return 0;
    if (!json_is_number(value)) {
        log_error("model \"%s\": %s is not a number", name, key);
        return -1;
    }
    *out = json_number_value(value);
    return 0;
}

/* 0 when key is absent or the text wanted. */
static int json_expect_text(const json_t *json, const char *key, const char *wanted, const char *name)
{
    const json_t *value = json_present(json, key);
    if (value == NULL || (json_is_string(value) && strcmp(json_string_value(value), wanted) == 0))
        return 0;
    char *text = json_text(value);
    log_error("model \"%s\": %s is %.100s, only \"%s\" is supported", name, key, text, wanted);
    free(text);
    return -1;
}

static int json_architecture(const json_t *json, const char *name)
{
    const json_t *architectures = json_present(json, "architectures"), *type = json_present(json, "model_type");
    if (architectures != NULL && (!json_is_array(architectures) || !json_is_string(json_array_get(architectures, 0)))) {
        log_error("model \"%s\": architectures is not a list of names", name);
        return -1;
    }
    if (architectures == NULL && type == NULL) {
        log_error("model \"%s\": it has neither architectures nor model_type, only LlamaForCausalLM is supported", name);
        return -1;
    }
    const char *architecture = json_string_value(json_array_get(architectures, 0));
    if (architecture != NULL && strcmp(architecture, "LlamaForCausalLM") != 0) {
        log_error("model \"%s\": architecture \"%s\" is not supported, only LlamaForCausalLM is", name, architecture);
        return -1;
    }
    return json_expect_text(json, "model_type", "llama", name);
}

/* The rotary embedding: transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters. */
static int json_rope(double *theta, const json_t *json, const char *name)
{
    static const char *const keys[] = { "rope_scaling", "rope_parameters" };
    if (json_number(theta, json, "rope_theta", name) != 0)
        return -1;
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        const json_t *rope = json_present(json, keys[i]);
        if (rope == NULL)
            continue;
        if (!json_is_object(rope)) {
            log_error("model \"%s\": %s is not an object", name, keys[i]);
            return -1;
        }
        double partial = 1;
        if (json_expect_text(rope, "rope_type", "default", name) != 0 || json_expect_text(rope, "type", "default", name) != 0
            || json_number(theta, rope, "rope_theta", name) != 0
            || json_number(&partial, rope, "partial_rotary_factor", name) != 0)
            return -1;
        if (partial != 1) {
            log_error("model \"%s\": partial_rotary_factor is %g, only 1 is supported", name, partial);
            return -1;
        }
    }
    return 0;
}

/* Switches that change the arithmetic; absent means off. */
static int json_refuse_unsupported(const json_t *json, const char *name)
{
    static const char *const switches[] = { "attention_bias", "mlp_bias" };
    for (size_t i = 0; i < COUNT_OF(switches); i++) {
        const json_t *value = json_present(json, switches[i]);
        if (value != NULL && !json_is_false(value)) {
            log_error("model \"%s\": %s is not false, biases are not supported", name, switches[i]);
            return -1;
        }
    }
    if (json_present(json, "quantization_config") != NULL) {
        log_error("model \"%s\": it has a quantization_config, only F32, F16 and BF16 weights are supported", name);
        return -1;
    }
    return json_expect_text(json, "hidden_act", "silu", name);
}

int config_from_json(struct model_config *config, const json_t *json, const char *name)
{
    *config = (struct model_config){ .family = FAMILY_LLAMA, .rope_theta = rope_theta_default,
                                     .norm_epsilon = norm_epsilon_default };
    if (!json_is_object(json)) {
        log_error("model \"%s\": its config is not a JSON object", name);
        return -1;
    }
    if (json_architecture(json, name) != 0 || json_refuse_unsupported(json, name) != 0)
        return -1;
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        const json_t *value = json_present(json, fields[i].json_key);
        if (value == NULL && fields[i].optional)
            continue;
        if (!json_is_integer(value)) {
            log_error("model \"%s\": config has no whole number \"%s\"", name, fields[i].json_key);
            return -1;
        }
        if (field_set(config, &fields[i], fields[i].json_key, json_integer_value(value), name) != 0)
            return -1;
    }
    const json_t *tied = json_present(json, "tie_word_embeddings");
    if (tied != NULL && !json_is_boolean(tied)) {
        log_error("model \"%s\": tie_word_embeddings is neither true nor false", name);
        return -1;
    }
    config->tied_embeddings = json_is_true(tied);
    if (json_rope(&config->rope_theta, json, name) != 0
        || json_number(&config->norm_epsilon, json, "rms_norm_eps", name) != 0)
        return -1;
    return config_complete(config, name);
}

json_t *config_to_json(const struct model_config *config)
{
    struct model_config copy = *config;
    json_t *json = json_pack("{s:[s], s:s, s:s, s:s, s:b, s:b, s:f, s:f, s:n, s:b}",
                             "architectures", "LlamaForCausalLM", "model_type", "llama", "torch_dtype", "float32",
                             "hidden_act", "silu", "attention_bias", 0, "mlp_bias", 0, "rms_norm_eps", config->norm_epsilon,
                             "rope_theta", config->rope_theta, "rope_scaling",
                             "tie_word_embeddings", (int)config->tied_embeddings);
    CHECK(json != NULL);
    for (size_t i = 0; i < COUNT_OF(fields); i++)
        CHECK(json_object_set_new(json, fields[i].json_key, json_integer(*field_of(&copy, &fields[i]))) == 0);
    return json;
}

/* ---- GGUF metadata ---- */

/* Values that change the arithmetic in ways that are not supported. */
static int gguf_refuse_unsupported(const struct model_config *config, const struct gguf *gguf, const char *name)
{
    static const struct { const char *key; double harmless; } switches[] = {
        { "llama.expert_count", 0 },
        { "llama.rope.scaling.factor", 1 },
        { "llama.rope.scale_linear", 1 },
    };
    for (size_t i = 0; i < COUNT_OF(switches); i++) {
        double number = switches[i].harmless;
        gguf_number(gguf, switches[i].key, &number);
        if (number != switches[i].harmless) {
            log_error("model \"%s\": %s is %g, only %g is supported", name, switches[i].key, number, switches[i].harmless);
            return -1;
        }
    }
    struct gguf_text scaling = { "none", 4 };
    gguf_text(gguf, "llama.rope.scaling.type", &scaling);
    if (strcmp(scaling.at, "none") != 0 && strcmp(scaling.at, "linear") != 0) {
        log_error("model \"%s\": llama.rope.scaling.type is \"%.100s\", only \"none\" is supported", name, scaling.at);
        return -1;
    }
    static const char *const sizes[] = { "llama.rope.dimension_count", "llama.attention.value_length" };
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        int64_t size = config->head_size;
        gguf_integer(gguf, sizes[i], &size);
        if (size != config->head_size) {
            log_error("model \"%s\": %s is %lld, only the head size %lld is supported", name, sizes[i], (long long)size,
                      (long long)config->head_size);
            return -1;
        }
    }
    return 0;
}

/* What the tensors alone tell: the vocabulary's size and whether there is an lm_head. */
static int gguf_tensor_facts(struct model_config *config, const struct gguf *gguf, const char *name)
{
    const struct gguf_tensor *embedding = NULL;
    config->tied_embeddings = true;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        if (strcmp(tensor->name, weight_specs[WEIGHT_EMBEDDING].gguf_name) == 0)
            embedding = tensor;
        if (strcmp(tensor->name, weight_specs[WEIGHT_LM_HEAD].gguf_name) == 0)
            config->tied_embeddings = false;
    }
    if (embedding == NULL) {
        log_error("model \"%s\": it has no tensor \"%s\"", name, weight_specs[WEIGHT_EMBEDDING].gguf_name);
        return -1;
    }
    return field_set(config, &fields[0], "vocabulary size", embedding->shape[0], name);
}

int config_from_gguf(struct model_config *config, const struct gguf *gguf, const char *name)
{
    *config = (struct model_config){ .family = FAMILY_LLAMA, .rope_theta = rope_theta_default };
    struct gguf_text architecture = { "", 0 };
    gguf_text(gguf, "general.architecture", &architecture);
    if (strcmp(architecture.at, "llama") != 0) {
        log_error("model \"%s\": architecture \"%.100s\" is not supported, only llama is", name, architecture.at);
        return -1;
    }
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        int64_t number;
        if (fields[i].gguf_key == NULL)
            continue;
        if (gguf_integer(gguf, fields[i].gguf_key, &number)) {
            if (field_set(config, &fields[i], fields[i].gguf_key, number, name) != 0)
                return -1;
        } else if (!fields[i].optional) {
            log_error("model \"%s\": metadata has no whole number \"%s\"", name, fields[i].gguf_key);
            return -1;
        }
    }
    gguf_number(gguf, "llama.rope.freq_base", &config->rope_theta);
    if (!gguf_number(gguf, "llama.attention.layer_norm_rms_epsilon", &config->norm_epsilon)) {
        log_error("model \"%s\": metadata has no number \"llama.attention.layer_norm_rms_epsilon\"", name);
        return -1;
    }
    if (gguf_tensor_facts(config, gguf, name) != 0 || config_complete(config, name) != 0)
        return -1;
    return gguf_refuse_unsupported(config, gguf, name);
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

int config_open(struct model_config *config, const char *path)
{
    if (file_is_directory(path))
        return config_open_directory(config, path);
    int code;
    struct gguf *gguf = gguf_open(path, &code);
    if (gguf == NULL)
        return code;
    code = config_from_gguf(config, gguf, path) == 0 ? EX_OK : EX_DATAERR;
    gguf_close(gguf);
    return code;
}

/* ---- the weights ---- */

const struct weight_spec weight_specs[WEIGHT_ROLE_COUNT] = {
#define LAYER "model.layers.%d."
    { WEIGHT_EMBEDDING, "model.embed_tokens.weight", "token_embd.weight", { DIMENSION_V, DIMENSION_C }, false, false },
    { WEIGHT_ATTN_NORM, LAYER "input_layernorm.weight", "blk.%d.attn_norm.weight", { DIMENSION_C }, true, false },
    { WEIGHT_Q, LAYER "self_attn.q_proj.weight", "blk.%d.attn_q.weight", { DIMENSION_Q, DIMENSION_C }, true, false },
    { WEIGHT_K, LAYER "self_attn.k_proj.weight", "blk.%d.attn_k.weight", { DIMENSION_KV, DIMENSION_C }, true, false },
    { WEIGHT_V, LAYER "self_attn.v_proj.weight", "blk.%d.attn_v.weight", { DIMENSION_KV, DIMENSION_C }, true, false },
    { WEIGHT_O, LAYER "self_attn.o_proj.weight", "blk.%d.attn_output.weight", { DIMENSION_C, DIMENSION_Q }, true, false },
    { WEIGHT_FF_NORM, LAYER "post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", { DIMENSION_C }, true, false },
    { WEIGHT_GATE, LAYER "mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", { DIMENSION_F, DIMENSION_C }, true, false },
    { WEIGHT_UP, LAYER "mlp.up_proj.weight", "blk.%d.ffn_up.weight", { DIMENSION_F, DIMENSION_C }, true, false },
    { WEIGHT_DOWN, LAYER "mlp.down_proj.weight", "blk.%d.ffn_down.weight", { DIMENSION_C, DIMENSION_F }, true, false },
    { WEIGHT_FINAL_NORM, "model.norm.weight", "output_norm.weight", { DIMENSION_C }, false, false },
    { WEIGHT_LM_HEAD, "lm_head.weight", "output.weight", { DIMENSION_V, DIMENSION_C }, false, true },
    { WEIGHT_VALUE, "v_head.summary.weight", NULL, { DIMENSION_1, DIMENSION_C }, false, true },
    { WEIGHT_VALUE_BIAS, "v_head.summary.bias", NULL, { DIMENSION_1 }, false, true },
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

bool weight_required(const struct model_config *config, enum weight_role role)
{
    return role == WEIGHT_LM_HEAD ? !config->tied_embeddings : !weight_specs[role].optional;
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

void weight_name(enum weight_role role, int64_t layer, char out[WEIGHT_NAME_SIZE])
{
    const char *name = weight_specs[role].name, *gap = strstr(name, "%d");
    if (gap == NULL)
        snprintf(out, WEIGHT_NAME_SIZE, "%s", name);
    else
        snprintf(out, WEIGHT_NAME_SIZE, "%.*s%lld%s", (int)(gap - name), name, (long long)layer, gap + 2);
}

/* Whether name is pattern with a layer number where pattern has %d. */
static bool name_matches(const char *pattern, const char *name, int64_t *layer)
{
    const char *gap = strstr(pattern, "%d");
    *layer = 0;
    if (gap == NULL)
        return strcmp(pattern, name) == 0;
    size_t before = (size_t)(gap - pattern);
    if (strncmp(pattern, name, before) != 0)
        return false;
    const char *digits = name + before;
    size_t count = strspn(digits, "0123456789");
    if (count < 1 || count > 6 || (digits[0] == '0' && count > 1))
        return false;
    *layer = atoi(digits);
    return strcmp(gap + 2, digits + count) == 0;
}

bool weight_from_name(const char *name, enum weight_role *role, int64_t *layer)
{
    for (*role = 0; *role < WEIGHT_ROLE_COUNT; (*role)++)
        if (name_matches(weight_specs[*role].name, name, layer))
            return true;
    return false;
}

bool weight_from_gguf_name(const char *name, enum weight_role *role, int64_t *layer)
{
    for (*role = 0; *role < WEIGHT_ROLE_COUNT; (*role)++)
        if (weight_specs[*role].gguf_name != NULL && name_matches(weight_specs[*role].gguf_name, name, layer))
            return true;
    return false;
}
