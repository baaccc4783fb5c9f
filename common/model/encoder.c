/*
 * encoder.c - opening an encoder and running texts through it; see encoder.h.
 *
 * Embeddings, then L layers of attention and feed-forward whose outputs are added to their inputs and normed.  The texts of a
 * batch are rows one after the other, so that every matrix meets many rows at once; a batch is cut so that its rows take a
 * bounded space.
 */
#include "model/encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/progress.h"
#include "model/encoder_network.h"

/* ---- opening ---- */

bool encoder_is(const char *path)
{
    char *file = memory_printf("%s/config.json", path);
    json_t *json = json_load_file(file, JSON_REJECT_DUPLICATES, NULL);
    bool is = encoder_family_of(json) != NULL;
    json_decref(json);
    free(file);
    return is;
}

struct encoder *encoder_open(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code)
{
    double start_s = clock_s();
    struct encoder *encoder = memory_alloc(1, sizeof *encoder);
    encoder->kernels = kernels_get();
    encoder->pool = pool;
    *code = encoder_config_open(&encoder->config, path);
    struct weights *weights = *code == EX_OK ? weights_open(path, code) : NULL;
    if (weights != NULL)
        *code = encoder_load(encoder, weights, quant, keep_packed, path);
    weights_close(weights);
    if (*code != EX_OK) {
        encoder_close(encoder);
        return NULL;
    }
    log_debug("loaded encoder \"%s\" key=%s kernels=%s threads=%zu mapped=%d seconds=%.2f", path, encoder->key,
              encoder->kernels->name, pool_threads(pool), encoder->mapped.data != NULL, clock_s() - start_s);
    return encoder;
}

static void linear_free(struct linear *linear)
{
    packed_free(&linear->weight);
    free(linear->bias);
}

static void norm_free(struct norm *norm)
{
    free(norm->weight);
    free(norm->bias);
}

void encoder_close(struct encoder *encoder)
{
    if (encoder == NULL)
        return;
    for (size_t l = 0; encoder->layers != NULL && l < (size_t)encoder->config.layer_count; l++) {
        struct encoder_layer *layer = &encoder->layers[l];
        struct linear *linears[] = { &layer->qkv, &layer->o, &layer->up, &layer->down };
        for (size_t i = 0; i < COUNT_OF(linears); i++)
            linear_free(linears[i]);
        norm_free(&layer->attn_norm);
        norm_free(&layer->ff_norm);
        free(layer->position_keys);
        free(layer->position_queries);
    }
    free(encoder->layers);
    struct linear *linears[] = { &encoder->projection, &encoder->conv, &encoder->pool_dense, &encoder->labels };
    for (size_t i = 0; i < COUNT_OF(linears); i++)
        linear_free(linears[i]);
    norm_free(&encoder->embedding_norm);
    norm_free(&encoder->conv_norm);
    free((void *)encoder->words.data);
    free(encoder->positions);
    free(encoder->types);
    file_unmap(&encoder->mapped);
    free(encoder);
}

const char *encoder_key(const struct encoder *encoder)
{
    return encoder->key;
}

size_t encoder_vocab_size(const struct encoder *encoder)
{
    return (size_t)encoder->config.vocab_size;
}

size_t encoder_position_max(const struct encoder *encoder)
{
    const struct encoder_config *config = &encoder->config;
    return config->position_count > 0 ? (size_t)(config->position_count - config->position_first) : SIZE_MAX;
}

size_t encoder_type_count(const struct encoder *encoder)
{
    return (size_t)encoder->config.type_count;
}

size_t encoder_channel_count(const struct encoder *encoder)
{
    return (size_t)encoder->config.channel_count;
}

size_t encoder_label_count(const struct encoder *encoder)
{
    return (size_t)encoder->config.label_count;
}

/* ---- products with a matrix ---- */

static void relu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] < 0.0f ? 0.0f : x[i];
}

static void hyperbolic_tangent(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = tanhf(x[i]);
}

static void activate(const struct kernels *kernels, enum encoder_activation activation, float *x, size_t n)
{
    switch (activation) {
    case ENCODER_GELU: kernels->gelu(x, n); break;
    case ENCODER_GELU_TANH: kernels->gelu_tanh(x, n); break;
    case ENCODER_RELU: relu(x, n); break;
    case ENCODER_SILU: kernels->silu(x, n); break;
    case ENCODER_TANH: hyperbolic_tangent(x, n); break;
    case ENCODER_ACTIVATION_COUNT: break;
    }
}

