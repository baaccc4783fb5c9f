/*
 * product_avx2.c - float32 products by AVX2.
 *
 * b is packed as panels (P, WIDTH); a, in every call, as blocks of ROWS rows.  A block by a panel is summed in registers over at
 * most STEPS of p, whose part of the panel stays in the first-level cache while all rows pass by.
 */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

#include "base/check.h"
#include "learn/product_kernels.h"

enum { ROWS = 6, WIDTH = 16, STEPS = 256 };

/* ---- packing b: columns that do not exist are zero ---- */

/* Steps [p, p + 8) of 8 columns, of which count exist, as 8 rows WIDTH apart. */
static void transpose_8(float *out, const float *columns, size_t stride, size_t count)
{
    __m256 r[8], t[8];
    for (size_t j = 0; j < 8; j++)
        r[j] = j < count ? _mm256_loadu_ps(columns + j * stride) : _mm256_setzero_ps();
    for (size_t j = 0; j < 8; j += 2) {
        t[j] = _mm256_unpacklo_ps(r[j], r[j + 1]);
        t[j + 1] = _mm256_unpackhi_ps(r[j], r[j + 1]);
    }
    for (size_t j = 0; j < 8; j += 4) {
        r[j] = _mm256_shuffle_ps(t[j], t[j + 2], 0x44);
        r[j + 1] = _mm256_shuffle_ps(t[j], t[j + 2], 0xee);
        r[j + 2] = _mm256_shuffle_ps(t[j + 1], t[j + 3], 0x44);
        r[j + 3] = _mm256_shuffle_ps(t[j + 1], t[j + 3], 0xee);
    }
    for (size_t j = 0; j < 4; j++) {
        _mm256_storeu_ps(out + j * WIDTH, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
        _mm256_storeu_ps(out + (4 + j) * WIDTH, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
    }
}

/* One panel from its columns, of which count exist. */
static void pack_columns(float *panel, const float *columns, size_t stride, size_t count, size_t P)
{
    const size_t whole = P / 8 * 8;
    for (size_t half = 0; half < WIDTH; half += 8)
        for (size_t p = 0; p < whole; p += 8)
            transpose_8(panel + p * WIDTH + half, columns + half * stride + p, stride, count > half ? count - half : 0);
    for (size_t p = whole; p < P; p++)
        for (size_t j = 0; j < WIDTH; j++)
            panel[p * WIDTH + j] = j < count ? columns[j * stride + p] : 0.0f;
}

static void pack_row(const struct right *right, size_t p, const float *row)
{
    for (size_t j = 0; j < right->J; j += WIDTH) {
        float *out = right->data + j * right->P + p * WIDTH;
        const size_t count = at_most(right->J - j, WIDTH);
        memcpy(out, row + j, count * sizeof *row);
        memset(out + count, 0, (WIDTH - count) * sizeof *row);
    }
}

static void pack(const struct right *right, size_t first, const float *rows, size_t stride)
{
    const size_t count = at_most(right_source_rows(right) - first, PACK_ROWS);
    for (size_t r = 0; right->from_columns && r < count; r += WIDTH)
        pack_columns(right->data + (first + r) * right->P, rows + r * stride, stride, at_most(count - r, WIDTH), right->P);
    for (size_t r = 0; !right->from_columns && r < count; r++)
        pack_row(right, first + r, rows + r * stride);
}

/* ---- packing a: steps [p, p + steps) of all rows, as blocks (steps, ROWS), rows that do not exist zero ---- */

static void pack_left(float *packed, struct left a, size_t I, size_t p, size_t steps)
{
    const size_t row = a.transposed ? 1 : a.stride, step = a.transposed ? a.stride : 1;
    for (size_t i = 0; i < I; i += ROWS, packed += ROWS * steps) {
        const float *at = a.at + i * row + p * step;
        const size_t rows = at_most(I - i, ROWS);
        for (size_t s = 0; s < steps; s++)
            for (size_t r = 0; r < ROWS; r++)
                packed[s * ROWS + r] = r < rows ? at[r * row + s * step] : 0.0f;
    }
}

/* ---- multiplying ---- */

/* c (ROWS, WIDTH) = a (steps, ROWS) by a panel (steps, WIDTH), or that added to c. */
static void tile(float *c, size_t c_stride, const float *a, const float *panel, size_t steps, bool add)
{
    __m256 sum[ROWS][2];
#pragma GCC unroll 6
    for (size_t r = 0; r < ROWS; r++) {
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
        _mm_prefetch((const char *)(c + r * c_stride), _MM_HINT_T0);
    }
#pragma GCC unroll 4
    for (size_t p = 0; p < steps; p++) {
        const __m256 low = _mm256_load_ps(panel + p * WIDTH), high = _mm256_load_ps(panel + p * WIDTH + 8);
#pragma GCC unroll 6
        for (size_t r = 0; r < ROWS; r++) {
            const __m256 a_rp = _mm256_broadcast_ss(a + p * ROWS + r);
            sum[r][0] = _mm256_fmadd_ps(a_rp, low, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(a_rp, high, sum[r][1]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < ROWS; r++) {
        float *c_r = c + r * c_stride;
        if (add) {
            sum[r][0] = _mm256_add_ps(sum[r][0], _mm256_loadu_ps(c_r));
            sum[r][1] = _mm256_add_ps(sum[r][1], _mm256_loadu_ps(c_r + 8));
        }
        _mm256_storeu_ps(c_r, sum[r][0]);
        _mm256_storeu_ps(c_r + 8, sum[r][1]);
    }
}

/* Only rows by columns of c are there. */
static void tile_part(float *c, size_t c_stride, const float *a, const float *panel, size_t steps, bool add, size_t rows,
                      size_t columns)
{
    float whole[ROWS * WIDTH] = { 0 };
    for (size_t r = 0; add && r < rows; r++)
        memcpy(whole + r * WIDTH, c + r * c_stride, columns * sizeof *c);
    tile(whole, WIDTH, a, panel, steps, add);
    for (size_t r = 0; r < rows; r++)
        memcpy(c + r * c_stride, whole + r * WIDTH, columns * sizeof *c);
}

static void multiply(float *c, size_t c_stride, struct left a, size_t I, const struct right *b, bool add)
{
    _Alignas(64) float packed[(PRODUCT_ROWS_MAX + ROWS) * STEPS];
    CHECK(I <= PRODUCT_ROWS_MAX);
    for (size_t p = 0; p < b->P; p += STEPS) {
        const size_t steps = at_most(b->P - p, STEPS);
        pack_left(packed, a, I, p, steps);
        for (size_t j = 0; j < b->J; j += WIDTH) {
            const float *panel = b->data + j * b->P + p * WIDTH;
            const size_t columns = at_most(b->J - j, WIDTH);
            for (size_t i = 0; i < I; i += ROWS) {
                const size_t rows = at_most(I - i, ROWS);
                if (rows == ROWS && columns == WIDTH)
                    tile(c + i * c_stride + j, c_stride, packed + i * steps, panel, steps, add || p > 0);
                else
                    tile_part(c + i * c_stride + j, c_stride, packed + i * steps, panel, steps, add || p > 0, rows, columns);
            }
        }
    }
}

const struct product_kernels product_avx2 = { "avx2", PRODUCTS_FLOAT32, pack, multiply };
#endif
