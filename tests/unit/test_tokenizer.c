/* test_tokenizer.c - tokenizers on small cases worked by hand, and what must hold for any text. */
#define _GNU_SOURCE
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/philox.h"
#include "base/utf8.h"
#include "model/gguf.h"
#include "model/gguf_write.h"
#include "text/tokenizer_parts.h"
#include "gguf_builder.h"
#include "stderr_text.h"
#include "token_text.h"

/* A SentencePiece model of few pieces; ids in order.  The merges join "h i", then the mark and "hi". */
#define SMALL_MODEL                                                                                                     \
    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\","                     \
    "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"<0x0A>\":3,\"<0xC3>\":4,\"<0xA9>\":5,\"\xe2\x96\x81\":6,\"h\":7,"    \
    "\"i\":8,\"hi\":9,\"\xe2\x96\x81hi\":10},\"merges\":[\"h i\",\"\xe2\x96\x81 hi\"]}"
#define SMALL_ADDED                                                                                                     \
    "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false},"                         \
    "{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"                                             \
    "{\"id\":2,\"content\":\"</s>\",\"special\":true,\"normalized\":false}]"
#define SMALL_NORMALIZER                                                                                                \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"       \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]}"
#define SMALL_TEMPLATE                                                                                                  \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}," \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"                                                         \
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}}"
#define SMALL_DECODER                                                                                                   \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"}," \
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"                                               \
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
#define SMALL "{" SMALL_MODEL "," SMALL_ADDED "," SMALL_NORMALIZER "," SMALL_TEMPLATE "," SMALL_DECODER "}"

static struct tokenizer *from_text(const char *text)
{
    json_t *json = json_parse(text, strlen(text), "test");
    struct tokenizer *tokenizer = json != NULL ? tokenizer_from_json(json, "test") : NULL;
    json_decref(json);
    if (tokenizer != NULL)
        tokenizer_finish(tokenizer);
    return tokenizer;
}

static void expect_ids(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags, const char *expected)
{
    struct token_list ids = { 0 };
    tokenizer_encode(tokenizer, text, size, flags, &ids);
    expect_list(&ids, expected);
    free(ids.at);
}

static void expect_text(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags, const char *expected)
{
    struct buffer text = { 0 };
    tokenizer_decode(tokenizer, ids, count, flags, &text);
    buffer_append(&text, "", 1);
    EXPECT_TEXT(text.data, expected);
    free(text.data);
}

/* Goal: merges by rank, the space before a text, bytes of characters that are no token, the template, markup. */
static void test_sentencepiece_by_hand(void)
{
    struct tokenizer *tokenizer = from_text(SMALL);
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "", 0, 0, "");
    expect_ids(tokenizer, "", 0, ENCODE_SPECIAL, "1");
    expect_ids(tokenizer, "hi", 2, ENCODE_SPECIAL, "1 10");
    expect_ids(tokenizer, "hi  hih", 7, 0, "10 6 10 7");
    expect_ids(tokenizer, "\xc3\xa9\n", 3, 0, "6 4 5 3");
    expect_ids(tokenizer, "x", 1, 0, "6 0");            // "x" has no byte token: unknown
    expect_ids(tokenizer, "xy\xc3\xa9z", 5, 0, "6 4 5 0");  // unknown neighbours are one, and stand behind the bytes between them
    expect_ids(tokenizer, "</s>hi", 6, ENCODE_MARKUP, "2 10");
    expect_ids(tokenizer, "<s", 2, ENCODE_MARKUP, "6 0");
    EXPECT_INT(tokenizer_begin(tokenizer), 1);
    EXPECT(tokenizer_is_special(tokenizer, 2) && !tokenizer_is_special(tokenizer, 9) && !tokenizer_is_special(tokenizer, -1));
    EXPECT(tokenizer_is_stop(tokenizer, 1) && !tokenizer_is_stop(tokenizer, 10));
    tokenizer_close(tokenizer);
}

