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
#include "math/quant.h"
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
    float *ff, *up;   // (M, F)
    float *delta;     // (M, C) what attention or the feed-forward adds to x
    unsigned char *inputs[INPUT_FORM_COUNT];    // (M, input_row_bytes) of forms other than floats
    size_t input_row_bytes[INPUT_FORM_COUNT];   // of the widest input
};

/* Rows [first, first + rows) in layer l, on one thread unless columns are shared; begin: where a block begins that they are part of. */
struct part {
    const struct pass *pass;
    size_t l, begin, first, rows, thread;
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

/* y = x w + bias for the rows of a part. */
struct product {
    const struct linear *linear;
    float *y;        // (M, N) of the pass
    const float *x;  // (M, K)
};

/* Where the rows of a part, K wide, lie in a form. */
static unsigned char *part_input(const struct part *part, enum input_form form, size_t K)
{
    return part->pass->inputs[form] + part->begin * part->pass->input_row_bytes[form] + input_bytes(form, part->first - part->begin, K);
}

/* Makes x, the input of a linear and of those that share it, in every form that they want.  x: (M, K) of the pass. */
static void part_make_input(const struct part *part, const float *x, const struct linear *const *linears, size_t count)
{
    const struct kernels *kernels = part->pass->model->kernels;
    size_t K = linears[0]->K;
    bool wanted[INPUT_FORM_COUNT] = { false };
    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < linears[p]->part_count; i++)
            wanted[kernels->input[linears[p]->parts[i].type]] = true;
    }
    for (enum input_form form = INPUT_FLOATS + 1; form < INPUT_FORM_COUNT; form++) {
        if (wanted[form])
            kernels->input_make(part_input(part, form, K), form, x + part->first * K, part->rows, K);
    }
}

/* Panels of matrix i of a product. */
static void product_panels(const struct part *part, const struct product *product, size_t i, size_t panel, size_t panels)
{
    const struct kernels *kernels = part->pass->model->kernels;
    const struct linear *linear = product->linear;
    const struct packed *w = &linear->parts[i];
    size_t N = linear->N, n = 0, first = panel * PANEL, width = panels * PANEL < w->N - first ? panels * PANEL : w->N - first;
    for (size_t before = 0; before < i; before++)
        n += linear->parts[before].N;
    float *y = product->y + part->first * N + n;  // (rows, N) from the matrix's first output on
    const void *input = product->x + part->first * linear->K;
    if (kernels->input[w->type] != INPUT_FLOATS)
        input = part_input(part, kernels->input[w->type], linear->K);
    kernels->linear(y, N, input, part->rows, w, panel, panels);
    if (linear->bias == NULL)
        return;
    for (size_t m = 0; m < part->rows; m++)
        kernels->add(y + m * N + first, linear->bias + n + first, width);
}

/* Panels of all matrices, shared among threads. */
struct columns {
    const struct part *part;
    const struct product *products;
    size_t count, panels_per_task;
};

static size_t columns_tasks(const struct columns *columns, size_t product, size_t i)
{
    return (packed_panels(&columns->products[product].linear->parts[i]) + columns->panels_per_task - 1) / columns->panels_per_task;
}

static void columns_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct columns *columns = context;
    for (size_t p = 0; p < columns->count; p++) {
        const struct linear *linear = columns->products[p].linear;
        for (size_t i = 0, tasks; i < linear->part_count; i++, task -= tasks) {
            tasks = columns_tasks(columns, p, i);
            if (task >= tasks)
                continue;
            size_t panel = task * columns->panels_per_task, left = packed_panels(&linear->parts[i]) - panel;
            product_panels(columns->part, &columns->products[p], i, panel,
                           left < columns->panels_per_task ? left : columns->panels_per_task);
            return;
        }
    }
}

/* Products with one input. */
static void products_run(const struct part *part, const struct product *products, size_t count)
{
    struct pool *pool = part->pass->model->pool;
    size_t panels = 0, tasks = 0;
    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < products[p].linear->part_count; i++) {
            size_t own = packed_panels(&products[p].linear->parts[i]);
            panels += own;
            if (!part->pass->share_columns)
                product_panels(part, &products[p], i, 0, own);
        }
    }
    if (!part->pass->share_columns)
        return;
    size_t even = panels / (8 * pool_threads(pool));
    struct columns columns = { part, products, count, round_up(even ? even : 1, 4) };
    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < products[p].linear->part_count; i++)
            tasks += columns_tasks(&columns, p, i);
    }
    pool_run(pool, tasks, columns_task, &columns);
}

