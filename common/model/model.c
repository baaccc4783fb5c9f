/* model.c - loading a model into packed panels, its heads, and text appended in chunks; see model.h. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/progress.h"
#include "model/network.h"
#include "model/packed_file.h"
#include "model/room.h"
#include "model/weights.h"

/* ---- packing ---- */

/* Matrices stacked into one; all have K columns. */
struct stack {
    struct tensor tensors[LINEAR_PARTS_MAX];
    size_t count, head_size;
    bool as_stored;          // rows are taken from the file as they are
    struct packed *packed;   // has its shape
};

struct loader {
    const struct weights *weights;
    const struct model_config *config;
    enum tensor_type quant;  // of matrices that are rounded; TENSOR_TYPE_COUNT: none
    struct pool *pool;
    struct stack *stacks;    // that are to be filled
    size_t stack_count;
};

static bool loader_find(const struct loader *loader, enum weight_role role, size_t l, struct tensor *tensor)
{
    return weight_present(loader->config, role) && weights_role(loader->weights, loader->config, role, (int64_t)l, tensor);
}

static bool type_is_float(enum tensor_type type)
{
    return type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16;
}

bool model_rounds(enum weight_role role, enum tensor_type quant)
{
    if (quant == TENSOR_TYPE_COUNT || weight_specs[role].shape[1] == DIMENSION_NONE)
        return false;
    return weight_specs[role].per_layer || quant == TENSOR_BF16;
}

/* A type whose blocks cannot be taken from the file row by row becomes float32. */
static enum tensor_type loader_type(const struct loader *loader, enum weight_role role, const struct tensor *tensor)
{
    if (type_is_float(tensor->type))
        return model_rounds(role, loader->quant) ? loader->quant : tensor->type;
    return tensor_row(tensor, (size_t)loader->config->head_size, 0) != NULL ? tensor->type : TENSOR_F32;
}

static void stack_panel(void *context, size_t panel, size_t thread)
{
    (void)thread;
    const struct stack *stack = context;
    struct packed *packed = stack->packed;
    const void *stored[PANEL] = { NULL };
    const float *converted[PANEL] = { NULL };
    float *floats = stack->as_stored ? NULL : memory_alloc(PANEL * packed->K, sizeof *floats);  // (PANEL, K)
    size_t first = panel * PANEL, count = packed->N - first < PANEL ? packed->N - first : PANEL;
    for (size_t i = 0, rows; i < count; i += rows) {  // of one tensor
        size_t n = first + i, t = 0;
        while (n >= (size_t)stack->tensors[t].shape[0])
            n -= (size_t)stack->tensors[t++].shape[0];
        const struct tensor *tensor = &stack->tensors[t];
        size_t left = (size_t)tensor->shape[0] - n;
        rows = left < count - i ? left : count - i;
        if (!stack->as_stored)
            tensor_read_rows(tensor, stack->head_size, n, rows, floats + i * packed->K);
        for (size_t r = 0; r < rows; r++) {
            stored[i + r] = stack->as_stored ? tensor_row(tensor, stack->head_size, n + r) : NULL;
            converted[i + r] = stack->as_stored ? NULL : floats + (i + r) * packed->K;
        }
    }
    if (stack->as_stored)
        packed_set_panel(packed, panel, stored);
    else
        packed_quantise_panel(packed, panel, converted);
    free(floats);
}

static void stack_fill(void *context, size_t i)
{
    const struct loader *loader = context;
    struct stack *stack = &loader->stacks[i];
    packed_init(stack->packed, stack->packed->type, stack->packed->N, stack->packed->K);
    pool_run(loader->pool, packed_panels(stack->packed), stack_panel, stack);
}

/* Gives the packed matrix its shape. */
static void loader_add_stack(struct loader *loader, struct stack *stack, enum tensor_type type)
{
    size_t N = 0;
    stack->as_stored = true;
    for (size_t i = 0; i < stack->count; i++) {
        const struct tensor *tensor = &stack->tensors[i];
        N += (size_t)tensor->shape[0];
        stack->as_stored &= tensor->type == type && tensor_row(tensor, stack->head_size, 0) != NULL;
    }
    *stack->packed = packed_shape(type, N, (size_t)stack->tensors[0].shape[1]);
    loader->stacks = memory_grow(loader->stacks, loader->stack_count + 1, sizeof *loader->stacks);
    loader->stacks[loader->stack_count++] = *stack;
}

/* Nothing where there is no such weight. */
static void loader_matrix(struct loader *loader, struct packed *packed, enum weight_role role)
{
    struct stack stack = { .count = 1, .head_size = (size_t)loader->config->head_size, .packed = packed };
    if (loader_find(loader, role, 0, &stack.tensors[0]))
        loader_add_stack(loader, &stack, loader_type(loader, role, &stack.tensors[0]));
}

