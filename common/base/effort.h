/*
 * effort.h - what this process does with its time.
 *
 * Its main thread is always in one of four states, so the seconds in them add up to its life.  Whoever enters one goes back to the
 * one before:
 *
 *     enum effort before = effort_enter(EFFORT_COMPUTE);
 *     ...
 *     effort_enter(before);
 */
#ifndef BASE_EFFORT_H
#define BASE_EFFORT_H

#include <stddef.h>
#include <stdint.h>

enum effort {
    EFFORT_OTHER,    // starting, texts, files, bookkeeping
    EFFORT_COMPUTE,  // model arithmetic, or what stands in its place: a scorer, a tokenizer
    EFFORT_WAIT,     // for items
    EFFORT_WIRE,     // frames, the socket, the store's commits
    EFFORT_COUNT
};

/* Returns the state before. */
enum effort effort_enter(enum effort effort);
/* The seconds so far. */
void effort_read(double seconds[EFFORT_COUNT]);
/* Whole ms that were not yet told to anybody, at most max; once they are, tell so. */
void effort_untold(int64_t ms[EFFORT_COUNT], int64_t max);
void effort_told(const int64_t ms[EFFORT_COUNT]);
/* "12.3 s: compute 97.1 %, wait 0.9 %, wire 0.4 %, other 1.6 %" */
void effort_text(char *text, size_t size, const double seconds[EFFORT_COUNT]);

#endif
