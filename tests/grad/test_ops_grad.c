/*
 * Every operation of training against its definition written naively in double: forward directly, backward against
 * central differences of the naive version, on awkward shapes.
 */
#include "learn/attention.h"
#include "learn/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/philox.h"
#include "model/rotary.h"
#include "../check.h"

/* Dimensions of one case; each op reads those it has. */
struct shape {
    size_t M, C, N, K, F, H, HS, V;
    enum activation activation;
    float cap;
    struct attention_shape attention;
};
/* y from all inputs, which lie one after the other in x. */
typedef void naive_forward(double *y, const double *x, const struct shape *shape);

static const int32_t token[] = { 2, 0, 2, 1, 4, 2, 3 };     // repeats, as in a text
static const int32_t position[] = { 0, 1, 2, 0, 1, 5, 9 };  // two sequences, and gaps
enum { POSITIONS = 10 };

static float *random_floats(size_t count, uint32_t stream)
{
    float *x = memory_alloc_aligned(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)philox_normal(11, PHILOX_DATA, stream, 0, (uint32_t)i);
    return x;
}

static double *doubles_from(const float *x, size_t count)
{
    double *y = memory_alloc(count, sizeof *y);
    for (size_t i = 0; i < count; i++)
        y[i] = x[i];
    return y;
}

static void expect_forward(naive_forward *forward, const struct shape *shape, const float *x, size_t x_count,
                           const float *y, size_t y_count)
{
    double *x_double = doubles_from(x, x_count), *expected = memory_alloc(y_count, sizeof *expected);
    forward(expected, x_double, shape);
    EXPECT_FLOATS(y, expected, y_count, 2e-6);
    free(x_double);
    free(expected);
}

/* dx[first .. first + count) against central differences of sum(dy * y). */
static void expect_gradient(naive_forward *forward, const struct shape *shape, const float *x, size_t x_count,
                            const float *dy, size_t y_count, const float *dx, size_t first, size_t count)
{
    const double h = 1e-5;  // error of differences: about h^2 = 1e-10, and 1e-16 / h = 1e-11
    double *at = doubles_from(x, x_count), *y = memory_alloc(2 * y_count, sizeof *y), *numeric = memory_alloc(count, sizeof *y);
    for (size_t i = 0; i < count; i++) {
        at[first + i] = x[first + i] + h;
        forward(y, at, shape);
        at[first + i] = x[first + i] - h;
        forward(y + y_count, at, shape);
        at[first + i] = x[first + i];
        for (size_t k = 0; k < y_count; k++)
            numeric[i] += dy[k] * (y[k] - y[y_count + k]) / (2 * h);
    }
    EXPECT_FLOATS(dx, numeric, count, 1e-5);
    free(at);
    free(y);
    free(numeric);
}

/* ---- linear: x (M, K), w (N, K) ---- */

static void linear_naive(double *y, const double *x, const struct shape *s)
{
    const double *w = x + s->M * s->K;
    for (size_t m = 0; m < s->M; m++) {
        for (size_t n = 0; n < s->N; n++) {
            y[m * s->N + n] = 0;
            for (size_t k = 0; k < s->K; k++)
                y[m * s->N + n] += x[m * s->K + k] * w[n * s->K + k];
        }
    }
}

