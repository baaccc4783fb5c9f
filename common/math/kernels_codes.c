/*
 * kernels_codes.c - see kernels_codes.h; built twice, CODES_ISA says for what.
 *
 * Codes that lie as they are multiplied, or nearly so, are taken apart on the way, anew for each ROWS_MAX rows: loads are what is
 * short.  Others are taken apart once for all rows, some units at a time in the L1 cache.  AVX-VNNI's vpdpbusd multiplies bytes and
 * adds four of them in 32 bits.  Without it vpmaddubsw adds pairs in 16 bits, in which as many pairs are added as fit; codes of 8
 * bits do not fit at all, and go by vpmaddwd.
 */
#include "math/kernels_codes.h"

#include <string.h>

#include "base/check.h"
#include "math/input.h"
#include "math/kernels_bytes.h"

#define CODES(name) PASTE(CODES_ISA, name)

enum { ROWS_MAX = 4, APART_UNITS = 8 };
#ifdef __AVXVNNI__
enum { HAS_VPDPBUSD = true };
#else
enum { HAS_VPDPBUSD = false };
#endif

extern const struct kernels kernels_avx2;

INLINE bool takes_words(enum tensor_type type)
{
    return !HAS_VPDPBUSD && (quant_forms[type].low_bits == 8 || quant_forms[type].levels != NULL);
}

/* At most a shift and a mask for four of each lane's codes, and a scale that is read as it is. */
INLINE bool apart_on_the_way(enum tensor_type type)
{
    const struct quant_form *form = &quant_forms[type];
    return form->low_bits >= 4 && form->high_bits == 0 && form->levels == NULL && !form->has_scales;
}

enum input_form CODES(_input_form)(enum tensor_type type)
{
    return takes_words(type) ? INPUT_WORDS : INPUT_BYTES;
}

/* ---- rows ---- */

/* The codes of 8 elements each, in order. */
struct step_codes {
    __m256i of[UNIT / 8];
    int32_t sum[2];  // of either half
};

INLINE int32_t lanes_sum(__m256i x)
{
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

/* Codes from -limit to limit of up to UNIT elements; returns d. */
INLINE float step_round(struct step_codes *codes, const float *x, size_t count, float limit)
{
    struct block half[2] = { block_load(x, count, 0.0f), { { { 0 } } } };
    if (count > PANEL)
        half[1] = block_load(x + PANEL, count - PANEL, 0.0f);
    struct block size = block_all(0.0f);
    vec spoilt = { 0 };  // not 0 where infinity or NaN is
    UNROLL for (size_t i = 0; i < UNIT / LANES; i++) {
        vec x_i = half[i / PARTS].part[i % PARTS], size_i = (vec)((vec_bits)x_i & 0x7fffffffu);
        size.part[i % PARTS] = vec_select(size_i > size.part[i % PARTS], size_i, size.part[i % PARTS]);
        spoilt += x_i - x_i;
    }
    const float largest = block_max(size);
    const bool finite = !any_lane(spoilt != 0.0f);
    const bool zero = finite && largest < 0x1p-100f;  // whose inverse could be infinite
    const vec inverse = vec_all(zero || !finite ? 0.0f : limit / largest);
    UNROLL for (size_t i = 0; i < UNIT / LANES; i++)
        codes->of[i] = finite ? _mm256_cvtps_epi32((__m256)(half[i / PARTS].part[i % PARTS] * inverse)) : _mm256_setzero_si256();
    UNROLL for (size_t i = 0; i < 2; i++)
        codes->sum[i] = lanes_sum(_mm256_add_epi32(codes->of[2 * i], codes->of[2 * i + 1]));
    return zero ? 0.0f : finite ? largest / limit : NAN;
}

/* Elements [k, end) of row r of a group of R, and zeros to the end of their step. */
static void bytes_make(unsigned char *out, size_t R, size_t r, const float *x, size_t K, size_t k, size_t end)
{
    for (out += k / UNIT * R * BYTES_STEP_BYTES; k < end; k += UNIT, out += R * BYTES_STEP_BYTES) {
        struct step_codes codes;
        const float d = step_round(&codes, x + k, K - k, 127.0f);
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(codes.of[0], codes.of[1]),
                                           _mm256_packs_epi32(codes.of[2], codes.of[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));  // packing goes by halves
        _mm256_storeu_si256((__m256i *)(void *)(out + r * UNIT), bytes);
        const int32_t sum[3] = { codes.sum[0] + codes.sum[1], codes.sum[0], codes.sum[1] };
        float *field = (float *)(void *)(out + R * UNIT) + r;
        field[FIELD_D * R] = d;
        for (size_t i = 0; i < 3; i++) {
            const int32_t minus = -sum[i];
            memcpy(&field[(FIELD_MINUS_SUM + i) * R], &minus, sizeof minus);
            field[(FIELD_SUM_D + i) * R] = d * (float)sum[i];
        }
    }
}

static void words_make(unsigned char *out, size_t R, size_t r, const float *x, size_t K, size_t k, size_t end)
{
    const __m256i even_first = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,
                                                0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (out += k / UNIT * R * WORDS_STEP_BYTES; k < end; k += UNIT, out += R * WORDS_STEP_BYTES) {
        struct step_codes codes;
        const float d = step_round(&codes, x + k, K - k, 32767.0f);
        for (size_t i = 0; i < 2; i++) {
            __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(codes.of[2 * i], codes.of[2 * i + 1]), 0xd8);
            _mm256_storeu_si256((__m256i *)(void *)(out + r * UNIT * 2 + i * 32), _mm256_shuffle_epi8(words, even_first));
        }
        float *field = (float *)(void *)(out + R * UNIT * 2) + r;
        const int32_t minus = -(codes.sum[0] + codes.sum[1]);
        field[FIELD_D * R] = d;
        memcpy(&field[FIELD_MINUS_SUM * R], &minus, sizeof minus);
    }
}

