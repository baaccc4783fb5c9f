/* test_tokenizer_gguf.c - the tokenizer kinds of GGUF on small files: every pre-tokenizer's name, WordPiece,
   Unigram, and what is wrong. */
#include "../check.h"
#include "base/log.h"
#include "gguf_builder.h"
#include "model/gguf.h"
#include "stderr_text.h"
#include "text/tokenizer_parts.h"
#include "token_text.h"

#define KEY(name) "tokenizer.ggml." name
#define MARK "\xe2\x96\x81"

enum { GGUF_I8 = 1 };

static void put_texts(struct buffer *file, const char *key, const char *const *texts, size_t count)
{
    put_key(file, key, GGUF_ARRAY);
    put_u32(file, GGUF_TEXT);
    put_u64(file, count);
    for (size_t i = 0; i < count; i++)
        put_text(file, texts[i]);
}

static void put_numbers(struct buffer *file, const char *key, uint32_t type, const void *numbers, size_t count)
{
    put_key(file, key, GGUF_ARRAY);
    put_u32(file, type);
    put_u64(file, count);
    buffer_append(file, numbers, count * (type == GGUF_I8 ? 1 : 4));
}

/* Takes file. */
static struct tokenizer *open_file(struct buffer file)
{
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "test");
    struct tokenizer *tokenizer = gguf != NULL ? tokenizer_from_gguf(gguf, "test") : NULL;
    gguf_close(gguf);
    free(file.data);
    if (tokenizer != NULL)
        tokenizer_finish(tokenizer);
    return tokenizer;
}

static void expect_ids(const struct tokenizer *tokenizer, const char *text, unsigned flags, const char *expected)
{
    struct token_list ids = { 0 };
    EXPECT(tokenizer != NULL);
    if (tokenizer == NULL)
        return;
    tokenizer_encode(tokenizer, text, strlen(text), flags, &ids);
    expect_list(&ids, expected);
    free(ids.at);
}

/* ---- byte-level ---- */

static struct buffer byte_level(const char *pre)
{
    static const char *const tokens[] = { "a", "b", "1", "\xc4\xa0", "ab", "<s>", "</s>" }, *const merges[] = { "a b" };
    static const int32_t types[] = { 1, 1, 1, 1, 1, 3, 3 };
    struct buffer file = { 0 };
    put_header(&file, 3, 0, 7);
    put_key_text(&file, KEY("model"), "gpt2");
    put_key_text(&file, KEY("pre"), pre);
    put_texts(&file, KEY("tokens"), tokens, 7);
    put_numbers(&file, KEY("token_type"), GGUF_I32, types, 7);
    put_texts(&file, KEY("merges"), merges, 1);
    put_key_u32(&file, KEY("bos_token_id"), 5);
    put_key_u32(&file, KEY("eos_token_id"), 6);
    return file;
}

/* Goal: the chat template of the metadata is the tokenizer's, and one that is no text is refused. */
static void test_chat_template(void)
{
    struct tokenizer *tokenizer = open_file(byte_level("gpt-2"));
    EXPECT(tokenizer != NULL && tokenizer_chat_template(tokenizer) == NULL);
    tokenizer_close(tokenizer);
    static const char *const templates[] = { "{{ messages }}\n", "\xff" };
    for (size_t i = 0; i < 2; i++) {
        struct buffer file = byte_level("gpt-2");
        const uint64_t values = 8;
        memcpy(file.data + 16, &values, sizeof values);
        put_key_text(&file, "tokenizer.chat_template", templates[i]);
        stderr_hold();
        tokenizer = open_file(file);
        stderr_release();
        EXPECT((tokenizer != NULL) == (i == 0));
        if (tokenizer != NULL)
            EXPECT_TEXT(tokenizer_chat_template(tokenizer), templates[i]);
        tokenizer_close(tokenizer);
    }
}

