/* encoder_config.c - see encoder_config.h. */
#include "model/encoder_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

/* ---- the families ---- */

#define BERT_EMBEDDINGS                                                                             \
    [PART_WORD] = "embeddings.word_embeddings", [PART_POSITION] = "embeddings.position_embeddings", \
    [PART_EMBEDDING_NORM] = "embeddings.LayerNorm"
#define BERT_LAYERS                                                        \
    [PART_O] = "encoder.layer.%d.attention.output.dense",                  \
    [PART_ATTN_NORM] = "encoder.layer.%d.attention.output.LayerNorm",      \
    [PART_UP] = "encoder.layer.%d.intermediate.dense",                     \
    [PART_DOWN] = "encoder.layer.%d.output.dense",                         \
    [PART_FF_NORM] = "encoder.layer.%d.output.LayerNorm"
#define BERT_ATTENTION                                  \
    [PART_Q] = "encoder.layer.%d.attention.self.query", \
    [PART_K] = "encoder.layer.%d.attention.self.key",   \
    [PART_V] = "encoder.layer.%d.attention.self.value"
#define BERT_TYPES [PART_TYPE] = "embeddings.token_type_embeddings"
#define DENSE_HEAD [PART_POOL] = "classifier.dense", [PART_LABELS] = "classifier.out_proj"

static const struct encoder_family families[] = {
    { .model_type = "bert", .architecture = "Bert", .prefix = "bert.", .prefixed_pool = true, .pool_activation = ENCODER_TANH,
      .names = { BERT_EMBEDDINGS, BERT_TYPES, BERT_ATTENTION, BERT_LAYERS,
                 [PART_POOL] = "pooler.dense", [PART_LABELS] = "classifier" } },
    { .model_type = "distilbert", .architecture = "DistilBert", .prefix = "distilbert.", .short_keys = true,
      .pool_activation = ENCODER_RELU,
      .names = { BERT_EMBEDDINGS,
                 [PART_Q] = "transformer.layer.%d.attention.q_lin", [PART_K] = "transformer.layer.%d.attention.k_lin",
                 [PART_V] = "transformer.layer.%d.attention.v_lin", [PART_O] = "transformer.layer.%d.attention.out_lin",
                 [PART_ATTN_NORM] = "transformer.layer.%d.sa_layer_norm",
                 [PART_UP] = "transformer.layer.%d.ffn.lin1", [PART_DOWN] = "transformer.layer.%d.ffn.lin2",
                 [PART_FF_NORM] = "transformer.layer.%d.output_layer_norm",
                 [PART_POOL] = "pre_classifier", [PART_LABELS] = "classifier" } },
    { .model_type = "roberta", .architecture = "Roberta", .prefix = "roberta.", .positions_after_padding = true,
      .pool_activation = ENCODER_TANH, .names = { BERT_EMBEDDINGS, BERT_TYPES, BERT_ATTENTION, BERT_LAYERS, DENSE_HEAD } },
    { .model_type = "xlm-roberta", .architecture = "XLMRoberta", .prefix = "roberta.", .positions_after_padding = true,
      .pool_activation = ENCODER_TANH, .names = { BERT_EMBEDDINGS, BERT_TYPES, BERT_ATTENTION, BERT_LAYERS, DENSE_HEAD } },
    { .model_type = "electra", .architecture = "Electra", .prefix = "electra.", .norm_before_projection = true,
      .pool_activation = ENCODER_GELU,
      .names = { BERT_EMBEDDINGS, BERT_TYPES, BERT_ATTENTION, BERT_LAYERS, DENSE_HEAD, [PART_PROJECTION] = "embeddings_project" } },
    { .model_type = "deberta-v2", .architecture = "DebertaV2", .prefix = "deberta.", .disentangled = true,
      .pool_activation_given = true,
      .names = { BERT_EMBEDDINGS, BERT_TYPES, BERT_LAYERS, [PART_PROJECTION] = "embeddings.embed_proj",
                 [PART_RELATIVE] = "encoder.rel_embeddings", [PART_RELATIVE_NORM] = "encoder.LayerNorm",
                 [PART_CONV] = "encoder.conv.conv", [PART_CONV_NORM] = "encoder.conv.LayerNorm",
                 [PART_Q] = "encoder.layer.%d.attention.self.query_proj", [PART_K] = "encoder.layer.%d.attention.self.key_proj",
                 [PART_V] = "encoder.layer.%d.attention.self.value_proj",
                 [PART_POSITION_K] = "encoder.layer.%d.attention.self.pos_key_proj",
                 [PART_POSITION_Q] = "encoder.layer.%d.attention.self.pos_query_proj",
                 [PART_POOL] = "pooler.dense", [PART_LABELS] = "classifier" } },
};

