/* pictures.c - see pictures.h. */
#include "report/pictures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "report/print.h"
#include "report/svg.h"

/* ---- score against KL ---- */

enum { LABELS_MAX = 256, LABEL_HEIGHT = 13 };

struct box { double left, top, right, bottom; };

/* What is already on the picture, so that labels keep off it. */
struct label_room {
    struct box boxes[LABELS_MAX];
    size_t count;
    double left, right;  // edges of the picture
};

static bool room_take(struct label_room *room, struct box box)
{
    if (box.left < room->left || box.right > room->right || room->count == LABELS_MAX)
        return false;
    for (size_t i = 0; i < room->count; i++) {
        const struct box *other = &room->boxes[i];
        if (box.left < other->right && other->left < box.right && box.top < other->bottom && other->top < box.bottom)
            return false;
    }
    room->boxes[room->count++] = box;
    return true;
}

/* A label beside its point where there is room; none where there is not, since the point's title has it too. */
static void label_point(struct buffer *out, struct label_room *room, double x, double y, const char *text, bool prefer_above)
{
    double width = 6.6 * (double)strlen(text);
    struct { double x, y; enum svg_anchor anchor; } places[] = {
        { x + (prefer_above ? -6 : 6), y + (prefer_above ? -7 : 14), prefer_above ? SVG_END : SVG_START },
        { x + 8, y + 4, SVG_START }, { x + 6, y + 16, SVG_START }, { x - 8, y + 4, SVG_END }, { x - 6, y + 16, SVG_END },
        { x - 6, y - 7, SVG_END },
    };
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        double left = places[i].x - (places[i].anchor == SVG_MIDDLE ? width / 2 : places[i].anchor == SVG_END ? width : 0);
        if (!room_take(room, (struct box){ left, places[i].y - LABEL_HEIGHT + 3, left + width, places[i].y + 3 }))
            continue;
        svg_text(out, places[i].x, places[i].y, "label", places[i].anchor, text);
        return;
    }
}

/* The value models and options whose strengths make one line. */
struct line_group {
    const char *series;
    size_t members[256];  // indices of results, by beta
    size_t count;
};

static void group_add(struct line_group *group, const struct result *results, size_t index)
{
    if (group->count == COUNT_OF(group->members))
        return;
    size_t at = group->count++;
    for (; at > 0 && results[group->members[at - 1]].policy->beta > results[index].policy->beta; at--)
        group->members[at] = group->members[at - 1];
    group->members[at] = index;
}

/* Steered policies with a KL, grouped.  The caller frees. */
static struct line_group *groups_of(const struct comparison *comparison, size_t *count)
{
    struct line_group *groups = memory_alloc(comparison->count + 1, sizeof *groups);
    *count = 0;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        if (result->kind != RESULT_STEERED || isnan(result->drift.mean))
            continue;
        size_t g = 0;
        while (g < *count && strcmp(groups[g].series, result->policy->series) != 0)
            g++;
        if (g == *count)
            groups[(*count)++].series = result->policy->series;
        group_add(&groups[g], comparison->results, i);
    }
    return groups;
}

static void series_class(char class[16], size_t g)
{
    snprintf(class, 16, "s%zu", g % SVG_SERIES);
}

static struct svg_plot tradeoff_plot(const struct comparison *comparison, double width, double height)
{
    double low = INFINITY, high = -INFINITY, kl = 0.1;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        if (isnan(result->drift.mean) || isnan(result->mean.mean))
            continue;
        double error = isnan(result->mean.error) ? 0 : result->mean.error;
        low = fmin(low, result->mean.mean - error);
        high = fmax(high, result->mean.mean + error);
        kl = fmax(kl, result->drift.mean);
    }
    return (struct svg_plot){
        .x = { .low = 0, .high = 1.08 * kl, .from = 60, .to = width - 20, .root = true },
        .y = svg_scale_around(low, high, height - 50, 36),
    };
}

static void point_title(char title[512], const struct result *result)
{
    char mean[32], error[32];
    number_text(mean, result->mean.mean, estimate_digits(result->mean));
    number_text(error, result->mean.error, estimate_digits(result->mean));
    snprintf(title, 512, "%.200s: score %s ± %s, KL %s%.3f nats, %zu responses", result->label, mean,
             isnan(result->mean.error) ? "?" : error, result->kind == RESULT_BEST_OF_N ? "<= " : "", result->drift.mean,
             result->count);
}

