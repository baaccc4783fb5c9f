/*
 * config_gguf.c - a model's shape from GGUF metadata and the tensors that are there; see config.h.
 *
 * What is left out means what llama.cpp takes for it.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/config_parts.h"
#include "model/family.h"
#include "model/gguf.h"

/* The metadata of one model.  Keys begin with the architecture: "llama.block_count". */
struct source {
    const struct gguf *gguf;
    const char *architecture, *name;
};

enum { KEY_SIZE_MAX = 128 };

static const char *source_key(const struct source *source, const char *ending, char key[KEY_SIZE_MAX])
{
    snprintf(key, KEY_SIZE_MAX, "%.64s.%s", source->architecture, ending);
    return key;
}

static bool source_integer(const struct source *source, const char *ending, int64_t *out)
{
    char key[KEY_SIZE_MAX];
    return gguf_integer(source->gguf, source_key(source, ending, key), out);
}

static bool source_number(const struct source *source, const char *ending, double *out)
{
    char key[KEY_SIZE_MAX];
    return gguf_number(source->gguf, source_key(source, ending, key), out);
}

static int architecture_refuse(const char *architecture, const char *name)
{
    struct buffer list = { 0 };
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (family_from_gguf(families[i].gguf_architecture) == &families[i])
            buffer_printf(&list, "%s%s", i ? ", " : "", families[i].gguf_architecture);
    buffer_append(&list, "", 1);
    log_error("model \"%s\": architecture \"%.100s\" is not supported, only %s are", name, architecture, list.data);
    free(list.data);
    return -1;
}

/* ---- values that change the arithmetic in ways that are not supported ---- */

static int gguf_refuse_unsupported(const struct model_config *config, const struct source *source)
{
    static const struct { const char *key; double harmless; } switches[] = {
        { "expert_count", 0 }, { "rope.scaling.yarn_log_multiplier", 0 }, { "rope.scaling.yarn_ext_factor", 1 },
        { "attention.causal", 1 }, { "attention.clamp_kqv", 0 }, { "attention.max_alibi_bias", 0 }, { "logit_scale", 1 },
        { "residual_scale", 1 }, { "embedding_scale", 1 },
    };
    for (size_t i = 0; i < COUNT_OF(switches); i++) {
        double number = switches[i].harmless;
        source_number(source, switches[i].key, &number);
        if (number != switches[i].harmless) {
            log_error("model \"%s\": %s.%s is %g, only %g is supported", source->name, source->architecture, switches[i].key,
                      number, switches[i].harmless);
            return -1;
        }
    }
    static const char *const sizes[] = { "rope.dimension_count", "attention.value_length" };
    for (size_t i = 0; i < COUNT_OF(sizes) && !config->learned_positions; i++) {
        int64_t size = config->head_size;
        source_integer(source, sizes[i], &size);
        if (size != config->head_size) {
            log_error("model \"%s\": %s.%s is %lld, only the head size %lld is supported", source->name, source->architecture,
                      sizes[i], (long long)size, (long long)config->head_size);
            return -1;
        }
    }
    return 0;
}

/* ---- what the tensors alone tell ---- */

static const struct gguf_tensor *tensor_find(const struct source *source, const char *name)
{
    for (size_t i = 0; i < gguf_tensor_count(source->gguf); i++)
        if (strcmp(gguf_tensor_at(source->gguf, i)->name, name) == 0)
            return gguf_tensor_at(source->gguf, i);
    return NULL;
}

/* Whether some layer has the weight. */
static bool has_role(const struct source *source, const struct model_config *config, enum weight_role role)
{
    const char *pattern = family_weight(config->family, role)->gguf_name;
    for (size_t i = 0; i < gguf_tensor_count(source->gguf); i++)
        if (weight_name_matches(pattern, gguf_tensor_at(source->gguf, i)->name))
            return true;
    return false;
}