const struct encoder_family *encoder_family_of(const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "model_type"));
    for (size_t i = 0; type != NULL && i < COUNT_OF(families); i++)
        if (strcmp(families[i].model_type, type) == 0)
            return &families[i];
    return NULL;
}

/* ---- reading values ---- */

/* NULL where the key is missing or null, which config files mean the same by. */
static const json_t *json_present(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    return json_is_null(value) ? NULL : value;
}

static int refuse_value(const char *name, const char *key, const json_t *value, const char *wanted)
{
    char *text = json_text(value);
    log_error("model \"%s\": %s is %.100s, %s", name, key, text, wanted);
    free(text);
    return -1;
}

/* Each of these leaves *out alone where the key is absent. */
static int read_flag(bool *out, const json_t *json, const char *key, const char *name)
{
    const json_t *value = json_present(json, key);
    if (value == NULL)
        return 0;
    if (!json_is_boolean(value))
        return refuse_value(name, key, value, "it must be true or false");
    *out = json_is_true(value);
    return 0;
}

static int read_activation(enum encoder_activation *out, const json_t *json, const char *key, const char *name)
{
    static const struct { const char *name; enum encoder_activation activation; } names[] = {
        { "gelu", ENCODER_GELU }, { "gelu_python", ENCODER_GELU },
        { "gelu_new", ENCODER_GELU_TANH }, { "gelu_pytorch_tanh", ENCODER_GELU_TANH }, { "gelu_fast", ENCODER_GELU_TANH },
        { "relu", ENCODER_RELU }, { "silu", ENCODER_SILU }, { "swish", ENCODER_SILU }, { "tanh", ENCODER_TANH },
    };
    const json_t *value = json_present(json, key);
    if (value == NULL)
        return 0;
    for (size_t i = 0; json_is_string(value) && i < COUNT_OF(names); i++) {
        if (strcmp(json_string_value(value), names[i].name) == 0) {
            *out = names[i].activation;
            return 0;
        }
    }
    return refuse_value(name, key, value, "only gelu, gelu_new, relu, silu and tanh are supported");
}

/*
 * The counts of a config.  The limits keep every product of the model's sizes inside int64_t; a smallest value
 * of 0 makes the field optional.
 */
static const struct config_field {
    size_t offset;
    const char *key, *short_key;  // DistilBERT's; NULL: the same
    int64_t min, max;
} fields[] = {
    { offsetof(struct encoder_config, vocab_size), "vocab_size", NULL, 1, 1 << 24 },
    { offsetof(struct encoder_config, channel_count), "hidden_size", "dim", 1, 1 << 17 },
    { offsetof(struct encoder_config, layer_count), "num_hidden_layers", "n_layers", 1, 1 << 12 },
    { offsetof(struct encoder_config, head_count), "num_attention_heads", "n_heads", 1, 1 << 12 },
    { offsetof(struct encoder_config, ff_count), "intermediate_size", "hidden_dim", 1, 1 << 20 },
    { offsetof(struct encoder_config, position_count), "max_position_embeddings", NULL, 1, 1 << 24 },
    { offsetof(struct encoder_config, type_count), "type_vocab_size", NULL, 0, 1 << 20 },
};
static const struct config_field
    conv_field = { offsetof(struct encoder_config, conv_size), "conv_kernel_size", NULL, 0, 255 },
    embedding_field = { offsetof(struct encoder_config, embedding_size), "embedding_size", NULL, 1, 1 << 17 },
    padding_field = { offsetof(struct encoder_config, padding), "pad_token_id", NULL, 0, (1 << 24) - 1 };

