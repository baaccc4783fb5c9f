/*
 * compare_curve.c - the curve of mean score against KL that reports hold, beside a reference's.
 *
 *     report --db run.db --json >report.json
 *     build/tests/bench/compare_curve --reference reference.json report.json...
 *     build/tests/bench/compare_curve --scale -1 report.json...
 *
 * Several reports are of runs alike but for their seed: our curve is their mean.
 *
 * With a reference: at the KL of each of our points the reference's mean is interpolated linearly between its points, which
 * begin at (0, mean of its base); beyond its last point its last slope goes on.  Exit code 0 when no point is below by more than
 * the 95 % interval of the difference and one strength has at least the mean of best-of-16, ours and the reference's.
 *
 * Without one: scores are divided by --scale, back to the sign they had; exit code 0 when their mean moves in the direction
 * of the scale with every step of beta, up to the 95 % interval of a difference, and over all by more than that.
 *
 * Our standard errors are clustered by prompt, the reference's are not.  Both saw the same prompts, so the interval of the
 * difference is rather too wide.  All runs saw them too, so that several do not make this part smaller; what lies between runs
 * comes on top.  How much that is for the reference, which is one run, is not known and not counted.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "report/statistics.h"

enum { POINTS_MAX = 64, BEST_OF = 16, EXIT_BELOW = 1 };
static const double normal_quantile = 1.96;  // two-sided 95 %

struct point {
    double beta;
    double kl;        // nats per response
    double mean, se;  // units of score
};

struct curve {
    struct point points[POINTS_MAX];  // the base first, then by beta (ours) or KL (the reference)
    size_t count;
    double best_of;                   // mean of best-of-16; NaN: not known
    double run_sd[POINTS_MAX];        // of the runs' means, where there are several
    double prompts;
};

/* A number at a path of keys such as "score", "mean"; exits 65 when there is none. */
static double number_at(const char *path, const json_t *json, const char *key, const char *inner)
{
    const json_t *value = json_object_get(json, key);
    if (inner != NULL)
        value = json_object_get(value, inner);
    if (!json_is_number(value)) {
        log_error("\"%s\" has no number \"%s%s%s\" where one is needed", path, key, inner != NULL ? "." : "",
                  inner != NULL ? inner : "");
        exit(EX_DATAERR);
    }
    return json_number_value(value);
}

static struct point *curve_add(const char *path, struct curve *curve)
{
    if (curve->count == POINTS_MAX) {
        log_error("\"%s\" has more than %d points", path, POINTS_MAX);
        exit(EX_DATAERR);
    }
    return &curve->points[curve->count++];
}

static int order_points(const void *a, const void *b)
{
    const struct point *left = a, *right = b;
    if (left->beta != right->beta)
        return left->beta < right->beta ? -1 : 1;
    return (left->kl > right->kl) - (left->kl < right->kl);
}

/* Our curve: the base and what is steered, of the first reward in the report. */
static void read_report(struct curve *curve, const char *path, const json_t *report, double scale)
{
    const json_t *result, *results = json_object_get(json_array_get(json_object_get(report, "rewards"), 0), "results");
    size_t i;
    curve->best_of = NAN;
    json_array_foreach(results, i, result) {
        const char *kind = json_string_value(json_object_get(result, "kind"));
        double mean = number_at(path, result, "score", "mean") / scale;
        if (kind != NULL && strcmp(kind, "best_of_n") == 0 && json_integer_value(json_object_get(result, "n")) == BEST_OF)
            curve->best_of = mean;
        bool is_base = kind != NULL && strcmp(kind, "base") == 0;
        if (!is_base && (kind == NULL || strcmp(kind, "steered") != 0))
            continue;
        if (number_at(path, result, "missing", NULL) + number_at(path, result, "failed", NULL) +
                number_at(path, result, "unscored", NULL) > 0) {
            log_error("\"%s\" lacks responses or scores of policy \"%s\"", path,
                      json_string_value(json_object_get(result, "policy")));
            exit(EX_DATAERR);
        }
        curve->prompts = number_at(path, result, "prompts", NULL);
        if (curve->prompts < 2) {
            log_error("\"%s\" has %g prompts, intervals need 2", path, curve->prompts);
            exit(EX_DATAERR);
        }
        const json_t *value = json_array_get(json_object_get(json_object_get(result, "spec"), "values"), 0);
        *curve_add(path, curve) = (struct point){
            .beta = is_base ? 0 : number_at(path, value, "beta", NULL), .kl = number_at(path, result, "kl", "mean"), .mean = mean,
            .se = number_at(path, result, "score", "error95") / fabs(scale) / student_quantile((size_t)curve->prompts - 1),
        };
    }
    qsort(curve->points, curve->count, sizeof *curve->points, order_points);
    if (curve->count < 2 || curve->points[0].beta != 0) {
        log_error("\"%s\" needs the base policy and a steered one", path);
        exit(EX_DATAERR);
    }
}