/* The vocabulary's size, whether there is an lm_head, which biases. */
static int gguf_tensor_facts(struct model_config *config, const struct source *source)
{
    const char *name = family_weight(config->family, WEIGHT_EMBEDDING)->gguf_name;
    const struct gguf_tensor *embedding = tensor_find(source, name);
    if (embedding == NULL) {
        log_error("model \"%s\": it has no tensor \"%s\"", source->name, name);
        return -1;
    }
    config->tied_embeddings = !has_role(source, config, WEIGHT_LM_HEAD);
    config->qkv_bias |= has_role(source, config, WEIGHT_Q_BIAS);
    config->o_bias |= has_role(source, config, WEIGHT_O_BIAS);
    config->ff_bias |= has_role(source, config, WEIGHT_DOWN_BIAS);
    const struct gguf_tensor *score = tensor_find(source, family_weight(config->family, WEIGHT_SCORE)->gguf_name);
    if (score != NULL)
        config->label_count = score->rank == 2 ? score->shape[0] : 1;
    return config_count_set(config, &config_counts[0], "vocabulary size", embedding->shape[0], source->name);
}

/* ---- windows ---- */

/* llama.cpp has a rhythm of windows for Gemma-2 alone. */
static int gguf_window(struct model_config *config, const struct source *source)
{
    if (source_integer(source, "attention.sliding_window", &config->window)
        && config_bound((double)config->window, 0, 1 << 30, "attention.sliding_window", source->name) != 0)
        return -1;
    if ((config->family == FAMILY_QWEN2 || config->family == FAMILY_QWEN3) && config->window != 0
        && config->window < config->position_max) {
        log_error("model \"%s\": %s.attention.sliding_window is %lld, which layers it is for is not known", source->name,
                  source->architecture, (long long)config->window);
        return -1;
    }
    return 0;
}

/* ---- the rotary embedding ---- */

static int factors_read(float *factors, const struct model_config *config, const struct gguf_tensor *tensor, const char *name)
{
    size_t half = (size_t)config->head_size / 2;
    if (tensor->type != 0 || tensor->rank != 1 || (size_t)tensor->shape[0] != half || half > ROPE_FACTORS_MAX) {
        log_error("model \"%s\": tensor \"%s\" has %lld elements of type %s, it must have half a head size, %zu of at most %d, "
                  "of type F32", name, tensor->name, (long long)tensor->shape[0], gguf_type_name(tensor->type), half,
                  ROPE_FACTORS_MAX);
        return -1;
    }
    memcpy(factors, tensor->data, half * sizeof *factors);
    return 0;
}

/* Factors of each pair: rope_freqs for texts of any length (Llama 3), or one set for short and one for long texts (Phi-3). */
static int gguf_factors(struct model_config *config, const struct source *source, double attention_factor)
{
    const struct gguf_tensor *all = tensor_find(source, "rope_freqs.weight");
    const struct gguf_tensor *few = tensor_find(source, "rope_factors_short.weight");
    const struct gguf_tensor *many = tensor_find(source, "rope_factors_long.weight");
    struct rope_scaling *rope = &config->rope;
    if (all != NULL) {
        rope->original_positions = config->position_max;
        many = few = all;
    } else if (few == NULL || many == NULL) {
        if (few == NULL && many == NULL)
            return 0;
        log_error("model \"%s\": it has only one of \"rope_factors_short.weight\" and \"rope_factors_long.weight\"",
                  source->name);
        return -1;
    }
    const char *name = source->name;
    if (factors_read(rope->factors, config, few, name) != 0 || factors_read(rope->long_factors, config, many, name) != 0
        || config_bound((double)rope->original_positions, 1, 1 << 24, "rope.scaling.original_context_length", name) != 0)
        return -1;
    config_longrope(config, attention_factor);
    return 0;
}

