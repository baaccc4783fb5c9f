/*
 * tokenizer.h - text to token ids and back, exactly as the model's own tokenizer does it.
 *
 * Reads tokenizer.json of a Hugging Face directory (or vocab.json with merges.txt, a SentencePiece model, or BERT's
 * vocab.txt) and the metadata of a GGUF file.  Kinds: BPE of SentencePiece and of bytes, Unigram, WordPiece, WordLevel.
 * Text is UTF-8; broken UTF-8 is read with U+FFFD for each bad sequence, as the tokenizers library does.
 *
 * Nothing here keeps state between calls; a tokenizer may be used by several threads at once.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

struct tokenizer;

/*
 * path: a model directory, a tokenizer.json, *.model or vocab.txt, or a GGUF file.  NULL on failure, logged; *code is then
 * the exit code.
 */
struct tokenizer *tokenizer_open(const char *path, int *code);
void tokenizer_close(struct tokenizer *tokenizer);
/*
 * The chat template that stands with it: chat_template.jinja, in tokenizer_config.json (of several, the one named "default") or in
 * a GGUF file's metadata.  An adapter's own comes before its base's.  NULL where there is none.
 */
const char *tokenizer_chat_template(const struct tokenizer *tokenizer);

/* Digest of everything that decides the ids of a text: two tokenizers with one key give the same.  KEY_SIZE of base/digest.h. */
const char *tokenizer_key(const struct tokenizer *tokenizer);
/*
 * The key of the tokenizer whose ids a model was trained on: its weights say it where we wrote them, else its own tokenizer is
 * asked.  The caller frees it; NULL on failure, logged; *code is then the exit code.
 */
char *tokenizer_key_of_model(const char *path, int *code);
size_t tokenizer_vocab_size(const struct tokenizer *tokenizer);

/* A growable list of token ids.  Zero-initialise; free(list.at) at the end. */
struct token_list {
    int32_t *at;
    size_t count, capacity;
};
void token_list_add(struct token_list *list, int32_t token);

enum tokenizer_encode_flags {
    ENCODE_SPECIAL = 1,  // add what the model puts around a text (the begin token)
    ENCODE_MARKUP = 2,   // read "<s>" and other special tokens written in the text as those tokens
};
/* Appends the ids of text. */
void tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                      struct token_list *ids);

/* A part of a text, in bytes. */
struct text_span {
    size_t start, end;
};
/* The same, but special tokens that touch one of the plain spans (ascending) are read as text even with ENCODE_MARKUP. */
void tokenizer_encode_around(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                             const struct text_span *plain, size_t plain_count, struct token_list *ids);
/*
 * Appends the ids of two texts as the model joins them ("[CLS] first [SEP] second [SEP]"), and to types, unless NULL, the
 * segment (0 or 1) of each id.  A tokenizer without such a rule puts its prefix, first, second, its suffix.
 */
void tokenizer_encode_pair(const struct tokenizer *tokenizer, const char *first, size_t first_size, const char *second,
                           size_t second_size, struct token_list *ids, struct token_list *types);

/*
 * Appends the text of ids.  Special tokens give nothing unless keep_special.  Ids outside the vocabulary give
 * U+FFFD; so do bytes that are no UTF-8 and NUL when valid_utf8 is set.
 */
enum tokenizer_decode_flags {
    DECODE_KEEP_SPECIAL = 1,
    DECODE_VALID_UTF8 = 2,
    DECODE_CONTINUE = 4,     // ids continue a text: keep the leading space that the beginning of a text loses
};
void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags,
                      struct buffer *text);

/*
 * Text token by token, never half a character: what a token begins is held until a later one completes it.
 * Zero-initialise.  At the end of a response text_stream_end gives what is held (U+FFFD for a broken character).
 */
struct text_stream {
    char held[8];
    size_t held_size;
    bool started;  // set it to true beforehand when the text continues a prompt
    bool word_ended;  // a space stands before the next token
    bool stripping;   // the beginning may still lose characters
    size_t stripped;  // so many it has lost
};
void text_stream_push(struct text_stream *stream, const struct tokenizer *tokenizer, int32_t id, struct buffer *text);
void text_stream_end(struct text_stream *stream, struct buffer *text);

/* -1: the model has none. */
int32_t tokenizer_begin(const struct tokenizer *tokenizer);
int32_t tokenizer_end(const struct tokenizer *tokenizer);
/* A token as the vocabulary spells it; NULL: there is no such token. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id);

/*
 * Whether sampling stops at this token: every end-of-text and end-of-turn token that the model's metadata name,
 * and the begin token (models that separate documents by it sample it at the end of one).
 */
bool tokenizer_is_stop(const struct tokenizer *tokenizer, int32_t id);
/* All of them, ascending; borrows from tokenizer. */
const struct token_list *tokenizer_stops(const struct tokenizer *tokenizer);
/* Whether the stops are those that the key alone lets expect: what stands before a text, "<s>", "</s>" and their like, and the
   well-known ends of a turn, where they are special tokens. */
bool tokenizer_stops_usual(const struct tokenizer *tokenizer);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

/* Writes tokenizer.json and tokenizer_config.json as the tokenizers library and transformers read them, and
   generation_config.json where these two do not tell every stop token, or where there is one.  0 or -1. */
int tokenizer_write(const struct tokenizer *tokenizer, const char *directory);

struct gguf_out;
/* Its metadata for the GGUF file of a model with so many rows in its embedding, as llama.cpp reads them.  0, or -1 when GGUF has no
   such tokenizer or the model has not so many tokens, logged. */
int tokenizer_put_gguf(const struct tokenizer *tokenizer, size_t vocab_size, struct gguf_out *out);

/* "byte-level BPE", "Unigram"; for people. */
const char *tokenizer_kind_name(const struct tokenizer *tokenizer);

/*
 * Trains a byte-level BPE tokenizer (GPT-2's pre-tokenizer) of vocab_size ids on a text whose documents are separated by
 * empty lines; id 0 is "<|endoftext|>", begin and end token.  Below 257 there is no room for the bytes: the vocabulary
 * then has 257; it has fewer than vocab_size when no two symbols of the text are left to join.  Never NULL.  Equal text
 * gives an equal tokenizer.
 */
struct tokenizer *tokenizer_train(const char *text, size_t size, size_t vocab_size);

#endif