void CODES(_input_make)(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part)
{
    const struct input_part all = { 0, M, 0, K }, *of = part != NULL ? part : &all;
    if (form == INPUT_FLOATS || form == INPUT_TILES) {
        kernels_avx2.input_make(input, form, x, M, K, part);
        return;
    }
    CHECK(form == INPUT_BYTES || form == INPUT_WORDS);
    for (size_t m = of->m; m < of->m_end; m++) {
        const size_t R = input_lanes(M, m), r = m % PANEL;
        unsigned char *group = (unsigned char *)input + input_bytes(form, m - r, K);
        (form == INPUT_BYTES ? bytes_make : words_make)(group, R, r, x + m * K, K, of->k, of->k_end);
    }
}

/* ---- a unit of a panel ---- */

struct unit {
    const unsigned char *packed;
    struct group groups[2];
    /* Taken apart.  Bytes: vector j has elements 4 j to 4 j + 3 of each lane.  Words: 2 j has the even ones, 2 j + 1 the odd. */
    __m256i codes[16][PARTS];
};

INLINE size_t groups_of(enum tensor_type type)
{
    return quant_forms[type].group_elements == 16 ? 2 : 1;
}

INLINE void unit_begin(enum tensor_type type, struct unit *unit, const unsigned char *panel, size_t u)
{
    const unsigned char *block = block_of(type, panel, u);
    unit->packed = unit_of(type, block, u);
    unit_ask_ahead(type, unit->packed);
    UNROLL for (size_t g = 0; g < groups_of(type); g++)
        unit->groups[g] = group_load(type, panel, block, group_of(type, u, g));
}

/* The codes of elements 4 j to 4 j + 3 of each lane.  apart: the unit has been taken apart. */
INLINE __m256i unit_four(enum tensor_type type, const struct unit *unit, bool apart, size_t j, size_t p)
{
    return apart ? unit->codes[j][p] : (__m256i)unit_bytes(type, unit->packed, j, p);
}

/* The same as words, first those of even elements. */
INLINE void unit_four_words(__m256i words[2], enum tensor_type type, const struct unit *unit, bool apart, size_t j, size_t p)
{
    if (apart) {
        words[0] = unit->codes[2 * j][p];
        words[1] = unit->codes[2 * j + 1][p];
        return;
    }
    const __m256i bytes = (__m256i)unit_bytes(type, unit->packed, j, p);
    words[0] = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
    words[1] = _mm256_srli_epi16(bytes, 8);
}

