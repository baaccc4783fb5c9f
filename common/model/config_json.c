/*
 * config_json.c - a model's shape from and to config.json; see config.h.
 *
 * What changes the arithmetic and is not supported is refused by name: a model that runs with the wrong arithmetic is worse
 * than none.  What is left out means what transformers takes for it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/config_parts.h"
#include "model/family.h"

/* ---- values by key ---- */

/* NULL where the key is missing or null. */
static const json_t *json_present(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    return json_is_null(value) ? NULL : value;
}

static int json_refuse(const char *key, const json_t *value, const char *limit, const char *name)
{
    char *text = json_text(value);
    log_error("model \"%s\": %s is %.100s, %s", name, key, text, limit);
    free(text);
    return -1;
}

/* Reads key into out unless it is absent.  null gives 0. */
static int json_number(double *out, const json_t *json, const char *key, const char *name)
{
    const json_t *value = json_object_get(json, key);
    if (value == NULL)
        return 0;
    if (!json_is_number(value) && !json_is_null(value))
        return json_refuse(key, value, "it must be a number", name);
    *out = json_number_value(value);
    return 0;
}

static int json_whole(int64_t *out, const json_t *json, const char *key, const char *name)
{
    const json_t *value = json_object_get(json, key);
    if (value == NULL)
        return 0;
    if (!json_is_integer(value) && !json_is_null(value))
        return json_refuse(key, value, "it must be a whole number", name);
    *out = json_integer_value(value);
    return 0;
}

static int json_flag(bool *out, const json_t *json, const char *key, const char *name)
{
    const json_t *value = json_present(json, key);
    if (value == NULL)
        return 0;
    if (!json_is_boolean(value))
        return json_refuse(key, value, "it must be true or false", name);
    *out = json_is_true(value);
    return 0;
}

/* ---- architecture ---- */

static int architecture_refuse(const char *key, const json_t *value, const char *name)
{
    struct buffer list = { 0 };
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        buffer_printf(&list, "%s%s", i ? ", " : "", families[i].architecture);
    buffer_append(&list, "", 1);
    char *text = json_text(value);
    log_error("model \"%s\": %s is %.100s, supported are %s and their ForSequenceClassification", name, key, text, list.data);
    free(text);
    free(list.data);
    return -1;
}

/* By architectures, or where a config has none by model_type; the two must not contradict each other. */
static int json_family(const struct family **family, bool *classifies, const json_t *json, const char *name)
{
    const json_t *architecture = json_present(json, "architectures"), *type = json_present(json, "model_type");
    *family = NULL;
    *classifies = false;
    if (architecture != NULL) {
        architecture = json_array_get(architecture, 0);
        if (!json_is_string(architecture)) {
            log_error("model \"%s\": architectures is not a list of names", name);
            return -1;
        }
    }
    if (architecture == NULL && type == NULL) {
        log_error("model \"%s\": it has neither architectures nor model_type", name);
        return -1;
    }
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        const char *wanted = json_string_value(architecture);
        bool scores = wanted != NULL && strcmp(wanted, families[i].classification) == 0;
        if (wanted == NULL ? json_is_string(type) && strcmp(json_string_value(type), families[i].model_type) == 0
                           : scores || strcmp(wanted, families[i].architecture) == 0) {
            *family = &families[i];
            *classifies = scores;
        }
    }
    if (*family == NULL)
        return architecture != NULL ? architecture_refuse("architecture", architecture, name)
                                    : architecture_refuse("model_type", type, name);
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), (*family)->model_type) != 0)) {
        char *text = json_text(type);
        log_error("model \"%s\": model_type is %.100s, %s has \"%s\"", name, text,
                  *classifies ? (*family)->classification : (*family)->architecture, (*family)->model_type);
        free(text);
        return -1;
    }
    return 0;
}

/* ---- keys that change the arithmetic ---- */

#define FAMILY_BIT(family) (1u << (family))
static const unsigned all_families = ~0u;

