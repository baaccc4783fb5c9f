/*
 * layers.c - embeddings, layers and the final norm, forward and backward.  See pass.h.
 *
 * A layer is mid = x + post(attention(norm(x))), next = mid + post(feed_forward(norm(mid))), where post is a norm or nothing.
 * Forward keeps what backward needs; what backward can have again from an elementwise operation it computes again.
 */
#include <math.h>
#include <string.h>

#include "learn/ops.h"
#include "learn/pass.h"

static const float *weight_of(const struct pass *pass, enum weight_role role, size_t l)
{
    return parameter_at(&pass->network->parameters, role, PART_WEIGHT, (int64_t)l);
}

static struct attention_shape attention_shape_of(const struct pass *pass)
{
    const struct model_config *config = pass->config;
    const double scale = config->attention_scale;
    return (struct attention_shape){
        .NH = pass->s.NH, .NKV = pass->s.NKV, .HS = pass->s.HS, .window = (size_t)config_window(config, (int64_t)pass->l),
        .scale = scale != 0.0 ? (float)scale : 1.0f / sqrtf((float)pass->s.HS), .cap = (float)config->attention_cap,
        .products = pass->network->products->kind,
    };
}

/* ---- matrices ---- */

/* Which layer's matrix a forward step multiplies with that begins layer l and ends the one before; SIZE_MAX: none. */
static size_t forward_layer(const struct pass *pass, enum linear_name name)
{
    if (pass->again)
        return pass->l;
    return name != LINEAR_QKV ? pass->l - 1 : pass->l < pass->s.L ? pass->l : SIZE_MAX;  // 0 - 1 is SIZE_MAX
}

/* Places the matrices, transposed or not, in weights_packed. */
static void place_weights(struct pass *pass, bool forward)
{
    float *data = pass->a->weights_packed;
    for (size_t i = 0; i < LINEAR_COUNT; i++) {
        const struct linear *linear = &pass->network->linears[i];
        pass->weight[i] = (struct right){
            .P = forward ? linear->K : linear->N, .J = forward ? linear->N : linear->K, .from_columns = forward, .data = data,
        };
        data += right_floats(linear->K, linear->N);
    }
    adapters_place(pass, forward);
}

/* A task is a matrix's adapters, or rows of a matrix. */
static size_t pack_weights_tasks(const struct pass *pass)
{
    size_t tasks = LINEAR_COUNT;
    for (size_t i = 0; i < LINEAR_COUNT; i++)
        tasks += blocks_of(pass->network->linears[i].N, PACK_ROWS);
    return tasks;
}

/* Rows [n, n + count) of a layer's matrix: where they are, or in out. */
static const float *weight_rows(const struct pass *pass, const struct linear *linear, size_t l, size_t n, size_t count, float *out)
{
    const float *weight = weight_of(pass, linear->parts[0].role, l);
    if (weight != NULL)
        return weight + n * linear->K;
    for (size_t i = 0; i < count; i++) {
        const struct linear_part *part = &linear->parts[linear->part_count - 1];
        while (part->first > n + i)
            part--;
        const struct parameters *parameters = &pass->network->parameters;
        rounded_get(parameters, rounded_find(parameters, part->role, (int64_t)l), n + i - part->first, 1, out + i * linear->K);
    }
    return out;
}

/* Which layer's matrix is at work; SIZE_MAX: none. */
static size_t packed_layer(const struct pass *pass, enum linear_name name)
{
    return pass->weight[name].from_columns ? forward_layer(pass, name) : pass->l;
}

static void pack_weights(void *context, size_t task, size_t thread)
{
    const struct pass *pass = context;
    if (task < LINEAR_COUNT) {
        const enum linear_name name = (enum linear_name)task;
        if (packed_layer(pass, name) != SIZE_MAX)
            adapters_pack(pass, name, packed_layer(pass, name), thread);
        return;
    }
    task -= LINEAR_COUNT;
    enum linear_name name = 0;
    for (size_t tasks; task >= (tasks = blocks_of(pass->network->linears[name].N, PACK_ROWS)); name++)
        task -= tasks;
    const struct linear *linear = &pass->network->linears[name];
    const size_t l = packed_layer(pass, name), n = task * PACK_ROWS;
    if (l == SIZE_MAX)
        return;
    const float *rows = weight_rows(pass, linear, l, n, block_size(linear->N, PACK_ROWS, task),
                                    pass->a->scratch + thread * pass->a->scratch_count);
    pass->network->products->pack(&pass->weight[name], n, rows, linear->K);
}

