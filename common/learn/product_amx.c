/*
 * product_amx.c - products of BF16 by AMX tiles, sums in float32.
 *
 * Words are pairs of BF16, of steps 2 q and 2 q + 1; P is filled up with zeros to whole tiles of 16 pairs.  b is packed as panels
 * (pairs, PRODUCT_PANEL), two tiles side by side; a, in every call, as tiles of 16 rows by 16 pairs.  32 rows by one panel are
 * summed in four tiles over at most PAIRS, as many as let a stay in the second-level cache: what c holds is far away, and taken up
 * again for every block of pairs.  The panel that comes next is fetched meanwhile.
 */
#if defined __x86_64__
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "learn/avx512.h"
#include "learn/product_kernels.h"
#include "math/kernels_tiles.h"

enum { TILE = 16, TILE_WORDS = TILE * TILE, PAIRS = 768, SMALL_PAIRS = 256 };

static size_t pairs_of(size_t P)
{
    return (P + 2 * TILE - 1) / (2 * TILE) * TILE;
}

/* ---- words ---- */

static uint32_t *words_of(const struct right *right)
{
    return (uint32_t *)(void *)right->data;
}

/* 32 neighbours as 16 pairs; those from count on are 0. */
INLINE __m512i pairs_along(const float *x, size_t count)
{
    const __m512 low = _mm512_maskz_loadu_ps(mask_of(count), x);
    const __m512 high = count > TILE ? _mm512_maskz_loadu_ps(mask_of(count - TILE), x + TILE) : _mm512_setzero_ps();
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Up to 16 neighbours of two rows as pairs of one above the other; rows from rows on are 0. */
INLINE __m512i pairs_across(const float *x, size_t stride, size_t rows, __mmask16 columns)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    const __m512 above = rows > 0 ? _mm512_maskz_loadu_ps(columns, x) : _mm512_setzero_ps();
    const __m512 below = rows > 1 ? _mm512_maskz_loadu_ps(columns, x + stride) : _mm512_setzero_ps();
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(below, above));
}

/* ---- packing b ---- */

static void pack_columns(uint32_t *panel, const float *columns, size_t stride, size_t count, size_t P)
{
    for (size_t half = 0; half < PRODUCT_PANEL; half += TILE) {
        for (size_t p = 0; p < P; p += 2 * TILE) {
            __m512i words[TILE];
            for (size_t j = 0; j < TILE; j++)
                words[j] = half + j < count ? pairs_along(columns + (half + j) * stride + p, P - p) : _mm512_setzero_si512();
            transpose_16(words);
            for (size_t q = 0; q < TILE; q++)
                _mm512_store_si512(panel + (p / 2 + q) * PRODUCT_PANEL + half, words[q]);
        }
    }
}

static void pack_rows(const struct right *right, size_t first, const float *rows, size_t stride, size_t count)
{
    for (size_t j = 0; j < (right->J + PRODUCT_PANEL - 1) / PRODUCT_PANEL * PRODUCT_PANEL; j += TILE) {
        uint32_t *panel = words_of(right) + j / PRODUCT_PANEL * PRODUCT_PANEL * pairs_of(right->P) + j % PRODUCT_PANEL;
        const __mmask16 columns = j < right->J ? mask_of(right->J - j) : 0;
        for (size_t r = 0; r < PACK_ROWS; r += 2)
            _mm512_store_si512(panel + (first + r) / 2 * PRODUCT_PANEL,
                               pairs_across(rows + r * stride + j, stride, count > r ? count - r : 0, columns));
    }
}

static void pack(const struct right *right, size_t first, const float *rows, size_t stride)
{
    const size_t count = at_most(right_source_rows(right) - first, PACK_ROWS);
    if (right->from_columns)
        pack_columns(words_of(right) + first * pairs_of(right->P), rows, stride, count, right->P);
    else
        pack_rows(right, first, rows, stride, count);
}

/* ---- packing a: pairs [q, q + pairs) of all rows, tiles of 16 rows one behind the other; a is read as it lies ---- */

