/* reader.c - see reader.h. */
#include "wire/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "wire/frame.h"

enum { READ_BYTES = 256 << 10 };

void frame_reader_init(struct frame_reader *reader, int fd, const char *name)
{
    *reader = (struct frame_reader){ .fd = fd, .name = name };
}

void frame_reader_free(struct frame_reader *reader)
{
    free(reader->data);
    *reader = (struct frame_reader){ 0 };
}

int frame_reader_next(struct frame_reader *reader, const void **frame, size_t *size)
{
    size_t left = reader->size - reader->at;
    if (left == 0)
        return 0;
    reader->offset = reader->next_offset;
    int64_t extent = frame_extent(reader->data + reader->at, left);
    if (extent < 0) {
        log_error("%s at byte %lld is not a frame, nor can what follows be read", reader->name, (long long)reader->offset);
        return -1;
    }
    if (extent == 0 && reader->ended) {
        log_error("%s ends inside the frame at byte %lld, after %zu bytes of it", reader->name, (long long)reader->offset, left);
        return -1;
    }
    if (extent == 0)
        return 0;
    *frame = reader->data + reader->at;
    *size = (size_t)extent;
    reader->at += *size;
    reader->next_offset += extent;
    return 1;
}

int frame_reader_fill(struct frame_reader *reader)
{
    if (reader->at > 0) {
        memmove(reader->data, reader->data + reader->at, reader->size - reader->at);
        reader->size -= reader->at;
        reader->at = 0;
    }
    if (reader->capacity - reader->size < READ_BYTES) {
        reader->capacity = 2 * reader->capacity + READ_BYTES;
        reader->data = memory_grow(reader->data, reader->capacity, 1);
    }
    ssize_t n = read(reader->fd, reader->data + reader->size, reader->capacity - reader->size);
    if (n > 0) {
        reader->size += (size_t)n;
    } else if (n == 0) {
        reader->ended = true;
    } else if (errno != EINTR && errno != EAGAIN) {
        log_error("could not read %s after byte %lld: %s", reader->name, (long long)reader->next_offset, strerror(errno));
        return -1;
    }
    return 0;
}
