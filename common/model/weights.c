/* weights.c - model files opened and their tensors found; see weights.h. */
#define _GNU_SOURCE
#include "model/adapter.h"
#include "model/weights.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "model/family.h"
#include "model/gguf.h"
#include "model/llama2c.h"
#include "model/weights_parts.h"

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

/* How many *.safetensors files a directory has, the last seen of them into *path (malloc'd); -1 with errno. */
static int count_safetensors(const char *directory, char **path)
{
    DIR *entries = opendir(directory);
    int count = entries != NULL ? 0 : -1;
    *path = NULL;
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        size_t size = strlen(entry->d_name), ending = strlen(".safetensors");
        if (size <= ending || strcmp(entry->d_name + size - ending, ".safetensors") != 0)
            continue;
        free(*path);
        *path = memory_printf("%s/%s", directory, entry->d_name);
        count++;
    }
    if (entries != NULL)
        closedir(entries);
    return count;
}

/* The only *.safetensors file of a directory; NULL, logged, when there is none or a choice.  The caller frees. */
static char *only_safetensors(const char *directory, int *code)
{
    char *path;
    int count = count_safetensors(directory, &path);
    if (count == 1)
        return path;
    if (count < 0)
        log_error("could not open directory \"%s\": %s", directory, strerror(errno));
    else if (count == 0)
        log_error("model \"%s\": it has no *.safetensors file", directory);
    else
        log_error("model \"%s\": it has %d *.safetensors files but no model.safetensors.index.json", directory, count);
    *code = count < 0 ? EX_OSERR : count == 0 ? EX_NOINPUT : EX_DATAERR;
    free(path);
    return NULL;
}

bool weights_in_directory(const char *directory)
{
    char *path;
    int count = count_safetensors(directory, &path);
    free(path);
    return count > 0;
}

char *weights_index_path(const char *directory)
{
    return memory_printf("%s/model.safetensors.index.json", directory);
}

static int directory_open(struct weights *weights, const char *directory)
{
    char *index = weights_index_path(directory);
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

/* What config_from_gguf reads. */
static bool is_rope_factors(const char *name)
{
    return strcmp(name, "rope_freqs.weight") == 0 || strcmp(name, "rope_factors_short.weight") == 0
           || strcmp(name, "rope_factors_long.weight") == 0;
}

/* A tensor that no role has is refused, not left out: in a GGUF file the numbers would be wrong without it. */
static int gguf_add_tensor(struct weights *weights, const struct family *family, const struct gguf_tensor *source)
{
    bool known = is_rope_factors(source->name);
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT && !known; role++) {
        const char *pattern = family_weight(family->family, role)->gguf_name;
        known = pattern != NULL && weight_name_matches(pattern, source->name);
    }
    if (!known)
        return gguf_refuse(weights, source, "is not a weight of a supported model");
    struct tensor tensor = { .name = source->name, .rank = source->rank, .data = source->data, .size_bytes = source->size_bytes };
    memcpy(tensor.shape, source->shape, source->rank * sizeof *source->shape);
    if (!tensor_type_from_gguf(source->type, &tensor.type)) {
        log_error("model \"%s\": tensor \"%s\" has type %s, which is not supported", weights->name, source->name,
                  gguf_type_name(source->type));
        return EX_DATAERR;
    }
    tensor_list_add(&weights->tensors, &tensor);
    return EX_OK;
}

/* Takes gguf. */
static int gguf_take(struct weights *weights, struct gguf *gguf)
{
    weights->gguf = gguf;
    struct gguf_text architecture = { "", 0 };
    gguf_text(gguf, "general.architecture", &architecture);
    const struct family *family = family_from_gguf(architecture.at);
    if (family == NULL) {
        log_error("model \"%s\": architecture \"%.100s\" is not supported", weights->name, architecture.at);
        return EX_DATAERR;
    }
    int code = EX_OK;
    for (size_t i = 0; i < gguf_tensor_count(gguf) && code == EX_OK; i++)
        code = gguf_add_tensor(weights, family, gguf_tensor_at(gguf, i));
    return code;
}

/* Takes map. */
static int llama2c_take(struct weights *weights, struct file_map map, const char *path)
{
    weights->shards = memory_alloc(1, sizeof *weights->shards);
    weights->shards[weights->shard_count++] = (struct shard){ .path = memory_text(path), .map = map };
    return llama2c_read(&weights->tensors, &weights->arena, map.data, map.size, path) == 0 ? EX_OK : EX_DATAERR;
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
    if (llama2c_is(path, map.data, map.size))
        return llama2c_take(weights, map, path);
    bool gguf_file = is_gguf(map.data, map.size);
    file_unmap(&map);
    if (!gguf_file)
        return shard_open(weights, memory_text(path));
    struct gguf *gguf = gguf_open(path, &code);
    return gguf == NULL ? code : gguf_take(weights, gguf);
}

static int adapter_take(struct weights *weights, const char *path, const char *base)
{
    struct model_config config;
    int code = config_open(&config, base);
    if (code == EX_OK)
        weights->adapter = adapter_open(path, weights, &config, &code);
    return code;
}

struct weights *weights_open(const char *path, int *code)
{
    char *base = adapter_base_path(path, code);
    if (base == NULL)
        return NULL;
    struct weights *weights = weights_new(path);
    *code = file_is_directory(base) ? directory_open(weights, base) : file_open(weights, base);
    if (*code == EX_OK)
        *code = weights_sort(weights);
    if (*code == EX_OK && adapter_is_directory(path))
        *code = adapter_take(weights, path, base);
    free(base);
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
    adapter_close(weights->adapter);
    arena_free(&weights->arena);
    free(weights->tensors.at);
    free(weights->name);
    free(weights);
}

bool weights_add_files(const struct weights *weights, struct digest *digest)
{
    const struct file_state *gguf = weights->gguf != NULL ? gguf_state(weights->gguf) : NULL;
    if (weights->adapter != NULL || (gguf == NULL && (weights->gguf != NULL || weights->shards[0].map.data == NULL)))
        return false;
    if (gguf != NULL)
        digest_add(digest, gguf, sizeof *gguf);
    for (size_t i = 0; i < weights->shard_count; i++)
        digest_add(digest, &weights->shards[i].map.state, sizeof weights->shards[i].map.state);
    return true;
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
