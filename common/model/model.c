/* model.c - loading a model into packed panels, its heads, and text appended in chunks; see model.h. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/progress.h"
#include "model/network.h"
#include "model/weights.h"

/* ---- packing ---- */

struct loader {
    const struct weights *weights;
    const struct model_config *config;
    struct pool *pool;
};

/* Up to 3 matrices with equal K, stacked into one. */
struct stack {
    const struct tensor *tensors[3];
    size_t count, head_size;
    struct packed *packed;
};

/* NULL only for weights that this model may lack: weights_check has found the others. */
static const struct tensor *loader_find(const struct loader *loader, enum weight_role role, size_t l)
{
    char name[WEIGHT_NAME_SIZE];
    weight_name(role, (int64_t)l, name);
    return weights_find(loader->weights, name);
}

/* Where output n of a matrix lies in its file: rotary pairs (c, c + HS / 2) of a head are neighbours there when interleaved. */
static size_t storage_row(const struct tensor *tensor, size_t n, size_t HS)
{
    if (!tensor->rows_interleaved)
        return n;
    size_t c = n % HS;
    return n - c + (c < HS / 2 ? 2 * c : 2 * (c - HS / 2) + 1);
}

static void stack_panel(void *context, size_t panel, size_t thread)
{
    (void)thread;
    const struct stack *stack = context;
    struct packed *packed = stack->packed;
    bool convert = packed->type == PACKED_F32;
    float *converted = convert ? memory_alloc(PANEL * packed->K, sizeof *converted) : NULL;
    const void *rows[PANEL] = { NULL };
    for (size_t i = 0; i < PANEL && panel * PANEL + i < packed->N; i++) {
        size_t n = panel * PANEL + i, t = 0;
        while (n >= (size_t)stack->tensors[t]->shape[0])
            n -= (size_t)stack->tensors[t++]->shape[0];
        const struct tensor *tensor = stack->tensors[t];
        size_t row = storage_row(tensor, n, stack->head_size);
        if (convert) {
            tensor_read(tensor, row * packed->K, packed->K, converted + i * packed->K);
            rows[i] = converted + i * packed->K;
        } else {
            rows[i] = (const char *)tensor->data + row * packed->K * sizeof(uint16_t);
        }
    }
    packed_set_panel(packed, panel, rows);
    free(converted);
}

/* Keeps the type of the file where the stacked matrices have one type, else float32. */
static void loader_pack(const struct loader *loader, struct packed *packed, size_t l, const enum weight_role *roles, size_t count)
{
    static const enum packed_type types[] = { [TENSOR_F32] = PACKED_F32, [TENSOR_F16] = PACKED_F16, [TENSOR_BF16] = PACKED_BF16 };
    struct stack stack = { .count = count, .head_size = (size_t)loader->config->head_size, .packed = packed };
    enum packed_type type = PACKED_F32;
    size_t N = 0, K = 0;
    for (size_t i = 0; i < count; i++) {
        const struct tensor *tensor = stack.tensors[i] = loader_find(loader, roles[i], l);
        type = i == 0 || types[tensor->type] == type ? types[tensor->type] : PACKED_F32;
        N += (size_t)tensor->shape[0];
        K = (size_t)tensor->shape[1];
    }
    packed_init(packed, type, N, K);
    pool_run(loader->pool, packed_panels(packed), stack_panel, &stack);
}

static float *loader_vector(const struct loader *loader, enum weight_role role, size_t l)
{
    const struct tensor *tensor = loader_find(loader, role, l);
    size_t count = tensor_elements(tensor);
    float *vector = memory_alloc_aligned(count, sizeof *vector);
    tensor_read(tensor, 0, count, vector);
    return vector;
}

static void loader_layer(const struct loader *loader, struct layer *layer, size_t l)
{
    layer->attn_norm = loader_vector(loader, WEIGHT_ATTN_NORM, l);
    layer->ff_norm = loader_vector(loader, WEIGHT_FF_NORM, l);
    loader_pack(loader, &layer->qkv, l, (enum weight_role[]){ WEIGHT_Q, WEIGHT_K, WEIGHT_V }, 3);
    loader_pack(loader, &layer->o, l, (enum weight_role[]){ WEIGHT_O }, 1);
    loader_pack(loader, &layer->gate, l, (enum weight_role[]){ WEIGHT_GATE }, 1);
    loader_pack(loader, &layer->up, l, (enum weight_role[]){ WEIGHT_UP }, 1);
    loader_pack(loader, &layer->down, l, (enum weight_role[]){ WEIGHT_DOWN }, 1);
}

