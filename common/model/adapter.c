/* adapter.c - reading adapters; see adapter.h. */
#include "model/adapter.h"

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
#include "model/family.h"
#include "model/weights.h"

#define PEFT_PREFIX "base_model.model."
enum { TENSOR_NAME_SIZE = WEIGHT_NAME_SIZE + 64 };

/* ---- names ---- */

/* The name of a role's tensor in safetensors of its family. */
static void file_name(const struct model_config *config, enum weight_role role, int64_t layer, char out[WEIGHT_NAME_SIZE])
{
    weight_name_fill(family_name(config->family, role), layer, out);
}

bool adapter_module(const struct model_config *config, enum weight_role role, int64_t layer, struct adapter_module *module)
{
    int64_t shape[2];
    if (!weight_present(config, role) || weight_shape(config, role, shape) != 2)
        return false;
    *module = (struct adapter_module){ .rows = (size_t)shape[0], .K = (size_t)shape[1] };
    file_name(config, role, layer, module->name);
    for (enum weight_role other = 0; other < WEIGHT_ROLE_COUNT; other++) {
        char name[WEIGHT_NAME_SIZE];
        if (!weight_present(config, other) || weight_shape(config, other, shape) != 2)
            continue;
        file_name(config, other, layer, name);
        if (strcmp(name, module->name) != 0)
            continue;
        module->first += other < role ? (size_t)shape[0] : 0;
        module->total += (size_t)shape[0];
    }
    module->name[strlen(module->name) - strlen(".weight")] = '\0';
    return true;
}

/* ---- adapter_config.json ---- */

static bool directory_has(const char *directory, const char *file)
{
    char *path = memory_printf("%s/%s", directory, file);
    bool found = file_exists(path);
    free(path);
    return found;
}

bool adapter_is_directory(const char *path)
{
    return file_is_directory(path) && directory_has(path, "adapter_config.json") && !directory_has(path, "config.json");
}

static json_t *config_read(const char *directory)
{
    char *path = memory_printf("%s/adapter_config.json", directory);
    json_t *json = json_read(path);
    if (json != NULL && !json_is_object(json)) {
        log_error("cannot read \"%s\": it is not an object", path);
        json_decref(json);
        json = NULL;
    }
    free(path);
    return json;
}

char *adapter_base_path(const char *path, int *code)
{
    *code = EX_OK;
    if (!adapter_is_directory(path))
        return memory_text(path);
    *code = EX_DATAERR;
    json_t *json = config_read(path);
    const char *base = json_string_value(json_object_get(json, "base_model_name_or_path"));
    char *found = NULL;
    if (json != NULL && base == NULL) {
        log_error("adapter \"%s\": adapter_config.json has no base_model_name_or_path", path);
    } else if (json != NULL) {
        found = file_exists(base) ? memory_text(base) : memory_printf("%s/%s", path, base);
        if (!file_exists(found)) {
            log_error("adapter \"%s\": its base model \"%s\" is not here", path, base);
            log_hint("set base_model_name_or_path in its adapter_config.json to the directory or file of that model");
            *code = EX_NOINPUT;
        } else if (adapter_is_directory(found)) {
            log_error("adapter \"%s\": its base model \"%s\" is an adapter itself", path, base);
        } else {
            *code = EX_OK;
        }
    }
    json_decref(json);
    if (*code != EX_OK) {
        free(found);
        return NULL;
    }
    return found;
}

bool adapter_is_low_rank(const char *path, int *code)
{
    char *file = memory_printf("%s/adapter_model.safetensors", path);
    struct weights *weights = weights_open(file, code);
    bool low_rank = weights != NULL;
    for (size_t i = 0; low_rank && i < weights_count(weights); i++)
        low_rank = strstr(weights_at(weights, i)->name, ".lora_") != NULL;
    weights_close(weights);
    free(file);
    return low_rank;
}

/* ---- merging ---- */

struct adapter {
    size_t layer_count;
    struct tensor *merged;            // (L, WEIGHT_ROLE_COUNT): data owned, NULL where the base's hold
    struct adapter_product *products; // (L, WEIGHT_ROLE_COUNT): owned, a NULL where the base's matrices hold; NULL of a merged one
};

/* An adapter that is being opened. */
struct reading {
    struct adapter *adapter;
    const char *path;            // of the directory
    const struct model_config *config;
    const struct weights *base;  // that it is merged into; NULL: it is not
    json_t *json;                // adapter_config.json
    struct weights *file;        // adapter_model.safetensors
    bool *used;                  // (tensors of the file): it has found its place
    double alpha;
    bool rank_stabilised;        // scale alpha / sqrt(R) and not alpha / R
};

