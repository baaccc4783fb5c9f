/*
 * progress.h - how far a stage is, its rate and the time left, on standard error.
 *
 * On a terminal one line that is rewritten; otherwise a plain line now and then.
 * Nothing with -q.
 */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *label, *unit;
    int64_t done, total;  // in unit; total 0: not known
    int64_t begun;        // of done, what earlier processes did: set it after progress_start when resuming
    double start_s, shown_s;
    char note[96];        // shown behind the rate, e.g. "loss=0.03"
};

/* Keeps label and unit (plural, e.g. "rollouts"). */
void progress_start(struct progress *progress, const char *label, const char *unit, int64_t total);
/* Sets done and shows it if the last time was long enough ago. */
void progress_set(struct progress *progress, int64_t done);
/* Shows the final count and ends the line. */
void progress_end(struct progress *progress);
/* Clears a line left by progress_set, so that a message can take its place. */
void progress_erase(void);

/* "12 s", "12 min", "12.3 h". */
void duration_text(char text[16], double s);

/* Seconds of a clock that never goes back. */
double clock_s(void);

#endif