INLINE void unit_take_apart(enum tensor_type type, struct unit *unit)
{
    UNROLL for (size_t j = 0; j < 8; j++) {
        UNROLL for (size_t p = 0; p < PARTS; p++) {
            if (takes_words(type)) {
                __m256i words[2];
                unit_four_words(words, type, unit, false, j, p);
                unit->codes[2 * j][p] = words[0];
                unit->codes[2 * j + 1][p] = words[1];
            } else {
                unit->codes[j][p] = unit_four(type, unit, false, j, p);
            }
        }
    }
}

/* ---- products ---- */

/* A sum that is there before the next begins: compilers make trees of sums in integers, for which registers do not suffice. */
INLINE __m256i settled(__m256i sum)
{
    __asm__("" : "+x"(sum));
    return sum;
}

INLINE __m256i four_bytes(const unsigned char *row, size_t j)
{
    int32_t four;
    memcpy(&four, row + 4 * j, sizeof four);
    return _mm256_set1_epi32(four);
}

/* A unit's codes times those of R rows are added to products; of bytes, vectors [first, end). */
INLINE void add_words(__m256i products[ROWS_MAX][PARTS], enum tensor_type type, const struct unit *unit, bool apart,
                      const unsigned char *row, size_t R)
{
    UNROLL for (size_t j = 0; j < 8; j++) {
        __m256i words[PARTS][2];
        UNROLL for (size_t p = 0; p < PARTS; p++)
            unit_four_words(words[p], type, unit, apart, j, p);
        UNROLL for (size_t i = 0; i < 2; i++) {
            UNROLL for (size_t r = 0; r < R; r++) {
                const __m256i x = four_bytes(row + r * UNIT * 2, 2 * j + i);
                UNROLL for (size_t p = 0; p < PARTS; p++)
                    products[r][p] = settled(_mm256_add_epi32(products[r][p], _mm256_madd_epi16(words[p][i], x)));
            }
        }
    }
}

#ifdef __AVXVNNI__
INLINE void add_bytes(__m256i products[ROWS_MAX][PARTS], enum tensor_type type, const struct unit *unit, bool apart,
                      const unsigned char *row, size_t first, size_t end, size_t R)
{
    UNROLL for (size_t j = first; j < end; j++) {
        __m256i codes[PARTS];
        UNROLL for (size_t p = 0; p < PARTS; p++)
            codes[p] = unit_four(type, unit, apart, j, p);
        UNROLL for (size_t r = 0; r < R; r++) {
            const __m256i x = four_bytes(row + r * UNIT, j);
            UNROLL for (size_t p = 0; p < PARTS; p++)
                products[r][p] = _mm256_dpbusd_avx_epi32(products[r][p], codes[p], x);
        }
    }
}
#else
INLINE void add_bytes(__m256i products[ROWS_MAX][PARTS], enum tensor_type type, const struct unit *unit, bool apart,
                      const unsigned char *row, size_t first, size_t end, size_t R)
{
    const int code_max = (1 << (quant_forms[type].low_bits + quant_forms[type].high_bits)) - 1;
    const size_t fitting = 32767 / (2 * 127 * code_max) < 8 ? 32767 / (2 * 127 * code_max) : 8;  // vectors whose pairs fit 16 bits
    UNROLL for (size_t j = first; j < end; j += fitting) {
        __m256i pairs[ROWS_MAX][PARTS];
        UNROLL for (size_t r = 0; r < R; r++)
            UNROLL for (size_t p = 0; p < PARTS; p++)
                pairs[r][p] = _mm256_setzero_si256();
        UNROLL for (size_t i = 0; i < fitting; i++) {
            if (j + i >= end)
                break;
            __m256i codes[PARTS];
            UNROLL for (size_t p = 0; p < PARTS; p++)
                codes[p] = unit_four(type, unit, apart, j + i, p);
            UNROLL for (size_t r = 0; r < R; r++) {
                const __m256i x = four_bytes(row + r * UNIT, j + i);
                UNROLL for (size_t p = 0; p < PARTS; p++)
                    pairs[r][p] = settled(_mm256_add_epi16(pairs[r][p], _mm256_maddubs_epi16(codes[p], x)));
            }
        }
        UNROLL for (size_t r = 0; r < R; r++)
            UNROLL for (size_t p = 0; p < PARTS; p++)
                products[r][p] = _mm256_add_epi32(products[r][p], _mm256_madd_epi16(pairs[r][p], _mm256_set1_epi16(1)));
    }
}
#endif

