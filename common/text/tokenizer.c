/* tokenizer.c - opening, encoding and decoding; see tokenizer.h. */
#include "text/tokenizer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "model/gguf.h"
#include "text/tokenizer_parts.h"

void token_list_add(struct token_list *list, int32_t token)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->at = memory_grow(list->at, list->capacity, sizeof *list->at);
    }
    list->at[list->count++] = token;
}

void token_list_add_new(struct token_list *list, int32_t token)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->at[i] == token)
            return;
    }
    token_list_add(list, token);
}

/* ---- opening and closing ---- */

struct tokenizer *tokenizer_new(const char *name)
{
    struct tokenizer *tokenizer = memory_alloc(1, sizeof *tokenizer);
    tokenizer->name = memory_text(name);
    vocabulary_init(&tokenizer->vocabulary);
    tokenizer->bpe.unknown = tokenizer->begin = tokenizer->end = -1;
    return tokenizer;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    added_free(&tokenizer->added);
    normalizer_free(&tokenizer->normalizer);
    pretokenizer_free(&tokenizer->pretokenizer);
    bpe_free(&tokenizer->bpe);
    decoder_free(&tokenizer->decoder);
    vocabulary_free(&tokenizer->vocabulary);
    free(tokenizer->prefix.at);
    free(tokenizer->suffix.at);
    free(tokenizer->stops.at);
    free(tokenizer->name);
    free(tokenizer);
}

