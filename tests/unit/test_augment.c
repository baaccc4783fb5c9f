/* Value-augmented logits and their divergence: by hand, and against sums over the whole vocabulary in long double. */
#include "base/philox.h"
#include "sample/augment.h"
#include "sample/sampler.h"
#include "../check.h"

/* Goal: beta times the centred value is added to each candidate, and nothing to any other token. */
static void test_augment_by_hand(void)
{
    float logits[] = { 0, 4, -1, 3 };
    int32_t candidates[2];
    top_candidates(kernels_get(), candidates, logits, 4, 2);
    EXPECT_INT(candidates[0], 1);
    EXPECT_INT(candidates[1], 3);
    const float values[] = { 0.5f, 1.5f };  // mean 1: -0.5 and 0.5, times 3
    augment_logits(kernels_get(), logits, candidates, values, (double[]){ 3 }, 4, 2, 1, 1);
    EXPECT_FLOATS(logits, ((float[]){ 0, 2.5f, -1, 4.5f }), 4, 0);
}

/* Goal: two value models add up, each with its own beta; a negative beta steers away. */
static void test_two_value_models(void)
{
    float logits[] = { 2, 1 };
    const float values[] = { 1, 0,   0, 4 };  // centred: 0.5, -0.5 and -2, 2
    augment_logits(kernels_get(), logits, (int32_t[]){ 0, 1 }, values, (double[]){ 2, -0.25 }, 2, 2, 2, 1);
    EXPECT_FLOATS(logits, ((float[]){ 3.5f, -0.5f }), 2, 0);
}

/* Goal: probabilities 1/2, 1/2 steered to 3/4, 1/4 have KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812. */
static void test_kl_by_hand(void)
{
    float logits[] = { 5, 5 };
    const float values[] = { logf(3), 0 };  // centred: plus and minus ln(3) / 2, so the odds become 3
    double kl = augment_logits(kernels_get(), logits, (int32_t[]){ 0, 1 }, values, (double[]){ 1 }, 2, 2, 1, 1);
    EXPECT_NEAR(kl, 0.75 * log(1.5) + 0.25 * log(0.5), 1e-7);
}

/* Goal: equal values change no bit, whatever they are, and their KL is 0. */
static void test_constant_values(void)
{
    enum { V = 50 };
    for (int i = 0; i < 200; i++) {
        float logits[V], before[V], values[20];
        int32_t candidates[20];
        for (uint32_t v = 0; v < V; v++)
            logits[v] = v == 7 ? -0.0f : (float)philox_normal(1, PHILOX_DATA, 0, (uint32_t)i, v);
        memcpy(before, logits, sizeof logits);
        size_t K = 1 + (size_t)i % 20;
        for (size_t k = 0; k < K; k++)
            values[k] = (float)(1e3 * philox_normal(2, PHILOX_DATA, 0, 0, (uint32_t)i));
        top_candidates(kernels_get(), candidates, logits, V, K);
        double kl = augment_logits(kernels_get(), logits, candidates, values, (double[]){ 80 }, V, K, 1, 1);
        EXPECT(memcmp(logits, before, sizeof logits) == 0);
        EXPECT_NEAR(kl, 0, 0);
    }
}

/* Goal: a second value model with beta 0 changes no bit of what the first one does, whatever its values. */
static void test_second_beta_zero(void)
{
    float alone[] = { 3, 2, 1, 0.5f }, both[] = { 3, 2, 1, 0.5f };
    const float values[] = { 0.3f, 0.1f, 0.7f,   5, NAN, INFINITY };
    const int32_t candidates[] = { 0, 1, 2 };
    double kl_alone = augment_logits(kernels_get(), alone, candidates, values, (double[]){ 1.7 }, 4, 3, 1, 0.8);
    double kl_both = augment_logits(kernels_get(), both, candidates, values, (double[]){ 1.7, 0 }, 4, 3, 2, 0.8);
    EXPECT(memcmp(alone, both, sizeof alone) == 0);
    EXPECT_NEAR(kl_both, kl_alone, 0);
}

/* KL(softmax(steered / temperature) || softmax(base / temperature)), the plain way. */
static double kl_naive(const float *steered, const float *base, size_t V, double temperature)
{
    long double sum_steered = 0, sum_base = 0, kl = 0;
    for (size_t v = 0; v < V; v++) {
        sum_steered += expl((long double)steered[v] / temperature);
        sum_base += expl((long double)base[v] / temperature);
    }
    for (size_t v = 0; v < V; v++) {
        long double log_steered = (long double)steered[v] / temperature - logl(sum_steered);
        long double log_base = (long double)base[v] / temperature - logl(sum_base);
        kl += expl(log_steered) * (log_steered - log_base);
    }
    return (double)kl;
}

