/* weights.c - see weights.h. */
#define _GNU_SOURCE
#include "model/weights.h"

#include <dirent.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "model/config.h"
#include "model/gguf.h"
#include "model/safetensors.h"

/* One mapped safetensors file. */
struct shard {
    char *path;
    struct file_map map;
    json_t *header;
};

struct weights {
    char *name;
    struct tensor_list tensors;  // sorted by name
    struct shard *shards;
    size_t shard_count;
    struct gguf *gguf;           // or NULL
    struct arena arena;          // names of GGUF tensors
};

/* ---- tensor types ---- */

static void read_f32(float *out, const unsigned char *in, size_t count)
{
    memcpy(out, in, count * sizeof *out);
}

static void read_bf16(float *out, const unsigned char *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

static float float_from_f16(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float number;
    memcpy(&number, &bits, sizeof bits);
    number *= 0x1p112f;  // moves the exponent's bias from 15 to 127; subnormal numbers come out right as well
    memcpy(&bits, &number, sizeof bits);
    if ((half & 0x7c00) == 0x7c00)
        bits |= half & 0x3ff ? 0x7fc00000 : 0x7f800000;
    bits |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&number, &bits, sizeof bits);
    return number;
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static size_t read_f16_fast(float *out, const unsigned char *in, size_t count)
{
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i))));
    return i;
}
#endif

static void read_f16(float *out, const unsigned char *in, size_t count)
{
    size_t i = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))  // never comes without F16C
        i = read_f16_fast(out, in, count);
#endif
    for (; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = float_from_f16(half);
    }
}

/* How the elements of each type lie in a file.  A type whose elements share a block gets its row here. */
static const struct tensor_format {
    uint32_t gguf_type;
    size_t block_elements, block_bytes;
    void (*read)(float *out, const unsigned char *in, size_t count);  // count: a multiple of block_elements
} formats[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = { 0, 1, 4, read_f32 },
    [TENSOR_F16] = { 1, 1, 2, read_f16 },
    [TENSOR_BF16] = { 30, 1, 2, read_bf16 },
};

size_t tensor_elements(const struct tensor *tensor)
{
    size_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++)
        count *= (size_t)tensor->shape[i];
    return count;
}

static size_t tensor_rows(const struct tensor *tensor)
{
    size_t count = 1;
    for (size_t i = 0; i + 1 < tensor->rank; i++)
        count *= (size_t)tensor->shape[i];
    return count;
}

void tensor_read(const struct tensor *tensor, size_t first, size_t count, float *out)
{
    const struct tensor_format *format = &formats[tensor->type];
    CHECK(first % format->block_elements == 0 && count % format->block_elements == 0);
    CHECK(count <= tensor_elements(tensor) && first <= tensor_elements(tensor) - count);
    format->read(out, (const unsigned char *)tensor->data + first / format->block_elements * format->block_bytes, count);
}

/*
 * GGUF keeps the two halves of a head's rows as pairs: its rows 2i and 2i + 1 are Hugging Face's rows i and
 * i + HS/2 of the same head.
 */
void tensor_read_rows(const struct tensor *tensor, size_t head_size, size_t first, size_t count, float *out)
{
    size_t columns = tensor->rank > 0 ? (size_t)tensor->shape[tensor->rank - 1] : 1;
    if (!tensor->rows_interleaved) {
        tensor_read(tensor, first * columns, count * columns, out);
        return;
    }
    CHECK(head_size >= 2 && head_size % 2 == 0 && tensor_rows(tensor) % head_size == 0);
    for (size_t row = first; row < first + count; row++, out += columns) {
        size_t i = row % head_size, half = head_size / 2;
        size_t stored = row - i + (i < half ? 2 * i : 2 * (i - half) + 1);
        tensor_read(tensor, stored * columns, columns, out);
    }
}

void tensor_read_canonical(const struct tensor *tensor, size_t head_size, float *out)
{
    tensor_read_rows(tensor, head_size, 0, tensor_rows(tensor), out);
}

/* ---- safetensors, one file or several ---- */

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* Sorts what was read and refuses a name that two shards hold. */
static int weights_sort(struct weights *weights)
{
    struct tensor_list *tensors = &weights->tensors;
    if (tensors->count > 0)
        qsort(tensors->at, tensors->count, sizeof *tensors->at, compare_tensors);
    for (size_t i = 1; i < tensors->count; i++) {
        if (strcmp(tensors->at[i - 1].name, tensors->at[i].name) == 0) {
            log_error("model \"%s\": tensor \"%s\" appears twice", weights->name, tensors->at[i].name);
            return EX_DATAERR;
        }
    }
    return EX_OK;
}