static int64_t *field_of(struct encoder_config *config, const struct config_field *field)
{
    return (int64_t *)(void *)((char *)config + field->offset);
}

/* required: a field that is absent is refused. */
static int read_field(struct encoder_config *config, const struct config_field *field, const json_t *json, bool required,
                      const char *name)
{
    const char *key = config->family->short_keys && field->short_key != NULL ? field->short_key : field->key;
    const json_t *value = json_present(json, key);
    if (value == NULL) {
        if (required)
            log_error("model \"%s\": config has no whole number \"%s\"", name, key);
        return required ? -1 : 0;
    }
    int64_t number = json_integer_value(value);
    if (!json_is_integer(value))
        return refuse_value(name, key, value, "it must be a whole number");
    if (number < field->min || number > field->max) {
        log_error("model \"%s\": %s is %lld, it must be %lld to %lld", name, key, (long long)number, (long long)field->min,
                  (long long)field->max);
        return -1;
    }
    *field_of(config, field) = number;
    return 0;
}

/* ---- what the config says ---- */

/* Checks what the class of the model is; head: it is a sequence classifier. */
static int read_architecture(const struct encoder_family *family, bool *head, const json_t *json, const char *name)
{
    const json_t *architectures = json_present(json, "architectures");
    *head = false;
    if (architectures == NULL)
        return 0;
    const char *architecture = json_string_value(json_array_get(architectures, 0));
    if (architecture == NULL)
        return refuse_value(name, "architectures", architectures, "it must be a list of names");
    size_t size = strlen(family->architecture);
    const char *rest = strncmp(architecture, family->architecture, size) == 0 ? architecture + size : "";
    *head = strcmp(rest, "ForSequenceClassification") == 0;
    if (strcmp(rest, "Model") == 0 || strncmp(rest, "For", 3) == 0)
        return 0;
    log_error("model \"%s\": architecture \"%.100s\" is not supported, only %sModel and %sForSequenceClassification are with "
              "model_type \"%s\"", name, architecture, family->architecture, family->architecture, family->model_type);
    return -1;
}

static int read_labels(struct encoder_config *config, const json_t *json, const char *name)
{
    enum { LABEL_MAX = 1 << 16 };
    const json_t *names = json_present(json, "id2label"), *number = json_present(json, "num_labels");
    int64_t count = 2;  // transformers' default, which it does not write
    if (names != NULL && !json_is_object(names))
        return refuse_value(name, "id2label", names, "it must be an object");
    if (names != NULL)
        count = (int64_t)json_object_size(names);
    else if (number != NULL)
        count = json_is_integer(number) ? json_integer_value(number) : 0;
    if (count < 1 || count > LABEL_MAX) {
        log_error("model \"%s\": it has %lld labels, it must have 1 to %d", name, (long long)count, LABEL_MAX);
        return -1;
    }
    config->label_count = count;
    return 0;
}

/* Switches that change the arithmetic in ways that are not supported; absent is harmless. */
static int refuse_unsupported(const struct encoder_family *family, const json_t *json, const char *name)
{
    static const char *const off[] = { "is_decoder", "add_cross_attention" };
    for (size_t i = 0; i < COUNT_OF(off); i++) {
        const json_t *value = json_present(json, off[i]);
        if (value != NULL && !json_is_false(value))
            return refuse_value(name, off[i], value, "only false is supported");
    }
    const json_t *positions = json_present(json, "position_embedding_type");
    if (!family->disentangled && positions != NULL
        && (!json_is_string(positions) || strcmp(json_string_value(positions), "absolute") != 0))
        return refuse_value(name, "position_embedding_type", positions, "only \"absolute\" is supported");
    const json_t *pruned = json_present(json, "pruned_heads");
    if (pruned != NULL && json_object_size(pruned) > 0)
        return refuse_value(name, "pruned_heads", pruned, "pruned heads are not supported");
    const json_t *quantised = json_present(json, "quantization_config");
    if (quantised != NULL)
        return refuse_value(name, "quantization_config", quantised, "only F32, F16 and BF16 weights are supported");
    return 0;
}

