/* kernels_vnni.c - see kernels_vnni.h; by vpdpbusd, rows and panels in registers. */
#include "math/kernels_vnni.h"

#include <string.h>

#include "math/input.h"
#include "math/kernels_bytes.h"

enum { ROWS_MAX = 8, ONE_ROW_PANELS = 4 };  // sums in registers beside the 8 vectors of a unit's codes

extern const struct kernels kernels_avx512;

/* ---- rows ---- */

/* Elements [first, first + 16) of a row of K, 0 behind its end. */
INLINE __m512 row_load(const float *x, size_t first, size_t K)
{
    if (first + 16 <= K)
        return _mm512_loadu_ps(x + first);
    return first >= K ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((__mmask16)((1u << (K - first)) - 1), x + first);
}

/* To nearest, ties to even; a NaN stays one. */
INLINE __m512i bf16_bits(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000)), 16);
}

/* Elements [k, end) of row r of a group of R, and zeros to the end of their step. */
static void halves_make(unsigned char *out, size_t R, size_t r, const float *x, size_t K, size_t k, size_t end)
{
    out += r * UNIT * 2;
    for (end = input_steps(end) * UNIT; k < end; k += 16) {
        unsigned char *at = out + k / UNIT * R * HALVES_STEP_BYTES + k % UNIT * 2;
        __m512 number = row_load(x, k, K);
        __m512i high = bf16_bits(number);
        __m512i low = bf16_bits(_mm512_sub_ps(number, _mm512_castsi512_ps(_mm512_slli_epi32(high, 16))));
        _mm256_storeu_si256((__m256i *)(void *)at, _mm512_cvtepi32_epi16(high));
        _mm256_storeu_si256((__m256i *)(void *)(at + R * UNIT * 2), _mm512_cvtepi32_epi16(low));
    }
}

static void bytes_make(unsigned char *out, size_t R, size_t r, const float *x, size_t K, size_t k, size_t end)
{
    for (out += k / UNIT * R * BYTES_STEP_BYTES; k < end; k += UNIT, out += R * BYTES_STEP_BYTES) {
        __m512 half[2] = { row_load(x, k, K), row_load(x, k + 16, K) };
        float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(half[0]), _mm512_abs_ps(half[1])));
        __m512 spoilt = _mm512_sub_ps(half[0], half[0]) + _mm512_sub_ps(half[1], half[1]);  // not 0 where infinity or NaN is
        bool finite = _mm512_cmp_ps_mask(spoilt, _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
        bool zero = finite && largest < 0x1p-100f;  // whose inverse could be infinite
        __m512 inverse = _mm512_set1_ps(zero || !finite ? 0.0f : 127.0f / largest);
        float d = zero ? 0.0f : finite ? largest / 127.0f : NAN;
        __m512i code[2];
        int32_t sum[3] = { 0 };
        for (size_t i = 0; i < 2; i++) {
            code[i] = finite ? _mm512_cvtps_epi32(_mm512_mul_ps(half[i], inverse)) : _mm512_setzero_si512();
            _mm_storeu_si128((__m128i *)(void *)(out + r * UNIT + i * 16), _mm512_cvtsepi32_epi8(code[i]));
            sum[0] += sum[i + 1] = _mm512_reduce_add_epi32(code[i]);
        }
        float *field = (float *)(void *)(out + R * UNIT) + r;
        field[FIELD_D * R] = d;
        for (size_t i = 0; i < 3; i++) {
            int32_t minus = -sum[i];
            memcpy(&field[(FIELD_MINUS_SUM + i) * R], &minus, sizeof minus);
            field[(FIELD_SUM_D + i) * R] = d * (float)sum[i];
        }
    }
}

void vnni_input_make(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part)
{
    const struct input_part all = { 0, M, 0, K }, *of = part != NULL ? part : &all;
    for (size_t m = of->m; m < of->m_end; m++) {
        size_t R = input_lanes(M, m), r = m % PANEL;
        unsigned char *group = (unsigned char *)input + input_bytes(form, m - r, K);
        const float *row = x + m * K;  // (K)
        switch (form) {
        case INPUT_HALVES: halves_make(group, R, r, row, K, of->k, of->k_end); break;
        case INPUT_BYTES: bytes_make(group, R, r, row, K, of->k, of->k_end); break;
        default: memcpy((float *)input + m * K + of->k, row + of->k, (of->k_end - of->k) * sizeof *row); break;
        }
    }
}

/* ---- products ---- */

INLINE __m512i four_codes(const unsigned char *row, size_t j)
{
    int32_t four;
    memcpy(&four, row + 4 * j, sizeof four);
    return _mm512_set1_epi32(four);
}