/* The mean of several runs' curves. */
static struct curve curve_mean(const struct curve *runs, size_t count)
{
    struct curve curve = { .count = runs->count, .prompts = runs->prompts };
    for (size_t run = 0; run < count; run++)
        curve.best_of += runs[run].best_of / (double)count;
    for (size_t i = 0; i < curve.count; i++) {
        struct point *point = &curve.points[i];
        double squares = 0, variance = 0;  // within runs, between them
        for (size_t run = 0; run < count; run++) {
            const struct point *one = &runs[run].points[i];
            if (runs[run].count != curve.count || one->beta != runs->points[i].beta) {
                log_error("report %zu has other strengths than the first", run + 1);
                exit(EX_DATAERR);
            }
            point->beta = one->beta;
            point->kl += one->kl / (double)count;
            point->mean += one->mean / (double)count;
            squares += one->se * one->se / (double)count;
        }
        for (size_t run = 0; run < count && count > 1; run++)
            variance += pow(runs[run].points[i].mean - point->mean, 2) / (double)(count - 1);
        curve.run_sd[i] = sqrt(variance);
        point->se = sqrt(squares + variance / (double)count);
    }
    return curve;
}

/* The reference gives no standard error for its base: it follows from the spread of its training rollouts. */
static void read_reference(struct curve *curve, const char *path, const json_t *reference, double prompts)
{
    const json_t *base = json_object_get(reference, "base"), *one;
    size_t i;
    *curve_add(path, curve) = (struct point){
        .mean = number_at(path, base, "mean", NULL),
        .se = number_at(path, reference, "train_rollouts", "std") / sqrt(number_at(path, base, "samples_per_prompt",
                                                                                   NULL) * prompts),
    };
    json_array_foreach(json_object_get(reference, "vas"), i, one)
        *curve_add(path, curve) = (struct point){ .beta = number_at(path, one, "beta", NULL),
                                                  .kl = number_at(path, one, "kl", NULL),
                                                  .mean = number_at(path, one, "mean", NULL),
                                                  .se = number_at(path, one, "se", NULL) };
    for (i = 1; i < curve->count; i++) {
        if (!(curve->points[i].kl > curve->points[i - 1].kl)) {
            log_error("\"%s\": KL does not rise from point %zu to %zu", path, i - 1, i);
            exit(EX_DATAERR);
        }
    }
    curve->best_of = NAN;
    json_array_foreach(json_object_get(reference, "best_of_n"), i, one)
        if (json_integer_value(json_object_get(one, "n")) == BEST_OF)
            curve->best_of = number_at(path, one, "mean", NULL);
    if (curve->count < 2 || isnan(curve->best_of)) {
        log_error("\"%s\" needs points \"vas\" and best of %d", path, BEST_OF);
        exit(EX_DATAERR);
    }
}

/* The reference at this KL. */
static struct point curve_at(const struct curve *curve, double kl)
{
    size_t i = 1;
    while (i + 1 < curve->count && curve->points[i].kl < kl)
        i++;
    const struct point *left = &curve->points[i - 1], *right = &curve->points[i];
    double weight = (kl - left->kl) / (right->kl - left->kl);  // above 1 beyond the last point
    return (struct point){ .kl = kl, .mean = left->mean + weight * (right->mean - left->mean),
                           .se = hypot((1 - weight) * left->se, weight * right->se) };
}