/* ---- DeBERTa ---- */

static int add_attention_type(struct encoder_config *config, const char *type, size_t size, const char *name)
{
    while (size > 0 && *type == ' ')
        type++, size--;
    while (size > 0 && type[size - 1] == ' ')
        size--;
    bool to_position = size == 3 && strncmp(type, "c2p", 3) == 0, to_content = size == 3 && strncmp(type, "p2c", 3) == 0;
    if (!to_position && !to_content && size > 0) {
        log_error("model \"%s\": pos_att_type has \"%.*s\", only c2p and p2c are supported", name,
                  (int)(size < 100 ? size : 100), type);
        return -1;
    }
    config->content_to_position |= to_position;
    config->position_to_content |= to_content;
    return 0;
}

/* A list of names, or one text with bars between them. */
static int read_attention_types(struct encoder_config *config, const json_t *json, const char *name)
{
    const json_t *types = json_present(json, "pos_att_type");
    if (json_is_string(types)) {
        for (const char *type = json_string_value(types), *end; type != NULL; type = *end == '|' ? end + 1 : NULL) {
            end = type + strcspn(type, "|");
            if (add_attention_type(config, type, (size_t)(end - type), name) != 0)
                return -1;
        }
        return 0;
    }
    if (types != NULL && !json_is_array(types))
        return refuse_value(name, "pos_att_type", types, "it must be a list of c2p and p2c");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type == NULL)
            return refuse_value(name, "pos_att_type", types, "it must be a list of c2p and p2c");
        if (add_attention_type(config, type, strlen(type), name) != 0)
            return -1;
    }
    return 0;
}

/* Whole numbers that mean "none" or "the usual" below 1. */
static int read_span(int64_t *out, const json_t *json, const char *key, const char *name)
{
    const json_t *value = json_present(json, key);
    if (value != NULL && (!json_is_integer(value) || json_integer_value(value) > 1 << 20))
        return refuse_value(name, key, value, "it must be a whole number up to 1048576");
    if (value != NULL && json_integer_value(value) >= 1)
        *out = json_integer_value(value);
    return 0;
}

static int read_relative(struct encoder_config *config, const json_t *json, const char *name)
{
    config->relative_max = config->position_count;
    if (read_attention_types(config, json, name) != 0 || read_flag(&config->shared_keys, json, "share_att_key", name) != 0
        || read_span(&config->buckets, json, "position_buckets", name) != 0
        || read_span(&config->relative_max, json, "max_relative_positions", name) != 0)
        return -1;
    if (config->buckets > 0 && (config->buckets < 2 || config->relative_max - 1 <= config->buckets / 2)) {
        log_error("model \"%s\": position_buckets is %lld, it must be 2 to %lld for max_relative_positions %lld", name,
                  (long long)config->buckets, 2 * (long long)config->relative_max - 3, (long long)config->relative_max);
        return -1;
    }
    config->span = config->buckets > 0 ? config->buckets : config->relative_max;
    const json_t *norm = json_present(json, "norm_rel_ebd");
    config->relative_norm = json_is_string(norm) && strcmp(json_string_value(norm), "layer_norm") == 0;
    if (norm != NULL && !config->relative_norm && (!json_is_string(norm) || strcmp(json_string_value(norm), "none") != 0))
        return refuse_value(name, "norm_rel_ebd", norm, "only \"layer_norm\" and \"none\" are supported");
    return 0;
}

