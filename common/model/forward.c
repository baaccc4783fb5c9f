/*
 * forward.c - model_forward: rows through the layers.
 *
 * Threads share a pass in one of two ways.  Many rows are cut into blocks, and each block goes through half a layer on its own, or
 * through all of them where no row attends to another one's.  Few rows go together, and threads share the outputs of each matrix,
 * those of attention by whole heads where they come out even.  Small passes stay on the calling thread.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "model/pass.h"

/* Rows [first, first + rows) of a block in layer l, on one thread unless columns are shared. */
struct part {
    const struct pass *pass;
    size_t l, block, block_rows, first, rows, thread;
};

static const struct layer *part_layer(const struct part *part)
{
    return &part->pass->model->layers[part->l];
}

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Panels that a thread takes at once, so that each takes some 8 times. */
static size_t panels_per_task(const struct part *part, size_t panels)
{
    size_t even = panels / (8 * pool_threads(part->pass->model->pool));
    return round_up(even ? even : 1, 4);
}

static size_t tasks_of(size_t n, size_t per_task)
{
    return (n + per_task - 1) / per_task;
}

/* ---- matrices: all panels at once, or shared among threads ---- */

/* y = x w + bias for the rows of a block. */
struct product {
    const struct linear *linear;
    float *y;        // (M, N) of the pass
    const float *x;  // (M, K)
    enum input_place place;
};

/* Where the rows of a block lie in a form. */
static unsigned char *part_input(const struct part *part, enum input_place place, enum input_form form)
{
    return part->pass->inputs[place][form] + part->block * part->pass->input_row_bytes[form];
}

/*
 * Makes elements [k, k_end) of x, the input of a linear and of those that share it, in every form that they want, for the rows of a
 * part.  x: (M, K) of the pass.
 */
static void part_make_input(const struct part *part, enum input_place place, const float *x, size_t k, size_t k_end,
                            const struct linear *const *linears, size_t count)
{
    const struct kernels *kernels = part->pass->model->kernels;
    size_t K = linears[0]->K, first = part->first - part->block;
    struct input_part made = { first, first + part->rows, k, k_end };
    bool wanted[INPUT_FORM_COUNT] = { false };
    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < linears[p]->part_count; i++)
            wanted[kernels->input[linears[p]->parts[i].type]] = true;
    }
    for (enum input_form form = INPUT_FLOATS + 1; form < INPUT_FORM_COUNT; form++) {
        if (wanted[form])
            kernels->input_make(part_input(part, place, form), form, x + part->block * K, part->block_rows, K, &made);
    }
}

/* ---- adapters: B (A x) beside a matrix ---- */

/* Rows of an adapted run inside [first, end), and what is added to theirs.  False where there is nothing. */
struct adapted_part {
    const struct low_rank *low;
    size_t first, end;
    float *ax;  // (end - first, R)
};

static bool adapted_part(struct adapted_part *adapted, const struct part *part, size_t run, const struct linear *linear,
                         size_t first, size_t end)
{
    const struct pass *pass = part->pass;
    const struct adapted_rows *rows = &pass->adapted[run];
    const struct low_rank *low = &rows->model->adapter[part->l * LINEAR_COUNT + linear->name];
    adapted->low = low;
    adapted->first = first > rows->first ? first : rows->first;
    adapted->end = end < rows->end ? end : rows->end;
    adapted->ax = pass->low[linear->name] + rows->first * pass->adapted_rank + (adapted->first - rows->first) * low->a.N;
    return low->a.data != NULL && adapted->first < adapted->end;
}

/* A x of the rows of a part.  x: (M, K) of the pass. */
static void part_make_low(const struct part *part, const struct linear *linear, const float *x)
{
    struct adapted_part adapted;
    for (size_t run = 0; run < part->pass->adapted_count; run++)
        if (adapted_part(&adapted, part, run, linear, part->first, part->first + part->rows))
            kernels_linear(part->pass->model->kernels, adapted.ax, adapted.low->a.N, x + adapted.first * linear->K,
                           adapted.end - adapted.first, &adapted.low->a);
}

/* The panels of w from one on, as a matrix of their own that borrows them. */
static struct packed panels_from(const struct packed *w, size_t panel)
{
    struct packed from = *w;
    from.N -= panel * PANEL;
    from.data = (char *)w->data + panel * w->panel_bytes;
    from.borrowed = true;
    return from;
}

