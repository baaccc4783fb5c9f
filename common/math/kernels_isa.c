/*
 * kernels_isa.c - the kernels of kernels.h, compiled once for each instruction set (KERNELS_ISA names it).
 *
 * Written with vector extensions: a panel of 16 outputs is PARTS registers of LANES floats.  What is summed
 * across lanes is summed as 16 lanes in a fixed tree, so that builds with fused multiply-add agree to the bit.
 */
#include "math/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "math/input.h"
#include "math/kernels_blocks.h"
#include "math/kernels_vector.h"
#include "math/panel.h"

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/*
 * ROW_TILE rows times panels up to SUM_TILE sums in registers; the weights and one activation need the rest.  More rows go over K
 * in blocks of BLOCK_K, so that BLOCK_PANELS panels of a block stay in a cache between them: with AVX2, in the L1 cache.
 */
#if defined __AVX512F__
#define ROW_TILE 6
#define UNROLL_K
enum { SUM_TILE = 24, ONE_ROW_PANELS = 4, BLOCK_K = 512, BLOCK_UNITS = 4, BLOCK_PANELS = 4 };
#elif defined __AVX2__
#define ROW_TILE 6
#define UNROLL_K _Pragma("GCC unroll 4")  // another hyperthread may take half of what a core can begin in a cycle
enum { SUM_TILE = 6, ONE_ROW_PANELS = 1, BLOCK_K = 256, BLOCK_UNITS = 8, BLOCK_PANELS = 1 };
#else
#define ROW_TILE 3
#define UNROLL_K
enum { SUM_TILE = 3, ONE_ROW_PANELS = 1, BLOCK_K = 512, BLOCK_UNITS = 4, BLOCK_PANELS = 4 };
#endif
/* Weights are asked for AHEAD_BYTES before their turn: the processor's own guesses end at a page, where a panel goes on. */
enum { PANEL_TILE = 4, PARTIAL_ROWS = 32, AHEAD_BYTES = 4096 };

/* AVX2 has too few registers for the addresses of a tile's rows: there inputs come in tiles, as input.h has them. */
enum { TILED = LANES == 8 };

/* ---- matrices ---- */

/* Of BF16 successive elements lie together, the first in the low half. */
INLINE vec weight_load(enum tensor_type type, const void *panel, size_t k, size_t part, bool second)
{
    size_t i = k * PANEL + part * LANES;
    vec_bits pair;
    switch (type) {
    case TENSOR_F16: return vec_from_f16((const uint16_t *)panel + i);
    case TENSOR_BF16:
        memcpy(&pair, (const uint32_t *)panel + k / 2 * PANEL + part * LANES, sizeof pair);
        return (vec)(second ? pair & 0xffff0000u : pair << 16);
    default: return vec_load((const float *)panel + i);
    }
}

/* Which weights a tile of inputs asks for before their turn: so many bytes behind its own first ones, and step more for each of K. */
struct ahead {
    size_t bytes, step;
};

/*
 * y[r, p] (+)= sum over k of x[r, k] * panel[p][k], R rows by P panels in registers; resume adds to what y holds.  Of a tile
 * (tiled) x is (K / PANEL, R, PANEL).  R, P, type and tiled are constants where this is expanded.
 */
INLINE void tile_run(float *y, size_t y_stride, const float *x, size_t x_stride, bool tiled, enum tensor_type type,
                     const void *const *panel, size_t K, struct ahead ahead, bool resume, size_t R, size_t P)
{
    vec sum[ROW_TILE][PANEL_TILE * PARTS];
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < P * PARTS; p++)
            sum[r][p] = resume ? vec_load(y + r * y_stride + p * LANES) : (vec){ 0 };
    const void *at[PANEL_TILE];
    UNROLL for (size_t p = 0; p < P; p++)
        at[p] = panel[p];
    const size_t k_bytes = PANEL * (type == TENSOR_F32 ? sizeof(float) : sizeof(uint16_t));
    const size_t step = type == TENSOR_BF16 ? 2 : 1, run = tiled ? PANEL : K, row = tiled ? PANEL : x_stride;
    for (size_t first = 0; first < K; first += run) {
        const size_t end = K - first < run ? K : first + run;
        const float *x_row = tiled ? x + first * R : x;  // element first of row 0
        UNROLL_K for (size_t k = first; k < end; k += step, x_row += step) {
            UNROLL for (size_t i = 0; i < step; i++) {
                if (i > 0 && k + i == K)
                    break;
                if (TILED && i > 0) {  // pairs are read again: no registers are left to keep them
                    UNROLL for (size_t p = 0; p < P; p++)
                        __asm__("" : "+r"(at[p]));
                }
                UNROLL for (size_t p = 0; p < P; p++)
                    __builtin_prefetch((const char *)at[p] + (tiled ? ahead.bytes : (k + i) * k_bytes + AHEAD_BYTES));
                ahead.bytes += ahead.step;
                vec weight[PANEL_TILE * PARTS];
                UNROLL for (size_t p = 0; p < P * PARTS; p++)
                    weight[p] = weight_load(type, at[p / PARTS], k, p % PARTS, i > 0);
                UNROLL for (size_t r = 0; r < R; r++) {
                    vec x_rk = vec_all(x_row[r * row + i]);
                    UNROLL for (size_t p = 0; p < P * PARTS; p++)
                        sum[r][p] += x_rk * weight[p];
                }
            }
        }
    }
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < P * PARTS; p++)
            vec_store(y + r * y_stride + p * LANES, sum[r][p]);
}

