/* tokenizer_json_model.c - the model of a tokenizer.json; and GPT-2's vocab.json with merges.txt. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "text/tokenizer_json.h"

enum { WORD_MAX = 100 };  // characters of a WordPiece word where the file does not say

static int read_vocabulary(struct tokenizer *tokenizer, const json_t *vocabulary)
{
    if (!json_is_object(vocabulary))
        return tokenizer_refuse(tokenizer, "the model has no object \"vocab\"");
    const char *piece;
    json_t *id;
    json_object_foreach((json_t *)(size_t)vocabulary, piece, id) {
        if (!json_is_integer(id))
            return tokenizer_refuse(tokenizer, "the id of token \"%.64s\" is no integer", piece);
        if (vocabulary_add(&tokenizer->vocabulary, json_integer_value(id), piece, strlen(piece), false, tokenizer->name) != 0)
            return -1;
    }
    return 0;
}

/* The id of unk_token; -1 where there is none.  False: it is not in the vocabulary. */
static bool read_unknown(const struct tokenizer *tokenizer, const json_t *model, const char *fallback, int32_t *out)
{
    const char *unknown = json_text_field(tokenizer, model, "unk_token", fallback);
    if (unknown == NULL)
        return false;
    *out = *unknown != '\0' ? vocabulary_find(&tokenizer->vocabulary, unknown, strlen(unknown)) : -1;
    if (*unknown != '\0' && *out < 0) {
        tokenizer_refuse(tokenizer, "the unk_token \"%s\" is not in the vocabulary", unknown);
        return false;
    }
    return true;
}

/* ---- BPE ---- */

static int add_merge(struct tokenizer *tokenizer, const char *left, size_t left_size, const char *right, size_t right_size)
{
    int32_t a = vocabulary_find_model(&tokenizer->vocabulary, left, left_size);
    int32_t b = vocabulary_find_model(&tokenizer->vocabulary, right, right_size);
    if (bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, a, b) != 0)
        return tokenizer_refuse(tokenizer, "merge %zu, \"%.*s\" and \"%.*s\", is not two tokens that join to a third",
                                tokenizer->bpe.merge_count, (int)(left_size < 64 ? left_size : 64), left,
                                (int)(right_size < 64 ? right_size : 64), right);
    return 0;
}

/* A merge written as "left right".  Where tokens hold spaces themselves, the first reading that has tokens on both sides. */
static int add_merge_line(struct tokenizer *tokenizer, const char *line, size_t size)
{
    const char *end = line + size, *space = line;
    while ((space = memchr(space, ' ', (size_t)(end - space))) != NULL) {
        int32_t left = vocabulary_find_model(&tokenizer->vocabulary, line, (size_t)(space - line));
        int32_t right = vocabulary_find_model(&tokenizer->vocabulary, space + 1, (size_t)(end - space - 1));
        if (bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, left, right) == 0)
            return 0;
        space++;
    }
    return tokenizer_refuse(tokenizer, "merge %zu, \"%.*s\", is not two tokens that join to a third", tokenizer->bpe.merge_count,
                            (int)(size < 64 ? size : 64), line);
}

static int read_merges(struct tokenizer *tokenizer, const json_t *merges)
{
    if (!json_is_array(merges) || json_array_size(merges) > MERGES_MAX)
        return tokenizer_refuse(tokenizer, "the model has no list \"merges\" of at most %d", MERGES_MAX);
    size_t i;
    const json_t *merge;
    json_array_foreach(merges, i, merge) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        int bad;
        if (json_is_string(merge))
            bad = add_merge_line(tokenizer, json_string_value(merge), json_string_length(merge));
        else if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right))
            bad = add_merge(tokenizer, json_string_value(left), json_string_length(left), json_string_value(right),
                            json_string_length(right));
        else
            bad = tokenizer_refuse(tokenizer, "merge %zu is no pair of texts", i);
        if (bad != 0)
            return -1;
    }
    return 0;
}

/* An empty text is none. */
static int read_affix(const struct tokenizer *tokenizer, const json_t *model, const char *key, char **out)
{
    const char *text = json_text_field(tokenizer, model, key, "");
    if (text != NULL && *text != '\0')
        *out = memory_text(text);
    return text != NULL ? 0 : -1;
}

static int read_bpe(struct tokenizer *tokenizer, const json_t *model)
{
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return tokenizer_refuse(tokenizer, "the model's \"dropout\" makes ids random, which is not supported");
    struct bpe *bpe = &tokenizer->bpe;
    tokenizer->kind = TOKENIZER_BPE;
    bool bad = read_affix(tokenizer, model, "continuing_subword_prefix", &bpe->continuing) != 0
               || read_affix(tokenizer, model, "end_of_word_suffix", &bpe->word_end) != 0
               || json_flag_field(tokenizer, model, "byte_fallback", false, &bpe->byte_fallback) != 0
               || json_flag_field(tokenizer, model, "fuse_unk", false, &bpe->fuse_unknown) != 0
               || json_flag_field(tokenizer, model, "ignore_merges", false, &bpe->ignore_merges) != 0
               || read_vocabulary(tokenizer, json_object_get(model, "vocab")) != 0
               || read_merges(tokenizer, json_object_get(model, "merges")) != 0
               || !read_unknown(tokenizer, model, "", &bpe->unknown);
    return bad ? -1 : 0;
}