static int gguf_rope(struct model_config *config, const struct source *source)
{
    static const struct { const char *name; enum rope_kind kind; } kinds[] = {
        { "none", ROPE_DEFAULT }, { "linear", ROPE_LINEAR }, { "yarn", ROPE_YARN }, { "longrope", ROPE_LONGROPE },
    };
    struct rope_scaling *rope = &config->rope;
    double factor = 0, attention_factor = 0;
    struct gguf_text type = { "", 0 };
    char key[KEY_SIZE_MAX];
    bool known = !gguf_text(source->gguf, source_key(source, "rope.scaling.type", key), &type);
    source_number(source, "rope.freq_base", &config->rope_theta);
    if (!source_number(source, "rope.scaling.factor", &factor))
        source_number(source, "rope.scale_linear", &factor);  // its older name
    factor = factor != 0 ? factor : 1;
    source_number(source, "rope.scaling.attn_factor", &attention_factor);
    rope->kind = known && factor != 1 ? ROPE_LINEAR : ROPE_DEFAULT;
    for (size_t i = 0; i < COUNT_OF(kinds) && !known; i++) {
        if (strcmp(type.at, kinds[i].name) == 0) {
            rope->kind = kinds[i].kind;
            known = true;
        }
    }
    if (!known) {
        log_error("model \"%s\": %s is \"%.100s\", supported are none, linear, yarn and longrope", source->name, key, type.at);
        return -1;
    }
    rope->original_positions = config->position_max;
    source_integer(source, "rope.scaling.original_context_length", &rope->original_positions);
    if (rope->kind == ROPE_YARN) {
        rope->beta_fast = 32;
        rope->beta_slow = 1;
        source_number(source, "rope.scaling.yarn_beta_fast", &rope->beta_fast);
        source_number(source, "rope.scaling.yarn_beta_slow", &rope->beta_slow);
        rope->factor = factor;
        rope->attention_factor = config_yarn_attention(factor) * (attention_factor != 0 ? attention_factor : 1);
    } else if (rope->kind == ROPE_LINEAR) {
        rope->factor = factor;
    }
    bool scaled = rope->kind == ROPE_YARN || (rope->kind == ROPE_LINEAR && factor != 1);
    if (gguf_factors(config, source, attention_factor) != 0)
        return -1;
    if (scaled && rope->kind == ROPE_LONGROPE) {
        log_error("model \"%s\": it has rotary factors and another scaling by %g, only one is supported", source->name, factor);
        return -1;
    }
    if (rope->kind != ROPE_YARN && rope->kind != ROPE_LONGROPE && attention_factor != 0 && attention_factor != 1) {
        log_error("model \"%s\": %s.rope.scaling.attn_factor is %g, without yarn or rotary factors only 1 is supported",
                  source->name, source->architecture, attention_factor);
        return -1;
    }
    return 0;
}

/* ---- reading ---- */

/* The 27 billion model alone scales queries by C / NH instead of the head size. */
double config_gguf_attention_scale(const struct model_config *config)
{
    enum { LAYERS_27B = 46 };
    bool large = config->layer_count == LAYERS_27B;
    return 1 / sqrt((double)(large ? config->channel_count / config->head_count : config->head_size));
}

static void gguf_gemma2(struct model_config *config, const struct source *source)
{
    config->attention_scale = config_gguf_attention_scale(config);
    source_number(source, "attn_logit_softcapping", &config->attention_cap);
    source_number(source, "final_logit_softcapping", &config->logit_cap);
}

static int gguf_counts(struct model_config *config, const struct source *source)
{
    config->kv_head_count = config->head_size = 0;  // transformers' defaults are not llama.cpp's
    for (size_t i = 0; i < CONFIG_COUNTS; i++) {
        int64_t number;
        char key[KEY_SIZE_MAX];
        if (config_counts[i].gguf_key == NULL)
            continue;
        source_key(source, config_counts[i].gguf_key, key);
        if (gguf_integer(source->gguf, key, &number)
            && config_count_set(config, &config_counts[i], key, number, source->name) != 0)
            return -1;
    }
    return 0;
}

int config_from_gguf(struct model_config *config, const struct gguf *gguf, const char *name)
{
    struct gguf_text architecture = { "", 0 };
    gguf_text(gguf, "general.architecture", &architecture);
    const struct family *family = family_from_gguf(architecture.at);
    *config = (struct model_config){ 0 };
    if (family == NULL)
        return architecture_refuse(architecture.at, name);
    struct source source = { gguf, family->gguf_architecture, name };
    const char *epsilon = family->defaults.norm == NORM_LAYER ? "attention.layer_norm_epsilon"
                                                              : "attention.layer_norm_rms_epsilon";
    *config = family->defaults;
    if (gguf_counts(config, &source) != 0)
        return -1;
    if (!source_number(&source, epsilon, &config->norm_epsilon)) {
        log_error("model \"%s\": metadata has no number \"%s.%s\"", name, source.architecture, epsilon);
        return -1;
    }
    if (gguf_tensor_facts(config, &source) != 0 || gguf_window(config, &source) != 0 || config_complete(config, name) != 0)
        return -1;
    if (family->family == FAMILY_GEMMA2)
        gguf_gemma2(config, &source);
    if (gguf_refuse_unsupported(config, &source) != 0 || (!config->learned_positions && gguf_rope(config, &source) != 0))
        return -1;
    return config_complete(config, name);  // what rope and Gemma-2 added
}
