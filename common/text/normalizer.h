/*
 * normalizer.h - what a tokenizer does to a whole text before it is split.
 *
 * Normal forms are utf8proc's (Unicode 14 or later).  The tokenizers library has older tables: it leaves characters that
 * Unicode 13 and 14 added as they are.
 */
#ifndef TEXT_NORMALIZER_H
#define TEXT_NORMALIZER_H

#include <stddef.h>

#include "base/memory.h"

enum normalizer_kind {
    NORMALIZER_PREPEND,  // text: put before a text that is not empty
    NORMALIZER_REPLACE,  // each text becomes replacement
    NORMALIZER_NFC,
    NORMALIZER_NFD,
    NORMALIZER_NFKC,
    NORMALIZER_NFKD,
};

enum { NORMALIZER_STEPS_MAX = 16 };

struct normalizer {
    struct normalizer_step {
        enum normalizer_kind kind;
        char *text, *replacement;  // owned; NULL where the kind has none
    } steps[NORMALIZER_STEPS_MAX];
    size_t count;
};

/* Copies the texts.  0, or -1 when there are too many steps (nothing is logged). */
int normalizer_add(struct normalizer *normalizer, enum normalizer_kind kind, const char *text, const char *replacement);
void normalizer_free(struct normalizer *normalizer);

/* Replaces what out holds by the normal form of text (valid UTF-8, and not in out).  spare is overwritten. */
void normalizer_run(const struct normalizer *normalizer, const char *text, size_t size, struct buffer *out, struct buffer *spare);

#endif