/* ---- Unigram ---- */

static int read_unigram(struct tokenizer *tokenizer, const json_t *model)
{
    struct unigram *unigram = &tokenizer->unigram;
    const json_t *pieces = json_object_get(model, "vocab"), *unknown = json_object_get(model, "unk_id"), *pair;
    size_t count = json_array_size(pieces), id;
    if (!json_is_array(pieces) || count > VOCABULARY_SIZE_MAX)
        return tokenizer_refuse(tokenizer, "the model has no list \"vocab\" of at most %d", VOCABULARY_SIZE_MAX);
    tokenizer->kind = TOKENIZER_UNIGRAM;
    unigram->scores = memory_alloc(count, sizeof *unigram->scores);
    unigram->score_count = count;
    json_array_foreach(pieces, id, pair) {
        const json_t *piece = json_array_get(pair, 0), *score = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_string(piece) || !json_is_number(score))
            return tokenizer_refuse(tokenizer, "element %zu of \"vocab\" is no piece with its score", id);
        if (vocabulary_add(&tokenizer->vocabulary, (int64_t)id, json_string_value(piece), json_string_length(piece), false,
                           tokenizer->name) != 0)
            return -1;
        unigram->scores[id] = json_number_value(score);
    }
    if (unknown != NULL && !json_is_null(unknown)) {
        if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 || (size_t)json_integer_value(unknown) >= count)
            return tokenizer_refuse(tokenizer, "\"unk_id\" is no id of its %zu pieces", count);
        unigram->unknown = (int32_t)json_integer_value(unknown);
    }
    return json_flag_field(tokenizer, model, "byte_fallback", false, &unigram->byte_fallback);
}

/* ---- WordPiece and WordLevel ---- */

static int read_wordpiece(struct tokenizer *tokenizer, const json_t *model)
{
    struct wordpiece *wordpiece = &tokenizer->wordpiece;
    const char *continuing = json_text_field(tokenizer, model, "continuing_subword_prefix", "##");
    tokenizer->kind = TOKENIZER_WORDPIECE;
    if (continuing == NULL || json_count_field(tokenizer, model, "max_input_chars_per_word", WORD_MAX, &wordpiece->word_max) != 0
        || read_vocabulary(tokenizer, json_object_get(model, "vocab")) != 0
        || !read_unknown(tokenizer, model, "[UNK]", &wordpiece->unknown))
        return -1;
    wordpiece->continuing = memory_text(continuing);
    return 0;
}

static int read_wordlevel(struct tokenizer *tokenizer, const json_t *model)
{
    tokenizer->kind = TOKENIZER_WORDPIECE;
    tokenizer->wordpiece.whole = true;
    return read_vocabulary(tokenizer, json_object_get(model, "vocab")) != 0
           || !read_unknown(tokenizer, model, "<unk>", &tokenizer->wordpiece.unknown) ? -1 : 0;
}

/* Files of old have no "type": a BPE model is the one with merges, Unigram's vocabulary is a list. */
static const char *guess_type(const json_t *model)
{
    return json_object_get(model, "merges") != NULL             ? "BPE"
           : json_is_array(json_object_get(model, "vocab"))     ? "Unigram"
           : json_object_get(model, "max_input_chars_per_word") ? "WordPiece"
                                                                : "none";
}

int json_read_model(struct tokenizer *tokenizer, const json_t *model)
{
    static const struct json_step_kind models[] = {
        { "BPE", read_bpe }, { "Unigram", read_unigram }, { "WordPiece", read_wordpiece }, { "WordLevel", read_wordlevel },
    };
    const char *type = json_text_field(tokenizer, model, "type", guess_type(model));
    if (type == NULL)
        return -1;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        if (strcmp(type, models[i].type) == 0)
            return models[i].read(tokenizer, model);
    }
    return json_refuse_kind(tokenizer, "model", type);
}

struct tokenizer *tokenizer_from_merges(const json_t *vocabulary, const char *merges, size_t size, const char *name)
{
    static const char end_of_text[] = "<|endoftext|>";
    struct tokenizer *tokenizer = tokenizer_new(name);
    if (read_vocabulary(tokenizer, vocabulary) != 0)
        goto close_tokenizer;
    for (size_t at = 0; at < size;) {
        const char *newline = memchr(merges + at, '\n', size - at);
        size_t end = newline != NULL ? (size_t)(newline - merges) : size;
        size_t line = end > at && merges[end - 1] == '\r' ? end - at - 1 : end - at;
        bool version = at == 0 && line >= 8 && memcmp(merges, "#version", 8) == 0;
        if (line > 0 && !version && add_merge_line(tokenizer, merges + at, line) != 0)
            goto close_tokenizer;
        at = end + 1;
    }
    tokenizer_use_byte_level(tokenizer, false, true);
    decoder_add(&tokenizer->decoder, DECODER_BYTE_LEVEL, NULL, NULL, 0);
    int32_t end = vocabulary_find(&tokenizer->vocabulary, end_of_text, strlen(end_of_text));
    if (end >= 0)
        added_add(&tokenizer->added, (struct added_token){ .id = end, .special = true });
    tokenizer->begin = tokenizer->end = end;
    return tokenizer;

close_tokenizer:
    tokenizer_close(tokenizer);
    return NULL;
}
