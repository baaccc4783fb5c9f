/* stderr_text.h - what a function writes to standard error, to compare its message. */
#ifndef TESTS_STDERR_TEXT_H
#define TESTS_STDERR_TEXT_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static FILE *stderr_held;
static int stderr_fd;

/* From here on standard error is held back. */
static inline void stderr_hold(void)
{
    fflush(stderr);
    stderr_held = tmpfile();
    stderr_fd = dup(STDERR_FILENO);
    if (stderr_held == NULL || stderr_fd < 0 || dup2(fileno(stderr_held), STDERR_FILENO) < 0)
        abort();
}

/* What was held back, and standard error as before.  Valid until the next call. */
static inline const char *stderr_release(void)
{
    static char text[4096];
    fflush(stderr);
    rewind(stderr_held);
    size_t size = fread(text, 1, sizeof text - 1, stderr_held);
    text[size] = '\0';
    fclose(stderr_held);
    dup2(stderr_fd, STDERR_FILENO);
    close(stderr_fd);
    return text;
}

#endif
