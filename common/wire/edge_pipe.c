/* edge_pipe.c - an edge between standard input and standard output.  See edge.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stop.h"
#include "wire/edge_parts.h"
#include "wire/reader.h"

enum { WRITE_BYTES = 64 << 10 };

struct edge_pipe {
    struct frame_reader input;
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
    frame_reader_init(&edge->pipe->input, STDIN_FILENO, "standard input");
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
    if (!edge->pipe->output_is_terminal && !edge->options.gives_nothing)
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

static void read_input(struct edge *edge)
{
    if (frame_reader_fill(&edge->pipe->input) != 0)
        edge->failure = EX_IOERR;
}

/* A frame that has arrived: into the batch, through to the output, or refused. */
static void sort_frame(struct edge *edge, struct batch_memory *memory, const void *data, size_t size)
{
    struct frame *frame = batch_slot(memory);
    char reason[512];
    memory->bytes += size;
    if (frame_decode(frame, data, size, &memory->arena, reason) != 0) {
        log_error("standard input, frame at byte %lld: %s", (long long)edge->pipe->input.offset, reason);
        edge->refused++;
    } else if (frame->type == edge->options.takes) {
        memory->count++;
    } else {
        pass_through(edge, data, size);
    }
    if (memory->count == 0) {  // a long stream of other frames takes no memory
        arena_reset(&memory->arena);
        memory->bytes = 0;
    }
}

/* All frames that have arrived whole, as far as they fit into the batch. */
static void sort_input(struct edge *edge, struct batch_memory *memory, size_t max)
{
    while (edge->failure == 0 && memory->count < max && memory->bytes < BATCH_BYTES_MAX) {
        const void *data;
        size_t size;
        int found = frame_reader_next(&edge->pipe->input, &data, &size);
        if (found == 0)
            return;
        if (found > 0) {
            sort_frame(edge, memory, data, size);
        } else {
            edge->refused++;
            edge->failure = EX_DATAERR;
        }
    }
}

static enum edge_status fill_batch(struct edge *edge, struct batch_memory *memory, size_t max, bool wait)
{
    for (;;) {
        if (stop_requested() && memory->count == 0)
            return EDGE_STOPPED;
        sort_input(edge, memory, max);
        if (memory->count == max || memory->bytes >= BATCH_BYTES_MAX)
            return EDGE_BATCH;
        if (edge->failure != 0)
            return memory->count > 0 ? EDGE_BATCH : EDGE_FAILED;
        if (edge->pipe->input.ended)
            return memory->count > 0 ? EDGE_BATCH : EDGE_END;
        bool may_block = wait && memory->count == 0;
        if (input_is_ready(0)) {
            read_input(edge);
        } else if (!may_block) {
            return memory->count > 0 ? EDGE_BATCH : EDGE_EMPTY;
        } else {
            if (pipe_flush(edge) != 0)
                return EDGE_FAILED;
            enum effort before = effort_enter(EFFORT_WAIT);
            bool ready = input_is_ready(SLICE_MS);
            effort_enter(before);
            if (ready)
                read_input(edge);
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
    frame_reader_free(&edge->pipe->input);
    free(edge->pipe->output.data);
    free(edge->pipe);
    edge->pipe = NULL;
}