/* Goal: y = x w^T and both its gradients; gradients of weights add to what is there. */
static void test_linear(void)
{
    const struct shape shapes[] = { { .M = 1, .N = 1, .K = 1 }, { .M = 3, .N = 5, .K = 7 }, { .M = 17, .N = 9, .K = 13 } };
    for (size_t i = 0; i < 3; i++) {
        const struct shape s = shapes[i];
        size_t x_count = s.M * s.K, w_count = s.N * s.K, y_count = s.M * s.N;
        float *x = random_floats(x_count + w_count, 0), *dy = random_floats(y_count, 1), *y = random_floats(y_count, 2);
        float *dx = random_floats(x_count, 3), *dw = memory_alloc(w_count, sizeof *dw), *twice = random_floats(y_count, 2);
        linear_forward(y, x, x + x_count, s.M, s.N, s.K, OP_SET);
        expect_forward(linear_naive, &s, x, x_count + w_count, y, y_count);
        memcpy(twice, y, y_count * sizeof *y);
        linear_forward(twice, x, x + x_count, s.M, s.N, s.K, OP_ADD);
        for (size_t k = 0; k < y_count; k++)
            y[k] *= 2;
        EXPECT_FLOATS(twice, y, y_count, 1e-6);

        linear_backward_input(dx, dy, x + x_count, s.M, s.N, s.K);
        expect_gradient(linear_naive, &s, x, x_count + w_count, dy, y_count, dx, 0, x_count);
        size_t half = s.N / 2;  // in two blocks of rows, as threads take them
        linear_backward_weight(dw, dy, s.N, x, s.M, half, s.K);
        linear_backward_weight(dw + half * s.K, dy + half, s.N, x, s.M, s.N - half, s.K);
        expect_gradient(linear_naive, &s, x, x_count + w_count, dy, y_count, dw, x_count, w_count);
        linear_backward_weight(dw, dy, s.N, x, s.M, s.N, s.K);
        for (size_t k = 0; k < w_count; k++)
            dw[k] /= 2;
        expect_gradient(linear_naive, &s, x, x_count + w_count, dy, y_count, dw, x_count, w_count);
        free(x), free(dy), free(y), free(dx), free(dw), free(twice);
    }
}

/* ---- bias: x (M, N), bias (N) ---- */

static void bias_naive(double *y, const double *x, const struct shape *s)
{
    for (size_t i = 0; i < s->M * s->N; i++)
        y[i] = x[i] + x[s->M * s->N + i % s->N];
}

/* Goal: every row gets the bias, and its gradient is the sum of the rows', whatever slice of outputs is taken. */
static void test_bias(void)
{
    const struct shape shapes[] = { { .M = 1, .N = 1 }, { .M = 3, .N = 8 }, { .M = 5, .N = 21 } };
    for (size_t i = 0; i < 3; i++) {
        const struct shape s = shapes[i];
        size_t count = s.M * s.N, half = s.N / 2;
        float *x = random_floats(count + s.N, 0), *y = random_floats(count, 0), *dy = random_floats(count, 1);
        float *dbias = memory_alloc(s.N, sizeof *dbias);
        bias_forward(y, x + count, s.M, s.N);
        expect_forward(bias_naive, &s, x, count + s.N, y, count);
        bias_backward(dbias, dy, s.N, s.M, half);
        bias_backward(dbias + half, dy + half, s.N, s.M, s.N - half);
        expect_gradient(bias_naive, &s, x, count + s.N, dy, count, dbias, count, s.N);
        free(x), free(y), free(dy), free(dbias);
    }
}

/* ---- RMSNorm: x (M, C), weight (C) ---- */

static const float epsilon = 1e-2f;  // large, so that its place in the formula shows

static void rms_norm_naive(double *y, const double *x, const struct shape *s)
{
    const double *weight = x + s->M * s->C;
    for (size_t m = 0; m < s->M; m++) {
        double square = 0;
        for (size_t c = 0; c < s->C; c++)
            square += x[m * s->C + c] * x[m * s->C + c];
        for (size_t c = 0; c < s->C; c++)
            y[m * s->C + c] = x[m * s->C + c] / sqrt(square / (double)s->C + epsilon) * weight[c];
    }
}

/* Goal: the norm, and gradients that add to the residual's and to the weight's. */
static void test_rms_norm(void)
{
    const struct shape shapes[] = { { .M = 1, .C = 1 }, { .M = 3, .C = 7 }, { .M = 2, .C = 8 }, { .M = 5, .C = 21 } };
    for (size_t i = 0; i < 4; i++) {
        const struct shape s = shapes[i];
        size_t count = s.M * s.C;
        float *x = random_floats(count + s.C, 0), *dy = random_floats(count, 1), *y = random_floats(count, 2);
        float *skip = random_floats(count, 3), *dx = random_floats(count, 3), *dweight = memory_alloc(s.C, sizeof *dweight);
        float *rstd = memory_alloc(s.M, sizeof *rstd);
        rms_norm_forward(y, rstd, x, x + count, s.M, s.C, epsilon);
        expect_forward(rms_norm_naive, &s, x, count + s.C, y, count);
        rms_norm_backward(dx, dweight, dy, x, x + count, rstd, s.M, s.C);
        for (size_t k = 0; k < count; k++)
            dx[k] -= skip[k];
        expect_gradient(rms_norm_naive, &s, x, count + s.C, dy, count, dx, 0, count);
        expect_gradient(rms_norm_naive, &s, x, count + s.C, dy, count, dweight, count, s.C);
        free(x), free(dy), free(y), free(skip), free(dx), free(dweight), free(rstd);
    }
}