/* R rows by up to PANEL_TILE panels, as many at once as registers hold. */
INLINE void tile_row_count(float *y, size_t y_stride, const float *x, size_t x_stride, bool tiled, enum tensor_type type,
                           const void *const *panel, size_t panels, size_t K, struct ahead ahead, bool resume, size_t R)
{
    size_t p = 0;
    if (4 * R <= SUM_TILE && panels == 4) {
        tile_run(y, y_stride, x, x_stride, tiled, type, panel, K, ahead, resume, R, 4);
        return;
    }
    if (2 * R <= SUM_TILE) {
        for (; p + 2 <= panels; p += 2)
            tile_run(y + p * PANEL, y_stride, x, x_stride, tiled, type, panel + p, K, ahead, resume, R, 2);
    }
    for (; p < panels; p++)
        tile_run(y + p * PANEL, y_stride, x, x_stride, tiled, type, panel + p, K, ahead, resume, R, 1);
}

INLINE void tile_typed(float *y, size_t y_stride, const float *x, size_t x_stride, bool tiled, enum tensor_type type,
                       const void *const *panel, size_t panels, size_t K, struct ahead ahead, bool resume, size_t rows)
{
    switch (rows) {
    case 1: tile_row_count(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, 1); break;
    case 2: tile_row_count(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, 2); break;
    case 3: tile_row_count(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, 3); break;
#if ROW_TILE > 3
    case 4: tile_row_count(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, 4); break;
    case 5: tile_row_count(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, 5); break;
    case 6: tile_row_count(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, 6); break;
#endif
    }
}

typedef void tile_function(float *y, size_t y_stride, const float *x, size_t x_stride, const void *const *panel,
                           size_t panels, size_t K, struct ahead ahead, bool resume, size_t rows);

/* rows_: of x as it is; tile_: of inputs. */
#define TILE_FUNCTION(name, type, tiled)                                                                                    \
    static void name(float *y, size_t y_stride, const float *x, size_t x_stride, const void *const *panel, size_t panels,   \
                     size_t K, struct ahead ahead, bool resume, size_t rows)                                                \
    {                                                                                                                       \
        tile_typed(y, y_stride, x, x_stride, tiled, type, panel, panels, K, ahead, resume, rows);                           \
    }
TILE_FUNCTION(rows_f32, TENSOR_F32, false)
TILE_FUNCTION(rows_f16, TENSOR_F16, false)
TILE_FUNCTION(tile_f32, TENSOR_F32, TILED)
TILE_FUNCTION(tile_f16, TENSOR_F16, TILED)
TILE_FUNCTION(tile_bf16, TENSOR_BF16, TILED)

/* The tile of inputs that begins at row m. */
INLINE size_t tile_rows(size_t M, size_t m)
{
    return TILED ? input_tile(M, m, ROW_TILE) : tile_height(M - m, ROW_TILE);
}

/* Where its element k is, in a tile a multiple of PANEL; row 0 of what is from row m on is tile_at(x, m, 0, K, 0). */
INLINE const float *tile_at(const float *x, size_t m, size_t rows, size_t K, size_t k)
{
    return TILED ? x + m * input_tile_row(K) + k * rows : x + m * K + k;
}

/* Elements of K that many rows pass at once: blocks are as even as can be. */
INLINE size_t block_width(size_t K)
{
    if (!TILED)
        return BLOCK_K;
    const size_t blocks = K < BLOCK_K ? 1 : (K + BLOCK_K / 2) / BLOCK_K;
    return ((K + blocks - 1) / blocks + PANEL - 1) / PANEL * PANEL;
}

/* Up to PANEL_TILE panels, of many rows up to BLOCK_PANELS.  What many rows pass next they ask for together, each tile its share. */
static void linear_group(tile_function *tile, float *y, size_t y_stride, const float *x, size_t M, const char *data,
                         size_t panel_bytes, size_t element_bytes, size_t K, size_t panels)
{
    const bool many = M > ROW_TILE;
    const size_t block = many ? block_width(K) : K, k_bytes = PANEL * element_bytes;
    for (size_t k = 0; k < K; k += block) {
        const void *panel[PANEL_TILE];
        for (size_t p = 0; p < panels; p++)
            panel[p] = data + p * panel_bytes + k * k_bytes;
        size_t width = K - k < block ? K - k : block, bytes = width * k_bytes;
        for (size_t m = 0, rows; m < M; m += rows) {
            rows = tile_rows(M, m);
            const struct ahead share = { bytes + bytes * m / M, (k_bytes * rows + M - 1) / M }, same = { AHEAD_BYTES, k_bytes };
            tile(y + m * y_stride, y_stride, tile_at(x, m, rows, K, k), K, panel, panels, width, many ? share : same, k > 0, rows);
        }
    }
}

