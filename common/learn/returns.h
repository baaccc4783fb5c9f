/*
 * returns.h - lambda-returns, the targets a value model is trained on.
 *
 * Pure arithmetic: allocates nothing, does no I/O, cannot fail.
 *
 * A response of R tokens has states s_0 .. s_R; s_n is the prompt and the first n response tokens, value[n] its
 * estimate.  The score is paid on the last token.
 *
 *     G_R     = score                                              (the terminal state)
 *     G_{R-1} = score
 *     G_n     = gamma * ((1 - lambda) * V(s_{n+1}) + lambda * G_{n+1})     for n < R-1
 *
 * For n < R this is generalised advantage estimation plus value (arXiv 2405.06639 after arXiv 1506.02438), value frozen.
 * lambda = 1 never reads value[].
 */
#ifndef LEARN_RETURNS_H
#define LEARN_RETURNS_H

#include <stddef.h>

struct returns_config {
    float gamma;   // discount per token, in [0, 1]
    float lambda;  // trace decay, in [0, 1]
};

/* target: (R + 1) out, in units of score; value: (R + 1) or NULL when lambda is 1.  R >= 1. */
void returns_lambda(float *target, const float *value, size_t R, float score, struct returns_config config);

#endif
