/*
 * augment.h - value-augmented sampling: the base policy's logits steered by values of the next states.
 *
 *     logits'(a) = logits(a) + sum_i beta_i * (V_i(s + a) - mean over the K candidates of V_i)
 *
 * for the K candidates a with the highest base logits (sampler.h: ties by lowest id); other tokens keep their logits
 * (arXiv 2405.06639; values are centred so that candidates move against each other and not against the other tokens).
 *
 *     V vocabulary   K candidates   I value models
 */
#ifndef SAMPLE_AUGMENT_H
#define SAMPLE_AUGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "math/kernels.h"

enum { CANDIDATES_MAX = 1024, VALUE_MODELS_MAX = 16 };

/*
 * Steers one row of logits in place.  Equal values of all candidates, or beta 0 whatever the values, leave every bit as it is.
 *
 * Returns KL(steered || base) in nats over the whole vocabulary, both at this temperature (at 1 when sampling is greedy: a
 * point mass has no finite divergence) and without top_k or top_p.  Never negative; NaN when logits are, or values that count.
 */
double augment_logits(
    const struct kernels *kernels,
    float         *logits,      // (V) in, out
    const int32_t *candidates,  // (K) from top_candidates of these logits
    const float   *values,      // (I, K) units of score
    const double  *betas,       // (I)    1 / units of score
    size_t V, size_t K, size_t I, double temperature);

/*
 * How many of the candidates, the likeliest first, have to be valued, so that this token's distribution, before top_k and top_p,
 * differs by at most share in total variation from the one that values of all K would make, while sum_i |beta_i| * (highest V_i -
 * lowest V_i) over these is at most spread (nats).  1: none, the base policy's distribution will do.
 *
 * Values move the odds of two tokens by at most exp(spread / temperature).  With x the odds of all other tokens against the n
 * likeliest, moved that far, the others have at most x / (1 + x) of either distribution, and among the n the odds are the same
 * in both.  Greedy: all that could become the likeliest, and the token is the same.
 */
size_t augment_needed(
    const struct kernels *kernels,
    const float *logits,        // (V) of the base policy
    const int32_t *candidates,  // (K) from top_candidates of these logits
    size_t V, size_t K, double spread, double temperature, double share);

#endif
