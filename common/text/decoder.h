/*
 * decoder.h - how the pieces of tokens become text again.
 *
 * Each piece is turned into its bytes once, when the tokenizer is opened; a text is these bytes in a row, less the
 * spaces that the beginning of a text loses.
 */
#ifndef TEXT_DECODER_H
#define TEXT_DECODER_H

#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/vocabulary.h"

enum decoder_kind {
    DECODER_BYTE_LEVEL,     // letters stand for bytes
    DECODER_REPLACE,        // each text becomes replacement
    DECODER_BYTE_FALLBACK,  // "<0xNN>" is a byte
    DECODER_FUSE,           // what follows sees one text
    DECODER_STRIP,          // up to count times text at the beginning of the text is dropped
    DECODER_METASPACE,      // text stands for a space; with count, those at the beginning are dropped
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
    struct piece *bytes;  // (vocabulary size) what each token gives
    size_t byte_count;
    char *data;
    char strip;           // character that the beginning of a text loses
    size_t strip_max;     // at most so often
};

/* Copies the texts.  0, or -1 when there are too many steps (nothing is logged). */
int decoder_add(struct decoder *decoder, enum decoder_kind kind, const char *text, const char *replacement, size_t count);
void decoder_finish(struct decoder *decoder, const struct vocabulary *vocabulary);
void decoder_free(struct decoder *decoder);

#endif
