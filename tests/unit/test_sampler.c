/* The sampler: draws worked by hand, and against the plainest way of doing the same on awkward sizes. */
#include "base/philox.h"
#include "sample/sampler.h"
#include "../check.h"

static const struct sampling plain = { .temperature = 1, .top_p = 1 };

static struct sampled draw(const float *logits, size_t V, struct sampling sampling, double uniform)
{
    struct sample_scratch scratch;
    sample_scratch_init(&scratch, V);
    struct sampled sampled = sample_token(kernels_get(), logits, V, sampling, uniform, &scratch);
    sample_scratch_free(&scratch);
    return sampled;
}

/* Logits of V tokens, many of them equal. */
static void fill(float *logits, size_t V, uint64_t seed)
{
    for (size_t v = 0; v < V; v++)
        logits[v] = (float)floor(8 * philox_normal(seed, PHILOX_DATA, 0, 0, (uint32_t)v)) / 4;
}

/* Goal: probabilities 1/4, 1/2, 1/4 share the unit interval in the order of the ids, and the logprob is theirs. */
static void test_draw_by_hand(void)
{
    const float logits[] = { 7, 7 + (float)M_LN2, 7 };
    const struct { double uniform; int token; double prob; } cases[] = {
        { 0, 0, 0.25 }, { 0.2499, 0, 0.25 }, { 0.2501, 1, 0.5 }, { 0.7499, 1, 0.5 }, { 0.7501, 2, 0.25 },
        { 0.9999999999, 2, 0.25 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sampled sampled = draw(logits, 3, plain, cases[i].uniform);
        EXPECT_INT(sampled.token, cases[i].token);
        EXPECT_NEAR(sampled.logprob, log(cases[i].prob), 1e-6);
    }
}

/* Goal: temperature 2 takes the square root of the odds: 1 : 9 becomes 1 : 3. */
static void test_temperature(void)
{
    const float logits[] = { 0, logf(9) };
    struct sampling warm = { .temperature = 2, .top_p = 1 };
    EXPECT_INT(draw(logits, 2, warm, 0.24).token, 0);
    EXPECT_INT(draw(logits, 2, warm, 0.26).token, 1);
    EXPECT_NEAR(draw(logits, 2, warm, 0.26).logprob, log(0.75), 1e-6);
}

/* Goal: temperature 0 takes the highest logit, of equal ones that with the lowest id, with certainty. */
static void test_greedy(void)
{
    const float logits[] = { -1, 3, 2.5f, 3 };
    struct sampled sampled = draw(logits, 4, (struct sampling){ .temperature = 0, .top_p = 1 }, 0.99);
    EXPECT_INT(sampled.token, 1);
    EXPECT_NEAR(sampled.logprob, 0, 0);
}

/* Goal: top_k keeps that many, of equal logits those with the lowest ids, and gives them the whole probability. */
static void test_top_k(void)
{
    const float logits[] = { 1, 2, 1, 2, 1 };
    struct sampling two = { .temperature = 1, .top_p = 1, .top_k = 2 };
    EXPECT_INT(draw(logits, 5, two, 0.49).token, 1);
    EXPECT_INT(draw(logits, 5, two, 0.51).token, 3);
    EXPECT_NEAR(draw(logits, 5, two, 0.51).logprob, log(0.5), 1e-7);
    struct sampling three = { .temperature = 1, .top_p = 1, .top_k = 3 };
    EXPECT_INT(draw(logits, 5, three, 0).token, 0);
    EXPECT_NEAR(draw(logits, 5, three, 0).logprob, -1 - log(2 + exp(-1)) , 1e-6);
}

/* Goal: top_p keeps the fewest candidates that hold that much, so 1/2, 1/4, 1/8, 1/8 are cut at each bound. */
static void test_top_p(void)
{
    const float ln2 = (float)M_LN2;
    const float logits[] = { -3 * ln2, -ln2, -2 * ln2, -3 * ln2 };
    const struct { double top_p; double kept; int last; } cases[] = {
        { 1e-9, 0.5, 1 }, { 0.49, 0.5, 1 }, { 0.51, 0.75, 2 }, { 0.74, 0.75, 2 }, { 0.76, 0.875, 2 }, { 0.88, 1, 3 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sampling nucleus = { .temperature = 1, .top_p = cases[i].top_p };
        struct sampled sampled = draw(logits, 4, nucleus, 0.999999);
        EXPECT_INT(sampled.token, cases[i].last);
        EXPECT_NEAR(sampled.logprob, log(exp(logits[cases[i].last]) / cases[i].kept), 1e-6);
    }
    // Of the two that hold 1/8 the one with the lower id comes first.
    struct sampling three = { .temperature = 1, .top_p = 0.76 };
    EXPECT_INT(draw(logits, 4, three, 0).token, 0);
}

/* Goal: top_k of the whole vocabulary changes no bit of any draw. */
static void test_truncation_of_nothing(void)
{
    enum { V = 97 };
    float logits[V];
    fill(logits, V, 1);
    for (int i = 0; i < 200; i++) {
        struct sampled whole = draw(logits, V, plain, i / 200.0);
        struct sampled kept = draw(logits, V, (struct sampling){ .temperature = 1, .top_p = 1, .top_k = V }, i / 200.0);
        EXPECT_INT(kept.token, whole.token);
        EXPECT_NEAR(kept.logprob, whole.logprob, 0);
    }
}

/* Whether a comes before b: the definition. */
static bool before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Goal: the candidates of any K are the first K of the order, against counting how many come before each. */
static void test_candidates_against_counting(void)
{
    static const size_t sizes[][2] = { { 1, 1 }, { 2, 1 }, { 2, 2 }, { 7, 3 }, { 64, 20 }, { 513, 20 }, { 513, 513 } };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t V = sizes[i][0], K = sizes[i][1];
        float logits[513];
        int32_t candidates[513];
        fill(logits, V, i);
        top_candidates(kernels_get(), candidates, logits, V, K);
        for (size_t v = 0; v < V; v++) {
            size_t place = 0;
            for (size_t u = 0; u < V; u++)
                place += before(logits, (int32_t)u, (int32_t)v);
            if (place < K)
                EXPECT_INT(candidates[place], v);
        }
    }
}

/* Goal: the nucleus of a large, flat vocabulary, where the search widens several times, against the whole order. */
static void test_top_p_against_whole_order(void)
{
    enum { V = 3000 };
    static float logits[V];
    static int32_t order[V];
    fill(logits, V, 5);
    top_candidates(kernels_get(), order, logits, V, V);
    double whole = 0, mass = 0;
    for (size_t v = 0; v < V; v++)
        whole += exp(logits[v]);
    size_t kept = 0;
    while (mass < 0.9 * whole)
        mass += exp(logits[order[kept++]]);
    EXPECT(kept > 64 && kept < V);
    struct sampling nucleus = { .temperature = 1, .top_p = 0.9 };
    for (int i = 0; i < 300; i++) {
        struct sampled sampled = draw(logits, V, nucleus, i / 300.0);
        EXPECT(!before(logits, order[kept - 1], sampled.token));
        EXPECT_NEAR(sampled.logprob, log(exp(logits[sampled.token]) / mass), 1e-5);
    }
}

/* Goal: tokens come as often as their probabilities say (chi-square with 7 degrees of freedom below its 99.99 % point). */
static void test_frequencies(void)
{
    enum { V = 8, DRAWS = 40000 };
    float logits[V];
    fill(logits, V, 3);
    double sum = 0, chi_square = 0;
    int seen[V] = { 0 };
    for (size_t v = 0; v < V; v++)
        sum += exp(logits[v]);
    for (uint32_t i = 0; i < DRAWS; i++)
        seen[draw(logits, V, plain, sample_uniform(1, "00112233445566778899aabbccddeeff", i, 0)).token]++;
    for (size_t v = 0; v < V; v++) {
        double expected = DRAWS * exp(logits[v]) / sum;
        chi_square += (seen[v] - expected) * (seen[v] - expected) / expected;
    }
    EXPECT(chi_square < 29.9);
}

/* Goal: seed, prompt, sample and position each change the number, also for keys that are not hexadecimal. */
static void test_uniform_coordinates(void)
{
    const char *key = "00112233445566778899aabbccddeeff", *other = "10112233445566778899aabbccddeeff";
    double first = sample_uniform(1, key, 2, 3);
    EXPECT_NEAR(sample_uniform(1, key, 2, 3), first, 0);
    EXPECT(sample_uniform(2, key, 2, 3) != first);
    EXPECT(sample_uniform(1, other, 2, 3) != first);
    EXPECT(sample_uniform(1, key, 3, 3) != first);
    EXPECT(sample_uniform(1, key, 2, 4) != first);
    EXPECT(sample_uniform(1, "first prompt", 0, 0) != sample_uniform(1, "second prompt", 0, 0));
}

/* Goal: logits that are no numbers give no token; tokens forbidden by -infinity are never drawn. */
static void test_broken_logits(void)
{
    const float with_nan[] = { 1, NAN, 2 }, with_infinity[] = { 1, INFINITY, 2 };
    const float nothing[] = { -INFINITY, -INFINITY }, forbidden[] = { -INFINITY, 0, -INFINITY };
    struct sampling greedy = { .temperature = 0, .top_p = 1 }, two = { .temperature = 1, .top_p = 0.9, .top_k = 2 };
    EXPECT_INT(draw(with_nan, 3, plain, 0.5).token, -1);
    EXPECT_INT(draw(with_nan, 3, greedy, 0.5).token, -1);
    EXPECT_INT(draw(with_nan, 3, two, 0.5).token, -1);
    EXPECT_INT(draw(with_infinity, 3, plain, 0.5).token, -1);
    EXPECT_INT(draw(nothing, 2, plain, 0.5).token, -1);
    EXPECT_INT(draw(forbidden, 3, plain, 0).token, 1);
    EXPECT_INT(draw(forbidden, 3, plain, 0.9999999).token, 1);
}

/* Goal: the logprob of a token is log softmax, to float's precision of each addend over a large vocabulary. */
static void test_logprob(void)
{
    enum { V = 20000 };
    static float logits[V];
    double sum = 0;
    for (size_t v = 0; v < V; v++) {
        logits[v] = (float)(3 * philox_normal(9, PHILOX_DATA, 0, 0, (uint32_t)v));
        sum += exp(logits[v]);
    }
    EXPECT_NEAR(logprob_from_logits(kernels_get(), logits, V, 17), logits[17] - log(sum), 1e-6);
    struct sampled sampled = draw(logits, V, plain, 0.3);
    EXPECT_NEAR(sampled.logprob, logprob_from_logits(kernels_get(), logits, V, sampled.token), 1e-12);
}

int main(void)
{
    RUN(test_draw_by_hand);
    RUN(test_temperature);
    RUN(test_greedy);
    RUN(test_top_k);
    RUN(test_top_p);
    RUN(test_truncation_of_nothing);
    RUN(test_candidates_against_counting);
    RUN(test_top_p_against_whole_order);
    RUN(test_frequencies);
    RUN(test_uniform_coordinates);
    RUN(test_broken_logits);
    RUN(test_logprob);
    return tests_end();
}
