/*
 * tokenizer_key.c - the digest of everything that decides the ids of a text, in an order of its own: the file that the
 * tokenizer came from must not show.
 *
 * Stores hold keys, so what is added for a new kind is added only where that kind is used.
 */
#include <math.h>
#include <string.h>

#include "text/tokenizer_parts.h"

static void add_integer(struct digest *digest, int64_t number)
{
    digest_add(digest, &number, sizeof number);
}

static void add_text(struct digest *digest, const char *text)
{
    digest_add(digest, text != NULL ? text : "", text != NULL ? strlen(text) + 1 : 1);
}

static void add_tokens(struct digest *digest, const struct token_list *tokens)
{
    add_integer(digest, (int64_t)tokens->count);
    for (size_t i = 0; i < tokens->count; i++)
        add_integer(digest, tokens->at[i]);
}

static void add_vocabulary(struct digest *digest, const struct vocabulary *vocabulary)
{
    add_integer(digest, (int64_t)vocabulary->count);
    for (size_t id = 0; id < vocabulary->count; id++) {
        struct piece piece = vocabulary->pieces[id];
        add_integer(digest, piece.at == NULL ? -1 : 2 * (int64_t)piece.size + piece.added_only);
        if (piece.at != NULL)
            digest_add(digest, piece.at, piece.size);
    }
}

static void add_bpe(struct digest *digest, const struct bpe *bpe)
{
    add_integer(digest, (int64_t)bpe->merge_count);
    for (size_t i = 0; i < bpe->merge_count; i++) {
        add_integer(digest, bpe->merges[i].left);
        add_integer(digest, bpe->merges[i].right);
    }
    add_integer(digest, bpe->unknown);
    add_integer(digest, bpe->byte_fallback | bpe->fuse_unknown << 1 | bpe->ignore_merges << 2);
    if (bpe->continuing != NULL || bpe->word_end != NULL) {
        add_text(digest, bpe->continuing);
        add_text(digest, bpe->word_end);
    }
}

static void add_unigram(struct digest *digest, const struct tokenizer *tokenizer)
{
    const struct unigram *unigram = &tokenizer->unigram;
    add_integer(digest, (int64_t)unigram->score_count);
    for (size_t id = 0; id < unigram->score_count; id++) {
        double score = unigram_written_score(unigram, id);
        digest_add(digest, &score, sizeof score);
    }
    add_integer(digest, unigram->unknown);
    add_integer(digest, unigram->byte_fallback);
}

static void add_wordpiece(struct digest *digest, const struct wordpiece *wordpiece)
{
    add_text(digest, wordpiece->continuing);
    add_integer(digest, (int64_t)wordpiece->word_max);
    add_integer(digest, wordpiece->unknown);
    add_integer(digest, wordpiece->whole);
}

static void add_added(struct digest *digest, const struct added *added)
{
    for (size_t i = 0; i < added->count; i++) {
        const struct added_token *token = &added->tokens[i];
        add_integer(digest, token->id);
        add_integer(digest, token->special | token->normalized << 1 | token->single_word << 2 | token->lstrip << 3
                                | token->rstrip << 4);
    }
}

static void add_normalizer(struct digest *digest, const struct normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->count; i++) {
        const struct normalizer_step *step = &normalizer->steps[i];
        add_text(digest, "normalizer");
        add_integer(digest, step->kind);
        add_text(digest, step->text);
        add_text(digest, step->replacement);
        if (step->regex != NULL)
            add_text(digest, regex_pattern(step->regex));
        if (step->kind == NORMALIZER_STRIP)
            add_integer(digest, step->left | step->right << 1);
        if (step->charsmap != NULL) {
            size_t size;
            const void *data = charsmap_data(step->charsmap, &size);
            digest_add(digest, data, size);
        }
    }
}

static void add_pretokenizer(struct digest *digest, const struct pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->count; i++) {
        const struct pretokenizer_step *step = &pretokenizer->steps[i];
        add_text(digest, "pretokenizer");
        add_integer(digest, step->kind);
        add_text(digest, step->regex != NULL ? regex_pattern(step->regex) : NULL);
        add_integer(digest, step->regex != NULL && regex_is_literal(step->regex));
        add_integer(digest, step->behavior | step->invert << 4 | step->prefix_space << 5 | step->prepend << 6 | step->split << 8);
        add_text(digest, step->replacement);
    }
}

/* How two texts are joined is left out: it says nothing of the ids of one. */
void tokenizer_make_key(struct tokenizer *tokenizer)
{
    static const char *const names[] = {
        [TOKENIZER_BPE] = "bpe 1", [TOKENIZER_UNIGRAM] = "unigram 1", [TOKENIZER_WORDPIECE] = "wordpiece 1",
    };
    struct digest digest;
    digest_init(&digest);
    add_text(&digest, names[tokenizer->kind]);
    add_vocabulary(&digest, &tokenizer->vocabulary);
    switch (tokenizer->kind) {
    case TOKENIZER_BPE: add_bpe(&digest, &tokenizer->bpe); break;
    case TOKENIZER_UNIGRAM: add_unigram(&digest, tokenizer); break;
    case TOKENIZER_WORDPIECE: add_wordpiece(&digest, &tokenizer->wordpiece); break;
    }
    add_added(&digest, &tokenizer->added);
    add_normalizer(&digest, &tokenizer->normalizer);
    add_pretokenizer(&digest, &tokenizer->pretokenizer);
    add_tokens(&digest, &tokenizer->prefix);
    add_tokens(&digest, &tokenizer->suffix);
    digest_key(&digest, tokenizer->key);
}
