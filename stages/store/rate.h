/*
 * rate.h - how many things a second, of late: over the last half minute, or the last fifteen things where they are rarer.
 */
#ifndef STORE_RATE_H
#define STORE_RATE_H

#include <stddef.h>
#include <stdint.h>

enum { RATE_POINTS = 16 };

struct rate {
    struct {
        double at_s;
        int64_t total;
    } points[RATE_POINTS];  // the oldest at next once all are used
    size_t count, next;
    int64_t total;
};

/* now_s: of a clock that never goes back. */
void rate_begin(struct rate *rate, double now_s);
void rate_add(struct rate *rate, int64_t count, double now_s);
double rate_per_s(const struct rate *rate, double now_s);

#endif