/* y += B (A x) in panels of matrix i of a linear.  y: (block_rows, N) from the matrix's first output on. */
static void low_panels(const struct part *part, const struct linear *linear, size_t i, size_t panel, size_t panels, float *y)
{
    enum { ROWS = 16, WIDTH = 8 * PANEL };
    const struct kernels *kernels = part->pass->model->kernels;
    float added[ROWS * WIDTH];
    struct adapted_part adapted;
    for (size_t run = 0; run < part->pass->adapted_count; run++) {
        if (!adapted_part(&adapted, part, run, linear, part->block, part->block + part->block_rows))
            continue;
        const struct packed *b = &adapted.low->b[i];
        const enum input_form form = kernels->input[b->type];
        const size_t end = (panel + panels) * PANEL < b->N ? (panel + panels) * PANEL : b->N;
        for (size_t m = adapted.first; m < adapted.end; m += ROWS) {
            const size_t rows = adapted.end - m < ROWS ? adapted.end - m : ROWS;
            const float *ax = adapted.ax + (m - adapted.first) * b->K;  // (rows, K)
            /* The input of a few rows of a few numbers, made again in each task. */
            void *made = form == INPUT_FLOATS ? NULL : memory_alloc_aligned(input_bytes(form, rows, b->K), 1);
            if (made != NULL)
                kernels->input_make(made, form, ax, rows, b->K, NULL);
            for (size_t n = panel * PANEL; n < end; n += WIDTH) {
                const size_t width = end - n < WIDTH ? end - n : WIDTH;
                const struct packed from = panels_from(b, n / PANEL);
                kernels->linear(added, WIDTH, made != NULL ? made : ax, rows, &from, 0, tasks_of(width, PANEL));
                for (size_t r = 0; r < rows; r++)
                    kernels->add(y + (m - part->block + r) * linear->N + n, added + r * WIDTH, width);
            }
            free(made);
        }
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
    float *y = product->y + part->block * N + n;  // (block_rows, N) from the matrix's first output on
    const void *input = product->x + part->block * linear->K;
    if (kernels->input[w->type] != INPUT_FLOATS)
        input = part_input(part, product->place, kernels->input[w->type]);
    kernels->linear(y, N, input, part->block_rows, w, panel, panels);
    low_panels(part, linear, i, panel, panels, y);
    if (linear->bias == NULL)
        return;
    for (size_t m = 0; m < part->block_rows; m++)
        kernels->add(y + m * N + first, linear->bias + n + first, width);
}

/* Columns [n, n + width) of a product, whole panels of one matrix. */
static void product_columns(const struct part *part, const struct product *product, size_t n, size_t width)
{
    size_t i = 0;
    while (n >= product->linear->parts[i].N)
        n -= product->linear->parts[i++].N;
    product_panels(part, product, i, n / PANEL, width / PANEL);
}

/* Panels of all matrices, shared among threads. */
struct columns {
    const struct part *part;
    const struct product *product;
    size_t panels_per_task;
};

static void columns_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct columns *columns = context;
    const struct linear *linear = columns->product->linear;
    size_t i = 0, most = columns->panels_per_task;
    for (size_t tasks; task >= (tasks = tasks_of(packed_panels(&linear->parts[i]), most)); i++)
        task -= tasks;
    size_t left = packed_panels(&linear->parts[i]) - task * most;
    product_panels(columns->part, columns->product, i, task * most, left < most ? left : most);
}

static void product_run(const struct part *part, const struct product *product)
{
    const struct linear *linear = product->linear;
    struct columns columns = { part, product, panels_per_task(part, linear->N / PANEL) };
    size_t tasks = 0;
    for (size_t i = 0; i < linear->part_count; i++) {
        size_t panels = packed_panels(&linear->parts[i]);
        tasks += tasks_of(panels, columns.panels_per_task);
        if (!part->pass->share_columns)
            product_panels(part, product, i, 0, panels);
    }
    if (part->pass->share_columns)
        pool_run(part->pass->model->pool, tasks, columns_task, &columns);
}

/* ---- what each row does by itself ---- */

typedef void part_function(struct part *part);

struct sharing {
    const struct part *part;
    part_function *run;
    size_t rows_per_task;
};

static void sharing_task(void *context, size_t task, size_t thread)
{
    const struct sharing *sharing = context;
    struct part part = *sharing->part;
    size_t first = task * sharing->rows_per_task, left = part.rows - first;
    part.first += first;
    part.rows = left < sharing->rows_per_task ? left : sharing->rows_per_task;
    part.thread = thread;
    sharing->run(&part);
}

