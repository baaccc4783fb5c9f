/*
 * normalizer.h - what a tokenizer does to a whole text before it is split.
 *
 * Normal forms are utf8proc's, but characters newer than the tokenizers library's tables stay as they are (character.h).
 */
#ifndef TEXT_NORMALIZER_H
#define TEXT_NORMALIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/memory.h"
#include "text/charsmap.h"
#include "text/regex.h"

enum normalizer_kind {
    NORMALIZER_PREPEND,        // text: put before a text that is not empty
    NORMALIZER_REPLACE,        // each text, or each match of regex, becomes replacement
    NORMALIZER_NFC,
    NORMALIZER_NFD,
    NORMALIZER_NFKC,
    NORMALIZER_NFKD,
    NORMALIZER_LOWERCASE,
    NORMALIZER_STRIP,          // spaces at the ends named by left and right
    NORMALIZER_STRIP_ACCENTS,  // marks are dropped; they stand alone after NFD only
    NORMALIZER_NMT,            // SentencePiece's: controls dropped, other white space becomes a space
    NORMALIZER_CHARSMAP,       // SentencePiece's map of characters
    NORMALIZER_BYTE_LEVEL,     // each byte becomes its letter
    NORMALIZER_CLEAN,          // BERT's: controls dropped, white space becomes a space
    NORMALIZER_CHINESE,        // BERT's: a space before and after each Chinese character
    NORMALIZER_BERT_ACCENTS,   // BERT's: NFD, then nonspacing marks are dropped
};

enum { NORMALIZER_STEPS_MAX = 24 };

struct normalizer {
    struct normalizer_step {
        enum normalizer_kind kind;
        char *text, *replacement;   // owned; NULL where the kind has none
        struct regex *regex;        // REPLACE of matches; owned
        bool left, right;           // STRIP
        struct charsmap *charsmap;  // CHARSMAP; owned
    } steps[NORMALIZER_STEPS_MAX];
    size_t count;
};

/* Takes ownership of what the step holds.  0, or -1 when there are too many steps: step is then freed (nothing is logged). */
int normalizer_add_step(struct normalizer *normalizer, struct normalizer_step step);
/* A step that is its kind and two texts, which are copied. */
int normalizer_add(struct normalizer *normalizer, enum normalizer_kind kind, const char *text, const char *replacement);
void normalizer_free(struct normalizer *normalizer);

/* Zero-initialise; what one thread needs. */
struct normalizer_scratch {
    struct buffer spare;
    struct regex_scratch regex;
};
void normalizer_scratch_free(struct normalizer_scratch *scratch);

/*
 * Replaces what out holds by the normal form of text (valid UTF-8, and not in out).  False: its first character is not
 * the first one of text, which was dropped.
 */
bool normalizer_run(const struct normalizer *normalizer, struct normalizer_scratch *scratch, const char *text, size_t size,
                    struct buffer *out);

#endif
