/*
 * utf8.h - whether bytes are UTF-8 that a frame can carry.
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed UTF-8 (no overlong forms, surrogates, or code points past U+10FFFF) without NUL. */
bool utf8_is_valid(const char *text, size_t size);

#endif
