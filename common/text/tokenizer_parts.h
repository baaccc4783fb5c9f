/*
 * tokenizer_parts.h - what a tokenizer is made of, for the files of this folder that read, write and train one.
 *
 *     text -> added tokens -> normalizer -> pretokenizer -> model -> prefix and suffix -> ids -> decoder -> text
 *
 * A new kind of normalizer, pre-tokenizer or decoder is a kind in its header and a case in its .c; a new kind of
 * model stands beside bpe here and in tokenizer.c's encode_word.  A new kind of file is a reader tokenizer_from_*.
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
#include "text/unigram.h"
#include "text/vocabulary.h"
#include "text/wordpiece.h"

enum tokenizer_kind { TOKENIZER_BPE, TOKENIZER_UNIGRAM, TOKENIZER_WORDPIECE };

struct tokenizer {
    char *name;  // the file, for messages
    struct vocabulary vocabulary;
    struct added added;
    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    enum tokenizer_kind kind;          // which of the three models is used
    struct bpe bpe;
    struct unigram unigram;
    struct wordpiece wordpiece;
    struct token_list prefix, suffix;  // what stands around a text
    struct pair_rule {                 // what stands around two
        bool present;
        struct token_list prefix, middle, suffix;
        int32_t first_type, second_type, prefix_type, middle_type, suffix_type;
    } pair;
    struct decoder decoder;
    int32_t begin, end;                // -1: none
    struct token_list stops;
    json_t *chat_template;             // as it was read: a text, or a list of {"name", "template"}; NULL: none
    char key[KEY_SIZE];
};

/* Empty, without begin and end. */
struct tokenizer *tokenizer_new(const char *name);
/* Once all parts are there: the tables that encoding needs, the well-known stop tokens, a pair rule where none is, the key. */
void tokenizer_finish(struct tokenizer *tokenizer);
void tokenizer_make_key(struct tokenizer *tokenizer);

/* "cannot use tokenizer "NAME": ..."; returns -1. */
int tokenizer_refuse(const struct tokenizer *tokenizer, const char *format, ...) LOG_FORMAT(2);

void token_list_add_new(struct token_list *list, int32_t token);  // unless it is there

/* Appends, ascending, the stop tokens that are neither begin nor end nor stops by a well-known name: a file must list them. */
void tokenizer_unnamed_stops(const struct tokenizer *tokenizer, struct token_list *ids);

/* The steps that several readers make.  They CHECK that there is room. */
void tokenizer_use_byte_level(struct tokenizer *tokenizer, bool prefix_space, bool gpt2_split);
/* WordPiece with BERT's steps, and "[CLS] a [SEP]", "[CLS] a [SEP] b [SEP]" where these tokens are there. */
void tokenizer_use_bert(struct tokenizer *tokenizer, bool lowercase);
/* RoBERTa's special tokens and "<s> a </s>", "<s> a </s></s> b </s>" on top of a byte-level tokenizer. */
void tokenizer_use_roberta(struct tokenizer *tokenizer);
/* Two texts: begin, a, so many end tokens, b of segment second_type, end.  Nothing where one of the tokens is missing. */
void tokenizer_use_pair(struct tokenizer *tokenizer, size_t between, int32_t second_type);

/* tokenizer.json; the result is not finished.  NULL on failure, logged. */
struct tokenizer *tokenizer_from_json(const json_t *json, const char *name);
/* The other way; from_json of it has the same key.  The caller json_decref()s. */
json_t *tokenizer_to_json(const struct tokenizer *tokenizer);
/* vocab.json and merges.txt, GPT-2's way to keep a byte-level tokenizer. */
struct tokenizer *tokenizer_from_merges(const json_t *vocabulary, const char *merges, size_t size, const char *name);
/* A SentencePiece model (protocol buffers), BPE or Unigram; as transformers' slow tokenizers read it. */
struct tokenizer *tokenizer_from_sentencepiece(const void *data, size_t size, const char *name);
/* BERT's vocab.txt, a piece a line.  lowercase: as the uncased models. */
struct tokenizer *tokenizer_from_vocabulary(const char *text, size_t size, bool lowercase, const char *name);
struct gguf;
#define GGUF_CHAT_TEMPLATE "tokenizer.chat_template"
/* The metadata of a GGUF file. */
struct tokenizer *tokenizer_from_gguf(const struct gguf *gguf, const char *name);
/* What GGUF calls the pre-tokenizer of a byte-level tokenizer; NULL where it has no name.  Valid until the next call. */
const char *tokenizer_gguf_pre(const struct tokenizer *tokenizer);
bool tokenizer_is_byte_level(const struct tokenizer *tokenizer);

/* What must be known of a model directory before its tokenizer is read.  0, or -1 when a file of it is bad, logged. */
struct tokenizer_hints {
    bool lowercase;  // do_lower_case of tokenizer_config.json; true without it, as transformers' BertTokenizer
    bool roberta;    // the tokenizer is of RoBERTa's class
};
int tokenizer_read_hints(struct tokenizer_hints *hints, const char *directory);

/* Changes a tokenizer.json where tokenizer_config.json beside it says otherwise and transformers follows that: do_lower_case,
   strip_accents and tokenize_chinese_chars of BERT's and ELECTRA's classes, add_prefix_space of GPT-2's.  0, or -1 when the config is
   bad, logged. */
int tokenizer_override(json_t *json, const char *directory);
/* Begin, end and stop tokens and the chat template as the files beside tokenizer.json name them.  0, or -1 when one of them is bad,
   logged. */
int tokenizer_read_configs(struct tokenizer *tokenizer, const char *directory);
/* The chat template alone, where the directory has one; what was read before stays where it has none. */
int tokenizer_read_template(struct tokenizer *tokenizer, const char *directory);
/* 0, or -1 where the text is no UTF-8 or holds NUL, logged. */
int tokenizer_use_template(struct tokenizer *tokenizer, const char *text, size_t size);

#endif
