/* charsmap.c - see charsmap.h. */
#include "text/charsmap.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"

enum { GRAPHEME_SIZE_MAX = 5, ANY_MARK = 0x300 };

struct charsmap {
    unsigned char *data;
    size_t size;
    const unsigned char *units;  // (unit_count, 4)
    size_t unit_count;
    const char *forms;
    size_t form_bytes, form_max;
};

/* Whether every text is whole, short and ended; *longest is then the size of the longest. */
static bool check_forms(const char *forms, size_t size, size_t *longest)
{
    *longest = 0;
    if (size == 0 || forms[size - 1] != '\0' || utf8_valid_prefix(forms, size) != size)
        return false;
    for (size_t at = 0, length; at < size; at += length + 1) {
        length = strlen(forms + at);
        if (length > CHARSMAP_FORM_MAX)
            return false;
        *longest = length > *longest ? length : *longest;
    }
    return true;
}

struct charsmap *charsmap_open(const void *data, size_t size, const char **reason)
{
    const unsigned char *bytes = data;
    uint32_t trie_size = 0;
    size_t form_max;
    if (size >= 4)
        trie_size = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    if (size < 4 || trie_size == 0 || trie_size % 4 != 0 || trie_size > size - 4) {
        *reason = "its trie is not within it";
        return NULL;
    }
    if (!check_forms((const char *)bytes + 4 + trie_size, size - 4 - trie_size, &form_max)) {
        *reason = "its forms are not texts of at most 128 bytes, each ended by a NUL";
        return NULL;
    }
    struct charsmap *charsmap = memory_alloc(1, sizeof *charsmap);
    charsmap->data = memory_alloc(size, 1);
    memcpy(charsmap->data, data, size);
    charsmap->size = size;
    charsmap->units = charsmap->data + 4;
    charsmap->unit_count = trie_size / 4;
    charsmap->forms = (const char *)charsmap->units + trie_size;
    charsmap->form_bytes = size - 4 - trie_size;
    charsmap->form_max = form_max;
    return charsmap;
}

void charsmap_free(struct charsmap *charsmap)
{
    if (charsmap != NULL)
        free(charsmap->data);
    free(charsmap);
}

const void *charsmap_data(const struct charsmap *charsmap, size_t *size)
{
    *size = charsmap->size;
    return charsmap->data;
}

size_t charsmap_form_max(const struct charsmap *charsmap)
{
    return charsmap->form_max;
}

/* A unit beyond the trie is one that nothing leads on from. */
static uint32_t unit_at(const struct charsmap *charsmap, size_t index)
{
    if (index >= charsmap->unit_count)
        return 0;
    const unsigned char *at = charsmap->units + 4 * index;
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Darts-clone's unit: where its children are, whether a key ends at it, the byte that led to it. */
static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The form of the shortest beginning of text that has one; NULL: none has. */
static const char *find_form(const struct charsmap *charsmap, const char *text, size_t size)
{
    size_t node = unit_offset(unit_at(charsmap, 0));
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        node ^= byte;
        uint32_t unit = unit_at(charsmap, node);
        if (byte == 0 || (unit & (1u << 31 | 0xff)) != byte)
            return NULL;
        node ^= unit_offset(unit);
        if (unit >> 8 & 1) {
            size_t form = unit_at(charsmap, node) & ~(1u << 31);
            bool whole = form < charsmap->form_bytes && ((unsigned char)charsmap->forms[form] & 0xc0) != 0x80;
            return whole ? charsmap->forms + form : NULL;
        }
    }
    return NULL;
}

/* Marks below U+10000 that are newer than utf8proc's tables; no others fit in a grapheme of GRAPHEME_SIZE_MAX. */
static bool is_newer_mark(uint32_t character)
{
    return character == 0x897 || (character >= 0x1acf && character <= 0x1add) || (character >= 0x1ae0 && character <= 0x1aeb);
}

static size_t grapheme_size(const char *text, size_t size)
{
    size_t end = utf8_size((unsigned char)text[0]);
    utf8proc_int32_t before = (utf8proc_int32_t)utf8_code_point(text, end), state = 0;
    for (size_t step; end < size; end += step) {
        step = utf8_size((unsigned char)text[end]);
        utf8proc_int32_t next = (utf8proc_int32_t)utf8_code_point(text + end, step);
        bool breaks = utf8proc_grapheme_break_stateful(before, next, &state);
        if (breaks && !(is_newer_mark((uint32_t)next) && !utf8proc_grapheme_break(before, ANY_MARK)))
            break;
        before = next;
    }
    return end;
}

static void append_form(const char *text, size_t size, const char *form, struct buffer *out)
{
    buffer_append(out, form != NULL ? form : text, form != NULL ? strlen(form) : size);
}

void charsmap_run(const struct charsmap *charsmap, const char *text, size_t size, struct buffer *out)
{
    for (size_t start = 0, end; start < size; start = end) {
        end = start + grapheme_size(text + start, size - start);
        const char *form = end - start <= GRAPHEME_SIZE_MAX ? find_form(charsmap, text + start, end - start) : NULL;
        if (form != NULL) {
            append_form(NULL, 0, form, out);
            continue;
        }
        for (size_t at = start, step; at < end; at += step) {
            step = utf8_size((unsigned char)text[at]);
            append_form(text + at, step, find_form(charsmap, text + at, step), out);
        }
    }
}
