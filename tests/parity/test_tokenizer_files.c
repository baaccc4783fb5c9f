/*
 * test_tokenizer_files.c - tokenizers from the files that people have: *.model, vocab.txt, vocab.json with merges.txt and GGUF,
 * against the sentencepiece package and transformers as make_tokenizer_files.py recorded them, llama.cpp's vectors, and each other.
 */
#define _GNU_SOURCE
#include <sysexits.h>
#include <unistd.h>

#include "../check.h"
#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_parts.h"

static json_t *record;

static struct tokenizer *open_data(const char *file)
{
    int code;
    const char *path = test_data(file);
    struct tokenizer *tokenizer = path != NULL ? tokenizer_open(path, &code) : NULL;
    EXPECT(path == NULL || tokenizer != NULL);
    return tokenizer;
}

static bool encodes_as(const struct tokenizer *tokenizer, const json_t *text, unsigned flags, const json_t *expected)
{
    struct token_list ids = { 0 };
    tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), flags, &ids);
    bool same = ids.count == json_array_size(expected);
    for (size_t i = 0; i < ids.count && same; i++)
        same = ids.at[i] == json_integer_value(json_array_get(expected, i));
    free(ids.at);
    return same;
}

/* Goal: each kind of file gives its witness's ids for awkward texts. */
static void test_recorded(void)
{
    static const char *const files[] = {
        "tokenizers/llama2/tokenizer.model", "stories260K/tok512.model", "tinystories-char/tok105.model",
        "tokenizers/sentencepiece/test_model.model", "tokenizers/bert-uncased/vocab.txt",
    };
    const json_t *texts = json_object_get(record, "texts");
    EXPECT(json_array_size(texts) > 150);
    size_t opened = 0;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        struct tokenizer *tokenizer = open_data(files[f]);
        const json_t *expected = json_object_get(record, files[f]);
        for (size_t t = 0; tokenizer != NULL && t < json_array_size(texts); t++) {
            if (!encodes_as(tokenizer, json_array_get(texts, t), ENCODE_SPECIAL, json_array_get(expected, t)))
                TEST_FAIL("%s, text %zu: \"%s\"", files[f], t, json_string_value(json_array_get(texts, t)));
        }
        opened += tokenizer != NULL;
        tokenizer_close(tokenizer);
    }
    if (opened == 0)
        TEST_SKIP("no tokenizers");
}

/* Goal: one tokenizer has one key, whichever file it came from. */
static void test_same_key(void)
{
    static const char *const pairs[][2] = {
        { "tokenizers/llama2/tokenizer.model", "tokenizer-vectors/ggml-vocab-llama-spm.gguf" },
        { "stories260K/tok512.model", "stories260K/stories260K.gguf" },
        { "tokenizers/bert-uncased/vocab.txt", "tokenizer-vectors/ggml-vocab-bert-bge.gguf" },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct tokenizer *one = open_data(pairs[i][0]), *other = open_data(pairs[i][1]);
        if (one != NULL && other != NULL)
            EXPECT_TEXT(tokenizer_key(one), tokenizer_key(other));
        tokenizer_close(one);
        tokenizer_close(other);
    }
}

/* Goal: what any of these tokenizers encodes is decoded to the same text where the witness's would be: Llama's loses nothing. */
static void test_decoded(void)
{
    struct tokenizer *tokenizer = open_data("tokenizers/llama2/tokenizer.model");
    if (tokenizer == NULL)
        TEST_SKIP("no tokenizers/llama2");
    const json_t *texts = json_object_get(record, "texts");
    for (size_t t = 0; t < json_array_size(texts); t++) {
        const json_t *text = json_array_get(texts, t);
        struct token_list ids = { 0 };
        struct buffer back = { 0 };
        tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), ENCODE_SPECIAL, &ids);
        tokenizer_decode(tokenizer, ids.at, ids.count, 0, &back);
        if (strstr(json_string_value(text), "\xe2\x96\x81") == NULL)  // it comes back as a space
            EXPECT(back.size == json_string_length(text) && memcmp(back.size ? back.data : "", json_string_value(text),
                                                                   back.size) == 0);
        free(back.data);
        free(ids.at);
    }
    tokenizer_close(tokenizer);
}

