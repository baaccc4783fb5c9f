/*
 * export_gguf.c - model_export_gguf of model.h: what llama.cpp reads.
 *
 * Matrices get the type asked for where their rows are whole blocks, else F16; everything else is F32, as llama.cpp
 * wants it.  Llama's rows of q and k are interleaved for its rotary pairs.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/quant.h"
#include "model/config_parts.h"
#include "model/family.h"
#include "model/gguf_write.h"
#include "model/model.h"
#include "model/weights.h"

static const char rope_factors[] = "rope_freqs.weight";

/* A tensor of the file: the weights whose rows it holds, one after the other. */
struct gguf_source {
    char name[WEIGHT_NAME_SIZE];
    struct tensor parts[3];
    enum weight_role role;  // of the first
    size_t part_count;
    enum tensor_type type;
    size_t rows, columns;
};

struct gguf_sources {
    struct gguf_source *at;
    size_t count;
};

/* ---- which tensors ---- */

static void add_source(struct gguf_sources *sources, const struct model_config *config, const struct weights *weights,
                       enum weight_role role, int64_t layer, enum tensor_type type)
{
    const struct family_weight *spec = family_weight(config->family, role);
    struct tensor tensor;
    if (spec->gguf_name == NULL || !weights_role(weights, config, role, layer, &tensor))
        return;
    char name[WEIGHT_NAME_SIZE];
    weight_name_fill(spec->gguf_name, layer, name);
    struct gguf_source *last = sources->count > 0 ? &sources->at[sources->count - 1] : NULL;
    size_t columns = (size_t)tensor.shape[tensor.rank - 1], rows = tensor_elements(&tensor) / columns;
    if (last != NULL && strcmp(last->name, name) == 0) {
        CHECK(last->part_count < COUNT_OF(last->parts));
        last->parts[last->part_count++] = tensor;
        if (tensor.rank > 1)
            last->rows += rows;
        else
            last->columns += columns;
        return;
    }
    struct gguf_source *source = &sources->at[sources->count++];
    *source = (struct gguf_source){ .parts = { tensor }, .role = role, .part_count = 1, .type = TENSOR_F32,
                                    .rows = tensor.rank > 1 ? rows : 0, .columns = columns };
    memcpy(source->name, name, sizeof name);
    if (tensor.rank > 1 && role != WEIGHT_POSITION)
        source->type = columns % tensor_formats[type].block_elements == 0 ? type : TENSOR_F16;
}

/* In the order of the layers; roles that share a tensor are neighbours. */
static struct gguf_sources find_sources(const struct weights *weights, const struct model_config *config, enum tensor_type type)
{
    struct gguf_sources sources = { .at = memory_alloc(WEIGHT_ROLE_COUNT * (size_t)(config->layer_count + 1), sizeof *sources.at) };
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++)
        if (!weight_specs[role].per_layer && weight_present(config, role))
            add_source(&sources, config, weights, role, 0, type);
    for (int64_t l = 0; l < config->layer_count; l++) {
        static const enum weight_role shared_last[] = {  // biases of q, k, v stand between their matrices and others
            WEIGHT_Q, WEIGHT_K, WEIGHT_V, WEIGHT_Q_BIAS, WEIGHT_K_BIAS, WEIGHT_V_BIAS, WEIGHT_GATE, WEIGHT_UP, WEIGHT_GATE_BIAS,
            WEIGHT_UP_BIAS,
        };
        bool done[WEIGHT_ROLE_COUNT] = { false };
        for (size_t i = 0; i < COUNT_OF(shared_last); i++) {
            done[shared_last[i]] = true;
            if (weight_present(config, shared_last[i]))
                add_source(&sources, config, weights, shared_last[i], l, type);
        }
        for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++)
            if (weight_specs[role].per_layer && !done[role] && weight_present(config, role))
                add_source(&sources, config, weights, role, l, type);
    }
    return sources;
}

/* ---- metadata ---- */

struct prefixed {
    struct gguf_out *out;
    const char *architecture;
    char key[128];
};

static const char *key_of(struct prefixed *prefixed, const char *key)
{
    snprintf(prefixed->key, sizeof prefixed->key, "%s.%s", prefixed->architecture, key);
    return prefixed->key;
}

/* What differs from YaRN's usual numbers; the scaling of cosine and sine is a multiple of the usual one. */
static void put_yarn(struct prefixed *keys, const struct rope_scaling *rope, const char *name)
{
    double attention = rope->attention_factor / config_yarn_attention(rope->factor);
    if (fabs(attention - 1) > 1e-6)
        gguf_put_float(keys->out, key_of(keys, "rope.scaling.attn_factor"), (float)attention);
    if (rope->beta_fast == 32 && rope->beta_slow == 1)
        return;
    gguf_put_float(keys->out, key_of(keys, "rope.scaling.yarn_beta_fast"), (float)rope->beta_fast);
    gguf_put_float(keys->out, key_of(keys, "rope.scaling.yarn_beta_slow"), (float)rope->beta_slow);
    log_event("YaRN of \"%s\" has its own ramp: llama.cpp needs --yarn-beta-fast %g --yarn-beta-slow %g", name, rope->beta_fast,
              rope->beta_slow);
}