/* Goal: each flag of decoding: the first space, special tokens, ids that do not exist, bytes that are no character. */
static void test_decode_flags(void)
{
    struct tokenizer *tokenizer = from_text(SMALL);
    expect_text(tokenizer, (int32_t[]){ 1, 10, 10 }, 3, 0, "hi hi");
    expect_text(tokenizer, (int32_t[]){ 1, 10, 10 }, 3, DECODE_CONTINUE, " hi hi");
    expect_text(tokenizer, (int32_t[]){ 1, 10, 2 }, 3, DECODE_KEEP_SPECIAL, "<s> hi</s>");
    expect_text(tokenizer, (int32_t[]){ 9, 11, -1 }, 3, 0, "hi\xef\xbf\xbd\xef\xbf\xbd");
    expect_text(tokenizer, (int32_t[]){ 4, 5 }, 2, DECODE_VALID_UTF8, "\xc3\xa9");
    expect_text(tokenizer, (int32_t[]){ 5, 9, 4 }, 3, DECODE_VALID_UTF8, "\xef\xbf\xbdhi\xef\xbf\xbd");
    expect_text(tokenizer, (int32_t[]){ 9, 4 }, 2, 0, "hi\xc3");
    tokenizer_close(tokenizer);
}

/* Goal: a stream gives a character when its last byte has come, U+FFFD for one that never ends, and loses one space at most. */
static void test_stream_holds_half_characters(void)
{
    struct tokenizer *tokenizer = from_text(SMALL);
    struct text_stream stream = { 0 };
    struct buffer text = { 0 };
    text_stream_push(&stream, tokenizer, 1, &text);
    text_stream_push(&stream, tokenizer, 10, &text);
    EXPECT_INT(text.size, 2);
    text_stream_push(&stream, tokenizer, 4, &text);
    EXPECT_INT(text.size, 2);
    text_stream_push(&stream, tokenizer, 5, &text);
    EXPECT_INT(text.size, 4);
    text_stream_push(&stream, tokenizer, 10, &text);
    text_stream_push(&stream, tokenizer, 4, &text);
    text_stream_end(&stream, &text);
    buffer_append(&text, "", 1);
    EXPECT_TEXT(text.data, "hi\xc3\xa9 hi\xef\xbf\xbd");
    free(text.data);
    tokenizer_close(tokenizer);
}

/* Goal: whatever ids come in whatever order, what a stream gives is valid UTF-8 at every step and equals one decode. */
static void test_stream_equals_decode(void)
{
    struct tokenizer *tokenizer = tokenizer_train("The caf\xc3\xa9 \xf0\x9f\x98\x80.", 15, 270);
    int32_t ids[400];
    struct buffer whole = { 0 }, text = { 0 };
    struct text_stream stream = { 0 };
    for (size_t i = 0; i < COUNT_OF(ids); i++) {
        ids[i] = (int32_t)(philox_uniform(7, PHILOX_DATA, 0, 0, (uint32_t)i) * 275);
        text_stream_push(&stream, tokenizer, ids[i], &text);
        EXPECT_INT(utf8_valid_prefix(text.data, text.size), text.size);
    }
    text_stream_end(&stream, &text);
    tokenizer_decode(tokenizer, ids, COUNT_OF(ids), DECODE_VALID_UTF8, &whole);
    EXPECT_INT(text.size, whole.size);
    EXPECT(memcmp(text.data, whole.data, whole.size) == 0);
    EXPECT(memchr(text.data, '\0', text.size) == NULL);
    free(whole.data);
    free(text.data);
    tokenizer_close(tokenizer);
}

