/* svg.c - see svg.h. */
#include "report/svg.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "report/print.h"

void html_text(struct buffer *out, const char *text)
{
    while (*text != '\0') {
        int32_t code;
        size_t size = text_next(text, &code);
        if (code == '&')
            buffer_append(out, "&amp;", 5);
        else if (code == '<')
            buffer_append(out, "&lt;", 4);
        else if (code == '>')
            buffer_append(out, "&gt;", 4);
        else if (code == '"')
            buffer_append(out, "&quot;", 6);
        else if (code == '\'')
            buffer_append(out, "&#39;", 5);
        else if (code == 0xFFFD)
            buffer_append(out, "\xEF\xBF\xBD", 3);
        else
            buffer_append(out, text, size);
        text += size;
    }
}

static double unrooted(const struct svg_scale *scale, double value)
{
    return scale->root ? sqrt(fmax(value, 0)) : value;
}

double svg_at(const struct svg_scale *scale, double value)
{
    double low = unrooted(scale, scale->low), high = unrooted(scale, scale->high);
    return scale->from + (unrooted(scale, value) - low) / (high - low) * (scale->to - scale->from);
}

/* The largest of 1, 2, 5 times a power of ten that is not above x; the next one when up is set. */
static double round_step(double x, bool up)
{
    double power = pow(10, floor(log10(x))), times = x / power;
    if (times >= 10 * (1 - 1e-9)) {  // log10 of a power of ten may come out a little low
        power *= 10;
        times = 1;
    }
    static const double steps[] = { 1, 2, 5, 10 };
    size_t i = 0;
    while (i < 2 && times >= steps[i + 1] * (1 - 1e-9))
        i++;
    return power * steps[up ? i + 1 : i];
}

size_t svg_ticks(double ticks[SVG_TICKS_MAX], const struct svg_scale *scale, size_t count)
{
    size_t found = 0;
    if (scale->root) {  // 0, then round numbers as far apart on the picture as there is room
        double apart = fabs(scale->to - scale->from) / (double)(count + 1), last = scale->from;
        ticks[found++] = 0;
        for (double value = round_step(scale->high / 1e4, false); value <= scale->high && found < SVG_TICKS_MAX;
             value = round_step(value, true)) {
            if (fabs(svg_at(scale, value) - last) < apart)
                continue;
            last = svg_at(scale, value);
            ticks[found++] = value;
        }
        return found;
    }
    double step = round_step((scale->high - scale->low) / (double)count, true);
    for (double i = ceil(scale->low / step - 1e-9); i * step <= scale->high + 1e-9 * step && found < SVG_TICKS_MAX; i++)
        ticks[found++] = i * step;
    return found;
}

void svg_number(char text[32], double value)
{
    double size = fabs(value);
    if (size < 1e-12)
        snprintf(text, 32, "0");
    else if (size >= 1000 && size < 1e6)
        snprintf(text, 32, "%.0f", value);
    else
        snprintf(text, 32, "%.3g", value);
    if (value < 0) {  // the real minus sign is as wide as a digit
        char rest[28];
        snprintf(rest, sizeof rest, "%.26s", text + 1);
        snprintf(text, 32, "\xE2\x88\x92%s", rest);
    }
}

struct svg_scale svg_scale_around(double low, double high, double from, double to)
{
    if (!(low <= high)) {
        low = 0;
        high = 1;
    }
    double margin = high > low ? 0.06 * (high - low) : fmax(0.05, 0.1 * fabs(high));
    return (struct svg_scale){ .low = low - margin, .high = high + margin, .from = from, .to = to };
}

void svg_text(struct buffer *out, double x, double y, const char *class, enum svg_anchor anchor, const char *text)
{
    static const char *const anchors[] = { "start", "middle", "end" };
    buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, class, anchors[anchor]);
    html_text(out, text);
    buffer_printf(out, "</text>\n");
}

void svg_axes(struct buffer *out, const struct svg_plot *plot, const char *x_title, const char *y_title, size_t x_ticks,
              size_t y_ticks)
{
    const struct svg_scale *x = &plot->x, *y = &plot->y;
    double ticks[SVG_TICKS_MAX];
    char number[32];
    size_t count = svg_ticks(ticks, y, y_ticks);
    for (size_t i = 0; i < count; i++) {
        double at = svg_at(y, ticks[i]);
        buffer_printf(out, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", x->from, at, x->to);
        svg_number(number, ticks[i]);
        svg_text(out, x->from - 7, at + 4, "tick", SVG_END, number);
    }
    count = svg_ticks(ticks, x, x_ticks);
    for (size_t i = 0; i < count; i++) {
        double at = svg_at(x, ticks[i]);
        buffer_printf(out, "<path class=\"axis\" d=\"M%.1f %.1fv4\"/>", at, y->from);
        svg_number(number, ticks[i]);
        svg_text(out, at, y->from + 18, "tick", SVG_MIDDLE, number);
    }
    buffer_printf(out, "<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>\n", x->from, y->from, x->to);
    if (x_title[0] != '\0')
        svg_text(out, x->to, y->from + 36, "title", SVG_END, x_title);
    if (y_title[0] != '\0')
        svg_text(out, x->from - 7, y->to - 10, "title", SVG_START, y_title);
}

void svg_line(struct buffer *out, const struct svg_plot *plot, const char *class, const double *x, const double *y, size_t count)
{
    const char *join = NULL;
    for (size_t i = 0; i < count; i++) {
        if (isnan(x[i]) || isnan(y[i]))
            continue;
        if (join == NULL)
            buffer_printf(out, "<path class=\"line %s\" d=\"", class);
        buffer_printf(out, "%s%.1f %.1f", join != NULL ? join : "M", svg_at(&plot->x, x[i]), svg_at(&plot->y, y[i]));
        join = "L";
    }
    if (join != NULL)
        buffer_printf(out, "\"/>\n");
}

void svg_point(struct buffer *out, const struct svg_plot *plot, const char *class, double x, double y, double x_error,
               double y_error, const char *title)
{
    double at_x = svg_at(&plot->x, x), at_y = svg_at(&plot->y, y);
    buffer_printf(out, "<g class=\"point %s\"><title>", class);
    html_text(out, title);
    buffer_printf(out, "</title>");
    if (y_error > 0)
        buffer_printf(out, "<path class=\"bar\" d=\"M%.1f %.1fV%.1f\"/>", at_x, svg_at(&plot->y, y - y_error),
                      svg_at(&plot->y, y + y_error));
    if (x_error > 0)
        buffer_printf(out, "<path class=\"bar\" d=\"M%.1f %.1fH%.1f\"/>", svg_at(&plot->x, fmax(x - x_error, plot->x.low)), at_y,
                      svg_at(&plot->x, fmin(x + x_error, plot->x.high)));
    buffer_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/></g>\n", at_x, at_y);
}
