/* pace.c - see pace.h. */
#include "base/pace.h"

#include <stdlib.h>

enum { STEPS = PACE_WARM + PACE_TRIED };  // of a way in a trial

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

size_t pace_way(const struct pace *pace)
{
    return pace->steps < 2 * STEPS ? pace->steps / STEPS : pace->faster;
}

void pace_add(struct pace *pace, double seconds)
{
    size_t way = pace->steps / STEPS, step = pace->steps % STEPS;
    if (way < 2 && step >= PACE_WARM)
        pace->tried_s[way][step - PACE_WARM] = seconds;
    pace->steps++;
    if (pace->steps == 2 * STEPS) {
        double sum_s[2] = { 0 };
        for (size_t i = 0; i < 2; i++) {
            qsort(pace->tried_s[i], PACE_TRIED, sizeof(double), compare);
            for (size_t k = 0; k < PACE_TRIED - PACE_LONGEST; k++)
                sum_s[i] += pace->tried_s[i][k];
        }
        pace->faster = sum_s[1] < sum_s[0];
    }
    if (pace->steps == 2 * STEPS + PACE_KEPT)
        pace->steps = 0;
}
