/* test_kernels.c - every kernel of every instruction set against a plain reference in double. */
#include "../check.h"

#include <stdint.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "math/kernels.h"
#include "math/quant.h"

static const char *const names[] = { "portable", "avx2", "maddubs", "avxvnni", "avx512", "vnni", "amx" };

/* Runs a statement for every set of kernels that this processor has. */
#define FOR_KERNELS(k)                                   \
    for (size_t k##_i = 0; k##_i < COUNT_OF(names); k##_i++) \
        for (const struct kernels *k = kernels_named(names[k##_i]), *k##_once = k; k##_once != NULL; k##_once = NULL)

/* Some panels only, from x as it is. */
static void linear(const struct kernels *k, float *y, size_t y_stride, const float *x, size_t M, const struct packed *w,
                   size_t panel, size_t panels)
{
    enum input_form form = k->input[w->type];
    void *input = memory_alloc_aligned(input_bytes(form, M, w->K), 1);
    k->input_make(input, form, x, M, w->K, NULL);
    k->linear(y, y_stride, input, M, w, panel, panels);
    free(input);
}

static uint32_t drawn;

static float normal(void)
{
    return (float)philox_normal(7, PHILOX_DATA, 0, 0, drawn++);
}

static float *normals(size_t count)
{
    float *x = memory_alloc_aligned(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = normal();
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* A normal number that fits F16 and BF16: a sign, an exponent from -8 to 3, 3 bits of mantissa. */
static float short_normal(void)
{
    uint32_t draw = bits_of(normal()) >> 3;
    return float_of((draw & 1) << 31 | (127 - 8 + (draw >> 4) % 12) << 23 | (draw >> 1 & 7) << 20);
}

static uint16_t f16_from_short(float x)
{
    uint32_t bits = bits_of(x);
    return (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 127 + 15) << 10 | (bits >> 13 & 0x3ff));
}

/* weight: (N, K), numbers that every type holds exactly. */
static struct packed packed_from(const float *weight, enum tensor_type type, size_t N, size_t K)
{
    struct packed packed;
    packed_init(&packed, type, N, K);
    uint16_t *halves = memory_alloc(N * K + 1, sizeof *halves);
    char *shifted = (char *)halves + 1;  // unaligned, as tensors of a file may be
    for (size_t i = 0; i < N * K; i++) {
        uint16_t half = type == TENSOR_F16 ? f16_from_short(weight[i]) : (uint16_t)(bits_of(weight[i]) >> 16);
        memcpy(shifted + 2 * i, &half, 2);
    }
    for (size_t panel = 0; panel < packed_panels(&packed); panel++) {
        const void *rows[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && panel * PANEL + i < N; i++) {
            size_t first = (panel * PANEL + i) * K;
            rows[i] = type == TENSOR_F32 ? (const void *)(weight + first) : shifted + 2 * first;
        }
        packed_set_panel(&packed, panel, rows);
    }
    free(halves);
    return packed;
}

static void expect_bits(const float *actual, const float *expected, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        if (bits_of(actual[i]) != bits_of(expected[i])) {
            TEST_FAIL("%s: element %zu is %.9g, expected the bits of %.9g", what, i, (double)actual[i], (double)expected[i]);
            return;
        }
    }
}

/* M, N, K: one, odd, whole panels, more than a block of K. */
static const size_t shapes[][3] = {
    { 1, 1, 1 }, { 1, 16, 8 }, { 2, 17, 3 }, { 3, 33, 64 }, { 5, 64, 7 }, { 6, 48, 31 }, { 7, 100, 65 },
    { 13, 80, 96 }, { 25, 150, 37 }, { 9, 40, 1100 }, { 16, 64, 32 }, { 32, 33, 64 }, { 37, 70, 600 }, { 70, 20, 1030 },
    { 33, 17, 8229 }, { 20, 16, 9001 },
};

static void linear_against_reference(enum tensor_type type)
{
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        size_t M = shapes[s][0], N = shapes[s][1], K = shapes[s][2], stride = N + 3;
        float *x = normals(M * K), *weight = memory_alloc(N * K, sizeof *weight), *y = memory_alloc(M * stride, sizeof *y);
        for (size_t i = 0; i < N * K; i++)
            weight[i] = short_normal();
        struct packed packed = packed_from(weight, type, N, K);
        FOR_KERNELS(k) {
            for (size_t i = 0; i < M * stride; i++)
                y[i] = -777.0f;
            kernels_linear(k, y, stride, x, M, &packed);
            double bound = k->input[type] == INPUT_HALVES ? 8.6e-6 : 1e-6;  // 2^-17 of x more
            for (size_t m = 0; m < M; m++) {
                for (size_t n = 0; n < stride; n++) {
                    double sum = n < N ? 0.0 : -777.0, size = 0.0;  // columns from N on are not ours to write
                    for (size_t i = 0; i < K && n < N; i++) {
                        sum += (double)x[m * K + i] * (double)weight[n * K + i];
                        size += fabs((double)x[m * K + i] * (double)weight[n * K + i]);
                    }
                    EXPECT_NEAR(y[m * stride + n], sum, bound * size);
                }
            }
        }
        packed_free(&packed);
        free(y);
        free(weight);
        free(x);
    }
}

/* Goal: linear over float32 panels is the product, on awkward shapes, and writes nothing else. */
static void test_linear_f32(void)
{
    linear_against_reference(TENSOR_F32);
}

/* Goal: so is linear over F16 panels. */
static void test_linear_f16(void)
{
    linear_against_reference(TENSOR_F16);
}

/* Goal: so it is where F16 uses all its bits, down to the smallest, in kernels that split them too. */
static void test_linear_all_of_f16(void)
{
    enum { M = 37, N = 35, K = 331 };
    float *x = normals(M * K), *weight = memory_alloc(N * K, sizeof *weight), *y = memory_alloc(M * N, sizeof *y);
    float *one = memory_alloc(N, sizeof *one);
    uint16_t *halves = memory_alloc(N * K, sizeof *halves);
    for (size_t i = 0; i < N * K; i++) {
        halves[i] = (uint16_t)(bits_of(normal()) >> 3);
        /* Up to 8; every seventh is subnormal. */
        halves[i] = (halves[i] & 0x7c00) > 0x4400 || i % 7 == 0 ? halves[i] & 0x83ff : halves[i];
        weight[i] = float_from_f16(halves[i]);
    }
    struct packed packed;
    packed_init(&packed, TENSOR_F16, N, K);
    for (size_t panel = 0; panel < packed_panels(&packed); panel++) {
        const void *rows[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && panel * PANEL + i < N; i++)
            rows[i] = halves + (panel * PANEL + i) * K;
        packed_set_panel(&packed, panel, rows);
    }
    FOR_KERNELS(k) {
        double bound = k->input[TENSOR_F16] == INPUT_HALVES ? 0x1p-17 + 1e-6 : 1e-6;
        kernels_linear(k, y, N, x, M, &packed);
        for (size_t m = 0; m < M; m++) {
            for (size_t n = 0; n < N; n++) {
                double sum = 0.0, size = 0.0;
                for (size_t i = 0; i < K; i++) {
                    sum += (double)x[m * K + i] * (double)weight[n * K + i];
                    size += fabs((double)x[m * K + i] * (double)weight[n * K + i]);
                }
                EXPECT_NEAR(y[m * N + n], sum, bound * size);
            }
            kernels_linear(k, one, N, x + m * K, 1, &packed);
            expect_bits(one, y + m * N, N, k->name);
        }
    }
    packed_free(&packed);
    free(halves);
    free(one);
    free(y);
    free(weight);
    free(x);
}

/* Goal: so is linear over BF16 panels. */
static void test_linear_bf16(void)
{
    linear_against_reference(TENSOR_BF16);
}

/* Goal: a row's outputs have the same bits alone or among others, and whichever panels a call covers. */
static void test_linear_same_bits_in_any_split(void)
{
    for (size_t s = 0; s < COUNT_OF(shapes) * 3; s++) {
        size_t M = shapes[s / 3][0], N = shapes[s / 3][1], K = shapes[s / 3][2];
        float *x = normals(M * K), *weight = memory_alloc(N * K, sizeof *weight);
        float *whole = memory_alloc(M * N, sizeof *whole), *split = memory_alloc(M * N, sizeof *split);
        for (size_t i = 0; i < N * K; i++)
            weight[i] = short_normal();
        struct packed packed = packed_from(weight, TENSOR_F32 + s % 3, N, K);
        FOR_KERNELS(k) {
            kernels_linear(k, whole, N, x, M, &packed);
            for (size_t m = 0; m < M; m++)
                kernels_linear(k, split + m * N, N, x + m * K, 1, &packed);
            expect_bits(split, whole, M * N, "row by row");
            memset(split, 0, M * N * sizeof *split);
            for (size_t panel = 0; panel < packed_panels(&packed); panel++)
                linear(k, split, N, x, M, &packed, panel, 1);
            expect_bits(split, whole, M * N, "panel by panel");
        }
        packed_free(&packed);
        free(split);
        free(whole);
        free(weight);
        free(x);
    }
}

/* ---- quantised types ---- */

/* Where the F16s of a type's blocks are, bytes from a block's start; types without a row are made on load. */
static const struct {
    size_t count;
    size_t offsets[2];
} halves_of[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_1] = { 2, { 0, 2 } }, [TENSOR_Q5_0] = { 1, { 0 } }, [TENSOR_Q5_1] = { 2, { 0, 2 } },
    [TENSOR_Q2_K] = { 2, { 80, 82 } },
    [TENSOR_Q3_K] = { 1, { 108 } }, [TENSOR_Q4_K] = { 2, { 0, 2 } }, [TENSOR_Q5_K] = { 2, { 0, 2 } },
    [TENSOR_Q6_K] = { 1, { 208 } },
    [TENSOR_IQ4_NL] = { 1, { 0 } },
};

/*
 * Blocks of random bytes as in a file, at an odd address, their F16s ordinary numbers; or normal numbers rounded on load.  kept,
 * unless it is NULL, receives the rows as in a file.
 */
static struct packed quantised_random(enum tensor_type type, size_t N, size_t K, unsigned char *kept)
{
    const struct tensor_format *format = &tensor_formats[type];
    size_t row_bytes = tensor_row_bytes(type, K), blocks = N * row_bytes / format->block_bytes;
    unsigned char *file = memory_alloc(1, N * row_bytes + 1), *rows = file + 1;
    float *floats = normals(N * K);
    for (size_t i = 0; i < N * row_bytes; i++)
        rows[i] = (unsigned char)(bits_of(normal()) >> 5);
    for (size_t i = 0; i < blocks * halves_of[type].count; i++) {
        uint16_t half = f16_from_short(short_normal() / 16.0f);
        memcpy(rows + i / halves_of[type].count * format->block_bytes + halves_of[type].offsets[i % halves_of[type].count], &half,
               2);
    }
    struct packed packed;
    packed_init(&packed, type, N, K);
    for (size_t panel = 0; panel < packed_panels(&packed); panel++) {
        const void *from[PANEL] = { NULL };
        const float *from_floats[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && panel * PANEL + i < N; i++) {
            from[i] = rows + (panel * PANEL + i) * row_bytes;
            from_floats[i] = floats + (panel * PANEL + i) * K;
        }
        if (halves_of[type].count > 0)
            packed_set_panel(&packed, panel, from);
        else
            packed_quantise_panel(&packed, panel, from_floats);
    }
    for (size_t n = 0; n < N && kept != NULL; n++) {
        if (halves_of[type].count == 0)
            quant_row(type, rows + n * row_bytes, floats + n * K, K);
        memcpy(kept + n * row_bytes, rows + n * row_bytes, row_bytes);
    }
    free(floats);
    free(file);
    return packed;
}

/* Its rows as float32 in a float32 weight. */
static struct packed packed_f32_from(const struct packed *packed, float *rows)
{
    for (size_t n = 0; n < packed->N; n++)
        packed_get_row(packed, n, rows + n * packed->K);
    return packed_from(rows, TENSOR_F32, packed->N, packed->K);
}

/* M, N and K in blocks, and elements less than that where K may be any number. */
static const size_t quantised_shapes[][4] = {
    { 1, 1, 1, 0 }, { 1, 17, 1, 31 }, { 2, 16, 2, 0 }, { 7, 100, 3, 1 }, { 1, 133, 5, 7 }, { 40, 33, 2, 30 }, { 5, 150, 9, 0 },
        { 19, 48, 17, 9 },
};

/* Panel by panel, single rows, then three at a time. */
static void linear_split(const struct kernels *k, float *y, size_t y_stride, const float *x, size_t M, const struct packed *packed)
{
    for (size_t m = 0, count; m < M; m += count) {
        count = m < M / 2 ? 1 : M - m < 3 ? M - m : 3;
        for (size_t panel = 0; panel < packed_panels(packed); panel++)
            linear(k, y + m * y_stride, y_stride, x + m * packed->K, count, packed, panel, 1);
    }
}

/*
 * Goal: a product over a quantised weight is the product with the numbers that its rows stand for, to the bit the one over these
 * numbers as float32 panels where rows are not rounded, for any number of rows and any split of panels, and writes nothing else.
 */
static void test_linear_quantised(void)
{
    for (int type = TENSOR_Q8_0; type < TENSOR_TYPE_COUNT; type++) {
        for (size_t s = 0; s < COUNT_OF(quantised_shapes); s++) {
            const size_t *shape = quantised_shapes[s];
            size_t M = shape[0], N = shape[1], stride = N + 3;
            size_t K = shape[2] * tensor_formats[type].block_elements - (halves_of[type].count == 0 ? shape[3] : 0);
            struct packed packed = quantised_random((enum tensor_type)type, N, K, NULL);
            float *rows = memory_alloc(N * K, sizeof *rows), *x = normals(M * K);
            struct packed floats = packed_f32_from(&packed, rows);
            float *y = memory_alloc(M * stride, sizeof *y), *expected = memory_alloc(M * stride, sizeof *y);
            FOR_KERNELS(k) {
                if (k->input[type] != INPUT_FLOATS && k->input[type] != INPUT_TILES)
                    continue;
                for (size_t i = 0; i < M * stride; i++)
                    y[i] = expected[i] = -777.0f;
                kernels_linear(k, expected, stride, x, M, &floats);
                kernels_linear(k, y, stride, x, M, &packed);
                expect_bits(y, expected, M * stride, tensor_formats[type].name);
                for (size_t m = 0; m < M; m++) {
                    for (size_t n = 0; n < N; n++) {
                        double sum = 0.0, size = 0.0;
                        for (size_t i = 0; i < K; i++) {
                            sum += (double)x[m * K + i] * (double)rows[n * K + i];
                            size += fabs((double)x[m * K + i] * (double)rows[n * K + i]);
                        }
                        EXPECT_NEAR(y[m * stride + n], sum, 1e-6 * size);
                    }
                }
                memset(y, 0, M * stride * sizeof *y);
                linear_split(k, y, stride, x, M, &packed);
                for (size_t m = 0; m < M; m++)
                    expect_bits(y + m * stride, expected + m * stride, N, "a split");
            }
            packed_free(&floats);
            packed_free(&packed);
            free(expected);
            free(y);
            free(x);
            free(rows);
        }
    }
}

/* 32 elements of a row rounded as kernels that take bytes or words round them: x = d * code, code from -limit to limit. */
static float codes_from(int code[32], const float *x, size_t count, float limit)
{
    float largest = 0.0f;
    for (size_t k = 0; k < count; k++)
        largest = fmaxf(largest, fabsf(x[k]));
    for (size_t k = 0; k < 32; k++)
        code[k] = k < count && largest > 0.0f ? (int)nearbyintf(x[k] * (limit / largest)) : 0;
    return largest / limit;
}

/*
 * A row x (K) by a row of blocks as in a file: what kernels that take bytes or words compute, by the definition in kernels_vnni.h.
 * bound: how far it may be from the product with x as it is.
 */
static float codes_product(enum tensor_type type, float limit, const float *x, const unsigned char *row, size_t K, double *bound)
{
    const struct quant_form *form = &quant_forms[type];
    float y = 0.0f, value[256];
    quant_values(value, type);
    *bound = 0.0;
    for (size_t k = 0; k < K; row += tensor_formats[type].block_bytes) {
        struct quant_block block;
        quant_block_unpack(&block, type, row);
        for (size_t e = 0; e < form->block_elements && k < K; e += 32, k += 32) {
            int code[32];
            float d = codes_from(code, x + k, K - k < 32 ? K - k : 32, limit);
            for (size_t first = 0; first < 32; first += form->group_elements) {
                size_t g = (e + first) / form->group_elements;
                float scale = float_from_f16(block.d) * (float)block.scale[g], m = float_from_f16(block.m);
                float offset = !form->has_m ? 0.0f : form->has_scales ? -(m * (float)block.min[g]) : m;
                int products = 0, sum = 0;
                for (size_t i = first; i < first + form->group_elements; i++) {
                    products += (int)value[block.code[e + i]] * code[i];
                    sum += code[i];
                    double weight = fabs((double)(scale * value[block.code[e + i]] + offset));
                    *bound += (0.51 + 1e-6 * abs(code[i])) * (double)d * weight;  // half a step, and float32's own roundings
                }
                y = fmaf((float)products, scale * d, y);
                y = form->has_m ? fmaf(offset, d * (float)sum, y) : y;
            }
        }
    }
    return y;
}

/* Every set of kernels that takes rows in this form gives a product's bits, for any split, and writes nothing else. */
static void expect_products(enum input_form form, const float *expected, size_t stride, const float *x, size_t M,
                            const struct packed *packed)
{
    float *y = memory_alloc(M * stride, sizeof *y);
    FOR_KERNELS(k) {
        if (k->input[packed->type] != form)
            continue;
        for (size_t i = 0; i < M * stride; i++)
            y[i] = -777.0f;
        kernels_linear(k, y, stride, x, M, packed);
        expect_bits(y, expected, M * stride, tensor_formats[packed->type].name);
        memset(y, 0, M * stride * sizeof *y);
        linear_split(k, y, stride, x, M, packed);
        for (size_t m = 0; m < M; m++)
            expect_bits(y + m * stride, expected + m * stride, packed->N, "a split");
    }
    free(y);
}

/*
 * Goal: where rows are rounded to bytes or words, products are to the bit what the definition says, for any number of rows and any
 * split of panels, within half a step of each element of the product with the rows as they were, and write nothing else.
 */
static void linear_of_codes(enum tensor_type type, enum input_form form, float limit)
{
    for (size_t s = 0; s < COUNT_OF(quantised_shapes); s++) {
        const size_t *shape = quantised_shapes[s];
        size_t M = shape[0], N = shape[1], stride = N + 3, row_bytes;
        size_t K = shape[2] * tensor_formats[type].block_elements - (halves_of[type].count == 0 ? shape[3] : 0);
        row_bytes = tensor_row_bytes(type, K);
        unsigned char *kept = memory_alloc(N, row_bytes);
        struct packed packed = quantised_random(type, N, K, kept);
        float *x = normals(M * K), *row = memory_alloc(K, sizeof *row), *expected = memory_alloc(M * stride, sizeof *expected);
        for (size_t i = 0; i < M * K; i += 37)
            x[i] *= 100.0f;
        memset(x, 0, (K < 32 ? K : 32) * sizeof *x);
        for (size_t i = 0; i < M * stride; i++)
            expected[i] = -777.0f;
        for (size_t n = 0; n < N; n++) {
            packed_get_row(&packed, n, row);
            for (size_t m = 0; m < M; m++) {
                double bound, sum = 0.0;
                expected[m * stride + n] = codes_product(type, limit, x + m * K, kept + n * row_bytes, K, &bound);
                for (size_t k = 0; k < K; k++)
                    sum += (double)x[m * K + k] * (double)row[k];
                EXPECT_NEAR(expected[m * stride + n], sum, bound * 1.001);
            }
        }
        expect_products(form, expected, stride, x, M, &packed);
        packed_free(&packed);
        free(expected);
        free(row);
        free(x);
        free(kept);
    }
}

static void test_linear_of_codes(void)
{
    for (int type = TENSOR_Q8_0; type < TENSOR_NF4; type++) {
        linear_of_codes((enum tensor_type)type, INPUT_BYTES, 127.0f);
        linear_of_codes((enum tensor_type)type, INPUT_WORDS, 32767.0f);
    }
}

/* Goal: sums of the largest codes of either sign overflow nowhere. */
static void test_largest_codes(void)
{
    enum { M = 6, N = 16, K = 512, STRIDE = N };
    float x[M * K], expected[M * STRIDE];
    for (size_t i = 0; i < M * K; i++)
        x[i] = i / K % 2 ? -1.0f : 1.0f;
    for (int type = TENSOR_Q8_0; type < TENSOR_NF4; type++) {
        size_t row_bytes = tensor_row_bytes((enum tensor_type)type, K), block_bytes = tensor_formats[type].block_bytes;
        unsigned char *blocks = memory_alloc(1, row_bytes);
        for (int fill = 0; fill < 256; fill += 51) {  // 0x00 0x33 0x66 0x99 0xcc 0xff
            memset(blocks, fill, row_bytes);
            for (size_t i = 0; i < halves_of[type].count; i++)
                for (size_t b = 0; b < row_bytes; b += block_bytes)
                    memcpy(blocks + b + halves_of[type].offsets[i], &(uint16_t){ 0x3c00 }, 2);
            const void *rows[PANEL];
            for (size_t n = 0; n < PANEL; n++)
                rows[n] = blocks;
            struct packed packed;
            packed_init(&packed, (enum tensor_type)type, N, K);
            packed_set_panel(&packed, 0, rows);
            for (enum input_form form = INPUT_BYTES; form <= INPUT_WORDS; form++) {
                double bound;
                for (size_t m = 0; m < M; m++)
                    for (size_t n = 0; n < N; n++)
                        expected[m * STRIDE + n] = codes_product((enum tensor_type)type, form == INPUT_BYTES ? 127.0f : 32767.0f,
                                                                 x + m * K, blocks, K, &bound);
                expect_products(form, expected, STRIDE, x, M, &packed);
            }
            packed_free(&packed);
        }
        free(blocks);
    }
}

/* Goal: what is not a number in a row, or infinite, spoils that row's outputs and no other row's. */
static void test_hostile_rows(void)
{
    static const enum tensor_type types[] = { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_K };
    enum { M = 5, N = 40, K = 256 };
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        float *x = normals(M * K), *weight = memory_alloc(N * K, sizeof *weight), y[M * N], clean[M * N];
        for (size_t j = 0; j < N * K; j++)
            weight[j] = short_normal();
        struct packed packed = types[i] <= TENSOR_BF16 ? packed_from(weight, types[i], N, K) : quantised_random(types[i], N, K,
                                                                                                                NULL);
        FOR_KERNELS(k) {
            kernels_linear(k, clean, N, x, M, &packed);
            float kept[2] = { x[K + 7], x[3 * K + 250] };
            x[K + 7] = NAN;
            x[3 * K + 250] = INFINITY;
            kernels_linear(k, y, N, x, M, &packed);
            x[K + 7] = kept[0];
            x[3 * K + 250] = kept[1];
            for (size_t m = 0; m < M; m++) {
                if (m % 2 == 0)
                    expect_bits(y + m * N, clean + m * N, N, k->name);
                for (size_t n = 0; n < N && m % 2 == 1; n++)
                    EXPECT(!isfinite(y[m * N + n]));
            }
        }
        packed_free(&packed);
        free(weight);
        free(x);
    }
}

/* Goal: scales that are infinite or NaN spoil their own outputs and nothing else. */
static void test_hostile_scales(void)
{
    enum { N = 17, K = 512, M = 3 };
    float *x = normals(M * K), y[M * N], *row = memory_alloc(K, sizeof *row);
    for (int type = TENSOR_Q8_0; type < TENSOR_NF4; type++) {
        for (int fill = 0; fill < 256; fill += 17) {
            size_t row_bytes = tensor_row_bytes((enum tensor_type)type, K);
            unsigned char *zero = memory_alloc(1, row_bytes), *filled = memory_alloc(1, row_bytes);
            memset(filled, fill, row_bytes);
            for (size_t i = 0; i < halves_of[type].count; i++) {
                for (size_t b = 0; b * tensor_formats[type].block_bytes < row_bytes; b++)
                    memcpy(filled + b * tensor_formats[type].block_bytes + halves_of[type].offsets[i],
                           &(uint16_t){ (uint16_t)(0xfc00 | (fill & 1)) }, 2);
            }
            const void *first[PANEL] = { filled, zero }, *second[PANEL] = { filled };
            struct packed packed;
            packed_init(&packed, (enum tensor_type)type, N, K);
            packed_set_panel(&packed, 0, first);
            packed_set_panel(&packed, 1, second);
            packed_get_row(&packed, 0, row);
            FOR_KERNELS(k) {
                kernels_linear(k, y, N, x, M, &packed);
                kernels_linear(k, y, N, x, 1, &packed);
                for (size_t m = 0; m < M; m++) {
                    for (size_t n = 1; n < N - 1; n++)
                        EXPECT(y[m * N + n] == 0.0f);
                }
            }
            packed_free(&packed);
            free(filled);
            free(zero);
        }
    }
    free(row);
    free(x);
}

/* Goal: rounding on load bears numbers of every kind: none crashes, and what is finite beside them stays. */
static void test_hostile_numbers_are_rounded(void)
{
    static const enum tensor_type types[] = { TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4 };
    enum { K = 128 };
    float bad[] = { NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, -1e-45f, 0.0f };
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        float ordinary[K], spoilt[K], row[K];
        for (size_t k = 0; k < K; k++) {
            ordinary[k] = normal();
            spoilt[k] = k % 3 ? bad[k % COUNT_OF(bad)] : ordinary[k];
        }
        struct packed packed;
        packed_init(&packed, types[i], 3, K);
        packed_quantise_panel(&packed, 0, (const float *const[PANEL]){ spoilt, ordinary, spoilt });
        packed_get_row(&packed, 0, row);
        packed_get_row(&packed, 1, row);
        double error = 0.0, size = 0.0;
        for (size_t k = 0; k < K; k++) {
            error += pow((double)row[k] - (double)ordinary[k], 2.0);
            size += pow((double)ordinary[k], 2.0);
        }
        EXPECT(sqrt(error / size) < 0.12);  // 4 bits lose a tenth
        packed_free(&packed);
    }
}