/* A unit by R rows of a group of lanes, from row r0 on, is added to sum. */
INLINE void unit_add(enum tensor_type type, __m256 sum[ROWS_MAX][PARTS], const struct unit *unit, bool apart,
                     const unsigned char *step, size_t lanes, size_t r0, size_t R)
{
    const size_t groups = groups_of(type), row_bytes = takes_words(type) ? UNIT * 2 : UNIT;
    const unsigned char *row = step + r0 * row_bytes;
    const float *field = (const float *)(const void *)(step + lanes * row_bytes) + r0;
    UNROLL for (size_t g = 0; g < groups; g++) {
        const size_t which = groups == 1 ? 0 : 1 + g;
        __m256i products[ROWS_MAX][PARTS];
        UNROLL for (size_t r = 0; r < R; r++)
            UNROLL for (size_t p = 0; p < PARTS; p++)
                products[r][p] = _mm256_setzero_si256();
        if (takes_words(type))
            add_words(products, type, unit, apart, row, R);
        else
            add_bytes(products, type, unit, apart, row, g * 8 / groups, (g + 1) * 8 / groups, R);
        UNROLL for (size_t r = 0; r < R; r++) {
            if (code_bias(type) != 0) {
                int32_t minus_sum;
                memcpy(&minus_sum, &field[(FIELD_MINUS_SUM + which) * lanes + r], sizeof minus_sum);
                const __m256i bias = _mm256_slli_epi32(_mm256_set1_epi32(minus_sum), __builtin_ctz((unsigned)code_bias(type)));
                UNROLL for (size_t p = 0; p < PARTS; p++)
                    products[r][p] = _mm256_add_epi32(products[r][p], bias);
            }
            const __m256 d = _mm256_set1_ps(field[FIELD_D * lanes + r]);
            UNROLL for (size_t p = 0; p < PARTS; p++) {
                const __m256 d_scale = (__m256)unit->groups[g].scale[p] * d;
                sum[r][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[r][p]), d_scale, sum[r][p]);
            }
            if (quant_forms[type].has_m) {
                const __m256 sum_d = _mm256_set1_ps(field[(FIELD_SUM_D + which) * lanes + r]);
                UNROLL for (size_t p = 0; p < PARTS; p++)
                    sum[r][p] = _mm256_fmadd_ps((__m256)unit->groups[g].offset[p], sum_d, sum[r][p]);
            }
        }
    }
}

/* Some units of a panel by R rows; resume adds to what y (R, PANEL) holds.  apart: these units, or NULL where none is. */
INLINE void units_run(enum tensor_type type, float *y, size_t y_stride, const unsigned char *step, size_t lanes, size_t r0,
                      const unsigned char *panel, const struct unit *apart, size_t units, bool resume, size_t R)
{
    __m256 sum[ROWS_MAX][PARTS];
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < PARTS; p++)
            sum[r][p] = resume ? _mm256_loadu_ps(y + r * y_stride + p * LANES) : _mm256_setzero_ps();
    for (size_t u = 0; u < units; u++, step += lanes * (takes_words(type) ? WORDS_STEP_BYTES : BYTES_STEP_BYTES)) {
        if (apart != NULL) {
            unit_add(type, sum, &apart[u], true, step, lanes, r0, R);
            continue;
        }
        struct unit unit;
        unit_begin(type, &unit, panel, u);
        unit_add(type, sum, &unit, false, step, lanes, r0, R);
    }
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t p = 0; p < PARTS; p++)
            _mm256_storeu_ps(y + r * y_stride + p * LANES, sum[r][p]);
}