/* The vectors of all roles that are there, one behind the other; NULL if none is. */
static float *loader_vectors(const struct loader *loader, size_t l, const enum weight_role *roles, size_t count)
{
    float *vector = NULL;
    struct tensor tensor;
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += loader_find(loader, roles[i], l, &tensor) ? tensor_elements(&tensor) : 0;
    if (size > 0)
        vector = memory_alloc_aligned(size, sizeof *vector);
    size = 0;
    for (size_t i = 0; i < count; i++) {
        if (!loader_find(loader, roles[i], l, &tensor))
            continue;
        tensor_read_canonical(&tensor, (size_t)loader->config->head_size, vector + size);
        size += tensor_elements(&tensor);
    }
    return vector;
}

static float *loader_vector(const struct loader *loader, size_t l, enum weight_role role)
{
    return loader_vectors(loader, l, &role, 1);
}

/* Each role's bias is biases[i]. */
static void loader_linear(struct loader *loader, struct linear *linear, size_t l, const enum weight_role *roles,
                          const enum weight_role *biases, size_t count)
{
    struct tensor tensor;
    struct stack stack = { .head_size = (size_t)loader->config->head_size };
    enum tensor_type type = TENSOR_F32;
    for (size_t i = 0; i < count; i++) {
        if (!loader_find(loader, roles[i], l, &tensor))
            return;
        enum tensor_type next = loader_type(loader, roles[i], &tensor);
        if (i > 0 && next != type) {
            loader_add_stack(loader, &stack, type);
            stack.count = 0;
        }
        if (stack.count == 0)
            stack.packed = &linear->parts[linear->part_count++];
        type = next;
        stack.tensors[stack.count++] = tensor;
        linear->N += (size_t)tensor.shape[0];
        linear->K = (size_t)tensor.shape[1];
    }
    loader_add_stack(loader, &stack, type);
    linear->bias = loader_vectors(loader, l, biases, count);
}

static struct norm loader_norm(const struct loader *loader, size_t l, enum weight_role weight, enum weight_role bias)
{
    return (struct norm){ loader_vector(loader, l, weight), loader_vector(loader, l, bias) };
}

static void loader_layer(struct loader *loader, struct layer *layer, size_t l)
{
    static const enum weight_role qkv[] = { WEIGHT_Q, WEIGHT_K, WEIGHT_V };
    static const enum weight_role qkv_bias[] = { WEIGHT_Q_BIAS, WEIGHT_K_BIAS, WEIGHT_V_BIAS };
    const struct {
        struct linear *linear;
        enum linear_name name;
        enum weight_role role, bias;
    } single[] = {
        { &layer->o, LINEAR_O, WEIGHT_O, WEIGHT_O_BIAS }, { &layer->gate, LINEAR_GATE, WEIGHT_GATE, WEIGHT_GATE_BIAS },
        { &layer->up, LINEAR_UP, WEIGHT_UP, WEIGHT_UP_BIAS }, { &layer->down, LINEAR_DOWN, WEIGHT_DOWN, WEIGHT_DOWN_BIAS },
    };
    layer->qkv.name = LINEAR_QKV;
    loader_linear(loader, &layer->qkv, l, qkv, qkv_bias, COUNT_OF(qkv));
    for (size_t i = 0; i < COUNT_OF(single); i++) {
        single[i].linear->name = single[i].name;
        loader_linear(loader, single[i].linear, l, &single[i].role, &single[i].bias, 1);
    }
    layer->attn_norm = loader_norm(loader, l, WEIGHT_ATTN_NORM, WEIGHT_ATTN_NORM_BIAS);
    layer->ff_norm = loader_norm(loader, l, WEIGHT_FF_NORM, WEIGHT_FF_NORM_BIAS);
    layer->attn_post_norm.weight = loader_vector(loader, l, WEIGHT_ATTN_POST_NORM);
    layer->ff_post_norm.weight = loader_vector(loader, l, WEIGHT_FF_POST_NORM);
    layer->q_norm = loader_vector(loader, l, WEIGHT_Q_NORM);
    layer->k_norm = loader_vector(loader, l, WEIGHT_K_NORM);
}

/* Bytes of all weights as they will be packed. */
static size_t loader_size_bytes(const struct loader *loader)
{
    size_t size_bytes = 0;
    for (size_t role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        size_t layers = weight_specs[role].per_layer ? (size_t)loader->config->layer_count : 1;
        struct tensor tensor;
        for (size_t l = 0; l < layers && loader_find(loader, (enum weight_role)role, l, &tensor); l++) {
            enum tensor_type type = loader_type(loader, (enum weight_role)role, &tensor);
            size_bytes += tensor.rank == 2 ? packed_size_bytes(type, (size_t)tensor.shape[0], (size_t)tensor.shape[1])
                                           : tensor_elements(&tensor) * sizeof(float);
        }
    }
    return size_bytes;
}

