/* wordpiece.c - see wordpiece.h. */
#include "text/wordpiece.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

void wordpiece_finish(struct wordpiece *wordpiece, const struct vocabulary *vocabulary)
{
    for (size_t id = 0; id < vocabulary->count; id++) {
        if (vocabulary->pieces[id].size > wordpiece->piece_max)
            wordpiece->piece_max = vocabulary->pieces[id].size;
    }
}

void wordpiece_free(struct wordpiece *wordpiece)
{
    free(wordpiece->continuing);
}

static bool is_longer(const char *word, size_t size, size_t characters_max)
{
    size_t characters = 0;
    for (size_t at = 0; at < size && characters <= characters_max; at += utf8_size((unsigned char)word[at]))
        characters++;
    return characters > characters_max;
}

/* The longest piece at the start of text; -1: none.  The piece is prefix, of prefix_size bytes, and *length bytes of text. */
static int32_t longest_piece(const struct vocabulary *vocabulary, const char *prefix, size_t prefix_size, const char *text,
                             size_t size, struct buffer *piece, size_t *length)
{
    piece->size = 0;
    buffer_append(piece, prefix, prefix_size);
    buffer_append(piece, text, size);
    for (size_t end = size; end > 0;) {
        int32_t id = vocabulary_find_model(vocabulary, piece->data, prefix_size + end);
        if (id >= 0) {
            *length = end;
            return id;
        }
        do
            end--;
        while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80);
    }
    return -1;
}

/* The last whole characters within max bytes. */
static size_t cut_characters(const char *text, size_t size, size_t max)
{
    if (size <= max)
        return size;
    while (max > 0 && ((unsigned char)text[max] & 0xc0) == 0x80)
        max--;
    return max;
}

/* False when some part of the word is no piece. */
static bool add_pieces(const struct wordpiece *wordpiece, const struct vocabulary *vocabulary, const char *word, size_t size,
                       struct token_list *ids)
{
    size_t continuing_size = strlen(wordpiece->continuing), length = 0;
    struct buffer piece = { 0 };
    int32_t id = 0;
    for (size_t start = 0; start < size && id >= 0; start += length) {
        size_t prefix_size = start > 0 ? continuing_size : 0;
        size_t max = wordpiece->piece_max > prefix_size ? wordpiece->piece_max - prefix_size : 0;
        id = longest_piece(vocabulary, wordpiece->continuing, prefix_size, word + start,
                           cut_characters(word + start, size - start, max), &piece, &length);
        if (id >= 0)
            token_list_add(ids, id);
    }
    free(piece.data);
    return id >= 0;
}

void wordpiece_encode(const struct wordpiece *wordpiece, const struct vocabulary *vocabulary, const char *word, size_t size,
                      struct token_list *ids)
{
    size_t before = ids->count;
    if (wordpiece->whole) {
        int32_t id = vocabulary_find_model(vocabulary, word, size);
        if (id >= 0) {
            token_list_add(ids, id);
            return;
        }
    } else if (!is_longer(word, size, wordpiece->word_max) && add_pieces(wordpiece, vocabulary, word, size, ids)) {
        return;
    }
    ids->count = before;
    if (wordpiece->unknown >= 0)
        token_list_add(ids, wordpiece->unknown);
}
