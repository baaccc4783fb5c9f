/* test_gguf.c - GGUF files: what a valid one gives, and that every lie in one is refused. */
#include <stdint.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/gguf.h"
#include "../check.h"
#include "gguf_builder.h"

static bool is_refused(struct buffer *file)
{
    struct gguf *gguf = gguf_from_memory(file->data, file->size, "made");
    gguf_close(gguf);
    free(file->data);
    *file = (struct buffer){ 0 };
    return gguf == NULL;
}

/* Seven values and two tensors with alignment 8; the positions of some fields for damage. */
struct places { size_t alignment, text_size, array_type, array_count, rank, extent, type, offset; };

static struct buffer make_file(struct places *places)
{
    struct buffer file = { 0 };
    put_header(&file, 3, 2, 7);
    put_key(&file, "general.alignment", GGUF_U32);
    places->alignment = file.size;
    put_u32(&file, 8);
    put_key(&file, "general.architecture", GGUF_TEXT);
    places->text_size = file.size;
    put_text(&file, "llama");
    put_key(&file, "flag", GGUF_BOOL);
    buffer_append(&file, "\1", 1);
    put_key(&file, "wide", GGUF_U64);
    put_u64(&file, UINT64_MAX);
    put_key_f32(&file, "base", 0.5f);
    put_key(&file, "tokens", GGUF_ARRAY);
    places->array_type = file.size;
    put_u32(&file, GGUF_TEXT);
    places->array_count = file.size;
    put_u64(&file, 2);
    put_text(&file, "ab");
    put_text(&file, "");
    put_key(&file, "kinds", GGUF_ARRAY);
    put_u32(&file, GGUF_I32);
    put_u64(&file, 3);
    for (uint32_t i = 0; i < 3; i++)
        put_u32(&file, i);

    size_t first = file.size;
    put_tensor(&file, "one", 2, 3, 0, 0);   // 24 bytes of F32
    places->rank = first + 8 + 3;
    places->extent = places->rank + 4;
    places->type = places->extent + 16;
    places->offset = places->type + 4;
    put_tensor(&file, "two", 1, 4, 1, 24);  // 8 bytes of F16
    put_padding(&file, 8);
    for (int i = 0; i < 6; i++)
        put_f32(&file, (float)i);
    put_u64(&file, 0x3c003c003c003c00);     // four times 1.0
    return file;
}

/* ---- what a valid file gives ---- */

/* Goal: every kind of value comes back, and asking for another kind or another key gives nothing. */
static void test_values_come_back(void)
{
    struct places places;
    struct buffer file = make_file(&places);
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "made");
    EXPECT(gguf != NULL);

    struct gguf_text text = { 0 };
    EXPECT(gguf_text(gguf, "general.architecture", &text));
    EXPECT_TEXT(text.at, "llama");
    int64_t integer = -7;
    EXPECT(gguf_integer(gguf, "flag", &integer));
    EXPECT_INT(integer, 1);
    EXPECT(!gguf_integer(gguf, "wide", &integer));  // beyond int64_t
    EXPECT(!gguf_integer(gguf, "general.architecture", &integer));
    EXPECT(!gguf_integer(gguf, "none", &integer));
    EXPECT_INT(integer, 1);
    double number = 0;
    EXPECT(gguf_number(gguf, "base", &number));
    EXPECT_NEAR(number, 0.5, 0);
    EXPECT(gguf_number(gguf, "general.alignment", &number));
    EXPECT_NEAR(number, 8, 0);
    struct gguf_array array;
    EXPECT(gguf_array(gguf, "tokens", &array));
    EXPECT_INT(array.count, 2);
    EXPECT_INT(array.texts[0].size, 2);
    EXPECT(memcmp(array.texts[0].at, "ab", 2) == 0);
    EXPECT_INT(array.texts[1].size, 0);
    EXPECT(gguf_array(gguf, "kinds", &array));
    EXPECT_INT(array.type, GGUF_I32);
    EXPECT(memcmp(array.data, ((int32_t[]){ 0, 1, 2 }), 12) == 0);
    gguf_close(gguf);
    free(file.data);
}

