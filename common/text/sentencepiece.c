/* sentencepiece.c - see sentencepiece.h. */
#include "text/sentencepiece.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"

enum { SPLIT_PIECE_MAX = 1024 };  // bytes of a piece that is joined; the trainer's own limit is far below

static const char mark[] = "\xe2\x96\x81";

bool sentencepiece_is_llama(const struct sentencepiece *spec)
{
    return !spec->unigram && spec->charsmap_size == 0;
}

static bool is_model_piece(unsigned char type)
{
    return type == PIECE_NORMAL || type == PIECE_USER_DEFINED || type == PIECE_UNUSED;
}

void piece_types_use(struct tokenizer *tokenizer, const unsigned char *types)
{
    for (size_t id = 0; id < tokenizer->vocabulary.count; id++) {
        bool special = types[id] == PIECE_CONTROL || types[id] == PIECE_UNKNOWN;
        if ((special || types[id] == PIECE_USER_DEFINED) && tokenizer->vocabulary.pieces[id].size > 0)
            added_add(&tokenizer->added, (struct added_token){ .id = (int32_t)id, .special = special });
    }
}

static int check_scores(const struct tokenizer *tokenizer, const struct sentencepiece *spec)
{
    for (size_t id = 0; id < tokenizer->vocabulary.count; id++) {
        if (!isfinite(spec->scores[id]))
            return tokenizer_refuse(tokenizer, "the score of token %zu is not finite", id);
    }
    return 0;
}

/* ---- BPE: the pieces' scores as merges ---- */

/* Two pieces that join to a third. */
struct join {
    int32_t left, right, result;
    float score;                     // of the result
    uint32_t left_size, right_size;  // characters
};

struct joins {
    struct join *at;
    size_t count, capacity;
};

/* The highest score first, as SentencePiece merges; of one piece's joins that with the longer left, as transformers lists them. */
static int compare_joins(const void *a, const void *b)
{
    const struct join *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_size != y->left_size)
        return x->left_size > y->left_size ? -1 : 1;
    if (x->right_size != y->right_size)
        return x->right_size > y->right_size ? -1 : 1;
    return x->result < y->result ? -1 : x->result > y->result;
}

static bool is_joinable(const struct sentencepiece *spec, int32_t id)
{
    return id >= 0 && is_model_piece(spec->types[id]);
}

static int add_joins(const struct tokenizer *tokenizer, const struct sentencepiece *spec, int32_t id, struct joins *joins)
{
    struct piece piece = tokenizer->vocabulary.pieces[id];
    if (piece.size > SPLIT_PIECE_MAX)
        return tokenizer_refuse(tokenizer, "token %" PRId32 " has %" PRIu32 " bytes, limit %d", id, piece.size, SPLIT_PIECE_MAX);
    uint32_t characters = 0, left_size = 0;
    for (size_t at = 0; at < piece.size; at += utf8_size((unsigned char)piece.at[at]))
        characters++;
    for (size_t at = 0; at < piece.size;) {
        at += utf8_size((unsigned char)piece.at[at]);
        left_size++;
        int32_t left = vocabulary_find(&tokenizer->vocabulary, piece.at, at);
        int32_t right = vocabulary_find(&tokenizer->vocabulary, piece.at + at, piece.size - at);
        if (at == piece.size || !is_joinable(spec, left) || !is_joinable(spec, right))
            continue;
        if (joins->count == MERGES_MAX)
            return tokenizer_refuse(tokenizer, "its pieces join in more than %d ways", MERGES_MAX);
        if (joins->count == joins->capacity) {
            joins->capacity = joins->capacity ? 2 * joins->capacity : 4096;
            joins->at = memory_grow(joins->at, joins->capacity, sizeof *joins->at);
        }
        joins->at[joins->count++] = (struct join){ left, right, id, spec->scores[id], left_size, characters - left_size };
    }
    return 0;
}

