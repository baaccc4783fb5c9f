/*
 * unigram.h - SentencePiece's unigram model: the way to cut a text into pieces whose scores sum highest (Viterbi).
 */
#ifndef TEXT_UNIGRAM_H
#define TEXT_UNIGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/added.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct unigram {
    double *scores;        // (score_count) log-probability of each id; an id beyond it, or whose score is NaN, is no piece
    size_t score_count;
    int32_t unknown;       // -1: an unknown character gives nothing
    bool byte_fallback;    // an unknown character is read as the tokens "<0x00>" .. "<0xFF>" of its bytes
    // Made by unigram_finish:
    struct unigram_trie *trie;
    double unknown_score;
    int32_t bytes[256];    // tokens of byte_fallback, or -1
};

/* Once scores, vocabulary and added tokens are there. */
void unigram_finish(struct unigram *unigram, const struct vocabulary *vocabulary, const struct added *added);
void unigram_free(struct unigram *unigram);
/* The score by which files name an id: for one that is no piece 0, as transformers writes them. */
double unigram_written_score(const struct unigram *unigram, size_t id);

/* Zero-initialise; what one thread needs. */
struct unigram_scratch {
    struct unigram_node *nodes;
    size_t node_capacity;
};
void unigram_scratch_free(struct unigram_scratch *scratch);

/*
 * Appends the ids of a word (valid UTF-8); neighbouring unknown characters become one unknown token.  Of two ways with equal sums
 * the one whose last piece begins earlier, as in the tokenizers library.  O(size * longest piece).
 *
 * special: special tokens count as pieces, as they do there.  A normalizer may make one of a text that was none: where special
 * tokens are to be read as text, they do not.
 */
void unigram_encode(const struct unigram *unigram, const struct vocabulary *vocabulary, struct unigram_scratch *scratch,
                    const char *word, size_t size, bool special, struct token_list *ids);

#endif