struct product {
    const struct encoder *encoder;
    const struct linear *linear;
    float *y;                      // (M, N)
    const float *x, *residual;     // (M, K), (M, N) or NULL
    unsigned char *input;          // x in another form, NULL: as it is
    size_t M, rows_per_task, panels_per_task;
    enum encoder_activation activation;
};

static size_t tasks_of(size_t n, size_t each)
{
    return (n + each - 1) / each;
}

/* A task is a block of rows and a group of panels. */
static void product_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct product *product = context;
    const struct packed *w = &product->linear->weight;
    const struct kernels *kernels = product->encoder->kernels;
    size_t groups = tasks_of(packed_panels(w), product->panels_per_task);
    size_t m = task / groups * product->rows_per_task, panel = task % groups * product->panels_per_task;
    size_t rows = product->M - m < product->rows_per_task ? product->M - m : product->rows_per_task;
    size_t panels = packed_panels(w) - panel < product->panels_per_task ? packed_panels(w) - panel : product->panels_per_task;
    size_t n = panel * PANEL, width = panels * PANEL < w->N - n ? panels * PANEL : w->N - n;
    const void *input = product->x + m * w->K;
    if (product->input != NULL)
        input = product->input + input_bytes(kernels->input[w->type], m, w->K);
    kernels->linear(product->y + m * w->N, w->N, input, rows, w, panel, panels);
    for (size_t end = m + rows; m < end; m++) {
        float *y = product->y + m * w->N + n;  // (width)
        if (product->linear->bias != NULL)
            kernels->add(y, product->linear->bias + n, width);
        activate(kernels, product->activation, y, width);
        if (product->residual != NULL)
            kernels->add(y, product->residual + m * w->N + n, width);
    }
}

/* A task is a block of rows. */
static void input_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct product *product = context;
    const struct kernels *kernels = product->encoder->kernels;
    size_t m = task * product->rows_per_task, K = product->linear->weight.K;
    size_t rows = product->M - m < product->rows_per_task ? product->M - m : product->rows_per_task;
    enum input_form form = kernels->input[product->linear->weight.type];
    kernels->input_make(product->input + input_bytes(form, m, K), form, product->x + m * K, rows, K, NULL);
}

void encoder_linear(const struct encoder *encoder, float *y, const float *x, size_t M, const struct linear *linear,
                    enum encoder_activation activation, const float *residual)
{
    /* Rows that stay in the cache while panels pass by in the fours that kernels take; work that is worth another thread. */
    enum { ROWS = 192, PANELS = 4, WORK_TASK_MIN = 1 << 19 };
    size_t rows = tasks_of(M, tasks_of(M, ROWS)), work = rows * PANELS * PANEL * linear->weight.K;
    struct product product = {
        .encoder = encoder, .linear = linear, .y = y, .x = x, .residual = residual, .M = M, .activation = activation,
        .rows_per_task = rows, .panels_per_task = tasks_of(WORK_TASK_MIN, work) * PANELS,
    };
    size_t tasks = tasks_of(M, rows) * tasks_of(packed_panels(&linear->weight), product.panels_per_task);
    enum input_form form = encoder->kernels->input[linear->weight.type];
    if (form != INPUT_FLOATS) {
        product.input = memory_alloc_aligned(input_bytes(form, M, linear->weight.K), 1);
        pool_run(encoder->pool, tasks_of(M, rows), input_task, &product);
    }
    pool_run(encoder->pool, tasks, product_task, &product);
    free(product.input);
}

/* ---- a pass ---- */

/* The texts of a batch on their way through the layers. */
struct pass {
    const struct encoder *encoder;
    const struct encoder_text *texts;
    size_t count, M;
    bool first_only;            // only each text's first row is wanted in the end
    size_t *offsets;            // (count) row of each text's first token
    int32_t *row_text, *row_position;  // (M) index of the text, row of the position embedding
    float *x;                   // (M, C) states
    float *sum;                 // (M, C) states before a norm
    float *attended;            // (M, C)
    float *beside;              // (M, C) what the convolution adds to the first layer's states
    float *wide;                // (M, wide_size) embeddings, windows, q k v, feed-forward
    struct attention attention;
};

enum { ROWS_PER_TASK = 32 };