/* A panel of which only the first N outputs exist. */
static void linear_partial(tile_function *tile, float *y, size_t y_stride, const float *x, size_t M, const void *panel,
                           size_t K, size_t N)
{
    float out[ROW_TILE][PANEL];
    for (size_t m = 0, rows; m < M; m += rows) {
        rows = tile_rows(M, m);
        tile(out[0], PANEL, tile_at(x, m, rows, K, 0), K, &panel, 1, K, (struct ahead){ 0 }, false, rows);
        for (size_t r = 0; r < rows; r++)
            memcpy(y + (m + r) * y_stride, out[r], N * sizeof(float));
    }
}

static void linear_floats(float *y, size_t y_stride, const float *x, size_t M, const struct packed *w, size_t panel, size_t panels)
{
    static tile_function *const tiles[] = { [TENSOR_F32] = tile_f32, [TENSOR_F16] = tile_f16, [TENSOR_BF16] = tile_bf16 };
    tile_function *tile = tiles[w->type];
    size_t element_bytes = w->type == TENSOR_F32 ? 4 : 2;
    size_t end = panel + panels, whole = w->N / PANEL;  // panels with all their outputs
    if (end < whole)
        whole = end;
    while (panel < end) {
        const char *data = (const char *)w->data + panel * w->panel_bytes;
        if (panel >= whole) {
            linear_partial(tile, y + panel * PANEL, y_stride, x, M, data, w->K, w->N % PANEL);
            panel++;
            continue;
        }
        size_t most = M <= ROW_TILE ? PANEL_TILE : BLOCK_PANELS, group = whole - panel < most ? whole - panel : most;
        linear_group(tile, y + panel * PANEL, y_stride, x, M, data, w->panel_bytes, element_bytes, w->K, group);
        panel += group;
    }
}

/* ---- quantised matrices: see panel.h for the order of bits ---- */

/* 16 numbers, looked up by the lowest 4 bits. */
struct levels {
    vec part[PANEL / LANES];
};

INLINE vec levels_at(const struct levels *levels, vec_bits code)
{
#if defined __AVX512F__
    return (vec)_mm512_permutexvar_ps((__m512i)code, (__m512)levels->part[0]);
#elif defined __AVX2__
    __m256 low = _mm256_permutevar8x32_ps((__m256)levels->part[0], (__m256i)code);
    __m256 high = _mm256_permutevar8x32_ps((__m256)levels->part[1], (__m256i)code);
    return (vec)_mm256_blendv_ps(low, high, (__m256)(code << 28));
#else
    const float *table = (const float *)levels;
    vec v;
    for (size_t i = 0; i < LANES; i++)
        v[i] = table[code[i] & 15];
    return v;
#endif
}

/*
 * The lanes that hold 8 elements from step * 8 of a unit on: of element i in [i % 4 / 2], the low bits from bit code_place(i) on
 * and the high bits above them, others around.
 */
struct codes {
    vec_bits low[2], high[2];
    vec_bits low_behind[2];  // of 8-bit codes, elements 4 to 7
};

INLINE uint32_t code_place(enum tensor_type type, size_t i)
{
    return (uint32_t)(8 * (i % 2) + (quant_forms[type].low_bits == 8 ? 0 : i / 4 * 4));
}

INLINE vec_bits lanes_load(const unsigned char *plane, size_t vector, size_t part)
{
    vec_bits lanes;
    memcpy(&lanes, plane + (vector * PANEL + part * LANES) * sizeof(uint32_t), sizeof lanes);
    return lanes;
}

INLINE struct codes codes_load(enum tensor_type type, const unsigned char *unit, size_t step, size_t part)
{
    const uint32_t low_bits = quant_forms[type].low_bits, high_bits = quant_forms[type].high_bits;
    struct codes codes = { 0 };
    codes.low[0] = lanes_load(unit, step * low_bits / 4, part);
    if (low_bits == 2)
        codes.low[0] >>= (uint32_t)(step * low_bits % 4);
    codes.low[1] = codes.low[0] >> 16;
    if (low_bits == 8) {
        codes.low_behind[0] = lanes_load(unit, step * 2 + 1, part);
        codes.low_behind[1] = codes.low_behind[0] >> 16;
    }
    if (high_bits > 0) {
        vec_bits high = lanes_load(unit + panel_layout(type).low_plane_bytes, step * high_bits / 4, part);
        uint32_t down = (uint32_t)(step * high_bits % 4);
        codes.high[0] = down <= low_bits ? high << (low_bits - down) : high >> (down - low_bits);
        codes.high[1] = high >> (16 - low_bits + down);
    }
    return codes;
}

