/*
 * bpe.h - byte pair encoding: the characters of a word are joined pair by pair, the earliest learned pair first.
 *
 * Serves SentencePiece's models (characters that are no token fall back to their bytes) and byte-level ones (every
 * character is the letter of a byte) alike.
 */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/table.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

enum { MERGES_MAX = 1 << 22, BPE_LETTERS = 512 };

struct merge {
    int32_t left, right, result;  // token ids; the merge's index is its rank
};

struct bpe {
    struct merge *merges;  // (merge_count)
    size_t merge_count, merge_capacity;
    struct pair_table ranks;
    bool byte_fallback;    // a character that is no token is read as the tokens "<0x00>" .. "<0xFF>" of its bytes
    bool fuse_unknown;     // neighbouring unknown characters become one unknown token
    bool ignore_merges;    // a word that is a token as a whole is that token
    int32_t unknown;       // -1: an unknown character gives nothing
    char *continuing;      // begins the piece of a character that is not a word's first, or NULL; owned
    char *word_end;        // ends the piece of a word's last character, or NULL; owned
    // Made by bpe_finish:
    int32_t letters[BPE_LETTERS];  // token of each character below U+0200, or -1
    int32_t bytes[256];            // tokens of byte_fallback, or -1
    bool cut_at_mark;              // no merge reaches across the border before a U+2581
};

/* left and right must be tokens whose joined text, right's without `continuing`, is one.  0, or -1 when not (nothing is logged). */
int bpe_add_merge(struct bpe *bpe, const struct vocabulary *vocabulary, int32_t left, int32_t right);
/* Once all merges are there. */
void bpe_finish(struct bpe *bpe, const struct vocabulary *vocabulary);
void bpe_free(struct bpe *bpe);

/* Zero-initialise; what one thread needs. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    size_t symbol_count, symbol_capacity;
    uint64_t *heap;
    size_t heap_count, heap_capacity;
};
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Appends the ids of a word (valid UTF-8).  O(n log n) in its characters. */
void bpe_encode(const struct bpe *bpe, const struct vocabulary *vocabulary, struct bpe_scratch *scratch, const char *word,
                size_t size, struct token_list *ids);

/* The byte that the piece "<0xNN>" stands for; -1 if it is no such piece. */
int byte_of_piece(const char *piece, size_t size);
/* The token "<0xNN>" of a byte; -1 if there is none. */
int32_t token_of_byte(const struct vocabulary *vocabulary, unsigned byte);

#endif
