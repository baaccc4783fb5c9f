/* parameters.c - see parameters.h. */
#include "learn/parameters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/philox.h"
#include "math/quant.h"
#include "model/adapter.h"

/* ---- layout ---- */

static size_t first_index(enum weight_role role, int64_t layer)
{
    return (size_t)layer * WEIGHT_ROLE_COUNT + (size_t)role;
}

static void parameter_add(struct parameters *parameters, enum weight_role role, enum parameter_part part, int64_t layer,
                          bool trained)
{
    struct parameter *parameter = &parameters->table[parameters->table_count++];
    *parameter = (struct parameter){
        .role = role, .part = part, .layer = layer, .first = parameters->count, .count = 1, .trained = trained,
    };
    parameter->rank = weight_shape(&parameters->config, role, parameter->shape);
    char name[WEIGHT_NAME_SIZE];
    weight_name(role, layer, name);
    if (part == PART_WEIGHT) {
        snprintf(parameter->name, sizeof parameter->name, "%s", name);
    } else {
        const size_t module = strlen(name) - strlen(".weight");
        snprintf(parameter->name, sizeof parameter->name, "%.*s.lora_%c.weight", (int)module, name, part == PART_A ? 'A' : 'B');
        parameter->shape[part == PART_A ? 0 : 1] = parameters->lora.rank;
    }
    for (size_t i = 0; i < parameter->rank; i++)
        parameter->count *= (size_t)parameter->shape[i];
    if (!trained && part == PART_WEIGHT && parameter->rank == 2 && weight_specs[role].per_layer
        && parameters->lora.base_type != TENSOR_F32) {
        parameter->type = parameters->lora.base_type;
        parameter->first = parameters->rounded_bytes;
        parameters->rounded_bytes += (size_t)parameter->shape[0] * tensor_row_bytes(parameter->type, (size_t)parameter->shape[1]);
        parameters->rounded_at[first_index(role, layer)] = parameter;
        return;
    }
    parameters->first[part][first_index(role, layer)] = parameter->first;
    parameters->count += parameter->count;
}

static bool weight_trained(const struct parameters *parameters, enum weight_role role)
{
    switch (role) {
    case WEIGHT_VALUE: case WEIGHT_VALUE_BIAS:
        return true;
    case WEIGHT_SCORE:
        return false;
    case WEIGHT_LM_HEAD:
        return parameters->objective == OBJECTIVE_LM && parameters->lora.rank == 0;
    default:
        return parameters->lora.rank == 0;
    }
}

static bool weight_used(const struct parameters *parameters, enum weight_role role)
{
    if (role == WEIGHT_VALUE || role == WEIGHT_VALUE_BIAS)
        return parameters->objective == OBJECTIVE_VALUE;
    return weight_present(&parameters->config, role);
}

/* A weight and its low-rank parts, so far as they are trained or frozen. */
static void weight_add(struct parameters *parameters, enum weight_role role, int64_t layer, bool trained)
{
    if (!weight_used(parameters, role))
        return;
    if (weight_trained(parameters, role) == trained)
        parameter_add(parameters, role, PART_WEIGHT, layer, trained);
    if (trained && parameters->lora.rank > 0 && (parameters->lora.targets >> role & 1) != 0) {
        parameter_add(parameters, role, PART_A, layer, true);
        parameter_add(parameters, role, PART_B, layer, true);
    }
}

static void lay_out(struct parameters *parameters, bool trained)
{
    enum weight_role role = 0;
    for (; !weight_specs[role].per_layer; role++)
        weight_add(parameters, role, 0, trained);
    const enum weight_role first = role;
    for (int64_t l = 0; l < parameters->config.layer_count; l++)
        for (role = first; weight_specs[role].per_layer; role++)
            weight_add(parameters, role, l, trained);
    for (; role < WEIGHT_ROLE_COUNT; role++)
        weight_add(parameters, role, 0, trained);
}

void parameters_init(struct parameters *parameters, const struct model_config *config, enum objective objective,
                     const struct lora_options *lora)
{
    const size_t weights = (size_t)config->layer_count * WEIGHT_ROLE_COUNT;
    *parameters = (struct parameters){ .config = *config, .objective = objective, .lora = *lora };
    parameters->table = memory_alloc(PART_COUNT * (weights + WEIGHT_ROLE_COUNT), sizeof *parameters->table);
    for (size_t part = 0; part < PART_COUNT; part++) {
        parameters->first[part] = memory_alloc(weights, sizeof *parameters->first[part]);
        memset(parameters->first[part], 0xff, weights * sizeof *parameters->first[part]);
    }
    parameters->rounded_at = memory_alloc(weights, sizeof *parameters->rounded_at);
    lay_out(parameters, true);
    parameters->trained_count = parameters->count;
    lay_out(parameters, false);
}

void parameters_alloc(struct parameters *parameters)
{
    parameters->floats = memory_alloc_aligned(parameters->count, sizeof(float));
    parameters->gradients = memory_alloc_aligned(parameters->trained_count, sizeof(float));
    if (parameters->rounded_bytes > 0)
        parameters->rounded = memory_alloc_aligned(parameters->rounded_bytes, 1);
}

void parameters_free(struct parameters *parameters)
{
    for (size_t part = 0; part < PART_COUNT; part++)
        free(parameters->first[part]);
    free(parameters->rounded_at);
    free(parameters->rounded);
    free(parameters->table);
    free(parameters->floats);
    free(parameters->gradients);
}