/* Features that are not supported: any value but the harmless one, absent and null, is refused. */
static const struct refused_key {
    const char *key;
    unsigned families;
    const char *harmless;
} refused_keys[] = {
    { "quantization_config", all_families, "null" },
    { "is_causal", all_families, "true" },
    { "partial_rotary_factor", all_families & ~FAMILY_BIT(FAMILY_GPT2), "1" },
    { "use_bidirectional_attention", FAMILY_BIT(FAMILY_GEMMA2), "false" },
    { "scale_attn_weights", FAMILY_BIT(FAMILY_GPT2), "true" },
    { "scale_attn_by_inverse_layer_idx", FAMILY_BIT(FAMILY_GPT2), "false" },
    { "add_cross_attention", FAMILY_BIT(FAMILY_GPT2), "false" },
};

static bool json_is_harmless(const json_t *value, const char *harmless)
{
    if (json_is_number(value))
        return strcmp(harmless, "1") == 0 && json_number_value(value) == 1;
    return json_is_boolean(value) && strcmp(harmless, json_is_true(value) ? "true" : "false") == 0;
}

static int json_refuse_unsupported(const json_t *json, enum model_family family, const char *name)
{
    for (size_t i = 0; i < COUNT_OF(refused_keys); i++) {
        const struct refused_key *refused = &refused_keys[i];
        const json_t *value = json_present(json, refused->key);
        if (value != NULL && refused->families & FAMILY_BIT(family) && !json_is_harmless(value, refused->harmless)) {
            char limit[64];
            snprintf(limit, sizeof limit, "only %s is supported", refused->harmless);
            return json_refuse(refused->key, value, limit, name);
        }
    }
    return 0;
}

/* transformers' names of activations; the first of each is the one we write. */
static const struct { const char *name; enum activation activation; } activations[] = {
    { "silu", ACTIVATION_SILU }, { "swish", ACTIVATION_SILU },
    { "gelu_pytorch_tanh", ACTIVATION_GELU_TANH }, { "gelu_new", ACTIVATION_GELU_TANH }, { "gelu_fast", ACTIVATION_GELU_TANH },
    { "gelu", ACTIVATION_GELU }, { "gelu_python", ACTIVATION_GELU },
};

static const char *activation_key(enum model_family family)
{
    return family == FAMILY_GPT2 ? "activation_function" : family == FAMILY_GEMMA2 ? "hidden_activation" : "hidden_act";
}

static int json_activation(struct model_config *config, const json_t *json, const char *name)
{
    const char *key = activation_key(config->family);
    const json_t *value = json_present(json, key);
    if (value == NULL)
        return 0;
    for (size_t i = 0; i < COUNT_OF(activations); i++) {
        if (json_is_string(value) && strcmp(json_string_value(value), activations[i].name) == 0) {
            config->activation = activations[i].activation;
            return 0;
        }
    }
    return json_refuse(key, value, "supported are silu, gelu_pytorch_tanh, gelu_new and gelu", name);
}

/* Biases that a switch adds.  attention_bias means query, key, value and output. */
static int json_biases(struct model_config *config, const json_t *json, const char *name)
{
    static const unsigned with_switch = FAMILY_BIT(FAMILY_LLAMA) | FAMILY_BIT(FAMILY_QWEN3) | FAMILY_BIT(FAMILY_GEMMA2);
    if (with_switch & FAMILY_BIT(config->family)) {
        if (json_flag(&config->qkv_bias, json, "attention_bias", name) != 0)
            return -1;
        config->o_bias = config->qkv_bias;
    }
    return config->family == FAMILY_LLAMA ? json_flag(&config->ff_bias, json, "mlp_bias", name) : 0;
}

/* ---- windows ---- */