static void tradeoff_point(struct buffer *out, const struct svg_plot *plot, struct label_room *room, const struct result *result,
                           const char *class)
{
    char title[512], label[160];
    bool is_best = result->kind == RESULT_BEST_OF_N;
    point_title(title, result);
    if (is_best)
        snprintf(label, sizeof label, "n = %zu", result->n);
    else if (result->policy->value_count == 1)
        snprintf(label, sizeof label, "β %g", result->policy->beta);
    else
        snprintf(label, sizeof label, "%.128s", result->label);
    svg_point(out, plot, class, result->drift.mean, result->mean.mean, result->drift.error, result->mean.error, title);
    double x = svg_at(&plot->x, result->drift.mean), y = svg_at(&plot->y, result->mean.mean);
    label_point(out, room, x, y, label, is_best);
}

/* From the base, if there is one, through these results. */
static void tradeoff_line(struct buffer *out, const struct svg_plot *plot, const struct comparison *comparison,
                          const struct result *base, const size_t *members, size_t count, const char *class)
{
    double *x = memory_alloc(count + 1, sizeof *x), *y = memory_alloc(count + 1, sizeof *y);
    size_t points = 0;
    if (base != NULL) {
        x[points] = 0;
        y[points++] = base->mean.mean;
    }
    for (size_t i = 0; i < count; i++) {
        x[points] = comparison->results[members[i]].drift.mean;
        y[points++] = comparison->results[members[i]].mean.mean;
    }
    svg_line(out, plot, class, x, y, points);
    free(y);
    free(x);
}

static void tradeoff_legend(struct buffer *out, const struct comparison *comparison, const struct line_group *groups,
                            size_t group_count, bool has_best)
{
    buffer_printf(out, "<div class=\"legend\"><span><i class=\"ink\"></i>not steered</span>");
    if (has_best)
        buffer_printf(out, "<span><i class=\"quietly\"></i>best of n of the base policy (KL is an upper bound)</span>");
    for (size_t g = 0; g < group_count; g++) {
        const struct line_group *group = &groups[g];
        buffer_printf(out, "<span><i class=\"s%zu\"></i><bdi>", g % SVG_SERIES);
        html_text(out, comparison->results[group->members[0]].label);
        buffer_printf(out, "</bdi>");
        if (group->count > 1) {
            buffer_printf(out, " &hellip; <bdi>");
            html_text(out, comparison->results[group->members[group->count - 1]].label);
            buffer_printf(out, "</bdi>");
        }
        buffer_printf(out, "</span>");
    }
    buffer_printf(out, "</div>\n");
}

void picture_tradeoff(struct buffer *out, const struct comparison *comparison)
{
    const double width = 860, height = 440;
    struct svg_plot plot = tradeoff_plot(comparison, width, height);
    struct label_room room = { .left = plot.x.from - 30, .right = width };
    size_t group_count, *best = memory_alloc(comparison->count + 1, sizeof *best), best_count = 0;
    struct line_group *groups = groups_of(comparison, &group_count);
    const struct result *base = NULL;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        if (result->kind == RESULT_BASE)
            base = result;
        if (result->kind == RESULT_BEST_OF_N)
            best[best_count++] = i;
        if (isnan(result->drift.mean))
            continue;
        double x = svg_at(&plot.x, result->drift.mean), y = svg_at(&plot.y, result->mean.mean);
        room_take(&room, (struct box){ x - 4, y - 4, x + 4, y + 4 });
    }

    buffer_printf(out, "<figure><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"score against KL\">\n", width, height);
    svg_axes(out, &plot, "KL from the base policy, nats per response (square-root scale)", "mean score", 9, 7);
    tradeoff_line(out, &plot, comparison, base, best, best_count, "quietly dashed");
    char class[16];
    for (size_t g = 0; g < group_count; g++) {
        series_class(class, g);
        tradeoff_line(out, &plot, comparison, base, groups[g].members, groups[g].count, class);
    }
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        if ((result->kind == RESULT_BASE || result->kind == RESULT_OTHER) && !isnan(result->drift.mean))
            tradeoff_point(out, &plot, &room, result, "ink");
    }
    for (size_t i = 0; i < best_count; i++)
        tradeoff_point(out, &plot, &room, &comparison->results[best[i]], "quietly hollow");
    for (size_t g = 0; g < group_count; g++) {
        series_class(class, g);
        for (size_t i = 0; i < groups[g].count; i++)
            tradeoff_point(out, &plot, &room, &comparison->results[groups[g].members[i]], class);
    }
    buffer_printf(out, "</svg></figure>\n");
    tradeoff_legend(out, comparison, groups, group_count, best_count > 0);
    buffer_printf(out, "<p class=\"note\">Higher is a better score, further right is further away from the base policy: of two "
                  "policies the one up and to the left is better. Bars are 95&thinsp;%% intervals. A line joins the strengths"
                  " &beta; of one set of value models, beginning at the base policy, which is &beta; 0. Point at a mark for its"
                  " numbers.</p>\n");
    free(groups);
    free(best);
}

