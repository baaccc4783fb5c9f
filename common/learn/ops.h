/*
 * ops.h - the operations of a decoder, forward beside backward, on packed rows.
 *
 * The sequences of a micro batch lie one after the other in a matrix of M rows, without padding.  Arrays are row-major,
 * last index fastest.  Every function runs on the calling thread and on the rows it is given, so the caller may cut
 * the rows into blocks; a block's results depend on the block alone.  Nothing is allocated and nothing can fail.
 *
 *     M rows   C channels   N outputs   K inputs   F feed-forward width   H heads   HS head size   V vocabulary
 *
 * A backward function adds to gradients of weights; what it does with gradients of inputs stands beside each.
 * Attention, which looks across rows, is in attention.h.
 */
#ifndef LEARN_OPS_H
#define LEARN_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "model/config.h"

/* y = x w^T, or with OP_ADD y += x w^T.  OpenBLAS on this thread. */
enum op_store { OP_SET, OP_ADD };
void linear_forward(float *y,        // (M, N) out
                    const float *x,  // (M, K)
                    const float *w,  // (N, K)
                    size_t M, size_t N, size_t K, enum op_store store);
void linear_backward_input(float *dx,        // (M, K) out
                           const float *dy,  // (M, N)
                           const float *w,   // (N, K)
                           size_t M, size_t N, size_t K);
/* The rows of dw are independent: pass dw + n * K and dy + n for a block of them. */
void linear_backward_weight(float *dw,        // (N, K) added to
                            const float *dy,  // (M, N), rows dy_stride apart
                            size_t dy_stride,
                            const float *x,   // (M, K)
                            size_t M, size_t N, size_t K);

/* Every row of y += bias. */
void bias_forward(float *y,           // (M, N) added to
                  const float *bias,  // (N)
                  size_t M, size_t N);
/* Outputs are independent, as in linear_backward_weight. */
void bias_backward(float *dbias,      // (N) added to
                   const float *dy,   // (M, N), rows dy_stride apart
                   size_t dy_stride, size_t M, size_t N);

/* y = x * rstd * weight, rstd = 1 / sqrt(mean of x^2 + epsilon) */
void rms_norm_forward(float *y,             // (M, C) out
                      float *rstd,          // (M) out
                      const float *x,       // (M, C)
                      const float *weight,  // (C)
                      size_t M, size_t C, float epsilon);
void rms_norm_backward(float *dx,            // (M, C) added to: the residual's gradient is already there
                       float *dweight,       // (C) added to
                       const float *dy,      // (M, C)
                       const float *x,       // (M, C)
                       const float *weight,  // (C)
                       const float *rstd,    // (M)
                       size_t M, size_t C);

/* y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(mean of (x - mean)^2 + epsilon) */
void layer_norm_forward(float *y,             // (M, C) out
                        float *rstd,          // (M) out
                        const float *x,       // (M, C)
                        const float *weight,  // (C)
                        const float *bias,    // (C)
                        size_t M, size_t C, float epsilon);
void layer_norm_backward(float *dx,            // (M, C) added to
                         float *dweight,       // (C) added to
                         float *dbias,         // (C) added to
                         const float *dy,      // (M, C)
                         const float *x,       // (M, C)
                         const float *weight,  // (C)
                         const float *rstd,    // (M)
                         size_t M, size_t C);

/*
 * Rotates the pairs (i, i + HS / 2) of the first H heads of each row, in place; backward is the inverse rotation.
 * Angles by rotary_fill of model/rotary.h.
 */
void rope_forward(float *x,                  // (M, H * HS), rows x_stride apart
                  size_t x_stride,
                  const int32_t *position,   // (M), less than T
                  const float *cosine, const float *sine,  // (T, HS / 2)
                  size_t M, size_t H, size_t HS);
void rope_backward(float *dx, size_t dx_stride, const int32_t *position, const float *cosine, const float *sine,
                   size_t M, size_t H, size_t HS);

/* act = activation(gate) * up */
void gated_forward(float *act,            // (M, F) out
                   const float *gate_up,  // (M, 2F): gate, then up
                   enum activation activation, size_t M, size_t F);
/* Fills act again, which the gradient of the next weight needs. */
void gated_backward(float *dgate_up,      // (M, 2F) out
                    float *act,           // (M, F) out
                    const float *dact,    // (M, F)
                    const float *gate_up, // (M, 2F)
                    enum activation activation, size_t M, size_t F);

/* act = activation(up) */
void plain_forward(float *act,       // (M, F) out
                   const float *up,  // (M, F)
                   enum activation activation, size_t M, size_t F);
/* Fills act again. */
void plain_backward(float *dup,         // (M, F) out
                    float *act,         // (M, F) out
                    const float *dact,  // (M, F)
                    const float *up,    // (M, F)
                    enum activation activation, size_t M, size_t F);

/* x = scale * embedding[token] */
void embedding_forward(float *x,               // (M, C) out
                       const float *embedding, // (V, C)
                       const int32_t *token,   // (M)
                       float scale, size_t M, size_t C);
/* x += embedding[position] */
void position_forward(float *x,               // (M, C) added to
                      const float *embedding, // (T, C)
                      const int32_t *position, size_t M, size_t C);
/* For both.  Only channels [c, c + width): such slices are independent, rows of dembedding are not. */
void embedding_backward(float *dembedding,     // (V, C) added to
                        const float *dx,       // (M, C)
                        const int32_t *token,  // (M)
                        float scale, size_t M, size_t C, size_t c, size_t width);

/* value = hidden . weight + bias */
void value_head_forward(float *value,         // (M) out
                        const float *hidden,  // (M, C)
                        const float *weight,  // (C)
                        float bias, size_t M, size_t C);
void value_head_backward(float *dhidden,       // (M, C) out
                         float *dweight,       // (C) added to
                         const float *dvalue,  // (M)
                         const float *hidden,  // (M, C)
                         const float *weight,  // (C)
                         size_t M, size_t C);

/* x = cap * tanh(x / cap), in place */
void soft_cap(float *x, size_t count, float cap);

/*
 * loss = -log softmax(logits)[next], in nats.  Forward leaves the logits and keeps what backward needs in loss alone:
 * softmax = exp(logits - logits[next] - loss).  Backward turns logits into scale times their gradient, in place; with a
 * cap > 0 into that of what soft_cap made them from.
 */
void cross_entropy_forward(float *loss,          // (M) out
                           const float *logits,  // (M, V)
                           const int32_t *next,  // (M) token ids
                           size_t M, size_t V);
void cross_entropy_backward(float *logits,        // (M, V) in, out: dlogits
                            const float *loss,    // (M)
                            const int32_t *next,  // (M)
                            float scale, float cap, size_t M, size_t V);

#endif
