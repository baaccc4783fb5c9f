/*
 * attention.c - see attention.h.
 *
 * Keys and values of the head are first packed without gaps, once as they are (rows of positions) and once transposed
 * (rows of channels), both padded with zeros to whole vectors.  Then every product is one kind of small matrix
 * product whose right side is a row-major matrix of whole vectors: product.h's, where there is one for this processor, or vectors'.
 */
#include "learn/attention.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "learn/product.h"
#include "learn/vector.h"

/*
 * Queries that are taken together: small beside T so that little above the diagonal is computed.  In float32 a multiple of
 * TILE_ROWS; in BF16 more, since keys and values are rounded anew for each block.
 */
enum { TILE_ROWS = 6, QUERY_BLOCK = 24, QUERY_BLOCK_BF16 = 64 };

/* ---- c = a b on small matrices ---- */

/* c[r, 8w ..] (+)= sum over k of a[r, k] * b[k, 8w ..] for R rows and W vectors, kept in registers. */
INLINE void product_tile(float *c, size_t c_stride, struct left a, const float *b, size_t b_stride, size_t depth,
                         bool add, const size_t R, const size_t W)
{
    const size_t row = a.transposed ? 1 : a.stride, step = a.transposed ? a.stride : 1;
    lanes sum[TILE_ROWS][2];
#pragma GCC unroll 6
    for (size_t r = 0; r < R; r++)
#pragma GCC unroll 2
        for (size_t w = 0; w < W; w++)
            sum[r][w] = add ? *(lanes *)(c + r * c_stride + w * LANES) : (lanes){ 0 };
    for (size_t k = 0; k < depth; k++) {
        const float *a_k = a.at + k * step;
        const float *b_k = b + k * b_stride;
#pragma GCC unroll 6
        for (size_t r = 0; r < R; r++)
#pragma GCC unroll 2
            for (size_t w = 0; w < W; w++)
                sum[r][w] += a_k[r * row] * *(const lanes *)(b_k + w * LANES);
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < R; r++)
#pragma GCC unroll 2
        for (size_t w = 0; w < W; w++)
            *(lanes *)(c + r * c_stride + w * LANES) = sum[r][w];
}

/* A product_small for any processor; columns is a multiple of LANES. */
CLONES static void product_vectors(float *c, size_t c_stride, struct left a, size_t rows, const float *b, size_t b_stride,
                                   size_t depth, size_t columns, bool add)
{
    for (size_t r = 0; r < rows; ) {
        const size_t R = rows - r >= TILE_ROWS ? TILE_ROWS : 1;
        const struct left a_r = { a.at + r * (a.transposed ? 1 : a.stride), a.stride, a.transposed };
        float *c_r = c + r * c_stride;
        size_t j = 0;
        for (; j + 2 * LANES <= columns; j += 2 * LANES) {
            if (R == TILE_ROWS)
                product_tile(c_r + j, c_stride, a_r, b + j, b_stride, depth, add, TILE_ROWS, 2);
            else
                product_tile(c_r + j, c_stride, a_r, b + j, b_stride, depth, add, 1, 2);
        }
        if (j < columns) {
            if (R == TILE_ROWS)
                product_tile(c_r + j, c_stride, a_r, b + j, b_stride, depth, add, TILE_ROWS, 1);
            else
                product_tile(c_r + j, c_stride, a_r, b + j, b_stride, depth, add, 1, 1);
        }
        r += R;
    }
}

/* ---- packing ---- */

/* Rows of qkv, out and their gradients are too far apart for the processor to see that the next will be wanted. */
INLINE void fetch_row(const float *x, size_t HS)
{
    for (size_t i = 0; i < HS; i += 64 / sizeof *x)
        __builtin_prefetch(x + i);
}

/* One that will be written to. */
INLINE void fetch_row_out(float *x, size_t HS)
{
    for (size_t i = 0; i < HS; i += 64 / sizeof *x)
        __builtin_prefetch(x + i, 1);
}

enum { FETCH_AHEAD = 16 };  // rows

