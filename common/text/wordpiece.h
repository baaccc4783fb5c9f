/*
 * wordpiece.h - BERT's model: the longest piece from the left, again and again; pieces inside a word begin with "##".
 */
#ifndef TEXT_WORDPIECE_H
#define TEXT_WORDPIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer.h"
#include "text/vocabulary.h"

enum { CONTINUING_SIZE_MAX = 64 };  // bytes

struct wordpiece {
    char *continuing;          // "##"; owned
    size_t word_max;           // characters; a longer word is unknown
    int32_t unknown;           // -1: an unknown word gives nothing
    bool whole;                // the WordLevel model: a word that is no piece itself is unknown
    // Made by wordpiece_finish:
    size_t piece_max;          // bytes of the longest piece
};
/* Once the vocabulary is there. */
void wordpiece_finish(struct wordpiece *wordpiece, const struct vocabulary *vocabulary);
void wordpiece_free(struct wordpiece *wordpiece);

/* Appends the ids of a word (valid UTF-8); the unknown token when some part of it is no piece. */
void wordpiece_encode(const struct wordpiece *wordpiece, const struct vocabulary *vocabulary, const char *word, size_t size,
                      struct token_list *ids);

#endif