/* Runs what rows do by themselves; threads that share columns share the rows. */
static void part_rows(struct part *part, part_function *run)
{
    struct pool *pool = part->pass->model->pool;
    size_t even = part->rows / (4 * pool_threads(pool));
    struct sharing sharing = { part, run, even ? even : 1 };
    if (part->pass->share_columns)
        pool_run(pool, tasks_of(part->rows, sharing.rows_per_task), sharing_task, &sharing);
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

/* Rows [m, end) and a key/value head. */
static void head_attend(const struct pass *pass, size_t l, size_t m, size_t end, size_t h, size_t thread)
{
    size_t most = attend_rows_max(&pass->model->config);
    for (size_t R; m < end; m += R) {
        for (R = 1; R < most && m + R < end && rows_share_pages(pass, m, m + R); R++)
            ;
        rows_attend(pass, l, m, R, h, thread);
    }
}

/* A task is a group of rows and a key/value head. */
static void attend_task(void *context, size_t task, size_t thread)
{
    const struct part *part = context;
    const struct model_config *config = &part->pass->model->config;
    size_t NKV = (size_t)config->kv_head_count, group = attend_rows_max(config);
    size_t m = part->first + task / NKV * group, end = part->first + part->rows;
    head_attend(part->pass, part->l, m, m + group < end ? m + group : end, task % NKV, thread);
}

/* All that one key/value head does: a thread that takes the same heads in each layer finds what it works on in its cache. */
static void head_task(void *context, size_t task, size_t thread)
{
    const struct part *part = context;
    const struct pass *pass = part->pass;
    const struct model_config *config = &pass->model->config;
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count, G = NH / NKV;
    struct product qkv = { &part_layer(part)->qkv, pass->qkv, pass->normed, INPUT_OF_ROWS };
    product_columns(part, &qkv, task * G * HS, G * HS);
    product_columns(part, &qkv, (NH + task) * HS, HS);
    product_columns(part, &qkv, (NH + NKV + task) * HS, HS);
    rows_store(pass, part->l, 0, pass->M, task);
    head_attend(pass, part->l, 0, pass->M, task, thread);
}

static void part_attend(struct part *part)
{
    const struct model_config *config = &part->pass->model->config;
    size_t NKV = (size_t)config->kv_head_count, tasks = tasks_of(part->rows, attend_rows_max(config)) * NKV;
    if (part->pass->share_heads)
        pool_run(part->pass->model->pool, NKV, head_task, part);
    else if (part->pass->share_columns)
        pool_run(part->pass->model->pool, tasks, attend_task, part);
    else
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

/* x: the rows' embeddings, scaled, and those of their positions where the model has learned them. */
static void part_embed(const struct part *part)
{
    const struct pass *pass = part->pass;
    const struct model *model = pass->model;
    size_t C = (size_t)model->config.channel_count;
    float scale = model->config.embedding_scale != 0 ? (float)model->config.embedding_scale : 1.0f;
    for (size_t m = part->first; m < part->first + part->rows; m++) {
        float *x = pass->x + m * C, *position = pass->delta + m * C;  // (C)
        packed_get_row(&model->embedding, (size_t)pass->rows[m].token, x);
        for (size_t c = 0; c < C; c++)
            x[c] *= scale;
        if (!model->config.learned_positions)
            continue;
        packed_get_row(&model->positions, (size_t)pass->cache->slots[m].position, position);
        model->kernels->add(x, position, C);
    }
}

static void rows_into_attention(struct part *part)
{
    const struct layer *layer = part_layer(part);
    if (part->l == 0)
        part_embed(part);
    else
        part_residual(part, &part->pass->model->layers[part->l - 1].ff_post_norm);
    part_norm(part, &layer->attn_norm);
    part_make_input(part, INPUT_OF_ROWS, part->pass->normed, 0, layer->qkv.K, &(const struct linear *){ &layer->qkv }, 1);
    part_make_low(part, &layer->qkv, part->pass->normed);
}

/*
 * Keys and values of one head and of up to PANEL rows.  Tasks are cut by heads and not by rows alone, since neighbouring positions
 * share cache lines: threads that store them at once would wait for each other.
 */
static void store_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct blocks *blocks = context;
    size_t NKV = (size_t)blocks->pass->model->config.kv_head_count, M = blocks->pass->M, m = task / NKV * PANEL;
    rows_store(blocks->pass, blocks->l, m, m + PANEL < M ? m + PANEL : M, task % NKV);
}

static void pass_store(struct blocks *blocks, size_t blocks_count)
{
    const struct pass *pass = blocks->pass;
    size_t tasks = tasks_of(pass->M, PANEL) * (size_t)pass->model->config.kv_head_count;
    if (blocks_count > 1 || pass->share_columns) {
        pool_run(pass->model->pool, tasks, store_task, blocks);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        store_task(blocks, task, 0);
}

static void part_before_attention(struct part *part)
{
    part_rows(part, rows_into_attention);
    if (!part->pass->share_heads)
        product_run(part, &(struct product){ &part_layer(part)->qkv, part->pass->qkv, part->pass->normed, INPUT_OF_ROWS });
}

/* ff = activation(up), or activation(gate) * up, in columns [n, end).  ff holds what is activated. */
static void part_activate(const struct part *part, size_t n, size_t end)
{
    const struct kernels *kernels = part->pass->model->kernels;
    const struct model_config *config = &part->pass->model->config;
    void (*const activate[])(float *x, size_t n) = {
        [ACTIVATION_SILU] = kernels->silu, [ACTIVATION_GELU_TANH] = kernels->gelu_tanh, [ACTIVATION_GELU] = kernels->gelu,
    };
    for (size_t m = part->first; m < part->first + part->rows; m++) {
        float *ff = part->pass->ff + m * (size_t)config->ff_count + n;              // (end - n)
        const float *up = part->pass->up + m * (size_t)config->ff_count + n;        // (end - n)
        if (!config->plain_ff && config->activation == ACTIVATION_SILU) {
            kernels->swiglu(ff, ff, up, end - n);
            continue;
        }
        activate[config->activation](ff, end - n);
        if (!config->plain_ff)
            kernels->multiply(ff, up, end - n);
    }
}

static void rows_from_attention(struct part *part)
{
    const struct linear *o = &part_layer(part)->o;
    part_make_input(part, INPUT_OF_ROWS, part->pass->attended, 0, o->K, &o, 1);
    part_make_low(part, o, part->pass->attended);
}

static void rows_into_ff(struct part *part)
{
    const struct layer *layer = part_layer(part);
    const struct linear *linears[] = { &layer->up, &layer->gate };
    part_residual(part, &layer->attn_post_norm);
    part_norm(part, &layer->ff_norm);
    part_make_input(part, INPUT_OF_ROWS, part->pass->normed, 0, layer->up.K, linears, COUNT_OF(linears));
    for (size_t i = 0; i < COUNT_OF(linears); i++)
        part_make_low(part, linears[i], part->pass->normed);
}

/* What ff_panels leaves: A x takes whole rows. */
static void rows_into_down(struct part *part)
{
    part_make_low(part, &part_layer(part)->down, part->pass->ff);
}

/* Columns of the feed-forward, an even number of panels unless they are the last, as input of its last matrix. */
static void ff_panels(const struct part *part, size_t panel, size_t panels)
{
    const struct pass *pass = part->pass;
    const struct layer *layer = part_layer(part);
    const struct linear *down = &layer->down;
    bool plain = pass->model->config.plain_ff;
    size_t n = panel * PANEL, end = n + panels * PANEL < down->K ? n + panels * PANEL : down->K;
    if (!plain)
        product_panels(part, &(struct product){ &layer->gate, pass->ff, pass->normed, INPUT_OF_ROWS }, 0, panel, panels);
    product_panels(part, &(struct product){ &layer->up, plain ? pass->ff : pass->up, pass->normed, INPUT_OF_ROWS }, 0, panel,
                   panels);
    part_activate(part, n, end);
    part_make_input(part, INPUT_OF_FF, pass->ff, n, end, &down, 1);
}

static void ff_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct part *part = context;
    size_t panels = packed_panels(&part_layer(part)->up.parts[0]), most = panels_per_task(part, panels);
    size_t left = panels - task * most;
    ff_panels(part, task * most, left < most ? left : most);
}

static void ff_run(struct part *part)
{
    size_t panels = packed_panels(&part_layer(part)->up.parts[0]);
    if (part->pass->share_columns)
        pool_run(part->pass->model->pool, tasks_of(panels, panels_per_task(part, panels)), ff_task, part);
    else
        ff_panels(part, 0, panels);
}

static void part_from_attention(struct part *part)
{
    const struct pass *pass = part->pass;
    const struct layer *layer = part_layer(part);
    part_attend(part);
    part_rows(part, rows_from_attention);
    product_run(part, &(struct product){ &layer->o, pass->delta, pass->attended, INPUT_OF_ROWS });
    part_rows(part, rows_into_ff);
    ff_run(part);
    if (pass->adapted_count > 0)
        part_rows(part, rows_into_down);
    product_run(part, &(struct product){ &layer->down, pass->delta, pass->ff, INPUT_OF_FF });
}

static void rows_out(struct part *part)
{
    const struct pass *pass = part->pass;
    size_t C = (size_t)pass->model->config.channel_count;
    part_residual(part, &pass->model->layers[pass->model->config.layer_count - 1].ff_post_norm);
    for (size_t m = part->first; m < part->first + part->rows; m++)
        row_norm(pass->model, pass->hidden + m * C, pass->x + m * C, &pass->model->final_norm);
}

static void part_out(struct part *part)
{
    part_rows(part, rows_out);
}

/* All layers, of rows that attend to no others of the batch. */
static void part_alone(struct part *part)
{
    const struct model_config *config = &part->pass->model->config;
    for (part->l = 0; part->l < (size_t)config->layer_count; part->l++) {
        part_before_attention(part);
        for (size_t h = 0; h < (size_t)config->kv_head_count; h++)
            rows_store(part->pass, part->l, part->first, part->first + part->rows, h);
        part_from_attention(part);
    }
    part_out(part);
}

/* ---- the pass ---- */

static void block_task(void *context, size_t task, size_t thread)
{
    const struct blocks *blocks = context;
    size_t first = task * blocks->rows_per_task, left = blocks->pass->M - first;
    size_t rows = left < blocks->rows_per_task ? left : blocks->rows_per_task;
    struct part part = { blocks->pass, blocks->l, first, rows, first, rows, thread };
    blocks->run(&part);
}

/*
 * Decides how threads share the pass; returns the rows of a block.  A layer has 3 borders where threads wait for each other when
 * blocks of rows are shared, 7 to 9 when columns are, some 2 us each; but every block reads all weights, so that few rows of a
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
        work += 2 * sequence_length(pass->cache, pass->rows[m].sequence) * (size_t)(config->head_count * config->head_size);
    if (threads == 1 || work < WORK_ALONE)
        return pass->M > 0 ? pass->M : 1;
    if (even >= ROWS_ENOUGH || (even >= ROWS_SMALL && weights < WEIGHTS_SMALL)) {
        /* Products that want their inputs rounded go through weights much faster than memory gives them: many rows each time. */
        enum input_form form = pass->model->kernels->input[layer->down.parts[0].type];
        bool made = form != INPUT_FLOATS && form != INPUT_TILES;
        size_t block = made ? ROWS_MADE : ROWS_ENOUGH, blocks = threads * ((even + block - 1) / block);
        return (pass->M + blocks - 1) / blocks;
    }
    pass->share_columns = true;
    pass->share_heads = config->head_size % PANEL == 0 && (size_t)config->kv_head_count % threads == 0;
    return pass->M;
}