/*
 * Weight i of the 8.  A code becomes a float where it lies: below the exponent of 2^23 the lowest bit of a mantissa counts 1,
 * below that of 2^(23 - place) the bit at that place does.
 */
INLINE vec codes_weight(enum tensor_type type, const struct codes *codes, size_t i, const struct group *group, size_t part,
                        const struct levels *levels)
{
    const struct quant_form *form = &quant_forms[type];
    const uint32_t place = code_place(type, i);
    const uint32_t low_mask = (1u << form->low_bits) - 1, high_mask = (1u << form->high_bits) - 1;
    vec_bits code = form->low_bits == 8 && i >= 4 ? codes->low_behind[i % 4 / 2] : codes->low[i % 4 / 2];
    if (form->levels != NULL)
        return levels_at(levels, code >> place) * group->scale[part];
    code = (code & low_mask << place) | (150 - place) << 23;
    if (form->high_bits > 0)
        code |= codes->high[i % 4 / 2] & high_mask << (place + form->low_bits);
    vec value = (vec)code - (float)((1u << (23 - place)) + form->bias);
    return form->has_m ? value * group->scale[part] + group->offset[part] : value * group->scale[part];
}

INLINE struct levels levels_load(enum tensor_type type)
{
    struct levels levels = { 0 };
    if (quant_forms[type].levels != NULL)
        memcpy(&levels, quant_forms[type].levels, sizeof levels);
    return levels;
}

/* A unit as weights (UNIT, PANEL). */
INLINE void unit_expand(enum tensor_type type, float *out, const unsigned char *panel, size_t unit)
{
    const size_t group_steps = quant_forms[type].group_elements == 16 ? 2 : 4;
    const unsigned char *block = block_of(type, panel, unit), *codes_at = unit_of(type, block, unit);
    struct levels levels = levels_load(type);
    for (size_t first = 0; first < UNIT / 8; first += group_steps) {
        struct group group = group_load(type, panel, block, group_of(type, unit, first / group_steps));
        for (size_t step = first; step < first + group_steps; step++) {
            UNROLL for (size_t part = 0; part < PARTS; part++) {
                struct codes codes = codes_load(type, codes_at, step, part);
                UNROLL for (size_t i = 0; i < 8; i++)
                    vec_store(out + (step * 8 + i) * PANEL + part * LANES,
                              codes_weight(type, &codes, i, &group, part, &levels));
            }
        }
    }
}

/* One row against whole units of P panels, weights in registers only.  y: (P * PANEL). */
INLINE void units_run(enum tensor_type type, float *y, const float *x, const unsigned char *const *panel, size_t units, size_t P)
{
    const size_t group_steps = quant_forms[type].group_elements == 16 ? 2 : 4;
    struct levels levels = levels_load(type);
    vec sum[PANEL_TILE * PARTS];
    UNROLL for (size_t p = 0; p < P * PARTS; p++)
        sum[p] = (vec){ 0 };
    for (size_t unit = 0; unit < units; unit++) {
        for (size_t first = 0; first < UNIT / 8; first += group_steps) {
            struct group group[PANEL_TILE];
            UNROLL for (size_t p = 0; p < P; p++)
                group[p] = group_load(type, panel[p], block_of(type, panel[p], unit), group_of(type, unit, first / group_steps));
            for (size_t step = first; step < first + group_steps; step++) {
                struct codes codes[PANEL_TILE * PARTS];
                UNROLL for (size_t p = 0; p < P * PARTS; p++)
                    codes[p] = codes_load(type, unit_of(type, block_of(type, panel[p / PARTS], unit), unit), step, p % PARTS);
                UNROLL for (size_t i = 0; i < 8; i++) {
                    vec x_k = vec_all(x[unit * UNIT + step * 8 + i]);
                    UNROLL for (size_t p = 0; p < P * PARTS; p++)
                        sum[p] += x_k * codes_weight(type, &codes[p], i, &group[p / PARTS], p % PARTS, &levels);
                }
            }
        }
    }
    UNROLL for (size_t p = 0; p < P * PARTS; p++)
        vec_store(y + p * LANES, sum[p]);
}

/* What each type has of its own. */
struct block_kernels {
    void (*expand)(float *out, const unsigned char *panel, size_t unit);  // (UNIT, PANEL)
    /* One row, whole units, panels that are 1 or ONE_ROW_PANELS. */
    void (*one_row)(float *y, const float *x, const unsigned char *const *panel, size_t units, size_t panels);
};