/* y: (T, HSP) from x: (T, HS) with rows x_stride apart; the padding is 0. */
INLINE void pack_rows(float *y, const float *x, size_t x_stride, size_t T, size_t HS, size_t HSP)
{
    for (size_t t = 0; t < T; t++) {
        fetch_row(x + (t + FETCH_AHEAD < T ? t + FETCH_AHEAD : T - 1) * x_stride, HS);
        for (size_t i = 0; i < HS; i += LANES) {
            lanes part;
            lanes_load(&part, x + t * x_stride + i, HS - i);
            *(lanes *)(y + t * HSP + i) = part;
        }
    }
}

/* x: (T, HS) with rows x_stride apart, from y: (T, HSP). */
INLINE void unpack_rows(float *x, const float *y, size_t x_stride, size_t T, size_t HS, size_t HSP)
{
    for (size_t t = 0; t < (T < FETCH_AHEAD ? T : FETCH_AHEAD); t++)
        fetch_row_out(x + t * x_stride, HS);
    for (size_t t = 0; t < T; t++) {
        fetch_row_out(x + (t + FETCH_AHEAD < T ? t + FETCH_AHEAD : T - 1) * x_stride, HS);
        for (size_t i = 0; i < HS; i += LANES)
            lanes_store(x + t * x_stride + i, (const lanes *)(y + t * HSP + i), HS - i);
    }
}