float *parameter_at(const struct parameters *parameters, enum weight_role role, enum parameter_part part, int64_t layer)
{
    const size_t first = parameters->first[part][first_index(role, layer)];
    return first != SIZE_MAX ? parameters->floats + first : NULL;
}

float *gradient_at(const struct parameters *parameters, enum weight_role role, enum parameter_part part, int64_t layer)
{
    const size_t first = parameters->first[part][first_index(role, layer)];
    return first < parameters->trained_count ? parameters->gradients + first : NULL;
}

/* ---- rounded matrices ---- */

const struct parameter *rounded_find(const struct parameters *parameters, enum weight_role role, int64_t layer)
{
    return parameters->rounded_at[first_index(role, layer)];
}

void rounded_set(const struct parameters *parameters, const struct parameter *parameter, size_t n, size_t count, const float *x)
{
    const size_t K = (size_t)parameter->shape[1], row_bytes = tensor_row_bytes(parameter->type, K);
    for (size_t i = 0; i < count; i++)
        quant_row(parameter->type, parameters->rounded + parameter->first + (n + i) * row_bytes, x + i * K, K);
}

void rounded_get(const struct parameters *parameters, const struct parameter *parameter, size_t n, size_t count, float *x)
{
    const size_t K = (size_t)parameter->shape[1], row_bytes = tensor_row_bytes(parameter->type, K);
    for (size_t i = 0; i < count; i++)
        quant_row_read(parameter->type, x + i * K, parameters->rounded + parameter->first + (n + i) * row_bytes, K);
}

size_t parameters_layer_first(const struct parameters *parameters, int64_t layer)
{
    size_t i = 0;
    while (i < parameters->table_count && parameters->table[i].trained
           && (!weight_specs[parameters->table[i].role].per_layer || parameters->table[i].layer < layer))
        i++;
    return i < parameters->table_count && parameters->table[i].trained ? parameters->table[i].first : parameters->trained_count;
}

/* ---- first numbers ---- */

/* i is the parameter's place in the table. */
static void randomise_lora(struct parameters *parameters, uint64_t seed, size_t i)
{
    const struct parameter *parameter = &parameters->table[i];
    if (parameter->part != PART_A)
        return;  // B is zero: training begins at W
    float *to = parameters->floats + parameter->first;
    const double bound = 1.0 / sqrt((double)parameter->shape[1]);  // torch's kaiming_uniform_ with a = sqrt(5)
    for (size_t k = 0; k < parameter->count; k++)
        to[k] = (float)(bound * (2.0 * philox_uniform(seed, PHILOX_INIT, i, (uint32_t)(k >> 32), (uint32_t)k) - 1.0));
}

void parameters_randomise_lora(struct parameters *parameters, uint64_t seed)
{
    for (size_t i = 0; i < parameters->table_count; i++)
        randomise_lora(parameters, seed, i);
}

static void randomise_weight(struct parameters *parameters, uint64_t seed, size_t i)
{
    const struct parameter *parameter = &parameters->table[i];
    const double deviation = 0.02, residual = deviation / sqrt(2.0 * (double)parameters->config.layer_count);
    const double scale = parameter->role == WEIGHT_O || parameter->role == WEIGHT_DOWN ? residual : deviation;
    float *to = parameters->floats + parameter->first;
    for (size_t k = 0; k < parameter->count; k++)
        to[k] = (float)(scale * philox_normal(seed, PHILOX_INIT, i, (uint32_t)(k >> 32), (uint32_t)k));
}

/* Whether a norm's weight, which is a vector but no bias. */
static bool is_norm(enum weight_role role)
{
    switch (role) {
    case WEIGHT_ATTN_NORM: case WEIGHT_Q_NORM: case WEIGHT_K_NORM: case WEIGHT_ATTN_POST_NORM: case WEIGHT_FF_NORM:
    case WEIGHT_FF_POST_NORM: case WEIGHT_FINAL_NORM:
        return true;
    default:
        return false;
    }
}

void parameters_randomise(struct parameters *parameters, uint64_t seed)
{
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        float *to = parameters->floats + parameter->first;
        if (parameter->part != PART_WEIGHT) {
            randomise_lora(parameters, seed, i);
        } else if (is_norm(parameter->role)) {
            for (size_t k = 0; k < parameter->count; k++)
                to[k] = 1.0f;
        } else if (parameter->rank == 1 || parameter->role == WEIGHT_VALUE) {
            memset(to, 0, parameter->count * sizeof *to);
        } else {
            randomise_weight(parameters, seed, i);
        }
    }
}

size_t parameters_elements(const struct parameters *parameters)
{
    size_t elements = 0;
    for (size_t i = 0; i < parameters->table_count; i++)
        elements += parameters->table[i].count;
    return elements;
}

void parameter_merged(const struct parameters *parameters, const struct parameter *parameter, float *out)
{
    if (parameter->type != TENSOR_F32)
        rounded_get(parameters, parameter, 0, (size_t)parameter->shape[0], out);
    else
        memcpy(out, parameters->floats + parameter->first, parameter->count * sizeof *out);
    const float *a = parameter_at(parameters, parameter->role, PART_A, parameter->layer);
    const float *b = parameter_at(parameters, parameter->role, PART_B, parameter->layer);
    if (parameter->part != PART_WEIGHT || a == NULL)
        return;
    const size_t R = (size_t)parameters->lora.rank, N = (size_t)parameter->shape[0], K = (size_t)parameter->shape[1];
    adapter_merge(out, a, b, parameters->lora.alpha / (double)R, N, K, R);
}