/* ---- LayerNorm: x (M, C), weight (C), bias (C) ---- */

static void layer_norm_naive(double *y, const double *x, const struct shape *s)
{
    const double *weight = x + s->M * s->C, *bias = weight + s->C;
    for (size_t m = 0; m < s->M; m++) {
        double mean = 0, square = 0;
        for (size_t c = 0; c < s->C; c++)
            mean += x[m * s->C + c] / (double)s->C;
        for (size_t c = 0; c < s->C; c++)
            square += (x[m * s->C + c] - mean) * (x[m * s->C + c] - mean);
        for (size_t c = 0; c < s->C; c++)
            y[m * s->C + c] = (x[m * s->C + c] - mean) / sqrt(square / (double)s->C + epsilon) * weight[c] + bias[c];
    }
}

/* Goal: the norm, and gradients that add to the residual's, the weight's and the bias's. */
static void test_layer_norm(void)
{
    const struct shape shapes[] = { { .M = 1, .C = 1 }, { .M = 3, .C = 7 }, { .M = 2, .C = 8 }, { .M = 5, .C = 21 } };
    for (size_t i = 0; i < 4; i++) {
        const struct shape s = shapes[i];
        const size_t count = s.M * s.C, x_count = count + 2 * s.C;
        float *x = random_floats(x_count, 0), *dy = random_floats(count, 1), *y = random_floats(count, 2);
        float *skip = random_floats(count, 3), *dx = random_floats(count, 3), *dweight = memory_alloc(2 * s.C, sizeof *dweight);
        float *rstd = memory_alloc(s.M, sizeof *rstd);
        layer_norm_forward(y, rstd, x, x + count, x + count + s.C, s.M, s.C, epsilon);
        expect_forward(layer_norm_naive, &s, x, x_count, y, count);
        layer_norm_backward(dx, dweight, dweight + s.C, dy, x, x + count, rstd, s.M, s.C);
        for (size_t k = 0; k < count; k++)
            dx[k] -= skip[k];
        expect_gradient(layer_norm_naive, &s, x, x_count, dy, count, dx, 0, count);
        expect_gradient(layer_norm_naive, &s, x, x_count, dy, count, dweight, count, 2 * s.C);
        free(x), free(dy), free(y), free(skip), free(dx), free(dweight), free(rstd);
    }
}

/* ---- rotary positions: x (M, H * HS + 1), the last column is another's ---- */

static void rope_naive(double *y, const double *x, const struct shape *s)
{
    size_t stride = s->H * s->HS + 1, half = s->HS / 2;
    memcpy(y, x, s->M * stride * sizeof *y);
    for (size_t m = 0; m < s->M; m++) {
        for (size_t h = 0; h < s->H; h++) {
            for (size_t i = 0; i < half; i++) {
                double angle = position[m] * pow(100.0, -2.0 * (double)i / (double)s->HS);
                const double *a = x + m * stride + h * s->HS + i;
                y[m * stride + h * s->HS + i] = a[0] * cos(angle) - a[half] * sin(angle);
                y[m * stride + h * s->HS + i + half] = a[half] * cos(angle) + a[0] * sin(angle);
            }
        }
    }
}

/* Goal: pairs turn by their angle and back, and other columns stay. */
static void test_rope(void)
{
    const struct shape shapes[] = { { .M = 1, .H = 1, .HS = 2 }, { .M = 7, .H = 2, .HS = 6 }, { .M = 5, .H = 3, .HS = 16 } };
    for (size_t i = 0; i < 3; i++) {
        const struct shape s = shapes[i];
        size_t stride = s.H * s.HS + 1, count = s.M * stride;
        float *x = random_floats(count, 0), *y = random_floats(count, 0);
        float *dy = random_floats(count, 1), *dx = random_floats(count, 1);
        float cosine[POSITIONS * 8], sine[POSITIONS * 8];
        const struct model_config config = { .head_size = (int64_t)s.HS, .rope_theta = 100.0, .position_max = POSITIONS };
        rotary_fill(cosine, sine, 0, POSITIONS, &config);
        rope_forward(y, stride, position, cosine, sine, s.M, s.H, s.HS);
        expect_forward(rope_naive, &s, x, count, y, count);
        rope_backward(dx, stride, position, cosine, sine, s.M, s.H, s.HS);
        expect_gradient(rope_naive, &s, x, count, dy, count, dx, 0, count);
        free(x), free(y), free(dy), free(dx);
    }
}

