/*
 * product_avx512.c - float32 products by AVX-512.
 *
 * b is packed as panels (P, PRODUCT_PANEL); a, in every call, as blocks of 12 rows.  12 rows by one panel are summed in registers
 * over at most STEPS of p, whose part of the panel stays in the first-level cache while all rows pass by; then come the next steps,
 * up to DEPTH, while what the panel's columns of c hold is near.
 */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

#include "base/check.h"
#include "learn/avx512.h"
#include "learn/product_kernels.h"

enum { ROWS = 12, FEW_ROWS = 4, STEPS = 128, DEPTH = 4 * STEPS };

/* ---- packing b ---- */

/* One panel from its columns. */
static void pack_columns(float *panel, const float *columns, size_t stride, size_t count, size_t P)
{
    for (size_t half = 0; half < PRODUCT_PANEL; half += 16) {
        for (size_t p = 0; p < P; p += 16) {
            __m512i words[16];
            const __mmask16 steps = mask_of(P - p);
            for (size_t j = 0; j < 16; j++)
                words[j] = half + j < count ? _mm512_maskz_loadu_epi32(steps, columns + (half + j) * stride + p)
                                            : _mm512_setzero_si512();
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

/* ---- 12 rows by 32 columns ---- */

/* Where c's columns are: up to 32, of which the masks name those that exist. */
struct columns {
    float *c;
    size_t stride;
    __mmask16 low, high;
    bool add;
    const char *next;  // what comes later: each tile fetches its share of lines from a cache farther away
    size_t lines;
};

static struct columns columns_at(float *c, size_t stride, size_t count, bool add)
{
    return (struct columns){ .c = c, .stride = stride, .low = mask_of(count), .high = count > 16 ? mask_of(count - 16) : 0,
                             .add = add };
}

/* b: steps rows of 32 columns, or, unless whole, of those that c has. */
struct few_steps {
    const float *b;
    size_t stride, steps;
    bool whole;
};

/* c (R, 32) from a, whose element (r, p) lies at r * row + p * step, and b; only rows of a and c are there. */
INLINE void tile(struct columns to, const float *a, size_t row, size_t step, struct few_steps by, size_t rows, const size_t R)
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
    for (size_t p = 0; p < by.steps; p++, a += step, by.b += by.stride) {
        const __m512 low = by.whole ? _mm512_loadu_ps(by.b) : _mm512_maskz_loadu_ps(to.low, by.b);
        const __m512 high = by.whole ? _mm512_loadu_ps(by.b + 16) : _mm512_maskz_loadu_ps(to.high, by.b + 16);
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

/* I rows, of which twelve lie twelve apart. */
INLINE void tiles(struct columns to, const float *a, size_t row, size_t step, size_t twelve, struct few_steps by, size_t I)
{
    size_t i = 0;
    for (; i + ROWS <= I; i += ROWS, a += twelve, to.c += ROWS * to.stride, to.next += 64 * to.lines)
        tile(to, a, row, step, by, ROWS, ROWS);
    for (; i < I; i += FEW_ROWS, a += FEW_ROWS * row, to.c += FEW_ROWS * to.stride)
        tile(to, a, row, step, by, at_most(I - i, FEW_ROWS), FEW_ROWS);
}

/* ---- packing a: steps [p, p + steps) of rows i on as a block (steps, ROWS) ---- */

enum { EACH_ROW = (1 << ROWS) - 1 };

static void pack_block(float *block, struct left a, size_t i, size_t rows, size_t p, size_t steps)
{
    for (size_t s = 0; s < steps; s += 16) {
        __m512i words[16];
        for (size_t r = 0; r < 16; r++)
            words[r] = r < rows ? _mm512_maskz_loadu_epi32(mask_of(steps - s), a.at + (i + r) * a.stride + p + s)
                                : _mm512_setzero_si512();
        transpose_16(words);
        for (size_t k = 0; k < at_most(steps - s, 16); k++)
            _mm512_mask_storeu_epi32(block + (s + k) * ROWS, EACH_ROW, words[k]);
    }
}

/* In the order in which a lies. */
static void pack_left_transposed(float *packed, struct left a, size_t I, size_t p, size_t steps)
{
    for (size_t s = 0; s < steps; s++) {
        const float *a_p = a.at + (p + s) * a.stride;  // (I)
        for (size_t i = 0; i < I; i += ROWS)
            _mm512_mask_storeu_ps(packed + i * steps + s * ROWS, EACH_ROW, _mm512_maskz_loadu_ps(mask_of(I - i), a_p + i));
    }
}

static void pack_left(float *packed, struct left a, size_t I, size_t p, size_t steps)
{
    for (size_t i = 0; i < I; i += ROWS, packed += ROWS * steps)
        pack_block(packed, a, i, at_most(I - i, ROWS), p, steps);
}

/* ---- multiplying ---- */

static void multiply(float *c, size_t c_stride, struct left a, size_t I, const struct right *b, bool add)
{
    _Alignas(64) float packed[DEPTH / STEPS][(PRODUCT_ROWS_MAX + ROWS) * STEPS];
    CHECK(I <= PRODUCT_ROWS_MAX);
    for (size_t p = 0; p < b->P; p += DEPTH) {
        const size_t end = p + at_most(b->P - p, DEPTH);
        for (size_t q = p; q < end; q += STEPS)
            (a.transposed ? pack_left_transposed : pack_left)(packed[(q - p) / STEPS], a, I, q, at_most(end - q, STEPS));
        for (size_t j = 0; j < b->J; j += PRODUCT_PANEL) {
            const float *panel = b->data + j * b->P;
            for (size_t q = p; q < end; q += STEPS) {
                const struct few_steps by = { panel + q * PRODUCT_PANEL, PRODUCT_PANEL, at_most(end - q, STEPS), true };
                struct columns to = columns_at(c + j, c_stride, b->J - j, add || q > 0);
                to.next = (const char *)(panel + (b->P + q) * PRODUCT_PANEL);
                to.lines = 2 * by.steps * ROWS / I + 1;
                tiles(to, packed[(q - p) / STEPS], 1, ROWS, ROWS * by.steps, by, I);
            }
        }
    }
}

void product_small_avx512(float *c, size_t c_stride, struct left a, size_t I, const float *b, size_t b_stride, size_t P, size_t J,
                          bool add)
{
    const size_t row = a.transposed ? 1 : a.stride, step = a.transposed ? a.stride : 1;
    for (size_t j = 0; j < J; j += PRODUCT_PANEL) {
        struct few_steps by = { b + j, b_stride, P, true };
        if (J - j >= PRODUCT_PANEL) {
            tiles(columns_at(c + j, c_stride, PRODUCT_PANEL, add), a.at, row, step, ROWS * row, by, I);
        } else {
            by.whole = false;
            tiles(columns_at(c + j, c_stride, J - j, add), a.at, row, step, ROWS * row, by, I);
        }
    }
}

const struct product_kernels product_avx512 = { "avx512", PRODUCTS_FLOAT32, pack, multiply };
#endif