/* Takes path. */
static int shard_open(struct weights *weights, char *path)
{
    weights->shards = memory_grow(weights->shards, weights->shard_count + 1, sizeof *weights->shards);
    struct shard *shard = &weights->shards[weights->shard_count++];
    *shard = (struct shard){ .path = path };
    int code = file_map(&shard->map, path);
    if (code != EX_OK)
        return code;
    shard->header = safetensors_read(&weights->tensors, shard->map.data, shard->map.size, path);
    return shard->header != NULL ? EX_OK : EX_DATAERR;
}

static struct shard *shard_find(struct weights *weights, const char *path)
{
    for (size_t i = 0; i < weights->shard_count; i++)
        if (strcmp(weights->shards[i].path, path) == 0)
            return &weights->shards[i];
    return NULL;
}

/* A file name that stays in its directory. */
static bool shard_name_is_plain(const char *file)
{
    return file != NULL && file[0] != '\0' && file[0] != '.' && strchr(file, '/') == NULL;
}

static int index_refuse(const char *path, const char *tensor, const char *why)
{
    log_error("cannot read \"%s\": tensor \"%s\" %s", path, tensor, why);
    return EX_DATAERR;
}

/* Opens the shards that the index names and checks that each holds the tensors it is said to hold. */
static int shards_open(struct weights *weights, const char *directory, json_t *map, const char *index_path)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file) {
        if (!shard_name_is_plain(json_string_value(file)))
            return index_refuse(index_path, tensor, "is not in a file of the same directory");
        char *path = memory_printf("%s/%s", directory, json_string_value(file));
        if (shard_find(weights, path) != NULL) {
            free(path);
            continue;
        }
        int code = shard_open(weights, path);
        if (code != EX_OK)
            return code;
    }
    json_object_foreach(map, tensor, file) {
        char *path = memory_printf("%s/%s", directory, json_string_value(file));
        bool found = json_object_get(shard_find(weights, path)->header, tensor) != NULL;
        free(path);
        if (!found)
            return index_refuse(index_path, tensor, "is not in the file that the index names");
    }
    return EX_OK;
}

static int index_open(struct weights *weights, const char *directory, const char *index_path)
{
    json_t *index = json_read(index_path);
    if (index == NULL)
        return EX_DATAERR;
    json_t *map = json_object_get(index, "weight_map");
    int code = EX_DATAERR;
    if (json_is_object(map) && json_object_size(map) > 0)
        code = shards_open(weights, directory, map, index_path);
    else
        log_error("cannot read \"%s\": it has no weight_map", index_path);
    json_decref(index);
    return code;
}

/* The only *.safetensors file of a directory; NULL, logged, when there is none or a choice.  The caller frees. */
static char *only_safetensors(const char *directory, int *code)
{
    DIR *entries = opendir(directory);
    if (entries == NULL) {
        log_error("could not open directory \"%s\": %s", directory, strerror(errno));
        *code = EX_OSERR;
        return NULL;
    }
    char *path = NULL;
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        size_t size = strlen(entry->d_name), ending = strlen(".safetensors");
        if (size <= ending || strcmp(entry->d_name + size - ending, ".safetensors") != 0)
            continue;
        free(path);
        path = memory_printf("%s/%s", directory, entry->d_name);
        count++;
    }
    closedir(entries);
    if (count == 1)
        return path;
    free(path);
    *code = count == 0 ? EX_NOINPUT : EX_DATAERR;
    if (count == 0)
        log_error("model \"%s\": it has no *.safetensors file", directory);
    else
        log_error("model \"%s\": it has %zu *.safetensors files but no model.safetensors.index.json", directory, count);
    return NULL;
}

static int directory_open(struct weights *weights, const char *directory)
{
    char *index = memory_printf("%s/model.safetensors.index.json", directory);
    char *single = memory_printf("%s/model.safetensors", directory);
    int code = EX_OK;
    if (file_exists(index)) {
        code = index_open(weights, directory, index);
    } else {
        if (!file_exists(single)) {
            free(single);
            single = only_safetensors(directory, &code);
        }
        if (single != NULL) {
            code = shard_open(weights, single);
            single = NULL;
        }
    }
    free(index);
    free(single);
    return code;
}

/* ---- GGUF ---- */

static int gguf_refuse(const struct weights *weights, const struct gguf_tensor *tensor, const char *why)
{
    log_error("model \"%s\": tensor \"%s\" %s", weights->name, tensor->name, why);
    return EX_DATAERR;
}

/*
 * A tensor with no row in weight_specs is refused, not left out: in a GGUF file it is a bias or a scale of the rotary
 * angles, and the numbers would be wrong without it.
 */