static void pack_left(uint32_t *packed, struct left a, size_t I, size_t P, size_t q, size_t pairs)
{
    for (size_t i = 0; i < I; i += TILE) {
        for (size_t s = 0; s < pairs; s += TILE, packed += TILE_WORDS) {
            const size_t p = 2 * (q + s), left = P - p;
            for (size_t r = 0; r < TILE; r++)
                _mm512_store_si512(packed + r * TILE,
                                   i + r < I ? pairs_along(a.at + (i + r) * a.stride + p, left) : _mm512_setzero_si512());
        }
    }
}

static void pack_left_transposed(uint32_t *packed, struct left a, size_t I, size_t P, size_t q, size_t pairs)
{
    for (size_t s = 0; s < pairs; s += TILE) {
        for (size_t i = 0; i < I; i += TILE) {
            const __mmask16 rows = mask_of(I - i);
            __m512i words[TILE];
            for (size_t k = 0; k < TILE; k++) {
                const size_t p = 2 * (q + s + k);
                words[k] = pairs_across(a.at + p * a.stride + i, a.stride, P > p ? P - p : 0, rows);
            }
            transpose_16(words);
            for (size_t r = 0; r < TILE; r++)
                _mm512_store_si512(packed + i * pairs + (s + r) * TILE, words[r]);
        }
    }
}

/* ---- multiplying ---- */

static void tiles_begin(void)
{
    struct tiles tiles = { .palette = 1 };
    for (size_t i = 0; i < 8; i++)
        tiles_set(&tiles, i, TILE, TILE * sizeof(uint32_t));
    tiles_config(&tiles);
}

/* Part of a panel, and what comes after it: each tile of pairs fetches its share of lines from a cache farther away. */
struct panel {
    const uint32_t *at;
    size_t pairs;
    const char *next;
    size_t lines;
};

/* c (32, 32) from two rows of tiles of a and a panel;
   what follows at c_next is fetched meanwhile: tiles wait long for what is far away. */
