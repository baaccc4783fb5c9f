/* augment.c - see augment.h. */
#include "sample/augment.h"

#include <math.h>

#include "base/check.h"
#include "sample/sampler.h"

/*
 * KL(q || p) where q has p's logits plus shift[k] at the candidates and nothing elsewhere.  With p_k the candidates' probability
 * under p, only they differ:
 *
 *     log Z = log(1 + sum_k p_k * (exp(shift_k) - 1))        KL = sum_k p_k * exp(shift_k) / Z * shift_k - log Z
 *
 * so the vocabulary is summed once.  Shifts are taken relative to the highest of them and 0, or large ones would overflow.
 */
static double shifted_kl(const double *prob, const double *shift, size_t K)
{
    double top = 0;
    for (size_t k = 0; k < K; k++)
        top = shift[k] > top ? shift[k] : top;

    double log_z;
    if (top < 1) {
        double change = 0;
        for (size_t k = 0; k < K; k++)
            change += prob[k] * expm1(shift[k]);
        log_z = log1p(change);
    } else {
        double rest = 1, sum = 0;
        for (size_t k = 0; k < K; k++) {
            rest -= prob[k];
            sum += prob[k] * exp(shift[k] - top);
        }
        log_z = top + log(sum + fmax(rest, 0) * exp(-top));
    }

    double kl = -log_z;
    for (size_t k = 0; k < K; k++)
        kl += prob[k] * exp(shift[k] - log_z) * shift[k];
    return kl < 0 ? 0 : kl;  // rounding; a NaN stays
}

size_t augment_needed(const struct kernels *kernels, const float *logits, const int32_t *candidates, size_t V, size_t K,
                      double spread, double temperature, double share)
{
    CHECK(1 <= K && K <= V);
    float max = logits[candidates[0]];
    size_t n = 1;
    if (temperature < TEMPERATURE_GREEDY) {
        while (n < K && !((double)max - logits[candidates[n]] > spread))
            n++;
        return n;
    }
    double sum = softmax_sum(kernels, logits, V, max, temperature), valued = 0;
    for (; n < K; n++) {
        valued += exp((double)(logits[candidates[n - 1]] - max) / temperature);
        double x = (sum - valued) / valued * exp(spread / temperature);
        if (x / (1 + x) <= share)  // false where x is infinite or NaN
            break;
    }
    return n;
}

double augment_logits(const struct kernels *kernels, float *logits, const int32_t *candidates, const float *values,
                      const double *betas, size_t V, size_t K, size_t I, double temperature)
{
    CHECK(1 <= K && K <= CANDIDATES_MAX && I <= VALUE_MODELS_MAX);
    // In double a sum of K equal floats is exact, and so is its mean: equal values are centred to 0, not to a rounding error.
    double mean[VALUE_MODELS_MAX];
    for (size_t i = 0; i < I; i++) {
        double sum = 0;
        for (size_t k = 0; k < K; k++)
            sum += values[i * K + k];
        mean[i] = sum / (double)K;
    }

    if (temperature < TEMPERATURE_GREEDY)
        temperature = 1;
    float max = logits[candidates[0]];
    double base_sum = softmax_sum(kernels, logits, V, max, temperature);
    double prob[CANDIDATES_MAX], shift[CANDIDATES_MAX];
    for (size_t k = 0; k < K; k++) {
        float *logit = &logits[candidates[k]], base = *logit;
        double change = 0;
        for (size_t i = 0; i < I; i++)
            change += betas[i] != 0 ? betas[i] * ((double)values[i * K + k] - mean[i]) : 0;  // 0 times a NaN is none
        if (change != 0)  // adding 0 would turn -0 into 0
            *logit = (float)((double)base + change);
        prob[k] = exp((double)(base - max) / temperature) / base_sum;
        shift[k] = isinf(base) ? 0 : ((double)*logit - (double)base) / temperature;
    }
    return shifted_kl(prob, shift, K);
}