/* Goal: broken UTF-8 is read as the Rust and Python libraries repair it: one U+FFFD for each longest broken beginning. */
static void test_broken_utf8(void)
{
    static const struct { const char *text; size_t size; const char *repaired; } cases[] = {
        { "a\xff" "b", 3, "a\xef\xbf\xbd" "b" },
        { "\xe2\x82", 2, "\xef\xbf\xbd" },                       // the beginning of a character, cut
        { "\xe2\x82z", 3, "\xef\xbf\xbdz" },
        { "\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },  // a surrogate: no byte of it begins a character
        { "\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd" },            // overlong
        { "\xf0\x9f\x98", 3, "\xef\xbf\xbd" },
        { "\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },  // beyond U+10FFFF
    };
    struct tokenizer *tokenizer = tokenizer_train("", 0, 257);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct token_list ids = { 0 };
        struct buffer text = { 0 };
        tokenizer_encode(tokenizer, cases[i].text, cases[i].size, 0, &ids);
        tokenizer_decode(tokenizer, ids.at, ids.count, 0, &text);
        buffer_append(&text, "", 1);
        EXPECT_TEXT(text.data, cases[i].repaired);
        free(ids.at);
        free(text.data);
    }
    tokenizer_close(tokenizer);
}

/* Goal: the trainer joins the most frequent pair first; ids are 0 for the end of a text, 1 .. 256 for bytes, then merges. */
static void test_train_by_hand(void)
{
    // "ab" four times, "abab" once more as a word: a b occurs 6 times, then ab ab once.
    struct tokenizer *tokenizer = tokenizer_train("ab\nab\n\nab\nab\nabab", 17, 259);
    EXPECT_INT(tokenizer_vocab_size(tokenizer), 259);
    expect_ids(tokenizer, "ab", 2, 0, "257");
    expect_ids(tokenizer, "abab", 4, 0, "258");
    expect_ids(tokenizer, "<|endoftext|>", 13, ENCODE_MARKUP | ENCODE_SPECIAL, "0 0");
    expect_ids(tokenizer, "!", 1, 0, "1");
    EXPECT_INT(tokenizer_begin(tokenizer), 0);
    EXPECT_INT(tokenizer_end(tokenizer), 0);
    EXPECT(tokenizer_is_stop(tokenizer, 0));
    tokenizer_close(tokenizer);

    tokenizer = tokenizer_train("ab", 2, 1000);  // nothing left to join
    EXPECT_INT(tokenizer_vocab_size(tokenizer), 258);
    tokenizer_close(tokenizer);
    tokenizer = tokenizer_train(NULL, 0, 0);
    EXPECT_INT(tokenizer_vocab_size(tokenizer), 257);
    tokenizer_close(tokenizer);
}

/* Goal: every byte sequence that is UTF-8 comes back from a trained tokenizer as it was. */
static void test_byte_level_round_trip(void)
{
    struct tokenizer *tokenizer = tokenizer_train("The quick brown fox.  The lazy dog.", 35, 300);
    struct buffer text = { 0 };
    for (uint32_t code_point = 1; code_point < 0x110000; code_point += code_point < 0x3000 ? 1 : 977) {
        if (code_point >= 0xd800 && code_point < 0xe000)
            continue;
        char character[UTF8_SIZE_MAX];
        buffer_append(&text, character, utf8_write(code_point, character));
    }
    struct token_list ids = { 0 };
    struct buffer again = { 0 };
    tokenizer_encode(tokenizer, text.data, text.size, 0, &ids);
    tokenizer_decode(tokenizer, ids.at, ids.count, 0, &again);
    EXPECT_INT(again.size, text.size);
    EXPECT(memcmp(again.data, text.data, text.size) == 0);
    free(ids.at);
    free(again.data);
    free(text.data);
    tokenizer_close(tokenizer);
}

/* Goal: whatever a file says that cannot be done, or not exactly, is refused in one line. */
static void test_refusals(void)
{
#define REST "," SMALL_ADDED "," SMALL_NORMALIZER "," SMALL_TEMPLATE "," SMALL_DECODER "}"
#define LETTERS "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
    static const char *const refused[] = {
        "[]", "{}", "{\"model\":{}}", "{\"model\":{\"type\":\"Magic\"}" REST,
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2097152},\"merges\":[]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[\"a c\"]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[\"ab\"]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[\"b a\"]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[[\"a\",\"b\",\"c\"]]}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[],\"dropout\":0.1}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[],\"end_of_word_suffix\":1}," SMALL_DECODER "}",
        "{\"model\":{\"type\":\"BPE\"," LETTERS ",\"merges\":[],\"unk_token\":\"?\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"normalizer\":{\"type\":\"Precompiled\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL
        ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a*\"},\"content\":\"b\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"b\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL
        ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL
        ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL
        ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}," SMALL_DECODER "}",
        "{" SMALL_MODEL
        ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"ByteLevel\"}]},"
        SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," SMALL_DECODER "}",
        "{" SMALL_MODEL
        ",\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"x\",99],\"sep\":[\"y\",1]}," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"added_tokens\":[{\"id\":5,\"content\":\"<s>\"}]," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"added_tokens\":[{\"id\":99999999999,\"content\":\"x\"}]," SMALL_DECODER "}",
        "{" SMALL_MODEL ",\"decoder\":{\"type\":\"CTC\"}}",
        "{" SMALL_MODEL ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":1}}",
    };
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        stderr_hold();
        struct tokenizer *tokenizer = from_text(refused[i]);
        const char *said = stderr_release(), *newline = strchr(said, '\n');
        if (tokenizer != NULL)
            TEST_FAIL("case %zu was accepted: %s", i, refused[i]);
        if (newline == NULL || newline[1] != '\0' || strstr(said, "tokenizer \"test\"") == NULL)
            TEST_FAIL("case %zu is not refused in one line with the tokenizer's name: %s", i, said);
        tokenizer_close(tokenizer);
    }
}

