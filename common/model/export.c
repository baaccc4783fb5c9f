/*
 * export.c - the two functions of model.h that move a model between formats.
 *
 * What transformers needs of an export, versions 4 and 5: the architecture's name and every size in config.json, rope_theta
 * at its top level, and "format": "pt" in the metadata of model.safetensors.  tests/parity/check_export.py tries it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
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

/* The tensors that the export holds, in checkpoint order, shapes from the sources. */
static size_t export_list(struct tensor_out *list, const struct tensor **sources, const struct weights *weights,
                          const struct model_config *config)
{
    size_t count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            char name[WEIGHT_NAME_SIZE];
            weight_name(role, l, name);
            const struct tensor *tensor = weights_find(weights, name);
            if (tensor == NULL || (role == WEIGHT_LM_HEAD && config->tied_embeddings))
                continue;
            list[count] = (struct tensor_out){ .name = tensor->name, .rank = tensor->rank };
            memcpy(list[count].shape, tensor->shape, sizeof tensor->shape);
            sources[count++] = tensor;
        }
    }
    return count;
}

/* Appends the whole model as one safetensors file. */
static void export_weights(struct buffer *out, const struct weights *weights, const struct model_config *config)
{
    size_t count_max = WEIGHT_ROLE_COUNT * (size_t)config->layer_count;
    struct tensor_out *list = memory_alloc(count_max, sizeof *list);
    const struct tensor **sources = memory_alloc(count_max, sizeof *sources);
    size_t count = export_list(list, sources, weights, config);

    safetensors_header(out, list, count, (const char *const[][2]){ { "format", "pt" } }, 1);
    for (size_t i = 0; i < count; i++) {
        size_t elements = tensor_elements(sources[i]);
        float *values = memory_alloc(elements, sizeof *values);
        tensor_read_canonical(sources[i], (size_t)config->head_size, values);
        buffer_append(out, values, elements * sizeof *values);
        free(values);
    }
    free(sources);
    free(list);
}

int model_export(const struct weights *weights, const struct model_config *config, const char *directory)
{
    if (weights_check(weights, config) != 0 || directory_make(directory) != 0)
        return -1;
    struct buffer file = { 0 };
    export_weights(&file, weights, config);
    char *weights_path = memory_printf("%s/model.safetensors", directory);
    char *config_path = memory_printf("%s/config.json", directory);
    json_t *json = config_to_json(config);
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    CHECK(text != NULL);

    int result = file_write(weights_path, file.data, file.size);
    if (result == 0)
        result = file_write(config_path, text, strlen(text));

    free(text);
    json_decref(json);
    free(config_path);
    free(weights_path);
    free(file.data);
    return result;
}
