/* kernels_halves.c - see kernels_halves.h. */
#include "math/kernels_halves.h"

#include <string.h>

#include "math/input.h"
#include "math/kernels_tiles.h"
#include "math/kernels_vector.h"

/*
 * A block of steps of few rows, 16 KiB of 2 groups, stays in the L1 cache while the panels of a chunk pass by.  Of many rows blocks
 * are longer, and the chunk's weights stay in the L2 cache while rows pass by.  F16 is split on the way, which takes longer than
 * all else: for few rows in one go over all steps, for many once for all of them.  Splits of few panels leave most of the L1 cache
 * to what is asked for, and to a neighbour on the core.
 */
enum { PANELS_MAX = 4, SPLIT_PANELS = 2, CHUNK_PANELS = 32, BLOCK_OF_FEW = 4, BLOCK_OF_MANY = 16, BLOCK_SPLIT = 4 };
enum { HIGH_BITS = (int)0xffff0000 };

/* ---- weights ---- */

INLINE __m512 high_part(__m512 x)
{
    return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32(HIGH_BITS)));
}

/* The upper halves of a's and b's elements, in turn. */
INLINE __m512i upper_halves(__m512 a, __m512 b)
{
    const __m512i up = _mm512_set4_epi32(0x0f0e0f0e, 0x0b0a0b0a, 0x07060706, 0x03020302);
    return _mm512_mask_shuffle_epi8(_mm512_castps_si512(b), 0x3333333333333333, _mm512_castps_si512(a), up);
}