/* y = x w^T + bias, or y += that, of rows [m, m + count); y and x point to row m.  With adapters w is W + scale B A. */
static void linear_rows(const struct pass *pass, enum linear_name name, size_t l, float *y, const float *x, size_t m, size_t count,
                        enum op_store store)
{
    const struct linear *linear = &pass->network->linears[name];
    pass->network->products->multiply(y, linear->N, (struct left){ x, linear->K, false }, count, &pass->weight[name],
                                      store == OP_ADD);
    const float *bias = weight_of(pass, linear->bias, l);
    if (bias != NULL)
        bias_forward(y, bias, count, linear->N);
    adapters_forward(pass, name, l, y, x, m, count);
}

/* dx = dy w of rows [m, m + count) of layer pass->l; dx and dy point to row m. */
static void linear_rows_backward(const struct pass *pass, enum linear_name name, float *dx, const float *dy, size_t m, size_t count)
{
    const struct linear *linear = &pass->network->linears[name];
    pass->network->products->multiply(dx, linear->K, (struct left){ dy, linear->N, false }, count, &pass->weight[name], false);
    adapters_backward(pass, name, dx, dy, m, count);
}

/* ---- norms ---- */

/* A layer's norms, in the order of dnorm_parts.  The bias of a LayerNorm follows its weight, here and among the roles. */
static const enum weight_role norm_roles[NORM_GRADIENTS] = {
    WEIGHT_ATTN_NORM, WEIGHT_ATTN_NORM_BIAS, WEIGHT_Q_NORM, WEIGHT_K_NORM, WEIGHT_ATTN_POST_NORM,
    WEIGHT_FF_NORM, WEIGHT_FF_NORM_BIAS, WEIGHT_FF_POST_NORM,
};

/* Where a norm's gradient stands among dnorm_parts; the final norm borrows the place of the first. */
static size_t norm_index(enum weight_role role)
{
    if (role == WEIGHT_FINAL_NORM || role == WEIGHT_FINAL_NORM_BIAS)
        return role - WEIGHT_FINAL_NORM;
    size_t index = 0;
    while (norm_roles[index] != role)
        index++;
    return index;
}

static float *norm_part(const struct pass *pass, enum weight_role role, size_t block)
{
    return pass->a->dnorm_parts + (norm_index(role) * blocks_of(pass->M, pass->block) + block) * pass->s.norm_width;
}

static void norm_rows(const struct pass *pass, enum weight_role role, size_t l, float *y, float *rstd, const float *x, size_t count)
{
    const float *weight = weight_of(pass, role, l), epsilon = (float)pass->config->norm_epsilon;
    if (pass->config->norm == NORM_LAYER)
        layer_norm_forward(y, rstd, x, weight, weight_of(pass, role + 1, l), count, pass->s.C, epsilon);
    else
        rms_norm_forward(y, rstd, x, weight, count, pass->s.C, epsilon);
}

/* Adds to dx; the weight's gradient becomes this block's part. */
static void norm_rows_backward(const struct pass *pass, enum weight_role role, size_t block, float *dx, const float *dy,
                               const float *x, const float *rstd, size_t count)
{
    const size_t C = pass->s.C;
    const float *weight = weight_of(pass, role, role == WEIGHT_FINAL_NORM ? 0 : pass->l);
    float *dweight = norm_part(pass, role, block);
    memset(dweight, 0, C * sizeof *dweight);
    if (pass->config->norm == NORM_LAYER) {
        float *dbias = norm_part(pass, role + 1, block);
        memset(dbias, 0, C * sizeof *dbias);
        layer_norm_backward(dx, dweight, dbias, dy, x, weight, rstd, count, C);
    } else {
        rms_norm_backward(dx, dweight, dy, x, weight, rstd, count, C);
    }
}

