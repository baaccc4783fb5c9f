/* test_tensor_type.c - element types and their blocks, with numbers worked by hand. */
#include "../check.h"

#include <stdint.h>

#include "base/check.h"
#include "math/quant.h"
#include "math/tensor_type.h"

/* Goal: ggml's numbers name the types that are supported and no others. */
static void test_types_from_gguf(void)
{
    static const struct { uint32_t number; const char *name; } known[] = {
        { 0, "F32" }, { 1, "F16" }, { 2, "Q4_0" }, { 3, "Q4_1" }, { 6, "Q5_0" }, { 7, "Q5_1" }, { 8, "Q8_0" }, { 10, "Q2_K" },
        { 11, "Q3_K" }, { 12, "Q4_K" }, { 13, "Q5_K" }, { 14, "Q6_K" }, { 20, "IQ4_NL" }, { 30, "BF16" },
    };
    size_t found = 0;
    enum tensor_type type;
    for (uint32_t number = 0; number < 1000; number++) {
        if (!tensor_type_from_gguf(number, &type))
            continue;
        EXPECT(found < COUNT_OF(known) && known[found].number == number);
        EXPECT_TEXT(tensor_formats[type].name, known[found].name);
        found++;
    }
    EXPECT_INT(found, COUNT_OF(known));
    EXPECT(!tensor_type_from_gguf(UINT32_MAX, &type));
}

/* Goal: rows are whole blocks; of NF4, after two floats. */
static void test_row_bytes(void)
{
    EXPECT_INT(tensor_row_bytes(TENSOR_F32, 7), 28);
    EXPECT_INT(tensor_row_bytes(TENSOR_BF16, 7), 14);
    EXPECT_INT(tensor_row_bytes(TENSOR_Q8_0, 32), 34);
    EXPECT_INT(tensor_row_bytes(TENSOR_Q8_0, 33), 68);
    EXPECT_INT(tensor_row_bytes(TENSOR_Q6_K, 512), 420);
    EXPECT_INT(tensor_row_bytes(TENSOR_NF4, 65), 8 + 2 * 33);
    EXPECT_INT(tensor_row_bytes(TENSOR_Q4_K, 0), 0);
}

/* Goal: a Q4_0 block with d = 0.5: the low nibble of byte i is element i, the high one element 16 + i, 8 stands for 0. */
static void test_q4_0_by_hand(void)
{
    unsigned char block[18] = { 0x00, 0x38, 0x08, 0xf0, 0x97 };  // F16 0.5; 8 and 0; 0 and 15; 7 and 9
    float out[32];
    tensor_formats[TENSOR_Q4_0].read(out, block, 32);
    EXPECT_NEAR(out[0], 0.0, 0.0);
    EXPECT_NEAR(out[16], -4.0, 0.0);
    EXPECT_NEAR(out[1], -4.0, 0.0);
    EXPECT_NEAR(out[17], 3.5, 0.0);
    EXPECT_NEAR(out[2], -0.5, 0.0);
    EXPECT_NEAR(out[18], 0.5, 0.0);
}

/* Goal: a Q4_K block with d = 1, dmin = 0.5: group 0 has scale 3, min 2; group 4 scale 16 + 5, min 32 + 6 from three bytes. */
static void test_q4_k_by_hand(void)
{
    unsigned char block[144] = { 0x00, 0x3c, 0x00, 0x38 };
    unsigned char *scales = block + 4, *codes = block + 16;
    scales[0] = 3 | 1 << 6;  // group 0, and the top bits of group 4's scale
    scales[4] = 2 | 2 << 6;  // its min, and the top bits of group 4's min
    scales[8] = 5 | 6 << 4;  // the rest of group 4
    codes[0] = 7;            // element 0
    codes[64] = 9;           // element 128, the first of group 4
    float out[256];
    tensor_formats[TENSOR_Q4_K].read(out, block, 256);
    EXPECT_NEAR(out[0], 3 * 7 - 0.5 * 2, 0.0);
    EXPECT_NEAR(out[1], -0.5 * 2, 0.0);
    EXPECT_NEAR(out[128], 21 * 9 - 0.5 * 38, 0.0);
    EXPECT_NEAR(out[32], 0.0, 0.0);
}

/* Goal: a row that ends inside a block is rounded as if zeros followed, and NF4 gives back its scale, offset and levels. */
static void test_row_ends_inside_a_block(void)
{
    float row[70], out[64];
    unsigned char bytes[2 * 34];
    for (size_t k = 0; k < 70; k++)
        row[k] = k < 64 ? (k % 2 ? 2.0f : -2.0f) : 1.0f;
    quant_row(TENSOR_Q8_0, bytes, row, 33);
    tensor_formats[TENSOR_Q8_0].read(out, bytes, 64);
    EXPECT_NEAR(out[32], -2.0, 2e-3);
    for (size_t k = 33; k < 64; k++)
        EXPECT(out[k] == 0.0f);

    unsigned char nf4[8 + 2 * 33];
    quant_row(TENSOR_NF4, nf4, row, 70);
    float scale, offset;
    memcpy(&scale, nf4, 4);
    memcpy(&offset, nf4 + 4, 4);
    EXPECT_NEAR(offset, 1.5, 0.0);  // the mean of 2 and 1
    EXPECT_NEAR(scale, 0.5 / 127.0, 2e-7);  // 16 bits of mantissa
    EXPECT_INT((int8_t)nf4[8], 127);
    EXPECT_INT((int8_t)nf4[8 + 33], -127);
    EXPECT_INT(nf4[8 + 1], 0x00);        // elements 0 and 32: -1
    EXPECT_INT(nf4[8 + 2], 0xff);        // elements 1 and 33: 1
    EXPECT_INT(nf4[8 + 33 + 1], 0x7f);   // 1, and beyond the row 0
}

int main(void)
{
    RUN(test_types_from_gguf);
    RUN(test_row_bytes);
    RUN(test_q4_0_by_hand);
    RUN(test_q4_k_by_hand);
    RUN(test_row_ends_inside_a_block);
    return tests_end();
}