/* All but the matrices' data. */
static void loader_model(struct loader *loader, struct model *model)
{
    loader_matrix(loader, &model->embedding, WEIGHT_EMBEDDING);
    loader_matrix(loader, &model->positions, WEIGHT_POSITION);
    loader_matrix(loader, &model->lm_head, WEIGHT_LM_HEAD);
    loader_matrix(loader, &model->score, WEIGHT_SCORE);
    model->layers = memory_alloc((size_t)loader->config->layer_count, sizeof *model->layers);
    for (size_t l = 0; l < (size_t)loader->config->layer_count; l++)
        loader_layer(loader, &model->layers[l], l);
    model->final_norm = loader_norm(loader, 0, WEIGHT_FINAL_NORM, WEIGHT_FINAL_NORM_BIAS);
    model->value_weight = loader_vector(loader, 0, WEIGHT_VALUE);
    float *bias = loader_vector(loader, 0, WEIGHT_VALUE_BIAS);
    model->value_bias = bias != NULL ? *bias : 0;
    free(bias);
}

static void loader_key(void *context, char key[KEY_SIZE])
{
    const struct loader *loader = context;
    weights_key(loader->weights, loader->config, loader->pool, key);
    if (loader->quant != TENSOR_TYPE_COUNT)
        key_from_texts(key, key, tensor_formats[loader->quant].name, NULL);
}

/* The matrices' data and the key, from the file that is kept beside the model at path.  False where that cannot be. */
static bool loader_map(struct loader *loader, const char *path, struct model *model)
{
    struct packed **matrices = memory_alloc(loader->stack_count, sizeof *matrices);
    for (size_t i = 0; i < loader->stack_count; i++)
        matrices[i] = loader->stacks[i].packed;
    bool mapped = packed_file_map(&(struct packed_file){
        .model = path, .weights = loader->weights, .config = config_to_json(loader->config), .quant = loader->quant,
        .matrices = matrices, .count = loader->stack_count, .pool = loader->pool, .make_key = loader_key, .fill = stack_fill,
        .context = loader,
    }, &model->mapped, model->key);
    free(matrices);
    return mapped;
}

static void loader_pack(struct loader *loader, struct model *model)
{
    loader_key(loader, model->key);
    for (size_t i = 0; i < loader->stack_count; i++)
        stack_fill(loader, i);
}

/* ---- opening ---- */

static const enum tensor_type quant_types[] = { TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4 };

enum tensor_type model_quant_from_name(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(quant_types) && name != NULL; i++)
        if (strcasecmp(name, tensor_formats[quant_types[i]].name) == 0)
            return quant_types[i];
    return TENSOR_TYPE_COUNT;
}

static struct model *model_load(const struct weights *weights, const struct model_config *config, const char *name,
                                enum tensor_type quant, bool keep_packed, struct pool *pool, int *code)
{
    double start_s = clock_s();
    struct loader loader = { .weights = weights, .config = config, .quant = quant, .pool = pool };
    *code = weights_check(weights, config) == 0 ? EX_OK : EX_DATAERR;
    if (*code == EX_OK)
        *code = room_check(name, config_parameter_count(config), loader_size_bytes(&loader));
    if (*code != EX_OK)
        return NULL;
    struct model *model = memory_alloc(1, sizeof *model);
    model->config = *config;
    model->kernels = kernels_get();
    model->pool = pool;
    loader_model(&loader, model);
    bool mapped = keep_packed && loader_map(&loader, name, model);
    if (!mapped)
        loader_pack(&loader, model);
    free(loader.stacks);
    log_debug("loaded model \"%s\" key=%s parameters=%lld kernels=%s threads=%zu mapped=%d seconds=%.2f", name, model->key,
              (long long)config_parameter_count(config), model->kernels->name, pool_threads(pool), mapped, clock_s() - start_s);
    return model;
}

struct model *model_from_weights_quantised(const struct weights *weights, const struct model_config *config, const char *name,
                                           enum tensor_type quant, struct pool *pool, int *code)
{
    return model_load(weights, config, name, quant, false, pool, code);
}

struct model *model_from_weights(const struct weights *weights, const struct model_config *config, const char *name,
                                 struct pool *pool, int *code)
{
    return model_from_weights_quantised(weights, config, name, TENSOR_TYPE_COUNT, pool, code);
}

struct model *model_open_quantised(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code)
{
    struct model_config config;
    *code = config_open(&config, path);
    if (*code != EX_OK)
        return NULL;
    struct weights *weights = weights_open(path, code);
    if (weights == NULL)
        return NULL;
    struct model *model = model_load(weights, &config, path, quant, keep_packed, pool, code);
    weights_close(weights);
    return model;
}

