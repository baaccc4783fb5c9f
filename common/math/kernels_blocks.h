/*
 * kernels_blocks.h - finding and reading the parts of quantised panels, for kernels; see panel.h for the order of bits.
 *
 * Inside common/math, for the instruction set that the file is compiled for.
 */
#ifndef MATH_KERNELS_BLOCKS_H
#define MATH_KERNELS_BLOCKS_H

#include "math/kernels_vector.h"
#include "math/panel.h"

/* X(name, TYPE) for each type of blocks that files have. */
#define BLOCK_TYPES(X)                                                                                                      \
    X(q8_0, Q8_0) X(q4_0, Q4_0) X(q4_1, Q4_1) X(q5_0, Q5_0) X(q5_1, Q5_1) X(q2_k, Q2_K) X(q3_k, Q3_K) X(q4_k, Q4_K)         \
    X(q5_k, Q5_K) X(q6_k, Q6_K) X(iq4_nl, IQ4_NL)

INLINE vec vec_from_f16(const uint16_t *x)
{
#if defined __AVX512F__
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
#elif defined __AVX2__
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
#else
    vec_half half;
    memcpy(&half, x, sizeof half);
    vec_bits bits = __builtin_convertvector(half, vec_bits);
    vec_bits special = (vec_bits)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
    vec value = (vec)((bits & 0x7fff) << 13) * 0x1p112f;
    return (vec)((vec_bits)value | special | (bits & 0x8000) << 16);
#endif
}

INLINE vec_int vec_from_bytes(const unsigned char *x)
{
#if defined __AVX512F__
    return (vec_int)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x));
#elif defined __AVX2__
    return (vec_int)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)x));
#else
    vec_bytes bytes;
    memcpy(&bytes, x, sizeof bytes);
    return __builtin_convertvector(bytes, vec_int);
#endif
}

INLINE vec vec_from_int(vec_int x)
{
    return __builtin_convertvector(x, vec);
}

/* A weight is scale * value of the code + offset. */
struct group {
    vec scale[PARTS], offset[PARTS];
};

INLINE struct group group_load(enum tensor_type type, const unsigned char *panel, const unsigned char *block, size_t g)
{
    const struct quant_form *form = &quant_forms[type];
    struct panel_layout layout = panel_layout(type);
    struct group group = { 0 };
    UNROLL for (size_t i = 0; i < PARTS; i++) {
        vec_int scale = form->has_scales ? vec_from_bytes(block + layout.scales + g * PANEL + i * LANES) : (vec_int){ 0 };
        if (type == TENSOR_NF4) {
            const float *rows = (const float *)(const void *)panel + i * LANES;
            group.scale[i] = vec_from_int(scale) * vec_load(rows) + vec_load(rows + PANEL);
            continue;
        }
        group.scale[i] = vec_from_f16((const uint16_t *)(const void *)block + i * LANES);
        if (form->has_scales)
            group.scale[i] *= vec_from_int(type == TENSOR_Q2_K ? scale & 15 : scale);
        if (form->has_m) {
            group.offset[i] = vec_from_f16((const uint16_t *)(const void *)(block + layout.m) + i * LANES);
            if (type == TENSOR_Q2_K)
                group.offset[i] *= -vec_from_int(scale >> 4 & 15);
            else if (form->has_scales)
                group.offset[i] *= -vec_from_int(vec_from_bytes(block + layout.mins + g * PANEL + i * LANES));
        }
    }
    return group;
}

INLINE const unsigned char *block_of(enum tensor_type type, const unsigned char *panel, size_t unit)
{
    struct panel_layout layout = panel_layout(type);
    return panel + layout.header_bytes + unit / (quant_forms[type].block_elements / UNIT) * layout.block_bytes;
}

INLINE const unsigned char *unit_of(enum tensor_type type, const unsigned char *block, size_t unit)
{
    struct panel_layout layout = panel_layout(type);
    return block + layout.codes + unit % (quant_forms[type].block_elements / UNIT) * layout.unit_bytes;
}

/* Group g of a unit, as one of its block. */
INLINE size_t group_of(enum tensor_type type, size_t unit, size_t g)
{
    const struct quant_form *form = &quant_forms[type];
    return (unit % (form->block_elements / UNIT) * UNIT + g * form->group_elements) / form->group_elements;
}

#endif