static double silu_of(double x)
{
    return x / (1.0 + exp(-x));
}

static double gelu_of(double x)
{
    return x * 0.5 * erfc(-x * M_SQRT1_2);
}

static double gelu_tanh_of(double x)
{
    return x / (1.0 + exp(-2.0 * sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void soft_cap_30(const struct kernels *k, float *x, size_t n)
{
    k->soft_cap(x, n, 30.0f);
}

static double soft_cap_30_of(double x)
{
    return 30.0 * tanh(x / 30.0);
}

static void silu(const struct kernels *k, float *x, size_t n)
{
    k->silu(x, n);
}

static void gelu(const struct kernels *k, float *x, size_t n)
{
    k->gelu(x, n);
}

static void gelu_tanh(const struct kernels *k, float *x, size_t n)
{
    k->gelu_tanh(x, n);
}

static const struct {
    const char *name;
    void (*run)(const struct kernels *k, float *x, size_t n);
    double (*definition)(double x);
    double low, high;  // at minus and plus infinity; NaN where the definition is infinity times zero
} functions[] = {
    { "silu", silu, silu_of, NAN, INFINITY },
    { "gelu", gelu, gelu_of, NAN, INFINITY },
    { "gelu_tanh", gelu_tanh, gelu_tanh_of, NAN, INFINITY },
    { "soft_cap", soft_cap_30, soft_cap_30_of, -30.0, 30.0 },
};

/* Goal: AVX-512 and AVX2, which both fuse products and sums, agree to the bit on every kernel. */
static void test_vector_sets_agree(void)
{
    const struct kernels *wide = kernels_named("avx512"), *narrow = kernels_named("avx2");
    if (wide == NULL || narrow == NULL)
        TEST_SKIP("this processor lacks AVX-512 or AVX2");
    enum { M = 7, N = 150, K = 333 };
    float *x = normals(M * K), *weight = normals(N * K), *up = normals(K), a[M * N], b[M * N];
    for (int type = TENSOR_F32; type <= TENSOR_BF16; type++) {
        for (size_t i = 0; i < N * K; i++)
            weight[i] = short_normal();
        struct packed packed = packed_from(weight, (enum tensor_type)type, N, K);
        kernels_linear(wide, a, N, x, M, &packed);
        kernels_linear(narrow, b, N, x, M, &packed);
        expect_bits(b, a, M * N, "linear");
        packed_free(&packed);
    }
    for (int type = TENSOR_Q8_0; type < TENSOR_TYPE_COUNT; type++) {
        size_t blocks = K / tensor_formats[type].block_elements, inputs = blocks * tensor_formats[type].block_elements;
        struct packed packed = quantised_random((enum tensor_type)type, N, inputs, NULL);
        for (size_t rows = 1; rows <= M; rows += M - 1) {
            kernels_linear(wide, a, N, x, rows, &packed);
            kernels_linear(narrow, b, N, x, rows, &packed);
            expect_bits(b, a, rows * N, tensor_formats[type].name);
        }
        packed_free(&packed);
    }
    wide->rms_norm(a, x, up, K, 1e-5f);
    narrow->rms_norm(b, x, up, K, 1e-5f);
    expect_bits(b, a, K, "rms_norm");
    wide->swiglu(a, x, up, K);
    narrow->swiglu(b, x, up, K);
    expect_bits(b, a, K, "swiglu");
    wide->layer_norm(a, x, up, up, K, 1e-5f);
    narrow->layer_norm(b, x, up, up, K, 1e-5f);
    expect_bits(b, a, K, "layer_norm");
    for (size_t f = 0; f < COUNT_OF(functions); f++) {
        memcpy(a, x, K * sizeof *a);
        memcpy(b, x, K * sizeof *b);
        functions[f].run(wide, a, K);
        functions[f].run(narrow, b, K);
        expect_bits(b, a, K, functions[f].name);
    }
    memcpy(a, x, K * sizeof *a);
    memcpy(b, x, K * sizeof *b);
    wide->softmax(a, K);
    narrow->softmax(b, K);
    expect_bits(b, a, K, "softmax");
    EXPECT_INT(bits_of(wide->dot(x, up, K)), bits_of(narrow->dot(x, up, K)));
    EXPECT(wide->exp_sum(a, x, K, 1.5f, 0.7f) == narrow->exp_sum(b, x, K, 1.5f, 0.7f));
    expect_bits(b, a, K, "exp_sum");
    free(up);
    free(weight);
    free(x);
}

/* Goal: halves of every kind, subnormal, infinite and NaN too, become the float32 that they stand for, in rows and in products. */
static void test_all_halves(void)
{
    for (int type = TENSOR_F16; type <= TENSOR_BF16; type++) {
        for (uint32_t first = 0; first < 0x10000; first += PANEL) {
            struct packed packed;
            uint16_t halves[PANEL];
            const void *rows[PANEL];
            packed_init(&packed, (enum tensor_type)type, PANEL, 1);
            for (size_t i = 0; i < PANEL; i++) {
                halves[i] = (uint16_t)(first + i);
                rows[i] = &halves[i];
            }
            packed_set_panel(&packed, 0, rows);
            FOR_KERNELS(k) {
                float y[PANEL], one = 1.0f, row;
                kernels_linear(k, y, PANEL, &one, 1, &packed);
                for (size_t i = 0; i < PANEL; i++) {
                    int exponent = halves[i] >> 10 & 31, mantissa = halves[i] & 0x3ff;
                    double expected = type == TENSOR_BF16 ? (double)float_of((uint32_t)halves[i] << 16)
                                      : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                      : exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
                    if (type == TENSOR_F16 && halves[i] & 0x8000)
                        expected = -expected;
                    packed_get_row(&packed, i, &row);
                    bool same = isnan(expected) ? isnan(y[i]) && isnan(row)
                                                : (double)y[i] == expected && (double)row == expected;
                    if (k->input[type] == INPUT_HALVES)  // subnormal numbers count as 0, and infinity by the low half is none
                        same = fabs(expected) < 0x1p-126 ? y[i] == 0.0f : isfinite(expected) ? same : !isfinite(y[i]);
                    if (!same)
                        TEST_FAIL("%s type %d half %04x is %g and %g, expected %g", k->name, type, halves[i], (double)y[i],
                                  (double)row, expected);
                }
            }
            packed_free(&packed);
        }
    }
}

/* Goal: scores and weighted values over scattered pages are the sums they should be, and values go on from what out holds. */
static void test_attention_over_pages(void)
{
    static const size_t cases[][3] = {  // G, HS, T
        { 1, 2, 1 }, { 2, 8, 16 }, { 3, 16, 17 }, { 4, 64, 100 }, { 5, 48, 33 }, { 7, 80, 65 }, { 8, 128, 70 },
    };
    static const int32_t pages[] = { 6, 1, 8, 0, 3, 7, 2 };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t G = cases[i][0], HS = cases[i][1], T = cases[i][2], count = (T + PANEL - 1) / PANEL, stride = count * PANEL;
        size_t VP = (HS + PANEL - 1) / PANEL, floats = HS * PANEL + VP * PANEL * PANEL;
        float *data = normals(9 * floats), *q = normals(G * HS), *start = normals(G * VP * PANEL);
        float *scores = memory_alloc(G * stride, sizeof *scores), *out = memory_alloc(G * VP * PANEL, sizeof *out);
        struct page_list keys = { data, floats, pages, TENSOR_F32 }, values = { data + HS * PANEL, floats, pages, TENSOR_F32 };
        FOR_KERNELS(k) {
            k->attend_scores(scores, stride, q, G, HS, &keys, count);
            memcpy(out, start, G * VP * PANEL * sizeof *out);
            k->attend_values(out, scores, stride, G, VP, &values, T);
            for (size_t g = 0; g < G; g++) {
                for (size_t t = 0; t < T; t++) {
                    const float *key = data + (size_t)pages[t / PANEL] * floats + t % PANEL;
                    double score = 0.0;
                    for (size_t c = 0; c < HS; c++)
                        score += (double)q[g * HS + c] * (double)key[c * PANEL];
                    EXPECT_NEAR(scores[g * stride + t], score, 1e-4);
                }
                for (size_t c = 0; c < VP * PANEL; c++) {
                    double sum = (double)start[g * VP * PANEL + c];
                    for (size_t t = 0; t < T; t++)
                        sum += (double)scores[g * stride + t]
                               * (double)((const float *)values.base)[(size_t)pages[t / PANEL] * floats
                                                                      + (c / PANEL * PANEL + t % PANEL) * PANEL + c % PANEL];
                    EXPECT_NEAR(out[g * VP * PANEL + c], sum, 1e-3);
                }
            }
        }
        free(out);
        free(scores);
        free(start);
        free(q);
        free(data);
    }
}

/* Goal: pages in F16 give the bits that the same numbers give in float32. */
static void test_attention_over_f16_pages(void)
{
    static const size_t cases[][3] = { { 1, 2, 1 }, { 3, 16, 17 }, { 7, 80, 65 }, { 8, 128, 70 } };  // G, HS, T
    static const int32_t pages[] = { 3, 0, 4, 1, 2 };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t G = cases[i][0], HS = cases[i][1], T = cases[i][2], count = (T + PANEL - 1) / PANEL, stride = count * PANEL;
        size_t VP = (HS + PANEL - 1) / PANEL, elements = HS * PANEL + VP * PANEL * PANEL;
        float *data = memory_alloc(5 * elements, sizeof *data), *q = normals(G * HS);
        uint16_t *halves = memory_alloc(5 * elements, sizeof *halves);
        for (size_t e = 0; e < 5 * elements; e++)
            halves[e] = f16_from_short(data[e] = short_normal());
        float *scores[2], *out[2];
        struct page_list keys[] = { { data, elements, pages, TENSOR_F32 }, { halves, elements, pages, TENSOR_F16 } };
        struct page_list values[] = { { data + HS * PANEL, elements, pages, TENSOR_F32 },
                                      { halves + HS * PANEL, elements, pages, TENSOR_F16 } };
        FOR_KERNELS(k) {
            for (size_t f = 0; f < 2; f++) {
                scores[f] = memory_alloc(G * stride, sizeof(float));
                out[f] = memory_alloc(G * VP * PANEL, sizeof(float));
                k->attend_scores(scores[f], stride, q, G, HS, &keys[f], count);
                k->attend_values(out[f], scores[0], stride, G, VP, &values[f], T);
            }
            expect_bits(scores[1], scores[0], G * stride, "scores");
            expect_bits(out[1], out[0], G * VP * PANEL, "values");
            for (size_t f = 0; f < 2; f++) {
                free(out[f]);
                free(scores[f]);
            }
        }
        free(halves);
        free(q);
        free(data);
    }
}

static const size_t lengths[] = { 1, 2, 15, 16, 17, 31, 100, 257 };

/* Goal: rms_norm, swiglu, add, multiply and dot compute their definitions for every length, touching nothing behind it. */
static void test_rows(void)
{
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        size_t n = lengths[i];
        float *a = normals(n), *b = normals(n), *y = memory_alloc(n + 1, sizeof *y);
        double squares = 0.0, product = 0.0;
        for (size_t j = 0; j < n; j++) {
            squares += (double)a[j] * (double)a[j];
            product += (double)a[j] * (double)b[j];
        }
        FOR_KERNELS(k) {
            y[n] = 5.0f;
            k->rms_norm(y, a, b, n, 0.25f);
            for (size_t j = 0; j < n; j++)
                EXPECT_NEAR(y[j], (double)a[j] / sqrt(squares / (double)n + 0.25) * (double)b[j], 2e-6);
            k->swiglu(y, a, b, n);
            for (size_t j = 0; j < n; j++)
                EXPECT_NEAR(y[j], (double)a[j] / (1.0 + exp(-(double)a[j])) * (double)b[j], 2e-6);
            memcpy(y, a, n * sizeof *y);
            k->add(y, b, n);
            for (size_t j = 0; j < n; j++)
                EXPECT_NEAR(y[j], a[j] + b[j], 0.0);
            memcpy(y, a, n * sizeof *y);
            k->multiply(y, b, n);
            for (size_t j = 0; j < n; j++)
                EXPECT_NEAR(y[j], a[j] * b[j], 0.0);
            EXPECT_NEAR(k->dot(a, b, n), product, 1e-4);
            EXPECT_NEAR(y[n], 5.0, 0.0);
        }
        free(y);
        free(b);
        free(a);
    }
}