/* Goal: the divergence from the K candidates' shifts is that of the whole vocabulary, from gentle to violent steering. */
static void test_kl_against_whole_vocabulary(void)
{
    enum { V = 700, K = 20 };
    static const double betas[] = { 1e-4, 1e-2, 0.5, 3, 20, 80, 400, -5 };
    static const double temperatures[] = { 1, 0.7, 2, 0.3 };
    for (size_t i = 0; i < sizeof betas / sizeof betas[0]; i++) {
        for (size_t j = 0; j < sizeof temperatures / sizeof temperatures[0]; j++) {
            float base[V], logits[V], values[K];
            int32_t candidates[K];
            for (uint32_t v = 0; v < V; v++)
                base[v] = logits[v] = (float)(2 * philox_normal(i, PHILOX_DATA, j, 0, v));
            for (uint32_t k = 0; k < K; k++)
                values[k] = (float)philox_normal(i, PHILOX_DATA, j, 1, k);
            top_candidates(kernels_get(), candidates, logits, V, K);
            double kl = augment_logits(kernels_get(), logits, candidates, values, &betas[i], V, K, 1, temperatures[j]);
            double naive = kl_naive(logits, base, V, temperatures[j]);
            EXPECT(kl >= 0);
            EXPECT_NEAR(kl, naive, 1e-6 * fmax(naive, 1e-9 / 1e-6));
        }
    }
}

/* Goal: steering ten times as gently costs a hundred times less divergence, down to shifts of a few float roundings. */
static void test_kl_is_quadratic(void)
{
    enum { V = 64, K = 10 };
    double last = 0;
    for (double beta = 1e-3; beta < 0.2; beta *= 10) {
        float logits[V], values[K];
        int32_t candidates[K];
        for (uint32_t v = 0; v < V; v++)
            logits[v] = (float)philox_normal(4, PHILOX_DATA, 0, 0, v);
        for (uint32_t k = 0; k < K; k++)
            values[k] = (float)philox_normal(4, PHILOX_DATA, 0, 1, k);
        top_candidates(kernels_get(), candidates, logits, V, K);
        double kl = augment_logits(kernels_get(), logits, candidates, values, &beta, V, K, 1, 1);
        if (last > 0)
            EXPECT_NEAR(kl / last, 100, 10);
        last = kl;
    }
}

/* Goal: greedy sampling reports its divergence at temperature 1; values that are no numbers give NaN, not a number. */
static void test_kl_corners(void)
{
    float greedy[] = { 1, 0 }, warm[] = { 1, 0 }, broken[] = { 1, 0 };
    const float values[] = { 0, 1 }, bad[] = { 0, NAN };
    const int32_t candidates[] = { 0, 1 };
    EXPECT_NEAR(augment_logits(kernels_get(), greedy, candidates, values, (double[]){ 1 }, 2, 2, 1, 0),
                augment_logits(kernels_get(), warm, candidates, values, (double[]){ 1 }, 2, 2, 1, 1), 0);
    EXPECT(isnan(augment_logits(kernels_get(), broken, candidates, bad, (double[]){ 1 }, 2, 2, 1, 1)));
}

static size_t needed(const float *logits, size_t K, double spread, double temperature, double share)
{
    return augment_needed(kernels_get(), logits, (int32_t[]){ 1, 0, 2 }, 3, K, spread, temperature, share);
}

/* Goal: the bound by hand.  Probabilities 6/10, 3/10, 1/10: the others' odds are 2/3 against the likeliest, 1/9 against two. */
static void test_needed_by_hand(void)
{
    const float logits[] = { logf(3), logf(6), 0 };
    EXPECT_INT(needed(logits, 3, 0, 1, 0.401), 1);  // 2/3 / (1 + 2/3) is 0.4
    EXPECT_INT(needed(logits, 3, 0, 1, 0.399), 2);
    EXPECT_INT(needed(logits, 3, 0, 1, 0.101), 2);
    EXPECT_INT(needed(logits, 3, 0, 1, 0.099), 3);
    EXPECT_INT(needed(logits, 3, log(3), 1, 0.251), 2);  // odds of 1/3
    EXPECT_INT(needed(logits, 3, log(3), 1, 0.249), 3);
    EXPECT_INT(needed(logits, 3, log(3) / 2, 0.5, 0.0625), 2);  // squared odds: 1/45, moved by 3: 1/15, or 1/16 of the draws
    EXPECT_INT(needed(logits, 3, log(3) / 2, 0.5, 0.0624), 3);
    EXPECT_INT(needed(logits, 2, 0, 1, 0.099), 2);  // there are no more
    EXPECT_INT(needed(logits, 1, 0, 1, 0.099), 1);
    EXPECT_INT(needed(logits, 3, 0.68, 0, 0.1), 1);  // greedy: log 2 is 0.693, log 6 is 1.792
    EXPECT_INT(needed(logits, 3, 0.70, 0, 0.1), 2);
    EXPECT_INT(needed(logits, 3, 1.80, 0, 0.1), 3);
    EXPECT_INT(needed(logits, 3, INFINITY, 1, 0.1), 3);
    EXPECT_INT(needed(logits, 3, INFINITY, 0, 0.1), 3);
    EXPECT_INT(needed((float[]){ 1, 2, NAN }, 3, 1, 1, 0.1), 3);
    EXPECT_INT(needed((float[]){ -INFINITY, 2, -INFINITY }, 3, 1, 1, 0.1), 1);
}