/* Goal: the key changes with whatever changes ids, and with nothing else. */
static void test_key(void)
{
    struct tokenizer *plain = from_text(SMALL);
    struct tokenizer *again = from_text("{" SMALL_DECODER "," SMALL_TEMPLATE "," SMALL_NORMALIZER "," SMALL_ADDED
                                                                  "," SMALL_MODEL "}");
    EXPECT_TEXT(tokenizer_key(again), tokenizer_key(plain));
    static const char *const others[] = {
        "{" SMALL_MODEL "," SMALL_NORMALIZER "," SMALL_TEMPLATE "," SMALL_DECODER "}",
        "{" SMALL_MODEL "," SMALL_ADDED "," SMALL_TEMPLATE "," SMALL_DECODER "}",
        "{" SMALL_MODEL "," SMALL_ADDED "," SMALL_NORMALIZER "," SMALL_DECODER "}",
        "{" SMALL_MODEL "," SMALL_ADDED "," SMALL_NORMALIZER "," SMALL_TEMPLATE "," SMALL_DECODER
        ",\"pre_tokenizer\":{\"type\":\"Digits\",\"individual_digits\":true}}",
    };
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        struct tokenizer *other = from_text(others[i]);
        EXPECT(other != NULL && strcmp(tokenizer_key(other), tokenizer_key(plain)) != 0);
        tokenizer_close(other);
    }
    tokenizer_close(plain);
    tokenizer_close(again);
}

static void write_file(const char *directory, const char *name, const char *text)
{
    char *path = memory_printf("%s/%s", directory, name);
    EXPECT_INT(file_write(path, text, strlen(text)), 0);
    free(path);
}

static void remove_file(const char *directory, const char *name)
{
    char *path = memory_printf("%s/%s", directory, name);
    unlink(path);
    free(path);
}