/* Queries and keys of rows [m, m + count) of layer l, a head at a time; what they were goes to qk. */
static void head_norms(const struct pass *pass, size_t l, size_t m, size_t count)
{
    const struct sizes s = pass->s;
    const float *q_norm = weight_of(pass, WEIGHT_Q_NORM, l), *k_norm = weight_of(pass, WEIGHT_K_NORM, l);
    const float epsilon = (float)pass->config->norm_epsilon;
    const size_t first = kept_row(pass->a, pass->M, l, m);
    for (size_t row = first; row < first + count; row++) {
        float *q = pass->a->qkv + row * s.Q, *k = q + s.A, *raw = pass->a->qk + row * s.QK;
        float *rstd = pass->a->rstd_qk + row * (s.NH + s.NKV);
        memcpy(raw, q, s.QK * sizeof *raw);
        rms_norm_forward(q, rstd, raw, q_norm, s.NH, s.HS, epsilon);
        rms_norm_forward(k, rstd + s.NH, raw + s.A, k_norm, s.NKV, s.HS, epsilon);
    }
}

/* dqkv of queries and keys after their norms to those before. */
static void head_norms_backward(const struct pass *pass, size_t block)
{
    const struct sizes s = pass->s;
    const size_t m = block * pass->block, count = block_size(pass->M, pass->block, block);
    const float *q_norm = weight_of(pass, WEIGHT_Q_NORM, pass->l), *k_norm = weight_of(pass, WEIGHT_K_NORM, pass->l);
    float *dq_norm = norm_part(pass, WEIGHT_Q_NORM, block), *dk_norm = norm_part(pass, WEIGHT_K_NORM, block);
    memset(dq_norm, 0, s.HS * sizeof *dq_norm);
    memset(dk_norm, 0, s.HS * sizeof *dk_norm);
    for (size_t i = m; i < m + count; i++) {
        float *dq = pass->a->dqkv + i * s.Q, *dy = pass->a->dqk + i * s.QK;
        const size_t row = kept_row(pass->a, pass->M, pass->l, i);
        const float *raw = pass->a->qk + row * s.QK, *rstd = pass->a->rstd_qk + row * (s.NH + s.NKV);
        memcpy(dy, dq, s.QK * sizeof *dy);
        memset(dq, 0, s.QK * sizeof *dq);
        rms_norm_backward(dq, dq_norm, dy, raw, q_norm, rstd, s.NH, s.HS);
        rms_norm_backward(dq + s.A, dk_norm, dy + s.A, raw + s.A, k_norm, rstd + s.NH, s.NKV, s.HS);
    }
}

/* ---- forward ---- */

static void embed_rows(const struct pass *pass, size_t m, size_t count)
{
    const double scale = pass->config->embedding_scale;
    float *x = pass->a->x + m * pass->s.C;
    embedding_forward(x, weight_of(pass, WEIGHT_EMBEDDING, 0), pass->rows->token + m, scale != 0.0 ? (float)scale : 1.0f, count,
                      pass->s.C);
    if (pass->config->learned_positions)
        position_forward(x, weight_of(pass, WEIGHT_POSITION, 0), pass->rows->position + m, count, pass->s.C);
}

static float *x_row(const struct pass *pass, size_t l, size_t m)
{
    return pass->a->x + (l * pass->M + m) * pass->s.C;
}

static void forward_attention_inputs(const struct pass *pass, size_t l, size_t m, size_t count)
{
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t row = kept_row(a, pass->M, l, m);
    norm_rows(pass, WEIGHT_ATTN_NORM, l, a->norm_attn + row * s.C, a->rstd_attn + row, x_row(pass, l, m), count);
    linear_rows(pass, LINEAR_QKV, l, a->qkv + row * s.Q, a->norm_attn + row * s.C, m, count, OP_SET);
    if (pass->config->qk_norm)
        head_norms(pass, l, m, count);
    if (!pass->config->learned_positions)
        rope_forward(a->qkv + row * s.Q, s.Q, pass->rows->position + m, a->cosine, a->sine, count, s.NH + s.NKV, s.HS);
}

/* sum = x + post(input w^T) of rows [m, m + count) of layer l; sum, x and input point to row m.  out keeps what post was given. */
static void add_branch(const struct pass *pass, enum linear_name name, enum weight_role post, size_t l, float *sum, const float *x,
                       const float *input, float *out, float *rstd, size_t m, size_t count)
{
    const size_t C = pass->s.C;
    if (!pass->config->post_norms) {
        memcpy(sum, x, count * C * sizeof *sum);
        linear_rows(pass, name, l, sum, input, m, count, OP_ADD);
        return;
    }
    const size_t row = kept_row(pass->a, pass->M, l, m);
    linear_rows(pass, name, l, out + row * C, input, m, count, OP_SET);
    norm_rows(pass, post, l, sum, rstd + row, out + row * C, count);
    for (size_t i = 0; i < count * C; i++)
        sum[i] += x[i];
}

