/*
 * linefile.h - the lines of a file or of standard input, without a byte order mark before the first, without waiting for those
 * that have not arrived.
 */
#ifndef DECODE_LINEFILE_H
#define DECODE_LINEFILE_H

#include <stdbool.h>
#include <stddef.h>

enum { LINE_BYTES_MAX = 16 << 20 };

struct linefile;

/* path "-" is standard input.  NULL on failure, logged; *code is then the exit code. */
struct linefile *linefile_open(const char *path, int *code);
void linefile_close(struct linefile *lines);

enum linefile_status {
    LINEFILE_ONE,     // a line
    LINEFILE_LONG,    // of more than LINE_BYTES_MAX bytes: logged, and left out
    LINEFILE_NONE,    // nothing has arrived; with wait not for a while: ask again unless a signal came
    LINEFILE_END,     // no more
    LINEFILE_FAILED,  // logged
};
/* The next line without its end, with a NUL after it, valid until the next call.  The last line may lack its newline. */
enum linefile_status linefile_next(struct linefile *lines, bool wait, char **line, size_t *size);

const char *linefile_name(const struct linefile *lines);
size_t linefile_number(const struct linefile *lines);  // of the last line given or left out, from 1

#endif
