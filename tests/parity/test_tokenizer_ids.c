/*
 * test_tokenizer_ids.c - token ids against two witnesses: llama.cpp's test vectors, and the tokenizers library's ids as
 * make_tokenizer_ids.py recorded them.
 *
 *     test_tokenizer_ids --write DIRECTORY    the tokenizers that the script reads back
 */
#define _GNU_SOURCE
#include <sysexits.h>
#include <unistd.h>

#include "../check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_parts.h"

static const char fixture[] = "tests/parity/tokenizer_ids.json", kinds_fixture[] = "tests/parity/tokenizer_kinds.json";

static json_t *record;

/* Encodes every text that has recorded ids and compares; name is for messages. */
static void expect_recorded(const struct tokenizer *tokenizer, const json_t *ids, const char *name)
{
    const json_t *texts = json_object_get(record, "texts");
    const json_t *plain = json_object_get(ids, "plain"), *full = json_object_get(ids, "full");
    EXPECT(json_array_size(texts) > 200);
    for (size_t t = 0; t < json_array_size(texts); t++) {
        const json_t *text = json_array_get(texts, t);
        const json_t *expected[] = { json_array_get(plain, t), json_array_get(full, t) };
        for (size_t mode = 0; mode < 2 && expected[mode] != NULL; mode++) {
            struct token_list got = { 0 };
            tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                             mode ? ENCODE_SPECIAL | ENCODE_MARKUP : 0, &got);
            bool same = got.count == json_array_size(expected[mode]);
            for (size_t i = 0; i < got.count && same; i++)
                same = got.at[i] == json_integer_value(json_array_get(expected[mode], i));
            if (!same)
                TEST_FAIL("%s, text %zu, %s: \"%s\"", name, t, mode ? "full" : "plain", json_string_value(text));
            free(got.at);
        }
    }
}

static void expect_library(const char *data, const char *name)
{
    int code = EX_OK;
    struct tokenizer *tokenizer = tokenizer_open(data, &code);
    EXPECT(tokenizer != NULL);
    if (tokenizer != NULL)
        expect_recorded(tokenizer, json_object_get(record, name), name);
    tokenizer_close(tokenizer);
}

/* Goal: Llama-2's tokenizer.json gives the library's ids: byte fallback, special tokens looked for in normalised text. */
static void test_llama2_json(void)
{
    const char *path = test_data("tokenizers/llama2/tokenizer.json");
    if (path == NULL)
        TEST_SKIP("no tokenizers/llama2");
    expect_library(path, "llama2");
}

/* Goal: GPT-2's vocab.json and merges.txt give the library's ids. */
static void test_gpt2_merges(void)
{
    if (test_data("tokenizers/gpt2/vocab.json") == NULL)
        TEST_SKIP("no tokenizers/gpt2");
    char *directory = memory_text(test_data("tokenizers/gpt2/vocab.json"));
    *strrchr(directory, '/') = '\0';
    expect_library(directory, "gpt2");
    free(directory);
}

/* Goal: RoBERTa's file, a ByteLevel model with tokens around a text and a mask that takes spaces. */
static void test_roberta_json(void)
{
    const char *path = test_data("tokenizers/roberta-base/tokenizer.json");
    if (path == NULL)
        TEST_SKIP("no tokenizers/roberta-base");
    expect_library(path, "roberta");
}

/*
 * Goal: every kind of step that is supported agrees with the library: Split in all its behaviors, Digits, ByteLevel, Metaspace,
 * the normal forms, added tokens with each of their flags, ignore_merges, unknown tokens, templates; decoding too.
 */
