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
#include "model/adapter.h"
#include "model/gguf.h"
#include "model/weights.h"
#include "text/tokenizer_parts.h"

void token_list_add(struct token_list *list, int32_t token)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->at = memory_grow(list->at, list->capacity, sizeof *list->at);
    }
    list->at[list->count++] = token;
}

static bool list_has(const struct token_list *list, int32_t token)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->at[i] == token)
            return true;
    }
    return false;
}

void token_list_add_new(struct token_list *list, int32_t token)
{
    if (!list_has(list, token))
        token_list_add(list, token);
}

/* ---- opening and closing ---- */

struct tokenizer *tokenizer_new(const char *name)
{
    struct tokenizer *tokenizer = memory_alloc(1, sizeof *tokenizer);
    tokenizer->name = memory_text(name);
    vocabulary_init(&tokenizer->vocabulary);
    tokenizer->bpe.unknown = tokenizer->unigram.unknown = tokenizer->wordpiece.unknown = -1;
    tokenizer->begin = tokenizer->end = -1;
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
    unigram_free(&tokenizer->unigram);
    wordpiece_free(&tokenizer->wordpiece);
    decoder_free(&tokenizer->decoder);
    vocabulary_free(&tokenizer->vocabulary);
    struct token_list *lists[] = {
        &tokenizer->prefix, &tokenizer->suffix, &tokenizer->stops, &tokenizer->pair.prefix, &tokenizer->pair.middle,
        &tokenizer->pair.suffix,
    };
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        free(lists[i]->at);
    json_decref(tokenizer->chat_template);
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

static int32_t find_piece(const struct tokenizer *tokenizer, const char *piece)
{
    return vocabulary_find(&tokenizer->vocabulary, piece, strlen(piece));
}

static void use_cls_and_sep(struct tokenizer *tokenizer, int32_t cls, int32_t sep)
{
    struct pair_rule *pair = &tokenizer->pair;
    token_list_add(&tokenizer->prefix, cls);
    token_list_add(&tokenizer->suffix, sep);
    token_list_add(&pair->prefix, cls);
    token_list_add(&pair->middle, sep);
    token_list_add(&pair->suffix, sep);
    pair->second_type = pair->suffix_type = 1;
    pair->present = true;
}

void tokenizer_use_bert(struct tokenizer *tokenizer, bool lowercase)
{
    static const enum normalizer_kind steps[] = {
        NORMALIZER_CLEAN, NORMALIZER_CHINESE, NORMALIZER_BERT_ACCENTS, NORMALIZER_LOWERCASE,
    };
    static const struct pretokenizer_step splits[] = {
        { .kind = PRETOKENIZER_SPACES, .behavior = SPLIT_REMOVED },
        { .kind = PRETOKENIZER_PUNCTUATION, .behavior = SPLIT_ISOLATED },
    };
    enum { WORD_MAX = 100 };
    for (size_t i = 0; i < (lowercase ? 4 : 2); i++)
        CHECK(normalizer_add(&tokenizer->normalizer, steps[i], NULL, NULL) == 0);
    for (size_t i = 0; i < COUNT_OF(splits); i++)
        CHECK(pretokenizer_add(&tokenizer->pretokenizer, splits[i]) == 0);
    CHECK(decoder_add(&tokenizer->decoder, DECODER_WORDPIECE, "##", NULL, 1) == 0);
    tokenizer->kind = TOKENIZER_WORDPIECE;
    tokenizer->wordpiece = (struct wordpiece){
        .continuing = memory_text("##"), .word_max = WORD_MAX, .unknown = find_piece(tokenizer, "[UNK]"),
    };
    int32_t cls = find_piece(tokenizer, "[CLS]"), sep = find_piece(tokenizer, "[SEP]");
    if (cls >= 0 && sep >= 0)
        use_cls_and_sep(tokenizer, cls, sep);
}

/* Where no rule says how two texts are joined: the one after the other, within what stands around one. */
static void use_plain_pair(struct tokenizer *tokenizer)
{
    struct pair_rule *pair = &tokenizer->pair;
    for (size_t i = 0; i < tokenizer->prefix.count; i++)
        token_list_add(&pair->prefix, tokenizer->prefix.at[i]);
    for (size_t i = 0; i < tokenizer->suffix.count; i++)
        token_list_add(&pair->suffix, tokenizer->suffix.at[i]);
    pair->second_type = pair->suffix_type = 1;
    pair->present = true;
}

/* Names under which models end a turn or a text; what counts is that the tokenizer holds one as a special token. */
static const char *const stop_names[] = {
    "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<end_of_turn>", "<|end|>",
    "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<|call|>", "<EOT>",
    "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>",  // DeepSeek's, with U+FF5C and U+2581
};

/* Adds those of the names that are special tokens. */
static void add_special(const struct tokenizer *tokenizer, const char *const *names, size_t count, struct token_list *ids)
{
    for (size_t i = 0; i < count; i++) {
        int32_t id = find_piece(tokenizer, names[i]);
        if (id >= 0 && tokenizer_is_special(tokenizer, id))
            token_list_add_new(ids, id);
    }
}

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void finish_stops(struct tokenizer *tokenizer)
{
    struct token_list *stops = &tokenizer->stops;
    if (tokenizer->begin >= 0)
        token_list_add_new(stops, tokenizer->begin);
    if (tokenizer->end >= 0)
        token_list_add_new(stops, tokenizer->end);
    add_special(tokenizer, stop_names, COUNT_OF(stop_names), stops);
    if (stops->count > 0)
        qsort(stops->at, stops->count, sizeof *stops->at, by_id);
}

void tokenizer_finish(struct tokenizer *tokenizer)
{
    added_finish(&tokenizer->added, &tokenizer->vocabulary, &tokenizer->normalizer);
    switch (tokenizer->kind) {
    case TOKENIZER_BPE: bpe_finish(&tokenizer->bpe, &tokenizer->vocabulary); break;
    case TOKENIZER_UNIGRAM: unigram_finish(&tokenizer->unigram, &tokenizer->vocabulary, &tokenizer->added); break;
    case TOKENIZER_WORDPIECE: wordpiece_finish(&tokenizer->wordpiece, &tokenizer->vocabulary); break;
    }
    decoder_finish(&tokenizer->decoder, &tokenizer->vocabulary);
    if (tokenizer->begin < 0 && tokenizer->prefix.count > 0)
        tokenizer->begin = tokenizer->prefix.at[0];
    finish_stops(tokenizer);
    if (!tokenizer->pair.present)
        use_plain_pair(tokenizer);
    tokenizer_make_key(tokenizer);
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

static struct tokenizer *open_tokenizer_json(const char *path, const char *beside, int *code)
{
    json_t *json = open_json(path, code);
    if (json == NULL)
        return NULL;
    struct tokenizer *tokenizer = tokenizer_override(json, beside) == 0 ? tokenizer_from_json(json, path) : NULL;
    json_decref(json);
    return tokenizer;
}

static struct tokenizer *open_merges(const char *directory, const struct tokenizer_hints *hints, int *code)
{
    char *vocabulary_path = memory_printf("%s/vocab.json", directory), *merges_path = memory_printf("%s/merges.txt", directory);
    struct tokenizer *tokenizer = NULL;
    struct file_map merges = { 0 };
    json_t *vocabulary = open_json(vocabulary_path, code);
    if (vocabulary == NULL || (*code = file_map(&merges, merges_path)) != EX_OK)
        goto close_files;
    *code = EX_DATAERR;
    tokenizer = tokenizer_from_merges(vocabulary, (const char *)merges.data, merges.size, directory);
    if (tokenizer != NULL && hints->roberta)
        tokenizer_use_roberta(tokenizer);
close_files:
    file_unmap(&merges);
    json_decref(vocabulary);
    free(vocabulary_path);
    free(merges_path);
    return tokenizer;
}

typedef struct tokenizer *tokenizer_reader(const void *data, size_t size, const struct tokenizer_hints *hints, const char *path);

static struct tokenizer *open_mapped(const char *path, tokenizer_reader *read, const struct tokenizer_hints *hints, int *code)
{
    struct file_map map;
    if ((*code = file_map(&map, path)) != EX_OK)
        return NULL;
    struct tokenizer *tokenizer = NULL;
    *code = EX_DATAERR;
    if (map.size > FILE_BYTES_MAX)
        log_error("cannot use tokenizer \"%s\": %zu bytes, limit %d", path, map.size, FILE_BYTES_MAX);
    else
        tokenizer = read(map.data, map.size, hints, path);
    file_unmap(&map);
    return tokenizer;
}

static struct tokenizer *read_sentencepiece(const void *data, size_t size, const struct tokenizer_hints *hints, const char *path)
{
    (void)hints;
    return tokenizer_from_sentencepiece(data, size, path);
}

static struct tokenizer *read_vocabulary(const void *data, size_t size, const struct tokenizer_hints *hints, const char *path)
{
    return tokenizer_from_vocabulary(data, size, hints->lowercase, path);
}

/* The files that may hold a directory's tokenizer, the first that is there. */
static struct tokenizer *open_directory(const char *directory, const struct tokenizer_hints *hints, int *code)
{
    static const struct {
        const char *file;
        tokenizer_reader *read;  // NULL: JSON
    } files[] = {
        { "tokenizer.json", NULL }, { "vocab.json", NULL }, { "tokenizer.model", read_sentencepiece },
        { "spiece.model", read_sentencepiece }, { "spm.model", read_sentencepiece }, { "vocab.txt", read_vocabulary },
    };
    struct tokenizer *tokenizer = NULL;
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char *path = memory_printf("%s/%s", directory, files[i].file);
        bool exists = file_exists(path);
        if (exists)
            tokenizer = files[i].read != NULL ? open_mapped(path, files[i].read, hints, code)
                        : i == 0              ? open_tokenizer_json(path, directory, code)
                                              : open_merges(directory, hints, code);
        free(path);
        if (exists)
            return tokenizer;
    }
    *code = EX_NOINPUT;
    log_error("could not open a tokenizer in \"%s\": none of tokenizer.json, vocab.json, tokenizer.model and vocab.txt is there",
              directory);
    return NULL;
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

static bool has_ending(const char *path, const char *ending)
{
    size_t size = strlen(path), ending_size = strlen(ending);
    return size >= ending_size && strcmp(path + size - ending_size, ending) == 0;
}

/* A file, or a directory, with what stands beside the tokenizer's own file in `beside`. */
static struct tokenizer *open_beside(const char *path, const char *beside, bool directory, int *code)
{
    struct tokenizer_hints hints;
    *code = EX_DATAERR;
    if (!directory && has_ending(path, ".bin") && file_exists(path)) {
        log_error("could not open a tokenizer in \"%s\": llama2.c's files have none", path);
        log_hint("name one of its own: with --tokenizer, or with -m for tokenize");
        return NULL;
    }
    if (tokenizer_read_hints(&hints, beside) != 0)
        return NULL;
    struct tokenizer *tokenizer = directory                    ? open_directory(path, &hints, code)
                                  : has_ending(path, ".model") ? open_mapped(path, read_sentencepiece, &hints, code)
                                  : has_ending(path, ".txt")   ? open_mapped(path, read_vocabulary, &hints, code)
                                                               : open_tokenizer_json(path, beside, code);
    if (tokenizer != NULL && tokenizer_read_configs(tokenizer, beside) != 0) {
        *code = EX_DATAERR;
        tokenizer_close(tokenizer);
        return NULL;
    }
    return tokenizer;
}

struct tokenizer *tokenizer_open(const char *path, int *code)
{
    struct tokenizer *tokenizer;
    char *model = adapter_base_path(path, code);
    if (model == NULL)
        return NULL;
    bool directory = file_is_directory(model);
    if (!directory && is_gguf(model)) {
        tokenizer = open_gguf(model, code);
    } else {
        const char *slash = strrchr(model, '/');
        char *beside = directory       ? memory_text(model)
                       : slash != NULL ? memory_printf("%.*s", (int)(slash - model), model)
                                       : memory_text(".");
        tokenizer = open_beside(model, beside, directory, code);
        free(beside);
    }
    bool adapted = strcmp(model, path) != 0;
    free(model);
    if (tokenizer == NULL)
        return NULL;
    if (adapted && tokenizer_read_template(tokenizer, path) != 0) {
        *code = EX_DATAERR;
        tokenizer_close(tokenizer);
        return NULL;
    }
    tokenizer_finish(tokenizer);
    *code = EX_OK;
    return tokenizer;
}

const char *tokenizer_key(const struct tokenizer *tokenizer)
{
    return tokenizer->key;
}

char *tokenizer_key_of_model(const char *path, int *code)
{
    struct weights *weights = weights_open(path, code);
    if (weights == NULL)
        return NULL;
    const char *written = weights_metadata(weights, "tokenizer");
    char *key = written != NULL ? memory_text(written) : NULL;
    weights_close(weights);
    struct tokenizer *tokenizer = key == NULL ? tokenizer_open(path, code) : NULL;
    if (tokenizer != NULL)
        key = memory_text(tokenizer->key);
    tokenizer_close(tokenizer);
    return key;
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

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id)
{
    return vocabulary_has(&tokenizer->vocabulary, id) ? tokenizer->vocabulary.pieces[id].at : NULL;
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer)
{
    const json_t *template = tokenizer->chat_template, *item;
    size_t i;
    if (!json_is_array(template))
        return json_string_value(template);
    json_array_foreach(template, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(item, "template"));
    }
    return NULL;
}

bool tokenizer_is_stop(const struct tokenizer *tokenizer, int32_t id)
{
    return list_has(&tokenizer->stops, id);
}

const struct token_list *tokenizer_stops(const struct tokenizer *tokenizer)
{
    return &tokenizer->stops;
}

bool tokenizer_stops_usual(const struct tokenizer *tokenizer)
{
    static const char *const around_names[] = { "<s>", "</s>", "<bos>", "<eos>" };
    const struct token_list *stops = &tokenizer->stops;
    struct token_list usual = { 0 };
    if (tokenizer->prefix.count > 0)
        token_list_add(&usual, tokenizer->prefix.at[0]);
    add_special(tokenizer, around_names, COUNT_OF(around_names), &usual);
    add_special(tokenizer, stop_names, COUNT_OF(stop_names), &usual);
    bool same = usual.count == stops->count;
    for (size_t i = 0; i < usual.count; i++)
        same = same && list_has(stops, usual.at[i]);
    free(usual.at);
    return same;
}

void tokenizer_unnamed_stops(const struct tokenizer *tokenizer, struct token_list *ids)
{
    struct token_list known = { 0 };
    token_list_add(&known, tokenizer->begin);
    token_list_add(&known, tokenizer->end);
    add_special(tokenizer, stop_names, COUNT_OF(stop_names), &known);
    for (size_t i = 0; i < tokenizer->stops.count; i++)
        if (!list_has(&known, tokenizer->stops.at[i]))
            token_list_add(ids, tokenizer->stops.at[i]);
    free(known.at);
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    const struct added_token *token = added_find(&tokenizer->added, id);
    return token != NULL && token->special;
}

bool tokenizer_is_byte_level(const struct tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->pretokenizer.count; i++) {
        if (tokenizer->pretokenizer.steps[i].kind == PRETOKENIZER_BYTE_LEVEL)
            return true;
    }
    return false;
}

