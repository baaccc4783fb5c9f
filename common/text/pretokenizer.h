/*
 * pretokenizer.h - how a normalised text is cut into words, which the model then reads one by one.
 */
#ifndef TEXT_PRETOKENIZER_H
#define TEXT_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/regex.h"

enum pretokenizer_kind {
    PRETOKENIZER_SPLIT,       // by regex and behavior
    PRETOKENIZER_BYTE_LEVEL,  // perhaps a space before, perhaps GPT-2's split, then a letter for each byte
    PRETOKENIZER_METASPACE,   // spaces become replacement; perhaps one before, perhaps a cut before each
    PRETOKENIZER_DIGITS,      // digits apart from the rest; perhaps each on its own
    PRETOKENIZER_SPACES,      // a cut at each space, which is dropped
    PRETOKENIZER_PUNCTUATION, // each mark of punctuation is a match; by behavior
    PRETOKENIZER_WORDS,       // runs of letters and of what is neither letter nor space; spaces are dropped
};

/* What becomes of the matches of a split; the tokenizers library's names. */
enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_MERGED_WITH_PREVIOUS, SPLIT_MERGED_WITH_NEXT, SPLIT_CONTIGUOUS };

enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

enum { PRETOKENIZER_STEPS_MAX = 16 };

struct pretokenizer {
    struct pretokenizer_step {
        enum pretokenizer_kind kind;
        struct regex *regex;           // owned; SPLIT, and BYTE_LEVEL where it splits
        enum split_behavior behavior;  // SPLIT, PUNCTUATION
        bool invert;                   // SPLIT: what does not match counts as a match
        bool prefix_space;             // BYTE_LEVEL
        char *replacement;             // METASPACE; owned, one character
        enum prepend_scheme prepend;   // METASPACE
        bool split;                    // METASPACE, DIGITS: each digit on its own
    } steps[PRETOKENIZER_STEPS_MAX];
    size_t count;
};

extern const char gpt2_pattern[];

/* Takes ownership of what the step holds.  0, or -1 when there are too many steps: step is then freed. */
int pretokenizer_add(struct pretokenizer *pretokenizer, struct pretokenizer_step step);
void pretokenizer_free(struct pretokenizer *pretokenizer);

/* Zero-initialise; what one thread needs. */
struct pretokenizer_scratch {
    struct buffer texts[PRETOKENIZER_STEPS_MAX];
    struct regex_scratch regex;
};
void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch);

/* Calls take for each word in order; a word is borrowed for the call.  at_start: text begins the whole text. */
typedef void pretokenizer_take(void *context, const char *word, size_t size);
void pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_scratch *scratch, const char *text,
                      size_t size, bool at_start, pretokenizer_take *take, void *context);

/* The letter (a code point below 512) that stands for a byte in byte-level vocabularies, and the byte of a letter or -1. */
uint32_t byte_letter(unsigned char byte);
int byte_of_letter(uint32_t code_point);

#endif
