/*
 * network.c - see network.h.
 *
 * A layer is x_mid = x + attention(norm(x)), x_next = x_mid + feed_forward(norm(x_mid)).  Forward keeps what backward
 * needs; what backward can have again from an elementwise operation it computes again.
 */
#include "learn/network.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "learn/attention.h"
#include "learn/ops.h"
#include "model/rotary.h"

enum {
    ROW_BLOCK = 192,        // rows of a task: large enough for sgemm, small enough for the second-level cache
    OUTPUT_BLOCK = 256,     // rows of a weight whose gradient is one task
    CHANNEL_BLOCK = 64,     // channels of the embedding whose gradient is one task
    LOGITS_MAX = 16 << 20,  // logits held at once: 384 rows of a vocabulary of 32,000
};

/* What a micro batch of M rows needs, grown when a larger one comes. */
struct activations {
    size_t M, T;            // rows, and longest sequence, that there is room for
    float *block;           // holds all of the following but angles and scratch
    // kept by forward, a layer each
    float *x;               // (L + 1, M, C): before each layer, after the last
    float *rstd_attn;       // (L, M)
    float *norm_attn;       // (L, M, C)
    float *qkv;             // (L, M, Q), rotated
    float *attn;            // (L, M, A)
    float *lse;             // (L, M, NH)
    float *mid;             // (L, M, C)
    float *rstd_ff;         // (L, M)
    float *norm_ff;         // (L, M, C)
    float *gate_up;         // (L, M, 2F)
    // for one layer at a time
    float *act, *dact;      // (M, F)
    float *dgate_up;        // (M, 2F)
    float *dattn;           // (M, A)
    float *dqkv;            // (M, Q)
    float *dx, *dmid, *dx_next;  // (M, C): gradients of x, mid and the next layer's x
    float *dnorm;           // (M, C)
    float *dnorm_parts;     // (2, blocks, C): gradients of the two norms' weights, a part for each block of rows
    // heads
    float *rstd_final;      // (M)
    float *hidden;          // (M, C) after the final norm
    float *dhidden;         // (M, C)
    float *chosen;          // (M, C): hidden of counted rows
    float *dchosen;         // (M, C)
    float *loss;            // (M) of counted rows
    float *dvalue;          // (M)
    float *logits;          // (logit rows, V)

    float *cosine, *sine;   // (T, HS / 2)
    float *scratch;         // (threads, scratch_count), for attention
    size_t scratch_count;
};

struct sizes {
    size_t C, L, F, A, Q, NH, NKV, HS, V;
};

static struct sizes sizes_from(const struct model_config *config)
{
    struct sizes s = {
        .C = (size_t)config->channel_count, .L = (size_t)config->layer_count, .F = (size_t)config->ff_count,
        .NH = (size_t)config->head_count, .NKV = (size_t)config->kv_head_count, .HS = (size_t)config->head_size,
        .V = (size_t)config->vocab_size,
    };
    s.A = s.NH * s.HS;
    s.Q = s.A + 2 * s.NKV * s.HS;
    return s;
}

static size_t blocks_of(size_t count, size_t block)
{
    return (count + block - 1) / block;
}

static size_t block_size(size_t count, size_t block, size_t index)
{
    return count - index * block < block ? count - index * block : block;
}

/* ---- parameters ---- */

static size_t parameter_add(struct network *network, enum weight_role role, int64_t layer)
{
    struct parameter *parameter = &network->table[network->table_count++];
    *parameter = (struct parameter){ .role = role, .layer = layer, .first = network->count, .count = 1 };
    parameter->rank = weight_shape(&network->config, role, parameter->shape);
    for (size_t i = 0; i < parameter->rank; i++)
        parameter->count *= (size_t)parameter->shape[i];
    weight_name(role, layer, parameter->name);
    network->count += parameter->count;
    return parameter->first;
}

