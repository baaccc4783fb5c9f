/* edge.c - what both lives of an edge have in common.  See edge.h. */
#include "wire/edge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stop.h"
#include "base/utf8.h"
#include "wire/edge_parts.h"

static const struct edge_times ordinary_times = { .beat = 2, .lost = 15, .open = 30, .give_up = 600, .stop = 10 };

struct edge_keys edge_keys;

static char *text_copy(const char *text)
{
    return text != NULL ? memory_text(text) : NULL;
}

static void batch_free(struct batch_memory *memory)
{
    if (memory == NULL)
        return;
    arena_free(&memory->arena);
    free(memory->frames);
    free(memory);
}

static void edge_free(struct edge *edge)
{
    for (struct batch_memory *memory = edge->batches, *next; memory != NULL; memory = next) {
        next = memory->next;
        batch_free(memory);
    }
    batch_free(edge->spare);
    free((char *)edge->options.endpoint);
    free((char *)edge->options.stage);
    free((char *)edge->options.settings);
    free(edge);
}

struct edge *edge_open_timed(const struct edge_options *options, const struct edge_times *times, int *code)
{
    CHECK(options->stage != NULL && options->hold_max >= 1 && options->hold_max <= 1048576);
    if (options->endpoint != NULL && options->settings != NULL && strlen(options->settings) > SETTINGS_BYTES) {
        log_error("what %s tells the store of its options has %zu bytes, it must have at most %d", options->stage,
                  strlen(options->settings), SETTINGS_BYTES);
        *code = EX_USAGE;
        return NULL;
    }
    struct edge *edge = memory_alloc(1, sizeof *edge);
    edge->options = *options;
    edge->options.endpoint = text_copy(options->endpoint);
    edge->options.stage = text_copy(options->stage);
    edge->options.settings = text_copy(options->settings);
    stop_install();
    enum effort before = effort_enter(EFFORT_WIRE);
    *code = options->endpoint != NULL ? store_open(edge, times) : pipe_open(edge);
    effort_enter(before);
    if (*code == EX_OK)
        return edge;
    edge_free(edge);
    return NULL;
}

struct edge *edge_open(const struct edge_options *options, int *code)
{
    return edge_open_timed(options, &ordinary_times, code);
}

bool edge_is_pipe(const struct edge *edge)
{
    return edge->pipe != NULL;
}

const char *edge_welcome(const struct edge *edge)
{
    return edge->store != NULL ? store_welcome(edge) : "{}";
}

int64_t edge_missing(const struct edge *edge)
{
    return edge->store != NULL ? store_missing(edge) : 0;
}

/* ---- batches ---- */

struct batch_memory *batch_begin(struct edge *edge)
{
    struct batch_memory *memory = edge->spare;
    edge->spare = NULL;
    if (memory == NULL) {
        memory = memory_alloc(1, sizeof *memory);
        arena_init(&memory->arena, "batch", 2 * (size_t)BATCH_BYTES_MAX);
    }
    memory->count = memory->bytes = memory->unleased = 0;
    return memory;
}

struct frame *batch_slot(struct batch_memory *memory)
{
    if (memory->count == memory->capacity) {
        memory->capacity = memory->capacity ? 2 * memory->capacity : 16;
        memory->frames = memory_grow(memory->frames, memory->capacity, sizeof *memory->frames);
    }
    return &memory->frames[memory->count];
}

void batch_give(struct edge *edge, struct batch_memory *memory, struct batch *batch)
{
    *batch = (struct batch){ memory->frames, memory->count };
    edge->taken += (int64_t)memory->count;
    memory->next = edge->batches;
    edge->batches = memory;
}

void batch_drop(struct edge *edge, struct batch_memory *memory)
{
    arena_reset(&memory->arena);
    batch_free(edge->spare);
    edge->spare = memory;
}

