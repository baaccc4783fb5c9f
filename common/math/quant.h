/*
 * quant.h - quantised blocks taken apart and put together: codes, scales, and the numbers they stand for.
 *
 * Inside common/math: tensor_type.c reads blocks, packed.c and the kernels keep them in another order.
 *
 * Element e of group g of a block stands for
 *
 *   number = d * scale[g] * value(code[e]) + offset,   value(code) = levels[code] or code - bias,
 *
 * where offset is absent, m (types without scales) or -(m * min[g]).  For ggml's types every product is exact in float32: d has
 * 11 bits, scale and value at most 7, all together at most 23.  So a number is rounded once, whether sum and product are fused
 * or not, and d * scale * code + d * scale * -bias is the same number.
 *
 * NF4 is QLoRA's NormalFloat with double quantisation (arXiv 2305.14314): in blocks of 64, number = absmax * levels[code],
 * code chosen with the true absmax; then absmax = row offset + row scale * scale[0], where the offset is the mean of the row's
 * absmax and scale[0] is linear in 8 bits, -127 to 127.  (The paper's second quantisation has groups of 256 and 8-bit floats.)
 * The row's scale keeps 16 bits of mantissa, so that its product with 8 bits is exact.
 */
#ifndef MATH_QUANT_H
#define MATH_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "math/tensor_type.h"

enum { QUANT_ELEMENTS_MAX = 256, QUANT_GROUPS_MAX = 16, NF4_HEADER_BYTES = 8 };

extern const float quant_levels_iq4_nl[16], quant_levels_nf4[16];

struct quant_form {
    uint8_t low_bits, high_bits;  // a code is low | high << low_bits
    uint8_t group_elements;       // 0: a float type
    uint8_t bias;
    bool has_d, has_m, has_scales;
    uint16_t block_elements;
    const float *levels;          // of 4-bit codes; NULL: code - bias
};
/* Defined here, since the kernels compile it in. */
static const struct quant_form quant_forms[TENSOR_TYPE_COUNT] = {
    /*                low high group bias  d      m      scales block levels */
    [TENSOR_Q8_0]   = { 8, 0, 32, 128, true,  false, false,  32, NULL },
    [TENSOR_Q4_0]   = { 4, 0, 32,   8, true,  false, false,  32, NULL },
    [TENSOR_Q4_1]   = { 4, 0, 32,   0, true,  true,  false,  32, NULL },
    [TENSOR_Q5_0]   = { 4, 1, 32,  16, true,  false, false,  32, NULL },
    [TENSOR_Q5_1]   = { 4, 1, 32,   0, true,  true,  false,  32, NULL },
    [TENSOR_Q2_K]   = { 2, 0, 16,   0, true,  true,  true,  256, NULL },
    [TENSOR_Q3_K]   = { 2, 1, 16,   4, true,  false, true,  256, NULL },
    [TENSOR_Q4_K]   = { 4, 0, 32,   0, true,  true,  true,  256, NULL },
    [TENSOR_Q5_K]   = { 4, 1, 32,   0, true,  true,  true,  256, NULL },
    [TENSOR_Q6_K]   = { 4, 2, 16,  32, true,  false, true,  256, NULL },
    [TENSOR_IQ4_NL] = { 4, 0, 32,   0, true,  false, false,  32, quant_levels_iq4_nl },
    [TENSOR_NF4]    = { 4, 0, 64,   0, false, false, true,   64, quant_levels_nf4 },
};

struct quant_block {
    uint8_t code[QUANT_ELEMENTS_MAX];
    int8_t scale[QUANT_GROUPS_MAX];  // 1 where the type has none
    uint8_t min[QUANT_GROUPS_MAX];
    uint16_t d, m;                   // F16, 0 where the type has none
};
/* in: one block of a quantised type. */
void quant_block_unpack(struct quant_block *block, enum tensor_type type, const unsigned char *in);

/* The numbers of all 256 codes before their scale. */
void quant_values(float value[256], enum tensor_type type);

/*
 * A row of float32 (K) as blocks of Q8_0 or Q4_0 (ggml's reference quantisers to the bit), NF4, or the elements of F32, F16 or
 * BF16, rounded to nearest.  What the last block holds beyond K stands for 0.  out: tensor_row_bytes.
 */
void quant_row(enum tensor_type type, unsigned char *out, const float *row, size_t K);
/* The numbers that it stands for.  row: (K) out. */
void quant_row_read(enum tensor_type type, float *row, const unsigned char *in, size_t K);

float float_from_f16(uint16_t half);
uint16_t f16_from_float(float number);  // to nearest, ties to even; infinity from 65520 on

#endif