static void parameters_lay_out(struct network *network)
{
    const struct model_config *config = &network->config;
    network->embedding = parameter_add(network, WEIGHT_EMBEDDING, 0);
    for (int64_t l = 0; l < config->layer_count; l++) {
        struct layer_offsets *layer = &network->layers[l];
        layer->attn_norm = parameter_add(network, WEIGHT_ATTN_NORM, l);
        layer->qkv = parameter_add(network, WEIGHT_Q, l);
        parameter_add(network, WEIGHT_K, l);
        parameter_add(network, WEIGHT_V, l);
        layer->o = parameter_add(network, WEIGHT_O, l);
        layer->ff_norm = parameter_add(network, WEIGHT_FF_NORM, l);
        layer->gate_up = parameter_add(network, WEIGHT_GATE, l);
        parameter_add(network, WEIGHT_UP, l);
        layer->down = parameter_add(network, WEIGHT_DOWN, l);
    }
    network->final_norm = parameter_add(network, WEIGHT_FINAL_NORM, 0);
    if (network->objective == OBJECTIVE_VALUE) {
        network->value = parameter_add(network, WEIGHT_VALUE, 0);
        network->value_bias = parameter_add(network, WEIGHT_VALUE_BIAS, 0);
        network->trained_count = network->count;
    }
    network->lm_head = config->tied_embeddings ? network->embedding : parameter_add(network, WEIGHT_LM_HEAD, 0);
    if (network->objective == OBJECTIVE_LM)
        network->trained_count = network->count;
}

void network_init(struct network *network, const struct model_config *config, enum objective objective, struct pool *pool)
{
    openblas_set_num_threads(1);  // our own threads split the work
    size_t L = (size_t)config->layer_count;
    *network = (struct network){ .config = *config, .objective = objective, .pool = pool };
    network->table = memory_alloc(WEIGHT_ROLE_COUNT * (L + 1), sizeof *network->table);
    network->layers = memory_alloc(L, sizeof *network->layers);
    network->activations = memory_alloc(1, sizeof *network->activations);
    parameters_lay_out(network);
    network->parameters = memory_alloc_aligned(network->count, sizeof(float));
    network->gradients = memory_alloc_aligned(network->trained_count, sizeof(float));
}

void network_free(struct network *network)
{
    free(network->activations->block);
    free(network->activations->cosine);
    free(network->activations->sine);
    free(network->activations->scratch);
    free(network->activations);
    free(network->parameters);
    free(network->gradients);
    free(network->layers);
    free(network->table);
}

void network_randomise(struct network *network, uint64_t seed)
{
    const double deviation = 0.02, residual = deviation / sqrt(2.0 * (double)network->config.layer_count);
    for (size_t i = 0; i < network->table_count; i++) {
        const struct parameter *parameter = &network->table[i];
        float *to = network->parameters + parameter->first;
        switch (parameter->role) {
        case WEIGHT_ATTN_NORM: case WEIGHT_FF_NORM: case WEIGHT_FINAL_NORM:
            for (size_t k = 0; k < parameter->count; k++)
                to[k] = 1.0f;
            break;
        case WEIGHT_VALUE: case WEIGHT_VALUE_BIAS:
            memset(to, 0, parameter->count * sizeof *to);
            break;
        default: {
            bool ends_branch = parameter->role == WEIGHT_O || parameter->role == WEIGHT_DOWN;
            for (size_t k = 0; k < parameter->count; k++)
                to[k] = (float)((ends_branch ? residual : deviation)
                                * philox_normal(seed, PHILOX_INIT, i, (uint32_t)(k >> 32), (uint32_t)k));
        }
        }
    }
}

void network_zero_gradients(struct network *network)
{
    memset(network->gradients, 0, network->trained_count * sizeof *network->gradients);
}

/* ---- room for activations ---- */

/* Counted rows whose logits are held at once: whole blocks where there are more. */
static size_t logit_rows(const struct network *network, size_t M)
{
    const size_t blocks = LOGITS_MAX / ((size_t)network->config.vocab_size * ROW_BLOCK);
    const size_t fit = (blocks < 1 ? 1 : blocks) * ROW_BLOCK;
    return M < fit ? M : fit;
}