static void test_kinds(void)
{
    json_t *kinds = json_read(kinds_fixture);
    EXPECT(json_array_size(kinds) == 9);
    for (size_t k = 0; k < json_array_size(kinds); k++) {
        const json_t *kind = json_array_get(kinds, k), *decoded = json_object_get(kind, "decoded");
        char name[32];
        snprintf(name, sizeof name, "kind %zu", k);
        struct tokenizer *tokenizer = tokenizer_from_json(json_object_get(kind, "tokenizer"), name);
        EXPECT(tokenizer != NULL);
        if (tokenizer == NULL)
            continue;
        tokenizer_finish(tokenizer);
        expect_recorded(tokenizer, kind, name);
        for (size_t t = 0; t < json_array_size(decoded); t++) {
            const json_t *text = json_array_get(json_object_get(record, "texts"), t);
            struct token_list ids = { 0 };
            struct buffer again = { 0 };
            tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), ENCODE_MARKUP, &ids);
            tokenizer_decode(tokenizer, ids.at, ids.count, DECODE_VALID_UTF8, &again);
            buffer_append(&again, "", 1);
            EXPECT_TEXT(again.data, json_string_value(json_array_get(decoded, t)));
            free(ids.at);
            free(again.data);
        }
        tokenizer_close(tokenizer);
    }
    json_decref(kinds);
}

/* ---- what we train and write ---- */

enum { TRAINED_BYTES = 200000, TRAINED_SIZE = 700 };

static struct tokenizer *train(void)
{
    const char *path = test_data("text/tinyshakespeare.txt");
    char *text = path != NULL ? file_read(path, NULL) : NULL;
    struct tokenizer *tokenizer = text != NULL ? tokenizer_train(text, TRAINED_BYTES, TRAINED_SIZE) : NULL;
    free(text);
    return tokenizer;
}

/* Goal: the trainer learns the merges that the library's BpeTrainer learns from the same documents, in their order. */
static void test_trainer_learns_library_merges(void)
{
    struct tokenizer *tokenizer = train();
    if (tokenizer == NULL)
        TEST_SKIP("no text/tinyshakespeare.txt");
    const json_t *merges = json_object_get(record, "trained_merges");
    EXPECT_INT(tokenizer_vocab_size(tokenizer), TRAINED_SIZE);
    EXPECT_INT(tokenizer->bpe.merge_count, json_array_size(merges));
    for (size_t i = 0; i < tokenizer->bpe.merge_count && i < json_array_size(merges); i++) {
        EXPECT_INT(tokenizer->bpe.merges[i].left, json_integer_value(json_array_get(json_array_get(merges, i), 0)));
        EXPECT_INT(tokenizer->bpe.merges[i].right, json_integer_value(json_array_get(json_array_get(merges, i), 1)));
    }
    tokenizer_close(tokenizer);
}

/*
 * The library read a file that we wrote and gave the recorded ids: the same file must come out now, the same ids from the
 * tokenizer itself, and from reading it back.
 */
static void expect_written(const struct tokenizer *tokenizer, const char *name)
{
    const json_t *recorded = json_object_get(record, name);
    char directory[64];
    test_directory(directory, sizeof directory);
    EXPECT_INT(tokenizer_write(tokenizer, directory), 0);
    char *path = memory_printf("%s/tokenizer.json", directory), hex[DIGEST_HEX_SIZE];
    size_t size = 0;
    char *text = file_read(path, &size);
    struct digest digest;
    digest_init(&digest);
    digest_add(&digest, text, size);
    digest_hex(&digest, hex);
    EXPECT_TEXT(hex, json_string_value(json_object_get(recorded, "sha256")));
    expect_recorded(tokenizer, recorded, name);

    int code = EX_OK;
    struct tokenizer *again = tokenizer_open(directory, &code);
    EXPECT(again != NULL);
    if (again != NULL) {
        expect_recorded(again, recorded, name);
        EXPECT_TEXT(tokenizer_key(again), tokenizer_key(tokenizer));
        EXPECT_INT(tokenizer_begin(again), tokenizer_begin(tokenizer));
        EXPECT_INT(tokenizer_end(again), tokenizer_end(tokenizer));
    }
    tokenizer_close(again);
    char *config = memory_printf("%s/tokenizer_config.json", directory);
    unlink(path);
    unlink(config);
    rmdir(directory);
    free(config);
    free(path);
    free(text);
}

/* Goal: stories260K's tokenizer, exported from its GGUF, is the same tokenizer to the library and to us. */
static void test_written_stories(void)
{
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("no stories260K");
    int code = EX_OK;
    struct tokenizer *tokenizer = tokenizer_open(path, &code);
    EXPECT(tokenizer != NULL);
    if (tokenizer != NULL)
        expect_written(tokenizer, "stories");
    tokenizer_close(tokenizer);
}

