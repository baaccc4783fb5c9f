/* weights_role.c - which tensors of a file are a network's weights, whether they fit it, and their digest; see weights.h. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "model/adapter.h"
#include "model/family.h"
#include "model/weights_parts.h"

/* ---- where a weight lies ---- */

/* The tensor that holds a weight, and its place among those that share the tensor. */
struct place {
    char name[WEIGHT_NAME_SIZE];  // as it should be called; empty where the format has none
    const struct tensor *tensor;  // NULL: not in the file
    int64_t first, total;         // rows (of a vector: elements) before it, and of all that share
    bool transposed;
};

/*
 * Whether a file has canonical names: a checkpoint of the store, or llama2.c's.  Of a family with other names the first in
 * its table tells.
 */
static bool has_canonical_names(const struct weights *weights, const struct family *family)
{
    char name[WEIGHT_NAME_SIZE];
    if (weights->gguf != NULL || family->weight_count == 0)
        return false;
    weight_name(family->weights[0].role, 0, name);
    return weights_find(weights, name) != NULL;
}

/* A role's name with %d for the layer; NULL where the format has none. */
static const char *role_pattern(const struct weights *weights, const struct family *family, bool canonical,
                                enum weight_role role)
{
    if (weights->gguf != NULL)
        return family_weight(family->family, role)->gguf_name;
    return canonical ? weight_specs[role].name : family_name(family->family, role);
}

static void place_find(struct place *place, const struct weights *weights, const struct model_config *config,
                       enum weight_role role, int64_t layer)
{
    const struct family *family = &families[config->family];
    bool canonical = has_canonical_names(weights, family);
    const char *pattern = role_pattern(weights, family, canonical, role);
    *place = (struct place){ .transposed = !canonical && weights->gguf == NULL
                                           && family_weight(family->family, role)->layout == LAYOUT_TRANSPOSED };
    if (pattern == NULL)
        return;
    weight_name_fill(pattern, layer, place->name);
    place->tensor = weights_find(weights, place->name);
    size_t prefix = strlen(family->prefix);
    if (place->tensor == NULL && strncmp(place->name, family->prefix, prefix) == 0)
        place->tensor = weights_find(weights, place->name + prefix);
    for (enum weight_role other = 0; other < WEIGHT_ROLE_COUNT; other++) {
        const char *other_pattern = role_pattern(weights, family, canonical, other);
        if (!weight_present(config, other) || other_pattern == NULL || strcmp(other_pattern, pattern) != 0)
            continue;
        int64_t shape[2];
        weight_shape(config, other, shape);
        place->total += shape[0];
        if (other < role)
            place->first += shape[0];
    }
}

/* Rank and shape of the whole tensor in the file. */
static size_t place_shape(const struct place *place, const struct model_config *config, enum weight_role role, int64_t shape[2])
{
    size_t rank = weight_shape(config, role, shape);
    shape[0] = place->total;
    if (place->transposed) {
        shape[0] = shape[1];
        shape[1] = place->total;
    }
    return rank;
}

static bool place_fits(const struct place *place, const struct model_config *config, enum weight_role role)
{
    int64_t shape[2];
    size_t rank = place_shape(place, config, role, shape);
    return place->tensor->rank == rank && memcmp(place->tensor->shape, shape, rank * sizeof *shape) == 0;
}

/* Parts of vectors must begin at an element; nobody writes them in blocks. */
static bool place_type_fits(const struct place *place, enum weight_role role)
{
    return weight_specs[role].shape[1] != DIMENSION_NONE || tensor_formats[place->tensor->type].block_elements == 1;
}

static bool is_rotated(enum weight_role role)
{
    return role == WEIGHT_Q || role == WEIGHT_K || role == WEIGHT_Q_BIAS || role == WEIGHT_K_BIAS;
}

