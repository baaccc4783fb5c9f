/*
 * test_tokenizer_corpus.c - ids and texts of the tokenizers that models use against the tokenizers library, as
 * make_tokenizer_corpus.py recorded them.
 *
 *     test_tokenizer_corpus --compare DIRECTORY/NAME...    the large corpora that the script writes into a directory
 */
#define _GNU_SOURCE
#include <sysexits.h>

#include "../check.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_parts.h"

static const char fixture[] = "tests/parity/tokenizer_corpus.json";

static json_t *record;

static bool same_ids(const struct token_list *got, const json_t *expected)
{
    bool same = got->count == json_array_size(expected);
    for (size_t i = 0; i < got->count && same; i++)
        same = got->at[i] == json_integer_value(json_array_get(expected, i));
    return same;
}

static void print_ids(const char *title, const struct token_list *ids)
{
    printf("%s", title);
    for (size_t i = 0; i < ids->count; i++)
        printf(" %d", ids->at[i]);
    printf("\n");
}

/* The whole text at once and token by token. */
static bool same_text(const struct tokenizer *tokenizer, const struct token_list *ids, const char *expected, bool print)
{
    struct buffer whole = { 0 }, parts = { 0 };
    struct text_stream stream = { 0 };
    tokenizer_decode(tokenizer, ids->at, ids->count, DECODE_VALID_UTF8, &whole);
    for (size_t i = 0; i < ids->count; i++)
        text_stream_push(&stream, tokenizer, ids->at[i], &parts);
    text_stream_end(&stream, &parts);
    buffer_append(&whole, "", 1);
    buffer_append(&parts, "", 1);
    bool same = strcmp(whole.data, expected) == 0 && strcmp(parts.data, expected) == 0;
    if (!same && print)
        printf("  got      \"%s\"\n  streamed \"%s\"\n  expected \"%s\"\n", whole.data, parts.data, expected);
    free(whole.data);
    free(parts.data);
    return same;
}

/* result: [ids] or [ids, the text they give], which is otherwise the text itself. */
static bool same_result(const struct tokenizer *tokenizer, const json_t *text, const json_t *ids, const json_t *decoded,
                        bool print)
{
    struct token_list got = { 0 };
    tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), ENCODE_SPECIAL | ENCODE_MARKUP, &got);
    bool same = same_ids(&got, ids);
    if (!same && print) {
        printf("  text \"%s\"\n", json_string_value(text));
        print_ids("  got     ", &got);
        char *line = json_dumps(ids, JSON_COMPACT);
        printf("  expected %s\n", line);
        free(line);
    }
    same = same && same_text(tokenizer, &got, json_string_value(decoded != NULL ? decoded : text), print);
    free(got.at);
    return same;
}

static void expect_texts(const struct tokenizer *tokenizer, const json_t *results, const char *name)
{
    const json_t *texts = json_object_get(record, "texts");
    EXPECT(json_array_size(results) > 40);
    for (size_t t = 0; t < json_array_size(results); t++) {
        const json_t *result = json_array_get(results, t);
        if (!same_result(tokenizer, json_array_get(texts, t), json_array_get(result, 0), json_array_get(result, 1), false))
            TEST_FAIL("%s, text %zu: \"%s\"", name, t, json_string_value(json_array_get(texts, t)));
    }
}

static void expect_pair(const struct tokenizer *tokenizer, const json_t *expected, const char *name)
{
    const json_t *pair = json_object_get(record, "pair"), *first = json_array_get(pair, 0), *second = json_array_get(pair, 1);
    struct token_list ids = { 0 }, types = { 0 };
    tokenizer_encode_pair(tokenizer, json_string_value(first), json_string_length(first), json_string_value(second),
                          json_string_length(second), &ids, &types);
    if (!same_ids(&ids, json_array_get(expected, 0)) || !same_ids(&types, json_array_get(expected, 1)))
        TEST_FAIL("%s: two texts are joined otherwise", name);
    free(ids.at);
    free(types.at);
}

static void expect_recorded(const struct tokenizer *tokenizer, const json_t *recorded, const char *name)
{
    expect_texts(tokenizer, json_object_get(recorded, "texts"), name);
    expect_pair(tokenizer, json_object_get(recorded, "pair"), name);
}