static void activations_lay_out(struct network *network, size_t M)
{
    struct activations *a = network->activations;
    const struct sizes s = sizes_from(&network->config);
    const size_t LM = s.L * M;
    const bool lm = network->objective == OBJECTIVE_LM;
    const struct {
        float **at;
        size_t count;
    } parts[] = {
        { &a->x, (s.L + 1) * M * s.C }, { &a->rstd_attn, LM }, { &a->norm_attn, LM * s.C }, { &a->qkv, LM * s.Q },
        { &a->attn, LM * s.A }, { &a->lse, LM * s.NH }, { &a->mid, LM * s.C }, { &a->rstd_ff, LM },
        { &a->norm_ff, LM * s.C }, { &a->gate_up, LM * 2 * s.F },
        { &a->act, M * s.F }, { &a->dact, M * s.F }, { &a->dgate_up, M * 2 * s.F }, { &a->dattn, M * s.A },
        { &a->dqkv, M * s.Q }, { &a->dx, M * s.C }, { &a->dmid, M * s.C }, { &a->dx_next, M * s.C },
        { &a->dnorm, M * s.C }, { &a->dnorm_parts, 2 * blocks_of(M, ROW_BLOCK) * s.C },
        { &a->rstd_final, M }, { &a->hidden, M * s.C }, { &a->dhidden, M * s.C }, { &a->chosen, M * s.C },
        { &a->dchosen, M * s.C }, { &a->loss, M }, { &a->dvalue, M },
        { &a->logits, lm ? logit_rows(network, M) * s.V : 0 },
    };
    size_t total = 0;
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        total += (parts[i].count + 15) / 16 * 16;
    free(a->block);
    a->block = memory_alloc_aligned(total, sizeof *a->block);
    float *at = a->block;
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        *parts[i].at = at;
        at += (parts[i].count + 15) / 16 * 16;
    }
    a->M = M;
}

static struct attention_shape attention_shape_of(const struct network *network)
{
    const struct sizes s = sizes_from(&network->config);
    return (struct attention_shape){ .NH = s.NH, .NKV = s.NKV, .HS = s.HS };
}

static void activations_reserve(struct network *network, const struct packed_rows *rows)
{
    struct activations *a = network->activations;
    if (rows->M > a->M)
        activations_lay_out(network, rows->M);
    size_t T = 1;
    for (size_t i = 0; i < rows->sequences; i++)
        T = rows->start[i + 1] - rows->start[i] > T ? rows->start[i + 1] - rows->start[i] : T;
    if (T > a->T) {
        const size_t HS = (size_t)network->config.head_size;
        free(a->cosine);
        free(a->sine);
        free(a->scratch);
        a->cosine = memory_alloc_aligned(T * HS / 2, sizeof *a->cosine);
        a->sine = memory_alloc_aligned(T * HS / 2, sizeof *a->sine);
        rotary_fill(a->cosine, a->sine, 0, T, HS, network->config.rope_theta);
        a->scratch_count = (attention_scratch_count(T, attention_shape_of(network)) + 15) / 16 * 16;
        a->scratch = memory_alloc_aligned(pool_threads(network->pool) * a->scratch_count, sizeof *a->scratch);
        a->T = T;
    }
}

/* ---- the parts of a pass that threads share; each function below that takes a block or a task is one ---- */

struct pass {
    struct network *network;
    const struct packed_rows *rows;
    struct activations *a;
    struct sizes s;
    size_t M;            // of this pass: layers lie M rows apart
    size_t l;            // the layer at work
    float scale;
    bool backward;
    size_t first, chunk; // counted rows whose logits are held
};

static void forward_attention_inputs(const struct pass *pass, size_t l, size_t m, size_t count)
{
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const struct layer_offsets *w = &network->layers[l];
    const size_t row = l * pass->M + m;
    rms_norm_forward(a->norm_attn + row * s.C, a->rstd_attn + row, a->x + row * s.C, network->parameters + w->attn_norm,
                     count, s.C, (float)network->config.norm_epsilon);
    linear_forward(a->qkv + row * s.Q, a->norm_attn + row * s.C, network->parameters + w->qkv, count, s.Q, s.C, OP_SET);
    rope_forward(a->qkv + row * s.Q, s.Q, pass->rows->position + m, a->cosine, a->sine, count, s.NH + s.NKV, s.HS);
}

static void forward_feed_forward(const struct pass *pass, size_t l, size_t m, size_t count)
{
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const struct layer_offsets *w = &network->layers[l];
    const size_t row = l * pass->M + m, row_next = row + pass->M;
    float *mid = a->mid + row * s.C, *next = a->x + row_next * s.C;

    memcpy(mid, a->x + row * s.C, count * s.C * sizeof *mid);
    linear_forward(mid, a->attn + row * s.A, network->parameters + w->o, count, s.C, s.A, OP_ADD);
    rms_norm_forward(a->norm_ff + row * s.C, a->rstd_ff + row, mid, network->parameters + w->ff_norm,
                     count, s.C, (float)network->config.norm_epsilon);
    linear_forward(a->gate_up + row * 2 * s.F, a->norm_ff + row * s.C, network->parameters + w->gate_up,
                   count, 2 * s.F, s.C, OP_SET);
    swiglu_forward(a->act + m * s.F, a->gate_up + row * 2 * s.F, count, s.F);
    memcpy(next, mid, count * s.C * sizeof *next);
    linear_forward(next, a->act + m * s.F, network->parameters + w->down, count, s.C, s.F, OP_ADD);
}