/* ---- what each row does by itself ---- */

typedef void part_function(struct part *part);

struct sharing {
    const struct part *part;
    part_function *run;
};

/* A task is PANEL rows, so that they make their own inputs. */
static void sharing_task(void *context, size_t task, size_t thread)
{
    const struct sharing *sharing = context;
    struct part part = *sharing->part;
    part.first += task * PANEL;
    part.rows = part.rows - task * PANEL < PANEL ? part.rows - task * PANEL : PANEL;
    part.thread = thread;
    sharing->run(&part);
}

/* Runs what rows do by themselves; threads that share columns share the rows. */
static void part_rows(struct part *part, part_function *run)
{
    struct sharing sharing = { part, run };
    if (part->pass->share_columns)
        pool_run(part->pass->model->pool, (part->rows + PANEL - 1) / PANEL, sharing_task, &sharing);
    else
        run(part);
}

/* A layer's pass, block by block. */
struct blocks {
    const struct pass *pass;
    size_t l, rows_per_task;
    part_function *run;
};

/* ---- attention ---- */

/* Neighbouring rows of one sequence read its pages together: as many as make QUERIES_MAX queries for a key/value head. */
enum { QUERIES_MAX = 12 };

static size_t group_rows(const struct model_config *config)
{
    size_t G = (size_t)(config->head_count / config->kv_head_count);
    return G < QUERIES_MAX ? QUERIES_MAX / G : 1;
}

/* What one thread works in: q (R G, HS), scores (R G, positions), out (R G, VP PANEL), lanes (R G, PANEL), chain (positions). */
size_t attention_floats(const struct model *model, size_t position_limit)
{
    const struct model_config *config = &model->config;
    size_t G = (size_t)(config->head_count / config->kv_head_count), queries = group_rows(config) * G;
    size_t positions = round_up(position_limit, PANEL), HS = round_up((size_t)config->head_size, PANEL);
    return queries * (HS + positions + HS + PANEL) + positions;
}

/* Puts the row's key and value of one head into its slot. */
static void row_store(const struct pass *pass, size_t l, size_t m, size_t h)
{
    const struct model_config *config = &pass->model->config;
    const struct slot *slot = &pass->cache->slots[m];
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count;
    size_t lane = (size_t)slot->lane, value = HS * PANEL + lane * PANEL;
    const float *k = pass->qkv + (m * (NH + 2 * NKV) + NH + h) * HS;  // (HS)
    const float *v = k + NKV * HS;                                    // (HS)
    void *page = cache_at(pass->cache, l, (size_t)slot->page, h);
    if (pass->model->kv_type == TENSOR_F16) {
        uint16_t *halves = page;
        for (size_t c = 0; c < HS; c++) {
            halves[c * PANEL + lane] = f16_from_float(k[c]);
            halves[value + c / PANEL * PANEL * PANEL + c % PANEL] = f16_from_float(v[c]);
        }
        return;
    }
    float *floats = page;
    for (size_t c = 0; c < HS; c++)
        floats[c * PANEL + lane] = k[c];
    for (size_t c = 0; c < HS; c += PANEL)
        memcpy(floats + value + c * PANEL, v + c, (HS - c < PANEL ? HS - c : PANEL) * sizeof(float));
}

/* The space of one thread, for rows that attend to one key/value head of layer l. */
struct attention {
    const struct pass *pass;
    size_t G, HS, VP, stride;   // stride: of scores, in floats
    size_t window;              // positions that a row sees, at most
    float cap;                  // of scores; 0: none
    float *q, *scores, *out;
    float *lanes;               // (R G, PANEL) scores of the page that a row lies in
    int32_t *chain;             // (positions) the ancestor at each position outside natural slots
    struct page_list keys, values;
};