/* Three times the upper half of the rows is shuffled into the lower, as cards are. */
INLINE void transpose_8(lanes r[LANES])
{
#pragma GCC unroll 3
    for (size_t stage = 0; stage < 3; stage++) {
        lanes t[LANES];
#pragma GCC unroll 4
        for (size_t i = 0; i < LANES / 2; i++) {
            t[2 * i] = __builtin_shufflevector(r[i], r[i + LANES / 2], 0, 8, 1, 9, 2, 10, 3, 11);
            t[2 * i + 1] = __builtin_shufflevector(r[i], r[i + LANES / 2], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        memcpy(r, t, sizeof t);
    }
}

/* y: (HS, TP) from packed rows x: (T, HSP), behind which there is room to TP; the padding is 0. */
INLINE void pack_columns(float *y, float *x, size_t T, size_t HS, size_t HSP, size_t TP)
{
    memset(x + T * HSP, 0, (TP - T) * HSP * sizeof *x);
    for (size_t t = 0; t < TP; t += LANES) {
        for (size_t i = 0; i < HSP; i += LANES) {
            lanes block[LANES];
#pragma GCC unroll 8
            for (size_t k = 0; k < LANES; k++)
                block[k] = *(lanes *)(x + (t + k) * HSP + i);
            transpose_8(block);
#pragma GCC unroll 8
            for (size_t k = 0; k < LANES; k++)
                if (i + k < HS)
                    *(lanes *)(y + (i + k) * TP + t) = block[k];
        }
    }
}

/* Where things lie in a row of qkv, and in scratch. */
struct attention {
    size_t T, TP;       // TP: what positions are apart in the rows of columns
    size_t HS, HSP;     // HSP: HS in whole vectors
    size_t stride;      // of a row of qkv
    size_t out_stride;  // of a row of out
    size_t NH, heads, head;           // query heads in all; that share this key/value head; the first of them
    size_t k_offset, v_offset;        // in a row of qkv
    size_t window;                    // T where all is seen
    float scale, cap;
    float *k_columns, *v_columns;     // (HS, TP)
    float *k_rows, *v_rows, *dk, *dv; // (T, HSP)
    size_t block;                     // queries that are taken together
    float *q_block, *d_block;         // (block, HSP)
    float *p, *dp;                    // (block, TP)
    product_small *product;
};

/* T in whole lines of the cache, an odd number of them, so that the elements of a column do not compete for a place in it. */
static size_t columns_stride(size_t T)
{
    enum { LINE = 16 };
    return ((T + LINE - 1) / LINE | 1) * LINE;
}

size_t attention_scratch_count(size_t T, struct attention_shape shape)
{
    size_t TP = columns_stride(T), HSP = lanes_round_up(shape.HS);
    return 2 * shape.HS * TP + 4 * TP * HSP + 2 * QUERY_BLOCK_BF16 * (HSP + TP);
}

static struct attention attention_layout(size_t T, size_t g, struct attention_shape shape, float *scratch)
{
    const size_t HS = shape.HS, heads = shape.NH / shape.NKV;
    struct attention a = {
        .T = T, .TP = columns_stride(T), .HS = HS, .HSP = lanes_round_up(HS),
        .stride = (shape.NH + 2 * shape.NKV) * HS, .out_stride = shape.NH * HS,
        .NH = shape.NH, .heads = heads, .head = g * heads,
        .k_offset = (shape.NH + g) * HS, .v_offset = (shape.NH + shape.NKV + g) * HS,
        .window = shape.window > 0 && shape.window < T ? shape.window : T, .scale = shape.scale, .cap = shape.cap,
        .block = shape.products == PRODUCTS_BF16 ? QUERY_BLOCK_BF16 : QUERY_BLOCK,
        .product = product_small_get(shape.products),
    };
    if (a.product == NULL)
        a.product = product_vectors;
    float **parts[] = { &a.k_columns, &a.v_columns, &a.k_rows, &a.v_rows, &a.dk, &a.dv, &a.p, &a.dp, &a.q_block, &a.d_block };
    size_t counts[] = { HS * a.TP, HS * a.TP, a.TP * a.HSP, a.TP * a.HSP, a.TP * a.HSP, a.TP * a.HSP,
                        a.block * a.TP, a.block * a.TP, a.block * a.HSP, a.block * a.HSP };
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        *parts[i] = scratch;
        scratch += counts[i];
    }
    return a;
}

/* ---- scores ---- */

/* The first key that queries from t on are held against: a whole vector at or before the first that t sees. */
INLINE size_t keys_first(const struct attention *a, size_t t)
{
    return t + 1 > a->window ? (t + 1 - a->window) / LANES * LANES : 0;
}

/* How many of the keys from first on lie before all that query t sees. */
INLINE size_t keys_unseen(const struct attention *a, size_t t, size_t first)
{
    return t + 1 > a->window ? t + 1 - a->window - first : 0;
}

/* What softmax still has to multiply scores by, once those of all rows are capped where there is a cap. */
INLINE float scores_cap(float *p, const struct attention *a, size_t rows, size_t columns)
{
    if (a->cap == 0.0f)
        return a->scale;
    const float inner = a->scale / a->cap;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j += LANES) {
            lanes x = *(lanes *)(p + i * a->TP + j) * inner;
            lanes_tanh(&x);
            *(lanes *)(p + i * a->TP + j) = x * a->cap;
        }
    }
    return 1.0f;
}

/* ---- forward ---- */

/* All bits of the lanes j + i < n. */
INLINE void lanes_before(lane_bits *mask, size_t j, size_t n)
{
    const lane_bits lane = { 0, 1, 2, 3, 4, 5, 6, 7 };
    *mask = lane < (int32_t)(n - j);
}

/*
 * p[unseen .. n) = exp(scale * (p - max)), 0 before and from n to columns; returns the sum.  *lse is the log of the sum of
 * exp(scale * p).  What stands beyond n before belongs to later positions and must not be felt.
 */
INLINE float softmax_row(float *p, size_t unseen, size_t n, size_t columns, float scale, float *lse)
{
    const size_t last = (n - 1) / LANES * LANES;
    for (size_t j = 0; j < unseen; j++)
        p[j] = -FLT_MAX;  // its exp is less than the rounding of the sum, which is at least 1
    const lanes first = (lanes){ 0 } + p[unseen];
    lane_bits before;
    lanes_before(&before, last, n);
    lanes_choose((lanes *)(p + last), &before, (lanes *)(p + last), &first);
    lanes max_lanes = first;
    for (size_t j = 0; j <= last; j += LANES)
        lanes_max(&max_lanes, (lanes *)(p + j));
    const float max = lanes_max_across(&max_lanes);

    lanes sum_lanes = { 0 };
    for (size_t j = 0; j <= last; j += LANES) {
        lanes e = (*(lanes *)(p + j) - max) * scale;
        lanes_exp(&e);
        if (j == last)
            e = (lanes)((lane_bits)e & before);
        sum_lanes += e;
        *(lanes *)(p + j) = e;
    }
    for (size_t j = last + LANES; j < columns; j += LANES)
        *(lanes *)(p + j) = (lanes){ 0 };
    memset(p, 0, unseen * sizeof *p);
    const float sum = lanes_sum(&sum_lanes);
    *lse = scale * max + logf(sum);
    return sum;
}

