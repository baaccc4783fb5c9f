/* gguf_builder.h - GGUF files written piece by piece, right or wrong as a test wants them. */
#ifndef TESTS_GGUF_BUILDER_H
#define TESTS_GGUF_BUILDER_H

#include <stdint.h>
#include <string.h>

#include "base/memory.h"

enum { GGUF_U8 = 0, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_TEXT = 8, GGUF_ARRAY = 9, GGUF_U64 = 10 };

static inline void put_u32(struct buffer *file, uint32_t number) { buffer_append(file, &number, sizeof number); }
static inline void put_u64(struct buffer *file, uint64_t number) { buffer_append(file, &number, sizeof number); }
static inline void put_f32(struct buffer *file, float number) { buffer_append(file, &number, sizeof number); }

static inline void put_text(struct buffer *file, const char *text)
{
    put_u64(file, strlen(text));
    buffer_append(file, text, strlen(text));
}

static inline void put_header(struct buffer *file, uint32_t version, uint64_t tensors, uint64_t values)
{
    buffer_append(file, "GGUF", 4);
    put_u32(file, version);
    put_u64(file, tensors);
    put_u64(file, values);
}

/* The value itself follows, put by the caller. */
static inline void put_key(struct buffer *file, const char *key, uint32_t type)
{
    put_text(file, key);
    put_u32(file, type);
}

static inline void put_key_text(struct buffer *file, const char *key, const char *text)
{
    put_key(file, key, GGUF_TEXT);
    put_text(file, text);
}

static inline void put_key_u32(struct buffer *file, const char *key, uint32_t number)
{
    put_key(file, key, GGUF_U32);
    put_u32(file, number);
}

static inline void put_key_f32(struct buffer *file, const char *key, float number)
{
    put_key(file, key, GGUF_F32);
    put_f32(file, number);
}

/* A matrix of rows by columns, or with rows 0 a vector. */
static inline void put_tensor(struct buffer *file, const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                              uint64_t offset)
{
    put_text(file, name);
    put_u32(file, rows ? 2 : 1);
    put_u64(file, columns);
    if (rows)
        put_u64(file, rows);
    put_u32(file, type);
    put_u64(file, offset);
}

static inline void put_padding(struct buffer *file, size_t alignment)
{
    while (file->size % alignment != 0)
        buffer_append(file, "", 1);
}

#endif