static bool compare(const struct curve *ours, const struct curve *reference)
{
    size_t below = 0, above = 0;
    double best = -INFINITY, best_beta = 0;
    printf("%6s %8s %8s %7s %7s   %9s %7s   %10s %9s   %s\n", "beta", "KL", "mean", "se", "runs sd", "reference", "se",
           "difference", "95 %", "verdict");
    for (size_t i = 0; i < ours->count; i++) {
        const struct point *point = &ours->points[i];
        struct point other = curve_at(reference, point->kl);
        double difference = point->mean - other.mean, interval = normal_quantile * hypot(point->se, other.se);
        bool is_below = difference < -interval, is_above = difference > interval;
        printf("%6g %8.3f %8.4f %7.4f %7.4f   %9.4f %7.4f   %+10.4f +- %6.4f   %s\n", point->beta, point->kl, point->mean,
               point->se, ours->run_sd[i], other.mean, other.se, difference, interval,
               is_below ? "below" : is_above ? "above" : "at");
        below += is_below;
        above += is_above;
        if (point->mean > best) {
            best = point->mean;
            best_beta = point->beta;
        }
    }
    bool is_reached = best >= ours->best_of && best >= reference->best_of;  // false when ours is not known
    printf("%zu points: %zu above, %zu at, %zu below the reference\n", ours->count, above, ours->count - above - below, below);
    printf("best of %d: ours %.4f, the reference's %.4f; %s, beta %g has %.4f\n", BEST_OF, ours->best_of, reference->best_of,
           is_reached ? "reached" : "not reached", best_beta, best);
    return below == 0 && is_reached;
}

static bool compare_trend(const struct curve *ours, double scale)
{
    double sign = scale < 0 ? -1 : 1;
    bool is_trend = true;
    const struct point *last = ours->points, *base = ours->points;
    printf("%6s %8s %8s %7s   %10s %9s   %s\n", "beta", "KL", "mean", "se", "step", "95 %", "verdict");
    printf("%6g %8.3f %8.4f %7.4f\n", base->beta, base->kl, base->mean, base->se);
    for (size_t i = 1; i < ours->count; last = &ours->points[i++]) {
        const struct point *point = &ours->points[i];
        double step = point->mean - last->mean, interval = normal_quantile * hypot(point->se, last->se);
        bool is_wrong = sign * step < -interval;
        printf("%6g %8.3f %8.4f %7.4f   %+10.4f +- %6.4f   %s\n", point->beta, point->kl, point->mean, point->se, step, interval,
               is_wrong ? "wrong way" : fabs(step) <= interval ? "level" : step < 0 ? "falls" : "rises");
        is_trend = is_trend && !is_wrong;
    }
    double change = last->mean - base->mean, interval = normal_quantile * hypot(last->se, base->se);
    bool is_moved = sign * change > interval;
    printf("from beta 0 to %g: %+.4f +- %.4f, %s\n", last->beta, change, interval,
           is_trend && is_moved ? sign < 0 ? "falls" : "rises" : "no clear trend");
    return is_trend && is_moved;
}

int main(int argc, char **argv)
{
    double scale = 1;
    const char *reference_path = NULL;
    const struct option_spec specs[] = {
        { 0, "reference", "FILE", OPTION_TEXT, &reference_path, 0, 0, "the curve to be at or above" },
        { 0, "scale", "X", OPTION_NUMBER, &scale, -1e6, 1e6, "what the scores were multiplied by (default 1)" },
    };
    static const struct option_usage usage = {
        .program = "compare_curve",
        .example = "compare_curve --reference reference.json report.json",
        .synopsis = "compare_curve [--scale X] [--reference FILE] REPORT.json...",
        .summary = "Compares the curve of mean score against KL, the mean of some runs', with a reference's.",
        .exit_codes = "  0   at or above the reference, or the trend is there\n  1   it is not\n  64  usage\n  65  a file is bad\n"
                      "  74  output could not be written\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first == argc)
        options_refuse("a report is needed");
    if (scale == 0)
        options_refuse("--scale is 0");
    size_t count = (size_t)(argc - first);
    struct curve reference = { 0 }, *runs = memory_alloc(count, sizeof *runs);
    for (size_t run = 0; run < count; run++) {
        json_t *report = json_read(argv[first + (int)run]);
        if (report == NULL)
            return EX_DATAERR;
        read_report(&runs[run], argv[first + (int)run], report, scale);
        json_decref(report);
    }
    const struct curve ours = curve_mean(runs, count);
    bool is_good;
    if (reference_path != NULL) {
        json_t *other = json_read(reference_path);
        if (other == NULL)
            return EX_DATAERR;
        read_reference(&reference, reference_path, other, ours.prompts);
        json_decref(other);
        is_good = compare(&ours, &reference);
    } else {
        is_good = compare_trend(&ours, scale);
    }
    free(runs);
    if (stdout_close() != 0)
        return EX_IOERR;
    return is_good ? EX_OK : EXIT_BELOW;
}
