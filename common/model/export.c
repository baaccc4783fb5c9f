/*
 * export.c - the functions of model.h that move a model between formats.
 *
 * What transformers needs of an export, versions 4 and 5: the architecture's name and every size in config.json, rope_theta
 * and rope_scaling at its top level, the family's own names and layouts of weights, and "format": "pt" in the metadata of
 * model.safetensors.  tests/parity/check_export.py tries it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/family.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "model/weights.h"

int model_config_from_checkpoint(struct model_config *config, const struct weights *weights, const char *name)
{
    const char *text = weights_metadata(weights, "config");
    if (text == NULL) {
        log_error("checkpoint \"%s\": its metadata has no \"config\"", name);
        return -1;
    }
    json_t *json = json_parse(text, strlen(text), name);
    int result = json == NULL ? -1 : config_from_json(config, json, name);
    json_decref(json);
    return result;
}

/* The roles that share a tensor of the family with this one, itself included, in the tensor's order. */
enum { GROUP_MAX = 3 };
static size_t export_group(const struct model_config *config, enum weight_role role, enum weight_role group[GROUP_MAX])
{
    size_t count = 0;
    for (enum weight_role other = 0; other < WEIGHT_ROLE_COUNT; other++) {
        if (weight_present(config, other) && strcmp(family_name(config->family, other), family_name(config->family, role)) == 0) {
            CHECK(count < GROUP_MAX);
            group[count++] = other;
        }
    }
    return count;
}

static bool is_transposed(const struct model_config *config, enum weight_role role)
{
    return family_weight(config->family, role)->layout == LAYOUT_TRANSPOSED;
}

/* A tensor of the export: the weight of one role, or of several that share it, in one layer. */
struct export_tensor {
    enum weight_role role;  // the first
    int64_t layer;
    char name[WEIGHT_NAME_SIZE];
};

/* In checkpoint order, shapes from the config. */
static size_t export_list(struct export_tensor *tensors, struct tensor_out *list, const struct weights *weights,
                          const struct model_config *config)
{
    size_t count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1, shape[2], rows = 0;
        enum weight_role group[GROUP_MAX];
        size_t group_count = export_group(config, role, group);
        if (group_count == 0 || group[0] != role)
            continue;
        for (size_t i = 0; i < group_count; i++) {
            weight_shape(config, group[i], shape);
            rows += shape[0];
        }
        for (int64_t l = 0; l < layers; l++) {
            struct tensor source;
            if (!weights_role(weights, config, role, l, &source))
                continue;
            tensors[count] = (struct export_tensor){ .role = role, .layer = l };
            weight_name_fill(family_name(config->family, role), l, tensors[count].name);
            list[count] = (struct tensor_out){ .name = tensors[count].name, .rank = source.rank, .shape = { rows, shape[1] } };
            if (is_transposed(config, role))
                memcpy(list[count].shape, (int64_t[]){ shape[1], rows }, sizeof shape);
            count++;
        }
    }
    return count;
}

/* values: (K, total) out, of which columns first .. first + N - 1 become the rows of source (N, K). */
static void transpose_part(float *values, const struct tensor *source, size_t head_size, size_t first, size_t total)
{
    size_t N = (size_t)source->shape[0], K = (size_t)source->shape[1];
    float *rows = memory_alloc(N * K, sizeof *rows);  // (N, K)
    tensor_read_canonical(source, head_size, rows);
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            values[k * total + first + n] = rows[n * K + k];
    free(rows);
}

/* The numbers as the family's file holds them.  The caller frees. */
static float *export_values(const struct weights *weights, const struct model_config *config, const struct export_tensor *tensor,
                            size_t elements)
{
    enum weight_role group[GROUP_MAX];
    size_t group_count = export_group(config, tensor->role, group), first = 0;
    float *values = memory_alloc(elements, sizeof *values);
    for (size_t i = 0; i < group_count; i++) {
        struct tensor source;
        CHECK(weights_role(weights, config, group[i], tensor->layer, &source));
        size_t N = (size_t)source.shape[0], K = source.rank > 1 ? (size_t)source.shape[1] : 1;
        if (is_transposed(config, group[i]))
            transpose_part(values, &source, (size_t)config->head_size, first, elements / K);
        else
            tensor_read_canonical(&source, (size_t)config->head_size, values + first * K);
        first += N;
    }
    float offset = family_offset(config->family, tensor->role);
    for (size_t i = 0; offset != 0.0f && i < elements; i++)
        values[i] -= offset;
    return values;
}

/* The whole model as one safetensors file, a tensor at a time in memory.  0 or -1. */
static int export_weights(const char *path, const struct weights *weights, const struct model_config *config)
{
    size_t count_max = WEIGHT_ROLE_COUNT * (size_t)config->layer_count;
    struct tensor_out *list = memory_alloc(count_max, sizeof *list);
    struct export_tensor *tensors = memory_alloc(count_max, sizeof *tensors);
    size_t count = export_list(tensors, list, weights, config);
    struct buffer header = { 0 };
    safetensors_header(&header, list, count, (const char *const[][2]){ { "format", "pt" } }, 1);

    struct file_out file;
    int result = file_out_begin(&file, path);
    if (result == 0) {
        file_out_write(&file, header.data, header.size);
        for (size_t i = 0; i < count && !file.failed; i++) {
            size_t elements = (size_t)list[i].shape[0] * (list[i].rank > 1 ? (size_t)list[i].shape[1] : 1);
            float *values = export_values(weights, config, &tensors[i], elements);
            file_out_write(&file, values, elements * sizeof *values);
            free(values);
        }
        result = file_out_end(&file, true);
    }
    free(header.data);
    free(tensors);
    free(list);
    return result;
}

int model_output_check(const char *output, const char *source)
{
    struct stat there, from;
    if (source != NULL && stat(output, &there) == 0 && stat(source, &from) == 0 && there.st_dev == from.st_dev
        && there.st_ino == from.st_ino) {
        log_error("\"%s\" is the model that is read: it would be overwritten", output);
        log_hint("choose another -o");
        return EX_CANTCREAT;
    }
    char *index = weights_index_path(output);
    bool sharded = file_exists(index);
    free(index);
    if (!sharded)
        return EX_OK;
    log_error("\"%s\" has a model in several files: they would be read instead of what is written there", output);
    log_hint("choose another -o");
    return EX_CANTCREAT;
}

int model_export(const struct weights *weights, const struct model_config *config, const char *directory)
{
    if (weights_check(weights, config) != 0 || directory_make(directory) != 0)
        return -1;
    char *weights_path = memory_printf("%s/model.safetensors", directory);
    char *config_path = memory_printf("%s/config.json", directory);
    json_t *json = config_to_json(config);
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    CHECK(text != NULL);

    int result = export_weights(weights_path, weights, config);
    if (result == 0)
        result = file_write(config_path, text, strlen(text));

    free(text);
    json_decref(json);
    free(config_path);
    free(weights_path);
    return result;
}