int tokenizer_refuse(const struct tokenizer *tokenizer, const char *format, ...)
{
    char reason[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    log_error("cannot use tokenizer \"%s\": %s", tokenizer->name, reason);
    return -1;
}

void tokenizer_use_byte_level(struct tokenizer *tokenizer, bool prefix_space, bool gpt2_split)
{
    struct pretokenizer_step step = { .kind = PRETOKENIZER_BYTE_LEVEL, .prefix_space = prefix_space };
    if (gpt2_split) {
        step.regex = regex_compile(gpt2_pattern, strlen(gpt2_pattern), false, tokenizer->name);
        CHECK(step.regex != NULL);
    }
    CHECK(pretokenizer_add(&tokenizer->pretokenizer, step) == 0);
}

static void add_integer(struct digest *digest, int64_t number)
{
    digest_add(digest, &number, sizeof number);
}

static void add_text(struct digest *digest, const char *text)
{
    digest_add(digest, text != NULL ? text : "", text != NULL ? strlen(text) + 1 : 1);
}

/* Everything that decides ids, in an order of its own: the file that it came from must not show. */
static void make_key(struct tokenizer *tokenizer)
{
    struct digest digest;
    digest_init(&digest);
    add_text(&digest, "bpe 1");
    add_integer(&digest, (int64_t)tokenizer->vocabulary.count);
    for (size_t id = 0; id < tokenizer->vocabulary.count; id++) {
        struct piece piece = tokenizer->vocabulary.pieces[id];
        add_integer(&digest, piece.at == NULL ? -1 : 2 * (int64_t)piece.size + piece.added_only);
        if (piece.at != NULL)
            digest_add(&digest, piece.at, piece.size);
    }
    const struct bpe *bpe = &tokenizer->bpe;
    add_integer(&digest, (int64_t)bpe->merge_count);
    for (size_t i = 0; i < bpe->merge_count; i++) {
        add_integer(&digest, bpe->merges[i].left);
        add_integer(&digest, bpe->merges[i].right);
    }
    add_integer(&digest, bpe->unknown);
    add_integer(&digest, bpe->byte_fallback | bpe->fuse_unknown << 1 | bpe->ignore_merges << 2);
    for (size_t i = 0; i < tokenizer->added.count; i++) {
        const struct added_token *token = &tokenizer->added.tokens[i];
        add_integer(&digest, token->id);
        add_integer(&digest, token->special | token->normalized << 1 | token->single_word << 2 | token->lstrip << 3
                                 | token->rstrip << 4);
    }
    for (size_t i = 0; i < tokenizer->normalizer.count; i++) {
        add_text(&digest, "normalizer");
        add_integer(&digest, tokenizer->normalizer.steps[i].kind);
        add_text(&digest, tokenizer->normalizer.steps[i].text);
        add_text(&digest, tokenizer->normalizer.steps[i].replacement);
    }
    for (size_t i = 0; i < tokenizer->pretokenizer.count; i++) {
        const struct pretokenizer_step *step = &tokenizer->pretokenizer.steps[i];
        add_text(&digest, "pretokenizer");
        add_integer(&digest, step->kind);
        add_text(&digest, step->regex != NULL ? regex_pattern(step->regex) : NULL);
        add_integer(&digest, step->regex != NULL && regex_is_literal(step->regex));
        add_integer(&digest, step->behavior | step->invert << 4 | step->prefix_space << 5 | step->prepend << 6 | step->split << 8);
        add_text(&digest, step->replacement);
    }
    const struct token_list *around[] = { &tokenizer->prefix, &tokenizer->suffix };
    for (size_t i = 0; i < COUNT_OF(around); i++) {
        add_integer(&digest, (int64_t)around[i]->count);
        for (size_t k = 0; k < around[i]->count; k++)
            add_integer(&digest, around[i]->at[k]);
    }
    digest_key(&digest, tokenizer->key);
}

/* Names under which models end a turn or a text; what counts is that the tokenizer holds one as a special token. */
static const char *const stop_names[] = {
    "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<end_of_turn>", "<|end|>",
    "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<|call|>", "<EOT>",
    "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>",  // DeepSeek's, with U+FF5C and U+2581
};

void tokenizer_finish(struct tokenizer *tokenizer)
{
    bpe_finish(&tokenizer->bpe, &tokenizer->vocabulary);
    added_finish(&tokenizer->added, &tokenizer->vocabulary, &tokenizer->normalizer);
    decoder_finish(&tokenizer->decoder, &tokenizer->vocabulary);
    if (tokenizer->begin < 0 && tokenizer->prefix.count > 0)
        tokenizer->begin = tokenizer->prefix.at[0];
    if (tokenizer->begin >= 0)
        token_list_add_new(&tokenizer->stops, tokenizer->begin);
    if (tokenizer->end >= 0)
        token_list_add_new(&tokenizer->stops, tokenizer->end);
    for (size_t i = 0; i < COUNT_OF(stop_names); i++) {
        int32_t id = vocabulary_find(&tokenizer->vocabulary, stop_names[i], strlen(stop_names[i]));
        if (id >= 0 && tokenizer_is_special(tokenizer, id))
            token_list_add_new(&tokenizer->stops, id);
    }
    make_key(tokenizer);
}

enum { FILE_BYTES_MAX = 256 << 20 };

/* A JSON file of at most FILE_BYTES_MAX.  NULL with *code on failure, logged. */
static json_t *open_json(const char *path, int *code)
{
    struct file_map map;
    if ((*code = file_map(&map, path)) != EX_OK)
        return NULL;
    json_t *json = NULL;
    *code = EX_DATAERR;
    if (map.size > FILE_BYTES_MAX)
        log_error("cannot use tokenizer \"%s\": %zu bytes, limit %d", path, map.size, FILE_BYTES_MAX);
    else
        json = json_parse((const char *)map.data, map.size, path);
    file_unmap(&map);
    return json;
}

static struct tokenizer *open_tokenizer_json(const char *path, int *code)
{
    json_t *json = open_json(path, code);
    if (json == NULL)
        return NULL;
    struct tokenizer *tokenizer = tokenizer_from_json(json, path);
    json_decref(json);
    return tokenizer;
}

static struct tokenizer *open_merges(const char *directory, int *code)
{
    char *vocabulary_path = memory_printf("%s/vocab.json", directory), *merges_path = memory_printf("%s/merges.txt", directory);
    struct tokenizer *tokenizer = NULL;
    struct file_map merges = { 0 };
    json_t *vocabulary = open_json(vocabulary_path, code);
    if (vocabulary == NULL || (*code = file_map(&merges, merges_path)) != EX_OK)
        goto close_files;
    *code = EX_DATAERR;
    tokenizer = tokenizer_from_merges(vocabulary, (const char *)merges.data, merges.size, directory);
close_files:
    file_unmap(&merges);
    json_decref(vocabulary);
    free(vocabulary_path);
    free(merges_path);
    return tokenizer;
}

static struct tokenizer *open_directory(const char *directory, int *code)
{
    char *json_path = memory_printf("%s/tokenizer.json", directory), *vocabulary_path = memory_printf("%s/vocab.json", directory);
    struct tokenizer *tokenizer = NULL;
    if (file_exists(json_path)) {
        tokenizer = open_tokenizer_json(json_path, code);
    } else if (file_exists(vocabulary_path)) {
        tokenizer = open_merges(directory, code);
    } else {
        *code = EX_NOINPUT;
        log_error("could not open a tokenizer in \"%s\": neither tokenizer.json nor vocab.json is there", directory);
    }
    free(json_path);
    free(vocabulary_path);
    return tokenizer;
}

static struct tokenizer *open_gguf(const char *path, int *code)
{
    struct gguf *gguf = gguf_open(path, code);
    if (gguf == NULL)
        return NULL;
    *code = EX_DATAERR;
    struct tokenizer *tokenizer = tokenizer_from_gguf(gguf, path);
    gguf_close(gguf);
    return tokenizer;
}

static bool is_gguf(const char *path)
{
    char magic[4];
    FILE *file = fopen(path, "rb");
    bool is = file != NULL && fread(magic, sizeof magic, 1, file) == 1 && memcmp(magic, "GGUF", sizeof magic) == 0;
    if (file != NULL)
        fclose(file);
    return is;
}

struct tokenizer *tokenizer_open(const char *path, int *code)
{
    bool directory = file_is_directory(path), gguf = !directory && is_gguf(path);
    struct tokenizer *tokenizer = directory ? open_directory(path, code)
                                  : gguf    ? open_gguf(path, code)
                                            : open_tokenizer_json(path, code);
    if (tokenizer == NULL)
        return NULL;
    if (!gguf) {
        const char *slash = strrchr(path, '/');
        char *beside = directory       ? memory_text(path)
                       : slash != NULL ? memory_printf("%.*s", (int)(slash - path), path)
                                       : memory_text(".");
        int bad = tokenizer_read_configs(tokenizer, beside);
        free(beside);
        if (bad) {
            *code = EX_DATAERR;
            tokenizer_close(tokenizer);
            return NULL;
        }
    }
    tokenizer_finish(tokenizer);
    *code = EX_OK;
    return tokenizer;
}

const char *tokenizer_key(const struct tokenizer *tokenizer)
{
    return tokenizer->key;
}

size_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.count;
}

