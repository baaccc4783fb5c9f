/*
 * trainer_save.c - the trainer's state as a safetensors file, and back.  See trainer.h.
 *
 *     tensors    weights by canonical names, adapters merged into them; or, with the optimiser, all that resuming needs:
 *                what is trained, its moments as adam.m.NAME and adam.v.NAME, and, without LoRA, what is frozen
 *     metadata   config, tokenizer, step, cursor where there is one; with the optimiser of LoRA also lora and base,
 *                the key of the weights that are adapted
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "learn/trainer_parts.h"
#include "model/adapter.h"
#include "model/weights.h"

enum { MOMENT_NAME_SIZE = PARAMETER_NAME_SIZE + 16 };
static const char moment_prefix[2][8] = { "adam.m.", "adam.v." };

/* Into name. */
static const char *moment_name(size_t moment, const struct parameter *parameter, char name[MOMENT_NAME_SIZE])
{
    snprintf(name, MOMENT_NAME_SIZE, "%s%s", moment_prefix[moment], parameter->name);
    return name;
}

static char *config_text(const struct model_config *config)
{
    json_t *json = config_to_json(config);
    char *text = json_text(json);
    json_decref(json);
    return text;
}

/* ---- out ---- */

static struct tensor_out tensor_out_of(const struct parameter *parameter, const char *name, const float *data)
{
    struct tensor_out tensor = { .name = name, .rank = parameter->rank, .data = data };
    memcpy(tensor.shape, parameter->shape, sizeof parameter->shape);
    return tensor;
}

static void state_write(const struct trainer *trainer, const struct tensor_out *tensors, size_t count, bool with_optimiser,
                        const char *cursor, struct buffer *out)
{
    const struct lora_options *lora = &trainer->options.lora;
    char *config = config_text(&trainer->network.parameters.config), *adapters = lora_text(lora);
    char step[32];
    snprintf(step, sizeof step, "%lld", (long long)trainer->steps);
    const char *metadata[6][2] = { { "config", config }, { "tokenizer", trainer->tokenizer_key }, { "step", step } };
    size_t entries = 3;
    if (cursor != NULL)
        metadata[entries][0] = "cursor", metadata[entries++][1] = cursor;
    if (lora->rank > 0 && with_optimiser) {
        metadata[entries][0] = "lora", metadata[entries++][1] = adapters;
        metadata[entries][0] = "base", metadata[entries++][1] = lora->base_key;
    }
    safetensors_write(out, tensors, count, (const char *const (*)[2])metadata, entries);
    free(config);
    free(adapters);
}

/* Full weights: those that are rounded or have adapters are made in memory of their own. */
static void weights_save(const struct trainer *trainer, const char *cursor, struct buffer *out)
{
    const struct parameters *parameters = &trainer->network.parameters;
    struct tensor_out *tensors = memory_alloc(parameters->table_count, sizeof *tensors);
    float **merged = memory_alloc(parameters->table_count, sizeof *merged);
    size_t count = 0;
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        if (parameter->part != PART_WEIGHT)
            continue;
        const float *data = parameters->floats + parameter->first;
        if (parameter->type != TENSOR_F32 || parameter_at(parameters, parameter->role, PART_A, parameter->layer) != NULL) {
            merged[i] = memory_alloc(parameter->count, sizeof **merged);
            parameter_merged(parameters, parameter, merged[i]);
            data = merged[i];
        }
        tensors[count++] = tensor_out_of(parameter, parameter->name, data);
    }
    state_write(trainer, tensors, count, false, cursor, out);
    for (size_t i = 0; i < parameters->table_count; i++)
        free(merged[i]);
    free(merged);
    free(tensors);
}

/* Whether resuming needs the parameter from the checkpoint: frozen weights under adapters are the base's. */
static bool is_kept(const struct parameters *parameters, const struct parameter *parameter)
{
    return parameter->trained || parameters->lora.rank == 0;
}

static void full_save(const struct trainer *trainer, const char *cursor, struct buffer *out)
{
    const struct parameters *parameters = &trainer->network.parameters;
    const float *moments[2] = { trainer->adamw.m, trainer->adamw.v };
    struct tensor_out *tensors = memory_alloc(3 * parameters->table_count, sizeof *tensors);
    char (*names)[MOMENT_NAME_SIZE] = memory_alloc(2 * parameters->table_count, sizeof *names);
    size_t count = 0, named = 0;
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        if (is_kept(parameters, parameter))
            tensors[count++] = tensor_out_of(parameter, parameter->name, parameters->floats + parameter->first);
    }
    for (size_t moment = 0; moment < 2; moment++) {
        for (size_t i = 0; i < parameters->table_count && parameters->table[i].trained; i++) {
            const struct parameter *parameter = &parameters->table[i];
            tensors[count++] = tensor_out_of(parameter, moment_name(moment, parameter, names[named++]),
                                             moments[moment] + parameter->first);
        }
    }
    state_write(trainer, tensors, count, true, cursor, out);
    free(names);
    free(tensors);
}

void trainer_save(const struct trainer *trainer, bool with_optimiser, const char *cursor, struct buffer *out)
{
    if (with_optimiser)
        full_save(trainer, cursor, out);
    else
        weights_save(trainer, cursor, out);
}

