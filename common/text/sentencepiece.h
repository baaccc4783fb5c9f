/*
 * sentencepiece.h - a tokenizer from what a SentencePiece model says, whichever file said it: *.model or GGUF.
 *
 * Two readings of one model are in use, and they differ in spaces and in the begin token:
 *
 *   Llama-like, that is BPE without a character map: as transformers' Llama tokenizer, and the tokenizer.json that it
 *   writes.  One space is put before every stretch of text between special tokens, whatever it begins with, and no
 *   space is taken away, even if the model asks for it as SentencePiece's trainer does by default.  The begin token
 *   stands before a text.  (transformers 5 reads a lone tokenizer.model otherwise: merges in the order of ids and no space
 *   before a text that begins with one.  That is neither what tokenizer.json says nor what the models were trained on.)
 *
 *   All others, Unigram and BPE with a character map: as the sentencepiece package.  The text is mapped; spaces
 *   at both ends go, runs of them become one, if the model asks for it.  Nothing stands around a text unless a file
 *   beside the model says so, or the model calls its begin token [CLS] as BERT does (DeBERTa's).  The map is applied as in the
 *   tokenizers library (charsmap.h), which differs from the package where a mapped character carries combining marks.
 *
 * In both, control and unknown pieces are special tokens, found in a text only where markup is read, and user-defined pieces are
 * found everywhere; either ends the stretch of text before it, as in transformers.  (The package finds user-defined pieces
 * without that cut, and control pieces never.)
 */
#ifndef TEXT_SENTENCEPIECE_H
#define TEXT_SENTENCEPIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer_parts.h"

/* The numbers are those of both files. */
enum piece_type { PIECE_UNDEFINED, PIECE_NORMAL, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER_DEFINED, PIECE_UNUSED, PIECE_BYTE };

struct sentencepiece {
    bool unigram;                // else BPE
    const float *scores;         // (vocabulary size)
    const unsigned char *types;  // (vocabulary size) enum piece_type
    const char *charsmap;        // precompiled character map, or NULL
    size_t charsmap_size;        // bytes
    bool dummy_prefix;           // a space before the text
    bool remove_spaces;          // at both ends, and all but one of a run
    bool escape_spaces;          // pieces have U+2581 for a space
    bool byte_fallback;
    int32_t unknown;             // -1: none
};

/* Makes special and user-defined tokens of the pieces of these types, (vocabulary size) of them. */
void piece_types_use(struct tokenizer *tokenizer, const unsigned char *types);

/* Whether spaces and begin token are as in transformers' Llama tokenizer. */
bool sentencepiece_is_llama(const struct sentencepiece *spec);

/*
 * Vocabulary and types are there; adds everything else but what stands around a text.  0, or -1 when scores, types or map make no
 * tokenizer, logged.
 */
int sentencepiece_use(struct tokenizer *tokenizer, const struct sentencepiece *spec);

#endif