int32_t tokenizer_begin(const struct tokenizer *tokenizer)
{
    return tokenizer->begin;
}

int32_t tokenizer_end(const struct tokenizer *tokenizer)
{
    return tokenizer->end;
}

bool tokenizer_is_stop(const struct tokenizer *tokenizer, int32_t id)
{
    for (size_t i = 0; i < tokenizer->stops.count; i++) {
        if (tokenizer->stops.at[i] == id)
            return true;
    }
    return false;
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    const struct added_token *token = added_find(&tokenizer->added, id);
    return token != NULL && token->special;
}

/* ---- encoding ---- */

struct encoder {
    const struct tokenizer *tokenizer;
    struct token_list *ids;
    bool markup;
    struct pretokenizer_scratch words;
    struct bpe_scratch bpe;
    struct buffer normal, spare;
};

static void encode_word(void *context, const char *word, size_t size)
{
    struct encoder *encoder = context;
    bpe_encode(&encoder->tokenizer->bpe, &encoder->tokenizer->vocabulary, &encoder->bpe, word, size, encoder->ids);
}

static void encode_words(struct encoder *encoder, const char *text, size_t size, bool at_start)
{
    pretokenizer_run(&encoder->tokenizer->pretokenizer, &encoder->words, text, size, at_start, encode_word, encoder);
}

/* Text between added tokens: normalised, then split again by the tokens that are looked for in normal text. */
static void encode_between(struct encoder *encoder, const char *text, size_t size, bool at_start)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->normalizer.count > 0) {
        normalizer_run(&tokenizer->normalizer, text, size, &encoder->normal, &encoder->spare);
        text = encoder->normal.data;
        size = encoder->normal.size;
    }
    const struct added *added = &tokenizer->added;
    const struct added_token *token;
    size_t done = 0, start, end;
    while ((token = added_next(added, &added->normalized, text, size, done, encoder->markup, &start, &end)) != NULL) {
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
    while ((token = added_next(added, &added->raw, text, size, done, encoder->markup, &start, &end)) != NULL) {
        if (start > done)
            encode_between(encoder, text + done, start - done, done == 0);
        token_list_add(encoder->ids, token->id);
        done = end;
    }
    if (done < size)
        encode_between(encoder, text + done, size - done, done == 0);
}

