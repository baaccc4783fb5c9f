/* test_sentencepiece.c - *.model and vocab.txt files on small cases worked by hand, and whatever is wrong with one. */
#include "../check.h"
#include "base/log.h"
#include "stderr_text.h"
#include "text/sentencepiece.h"
#include "token_text.h"

#define MARK "\xe2\x96\x81"

/* ---- protocol buffers, written piece by piece ---- */

static void put_varint(struct buffer *out, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        buffer_append(out, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

static void put_number(struct buffer *out, unsigned field, uint64_t value)
{
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_bytes(struct buffer *out, unsigned field, const void *data, size_t size)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, size);
    buffer_append(out, data, size);
}

static void put_piece(struct buffer *out, const char *text, float score, int type)
{
    struct buffer piece = { 0 };
    put_bytes(&piece, 1, text, strlen(text));
    put_varint(&piece, 2 << 3 | 5);
    buffer_append(&piece, &score, sizeof score);
    if (type != PIECE_NORMAL)
        put_number(&piece, 3, (uint64_t)type);
    put_bytes(out, 1, piece.data, piece.size);
    free(piece.data);
}

struct small {
    int type;                  // 1 Unigram, 2 BPE
    bool prefix, remove, escape, bytes;
};

static void put_specs(struct buffer *out, struct small small)
{
    struct buffer spec = { 0 };
    put_number(&spec, 3, (uint64_t)small.type);
    put_number(&spec, 35, small.bytes);
    put_number(&spec, 43, UINT64_MAX);  // pad_id -1, ten bytes long
    put_bytes(out, 2, spec.data, spec.size);
    spec.size = 0;
    put_number(&spec, 3, small.prefix);
    put_number(&spec, 4, small.remove);
    put_number(&spec, 5, small.escape);
    put_bytes(out, 3, spec.data, spec.size);
    free(spec.data);
}

/* Ids: 0 <unk> 1 <s> 2 </s> 3 mark 4 a 5 b 6 ab 7 mark-a 8 mark-ab 9 <sep>, user-defined; then with bytes 10 and 11, of "é". */
static struct buffer small_model(struct small small)
{
    static const struct { const char *text; float score; int type; } pieces[] = {
        { "<unk>", 0, PIECE_UNKNOWN }, { "<s>", 0, PIECE_CONTROL }, { "</s>", 0, PIECE_CONTROL }, { MARK, -3, PIECE_NORMAL },
        { "a", -2, PIECE_NORMAL }, { "b", -2.5f, PIECE_NORMAL }, { "ab", -4, PIECE_NORMAL }, { MARK "a", -5.5f, PIECE_NORMAL },
        { MARK "ab", -8, PIECE_NORMAL }, { "<sep>", 0, PIECE_USER_DEFINED },
    };
    struct buffer out = { 0 };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(&out, pieces[i].text, pieces[i].score, pieces[i].type);
    if (small.bytes) {
        put_piece(&out, "<0xC3>", 0, PIECE_BYTE);
        put_piece(&out, "<0xA9>", 0, PIECE_BYTE);
    }
    put_specs(&out, small);
    return out;
}

/* Takes model. */
static struct tokenizer *open_model(struct buffer model)
{
    struct tokenizer *tokenizer = tokenizer_from_sentencepiece(model.data, model.size, "test");
    free(model.data);
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

/* ---- what models mean ---- */

/*
 * Goal: BPE joins the pair whose result scores highest first: "ab" (-4) before mark-a (-5.5); every stretch of text has a space
 * before it and keeps its own; unknown neighbours are one, or their bytes.
 */
static void test_bpe(void)
{
    struct tokenizer *tokenizer = open_model(small_model((struct small){ 2, true, true, true, true }));
    expect_ids(tokenizer, "", ENCODE_SPECIAL, "1");
    expect_ids(tokenizer, "ab", ENCODE_SPECIAL, "1 8");
    expect_ids(tokenizer, "aab", 0, "7 6");
    expect_ids(tokenizer, " a ", 0, "3 7 3");
    expect_ids(tokenizer, "\xc3\xa9xx", 0, "3 10 11 0");
    expect_ids(tokenizer, "a<sep>a</s>b", ENCODE_MARKUP, "7 9 7 2 3 5");
    expect_ids(tokenizer, "a<sep>", 0, "7 9");
    EXPECT_INT(tokenizer_begin(tokenizer), 1);
    EXPECT_INT(tokenizer_end(tokenizer), 2);
    EXPECT(tokenizer_is_special(tokenizer, 0) && tokenizer_is_special(tokenizer, 2) && !tokenizer_is_special(tokenizer, 9));
    tokenizer_close(tokenizer);

    tokenizer = open_model(small_model((struct small){ 2, false, false, true, false }));
    expect_ids(tokenizer, "ab a", 0, "6 7");
    expect_ids(tokenizer, "\xc3\xa9xx", 0, "0");
    tokenizer_close(tokenizer);
}

/*
 * Goal: Unigram takes the highest sum: mark a b is -7.5, mark-a b -8, mark ab -7, mark-ab -8, so "ab" is mark ab.  Spaces at the
 * ends go, runs become one; nothing stands around a text.
 */
static void test_unigram(void)
{
    struct tokenizer *tokenizer = open_model(small_model((struct small){ 1, true, true, true, false }));
    expect_ids(tokenizer, "ab", ENCODE_SPECIAL, "3 6");
    expect_ids(tokenizer, "  ab   a ", ENCODE_SPECIAL, "3 6 3 4");
    expect_ids(tokenizer, " ", 0, "");
    expect_ids(tokenizer, MARK "a" MARK " ", 0, "3 3 4");  // the package takes U+2581 for a space at the end only
    expect_ids(tokenizer, "axyb", 0, "3 4 0 5");
    tokenizer_close(tokenizer);

    tokenizer = open_model(small_model((struct small){ 1, false, false, true, true }));
    expect_ids(tokenizer, "a  \xc3\xa9 ", 0, "4 3 3 10 11 3");
    tokenizer_close(tokenizer);

    tokenizer = open_model(small_model((struct small){ 1, true, true, false, false }));  // a space is no piece of it
    expect_ids(tokenizer, "ab  a", 0, "0 6 0 4");
    tokenizer_close(tokenizer);
}

/* Goal: fields that nobody knows are passed over, later ones override, in whatever order they come. */
static void test_order_of_fields(void)
{
    struct buffer model = { 0 }, unknown = { 0 };
    put_bytes(&unknown, 200, "whatever", 8);
    put_number(&unknown, 201, 1234567890123);
    put_varint(&unknown, 202 << 3 | 1);
    buffer_append(&unknown, "12345678", 8);
    put_varint(&unknown, 203 << 3 | 5);
    buffer_append(&unknown, "1234", 4);
    put_specs(&model, (struct small){ 1, false, false, false, true });
    buffer_append(&model, unknown.data, unknown.size);
    struct buffer rest = small_model((struct small){ 2, true, true, true, true });
    buffer_append(&model, rest.data, rest.size);
    buffer_append(&model, unknown.data, unknown.size);
    struct tokenizer *tokenizer = open_model(model), *plain = open_model(rest);
    EXPECT(tokenizer != NULL && plain != NULL);
    if (tokenizer != NULL && plain != NULL)
        EXPECT_TEXT(tokenizer_key(tokenizer), tokenizer_key(plain));
    tokenizer_close(tokenizer);
    tokenizer_close(plain);
    free(unknown.data);
}

/* ---- what is wrong with them ---- */

/* Takes model. */
static void expect_refused(struct buffer model, const char *message)
{
    char *line = memory_printf("%s: cannot use tokenizer \"test\": %s\n", log_program(), message);
    stderr_hold();
    struct tokenizer *tokenizer = open_model(model);
    EXPECT_TEXT(stderr_release(), line);
    EXPECT(tokenizer == NULL);
    tokenizer_close(tokenizer);
    free(line);
}

static struct buffer with_bytes(const char *data, size_t size)
{
    struct buffer model = small_model((struct small){ 2, true, true, true, true });
    buffer_append(&model, data, size);
    return model;
}

static struct buffer with_piece(const char *text, float score, int type)
{
    struct buffer model = small_model((struct small){ 2, true, true, true, true });
    put_piece(&model, text, score, type);
    return model;
}

static struct buffer with_trainer(unsigned field, uint64_t value)
{
    struct buffer model = small_model((struct small){ 2, true, true, true, true }), spec = { 0 };
    put_number(&spec, field, value);
    put_bytes(&model, 2, spec.data, spec.size);
    free(spec.data);
    return model;
}

/* Goal: each way in which the wire can be broken has its line: what, after how many pieces. */
static void test_broken_wire(void)
{
    static const char no_model[] = "no SentencePiece model: after 12 pieces, the file ";
    static const struct { const char *bytes; size_t size; const char *trouble; } cases[] = {
        { "\x80", 1, "ends inside a number" },
        { "\x0a", 1, "ends inside a number" },
        { "\x0a\x05", 2, "ends inside a field" },
        { "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "ends inside a field" },  // 2^64 - 1 bytes
        { "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, "holds a number of more than 64 bits" },
        { "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11, "holds a number of more than 64 bits" },
        { "\x03", 1, "has a field of no valid number" },
        { "\x0b", 1, "has a field of an unknown wire type" },
        { "\x0c", 1, "has a field of an unknown wire type" },
        { "\x0f", 1, "has a field of an unknown wire type" },
        { "\x08\x01", 2, "has a field of another wire type than SentencePiece's" },
        { "\x15\x01\x02\x03", 4, "ends inside a field" },
        { "\x11\x01\x02\x03\x04\x05\x06\x07", 8, "ends inside a field" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *message = memory_printf("%s%s", no_model, cases[i].trouble);
        expect_refused(with_bytes(cases[i].bytes, cases[i].size), message);
        free(message);
    }
    expect_refused(with_bytes("\x0a\x02\x0a\x05", 4), "no SentencePiece model: after 12 pieces, a piece ends inside a field");
    expect_refused(with_bytes("\x0a\x02\x10\x05", 4),
                   "no SentencePiece model: after 12 pieces, a piece has a field of another wire type than SentencePiece's");
    expect_refused(with_bytes("\x12\x01\x18", 3), "no SentencePiece model: after 12 pieces, trainer_spec ends inside a number");
    expect_refused(with_bytes("\x1a\x02\x12\x01", 4),
                   "no SentencePiece model: after 12 pieces, normalizer_spec ends inside a field");
}

/* Goal: a file that is well-formed and no tokenizer of ours says why. */
static void test_bad_models(void)
{
    expect_refused((struct buffer){ 0 }, "no SentencePiece model: it has no pieces");
    expect_refused(with_piece("", 0, PIECE_NORMAL), "no SentencePiece model: after 12 pieces, a piece has no text");
    expect_refused(with_piece("ab", 0, PIECE_NORMAL), "tokens 6 and 12 are both \"ab\"");
    expect_refused(with_piece("\xff", 0, PIECE_NORMAL), "token 12 is no UTF-8 text without NUL of at most 65536 bytes");
    expect_refused(with_piece("c", NAN, PIECE_NORMAL), "the score of token 12 is not finite");
    expect_refused(with_piece("c", -INFINITY, PIECE_NORMAL), "the score of token 12 is not finite");
    expect_refused(with_piece("c", 0, 7), "piece 12 has type 7, must be 1 .. 6");
    expect_refused(with_piece("c", 0, 0), "piece 12 has type 0, must be 1 .. 6");
    expect_refused(with_piece("c", 0, PIECE_UNKNOWN), "tokens 0 and 12 are both the unknown one");
    expect_refused(with_trainer(3, 3), "the model type 3 (WORD) is not supported, UNIGRAM and BPE are");
    expect_refused(with_trainer(3, 4), "the model type 4 (CHAR) is not supported, UNIGRAM and BPE are");
    expect_refused(with_trainer(3, 99), "the model type 99 is not supported, UNIGRAM and BPE are");
    expect_refused(with_trainer(24, 1), "pieces that end with their space, treat_whitespace_as_suffix, are not supported");
    struct buffer known = { 0 };
    put_piece(&known, "a", 0, PIECE_NORMAL);
    expect_refused(known, "it has no unknown piece");
    struct buffer model = small_model((struct small){ 1, true, true, true, true });
    put_bytes(&model, 3, "\x12\x04\xff\xff\xff\xff", 6);  // a character map of four bytes
    stderr_hold();
    struct tokenizer *tokenizer = open_model(model);
    EXPECT(strstr(stderr_release(), "its precompiled_charsmap is bad: ") != NULL);
    EXPECT(tokenizer == NULL);
    tokenizer_close(tokenizer);
}

static size_t line_count(const char *text)
{
    size_t lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

/* Goal: every beginning of a model, and every byte of it changed, gives a tokenizer or exactly one line. */
static void test_truncations_and_changes(void)
{
    struct buffer model = small_model((struct small){ 1, true, true, true, true });
    for (size_t at = 0; at < model.size; at++) {
        for (int change = -1; change < 5; change++) {
            static const unsigned char values[] = { 0, 1, 0x7f, 0x80, 0xff };
            size_t size = change < 0 ? at : model.size;
            char *copy = malloc(size ? size : 1);  // its own allocation, so that a sanitizer sees the first byte past it
            memcpy(copy, model.data, size);
            if (change >= 0)
                copy[at] = (char)values[change];
            stderr_hold();
            struct tokenizer *tokenizer = tokenizer_from_sentencepiece(copy, size, "test");
            const char *said = stderr_release();
            EXPECT_INT(line_count(said), tokenizer == NULL);
            if (tokenizer != NULL) {
                tokenizer_finish(tokenizer);
                struct token_list ids = { 0 };
                tokenizer_encode(tokenizer, "ab <sep> \xc3\xa9", 11, ENCODE_SPECIAL | ENCODE_MARKUP, &ids);
                free(ids.at);
            }
            tokenizer_close(tokenizer);
            free(copy);
        }
    }
    free(model.data);
}

/* ---- vocab.txt ---- */

static struct tokenizer *open_vocabulary(const char *text, bool lowercase)
{
    struct tokenizer *tokenizer = tokenizer_from_vocabulary(text, strlen(text), lowercase, "test");
    if (tokenizer != NULL)
        tokenizer_finish(tokenizer);
    return tokenizer;
}

/* Goal: ids are lines, whichever way these end; lower case where asked for; what cannot be is one line. */
static void test_vocabulary(void)
{
    static const struct { const char *text, *message; } bad[] = {
        { "[UNK]\na\nb\na\n", "lines 2 and 4 are both \"a\"" },
        { "a\nb\n", "no vocabulary of BERT: none of its 2 lines is [UNK]" },
        { "", "no vocabulary of BERT: none of its 0 lines is [UNK]" },
        { "[UNK]\n[UNK]", "lines 1 and 2 are both \"[UNK]\"" },
        { "[UNK]\na\xff", "token 1 is no UTF-8 text without NUL of at most 65536 bytes" },
    };
    static const char *const good[] = { "[UNK]\n[CLS]\n[SEP]\nab\n##c\nA\n", "[UNK]\r\n[CLS]\r\n[SEP]\r\nab\r\n##c\r\nA" };
    for (size_t i = 0; i < 2; i++) {
        struct tokenizer *lower = open_vocabulary(good[i], true), *cased = open_vocabulary(good[i], false);
        expect_ids(lower, "AbC x", ENCODE_SPECIAL, "1 3 4 0 2");
        expect_ids(cased, "abc A", 0, "3 4 5");
        expect_ids(lower, "A[SEP]", ENCODE_MARKUP, "0 2");
        tokenizer_close(lower);
        tokenizer_close(cased);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *line = memory_printf("%s: cannot use tokenizer \"test\": %s\n", log_program(), bad[i].message);
        stderr_hold();
        EXPECT(open_vocabulary(bad[i].text, true) == NULL);
        EXPECT_TEXT(stderr_release(), line);
        free(line);
    }
}

int main(void)
{
    log_open("test_sentencepiece", -1);
    RUN(test_bpe);
    RUN(test_unigram);
    RUN(test_order_of_fields);
    RUN(test_broken_wire);
    RUN(test_bad_models);
    RUN(test_truncations_and_changes);
    RUN(test_vocabulary);
    return tests_end();
}
