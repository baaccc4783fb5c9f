/* tensor_type.c - see tensor_type.h. */
#include "math/tensor_type.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "math/quant.h"

/* ---- float types ---- */

static void read_f32(float *out, const unsigned char *in, size_t count)
{
    memcpy(out, in, count * sizeof *out);
}

static void read_bf16(float *out, const unsigned char *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

float float_from_f16(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float number;
    memcpy(&number, &bits, sizeof bits);
    number *= 0x1p112f;  // moves the exponent's bias from 15 to 127; subnormal numbers come out right as well
    memcpy(&bits, &number, sizeof bits);
    if ((half & 0x7c00) == 0x7c00)
        bits |= half & 0x3ff ? 0x7fc00000 : 0x7f800000;
    bits |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&number, &bits, sizeof bits);
    return number;
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static size_t read_f16_fast(float *out, const unsigned char *in, size_t count)
{
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i))));
    return i;
}
#endif

static void read_f16(float *out, const unsigned char *in, size_t count)
{
    size_t i = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))  // never comes without F16C
        i = read_f16_fast(out, in, count);
#endif
    for (; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = float_from_f16(half);
    }
}

/* ---- blocks ---- */

static void read_blocks(enum tensor_type type, float *out, const unsigned char *in, size_t count)
{
    const struct quant_form *form = &quant_forms[type];
    size_t groups = form->block_elements / form->group_elements;
    float value[256];
    quant_values(value, type);
    for (; count > 0; count -= form->block_elements, in += tensor_formats[type].block_bytes) {
        struct quant_block block;
        quant_block_unpack(&block, type, in);
        const uint8_t *code = block.code;
        for (size_t g = 0; g < groups; g++) {
            float scale = float_from_f16(block.d) * (float)block.scale[g], m = float_from_f16(block.m);
            float offset = form->has_scales ? -(m * (float)block.min[g]) : m;
            for (size_t i = 0; i < form->group_elements; i++, out++, code++)
                *out = form->has_m ? scale * value[*code] + offset : scale * value[*code];
        }
    }
}

#define BLOCK_READER(name, type)                                             \
    static void name(float *out, const unsigned char *in, size_t count)      \
    {                                                                        \
        read_blocks(type, out, in, count);                                   \
    }
BLOCK_READER(read_q8_0, TENSOR_Q8_0)
BLOCK_READER(read_q4_0, TENSOR_Q4_0)
BLOCK_READER(read_q4_1, TENSOR_Q4_1)
BLOCK_READER(read_q5_0, TENSOR_Q5_0)
BLOCK_READER(read_q5_1, TENSOR_Q5_1)
BLOCK_READER(read_q2_k, TENSOR_Q2_K)
BLOCK_READER(read_q3_k, TENSOR_Q3_K)
BLOCK_READER(read_q4_k, TENSOR_Q4_K)
BLOCK_READER(read_q5_k, TENSOR_Q5_K)
BLOCK_READER(read_q6_k, TENSOR_Q6_K)
BLOCK_READER(read_iq4_nl, TENSOR_IQ4_NL)

const struct tensor_format tensor_formats[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32]    = { "F32",     0,   1,   4, read_f32 },
    [TENSOR_F16]    = { "F16",     1,   1,   2, read_f16 },
    [TENSOR_BF16]   = { "BF16",   30,   1,   2, read_bf16 },
    [TENSOR_Q8_0]   = { "Q8_0",    8,  32,  34, read_q8_0 },
    [TENSOR_Q4_0]   = { "Q4_0",    2,  32,  18, read_q4_0 },
    [TENSOR_Q4_1]   = { "Q4_1",    3,  32,  20, read_q4_1 },
    [TENSOR_Q5_0]   = { "Q5_0",    6,  32,  22, read_q5_0 },
    [TENSOR_Q5_1]   = { "Q5_1",    7,  32,  24, read_q5_1 },
    [TENSOR_Q2_K]   = { "Q2_K",   10, 256,  84, read_q2_k },
    [TENSOR_Q3_K]   = { "Q3_K",   11, 256, 110, read_q3_k },
    [TENSOR_Q4_K]   = { "Q4_K",   12, 256, 144, read_q4_k },
    [TENSOR_Q5_K]   = { "Q5_K",   13, 256, 176, read_q5_k },
    [TENSOR_Q6_K]   = { "Q6_K",   14, 256, 210, read_q6_k },
    [TENSOR_IQ4_NL] = { "IQ4_NL", 20,  32,  18, read_iq4_nl },
    [TENSOR_NF4]    = { "NF4",    -1,  64,  33, NULL },
};

size_t tensor_row_bytes(enum tensor_type type, size_t K)
{
    const struct tensor_format *format = &tensor_formats[type];
    size_t header = type == TENSOR_NF4 ? NF4_HEADER_BYTES : 0;
    return header + (K + format->block_elements - 1) / format->block_elements * format->block_bytes;
}

bool tensor_type_from_gguf(uint32_t gguf_type, enum tensor_type *type)
{
    for (int i = 0; i < TENSOR_TYPE_COUNT; i++) {
        if (tensor_formats[i].gguf_type >= 0 && (uint32_t)tensor_formats[i].gguf_type == gguf_type) {
            *type = (enum tensor_type)i;
            return true;
        }
    }
    return false;
}