/* Goal: shapes are turned round, and data lies where offset and alignment say. */
static void test_tensors_come_back(void)
{
    struct places places;
    struct buffer file = make_file(&places);
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "made");
    EXPECT_INT(gguf_tensor_count(gguf), 2);
    const struct gguf_tensor *one = gguf_tensor_at(gguf, 0), *two = gguf_tensor_at(gguf, 1);
    EXPECT_TEXT(one->name, "one");
    EXPECT_INT(one->rank, 2);
    EXPECT_INT(one->shape[0], 2);
    EXPECT_INT(one->shape[1], 3);
    EXPECT_INT(one->size_bytes, 24);
    EXPECT(memcmp(one->data, ((float[]){ 0, 1, 2, 3, 4, 5 }), 24) == 0);
    EXPECT_TEXT(gguf_type_name(two->type), "F16");
    EXPECT_INT(two->size_bytes, 8);
    EXPECT((const char *)two->data == file.data + file.size - 8);
    gguf_close(gguf);
    free(file.data);
}

/* Goal: version 2, which has the same layout, and a file without tensors are read. */
static void test_version_2_without_tensors(void)
{
    struct buffer file = { 0 };
    put_header(&file, 2, 0, 1);
    put_key(&file, "answer", GGUF_U8);
    buffer_append(&file, "*", 1);
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "made");
    int64_t integer = 0;
    EXPECT(gguf != NULL && gguf_integer(gguf, "answer", &integer));
    EXPECT_INT(integer, 42);
    gguf_close(gguf);
    free(file.data);
}

/* ---- what is refused ---- */

/* Goal: no beginning of a file is taken for a file, and none is read past its end. */
static void test_every_truncation_is_refused(void)
{
    struct places places;
    struct buffer file = make_file(&places);
    for (size_t size = 0; size < file.size; size++) {
        char *exact = malloc(size ? size : 1);  // its own block, so that a read past the end is seen
        memcpy(exact, file.data, size);
        struct gguf *gguf = gguf_from_memory(exact, size, "cut");
        if (gguf != NULL)
            TEST_FAIL("%zu of %zu bytes were accepted", size, file.size);
        gguf_close(gguf);
        free(exact);
    }
    free(file.data);
}

/* Goal: each field that can lie is caught, whether it is off by one or absurd. */
static void test_lies_are_refused(void)
{
    struct places at;
    struct buffer file = make_file(&at);
    free(file.data);
    const struct { const char *lie; size_t at; uint64_t number; size_t width; } lies[] = {
        { "magic", 0, 0x46554746, 4 },
        { "version 1", 4, 1, 4 },
        { "version 4", 4, 4, 4 },
        { "big-endian", 4, 0x03000000, 4 },
        { "one tensor more", 8, 3, 8 },
        { "too many tensors", 8, UINT64_MAX, 8 },
        { "one value more", 16, 8, 8 },
        { "one value less", 16, 6, 8 },
        { "too many values", 16, UINT64_MAX, 8 },
        { "empty key", 24, 0, 8 },
        { "endless key", 24, UINT64_MAX, 8 },
        { "control character in a key", 32, 1, 1 },
        { "alignment 0", at.alignment, 0, 4 },
        { "alignment 24", at.alignment, 24, 4 },
        { "huge alignment", at.alignment, 1u << 21, 4 },
        { "alignment that moves the data", at.alignment, 4096, 4 },
        { "unknown value type", at.alignment - 4, 13, 4 },
        { "endless text", at.text_size, UINT64_MAX, 8 },
        { "array of arrays", at.array_type, GGUF_ARRAY, 4 },
        { "array of unknown type", at.array_type, 13, 4 },
        { "endless array", at.array_count, UINT64_MAX / 8, 8 },
        { "rank 0", at.rank, 0, 4 },
        { "rank 5", at.rank, 5, 4 },
        { "empty dimension", at.extent, 0, 8 },
        { "negative dimension", at.extent, UINT64_MAX, 8 },
        { "shape that overflows", at.extent, (uint64_t)1 << 63 >> 1, 8 },
        { "shape one larger", at.extent, 4, 8 },          // now overlaps its neighbour
        { "tensor type without a row", at.type, 4, 4 },
        { "unknown tensor type", at.type, 99, 4 },
        { "row that is no whole block", at.type, 8, 4 },
        { "offset off the alignment", at.offset, 4, 8 },
        { "offset that reaches into the neighbour", at.offset, 8, 8 },
        { "offset beyond the file", at.offset, 1u << 20, 8 },
        { "offset that overflows", at.offset, UINT64_MAX - 7, 8 },
    };
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        struct buffer lying = make_file(&at);
        memcpy(lying.data + lies[i].at, &lies[i].number, lies[i].width);
        if (!is_refused(&lying))
            TEST_FAIL("%s was accepted", lies[i].lie);
    }
}

