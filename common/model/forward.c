/*
 * forward.c - model_forward: rows through the layers.
 *
 * Threads share a pass in one of two ways.  Many rows are cut into blocks, and each block goes through half a layer on its own.
 * Few rows go together, and threads share the outputs of each matrix.  Small passes stay on the calling thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "model/network.h"
#include "model/rotary.h"

struct pass {
    const struct model *model;
    struct cache *cache;
    size_t M;
    bool share_columns;
    float *x;         // (M, C) the residual stream
    float *normed;    // (M, C)
    float *qkv;       // (M, (NH + 2 NKV) HS)
    float *attended;  // (M, NH HS)
    float *gate, *up; // (M, F)
    float *delta;     // (M, C)
};

/* Rows [first, first + rows) in layer l, on one thread unless columns are shared. */
struct part {
    const struct pass *pass;
    size_t l, first, rows, thread;
};

static const struct layer *part_layer(const struct part *part)
{
    return &part->pass->model->layers[part->l];
}

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* ---- matrices: all panels at once, or shared among threads ---- */

typedef void columns_function(const struct part *part, size_t panel, size_t panels);

struct columns {
    const struct part *part;
    columns_function *run;
    size_t panels, panels_per_task;
};

static void columns_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct columns *columns = context;
    size_t panel = task * columns->panels_per_task, left = columns->panels - panel;
    columns->run(columns->part, panel, left < columns->panels_per_task ? left : columns->panels_per_task);
}

static void columns_run(const struct part *part, const struct packed *w, columns_function *run)
{
    size_t panels = packed_panels(w);
    if (!part->pass->share_columns) {
        run(part, 0, panels);
        return;
    }
    struct pool *pool = part->pass->model->pool;
    size_t even = panels / (8 * pool_threads(pool));
    struct columns columns = { part, run, panels, round_up(even ? even : 1, 4) };
    pool_run(pool, (panels + columns.panels_per_task - 1) / columns.panels_per_task, columns_task, &columns);
}

static void qkv_columns(const struct part *part, size_t panel, size_t panels)
{
    const struct pass *pass = part->pass;
    const struct packed *w = &part_layer(part)->qkv;
    pass->model->kernels->linear(pass->qkv + part->first * w->N, w->N, pass->normed + part->first * w->K, part->rows,
                                 w, panel, panels);
}

/* x += input * w, for the two matrices that end in the residual stream. */
static void residual_columns(const struct part *part, const struct packed *w, const float *input, size_t panel, size_t panels)
{
    const struct pass *pass = part->pass;
    const struct kernels *kernels = pass->model->kernels;
    size_t C = w->N, c = panel * PANEL, width = panels * PANEL < C - c ? panels * PANEL : C - c;
    float *delta = pass->delta + part->first * C, *x = pass->x + part->first * C;  // (rows, C)
    kernels->linear(delta, C, input + part->first * w->K, part->rows, w, panel, panels);
    for (size_t m = 0; m < part->rows; m++)
        kernels->add(x + m * C + c, delta + m * C + c, width);
}

static void o_columns(const struct part *part, size_t panel, size_t panels)
{
    residual_columns(part, &part_layer(part)->o, part->pass->attended, panel, panels);
}

static void down_columns(const struct part *part, size_t panel, size_t panels)
{
    residual_columns(part, &part_layer(part)->down, part->pass->gate, panel, panels);
}

static void gate_up_columns(const struct part *part, size_t panel, size_t panels)
{
    const struct pass *pass = part->pass;
    const struct kernels *kernels = pass->model->kernels;
    const struct layer *layer = part_layer(part);
    size_t C = layer->gate.K, F = layer->gate.N;
    size_t f = panel * PANEL, width = panels * PANEL < F - f ? panels * PANEL : F - f;
    const float *normed = pass->normed + part->first * C;                             // (rows, C)
    float *gate = pass->gate + part->first * F, *up = pass->up + part->first * F;     // (rows, F)
    kernels->linear(gate, F, normed, part->rows, &layer->gate, panel, panels);
    kernels->linear(up, F, normed, part->rows, &layer->up, panel, panels);
    for (size_t m = 0; m < part->rows; m++)
        kernels->swiglu(gate + m * F + f, gate + m * F + f, up + m * F + f, width);
}

/* ---- attention ---- */

/* What one thread works in: scores (G, positions), out (G, VP PANEL), lanes (G, PANEL), chain (positions). */
size_t attention_floats(const struct model *model, size_t position_limit)
{
    size_t G = (size_t)(model->config.head_count / model->config.kv_head_count);
    size_t positions = round_up(position_limit, PANEL);
    return G * (positions + round_up((size_t)model->config.head_size, PANEL) + PANEL) + positions;
}

