/* adapter_export.c - writing adapters; see adapter.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/adapter.h"
#include "model/family.h"
#include "model/weights.h"

/* The adapter of one module: of all its parts together. */
struct module_adapter {
    struct adapter_module module;
    size_t R;                     // rank of all parts
    char *a_name, *b_name;        // in PEFT
    float *a, *b;                 // (R, K), (outputs of the module, R)
};

/* ---- names of modules in adapter_config.json ---- */

static const char *last_dot(const char *name, const char *before)
{
    while (before > name && *--before != '.')
        ;
    return before;
}

/* "q_proj", or "attn.c_proj" where another module of the layer ends alike. */
static const char *short_name(const struct model_config *config, const struct adapter_module *module)
{
    const char *dot = last_dot(module->name, module->name + strlen(module->name));
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        struct adapter_module other;
        if (!weight_specs[role].per_layer || !adapter_module(config, role, 0, &other))
            continue;
        const char *other_dot = last_dot(other.name, other.name + strlen(other.name));
        if (strcmp(other_dot, dot) == 0 && strcmp(last_dot(other.name, other_dot), last_dot(module->name, dot)) != 0)
            return last_dot(module->name, dot) + 1;
    }
    return dot + 1;
}

static void array_add_once(json_t *array, const char *text)
{
    size_t i;
    json_t *item;
    json_array_foreach(array, i, item)
        if (strcmp(json_string_value(item), text) == 0)
            return;
    json_array_append_new(array, json_string(text));
}

static json_t *json_amount(double x)
{
    return x == floor(x) && fabs(x) < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *config_json(const struct adapter_out *adapter, const struct module_adapter *modules, size_t count)
{
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    bool transposed = false;
    for (size_t i = 0; i < count; i++) {
        const char *name = short_name(adapter->config, &modules[i].module);
        array_add_once(targets, name);
        if (modules[i].R == adapter->rank)
            continue;
        json_object_set_new(ranks, name, json_integer((json_int_t)modules[i].R));
        json_object_set_new(alphas, name, json_amount(adapter->alpha * (double)(modules[i].R / adapter->rank)));
    }
    for (size_t i = 0; i < adapter->part_count; i++)
        transposed |= family_weight(adapter->config->family, adapter->parts[i].role)->layout == LAYOUT_TRANSPOSED;
    char *absolute = realpath(adapter->base, NULL);
    json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:b, s:s, s:f, s:b}", "peft_type", "LORA",
                             "task_type", "CAUSAL_LM", "base_model_name_or_path", absolute != NULL ? absolute : adapter->base,
                             "r", (json_int_t)adapter->rank, "lora_alpha", json_amount(adapter->alpha), "target_modules", targets,
                             "rank_pattern", ranks, "alpha_pattern", alphas, "fan_in_fan_out", transposed, "bias", "none",
                             "lora_dropout", 0.0, "inference_mode", 1);
    CHECK(json != NULL);
    free(absolute);
    return json;
}

/* ---- parts to modules ---- */

static size_t parts_of_module(const struct adapter_out *adapter, const char *name, int64_t layer)
{
    size_t count = 0;
    for (size_t i = 0; i < adapter->part_count; i++) {
        struct adapter_module module;
        if (adapter->parts[i].layer != layer)
            continue;
        CHECK(adapter_module(adapter->config, adapter->parts[i].role, adapter->parts[i].layer, &module));
        count += strcmp(module.name, name) == 0;
    }
    return count;
}

/* Part number index of the module: its rows of A, and its block of B. */
static void module_place(struct module_adapter *to, const struct adapter_module *module, const struct adapter_part *part,
                         size_t rank, size_t index)
{
    memcpy(to->a + index * rank * module->K, part->a, rank * module->K * sizeof *to->a);
    for (size_t n = 0; n < module->rows; n++)
        memcpy(to->b + (module->first + n) * to->R + index * rank, part->b + n * rank, rank * sizeof *to->b);
}

