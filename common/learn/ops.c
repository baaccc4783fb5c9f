/* ops.c - see ops.h. */
#include "learn/ops.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "learn/vector.h"

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

/* ---- linear: y = x w^T ---- */

void linear_forward(float *y, const float *x, const float *w, size_t M, size_t N, size_t K, enum op_store store)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)M, (int)N, (int)K, 1.0f, x, (int)K, w, (int)K,
                store == OP_ADD ? 1.0f : 0.0f, y, (int)N);
}

void linear_backward_input(float *dx, const float *dy, const float *w, size_t M, size_t N, size_t K)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)M, (int)K, (int)N, 1.0f, dy, (int)N, w, (int)K,
                0.0f, dx, (int)K);
}

void linear_backward_weight(float *dw, const float *dy, size_t dy_stride, const float *x, size_t M, size_t N, size_t K)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)N, (int)K, (int)M, 1.0f, dy, (int)dy_stride, x, (int)K,
                1.0f, dw, (int)K);
}

CLONES void bias_forward(float *y, const float *bias, size_t M, size_t N)
{
    for (size_t m = 0; m < M; m++)
        vector_add(y + m * N, 1.0f, bias, N);
}

CLONES void bias_backward(float *dbias, const float *dy, size_t dy_stride, size_t M, size_t N)
{
    // forward was: y[m] += bias
    for (size_t m = 0; m < M; m++)
        vector_add(dbias, 1.0f, dy + m * dy_stride, N);
}

/* ---- RMSNorm ---- */

CLONES void rms_norm_forward(float *y, float *rstd, const float *x, const float *weight, size_t M, size_t C, float epsilon)
{
    for (size_t m = 0; m < M; m++) {
        const float *x_m = x + m * C;  // (C)
        float *y_m = y + m * C;        // (C)
        float r = 1.0f / sqrtf(vector_dot(x_m, x_m, C) / (float)C + epsilon);
        for (size_t c = 0; c < C; c += LANES) {
            lanes x_c, w_c;
            lanes_load(&x_c, x_m + c, C - c);
            lanes_load(&w_c, weight + c, C - c);
            x_c = x_c * r * w_c;
            lanes_store(y_m + c, &x_c, C - c);
        }
        rstd[m] = r;
    }
}

/*
 * With g = dy * weight and xhat = x * rstd:
 *     dx = rstd * (g - xhat * mean(g * xhat)),  dweight = sum over rows of dy * xhat
 */
CLONES void rms_norm_backward(float *dx, float *dweight, const float *dy, const float *x, const float *weight,
                              const float *rstd, size_t M, size_t C)
{
    for (size_t m = 0; m < M; m++) {
        const float *x_m = x + m * C, *dy_m = dy + m * C;  // (C)
        float *dx_m = dx + m * C;                          // (C)
        const float r = rstd[m];

        lanes sum = { 0 };
        for (size_t c = 0; c < C; c += LANES) {
            lanes x_c, dy_c, w_c, dw_c;
            lanes_load(&x_c, x_m + c, C - c);
            lanes_load(&dy_c, dy_m + c, C - c);
            lanes_load(&w_c, weight + c, C - c);
            lanes_load(&dw_c, dweight + c, C - c);
            dy_c *= x_c;
            sum += dy_c * w_c;
            dw_c += dy_c * r;
            lanes_store(dweight + c, &dw_c, C - c);
        }
        const float pull = r * r * r * lanes_sum(&sum) / (float)C;

        for (size_t c = 0; c < C; c += LANES) {
            lanes x_c, dy_c, w_c, dx_c;
            lanes_load(&x_c, x_m + c, C - c);
            lanes_load(&dy_c, dy_m + c, C - c);
            lanes_load(&w_c, weight + c, C - c);
            lanes_load(&dx_c, dx_m + c, C - c);
            // forward was: y = x * r * weight
            dx_c += dy_c * w_c * r - x_c * pull;
            lanes_store(dx_m + c, &dx_c, C - c);
        }
    }
}

/* ---- LayerNorm ---- */

INLINE float vector_mean(const float *x, size_t n)
{
    lanes sum = { 0 };
    for (size_t i = 0; i < n; i += LANES) {
        lanes x_i;
        lanes_load(&x_i, x + i, n - i);
        sum += x_i;
    }
    return lanes_sum(&sum) / (float)n;
}

/* The lanes i + j < n of x less mean, the others 0. */
INLINE void lanes_load_centred(lanes *x, const float *from, float mean, size_t n)
{
    lanes_load(x, from, n);
    *x -= mean;
    for (size_t lane = n; lane < LANES; lane++)
        (*x)[lane] = 0.0f;
}

