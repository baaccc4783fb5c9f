/* utf8.c - see utf8.h.  Decoding is utf8proc's, with a fast path for ASCII. */
#include "base/utf8.h"

#include <utf8proc.h>

bool utf8_is_valid(const char *text, size_t size)
{
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text, *end = at + size;
    while (at < end) {
        if (*at != 0 && *at < 0x80) {
            at++;
            continue;
        }
        utf8proc_int32_t point;
        utf8proc_ssize_t taken = utf8proc_iterate(at, end - at, &point);
        if (taken <= 0 || point <= 0)
            return false;
        at += taken;
    }
    return true;
}