/* The first and the period of the layers that layer_types calls sliding. */
static int json_layer_types(struct model_config *config, const json_t *types, const char *name)
{
    int64_t L = (int64_t)json_array_size(types), first = -1, period = 0;
    if (!json_is_array(types) || L != config->layer_count) {
        log_error("model \"%s\": layer_types is no list of its %lld layers", name, (long long)config->layer_count);
        return -1;
    }
    for (int64_t l = 0; l < L; l++) {
        const char *type = json_string_value(json_array_get(types, (size_t)l));
        bool sliding = type != NULL && strcmp(type, "sliding_attention") == 0;
        if (!sliding && (type == NULL || strcmp(type, "full_attention") != 0))
            return json_refuse("a layer type", json_array_get(types, (size_t)l),
                               "supported are sliding_attention and full_attention", name);
        bool expected = first >= 0 && (period == 0 || (l - first) % period == 0);
        if (sliding && first < 0)
            first = l;
        else if (sliding && period == 0)
            period = l - first;
        else if (sliding != expected && period != 0) {
            log_error("model \"%s\": layer %lld is %s, only sliding layers in a fixed rhythm are supported", name, (long long)l,
                      type);
            return -1;
        }
    }
    config->window_first = first < 0 ? L : first;
    config->window_period = period != 0 ? period : L;
    return 0;
}

/* Qwen has a window only where use_sliding_window says so, in layers from max_window_layers on. */
static int json_window(struct model_config *config, const json_t *json, const char *name)
{
    bool qwen = config->family == FAMILY_QWEN2 || config->family == FAMILY_QWEN3, used = !qwen;
    if (config->family == FAMILY_LLAMA || config->family == FAMILY_GPT2)
        return 0;
    if (qwen) {
        config->window = 4096;
        config->window_first = 28;
        if (json_flag(&used, json, "use_sliding_window", name) != 0
            || json_whole(&config->window_first, json, "max_window_layers", name) != 0)
            return -1;
        if (config_bound((double)config->window_first, 0, 1 << 24, "max_window_layers", name) != 0)
            return -1;
    }
    if (json_whole(&config->window, json, "sliding_window", name) != 0)
        return -1;
    if (json_present(json, "sliding_window") != NULL
        && config_bound((double)config->window, 1, 1 << 30, "sliding_window", name) != 0)
        return -1;
    if (!used)
        config->window = 0;
    const json_t *types = json_present(json, "layer_types");
    if (types != NULL && (qwen || config->family == FAMILY_GEMMA2)) {
        if (json_layer_types(config, types, name) != 0)
            return -1;
        if (config->window_first < config->layer_count && config->window == 0) {
            log_error("model \"%s\": layer %lld is sliding_attention, but there is no sliding_window", name,
                      (long long)config->window_first);
            return -1;
        }
    }
    return 0;
}

/* ---- the rotary embedding ---- */

