/*
 * utf8.h - reading UTF-8 that others wrote.
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

enum { UTF8_SIZE_MAX = 4 };

/*
 * Size in bytes of the valid character at the start of text, and its code point (may be NULL).  0: there is none, and
 * *bad is then the size of the bad sequence, as U+FFFD replaces it (the longest beginning of a character, at
 * least 1).  *cut: text ends inside what may still become a character.  bad and cut may be NULL.  size > 0.
 */
size_t utf8_read(const char *text, size_t size, uint32_t *code_point, size_t *bad, bool *cut);

/* Of a character known to be valid. */
static inline size_t utf8_size(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

static inline uint32_t utf8_code_point(const char *at, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)at;
    switch (size) {
    case 1: return bytes[0];
    case 2: return (bytes[0] & 0x1fu) << 6 | (bytes[1] & 0x3fu);
    case 3: return (bytes[0] & 0xfu) << 12 | (bytes[1] & 0x3fu) << 6 | (bytes[2] & 0x3fu);
    default: return (bytes[0] & 7u) << 18 | (bytes[1] & 0x3fu) << 12 | (bytes[2] & 0x3fu) << 6 | (bytes[3] & 0x3fu);
    }
}

/* out holds at least UTF8_SIZE_MAX bytes; returns how many were written. */
size_t utf8_write(uint32_t code_point, char *out);

/* Size in bytes of the valid beginning; size itself when all of it is valid. */
size_t utf8_valid_prefix(const char *text, size_t size);
bool utf8_is_ascii(const char *text, size_t size);

/* Well-formed UTF-8 (no overlong forms, surrogates, or code points past U+10FFFF) without NUL: what a frame can carry. */
bool utf8_is_valid(const char *text, size_t size);

/* Appends text with U+FFFD for each bad sequence. */
void utf8_append_repaired(struct buffer *out, const char *text, size_t size);

/* Size in bytes of the byte order mark that some programs put before a text: 3, or 0 where there is none. */
size_t utf8_mark(const char *text, size_t size);

extern const char utf8_replacement[3];  // U+FFFD

#endif