static void activate(const struct pass *pass, float *act, const float *gate_up, size_t count)
{
    if (pass->config->plain_ff)
        plain_forward(act, gate_up, pass->config->activation, count, pass->s.F);
    else
        gated_forward(act, gate_up, pass->config->activation, count, pass->s.F);
}

static void forward_feed_forward(const struct pass *pass, size_t l, size_t m, size_t count)
{
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t row = kept_row(a, pass->M, l, m);
    float *mid = a->mid + row * s.C;

    add_branch(pass, LINEAR_O, WEIGHT_ATTN_POST_NORM, l, mid, x_row(pass, l, m), a->attn + row * s.A, a->attn_out,
               a->rstd_attn_post, m, count);
    norm_rows(pass, WEIGHT_FF_NORM, l, a->norm_ff + row * s.C, a->rstd_ff + row, mid, count);
    linear_rows(pass, LINEAR_GATE_UP, l, a->gate_up + row * s.G, a->norm_ff + row * s.C, m, count, OP_SET);
    const bool adapted = pass->network->linears[LINEAR_DOWN].adapter_count > 0;
    const bool only_kept = pass->again && !pass->config->post_norms;
    if (!only_kept || adapted)
        activate(pass, a->act + m * s.F, a->gate_up + row * s.G, count);
    if (only_kept) {
        adapters_down(pass, LINEAR_DOWN, l, a->act + m * s.F, m, count);
        return;  // the next layer's x is there, and backward asks for nothing else
    }
    add_branch(pass, LINEAR_DOWN, WEIGHT_FF_POST_NORM, l, x_row(pass, l + 1, m), mid, a->act + m * s.F, a->ff_out,
               a->rstd_ff_post, m, count);
}

/* All between two layers' attention: the end of layer l - 1 and the beginning of layer l, or of the heads. */
static void forward_rows(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t m = block * pass->block, count = block_size(pass->M, pass->block, block);
    if (pass->l == 0)
        embed_rows(pass, m, count);
    else
        forward_feed_forward(pass, pass->l - 1, m, count);
    if (pass->l < s.L)
        forward_attention_inputs(pass, pass->l, m, count);
    else
        norm_rows(pass, WEIGHT_FINAL_NORM, 0, a->hidden + m * s.C, a->rstd_final + m, x_row(pass, s.L, m), count);
}

static void forward_attention(void *context, size_t task, size_t thread)
{
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t *start = pass->rows->start + task / s.NKV;
    const size_t row = kept_row(a, pass->M, pass->l, start[0]);
    attention_forward(a->attn + row * s.A, a->lse + row * s.NH, a->qkv + row * s.Q, start[1] - start[0], task % s.NKV,
                      attention_shape_of(pass), a->scratch + thread * a->scratch_count);
}

void layers_forward(struct pass *pass)
{
    struct pool *pool = pass->network->pool;
    place_weights(pass, true);
    for (pass->l = 0; pass->l <= pass->s.L; pass->l++) {
        pool_run(pool, pack_weights_tasks(pass), pack_weights, pass);
        pool_run(pool, blocks_of(pass->M, pass->block), forward_rows, pass);
        if (pass->l < pass->s.L)
            pool_run(pool, pass->rows->sequences * pass->s.NKV, forward_attention, pass);
    }
}

/* ---- once more, for backward: what forward kept of layer pass->l ---- */

static void again_attention_inputs(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    forward_attention_inputs(pass, pass->l, block * pass->block, block_size(pass->M, pass->block, block));
}

static void again_feed_forward(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    forward_feed_forward(pass, pass->l, block * pass->block, block_size(pass->M, pass->block, block));
}

static void layer_again(struct pass *pass)
{
    struct pool *pool = pass->network->pool;
    const size_t blocks = blocks_of(pass->M, pass->block);
    pass->again = true;
    place_weights(pass, true);
    pool_run(pool, pack_weights_tasks(pass), pack_weights, pass);
    pool_run(pool, blocks, again_attention_inputs, pass);
    pool_run(pool, pass->rows->sequences * pass->s.NKV, forward_attention, pass);
    pool_run(pool, blocks, again_feed_forward, pass);
    pass->again = false;
}

