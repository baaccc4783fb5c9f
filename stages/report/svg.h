/*
 * svg.h - pictures written directly: text that is safe in a page, scales with ticks, axes, marks.
 *
 * Coordinates are pixels of the picture's own system, y downwards.  Colours are classes of the page's style sheet, so
 * that light and dark are its business: "s0" .. "s5" for series, "ink", and "quietly" for what stands back.
 */
#ifndef REPORT_SVG_H
#define REPORT_SVG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/memory.h"

enum { SVG_SERIES = 6, SVG_TICKS_MAX = 12 };

/* Appends text for a page: markup escaped, what is no UTF-8 or no character as U+FFFD. */
void html_text(struct buffer *out, const char *text);

/* From a quantity to pixels. */
struct svg_scale {
    double low, high;  // low < high
    double from, to;   // pixels of low and high
    bool root;         // square-root scale: low is 0
};
double svg_at(const struct svg_scale *scale, double value);

/* Round numbers within the scale, about count of them; returns how many, at most SVG_TICKS_MAX. */
size_t svg_ticks(double ticks[SVG_TICKS_MAX], const struct svg_scale *scale, size_t count);
/* A tick's number with no more digits than it needs. */
void svg_number(char text[32], double value);

/* A scale around these values (NaN do not count), widened a little; 0 .. 1 when there are none. */
struct svg_scale svg_scale_around(double low, double high, double from, double to);

struct svg_plot {
    struct svg_scale x, y;
};

/* Frame, grid, ticks and axis titles (texts, may be ""). */
void svg_axes(struct buffer *out, const struct svg_plot *plot, const char *x_title, const char *y_title, size_t x_ticks,
              size_t y_ticks);

/* A line through the points that are not NaN, in order; class may name several classes. */
void svg_line(struct buffer *out, const struct svg_plot *plot, const char *class, const double *x, const double *y, size_t count);

enum svg_anchor { SVG_START, SVG_MIDDLE, SVG_END };
void svg_text(struct buffer *out, double x, double y, const char *class, enum svg_anchor anchor, const char *text);

/* A point with its error bars (half-widths, in units of the axes; NaN or 0: none) and a title shown when pointed at. */
void svg_point(struct buffer *out, const struct svg_plot *plot, const char *class, double x, double y, double x_error,
               double y_error, const char *title);

#endif
