/*
 * tokenizer_parts.h - what a tokenizer is made of, for the files of this folder that read, write and train one.
 *
 *     text -> added tokens -> normalizer -> pretokenizer -> model -> prefix and suffix -> ids -> decoder -> text
 *
 * A new kind of normalizer, pre-tokenizer or decoder is a kind in its header and a case in its .c; a new kind of
 * model stands beside bpe here and in tokenizer.c's encode_word.
 */
#ifndef TEXT_TOKENIZER_PARTS_H
#define TEXT_TOKENIZER_PARTS_H

#include <jansson.h>

#include "base/digest.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct tokenizer {
    char *name;  // the file, for messages
    struct vocabulary vocabulary;
    struct added added;
    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    struct bpe bpe;
    struct token_list prefix, suffix;  // what stands around a text
    struct decoder decoder;
    int32_t begin, end;                // -1: none
    struct token_list stops;
    char key[KEY_SIZE];
};

/* Empty, without begin and end. */
struct tokenizer *tokenizer_new(const char *name);
/* Once all parts are there: the tables that encoding needs, the well-known stop tokens, the key. */
void tokenizer_finish(struct tokenizer *tokenizer);

/* "cannot use tokenizer "NAME": ..."; returns -1. */
int tokenizer_refuse(const struct tokenizer *tokenizer, const char *format, ...) LOG_FORMAT(2);

void token_list_add_new(struct token_list *list, int32_t token);  // unless it is there

/* The steps that several readers make.  They CHECK that there is room. */
void tokenizer_use_byte_level(struct tokenizer *tokenizer, bool prefix_space, bool gpt2_split);

/* tokenizer.json; the result is not finished.  NULL on failure, logged. */
struct tokenizer *tokenizer_from_json(const json_t *json, const char *name);
/* The other way; from_json of it has the same key.  The caller json_decref()s. */
json_t *tokenizer_to_json(const struct tokenizer *tokenizer);
/* vocab.json and merges.txt, GPT-2's way to keep a byte-level tokenizer. */
struct tokenizer *tokenizer_from_merges(const json_t *vocabulary, const char *merges, size_t size, const char *name);
struct gguf;
struct tokenizer *tokenizer_from_gguf(const struct gguf *gguf, const char *name);

/* Begin, end and stop tokens as the files beside tokenizer.json name them.  0, or -1 when one of them is bad, logged. */
int tokenizer_read_configs(struct tokenizer *tokenizer, const char *directory);

#endif