/* Goal: layer_norm computes its definition for every length, also of rows far from zero. */
static void test_layer_norm(void)
{
    for (size_t i = 0; i < 2 * COUNT_OF(lengths); i++) {
        size_t n = lengths[i / 2];
        float *x = normals(n), *weight = normals(n), *bias = normals(n), *y = memory_alloc(n + 1, sizeof *y);
        double sum = 0.0, squares = 0.0;
        for (size_t j = 0; j < n; j++)
            sum += (double)(x[j] += i % 2 ? 1000.0f : 0.0f);
        double mean = sum / (double)n;
        for (size_t j = 0; j < n; j++)
            squares += ((double)x[j] - mean) * ((double)x[j] - mean);
        double deviation = sqrt(squares / (double)n + 0.125);
        FOR_KERNELS(k) {
            y[n] = 5.0f;
            k->layer_norm(y, x, weight, bias, n, 0.125f);
            for (size_t j = 0; j < n; j++) {
                double product = ((double)x[j] - mean) / deviation * (double)weight[j];
                EXPECT_NEAR(y[j], product + (double)bias[j], 1e-6 * (fabs(product) + fabs((double)bias[j])) + 1e-6);
            }
            EXPECT_NEAR(y[n], 5.0, 0.0);
        }
        free(y);
        free(bias);
        free(weight);
        free(x);
    }
}