/* A number that must be what the rest of the config implies. */
static int expect_number(const json_t *json, const char *key, int64_t number, const char *name)
{
    const json_t *value = json_present(json, key);
    if (value == NULL || (json_is_integer(value) && json_integer_value(value) == number))
        return 0;
    char *text = json_text(value);
    log_error("model \"%s\": %s is %.100s, only %lld is supported", name, key, text, (long long)number);
    free(text);
    return -1;
}

static int read_disentangled(struct encoder_config *config, const json_t *json, const char *name)
{
    bool positions = true;
    config->conv_activation = ENCODER_TANH;
    if (read_flag(&config->relative, json, "relative_attention", name) != 0
        || read_flag(&positions, json, "position_biased_input", name) != 0 || read_relative(config, json, name) != 0
        || expect_number(json, "attention_head_size", config->channel_count / config->head_count, name) != 0
        || expect_number(json, "pooler_hidden_size", config->channel_count, name) != 0
        || read_field(config, &conv_field, json, false, name) != 0 || expect_number(json, "conv_groups", 1, name) != 0
        || read_activation(&config->conv_activation, json, "conv_act", name) != 0
        || read_activation(&config->pool_activation, json, "pooler_hidden_act", name) != 0)
        return -1;
    if (config->conv_size > 0 && config->conv_size % 2 == 0) {
        log_error("model \"%s\": conv_kernel_size is %lld, it must be odd", name, (long long)config->conv_size);
        return -1;
    }
    if (!positions)
        config->position_count = 0;
    return 0;
}

/* ---- the whole ---- */

static int read_numbers(struct encoder_config *config, const json_t *json, const char *name)
{
    const struct encoder_family *family = config->family;
    config->type_count = family->disentangled ? 0 : 2;
    for (size_t i = 0; i < COUNT_OF(fields); i++)
        if (read_field(config, &fields[i], json, fields[i].min > 0, name) != 0)
            return -1;
    if (family->names[PART_TYPE] == NULL)
        config->type_count = 0;
    config->embedding_size = config->channel_count;
    if (family->names[PART_PROJECTION] != NULL && read_field(config, &embedding_field, json, false, name) != 0)
        return -1;
    config->norm_epsilon = family->disentangled ? 1e-7 : 1e-12;
    const json_t *epsilon = json_present(json, "layer_norm_eps");
    if (epsilon != NULL && !family->short_keys) {  // DistilBERT has its own
        config->norm_epsilon = json_number_value(epsilon);
        if (!(config->norm_epsilon > 0 && config->norm_epsilon <= 0.1))
            return refuse_value(name, "layer_norm_eps", epsilon, "it must be above 0 and at most 0.1");
    }
    if (config->channel_count % config->head_count != 0) {
        log_error("model \"%s\": hidden size %lld is no multiple of its %lld heads", name, (long long)config->channel_count,
                  (long long)config->head_count);
        return -1;
    }
    return 0;
}

static int read_padding(struct encoder_config *config, const json_t *json, const char *name)
{
    config->padding = 1;
    if (read_field(config, &padding_field, json, false, name) != 0)
        return -1;
    config->position_first = config->padding + 1;
    if (config->position_first < config->position_count)
        return 0;
    log_error("model \"%s\": pad_token_id is %lld, it must be below max_position_embeddings less 1, which is %lld", name,
              (long long)config->padding, (long long)config->position_count - 1);
    return -1;
}

int encoder_config_from_json(struct encoder_config *config, const json_t *json, const char *name)
{
    bool head;
    *config = (struct encoder_config){ .family = encoder_family_of(json) };
    const struct encoder_family *family = config->family;
    if (family == NULL) {
        const char *type = json_string_value(json_object_get(json, "model_type"));
        log_error("model \"%s\": model_type \"%.100s\" is no encoder that is supported", name, type != NULL ? type : "");
        return -1;
    }
    config->pool_activation = family->pool_activation;
    const char *activation_key = family->short_keys ? "activation" : "hidden_act";
    if (read_architecture(family, &head, json, name) != 0 || refuse_unsupported(family, json, name) != 0
        || read_numbers(config, json, name) != 0 || read_activation(&config->activation, json, activation_key, name) != 0)
        return -1;
    if (head && read_labels(config, json, name) != 0)
        return -1;
    if (family->positions_after_padding && read_padding(config, json, name) != 0)
        return -1;
    return family->disentangled ? read_disentangled(config, json, name) : 0;
}

