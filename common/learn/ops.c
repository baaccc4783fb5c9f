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

/* ---- SwiGLU ---- */

/* sigmoid = 1 / (1 + exp(-x)) */
INLINE void lanes_sigmoid(lanes *sigmoid, const lanes *x)
{
    *sigmoid = -*x;
    lanes_exp(sigmoid);
    *sigmoid = 1.0f / (1.0f + *sigmoid);
}

CLONES void swiglu_forward(float *act, const float *gate_up, size_t M, size_t F)
{
    for (size_t m = 0; m < M; m++) {
        const float *gate = gate_up + m * 2 * F, *up = gate + F;  // (F)
        float *act_m = act + m * F;                               // (F)
        for (size_t f = 0; f < F; f += LANES) {
            lanes g, u, s;
            lanes_load(&g, gate + f, F - f);
            lanes_load(&u, up + f, F - f);
            lanes_sigmoid(&s, &g);
            const lanes act_f = g * s * u;
            lanes_store(act_m + f, &act_f, F - f);
        }
    }
}

CLONES void swiglu_backward(float *dgate_up, float *act, const float *dact, const float *gate_up, size_t M, size_t F)
{
    for (size_t m = 0; m < M; m++) {
        const float *gate = gate_up + m * 2 * F, *up = gate + F;   // (F)
        float *dgate = dgate_up + m * 2 * F, *dup = dgate + F;     // (F)
        const float *dact_m = dact + m * F;                        // (F)
        float *act_m = act + m * F;                                // (F)
        for (size_t f = 0; f < F; f += LANES) {
            lanes g, u, d, s;
            lanes_load(&g, gate + f, F - f);
            lanes_load(&u, up + f, F - f);
            lanes_load(&d, dact_m + f, F - f);
            lanes_sigmoid(&s, &g);
            // forward was: act = g * sigmoid(g) * u
            const lanes silu = g * s;
            const lanes act_f = silu * u, dup_f = d * silu;
            const lanes dgate_f = d * u * (s + silu * (1.0f - s));
            lanes_store(act_m + f, &act_f, F - f);
            lanes_store(dup + f, &dup_f, F - f);
            lanes_store(dgate + f, &dgate_f, F - f);
        }
    }
}

/* ---- embedding ---- */

void embedding_forward(float *x, const float *embedding, const int32_t *token, size_t M, size_t C)
{
    for (size_t m = 0; m < M; m++)
        memcpy(x + m * C, embedding + (size_t)token[m] * C, C * sizeof *x);
}

CLONES void embedding_backward(float *dembedding, const float *dx, const int32_t *token, size_t M, size_t C, size_t c, size_t width)
{
    // forward was: x[m] = embedding[token[m]]
    for (size_t m = 0; m < M; m++)
        vector_add(dembedding + (size_t)token[m] * C + c, 1.0f, dx + m * C + c, width);
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

/* ---- cross entropy ---- */

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

CLONES void cross_entropy_backward(float *logits, const float *loss, const int32_t *next, float scale, size_t M, size_t V)
{
    for (size_t m = 0; m < M; m++) {
        float *logits_m = logits + m * V;  // (V)
        const float log_sum = loss[m] + logits_m[next[m]];
        for (size_t v = 0; v < V; v += LANES) {
            lanes p;
            lanes_load(&p, logits_m + v, V - v);
            // forward was: loss = log_sum - logits[next]
            p -= log_sum;
            lanes_exp(&p);
            p *= scale;
            lanes_store(logits_m + v, &p, V - v);
        }
        logits_m[next[m]] -= scale;
    }
}