/* Queries [t, t + rows) of head h. */
INLINE void forward_block(float *out, float *lse, const float *qkv, const struct attention *a, size_t h, size_t t, size_t rows)
{
    const size_t first = keys_first(a, t), keys = t + rows - first, columns = lanes_round_up(keys);
    const struct left q = { qkv + t * a->stride + h * a->HS, a->stride, false };
    a->product(a->p, a->TP, q, rows, a->k_columns + first, a->TP, a->HS, columns, false);
    const float scale = scores_cap(a->p, a, rows, columns);
    float sum[QUERY_BLOCK_BF16];
    for (size_t i = 0; i < rows; i++)
        sum[i] = softmax_row(a->p + i * a->TP, keys_unseen(a, t + i, first), t + i + 1 - first, columns, scale,
                             lse + (t + i) * a->NH + h);

    const struct left p = { a->p, a->TP, false };
    a->product(a->q_block, a->HSP, p, rows, a->v_rows + first * a->HSP, a->HSP, keys, a->HSP, false);
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < a->HSP; c += LANES)
            *(lanes *)(a->q_block + i * a->HSP + c) /= sum[i];
    unpack_rows(out + t * a->out_stride + h * a->HS, a->q_block, a->out_stride, rows, a->HS, a->HSP);
}

CLONES void attention_forward(float *out, float *lse, const float *qkv, size_t T, size_t g, struct attention_shape shape,
                              float *scratch)
{
    const struct attention a = attention_layout(T, g, shape, scratch);
    pack_rows(a.k_rows, qkv + a.k_offset, a.stride, T, a.HS, a.HSP);
    pack_columns(a.k_columns, a.k_rows, T, a.HS, a.HSP, a.TP);
    pack_rows(a.v_rows, qkv + a.v_offset, a.stride, T, a.HS, a.HSP);
    for (size_t h = a.head; h < a.head + a.heads; h++)
        for (size_t t = 0; t < T; t += a.block)
            forward_block(out, lse, qkv, &a, h, t, T - t < a.block ? T - t : a.block);
}

/* ---- backward ---- */

/*
 * On entry p holds scores, times scale those of softmax, and dp holds dout . v.  On return p holds probabilities and dp
 * the gradients of q . k; both 0 before unseen and from n to columns.
 */
INLINE void softmax_backward_row(float *p, float *dp, size_t unseen, size_t n, size_t columns, const struct attention *a,
                                 float scale, float lse, float mean)
{
    const float per_cap = a->cap > 0.0f ? 1.0f / a->cap : 0.0f;
    const size_t last = (n - 1) / LANES * LANES;
    lane_bits before;
    lanes_before(&before, last, n);
    for (size_t j = 0; j <= last; j += LANES) {
        // forward was: p = exp(scale * score - lse), with a cap score = cap * tanh(a->scale * q . k / cap)
        const lanes tangent = *(lanes *)(p + j) * per_cap;
        lanes e = *(lanes *)(p + j) * scale - lse;
        lanes_exp(&e);
        if (j == last)
            e = (lanes)((lane_bits)e & before);
        *(lanes *)(p + j) = e;
        *(lanes *)(dp + j) = e * (*(lanes *)(dp + j) - mean) * a->scale * (1.0f - tangent * tangent);
    }
    for (size_t j = last + LANES; j < columns; j += LANES)
        *(lanes *)(p + j) = *(lanes *)(dp + j) = (lanes){ 0 };
    memset(p, 0, unseen * sizeof *p);
    memset(dp, 0, unseen * sizeof *dp);
}