/* Modules that the parts make up, in their order; returns how many.  modules: (part_count) out. */
static size_t modules_from_parts(struct module_adapter *modules, const struct adapter_out *adapter)
{
    size_t count = 0, index = 0;
    for (size_t i = 0; i < adapter->part_count; i++) {
        const struct adapter_part *part = &adapter->parts[i];
        struct adapter_module module;
        CHECK(adapter_module(adapter->config, part->role, part->layer, &module));
        if (count == 0 || strcmp(modules[count - 1].module.name, module.name) != 0) {
            struct module_adapter *fresh = &modules[count++];
            size_t R = adapter->rank * parts_of_module(adapter, module.name, part->layer);
            *fresh = (struct module_adapter){ .module = module, .R = R };
            fresh->a_name = memory_printf("base_model.model.%s.lora_A.weight", module.name);
            fresh->b_name = memory_printf("base_model.model.%s.lora_B.weight", module.name);
            fresh->a = memory_alloc(fresh->R * module.K, sizeof *fresh->a);
            fresh->b = memory_alloc(module.total * fresh->R, sizeof *fresh->b);
            index = 0;
        }
        module_place(&modules[count - 1], &module, part, adapter->rank, index++);
    }
    return count;
}

/* ---- files ---- */

static int tensors_write(const struct tensor_out *tensors, size_t count, const char *directory, const char *file)
{
    struct buffer content = { 0 };
    safetensors_write(&content, tensors, count, (const char *const[][2]){ { "format", "pt" } }, 1);
    char *path = memory_printf("%s/%s", directory, file);
    int result = file_write(path, content.data, content.size);
    free(path);
    free(content.data);
    return result;
}

static int modules_write(const struct module_adapter *modules, size_t count, const char *directory)
{
    struct tensor_out *tensors = memory_alloc(2 * count, sizeof *tensors);
    for (size_t i = 0; i < count; i++) {
        const struct module_adapter *from = &modules[i];
        tensors[2 * i] = (struct tensor_out){ from->a_name, 2, { (int64_t)from->R, (int64_t)from->module.K }, from->a };
        tensors[2 * i + 1] = (struct tensor_out){ from->b_name, 2, { (int64_t)from->module.total, (int64_t)from->R }, from->b };
    }
    int result = tensors_write(tensors, 2 * count, directory, "adapter_model.safetensors");
    free(tensors);
    return result;
}

static int value_head_write(const struct adapter_out *adapter, const char *directory)
{
    if (adapter->value_weight == NULL)
        return 0;
    const struct tensor_out tensors[] = {
        { weight_specs[WEIGHT_VALUE].name, 2, { 1, adapter->config->channel_count }, adapter->value_weight },
        { weight_specs[WEIGHT_VALUE_BIAS].name, 1, { 1 }, adapter->value_bias },
    };
    return tensors_write(tensors, COUNT_OF(tensors), directory, "value_head.safetensors");
}

static int config_write(const struct adapter_out *adapter, const struct module_adapter *modules, size_t count,
                        const char *directory)
{
    json_t *json = config_json(adapter, modules, count);
    char *text = json_text(json), *path = memory_printf("%s/adapter_config.json", directory);
    int result = file_write(path, text, strlen(text));
    free(path);
    free(text);
    json_decref(json);
    return result;
}

int adapter_export(const struct adapter_out *adapter, const char *directory)
{
    struct module_adapter *modules = memory_alloc(adapter->part_count, sizeof *modules);
    const size_t count = modules_from_parts(modules, adapter);
    int result = directory_make(directory) == 0 && modules_write(modules, count, directory) == 0
                 && value_head_write(adapter, directory) == 0 && config_write(adapter, modules, count, directory) == 0 ? 0 : -1;
    for (size_t i = 0; i < count; i++) {
        free(modules[i].a_name);
        free(modules[i].b_name);
        free(modules[i].a);
        free(modules[i].b);
    }
    free(modules);
    return result;
}