/* ---- histograms ---- */

enum { BINS = 24 };

static void histogram_picture(struct buffer *out, const struct result *result, const struct result *base, double low, double high,
                              const char *class)
{
    size_t counts[BINS], base_counts[BINS];
    double share[BINS], base_share[BINS], top = 0, width = 230, height = 120;
    char mean[32];
    number_text(mean, result->mean.mean, 3);
    histogram(counts, BINS, result->score, result->count, low, high);
    histogram(base_counts, BINS, base->score, base->count, low, high);
    for (size_t i = 0; i < BINS; i++) {
        share[i] = (double)counts[i] / (double)result->count;
        base_share[i] = (double)base_counts[i] / (double)base->count;
        top = fmax(top, fmax(share[i], base_share[i]));
    }
    struct svg_plot plot = { .x = { .low = low, .high = high, .from = 34, .to = width - 14 },
                             .y = { .low = 0, .high = top, .from = height - 24, .to = 14 } };
    buffer_printf(out, "<figure><figcaption><bdi>");
    html_text(out, result->label);
    buffer_printf(out, "</bdi> <span class=\"quiet\">%s</span></figcaption><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
                       "aria-label=\"histogram of scores\">\n", mean, width, height);
    svg_axes(out, &plot, "", "", 4, 3);
    double step_x[2 * BINS], step_y[2 * BINS];
    for (size_t i = 0; i < BINS; i++) {
        double left = low + (high - low) * (double)i / BINS, right = low + (high - low) * (double)(i + 1) / BINS;
        double x = svg_at(&plot.x, left), y = svg_at(&plot.y, share[i]);
        buffer_printf(out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", class, x + 0.4, y,
                      svg_at(&plot.x, right) - x - 0.8, plot.y.from - y);
        step_x[2 * i] = left;
        step_x[2 * i + 1] = right;
        step_y[2 * i] = step_y[2 * i + 1] = base_share[i];
    }
    if (result != base)
        svg_line(out, &plot, "ink raw", step_x, step_y, 2 * BINS);
    buffer_printf(out, "</svg></figure>\n");
}

void picture_histograms(struct buffer *out, const struct comparison *comparison)
{
    double low = INFINITY, high = -INFINITY;
    const struct result *base = NULL;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        base = base == NULL || result->kind == RESULT_BASE ? result : base;
        for (size_t k = 0; k < (result->kind == RESULT_BEST_OF_N ? 0 : result->count); k++) {
            low = fmin(low, result->score[k]);
            high = fmax(high, result->score[k]);
        }
    }
    if (!(low < high)) {
        double margin = fmax(0.5, 0.1 * fabs(high));
        low -= margin;
        high += margin;
    }
    size_t group_count;
    struct line_group *groups = groups_of(comparison, &group_count);
    buffer_printf(out, "<h3>How scores are spread</h3>\n<div class=\"grid4\">\n");
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        char class[16] = "quietly";
        for (size_t g = 0; g < group_count; g++)
            if (result->kind == RESULT_STEERED && strcmp(groups[g].series, result->policy->series) == 0)
                series_class(class, g);
        if (result->kind != RESULT_BEST_OF_N)
            histogram_picture(out, result, base, low, high, class);
    }
    free(groups);
    buffer_printf(out, "</div>\n<p class=\"note\">Share of responses by score; the number is the mean. The thin line is the first "
                  "policy, for comparison. Each panel has its own height.</p>\n");
}

/* ---- training ---- */

enum { CURVE_POINTS_MAX = 400 };