static size_t wide_size(const struct encoder_config *config)
{
    int64_t sizes[] = { 3 * config->channel_count, config->ff_count, config->embedding_size,
                        config->conv_size * config->channel_count };
    int64_t max = 0;
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        max = sizes[i] > max ? sizes[i] : max;
    return (size_t)max;
}

/* Words, positions and types added up: (M, E) at to. */
struct embed {
    const struct pass *pass;
    float *to;
};

static void embed_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct embed *embed = context;
    const struct pass *pass = embed->pass;
    const struct encoder *encoder = pass->encoder;
    size_t E = (size_t)encoder->config.embedding_size, end = (task + 1) * ROWS_PER_TASK;
    for (size_t m = task * ROWS_PER_TASK; m < end && m < pass->M; m++) {
        const struct encoder_text *text = &pass->texts[pass->row_text[m]];
        size_t t = m - pass->offsets[pass->row_text[m]];
        float *row = embed->to + m * E;  // (E)
        tensor_read(&encoder->words, (size_t)text->tokens[t] * E, E, row);
        if (encoder->types != NULL)
            encoder->kernels->add(row, encoder->types + (text->types != NULL ? (size_t)text->types[t] : 0) * E, E);
        if (encoder->positions != NULL)
            encoder->kernels->add(row, encoder->positions + (size_t)pass->row_position[m] * E, E);
    }
}

struct norms {
    const struct pass *pass;
    const struct norm *norm;
    float *to;
    const float *from;
    size_t C;
};

static void norm_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct norms *norms = context;
    const struct encoder *encoder = norms->pass->encoder;
    size_t C = norms->C, end = (task + 1) * ROWS_PER_TASK;
    for (size_t m = task * ROWS_PER_TASK; m < end && m < norms->pass->M; m++)
        encoder->kernels->layer_norm(norms->to + m * C, norms->from + m * C, norms->norm->weight, norms->norm->bias, C,
                                     (float)encoder->config.norm_epsilon);
}

static void pass_norm(const struct pass *pass, float *to, const float *from, const struct norm *norm, size_t C)
{
    struct norms norms = { pass, norm, to, from, C };
    pool_run(pass->encoder->pool, tasks_of(pass->M, ROWS_PER_TASK), norm_task, &norms);
}

static void pass_embed(const struct pass *pass)
{
    const struct encoder *encoder = pass->encoder;
    size_t C = (size_t)encoder->config.channel_count, E = (size_t)encoder->config.embedding_size;
    bool projected = encoder->projection.weight.data != NULL, norm_first = encoder->config.family->norm_before_projection;
    struct embed embed = { pass, projected ? pass->wide : pass->sum };
    pool_run(encoder->pool, tasks_of(pass->M, ROWS_PER_TASK), embed_task, &embed);
    if (projected && norm_first) {
        pass_norm(pass, pass->wide, pass->wide, &encoder->embedding_norm, E);
        encoder_linear(encoder, pass->x, pass->wide, pass->M, &encoder->projection, ENCODER_ACTIVATION_COUNT, NULL);
        return;
    }
    if (projected)
        encoder_linear(encoder, pass->sum, pass->wide, pass->M, &encoder->projection, ENCODER_ACTIVATION_COUNT, NULL);
    pass_norm(pass, pass->x, pass->sum, &encoder->embedding_norm, C);
}

/* The convolution over the embeddings, as a product with every row's window; behind a text's ends there are zeros. */
static void pass_convolve(const struct pass *pass)
{
    const struct encoder_config *config = &pass->encoder->config;
    size_t C = (size_t)config->channel_count, taps = (size_t)config->conv_size;
    for (size_t m = 0; m < pass->M; m++) {
        size_t b = (size_t)pass->row_text[m], T = pass->texts[b].T, t = m - pass->offsets[b];
        for (size_t k = 0; k < taps; k++) {
            float *to = pass->wide + (m * taps + k) * C;         // (C)
            bool inside = t + k >= taps / 2 && t + k - taps / 2 < T;
            if (inside)
                memcpy(to, pass->x + (m + k - taps / 2) * C, C * sizeof *to);
            else
                memset(to, 0, C * sizeof *to);
        }
    }
    encoder_linear(pass->encoder, pass->beside, pass->wide, pass->M, &pass->encoder->conv, config->conv_activation, NULL);
}