static int use_merges(struct tokenizer *tokenizer, const struct sentencepiece *spec)
{
    struct joins joins = { 0 };
    int result = 0;
    for (size_t id = 0; id < tokenizer->vocabulary.count && result == 0; id++) {
        if (is_joinable(spec, (int32_t)id))
            result = add_joins(tokenizer, spec, (int32_t)id, &joins);
    }
    if (result == 0 && joins.count > 0)
        qsort(joins.at, joins.count, sizeof *joins.at, compare_joins);
    for (size_t i = 0; i < joins.count && result == 0; i++)
        CHECK(bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, joins.at[i].left, joins.at[i].right) == 0);
    free(joins.at);
    tokenizer->kind = TOKENIZER_BPE;
    tokenizer->bpe.fuse_unknown = true;
    tokenizer->bpe.byte_fallback = spec->byte_fallback;
    tokenizer->bpe.unknown = spec->unknown;
    return result;
}

/* ---- Unigram ---- */

static void use_scores(struct tokenizer *tokenizer, const struct sentencepiece *spec)
{
    struct unigram *unigram = &tokenizer->unigram;
    size_t count = tokenizer->vocabulary.count;
    tokenizer->kind = TOKENIZER_UNIGRAM;
    unigram->scores = memory_alloc(count, sizeof *unigram->scores);
    unigram->score_count = count;
    for (size_t id = 0; id < count; id++)
        unigram->scores[id] = is_model_piece(spec->types[id]) ? spec->scores[id] : NAN;
    unigram->byte_fallback = spec->byte_fallback;
    unigram->unknown = spec->unknown;
}

/* ---- both ---- */

static void replace_matches(struct tokenizer *tokenizer, const char *pattern, const char *replacement)
{
    struct normalizer_step step = { .kind = NORMALIZER_REPLACE, .replacement = memory_text(replacement) };
    step.regex = regex_compile(pattern, strlen(pattern), false, tokenizer->name);
    CHECK(step.regex != NULL && normalizer_add_step(&tokenizer->normalizer, step) == 0);
}

static int use_normalizer(struct tokenizer *tokenizer, const struct sentencepiece *spec)
{
    struct normalizer *normalizer = &tokenizer->normalizer;
    if (spec->charsmap_size > 0) {
        const char *reason;
        struct charsmap *charsmap = charsmap_open(spec->charsmap, spec->charsmap_size, &reason);
        if (charsmap == NULL)
            return tokenizer_refuse(tokenizer, "its precompiled_charsmap is bad: %s", reason);
        normalizer_add_step(normalizer, (struct normalizer_step){ .kind = NORMALIZER_CHARSMAP, .charsmap = charsmap });
    }
    if (spec->remove_spaces && !sentencepiece_is_llama(spec)) {
        replace_matches(tokenizer, "\\A +", "");
        replace_matches(tokenizer, spec->escape_spaces ? "(?<![ \xe2\x96\x81])[ \xe2\x96\x81]+\\z" : "(?<! ) +\\z", "");
        replace_matches(tokenizer, " {2,}", " ");
    }
    if (spec->dummy_prefix)
        normalizer_add(normalizer, NORMALIZER_PREPEND, spec->escape_spaces ? mark : " ", NULL);
    if (spec->escape_spaces)
        normalizer_add(normalizer, NORMALIZER_REPLACE, " ", mark);
    return 0;
}

static void use_decoder(struct tokenizer *tokenizer, const struct sentencepiece *spec)
{
    decoder_add(&tokenizer->decoder, DECODER_REPLACE, mark, " ", 0);
    if (spec->byte_fallback)
        decoder_add(&tokenizer->decoder, DECODER_BYTE_FALLBACK, NULL, NULL, 0);
    decoder_add(&tokenizer->decoder, DECODER_FUSE, NULL, NULL, 0);
    if (spec->dummy_prefix)
        decoder_add(&tokenizer->decoder, DECODER_STRIP, " ", NULL, 1);
}

int sentencepiece_use(struct tokenizer *tokenizer, const struct sentencepiece *spec)
{
    if (check_scores(tokenizer, spec) != 0)
        return -1;
    if (spec->unigram)
        use_scores(tokenizer, spec);
    else if (use_merges(tokenizer, spec) != 0)
        return -1;
    if (use_normalizer(tokenizer, spec) != 0)
        return -1;
    use_decoder(tokenizer, spec);
    return 0;
}
