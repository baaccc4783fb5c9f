/* tokenizer_encode.c - from text to ids; see tokenizer.h. */
#include <stdlib.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/tokenizer_parts.h"

struct encoder {
    const struct tokenizer *tokenizer;
    struct token_list *ids;
    struct added_reading reading;
    struct normalizer_scratch normalizer;
    struct pretokenizer_scratch words;
    struct bpe_scratch bpe;
    struct unigram_scratch unigram;
    struct buffer normal;
    struct text_span *normal_spans;  // reading.plain as parts of the normalised text
};

static void encoder_free(struct encoder *encoder)
{
    normalizer_scratch_free(&encoder->normalizer);
    pretokenizer_scratch_free(&encoder->words);
    bpe_scratch_free(&encoder->bpe);
    unigram_scratch_free(&encoder->unigram);
    free(encoder->normal.data);
    free(encoder->normal_spans);
}

static void encode_word(void *context, const char *word, size_t size)
{
    struct encoder *encoder = context;
    const struct tokenizer *tokenizer = encoder->tokenizer;
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    switch (tokenizer->kind) {
    case TOKENIZER_BPE: bpe_encode(&tokenizer->bpe, vocabulary, &encoder->bpe, word, size, encoder->ids); break;
    case TOKENIZER_UNIGRAM:
        unigram_encode(&tokenizer->unigram, vocabulary, &encoder->unigram, word, size,
                       encoder->reading.markup && encoder->reading.plain_count == 0, encoder->ids);
        break;
    case TOKENIZER_WORDPIECE: wordpiece_encode(&tokenizer->wordpiece, vocabulary, word, size, encoder->ids); break;
    }
}

static void encode_words(struct encoder *encoder, const char *text, size_t size, bool at_start)
{
    pretokenizer_run(&encoder->tokenizer->pretokenizer, &encoder->words, text, size, at_start, encode_word, encoder);
}

/*
 * The plain spans as parts of the normalised text between two added tokens; from is where that text begins.  A border lies
 * where the normal form of what stands before it ends.
 */
static struct added_reading normal_reading(struct encoder *encoder, const char *text, size_t size, size_t from)
{
    struct added_reading reading = encoder->reading;
    if (reading.plain_count == 0 || encoder->tokenizer->added.normalized.node_count == 0)
        return reading;
    const struct normalizer *normalizer = &encoder->tokenizer->normalizer;
    struct buffer before = { 0 };
    encoder->normal_spans = memory_grow(encoder->normal_spans, reading.plain_count, sizeof *encoder->normal_spans);
    size_t count = 0;
    for (size_t i = 0; i < reading.plain_count; i++) {
        struct text_span span = reading.plain[i], *normal = &encoder->normal_spans[count];
        if (span.end <= from || span.start >= from + size)
            continue;
        normalizer_run(normalizer, &encoder->normalizer, text, span.start > from ? span.start - from : 0, &before);
        normal->start = before.size;
        normalizer_run(normalizer, &encoder->normalizer, text, span.end < from + size ? span.end - from : size, &before);
        normal->end = before.size;
        count++;
    }
    free(before.data);
    return (struct added_reading){ reading.markup, encoder->normal_spans, count };
}

/* Text between added tokens: normalised, then split again by the tokens that are looked for in normal text. */
static void encode_between(struct encoder *encoder, const char *text, size_t size, size_t from)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    const struct added *added = &tokenizer->added;
    struct added_reading reading = normal_reading(encoder, text, size, from);
    bool at_start = from == 0;
    if (tokenizer->normalizer.count > 0) {
        at_start &= normalizer_run(&tokenizer->normalizer, &encoder->normalizer, text, size, &encoder->normal);
        text = encoder->normal.data;
        size = encoder->normal.size;
    }
    const struct added_token *token;
    size_t done = 0, start, end;
    while ((token = added_next(added, &added->normalized, text, size, done, &reading, &start, &end)) != NULL) {
        encode_words(encoder, text + done, start - done, at_start && done == 0);
        token_list_add(encoder->ids, token->id);
        done = end;
    }
    if (done < size)
        encode_words(encoder, text + done, size - done, at_start && done == 0);
}

