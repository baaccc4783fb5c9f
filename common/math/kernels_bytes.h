/*
 * kernels_bytes.h - codes of quantised weights as bytes, four successive elements in each of a panel's 16 lanes.
 *
 * Inside common/math, for AVX-512.
 */
#ifndef MATH_KERNELS_BYTES_H
#define MATH_KERNELS_BYTES_H

#include "math/kernels_blocks.h"

/* What is taken off a code; levels are made codes of their own with 128. */
INLINE int code_bias(enum tensor_type type)
{
    return quant_forms[type].levels != NULL ? 128 : quant_forms[type].bias;
}

INLINE __m512i plane_bytes(const unsigned char *plane, size_t j, unsigned bits, int up)
{
    __m512i lanes = _mm512_loadu_si512(plane + j * bits / 8 * (PANEL * 4));
    int down = (bits == 8 ? 0 : (int)(j % 2 * 4 + j / 2 * bits % 4)) - up;
    lanes = down > 0 ? _mm512_srli_epi32(lanes, (unsigned)down) : down < 0 ? _mm512_slli_epi32(lanes, (unsigned)-down) : lanes;
    return bits == 8 ? lanes : _mm512_and_si512(lanes, _mm512_set1_epi8((char)(((1u << bits) - 1) << up)));
}

/* Codes 4 j to 4 j + 3 of a unit, unsigned. */
INLINE __m512i unit_bytes(enum tensor_type type, const unsigned char *unit, size_t j)
{
    const struct quant_form *form = &quant_forms[type];
    __m512i codes = plane_bytes(unit, j, form->low_bits, 0);
    if (form->high_bits > 0)
        codes = _mm512_or_si512(codes, plane_bytes(unit + panel_layout(type).low_plane_bytes, j, form->high_bits, form->low_bits));
    if (form->levels == NULL)
        return codes;
    unsigned char levels[16];
    UNROLL for (size_t i = 0; i < 16; i++)
        levels[i] = (unsigned char)(int)(quant_levels_iq4_nl[i] + 128.0f);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)levels)), codes);
}

/* The processor's own guesses end with each 4 KiB: asks for what lies 2 KiB behind a unit. */
INLINE void unit_ask_ahead(enum tensor_type type, const unsigned char *unit)
{
    enum { BYTES_AHEAD = 2048, LINE_BYTES = 64 };
    UNROLL for (size_t i = 0; i < UNIT * PANEL * quant_forms[type].low_bits / 8; i += LINE_BYTES)
        _mm_prefetch((const char *)unit + BYTES_AHEAD + i, _MM_HINT_T0);
}

#endif