static struct attention attention_begin(const struct pass *pass, size_t l, size_t h, int32_t sequence, size_t thread)
{
    const struct model_config *config = &pass->model->config;
    const struct cache *cache = pass->cache;
    struct attention attention = { .pass = pass, .HS = (size_t)config->head_size, .cap = (float)config->attention_cap };
    attention.window = (size_t)config_window(config, (int64_t)l);
    attention.G = (size_t)(config->head_count / config->kv_head_count);
    attention.VP = round_up(attention.HS, PANEL) / PANEL;
    attention.stride = round_up(cache->position_limit, PANEL);
    size_t queries = group_rows(config) * attention.G;
    attention.q = cache->attention + thread * cache->attention_floats;
    attention.scores = attention.q + queries * attention.VP * PANEL;
    attention.out = attention.scores + queries * attention.stride;
    attention.lanes = attention.out + queries * attention.VP * PANEL;
    attention.chain = (int32_t *)(attention.lanes + queries * PANEL);
    const int32_t *pages = cache->sequences[sequence].pages;
    char *keys = cache_at(cache, l, 0, h), *values = keys + attention.HS * PANEL * cache->element_bytes;
    attention.keys = (struct page_list){ keys, cache->page_elements, pages, pass->model->kv_type };
    attention.values = (struct page_list){ values, cache->page_elements, pages, pass->model->kv_type };
    return attention;
}

/* The first position that row m sees. */
static size_t attention_begins(const struct attention *attention, size_t m)
{
    size_t T = (size_t)attention->pass->cache->slots[m].position + 1;
    return T > attention->window ? T - attention->window : 0;
}

/* Query blocks [r, r + R) with the page that a row lies in.  A score has the same bits wherever its key lies. */
static void attention_page(struct attention *attention, size_t r, size_t R, const struct slot *slot)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    struct page_list keys = { attention->keys.base, attention->keys.stride, &slot->page, attention->keys.type };
    size_t G = attention->G;
    kernels->attend_scores(attention->lanes + r * G * PANEL, PANEL, attention->q + r * G * attention->HS, R * G, attention->HS, &keys, 1);
}

/* Of rows [m, m + R) that lie outside natural slots, the scores of their own pages. */
static void attention_own_pages(struct attention *attention, size_t m, size_t R)
{
    const struct slot *slots = attention->pass->cache->slots + m;
    for (size_t r = 0, rows; r < R; r += rows) {
        rows = 1;
        if (slots[r].natural_end > slots[r].position)
            continue;
        while (r + rows < R && slots[r + rows].page == slots[r].page)
            rows++;
        attention_page(attention, r, rows, &slots[r]);
    }
}

/* Scores and then probabilities of row m, query block r, whose natural positions from first, a border of pages, on are scored, and
   its own page.  Positions before the window get probability 0. */
static void attention_probs(struct attention *attention, size_t m, size_t r, size_t first)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    const struct slot *slots = attention->pass->cache->slots;
    size_t G = attention->G, stride = attention->stride, T = (size_t)slots[m].position + 1;
    size_t begin = attention_begins(attention, m), natural = (size_t)slots[m].natural_end;
    float *scores = attention->scores + r * G * stride;        // (G, stride)
    int32_t row = (int32_t)m;
    for (size_t t = T; t-- > natural && t >= begin; row = slots[row].parent) {
        if (row != (int32_t)m)
            attention_page(attention, r, 1, &slots[row]);
        for (size_t g = 0; g < G; g++)
            scores[g * stride + t] = attention->lanes[(r * G + g) * PANEL + (size_t)slots[row].lane];
    }
    for (size_t g = 0; g < G; g++) {
        float *seen = scores + g * stride + begin;             // (T - begin)
        if (attention->cap != 0)
            kernels->soft_cap(seen, T - begin, attention->cap);
        kernels->softmax(seen, T - begin);
        memset(scores + g * stride + first, 0, (begin - first) * sizeof(float));
    }
}