CLONES void layer_norm_forward(float *y, float *rstd, const float *x, const float *weight, const float *bias, size_t M, size_t C,
                               float epsilon)
{
    for (size_t m = 0; m < M; m++) {
        const float *x_m = x + m * C;  // (C)
        const float mean = vector_mean(x_m, C);
        lanes square = { 0 };  // of what is left without the mean: the difference of two large sums would cancel
        for (size_t c = 0; c < C; c += LANES) {
            lanes x_c;
            lanes_load_centred(&x_c, x_m + c, mean, C - c);
            square += x_c * x_c;
        }
        const float r = 1.0f / sqrtf(lanes_sum(&square) / (float)C + epsilon);
        for (size_t c = 0; c < C; c += LANES) {
            lanes x_c, w_c, b_c;
            lanes_load(&x_c, x_m + c, C - c);
            lanes_load(&w_c, weight + c, C - c);
            lanes_load(&b_c, bias + c, C - c);
            x_c = (x_c - mean) * r * w_c + b_c;
            lanes_store(y + m * C + c, &x_c, C - c);
        }
        rstd[m] = r;
    }
}

/*
 * With g = dy * weight and xhat = (x - mean) * rstd:
 *     dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  dweight = sum over rows of dy * xhat,  dbias = sum of dy
 */
CLONES void layer_norm_backward(float *dx, float *dweight, float *dbias, const float *dy, const float *x, const float *weight,
                                const float *rstd, size_t M, size_t C)
{
    for (size_t m = 0; m < M; m++) {
        const float *x_m = x + m * C, *dy_m = dy + m * C;  // (C)
        float *dx_m = dx + m * C;                          // (C)
        const float r = rstd[m], mean = vector_mean(x_m, C);

        lanes sum = { 0 }, sum_xhat = { 0 };
        for (size_t c = 0; c < C; c += LANES) {
            lanes xhat, dy_c, w_c, dw_c;
            lanes_load_centred(&xhat, x_m + c, mean, C - c);
            lanes_load(&dy_c, dy_m + c, C - c);
            lanes_load(&w_c, weight + c, C - c);
            lanes_load(&dw_c, dweight + c, C - c);
            xhat *= r;
            dw_c += dy_c * xhat;
            lanes_store(dweight + c, &dw_c, C - c);
            sum += dy_c * w_c;
            sum_xhat += dy_c * w_c * xhat;
        }
        vector_add(dbias, 1.0f, dy_m, C);
        const float level = lanes_sum(&sum) / (float)C, pull = lanes_sum(&sum_xhat) / (float)C;

        for (size_t c = 0; c < C; c += LANES) {
            lanes xhat, dy_c, w_c, dx_c;
            lanes_load_centred(&xhat, x_m + c, mean, C - c);
            lanes_load(&dy_c, dy_m + c, C - c);
            lanes_load(&w_c, weight + c, C - c);
            lanes_load(&dx_c, dx_m + c, C - c);
            // forward was: y = xhat * weight + bias, xhat = (x - mean) * r
            xhat *= r;
            dx_c += r * (dy_c * w_c - level - xhat * pull);
            lanes_store(dx_m + c, &dx_c, C - c);
        }
    }
}

/* ---- rotary positions ---- */

/* direction 1 turns by +angle, -1 by -angle. */
INLINE void rope_turn(float *x, size_t x_stride, const int32_t *position, const float *cosine, const float *sine,
                      size_t M, size_t H, size_t HS, float direction)
{
    const size_t half = HS / 2;
    for (size_t m = 0; m < M; m++) {
        const float *cosine_m = cosine + (size_t)position[m] * half, *sine_m = sine + (size_t)position[m] * half;
        for (size_t h = 0; h < H; h++) {
            float *a = x + m * x_stride + h * HS, *b = a + half;  // (HS / 2)
            size_t i = 0;
            for (; i + 4 <= half; i += 4) {
                const quad a_i = *(quad *)(a + i), b_i = *(quad *)(b + i);
                const quad c_i = *(const quad *)(cosine_m + i), s_i = *(const quad *)(sine_m + i) * direction;
                *(quad *)(a + i) = a_i * c_i - b_i * s_i;
                *(quad *)(b + i) = b_i * c_i + a_i * s_i;
            }
            for (; i < half; i++) {
                const float a_i = a[i], b_i = b[i], s_i = sine_m[i] * direction;
                a[i] = a_i * cosine_m[i] - b_i * s_i;
                b[i] = b_i * cosine_m[i] + a_i * s_i;
            }
        }
    }
}

CLONES void rope_forward(float *x, size_t x_stride, const int32_t *position, const float *cosine, const float *sine,
                         size_t M, size_t H, size_t HS)
{
    rope_turn(x, x_stride, position, cosine, sine, M, H, HS, 1.0f);
}

