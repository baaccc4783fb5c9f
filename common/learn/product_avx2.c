/*
 * product_avx2.c - float32 products by AVX2.
 *
 * b is packed as panels (P, WIDTH); a, in every call, as tiles of at most ROWS rows.  A tile by a panel is summed in registers over
 * at most STEPS of p, whose part of the panel stays in the first-level cache while all rows pass by.
 */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

#include "base/check.h"
#include "learn/product_kernels.h"
#include "math/input.h"

enum { ROWS = 6, WIDTH = 16, STEPS = 256 };

/* Steps [p, p + 8) of count vectors, stride apart, as 8 rows of 8, in their order; where the vectors are fewer, the rest is zero. */
static void transpose_8(float *out, size_t out_stride, const float *vectors, size_t stride, size_t count)
{
    __m256 r[8], t[8];
    for (size_t j = 0; j < 8; j++)
        r[j] = j < count ? _mm256_loadu_ps(vectors + j * stride) : _mm256_setzero_ps();
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
    for (size_t j = 0; j < 4; j++)
        _mm256_storeu_ps(out + j * out_stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
    for (size_t j = 0; j < 4; j++)
        _mm256_storeu_ps(out + (4 + j) * out_stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
}

/* ---- packing b: columns that do not exist are zero ---- */

/* One panel from its columns, of which count exist. */
static void pack_columns(float *panel, const float *columns, size_t stride, size_t count, size_t P)
{
    const size_t whole = P / 8 * 8;
    for (size_t half = 0; half < WIDTH; half += 8)
        for (size_t p = 0; p < whole; p += 8)
            transpose_8(panel + p * WIDTH + half, WIDTH, columns + half * stride + p, stride, count > half ? count - half : 0);
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

/* ---- packing a: steps [p, p + steps) of all rows, as tiles (steps, height): one of few rows would wait for its own sums ---- */

/* Writes up to 8 - height floats past the tile. */
static void pack_tile(float *tile, struct left a, size_t height, size_t steps)
{
    if (a.transposed) {
        const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)height), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        for (size_t p = 0; p < steps; p++)
            _mm256_storeu_ps(tile + p * height, _mm256_maskload_ps(a.at + p * a.stride, there));
        return;
    }
    const size_t whole = steps / 8 * 8;
    for (size_t p = 0; p < whole; p += 8)
        transpose_8(tile + p * height, height, a.at + p, a.stride, height);
    for (size_t p = whole; p < steps; p++)
        for (size_t r = 0; r < height; r++)
            tile[p * height + r] = a.at[r * a.stride + p];
}

static void pack_left(float *packed, struct left a, size_t I, size_t p, size_t steps)
{
    const size_t row = a.transposed ? 1 : a.stride, step = a.transposed ? a.stride : 1;
    const float *at = a.at + p * step;
    for (size_t i = 0, height; i < I; i += height) {
        height = tile_height(I - i, ROWS);
        pack_tile(packed + i * steps, (struct left){ at + i * row, a.stride, a.transposed }, height, steps);
    }
}

/* ---- multiplying ---- */

/* c (height, WIDTH) = a (steps, height) by a panel (steps, WIDTH), or that added to c. */
INLINE void tile_of(float *c, size_t c_stride, const float *a, const float *panel, size_t height, size_t steps, bool add)
{
    __m256 sum[ROWS][2];
#pragma GCC unroll 6
    for (size_t r = 0; r < height; r++) {
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
        _mm_prefetch((const char *)(c + r * c_stride), _MM_HINT_T0);
    }
#pragma GCC unroll 4
    for (size_t p = 0; p < steps; p++) {
        const __m256 low = _mm256_load_ps(panel + p * WIDTH), high = _mm256_load_ps(panel + p * WIDTH + 8);
#pragma GCC unroll 6
        for (size_t r = 0; r < height; r++) {
            const __m256 a_rp = _mm256_broadcast_ss(a + p * height + r);
            sum[r][0] = _mm256_fmadd_ps(a_rp, low, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(a_rp, high, sum[r][1]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < height; r++) {
        float *c_r = c + r * c_stride;
        if (add) {
            sum[r][0] = _mm256_add_ps(sum[r][0], _mm256_loadu_ps(c_r));
            sum[r][1] = _mm256_add_ps(sum[r][1], _mm256_loadu_ps(c_r + 8));
        }
        _mm256_storeu_ps(c_r, sum[r][0]);
        _mm256_storeu_ps(c_r + 8, sum[r][1]);
    }
}

static void tile(float *c, size_t c_stride, const float *a, const float *panel, size_t height, size_t steps, bool add)
{
    switch (height) {
    case 1: tile_of(c, c_stride, a, panel, 1, steps, add); break;
    case 2: tile_of(c, c_stride, a, panel, 2, steps, add); break;
    case 3: tile_of(c, c_stride, a, panel, 3, steps, add); break;
    case 4: tile_of(c, c_stride, a, panel, 4, steps, add); break;
    case 5: tile_of(c, c_stride, a, panel, 5, steps, add); break;
    default: tile_of(c, c_stride, a, panel, ROWS, steps, add);
    }
}

/* Only so many columns of c are there. */
static void tile_narrow(float *c, size_t c_stride, size_t columns, const float *a, const float *panel, size_t height, size_t steps,
                        bool add)
{
    float whole[ROWS * WIDTH] = { 0 };
    for (size_t r = 0; add && r < height; r++)
        memcpy(whole + r * WIDTH, c + r * c_stride, columns * sizeof *c);
    tile(whole, WIDTH, a, panel, height, steps, add);
    for (size_t r = 0; r < height; r++)
        memcpy(c + r * c_stride, whole + r * WIDTH, columns * sizeof *c);
}

/* The share of rows [i, i + height) of I in fetching count floats that are needed after all rows. */
static void prefetch(const float *next, size_t count, size_t i, size_t height, size_t I)
{
    enum { LINE = 64 / sizeof *next };
    for (size_t n = count * i / I / LINE * LINE; n < count * (i + height) / I; n += LINE)
        _mm_prefetch((const char *)(next + n), _MM_HINT_T1);
}

static void multiply(float *c, size_t c_stride, struct left a, size_t I, const struct right *b, bool add)
{
    _Alignas(64) float packed[PRODUCT_ROWS_MAX * STEPS + 8];
    CHECK(I <= PRODUCT_ROWS_MAX);
    for (size_t p = 0; p < b->P; p += STEPS) {
        const size_t steps = at_most(b->P - p, STEPS);
        pack_left(packed, a, I, p, steps);
        for (size_t j = 0; j < b->J; j += WIDTH) {
            const float *panel = b->data + j * b->P + p * WIDTH;
            const float *next = j + WIDTH < b->J ? panel + b->P * WIDTH : panel;
            const size_t columns = at_most(b->J - j, WIDTH);
            for (size_t i = 0, height; i < I; i += height) {
                height = tile_height(I - i, ROWS);
                prefetch(next, steps * WIDTH, i, height, I);
                float *c_ij = c + i * c_stride + j;
                if (columns == WIDTH)
                    tile(c_ij, c_stride, packed + i * steps, panel, height, steps, add || p > 0);
                else
                    tile_narrow(c_ij, c_stride, columns, packed + i * steps, panel, height, steps, add || p > 0);
            }
        }
    }
}

const struct product_kernels product_avx2 = { "avx2", PRODUCTS_FLOAT32, pack, multiply };
#endif