/* Averages neighbours so that at most CURVE_POINTS_MAX points are left.  Returns how many. */
static size_t thin_out(double *x, double *y, const int64_t *steps, const double *values, size_t count)
{
    size_t each = (count + CURVE_POINTS_MAX - 1) / CURVE_POINTS_MAX, points = 0;
    for (size_t begin = 0; begin < count; begin += each) {
        double sum_x = 0, sum_y = 0;
        size_t used = 0;
        for (size_t i = begin; i < count && i < begin + each; i++) {
            if (isnan(values[i]))
                continue;
            sum_x += (double)steps[i];
            sum_y += values[i];
            used++;
        }
        if (used == 0)
            continue;
        x[points] = sum_x / (double)used;
        y[points++] = sum_y / (double)used;
    }
    return points;
}

/* Means over a window about each point. */
static void smooth(double *out, const double *y, size_t count)
{
    size_t half = count / 40;
    for (size_t i = 0; i < count; i++) {
        size_t reach = i < half ? i : half;
        reach = count - 1 - i < reach ? count - 1 - i : reach;
        double sum = 0;
        for (size_t k = i - reach; k <= i + reach; k++)
            sum += y[k];
        out[i] = sum / (double)(2 * reach + 1);
    }
}

static int order_numbers(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* A scale for most of the values; a few extreme ones are cut off at the frame. */
static struct svg_scale robust_scale(const double *y, size_t count, double from, double to)
{
    double *sorted = memory_alloc(count + 1, sizeof *sorted);
    memcpy(sorted, y, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, order_numbers);
    size_t cut = count / 100;
    struct svg_scale scale = count > 0 ? svg_scale_around(sorted[cut], sorted[count - 1 - cut], from, to)
                                       : svg_scale_around(NAN, NAN, from, to);
    free(sorted);
    return scale;
}

struct panel {
    const char *title;
    enum curve curve, beside;  // beside: another curve drawn back; the same one: none
};

static void curve_panel(struct buffer *out, const struct run *run, const struct panel *panel)
{
    const double width = 430, height = 200;
    double x[CURVE_POINTS_MAX], y[2 * CURVE_POINTS_MAX], smoothed[CURVE_POINTS_MAX], beside_x[CURVE_POINTS_MAX];
    size_t count = thin_out(x, y, run->steps, run->curves[panel->curve], run->count);
    if (count == 0)
        return;
    size_t beside = 0;
    if (panel->beside != panel->curve)
        beside = thin_out(beside_x, y + count, run->steps, run->curves[panel->beside], run->count);
    struct svg_plot plot = { .x = svg_scale_around(x[0], x[count - 1], 52, width - 10),
                             .y = robust_scale(y, count + beside, height - 28, 12) };
    for (size_t i = 0; i < count + beside; i++)
        y[i] = fmax(plot.y.low, fmin(plot.y.high, y[i]));
    buffer_printf(out, "<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">\n",
                  panel->title, width, height, curve_names[panel->curve]);
    svg_axes(out, &plot, "", "", 6, 4);
    if (beside > 0) {
        smooth(smoothed, y + count, beside);
        svg_line(out, &plot, "quietly dashed", beside_x, smoothed, beside);
    }
    svg_line(out, &plot, "s0 raw", x, y, count);
    smooth(smoothed, y, count);
    svg_line(out, &plot, "s0", x, smoothed, count);
    buffer_printf(out, "</svg></figure>\n");
}

void picture_curves(struct buffer *out, const struct run *run)
{
    static const struct panel panels[] = {
        { "loss", CURVE_LOSS, CURVE_LOSS },
        { "mean value; dashed: mean target", CURVE_VALUE_MEAN, CURVE_TARGET_MEAN },
        { "explained variance", CURVE_EXPLAINED_VARIANCE, CURVE_EXPLAINED_VARIANCE },
        { "gradient norm before clipping", CURVE_GRADIENT_NORM, CURVE_GRADIENT_NORM },
    };
    if (run->count == 0) {
        buffer_printf(out, "<p>No step has been reported yet.</p>\n");
        return;
    }
    buffer_printf(out, "<div class=\"grid2\">\n");
    for (size_t i = 0; i < COUNT_OF(panels); i++)
        curve_panel(out, run, &panels[i]);
    buffer_printf(out, "</div>\n"
                  "<p class=\"note\">Against the optimiser step; the strong line is a moving mean, and the most extreme "
                  "hundredth is cut off at the frame. A sound run: the loss falls and levels off, the mean value follows the mean "
                  "target, and explained variance (1 &minus; Var(target &minus; value) / Var(target)) rises from 0; below 0 the"
                  " values are worse than a constant.</p>\n");
}
