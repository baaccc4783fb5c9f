/*
 * vocabulary.h - the pieces of a tokenizer, by id and by text.
 *
 * A piece is the text by which the tokenizer's file calls a token: of a byte-level tokenizer the letters that stand for
 * its bytes, of a SentencePiece one with U+2581 for a space.
 */
#ifndef TEXT_VOCABULARY_H
#define TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/table.h"

enum {
    VOCABULARY_SIZE_MAX = 1 << 21,  // tokens
    PIECE_SIZE_MAX = 1 << 16,       // bytes
};

struct piece {
    const char *at;   // NULL: no token has this id; else followed by a NUL
    uint32_t size;    // bytes
    bool added_only;  // found in texts as an added token, but not by the model
};

struct vocabulary {
    struct piece *pieces;  // (count)
    size_t count, capacity;
    struct text_table ids;
    struct arena texts;
};

void vocabulary_init(struct vocabulary *vocabulary);
void vocabulary_free(struct vocabulary *vocabulary);

/* name is how errors call the file.  0, or -1 when the id or the piece is out of bounds or taken, logged. */
int vocabulary_add(struct vocabulary *vocabulary, int64_t id, const char *piece, size_t size, bool added_only,
                   const char *name);

/* -1: no such piece. */
static inline int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *piece, size_t size)
{
    return text_table_find(&vocabulary->ids, piece, size);
}
/* As the model sees it: without the tokens that were only added. */
static inline int32_t vocabulary_find_model(const struct vocabulary *vocabulary, const char *piece, size_t size)
{
    int32_t id = vocabulary_find(vocabulary, piece, size);
    return id >= 0 && vocabulary->pieces[id].added_only ? -1 : id;
}
/* Whether a token has this id. */
bool vocabulary_has(const struct vocabulary *vocabulary, int64_t id);

#endif