#define BLOCK_KERNELS(name, type)                                                                                           \
    static void expand_##name(float *out, const unsigned char *panel, size_t unit)                                          \
    {                                                                                                                       \
        unit_expand(type, out, panel, unit);                                                                                \
    }                                                                                                                       \
    static void one_row_##name(float *y, const float *x, const unsigned char *const *panel, size_t units, size_t panels)    \
    {                                                                                                                       \
        if (panels == ONE_ROW_PANELS)                                                                                       \
            units_run(type, y, x, panel, units, ONE_ROW_PANELS);                                                            \
        else                                                                                                                \
            units_run(type, y, x, panel, units, 1);                                                                         \
    }
BLOCK_KERNELS(q8_0, TENSOR_Q8_0)
BLOCK_KERNELS(q4_0, TENSOR_Q4_0)
BLOCK_KERNELS(q4_1, TENSOR_Q4_1)
BLOCK_KERNELS(q5_0, TENSOR_Q5_0)
BLOCK_KERNELS(q5_1, TENSOR_Q5_1)
BLOCK_KERNELS(q2_k, TENSOR_Q2_K)
BLOCK_KERNELS(q3_k, TENSOR_Q3_K)
BLOCK_KERNELS(q4_k, TENSOR_Q4_K)
BLOCK_KERNELS(q5_k, TENSOR_Q5_K)
BLOCK_KERNELS(q6_k, TENSOR_Q6_K)
BLOCK_KERNELS(iq4_nl, TENSOR_IQ4_NL)
BLOCK_KERNELS(nf4, TENSOR_NF4)

static const struct block_kernels block_kernels[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q8_0] = { expand_q8_0, one_row_q8_0 },
    [TENSOR_Q4_0] = { expand_q4_0, one_row_q4_0 },
    [TENSOR_Q4_1] = { expand_q4_1, one_row_q4_1 },
    [TENSOR_Q5_0] = { expand_q5_0, one_row_q5_0 },
    [TENSOR_Q5_1] = { expand_q5_1, one_row_q5_1 },
    [TENSOR_Q2_K] = { expand_q2_k, one_row_q2_k },
    [TENSOR_Q3_K] = { expand_q3_k, one_row_q3_k },
    [TENSOR_Q4_K] = { expand_q4_k, one_row_q4_k },
    [TENSOR_Q5_K] = { expand_q5_k, one_row_q5_k },
    [TENSOR_Q6_K] = { expand_q6_k, one_row_q6_k },
    [TENSOR_IQ4_NL] = { expand_iq4_nl, one_row_iq4_nl },
    [TENSOR_NF4] = { expand_nf4, one_row_nf4 },
};

/* Rows against the elements from K_first on of up to BLOCK_PANELS panels: some units at a time are made weights in the L1 cache. */
static void blocks_rows(const struct block_kernels *kernels, float *y, size_t y_stride, const float *x, size_t M, size_t K,
                        const unsigned char *const *panel, size_t panels, size_t K_first)
{
    _Alignas(64) float weights[BLOCK_PANELS][BLOCK_UNITS * UNIT * PANEL];
    const void *at[BLOCK_PANELS];
    for (size_t p = 0; p < panels; p++)
        at[p] = weights[p];
    for (size_t k = K_first; k < K; k += BLOCK_UNITS * UNIT) {
        size_t width = K - k < BLOCK_UNITS * UNIT ? K - k : BLOCK_UNITS * UNIT;
        for (size_t p = 0; p < panels; p++) {
            for (size_t unit = 0; unit * UNIT < width; unit++)
                kernels->expand(weights[p] + unit * UNIT * PANEL, panel[p], k / UNIT + unit);
        }
        for (size_t m = 0, rows; m < M; m += rows) {
            rows = tile_rows(M, m);
            tile_f32(y + m * y_stride, y_stride, tile_at(x, m, rows, K, k), K, at, panels, width, (struct ahead){ 0 }, k > 0, rows);
        }
    }
}

static void blocks_group(const struct block_kernels *kernels, float *y, size_t y_stride, const float *x, size_t M, size_t K,
                         const unsigned char *const *panel, size_t panels)
{
    if (M != 1) {
        blocks_rows(kernels, y, y_stride, x, M, K, panel, panels, 0);
        return;
    }
    for (size_t p = 0, count; p < panels; p += count) {
        count = panels - p >= ONE_ROW_PANELS ? ONE_ROW_PANELS : 1;
        kernels->one_row(y + p * PANEL, x, panel + p, K / UNIT, count);
    }
    if (K % UNIT != 0)
        blocks_rows(kernels, y, y_stride, x, M, K, panel, panels, K / UNIT * UNIT);
}