/*
 * Whether blocks of rows go through the layers without a look at each other: no row is another one's child, and their scratch slots
 * lie in pages of their own, since threads that write to one would wait for each other, but in no more pages than
 * cache_pages_needed says.
 */
static bool rows_stand_alone(const struct row *rows, size_t M, size_t block_rows)
{
    size_t scratch = M, blocks = tasks_of(M, block_rows);
    for (size_t m = 0; m < M; m++) {
        scratch -= m == 0 || rows[m].sequence != rows[m - 1].sequence;
        if (rows[m].parent != ROW_CACHED)
            return false;
    }
    return scratch == 0 || blocks * tasks_of(block_rows, PANEL) <= tasks_of(scratch, PANEL);
}

/* Forms that a layer's products take. */
static void forms_of_layers(const struct model *model, bool used[INPUT_FORM_COUNT])
{
    for (int l = 0; l < model->config.layer_count; l++) {
        const struct layer *layer = &model->layers[l];
        const struct linear *linears[] = { &layer->qkv, &layer->o, &layer->gate, &layer->up, &layer->down };
        for (size_t p = 0; p < COUNT_OF(linears); p++)
            for (size_t i = 0; i < linears[p]->part_count; i++)
                used[model->kernels->input[linears[p]->parts[i].type]] = true;
    }
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
    bool used[INPUT_FORM_COUNT] = { false };
    forms_of_layers(model, used);
    for (enum input_form form = INPUT_FLOATS + 1; form < INPUT_FORM_COUNT; form++)
        row_bytes += pass->input_row_bytes[form] = used[form] ? input_bytes(form, 1, widest > F ? widest : F) : 0;
    if (cache->work_rows < pass->M) {
        size_t floats = 0, rows = cache->work_rows ? cache->work_rows : PANEL;
        while (rows < pass->M)
            rows *= 2;
        for (size_t i = 0; i < COUNT_OF(widths); i++)
            floats += round_up(rows * widths[i], PANEL);
        floats += INPUT_PLACE_COUNT * rows * row_bytes / sizeof(float);
        free(cache->work);
        cache->work = memory_alloc_aligned(floats, sizeof(float));
        cache->work_rows = rows;
    }
    float *at = cache->work;
    for (size_t i = 0; i < COUNT_OF(widths); i++) {
        *buffers[i] = at;
        at += round_up(cache->work_rows * widths[i], PANEL);
    }
    for (enum input_place place = 0; place < INPUT_PLACE_COUNT; place++) {
        for (enum input_form form = INPUT_FLOATS + 1; form < INPUT_FORM_COUNT; form++) {
            pass->inputs[place][form] = (unsigned char *)at;
            at += cache->work_rows * pass->input_row_bytes[form] / sizeof(float);
        }
    }
}