/* Goal: the files beside tokenizer.json decide begin, end and stops; a number beyond 64 bits in them does no harm. */
static void test_configs(void)
{
    char directory[64];
    test_directory(directory, sizeof directory);
    write_file(directory, "tokenizer.json", SMALL);
    write_file(directory, "tokenizer_config.json",
               "{\"model_max_length\":1000000000000000019884624838656,\"add_bos_token\":false,\"bos_token\":\"<s>\","
               "\"eos_token\":{\"content\":\"</s>\"}}");
    write_file(directory, "generation_config.json", "{\"eos_token_id\":[2,9,4000000000]}");
    int code = 0;
    struct tokenizer *tokenizer = tokenizer_open(directory, &code);
    EXPECT(tokenizer != NULL);
    EXPECT_INT(code, EX_OK);
    if (tokenizer != NULL) {
        EXPECT_INT(tokenizer_begin(tokenizer), 1);
        EXPECT_INT(tokenizer_end(tokenizer), 2);
        EXPECT(tokenizer_is_stop(tokenizer, 1) && tokenizer_is_stop(tokenizer, 2) && tokenizer_is_stop(tokenizer, 9));
        EXPECT(!tokenizer_is_stop(tokenizer, 10));
        expect_ids(tokenizer, "hi", 2, ENCODE_SPECIAL, "10");  // add_bos_token is false
    }
    tokenizer_close(tokenizer);
    stderr_hold();
    write_file(directory, "tokenizer_config.json", "{\"eos_token\":");
    EXPECT(tokenizer_open(directory, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
    remove_file(directory, "tokenizer.json");
    remove_file(directory, "tokenizer_config.json");
    EXPECT(tokenizer_open(directory, &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    stderr_release();
    remove_file(directory, "generation_config.json");
    rmdir(directory);
}

static void expect_same_with_stops(const char *path, const struct tokenizer *tokenizer, const char *stops)
{
    int code;
    struct tokenizer *again = tokenizer_open(path, &code);
    EXPECT(again != NULL);
    if (again == NULL)
        return;
    expect_list(tokenizer_stops(again), stops);
    EXPECT_TEXT(tokenizer_key(again), tokenizer_key(tokenizer));
    tokenizer_close(again);
}

/* text: NULL where there must be no file. */
static void expect_json(const char *path, const char *text)
{
    EXPECT(file_exists(path) == (text != NULL));
    if (!file_exists(path))
        return;
    json_t *json = json_read(path);
    char *found = json != NULL ? json_text(json) : NULL;
    EXPECT_TEXT(found, text);
    free(found);
    json_decref(json);
}

/* The metadata alone. */
static void write_gguf(const char *path, const struct tokenizer *tokenizer)
{
    struct gguf_out out = { 0 };
    struct file_out file;
    EXPECT_INT(tokenizer_put_gguf(tokenizer, tokenizer_vocab_size(tokenizer), &out), 0);
    EXPECT_INT(file_out_begin(&file, path), 0);
    gguf_write_head(&out, &file);
    EXPECT_INT(file_out_end(&file, true), 0);
    gguf_out_free(&out);
}

/* SMALL, whose begin token is 1 and which names no end, and what generation_config.json makes of it. */
static const struct stops_case {
    const char *generation;
    const char *stops;
    bool usual;
    const char *written;  // generation_config.json of a copy; NULL: none
    const char *gguf;     // stops of a GGUF file, which has room for two besides the end
} stops_cases[] = {
    { "{\"eos_token_id\":2}", "1 2", true, NULL, "1 2" },
    { "{\"eos_token_id\":[2,10]}", "1 2 10", false, "{\"bos_token_id\":1,\"eos_token_id\":[2,10]}", "1 2 10" },
    { "{\"eos_token_id\":[9,7,2]}", "1 2 7 9", false, "{\"bos_token_id\":1,\"eos_token_id\":[9,2,7]}", "1 2 7 9" },
    { "{\"eos_token_id\":[2,10,9,8,7]}", "1 2 7 8 9 10", false, "{\"bos_token_id\":1,\"eos_token_id\":[2,7,8,9,10]}",
      "1 2 7 8" },
    { "{\"eos_token_id\":9}", "1 9", false, NULL, "1 9" },
    { "{}", "1", false, NULL, "1" },
};

static void check_stops(const struct stops_case *stops, const char *directory, const char *copy)
{
    char *generation_path = memory_printf("%s/generation_config.json", copy), *gguf_path = memory_printf("%s/t.gguf", copy);
    int code;
    write_file(directory, "generation_config.json", stops->generation);
    struct tokenizer *tokenizer = tokenizer_open(directory, &code);
    expect_list(tokenizer_stops(tokenizer), stops->stops);
    EXPECT(tokenizer_stops_usual(tokenizer) == stops->usual);

    EXPECT_INT(tokenizer_write(tokenizer, copy), 0);
    expect_json(generation_path, stops->written);
    expect_same_with_stops(copy, tokenizer, stops->stops);
    write_gguf(gguf_path, tokenizer);
    expect_same_with_stops(gguf_path, tokenizer, stops->gguf);

    unlink(generation_path);
    tokenizer_close(tokenizer);
    free(generation_path);
    free(gguf_path);
}

/* Goal: written as a directory or as GGUF and read again, a tokenizer stops where it did; a file for that is written only where
   it is needed. */
static void test_stops_are_kept(void)
{
    static const char *const made[] = { "tokenizer.json", "tokenizer_config.json", "generation_config.json", "t.gguf" };
    char directory[64], copy[64];
    test_directory(directory, sizeof directory);
    test_directory(copy, sizeof copy);
    write_file(directory, "tokenizer.json", SMALL);
    for (size_t i = 0; i < COUNT_OF(stops_cases); i++)
        check_stops(&stops_cases[i], directory, copy);
    for (size_t i = 0; i < COUNT_OF(made); i++) {
        remove_file(directory, made[i]);
        remove_file(copy, made[i]);
    }
    rmdir(directory);
    rmdir(copy);
}

/* Opens a directory that holds tokenizer.json and this tokenizer_config.json; NULL where that is refused. */
static struct tokenizer *open_configured(const char *directory, const char *config)
{
    int code;
    write_file(directory, "tokenizer_config.json", config);
    return tokenizer_open(directory, &code);
}

static void expect_template(const char *directory, const char *config, const char *expected)
{
    struct tokenizer *tokenizer = open_configured(directory, config);
    const char *template = tokenizer != NULL ? tokenizer_chat_template(tokenizer) : "(refused)";
    EXPECT_TEXT(template != NULL ? template : "(none)", expected);
    tokenizer_close(tokenizer);
}

/* Goal: the chat template is a text, the default of a list or a file of its own, which comes first; what was read is written. */
static void test_chat_template(void)
{
    static const char list[] = "{\"chat_template\":[{\"name\":\"default_tools\",\"template\":\"b\"},"
                               "{\"name\":\"default\",\"template\":\"c\"}]}";
    char directory[64], written[64];
    test_directory(directory, sizeof directory);
    test_directory(written, sizeof written);
    write_file(directory, "tokenizer.json", SMALL);
    expect_template(directory, "{}", "(none)");
    expect_template(directory, "{\"chat_template\":null}", "(none)");
    expect_template(directory, "{\"chat_template\":\"a\\né\"}", "a\né");
    expect_template(directory, "{\"chat_template\":[{\"name\":\"tools\",\"template\":\"b\"}]}", "(none)");
    expect_template(directory, list, "c");

    struct tokenizer *tokenizer = open_configured(directory, list);
    EXPECT(tokenizer != NULL && tokenizer_write(tokenizer, written) == 0);
    tokenizer_close(tokenizer);
    char *path = memory_printf("%s/tokenizer_config.json", written);
    json_t *config = json_read(path), *expected = json_loads(list, 0, NULL);
    EXPECT(json_equal(json_object_get(config, "chat_template"), json_object_get(expected, "chat_template")));
    json_decref(config);
    json_decref(expected);
    free(path);

    write_file(directory, "chat_template.jinja", "{{ d }}\n");
    expect_template(directory, list, "{{ d }}\n");
    stderr_hold();
    write_file(directory, "chat_template.jinja", "\xff");
    expect_template(directory, list, "(refused)");
    EXPECT(strstr(stderr_release(), "its chat template is no UTF-8 or holds NUL") != NULL);
    static const char *const files[] = { "tokenizer.json", "tokenizer_config.json", "chat_template.jinja" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        remove_file(directory, files[i]);
        remove_file(written, files[i]);
    }
    rmdir(directory);
    rmdir(written);
}

static void expect_configured(const char *directory, const char *config, const char *text, const char *expected)
{
    struct tokenizer *tokenizer = open_configured(directory, config);
    EXPECT(tokenizer != NULL);
    if (tokenizer != NULL)
        expect_ids(tokenizer, text, strlen(text), 0, expected);
    tokenizer_close(tokenizer);
}

/* Goal: where tokenizer_config.json contradicts tokenizer.json, the one is followed that transformers 5.24 follows; these are its
   ids. */
static void test_overrides(void)
{
    static const char bert[] =
        "{\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":null,"
        "\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\","
        "\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":{\"?\":0,\"a\":1,\"A\":2,\"é\":3,"
        "\"e\":4,\"É\":5,\"E\":6,\"中\":7,\"##文\":8,\"文\":9}}}";
    static const char gpt2[] =
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{"
        "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"Ġ\":1,\"Ġa\":2},\"merges\":[\"Ġ a\"]}}";
    static const char text[] = "A É 中文";
    char directory[64];
    test_directory(directory, sizeof directory);
    write_file(directory, "tokenizer.json", bert);
    expect_configured(directory, "{\"tokenizer_class\":\"BertTokenizer\"}", text, "1 4 7 9");
    expect_configured(directory, "{\"tokenizer_class\":\"BertTokenizer\",\"do_lower_case\":false}", text, "2 5 7 9");
    expect_configured(directory, "{\"tokenizer_class\":\"ElectraTokenizerFast\",\"do_lower_case\":false}", text, "2 5 7 9");
    expect_configured(directory, "{\"tokenizer_class\":\"DistilBertTokenizer\",\"strip_accents\":false}", text, "1 3 7 9");
    expect_configured(directory, "{\"tokenizer_class\":\"BertTokenizerFast\",\"strip_accents\":true,\"do_lower_case\":false}", text,
                      "2 6 7 9");
    expect_configured(directory, "{\"tokenizer_class\":\"BertTokenizerFast\",\"tokenize_chinese_chars\":false}", text, "1 4 7 8");
    expect_configured(directory, "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"do_lower_case\":false}", text, "1 4 7 9");
    write_file(directory, "tokenizer.json", gpt2);
    expect_configured(directory, "{\"tokenizer_class\":\"GPT2TokenizerFast\",\"add_prefix_space\":false}", "a", "0");
    expect_configured(directory, "{\"tokenizer_class\":\"GPT2Tokenizer\",\"add_prefix_space\":true}", "a", "2");
    expect_configured(directory, "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_prefix_space\":false}", "a", "2");
    remove_file(directory, "tokenizer.json");
    remove_file(directory, "tokenizer_config.json");
    rmdir(directory);
}

/* ---- GGUF ---- */

static void put_array(struct buffer *file, const char *key, uint32_t type, size_t count)
{
    put_key(file, key, GGUF_ARRAY);
    put_u32(file, type);
    put_u64(file, count);
}

/* A byte-level tokenizer: 256 letters, the merges "1 2", "12 3", "123 4", "'" "S" and a control token 261 that begins. */
static struct tokenizer *byte_level_gguf(const char *pre)
{
    static const char *const merged[] = { "12", "123", "1234", "'S", "<begin>" };
    static const char *const merges[] = { "1 2", "12 3", "123 4", "' S" };
    struct buffer file = { 0 };
    put_header(&file, 3, 0, 6);
    put_key_text(&file, "tokenizer.ggml.model", "gpt2");
    put_key_text(&file, "tokenizer.ggml.pre", pre);
    put_array(&file, "tokenizer.ggml.tokens", GGUF_TEXT, 261);
    for (unsigned byte = 0; byte < 256; byte++) {
        char letter[UTF8_SIZE_MAX + 1] = "";
        letter[utf8_write(byte_letter((unsigned char)byte), letter)] = '\0';
        put_text(&file, letter);
    }
    for (size_t i = 0; i < COUNT_OF(merged); i++)
        put_text(&file, merged[i]);
    put_array(&file, "tokenizer.ggml.token_type", GGUF_I32, 261);
    for (uint32_t id = 0; id < 261; id++)
        put_u32(&file, id == 260 ? 3 : 1);
    put_array(&file, "tokenizer.ggml.merges", GGUF_TEXT, COUNT_OF(merges));
    for (size_t i = 0; i < COUNT_OF(merges); i++)
        put_text(&file, merges[i]);
    put_key_u32(&file, "tokenizer.ggml.bos_token_id", 260);
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "test");
    struct tokenizer *tokenizer = gguf != NULL ? tokenizer_from_gguf(gguf, "test") : NULL;
    gguf_close(gguf);
    free(file.data);
    if (tokenizer != NULL)
        tokenizer_finish(tokenizer);
    return tokenizer;
}

/*
 * Goal: each pre-tokenizer that a GGUF file may name cuts numbers and 'S as its model does: GPT-2's keeps a number whole,
 * Llama 3's takes three digits at a time, Qwen2's and StarCoder's one; case counts in GPT-2's 's, not in Llama 3's.
 */
static void test_gguf_pretokenizers(void)
{
    static const struct { const char *pre, *ids; } cases[] = {
        { "gpt-2", "258 53 39 83" },                 // 1234 5 ' S
        { "llama-bpe", "260 257 52 53 259" },        // begin, 123 4 5 'S
        { "smaug-bpe", "257 52 53 259" },
        { "qwen2", "49 50 51 52 53 259" },
        { "starcoder", "49 50 51 52 53 39 83" },
        { "falcon", "257 52 53 39 83" },
        { "default", "257 52 53 39 83" },
        { "deepseek-v3", "257 52 53 259" },          // punctuation with the letters behind it
        { "gpt-4o", "257 52 53 259" },
        { "tekken", "260 49 50 51 52 53 259" },
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tokenizer *tokenizer = byte_level_gguf(cases[i].pre);
        EXPECT(tokenizer != NULL);
        if (tokenizer != NULL)
            expect_ids(tokenizer, "12345'S", 7, ENCODE_SPECIAL, cases[i].ids);
        tokenizer_close(tokenizer);
    }
    stderr_hold();
    EXPECT(byte_level_gguf("unheard-of") == NULL);
    EXPECT(strstr(stderr_release(), "\"unheard-of\"") != NULL);
}

/* Goal: GPT-2 from vocab.json and merges.txt and GPT-2 from a GGUF file are one tokenizer. */
static void test_key_across_files(void)
{
    const char *gguf = test_data("tokenizer-vectors/ggml-vocab-gpt-2.gguf"), *vocabulary = test_data("tokenizers/gpt2/vocab.json");
    if (gguf == NULL || vocabulary == NULL)
        TEST_SKIP("no GPT-2 tokenizers");
    int code = 0;
    char *directory = memory_text(vocabulary);
    *strrchr(directory, '/') = '\0';
    struct tokenizer *a = tokenizer_open(gguf, &code), *b = tokenizer_open(directory, &code);
    EXPECT(a != NULL && b != NULL);
    if (a != NULL && b != NULL)
        EXPECT_TEXT(tokenizer_key(a), tokenizer_key(b));
    tokenizer_close(a);
    tokenizer_close(b);
    free(directory);
}

/* SentencePiece as its paper has it: join the neighbours whose joined text has the highest score, the leftmost of equals. */
static void encode_naively(const struct tokenizer *tokenizer, const char *scores, const char *text, size_t size,
                           struct token_list *ids)
{
    struct piece parts[128];
    size_t count = 0;
    for (size_t at = 0; at < size; at += parts[count++].size)
        parts[count] = (struct piece){ .at = text + at, .size = (uint32_t)utf8_size((unsigned char)text[at]) };
    for (;;) {
        size_t best = count;
        float best_score = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            int32_t id = vocabulary_find(&tokenizer->vocabulary, parts[i].at, parts[i].size + parts[i + 1].size);
            float score;
            if (id < 0)
                continue;
            memcpy(&score, scores + (size_t)id * sizeof score, sizeof score);
            if (best == count || score > best_score) {
                best = i;
                best_score = score;
            }
        }
        if (best == count)
            break;
        parts[best].size += parts[best + 1].size;
        memmove(parts + best + 1, parts + best + 2, (count - best - 2) * sizeof *parts);
        count--;
    }
    for (size_t i = 0; i < count; i++)
        token_list_add(ids, vocabulary_find(&tokenizer->vocabulary, parts[i].at, parts[i].size));
}

/* Goal: ranked merges give what SentencePiece's rule by scores gives, on 20,000 texts of letters that join in many ways. */
static void test_merges_equal_scores(void)
{
    static const char *const syllables[] = { "a", "b", "aa", "th", "e", "he", "in", "ing", "\xe2\x96\x81", "\xe2\x96\x81",
                                             "t", "o", "an", "nd", "s", "l", "ll" };
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("no stories260K");
    int code = 0;
    struct gguf *gguf = gguf_open(path, &code);
    struct tokenizer *tokenizer = tokenizer_open(path, &code);
    struct gguf_array scores;
    EXPECT(tokenizer != NULL && gguf_array(gguf, "tokenizer.ggml.scores", &scores));
    for (uint32_t round = 0; round < 20000; round++) {
        struct buffer text = { 0 };
        uint32_t turn = 0;
        for (size_t i = 1 + (size_t)(philox_uniform(3, PHILOX_DATA, round, 0, turn++) * 24); i > 0; i--) {
            const char *syllable = syllables[(size_t)(philox_uniform(3, PHILOX_DATA, round, 0, turn++) * COUNT_OF(syllables))];
            buffer_append(&text, syllable, strlen(syllable));
        }
        struct token_list fast = { 0 }, naive = { 0 };
        struct bpe_scratch scratch = { 0 };
        bpe_encode(&tokenizer->bpe, &tokenizer->vocabulary, &scratch, text.data, text.size, &fast);
        encode_naively(tokenizer, scores.data, text.data, text.size, &naive);
        EXPECT(fast.count == naive.count && memcmp(fast.at, naive.at, fast.count * sizeof *fast.at) == 0);
        bpe_scratch_free(&scratch);
        free(fast.at);
        free(naive.at);
        free(text.data);
    }
    tokenizer_close(tokenizer);
    gguf_close(gguf);
}

static double processor_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Goal: time grows with the text, not with its square, on what is worst for a merge: long runs and one long word. */
static void test_long_words_are_fast(void)
{
    enum { LENGTH = 1 << 20 };
    char *text = memory_alloc(LENGTH, 1);
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < LENGTH; i++)
            text[i] = kind == 0 ? 'a' : kind == 1 ? ' ' : (char)('a' + philox_uniform(1, PHILOX_DATA, kind, 0, (uint32_t)i) * 4);
        double start_s = processor_s();
        struct tokenizer *trained = tokenizer_train(text, LENGTH, 300), *small = from_text(SMALL);
        struct token_list ids = { 0 };
        tokenizer_encode(trained, text, LENGTH, 0, &ids);
        tokenizer_encode(small, text, LENGTH, 0, &ids);
        EXPECT(processor_s() - start_s < 20);  // squares would take hours
        free(ids.at);
        tokenizer_close(trained);
        tokenizer_close(small);
    }
    free(text);
}

int main(void)
{
    log_open("test_tokenizer", -1);
    RUN(test_sentencepiece_by_hand);
    RUN(test_decode_flags);
    RUN(test_stream_holds_half_characters);
    RUN(test_stream_equals_decode);
    RUN(test_broken_utf8);
    RUN(test_train_by_hand);
    RUN(test_byte_level_round_trip);
    RUN(test_refusals);
    RUN(test_key);
    RUN(test_configs);
    RUN(test_stops_are_kept);
    RUN(test_chat_template);
    RUN(test_overrides);
    RUN(test_gguf_pretokenizers);
    RUN(test_key_across_files);
    RUN(test_merges_equal_scores);
    RUN(test_long_words_are_fast);
    return tests_end();
}