bool weights_role(const struct weights *weights, const struct model_config *config, enum weight_role role, int64_t layer,
                  struct tensor *tensor)
{
    struct place place;
    if (!weight_present(config, role))
        return false;
    if (weights->adapter != NULL && adapter_role(weights->adapter, role, layer, tensor))
        return true;
    place_find(&place, weights, config, role, layer);
    if (place.tensor == NULL || !place_fits(&place, config, role) || !place_type_fits(&place, role))
        return false;
    const struct family *family = &families[config->family];
    *tensor = *place.tensor;
    tensor->rank = weight_shape(config, role, tensor->shape);
    size_t N = (size_t)tensor->shape[0], K = tensor->rank > 1 ? (size_t)tensor->shape[1] : 1, before = (size_t)place.first;
    if (place.transposed) {
        size_t element_bytes = tensor_formats[tensor->type].block_bytes;
        tensor->column_count = (size_t)place.total;
        tensor->data = (const unsigned char *)tensor->data + before * element_bytes;
        tensor->size_bytes -= ((size_t)place.total - N) * element_bytes;  // before it in the first row and behind in the last
    } else {
        tensor->data = (const unsigned char *)tensor->data + before * tensor_row_bytes(tensor->type, K);
        tensor->size_bytes = N * tensor_row_bytes(tensor->type, K);
    }
    tensor->rows_interleaved |= weights->gguf != NULL && family->gguf_interleaves && is_rotated(role);
    if (weights->gguf == NULL && !has_canonical_names(weights, family))
        tensor->offset = family_offset(family->family, role);
    return true;
}

/* ---- whether a file fits a config ---- */

/* The type of a tensor that was left out because we do not compute with it; NULL for others. */
static const char *type_left_out(const struct weights *weights, const char *name)
{
    for (size_t i = 0; i < weights->shard_count; i++) {
        const json_t *entry = json_object_get(weights->shards[i].header, name);
        if (entry != NULL)
            return json_string_value(json_object_get(entry, "dtype"));
    }
    return NULL;
}

static int missing_refuse(const struct weights *weights, const char *name)
{
    const char *type = type_left_out(weights, name);
    if (type != NULL)
        log_error("model \"%s\": tensor \"%s\" has type %s, only F32, F16 and BF16 are supported", weights->name, name, type);
    else
        log_error("model \"%s\": tensor \"%s\" is missing", weights->name, name);
    return -1;
}

static int shape_refuse(const struct weights *weights, const struct place *place, const struct model_config *config,
                        enum weight_role role)
{
    int64_t shape[2];
    size_t rank = place_shape(place, config, role, shape);
    struct buffer was = { 0 };
    for (size_t i = 0; i < place->tensor->rank; i++)
        buffer_printf(&was, i ? ", %lld" : "%lld", (long long)place->tensor->shape[i]);
    buffer_append(&was, "", 1);
    if (rank == 1)
        log_error("model \"%s\": tensor \"%s\" has shape [%s], config says [%lld]", weights->name, place->tensor->name, was.data,
                  (long long)shape[0]);
    else
        log_error("model \"%s\": tensor \"%s\" has shape [%s], config says [%lld, %lld]", weights->name, place->tensor->name,
                  was.data, (long long)shape[0], (long long)shape[1]);
    free(was.data);
    return -1;
}

static int weight_check(const struct weights *weights, const struct model_config *config, enum weight_role role, int64_t layer)
{
    struct place place;
    if (!weight_present(config, role))
        return 0;
    place_find(&place, weights, config, role, layer);
    if (place.tensor == NULL)
        return weight_required(config, role) ? missing_refuse(weights, place.name) : 0;
    if (!place_fits(&place, config, role))
        return shape_refuse(weights, &place, config, role);
    if (place_type_fits(&place, role))
        return 0;
    log_error("model \"%s\": tensor \"%s\" has type %s, a vector must be F32, F16 or BF16", weights->name, place.tensor->name,
              tensor_formats[place.tensor->type].name);
    return -1;
}

