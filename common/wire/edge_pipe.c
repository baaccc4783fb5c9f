/*
 * edge_pipe.c - an edge between standard input and standard output.  See edge.h.
 *
 * Frames follow each other without anything between them, so a stream that stops being MessagePack cannot be read further.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stop.h"
#include "wire/edge_parts.h"

enum { READ_BYTES = 256 << 10, WRITE_BYTES = 64 << 10 };

struct edge_pipe {
    char *input;
    size_t input_at, input_size, input_capacity;  // bytes at .. size are not read yet
    int64_t offset;                               // of input_at in the stream
    bool input_ended;
    bool output_is_terminal, output_failed;
    struct buffer output;
};

int pipe_open(struct edge *edge)
{
    if (!edge->options.takes_nothing && isatty(STDIN_FILENO)) {
        log_error("standard input is a terminal, expected %s frames", frame_type_name(edge->options.takes));
        log_hint("pipe the stage before this one into it, or name a store with --store");
        return EX_USAGE;
    }
    edge->pipe = memory_alloc(1, sizeof *edge->pipe);
    edge->pipe->output_is_terminal = isatty(STDOUT_FILENO);
    return EX_OK;
}

/* ---- output ---- */

static int pipe_flush(struct edge *edge)
{
    struct buffer *output = &edge->pipe->output;
    size_t done = 0;
    while (done < output->size && !edge->pipe->output_failed) {
        ssize_t n = write(STDOUT_FILENO, output->data + done, output->size - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            poll(&(struct pollfd){ .fd = STDOUT_FILENO, .events = POLLOUT }, 1, SLICE_MS);
        } else if (errno != EINTR) {
            log_error("could not write to standard output: %s", strerror(errno));
            edge->pipe->output_failed = true;
            edge->failure = EX_IOERR;
        }
    }
    output->size = 0;
    return edge->pipe->output_failed ? -1 : 0;
}

int pipe_give(struct edge *edge, const struct frame *output)
{
    if (edge->pipe->output_failed)
        return -1;
    if (edge->pipe->output_is_terminal) {
        log_error("standard output is a terminal, and %s frames are not for reading", frame_type_name(output->type));
        log_hint("pipe into the next stage, into 'tap', or into a file");
        edge->pipe->output_failed = true;
        edge->failure = EX_USAGE;
        return -1;
    }
    struct frame bare = *output;
    *frame_item(&bare) = *frame_output(&bare) = 0;
    frame_encode(&bare, &edge->pipe->output);
    return edge->pipe->output.size >= WRITE_BYTES ? pipe_flush(edge) : 0;
}

static void pass_through(struct edge *edge, const void *data, size_t size)
{
    edge->passed++;
    if (!edge->pipe->output_is_terminal)
        buffer_append(&edge->pipe->output, data, size);
    if (edge->pipe->output.size >= WRITE_BYTES)
        pipe_flush(edge);
}

/* ---- input ---- */

/* Whether a read would not block, waiting at most wait_ms. */
static bool input_is_ready(int wait_ms)
{
    struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
    return poll(&input, 1, wait_ms) > 0;
}

static void read_block(struct edge *edge)
{
    struct edge_pipe *pipe = edge->pipe;
    if (pipe->input_at > 0) {
        memmove(pipe->input, pipe->input + pipe->input_at, pipe->input_size - pipe->input_at);
        pipe->input_size -= pipe->input_at;
        pipe->input_at = 0;
    }
    if (pipe->input_capacity - pipe->input_size < READ_BYTES) {
        pipe->input_capacity = 2 * pipe->input_capacity + READ_BYTES;
        pipe->input = memory_grow(pipe->input, pipe->input_capacity, 1);
    }
    ssize_t n = read(STDIN_FILENO, pipe->input + pipe->input_size, pipe->input_capacity - pipe->input_size);
    if (n > 0) {
        pipe->input_size += (size_t)n;
    } else if (n == 0) {
        pipe->input_ended = true;
    } else if (errno != EINTR && errno != EAGAIN) {
        log_error("could not read standard input at byte %lld: %s", (long long)pipe->offset, strerror(errno));
        edge->failure = EX_IOERR;
    }
}