/* Goal: every name opens, cuts a text, and has a name that opens the same tokenizer again; a name that nobody has is refused. */
static void test_pre_names(void)
{
    static const char *const names[] = {
        "gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "exaone4", "granite-docling", "roberta-bpe", "jina-v2-code", "default",
        "falcon",
        "starcoder", "refact", "command-r", "smollm", "minerva-7b", "llama3", "llama-bpe", "lfm2", "pixtral", "dbrx", "glm4",
        "qwen2",
        "deepseek-r1-qwen", "megrez", "grok-2", "qwen35", "seed-coder", "bailingmoe", "deepseek-v3", "hunyuan-dense",
        "deepseek-coder", "bloom",
        "poro-chat", "viking", "tekken", "gpt-4o", "llama4", "minimax-m2",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *tokenizer = open_file(byte_level(names[i]));
        EXPECT(tokenizer != NULL);
        if (tokenizer == NULL)
            continue;
        const char *name = tokenizer_gguf_pre(tokenizer);
        EXPECT(name != NULL);
        struct tokenizer *again = open_file(byte_level(name != NULL ? name : ""));
        EXPECT_TEXT(again != NULL ? tokenizer_key(again) : NULL, tokenizer_key(tokenizer));
        expect_ids(tokenizer, "ab1 b", 0, "4 2 3 1");
        tokenizer_close(again);
        tokenizer_close(tokenizer);
    }
    static const char *const bad[] = { "", "llama", "gpt", "phi-2 mpt", "qwen2 " };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        stderr_hold();
        EXPECT(open_file(byte_level(bad[i])) == NULL);
        char *line = memory_printf("%s: cannot use tokenizer \"test\": the pre-tokenizer \"%s\" is not known\n", log_program(),
                                   bad[i]);
        EXPECT_TEXT(stderr_release(), line);
        free(line);
    }
}

/* Goal: RoBERTa's has its tokens around a text and a pair, Llama-3's the begin token, GPT-2's none. */
static void test_around(void)
{
    static const struct { const char *pre, *ids; } cases[] = {
        { "roberta-bpe", "5 4 6" }, { "llama-bpe", "5 4" }, { "gpt-2", "4" },
    };
    for (size_t i = 0; i < 3; i++) {
        struct tokenizer *tokenizer = open_file(byte_level(cases[i].pre));
        expect_ids(tokenizer, "ab", ENCODE_SPECIAL, cases[i].ids);
        tokenizer_close(tokenizer);
    }
    struct tokenizer *roberta = open_file(byte_level("roberta-bpe"));
    struct token_list ids = { 0 };
    static const int32_t expected[] = { 5, 0, 6, 6, 1, 6 };
    EXPECT(roberta != NULL);
    if (roberta != NULL)
        tokenizer_encode_pair(roberta, "a", 1, "b", 1, &ids, NULL);
    EXPECT(ids.count == 6 && memcmp(ids.at, expected, sizeof expected) == 0);
    free(ids.at);
    tokenizer_close(roberta);
}

/* ---- WordPiece and Unigram ---- */

static struct buffer wordpieces(const char *first)
{
    const char *const tokens[] = { "[UNK]", "[CLS]", "[SEP]", first, "c", MARK "ab", MARK "!", "[x]" };
    struct buffer file = { 0 };
    put_header(&file, 3, 0, 2);
    put_key_text(&file, KEY("model"), "bert");
    put_texts(&file, KEY("tokens"), tokens, 8);
    return file;
}

/* Goal: pieces with U+2581 begin words, others continue them; capitals are kept by a model whose pieces have some. */
static void test_wordpiece(void)
{
    struct tokenizer *lower = open_file(wordpieces(MARK "a")), *cased = open_file(wordpieces(MARK "A"));
    expect_ids(lower, "AbC! a", ENCODE_SPECIAL, "1 5 4 6 3 2");
    expect_ids(cased, "abC A abc", 0, "0 3 5 4");
    EXPECT_TEXT(lower->vocabulary.pieces[4].at, "##c");
    EXPECT_TEXT(lower->vocabulary.pieces[5].at, "ab");
    EXPECT_TEXT(lower->vocabulary.pieces[7].at, "[x]");
    tokenizer_close(lower);
    tokenizer_close(cased);
}