int weights_check(const struct weights *weights, const struct model_config *config)
{
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++)
            if (weight_check(weights, config, role, l) != 0)
                return -1;
    }
    bool has_value = weights_find(weights, weight_specs[WEIGHT_VALUE].name) != NULL;
    if (has_value != (weights_find(weights, weight_specs[WEIGHT_VALUE_BIAS].name) != NULL)) {
        log_error("model \"%s\": its value head has only one of \"%s\" and \"%s\"", weights->name,
                  weight_specs[WEIGHT_VALUE].name, weight_specs[WEIGHT_VALUE_BIAS].name);
        return -1;
    }
    return 0;
}

/* ---- keys ---- */

/* A weight that the file has. */
struct digested {
    enum weight_role role;
    int64_t layer;
    size_t head_size;
    struct tensor tensor;
    unsigned char hash[crypto_generichash_BYTES];
};

/* BLAKE2b of its canonical float32 content, a few rows at a time. */
static void digest_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    enum { CHUNK_ELEMENTS = 1 << 15 };  // stays in the L2 cache between conversion and hashing
    struct digested *digested = (struct digested *)context + task;
    const struct tensor *tensor = &digested->tensor;
    size_t rows = tensor->rank > 1 ? (size_t)tensor->shape[0] : 1, columns = (size_t)tensor->shape[tensor->rank - 1];
    size_t step = columns < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / columns : 1;
    float *chunk = memory_alloc(step * columns, sizeof *chunk);
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, sizeof digested->hash);
    for (size_t row = 0; row < rows; row += step) {
        size_t count = rows - row < step ? rows - row : step;
        tensor_read_rows(tensor, digested->head_size, row, count, chunk);
        crypto_generichash_update(&state, (const unsigned char *)chunk, count * columns * sizeof *chunk);
    }
    crypto_generichash_final(&state, digested->hash, sizeof digested->hash);
    free(chunk);
}

/* All weights that are there, in the order of roles and layers.  The caller frees. */
static struct digested *weights_list(const struct weights *weights, const struct model_config *config, size_t *count)
{
    struct digested *list = NULL;
    *count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            struct digested next = { .role = role, .layer = l, .head_size = (size_t)config->head_size };
            if (!weights_role(weights, config, role, l, &next.tensor))
                continue;
            list = memory_grow(list, *count + 1, sizeof *list);
            list[(*count)++] = next;
        }
    }
    return list;
}

/*
 * Epsilon and theta count as float32: GGUF keeps no more of them, config.json writes them in decimal.  Mistral without a window
 * is Llama, as which GGUF has it.
 */
static void config_digest(struct digest *digest, const struct model_config *config)
{
    struct model_config same = *config;
    if (same.family == FAMILY_MISTRAL && same.window == 0)
        same.family = FAMILY_LLAMA;
    json_t *json = config_to_json(&same);
    json_object_del(json, "rms_norm_eps");
    json_object_del(json, "layer_norm_epsilon");
    json_object_del(json, "rope_theta");
    char *text = json_text(json);
    digest_add(digest, text, strlen(text) + 1);
    free(text);
    json_decref(json);
    float rounded[] = { (float)config->norm_epsilon, (float)config->rope_theta };
    digest_add(digest, rounded, sizeof rounded);
}

void weights_key(const struct weights *weights, const struct model_config *config, struct pool *pool, char *key)
{
    struct digest digest;
    size_t count;
    digest_init(&digest);
    config_digest(&digest, config);
    CHECK(sodium_init() >= 0);  // picks the fastest BLAKE2b of this processor
    struct digested *list = weights_list(weights, config, &count);
    if (pool != NULL)
        pool_run(pool, count, digest_task, list);
    for (size_t i = 0; i < count; i++) {
        char name[WEIGHT_NAME_SIZE];
        if (pool == NULL)
            digest_task(list, i, 0);
        weight_name(list[i].role, list[i].layer, name);
        digest_add(&digest, name, strlen(name) + 1);
        digest_add(&digest, list[i].hash, sizeof list[i].hash);
    }
    digest_key(&digest, key);
    free(list);
}