/* The frame at input_at: into the batch, through to the output, or refused. */
static void sort_frame(struct edge *edge, struct batch_memory *memory, size_t size)
{
    struct edge_pipe *pipe = edge->pipe;
    const char *data = pipe->input + pipe->input_at;
    struct frame *frame = batch_slot(memory);
    char reason[512];
    bool kept = false;
    if (frame_decode(frame, data, size, &memory->arena, reason) != 0) {
        log_error("standard input, frame at byte %lld: %s", (long long)pipe->offset, reason);
        edge->refused++;
    } else if (frame->type == edge->options.takes) {
        memory->count++;
        kept = true;
    } else {
        pass_through(edge, data, size);
    }
    pipe->input_at += size;
    pipe->offset += (int64_t)size;
    memory->bytes += size;
    if (!kept && memory->count == 0) {
        arena_reset(&memory->arena);
        memory->bytes = 0;
    }
}

/* All frames that have arrived whole, as far as they fit into the batch. */
static void sort_input(struct edge *edge, struct batch_memory *memory, size_t max)
{
    struct edge_pipe *pipe = edge->pipe;
    while (edge->failure == 0 && memory->count < max && memory->bytes < BATCH_BYTES_MAX && pipe->input_at < pipe->input_size) {
        int64_t extent = frame_extent(pipe->input + pipe->input_at, pipe->input_size - pipe->input_at);
        if (extent == 0)
            return;
        if (extent > 0) {
            sort_frame(edge, memory, (size_t)extent);
            continue;
        }
        log_error("standard input at byte %lld is not a frame, nor is what follows", (long long)pipe->offset);
        edge->refused++;
        edge->failure = EX_DATAERR;
    }
}

static void end_input(struct edge *edge)
{
    struct edge_pipe *pipe = edge->pipe;
    if (pipe->input_at == pipe->input_size)
        return;
    log_error("standard input ends inside the frame at byte %lld, after %zu bytes of it", (long long)pipe->offset,
              pipe->input_size - pipe->input_at);
    edge->refused++;
    pipe->input_at = pipe->input_size;
}

static enum edge_status fill_batch(struct edge *edge, struct batch_memory *memory, size_t max, bool wait)
{
    struct edge_pipe *pipe = edge->pipe;
    for (;;) {
        if (stop_requested() && memory->count == 0)
            return EDGE_STOPPED;
        sort_input(edge, memory, max);
        if (memory->count == max || memory->bytes >= BATCH_BYTES_MAX)
            return EDGE_BATCH;
        if (edge->failure != 0)
            return memory->count > 0 ? EDGE_BATCH : EDGE_FAILED;
        if (pipe->input_ended) {
            end_input(edge);
            return memory->count > 0 ? EDGE_BATCH : EDGE_END;
        }
        bool may_block = wait && memory->count == 0;
        if (input_is_ready(0)) {
            read_block(edge);
        } else if (!may_block) {
            return memory->count > 0 ? EDGE_BATCH : EDGE_EMPTY;
        } else {
            if (pipe_flush(edge) != 0)
                return EDGE_FAILED;
            if (input_is_ready(SLICE_MS))
                read_block(edge);
        }
    }
}

enum edge_status pipe_take(struct edge *edge, struct batch *batch, size_t max, bool wait)
{
    if (pipe_flush(edge) != 0)
        return EDGE_FAILED;
    if (max == 0)
        return EDGE_EMPTY;
    if (edge->options.takes_nothing)
        return EDGE_END;
    struct batch_memory *memory = batch_begin(edge);
    enum edge_status status = fill_batch(edge, memory, max, wait);
    if (status == EDGE_BATCH)
        batch_give(edge, memory, batch);
    else
        batch_drop(edge, memory);
    return status;
}

void pipe_close(struct edge *edge)
{
    pipe_flush(edge);
    free(edge->pipe->input);
    free(edge->pipe->output.data);
    free(edge->pipe);
    edge->pipe = NULL;
}