/* ---- backward ---- */

/* The gradient of a branch's end before its norm, where it has one. */
static float *branch_gradient(const struct pass *pass, float *dsum, float *dout)
{
    return pass->config->post_norms ? dout : dsum;
}

/* forward was: sum = x + post(out) */
static void branch_norm_backward(const struct pass *pass, enum weight_role post, size_t block, float *dout, const float *dsum,
                                 const float *out, const float *rstd, size_t count)
{
    if (!pass->config->post_norms)
        return;
    memset(dout, 0, count * pass->s.C * sizeof *dout);
    norm_rows_backward(pass, post, block, dout, dsum, out, rstd, count);
}

/* dx_next to the gradients of mid and of attention's output. */
static void backward_feed_forward(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t m = block * pass->block, count = block_size(pass->M, pass->block, block);
    const size_t row = kept_row(a, pass->M, pass->l, m);
    float *dnext = a->dx_next + m * s.C, *dmid = a->dmid + m * s.C, *dnorm = a->dnorm + m * s.C;
    float *dff_out = branch_gradient(pass, dnext, a->dff_out + m * s.C);
    float *dattn_out = branch_gradient(pass, dmid, a->dattn_out + m * s.C);
    const float *gate_up = a->gate_up + row * s.G;
    float *act = a->act + m * s.F, *dact = a->dact + m * s.F, *dgate_up = a->dgate_up + m * s.G;

    // forward was: next = mid + post(activation(gate) * up down^T), where gate and up are norm(mid) gate_up^T
    branch_norm_backward(pass, WEIGHT_FF_POST_NORM, block, dff_out, dnext, a->ff_out + row * s.C, a->rstd_ff_post + row, count);
    linear_rows_backward(pass, LINEAR_DOWN, dact, dff_out, m, count);
    if (pass->config->plain_ff)
        plain_backward(dgate_up, act, dact, gate_up, pass->config->activation, count, s.F);
    else
        gated_backward(dgate_up, act, dact, gate_up, pass->config->activation, count, s.F);
    linear_rows_backward(pass, LINEAR_GATE_UP, dnorm, dgate_up, m, count);
    memcpy(dmid, dnext, count * s.C * sizeof *dmid);
    norm_rows_backward(pass, WEIGHT_FF_NORM, block, dmid, dnorm, a->mid + row * s.C, a->rstd_ff + row, count);
    // forward was: mid = x + post(attn o^T)
    branch_norm_backward(pass, WEIGHT_ATTN_POST_NORM, block, dattn_out, dmid, a->attn_out + row * s.C, a->rstd_attn_post + row,
                         count);
    linear_rows_backward(pass, LINEAR_O, a->dattn + m * s.A, dattn_out, m, count);
}

static void backward_attention(void *context, size_t task, size_t thread)
{
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t *start = pass->rows->start + task / s.NKV;
    const size_t m = start[0], row = kept_row(a, pass->M, pass->l, m);
    attention_backward(a->dqkv + m * s.Q, a->dattn + m * s.A, a->attn + row * s.A, a->lse + row * s.NH, a->qkv + row * s.Q,
                       start[1] - start[0], task % s.NKV, attention_shape_of(pass), a->scratch + thread * a->scratch_count);
}

/* Nothing below the first layer's adapters is trained with them: then the gradient of its input is not computed. */
static bool is_last_gradient(const struct pass *pass)
{
    return pass->l == 0 && gradient_at(&pass->network->parameters, WEIGHT_EMBEDDING, PART_WEIGHT, 0) == NULL;
}

/* dqkv and dmid to dx. */
static void backward_attention_inputs(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t m = block * pass->block, count = block_size(pass->M, pass->block, block);
    const size_t row = kept_row(a, pass->M, pass->l, m);
    float *dx = a->dx + m * s.C, *dnorm = a->dnorm + m * s.C, *dqkv = a->dqkv + m * s.Q;

    // forward was: qkv = rotated norm(norm(x) qkv^T)
    if (!pass->config->learned_positions)
        rope_backward(dqkv, s.Q, pass->rows->position + m, a->cosine, a->sine, count, s.NH + s.NKV, s.HS);
    if (pass->config->qk_norm)
        head_norms_backward(pass, block);
    if (is_last_gradient(pass)) {
        adapters_backward(pass, LINEAR_QKV, NULL, dqkv, m, count);
        return;
    }
    linear_rows_backward(pass, LINEAR_QKV, dnorm, dqkv, m, count);
    memcpy(dx, a->dmid + m * s.C, count * s.C * sizeof *dx);
    norm_rows_backward(pass, WEIGHT_ATTN_NORM, block, dx, dnorm, x_row(pass, pass->l, m), a->rstd_attn + row, count);
}

