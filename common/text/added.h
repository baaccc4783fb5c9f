/*
 * added.h - tokens that are found in a text before anything else looks at it: "<s>", "<|im_end|>" and their like.
 */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/normalizer.h"
#include "text/table.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct added_token {
    int32_t id;
    bool special;              // gives no text; read in a text only where markup is
    bool normalized;           // looked for in the normalised text, and normalised itself
    bool single_word;          // only where no letter stands beside it
    bool lstrip, rstrip;       // takes the spaces before, after it
    uint32_t order;            // set by added_add
};

/* The texts of a set of tokens as a tree of bytes. */
struct added_tree {
    struct pair_table edges;   // (node, byte) -> node; node 0 is the root
    int32_t *tokens;           // (node_count) index into added.tokens, or -1
    size_t node_count, node_capacity;
    bool first[256];           // bytes with which some token begins
};

struct added {
    struct added_token *tokens;  // (count), by id once finished
    size_t count, capacity;
    struct added_tree raw, normalized;  // made by added_finish
};

/* The id must be in the vocabulary.  Of several with one id the first stays. */
void added_add(struct added *added, struct added_token token);
/* Once all are there; before it nothing is found. */
void added_finish(struct added *added, const struct vocabulary *vocabulary, const struct normalizer *normalizer);
void added_free(struct added *added);
/* NULL: no added token has this id. */
const struct added_token *added_find(const struct added *added, int32_t id);

/* Which special tokens written in a text are read as tokens: all with markup, less those that touch a plain span. */
struct added_reading {
    bool markup;
    const struct text_span *plain;  // (plain_count) ascending
    size_t plain_count;
};

/*
 * The next token of the tree in text at or after from: the leftmost, of these the longest.  *start and *end are what it takes
 * of the text.  NULL when there is none.
 */
const struct added_token *added_next(const struct added *added, const struct added_tree *tree, const char *text, size_t size,
                                     size_t from, const struct added_reading *reading, size_t *start, size_t *end);

#endif