static struct tensor *merged_at(const struct adapter *adapter, enum weight_role role, int64_t layer)
{
    return &adapter->merged[(size_t)layer * WEIGHT_ROLE_COUNT + (size_t)role];
}

/* Takes floats, the whole weight in its canonical shape.  name outlives the adapter. */
static void merged_set(const struct reading *reading, enum weight_role role, int64_t layer, const char *name, const float *floats)
{
    struct tensor *merged = merged_at(reading->adapter, role, layer);
    *merged = (struct tensor){ .name = name, .type = TENSOR_F32, .data = floats };
    merged->rank = weight_shape(reading->config, role, merged->shape);
    merged->size_bytes = tensor_elements(merged) * sizeof *floats;
}

static int refuse(const struct reading *reading, const char *what, const char *why)
{
    log_error("adapter \"%s\": %s %s", reading->path, what, why);
    return -1;
}

/* PiSSA, OLoRA, CorDA and LoftQ take what the adapter begins with out of the base's weights, and PEFT does so again on loading. */
static bool base_stays(const json_t *json)
{
    static const char *const kinds[] = { "gaussian", "orthogonal", "eva" };
    const char *kind = json_string_value(json_object_get(json, "init_lora_weights"));
    for (size_t i = 0; kind != NULL && i < COUNT_OF(kinds); i++)
        if (strcmp(kind, kinds[i]) == 0)
            return true;
    return kind == NULL;
}

/* What adapter_config.json may not say, since it would change the numbers. */
static int config_check(struct reading *reading)
{
    const json_t *json = reading->json;
    const char *type = json_string_value(json_object_get(json, "peft_type"));
    if (type == NULL || strcmp(type, "LORA") != 0)
        return refuse(reading, "peft_type", "must be \"LORA\"");
    static const char *const others[] = {
        "use_dora", "use_qalora", "use_bdlora", "layer_replication", "alora_invocation_tokens", "arrow_config", "kasa_config",
    };
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        const json_t *value = json_object_get(json, others[i]);
        if (value != NULL && !json_is_null(value) && !json_is_false(value))
            return refuse(reading, others[i], "is not supported");
    }
    if (!base_stays(json))
        return refuse(reading, "init_lora_weights", "must be true, false, gaussian, orthogonal or eva");
    const json_t *alpha = json_object_get(json, "lora_alpha");
    if (!json_is_number(alpha))
        return refuse(reading, "lora_alpha", "must be a number");
    reading->alpha = json_number_value(alpha);
    reading->rank_stabilised = json_is_true(json_object_get(json, "use_rslora"));
    const char *key;
    json_t *pattern;
    json_object_foreach(json_object_get(json, "alpha_pattern"), key, pattern) {
        if (!json_is_number(pattern) || strpbrk(key, "\\^$*+?()[]{}|") != NULL)
            return refuse(reading, "alpha_pattern", "must give numbers to names of modules, not to regular expressions");
    }
    return 0;
}

/* alpha of a module: that of the first pattern which is the end of its name. */
static double module_alpha(const struct reading *reading, const char *module)
{
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(reading->json, "alpha_pattern"), key, value) {
        const size_t size = strlen(key), length = strlen(module);
        if (length >= size && strcmp(module + length - size, key) == 0 && (length == size || module[length - size - 1] == '.'))
            return json_number_value(value);
    }
    return reading->alpha;
}

/* A tensor by its name in PEFT, noted as used; the family's prefix may be missing, where the base was opened without its head. */
static const struct tensor *find(const struct reading *reading, const char *module, const char *ending)
{
    char name[TENSOR_NAME_SIZE];
    snprintf(name, sizeof name, PEFT_PREFIX "%s%s", module, ending);
    const struct tensor *tensor = weights_find(reading->file, name);
    const char *dot = strchr(module, '.');
    if (tensor == NULL && dot != NULL) {
        snprintf(name, sizeof name, PEFT_PREFIX "%s%s", dot + 1, ending);
        tensor = weights_find(reading->file, name);
    }
    if (tensor != NULL)
        reading->used[tensor - weights_at(reading->file, 0)] = true;
    return tensor;
}

/* Whether the tensor is a matrix of this shape; logged if not. */
static bool has_shape(const struct reading *reading, const struct tensor *tensor, size_t rows, size_t columns)
{
    if (tensor->rank == 2 && tensor->shape[0] == (int64_t)rows && tensor->shape[1] == (int64_t)columns)
        return true;
    log_error("adapter \"%s\": tensor \"%s\" has rank %zu and shape (%lld, %lld), the model needs (%zu, %zu)", reading->path,
              tensor->name, tensor->rank, (long long)(tensor->rank > 0 ? tensor->shape[0] : 1),
              (long long)(tensor->rank > 1 ? tensor->shape[1] : 1), rows, columns);
    return false;
}