/* ---- feed-forward: gate_up (M, 2F), or up (M, F) ---- */

/* The definitions of torch.nn.functional: silu, gelu with approximate="tanh", gelu. */
static double activation_naive(double x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_SILU: return x / (1 + exp(-x));
    case ACTIVATION_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    default: return 0.5 * x * erfc(-x / sqrt(2));
    }
}

static void gated_naive(double *y, const double *x, const struct shape *s)
{
    for (size_t m = 0; m < s->M; m++)
        for (size_t f = 0; f < s->F; f++)
            y[m * s->F + f] = activation_naive(x[m * 2 * s->F + f], s->activation) * x[m * 2 * s->F + s->F + f];
}

static void plain_naive(double *y, const double *x, const struct shape *s)
{
    for (size_t i = 0; i < s->M * s->F; i++)
        y[i] = activation_naive(x[i], s->activation);
}

/* Goal: each activation, gated and plain, its gradients, and the activation once more in the backward pass. */
static void test_feed_forward(void)
{
    const struct shape shapes[] = { { .M = 1, .F = 1 }, { .M = 2, .F = 8 }, { .M = 3, .F = 19 } };
    for (int kind = 0; kind < 9; kind++) {
        struct shape s = shapes[kind % 3];
        s.activation = (enum activation)(kind / 3);
        size_t count = s.M * s.F;
        float *x = random_floats(2 * count, 0), *dy = random_floats(count, 1), *y = random_floats(count, 2);
        float *dx = random_floats(2 * count, 3), *again = random_floats(count, 4);
        x[0] = -200.0f;  // where exp(200) is not a float
        gated_forward(y, x, s.activation, s.M, s.F);
        expect_forward(gated_naive, &s, x, 2 * count, y, count);
        gated_backward(dx, again, dy, x, s.activation, s.M, s.F);
        expect_gradient(gated_naive, &s, x, 2 * count, dy, count, dx, 0, 2 * count);
        EXPECT_FLOATS(again, y, count, 0.0);
        plain_forward(y, x, s.activation, s.M, s.F);
        expect_forward(plain_naive, &s, x, count, y, count);
        plain_backward(dx, again, dy, x, s.activation, s.M, s.F);
        expect_gradient(plain_naive, &s, x, count, dy, count, dx, 0, count);
        EXPECT_FLOATS(again, y, count, 0.0);
        free(x), free(dy), free(y), free(dx), free(again);
    }
}