static void linear_blocks(float *y, size_t y_stride, const float *x, size_t M, const struct packed *w, size_t panel, size_t panels)
{
    const struct block_kernels *kernels = &block_kernels[w->type];
    size_t end = panel + panels, whole = w->N / PANEL, K = w->K;
    if (end < whole)
        whole = end;
    while (panel < end) {
        size_t group = panel >= whole ? 1 : whole - panel < BLOCK_PANELS ? whole - panel : BLOCK_PANELS;
        const unsigned char *at[BLOCK_PANELS];
        for (size_t p = 0; p < group; p++)
            at[p] = (const unsigned char *)w->data + (panel + p) * w->panel_bytes;
        if (panel < whole) {
            blocks_group(kernels, y + panel * PANEL, y_stride, x, M, K, at, group);
        } else {
            float out[PARTIAL_ROWS][PANEL];
            for (size_t m = 0; m < M; m += PARTIAL_ROWS) {
                size_t rows = M - m < PARTIAL_ROWS ? M - m : PARTIAL_ROWS;
                blocks_group(kernels, out[0], PANEL, tile_at(x, m, 0, K, 0), rows, K, at, 1);
                for (size_t r = 0; r < rows; r++)
                    memcpy(y + (m + r) * y_stride + panel * PANEL, out[r], w->N % PANEL * sizeof(float));
            }
        }
        panel += group;
    }
}

static void input_make(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part)
{
    const struct input_part all = { 0, M, 0, K }, *of = part != NULL ? part : &all;
    if (form == INPUT_FLOATS) {
        for (size_t m = of->m; m < of->m_end; m++)
            memcpy((float *)input + m * K + of->k, x + m * K + of->k, (of->k_end - of->k) * sizeof *x);
        return;
    }
    for (size_t m = 0, rows; m < of->m_end; m += rows) {
        rows = input_tile(M, m, ROW_TILE);
        for (size_t r = m < of->m ? of->m - m : 0; r < rows && m + r < of->m_end; r++) {
            float *out = (float *)input + m * input_tile_row(K) + r * PANEL;  // row r of the tile (K / PANEL, rows, PANEL)
            const float *row = x + (m + r) * K;
            for (size_t k = of->k; k < of->k_end; k += PANEL)
                memcpy(out + k * rows, row + k, (of->k_end - k < PANEL ? of->k_end - k : PANEL) * sizeof *x);
        }
    }
}

static void linear(float *y, size_t y_stride, const void *x, size_t M, const struct packed *w, size_t panel, size_t panels)
{
    if (quant_forms[w->type].group_elements == 0)
        linear_floats(y, y_stride, x, M, w, panel, panels);
    else
        linear_blocks(y, y_stride, x, M, w, panel, panels);
}

/* ---- attention: a page of keys is a panel whose outputs are positions ---- */

static void attend_scores(float *scores, size_t score_stride, const float *q, size_t G, size_t HS,
                          const struct page_list *keys, size_t count)
{
    tile_function *tile = keys->type == TENSOR_F16 ? rows_f16 : rows_f32;
    for (size_t i = 0; i < count; i += PANEL_TILE) {
        size_t panels = count - i < PANEL_TILE ? count - i : PANEL_TILE;
        const void *panel[PANEL_TILE];
        for (size_t p = 0; p < panels; p++)
            panel[p] = page_at(keys, i + p, 0);
        for (size_t g = 0, rows; g < G; g += rows) {
            rows = tile_height(G - g, ROW_TILE);
            tile(scores + g * score_stride + i * PANEL, score_stride, q + g * HS, HS, panel, panels, HS, (struct ahead){ 0 }, false,
                 rows);
        }
    }
}

/* R heads by P panels of channels. */
INLINE void values_run(float *out, size_t out_stride, const float *prob, size_t prob_stride, const struct page_list *values,
                       size_t channel, size_t T, enum tensor_type type, size_t R, size_t P)
{
    vec sum[ROW_TILE][PANEL_TILE * PARTS];
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < P * PARTS; p++)
            sum[r][p] = vec_load(out + r * out_stride + p * LANES);
    for (size_t first = 0; first < T; first += PANEL) {
        const void *page = page_at(values, first / PANEL, channel * PANEL);
        size_t count = T - first < PANEL ? T - first : PANEL;
        for (size_t t = 0; t < count; t++) {
            vec value[PANEL_TILE * PARTS];
            UNROLL for (size_t p = 0; p < P * PARTS; p++)
                value[p] = weight_load(type, page, p / PARTS * PANEL + t, p % PARTS, false);
            UNROLL for (size_t r = 0; r < R; r++) {
                vec prob_rt = vec_all(prob[r * prob_stride + first + t]);
                UNROLL for (size_t p = 0; p < P * PARTS; p++)
                    sum[r][p] += prob_rt * value[p];
            }
        }
    }
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < P * PARTS; p++)
            vec_store(out + r * out_stride + p * LANES, sum[r][p]);
}

/* R heads against all channels, as many at once as registers hold. */
INLINE void values_heads(float *out, const float *prob, size_t prob_stride, size_t VP, const struct page_list *values,
                         size_t T, enum tensor_type type, size_t R)
{
    size_t p = 0, stride = VP * PANEL;
    if (4 * R <= SUM_TILE) {
        for (; p + 4 <= VP; p += 4)
            values_run(out + p * PANEL, stride, prob, prob_stride, values, p * PANEL, T, type, R, 4);
    }
    if (2 * R <= SUM_TILE) {
        for (; p + 2 <= VP; p += 2)
            values_run(out + p * PANEL, stride, prob, prob_stride, values, p * PANEL, T, type, R, 2);
    }
    for (; p < VP; p++)
        values_run(out + p * PANEL, stride, prob, prob_stride, values, p * PANEL, T, type, R, 1);
}