/* Goal: a key or a tensor name that appears twice is refused, since readers would disagree on which one counts. */
static void test_duplicates_are_refused(void)
{
    struct buffer file = { 0 };
    put_header(&file, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(&file, "same", GGUF_U8);
        buffer_append(&file, "1", 1);
    }
    EXPECT(is_refused(&file));

    put_header(&file, 3, 2, 0);
    put_tensor(&file, "same", 1, 8, 0, 0);
    put_tensor(&file, "same", 1, 8, 0, 32);
    put_padding(&file, 32);
    for (int i = 0; i < 8; i++)
        put_u64(&file, 0);
    EXPECT(is_refused(&file));
}

/* Goal: a key may have 65535 bytes and a tensor name 64, and not one more. */
static void test_names_have_limits(void)
{
    char *name = memory_alloc(65537, 1);
    memset(name, 'k', 65536);
    for (int over = 0; over < 2; over++) {
        struct buffer file = { 0 };
        name[65535 + over] = '\0';
        put_header(&file, 3, 0, 1);
        put_key(&file, name, GGUF_U8);
        buffer_append(&file, "1", 1);
        EXPECT_INT(is_refused(&file), over);
        name[65535 + over] = 'k';

        name[64 + over] = '\0';
        put_header(&file, 3, 1, 0);
        put_tensor(&file, name, 0, 8, 0, 0);
        put_padding(&file, 32);
        for (int i = 0; i < 8; i++)
            put_f32(&file, 0);
        EXPECT_INT(is_refused(&file), over);
        name[64 + over] = 'k';
    }
    free(name);
}

/* Goal: a missing file and a file of another kind have their own exit codes. */
static void test_open_says_which_trouble(void)
{
    int code = 0;
    EXPECT(gguf_open("tests/unit/none.gguf", &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    EXPECT(gguf_open("tests/unit/test_gguf.c", &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
}

/* Goal: a real file is read; the numbers are what the gguf Python package lists. */
static void test_real_file(void)
{
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("../shared/data is not here");
    int code = -1;
    struct gguf *gguf = gguf_open(path, &code);
    EXPECT_INT(code, EX_OK);
    if (gguf == NULL)
        return;
    EXPECT_INT(gguf_tensor_count(gguf), 48);
    int64_t integer = 0;
    EXPECT(gguf_integer(gguf, "llama.feed_forward_length", &integer));
    EXPECT_INT(integer, 172);
    struct gguf_array tokens;
    EXPECT(gguf_array(gguf, "tokenizer.ggml.tokens", &tokens));
    EXPECT_INT(tokens.count, 512);
    EXPECT(tokens.texts[1].size == 3 && memcmp(tokens.texts[1].at, "<s>", 3) == 0);
    gguf_close(gguf);
}

int main(void)
{
    log_open("test_gguf", -1);
    RUN(test_values_come_back);
    RUN(test_tensors_come_back);
    RUN(test_version_2_without_tensors);
    RUN(test_every_truncation_is_refused);
    RUN(test_lies_are_refused);
    RUN(test_duplicates_are_refused);
    RUN(test_names_have_limits);
    RUN(test_open_says_which_trouble);
    RUN(test_real_file);
    return tests_end();
}