/* Goal: the activations hold their accuracy from far left to far right. */
static void test_activations_everywhere(void)
{
    enum { COUNT = 2001 };
    float x[COUNT], y[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        x[i] = (float)((double)i - 1000) * 0.012f;
    for (enum activation activation = ACTIVATION_SILU; activation <= ACTIVATION_GELU; activation++) {
        const struct shape s = { .M = 1, .F = COUNT, .activation = activation };
        plain_forward(y, x, activation, 1, COUNT);
        expect_forward(plain_naive, &s, x, COUNT, y, COUNT);
    }
}

/* ---- embedding: (V, C) ---- */

static const float embedding_scale = 1.5f;

/* Of tokens, scaled, from V rows; then of positions from POSITIONS rows. */
static void embedding_naive(double *y, const double *x, const struct shape *s)
{
    const double *positions = x + s->V * s->C;
    for (size_t m = 0; m < s->M; m++)
        for (size_t c = 0; c < s->C; c++)
            y[m * s->C + c] = embedding_scale * x[(size_t)token[m] * s->C + c] + positions[(size_t)position[m] * s->C + c];
}

/* Goal: rows are looked up, and gradients of a repeated token add up, whatever slice of channels is taken. */
static void test_embedding(void)
{
    const struct shape s = { .M = 7, .C = 11, .V = 5 };
    size_t count = s.M * s.C, token_count = s.V * s.C, x_count = token_count + POSITIONS * s.C;
    float *x = random_floats(x_count, 0), *dy = random_floats(count, 1), *y = random_floats(count, 2);
    float *dx = memory_alloc(x_count, sizeof *dx);
    embedding_forward(y, x, token, embedding_scale, s.M, s.C);
    position_forward(y, x + token_count, position, s.M, s.C);
    expect_forward(embedding_naive, &s, x, x_count, y, count);
    embedding_backward(dx, dy, token, embedding_scale, s.M, s.C, 0, 9);
    embedding_backward(dx, dy, token, embedding_scale, s.M, s.C, 9, 2);
    embedding_backward(dx + token_count, dy, position, 1.0f, s.M, s.C, 0, s.C);
    expect_gradient(embedding_naive, &s, x, x_count, dy, count, dx, 0, x_count);
    free(x), free(dy), free(y), free(dx);
}

/* ---- value head: hidden (M, C), weight (C), bias ---- */

static void value_head_naive(double *y, const double *x, const struct shape *s)
{
    const double *weight = x + s->M * s->C;
    for (size_t m = 0; m < s->M; m++) {
        y[m] = weight[s->C];
        for (size_t c = 0; c < s->C; c++)
            y[m] += x[m * s->C + c] * weight[c];
    }
}

/* Goal: the value and its gradients in hidden state and weight. */
static void test_value_head(void)
{
    const struct shape shapes[] = { { .M = 1, .C = 1 }, { .M = 4, .C = 13 }, { .M = 3, .C = 16 } };
    for (size_t i = 0; i < 3; i++) {
        const struct shape s = shapes[i];
        size_t count = s.M * s.C, x_count = count + s.C + 1;
        float *x = random_floats(x_count, 0), *dy = random_floats(s.M, 1), *y = random_floats(s.M, 2);
        float *dx = random_floats(count, 3), *dweight = memory_alloc(s.C, sizeof *dweight);
        value_head_forward(y, x, x + count, x[count + s.C], s.M, s.C);
        expect_forward(value_head_naive, &s, x, x_count, y, s.M);
        value_head_backward(dx, dweight, dy, x, x + count, s.M, s.C);
        expect_gradient(value_head_naive, &s, x, x_count, dy, s.M, dx, 0, count);
        expect_gradient(value_head_naive, &s, x, x_count, dy, s.M, dweight, count, s.C);
        free(x), free(dy), free(y), free(dx), free(dweight);
    }
}

/* ---- cross entropy: logits (M, V), before the cap ---- */

static double cap_naive(double x, double cap)
{
    return cap > 0 ? cap * tanh(x / cap) : x;
}

static void cross_entropy_naive(double *y, const double *x, const struct shape *s)
{
    for (size_t m = 0; m < s->M; m++) {
        double sum = 0, max = -INFINITY;
        for (size_t v = 0; v < s->V; v++)
            max = fmax(max, cap_naive(x[m * s->V + v], s->cap));
        for (size_t v = 0; v < s->V; v++)
            sum += exp(cap_naive(x[m * s->V + v], s->cap) - max);
        y[m] = log(sum) + max - cap_naive(x[m * s->V + (size_t)token[m] % s->V], s->cap);
    }
}

/* Goal: loss and gradient of the logits, capped or not, also where a plain exp would overflow. */
static void test_cross_entropy(void)
{
    const struct shape shapes[] = {
        { .M = 1, .V = 1 }, { .M = 7, .V = 5 }, { .M = 3, .V = 8 }, { .M = 6, .V = 27 }, { .M = 6, .V = 27, .cap = 1.5f },
        { .M = 5, .V = 9, .cap = 30.0f },
    };
    for (size_t i = 0; i < 6; i++) {
        const struct shape s = shapes[i];
        size_t count = s.M * s.V;
        float *x = random_floats(count, 0), *y = random_floats(s.M, 2), *dx = random_floats(count, 0);
        int32_t next[7];
        float dy[7];
        for (size_t m = 0; m < s.M; m++) {
            next[m] = token[m] % (int32_t)s.V;
            dy[m] = 0.5f;  // scale
        }
        x[count - 1] = dx[count - 1] = 120.0f;
        if (s.cap > 0)
            soft_cap(dx, count, s.cap);
        cross_entropy_forward(y, dx, next, s.M, s.V);
        expect_forward(cross_entropy_naive, &s, x, count, y, s.M);
        cross_entropy_backward(dx, y, next, 0.5f, s.cap, s.M, s.V);
        expect_gradient(cross_entropy_naive, &s, x, count, dy, s.M, dx, 0, count);
        free(x), free(y), free(dx);
    }
}

/* ---- attention: qkv (T, (NH + 2 NKV) HS), T in M ---- */

static void attention_naive(double *y, const double *x, const struct shape *s)
{
    const size_t NH = s->attention.NH, NKV = s->attention.NKV, HS = s->attention.HS, Q = (NH + 2 * NKV) * HS;
    double *prob = memory_alloc(s->M, sizeof *prob);
    for (size_t h = 0; h < NH; h++) {
        const double *q = x + h * HS, *k = x + (NH + h / (NH / NKV)) * HS, *v = k + NKV * HS;
        for (size_t t = 0; t < s->M; t++) {
            double sum = 0;
            const size_t seen = s->attention.window > 0 && t >= s->attention.window ? t + 1 - s->attention.window : 0;
            for (size_t j = seen; j <= t; j++) {
                double score = 0;
                for (size_t i = 0; i < HS; i++)
                    score += q[t * Q + i] * k[j * Q + i];
                sum += prob[j] = exp(cap_naive(score * s->attention.scale, s->attention.cap));
            }
            for (size_t i = 0; i < HS; i++) {
                double *out = &y[t * NH * HS + h * HS + i];
                *out = 0;
                for (size_t j = seen; j <= t; j++)
                    *out += prob[j] / sum * v[j * Q + i];
            }
        }
    }
    free(prob);
}

/* Goal: causal attention and the gradients of queries, keys and values: shared keys, windows of any length, soft caps. */
static void test_attention(void)
{
    const struct shape shapes[] = {
        { .M = 1, .attention = { 1, 1, 2, 0, 0.7f, 0, PRODUCTS_FLOAT32 } },
        { .M = 5, .attention = { 2, 1, 6, 0, 0.4f, 0, PRODUCTS_FLOAT32 } },
        { .M = 24, .attention = { 2, 2, 8, 0, 0.35f, 0, PRODUCTS_FLOAT32 } },
        { .M = 31, .attention = { 4, 2, 4, 0, 0.5f, 0, PRODUCTS_FLOAT32 } },
        { .M = 50, .attention = { 1, 1, 18, 0, 0.25f, 0, PRODUCTS_FLOAT32 } },
        { .M = 9, .attention = { 3, 1, 24, 0, 0.2f, 0, PRODUCTS_FLOAT32 } },
        { .M = 31, .attention = { 1, 1, 4, 1, 0.5f, 0, PRODUCTS_FLOAT32 } },
        { .M = 50, .attention = { 2, 1, 6, 7, 0.5f, 0, PRODUCTS_FLOAT32 } },
        { .M = 50, .attention = { 1, 1, 8, 30, 0.5f, 0, PRODUCTS_FLOAT32 } },
        { .M = 50, .attention = { 1, 1, 8, 50, 0.5f, 0, PRODUCTS_FLOAT32 } },
        { .M = 31, .attention = { 2, 1, 6, 0, 0.5f, 1.3f, PRODUCTS_FLOAT32 } },
        { .M = 50, .attention = { 2, 2, 4, 17, 0.5f, 20.0f, PRODUCTS_FLOAT32 } },
    };
    for (size_t i = 0; i < 12; i++) {
        const struct shape s = shapes[i];
        const struct attention_shape a = s.attention;
        size_t count = s.M * (a.NH + 2 * a.NKV) * a.HS, y_count = s.M * a.NH * a.HS;
        float *x = random_floats(count, 0), *dy = random_floats(y_count, 1), *y = random_floats(y_count, 2);
        float *dx = random_floats(count, 3), *lse = memory_alloc(s.M * a.NH, sizeof *lse);
        float *scratch = random_floats(attention_scratch_count(s.M, a), 4);
        for (size_t g = 0; g < a.NKV; g++)
            attention_forward(y, lse, x, s.M, g, a, scratch);
        expect_forward(attention_naive, &s, x, count, y, y_count);
        for (size_t g = 0; g < a.NKV; g++)
            attention_backward(dx, dy, y, lse, x, s.M, g, a, scratch);
        expect_gradient(attention_naive, &s, x, count, dy, y_count, dx, 0, count);
        free(x), free(dy), free(y), free(dx), free(lse), free(scratch);
    }
}

/* The largest difference between a and b, over the largest of a. */
static double difference(const float *a, const float *b, size_t count)
{
    double most = 0.0, largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)a[i]));
    }
    return most / largest;
}

