/* pace.c - see pace.h. */
#include "base/pace.h"

#include <stdlib.h>

enum { STEPS = PACE_WARM + PACE_TRIED };  // of a way in a trial

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The mean without odd ones, which something else held up.  It is no median: a way may well have steps of several lengths. */
static double usual(double seconds[PACE_TRIED])
{
    qsort(seconds, PACE_TRIED, sizeof *seconds, compare);
    double sum = 0, most = PACE_ODD * seconds[PACE_TRIED / 2];
    size_t count = 0;
    while (count < PACE_TRIED && seconds[count] <= most)
        sum += seconds[count++];
    return sum / (double)count;
}

size_t pace_way(const struct pace *pace)
{
    return pace->steps < 2 * STEPS ? pace->steps / STEPS : pace->faster;
}

void pace_add(struct pace *pace, double seconds)
{
    size_t way = pace->steps / STEPS, step = pace->steps % STEPS;
    pace->steps++;
    if (way < 2) {
        pace->spent_s[way] += seconds;
        if (step >= PACE_WARM)
            pace->tried_s[way][step - PACE_WARM] = seconds;
        if (pace->spent_s[1] > PACE_LOST * pace->spent_s[0]) {
            pace->faster = 0;
            pace->steps = 2 * STEPS;
        } else if (pace->steps == 2 * STEPS) {
            pace->faster = usual(pace->tried_s[1]) < usual(pace->tried_s[0]);
        }
    }
    if (pace->steps == 2 * STEPS + PACE_KEPT)
        *pace = (struct pace){ 0 };
}
