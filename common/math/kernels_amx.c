/* kernels_amx.c - see kernels_amx.h. */
#include "math/kernels_amx.h"

#include <string.h>

#include "math/input.h"
#include "math/kernels_bytes.h"
#include "math/kernels_halves.h"
#include "math/kernels_tiles.h"
#include "math/kernels_vnni.h"

/* Steps of a panel with codes as int8. */
struct bytes_block {
    _Alignas(64) unsigned char codes[STEP_BLOCK][UNIT * PANEL];
    float scale[STEP_BLOCK][2][PANEL], offset[STEP_BLOCK][2][PANEL];  // of each group
};

INLINE void block_expand(enum tensor_type type, struct bytes_block *out, const unsigned char *panel, size_t first, size_t steps)
{
    const size_t groups = UNIT / quant_forms[type].group_elements == 2 ? 2 : 1;
    for (size_t u = 0; u < steps; u++) {
        const unsigned char *block = block_of(type, panel, first + u), *unit = unit_of(type, block, first + u);
        unit_ask_ahead(type, unit);
        UNROLL for (size_t j = 0; j < 8; j++) {
            __m512i codes = (__m512i)unit_bytes(type, unit, j, 0);
            if (code_bias(type) != 0)
                codes = _mm512_sub_epi8(codes, _mm512_set1_epi8((char)code_bias(type)));
            _mm512_store_si512(out->codes[u] + j * 64, codes);
        }
        UNROLL for (size_t g = 0; g < groups; g++) {
            struct group group = group_load(type, panel, block, group_of(type, first + u, g));
            vec_store(out->scale[u][g], group.scale[0]);
            vec_store(out->offset[u][g], group.offset[0]);
        }
    }
}

typedef void expand_function(struct bytes_block *out, const unsigned char *panel, size_t first, size_t steps);

#define EXPAND(name, TYPE)                                                                                                  \
    static void expand_##name(struct bytes_block *out, const unsigned char *panel, size_t first, size_t steps)              \
    {                                                                                                                       \
        block_expand(TENSOR_##TYPE, out, panel, first, steps);                                                              \
    }
BLOCK_TYPES(EXPAND)

#define ENTRY(name, TYPE) [TENSOR_##TYPE] = expand_##name,
static expand_function *const expands[TENSOR_TYPE_COUNT] = {
    BLOCK_TYPES(ENTRY)
};

/* Sums in tile 0, rows in 2, codes in 4; a tile takes a group of codes. */
static void bytes_config(size_t lanes, size_t groups)
{
    struct tiles tiles = { .palette = 1 };
    tiles_set(&tiles, 0, lanes, 64);
    tiles_set(&tiles, 2, lanes, UNIT / groups);
    tiles_set(&tiles, 4, UNIT / groups / 4, 64);
    tiles_config(&tiles);
}

/* A group of codes of a step: out (lanes, PANEL). */
INLINE void bytes_multiply(int32_t *out, const unsigned char *rows, const unsigned char *codes)
{
    _tile_zero(0);
    _tile_loadd(2, rows, UNIT);
    _tile_loadd(4, codes, 64);
    _tile_dpbssd(0, 2, 4);
    _tile_stored(0, out, 64);
}

/*
 * R rows, of which the last 3 may be missing, by a panel.  group: the rows from the block's first step on.  y: (lanes), resume adds
 * to what it holds.
 */
INLINE void bytes_run(float *y, size_t y_stride, const unsigned char *group, size_t lanes, const struct bytes_block *block,
                      size_t steps, bool resume, size_t R, size_t groups, bool has_m)
{
    _Alignas(64) int32_t products[2][PANEL * PANEL];
    __m512 sum[PANEL];
    UNROLL for (size_t r = 0; r < R; r++)
        sum[r] = resume && r < lanes ? _mm512_loadu_ps(y + r * y_stride) : _mm512_setzero_ps();
    bytes_multiply(products[0], group, block->codes[0]);
    for (size_t u = 0; u < steps; u++, group += lanes * BYTES_STEP_BYTES) {
        const float *field = (const float *)(const void *)(group + lanes * UNIT);
        UNROLL for (size_t g = 0; g < groups; g++) {
            const size_t which = groups == 1 ? 0 : 1 + g;
            const int32_t *out = products[(u * groups + g) % 2];
            /* The next products are begun before these are used. */
            if (g + 1 < groups)
                bytes_multiply(products[(u * groups + g + 1) % 2], group + UNIT / 2, block->codes[u] + UNIT / 2 * PANEL);
            else if (u + 1 < steps)
                bytes_multiply(products[(u * groups + g + 1) % 2], group + lanes * BYTES_STEP_BYTES, block->codes[u + 1]);
            __m512 scale = _mm512_loadu_ps(block->scale[u][g]), offset = _mm512_loadu_ps(block->offset[u][g]);
            UNROLL for (size_t r = 0; r < R; r++) {
                const size_t lane = r + 3 < R || r < lanes ? r : lanes - 1;  // behind the fields lie no floats
                __m512 d_scale = _mm512_mul_ps(scale, _mm512_set1_ps(field[FIELD_D * lanes + lane]));
                sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(out + r * PANEL)), d_scale, sum[r]);
                if (has_m)
                    sum[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(field[(FIELD_SUM_D + which) * lanes + lane]), sum[r]);
            }
        }
    }
    UNROLL for (size_t r = 0; r < R; r++) {
        if (r < lanes)
            _mm512_storeu_ps(y + r * y_stride, sum[r]);
    }
}

