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

/* act = silu(gate) * up */
void swiglu_forward(float *act,            // (M, F) out
                    const float *gate_up,  // (M, 2F): gate, then up
                    size_t M, size_t F);
/* Fills act again, which the gradient of the next weight needs. */
void swiglu_backward(float *dgate_up,      // (M, 2F) out
                     float *act,           // (M, F) out
                     const float *dact,    // (M, F)
                     const float *gate_up, // (M, 2F)
                     size_t M, size_t F);

void embedding_forward(float *x,               // (M, C) out
                       const float *embedding, // (V, C)
                       const int32_t *token,   // (M)
                       size_t M, size_t C);
/* Only channels [c, c + width): such slices are independent, rows of dembedding are not. */
void embedding_backward(float *dembedding,     // (V, C) added to
                        const float *dx,       // (M, C)
                        const int32_t *token,  // (M)
                        size_t M, size_t C, size_t c, size_t width);

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

/*
 * loss = -log softmax(logits)[next], in nats.  Forward leaves the logits and keeps what backward needs in loss alone:
 * softmax = exp(logits - logits[next] - loss).  Backward turns logits into scale times their gradient, in place.
 */
void cross_entropy_forward(float *loss,          // (M) out
                           const float *logits,  // (M, V)
                           const int32_t *next,  // (M) token ids
                           size_t M, size_t V);
void cross_entropy_backward(float *logits,        // (M, V) in, out: dlogits
                            const float *loss,    // (M)
                            const int32_t *next,  // (M)
                            float scale, size_t M, size_t V);

#endif