/* Finds the rows of models with adapters and makes room for their A x. */
static void pass_adapt(struct pass *pass)
{
    for (size_t m = 0; m < pass->M; m++) {
        const struct model *model = pass->cache->sequences[pass->rows[m].sequence].model;
        struct adapted_rows *last = pass->adapted_count > 0 ? &pass->adapted[pass->adapted_count - 1] : NULL;
        if (model->adapter == NULL)
            continue;
        if (last != NULL && last->model == model && last->end == m) {
            last->end++;
            continue;
        }
        pass->adapted = memory_grow(pass->adapted, pass->adapted_count + 1, sizeof *pass->adapted);
        pass->adapted[pass->adapted_count++] = (struct adapted_rows){ model, m, m + 1 };
        pass->adapted_rank = model->adapter_rank > pass->adapted_rank ? model->adapter_rank : pass->adapted_rank;
    }
    for (enum linear_name name = 0; name < LINEAR_COUNT && pass->adapted_count > 0; name++)
        pass->low[name] = memory_alloc_aligned(pass->M * pass->adapted_rank, sizeof(float));
}

static void pass_forget(struct pass *pass)
{
    free(pass->adapted);
    for (enum linear_name name = 0; name < LINEAR_COUNT; name++)
        free(pass->low[name]);
}