/* Puts the row's keys and values into its slot. */
static void row_store(const struct pass *pass, size_t l, size_t m)
{
    const struct model_config *config = &pass->model->config;
    const struct slot *slot = &pass->cache->slots[m];
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count;
    const float *k = pass->qkv + (m * (NH + 2 * NKV) + NH) * HS;  // (NKV, HS)
    const float *v = k + NKV * HS;                                // (NKV, HS)
    size_t lane = (size_t)slot->lane;
    for (size_t h = 0; h < NKV; h++) {
        float *keys = cache_at(pass->cache, l, (size_t)slot->page, h), *values = keys + HS * PANEL;
        for (size_t c = 0; c < HS; c++)
            keys[c * PANEL + lane] = k[h * HS + c];
        for (size_t c = 0; c < HS; c++)
            values[(c / PANEL * PANEL + lane) * PANEL + c % PANEL] = v[h * HS + c];
    }
}

/* The query heads that share key/value head h, for row m.  Ancestors outside natural slots are scored by whole pages too
   and their lane is picked, so that a score has the same bits wherever its key lies. */
static void row_attend(const struct pass *pass, size_t l, size_t m, size_t h, size_t thread)
{
    const struct model_config *config = &pass->model->config;
    const struct kernels *kernels = pass->model->kernels;
    const struct cache *cache = pass->cache;
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count;
    size_t G = NH / NKV, VP = round_up(HS, PANEL) / PANEL, stride = round_up(cache->position_limit, PANEL);
    const struct slot *slot = &cache->slots[m];
    size_t T = (size_t)slot->position + 1, natural = (size_t)slot->natural_end;
    const float *q = pass->qkv + (m * (NH + 2 * NKV) + h * G) * HS;          // (G, HS)
    float *scores = cache->attention + thread * cache->attention_floats;     // (G, stride)
    float *out = scores + G * stride, *lanes = out + G * VP * PANEL;         // (G, VP PANEL), (G, PANEL)
    int32_t *chain = (int32_t *)(lanes + G * PANEL);                         // (stride)

    struct page_list keys = { cache_at(cache, l, 0, h), cache->page_floats, cache->sequences[slot->sequence].pages };
    kernels->attend_scores(scores, stride, q, G, HS, &keys, (natural + PANEL - 1) / PANEL);
    int32_t row = (int32_t)m;
    for (size_t t = T; t-- > natural; row = cache->slots[row].parent) {
        chain[t] = row;
        keys.pages = &cache->slots[row].page;
        kernels->attend_scores(lanes, PANEL, q, G, HS, &keys, 1);
        for (size_t g = 0; g < G; g++)
            scores[g * stride + t] = lanes[g * PANEL + (size_t)cache->slots[row].lane];
    }
    for (size_t g = 0; g < G; g++)
        kernels->softmax(scores + g * stride, T);

    memset(out, 0, G * VP * PANEL * sizeof(float));
    struct page_list values = { keys.base + HS * PANEL, keys.stride, cache->sequences[slot->sequence].pages };
    kernels->attend_values(out, scores, stride, G, VP, &values, natural);
    for (size_t t = natural; t < T; t++) {
        const struct slot *ancestor = &cache->slots[chain[t]];
        struct page_list value = { values.base + (size_t)ancestor->lane * PANEL, values.stride, &ancestor->page };
        kernels->attend_values(out, scores + t, stride, G, VP, &value, 1);
    }
    for (size_t g = 0; g < G; g++)
        memcpy(pass->attended + (m * NH + h * G + g) * HS, out + g * VP * PANEL, HS * sizeof(float));
}

static void attend_task(void *context, size_t task, size_t thread)
{
    const struct part *part = context;
    size_t NKV = (size_t)part->pass->model->config.kv_head_count;
    row_attend(part->pass, part->l, part->first + task / NKV, task % NKV, thread);
}

