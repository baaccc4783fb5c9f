/*
 * block.h - the blocks of quantised types taken apart: codes, scales, and the numbers they stand for.
 *
 * Used by tensor_type.c, which reads blocks, and by the packing and the kernels, which keep them in another order.
 *
 * A block has groups; element e of group g stands for
 *
 *   number = d * scale[g] * value(code[e]) + offset,   value(code) = levels[code] or code - bias,
 *
 * offset being absent, m (GROUP_MIN of Q4_1 and Q5_1, where scale is 1) or -(m * min[g]) (K types).  For ggml's types every
 * product is exact in float32: d has 11 bits, scale at most 7, value at most 7, together at most 23.  So a number is rounded
 * once, whether sum and product are fused or not.
 */
#ifndef MATH_BLOCK_H
#define MATH_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "math/tensor_type.h"

enum { BLOCK_ELEMENTS_MAX = 256, BLOCK_GROUPS_MAX = 16 };

/* Where a type keeps some bits of its codes: run bytes hold one code after the other in their lowest bits, then run codes above. */
struct block_plane {
    uint8_t offset;  // bytes from the block's start
    uint8_t run;     // bytes
    uint8_t bits;    // of each code; 0: no such plane
};

struct block_format {
    struct block_plane low, high;     // a code is low | high << low.bits
    uint8_t group_elements;
    uint8_t bias;
    bool signed_codes;                // stored as int8; a code is the byte plus bias 128
    int16_t d, m;                     // bytes from the block's start to the F16s; -1: no m
    const float *levels;              // or NULL
    /* Takes the scales and minima of groups out of a block; NULL: all 1. */
    void (*scales)(int8_t *scale, uint8_t *min, const unsigned char *block);
};
/* Zero where a type has no blocks (float types). */
extern const struct block_format block_formats[TENSOR_TYPE_COUNT];

/* The 16 levels of NF4, the quantiles of the normal distribution scaled to [-1, 1] (QLoRA, arXiv 2305.14314, appendix E). */
extern const float block_levels_nf4[16];

struct block {
    uint8_t code[BLOCK_ELEMENTS_MAX];
    int8_t scale[BLOCK_GROUPS_MAX];
    uint8_t min[BLOCK_GROUPS_MAX];  // zero where there is no m
    uint16_t d, m;                  // F16
};
/* in: one block of a type that block_formats has. */
void block_unpack(struct block *block, enum tensor_type type, const unsigned char *in);

float float_from_f16(uint16_t half);

#endif
