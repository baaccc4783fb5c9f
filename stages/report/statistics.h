/*
 * statistics.h - means with their uncertainty, best-of-n from stored samples, histograms.
 *
 * Pure arithmetic: no I/O, cannot fail.  Samples of one prompt are not independent, so intervals are clustered by
 * prompt.  "samples" below are sorted by cluster: equal clusters stand together.
 */
#ifndef REPORT_STATISTICS_H
#define REPORT_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

struct estimate {
    double mean;   // NaN: nothing was measured
    double error;  // half of the 95 % interval; NaN: cannot be known from fewer than two clusters
};

/*
 * Mean over all values that are not NaN.  The error is Student's quantile times the cluster-robust standard error of the mean,
 * which for clusters of equal size is that of the clusters' means.
 */
struct estimate clustered_mean(const double *value, const int64_t *cluster, size_t count);

/*
 * Expected largest of n values drawn without replacement from these N >= n: unbiased for the mean score of best-of-n sampling.
 * Sorts value.
 */
double best_of_n(double *value, size_t N, size_t n);

/* An upper bound of the KL of best-of-n from the policy it samples, nats: log n - (n-1)/n (Beirami et al., arXiv 2401.01879). */
double best_of_n_kl(size_t n);

/* The smallest number of values in any cluster, 0 when there are none. */
size_t smallest_cluster(const int64_t *cluster, size_t count);

/* best_of_n of each cluster, then the mean over clusters.  Every cluster has at least n values. */
struct estimate clustered_best_of_n(const double *value, const int64_t *cluster, size_t count, size_t n);

/* Two-sided 95 % quantile of Student's t with this many degrees of freedom, >= 1. */
double student_quantile(size_t degrees);

/* Counts values of [low, high] in equal bins; values outside go to the nearest bin.  low < high. */
void histogram(size_t *counts, size_t bins, const double *value, size_t count, double low, double high);

#endif