/* Goal: llama.cpp's ids for its own texts, WordPiece. */
static void test_vectors_bert(void)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    struct tokenizer *tokenizer = open_data("tokenizer-vectors/ggml-vocab-bert-bge.gguf");
    if (tokenizer == NULL)
        TEST_SKIP("no tokenizer-vectors");
    char *texts = file_read(test_data("tokenizer-vectors/ggml-vocab-bert-bge.gguf.inp"), NULL);
    char *lines = file_read(test_data("tokenizer-vectors/ggml-vocab-bert-bge.gguf.out"), NULL), *rest = lines;
    size_t count = 0;
    for (char *text = texts, *next; text != NULL; text = next, count++) {
        next = strstr(text, separator);
        size_t size = next != NULL ? (size_t)(next - text) : strlen(text);
        next = next != NULL ? next + strlen(separator) : NULL;
        char *line = strsep(&rest, "\n");
        struct token_list ids = { 0 };
        struct buffer printed = { 0 };
        tokenizer_encode(tokenizer, text, size, 0, &ids);
        for (size_t i = 0; i < ids.count; i++)
            buffer_printf(&printed, " %d", ids.at[i]);
        buffer_append(&printed, "", 1);
        EXPECT_TEXT(printed.data, line);
        free(printed.data);
        free(ids.at);
    }
    EXPECT_INT(count, 47);
    free(texts);
    free(lines);
    tokenizer_close(tokenizer);
}

/* ---- directories ---- */

static void write_in(const char *directory, const char *file, const void *data, size_t size)
{
    char *path = memory_printf("%s/%s", directory, file);
    EXPECT_INT(file_write(path, data, size), 0);
    free(path);
}