/* Queries [t, t + rows) of head h: sets their dq, adds to dk and dv. */
INLINE void backward_block(float *dqkv, const float *dout, const float *out, const float *lse, const float *qkv,
                           const struct attention *a, size_t h, size_t t, size_t rows)
{
    const size_t first = keys_first(a, t), keys = t + rows - first, columns = lanes_round_up(keys);
    const float *q_t = qkv + t * a->stride + h * a->HS;             // (rows, HS), stride a->stride
    const float *dout_t = dout + t * a->out_stride + h * a->HS;     // (rows, HS), stride a->out_stride
    const float *out_t = out + t * a->out_stride + h * a->HS;
    for (size_t i = 0; i < rows; i++)
        fetch_row(out_t + i * a->out_stride, a->HS);
    pack_rows(a->q_block, q_t, a->stride, rows, a->HS, a->HSP);
    pack_rows(a->d_block, dout_t, a->out_stride, rows, a->HS, a->HSP);
    const struct left q = { a->q_block, a->HSP, false }, d = { a->d_block, a->HSP, false };
    a->product(a->p, a->TP, q, rows, a->k_columns + first, a->TP, a->HS, columns, false);
    a->product(a->dp, a->TP, d, rows, a->v_columns + first, a->TP, a->HS, columns, false);
    const float scale = scores_cap(a->p, a, rows, columns);
    for (size_t i = 0; i < rows; i++) {
        // the mean of dp under p, because out is the mean of v under p
        const float mean = vector_dot(dout_t + i * a->out_stride, out_t + i * a->out_stride, a->HS);
        softmax_backward_row(a->p + i * a->TP, a->dp + i * a->TP, keys_unseen(a, t + i, first), t + i + 1 - first, columns, a,
                             scale, lse[(t + i) * a->NH + h], mean);
    }

    // forward was: score = q . k and out = p v
    const struct left p_t = { a->p, a->TP, true }, dp_t = { a->dp, a->TP, true }, dp = { a->dp, a->TP, false };
    a->product(a->dv + first * a->HSP, a->HSP, p_t, keys, a->d_block, a->HSP, rows, a->HSP, true);
    a->product(a->dk + first * a->HSP, a->HSP, dp_t, keys, a->q_block, a->HSP, rows, a->HSP, true);
    a->product(a->q_block, a->HSP, dp, rows, a->k_rows + first * a->HSP, a->HSP, keys, a->HSP, false);
    unpack_rows(dqkv + t * a->stride + h * a->HS, a->q_block, a->stride, rows, a->HS, a->HSP);
}

CLONES void attention_backward(float *dqkv, const float *dout, const float *out, const float *lse, const float *qkv,
                               size_t T, size_t g, struct attention_shape shape, float *scratch)
{
    const struct attention a = attention_layout(T, g, shape, scratch);
    pack_rows(a.k_rows, qkv + a.k_offset, a.stride, T, a.HS, a.HSP);
    pack_columns(a.k_columns, a.k_rows, T, a.HS, a.HSP, a.TP);
    pack_rows(a.v_rows, qkv + a.v_offset, a.stride, T, a.HS, a.HSP);
    pack_columns(a.v_columns, a.v_rows, T, a.HS, a.HSP, a.TP);
    memset(a.dk, 0, T * a.HSP * sizeof *a.dk);
    memset(a.dv, 0, T * a.HSP * sizeof *a.dv);
    for (size_t h = a.head; h < a.head + a.heads; h++)
        for (size_t t = 0; t < T; t += a.block)
            backward_block(dqkv, dout, out, lse, qkv, &a, h, t, T - t < a.block ? T - t : a.block);
    unpack_rows(dqkv + a.k_offset, a.dk, a.stride, T, a.HS, a.HSP);
    unpack_rows(dqkv + a.v_offset, a.dv, a.stride, T, a.HS, a.HSP);
}