/* Written and read again it is the same tokenizer. */
static void expect_written(const struct tokenizer *tokenizer, const json_t *recorded, const char *name)
{
    json_t *json = tokenizer_to_json(tokenizer);
    struct tokenizer *again = tokenizer_from_json(json, name);
    json_decref(json);
    EXPECT(again != NULL);
    if (again == NULL)
        return;
    tokenizer_finish(again);
    EXPECT_TEXT(tokenizer_key(again), tokenizer_key(tokenizer));
    expect_recorded(again, recorded, name);
    tokenizer_close(again);
}

static void expect_real(const char *name, const char *path)
{
    int code = EX_OK;
    const json_t *recorded = json_object_get(json_object_get(record, "real"), name);
    struct tokenizer *tokenizer = tokenizer_open(path, &code);
    EXPECT(tokenizer != NULL && recorded != NULL);
    if (tokenizer != NULL) {
        expect_recorded(tokenizer, recorded, name);
        expect_written(tokenizer, recorded, name);
    }
    tokenizer_close(tokenizer);
}

/* Goal: the tokenizers that models use give the library's ids and texts, also once they were written and read again. */
static void test_real(void)
{
    static const struct {
        const char *name, *probe, *path;
    } tokenizers[] = {
        { "gpt2", "tokenizers/gpt2/vocab.json", "tokenizers/gpt2" },
        { "llama2", "tokenizers/llama2/tokenizer.json", "tokenizers/llama2/tokenizer.json" },
        { "roberta-base", "tokenizers/roberta-base/tokenizer.json", "tokenizers/roberta-base/tokenizer.json" },
        { "t5-small", "tokenizers/t5-small/tokenizer.json", "tokenizers/t5-small/tokenizer.json" },
        { "bert-uncased", "tokenizers/bert-uncased/vocab.txt", "tokenizers/bert-uncased/vocab.txt" },
    };
    for (size_t i = 0; i < COUNT_OF(tokenizers); i++) {
        if (test_data(tokenizers[i].probe) == NULL)
            TEST_SKIP("no %s", tokenizers[i].probe);
        expect_real(tokenizers[i].name, test_data(tokenizers[i].path));
    }
}

/* Goal: DeBERTa's tokenizers as transformers makes them, and every kind of step that the real ones lack. */
static void test_own(void)
{
    const char *name;
    json_t *recorded;
    json_object_foreach(json_object_get(record, "own"), name, recorded) {
        struct tokenizer *tokenizer = tokenizer_from_json(json_object_get(recorded, "tokenizer"), name);
        EXPECT(tokenizer != NULL);
        if (tokenizer == NULL)
            continue;
        tokenizer_finish(tokenizer);
        expect_recorded(tokenizer, recorded, name);
        expect_written(tokenizer, recorded, name);
        tokenizer_close(tokenizer);
    }
}

/* Prints the first texts that differ, and how many do. */
static int compare(const char *stem)
{
    enum { PRINTED_MAX = 5 };
    char *json_path = memory_printf("%s.json", stem), *lines_path = memory_printf("%s.jsonl", stem);
    int code = EX_OK;
    size_t size = 0, count = 0, differing = 0;
    struct tokenizer *tokenizer = tokenizer_open(json_path, &code);
    char *lines = file_read(lines_path, &size);
    for (char *line = lines, *end; tokenizer != NULL && line != NULL && line < lines + size; line = end + 1, count++) {
        end = strchrnul(line, '\n');
        json_t *row = json_parse(line, (size_t)(end - line), lines_path);
        if (!same_result(tokenizer, json_array_get(row, 0), json_array_get(row, 1), json_array_get(row, 2),
                         differing < PRINTED_MAX))
            differing++;
        json_decref(row);
    }
    printf("%s: %zu texts, %zu differ\n", stem, count, differing);
    tokenizer_close(tokenizer);
    free(lines);
    free(json_path);
    free(lines_path);
    return code != EX_OK || count == 0 || differing > 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    log_open("test_tokenizer_corpus", -1);
    if (argc > 2 && strcmp(argv[1], "--compare") == 0) {
        int bad = 0;
        for (int i = 2; i < argc; i++)
            bad |= compare(argv[i]);
        return bad;
    }
    record = json_read(fixture);
    if (record == NULL)
        return 1;
    RUN(test_real);
    RUN(test_own);
    json_decref(record);
    return tests_end();
}