/* Goal: each function is within 2e-6 of its value, however small that is, has its limits, and is the same at any place of a row. */
static void test_functions(void)
{
    enum { COUNT = 24001 };  // -12 to 12, and in soft_cap's case 30 times as far
    float *x = memory_alloc(COUNT, sizeof *x), *y = memory_alloc(COUNT, sizeof *y);
    for (size_t f = 0; f < COUNT_OF(functions); f++) {
        float unit = functions[f].run == soft_cap_30 ? 0.03f : 0.001f;
        for (size_t i = 0; i < COUNT; i++)
            x[i] = ((float)i - COUNT / 2) * unit;
        FOR_KERNELS(k) {
            double worst = 0.0;
            memcpy(y, x, COUNT * sizeof *y);
            functions[f].run(k, y, COUNT);
            for (size_t i = 0; i < COUNT; i++) {
                double expected = functions[f].definition((double)x[i]);
                /* The exponent of gelu_tanh is a float32 up to 140: its last place alone is 8e-6. */
                double slack = functions[f].run == gelu_tanh && x[i] < -2.0f ? 5.0 : 1.0;
                worst = fmax(worst, fabs((double)y[i] - expected) / (fabs(expected) + 1e-32) / slack);
            }
            if (!(worst <= 2e-6))
                TEST_FAIL("%s of %s is wrong by %g", functions[f].name, k->name, worst);
            float ends[] = { -INFINITY, INFINITY, NAN, 0.0f, x[17] };
            functions[f].run(k, ends, COUNT_OF(ends));
            EXPECT(isnan(functions[f].low) ? isnan(ends[0]) || ends[0] == 0.0f : (double)ends[0] == functions[f].low);
            EXPECT((double)ends[1] == functions[f].high);
            EXPECT(isnan(ends[2]));
            EXPECT(ends[3] == 0.0f);
            EXPECT_INT(bits_of(ends[4]), bits_of(y[17]));
        }
    }
    free(y);
    free(x);
}