/* Goal: with products in BF16 attention and its gradients are those of float32 but for the rounding, across blocks of queries. */
static void test_attention_bf16(void)
{
    const size_t lengths[] = { 1, 64, 150, 300 }, windows[] = { 0, 0, 70, 0 };
    if (product_kernels_get(PRODUCTS_BF16) == NULL) {
        TEST_SKIP("this processor has no products in BF16");
        return;
    }
    for (size_t i = 0; i < 4; i++) {
        struct attention_shape shape = { 2, 1, 20, windows[i], 0.2f, 0, PRODUCTS_FLOAT32 };
        const size_t T = lengths[i], count = T * 4 * 20, out_count = T * 2 * 20;
        float *qkv = random_floats(count, 0), *dout = random_floats(out_count, 1);
        float *scratch = random_floats(attention_scratch_count(T, shape), 4);
        float *out[2], *dqkv[2], *lse = memory_alloc(T * 2, sizeof *lse);
        for (int bf16 = 0; bf16 < 2; bf16++) {
            shape.products = bf16 ? PRODUCTS_BF16 : PRODUCTS_FLOAT32;
            out[bf16] = random_floats(out_count, 2);
            dqkv[bf16] = random_floats(count, 3);
            attention_forward(out[bf16], lse, qkv, T, 0, shape, scratch);
            attention_backward(dqkv[bf16], dout, out[bf16], lse, qkv, T, 0, shape, scratch);
        }
        const double of_out = difference(out[0], out[1], out_count), of_dqkv = difference(dqkv[0], dqkv[1], count);
        if (!(of_out > 0.0 && of_out < 0.01 && of_dqkv > 0.0 && of_dqkv < 0.02))  // BF16 rounds by up to 0.004
            TEST_FAIL("T=%zu: BF16 is off float32 by %g, its gradients by %g of the largest", T, of_out, of_dqkv);
        for (int bf16 = 0; bf16 < 2; bf16++)
            free(out[bf16]), free(dqkv[bf16]);
        free(qkv), free(dout), free(scratch), free(lse);
    }
}

