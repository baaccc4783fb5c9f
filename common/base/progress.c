/* progress.c - see progress.h. */
#include "base/progress.h"

#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

static const double terminal_interval_s = 0.2, plain_interval_s = 10;
static bool line_is_open;

double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_erase(void)
{
    if (line_is_open)
        fputs("\r\033[K", stderr);
    line_is_open = false;
}

void duration_text(char text[16], double s)
{
    if (s < 100)
        snprintf(text, 16, "%.0f s", s);
    else if (s < 100 * 60)
        snprintf(text, 16, "%.0f min", s / 60);
    else
        snprintf(text, 16, "%.1f h", s < 1e8 ? s / 3600 : 0);
}

static void progress_show(struct progress *progress, bool last)
{
    double now = clock_s(), elapsed_s = now - progress->start_s;
    double rate = elapsed_s > 0 ? (double)(progress->done - progress->begun) / elapsed_s : 0;
    char total[32] = "", left[48] = "", duration[16];
    if (progress->total > 0)
        snprintf(total, sizeof total, "/%lld", (long long)progress->total);
    if (last) {
        duration_text(duration, elapsed_s);
        snprintf(left, sizeof left, ", took %s", duration);
    } else if (progress->total > progress->done && rate > 0) {
        duration_text(duration, (double)(progress->total - progress->done) / rate);
        snprintf(left, sizeof left, ", %s left", duration);
    }
    progress_erase();
    fprintf(stderr, "%s: %s %lld%s %s, %.*f/s%s%s%s", log_program(), progress->label, (long long)progress->done, total,
            progress->unit, rate < 10 ? 1 : 0, rate, left, progress->note[0] ? ", " : "", progress->note);
    line_is_open = !last && isatty(STDERR_FILENO);
    if (!line_is_open)
        fputc('\n', stderr);
    fflush(stderr);
    progress->shown_s = now;
}

void progress_start(struct progress *progress, const char *label, const char *unit, int64_t total)
{
    double now = clock_s();
    *progress = (struct progress){ .label = label, .unit = unit, .total = total, .start_s = now, .shown_s = now };
}

void progress_set(struct progress *progress, int64_t done)
{
    progress->done = done;
    double interval_s = isatty(STDERR_FILENO) ? terminal_interval_s : plain_interval_s;
    if (log_verbosity() >= 0 && clock_s() - progress->shown_s >= interval_s)
        progress_show(progress, false);
}

void progress_end(struct progress *progress)
{
    if (log_verbosity() >= 0)
        progress_show(progress, true);
}