INLINE __m512 f16_load(const unsigned char *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

/* The step of an F16 panel that begins at w, with zeros where K ends before it. */
INLINE const unsigned char *f16_step(unsigned char padded[TILE_BYTES], const unsigned char *w, size_t left)
{
    if (left >= UNIT)
        return w;
    memset(padded, 0, TILE_BYTES);
    memcpy(padded, w, left * 2 * PANEL);
    return padded;
}

/*
 * A block of steps of up to PANELS_MAX panels, or SPLIT_PANELS of F16, which are split on the way into two tiles of BF16, the high
 * parts and the low parts, each while the tiles are busy with the step before it.
 */
struct weights {
    const unsigned char *at;    // the block's first step
    size_t panel_bytes, left;   // left: elements of K from the block on
    ptrdiff_t ahead;            // bytes from a step to the one that is asked for meanwhile
    unsigned char *splits;      // (panels, kept, 2, TILE_BYTES) of F16, steps in turn
    size_t kept;                // a power of two
    bool again;                 // after other rows: what these split or brought is there
};

INLINE const unsigned char *stored_at(const struct weights *weights, size_t p, size_t u)
{
    return weights->at + p * weights->panel_bytes + u * TILE_BYTES;
}

/* The tile of panel p in a step, the high one where panels are split. */
INLINE unsigned char *split_at(const struct weights *weights, size_t p, size_t u)
{
    return weights->splits + (p * weights->kept + (u & (weights->kept - 1))) * 2 * TILE_BYTES;
}

/* The processor's own guesses end with a run of steps. */
INLINE void ask_ahead(const struct weights *weights, size_t p, size_t u)
{
    const char *at = (const char *)stored_at(weights, p, u) + weights->ahead;
    if (weights->again)
        return;
    UNROLL for (size_t i = 0; i < TILE_BYTES; i += 64)
        _mm_prefetch(at + i, _MM_HINT_T0);
}

static void split_step(const struct weights *weights, size_t p, size_t u)
{
    unsigned char padded[TILE_BYTES], *high = split_at(weights, p, u), *low = high + TILE_BYTES;
    const unsigned char *at = f16_step(padded, stored_at(weights, p, u), weights->left - u * UNIT);
    ask_ahead(weights, p, u);
    for (size_t k = 0; k < UNIT; k += 2, at += 4 * PANEL) {
        __m512 even = f16_load(at), odd = f16_load(at + 2 * PANEL);
        _mm512_store_si512(high + k * 2 * PANEL, upper_halves(even, odd));
        even = _mm512_sub_ps(even, high_part(even));
        odd = _mm512_sub_ps(odd, high_part(odd));
        _mm512_store_si512(low + k * 2 * PANEL, upper_halves(even, odd));
    }
    tiles_see_memory();
}

/* ---- one row ---- */

INLINE __m512 even_half(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

INLINE __m512i pair_of(const unsigned char *row, size_t k)
{
    int32_t pair;
    memcpy(&pair, row + 2 * k, sizeof pair);
    return _mm512_set1_epi32(pair);
}

/* One step by P panels. */
INLINE void row_step(__m512 *y, const unsigned char *x, const unsigned char *const *w, enum tensor_type type, size_t P)
{
    const bool split = type == TENSOR_F16;
    const size_t products = split ? 4 : 2;
    __m512 sum[PANELS_MAX][4][2];
    UNROLL for (size_t p = 0; p < P; p++)
        UNROLL for (size_t i = 0; i < products; i++)
            sum[p][i][0] = sum[p][i][1] = _mm512_setzero_ps();
    for (size_t k = 0; k < UNIT; k += 2) {
        __m512i high = pair_of(x, k), low = pair_of(x + 2 * UNIT, k);
        __m512 x_high[2] = { even_half(high), high_part(_mm512_castsi512_ps(high)) };
        __m512 x_low[2] = { even_half(low), high_part(_mm512_castsi512_ps(low)) };
        UNROLL for (size_t p = 0; p < P; p++) {
            const unsigned char *at = w[p] + k * 2 * PANEL;
            _mm_prefetch((const char *)at + 4 * TILE_BYTES, _MM_HINT_T0);
            __m512 weight[2], w_high[2];
            if (split) {
                weight[0] = f16_load(at);
                weight[1] = f16_load(at + 2 * PANEL);
                w_high[0] = high_part(weight[0]);
            } else {
                weight[1] = _mm512_loadu_ps(at);
                w_high[0] = even_half(_mm512_castps_si512(weight[1]));
            }
            w_high[1] = high_part(weight[1]);
            UNROLL for (size_t i = 0; i < 2; i++) {
                sum[p][0][i] = _mm512_fmadd_ps(x_high[i], w_high[i], sum[p][0][i]);
                sum[p][1][i] = _mm512_fmadd_ps(x_low[i], w_high[i], sum[p][1][i]);
                if (!split)
                    continue;
                __m512 w_low = _mm512_sub_ps(weight[i], w_high[i]);
                sum[p][2][i] = _mm512_fmadd_ps(x_low[i], w_low, sum[p][2][i]);
                sum[p][3][i] = _mm512_fmadd_ps(x_high[i], w_low, sum[p][3][i]);
            }
        }
    }
    UNROLL for (size_t p = 0; p < P; p++)
        UNROLL for (size_t i = 0; i < products; i++)
            y[p] = _mm512_add_ps(y[p], _mm512_add_ps(sum[p][i][0], sum[p][i][1]));
}

INLINE void row_panels(float *y, const unsigned char *x, const struct packed *w, size_t panel, enum tensor_type type, size_t P)
{
    __m512 sum[PANELS_MAX];
    const unsigned char *at[PANELS_MAX];
    unsigned char padded[PANELS_MAX][TILE_BYTES];
    UNROLL for (size_t p = 0; p < P; p++) {
        sum[p] = _mm512_setzero_ps();
        at[p] = (const unsigned char *)w->data + (panel + p) * w->panel_bytes;
    }
    for (size_t k = 0; k < w->K; k += UNIT, x += HALVES_STEP_BYTES) {
        UNROLL for (size_t p = 0; p < P && type == TENSOR_F16; p++)
            at[p] = f16_step(padded[p], at[p], w->K - k);
        row_step(sum, x, at, type, P);
        UNROLL for (size_t p = 0; p < P; p++)
            at[p] += TILE_BYTES;
    }
    UNROLL for (size_t p = 0; p < P; p++)
        _mm512_storeu_ps(y + p * PANEL, sum[p]);
}

INLINE void row_typed(float *y, const unsigned char *x, const struct packed *w, size_t panel, size_t panels, enum tensor_type type)
{
    const size_t P = type == TENSOR_F16 ? 3 : PANELS_MAX;  // 24 sums, or 16
    for (size_t end = panel + panels, whole = w->N / PANEL; panel < end; ) {
        if (panel + P <= end && panel + P <= whole) {
            row_panels(y + panel * PANEL, x, w, panel, type, P);
            panel += P;
            continue;
        }
        float partial[PANEL];
        row_panels(partial, x, w, panel, type, 1);
        memcpy(y + panel * PANEL, partial, (panel < whole ? PANEL : w->N % PANEL) * sizeof(float));
        panel++;
    }
}

static __attribute__((noinline)) void row_f16(float *y, const unsigned char *x, const struct packed *w, size_t panel, size_t panels)
{
    row_typed(y, x, w, panel, panels, TENSOR_F16);
}

static __attribute__((noinline)) void row_bf16(float *y, const unsigned char *x, const struct packed *w, size_t panel,
                                               size_t panels)
{
    row_typed(y, x, w, panel, panels, TENSOR_BF16);
}

/* ---- more rows ---- */

/* One or two groups of rows; the second is missing where its lanes are 0. */
struct halves {
    const unsigned char *group[2];
    size_t lanes[2];
};

/* Sums of the first group in tiles 0 and 1, of the second in 2 and 3, their rows in 4 and 5, panels in 6 and 7; or four panels
   of one group in 0 to 3, its high and low parts in 4 and 5. */
static void halves_config(const struct halves *x)
{
    struct tiles tiles = { .palette = 1 };
    size_t second = x->lanes[1] > 0 ? x->lanes[1] : x->lanes[0];
    for (size_t i = 0; i < 6; i++)
        tiles_set(&tiles, i, i == 2 || i == 3 || i == 5 ? second : x->lanes[0], 64);
    tiles_set(&tiles, 6, 16, 64);
    tiles_set(&tiles, 7, 16, 64);
    tiles_config(&tiles);
}

/* Splits panel p for the next step. */
#define SPLIT_NEXT(p) do { if (split && !weights->again && u + 1 < steps) split_step(weights, p, u + 1); } while (0)

INLINE void split_first(const struct weights *weights, size_t P)
{
    for (size_t p = 0; p < P && !weights->again; p++)
        split_step(weights, p, 0);
}

/* Two groups by 1 or 2 panels. */
INLINE void two_by(float *y, size_t y_stride, const struct halves *x, const struct weights *weights, size_t steps, bool resume,
                   size_t P, bool split)
{
    const unsigned char *x0 = x->group[0], *x1 = x->group[1];
    size_t half0 = x->lanes[0] * UNIT * 2, half1 = x->lanes[1] * UNIT * 2, stride = y_stride * sizeof *y;
    float *y1 = y + x->lanes[0] * y_stride;
    if (split)
        split_first(weights, P);
    SUM_BEGIN(0, y, stride);
    SUM_BEGIN(2, y1, stride);
    if (P == 2) {
        SUM_BEGIN(1, y + PANEL, stride);
        SUM_BEGIN(3, y1 + PANEL, stride);
    }
    for (size_t u = 0; u < steps; u++, x0 += 2 * half0, x1 += 2 * half1) {
        const unsigned char *w0 = split ? split_at(weights, 0, u) : stored_at(weights, 0, u);
        const unsigned char *w1 = split ? split_at(weights, P - 1, u) : stored_at(weights, P - 1, u);
        _tile_loadd(6, w0, 64);
        _tile_loadd(4, x0, 64);
        _tile_loadd(5, x1, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (!split)
            ask_ahead(weights, 0, u);
        if (P == 2) {
            if (!split)
                ask_ahead(weights, 1, u);
            _tile_loadd(7, w1, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        SPLIT_NEXT(0);
        _tile_loadd(4, x0 + half0, 64);
        _tile_loadd(5, x1 + half1, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (P == 2) {
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
            SPLIT_NEXT(1);
        }
        if (!split)
            continue;
        _tile_loadd(6, w0 + TILE_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (P == 2) {
            _tile_loadd(7, w1 + TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_loadd(4, x0, 64);
        _tile_loadd(5, x1, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (P == 2) {
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, y, stride);
    _tile_stored(2, y1, stride);
    if (P == 2) {
        _tile_stored(1, y + PANEL, stride);
        _tile_stored(3, y1 + PANEL, stride);
    }
}

/* A step of panel p adds to its sum.  The rows' high parts are in tile 4, their low ones in 5. */
#define ONE_STEP(sum, weight, p)                                      \
    do {                                                              \
        const unsigned char *w_p = split ? split_at(weights, p, u) : stored_at(weights, p, u); \
        _tile_loadd(weight, w_p, 64);                                 \
        _tile_dpbf16ps(sum, 4, weight);                               \
        _tile_dpbf16ps(sum, 5, weight);                               \
        if (!split)                                                   \
            ask_ahead(weights, p, u);                                 \
        if (split) {                                                  \
            _tile_loadd(weight, w_p + TILE_BYTES, 64);                \
            _tile_dpbf16ps(sum, 5, weight);                           \
            _tile_dpbf16ps(sum, 4, weight);                           \
        }                                                             \
        SPLIT_NEXT(p);                                                \
    } while (0)

/* One group by 1, 2 or 4 panels. */
INLINE void one_by(float *y, size_t y_stride, const struct halves *x, const struct weights *weights, size_t steps, bool resume,
                   size_t P, bool split)
{
    const unsigned char *high = x->group[0];
    size_t half = x->lanes[0] * UNIT * 2, stride = y_stride * sizeof *y;
    if (split)
        split_first(weights, P);
    SUM_BEGIN(0, y, stride);
    if (P > 1)
        SUM_BEGIN(1, y + PANEL, stride);
    if (P > 2) {
        SUM_BEGIN(2, y + 2 * PANEL, stride);
        SUM_BEGIN(3, y + 3 * PANEL, stride);
    }
    for (size_t u = 0; u < steps; u++, high += 2 * half) {
        _tile_loadd(4, high, 64);
        _tile_loadd(5, high + half, 64);
        ONE_STEP(0, 6, 0);
        if (P > 1)
            ONE_STEP(1, 7, 1);
        if (P > 2) {
            ONE_STEP(2, 6, 2);
            ONE_STEP(3, 7, 3);
        }
    }
    _tile_stored(0, y, stride);
    if (P > 1)
        _tile_stored(1, y + PANEL, stride);
    if (P > 2) {
        _tile_stored(2, y + 2 * PANEL, stride);
        _tile_stored(3, y + 3 * PANEL, stride);
    }
}

INLINE void rows_by(float *y, size_t y_stride, const struct halves *x, const struct weights *weights, size_t panels, size_t steps,
                    bool resume, bool split)
{
    bool two = x->lanes[1] > 0;
    if (two && panels == 2)
        two_by(y, y_stride, x, weights, steps, resume, 2, split);
    else if (two)
        two_by(y, y_stride, x, weights, steps, resume, 1, split);
    else if (panels == 4)
        one_by(y, y_stride, x, weights, steps, resume, 4, split);
    else if (panels == 2)
        one_by(y, y_stride, x, weights, steps, resume, 2, split);
    else
        one_by(y, y_stride, x, weights, steps, resume, 1, split);
    tiles_see_memory();
}

/* 1, 2 or (of one group) 4 panels.  y: their first output; they have N, all but of a single panel. */
static void rows_run(float *y, size_t y_stride, const struct halves *x, const struct weights *weights, size_t panels, size_t N,
                     size_t steps, bool resume)
{
    float partial[2 * PANEL][PANEL], *out = N < PANEL ? partial[0] : y;
    size_t rows = x->lanes[0] + x->lanes[1], stride = N < PANEL ? PANEL : y_stride;
    for (size_t r = 0; r < rows && N < PANEL; r++)
        memcpy(partial[r], y + r * y_stride, N * sizeof(float));
    tiles_see_memory();
    if (weights->splits != NULL)
        rows_by(out, stride, x, weights, panels, steps, resume, true);
    else
        rows_by(out, stride, x, weights, panels, steps, resume, false);
    for (size_t r = 0; r < rows && N < PANEL; r++)
        memcpy(y + r * y_stride, partial[r], N * sizeof(float));
}

/* A block of steps for the panels of a chunk, and how many rows at once go through it. */
struct chunk {
    const struct packed *w;
    size_t panel, end, step, steps;
    const unsigned char *next;  // the block that comes after the chunk's
    unsigned char *splits;      // NULL where panels hold BF16
    size_t kept, kept_panels;   // steps and panels whose splits are kept
};

/* The steps of a chunk one panel, or a few, after the other. */
static void chunk_run(const struct chunk *chunk, float *y, size_t y_stride, const struct halves *x, bool again)
{
    enum { STEPS_AHEAD = 4 };  // in a long block
    const struct packed *w = chunk->w;
    const unsigned char *block = (const unsigned char *)w->data + chunk->step * TILE_BYTES;
    for (size_t p = chunk->panel, P; p < chunk->end; p += P) {
        size_t left = w->N / PANEL < chunk->end ? w->N / PANEL - p : chunk->end - p;  // of panels with all outputs
        P = left >= PANELS_MAX && x->lanes[1] == 0 && chunk->splits == NULL ? PANELS_MAX : left >= SPLIT_PANELS ? SPLIT_PANELS : 1;
        struct weights weights = {
            .at = block + p * w->panel_bytes, .panel_bytes = w->panel_bytes, .left = w->K - chunk->step * UNIT,
            .kept = chunk->kept, .again = again,
        };
        const unsigned char *next = p + P < chunk->end ? weights.at + P * w->panel_bytes : chunk->next;
        weights.ahead = chunk->steps > BLOCK_OF_MANY ? STEPS_AHEAD * TILE_BYTES : next - weights.at;
        if (chunk->splits != NULL)
            weights.splits = chunk->splits + (p - chunk->panel) % chunk->kept_panels * chunk->kept * 2 * TILE_BYTES;
        rows_run(y + p * PANEL, y_stride, x, &weights, P, left > 0 ? P * PANEL : w->N % PANEL, chunk->steps, chunk->step > 0);
    }
}

/* M > 1 rows. */
static void rows_linear(float *y, size_t y_stride, const unsigned char *input, size_t M, const struct packed *w, size_t panel,
                        size_t panels, unsigned char *splits)
{
    size_t steps = input_steps(w->K), end = panel + panels;
    bool few = M <= 2 * PANEL;
    size_t block = splits != NULL ? (few ? steps : BLOCK_SPLIT) : few ? BLOCK_OF_FEW : BLOCK_OF_MANY;
    struct chunk chunk = { .w = w, .splits = splits, .kept = few ? 2 : BLOCK_SPLIT,
                           .kept_panels = few ? SPLIT_PANELS : CHUNK_PANELS };
    struct halves configured = { 0 };
    for (chunk.panel = panel; chunk.panel < end; chunk.panel = chunk.end) {
        chunk.end = end - chunk.panel < CHUNK_PANELS ? end : chunk.panel + CHUNK_PANELS;
        for (chunk.step = 0; chunk.step < steps; chunk.step += block) {
            bool last = chunk.step + block >= steps;
            chunk.steps = last ? steps - chunk.step : block;
            chunk.next = (const unsigned char *)w->data
                         + (last ? chunk.end * w->panel_bytes : chunk.panel * w->panel_bytes + (chunk.step + block) * TILE_BYTES);
            for (size_t m = 0; m < M; m += 2 * PANEL) {
                struct halves x = { .lanes = { input_lanes(M, m), m + PANEL < M ? input_lanes(M, m + PANEL) : 0 } };
                for (size_t i = 0; i < 2; i++)
                    x.group[i] = input + (m + i * PANEL) * steps * HALVES_STEP_BYTES + chunk.step * x.lanes[i] * HALVES_STEP_BYTES;
                if (x.lanes[0] != configured.lanes[0] || x.lanes[1] != configured.lanes[1])
                    halves_config(&x);
                configured = x;
                chunk_run(&chunk, y + m * y_stride, y_stride, &x, m > 0);
            }
        }
    }
    _tile_release();
}

static __attribute__((noinline)) void rows_linear_split(float *y, size_t y_stride, const unsigned char *input, size_t M,
                                                        const struct packed *w, size_t panel, size_t panels)
{
    _Alignas(64) unsigned char splits[CHUNK_PANELS * BLOCK_SPLIT * 2 * TILE_BYTES];
    rows_linear(y, y_stride, input, M, w, panel, panels, splits);
}

void halves_linear(float *y, size_t y_stride, const unsigned char *input, size_t M, const struct packed *w, size_t panel,
                   size_t panels)
{
    if (M == 1) {
        enum { DENORMALS_ARE_ZERO = 0x8040 };  // and results that would be are, as in tiles
        unsigned before = _mm_getcsr();
        _mm_setcsr(before | DENORMALS_ARE_ZERO);
        (w->type == TENSOR_F16 ? row_f16 : row_bf16)(y, input, w, panel, panels);
        _mm_setcsr(before);
    } else if (w->type == TENSOR_F16) {
        rows_linear_split(y, y_stride, input, M, w, panel, panels);
    } else {
        rows_linear(y, y_stride, input, M, w, panel, panels, NULL);
    }
}