INLINE void values_typed(float *out, const float *prob, size_t prob_stride, size_t G, size_t VP, const struct page_list *values,
                         size_t T, enum tensor_type type)
{
    for (size_t g = 0, heads; g < G; g += heads) {
        heads = tile_height(G - g, ROW_TILE);
        float *out_g = out + g * VP * PANEL;             // (heads, VP * PANEL)
        const float *prob_g = prob + g * prob_stride;    // (heads, T)
        switch (heads) {
        case 1: values_heads(out_g, prob_g, prob_stride, VP, values, T, type, 1); break;
        case 2: values_heads(out_g, prob_g, prob_stride, VP, values, T, type, 2); break;
        case 3: values_heads(out_g, prob_g, prob_stride, VP, values, T, type, 3); break;
#if ROW_TILE > 3
        case 4: values_heads(out_g, prob_g, prob_stride, VP, values, T, type, 4); break;
        case 5: values_heads(out_g, prob_g, prob_stride, VP, values, T, type, 5); break;
        case 6: values_heads(out_g, prob_g, prob_stride, VP, values, T, type, 6); break;
#endif
        }
    }
}

static void attend_values(float *out, const float *prob, size_t prob_stride, size_t G, size_t VP,
                          const struct page_list *values, size_t T)
{
    if (values->type == TENSOR_F16)
        values_typed(out, prob, prob_stride, G, VP, values, T, TENSOR_F16);
    else
        values_typed(out, prob, prob_stride, G, VP, values, T, TENSOR_F32);
}

/* ---- one row at a time ---- */

static float dot(const float *a, const float *b, size_t n)
{
    struct block sum = block_all(0.0f);
    for (size_t i = 0; i < n; i += PANEL) {
        struct block left = block_load(a + i, n - i, 0.0f), right = block_load(b + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            sum.part[j] += left.part[j] * right.part[j];
    }
    return block_sum(sum);
}

static void scale(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i += PANEL) {
        struct block x_i = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            x_i.part[j] *= factor;
        block_store(x + i, n - i, x_i);
    }
}

static void rotary_turn(float *x, const float *cosine, const float *sine, size_t H, size_t HS)
{
    size_t half = HS / 2;
    for (size_t c = 0; c < half; c += PANEL) {
        struct block cosine_c = block_load(cosine + c, half - c, 0.0f), sine_c = block_load(sine + c, half - c, 0.0f);
        for (size_t h = 0; h < H; h++) {
            float *at = x + h * HS + c;
            struct block x_c = block_load(at, half - c, 0.0f), y_c = block_load(at + half, half - c, 0.0f), x_turned, y_turned;
            UNROLL for (size_t j = 0; j < PARTS; j++) {
                x_turned.part[j] = x_c.part[j] * cosine_c.part[j] - y_c.part[j] * sine_c.part[j];
                y_turned.part[j] = y_c.part[j] * cosine_c.part[j] + x_c.part[j] * sine_c.part[j];
            }
            block_store(at, half - c, x_turned);
            block_store(at + half, half - c, y_turned);
        }
    }
}