/* Goal: an enormous key at the last position is not felt by the positions before it, to the bit. */
static void expect_causal(enum products products)
{
    enum { T = 43, HS = 10 };
    const struct attention_shape shape = { 1, 1, HS, 0, 0.3f, 0, products };
    float *x = random_floats(T * 3 * HS, 0), *scratch = random_floats(attention_scratch_count(T, shape), 4);
    float before[T * HS], after[T * HS], lse[T];
    attention_forward(before, lse, x, T, 0, shape, scratch);
    for (size_t i = HS; i < 3 * HS; i++)
        x[(T - 1) * 3 * HS + i] *= 1e9f;
    attention_forward(after, lse, x, T, 0, shape, scratch);
    EXPECT(memcmp(before, after, (T - 1) * HS * sizeof *before) == 0);
    EXPECT(memcmp(before + (T - 1) * HS, after + (T - 1) * HS, HS * sizeof *before) != 0);
    free(x), free(scratch);
}

static void test_attention_is_causal(void)
{
    expect_causal(PRODUCTS_FLOAT32);
    if (product_kernels_get(PRODUCTS_BF16) != NULL)
        expect_causal(PRODUCTS_BF16);
}

int main(void)
{
    RUN(test_linear);
    RUN(test_bias);
    RUN(test_rms_norm);
    RUN(test_layer_norm);
    RUN(test_rope);
    RUN(test_feed_forward);
    RUN(test_activations_everywhere);
    RUN(test_embedding);
    RUN(test_value_head);
    RUN(test_cross_entropy);
    RUN(test_attention);
    RUN(test_attention_bf16);
    RUN(test_attention_is_causal);
    return tests_end();
}