/* Goal: softmax, highest and exp_sum compute their definitions for every length, far from zero too. */
static void test_softmax_and_exp_sum(void)
{
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        size_t n = lengths[i];
        float *x = normals(n), *y = memory_alloc(n, sizeof *y), top = -INFINITY;
        double sum = 0.0;
        for (size_t j = 0; j < n; j++) {
            x[j] = x[j] * 10.0f + 300.0f;
            top = fmaxf(top, x[j]);
        }
        for (size_t j = 0; j < n; j++)
            sum += exp((double)x[j] - (double)top);
        FOR_KERNELS(k) {
            EXPECT_NEAR(k->highest(x, n), top, 0.0);
            EXPECT_NEAR(k->exp_sum(NULL, x, n, top, 1.0f), sum, 3e-7 * sum);
            EXPECT(k->exp_sum(y, x, n, top, 0.25f) == k->exp_sum(NULL, x, n, top, 0.25f));
            for (size_t j = 0; j < n; j++)
                EXPECT_NEAR(y[j], exp(((double)x[j] - (double)top) / 4), 3e-7 * exp(((double)x[j] - (double)top) / 4));
            memcpy(y, x, n * sizeof *y);
            k->softmax(y, n);
            for (size_t j = 0; j < n; j++) {
                double expected = exp((double)x[j] - (double)top) / sum;
                EXPECT_NEAR(y[j], expected, 5e-7 * expected + 1e-37);
            }
        }
        free(y);
        free(x);
    }
}

