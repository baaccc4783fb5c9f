/* test_quants.c - quantised blocks against what gguf and bitsandbytes read and write (make_quants.py). */
#include "../check.h"

#include <stdint.h>

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "math/kernels.h"
#include "math/quant.h"

static json_t *fixture;

static struct buffer bytes_from_hex(const json_t *text)
{
    struct buffer bytes = { 0 };
    for (const char *hex = json_string_value(text); hex[0] != '\0'; hex += 2) {
        unsigned value = 0;
        sscanf(hex, "%2x", &value);
        buffer_append(&bytes, &(char){ (char)value }, 1);
    }
    return bytes;
}

static enum tensor_type type_named(const char *name)
{
    enum tensor_type type = 0;
    while (strcmp(tensor_formats[type].name, name) != 0)
        type++;
    return type;
}

/* Rows of a file, row_bytes apart, as a packed weight (N, K). */
static struct packed packed_from_file(enum tensor_type type, const char *rows, size_t row_bytes, size_t N, size_t K)
{
    struct packed packed;
    packed_init(&packed, type, N, K);
    for (size_t panel = 0; panel < packed_panels(&packed); panel++) {
        const void *from[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && panel * PANEL + i < N; i++)
            from[i] = rows + (panel * PANEL + i) * row_bytes;
        packed_set_panel(&packed, panel, from);
    }
    return packed;
}

/* Goal: the blocks of every type mean gguf's numbers to the bit, read as they are and from a panel. */
static void test_blocks_mean_what_gguf_reads(void)
{
    const char *name;
    json_t *one;
    size_t types = 0;
    json_object_foreach(json_object_get(fixture, "read"), name, one) {
        enum tensor_type type = type_named(name);
        const struct tensor_format *format = &tensor_formats[type];
        struct buffer blocks = bytes_from_hex(json_object_get(one, "blocks"));
        struct buffer expected = bytes_from_hex(json_object_get(one, "numbers"));
        size_t count = expected.size / 4, N = blocks.size / format->block_bytes, K = format->block_elements;
        EXPECT_INT(count, N * K);
        float *out = memory_alloc(count, sizeof *out);
        format->read(out, (const unsigned char *)blocks.data, count);
        if (memcmp(out, expected.data, expected.size) != 0)
            TEST_FAIL("%s reads otherwise", name);
        struct packed packed = packed_from_file(type, blocks.data, format->block_bytes, N, K);
        for (size_t n = 0; n < N; n++)
            packed_get_row(&packed, n, out + n * K);
        if (memcmp(out, expected.data, expected.size) != 0)
            TEST_FAIL("%s reads otherwise from a panel", name);
        packed_free(&packed);
        packed = packed_from_file(type, blocks.data, blocks.size, 1, count);  // one row of many blocks
        packed_get_row(&packed, 0, out);
        if (memcmp(out, expected.data, expected.size) != 0)
            TEST_FAIL("%s reads otherwise from a row of many blocks", name);
        packed_free(&packed);
        free(out);
        free(expected.data);
        free(blocks.data);
        types++;
    }
    EXPECT_INT(types, 11);
}

/* Goal: rows rounded to Q8_0, Q4_0, F16 and BF16 are gguf's bytes, and a panel made from rows is one made from those bytes. */
static void test_rows_are_rounded_as_by_gguf(void)
{
    enum { N = 8, K = 320 };
    struct buffer rows = bytes_from_hex(json_object_get(fixture, "rows"));
    EXPECT_INT(rows.size, N * K * 4);
    const char *name;
    json_t *one;
    json_object_foreach(json_object_get(fixture, "quantised"), name, one) {
        enum tensor_type type = type_named(name);
        struct buffer expected = bytes_from_hex(one);
        size_t row_bytes = tensor_row_bytes(type, K);
        unsigned char *out = memory_alloc(1, row_bytes);
        EXPECT_INT(expected.size, N * row_bytes);
        const float *from[PANEL] = { NULL };
        for (size_t n = 0; n < N; n++) {
            from[n] = (const float *)(const void *)rows.data + n * K;
            quant_row(type, out, from[n], K);
            if (memcmp(out, expected.data + n * row_bytes, row_bytes) != 0)
                TEST_FAIL("row %zu is rounded otherwise to %s", n, name);
        }
        struct packed packed = packed_from_file(type, expected.data, row_bytes, N, K), rounded;
        packed_init(&rounded, type, N, K);
        packed_quantise_panel(&rounded, 0, from);
        EXPECT(memcmp(packed.data, rounded.data, packed.panel_bytes) == 0);
        packed_free(&rounded);
        packed_free(&packed);
        free(out);
        free(expected.data);
    }
    free(rows.data);
}

/*
 * Goal: NF4 has bitsandbytes's codes, its numbers up to the second quantisation (an 8-bit step of absmax, half a step off at most),
 * and no greater error than its double quantisation.
 */
static void test_nf4_against_bitsandbytes(void)
{
    enum { K = 2048, BLOCKS = K / 64 };
    const json_t *nf4 = json_object_get(fixture, "nf4");
    struct buffer row = bytes_from_hex(json_object_get(nf4, "row")), numbers = bytes_from_hex(json_object_get(nf4, "numbers"));
    const float *x = (const float *)(const void *)row.data, *expected = (const float *)(const void *)numbers.data;
    const char *codes = json_string_value(json_object_get(nf4, "codes"));
    unsigned char *out = memory_alloc(1, tensor_row_bytes(TENSOR_NF4, K));
    quant_row(TENSOR_NF4, out, x, K);
    float scale;
    memcpy(&scale, out, 4);
    for (size_t b = 0; b < BLOCKS; b++) {
        struct quant_block block;
        quant_block_unpack(&block, TENSOR_NF4, out + NF4_HEADER_BYTES + b * 33);
        for (size_t e = 0; e < 64; e++) {
            char digit[2] = { codes[b * 64 + e], '\0' };
            EXPECT_INT(block.code[e], strtol(digit, NULL, 16));
        }
    }
    struct packed packed;
    float *read = memory_alloc(K, sizeof *read);
    packed_init(&packed, TENSOR_NF4, 1, K);
    packed_quantise_panel(&packed, 0, (const float *const[PANEL]){ x });
    packed_get_row(&packed, 0, read);
    double squares = 0.0;
    for (size_t k = 0; k < K; k++) {
        EXPECT_NEAR(read[k], expected[k], 0.5001 * (double)scale);
        squares += ((double)read[k] - (double)x[k]) * ((double)read[k] - (double)x[k]);
    }
    EXPECT(sqrt(squares / K) <= 1.001 * json_number_value(json_object_get(nf4, "nested_error")));
    packed_free(&packed);
    free(read);
    free(out);
    free(numbers.data);
    free(row.data);
}

int main(void)
{
    fixture = json_read("tests/parity/quants.json");
    if (fixture == NULL)
        return 1;
    RUN(test_blocks_mean_what_gguf_reads);
    RUN(test_rows_are_rounded_as_by_gguf);
    RUN(test_nf4_against_bitsandbytes);
    json_decref(fixture);
    return tests_end();
}