/* Goes on with each text's first row alone. */
static void pass_keep_first(struct pass *pass)
{
    size_t C = (size_t)pass->encoder->config.channel_count;
    for (size_t b = 0; b < pass->count; b++)
        memmove(pass->x + b * C, pass->x + pass->offsets[b] * C, C * sizeof *pass->x);
    pass->M = pass->count;
}

static void pass_layer(struct pass *pass, size_t l)
{
    const struct encoder *encoder = pass->encoder;
    const struct encoder_layer *layer = &encoder->layers[l];
    size_t C = (size_t)encoder->config.channel_count;
    bool beside = l == 0 && pass->beside != NULL, last = l + 1 == (size_t)encoder->config.layer_count;
    encoder_linear(encoder, pass->wide, pass->x, pass->M, &layer->qkv, ENCODER_ACTIVATION_COUNT, NULL);
    pass->attention.layer = layer;
    pass->attention.first_only = pass->first_only && last && !beside;
    encoder_attend(&pass->attention);
    if (pass->attention.first_only)
        pass_keep_first(pass);
    encoder_linear(encoder, pass->sum, pass->attended, pass->M, &layer->o, ENCODER_ACTIVATION_COUNT, pass->x);
    pass_norm(pass, pass->x, pass->sum, &layer->attn_norm, C);
    encoder_linear(encoder, pass->wide, pass->x, pass->M, &layer->up, encoder->config.activation, NULL);
    encoder_linear(encoder, pass->sum, pass->wide, pass->M, &layer->down, ENCODER_ACTIVATION_COUNT, pass->x);
    pass_norm(pass, pass->x, pass->sum, &layer->ff_norm, C);
    if (beside) {
        encoder->kernels->add(pass->x, pass->beside, pass->M * C);
        pass_norm(pass, pass->x, pass->x, &encoder->conv_norm, C);
        if (pass->first_only && last)
            pass_keep_first(pass);
    }
}

/* ---- batches ---- */

/* Places the texts of a batch in rows and checks what the caller promised. */
static void pass_place(struct pass *pass)
{
    const struct encoder_config *config = &pass->encoder->config;
    size_t m = 0;
    for (size_t b = 0; b < pass->count; b++) {
        const struct encoder_text *text = &pass->texts[b];
        int64_t position = config->position_first;
        pass->offsets[b] = m;
        for (size_t t = 0; t < text->T; t++, m++) {
            bool padding = config->family->positions_after_padding && text->tokens[t] == config->padding;
            CHECK(text->tokens[t] >= 0 && text->tokens[t] < config->vocab_size);
            CHECK(config->type_count == 0 || text->types == NULL || (text->types[t] >= 0 && text->types[t] < config->type_count));
            pass->row_text[m] = (int32_t)b;
            pass->row_position[m] = (int32_t)(padding ? config->padding : position++);
        }
    }
}

/* What all batches of a call work in. */
struct workspace {
    size_t rows, T_max;           // of a batch; of all texts
    size_t *offsets;
    int32_t *row_text, *row_position, *columns, *pages;
    float *floats, *attention;
    size_t attention_floats;      // of a thread
};

enum { FLOATS_MAX = 1 << 25, ROWS_MAX = 2048 };  // of a batch, as long as its first text is no larger

static size_t row_floats(const struct encoder_config *config)
{
    return (config->conv_size > 0 ? 4 : 3) * (size_t)config->channel_count + wide_size(config);
}

static struct workspace workspace_make(const struct encoder *encoder, const struct encoder_text *texts, size_t count)
{
    const struct encoder_config *config = &encoder->config;
    struct workspace work = { 0 };
    size_t total = 0, limit = FLOATS_MAX / row_floats(config);
    for (size_t b = 0; b < count; b++) {
        CHECK(texts[b].T >= 1 && texts[b].T <= encoder_position_max(encoder));
        work.T_max = texts[b].T > work.T_max ? texts[b].T : work.T_max;
        total += texts[b].T;
    }
    work.rows = limit < ROWS_MAX ? limit : ROWS_MAX;
    work.rows = total < work.rows ? total : work.rows;
    work.rows = work.T_max > work.rows ? work.T_max : work.rows;
    work.offsets = memory_alloc(work.rows, sizeof *work.offsets);
    work.row_text = memory_alloc(work.rows, sizeof *work.row_text);
    work.row_position = memory_alloc(work.rows, sizeof *work.row_position);
    work.floats = memory_alloc_aligned(work.rows * row_floats(config), sizeof(float));
    work.attention_floats = encoder_attention_floats(encoder, work.T_max);
    work.attention = memory_alloc_aligned(pool_threads(encoder->pool) * work.attention_floats, sizeof(float));
    size_t pages = encoder_attention_pages(encoder, work.T_max), distances = 2 * work.T_max - 1;
    work.pages = memory_alloc(pages, sizeof *work.pages);
    for (size_t i = 0; i < pages; i++)
        work.pages[i] = (int32_t)i;
    work.columns = memory_alloc(distances, sizeof *work.columns);
    for (size_t i = 0; config->relative && i < distances; i++)
        work.columns[i] = (int32_t)encoder_relative_index(config, (int64_t)work.T_max - 1 - (int64_t)i);
    return work;
}