/* ---- gradients of weights ---- */

/* What a matrix was multiplied with in layer pass->l, (M, K), and the gradient of the product, (M, N). */
struct product {
    const float *x, *dy;
};

static struct product product_of(const struct pass *pass, enum linear_name name)
{
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t row = kept_row(a, pass->M, pass->l, 0);
    switch (name) {
    case LINEAR_QKV: return (struct product){ a->norm_attn + row * s.C, a->dqkv };
    case LINEAR_O: return (struct product){ a->attn + row * s.A, branch_gradient(pass, a->dmid, a->dattn_out) };
    case LINEAR_GATE_UP: return (struct product){ a->norm_ff + row * s.C, a->dgate_up };
    default: return (struct product){ a->act, branch_gradient(pass, a->dx_next, a->dff_out) };
    }
}

/* One matrix of a layer is trained as all are. */
static bool is_trained(const struct pass *pass, enum linear_name name)
{
    return gradient_at(&pass->network->parameters, pass->network->linears[name].parts[0].role, PART_WEIGHT, 0) != NULL;
}

static void place_inputs(struct pass *pass)
{
    float *data = pass->a->inputs_packed;
    for (size_t i = 0; i < LINEAR_COUNT; i++) {
        if (!is_trained(pass, i))
            continue;
        pass->input[i] = (struct right){ .P = pass->M, .J = pass->network->linears[i].K, .data = data };
        data += right_floats(pass->M, pass->network->linears[i].K);
    }
}

/* Rows of what all matrices that are trained were multiplied with. */
static void pack_inputs(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const size_t m = task * PACK_ROWS;
    for (size_t i = 0; i < LINEAR_COUNT; i++) {
        const size_t K = pass->network->linears[i].K;
        if (is_trained(pass, i))
            pass->network->products->pack(&pass->input[i], m, product_of(pass, i).x + m * K, K);
    }
}

/* Outputs [task * OUTPUT_BLOCK, ...) of a matrix and its bias. */
static void linear_gradient(const struct pass *pass, enum linear_name name, size_t task)
{
    const struct parameters *parameters = &pass->network->parameters;
    const struct linear *linear = &pass->network->linears[name];
    const struct product product = product_of(pass, name);
    const size_t N = linear->N, K = linear->K, n = task * OUTPUT_BLOCK, count = block_size(N, OUTPUT_BLOCK, task);
    float *dweight = gradient_at(parameters, linear->parts[0].role, PART_WEIGHT, (int64_t)pass->l);
    float *dbias = gradient_at(parameters, linear->bias, PART_WEIGHT, (int64_t)pass->l);
    if (dweight != NULL)
        pass->network->products->multiply(dweight + n * K, K, (struct left){ product.dy + n, N, true }, count, &pass->input[name],
                                          true);
    if (dbias != NULL)
        bias_backward(dbias + n, product.dy + n, N, pass->M, count);
}

static void add_parts(float *to, const float *parts, size_t count, size_t stride, size_t width)
{
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < width; c++)
            to[c] += parts[i * stride + c];
}

/* Adds up the parts of a norm's gradient; nothing where there is no such norm, or it is frozen. */
static void norm_gradient(const struct pass *pass, enum weight_role role)
{
    const bool final = role == WEIGHT_FINAL_NORM || role == WEIGHT_FINAL_NORM_BIAS;
    const bool of_head = role == WEIGHT_Q_NORM || role == WEIGHT_K_NORM;
    float *gradient = gradient_at(&pass->network->parameters, role, PART_WEIGHT, final ? 0 : (int64_t)pass->l);
    if (gradient != NULL)
        add_parts(gradient, norm_part(pass, role, 0), blocks_of(pass->M, pass->block), pass->s.norm_width,
                  of_head ? pass->s.HS : pass->s.C);
}

