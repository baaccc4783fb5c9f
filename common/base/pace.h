/*
 * pace.h - which of two ways to do the same is faster, found out while it is done.
 *
 * Some steps are done either way; the way whose steps took less, but for the longest of each, is kept for so many that the other's
 * trial is cheap beside them, and so on.
 */
#ifndef BASE_PACE_H
#define BASE_PACE_H

#include <stdbool.h>
#include <stddef.h>

/* Steps of a way: before those that count, that count, of these left out, and kept before the next trial. */
enum { PACE_WARM = 2, PACE_TRIED = 16, PACE_LONGEST = 4, PACE_KEPT = 1000 };

/* Zero-initialise. */
struct pace {
    double tried_s[2][PACE_TRIED];
    size_t steps;  // of this trial and what follows it
    size_t faster;
};

/* 0 or 1: the way of the next step. */
size_t pace_way(const struct pace *pace);
/* What that step took. */
void pace_add(struct pace *pace, double seconds);

#endif
