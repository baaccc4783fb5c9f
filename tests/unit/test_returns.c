/* Lambda-returns against hand-worked cases and against generalised advantage estimation written independently. */
#include "learn/returns.h"

#include "base/philox.h"
#include "../check.h"

/* Goal: with lambda = 1 and gamma = 1 every state's target is the score, and value is not read. */
static void test_monte_carlo_carries_score_back(void)
{
    float target[5];
    returns_lambda(target, NULL, 4, 2.5f, (struct returns_config){ .gamma = 1, .lambda = 1 });
    EXPECT_FLOATS(target, ((float[]){ 2.5f, 2.5f, 2.5f, 2.5f, 2.5f }), 5, 0.0);
}

/* Goal: with lambda = 0 a state's target is the value of the next, and the last two are the score. */
static void test_one_step_takes_next_value(void)
{
    const float value[] = { 9, 1, 2, 3 };  // the first is never read
    float target[4];
    returns_lambda(target, value, 3, 7.0f, (struct returns_config){ .gamma = 1, .lambda = 0 });
    EXPECT_FLOATS(target, ((float[]){ 1, 2, 7, 7 }), 4, 0.0);
}

/*
 * Goal: both discounts at once.  gamma = lambda = 1/2, R = 3, score 8:
 * G_3 = G_2 = 8,  G_1 = 1/2 (1/2 * 4 + 1/2 * 8) = 3,  G_0 = 1/2 (1/2 * 2 + 1/2 * 3) = 1.25.
 */
static void test_discounts_by_hand(void)
{
    const float value[] = { 100, 2, 4, 100 };
    float target[4];
    returns_lambda(target, value, 3, 8.0f, (struct returns_config){ .gamma = 0.5f, .lambda = 0.5f });
    EXPECT_FLOATS(target, ((float[]){ 1.25f, 3, 8, 8 }), 4, 0.0);
}

/* Goal: a response of one token has two states, both worth the score. */
static void test_single_token(void)
{
    const float value[] = { 5, 6 };
    float target[2];
    returns_lambda(target, value, 1, -1.0f, (struct returns_config){ .gamma = 0.9f, .lambda = 0.95f });
    EXPECT_FLOATS(target, ((float[]){ -1, -1 }), 2, 0.0);
}

/*
 * Generalised advantage estimation plus value as TRL computes it (double precision): rewards r_n are zero but for the last,
 * V_R = 0, delta_n = r_n + gamma V_{n+1} - V_n, A_n = delta_n + gamma lambda A_{n+1}, return = A_n + V_n, for n < R.
 */
static void gae_returns(double *target, const float *value, size_t R, double score, double gamma, double lambda)
{
    double advantage = 0.0;
    for (size_t n = R; n-- > 0; ) {
        double reward = n + 1 == R ? score : 0.0, value_next = n + 1 == R ? 0.0 : (double)value[n + 1];
        double delta = reward + gamma * value_next - (double)value[n];
        advantage = delta + gamma * lambda * advantage;
        target[n] = advantage + (double)value[n];
    }
}

/* Goal: for n < R the targets are the reference's, for random values, lengths and discounts. */
static void test_agrees_with_gae(void)
{
    const float lambdas[] = { 0.0f, 0.5f, 0.95f, 1.0f }, gammas[] = { 1.0f, 0.99f, 0.0f };
    enum { R_MAX = 60 };
    for (uint32_t trial = 0; trial < 400; trial++) {
        size_t R = 1 + (size_t)(philox_uniform(7, PHILOX_DATA, 0, 0, trial) * R_MAX);
        float value[R_MAX + 1], target[R_MAX + 1];
        double expected[R_MAX];
        for (uint32_t n = 0; n <= R; n++)
            value[n] = (float)philox_normal(7, PHILOX_DATA, 1, trial, n);
        float score = (float)philox_normal(7, PHILOX_DATA, 2, 0, trial);
        struct returns_config config = { .gamma = gammas[trial / 4 % 3], .lambda = lambdas[trial % 4] };
        returns_lambda(target, value, R, score, config);
        gae_returns(expected, value, R, score, config.gamma, config.lambda);
        EXPECT_FLOATS(target, expected, R, 2e-6);
        EXPECT_NEAR(target[R], score, 0.0);
    }
}

int main(void)
{
    RUN(test_monte_carlo_carries_score_back);
    RUN(test_one_step_takes_next_value);
    RUN(test_discounts_by_hand);
    RUN(test_single_token);
    RUN(test_agrees_with_gae);
    return tests_end();
}