json_t *encoder_config_to_json(const struct encoder_config *config)
{
    static const char *const activations[ENCODER_ACTIVATION_COUNT] = {
        [ENCODER_GELU] = "gelu", [ENCODER_GELU_TANH] = "gelu_new", [ENCODER_RELU] = "relu", [ENCODER_SILU] = "silu",
        [ENCODER_TANH] = "tanh",
    };
    json_t *json = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:I, s:I, s:I, s:s}",
        "model_type", config->family->model_type, "vocab_size", (json_int_t)config->vocab_size,
        "channel_count", (json_int_t)config->channel_count, "layer_count", (json_int_t)config->layer_count,
        "head_count", (json_int_t)config->head_count, "ff_count", (json_int_t)config->ff_count,
        "embedding_size", (json_int_t)config->embedding_size, "position_count", (json_int_t)config->position_count,
        "position_first", (json_int_t)config->position_first, "padding", (json_int_t)config->padding,
        "type_count", (json_int_t)config->type_count, "label_count", (json_int_t)config->label_count,
        "norm_epsilon", config->norm_epsilon, "activation", activations[config->activation],
        "pool_activation", activations[config->pool_activation], "relative", (int)config->relative,
        "content_to_position", (int)config->content_to_position, "position_to_content", (int)config->position_to_content,
        "shared_keys", (int)config->shared_keys, "relative_norm", (int)config->relative_norm,
        "buckets", (json_int_t)config->buckets, "relative_max", (json_int_t)config->relative_max,
        "conv_size", (json_int_t)config->conv_size, "conv_activation", activations[config->conv_activation]);
    CHECK(json != NULL);
    return json;
}

int encoder_config_open(struct encoder_config *config, const char *path)
{
    if (!file_is_directory(path)) {
        log_error("model \"%s\": %s", path, file_exists(path) ? "an encoder must be a directory" : "there is no such directory");
        return file_exists(path) ? EX_DATAERR : EX_NOINPUT;
    }
    char *file = memory_printf("%s/config.json", path);
    int code = EX_DATAERR;
    json_t *json = NULL;
    if (!file_exists(file)) {
        log_error("model \"%s\": it has no config.json", path);
        code = EX_NOINPUT;
    } else {
        json = json_read(file);
    }
    if (json != NULL && encoder_config_from_json(config, json, path) == 0)
        code = EX_OK;
    json_decref(json);
    free(file);
    return code;
}

/* ---- weights ---- */

enum part_dimension {
    SIZE_NONE, SIZE_V, SIZE_C, SIZE_F, SIZE_N, SIZE_EMBEDDING, SIZE_EMBEDDING_NORM, SIZE_POSITIONS, SIZE_TYPES, SIZE_RELATIVE,
    SIZE_CONV
};
static const struct part_spec {
    enum part_dimension shape[3];  // NONE ends it
    bool no_bias;
} part_specs[PART_COUNT] = {
    [PART_WORD] = { { SIZE_V, SIZE_EMBEDDING }, true },
    [PART_POSITION] = { { SIZE_POSITIONS, SIZE_EMBEDDING }, true },
    [PART_TYPE] = { { SIZE_TYPES, SIZE_EMBEDDING }, true },
    [PART_EMBEDDING_NORM] = { { SIZE_EMBEDDING_NORM }, false },
    [PART_PROJECTION] = { { SIZE_C, SIZE_EMBEDDING }, false },
    [PART_RELATIVE] = { { SIZE_RELATIVE, SIZE_C }, true },
    [PART_RELATIVE_NORM] = { { SIZE_C }, false },
    [PART_CONV] = { { SIZE_C, SIZE_C, SIZE_CONV }, false },
    [PART_CONV_NORM] = { { SIZE_C }, false },
    [PART_POOL] = { { SIZE_C, SIZE_C }, false },
    [PART_LABELS] = { { SIZE_N, SIZE_C }, false },
    [PART_Q] = { { SIZE_C, SIZE_C }, false },
    [PART_K] = { { SIZE_C, SIZE_C }, false },
    [PART_V] = { { SIZE_C, SIZE_C }, false },
    [PART_O] = { { SIZE_C, SIZE_C }, false },
    [PART_ATTN_NORM] = { { SIZE_C }, false },
    [PART_UP] = { { SIZE_F, SIZE_C }, false },
    [PART_DOWN] = { { SIZE_C, SIZE_F }, false },
    [PART_FF_NORM] = { { SIZE_C }, false },
    [PART_POSITION_K] = { { SIZE_C, SIZE_C }, false },
    [PART_POSITION_Q] = { { SIZE_C, SIZE_C }, false },
};