/* Goal: a tokenizer that we trained is the same tokenizer to the library and to us. */
static void test_written_trained(void)
{
    struct tokenizer *tokenizer = train();
    if (tokenizer == NULL)
        TEST_SKIP("no text/tinyshakespeare.txt");
    expect_written(tokenizer, "trained");
    tokenizer_close(tokenizer);
}

/* ---- llama.cpp's vectors ---- */

static void expect_vectors(const char *gguf, const char *inputs, const char *outputs)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    int code = EX_OK;
    struct tokenizer *tokenizer = tokenizer_open(gguf, &code);
    char *texts = file_read(inputs, NULL), *lines = file_read(outputs, NULL);
    EXPECT(tokenizer != NULL && texts != NULL && lines != NULL);
    size_t count = 0;
    for (char *text = texts, *line = lines, *next; tokenizer != NULL && text != NULL; text = next, count++) {
        next = strstr(text, separator);
        size_t size = next != NULL ? (size_t)(next - text) : strlen(text);
        if (next != NULL)
            next += strlen(separator);
        char *line_end = strchrnul(line, '\n');
        bool last = *line_end == '\0';
        *line_end = '\0';
        struct token_list ids = { 0 };
        struct buffer printed = { 0 };
        tokenizer_encode(tokenizer, text, size, 0, &ids);
        for (size_t i = 0; i < ids.count; i++)
            buffer_printf(&printed, " %d", ids.at[i]);
        buffer_append(&printed, "", 1);
        EXPECT_TEXT(printed.data, line);
        free(ids.at);
        free(printed.data);
        line = last ? line_end : line_end + 1;
    }
    EXPECT(count > 40);
    free(texts);
    free(lines);
    tokenizer_close(tokenizer);
}

/* Goal: llama.cpp's ids for its own texts, SentencePiece. */
static void test_vectors_llama(void)
{
    const char *gguf = test_data("tokenizer-vectors/ggml-vocab-llama-spm.gguf");
    if (gguf == NULL)
        TEST_SKIP("no tokenizer-vectors");
    expect_vectors(gguf, test_data("tokenizer-vectors/ggml-vocab-llama-spm.gguf.inp"),
                   test_data("tokenizer-vectors/ggml-vocab-llama-spm.gguf.out"));
}

/* Goal: llama.cpp's ids for its own texts, byte-level. */
static void test_vectors_gpt2(void)
{
    const char *gguf = test_data("tokenizer-vectors/ggml-vocab-gpt-2.gguf");
    if (gguf == NULL)
        TEST_SKIP("no tokenizer-vectors");
    expect_vectors(gguf, test_data("tokenizer-vectors/ggml-vocab-gpt-2.gguf.inp"),
                   test_data("tokenizer-vectors/ggml-vocab-gpt-2.gguf.out"));
}

static int write_all(const char *directory)
{
    int code = EX_NOINPUT;
    const char *path = test_data("stories260K/stories260K.gguf");
    struct tokenizer *stories = path != NULL ? tokenizer_open(path, &code) : NULL, *trained = train();
    if (stories == NULL || trained == NULL)
        return code;
    char *stories_path = memory_printf("%s/stories", directory), *trained_path = memory_printf("%s/trained", directory);
    code = tokenizer_write(stories, stories_path) != 0 || tokenizer_write(trained, trained_path) != 0 ? EX_IOERR : EX_OK;
    free(stories_path);
    free(trained_path);
    tokenizer_close(stories);
    tokenizer_close(trained);
    return code;
}

int main(int argc, char **argv)
{
    log_open("test_tokenizer_ids", -1);
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_all(argv[2]);
    record = json_read(fixture);
    if (record == NULL)
        return 1;
    RUN(test_vectors_llama);
    RUN(test_vectors_gpt2);
    RUN(test_llama2_json);
    RUN(test_gpt2_merges);
    RUN(test_roberta_json);
    RUN(test_kinds);
    RUN(test_trainer_learns_library_merges);
    RUN(test_written_stories);
    RUN(test_written_trained);
    json_decref(record);
    return tests_end();
}