void edge_done(struct edge *edge, struct batch *batch)
{
    struct batch_memory **link = &edge->batches;
    while (*link != NULL && (*link)->frames != batch->frames)
        link = &(*link)->next;
    struct batch_memory *memory = *link;
    CHECK(memory != NULL);
    *link = memory->next;
    if (edge->store != NULL)
        store_done(edge, memory);
    batch_drop(edge, memory);
    *batch = (struct batch){ 0 };
}

/* ---- taking and giving ---- */

enum edge_status edge_take(struct edge *edge, struct batch *batch, size_t max, bool wait)
{
    enum effort before = effort_enter(EFFORT_WIRE);
    *batch = (struct batch){ 0 };
    enum edge_status status = edge->store != NULL ? store_take(edge, batch, max, wait) : pipe_take(edge, batch, max, wait);
    effort_enter(before);
    return status;
}

int edge_give(struct edge *edge, struct frame *output)
{
    CHECK(frame_output(output) != NULL);
    enum effort before = effort_enter(EFFORT_WIRE);
    int result = edge->store != NULL ? store_give(edge, output) : pipe_give(edge, output);
    edge->given += result == 0;
    effort_enter(before);
    return result;
}

int edge_fail(struct edge *edge, int64_t item, const char *reason)
{
    edge->failed++;
    if (edge->store == NULL) {
        log_error("an item could not be done: %s", reason);
        return 0;
    }
    char line[4096];  // the limit of the field, with its NUL
    size_t size = strlen(reason) < sizeof line - 1 ? strlen(reason) : sizeof line - 1;
    memcpy(line, reason, size);
    line[size] = '\0';
    if (!utf8_is_valid(line, size))
        for (size_t i = 0; i < size; i++)
            if ((unsigned char)line[i] >= 0x80)
                line[i] = '?';
    struct frame frame = frame_make(FRAME_failed);
    frame.failed.item = item;
    frame.failed.reason = size > 0 ? line : "no reason given";
    return store_give(edge, &frame);
}

int edge_give_checkpoint(struct edge *edge, const char *run, int64_t step, int64_t batch, const char *kind, bool final,
                         struct buffer *content)
{
    CHECK(edge->store != NULL && content->size > 0);
    enum effort before = effort_enter(EFFORT_WIRE);
    struct frame frame = frame_make(FRAME_checkpoint);
    frame.checkpoint.run = run;
    frame.checkpoint.step = step;
    frame.checkpoint.kind = kind;
    frame.checkpoint.batch = batch;
    frame.checkpoint.size = (int64_t)content->size;
    frame.checkpoint.final = final;
    int result = store_give_checkpoint(edge, &frame, content);
    effort_enter(before);
    return result;
}

void edge_background_begin(struct edge *edge)
{
    if (edge->store != NULL)
        store_background_begin(edge);
}

void edge_background_end(struct edge *edge)
{
    if (edge->store != NULL)
        store_background_end(edge);
}

/* One line about the life of a worker that has worked. */
static void effort_say(void)
{
    double seconds[EFFORT_COUNT];
    char text[128];
    effort_read(seconds);
    effort_text(text, sizeof text, seconds);
    log_event("spent %s", text);
}

int edge_close(struct edge *edge, enum edge_status status)
{
    enum effort before = effort_enter(EFFORT_WIRE);
    if (edge->store != NULL)
        store_close(edge);
    else
        pipe_close(edge);
    effort_enter(before);
    if (edge->options.endpoint != NULL && edge->taken + edge->given > 0)
        effort_say();
    log_debug("edge of %s: taken=%lld given=%lld failed=%lld refused=%lld passed=%lld", edge->options.stage,
              (long long)edge->taken, (long long)edge->given, (long long)edge->failed, (long long)edge->refused,
              (long long)edge->passed);
    bool is_pipe = edge->options.endpoint == NULL;  // a store has recorded what failed
    int code = EX_OK;
    if (edge->failure != 0)
        code = edge->failure;
    else if (status == EDGE_STOPPED)
        code = EX_TEMPFAIL;
    else if (status == EDGE_FAILED || edge->refused > 0 || (is_pipe && edge->failed > 0))
        code = EX_DATAERR;
    edge_free(edge);
    return code;
}