static const char *const rope_names[] = {
    [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic", [ROPE_YARN] = "yarn",
    [ROPE_LONGROPE] = "longrope", [ROPE_LLAMA3] = "llama3",
};

static int rope_kind_read(struct model_config *config, const json_t *rope, const char *name)
{
    const json_t *value = json_present(rope, "rope_type");
    if (value == NULL)
        value = json_present(rope, "type");
    if (value == NULL)
        return 0;
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    bool phi3 = config->family == FAMILY_PHI3;
    if (phi3 && (strcmp(text, "su") == 0 || strcmp(text, "yarn") == 0))  // its older names
        text = rope_names[ROPE_LONGROPE];
    for (size_t i = 0; i < COUNT_OF(rope_names); i++) {
        if (strcmp(text, rope_names[i]) == 0 && (!phi3 || i == ROPE_DEFAULT || i == ROPE_LONGROPE)) {
            config->rope.kind = (enum rope_kind)i;
            return 0;
        }
    }
    return json_refuse("rope_type", value, phi3 ? "supported are default and longrope"
                                                : "supported are default, linear, dynamic, yarn, longrope and llama3", name);
}

static int rope_factors_read(float *factors, const struct model_config *config, const json_t *rope, const char *key,
                             const char *name)
{
    const json_t *list = json_object_get(rope, key);
    size_t count = (size_t)config->head_size / 2;
    if (count == 0 && config->head_count > 0)
        count = (size_t)(config->channel_count / config->head_count / 2);
    if (!json_is_array(list) || json_array_size(list) != count || count > ROPE_FACTORS_MAX) {
        log_error("model \"%s\": %s has %zu numbers, it must have half a head size, %zu of at most %d", name, key,
                  json_array_size(list), count, ROPE_FACTORS_MAX);
        return -1;
    }
    for (size_t c = 0; c < count; c++) {
        const json_t *number = json_array_get(list, c);
        if (!json_is_number(number))
            return json_refuse(key, number, "it must be a list of numbers", name);
        factors[c] = (float)json_number_value(number);
    }
    return 0;
}

static int rope_yarn_read(struct rope_scaling *yarn, const json_t *rope, const char *name)
{
    double numerator = 0, denominator = 0;
    bool truncate = true;
    if (json_number(&yarn->attention_factor, rope, "attention_factor", name) != 0
        || json_number(&numerator, rope, "mscale", name) != 0 || json_number(&denominator, rope, "mscale_all_dim", name) != 0
        || json_flag(&truncate, rope, "truncate", name) != 0)
        return -1;
    if (json_present(rope, "beta_fast") != NULL && json_number(&yarn->beta_fast, rope, "beta_fast", name) != 0)
        return -1;
    if (json_present(rope, "beta_slow") != NULL && json_number(&yarn->beta_slow, rope, "beta_slow", name) != 0)
        return -1;
    if (!truncate)
        return json_refuse("truncate", json_object_get(rope, "truncate"), "only true is supported", name);
    if (yarn->attention_factor != 0)
        return 0;
    double plain = config_yarn_attention(yarn->factor);
    bool scaled = numerator != 0 && denominator != 0;
    yarn->attention_factor = scaled ? (numerator * (plain - 1) + 1) / (denominator * (plain - 1) + 1) : plain;
    return 0;
}

static int rope_longrope_read(struct model_config *config, const json_t *rope, const char *name)
{
    struct rope_scaling *scaling = &config->rope;
    double attention_factor = 0;
    if (json_number(&attention_factor, rope, "attention_factor", name) != 0
        || rope_factors_read(scaling->factors, config, rope, "short_factor", name) != 0
        || rope_factors_read(scaling->long_factors, config, rope, "long_factor", name) != 0)
        return -1;
    if (attention_factor == 0 && scaling->factor != 0)
        attention_factor = config_longrope_attention(scaling->factor, scaling->original_positions);
    scaling->factor = 0;
    config_longrope(config, attention_factor);
    return 0;
}

/* What belongs to the kind; json is the whole config, rope its rope_parameters. */
static int rope_kind_fields(struct model_config *config, const json_t *json, const json_t *rope, const char *name)
{
    struct rope_scaling *scaling = &config->rope;
    bool phi3 = config->family == FAMILY_PHI3;
    scaling->original_positions = phi3 ? 4096 : config->position_max;
    const json_t *holder = phi3 || json_present(json, "original_max_position_embeddings") != NULL ? json : rope;
    if (json_present(holder, "original_max_position_embeddings") != NULL
        && json_whole(&scaling->original_positions, holder, "original_max_position_embeddings", name) != 0)
        return -1;
    if (config_bound((double)scaling->original_positions, 1, 1 << 24, "original_max_position_embeddings", name) != 0
        || json_number(&scaling->factor, rope, "factor", name) != 0)
        return -1;
    double ratio = (double)config->position_max / (double)scaling->original_positions;
    switch (scaling->kind) {
    case ROPE_DEFAULT:
        *scaling = (struct rope_scaling){ 0 };
        return 0;
    case ROPE_LINEAR:
    case ROPE_DYNAMIC:
        scaling->original_positions = 0;
        return 0;
    case ROPE_LLAMA3:
        return json_number(&scaling->low_frequency, rope, "low_freq_factor", name) != 0
               || json_number(&scaling->high_frequency, rope, "high_freq_factor", name) != 0 ? -1 : 0;
    case ROPE_YARN:
        scaling->beta_fast = 32;
        scaling->beta_slow = 1;
        if (scaling->factor == 0)
            scaling->factor = ratio;
        return rope_yarn_read(scaling, rope, name);
    case ROPE_LONGROPE:
        break;
    }
    return rope_longrope_read(config, rope, name);
}

/* rope_parameters may say the same for each layer type. */
static const json_t *rope_flat(const json_t *rope, const char *name)
{
    static const char *const types[] = { "full_attention", "sliding_attention" };
    const json_t *full = json_object_get(rope, types[0]), *sliding = json_object_get(rope, types[1]);
    if (full == NULL && sliding == NULL)
        return rope;
    if (full != NULL && sliding != NULL && !json_equal(full, sliding)) {
        log_error("model \"%s\": rope_parameters differ between %s and %s, they must be equal", name, types[0], types[1]);
        return NULL;
    }
    return full != NULL ? full : sliding;
}

/* transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters. */
static int json_rope(struct model_config *config, const json_t *json, const char *name)
{
    static const char *const keys[] = { "rope_scaling", "rope_parameters" };
    const json_t *rope = NULL;
    const char *key = NULL;
    if (json_present(json, "rope_theta") != NULL && json_number(&config->rope_theta, json, "rope_theta", name) != 0)
        return -1;
    for (size_t i = 0; i < COUNT_OF(keys) && json_object_size(rope) == 0; i++) {
        rope = json_present(json, keys[i]);
        key = keys[i];
        if (rope != NULL && !json_is_object(rope))
            return json_refuse(key, rope, "it must be an object", name);
    }
    if (json_object_size(rope) == 0)
        return 0;
    if ((rope = rope_flat(rope, name)) == NULL)
        return -1;
    if (!json_is_object(rope))
        return json_refuse(key, rope, "it must be an object", name);
    if (json_present(rope, "rope_theta") != NULL && json_number(&config->rope_theta, rope, "rope_theta", name) != 0)
        return -1;
    double partial = 1;
    if (json_present(rope, "partial_rotary_factor") != NULL
        && json_number(&partial, rope, "partial_rotary_factor", name) != 0)
        return -1;
    if (partial != 1)
        return json_refuse("partial_rotary_factor", json_object_get(rope, "partial_rotary_factor"), "only 1 is supported", name);
    return rope_kind_read(config, rope, name) != 0 ? -1 : rope_kind_fields(config, json, rope, name);
}

/* ---- what one family has ---- */

static int json_gemma2(struct model_config *config, const json_t *json, const char *name)
{
    double scalar = 256;
    if (json_number(&config->attention_cap, json, "attn_logit_softcapping", name) != 0
        || json_number(&config->logit_cap, json, "final_logit_softcapping", name) != 0
        || json_number(&scalar, json, "query_pre_attn_scalar", name) != 0
        || config_bound(scalar, 1, 1 << 20, "query_pre_attn_scalar", name) != 0)
        return -1;
    if (scalar != floor(scalar))
        return json_refuse("query_pre_attn_scalar", json_object_get(json, "query_pre_attn_scalar"), "it must be whole", name);
    config->attention_scale = 1 / sqrt(scalar);
    return 0;
}

/* transformers writes no labels where there are 2. */
static int json_labels(struct model_config *config, const json_t *json, const char *name)
{
    const json_t *labels = json_present(json, "id2label");
    config->label_count = 2;
    if (labels != NULL && !json_is_object(labels))
        return json_refuse("id2label", labels, "it must be an object", name);
    if (json_present(json, "num_labels") != NULL && json_whole(&config->label_count, json, "num_labels", name) != 0)
        return -1;
    if (labels != NULL)
        config->label_count = (int64_t)json_object_size(labels);
    return config_bound((double)config->label_count, 1, 1 << 16, "the number of labels", name);
}

/* ---- reading ---- */

/* A key that is null counts as derived, one that is absent has the family's default. */
static int json_counts(struct model_config *config, const json_t *json, const char *name)
{
    bool gpt2 = config->family == FAMILY_GPT2;
    for (size_t i = 0; i < CONFIG_COUNTS; i++) {
        const struct config_count *count = &config_counts[i];
        const char *key = gpt2 ? count->gpt2_key : count->json_key;
        if (gpt2 && count->offset == offsetof(struct model_config, position_max) && json_present(json, key) == NULL)
            key = "n_ctx";  // its older name
        const json_t *value = key == NULL ? NULL : json_object_get(json, key);
        if (value == NULL)
            continue;
        if (json_is_null(value))
            *config_count_at(config, count) = 0;
        else if (!json_is_integer(value))
            return json_refuse(key, value, "it must be a whole number", name);
        else if (config_count_set(config, count, key, json_integer_value(value), name) != 0)
            return -1;
    }
    return 0;
}

int config_from_json(struct model_config *config, const json_t *json, const char *name)
{
    const struct family *family;
    bool classifies;
    *config = (struct model_config){ 0 };
    if (!json_is_object(json)) {
        log_error("model \"%s\": its config is not a JSON object", name);
        return -1;
    }
    if (json_family(&family, &classifies, json, name) != 0)
        return -1;
    *config = family->defaults;
    const char *epsilon = family->family == FAMILY_GPT2 ? "layer_norm_epsilon" : "rms_norm_eps";
    if (json_refuse_unsupported(json, family->family, name) != 0 || json_counts(config, json, name) != 0
        || json_flag(&config->tied_embeddings, json, "tie_word_embeddings", name) != 0
        || (json_present(json, epsilon) != NULL && json_number(&config->norm_epsilon, json, epsilon, name) != 0)
        || json_activation(config, json, name) != 0 || json_biases(config, json, name) != 0
        || json_window(config, json, name) != 0)
        return -1;
    if (family->family == FAMILY_GEMMA2 && json_gemma2(config, json, name) != 0)
        return -1;
    if (classifies && json_labels(config, json, name) != 0)
        return -1;
    if (!config->learned_positions && json_rope(config, json, name) != 0)
        return -1;
    return config_complete(config, name);
}

/* ---- writing ---- */

static void json_put(json_t *json, const char *key, json_t *value)
{
    CHECK(value != NULL && json_object_set_new(json, key, value) == 0);
}

static json_t *factors_to_json(const float *factors, int64_t count)
{
    json_t *list = json_array();
    for (int64_t c = 0; c < count; c++)
        CHECK(json_array_append_new(list, json_real((double)factors[c])) == 0);
    return list;
}

/* Also what stands outside of rope_scaling: transformers 4 takes exactly three keys of Phi-3's. */
static void rope_to_json(json_t *json, const struct model_config *config)
{
    const struct rope_scaling *rope = &config->rope;
    json_put(json, "rope_theta", json_real(config->rope_theta));
    if (rope->kind == ROPE_DEFAULT) {
        json_put(json, "rope_scaling", json_null());
        return;
    }
    json_t *scaling = json_object();
    json_put(json, "rope_scaling", scaling);
    json_put(scaling, config->family == FAMILY_PHI3 ? "type" : "rope_type", json_string(rope_names[rope->kind]));
    if (rope->kind == ROPE_LONGROPE) {
        double ratio = (double)rope->long_positions / (double)rope->original_positions;
        double usual = config_longrope_attention(ratio, rope->original_positions);
        json_put(json, "original_max_position_embeddings", json_integer(rope->original_positions));
        json_put(json, "max_position_embeddings", json_integer(rope->long_positions));
        json_put(scaling, "short_factor", factors_to_json(rope->factors, config->head_size / 2));
        json_put(scaling, "long_factor", factors_to_json(rope->long_factors, config->head_size / 2));
        if (fabs(rope->attention_factor - usual) > 1e-6 * usual)  // GGUF keeps it in float32
            json_put(scaling, "attention_factor", json_real(rope->attention_factor));
        return;
    }
    json_put(scaling, "factor", json_real(rope->factor));
    if (rope->kind == ROPE_YARN || rope->kind == ROPE_LLAMA3)
        json_put(scaling, "original_max_position_embeddings", json_integer(rope->original_positions));
    if (rope->kind == ROPE_LLAMA3) {
        json_put(scaling, "low_freq_factor", json_real(rope->low_frequency));
        json_put(scaling, "high_freq_factor", json_real(rope->high_frequency));
    }
    if (rope->kind == ROPE_YARN) {
        json_put(scaling, "beta_fast", json_real(rope->beta_fast));
        json_put(scaling, "beta_slow", json_real(rope->beta_slow));
        json_put(scaling, "attention_factor", json_real(rope->attention_factor));
    }
}

static json_t *window_or_null(const struct model_config *config)
{
    return config->window > 0 ? json_integer(config->window) : json_null();
}

static json_t *layer_types_to_json(const struct model_config *config)
{
    struct model_config long_context = *config;
    long_context.position_max = INT64_MAX;
    json_t *types = json_array();
    for (int64_t l = 0; l < config->layer_count; l++) {
        bool sliding = config_window(&long_context, l) < INT64_MAX;
        CHECK(json_array_append_new(types, json_string(sliding ? "sliding_attention" : "full_attention")) == 0);
    }
    return types;
}

static void window_to_json(json_t *json, const struct model_config *config)
{
    switch (config->family) {
    case FAMILY_MISTRAL:
    case FAMILY_PHI3:
        json_put(json, "sliding_window", window_or_null(config));
        break;
    case FAMILY_GEMMA2:  // which transformers wants to have a number, though no layer may use it
        json_put(json, "sliding_window", json_integer(config->window > 0 ? config->window : config->position_max));
        json_put(json, "layer_types", layer_types_to_json(config));
        break;
    case FAMILY_QWEN2:
    case FAMILY_QWEN3:
        json_put(json, "use_sliding_window", json_boolean(config->window > 0));
        json_put(json, "sliding_window", window_or_null(config));
        json_put(json, "max_window_layers", json_integer(config->window > 0 ? config->window_first : config->layer_count));
        json_put(json, "layer_types", layer_types_to_json(config));
        break;
    default:
        break;
    }
}

static void labels_to_json(json_t *json, int64_t label_count)
{
    json_t *names = json_object(), *ids = json_object();
    json_put(json, "id2label", names);
    json_put(json, "label2id", ids);
    for (int64_t n = 0; n < label_count; n++) {
        char id[24], label[32];
        snprintf(id, sizeof id, "%lld", (long long)n);
        snprintf(label, sizeof label, "LABEL_%lld", (long long)n);
        json_put(names, id, json_string(label));
        json_put(ids, label, json_integer(n));
    }
}

static const char *activation_name(const struct model_config *config)
{
    if (config->family == FAMILY_GPT2 && config->activation == ACTIVATION_GELU_TANH)
        return "gelu_new";
    size_t i = 0;
    while (activations[i].activation != config->activation)
        i++;
    return activations[i].name;
}

json_t *config_to_json(const struct model_config *config)
{
    const struct family *family = &families[config->family];
    struct model_config copy = *config;
    bool gpt2 = config->family == FAMILY_GPT2;
    json_t *json = json_object(), *architectures = json_array();
    const char *architecture = config->label_count > 0 ? family->classification : family->architecture;
    CHECK(json_array_append_new(architectures, json_string(architecture)) == 0);
    json_put(json, "architectures", architectures);
    json_put(json, "model_type", json_string(family->model_type));
    json_put(json, "torch_dtype", json_string("float32"));
    for (size_t i = 0; i < CONFIG_COUNTS; i++) {
        const char *key = gpt2 ? config_counts[i].gpt2_key : config_counts[i].json_key;
        if (key != NULL)
            json_put(json, key, json_integer(*config_count_at(&copy, &config_counts[i])));
    }
    json_put(json, activation_key(config->family), json_string(activation_name(config)));
    json_put(json, gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", json_real(config->norm_epsilon));
    json_put(json, "tie_word_embeddings", json_boolean(config->tied_embeddings));
    if (config->family == FAMILY_LLAMA || config->family == FAMILY_QWEN3 || config->family == FAMILY_GEMMA2)
        json_put(json, "attention_bias", json_boolean(config->qkv_bias));
    if (config->family == FAMILY_LLAMA)
        json_put(json, "mlp_bias", json_boolean(config->ff_bias));
    else
        json_put(json, "pad_token_id", json_null());  // transformers' default may lie outside the vocabulary
    if (config->family == FAMILY_GEMMA2) {
        json_put(json, "query_pre_attn_scalar", json_integer(llround(1 / (config->attention_scale * config->attention_scale))));
        json_put(json, "attn_logit_softcapping", config->attention_cap != 0 ? json_real(config->attention_cap) : json_null());
        json_put(json, "final_logit_softcapping", config->logit_cap != 0 ? json_real(config->logit_cap) : json_null());
    }
    window_to_json(json, config);
    if (config->label_count > 0)
        labels_to_json(json, config->label_count);
    if (!config->learned_positions)
        rope_to_json(json, config);
    return json;
}