/* All between two layers' attention: the end of layer l - 1 and the beginning of layer l, or of the heads. */
static void forward_rows(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t m = block * ROW_BLOCK, count = block_size(pass->M, ROW_BLOCK, block);
    if (pass->l == 0)
        embedding_forward(a->x + m * s.C, network->parameters + network->embedding, pass->rows->token + m, count, s.C);
    else
        forward_feed_forward(pass, pass->l - 1, m, count);
    if (pass->l < s.L)
        forward_attention_inputs(pass, pass->l, m, count);
    else
        rms_norm_forward(a->hidden + m * s.C, a->rstd_final + m, a->x + (s.L * pass->M + m) * s.C,
                         network->parameters + network->final_norm, count, s.C, (float)network->config.norm_epsilon);
}

static void forward_attention(void *context, size_t task, size_t thread)
{
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t *start = pass->rows->start + task / s.NKV;
    const size_t row = pass->l * pass->M + start[0];
    attention_forward(a->attn + row * s.A, a->lse + row * s.NH, a->qkv + row * s.Q, start[1] - start[0], task % s.NKV,
                      attention_shape_of(pass->network), a->scratch + thread * a->scratch_count);
}

/* dx_next to the gradients of mid and of attention's output. */
static void backward_feed_forward(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const struct layer_offsets *w = &network->layers[pass->l];
    const size_t m = block * ROW_BLOCK, count = block_size(pass->M, ROW_BLOCK, block);
    const size_t row = pass->l * pass->M + m;
    float *dmid = a->dmid + m * s.C, *dnorm = a->dnorm + m * s.C;

    // forward was: next = mid + (silu(gate) * up) down^T, where gate and up are norm(mid) gate_up^T
    linear_backward_input(a->dact + m * s.F, a->dx_next + m * s.C, network->parameters + w->down, count, s.C, s.F);
    swiglu_backward(a->dgate_up + m * 2 * s.F, a->act + m * s.F, a->dact + m * s.F, a->gate_up + row * 2 * s.F, count, s.F);
    linear_backward_input(dnorm, a->dgate_up + m * 2 * s.F, network->parameters + w->gate_up, count, 2 * s.F, s.C);
    memcpy(dmid, a->dx_next + m * s.C, count * s.C * sizeof *dmid);
    float *dweight = a->dnorm_parts + (blocks_of(pass->M, ROW_BLOCK) + block) * s.C;
    memset(dweight, 0, s.C * sizeof *dweight);
    rms_norm_backward(dmid, dweight, dnorm, a->mid + row * s.C, network->parameters + w->ff_norm, a->rstd_ff + row, count, s.C);
    // forward was: mid = x + attn o^T
    linear_backward_input(a->dattn + m * s.A, dmid, network->parameters + w->o, count, s.C, s.A);
}

static void backward_attention(void *context, size_t task, size_t thread)
{
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t *start = pass->rows->start + task / s.NKV;
    const size_t m = start[0], row = pass->l * pass->M + m;
    attention_backward(a->dqkv + m * s.Q, a->dattn + m * s.A, a->attn + row * s.A, a->lse + row * s.NH, a->qkv + row * s.Q,
                       start[1] - start[0], task % s.NKV, attention_shape_of(pass->network),
                       a->scratch + thread * a->scratch_count);
}

/* dqkv and dmid to dx. */
static void backward_attention_inputs(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const struct layer_offsets *w = &network->layers[pass->l];
    const size_t m = block * ROW_BLOCK, count = block_size(pass->M, ROW_BLOCK, block);
    const size_t row = pass->l * pass->M + m;
    float *dx = a->dx + m * s.C, *dnorm = a->dnorm + m * s.C;

    // forward was: qkv = rotated norm(x) qkv^T
    rope_backward(a->dqkv + m * s.Q, s.Q, pass->rows->position + m, a->cosine, a->sine, count, s.NH + s.NKV, s.HS);
    linear_backward_input(dnorm, a->dqkv + m * s.Q, network->parameters + w->qkv, count, s.Q, s.C);
    memcpy(dx, a->dmid + m * s.C, count * s.C * sizeof *dx);
    float *dweight = a->dnorm_parts + block * s.C;
    memset(dweight, 0, s.C * sizeof *dweight);
    rms_norm_backward(dx, dweight, dnorm, a->x + row * s.C, network->parameters + w->attn_norm, a->rstd_attn + row, count, s.C);
}

