/* effort.c - see effort.h. */
#include "base/effort.h"

#include <stdio.h>

#include "base/progress.h"

static enum effort now_in;
static double since_s, spent_s[EFFORT_COUNT];
static int64_t told_ms[EFFORT_COUNT];

__attribute__((constructor)) static void effort_begin(void)
{
    since_s = clock_s();
}

enum effort effort_enter(enum effort effort)
{
    enum effort before = now_in;
    double now_s = clock_s();
    spent_s[before] += now_s - since_s;
    since_s = now_s;
    now_in = effort;
    return before;
}

void effort_read(double seconds[EFFORT_COUNT])
{
    effort_enter(now_in);
    for (int i = 0; i < EFFORT_COUNT; i++)
        seconds[i] = spent_s[i];
}

void effort_untold(int64_t ms[EFFORT_COUNT], int64_t max)
{
    effort_enter(now_in);
    for (int i = 0; i < EFFORT_COUNT; i++) {
        int64_t untold = (int64_t)(1000 * spent_s[i]) - told_ms[i];
        ms[i] = untold < max ? untold : max;
    }
}

void effort_told(const int64_t ms[EFFORT_COUNT])
{
    for (int i = 0; i < EFFORT_COUNT; i++)
        told_ms[i] += ms[i];
}

void effort_text(char *text, size_t size, const double seconds[EFFORT_COUNT])
{
    double total = 0;
    for (int i = 0; i < EFFORT_COUNT; i++)
        total += seconds[i];
    double percent = total > 0 ? 100 / total : 0;
    snprintf(text, size, "%.1f s: compute %.1f %%, wait %.1f %%, wire %.1f %%, other %.1f %%", total,
             percent * seconds[EFFORT_COMPUTE], percent * seconds[EFFORT_WAIT], percent * seconds[EFFORT_WIRE],
             percent * seconds[EFFORT_OTHER]);
}