static void encode_text(struct encoder *encoder, const char *text, size_t size)
{
    const struct added *added = &encoder->tokenizer->added;
    size_t done = 0, start, end;
    const struct added_token *token;
    while ((token = added_next(added, &added->raw, text, size, done, &encoder->reading, &start, &end)) != NULL) {
        if (start > done)
            encode_between(encoder, text + done, start - done, done);
        token_list_add(encoder->ids, token->id);
        done = end;
    }
    if (done < size)
        encode_between(encoder, text + done, size - done, done);
}

/* Appends text with its plain spans moved to where they are once broken UTF-8 is repaired. */
static struct text_span *repair(struct buffer *out, const char *text, size_t size, const struct text_span *plain,
                                size_t plain_count)
{
    struct text_span *moved = memory_alloc(plain_count, sizeof *moved);
    size_t done = 0;
    for (size_t i = 0; i < plain_count; i++) {
        utf8_append_repaired(out, text + done, plain[i].start - done);
        moved[i].start = out->size;
        utf8_append_repaired(out, text + plain[i].start, plain[i].end - plain[i].start);
        moved[i].end = out->size;
        done = plain[i].end;
    }
    utf8_append_repaired(out, text + done, size - done);
    return moved;
}

/* What stands around the text is not added. */
static void encode_plain(const struct tokenizer *tokenizer, const char *text, size_t size, struct added_reading reading,
                         struct token_list *ids)
{
    struct encoder encoder = { .tokenizer = tokenizer, .ids = ids, .reading = reading };
    if (utf8_valid_prefix(text, size) == size) {
        encode_text(&encoder, text, size);
    } else {
        struct buffer repaired = { 0 };
        struct text_span *moved = repair(&repaired, text, size, reading.plain, reading.plain_count);
        encoder.reading.plain = moved;
        encode_text(&encoder, repaired.data, repaired.size);
        free(moved);
        free(repaired.data);
    }
    encoder_free(&encoder);
}

static void add_all(struct token_list *ids, const struct token_list *more)
{
    for (size_t i = 0; i < more->count; i++)
        token_list_add(ids, more->at[i]);
}

void tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags, struct token_list *ids)
{
    if (flags & ENCODE_SPECIAL)
        add_all(ids, &tokenizer->prefix);
    encode_plain(tokenizer, text, size, (struct added_reading){ .markup = flags & ENCODE_MARKUP }, ids);
    if (flags & ENCODE_SPECIAL)
        add_all(ids, &tokenizer->suffix);
}

void tokenizer_encode_around(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                             const struct text_span *plain, size_t plain_count, struct token_list *ids)
{
    for (size_t i = 0; i < plain_count; i++)
        CHECK((i > 0 ? plain[i - 1].end : 0) <= plain[i].start && plain[i].start <= plain[i].end && plain[i].end <= size);
    if (flags & ENCODE_SPECIAL)
        add_all(ids, &tokenizer->prefix);
    encode_plain(tokenizer, text, size, (struct added_reading){ flags & ENCODE_MARKUP, plain, plain_count }, ids);
    if (flags & ENCODE_SPECIAL)
        add_all(ids, &tokenizer->suffix);
}

void tokenizer_encode_pair(const struct tokenizer *tokenizer, const char *first, size_t first_size, const char *second,
                           size_t second_size, struct token_list *ids, struct token_list *types)
{
    const struct pair_rule *pair = &tokenizer->pair;
    const struct { const struct token_list *around; const char *text; size_t size; int32_t type; } parts[] = {
        { &pair->prefix, NULL, 0, pair->prefix_type }, { NULL, first, first_size, pair->first_type },
        { &pair->middle, NULL, 0, pair->middle_type }, { NULL, second, second_size, pair->second_type },
        { &pair->suffix, NULL, 0, pair->suffix_type },
    };
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        size_t before = ids->count;
        if (parts[i].around != NULL)
            add_all(ids, parts[i].around);
        else
            encode_plain(tokenizer, parts[i].text, parts[i].size, (struct added_reading){ 0 }, ids);
        for (size_t k = before; types != NULL && k < ids->count; k++)
            token_list_add(types, parts[i].type);
    }
}