static void workspace_free(struct workspace *work)
{
    free(work->offsets);
    free(work->row_text);
    free(work->row_position);
    free(work->floats);
    free(work->attention);
    free(work->pages);
    free(work->columns);
}

/* Runs texts that are M rows; returns their last states: (M, C), or (count, C) when first_only. */
static const float *batch_run(const struct encoder *encoder, const struct workspace *work, const struct encoder_text *texts,
                              size_t count, size_t M, bool first_only)
{
    size_t C = (size_t)encoder->config.channel_count, size = work->rows * C;
    struct pass pass = {
        .encoder = encoder, .texts = texts, .count = count, .M = M, .first_only = first_only,
        .offsets = work->offsets, .row_text = work->row_text, .row_position = work->row_position,
        .x = work->floats, .sum = work->floats + size, .attended = work->floats + 2 * size, .wide = work->floats + 3 * size,
    };
    if (encoder->config.conv_size > 0)
        pass.beside = pass.wide + work->rows * wide_size(&encoder->config);
    pass.attention = (struct attention){
        .encoder = encoder, .texts = texts, .count = count, .offsets = work->offsets, .qkv = pass.wide, .out = pass.attended,
        .columns = work->columns, .pages = work->pages, .T_max = work->T_max,
        .space = work->attention, .space_floats = work->attention_floats,
    };
    pass_place(&pass);
    pass_embed(&pass);
    if (pass.beside != NULL)
        pass_convolve(&pass);
    for (size_t l = 0; l < (size_t)encoder->config.layer_count; l++)
        pass_layer(&pass, l);
    return pass.x;
}

/* Texts from the first on that fit into a batch, at least one; *M: their rows. */
static size_t batch_size(const struct workspace *work, const struct encoder_text *texts, size_t count, size_t *M)
{
    size_t b = 1;
    *M = texts[0].T;
    while (b < count && *M + texts[b].T <= work->rows)
        *M += texts[b++].T;
    return b;
}

void encoder_run(const struct encoder *encoder, const struct encoder_text *texts, size_t count, float *hidden)
{
    if (count == 0)
        return;
    size_t C = (size_t)encoder->config.channel_count;
    struct workspace work = workspace_make(encoder, texts, count);
    for (size_t b = 0, batch, M; b < count; b += batch) {
        batch = batch_size(&work, texts + b, count - b, &M);
        memcpy(hidden, batch_run(encoder, &work, texts + b, batch, M, false), M * C * sizeof *hidden);
        hidden += M * C;
    }
    workspace_free(&work);
}

void encoder_scores(const struct encoder *encoder, const struct encoder_text *texts, size_t count, float *scores)
{
    CHECK(encoder->config.label_count > 0);
    if (count == 0)
        return;
    size_t C = (size_t)encoder->config.channel_count, N = (size_t)encoder->config.label_count;
    struct workspace work = workspace_make(encoder, texts, count);
    float *pooled = memory_alloc_aligned(work.rows * C, sizeof *pooled);
    for (size_t b = 0, batch, M; b < count; b += batch) {
        batch = batch_size(&work, texts + b, count - b, &M);
        const float *first = batch_run(encoder, &work, texts + b, batch, M, true);  // (batch, C)
        encoder_linear(encoder, pooled, first, batch, &encoder->pool_dense, encoder->config.pool_activation, NULL);
        encoder_linear(encoder, scores + b * N, pooled, batch, &encoder->labels, ENCODER_ACTIVATION_COUNT, NULL);
    }
    free(pooled);
    workspace_free(&work);
}