/* Adds the values of row m's positions from the given one, a border of pages, on. */
static void attention_values_from(struct attention *attention, size_t m, size_t r, size_t from)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    const struct slot *slots = attention->pass->cache->slots;
    size_t G = attention->G, stride = attention->stride, VP = attention->VP;
    size_t natural = (size_t)slots[m].natural_end, T = (size_t)slots[m].position + 1;
    size_t begin = attention_begins(attention, m), chain = natural > begin ? natural : begin;
    const float *probs = attention->scores + r * G * stride;   // (G, stride)
    float *out = attention->out + r * G * VP * PANEL;          // (G, VP PANEL)
    struct page_list values = attention->values;
    values.pages += from / PANEL;
    if (natural > from)
        kernels->attend_values(out, probs + from, stride, G, VP, &values, natural - from);
    int32_t row = (int32_t)m;
    for (size_t t = T; t-- > chain; row = slots[row].parent)
        attention->chain[t] = row;
    for (size_t t = chain; t < T; t++) {
        const struct slot *slot = &slots[attention->chain[t]];
        const char *lane = (const char *)values.base + (size_t)slot->lane * PANEL * attention->pass->cache->element_bytes;
        struct page_list value = { lane, values.stride, &slot->page, values.type };
        kernels->attend_values(out, probs + t, stride, G, VP, &value, 1);
    }
}

/* Rows [m, m + R) of one sequence, at most group_rows of them, and key/value head h. */
static void rows_attend(const struct pass *pass, size_t l, size_t m, size_t R, size_t h, size_t thread)
{
    const struct kernels *kernels = pass->model->kernels;
    const struct slot *slots = pass->cache->slots;
    struct attention attention = attention_begin(pass, l, h, slots[m].sequence, thread);
    size_t G = attention.G, HS = attention.HS, width = attention.VP * PANEL, NH = (size_t)pass->model->config.head_count;
    size_t row_floats = pass->model->layers[l].qkv.N, first = SIZE_MAX, common = SIZE_MAX, reach = 0;
    for (size_t r = 0; r < R; r++) {
        size_t natural = (size_t)slots[m + r].natural_end, begin = attention_begins(&attention, m + r);
        first = begin < first ? begin : first;
        reach = natural > reach ? natural : reach;
        common = natural < common ? natural : common;
        memcpy(attention.q + r * G * HS, pass->qkv + (m + r) * row_floats + h * G * HS, G * HS * sizeof(float));
    }
    /* Natural pages that some row sees, and those that all rows have; none where rows see only what is in scratch slots. */
    first -= first % PANEL;
    common = common > first ? common - common % PANEL : first;
    struct page_list keys = attention.keys, values = attention.values;
    keys.pages += first / PANEL;
    values.pages += first / PANEL;
    if (reach > first)
        kernels->attend_scores(attention.scores + first, attention.stride, attention.q, R * G, HS, &keys,
                               (reach - first + PANEL - 1) / PANEL);
    attention_own_pages(&attention, m, R);
    for (size_t r = 0; r < R; r++)
        attention_probs(&attention, m + r, r, first);
    memset(attention.out, 0, R * G * width * sizeof(float));
    kernels->attend_values(attention.out, attention.scores + first, attention.stride, R * G, attention.VP, &values, common - first);
    for (size_t r = 0; r < R; r++) {
        attention_values_from(&attention, m + r, r, common);
        for (size_t g = 0; g < G; g++)
            memcpy(pass->attended + ((m + r) * NH + h * G + g) * HS, attention.out + (r * G + g) * width, HS * sizeof(float));
    }
}

/* A task is a group of rows and a key/value head. */
static void attend_task(void *context, size_t task, size_t thread)
{
    const struct part *part = context;
    const struct slot *slots = part->pass->cache->slots;
    size_t NKV = (size_t)part->pass->model->config.kv_head_count, group = group_rows(&part->pass->model->config);
    size_t m = part->first + task / NKV * group, end = part->first + part->rows;
    end = m + group < end ? m + group : end;
    for (size_t R; m < end; m += R) {
        for (R = 1; m + R < end && slots[m + R].sequence == slots[m].sequence; R++)
            ;
        rows_attend(part->pass, part->l, m, R, task % NKV, thread);
    }
}

