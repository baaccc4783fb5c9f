/* rate.c - see rate.h. */
#include "store/rate.h"

static const double APART_S = 2;  // between two points

static void point_add(struct rate *rate, double now_s)
{
    rate->points[rate->next].at_s = now_s;
    rate->points[rate->next].total = rate->total;
    rate->next = (rate->next + 1) % RATE_POINTS;
    rate->count += rate->count < RATE_POINTS;
}

void rate_begin(struct rate *rate, double now_s)
{
    *rate = (struct rate){ .total = 0 };
    point_add(rate, now_s);
}

void rate_add(struct rate *rate, int64_t count, double now_s)
{
    size_t newest = (rate->next + RATE_POINTS - 1) % RATE_POINTS;
    rate->total += count;
    if (now_s - rate->points[newest].at_s >= APART_S)
        point_add(rate, now_s);
}

double rate_per_s(const struct rate *rate, double now_s)
{
    size_t oldest = rate->count < RATE_POINTS ? 0 : rate->next;
    double span_s = now_s - rate->points[oldest].at_s;
    return span_s > 0 ? (double)(rate->total - rate->points[oldest].total) / span_s : 0;
}
