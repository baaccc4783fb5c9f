/* memory.c - see memory.h. */
#define _GNU_SOURCE
#include "base/memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>

struct arena_block {
    struct arena_block *older;
    size_t size, used;  // bytes of data
    _Alignas(16) char data[];
};

enum { ARENA_BLOCK_BYTES = 64 * 1024 };

static _Noreturn void memory_exhausted(size_t count, size_t size_bytes)
{
    log_error("out of memory: could not allocate %zu x %zu bytes", count, size_bytes);
    exit(EX_OSERR);
}

void *memory_alloc(size_t count, size_t size_bytes)
{
    void *memory = calloc(count ? count : 1, size_bytes ? size_bytes : 1);
    if (memory == NULL)
        memory_exhausted(count, size_bytes);
    return memory;
}

void *memory_grow(void *old, size_t count, size_t size_bytes)
{
    void *memory = reallocarray(old, count ? count : 1, size_bytes ? size_bytes : 1);
    if (memory == NULL)
        memory_exhausted(count, size_bytes);
    return memory;
}

char *memory_text(const char *text)
{
    size_t size = strlen(text) + 1;
    return memcpy(memory_alloc(size, 1), text, size);
}

char *memory_printf(const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    int size = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (size < 0)
        memory_exhausted(1, 0);
    return text;
}

void *memory_alloc_aligned(size_t count, size_t size_bytes)
{
    enum { HUGE_PAGE_BYTES = 2 << 20 };
    size_t total;
    if (__builtin_mul_overflow(count, size_bytes, &total) || total > SIZE_MAX - HUGE_PAGE_BYTES)
        memory_exhausted(count, size_bytes);
    size_t alignment = total >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    size_t rounded = (total + alignment - 1) / alignment * alignment;
    void *memory = aligned_alloc(alignment, rounded ? rounded : alignment);
    if (memory == NULL)
        memory_exhausted(count, size_bytes);
    if (alignment == HUGE_PAGE_BYTES)
        madvise(memory, rounded, MADV_HUGEPAGE);
    memset(memory, 0, rounded);
    return memory;
}

void arena_init(struct arena *arena, const char *name, size_t limit_bytes)
{
    *arena = (struct arena){ .name = name, .limit_bytes = limit_bytes };
}

/* One block of the largest size so far is kept, so a steady loop stops calling malloc. */
void arena_reset(struct arena *arena)
{
    struct arena_block *keep = NULL;
    for (struct arena_block *block = arena->blocks, *older; block != NULL; block = older) {
        older = block->older;
        if (keep == NULL || block->size > keep->size) {
            free(keep);
            keep = block;
        } else {
            free(block);
        }
    }
    if (keep != NULL) {
        keep->older = NULL;
        keep->used = 0;
    }
    arena->blocks = keep;
    arena->used_bytes = 0;
}

void arena_free(struct arena *arena)
{
    arena_reset(arena);
    free(arena->blocks);
    arena->blocks = NULL;
}

void *arena_alloc(struct arena *arena, size_t count, size_t size_bytes)
{
    size_t total;
    if (__builtin_mul_overflow(count, size_bytes, &total) || total > arena->limit_bytes
        || arena->used_bytes > arena->limit_bytes - total) {
        log_error("out of memory: arena \"%s\" holds %zu bytes, was asked for %zu x %zu more, limit %zu",
                  arena->name, arena->used_bytes, count, size_bytes, arena->limit_bytes);
        exit(EX_OSERR);
    }
    total = (total + 15) / 16 * 16;
    struct arena_block *block = arena->blocks;
    if (block == NULL || block->size - block->used < total) {
        size_t size = total > ARENA_BLOCK_BYTES ? total : ARENA_BLOCK_BYTES;
        if (block != NULL && size < 2 * block->size && block->size < ((size_t)1 << 26))
            size = 2 * block->size;
        block = malloc(sizeof *block + size);
        if (block == NULL)
            memory_exhausted(1, size);
        *block = (struct arena_block){ .older = arena->blocks, .size = size };
        arena->blocks = block;
    }
    void *memory = block->data + block->used;
    block->used += total;
    arena->used_bytes += total;
    return memory;
}

char *arena_text(struct arena *arena, const char *text, size_t size)
{
    char *copy = arena_alloc(arena, size + 1, 1);
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = arena_alloc(arena, (size_t)size + 1, 1);
    vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    return text;
}

void buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    if (size > buffer->capacity - buffer->size) {
        size_t capacity = buffer->capacity ? buffer->capacity : 256;
        while (capacity - buffer->size < size)
            capacity *= 2;
        buffer->data = memory_grow(buffer->data, capacity, 1);
        buffer->capacity = capacity;
    }
    if (size > 0)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

void buffer_printf(struct buffer *buffer, const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    int size = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (size < 0)
        memory_exhausted(1, 0);
    buffer_append(buffer, text, (size_t)size);
    free(text);
}