/* exp(x) for x <= 0 as kernels compute it. */
static double exp_of(const struct kernels *k, float x)
{
    return k->exp_sum(NULL, &x, 1, 0.0f, 1.0f);
}

/* Goal: the first place above a bound is found in every length, NaN is above nothing,
   and the highest of what holds a NaN is NaN. */
static void test_highest_and_first_above(void)
{
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        size_t n = lengths[i];
        float *x = memory_alloc(n, sizeof *x);
        FOR_KERNELS(k) {
            for (size_t at = 0; at < n; at += 1 + n / 40) {
                for (size_t j = 0; j < n; j++)
                    x[j] = j < at && j % 3 == 0 ? NAN : j < at ? -1.0f : (float)(j % 2);
                EXPECT_INT(k->first_above(x, n, -1.0f), at);
                EXPECT_INT(k->first_above(x, n, 1.0f), n);
                EXPECT(at == 0 || isnan(k->highest(x, n)));
                x[at] = -INFINITY;
                EXPECT_INT(k->first_above(x, n, -1.0f), at + 1);
            }
        }
        free(x);
    }
}

/* Goal: exp is within 2 units in the last place down to -87, then 0; NaN comes through; silu has its limits at both ends. */
static void test_exp_accuracy_and_limits(void)
{
    FOR_KERNELS(k) {
        double worst = 0.0;
        for (float x = -20.0f; x <= 0.0f; x += 0.00037f) {
            double expected = exp((double)x);
            worst = fmax(worst, fabs(exp_of(k, x) - expected) / expected);
        }
        EXPECT_NEAR(worst, 0.0, 2.4e-7 * 1.01);
        float small[2] = { 0.0f, -86.9f };
        k->softmax(small, 2);
        EXPECT_NEAR(small[1], exp(-86.9), 1e-5 * exp(-86.9));
        float gone[3] = { 0.0f, -88.0f, -INFINITY };
        k->softmax(gone, 3);
        EXPECT_INT(bits_of(gone[1]), 0);
        EXPECT_INT(bits_of(gone[2]), 0);
        float bad[2] = { 0.0f, NAN };
        k->softmax(bad, 2);
        EXPECT(isnan(bad[0]) && isnan(bad[1]));
        float gate[4] = { -1000.0f, -88.5f, 1000.0f, NAN }, up[4] = { 1, 1, 1, 1 }, y[4];
        k->swiglu(y, gate, up, 4);
        EXPECT_NEAR(y[0], 0.0, 0.0);
        EXPECT_NEAR(y[1], -88.5 * exp(-88.5), 1e-5 * 88.5 * exp(-88.5));
        EXPECT_NEAR(y[2], 1000.0, 0.0);
        EXPECT(isnan(y[3]));
    }
}

