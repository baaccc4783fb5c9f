/* linefile.c - see linefile.h. */
#include "decode/linefile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"

struct linefile {
    const char *name;
    int fd;
    size_t number;
    bool ended;
    bool skips;           // to the end of a line that is too long, which was said
    struct buffer data;
    size_t at, searched;  // bytes: where the next line begins; up to where it has no end
};

enum { READ_BYTES = 64 << 10, WAIT_MS = 200 };  // so that a signal between two calls is seen

struct linefile *linefile_open(const char *path, int *code)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        log_error("could not open \"%s\": %s", path, strerror(errno));
        *code = EX_NOINPUT;
        return NULL;
    }
    struct linefile *lines = memory_alloc(1, sizeof *lines);
    lines->name = standard ? "standard input" : path;
    lines->fd = fd;
    return lines;
}

void linefile_close(struct linefile *lines)
{
    if (lines == NULL)
        return;
    if (lines->fd != STDIN_FILENO)
        close(lines->fd);
    free(lines->data.data);
    free(lines);
}

const char *linefile_name(const struct linefile *lines)
{
    return lines->name;
}

size_t linefile_number(const struct linefile *lines)
{
    return lines->number;
}

static enum linefile_status give_line(struct linefile *lines, size_t end, char **line, size_t *size)
{
    if (lines->number == 0)
        lines->at += utf8_mark(lines->data.data, end);
    *line = lines->data.data + lines->at;
    *size = end - lines->at;
    lines->at = lines->searched = end + 1;
    if (*size > 0 && (*line)[*size - 1] == '\r')
        --*size;
    (*line)[*size] = '\0';
    lines->number++;
    return LINEFILE_ONE;
}

static enum linefile_status too_long(struct linefile *lines)
{
    log_error("line %zu of \"%s\" has more than %d bytes", ++lines->number, lines->name, LINE_BYTES_MAX);
    return LINEFILE_LONG;
}

/* Reads what has arrived.  LINEFILE_ONE: there may be a line now. */
static enum linefile_status read_more(struct linefile *lines, bool wait)
{
    if (lines->at > 0)
        memmove(lines->data.data, lines->data.data + lines->at, lines->data.size - lines->at);
    lines->data.size -= lines->at;
    lines->searched -= lines->at;
    lines->at = 0;
    if (lines->data.size > LINE_BYTES_MAX) {
        lines->data.size = lines->searched = 0;
        if (!lines->skips) {
            lines->skips = true;
            return too_long(lines);
        }
    }
    if (poll(&(struct pollfd){ .fd = lines->fd, .events = POLLIN }, 1, wait ? WAIT_MS : 0) <= 0)
        return LINEFILE_NONE;
    static char block[READ_BYTES];
    ssize_t got = read(lines->fd, block, sizeof block);
    if (got > 0)
        buffer_append(&lines->data, block, (size_t)got);
    else if (got == 0)
        lines->ended = true;
    else if (errno == EINTR || errno == EAGAIN)
        return LINEFILE_NONE;
    else {
        log_error("could not read \"%s\": %s", lines->name, strerror(errno));
        return LINEFILE_FAILED;
    }
    return LINEFILE_ONE;
}

enum linefile_status linefile_next(struct linefile *lines, bool wait, char **line, size_t *size)
{
    for (;;) {
        const char *newline = lines->searched < lines->data.size
                                  ? memchr(lines->data.data + lines->searched, '\n', lines->data.size - lines->searched)
                                  : NULL;
        if (newline != NULL) {
            size_t end = (size_t)(newline - lines->data.data);
            bool known = lines->skips;
            if (!known && end - lines->at <= LINE_BYTES_MAX)
                return give_line(lines, end, line, size);
            lines->skips = false;
            lines->at = lines->searched = end + 1;
            if (!known)
                return too_long(lines);
            continue;
        }
        lines->searched = lines->data.size;
        if (lines->ended) {
            if (lines->at >= lines->data.size)
                return LINEFILE_END;
            buffer_append(&lines->data, "\n", 1);  // the last line's own
            continue;
        }
        enum linefile_status status = read_more(lines, wait);
        if (status != LINEFILE_ONE)
            return status;
    }
}