/* 0, or -1 when llama.cpp has no such rotary embedding, logged. */
static int put_rope(struct prefixed *keys, const struct model_config *config, const char *name)
{
    const struct rope_scaling *rope = &config->rope;
    gguf_put_integer(keys->out, key_of(keys, "rope.dimension_count"), (uint32_t)config->head_size);
    gguf_put_float(keys->out, key_of(keys, "rope.freq_base"), (float)config->rope_theta);
    switch (rope->kind) {
    case ROPE_DEFAULT: case ROPE_DYNAMIC: case ROPE_LLAMA3:
        return 0;  // Llama 3's factors are a tensor
    case ROPE_LINEAR:
        gguf_put_text(keys->out, key_of(keys, "rope.scaling.type"), "linear");
        gguf_put_float(keys->out, key_of(keys, "rope.scaling.factor"), (float)rope->factor);
        return 0;
    case ROPE_YARN:
        gguf_put_text(keys->out, key_of(keys, "rope.scaling.type"), "yarn");
        gguf_put_float(keys->out, key_of(keys, "rope.scaling.factor"), (float)rope->factor);
        gguf_put_integer(keys->out, key_of(keys, "rope.scaling.original_context_length"), (uint32_t)rope->original_positions);
        put_yarn(keys, rope, name);
        return 0;
    case ROPE_LONGROPE:
        break;
    }
    log_error("model \"%s\": its rotary embedding (longrope) cannot be written as GGUF", name);
    return -1;
}

/* Whether llama.cpp has windows in the layers in which this model has them. */
static bool window_is_known(const struct model_config *config)
{
    const int64_t period = config->family == FAMILY_GEMMA2 ? 2 : config->family == FAMILY_PHI3 ? 1 : 0;
    for (int64_t l = 0; l < config->layer_count; l++) {
        bool taken = period > 0 && l % period == 0 && config->window < config->position_max;
        if ((config_window(config, l) < config->position_max) != taken)
            return false;
    }
    return true;
}

/* 0, or -1 when the arithmetic is another than readers take for the architecture and GGUF has no key that says so, logged. */
static int check_arithmetic(const struct model_config *config, const char *name)
{
    const struct model_config *usual = &families[config->family].defaults;
    const char *what = NULL;
    if (config->activation != usual->activation)
        what = "activation";
    else if ((usual->attention_cap != 0 && config->attention_cap == 0) || (usual->logit_cap != 0 && config->logit_cap == 0))
        what = "soft capping";
    else if (config->attention_scale != 0
             && fabs(config->attention_scale / config_gguf_attention_scale(config) - 1) > 1e-6)
        what = "scale of queries";
    if (what == NULL)
        return 0;
    log_error("model \"%s\" cannot be written as GGUF: nothing there says that its %s is not that of every \"%s\"", name, what,
              families[config->family].gguf_architecture);
    return -1;
}

static int put_config(struct gguf_out *out, const struct model_config *config, const char *name)
{
    struct prefixed keys = { out, families[config->family].gguf_architecture, "" };
    /* Within a window that llama.cpp does not have there is no difference. */
    bool ends_at_window = config->window > 0 && config->window < config->position_max && !window_is_known(config);
    if (check_arithmetic(config, name) != 0)
        return -1;
    gguf_put_text(out, "general.architecture", keys.architecture);
    int64_t context = ends_at_window ? config->window : config->position_max;
    gguf_put_integer(out, key_of(&keys, "context_length"), (uint32_t)context);
    if (ends_at_window)
        log_event("the context of \"%s\" ends at its sliding window of %lld tokens", name, (long long)config->window);
    gguf_put_integer(out, key_of(&keys, "embedding_length"), (uint32_t)config->channel_count);
    gguf_put_integer(out, key_of(&keys, "block_count"), (uint32_t)config->layer_count);
    gguf_put_integer(out, key_of(&keys, "feed_forward_length"), (uint32_t)config->ff_count);
    gguf_put_integer(out, key_of(&keys, "attention.head_count"), (uint32_t)config->head_count);
    gguf_put_integer(out, key_of(&keys, "attention.head_count_kv"), (uint32_t)config->kv_head_count);
    gguf_put_integer(out, key_of(&keys, "attention.key_length"), (uint32_t)config->head_size);
    gguf_put_integer(out, key_of(&keys, "attention.value_length"), (uint32_t)config->head_size);
    gguf_put_integer(out, key_of(&keys, "vocab_size"), (uint32_t)config->vocab_size);
    const char *epsilon = config->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    gguf_put_float(out, key_of(&keys, epsilon), (float)config->norm_epsilon);
    if (config->attention_cap > 0)
        gguf_put_float(out, key_of(&keys, "attn_logit_softcapping"), (float)config->attention_cap);
    if (config->logit_cap > 0)
        gguf_put_float(out, key_of(&keys, "final_logit_softcapping"), (float)config->logit_cap);
    if (config->window > 0 && !ends_at_window)
        gguf_put_integer(out, key_of(&keys, "attention.sliding_window"), (uint32_t)config->window);
    else if (config->family == FAMILY_GEMMA2)
        gguf_put_integer(out, key_of(&keys, "attention.sliding_window"), (uint32_t)context);  // left out it would be 4096
    return config->learned_positions ? 0 : put_rope(&keys, config, name);
}