static void part_attend(struct part *part)
{
    size_t tasks = part->rows * (size_t)part->pass->model->config.kv_head_count;
    if (part->pass->share_columns) {
        pool_run(part->pass->model->pool, tasks, attend_task, part);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        attend_task(part, task, part->thread);
}

/* ---- a layer in two halves: every row's keys and values are stored before any row attends ---- */

static void part_norm(const struct part *part, const float *weight)
{
    const struct model *model = part->pass->model;
    size_t C = (size_t)model->config.channel_count;
    for (size_t m = part->first; m < part->first + part->rows; m++)
        model->kernels->rms_norm(part->pass->normed + m * C, part->pass->x + m * C, weight, C,
                                 (float)model->config.norm_epsilon);
}

static void part_before_attention(struct part *part)
{
    const struct pass *pass = part->pass;
    const struct model_config *config = &pass->model->config;
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count;
    float scale = 1.0f / sqrtf((float)HS);
    part_norm(part, part_layer(part)->attn_norm);
    columns_run(part, &part_layer(part)->qkv, qkv_columns);
    for (size_t m = part->first; m < part->first + part->rows; m++) {
        float *q = pass->qkv + m * (NH + 2 * NKV) * HS;  // (NH, HS), the keys behind them
        size_t angle = (size_t)pass->cache->slots[m].position * (HS / 2);
        rotary_turn(q, pass->cache->cosine + angle, pass->cache->sine + angle, NH + NKV, HS);
        for (size_t c = 0; c < NH * HS; c++)
            q[c] *= scale;
        row_store(pass, part->l, m);
    }
}

static void part_from_attention(struct part *part)
{
    part_attend(part);
    columns_run(part, &part_layer(part)->o, o_columns);
    part_norm(part, part_layer(part)->ff_norm);
    columns_run(part, &part_layer(part)->gate, gate_up_columns);
    columns_run(part, &part_layer(part)->down, down_columns);
}

/* ---- the pass ---- */

typedef void part_function(struct part *part);

struct blocks {
    const struct pass *pass;
    size_t l, rows_per_task;
    part_function *run;
};

static void block_task(void *context, size_t task, size_t thread)
{
    const struct blocks *blocks = context;
    size_t first = task * blocks->rows_per_task, left = blocks->pass->M - first;
    struct part part = { blocks->pass, blocks->l, first, left < blocks->rows_per_task ? left : blocks->rows_per_task, thread };
    blocks->run(&part);
}

/* Multiply-adds of a layer's matrices for one row. */
static size_t layer_work(const struct model *model)
{
    const struct layer *layer = &model->layers[0];
    return layer->qkv.N * layer->qkv.K + layer->o.N * layer->o.K + 3 * layer->gate.N * layer->gate.K;
}

/* Decides how threads share the pass; returns the rows of a block. */
static size_t pass_share(struct pass *pass)
{
    enum { WORK_ALONE = 1 << 20, WORK_SMALL = 1 << 20, ROWS_BLOCK_MIN = 8, ROWS_BLOCK = 48 };
    size_t threads = pool_threads(pass->model->pool), work = layer_work(pass->model);
    if (threads == 1 || pass->M * work < WORK_ALONE)
        return pass->M;
    size_t even = (pass->M + threads - 1) / threads;
    if (even >= ROWS_BLOCK || (work < WORK_SMALL && even >= ROWS_BLOCK_MIN)) {
        size_t blocks = threads * ((even + ROWS_BLOCK - 1) / ROWS_BLOCK);
        return (pass->M + blocks - 1) / blocks;
    }
    pass->share_columns = true;
    return pass->M;
}

/* Cuts the activations out of the cache's work space, which grows to the largest batch seen. */
static void pass_space(struct pass *pass)
{
    const struct model *model = pass->model;
    struct cache *cache = pass->cache;
    const struct layer *layer = &model->layers[0];
    size_t C = (size_t)model->config.channel_count, widths[] = { C, C, layer->qkv.N, layer->o.K, layer->gate.N, layer->gate.N, C };
    float **buffers[] = { &pass->x, &pass->normed, &pass->qkv, &pass->attended, &pass->gate, &pass->up, &pass->delta };
    if (cache->work_rows < pass->M) {
        size_t floats = 0, rows = cache->work_rows ? cache->work_rows : PANEL;
        while (rows < pass->M)
            rows *= 2;
        for (size_t i = 0; i < COUNT_OF(widths); i++)
            floats += rows * widths[i];
        free(cache->work);
        cache->work = memory_alloc_aligned(floats, sizeof(float));
        cache->work_rows = rows;
    }
    float *at = cache->work;
    for (size_t i = 0; i < COUNT_OF(widths); i++) {
        *buffers[i] = at;
        at += cache->work_rows * widths[i];
    }
}

void model_forward(const struct model *model, struct cache *cache, const struct row *rows, size_t M, float *hidden)
{
    struct pass pass = { .model = model, .cache = cache, .M = M };
    size_t C = (size_t)model->config.channel_count, V = (size_t)model->config.vocab_size;
    CHECK(cache->model == model);
    cache_place(cache, rows, M);
    if (M == 0)
        return;
    pass_space(&pass);
    for (size_t m = 0; m < M; m++) {
        CHECK(rows[m].token >= 0 && (size_t)rows[m].token < V);
        packed_get_row(&model->embedding, (size_t)rows[m].token, pass.x + m * C);
    }
    struct blocks blocks = { .pass = &pass, .rows_per_task = pass_share(&pass) };
    size_t tasks = (M + blocks.rows_per_task - 1) / blocks.rows_per_task;
    for (; blocks.l < (size_t)model->config.layer_count; blocks.l++) {
        blocks.run = part_before_attention;
        pool_run(model->pool, tasks, block_task, &blocks);
        blocks.run = part_from_attention;
        pool_run(model->pool, tasks, block_task, &blocks);
    }
    for (size_t m = 0; m < M; m++)
        model->kernels->rms_norm(hidden + m * C, pass.x + m * C, model->final_norm, C, (float)model->config.norm_epsilon);
}