static int gguf_add_tensor(struct weights *weights, const struct gguf_tensor *source)
{
    enum weight_role role;
    int64_t layer;
    if (!weight_from_gguf_name(source->name, &role, &layer))
        return gguf_refuse(weights, source, "is not a weight of a supported model");
    enum tensor_type type = 0;
    while (type < TENSOR_TYPE_COUNT && formats[type].gguf_type != source->type)
        type++;
    if (type == TENSOR_TYPE_COUNT) {
        log_error("model \"%s\": tensor \"%s\" has type %s, only F32, F16 and BF16 are supported", weights->name, source->name,
                  gguf_type_name(source->type));
        return EX_DATAERR;
    }
    char name[WEIGHT_NAME_SIZE];
    weight_name(role, layer, name);
    struct tensor tensor = {
        .name = arena_text(&weights->arena, name, strlen(name)), .type = type, .rank = source->rank, .data = source->data,
        .size_bytes = source->size_bytes, .rows_interleaved = role == WEIGHT_Q || role == WEIGHT_K,
    };
    memcpy(tensor.shape, source->shape, source->rank * sizeof *source->shape);
    tensor_list_add(&weights->tensors, &tensor);
    return EX_OK;
}

/* Takes gguf. */
static int gguf_take(struct weights *weights, struct gguf *gguf)
{
    weights->gguf = gguf;
    struct gguf_text architecture = { "", 0 };
    gguf_text(gguf, "general.architecture", &architecture);
    if (strcmp(architecture.at, "llama") != 0) {
        log_error("model \"%s\": architecture \"%.100s\" is not supported, only llama is", weights->name, architecture.at);
        return EX_DATAERR;
    }
    int code = EX_OK;
    for (size_t i = 0; i < gguf_tensor_count(gguf) && code == EX_OK; i++)
        code = gguf_add_tensor(weights, gguf_tensor_at(gguf, i));
    return code;
}

/* ---- opening and finding ---- */

static bool is_gguf(const void *data, size_t size)
{
    return size >= 4 && memcmp(data, "GGUF", 4) == 0;
}

static struct weights *weights_new(const char *name)
{
    struct weights *weights = memory_alloc(1, sizeof *weights);
    weights->name = memory_text(name);
    arena_init(&weights->arena, "tensor names", SIZE_MAX);
    return weights;
}

static int file_open(struct weights *weights, const char *path)
{
    struct file_map map;
    int code = file_map(&map, path);
    if (code != EX_OK)
        return code;
    bool gguf_file = is_gguf(map.data, map.size);
    file_unmap(&map);
    if (!gguf_file)
        return shard_open(weights, memory_text(path));
    struct gguf *gguf = gguf_open(path, &code);
    return gguf == NULL ? code : gguf_take(weights, gguf);
}

struct weights *weights_open(const char *path, int *code)
{
    struct weights *weights = weights_new(path);
    *code = file_is_directory(path) ? directory_open(weights, path) : file_open(weights, path);
    if (*code == EX_OK)
        *code = weights_sort(weights);
    if (*code != EX_OK) {
        weights_close(weights);
        return NULL;
    }
    return weights;
}

struct weights *weights_from_memory(const void *data, size_t size, const char *name)
{
    struct weights *weights = weights_new(name);
    int code = EX_DATAERR;
    if (is_gguf(data, size)) {
        struct gguf *gguf = gguf_from_memory(data, size, name);
        code = gguf == NULL ? EX_DATAERR : gguf_take(weights, gguf);
    } else {
        json_t *header = safetensors_read(&weights->tensors, data, size, name);
        if (header != NULL) {
            weights->shards = memory_alloc(1, sizeof *weights->shards);
            weights->shards[weights->shard_count++] = (struct shard){ .path = memory_text(name), .header = header };
            code = EX_OK;
        }
    }
    if (code == EX_OK)
        code = weights_sort(weights);
    if (code != EX_OK) {
        weights_close(weights);
        return NULL;
    }
    return weights;
}

void weights_close(struct weights *weights)
{
    if (weights == NULL)
        return;
    for (size_t i = 0; i < weights->shard_count; i++) {
        json_decref(weights->shards[i].header);
        file_unmap(&weights->shards[i].map);
        free(weights->shards[i].path);
    }
    free(weights->shards);
    gguf_close(weights->gguf);
    arena_free(&weights->arena);
    free(weights->tensors.at);
    free(weights->name);
    free(weights);
}

size_t weights_count(const struct weights *weights)
{
    return weights->tensors.count;
}

