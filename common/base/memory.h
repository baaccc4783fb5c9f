/*
 * memory.h - allocation that does not fail, and the two lifetimes that nearly all memory has.
 *
 * memory_* end the process with exit code 71 and a line that says what was asked for.
 * An arena is emptied as a whole; what it gave is valid until then.
 */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stddef.h>

#include "base/log.h"

/* Zeroed.  Never NULL.  The caller frees with free(). */
void *memory_alloc(size_t count, size_t size_bytes);
void *memory_grow(void *old, size_t count, size_t size_bytes);  // realloc: new part not zeroed
char *memory_text(const char *text);                            // strdup
char *memory_printf(const char *format, ...) LOG_FORMAT(1);

/* 64-byte aligned, zeroed, on huge pages where the system has them.  Free with free(). */
void *memory_alloc_aligned(size_t count, size_t size_bytes);

struct arena {
    const char *name;
    struct arena_block *blocks;  // newest first
    size_t used_bytes;           // in all blocks
    size_t limit_bytes;
};

/* Keeps name.  Asking for more than limit_bytes between two resets exits 71. */
void arena_init(struct arena *arena, const char *name, size_t limit_bytes);
void arena_reset(struct arena *arena);
void arena_free(struct arena *arena);

/* Aligned to 16 bytes, not zeroed.  Never NULL. */
void *arena_alloc(struct arena *arena, size_t count, size_t size_bytes);
/* A copy of size bytes with a NUL after them. */
char *arena_text(struct arena *arena, const char *text, size_t size);
char *arena_printf(struct arena *arena, const char *format, ...) LOG_FORMAT(2);

/* A growable run of bytes.  Zero-initialise; free(buffer.data) at the end. */
struct buffer {
    char *data;
    size_t size, capacity;  // bytes
};
void buffer_append(struct buffer *buffer, const void *data, size_t size);
void buffer_printf(struct buffer *buffer, const char *format, ...) LOG_FORMAT(2);

#endif