CLONES void rope_backward(float *dx, size_t dx_stride, const int32_t *position, const float *cosine, const float *sine,
                          size_t M, size_t H, size_t HS)
{
    rope_turn(dx, dx_stride, position, cosine, sine, M, H, HS, -1.0f);
}

/* ---- feed-forward ---- */

/* y = activation(x) and its slope there.  Every activation is x times a share of it that grows from 0 to 1. */
INLINE void lanes_activate(lanes *y, lanes *slope, const lanes *x_at, const enum activation activation)
{
    const lanes x = *x_at;
    lanes share = x;
    switch (activation) {
    case ACTIVATION_SILU:
        lanes_sigmoid(&share);
        *y = x * share;
        *slope = share + *y * (1.0f - share);
        break;
    case ACTIVATION_GELU_TANH:  // (1 + tanh(u)) / 2 = sigmoid(2u)
        share = 1.5957691216057308f * x * (1.0f + 0.044715f * x * x);
        lanes_sigmoid(&share);
        *y = x * share;
        *slope = share + *y * (1.0f - share) * 1.5957691216057308f * (1.0f + 3.0f * 0.044715f * x * x);
        break;
    case ACTIVATION_GELU: {
        lanes density = -0.5f * x * x;
        lanes_exp(&density);
        lanes_normal(&share);
        *y = x * share;
        *slope = share + x * 0.39894228040143268f * density;
        break;
    }
    }
}

/* One row of either kind of feed-forward; the activation is a constant where it is called. */
INLINE void activate_row(float *act, const float *gate, const float *up, size_t F, const enum activation activation)
{
    for (size_t f = 0; f < F; f += LANES) {
        lanes g, y, slope;
        lanes_load(&g, gate + f, F - f);
        lanes_activate(&y, &slope, &g, activation);
        if (up != NULL) {
            lanes u;
            lanes_load(&u, up + f, F - f);
            y *= u;
        }
        lanes_store(act + f, &y, F - f);
    }
}

INLINE void activate_row_backward(float *dgate, float *dup, float *act, const float *dact, const float *gate, const float *up,
                                  size_t F, const enum activation activation)
{
    for (size_t f = 0; f < F; f += LANES) {
        lanes g, d, y, slope;
        lanes_load(&g, gate + f, F - f);
        lanes_load(&d, dact + f, F - f);
        lanes_activate(&y, &slope, &g, activation);
        // forward was: act = y * up, or y
        if (up != NULL) {
            lanes u;
            lanes_load(&u, up + f, F - f);
            const lanes dup_f = d * y;
            lanes_store(dup + f, &dup_f, F - f);
            y *= u;
            d *= u;
        }
        lanes_store(act + f, &y, F - f);
        const lanes dgate_f = d * slope;
        lanes_store(dgate + f, &dgate_f, F - f);
    }
}

INLINE void activate(float *act, const float *gate, const float *up, size_t F, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_SILU: activate_row(act, gate, up, F, ACTIVATION_SILU); break;
    case ACTIVATION_GELU_TANH: activate_row(act, gate, up, F, ACTIVATION_GELU_TANH); break;
    case ACTIVATION_GELU: activate_row(act, gate, up, F, ACTIVATION_GELU); break;
    }
}

INLINE void activate_backward(float *dgate, float *dup, float *act, const float *dact, const float *gate, const float *up,
                              size_t F, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_SILU: activate_row_backward(dgate, dup, act, dact, gate, up, F, ACTIVATION_SILU); break;
    case ACTIVATION_GELU_TANH: activate_row_backward(dgate, dup, act, dact, gate, up, F, ACTIVATION_GELU_TANH); break;
    case ACTIVATION_GELU: activate_row_backward(dgate, dup, act, dact, gate, up, F, ACTIVATION_GELU); break;
    }
}

CLONES void gated_forward(float *act, const float *gate_up, enum activation activation, size_t M, size_t F)
{
    for (size_t m = 0; m < M; m++)
        activate(act + m * F, gate_up + m * 2 * F, gate_up + m * 2 * F + F, F, activation);
}

CLONES void gated_backward(float *dgate_up, float *act, const float *dact, const float *gate_up, enum activation activation,
                           size_t M, size_t F)
{
    for (size_t m = 0; m < M; m++) {
        const float *gate = gate_up + m * 2 * F;  // (F), up behind it
        float *dgate = dgate_up + m * 2 * F;
        activate_backward(dgate, dgate + F, act + m * F, dact + m * F, gate, gate + F, F, activation);
    }
}

CLONES void plain_forward(float *act, const float *up, enum activation activation, size_t M, size_t F)
{
    for (size_t m = 0; m < M; m++)
        activate(act + m * F, up + m * F, NULL, F, activation);
}