static int64_t dimension_size(const struct encoder_config *config, enum part_dimension dimension)
{
    switch (dimension) {
    case SIZE_V: return config->vocab_size;
    case SIZE_C: return config->channel_count;
    case SIZE_F: return config->ff_count;
    case SIZE_N: return config->label_count;
    case SIZE_EMBEDDING: return config->embedding_size;
    case SIZE_EMBEDDING_NORM: return config->family->norm_before_projection ? config->embedding_size : config->channel_count;
    case SIZE_POSITIONS: return config->position_count;
    case SIZE_TYPES: return config->type_count;
    case SIZE_RELATIVE: return 2 * config->span;
    case SIZE_CONV: return config->conv_size;
    case SIZE_NONE: break;
    }
    return 0;
}

bool encoder_has_weight(const struct encoder_config *config, enum encoder_part part)
{
    switch (part) {
    case PART_POSITION: return config->position_count > 0;
    case PART_TYPE: return config->type_count > 0;
    case PART_PROJECTION: return config->embedding_size != config->channel_count;
    case PART_RELATIVE: return config->relative;
    case PART_RELATIVE_NORM: return config->relative && config->relative_norm;
    case PART_CONV:
    case PART_CONV_NORM: return config->conv_size > 0;
    case PART_POOL:
    case PART_LABELS: return config->label_count > 0;
    case PART_POSITION_K: return config->relative && config->content_to_position && !config->shared_keys;
    case PART_POSITION_Q: return config->relative && config->position_to_content && !config->shared_keys;
    default: return true;
    }
}

bool encoder_has_bias(const struct encoder_config *config, enum encoder_part part)
{
    return encoder_has_weight(config, part) && !part_specs[part].no_bias
        && (part != PART_PROJECTION || config->family->norm_before_projection);
}

size_t encoder_weight_shape(const struct encoder_config *config, enum encoder_part part, int64_t shape[3])
{
    size_t rank = 0;
    for (; rank < 3 && part_specs[part].shape[rank] != SIZE_NONE; rank++)
        shape[rank] = dimension_size(config, part_specs[part].shape[rank]);
    return rank;
}

/* In float32 as transformers computes it, so that a distance on the border of two buckets falls into the same one. */
int64_t encoder_relative_index(const struct encoder_config *config, int64_t distance)
{
    int64_t bucket = distance, mid = config->buckets / 2, size = distance < 0 ? -distance : distance;
    if (config->buckets > 0 && size > mid) {
        float farthest = (float)((double)(config->relative_max - 1) / (double)mid);
        float place = ceilf(logf((float)size / (float)mid) / logf(farthest) * (float)(mid - 1));
        bucket = ((int64_t)place + mid) * (distance < 0 ? -1 : 1);
    }
    int64_t index = bucket + config->span, last = 2 * config->span - 1;
    return index < 0 ? 0 : index > last ? last : index;
}
