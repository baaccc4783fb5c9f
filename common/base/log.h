/*
 * log.h - one line per event on standard error, prefixed with the program's name.
 *
 * Messages are lower case, have no full stop and name what, where, the value and
 * the limit.  Standard output carries data and is never written here.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

#define LOG_FORMAT(format_index) __attribute__((format(printf, format_index, format_index + 1)))

/* Verbosity: -1 errors only (-q), 0 events, 1 details (-v).  Keeps program. */
void log_open(const char *program, int verbosity);
int log_verbosity(void);
const char *log_program(void);

void log_error(const char *format, ...) LOG_FORMAT(1);  // always shown
void log_hint(const char *format, ...) LOG_FORMAT(1);   // advice that belongs to the error before it
void log_event(const char *format, ...) LOG_FORMAT(1);  // shown unless -q
void log_debug(const char *format, ...) LOG_FORMAT(1);  // shown with -v

#endif