const struct tensor *weights_at(const struct weights *weights, size_t index)
{
    CHECK(index < weights->tensors.count);
    return &weights->tensors.at[index];
}

const struct tensor *weights_find(const struct weights *weights, const char *name)
{
    struct tensor wanted = { .name = name };
    if (weights->tensors.count == 0)
        return NULL;
    return bsearch(&wanted, weights->tensors.at, weights->tensors.count, sizeof wanted, compare_tensors);
}

const char *weights_metadata(const struct weights *weights, const char *key)
{
    struct gguf_text text;
    if (weights->gguf != NULL)
        return gguf_text(weights->gguf, key, &text) ? text.at : NULL;
    for (size_t i = 0; i < weights->shard_count; i++) {
        const json_t *value = json_object_get(json_object_get(weights->shards[i].header, "__metadata__"), key);
        if (value != NULL)
            return json_string_value(value);
    }
    return NULL;
}

/* ---- a model's weights ---- */

static int weight_check(const struct weights *weights, const struct model_config *config, enum weight_role role, int64_t layer)
{
    char name[WEIGHT_NAME_SIZE];
    weight_name(role, layer, name);
    const struct tensor *tensor = weights_find(weights, name);
    if (tensor == NULL) {
        if (!weight_required(config, role))
            return 0;
        log_error("model \"%s\": tensor \"%s\" is missing", weights->name, name);
        return -1;
    }
    int64_t shape[2];
    size_t rank = weight_shape(config, role, shape);
    if (tensor->rank == rank && memcmp(tensor->shape, shape, rank * sizeof *shape) == 0)
        return 0;
    struct buffer was = { 0 };
    for (size_t i = 0; i < tensor->rank; i++)
        buffer_printf(&was, i ? ", %lld" : "%lld", (long long)tensor->shape[i]);
    buffer_append(&was, "", 1);
    if (rank == 1)
        log_error("model \"%s\": tensor \"%s\" has shape [%s], config says [%lld]", weights->name, name, was.data,
                  (long long)shape[0]);
    else
        log_error("model \"%s\": tensor \"%s\" has shape [%s], config says [%lld, %lld]", weights->name, name, was.data,
                  (long long)shape[0], (long long)shape[1]);
    free(was.data);
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

/* BLAKE2b of a tensor's canonical float32 content, a few rows at a time. */
static void tensor_digest(const struct tensor *tensor, size_t head_size, unsigned char hash[crypto_generichash_BYTES])
{
    enum { CHUNK_ELEMENTS = 1 << 15 };  // stays in the L2 cache between conversion and hashing
    size_t rows = tensor_rows(tensor), columns = rows > 0 ? tensor_elements(tensor) / rows : 0;
    size_t step = columns > 0 && columns < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / columns : 1;
    float *chunk = memory_alloc(step * columns, sizeof *chunk);
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, crypto_generichash_BYTES);
    for (size_t row = 0; row < rows; row += step) {
        size_t count = rows - row < step ? rows - row : step;
        tensor_read_rows(tensor, head_size, row, count, chunk);
        crypto_generichash_update(&state, (const unsigned char *)chunk, count * columns * sizeof *chunk);
    }
    crypto_generichash_final(&state, hash, crypto_generichash_BYTES);
    free(chunk);
}

/* Epsilon and theta count as float32: GGUF keeps no more of them, config.json writes them in decimal. */
static void config_digest(struct digest *digest, const struct model_config *config)
{
    json_t *json = config_to_json(config);
    json_object_del(json, "rms_norm_eps");
    json_object_del(json, "rope_theta");
    char *text = json_text(json);
    digest_add(digest, text, strlen(text) + 1);
    free(text);
    json_decref(json);
    float rounded[] = { (float)config->norm_epsilon, (float)config->rope_theta };
    digest_add(digest, rounded, sizeof rounded);
}

void weights_key(const struct weights *weights, const struct model_config *config, char *key)
{
    struct digest digest;
    digest_init(&digest);
    config_digest(&digest, config);
    CHECK(sodium_init() >= 0);  // picks the fastest BLAKE2b of this processor
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            char name[WEIGHT_NAME_SIZE];
            weight_name(role, l, name);
            const struct tensor *tensor = weights_find(weights, name);
            if (tensor == NULL || (role == WEIGHT_LM_HEAD && config->tied_embeddings))
                continue;
            unsigned char hash[crypto_generichash_BYTES];
            tensor_digest(tensor, (size_t)config->head_size, hash);
            digest_add(&digest, name, strlen(name) + 1);
            digest_add(&digest, hash, sizeof hash);
        }
    }
    digest_key(&digest, key);
}