static void part_attend(struct part *part)
{
    const struct model_config *config = &part->pass->model->config;
    size_t group = group_rows(config), tasks = (part->rows + group - 1) / group * (size_t)config->kv_head_count;
    if (part->pass->share_columns) {
        pool_run(part->pass->model->pool, tasks, attend_task, part);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        attend_task(part, task, part->thread);
}

/* ---- a layer in two halves: between them every row's keys and values are stored ---- */

/* y, x: (C); they may be one. */
static void row_norm(const struct model *model, float *y, const float *x, const struct norm *norm)
{
    size_t C = (size_t)model->config.channel_count;
    float epsilon = (float)model->config.norm_epsilon;
    if (model->config.norm == NORM_LAYER)
        model->kernels->layer_norm(y, x, norm->weight, norm->bias, C, epsilon);
    else
        model->kernels->rms_norm(y, x, norm->weight, C, epsilon);
}

static void part_norm(const struct part *part, const struct norm *norm)
{
    const struct pass *pass = part->pass;
    size_t C = (size_t)pass->model->config.channel_count;
    for (size_t m = part->first; m < part->first + part->rows; m++)
        row_norm(pass->model, pass->normed + m * C, pass->x + m * C, norm);
}

/* x += delta, which the family may norm before. */
static void part_residual(const struct part *part, const struct norm *post_norm)
{
    const struct pass *pass = part->pass;
    size_t C = (size_t)pass->model->config.channel_count;
    for (size_t m = part->first; m < part->first + part->rows; m++) {
        float *delta = pass->delta + m * C;  // (C)
        if (post_norm->weight != NULL)
            row_norm(pass->model, delta, delta, post_norm);
        pass->model->kernels->add(pass->x + m * C, delta, C);
    }
}

/* Norms H heads, each by itself, where the model has such norms.  x: (H, HS). */
static void heads_norm(const struct model *model, float *x, const float *weight, size_t H)
{
    size_t HS = (size_t)model->config.head_size;
    if (weight == NULL)
        return;
    for (size_t h = 0; h < H; h++)
        model->kernels->rms_norm(x + h * HS, x + h * HS, weight, HS, (float)model->config.norm_epsilon);
}

static void rows_into_attention(struct part *part)
{
    const struct layer *layer = part_layer(part);
    part_norm(part, &layer->attn_norm);
    part_make_input(part, part->pass->normed, &(const struct linear *){ &layer->qkv }, 1);
}

/*
 * Queries and keys of one key/value head are turned and scaled, keys and values stored, of up to PANEL rows.  Tasks are cut by heads
 * and not by rows alone, since neighbouring positions share cache lines: threads that store them at once would wait for each other.
 */
static void store_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct blocks *blocks = context;
    const struct pass *pass = blocks->pass;
    const struct kernels *kernels = pass->model->kernels;
    const struct model_config *config = &pass->model->config;
    const struct layer *layer = &pass->model->layers[blocks->l];
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count, G = NH / NKV;
    size_t h = task % NKV, first = task / NKV * PANEL, end = first + PANEL < pass->M ? first + PANEL : pass->M;
    float scale = config->attention_scale != 0 ? (float)config->attention_scale : 1.0f / sqrtf((float)HS);
    for (size_t m = first; m < end; m++) {
        float *row = pass->qkv + m * (NH + 2 * NKV) * HS, *q = row + h * G * HS, *k = row + (NH + h) * HS;  // (G, HS), (HS)
        size_t angle = (size_t)pass->cache->slots[m].position * (HS / 2);
        heads_norm(pass->model, q, layer->q_norm, G);
        heads_norm(pass->model, k, layer->k_norm, 1);
        if (!config->learned_positions) {
            kernels->rotary_turn(q, pass->cache->cosine + angle, pass->cache->sine + angle, G, HS);
            kernels->rotary_turn(k, pass->cache->cosine + angle, pass->cache->sine + angle, 1, HS);
        }
        kernels->scale(q, G * HS, scale);
        row_store(pass, blocks->l, m, h);
    }
}