struct model *model_open(const char *path, struct pool *pool, int *code)
{
    return model_open_quantised(path, TENSOR_TYPE_COUNT, false, pool, code);
}

struct model *model_open_policy(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code)
{
    struct model *model = model_open_quantised(path, quant, keep_packed, pool, code);
    if (model == NULL || model->config.label_count == 0)
        return model;
    log_error("model \"%s\" classifies sequences, a base policy needs a language model head", path);
    model_close(model);
    *code = EX_DATAERR;
    return NULL;
}

static void norm_free(struct norm *norm)
{
    free(norm->weight);
    free(norm->bias);
}

static void layer_free(struct layer *layer)
{
    struct linear *linears[] = { &layer->qkv, &layer->o, &layer->gate, &layer->up, &layer->down };
    struct norm *norms[] = { &layer->attn_norm, &layer->attn_post_norm, &layer->ff_norm, &layer->ff_post_norm };
    for (size_t i = 0; i < COUNT_OF(linears); i++) {
        for (size_t p = 0; p < linears[i]->part_count; p++)
            packed_free(&linears[i]->parts[p]);
        free(linears[i]->bias);
    }
    for (size_t i = 0; i < COUNT_OF(norms); i++)
        norm_free(norms[i]);
    free(layer->q_norm);
    free(layer->k_norm);
}

void model_close(struct model *model)
{
    if (model == NULL)
        return;
    if (model->trunk != NULL) {
        adapted_free(model);
        return;
    }
    for (size_t l = 0; l < (size_t)model->config.layer_count; l++)
        layer_free(&model->layers[l]);
    free(model->layers);
    packed_free(&model->embedding);
    packed_free(&model->positions);
    packed_free(&model->lm_head);
    packed_free(&model->score);
    norm_free(&model->final_norm);
    free(model->value_weight);
    file_unmap(&model->mapped);
    free(model);
}

void model_set_kv_type(struct model *model, enum tensor_type kv_type)
{
    CHECK(kv_type == TENSOR_F32 || kv_type == TENSOR_F16);
    if (kv_type == model->kv_type)
        return;
    CHECK(model->kv_type == TENSOR_F32 && model->trunk == NULL);
    model->kv_type = kv_type;
    key_from_texts(model->key, model->key, "kv-type", tensor_formats[kv_type].name, NULL);
}

enum tensor_type model_kv_type_from_name(const char *name)
{
    return name != NULL && strcasecmp(name, "f16") == 0 ? TENSOR_F16 : TENSOR_F32;
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

size_t model_label_count(const struct model *model)
{
    return model->score.data != NULL ? model->score.N : 0;
}

/* ---- heads ---- */

struct logits {
    const struct model *model;
    const struct packed *w;
    const void *input;
    size_t M, panels_per_task;
    float *out;
};

static void logits_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct logits *logits = context;
    const struct kernels *kernels = logits->model->kernels;
    float cap = (float)logits->model->config.logit_cap;
    size_t V = logits->w->N, panel = task * logits->panels_per_task, left = packed_panels(logits->w) - panel;
    size_t panels = left < logits->panels_per_task ? left : logits->panels_per_task;
    size_t v = panel * PANEL, width = panels * PANEL < V - v ? panels * PANEL : V - v;
    kernels->linear(logits->out, V, logits->input, logits->M, logits->w, panel, panels);
    if (cap == 0)
        return;
    for (size_t m = 0; m < logits->M; m++)
        kernels->soft_cap(logits->out + m * V + v, width, cap);
}

void model_logits(const struct model *model, const float *hidden, size_t M, float *logits)
{
    enum { WORK_TASK_MIN = 1 << 19 };  // multiply-adds worth another thread, some 20 us
    const struct packed *w = model->lm_head.data != NULL ? &model->lm_head : &model->embedding;
    size_t panels = packed_panels(w), work = M * PANEL * w->K;  // of one panel
    size_t even = panels / (8 * pool_threads(model->pool)), least = WORK_TASK_MIN / (work ? work : 1);
    size_t panels_per_task = (even > least ? even : least) + 1;
    enum input_form form = model->kernels->input[w->type];
    void *input = form == INPUT_FLOATS ? NULL : memory_alloc_aligned(input_bytes(form, M, w->K), 1);
    if (input != NULL)
        model->kernels->input_make(input, form, hidden, M, w->K, NULL);
    struct logits job = { model, w, input != NULL ? input : hidden, M, panels_per_task, logits };
    pool_run(model->pool, (panels + panels_per_task - 1) / panels_per_task, logits_task, &job);
    free(input);
}

void model_scores(const struct model *model, const float *hidden, size_t M, float *scores)
{
    CHECK(model_label_count(model) > 0);
    kernels_linear(model->kernels, scores, model->score.N, hidden, M, &model->score);
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
    enum { CHUNK = 512 };  // rows enough for each thread to be bound by arithmetic
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