/* R rows of a group of lanes, from row r on, by P panels.  y: its first row, rows of stride y_stride. */
INLINE void units_run(enum tensor_type type, float *y, size_t y_stride, const unsigned char *group, size_t lanes, size_t r0,
                      const unsigned char *const *panel, size_t steps, size_t R, size_t P)
{
    const size_t groups = UNIT / quant_forms[type].group_elements == 2 ? 2 : 1;
    const bool has_m = quant_forms[type].has_m;
    __m512 sum[ROWS_MAX][ONE_ROW_PANELS];
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < P; p++)
            sum[r][p] = _mm512_setzero_ps();
    for (size_t u = 0; u < steps; u++, group += lanes * BYTES_STEP_BYTES) {
        const float *field = (const float *)(const void *)(group + lanes * UNIT) + r0;
        UNROLL for (size_t p = 0; p < P; p++) {
            const unsigned char *block = block_of(type, panel[p], u), *unit = unit_of(type, block, u);
            __m512i codes[8];
            unit_ask_ahead(type, unit);
            UNROLL for (size_t j = 0; j < 8; j++)
                codes[j] = (__m512i)unit_bytes(type, unit, j, 0);
            UNROLL for (size_t g = 0; g < groups; g++) {
                struct group of = group_load(type, panel[p], block, group_of(type, u, g));
                __m512 scale = (__m512)of.scale[0], offset = (__m512)of.offset[0];
                const size_t which = groups == 1 ? 0 : 1 + g;
                UNROLL for (size_t r = 0; r < R; r++) {
                    const unsigned char *row = group + (r0 + r) * UNIT;
                    __m512i products = _mm512_setzero_si512();
                    if (code_bias(type) != 0) {
                        int32_t minus_sum;
                        memcpy(&minus_sum, &field[(FIELD_MINUS_SUM + which) * lanes + r], sizeof minus_sum);
                        products = _mm512_slli_epi32(_mm512_set1_epi32(minus_sum),
                                                     (unsigned)__builtin_ctz((unsigned)code_bias(type)));
                    }
                    UNROLL for (size_t j = g * 8 / groups; j < (g + 1) * 8 / groups; j++)
                        products = _mm512_dpbusd_epi32(products, codes[j], four_codes(row, j));
                    __m512 d_scale = scale * _mm512_set1_ps(field[FIELD_D * lanes + r]);
                    sum[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), d_scale, sum[r][p]);
                    if (has_m)
                        sum[r][p] = _mm512_fmadd_ps(offset, _mm512_set1_ps(field[(FIELD_SUM_D + which) * lanes + r]), sum[r][p]);
                }
            }
        }
    }
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < P; p++)
            _mm512_storeu_ps(y + r * y_stride + p * PANEL, sum[r][p]);
}

/* Rows [r0, r0 + R) of a group, R a power of two, by one panel, or one row by ONE_ROW_PANELS. */
typedef void units_function(float *y, size_t y_stride, const unsigned char *group, size_t lanes, size_t r0,
                            const unsigned char *const *panel, size_t steps, size_t R, size_t P);

#define ROWS(type, count) case count: units_run(type, y, y_stride, group, lanes, r0, panel, steps, count, 1); break;
#define UNITS(name, TYPE)                                                                                                   \
    static void units_##name(float *y, size_t y_stride, const unsigned char *group, size_t lanes, size_t r0,                \
                             const unsigned char *const *panel, size_t steps, size_t R, size_t P)                           \
    {                                                                                                                       \
        if (P == ONE_ROW_PANELS) {                                                                                          \
            units_run(TENSOR_##TYPE, y, y_stride, group, lanes, r0, panel, steps, 1, ONE_ROW_PANELS);                       \
            return;                                                                                                         \
        }                                                                                                                   \
        switch (R) {                                                                                                        \
        ROWS(TENSOR_##TYPE, 1) ROWS(TENSOR_##TYPE, 2) ROWS(TENSOR_##TYPE, 4) ROWS(TENSOR_##TYPE, 8)                         \
        }                                                                                                                   \
    }
BLOCK_TYPES(UNITS)

#define ENTRY(name, TYPE) [TENSOR_##TYPE] = units_##name,
static units_function *const units[TENSOR_TYPE_COUNT] = {
    BLOCK_TYPES(ENTRY)
};

void vnni_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels)
{
    size_t steps = input_steps(w->K), whole = w->N / PANEL;
    if (units[w->type] == NULL) {
        kernels_avx512.linear(y, y_stride, input, M, w, panel, panels);
        return;
    }
    for (size_t end = panel + panels, P; panel < end; panel += P) {
        P = M == 1 && panel + ONE_ROW_PANELS <= end && panel + ONE_ROW_PANELS <= whole ? ONE_ROW_PANELS : 1;
        const unsigned char *at[ONE_ROW_PANELS];
        for (size_t p = 0; p < P; p++)
            at[p] = (const unsigned char *)w->data + (panel + p) * w->panel_bytes;
        for (size_t m = 0, R; m < M; m += R) {
            size_t lanes = input_lanes(M, m), r = m % PANEL;
            const unsigned char *group = (const unsigned char *)input + input_bytes(INPUT_BYTES, m - r, w->K);
            float partial[ROWS_MAX][PANEL], *out = y + m * y_stride + panel * PANEL;
            for (R = ROWS_MAX; R > lanes - r; R /= 2)
                ;
            if (panel < whole) {
                units[w->type](out, y_stride, group, lanes, r, at, steps, R, P);
                continue;
            }
            units[w->type](partial[0], PANEL, group, lanes, r, at, steps, R, 1);
            for (size_t i = 0; i < R; i++)
                memcpy(out + i * y_stride, partial[i], w->N % PANEL * sizeof(float));
        }
    }
}