/* Goal: VAS_KERNELS asks for less than the best; a name nobody knows is passed over. */
static void test_choice_by_environment(void)
{
    const char *best = kernels_get()->name;
    setenv("VAS_KERNELS", "portable", 1);
    EXPECT_TEXT(kernels_get()->name, "portable");
    log_open("test_kernels", -1);
    setenv("VAS_KERNELS", "abacus", 1);
    EXPECT_TEXT(kernels_get()->name, best);
    unsetenv("VAS_KERNELS");
    EXPECT(kernels_named("abacus") == NULL);
}

int main(void)
{
    unsetenv("VAS_KERNELS");
    RUN(test_linear_f32);
    RUN(test_linear_f16);
    RUN(test_linear_all_of_f16);
    RUN(test_linear_bf16);
    RUN(test_linear_same_bits_in_any_split);
    RUN(test_vector_sets_agree);
    RUN(test_linear_quantised);
    RUN(test_linear_of_codes);
    RUN(test_largest_codes);
    RUN(test_hostile_rows);
    RUN(test_hostile_scales);
    RUN(test_hostile_numbers_are_rounded);
    RUN(test_all_halves);
    RUN(test_attention_over_pages);
    RUN(test_attention_over_f16_pages);
    RUN(test_rows);
    RUN(test_layer_norm);
    RUN(test_functions);
    RUN(test_softmax_and_exp_sum);
    RUN(test_highest_and_first_above);
    RUN(test_exp_accuracy_and_limits);
    RUN(test_choice_by_environment);
    return tests_end();
}