int trainer_export_adapter(const struct trainer *trainer, const char *base, const char *directory)
{
    const struct parameters *parameters = &trainer->network.parameters;
    struct adapter_part *parts = memory_alloc(parameters->table_count, sizeof *parts);
    struct adapter_out adapter = {
        .parts = parts, .rank = (size_t)parameters->lora.rank, .alpha = parameters->lora.alpha, .base = base,
        .config = &parameters->config,
    };
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        if (parameter->part == PART_A)
            parts[adapter.part_count++] = (struct adapter_part){
                .role = parameter->role, .layer = parameter->layer, .a = parameters->floats + parameter->first,
                .b = parameter_at(parameters, parameter->role, PART_B, parameter->layer),
            };
    }
    if (parameters->objective == OBJECTIVE_VALUE) {
        adapter.value_weight = parameter_at(parameters, WEIGHT_VALUE, PART_WEIGHT, 0);
        adapter.value_bias = parameter_at(parameters, WEIGHT_VALUE_BIAS, PART_WEIGHT, 0);
    }
    int result = adapter_export(&adapter, directory);
    free(parts);
    return result;
}

/* ---- in ---- */

/* The tensor if it is there in the parameter's shape; otherwise NULL, logged. */
static const struct tensor *tensor_for(const struct weights *checkpoint, const struct parameter *parameter, const char *tensor_name,
                                       const char *name)
{
    const struct tensor *tensor = weights_find(checkpoint, tensor_name);
    if (tensor == NULL) {
        log_error("checkpoint \"%s\" has no tensor \"%s\"", name, tensor_name);
        return NULL;
    }
    if (tensor->rank == parameter->rank && memcmp(tensor->shape, parameter->shape, tensor->rank * sizeof *tensor->shape) == 0)
        return tensor;
    log_error("checkpoint \"%s\": tensor \"%s\" has rank %zu and shape (%lld, %lld), the model needs rank %zu and (%lld, %lld)",
              name, tensor_name, tensor->rank, (long long)(tensor->rank > 0 ? tensor->shape[0] : 1),
              (long long)(tensor->rank > 1 ? tensor->shape[1] : 1), parameter->rank, (long long)parameter->shape[0],
              (long long)(parameter->rank > 1 ? parameter->shape[1] : 1));
    return NULL;
}

/* Whether what the checkpoint adapts, and how, is what this trainer does; logged if not. */
static bool same_lora(const struct trainer *trainer, const struct weights *checkpoint, const char *name)
{
    const struct lora_options *lora = &trainer->options.lora;
    const char *text = weights_metadata(checkpoint, "lora"), *base = weights_metadata(checkpoint, "base");
    char *expected = lora_text(lora);
    bool same = strcmp(text != NULL ? text : "none", expected) == 0;
    if (!same)
        log_error("checkpoint \"%s\" was trained with lora \"%s\", this training has \"%s\"", name, text != NULL ? text : "none",
                  expected);
    free(expected);
    if (same && lora->rank > 0 && (base == NULL || strcmp(base, lora->base_key) != 0)) {
        log_error("checkpoint \"%s\" adapts the model with key \"%.40s\", this one has \"%s\"", name, base != NULL ? base : "",
                  lora->base_key);
        return false;
    }
    return same;
}

/* The updates that the checkpoint has seen, or -1 if it is not one of this model, logged. */
static int64_t checkpoint_steps(const struct trainer *trainer, const struct weights *checkpoint, const char *name)
{
    const char *config = weights_metadata(checkpoint, "config"), *step = weights_metadata(checkpoint, "step");
    if (config == NULL || step == NULL) {
        log_error("\"%s\" is not a checkpoint: its metadata has no \"%s\"", name, config == NULL ? "config" : "step");
        return -1;
    }
    char *expected = config_text(&trainer->network.parameters.config);
    bool same = strcmp(config, expected) == 0;
    free(expected);
    if (!same) {
        log_error("checkpoint \"%s\" is of a model with another config", name);
        return -1;
    }
    char *end;
    errno = 0;
    long long steps = strtoll(step, &end, 10);
    if (end == step || *end != '\0' || errno != 0 || steps < 0) {
        log_error("checkpoint \"%s\": step is \"%.40s\", it must be a count", name, step);
        return -1;
    }
    return same_lora(trainer, checkpoint, name) ? steps : -1;
}

static int checkpoint_check(const struct trainer *trainer, const struct weights *checkpoint, const char *name)
{
    const struct parameters *parameters = &trainer->network.parameters;
    char moment_of[MOMENT_NAME_SIZE];
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        if (is_kept(parameters, parameter) && tensor_for(checkpoint, parameter, parameter->name, name) == NULL)
            return -1;
        for (size_t moment = 0; moment < 2 && parameter->trained; moment++)
            if (tensor_for(checkpoint, parameter, moment_name(moment, parameter, moment_of), name) == NULL)
                return -1;
    }
    return 0;
}

int trainer_load(struct trainer *trainer, const struct weights *checkpoint, const char *name)
{
    struct parameters *parameters = &trainer->network.parameters;
    const int64_t steps = checkpoint_steps(trainer, checkpoint, name);
    if (steps < 0 || checkpoint_check(trainer, checkpoint, name) != 0)
        return -1;
    float *moments[2] = { trainer->adamw.m, trainer->adamw.v };
    char moment_of[MOMENT_NAME_SIZE];
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        if (is_kept(parameters, parameter))
            tensor_read(weights_find(checkpoint, parameter->name), 0, parameter->count, parameters->floats + parameter->first);
        for (size_t moment = 0; moment < 2 && parameter->trained; moment++)
            tensor_read(weights_find(checkpoint, moment_name(moment, parameter, moment_of)), 0, parameter->count,
                        moments[moment] + parameter->first);
    }
    adamw_moments_changed(&trainer->adamw);
    trainer->steps = steps;
    return 0;
}