static float *tensor_floats(const struct tensor *tensor)
{
    float *floats = memory_alloc(tensor_elements(tensor), sizeof *floats);
    tensor_read(tensor, 0, tensor_elements(tensor), floats);
    return floats;
}

void adapter_merge(float *w, const float *a, const float *b, double scale, size_t N, size_t K, size_t R)
{
    double *sum = memory_alloc(K, sizeof *sum);
    for (size_t n = 0; n < N; n++) {
        memset(sum, 0, K * sizeof *sum);
        for (size_t r = 0; r < R; r++)
            for (size_t k = 0; k < K; k++)
                sum[k] += (double)b[n * R + r] * (double)a[r * K + k];
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = (float)((double)w[n * K + k] + scale * sum[k]);
    }
    free(sum);
}

static void product_free(struct adapter_product *product)
{
    free(product->a);
    free(product->b);
}

/* What the file adds to a matrix, a NULL if it has nothing for it. */
static int product_read(const struct reading *reading, enum weight_role role, int64_t layer, struct adapter_product *product)
{
    struct adapter_module module;
    *product = (struct adapter_product){ 0 };
    if (!adapter_module(reading->config, role, layer, &module))
        return 0;
    const struct tensor *a = find(reading, module.name, ".lora_A.weight"), *b = find(reading, module.name, ".lora_B.weight");
    if (a == NULL && b == NULL)
        return 0;
    if (a == NULL || b == NULL)
        return refuse(reading, module.name, "has only one of lora_A and lora_B");
    const size_t R = a->rank > 0 && a->shape[0] > 0 ? (size_t)a->shape[0] : 1;
    if (!has_shape(reading, a, R, module.K) || !has_shape(reading, b, module.total, R))
        return -1;
    const double scale = module_alpha(reading, module.name) / (reading->rank_stabilised ? sqrt((double)R) : (double)R);
    *product = (struct adapter_product){ .a = tensor_floats(a), .scale = scale, .N = module.rows, .K = module.K, .R = R };
    product->b = memory_alloc(module.rows * R, sizeof *product->b);
    tensor_read(b, module.first * R, module.rows * R, product->b);
    return 0;
}

/* The base's matrix and what is added to it. */
static int merge_product(const struct reading *reading, enum weight_role role, int64_t layer, const struct adapter_product *product)
{
    struct tensor weight;
    const size_t N = product->N, K = product->K;
    if (!weights_role(reading->base, reading->config, role, layer, &weight) || tensor_elements(&weight) != N * K)
        return refuse(reading, weight_specs[role].name, "is no weight of the base model");
    float *merged = memory_alloc(N * K, sizeof *merged);
    tensor_read_canonical(&weight, (size_t)reading->config->head_size, merged);
    adapter_merge(merged, product->a, product->b, product->scale, N, K, product->R);
    merged_set(reading, role, layer, weight.name, merged);
    return 0;
}

/* A matrix of a layer, merged or not. */
static int matrix_read(const struct reading *reading, enum weight_role role, int64_t layer)
{
    struct adapter_product product;
    if (product_read(reading, role, layer, &product) != 0)
        return -1;
    if (reading->base == NULL) {
        reading->adapter->products[(size_t)layer * WEIGHT_ROLE_COUNT + (size_t)role] = product;
        return 0;
    }
    int result = product.a != NULL ? merge_product(reading, role, layer, &product) : 0;
    product_free(&product);
    return result;
}

/* An embedding or a head that was trained whole beside the adapters (PEFT's modules_to_save). */
static int replace_weight(const struct reading *reading, enum weight_role role)
{
    char name[WEIGHT_NAME_SIZE];
    file_name(reading->config, role, 0, name);
    const struct tensor *tensor = weight_present(reading->config, role) ? find(reading, name, "") : NULL;
    if (tensor == NULL)
        return 0;
    /* PEFT leaves the base's embedding in its place as LM head. */
    if (role == WEIGHT_EMBEDDING && reading->config->tied_embeddings && !weight_present(reading->config, WEIGHT_SCORE)
        && !json_is_true(json_object_get(reading->json, "ensure_weight_tying")))
        return refuse(reading, name, "replaces an embedding that is the LM head too, which is not supported");
    int64_t shape[2];
    weight_shape(reading->config, role, shape);
    if (!has_shape(reading, tensor, (size_t)shape[0], (size_t)shape[1]))
        return -1;
    merged_set(reading, role, 0, weight_specs[role].name, tensor_floats(tensor));
    return 0;
}