static void pass_store(struct blocks *blocks, size_t blocks_count)
{
    const struct pass *pass = blocks->pass;
    size_t tasks = (pass->M + PANEL - 1) / PANEL * (size_t)pass->model->config.kv_head_count;
    if (pass->M > 1 && (blocks_count > 1 || pass->share_columns)) {
        pool_run(pass->model->pool, tasks, store_task, blocks);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        store_task(blocks, task, 0);
}

static void part_before_attention(struct part *part)
{
    const struct pass *pass = part->pass;
    part_rows(part, rows_into_attention);
    products_run(part, &(struct product){ &part_layer(part)->qkv, pass->qkv, pass->normed }, 1);
}

/* ff = activation(up), or activation(gate) * up.  ff holds what is activated. */
static void part_activate(const struct part *part)
{
    const struct kernels *kernels = part->pass->model->kernels;
    const struct model_config *config = &part->pass->model->config;
    void (*const activate[])(float *x, size_t n) = {
        [ACTIVATION_SILU] = kernels->silu, [ACTIVATION_GELU_TANH] = kernels->gelu_tanh, [ACTIVATION_GELU] = kernels->gelu,
    };
    size_t F = (size_t)config->ff_count, count = part->rows * F;
    float *ff = part->pass->ff + part->first * F;              // (rows, F)
    const float *up = part->pass->up + part->first * F;        // (rows, F)
    if (!config->plain_ff && config->activation == ACTIVATION_SILU) {
        kernels->swiglu(ff, ff, up, count);
        return;
    }
    activate[config->activation](ff, count);
    if (!config->plain_ff)
        kernels->multiply(ff, up, count);
}

static void rows_from_attention(struct part *part)
{
    part_make_input(part, part->pass->attended, &(const struct linear *){ &part_layer(part)->o }, 1);
}

static void rows_into_ff(struct part *part)
{
    const struct layer *layer = part_layer(part);
    const struct linear *linears[] = { &layer->up, &layer->gate };
    part_residual(part, &layer->attn_post_norm);
    part_norm(part, &layer->ff_norm);
    part_make_input(part, part->pass->normed, linears, COUNT_OF(linears));
}

static void rows_within_ff(struct part *part)
{
    part_activate(part);
    part_make_input(part, part->pass->ff, &(const struct linear *){ &part_layer(part)->down }, 1);
}

static void rows_from_ff(struct part *part)
{
    part_residual(part, &part_layer(part)->ff_post_norm);
}

static void part_from_attention(struct part *part)
{
    const struct pass *pass = part->pass;
    const struct layer *layer = part_layer(part);
    part_attend(part);
    part_rows(part, rows_from_attention);
    products_run(part, &(struct product){ &layer->o, pass->delta, pass->attended }, 1);
    part_rows(part, rows_into_ff);
    struct product gated[] = { { &layer->gate, pass->ff, pass->normed }, { &layer->up, pass->up, pass->normed } };
    struct product plain = { &layer->up, pass->ff, pass->normed };
    if (pass->model->config.plain_ff)
        products_run(part, &plain, 1);
    else
        products_run(part, gated, COUNT_OF(gated));
    part_rows(part, rows_within_ff);
    products_run(part, &(struct product){ &layer->down, pass->delta, pass->ff }, 1);
    part_rows(part, rows_from_ff);
}

/* ---- the pass ---- */

static void block_task(void *context, size_t task, size_t thread)
{
    const struct blocks *blocks = context;
    size_t first = task * blocks->rows_per_task, left = blocks->pass->M - first;
    struct part part = { blocks->pass, blocks->l, first, first, left < blocks->rows_per_task ? left : blocks->rows_per_task, thread };
    blocks->run(&part);
}

/*
 * Decides how threads share the pass; returns the rows of a block.  A layer has 3 borders where threads wait for each other when
 * blocks of rows are shared, 7 when columns are, some 2 us each; but every block reads all weights, so that few rows of a
 * large layer are better off with columns.
 */
static size_t pass_share(struct pass *pass)
{
    enum { WORK_ALONE = 1 << 19, WEIGHTS_SMALL = 1 << 20, ROWS_SMALL = 8, ROWS_ENOUGH = 48, ROWS_MADE = 256 };
    const struct model_config *config = &pass->model->config;
    const struct layer *layer = &pass->model->layers[0];
    size_t threads = pool_threads(pass->model->pool), even = (pass->M + threads - 1) / threads;
    size_t weights = layer->qkv.N * layer->qkv.K + layer->o.N * layer->o.K + layer->gate.N * layer->gate.K
                     + layer->up.N * layer->up.K + layer->down.N * layer->down.K;
    size_t work = pass->M * weights;  // multiply-adds of a layer
    for (size_t m = 0; m < pass->M; m++)
        work += 2 * (size_t)(pass->cache->slots[m].position * config->head_count * config->head_size);
    if (threads == 1 || work < WORK_ALONE)
        return pass->M;
    if (even >= ROWS_ENOUGH || (even >= ROWS_SMALL && weights < WEIGHTS_SMALL)) {
        /* Products that want their inputs made go through weights much faster than memory gives them: many rows for each time. */
        bool made = pass->model->kernels->input[layer->down.parts[0].type] != INPUT_FLOATS;
        size_t block = made ? ROWS_MADE : ROWS_ENOUGH, blocks = threads * ((even + block - 1) / block);
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
    size_t C = (size_t)model->config.channel_count, F = layer->up.N, widths[] = { C, C, layer->qkv.N, layer->o.K, F, F, C };
    float **buffers[] = { &pass->x, &pass->normed, &pass->qkv, &pass->attended, &pass->ff, &pass->up, &pass->delta };
    size_t widest = C > layer->o.K ? C : layer->o.K, row_bytes = 0;
    for (enum input_form form = INPUT_FLOATS + 1; form < INPUT_FORM_COUNT; form++)
        row_bytes += pass->input_row_bytes[form] = input_bytes(form, 1, widest > F ? widest : F);
    if (cache->work_rows < pass->M) {
        size_t floats = 0, rows = cache->work_rows ? cache->work_rows : PANEL;
        while (rows < pass->M)
            rows *= 2;
        for (size_t i = 0; i < COUNT_OF(widths); i++)
            floats += round_up(rows * widths[i], PANEL);
        floats += rows * row_bytes / sizeof(float);
        free(cache->work);
        cache->work = memory_alloc_aligned(floats, sizeof(float));
        cache->work_rows = rows;
    }
    float *at = cache->work;
    for (size_t i = 0; i < COUNT_OF(widths); i++) {
        *buffers[i] = at;
        at += round_up(cache->work_rows * widths[i], PANEL);
    }
    for (enum input_form form = INPUT_FLOATS + 1; form < INPUT_FORM_COUNT; form++) {
        pass->inputs[form] = (unsigned char *)at;
        at += cache->work_rows * pass->input_row_bytes[form] / sizeof(float);
    }
}

/* x: the rows' embeddings, scaled, and those of their positions where the model has learned them. */
static void pass_embed(const struct pass *pass, const struct row *rows)
{
    const struct model *model = pass->model;
    size_t C = (size_t)model->config.channel_count, V = (size_t)model->config.vocab_size;
    float scale = model->config.embedding_scale != 0 ? (float)model->config.embedding_scale : 1.0f;
    for (size_t m = 0; m < pass->M; m++) {
        float *x = pass->x + m * C, *position = pass->delta + m * C;  // (C)
        CHECK(rows[m].token >= 0 && (size_t)rows[m].token < V);
        packed_get_row(&model->embedding, (size_t)rows[m].token, x);
        for (size_t c = 0; c < C; c++)
            x[c] *= scale;
        if (!model->config.learned_positions)
            continue;
        packed_get_row(&model->positions, (size_t)pass->cache->slots[m].position, position);
        model->kernels->add(x, position, C);
    }
}

void model_forward(const struct model *model, struct cache *cache, const struct row *rows, size_t M, float *hidden)
{
    struct pass pass = { .model = model, .cache = cache, .M = M };
    size_t C = (size_t)model->config.channel_count;
    CHECK(cache->model == model);
    cache_place(cache, rows, M);
    if (M == 0)
        return;
    pass_space(&pass);
    pass_embed(&pass, rows);
    struct blocks blocks = { .pass = &pass, .rows_per_task = pass_share(&pass) };
    size_t tasks = (M + blocks.rows_per_task - 1) / blocks.rows_per_task;
    for (; blocks.l < (size_t)model->config.layer_count; blocks.l++) {
        blocks.run = part_before_attention;
        pool_run(model->pool, tasks, block_task, &blocks);
        pass_store(&blocks, tasks);
        blocks.run = part_from_attention;
        pool_run(model->pool, tasks, block_task, &blocks);
    }
    for (size_t m = 0; m < M; m++)
        row_norm(model, hidden + m * C, pass.x + m * C, &model->final_norm);
}