/* The same by all M rows; the units begin with the panel's unit first. */
INLINE void rows_run(enum tensor_type type, float *y, size_t y_stride, const unsigned char *input, size_t M, size_t steps,
                     const unsigned char *panel, const struct unit *apart, size_t first, size_t units)
{
    const size_t step_bytes = takes_words(type) ? WORDS_STEP_BYTES : BYTES_STEP_BYTES;
    const bool resume = first > 0;
    for (size_t m = 0, R; m < M; m += R, y += R * y_stride) {
        const size_t lanes = input_lanes(M, m), r = m % PANEL;
        const unsigned char *step = input + ((m - r) * steps + first * lanes) * step_bytes;
        R = input_tile(M, m, ROWS_MAX);
        switch (R) {
        case 1: units_run(type, y, y_stride, step, lanes, r, panel, apart, units, resume, 1); break;
        case 2: units_run(type, y, y_stride, step, lanes, r, panel, apart, units, resume, 2); break;
        case 3: units_run(type, y, y_stride, step, lanes, r, panel, apart, units, resume, 3); break;
        default: units_run(type, y, y_stride, step, lanes, r, panel, apart, units, resume, 4); break;
        }
    }
}

/* All rows by one panel.  y: from the panel's first output on. */
INLINE void panel_run(enum tensor_type type, float *y, size_t y_stride, const unsigned char *input, size_t M, size_t K,
                      const unsigned char *panel)
{
    const size_t steps = input_steps(K);
    if (M <= ROWS_MAX || apart_on_the_way(type)) {
        rows_run(type, y, y_stride, input, M, steps, panel, NULL, 0, steps);
        return;
    }
    struct unit apart[APART_UNITS];
    for (size_t first = 0; first < steps; first += APART_UNITS) {
        const size_t units = steps - first < APART_UNITS ? steps - first : APART_UNITS;
        for (size_t u = 0; u < units; u++) {
            unit_begin(type, &apart[u], panel, first + u);
            unit_take_apart(type, &apart[u]);
        }
        rows_run(type, y, y_stride, input, M, steps, panel, apart, first, units);
    }
}

typedef void panel_function(float *y, size_t y_stride, const unsigned char *input, size_t M, size_t K, const unsigned char *panel);

#define PANEL_FUNCTION(name, TYPE)                                                                                          \
    static void panel_##name(float *y, size_t y_stride, const unsigned char *input, size_t M, size_t K,                     \
                             const unsigned char *panel)                                                                    \
    {                                                                                                                       \
        panel_run(TENSOR_##TYPE, y, y_stride, input, M, K, panel);                                                          \
    }
BLOCK_TYPES(PANEL_FUNCTION)

#define ENTRY(name, TYPE) [TENSOR_##TYPE] = panel_##name,
static panel_function *const panel_functions[TENSOR_TYPE_COUNT] = {
    BLOCK_TYPES(ENTRY)
};

void CODES(_linear)(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels)
{
    panel_function *run = panel_functions[w->type];
    if (run == NULL) {
        kernels_avx2.linear(y, y_stride, input, M, w, panel, panels);
        return;
    }
    for (size_t end = panel + panels; panel < end; panel++) {
        const unsigned char *at = (const unsigned char *)w->data + panel * w->panel_bytes;
        float *out = y + panel * PANEL;
        if (panel < w->N / PANEL) {
            run(out, y_stride, input, M, w->K, at);
            continue;
        }
        float partial[PANEL][PANEL];
        for (size_t m = 0; m < M; m += PANEL) {
            const size_t lanes = input_lanes(M, m);
            const unsigned char *group = (const unsigned char *)input + input_bytes(CODES(_input_form)(w->type), m, w->K);
            run(partial[0], PANEL, group, lanes, w->K, at);
            for (size_t r = 0; r < lanes; r++)
                memcpy(out + (m + r) * y_stride, partial[r], w->N % PANEL * sizeof(float));
        }
    }
}
