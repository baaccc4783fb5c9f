/*
 * product_avx512.c - float32 products by AVX-512.
 *
 * b is packed as panels (P, PRODUCT_PANEL).  12 rows by one panel are summed in registers over at most STEPS of p, whose part of the panel
 * stays in the first-level cache while all rows pass by; a's rows are read as they are, or, transposed, packed as (steps, 12).
 */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

#include "base/check.h"
#include "learn/product_kernels.h"
#include "learn/transpose.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 12, FEW_ROWS = 4, STEPS = 128 };

INLINE __mmask16 mask_of(size_t count)
{
    return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1);
}

static size_t at_most(size_t count, size_t limit)
{
    return count < limit ? count : limit;
}

/* ---- packing b ---- */

/* One panel from its columns. */
static void pack_columns(float *panel, const float *columns, size_t stride, size_t count, size_t P)
{
    for (size_t half = 0; half < PRODUCT_PANEL; half += 16) {
        for (size_t p = 0; p < P; p += 16) {
            __m512i words[16];
            const __mmask16 steps = mask_of(P - p);
            for (size_t j = 0; j < 16; j++)
                words[j] = half + j < count ? _mm512_maskz_loadu_epi32(steps, columns + (half + j) * stride + p) : _mm512_setzero_si512();
            transpose_16(words);
            for (size_t i = 0; i < at_most(P - p, 16); i++)
                _mm512_store_si512(panel + (p + i) * PRODUCT_PANEL + half, words[i]);
        }
    }
}

static void pack_rows(const struct right *right, size_t first, const float *rows, size_t stride, size_t count)
{
    for (size_t j = 0; j < right->J; j += PRODUCT_PANEL) {
        float *panel = right->data + j * right->P + first * PRODUCT_PANEL;
        const __mmask16 low = mask_of(right->J - j), high = right->J - j > 16 ? mask_of(right->J - j - 16) : 0;
        for (size_t r = 0; r < count; r++) {
            _mm512_store_ps(panel + r * PRODUCT_PANEL, _mm512_maskz_loadu_ps(low, rows + r * stride + j));
            _mm512_store_ps(panel + r * PRODUCT_PANEL + 16, _mm512_maskz_loadu_ps(high, rows + r * stride + j + 16));
        }
    }
}

static void pack(const struct right *right, size_t first, const float *rows, size_t stride)
{
    const size_t count = at_most(right_source_rows(right) - first, PACK_ROWS);
    if (right->from_columns)
        pack_columns(right->data + first * right->P, rows, stride, count, right->P);
    else
        pack_rows(right, first, rows, stride, count);
}

/* ---- multiplying ---- */

/* Where c's columns are: a panel's, of which the masks name those that exist. */
struct columns {
    float *c;
    size_t stride;
    __mmask16 low, high;
    bool add;
    const char *next;  // what comes after the panel: each tile fetches its share of lines from a cache farther away
    size_t lines;
};

/* c (R, 32) from a, whose element (r, p) lies at r * row + p * step; only rows of them are there. */
INLINE void tile(struct columns to, const float *a, size_t row, size_t step, const float *b, size_t steps, size_t rows, const size_t R)
{
    for (size_t i = 0; i < to.lines; i++)
        _mm_prefetch(to.next + 64 * i, _MM_HINT_T1);
    __m512 sum[ROWS][2];
#pragma GCC unroll 12
    for (size_t r = 0; r < R; r++) {
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();
        if (r < rows) {
            _mm_prefetch((const char *)(to.c + r * to.stride), _MM_HINT_T0);
            _mm_prefetch((const char *)(to.c + r * to.stride + 16), _MM_HINT_T0);
        }
    }
    for (size_t p = 0; p < steps; p++, a += step, b += PRODUCT_PANEL) {
        const __m512 low = _mm512_load_ps(b), high = _mm512_load_ps(b + 16);
#pragma GCC unroll 12
        for (size_t r = 0; r < R; r++) {
            const __m512 a_rp = _mm512_set1_ps(a[(R == ROWS || r < rows ? r : 0) * row]);
            sum[r][0] = _mm512_fmadd_ps(a_rp, low, sum[r][0]);
            sum[r][1] = _mm512_fmadd_ps(a_rp, high, sum[r][1]);
        }
    }
#pragma GCC unroll 12
    for (size_t r = 0; r < R; r++) {
        float *c_r = to.c + r * to.stride;
        if (r >= rows)
            break;
        if (to.add) {
            sum[r][0] = _mm512_add_ps(sum[r][0], _mm512_maskz_loadu_ps(to.low, c_r));
            sum[r][1] = _mm512_add_ps(sum[r][1], _mm512_maskz_loadu_ps(to.high, c_r + 16));
        }
        _mm512_mask_storeu_ps(c_r, to.low, sum[r][0]);
        _mm512_mask_storeu_ps(c_r + 16, to.high, sum[r][1]);
    }
}

/* a's steps [p, p + steps) of all rows as (ROWS, steps) blocks of (steps, ROWS). */
static void pack_left(float *packed, struct left a, size_t I, size_t p, size_t steps)
{
    for (size_t i = 0; i < I; i += ROWS) {
        const __mmask16 rows = mask_of(at_most(I - i, ROWS));
        for (size_t s = 0; s < steps; s++)
            _mm512_mask_storeu_ps(packed + i * steps + s * ROWS, 0x0fff, _mm512_maskz_loadu_ps(rows, a.at + (p + s) * a.stride + i));
    }
}

/* All rows by the steps of one panel. */
INLINE void panel_rows(struct columns to, const float *a, size_t row, size_t step, size_t twelve, const float *b, size_t steps, size_t I)
{
    size_t i = 0;
    for (; i + ROWS <= I; i += ROWS, a += twelve, to.c += ROWS * to.stride, to.next += 64 * to.lines)
        tile(to, a, row, step, b, steps, ROWS, ROWS);
    for (; i < I; i += FEW_ROWS, a += FEW_ROWS * row, to.c += FEW_ROWS * to.stride)
        tile(to, a, row, step, b, steps, at_most(I - i, FEW_ROWS), FEW_ROWS);
}

static void multiply(float *c, size_t c_stride, struct left a, size_t I, const struct right *b, bool add)
{
    _Alignas(64) float packed[(PRODUCT_ROWS_MAX + ROWS) * STEPS];
    CHECK(I <= PRODUCT_ROWS_MAX);
    for (size_t p = 0, steps; p < b->P; p += steps) {
        steps = at_most(b->P - p, STEPS);
        if (a.transposed)
            pack_left(packed, a, I, p, steps);
        for (size_t j = 0; j < b->J; j += PRODUCT_PANEL) {
            const size_t left = b->J - j;
            const float *panel = b->data + j * b->P + p * PRODUCT_PANEL;
            const struct columns to = {
                .c = c + j, .stride = c_stride, .low = mask_of(left), .high = left > 16 ? mask_of(left - 16) : 0, .add = add || p > 0,
                .next = (const char *)(panel + b->P * PRODUCT_PANEL), .lines = 2 * steps * ROWS / I + 1,
            };
            if (a.transposed)
                panel_rows(to, packed, 1, ROWS, ROWS * steps, panel, steps, I);
            else
                panel_rows(to, a.at + p, a.stride, 1, ROWS * a.stride, panel, steps, I);
        }
    }
}

const struct product_kernels product_avx512 = { "avx512", pack, multiply };
#endif
