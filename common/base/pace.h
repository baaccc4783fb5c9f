/*
 * pace.h - which of two ways to do the same is faster, found out while it is done.
 *
 * Some steps are done either way, way 0 first; the way whose steps took less, but for odd ones that took many times as long as the
 * middle one, is kept for so many that the trial is cheap beside them, and so on.  A way 1 that has taken far longer than the whole
 * trial of way 0 is not tried to the end.
 */
#ifndef BASE_PACE_H
#define BASE_PACE_H

#include <stddef.h>

enum {
    PACE_WARM = 2, PACE_TRIED = 16,  // steps of a way in a trial: before those that count, that count
    PACE_ODD = 4,                    // times the middle one: what takes longer is left out
    PACE_LOST = 2,                   // times the trial of way 0: what has taken longer has lost
    PACE_KEPT = 1000,                // steps before the next trial
};

/* Zero-initialise. */
struct pace {
    double tried_s[2][PACE_TRIED], spent_s[2];
    size_t steps;  // of this trial and what follows it
    size_t faster;
};

/* 0 or 1: the way of the next step. */
size_t pace_way(const struct pace *pace);
/* What that step took. */
void pace_add(struct pace *pace, double seconds);

#endif