static void add_all(struct token_list *ids, const struct token_list *more)
{
    for (size_t i = 0; i < more->count; i++)
        token_list_add(ids, more->at[i]);
}

void tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags, struct token_list *ids)
{
    struct buffer repaired = { 0 };
    if (utf8_valid_prefix(text, size) != size) {
        utf8_append_repaired(&repaired, text, size);
        text = repaired.data;
        size = repaired.size;
    }
    struct encoder encoder = { .tokenizer = tokenizer, .ids = ids, .markup = flags & ENCODE_MARKUP };
    if (flags & ENCODE_SPECIAL)
        add_all(ids, &tokenizer->prefix);
    encode_text(&encoder, text, size);
    if (flags & ENCODE_SPECIAL)
        add_all(ids, &tokenizer->suffix);
    pretokenizer_scratch_free(&encoder.words);
    bpe_scratch_free(&encoder.bpe);
    free(encoder.normal.data);
    free(encoder.spare.data);
    free(repaired.data);
}

/* ---- decoding ---- */

/* What an id gives where the text has (*started) or has not begun. */
static struct piece token_bytes(const struct tokenizer *tokenizer, int32_t id, bool keep_special, bool *started)
{
    const struct decoder *decoder = &tokenizer->decoder;
    if (!vocabulary_has(&tokenizer->vocabulary, id)) {
        *started = true;
        return (struct piece){ .at = utf8_replacement, .size = sizeof utf8_replacement };
    }
    if (!keep_special && tokenizer_is_special(tokenizer, id))
        return (struct piece){ .at = "" };
    struct piece bytes = decoder->bytes[id];
    if (!*started && bytes.size > 0) {
        *started = true;
        for (size_t stripped = 0; stripped < decoder->strip_max && bytes.size > 0 && bytes.at[0] == decoder->strip; stripped++) {
            bytes.at++;
            bytes.size--;
        }
    }
    return bytes;
}

/* Appends text with U+FFFD for bad sequences and NUL; returns where a character begins that more bytes may complete. */
static size_t append_valid(struct buffer *out, const char *text, size_t size)
{
    size_t done = 0;
    while (done < size) {
        size_t bad = 0;
        bool cut;
        uint32_t code_point = 0;
        size_t step = utf8_read(text + done, size - done, &code_point, &bad, &cut);
        if (cut)
            break;
        if (step == 0 || code_point == 0)
            buffer_append(out, utf8_replacement, sizeof utf8_replacement);
        else
            buffer_append(out, text + done, step);
        done += step > 0 ? step : bad;
    }
    return done;
}

void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags, struct buffer *text)
{
    struct buffer bytes = { 0 };
    struct buffer *out = flags & DECODE_VALID_UTF8 ? &bytes : text;
    bool started = flags & DECODE_CONTINUE;
    for (size_t i = 0; i < count; i++) {
        struct piece piece = token_bytes(tokenizer, ids[i], flags & DECODE_KEEP_SPECIAL, &started);
        buffer_append(out, piece.at, piece.size);
    }
    if (flags & DECODE_VALID_UTF8 && append_valid(text, bytes.data, bytes.size) < bytes.size)
        buffer_append(text, utf8_replacement, sizeof utf8_replacement);
    free(bytes.data);
}

void text_stream_push(struct text_stream *stream, const struct tokenizer *tokenizer, int32_t id, struct buffer *text)
{
    struct piece piece = token_bytes(tokenizer, id, false, &stream->started);
    struct buffer bytes = { 0 };
    buffer_append(&bytes, stream->held, stream->held_size);
    buffer_append(&bytes, piece.at, piece.size);
    size_t done = append_valid(text, bytes.data, bytes.size);
    stream->held_size = bytes.size - done;
    CHECK(stream->held_size < UTF8_SIZE_MAX);
    if (stream->held_size > 0)
        memcpy(stream->held, bytes.data + done, stream->held_size);
    free(bytes.data);
}

void text_stream_end(struct text_stream *stream, struct buffer *text)
{
    if (stream->held_size > 0)
        buffer_append(text, utf8_replacement, sizeof utf8_replacement);
    stream->held_size = 0;
}