static void pass_run(const struct pass *pass, size_t rows_per_task, bool alone)
{
    struct pool *pool = pass->model->pool;
    struct blocks blocks = { .pass = pass, .rows_per_task = rows_per_task };
    size_t tasks = tasks_of(pass->M, rows_per_task);
    if (alone) {
        blocks.run = part_alone;
        pool_run(pool, tasks, block_task, &blocks);
        return;
    }
    for (; blocks.l < (size_t)pass->model->config.layer_count; blocks.l++) {
        blocks.run = part_before_attention;
        pool_run(pool, tasks, block_task, &blocks);
        if (!pass->share_heads)
            pass_store(&blocks, tasks);
        blocks.run = part_from_attention;
        pool_run(pool, tasks, block_task, &blocks);
    }
    blocks.run = part_out;
    pool_run(pool, tasks, block_task, &blocks);
}

void model_forward(const struct model *model, struct cache *cache, const struct row *rows, size_t M, float *hidden)
{
    struct pass pass = { .model = model, .cache = cache, .rows = rows, .M = M, .hidden = hidden };
    CHECK(model_shares_trunk(model, cache->model));
    for (size_t m = 0; m < M; m++)
        CHECK(rows[m].token >= 0 && rows[m].token < model->config.vocab_size);
    size_t rows_per_task = pass_share(&pass);
    bool alone = M > rows_per_task && rows_stand_alone(rows, M, rows_per_task);
    cache_place(cache, rows, M, alone ? rows_per_task : M);
    if (M == 0)
        return;
    pass_space(&pass);
    pass_adapt(&pass);
    pass_run(&pass, rows_per_task, alone);
    pass_forget(&pass);
}