static void add_parts(float *to, const float *parts, size_t count, size_t C)
{
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < C; c++)
            to[c] += parts[i * C + c];
}

/* Gradients of one layer's weights: a task is a block of rows of one matrix; the last task adds up the norms'. */
static void backward_weights(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const struct layer_offsets *w = &network->layers[pass->l];
    const size_t row = pass->l * pass->M, blocks = blocks_of(pass->M, ROW_BLOCK);
    const struct {
        size_t weight, N, K;
        const float *dy, *x;
    } linears[] = {
        { w->gate_up, 2 * s.F, s.C, a->dgate_up, a->norm_ff + row * s.C },
        { w->qkv, s.Q, s.C, a->dqkv, a->norm_attn + row * s.C },
        { w->down, s.C, s.F, a->dx_next, a->act },
        { w->o, s.C, s.A, a->dmid, a->attn + row * s.A },
    };
    for (size_t i = 0; i < COUNT_OF(linears); i++) {
        const size_t N = linears[i].N, K = linears[i].K, tasks = blocks_of(N, OUTPUT_BLOCK);
        if (task < tasks) {
            const size_t n = task * OUTPUT_BLOCK;
            linear_backward_weight(network->gradients + linears[i].weight + n * K, linears[i].dy + n, N, linears[i].x,
                                   pass->M, block_size(N, OUTPUT_BLOCK, task), K);
            return;
        }
        task -= tasks;
    }
    add_parts(network->gradients + w->attn_norm, a->dnorm_parts, blocks, s.C);
    add_parts(network->gradients + w->ff_norm, a->dnorm_parts + blocks * s.C, blocks, s.C);
}

static size_t backward_weights_tasks(const struct sizes *s)
{
    return blocks_of(2 * s->F, OUTPUT_BLOCK) + blocks_of(s->Q, OUTPUT_BLOCK) + 2 * blocks_of(s->C, OUTPUT_BLOCK) + 1;
}

static void backward_final_norm(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t m = block * ROW_BLOCK, count = block_size(pass->M, ROW_BLOCK, block);
    float *dx = a->dx + m * s.C, *dweight = a->dnorm_parts + block * s.C;
    memset(dx, 0, count * s.C * sizeof *dx);
    memset(dweight, 0, s.C * sizeof *dweight);
    rms_norm_backward(dx, dweight, a->dhidden + m * s.C, a->x + (s.L * pass->M + m) * s.C,
                      network->parameters + network->final_norm, a->rstd_final + m, count, s.C);
}

static void backward_embedding(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    struct network *network = pass->network;
    const size_t C = pass->s.C, c = task * CHANNEL_BLOCK;
    embedding_backward(network->gradients + network->embedding, pass->a->dx, pass->rows->token, pass->M, C, c,
                       block_size(C, CHANNEL_BLOCK, task));
}

/* ---- whole passes ---- */

static void network_forward(struct pass *pass)
{
    struct pool *pool = pass->network->pool;
    for (pass->l = 0; pass->l <= pass->s.L; pass->l++) {
        pool_run(pool, blocks_of(pass->M, ROW_BLOCK), forward_rows, pass);
        if (pass->l < pass->s.L)
            pool_run(pool, pass->rows->sequences * pass->s.NKV, forward_attention, pass);
    }
}

/* From dhidden to the gradients of everything below the heads. */
static void network_backward(struct pass *pass)
{
    struct network *network = pass->network;
    struct activations *a = pass->a;
    struct pool *pool = network->pool;
    const size_t blocks = blocks_of(pass->M, ROW_BLOCK);
    pool_run(pool, blocks, backward_final_norm, pass);
    add_parts(network->gradients + network->final_norm, a->dnorm_parts, blocks, pass->s.C);
    for (pass->l = pass->s.L; pass->l-- > 0; ) {
        float *dx_next = a->dx;
        a->dx = a->dx_next;
        a->dx_next = dx_next;
        pool_run(pool, blocks, backward_feed_forward, pass);
        pool_run(pool, pass->rows->sequences * pass->s.NKV, backward_attention, pass);
        pool_run(pool, blocks, backward_attention_inputs, pass);
        pool_run(pool, backward_weights_tasks(&pass->s), backward_weights, pass);
    }
    pool_run(pool, blocks_of(pass->s.C, CHANNEL_BLOCK), backward_embedding, pass);
}

