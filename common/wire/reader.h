/*
 * reader.h - frames that follow each other in a file or pipe, one at a time.
 *
 * Nothing marks where a frame begins, so a stream that stops being MessagePack maps cannot be read further.
 */
#ifndef WIRE_READER_H
#define WIRE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct frame_reader {
    int fd;
    const char *name;  // of the stream, for errors
    bool ended;        // nothing more can be read
    int64_t offset;    // in the stream, of the frame that was given last
    int64_t next_offset;
    char *data;
    size_t at, size, capacity;  // bytes at .. size are not given yet
};

/* Keeps name. */
void frame_reader_init(struct frame_reader *reader, int fd, const char *name);
void frame_reader_free(struct frame_reader *reader);

/*
 * The next frame that is there whole, not yet decoded: 1, valid until frame_reader_fill.  0 when more must be read first, or
 * after ended.  -1 when the stream is no frames or ended inside one, logged.
 */
int frame_reader_next(struct frame_reader *reader, const void **frame, size_t *size);

/* One read(), which may block.  Sets ended.  0, or -1 on failure, logged. */
int frame_reader_fill(struct frame_reader *reader);

#endif
