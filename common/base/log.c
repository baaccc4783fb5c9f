/* log.c - see log.h.  A line is written with one call, so lines of several processes do not mix. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/progress.h"

static const char *log_name = "vas";
static int log_level = 0;

void log_open(const char *program, int verbosity)
{
    log_name = program;
    log_level = verbosity;
}

int log_verbosity(void)
{
    return log_level;
}

const char *log_program(void)
{
    return log_name;
}

static void log_line(const char *prefix, const char *format, va_list arguments)
{
    char line[4096];
    int used = snprintf(line, sizeof line, "%s: ", prefix);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    size_t size = (size_t)used + (more > 0 ? (size_t)more : 0);
    if (size > sizeof line - 2)
        size = sizeof line - 2;
    for (size_t i = 0; i < size; i++)  // what a stranger sent stays on one line and does nothing to a terminal
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = ' ';
    line[size++] = '\n';

    progress_erase();
    for (size_t done = 0; done < size; ) {
        ssize_t n = write(STDERR_FILENO, line + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
}

#define LOG_AT(prefix)                    \
    do {                                  \
        va_list arguments;                \
        va_start(arguments, format);      \
        log_line(prefix, format, arguments); \
        va_end(arguments);                \
    } while (0)

void log_error(const char *format, ...)
{
    LOG_AT(log_name);
}

void log_hint(const char *format, ...)
{
    LOG_AT("hint");
}

void log_event(const char *format, ...)
{
    if (log_level >= 0)
        LOG_AT(log_name);
}

void log_debug(const char *format, ...)
{
    if (log_level >= 1)
        LOG_AT(log_name);
}

_Noreturn void check_failed(const char *expression, const char *file, int line)
{
    log_error("internal error at %s:%d: %s does not hold", file, line, expression);
    abort();
}