CLONES void plain_backward(float *dup, float *act, const float *dact, const float *up, enum activation activation, size_t M,
                           size_t F)
{
    for (size_t m = 0; m < M; m++)
        activate_backward(dup + m * F, NULL, act + m * F, dact + m * F, up + m * F, NULL, F, activation);
}

/* ---- embedding ---- */

CLONES void embedding_forward(float *x, const float *embedding, const int32_t *token, float scale, size_t M, size_t C)
{
    memset(x, 0, M * C * sizeof *x);
    for (size_t m = 0; m < M; m++)
        vector_add(x + m * C, scale, embedding + (size_t)token[m] * C, C);
}

CLONES void position_forward(float *x, const float *embedding, const int32_t *position, size_t M, size_t C)
{
    for (size_t m = 0; m < M; m++)
        vector_add(x + m * C, 1.0f, embedding + (size_t)position[m] * C, C);
}

CLONES void embedding_backward(float *dembedding, const float *dx, const int32_t *token, float scale, size_t M, size_t C, size_t c,
                               size_t width)
{
    // forward was: x[m] = scale * embedding[token[m]]
    for (size_t m = 0; m < M; m++)
        vector_add(dembedding + (size_t)token[m] * C + c, scale, dx + m * C + c, width);
}

/* ---- value head ---- */

CLONES void value_head_forward(float *value, const float *hidden, const float *weight, float bias, size_t M, size_t C)
{
    for (size_t m = 0; m < M; m++)
        value[m] = vector_dot(hidden + m * C, weight, C) + bias;
}

CLONES void value_head_backward(float *dhidden, float *dweight, const float *dvalue, const float *hidden, const float *weight,
                                size_t M, size_t C)
{
    memset(dhidden, 0, M * C * sizeof *dhidden);
    for (size_t m = 0; m < M; m++) {
        // forward was: value[m] = hidden[m] . weight + bias
        vector_add(dhidden + m * C, dvalue[m], weight, C);
        vector_add(dweight, dvalue[m], hidden + m * C, C);
    }
}

/* ---- logits ---- */

CLONES void soft_cap(float *x, size_t count, float cap)
{
    for (size_t i = 0; i < count; i += LANES) {
        lanes x_i;
        lanes_load(&x_i, x + i, count - i);
        x_i /= cap;
        lanes_tanh(&x_i);
        x_i *= cap;
        lanes_store(x + i, &x_i, count - i);
    }
}

CLONES void cross_entropy_forward(float *loss, const float *logits, const int32_t *next, size_t M, size_t V)
{
    for (size_t m = 0; m < M; m++) {
        const float *logits_m = logits + m * V;  // (V)
        float max = logits_m[0];
        size_t whole = V / LANES * LANES;
        if (whole > 0) {
            lanes max_lanes = *(const lanes *)logits_m;
            for (size_t v = LANES; v < whole; v += LANES)
                lanes_max(&max_lanes, (const lanes *)(logits_m + v));
            max = lanes_max_across(&max_lanes);
        }
        for (size_t v = whole; v < V; v++)
            max = logits_m[v] > max ? logits_m[v] : max;

        float sum = 0.0f;
        lanes sum_lanes = { 0 };
        for (size_t v = 0; v < whole; v += LANES) {
            lanes e = *(const lanes *)(logits_m + v) - max;  // at most 0: exp cannot overflow
            lanes_exp(&e);
            sum_lanes += e;
        }
        for (size_t v = whole; v < V; v++)
            sum += expf(logits_m[v] - max);
        sum += lanes_sum(&sum_lanes);
        loss[m] = logf(sum) + (max - logits_m[next[m]]);
    }
}

CLONES void cross_entropy_backward(float *logits, const float *loss, const int32_t *next, float scale, float cap, size_t M,
                                   size_t V)
{
    const float per_cap = cap > 0.0f ? 1.0f / cap : 0.0f;
    for (size_t m = 0; m < M; m++) {
        float *logits_m = logits + m * V;  // (V)
        const float logit = logits_m[next[m]], log_sum = loss[m] + logit;
        for (size_t v = 0; v < V; v += LANES) {
            lanes p;
            lanes_load(&p, logits_m + v, V - v);
            const lanes tangent = p * per_cap;
            // forward was: loss = log_sum - logits[next], logits = cap * tanh(what is differentiated by / cap)
            p -= log_sum;
            lanes_exp(&p);
            p *= scale;
            if (cap > 0.0f)
                p *= 1.0f - tangent * tangent;
            lanes_store(logits_m + v, &p, V - v);
        }
        logits_m[next[m]] -= scale * (1.0f - logit * per_cap * (logit * per_cap));
    }
}