/* ---- heads: hidden of the counted rows to loss and dhidden ---- */

static void choose_rows(const struct pass *pass)
{
    const size_t C = pass->s.C;
    for (size_t i = 0; i < pass->rows->counted; i++)
        memcpy(pass->a->chosen + i * C, pass->a->hidden + pass->rows->row[i] * C, C * sizeof(float));
}

static void return_rows(const struct pass *pass)
{
    const size_t C = pass->s.C;
    memset(pass->a->dhidden, 0, pass->M * C * sizeof(float));
    for (size_t i = 0; i < pass->rows->counted; i++)
        memcpy(pass->a->dhidden + pass->rows->row[i] * C, pass->a->dchosen + i * C, C * sizeof(float));
}

/* loss = sum of 0.5 * (value - target)^2 */
static double value_loss(const struct pass *pass, float *value)
{
    struct network *network = pass->network;
    struct activations *a = pass->a;
    const size_t counted = pass->rows->counted, C = pass->s.C;
    const float *weight = network->parameters + network->value, bias = network->parameters[network->value_bias];
    value_head_forward(value, a->chosen, weight, bias, counted, C);
    double loss = 0.0, dbias = 0.0;
    for (size_t i = 0; i < counted; i++) {
        const float error = value[i] - pass->rows->target[i];
        loss += 0.5 * (double)error * (double)error;
        a->dvalue[i] = pass->scale * error;
        dbias += (double)a->dvalue[i];
    }
    if (pass->backward) {
        value_head_backward(a->dchosen, network->gradients + network->value, a->dvalue, a->chosen, weight, counted, C);
        network->gradients[network->value_bias] += (float)dbias;
    }
    return loss;
}

/* Logits, losses and, with backward, gradients of a block of counted rows. */
static void lm_rows(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct network *network = pass->network;
    const struct activations *a = pass->a;
    const size_t C = pass->s.C, V = pass->s.V;
    const size_t i = block * ROW_BLOCK, count = block_size(pass->chunk, ROW_BLOCK, block), row = pass->first + i;
    float *logits = a->logits + i * V;  // (count, V)
    linear_forward(logits, a->chosen + row * C, network->parameters + network->lm_head, count, V, C, OP_SET);
    cross_entropy_forward(a->loss + row, logits, pass->rows->next + row, count, V);
    if (pass->backward) {
        cross_entropy_backward(logits, a->loss + row, pass->rows->next + row, pass->scale, count, V);
        linear_backward_input(a->dchosen + row * C, logits, network->parameters + network->lm_head, count, V, C);
    }
}

static void lm_weight(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    struct network *network = pass->network;
    const size_t C = pass->s.C, V = pass->s.V, v = task * OUTPUT_BLOCK;
    linear_backward_weight(network->gradients + network->lm_head + v * C, pass->a->logits + v, V,
                           pass->a->chosen + pass->first * C, pass->chunk, block_size(V, OUTPUT_BLOCK, task), C);
}

/* loss = sum of -log p(next) */
static double lm_loss(struct pass *pass)
{
    struct pool *pool = pass->network->pool;
    const size_t counted = pass->rows->counted, room = logit_rows(pass->network, pass->a->M);
    for (pass->first = 0; pass->first < counted; pass->first += room) {
        pass->chunk = counted - pass->first < room ? counted - pass->first : room;
        pool_run(pool, blocks_of(pass->chunk, ROW_BLOCK), lm_rows, pass);
        if (pass->backward)
            pool_run(pool, blocks_of(pass->s.V, OUTPUT_BLOCK), lm_weight, pass);
    }
    double loss = 0.0;
    for (size_t i = 0; i < counted; i++)
        loss += (double)pass->a->loss[i];
    return loss;
}

double network_loss(struct network *network, const struct packed_rows *rows, float scale, bool backward, float *value)
{
    activations_reserve(network, rows);
    struct pass pass = {
        .network = network, .rows = rows, .a = network->activations, .s = sizes_from(&network->config), .M = rows->M,
        .scale = scale, .backward = backward,
    };
    network_forward(&pass);
    choose_rows(&pass);
    double loss = network->objective == OBJECTIVE_VALUE ? value_loss(&pass, value) : lm_loss(&pass);
    if (backward) {
        return_rows(&pass);
        network_backward(&pass);
    }
    return loss;
}