/* Total variation between softmax(a / temperature) and softmax(b / temperature), the plain way. */
static double variation_naive(const float *a, const float *b, size_t V, double temperature)
{
    long double sum_a = 0, sum_b = 0, half = 0;
    for (size_t v = 0; v < V; v++) {
        sum_a += expl((long double)a[v] / temperature);
        sum_b += expl((long double)b[v] / temperature);
    }
    for (size_t v = 0; v < V; v++)
        half += fabsl(expl((long double)a[v] / temperature) / sum_a - expl((long double)b[v] / temperature) / sum_b) / 2;
    return (double)half;
}

/* The token that greedy sampling takes. */
static size_t highest(const float *logits, size_t V)
{
    size_t top = 0;
    for (size_t v = 1; v < V; v++)
        top = logits[v] > logits[top] ? v : top;
    return top;
}

/*
 * Goal: where only the needed candidates are valued, the distribution is no further than share from that of all, for any values
 * within the spread, and the greedy token is the same; some come near the share, and the number goes through all that there are.
 */
static void test_needed_bounds_variation(void)
{
    enum { V = 300, K = 20, TIMES = 4000 };
    static const double shares[] = { 0.3, 0.1, 0.03, 0.01 };
    double nearest = 0;
    size_t of_number[K + 1] = { 0 };
    for (uint32_t i = 0; i < TIMES; i++) {
        float base[V], all[V], few[V], values[2 * K], few_values[2 * K];
        int32_t candidates[K];
        bool greedy = i % 7 == 0;
        double betas[] = { 1.5, -0.5 }, temperature = greedy ? 0 : i % 3 == 0 ? 0.7 : 1, share = shares[i % 4];
        double slope = 12 * philox_uniform(i, PHILOX_DATA, 1, 0, 0);
        size_t likely = 1 + i / 4 % K;
        for (uint32_t v = 0; v < V; v++)
            base[v] = (float)philox_normal(i, PHILOX_DATA, 0, 0, v) + (v < likely ? (float)slope : 0);
        for (uint32_t k = 0; k < 2 * K; k++)  // every other time half of them against the others
            values[k] = i % 2 ? (float)philox_uniform(i, PHILOX_DATA, 0, 1, k) : (k % K < likely) == (k >= K);
        memcpy(all, base, sizeof base);
        memcpy(few, base, sizeof base);
        top_candidates(kernels_get(), candidates, base, V, K);
        size_t n = augment_needed(kernels_get(), base, candidates, V, K, 1.5 + 0.5, temperature, share);
        of_number[n]++;
        for (size_t k = 0; k < n; k++) {
            few_values[k] = values[k];
            few_values[n + k] = values[K + k];
        }
        augment_logits(kernels_get(), all, candidates, values, betas, V, K, 2, temperature);
        augment_logits(kernels_get(), few, candidates, few_values, betas, V, n, 2, temperature);
        if (greedy) {
            EXPECT_INT(highest(few, V), highest(all, V));
            continue;
        }
        double variation = n < K ? variation_naive(few, all, V, temperature) : 0;
        EXPECT(variation <= share + 1e-6);
        nearest = fmax(nearest, variation / share);
    }
    EXPECT(nearest > 0.5);
    for (size_t n = 1; n <= K; n++)
        EXPECT(of_number[n] > TIMES / 200);
}

int main(void)
{
    RUN(test_needed_by_hand);
    RUN(test_needed_bounds_variation);
    RUN(test_augment_by_hand);
    RUN(test_two_value_models);
    RUN(test_kl_by_hand);
    RUN(test_constant_values);
    RUN(test_second_beta_zero);
    RUN(test_kl_against_whole_vocabulary);
    RUN(test_kl_is_quadratic);
    RUN(test_kl_corners);
    return tests_end();
}