struct model *model_from_weights(const struct weights *weights, const struct model_config *config, const char *name,
                                 struct pool *pool, int *code)
{
    double start_s = clock_s();
    *code = weights_check(weights, config) == 0 ? EX_OK : EX_DATAERR;
    if (*code != EX_OK)
        return NULL;
    struct loader loader = { weights, config, pool };
    struct model *model = memory_alloc(1, sizeof *model);
    model->config = *config;
    model->kernels = kernels_get();
    model->pool = pool;
    weights_key(weights, config, model->key);
    loader_pack(&loader, &model->embedding, 0, (enum weight_role[]){ WEIGHT_EMBEDDING }, 1);
    if (!config->tied_embeddings)
        loader_pack(&loader, &model->lm_head, 0, (enum weight_role[]){ WEIGHT_LM_HEAD }, 1);
    model->layers = memory_alloc((size_t)config->layer_count, sizeof *model->layers);
    for (size_t l = 0; l < (size_t)config->layer_count; l++)
        loader_layer(&loader, &model->layers[l], l);
    model->final_norm = loader_vector(&loader, WEIGHT_FINAL_NORM, 0);
    if (loader_find(&loader, WEIGHT_VALUE, 0) != NULL) {
        model->value_weight = loader_vector(&loader, WEIGHT_VALUE, 0);
        const struct tensor *bias = loader_find(&loader, WEIGHT_VALUE_BIAS, 0);
        if (bias != NULL)
            tensor_read(bias, 0, 1, &model->value_bias);
    }
    log_debug("loaded model \"%s\" key=%s parameters=%lld kernels=%s threads=%zu seconds=%.2f", name, model->key,
              (long long)config_parameter_count(config), model->kernels->name, pool_threads(pool), clock_s() - start_s);
    return model;
}

struct model *model_open(const char *path, struct pool *pool, int *code)
{
    struct model_config config;
    *code = config_open(&config, path);
    if (*code != EX_OK)
        return NULL;
    struct weights *weights = weights_open(path, code);
    if (weights == NULL)
        return NULL;
    struct model *model = model_from_weights(weights, &config, path, pool, code);
    weights_close(weights);
    return model;
}

void model_close(struct model *model)
{
    if (model == NULL)
        return;
    for (size_t l = 0; l < (size_t)model->config.layer_count; l++) {
        struct layer *layer = &model->layers[l];
        struct packed *matrices[] = { &layer->qkv, &layer->o, &layer->gate, &layer->up, &layer->down };
        for (size_t i = 0; i < COUNT_OF(matrices); i++)
            packed_free(matrices[i]);
        free(layer->attn_norm);
        free(layer->ff_norm);
    }
    free(model->layers);
    packed_free(&model->embedding);
    packed_free(&model->lm_head);
    free(model->final_norm);
    free(model->value_weight);
    free(model);
}

const struct model_config *model_config(const struct model *model)
{
    return &model->config;
}

const char *model_key(const struct model *model)
{
    return model->key;
}

bool model_has_value_head(const struct model *model)
{
    return model->value_weight != NULL;
}

/* ---- heads ---- */

struct logits {
    const struct model *model;
    const struct packed *w;
    const float *hidden;
    size_t M, panels_per_task;
    float *out;
};

static void logits_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct logits *logits = context;
    size_t panel = task * logits->panels_per_task, left = packed_panels(logits->w) - panel;
    logits->model->kernels->linear(logits->out, logits->w->N, logits->hidden, logits->M, logits->w, panel,
                                   left < logits->panels_per_task ? left : logits->panels_per_task);
}

void model_logits(const struct model *model, const float *hidden, size_t M, float *logits)
{
    enum { WORK_TASK_MIN = 1 << 19 };  // multiply-adds worth another thread, some 20 us
    const struct packed *w = model->lm_head.data != NULL ? &model->lm_head : &model->embedding;
    size_t panels = packed_panels(w), work = M * PANEL * w->K;  // of one panel
    size_t even = panels / (8 * pool_threads(model->pool)), least = WORK_TASK_MIN / (work ? work : 1);
    size_t panels_per_task = (even > least ? even : least) + 1;
    struct logits job = { model, w, hidden, M, panels_per_task, logits };
    pool_run(model->pool, (panels + panels_per_task - 1) / panels_per_task, logits_task, &job);
}

void model_values(const struct model *model, const float *hidden, size_t M, float *values)
{
    CHECK(model_has_value_head(model));
    size_t C = (size_t)model->config.channel_count;
    for (size_t m = 0; m < M; m++)
        values[m] = model->kernels->dot(hidden + m * C, model->value_weight, C) + model->value_bias;
}

/* ---- text ---- */

void model_extend(const struct model *model, struct cache *cache, int32_t sequence, const int32_t *tokens, size_t T,
                  float *hidden, float *last)
{
    enum { CHUNK = 256 };  // rows enough to be bound by arithmetic
    size_t C = (size_t)model->config.channel_count, chunk = T < CHUNK ? T : CHUNK;
    float *chunk_hidden = hidden == NULL ? memory_alloc(chunk * C, sizeof(float)) : NULL;
    for (size_t t = 0, M; t < T; t += M) {
        struct row rows[CHUNK];
        M = T - t < CHUNK ? T - t : CHUNK;
        for (size_t m = 0; m < M; m++)
            rows[m] = (struct row){ .sequence = sequence, .token = tokens[t + m], .parent = m > 0 ? (int32_t)m - 1 : ROW_CACHED };
        float *out = hidden != NULL ? hidden + t * C : chunk_hidden;  // (M, C)
        model_forward(model, cache, rows, M, out);
        row_keep(cache, M - 1);
        if (last != NULL && t + M == T)
            memcpy(last, out + (M - 1) * C, C * sizeof(float));
    }
    free(chunk_hidden);
}