static void remove_directory(const char *directory, const char *const *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *path = memory_printf("%s/%s", directory, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(directory);
}

/* Goal: a directory with tokenizer.model and no tokenizer.json is that tokenizer. */
static void test_directory_with_model(void)
{
    static const char *const files[] = { "tokenizer.model" };
    size_t size;
    struct tokenizer *file = open_data("stories260K/tok512.model");
    if (file == NULL)
        TEST_SKIP("no stories260K");
    char *data = file_read(test_data("stories260K/tok512.model"), &size), directory[64];
    test_directory(directory, sizeof directory);
    write_in(directory, files[0], data, size);
    int code;
    struct tokenizer *tokenizer = tokenizer_open(directory, &code);
    EXPECT(tokenizer != NULL);
    if (tokenizer != NULL)
        EXPECT_TEXT(tokenizer_key(tokenizer), tokenizer_key(file));
    tokenizer_close(tokenizer);
    tokenizer_close(file);
    free(data);
    remove_directory(directory, files, 1);
}

/* RoBERTa's tokenizer.json as vocab.json, merges.txt and a config.json that names the family. */
static void write_roberta(const char *directory)
{
    json_t *json = json_read(test_data("tokenizers/roberta-base/tokenizer.json"));
    json_t *model = json_object_get(json, "model"), *merge;
    char *vocabulary = json_text(json_object_get(model, "vocab"));
    struct buffer merges = { 0 };
    size_t i;
    buffer_printf(&merges, "#version: 0.2\n");
    json_array_foreach(json_object_get(model, "merges"), i, merge) {
        if (json_is_string(merge))
            buffer_printf(&merges, "%s\n", json_string_value(merge));
        else
            buffer_printf(&merges, "%s %s\n", json_string_value(json_array_get(merge, 0)),
                          json_string_value(json_array_get(merge, 1)));
    }
    write_in(directory, "vocab.json", vocabulary, strlen(vocabulary));
    write_in(directory, "merges.txt", merges.data, merges.size);
    write_in(directory, "config.json", "{\"model_type\": \"roberta\"}", strlen("{\"model_type\": \"roberta\"}"));
    free(merges.data);
    free(vocabulary);
    json_decref(json);
}

static void expect_same_ids(const struct tokenizer *one, const struct tokenizer *other, const json_t *text)
{
    const char *at = json_string_value(text);
    size_t size = json_string_length(text);
    for (int pair = 0; pair < 2; pair++) {
        struct token_list ids[2] = { { 0 } }, types[2] = { { 0 } };
        const struct tokenizer *tokenizers[] = { one, other };
        for (size_t i = 0; i < 2; i++) {
            if (pair)
                tokenizer_encode_pair(tokenizers[i], at, size, "second", 6, &ids[i], &types[i]);
            else
                tokenizer_encode(tokenizers[i], at, size, ENCODE_SPECIAL | ENCODE_MARKUP, &ids[i]);
        }
        if (!(ids[0].count == ids[1].count && memcmp(ids[0].at, ids[1].at, ids[0].count * sizeof *ids[0].at) == 0))
            TEST_FAIL("%s of \"%s\": other ids", pair ? "pair" : "ids", at);
        EXPECT(types[0].count == types[1].count
               && (types[0].count == 0 || memcmp(types[0].at, types[1].at, types[0].count * sizeof *types[0].at) == 0));
        for (size_t i = 0; i < 2; i++) {
            free(ids[i].at);
            free(types[i].at);
        }
    }
}

/* Goal: RoBERTa's older files are its tokenizer.json: <s> a </s>, <s> a </s></s> b </s>, and a mask that takes spaces. */
static void test_roberta_directory(void)
{
    static const char *const files[] = { "vocab.json", "merges.txt", "config.json" };
    struct tokenizer *file = open_data("tokenizers/roberta-base/tokenizer.json");
    if (file == NULL)
        TEST_SKIP("no tokenizers/roberta-base");
    char directory[64];
    int code;
    test_directory(directory, sizeof directory);
    write_roberta(directory);
    struct tokenizer *tokenizer = tokenizer_open(directory, &code);
    EXPECT(tokenizer != NULL);
    const json_t *texts = json_object_get(record, "texts");
    for (size_t t = 0; tokenizer != NULL && t < json_array_size(texts); t++)
        expect_same_ids(file, tokenizer, json_array_get(texts, t));
    json_t *mask = json_string("a  <mask> b</s>");
    if (tokenizer != NULL)
        expect_same_ids(file, tokenizer, mask);
    json_decref(mask);
    tokenizer_close(tokenizer);
    tokenizer_close(file);
    remove_directory(directory, files, 3);
}

/* Goal: do_lower_case of tokenizer_config.json decides; without it BERT's texts are put into lower case. */
static void test_bert_directory(void)
{
    static const char *const files[] = { "vocab.txt", "tokenizer_config.json" };
    static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nMia\nmia\n";
    static const struct { const char *config; int32_t id; } cases[] = { { "{}", 5 }, { "{\"do_lower_case\": false}", 4 },
                                                                        { "{\"do_lower_case\": true}", 5 } };
    char directory[64];
    test_directory(directory, sizeof directory);
    write_in(directory, "vocab.txt", vocabulary, strlen(vocabulary));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code;
        write_in(directory, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        struct tokenizer *tokenizer = tokenizer_open(directory, &code);
        struct token_list ids = { 0 };
        EXPECT(tokenizer != NULL);
        if (tokenizer != NULL)
            tokenizer_encode(tokenizer, "Mia", 3, ENCODE_SPECIAL, &ids);
        EXPECT(ids.count == 3 && ids.at[0] == 2 && ids.at[1] == cases[i].id && ids.at[2] == 3);
        free(ids.at);
        tokenizer_close(tokenizer);
    }
    remove_directory(directory, files, 2);
}

int main(void)
{
    log_open("test_tokenizer_files", -1);
    record = json_read("tests/parity/tokenizer_files.json");
    if (record == NULL)
        return 1;
    RUN(test_recorded);
    RUN(test_same_key);
    RUN(test_decoded);
    RUN(test_vectors_bert);
    RUN(test_directory_with_model);
    RUN(test_roberta_directory);
    RUN(test_bert_directory);
    json_decref(record);
    return tests_end();
}