static void rms_norm(float *y, const float *x, const float *weight, size_t C, float epsilon)
{
    float scale = 1.0f / sqrtf(dot(x, x, C) / (float)C + epsilon);
    for (size_t c = 0; c < C; c += PANEL) {
        struct block x_c = block_load(x + c, C - c, 0.0f), weight_c = block_load(weight + c, C - c, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            x_c.part[j] = x_c.part[j] * scale * weight_c.part[j];
        block_store(y + c, C - c, x_c);
    }
}

/*
 * The mean is found twice, the second time from what is left after the first, so that rows far from zero lose nothing; the
 * same pass gives the variance.
 */
static void layer_norm(float *y, const float *x, const float *weight, const float *bias, size_t C, float epsilon)
{
    struct block sum = block_all(0.0f), squares = block_all(0.0f);
    for (size_t c = 0; c < C; c += PANEL) {
        struct block x_c = block_load(x + c, C - c, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            sum.part[j] += x_c.part[j];
    }
    float mean = block_sum(sum) / (float)C;
    sum = block_all(0.0f);
    for (size_t c = 0; c < C; c += PANEL) {
        struct block x_c = block_load(x + c, C - c, mean);
        UNROLL for (size_t j = 0; j < PARTS; j++) {
            vec centred = x_c.part[j] - mean;
            sum.part[j] += centred;
            squares.part[j] += centred * centred;
        }
    }
    float rest = block_sum(sum) / (float)C;
    float scale = 1.0f / sqrtf(block_sum(squares) / (float)C - rest * rest + epsilon);
    for (size_t c = 0; c < C; c += PANEL) {
        struct block x_c = block_load(x + c, C - c, 0.0f), weight_c = block_load(weight + c, C - c, 0.0f);
        struct block bias_c = block_load(bias + c, C - c, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            x_c.part[j] = (x_c.part[j] - mean - rest) * scale * weight_c.part[j] + bias_c.part[j];
        block_store(y + c, C - c, x_c);
    }
}

static void swiglu(float *y, const float *gate, const float *up, size_t F)
{
    for (size_t f = 0; f < F; f += PANEL) {
        struct block gate_f = block_load(gate + f, F - f, 0.0f), up_f = block_load(up + f, F - f, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            gate_f.part[j] = vec_silu(gate_f.part[j]) * up_f.part[j];
        block_store(y + f, F - f, gate_f);
    }
}

typedef vec vec_function(vec);

INLINE void each(float *x, size_t n, vec_function *f)
{
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            b.part[j] = f(b.part[j]);
        block_store(x + i, n - i, b);
    }
}

static void silu(float *x, size_t n)
{
    each(x, n, vec_silu);
}

static void gelu(float *x, size_t n)
{
    each(x, n, vec_gelu);
}

static void gelu_tanh(float *x, size_t n)
{
    each(x, n, vec_gelu_tanh);
}

static void soft_cap(float *x, size_t n, float cap)
{
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            b.part[j] = vec_tanh(b.part[j] / cap) * cap;
        block_store(x + i, n - i, b);
    }
}

static void softmax(float *x, size_t n)
{
    float max = max_of(x, n);
    struct block sum = block_all(0.0f);
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, -INFINITY);
        UNROLL for (size_t j = 0; j < PARTS; j++) {
            b.part[j] = vec_exp(b.part[j] - max);
            sum.part[j] += b.part[j];
        }
        block_store(x + i, n - i, b);
    }
    float scale = 1.0f / block_sum(sum);
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            b.part[j] *= scale;
        block_store(x + i, n - i, b);
    }
}

static void multiply(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += PANEL) {
        struct block y_i = block_load(y + i, n - i, 0.0f), x_i = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            y_i.part[j] *= x_i.part[j];
        block_store(y + i, n - i, y_i);
    }
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += PANEL) {
        struct block y_i = block_load(y + i, n - i, 0.0f), x_i = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            y_i.part[j] += x_i.part[j];
        block_store(y + i, n - i, y_i);
    }
}

static float highest(const float *x, size_t n)
{
    vec_int broken = { 0 };
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, 0.0f);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            broken |= b.part[j] != b.part[j];
    }
    for (size_t i = 0; i < LANES; i++)
        if (broken[i])
            return NAN;
    return max_of(x, n);
}

static size_t first_above(const float *x, size_t n, float bound)
{
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, -INFINITY);
        vec_int above = { 0 };
        UNROLL for (size_t j = 0; j < PARTS; j++)
            above |= b.part[j] > bound;
        if (!any_lane(above))
            continue;
        while (!(x[i] > bound))
            i++;
        return i;
    }
    return n;
}

static double exp_sum(float *y, const float *x, size_t n, float max, float scale)
{
    double total = 0.0;
    vec_double sum[2 * PARTS] = { { 0 } };
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, -INFINITY);
        UNROLL for (size_t j = 0; j < PARTS; j++) {
            b.part[j] = vec_exp((b.part[j] - max) * scale);
            vec_narrow half[2];
            memcpy(half, &b.part[j], sizeof b.part[j]);
            sum[2 * j] += __builtin_convertvector(half[0], vec_double);
            sum[2 * j + 1] += __builtin_convertvector(half[1], vec_double);
        }
        if (y != NULL)
            block_store(y + i, n - i, b);
    }
    double lanes[PANEL];
    memcpy(lanes, sum, sizeof lanes);
    for (size_t i = 0; i < PANEL; i++)
        total += lanes[i];
    return total;
}

extern const struct kernels PASTE(kernels_, KERNELS_ISA);
const struct kernels PASTE(kernels_, KERNELS_ISA) = {
    .name = TEXT(KERNELS_ISA),
    .input = { [0 ... TENSOR_TYPE_COUNT - 1] = TILED ? INPUT_TILES : INPUT_FLOATS },
    .input_make = input_make,
    .linear = linear,
    .attend_scores = attend_scores,
    .attend_values = attend_values,
    .scale = scale,
    .rotary_turn = rotary_turn,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .swiglu = swiglu,
    .silu = silu,
    .gelu = gelu,
    .gelu_tanh = gelu_tanh,
    .soft_cap = soft_cap,
    .multiply = multiply,
    .softmax = softmax,
    .add = add,
    .dot = dot,
    .highest = highest,
    .first_above = first_above,
    .exp_sum = exp_sum,
};
