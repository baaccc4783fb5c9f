/* tokenizer_use.h - what must hold for any tokenizer that a file from anywhere gave. */
#ifndef FUZZ_TOKENIZER_USE_H
#define FUZZ_TOKENIZER_USE_H

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/tokenizer_parts.h"

/* Ids are in the vocabulary, and any ids, in it or not, give valid text. */
static inline void tokenizer_use(const struct tokenizer *tokenizer)
{
    static const char text[] = "The  caf\xc3\xa9 <s> 12'll\n\xe2\x96\x81\xed\x95\x9c\xff [A]x \xf0\x9f\x98\x80";
    size_t vocab_size = tokenizer_vocab_size(tokenizer);
    static const struct text_span plain[] = { { 2, 12 }, { 12, 12 }, { 16, 31 } };  // "<s>" is cut, none, broken UTF-8
    struct token_list ids = { 0 }, types = { 0 };
    struct buffer out = { 0 };
    tokenizer_encode(tokenizer, text, sizeof text - 1, ENCODE_SPECIAL | ENCODE_MARKUP, &ids);
    tokenizer_encode_around(tokenizer, text, sizeof text - 1, ENCODE_SPECIAL | ENCODE_MARKUP, plain, COUNT_OF(plain), &ids);
    tokenizer_encode_pair(tokenizer, text, sizeof text - 1, text, 9, &ids, &types);
    for (size_t i = 0; i < ids.count; i++)
        CHECK(ids.at[i] >= 0 && (size_t)ids.at[i] < vocab_size);
    for (size_t i = 0; i < vocab_size + 2 && i < 600; i++)
        token_list_add(&ids, (int32_t)i - 1);
    tokenizer_decode(tokenizer, ids.at, ids.count, DECODE_VALID_UTF8 | DECODE_KEEP_SPECIAL, &out);
    CHECK(utf8_valid_prefix(out.data, out.size) == out.size);
    struct text_stream stream = { 0 };
    out.size = 0;
    for (size_t i = 0; i < ids.count; i++)
        text_stream_push(&stream, tokenizer, ids.at[i], &out);
    text_stream_end(&stream, &out);
    CHECK(utf8_valid_prefix(out.data, out.size) == out.size);
    free(out.data);
    free(ids.at);
    free(types.at);
}

/* Written and read again it is the same tokenizer. */
static inline void tokenizer_write_and_read(const struct tokenizer *tokenizer)
{
    json_t *json = tokenizer_to_json(tokenizer);
    struct tokenizer *again = tokenizer_from_json(json, "again");
    json_decref(json);
    CHECK(again != NULL);
    tokenizer_finish(again);
    CHECK(strcmp(tokenizer_key(again), tokenizer_key(tokenizer)) == 0);
    tokenizer_close(again);
}

#endif
