/* utf8.c - see utf8.h. */
#include "base/utf8.h"

#include <string.h>

const char utf8_replacement[3] = { '\xef', '\xbf', '\xbd' };

size_t utf8_read(const char *text, size_t size, uint32_t *code_point, size_t *bad, bool *cut)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char first = bytes[0];
    size_t wanted = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    // The second byte's range rules out overlong forms, surrogates and numbers beyond U+10FFFF.
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    size_t good = 1;
    while (good < wanted && good < size && bytes[good] >= low && bytes[good] <= high) {
        low = 0x80;
        high = 0xbf;
        good++;
    }
    if (cut != NULL)
        *cut = good < wanted && good == size;
    if (bad != NULL)
        *bad = good;
    if (good != wanted)
        return 0;
    if (code_point != NULL)
        *code_point = utf8_code_point(text, wanted);
    return wanted;
}

size_t utf8_write(uint32_t code_point, char *out)
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    size_t size = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = size; i-- > 1; code_point >>= 6)
        out[i] = (char)(0x80 | (code_point & 0x3f));
    out[0] = (char)((size == 2 ? 0xc0 : size == 3 ? 0xe0 : 0xf0) | code_point);
    return size;
}

/* Eight bytes at a time: most text is ASCII. */
static size_t ascii_prefix(const char *text, size_t size)
{
    size_t at = 0;
    for (uint64_t eight; at + 8 <= size; at += 8) {
        memcpy(&eight, text + at, 8);
        if (eight & 0x8080808080808080u)
            break;
    }
    while (at < size && (unsigned char)text[at] < 0x80)
        at++;
    return at;
}

bool utf8_is_ascii(const char *text, size_t size)
{
    return ascii_prefix(text, size) == size;
}

size_t utf8_valid_prefix(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        at += ascii_prefix(text + at, size - at);
        if (at == size)
            break;
        size_t step = utf8_read(text + at, size - at, NULL, NULL, NULL);
        if (step == 0)
            break;
        at += step;
    }
    return at;
}

bool utf8_is_valid(const char *text, size_t size)
{
    return size == 0 || (utf8_valid_prefix(text, size) == size && memchr(text, '\0', size) == NULL);
}

void utf8_append_repaired(struct buffer *out, const char *text, size_t size)
{
    while (size > 0) {
        size_t valid = utf8_valid_prefix(text, size), bad = 0;
        buffer_append(out, text, valid);
        if (valid < size) {
            utf8_read(text + valid, size - valid, NULL, &bad, NULL);
            buffer_append(out, utf8_replacement, sizeof utf8_replacement);
        }
        text += valid + bad;
        size -= valid + bad;
    }
}

size_t utf8_mark(const char *text, size_t size)
{
    return size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}