/* What llama.cpp divides each frequency by (transformers' _compute_llama3_parameters).  factors: (HS / 2) out. */
static void llama3_factors(const struct model_config *config, float *factors)
{
    const struct rope_scaling *rope = &config->rope;
    double low = (double)rope->original_positions / rope->low_frequency;
    double high = (double)rope->original_positions / rope->high_frequency;
    for (int64_t c = 0; c < config->head_size / 2; c++) {
        double length = 2 * 3.14159265358979323846 * pow(config->rope_theta, (double)(2 * c) / (double)config->head_size);
        double smooth = ((double)rope->original_positions / length - rope->low_frequency)
            / (rope->high_frequency - rope->low_frequency);
        factors[c] = (float)(length < high  ? 1
                             : length > low ? rope->factor
                                            : 1 / ((1 - smooth) / rope->factor + smooth));
    }
}

/* ---- data ---- */

/* Which canonical row stands at row n when rotary pairs are neighbours. */
static size_t paired(size_t n, size_t HS)
{
    size_t c = n % HS;
    return n - c + c / 2 + c % 2 * (HS / 2);
}

/* Row n of the file, or all of a vector. */
static void read_row(const struct tensor *tensor, size_t HS, bool interleave, size_t n, float *row)
{
    if (tensor->rank > 1 || !interleave) {
        tensor_read_rows(tensor, HS, interleave ? paired(n, HS) : n, 1, row);
        return;
    }
    size_t count = tensor_elements(tensor);
    float *canonical = memory_alloc(count, sizeof *canonical);
    tensor_read_canonical(tensor, HS, canonical);
    for (size_t i = 0; i < count; i++)
        row[i] = canonical[paired(i, HS)];
    free(canonical);
}

static void write_source(struct file_out *file, const struct gguf_source *source, const struct model_config *config)
{
    size_t written = 0, row_bytes = tensor_row_bytes(source->type, source->columns);
    float *row = memory_alloc(source->columns, sizeof *row);
    unsigned char *bytes = memory_alloc(row_bytes, 1);
    for (size_t p = 0; p < source->part_count; p++) {
        const struct tensor *part = &source->parts[p];
        size_t rows = part->rank > 1 ? (size_t)part->shape[0] : 1;
        enum weight_role role = (enum weight_role)(source->role + p);
        bool rotated = role == WEIGHT_Q || role == WEIGHT_K || role == WEIGHT_Q_BIAS || role == WEIGHT_K_BIAS;
        for (size_t n = 0; n < rows; n++) {
            read_row(part, (size_t)config->head_size, rotated && families[config->family].gguf_interleaves, n, row);
            size_t size = part->rank > 1 ? row_bytes : (size_t)part->shape[0] * sizeof *row;
            if (part->rank > 1)
                quant_row(source->type, bytes, row, source->columns);
            file_out_write(file, part->rank > 1 ? (const void *)bytes : row, size);
            written += size;
        }
    }
    gguf_pad(file, written);
    free(bytes);
    free(row);
}

int model_export_gguf(const struct weights *weights, const struct model_config *config, const char *name, enum tensor_type type,
                      struct gguf_out *out, const char *path)
{
    if (weights_check(weights, config) != 0 || put_config(out, config, name) != 0)
        return EX_DATAERR;
    struct gguf_sources sources = find_sources(weights, config, type);
    for (size_t i = 0; i < sources.count; i++) {
        const struct gguf_source *source = &sources.at[i];
        int64_t shape[] = { (int64_t)source->rows, (int64_t)source->columns };
        bool vector = source->rows == 0;
        gguf_put_tensor(out, source->name, source->type, vector ? 1 : 2, vector ? shape + 1 : shape);
    }
    int64_t pairs = config->head_size / 2;
    bool has_factors = !config->learned_positions && config->rope.kind == ROPE_LLAMA3;
    if (has_factors)
        gguf_put_tensor(out, rope_factors, TENSOR_F32, 1, &pairs);
    struct file_out file;
    int result = file_out_begin(&file, path);
    if (result == 0) {
        gguf_write_head(out, &file);
        for (size_t i = 0; i < sources.count && !file.failed; i++)
            write_source(&file, &sources.at[i], config);
        if (has_factors) {
            float *factors = memory_alloc((size_t)pairs, sizeof *factors);
            llama3_factors(config, factors);
            file_out_write(&file, factors, (size_t)pairs * sizeof *factors);
            gguf_pad(&file, (size_t)pairs * sizeof *factors);
            free(factors);
        }
        result = file_out_end(&file, true);
    }
    free(sources.at);
    return result == 0 ? EX_OK : EX_IOERR;
}