static size_t linear_gradient_tasks(const struct pass *pass, enum linear_name name)
{
    const struct linear *linear = &pass->network->linears[name];
    const bool any = is_trained(pass, name) || gradient_at(&pass->network->parameters, linear->bias, PART_WEIGHT, 0) != NULL;
    return any ? blocks_of(linear->N, OUTPUT_BLOCK) : 0;
}

/* Gradients of one layer's weights: a task is a block of one matrix or of its adapters; the last adds up the norms'. */
static void backward_weights(void *context, size_t task, size_t thread)
{
    const struct pass *pass = context;
    for (enum linear_name name = 0; name < LINEAR_COUNT; name++) {
        const size_t tasks = linear_gradient_tasks(pass, name), adapter_tasks = adapters_gradient_tasks(pass, name);
        const struct product product = product_of(pass, name);
        if (task < tasks)
            linear_gradient(pass, name, task);
        else if (task < tasks + adapter_tasks)
            adapters_gradient(pass, name, product.x, product.dy, task - tasks, thread);
        if (task < tasks + adapter_tasks)
            return;
        task -= tasks + adapter_tasks;
    }
    for (size_t i = 0; i < NORM_GRADIENTS; i++)
        norm_gradient(pass, norm_roles[i]);
}

static size_t backward_weights_tasks(const struct pass *pass)
{
    size_t tasks = 1;
    for (enum linear_name name = 0; name < LINEAR_COUNT; name++)
        tasks += linear_gradient_tasks(pass, name) + adapters_gradient_tasks(pass, name);
    return tasks;
}

static void backward_final_norm(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const struct sizes s = pass->s;
    const size_t m = block * pass->block, count = block_size(pass->M, pass->block, block);
    float *dx = a->dx + m * s.C;
    memset(dx, 0, count * s.C * sizeof *dx);
    norm_rows_backward(pass, WEIGHT_FINAL_NORM, block, dx, a->dhidden + m * s.C,
                       x_row(pass, s.L, m), a->rstd_final + m, count);
}

static void backward_embeddings(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const size_t C = pass->s.C, c = task * CHANNEL_BLOCK, width = block_size(C, CHANNEL_BLOCK, task);
    const double scale = pass->config->embedding_scale;
    float *dembedding = gradient_at(&pass->network->parameters, WEIGHT_EMBEDDING, PART_WEIGHT, 0);
    float *dposition = gradient_at(&pass->network->parameters, WEIGHT_POSITION, PART_WEIGHT, 0);
    if (dembedding != NULL)
        embedding_backward(dembedding, pass->a->dx, pass->rows->token, scale != 0.0 ? (float)scale : 1.0f, pass->M, C, c, width);
    if (dposition != NULL)
        embedding_backward(dposition, pass->a->dx, pass->rows->position, 1.0f, pass->M, C, c, width);
}

static void layer_ready(const struct pass *pass)
{
    const struct network *network = pass->network;
    if (network->ready != NULL)
        network->ready(network->ready_context, parameters_layer_first(&network->parameters, (int64_t)pass->l));
}

void layers_backward(struct pass *pass)
{
    struct activations *a = pass->a;
    struct pool *pool = pass->network->pool;
    const size_t blocks = blocks_of(pass->M, pass->block);
    pool_run(pool, blocks, backward_final_norm, pass);
    norm_gradient(pass, WEIGHT_FINAL_NORM);
    norm_gradient(pass, WEIGHT_FINAL_NORM_BIAS);
    place_inputs(pass);
    for (pass->l = pass->s.L; pass->l-- > 0; ) {
        float *dx_next = a->dx;
        a->dx = a->dx_next;
        a->dx_next = dx_next;
        if (a->recompute && pass->l + 1 < pass->s.L)
            layer_again(pass);
        place_weights(pass, false);
        pool_run(pool, pack_weights_tasks(pass), pack_weights, pass);
        pool_run(pool, blocks, backward_feed_forward, pass);
        pool_run(pool, pass->rows->sequences * pass->s.NKV, backward_attention, pass);
        pool_run(pool, blocks, backward_attention_inputs, pass);
        pool_run(pool, blocks_of(pass->M, PACK_ROWS), pack_inputs, pass);
        pool_run(pool, backward_weights_tasks(pass), backward_weights, pass);
        layer_ready(pass);
    }
    pool_run(pool, blocks_of(pass->s.C, CHANNEL_BLOCK), backward_embeddings, pass);
}