struct unigram_file {
    uint32_t types_count, charsmap_type;
    int32_t last_type;
    float last_score;
    bool scores, charsmap;
};

static struct buffer unigram(struct unigram_file options)
{
    static const char *const tokens[] = { "<pad>", "</s>", "<unk>", MARK, "a", "ab" };
    const float scores[] = { 0, 0, 0, -3, -2, options.last_score };
    const int32_t types[] = { 3, 3, 2, 1, 1, options.last_type };
    struct buffer file = { 0 };
    put_header(&file, 3, 0, 4u + options.scores + options.charsmap);
    put_key_text(&file, KEY("model"), "t5");
    put_texts(&file, KEY("tokens"), tokens, 6);
    put_numbers(&file, KEY("token_type"), GGUF_I32, types, options.types_count);
    put_key(&file, KEY("remove_extra_whitespaces"), GGUF_BOOL);
    buffer_append(&file, "\1", 1);
    if (options.scores)
        put_numbers(&file, KEY("scores"), GGUF_F32, scores, 6);
    if (options.charsmap)
        put_numbers(&file, KEY("precompiled_charsmap"), options.charsmap_type, "\xff\xff\xff\xff", options.charsmap_type == GGUF_I8
                    ? 4 : 1);
    return file;
}

static const struct unigram_file good_unigram = { .types_count = 6, .last_type = 1, .last_score = -3, .scores = true };

static void expect_refused(struct unigram_file options, const char *message)
{
    stderr_hold();
    struct tokenizer *tokenizer = open_file(unigram(options));
    const char *said = stderr_release();
    EXPECT(tokenizer == NULL && strstr(said, message) != NULL && strchr(said, '\n') == said + strlen(said) - 1);
    tokenizer_close(tokenizer);
}

/* Goal: T5's kind: Viterbi, spaces taken away, the end token behind a text; each array that is wrong has its line. */
static void test_unigram(void)
{
    struct tokenizer *tokenizer = open_file(unigram(good_unigram));
    expect_ids(tokenizer, "  ab   a ", ENCODE_SPECIAL, "3 5 3 4 1");
    expect_ids(tokenizer, "", ENCODE_SPECIAL, "1");
    EXPECT_INT(tokenizer_end(tokenizer), 1);
    EXPECT_INT(tokenizer_begin(tokenizer), -1);
    tokenizer_close(tokenizer);

    struct unigram_file bad = good_unigram;
    bad.scores = false;
    expect_refused(bad, "it has no tokenizer.ggml.scores");
    bad = good_unigram, bad.types_count = 5;
    expect_refused(bad, "tokenizer.ggml.token_type has 5 elements of type 5, expected 6 of type 5");
    bad = good_unigram, bad.last_type = 7;
    expect_refused(bad, "token 5 has type 7, must be 0 .. 6");
    bad = good_unigram, bad.last_type = -1;
    expect_refused(bad, "token 5 has type -1, must be 0 .. 6");
    bad = good_unigram, bad.last_score = NAN;
    expect_refused(bad, "the score of token 5 is not finite");
    bad = good_unigram, bad.charsmap = true, bad.charsmap_type = GGUF_I8;
    expect_refused(bad, "its precompiled_charsmap is bad: ");
    bad = good_unigram, bad.charsmap = true, bad.charsmap_type = GGUF_I32;
    expect_refused(bad, "its tokenizer.ggml.precompiled_charsmap is no array of bytes");
}

int main(void)
{
    log_open("test_tokenizer_gguf", -1);
    RUN(test_pre_names);
    RUN(test_chat_template);
    RUN(test_around);
    RUN(test_wordpiece);
    RUN(test_unigram);
    return tests_end();
}
