/*
 * tokenizer_vocabulary.c - BERT's vocab.txt: a piece a line, its id is its line.
 *
 * Also what RoBERTa adds to GPT-2's vocab.json and merges.txt.
 */
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "text/tokenizer_parts.h"

/* The tokens of BERT's own files; others are called so, too, in brackets, but they are ordinary pieces. */
static const char *const special_pieces[] = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]" };

struct tokenizer *tokenizer_from_vocabulary(const char *text, size_t size, bool lowercase, const char *name)
{
    static const char unknown[] = "[UNK]";
    struct tokenizer *tokenizer = tokenizer_new(name);
    int64_t line = 0;
    for (size_t at = 0, end; at < size; at = end + 1, line++) {
        const char *newline = memchr(text + at, '\n', size - at);
        end = newline != NULL ? (size_t)(newline - text) : size;
        size_t length = end > at && text[end - 1] == '\r' ? end - at - 1 : end - at;
        int32_t known = vocabulary_find(&tokenizer->vocabulary, text + at, length);
        if (known >= 0) {
            tokenizer_refuse(tokenizer, "lines %" PRId32 " and %" PRId64 " are both \"%.*s\"", known + 1, line + 1,
                             (int)(length < 64 ? length : 64), text + at);
            goto close_tokenizer;
        }
        if (vocabulary_add(&tokenizer->vocabulary, line, text + at, length, false, name) != 0)
            goto close_tokenizer;
    }
    if (vocabulary_find(&tokenizer->vocabulary, unknown, strlen(unknown)) < 0) {
        tokenizer_refuse(tokenizer, "no vocabulary of BERT: none of its %" PRId64 " lines is %s", line, unknown);
        goto close_tokenizer;
    }
    for (size_t i = 0; i < COUNT_OF(special_pieces); i++) {
        int32_t id = vocabulary_find(&tokenizer->vocabulary, special_pieces[i], strlen(special_pieces[i]));
        if (id >= 0)
            added_add(&tokenizer->added, (struct added_token){ .id = id, .special = true });
    }
    tokenizer_use_bert(tokenizer, lowercase);
    return tokenizer;

close_tokenizer:
    tokenizer_close(tokenizer);
    return NULL;
}

void tokenizer_use_pair(struct tokenizer *tokenizer, size_t between, int32_t second_type)
{
    struct pair_rule *pair = &tokenizer->pair;
    if (tokenizer->begin < 0 || tokenizer->end < 0 || pair->present)
        return;
    pair->present = true;
    pair->second_type = pair->suffix_type = second_type;
    token_list_add(&pair->prefix, tokenizer->begin);
    for (size_t i = 0; i < between; i++)
        token_list_add(&pair->middle, tokenizer->end);
    token_list_add(&pair->suffix, tokenizer->end);
}

void tokenizer_use_roberta(struct tokenizer *tokenizer)
{
    static const struct {
        const char *piece;
        bool lstrip;
    } specials[] = { { "<s>", false }, { "<pad>", false }, { "</s>", false }, { "<unk>", false }, { "<mask>", true } };
    int32_t begin = vocabulary_find(&tokenizer->vocabulary, "<s>", 3), end = vocabulary_find(&tokenizer->vocabulary, "</s>", 4);
    if (begin < 0 || end < 0)
        return;
    tokenizer->added.count = 0;  // GPT-2's end of text is an ordinary piece here
    for (size_t i = 0; i < COUNT_OF(specials); i++) {
        int32_t id = vocabulary_find(&tokenizer->vocabulary, specials[i].piece, strlen(specials[i].piece));
        if (id >= 0)
            added_add(&tokenizer->added, (struct added_token){ .id = id, .special = true, .lstrip = specials[i].lstrip });
    }
    tokenizer->begin = begin;
    tokenizer->end = end;
    token_list_add(&tokenizer->prefix, begin);
    token_list_add(&tokenizer->suffix, end);
    tokenizer_use_pair(tokenizer, 2, 0);
}
