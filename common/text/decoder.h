/*
 * decoder.h - how the pieces of tokens become text again.
 *
 * Each piece is turned into its bytes once, when the tokenizer is opened; a text is these bytes in a row.  Where the first
 * token of a text gives other bytes than it gives later, both are kept.
 *
 * A text that comes token by token is the same text.  For that it differs from the tokenizers library where that looks at all
 * tokens at once: of byte tokens that are no UTF-8 it makes a U+FFFD for each token of their run, here for each bad sequence.
 * Where a text goes on from another, whether that one ended with a whole word (WORD_ENDS) is not known, and no space is put.
 */
#ifndef TEXT_DECODER_H
#define TEXT_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

/* Without any step the pieces stand with a space between them. */
enum decoder_kind {
    DECODER_BYTE_LEVEL,     // letters stand for bytes
    DECODER_REPLACE,        // each text becomes replacement
    DECODER_BYTE_FALLBACK,  // "<0xNN>" is a byte
    DECODER_FUSE,           // what follows sees one text
    DECODER_STRIP,          // up to count times text at the beginning is dropped: of each token, or after FUSE of the text
    DECODER_METASPACE,      // text stands for a space; with count, those of the first token are dropped
    DECODER_WORDPIECE,      // text begins what continues a word, a space stands before anything else; with count, clean-up
    DECODER_WORD_ENDS,      // text ends a word: a space stands after it, except at the end of the text
};

enum { DECODER_STEPS_MAX = 16 };

struct decoder {
    struct decoder_step {
        enum decoder_kind kind;
        char *text, *replacement;  // owned; NULL where the kind has none
        size_t count;
    } steps[DECODER_STEPS_MAX];
    size_t count;
    // Made by decoder_finish:
    struct piece *bytes;      // (byte_count) what each token gives
    struct piece *first;      // (byte_count) what it gives as the first token of a text
    size_t byte_count;
    char *data;
    const char *strip;        // character that the beginning of a text loses, or NULL
    size_t strip_max;         // at most so often
    const char *word_end;     // what ends a word, or NULL
};

/* Copies the texts.  0, or -1 when there are too many steps (nothing is logged). */
int decoder_add(struct decoder *decoder, enum decoder_kind kind, const char *text, const char *replacement, size_t count);
void decoder_finish(struct decoder *decoder, const struct vocabulary *vocabulary);
void decoder_free(struct decoder *decoder);

/* Appends what a token of the vocabulary gives where stream's text stands. */
void decoder_append(const struct decoder *decoder, const struct vocabulary *vocabulary, struct text_stream *stream, int32_t id,
                    struct buffer *text);

#endif