INLINE void four_tiles(float *c, size_t c_stride, const float *c_next, const uint32_t *upper, const uint32_t *lower,
                       struct panel panel, bool add)
{
    const uint32_t *b = panel.at;
    const size_t stride = c_stride * sizeof *c;
    float *c_lower = c + TILE * c_stride;
    const size_t rows_each = (2 * TILE * TILE + panel.pairs - 1) / panel.pairs;
    if (add) {
        _tile_loadd(0, c, stride);
        _tile_loadd(1, c + TILE, stride);
        _tile_loadd(2, c_lower, stride);
        _tile_loadd(3, c_lower + TILE, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t s = 0; s < panel.pairs; s += TILE, upper += TILE_WORDS, lower += TILE_WORDS, b += TILE * PRODUCT_PANEL) {
        for (size_t i = 0; i < panel.lines; i++, panel.next += 64)
            _mm_prefetch(panel.next, _MM_HINT_T1);
        for (size_t r = 0; r < rows_each; r++, c_next += c_stride) {
            __builtin_prefetch(c_next, 1);
            __builtin_prefetch(c_next + TILE, 1);
        }
        _tile_loadd(4, upper, TILE * sizeof *upper);
        _tile_loadd(6, b, PRODUCT_PANEL * sizeof *b);
        _tile_loadd(5, lower, TILE * sizeof *lower);
        _tile_loadd(7, b + TILE, PRODUCT_PANEL * sizeof *b);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, stride);
    _tile_stored(1, c + TILE, stride);
    _tile_stored(2, c_lower, stride);
    _tile_stored(3, c_lower + TILE, stride);
}

/* The same where c ends inside. */
static void four_tiles_edge(float *c, size_t c_stride, size_t rows, size_t columns, const uint32_t *upper, const uint32_t *lower,
                            struct panel panel, bool add)
{
    _Alignas(64) float part[2 * TILE][PRODUCT_PANEL] = { 0 };
    for (size_t r = 0; r < rows && add; r++)
        memcpy(part[r], c + r * c_stride, columns * sizeof *c);
    four_tiles(part[0], PRODUCT_PANEL, part[0], upper, lower, panel, true);
    for (size_t r = 0; r < rows; r++)
        memcpy(c + r * c_stride, part[r], columns * sizeof *c);
}

/* Columns [j, j + 32) of c, from pairs of a that lie packed. */
static void multiply_panel(float *c, size_t c_stride, size_t I, size_t columns, const uint32_t *packed, struct panel panel,
                           bool add)
{
    const size_t tile_rows = (I + 2 * TILE - 1) / (2 * TILE);
    panel.lines = (2 * TILE + tile_rows - 1) / tile_rows;
    for (size_t i = 0; i < I; i += 2 * TILE, panel.next += panel.pairs / TILE * panel.lines * 64) {
        const uint32_t *upper = packed + i * panel.pairs, *lower = i + TILE < I ? upper + TILE * panel.pairs : upper;
        const size_t rows = at_most(I - i, 2 * TILE);
        if (rows == 2 * TILE && columns == PRODUCT_PANEL)
            four_tiles(c + i * c_stride, c_stride, i + rows < I ? c + (i + rows) * c_stride : c + PRODUCT_PANEL, upper, lower,
                       panel, add);
        else
            four_tiles_edge(c + i * c_stride, c_stride, rows, columns, upper, lower, panel, add);
    }
}

/* Blocks of pairs, all alike but the last, of at most PAIRS. */
static size_t block_pairs(size_t all)
{
    const size_t blocks = (all + PAIRS - 1) / PAIRS;
    return (all / TILE + blocks - 1) / blocks * TILE;
}

static void multiply(float *c, size_t c_stride, struct left a, size_t I, const struct right *b, bool add)
{
    _Alignas(64) uint32_t packed[PRODUCT_ROWS_MAX * PAIRS];
    const size_t all = pairs_of(b->P), each = block_pairs(all);
    CHECK(I <= PRODUCT_ROWS_MAX);
    tiles_begin();
    for (size_t q = 0; q < all; q += each) {
        const size_t pairs = at_most(all - q, each);
        (a.transposed ? pack_left_transposed : pack_left)(packed, a, I, b->P, q, pairs);
        for (size_t j = 0; j < b->J; j += PRODUCT_PANEL) {
            const uint32_t *words = words_of(b) + j * all + q * PRODUCT_PANEL;
            const struct panel panel = { .at = words, .pairs = pairs, .next = (const char *)(words + all * PRODUCT_PANEL) };
            multiply_panel(c + j, c_stride, I, at_most(b->J - j, PRODUCT_PANEL), packed, panel, add || q > 0);
        }
    }
    _tile_release();
}

/* Steps [p, p + steps) of up to 32 columns of b as a panel. */
static struct panel pack_panel(float *data, const float *b, size_t b_stride, size_t steps, size_t columns)
{
    const struct right right = { .P = steps, .J = columns, .data = data };
    for (size_t p = 0; p < steps; p += PACK_ROWS)
        pack_rows(&right, p, b + p * b_stride, b_stride, at_most(steps - p, PACK_ROWS));
    return (struct panel){ .at = words_of(&right), .pairs = pairs_of(steps), .next = (const char *)(b + PRODUCT_PANEL) };
}

void product_small_amx(float *c, size_t c_stride, struct left a, size_t I, const float *b, size_t b_stride, size_t P, size_t J,
                       bool add)
{
    _Alignas(64) uint32_t packed[PRODUCT_ROWS_MAX * SMALL_PAIRS];
    _Alignas(64) float panel[SMALL_PAIRS * PRODUCT_PANEL];
    tiles_begin();
    for (size_t i = 0; i < I; i += PRODUCT_ROWS_MAX) {
        const size_t rows = at_most(I - i, PRODUCT_ROWS_MAX);
        const struct left a_i = { a.at + i * (a.transposed ? 1 : a.stride), a.stride, a.transposed };
        for (size_t p = 0; p < P; p += 2 * SMALL_PAIRS) {
            const size_t steps = at_most(P - p, 2 * SMALL_PAIRS);
            (a.transposed ? pack_left_transposed : pack_left)(packed, a_i, rows, P, p / 2, pairs_of(steps));
            for (size_t j = 0; j < J; j += PRODUCT_PANEL) {
                const size_t columns = at_most(J - j, PRODUCT_PANEL);
                multiply_panel(c + i * c_stride + j, c_stride, rows, columns, packed,
                               pack_panel(panel, b + p * b_stride + j, b_stride, steps, columns), add || p > 0);
            }
        }
    }
    _tile_release();
}

const struct product_kernels product_amx = { "amx-bf16", PRODUCTS_BF16, pack, multiply };
#endif
