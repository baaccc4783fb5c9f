/* statistics.c - see statistics.h. */
#include "report/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

double student_quantile(size_t degrees)
{
    static const double few[] = { 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469 };
    CHECK(degrees >= 1);
    if (degrees <= COUNT_OF(few))
        return few[degrees - 1];
    // Cornish and Fisher's expansion about the normal quantile; from 7 degrees on its error is below 0.001.
    double z = 1.959963985, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z, f = (double)degrees;
    return z + (z3 + z) / (4 * f) + (5 * z5 + 16 * z3 + 3 * z) / (96 * f * f) +
           (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * f * f * f);
}

struct estimate clustered_mean(const double *value, const int64_t *cluster, size_t count)
{
    double sum = 0;
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (isnan(value[i]))
            continue;
        sum += value[i];
        used++;
    }
    struct estimate estimate = { NAN, NAN };
    if (used == 0)
        return estimate;
    estimate.mean = sum / (double)used;

    double squares = 0;  // of each cluster's summed deviation
    size_t clusters = 0;
    for (size_t begin = 0, end; begin < count; begin = end) {
        double deviation = 0;
        size_t members = 0;
        for (end = begin; end < count && cluster[end] == cluster[begin]; end++) {
            if (isnan(value[end]))
                continue;
            deviation += value[end] - estimate.mean;
            members++;
        }
        squares += deviation * deviation;
        clusters += members > 0;
    }
    if (clusters >= 2) {
        double variance = squares * (double)clusters / (double)(clusters - 1) / ((double)used * (double)used);
        estimate.error = student_quantile(clusters - 1) * sqrt(variance);
    }
    return estimate;
}

static int order_numbers(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

double best_of_n(double *value, size_t N, size_t n)
{
    CHECK(1 <= n && n <= N);
    qsort(value, N, sizeof *value, order_numbers);
    // The i-th smallest (i = 1 .. N) is the largest of n with probability C(i-1, n-1) / C(N, n).
    double weight = (double)n / (double)N, sum = 0;
    for (size_t i = N; i >= n; i--) {
        sum += weight * value[i - 1];
        if (i > n)
            weight *= (double)(i - n) / (double)(i - 1);
    }
    return sum;
}

double best_of_n_kl(size_t n)
{
    return log((double)n) - (double)(n - 1) / (double)n;
}

size_t smallest_cluster(const int64_t *cluster, size_t count)
{
    size_t smallest = count;
    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin; end < count && cluster[end] == cluster[begin]; end++)
            ;
        if (end - begin < smallest)
            smallest = end - begin;
    }
    return smallest;
}

struct estimate clustered_best_of_n(const double *value, const int64_t *cluster, size_t count, size_t n)
{
    double *best = memory_alloc(count + 1, sizeof *best), *sorted = memory_alloc(count + 1, sizeof *sorted);
    int64_t *prompt = memory_alloc(count + 1, sizeof *prompt);
    size_t clusters = 0;
    for (size_t begin = 0, end; begin < count; begin = end, clusters++) {
        for (end = begin; end < count && cluster[end] == cluster[begin]; end++)
            ;
        memcpy(sorted, value + begin, (end - begin) * sizeof *sorted);
        best[clusters] = best_of_n(sorted, end - begin, n);
        prompt[clusters] = cluster[begin];
    }
    struct estimate estimate = clustered_mean(best, prompt, clusters);
    free(prompt);
    free(sorted);
    free(best);
    return estimate;
}

void histogram(size_t *counts, size_t bins, const double *value, size_t count, double low, double high)
{
    CHECK(bins > 0 && low < high);
    memset(counts, 0, bins * sizeof *counts);
    for (size_t i = 0; i < count; i++) {
        double at = floor((value[i] - low) / (high - low) * (double)bins);
        counts[(size_t)fmax(0, fmin((double)bins - 1, at))]++;
    }
}