#define BYTES_ROWS(name, groups, has_m)                                                                                           \
    static void bytes_##name(float *y, size_t y_stride, const unsigned char *group, size_t lanes, const struct bytes_block *block, \
                             size_t steps, bool resume)                                                                           \
    {                                                                                                                             \
        switch ((lanes + 3) / 4) {                                                                                                \
        case 1: bytes_run(y, y_stride, group, lanes, block, steps, resume, 4, groups, has_m); break;                              \
        case 2: bytes_run(y, y_stride, group, lanes, block, steps, resume, 8, groups, has_m); break;                              \
        case 3: bytes_run(y, y_stride, group, lanes, block, steps, resume, 12, groups, has_m); break;                             \
        case 4: bytes_run(y, y_stride, group, lanes, block, steps, resume, 16, groups, has_m); break;                             \
        }                                                                                                                         \
    }
BYTES_ROWS(one, 1, false)
BYTES_ROWS(one_m, 1, true)
BYTES_ROWS(two, 2, false)
BYTES_ROWS(two_m, 2, true)

typedef void bytes_function(float *y, size_t y_stride, const unsigned char *group, size_t lanes, const struct bytes_block *block,
                            size_t steps, bool resume);

/* One or two panels.  y: their first output; they have N, all but of a single panel. */
static void bytes_panels(float *y, size_t y_stride, const unsigned char *input, size_t M, const struct packed *w, size_t panel,
                         size_t panels, size_t N, const struct extent *extent)
{
    struct bytes_block blocks[2];
    const struct quant_form *form = &quant_forms[w->type];
    size_t steps = input_steps(w->K), groups = form->group_elements == 16 ? 2 : 1, configured = 0;
    bytes_function *run = groups == 1 ? (form->has_m ? bytes_one_m : bytes_one) : (form->has_m ? bytes_two_m : bytes_two);
    for (size_t step = extent->step; step < extent->step_end; step += STEP_BLOCK) {
        size_t count = extent->step_end - step < STEP_BLOCK ? extent->step_end - step : STEP_BLOCK;
        for (size_t p = 0; p < panels; p++)
            expands[w->type](&blocks[p], (const unsigned char *)w->data + (panel + p) * w->panel_bytes, step, count);
        for (size_t m = extent->m; m < extent->m_end; m += PANEL) {
            size_t lanes = input_lanes(M, m);
            const unsigned char *group = input + (m * steps + step * lanes) * BYTES_STEP_BYTES;
            if (lanes != configured)
                bytes_config(lanes, groups);
            configured = lanes;
            for (size_t p = 0; p < panels; p++) {
                float partial[PANEL][PANEL], *y_mp = y + m * y_stride + p * PANEL;
                if (N >= PANEL) {
                    run(y_mp, y_stride, group, lanes, &blocks[p], count, step > 0);
                    continue;
                }
                for (size_t r = 0; r < lanes; r++)
                    memcpy(partial[r], y_mp + r * y_stride, N * sizeof(float));
                run(partial[0], PANEL, group, lanes, &blocks[p], count, step > 0);
                for (size_t r = 0; r < lanes; r++)
                    memcpy(y_mp + r * y_stride, partial[r], N * sizeof(float));
            }
        }
    }
}

static void bytes_linear(float *y, size_t y_stride, const unsigned char *input, size_t M, const struct packed *w, size_t panel,
                         size_t panels)
{
    size_t end = panel + panels, P;
    for (struct extent extent = { 0 }; extent_next(&extent, M, input_steps(w->K), BYTES_STEP_BYTES); ) {
        for (size_t p = panel, left; p < end; p += P) {
            left = w->N / PANEL < end ? w->N / PANEL - p : end - p;
            P = left >= 2 ? 2 : 1;
            bytes_panels(y + p * PANEL, y_stride, input, M, w, p, P, left > 0 ? P * PANEL : w->N % PANEL, &extent);
        }
    }
    _tile_release();
}

void amx_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels)
{
    enum { ROWS_WORTH_TILES = 8 };  // fewer cost as much
    if (w->type == TENSOR_BF16 || w->type == TENSOR_F16)
        halves_linear(y, y_stride, input, M, w, panel, panels);
    else if (expands[w->type] != NULL && M >= ROWS_WORTH_TILES)
        bytes_linear(y, y_stride, input, M, w, panel, panels);
    else
        vnni_linear(y, y_stride, input, M, w, panel, panels);
}
