/*
 * sampler.h - from logits to a token, as a pure function of logits, options and one uniform number.
 *
 * Arithmetic only: allocates nothing after init, keeps nothing between calls, is the same on any thread.
 * Candidates are ordered by logit, highest first, equal logits by token id, lowest first.
 *
 *     V vocabulary   K candidates
 */
#ifndef SAMPLE_SAMPLER_H
#define SAMPLE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "math/kernels.h"

struct sampling {
    double temperature;  // below TEMPERATURE_GREEDY: the highest logit is taken
    double top_p;        // in (0, 1]: the fewest candidates that hold this much probability; 1: all
    int64_t top_k;       // that many candidates at most; 0: all
};
#define TEMPERATURE_GREEDY 1e-4
/* What programs accept. */
#define TEMPERATURE_MAX 100
#define TOP_P_MIN 1e-9
#define TOP_K_MAX 1048576
#define SEED_MAX 9007199254740991  // that any reader of JSON keeps exactly

/* Room for one row of logits; one for each thread that samples. */
struct sample_scratch {
    float *probs;    // (V)
    int32_t *order;  // (V)
    double *sums;    // of probs, a block each
};
void sample_scratch_init(struct sample_scratch *scratch, size_t V);
void sample_scratch_free(struct sample_scratch *scratch);

struct sampled {
    int32_t token;   // -1: the logits hold a NaN or an infinity that leaves nothing to draw from
    double logprob;  // under the distribution that was sampled from (0 when greedy), nats
};

/*
 * Temperature, then top_k, then top_p, then one draw; uniform is in [0, 1).  Kept tokens share the unit interval in the order
 * of their ids, so a truncation that removes nothing changes nothing.
 */
struct sampled sample_token(const struct kernels *kernels, const float *logits, size_t V, struct sampling sampling, double uniform,
                            struct sample_scratch *scratch);

/* The uniform number that decides response token number position (from 0) of a sample of a prompt. */
double sample_uniform(uint64_t seed, const char *prompt_key, uint32_t sample, uint32_t position);

/* log softmax(logits)[token] at temperature 1, nats; NaN where the logits are. */
double logprob_from_logits(const struct kernels *kernels, const float *logits, size_t V, int32_t token);

/* The first K tokens of the candidates' order, in that order.  1 <= K <= V.  NaN comes last. */
void top_candidates(const struct kernels *kernels, int32_t *candidates, const float *logits, size_t V, size_t K);

/* sum over v of exp((logits[v] - max) / temperature); max: the highest logit. */
double softmax_sum(const struct kernels *kernels, const float *logits, size_t V, float max, double temperature);

#endif