static int matrices_read(const struct reading *reading)
{
    static const enum weight_role whole[] = { WEIGHT_EMBEDDING, WEIGHT_LM_HEAD, WEIGHT_SCORE };
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        if (replace_weight(reading, whole[i]) != 0)
            return -1;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++)
        for (int64_t l = 0; weight_specs[role].per_layer && l < reading->config->layer_count; l++)
            if (matrix_read(reading, role, l) != 0)
                return -1;
    for (size_t i = 0; i < weights_count(reading->file); i++) {
        if (reading->used[i])
            continue;
        log_error("adapter \"%s\": tensor \"%s\" belongs to no weight of the base model that can be adapted", reading->path,
                  weights_at(reading->file, i)->name);
        return -1;
    }
    return 0;
}

/* ---- the value head beside an adapter ---- */

static int value_head_read(const struct reading *reading)
{
    if (!directory_has(reading->path, "value_head.safetensors"))
        return 0;
    char *path = memory_printf("%s/value_head.safetensors", reading->path);
    int code, result = 0;
    struct weights *file = weights_open(path, &code);
    for (enum weight_role role = WEIGHT_VALUE; role <= WEIGHT_VALUE_BIAS && file != NULL && result == 0; role++) {
        const struct tensor *tensor = weights_find(file, weight_specs[role].name);
        const size_t count = role == WEIGHT_VALUE ? (size_t)reading->config->channel_count : 1;
        if (tensor == NULL || tensor_elements(tensor) != count) {
            log_error("\"%s\": tensor \"%s\" must be there with %zu elements", path, weight_specs[role].name, count);
            result = -1;
        } else {
            merged_set(reading, role, 0, weight_specs[role].name, tensor_floats(tensor));
        }
    }
    weights_close(file);
    free(path);
    return file == NULL ? -1 : result;
}

/* ---- opening ---- */

static int adapter_read(struct reading *reading)
{
    int code = EX_DATAERR;
    reading->json = config_read(reading->path);
    if (reading->json == NULL || config_check(reading) != 0)
        return code;
    if (reading->base != NULL && weights_check(reading->base, reading->config) != 0)
        return code;
    char *path = memory_printf("%s/adapter_model.safetensors", reading->path);
    reading->file = weights_open(path, &code);
    free(path);
    if (reading->file == NULL)
        return code;
    reading->used = memory_alloc(weights_count(reading->file), sizeof *reading->used);
    return matrices_read(reading) == 0 && value_head_read(reading) == 0 ? EX_OK : EX_DATAERR;
}

static struct adapter *adapter_load(const char *path, const struct weights *base, const struct model_config *config, int *code)
{
    struct adapter *adapter = memory_alloc(1, sizeof *adapter);
    adapter->layer_count = (size_t)config->layer_count;
    adapter->merged = memory_alloc(adapter->layer_count * WEIGHT_ROLE_COUNT, sizeof *adapter->merged);
    if (base == NULL)
        adapter->products = memory_alloc(adapter->layer_count * WEIGHT_ROLE_COUNT, sizeof *adapter->products);
    struct reading reading = { .adapter = adapter, .path = path, .config = config, .base = base };
    *code = adapter_read(&reading);
    json_decref(reading.json);
    weights_close(reading.file);
    free(reading.used);
    if (*code == EX_OK)
        return adapter;
    adapter_close(adapter);
    return NULL;
}

struct adapter *adapter_open(const char *path, const struct weights *base, const struct model_config *config, int *code)
{
    CHECK(base != NULL);
    return adapter_load(path, base, config, code);
}

struct adapter *adapter_open_unmerged(const char *path, const struct model_config *config, int *code)
{
    return adapter_load(path, NULL, config, code);
}

void adapter_close(struct adapter *adapter)
{
    if (adapter == NULL)
        return;
    for (size_t i = 0; i < adapter->layer_count * WEIGHT_ROLE_COUNT; i++) {
        free((void *)adapter->merged[i].data);
        if (adapter->products != NULL)
            product_free(&adapter->products[i]);
    }
    free(adapter->merged);
    free(adapter->products);
    free(adapter);
}

bool adapter_role(const struct adapter *adapter, enum weight_role role, int64_t layer, struct tensor *tensor)
{
    *tensor = *merged_at(adapter, role, layer);
    return tensor->data != NULL;
}

const struct adapter_product *adapter_product(const struct adapter *adapter, enum weight_role role, int64_t layer)
{
    const struct adapter_product *product = &adapter->products[(size_t)layer * WEIGHT_ROLE_COUNT + (size_t)role];
    return product->a != NULL ? product : NULL;
}
