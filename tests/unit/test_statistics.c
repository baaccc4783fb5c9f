/* Means with clustered intervals, best-of-n, histograms: against numbers worked by hand and brute force. */
#include <stdint.h>

#include "report/statistics.h"
#include "../check.h"

/* Goal: with one value in each cluster the error is the t interval of a plain mean. */
static void test_mean_of_independent_values(void)
{
    double value[] = { 1, 2, 3, 4, 5 };
    int64_t cluster[] = { 1, 2, 3, 4, 5 };
    struct estimate estimate = clustered_mean(value, cluster, 5);
    EXPECT_NEAR(estimate.mean, 3, 1e-15);
    EXPECT_NEAR(estimate.error, 2.7764 * sqrt(2.5 / 5), 1e-12);  // variance 2.5, 4 degrees of freedom
}

/* Goal: samples of a prompt that repeat each other do not make the mean surer; the error is that of the prompts' means. */
static void test_error_is_clustered(void)
{
    double value[] = { 0, 0, 0, 1, 1, 1, 5, 5, 5 }, means[] = { 0, 1, 5 };
    int64_t cluster[] = { 7, 7, 7, 8, 8, 8, 9, 9, 9 }, alone[] = { 7, 8, 9 };
    struct estimate repeated = clustered_mean(value, cluster, 9), single = clustered_mean(means, alone, 3);
    EXPECT_NEAR(repeated.mean, 2, 1e-15);
    EXPECT_NEAR(repeated.error, single.error, 1e-12);
    EXPECT_NEAR(single.error, 4.3027 * sqrt(7.0 / 3), 1e-12);  // variance (4 + 1 + 9) / 2 = 7
}

/* Goal: what was not measured does not count; with nothing, or one prompt, there is no mean or no error. */
static void test_mean_of_little(void)
{
    double value[] = { NAN, 2, 4, NAN };
    int64_t one[] = { 1, 1, 1, 1 }, two[] = { 1, 1, 2, 3 };
    struct estimate estimate = clustered_mean(value, one, 4);
    EXPECT_NEAR(estimate.mean, 3, 0);
    EXPECT(isnan(estimate.error));
    estimate = clustered_mean(value, two, 4);
    EXPECT_NEAR(estimate.mean, 3, 0);
    EXPECT_NEAR(estimate.error, 12.7062 * 1, 1e-9);  // means 2 and 4: variance 2, over 2
    EXPECT(isnan(clustered_mean(value, one, 0).mean));
    EXPECT(isnan(clustered_mean(value, one, 1).mean));
}

/* Goal: Student's quantiles are those of printed tables. */
static void test_student_quantile(void)
{
    static const struct { size_t degrees; double quantile; } table[] = {
        { 1, 12.706 }, { 2, 4.303 }, { 4, 2.776 }, { 5, 2.571 }, { 6, 2.447 },
        { 10, 2.228 }, { 30, 2.042 }, { 120, 1.980 }, { 100000, 1.960 },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        EXPECT_NEAR(student_quantile(table[i].degrees), table[i].quantile, 0.0012);
}

/* Mean of the largest over all subsets of n. */
static double brute_force(const double *value, size_t N, size_t n)
{
    double sum = 0;
    size_t subsets = 0;
    for (uint32_t chosen = 0; chosen < 1u << N; chosen++) {
        double largest = -INFINITY;
        size_t size = 0;
        for (size_t i = 0; i < N; i++) {
            if (chosen >> i & 1) {
                largest = fmax(largest, value[i]);
                size++;
            }
        }
        if (size == n) {
            sum += largest;
            subsets++;
        }
    }
    return sum / (double)subsets;
}

/* Goal: best-of-n is the mean over all subsets of n samples, ties and all. */
static void test_best_of_n_is_mean_over_subsets(void)
{
    static const double scores[] = { 0.3, -1, 2.5, 0.3, 7, -4, 0, 2.5, 2.5, -0.1 };
    for (size_t N = 1; N <= 10; N++) {
        for (size_t n = 1; n <= N; n++) {
            double value[10];
            memcpy(value, scores, sizeof value);
            EXPECT_NEAR(best_of_n(value, N, n), brute_force(scores, N, n), 1e-12);
        }
    }
}

/* Goal: with many samples no weight overflows or vanishes. */
static void test_best_of_n_of_many(void)
{
    enum { N = 4096 };
    static double value[N];
    for (size_t i = 0; i < N; i++)
        value[i] = (double)(i + 1);
    EXPECT_NEAR(best_of_n(value, N, 1), (N + 1) / 2.0, 1e-8);
    EXPECT_NEAR(best_of_n(value, N, N), N, 0);
    EXPECT_NEAR(best_of_n(value, N, 1024), 1024.0 * (N + 1) / 1025, 1e-8);  // of 1 .. N the largest of n: n (N+1) / (n+1)
}

/* Goal: best-of-n over prompts averages the prompts; the bound of its KL is the published one. */
static void test_clustered_best_of_n(void)
{
    double value[] = { 1, 3, 2, 10, 20 };
    int64_t cluster[] = { 1, 1, 1, 2, 2 };
    EXPECT_INT(smallest_cluster(cluster, 5), 2);
    EXPECT_INT(smallest_cluster(cluster, 0), 0);
    struct estimate estimate = clustered_best_of_n(value, cluster, 5, 2);
    EXPECT_NEAR(estimate.mean, (8.0 / 3 + 20) / 2, 1e-12);  // pairs of 1, 3, 2: 3, 2, 3
    EXPECT_NEAR(best_of_n_kl(1), 0, 0);
    EXPECT_NEAR(best_of_n_kl(2), 0.1931, 1e-4);
    EXPECT_NEAR(best_of_n_kl(64), 3.1745, 1e-4);
}

/* Goal: bins are closed at their lower end, the last at both; values outside count at the ends. */
static void test_histogram(void)
{
    double value[] = { 0, 0.24, 0.25, 0.5, 0.99, 1, -3, 8 };
    size_t counts[4];
    histogram(counts, 4, value, 8, 0, 1);
    EXPECT_INT(counts[0], 3);
    EXPECT_INT(counts[1], 1);
    EXPECT_INT(counts[2], 1);
    EXPECT_INT(counts[3], 3);
}

int main(void)
{
    RUN(test_mean_of_independent_values);
    RUN(test_error_is_clustered);
    RUN(test_mean_of_little);
    RUN(test_student_quantile);
    RUN(test_best_of_n_is_mean_over_subsets);
    RUN(test_best_of_n_of_many);
    RUN(test_clustered_best_of_n);
    RUN(test_histogram);
    return tests_end();
}