const char *tokenizer_kind_name(const struct tokenizer *tokenizer)
{
    switch (tokenizer->kind) {
    case TOKENIZER_UNIGRAM: return "Unigram";
    case TOKENIZER_WORDPIECE: return "WordPiece";
    case TOKENIZER_BPE: break;
    }
    return tokenizer_is_byte_level(tokenizer) ? "byte-level BPE" : tokenizer->bpe.byte_fallback ? "BPE with byte fallback" : "BPE";
}

/* ---- decoding ---- */

/* Appends what an id gives where stream's text stands. */
static void append_token(const struct tokenizer *tokenizer, int32_t id, bool keep_special, struct text_stream *stream,
                         struct buffer *text)
{
    if (!vocabulary_has(&tokenizer->vocabulary, id)) {
        stream->started = true;
        stream->stripping = false;
        buffer_append(text, utf8_replacement, sizeof utf8_replacement);
    } else if (keep_special || !tokenizer_is_special(tokenizer, id)) {
        decoder_append(&tokenizer->decoder, &tokenizer->vocabulary, stream, id, text);
    }
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
    struct text_stream stream = { .started = flags & DECODE_CONTINUE };
    for (size_t i = 0; i < count; i++)
        append_token(tokenizer, ids[i], flags & DECODE_KEEP_SPECIAL, &stream, out);
    if (flags & DECODE_VALID_UTF8 && append_valid(text, bytes.data, bytes.size) < bytes.size)
        buffer_append(text, utf8_replacement, sizeof utf8_replacement);
    free(bytes.data);
}

void text_stream_push(struct text_stream *stream, const struct tokenizer *tokenizer, int32_t id, struct buffer *text)
{
    struct buffer bytes = { 0 };
    buffer_append(&bytes, stream->held, stream->held_size);
    append_token(tokenizer, id, false, stream, &bytes);
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
