/*
 * kernels_bytes.h - codes of quantised weights as bytes, four successive elements in each of a panel's 16 lanes.
 *
 * Inside common/math, for AVX2 and AVX-512.
 */
#ifndef MATH_KERNELS_BYTES_H
#define MATH_KERNELS_BYTES_H

#include "math/kernels_blocks.h"

/* What is taken off a code; levels are made codes of their own with 128. */
INLINE int code_bias(enum tensor_type type)
{
    return quant_forms[type].levels != NULL ? 128 : quant_forms[type].bias;
}

INLINE vec_bits plane_bytes(const unsigned char *plane, size_t j, unsigned bits, unsigned up, size_t part)
{
    vec_bits lanes;
    memcpy(&lanes, plane + (j * bits / 8 * PANEL + part * LANES) * sizeof(uint32_t), sizeof lanes);
    if (bits == 8)
        return lanes;
    const unsigned from = (unsigned)(j % 2 * 4 + j / 2 * bits % 4);
    lanes = from >= up ? lanes >> (from - up) : lanes << (up - from);
    return lanes & ((1u << bits) - 1) * 0x01010101u << up;
}

/* Codes 4 j to 4 j + 3 of a unit, unsigned. */
INLINE vec_bits unit_bytes(enum tensor_type type, const unsigned char *unit, size_t j, size_t part)
{
    const struct quant_form *form = &quant_forms[type];
    vec_bits codes = plane_bytes(unit, j, form->low_bits, 0, part);
    if (form->high_bits > 0)
        codes |= plane_bytes(unit + panel_layout(type).low_plane_bytes, j, form->high_bits, form->low_bits, part);
    if (form->levels == NULL)
        return codes;
    unsigned char levels[16];
    UNROLL for (size_t i = 0; i < 16; i++)
        levels[i] = (unsigned char)(int)(quant_levels_iq4_nl[i] + 128.0f);
    const __m128i table = _mm_loadu_si128((const __m128i *)(const void *)levels);
#if defined __AVX512F__
    return (vec_bits)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)codes);
#else
    return (vec_bits)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)codes);
#endif
}

/* The processor's own guesses end with each 4 KiB: asks for what lies 2 KiB behind a unit. */
INLINE void unit_ask_ahead(enum tensor_type type, const unsigned char *unit)
{
    enum { BYTES_AHEAD = 2048, LINE_BYTES = 64 };
    UNROLL for (size_t i = 0; i < UNIT * PANEL * quant_forms[type].low_bits / 8; i += LINE_BYTES)
        _mm_prefetch((const char *)unit + BYTES_AHEAD + i, _MM_HINT_T0);
}

#endif
