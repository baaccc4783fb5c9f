/* tensor_type.c - see tensor_type.h and block.h. */
#include "math/tensor_type.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "math/block.h"

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

static void scales_q2_k(int8_t *scale, uint8_t *min, const unsigned char *block)
{
    for (size_t g = 0; g < 16; g++) {
        scale[g] = block[g] & 15;
        min[g] = block[g] >> 4;
    }
}

static void scales_q3_k(int8_t *scale, uint8_t *min, const unsigned char *block)
{
    (void)min;
    const unsigned char *low = block + 96, *high = low + 8;  // 8 bytes of 2 x 4 bits, 4 bytes of 4 x 2 bits
    for (size_t g = 0; g < 16; g++)
        scale[g] = (int8_t)((low[g % 8] >> g / 8 * 4 & 15) + ((high[g % 4] >> g / 4 * 2 & 3) << 4) - 32);
}

/* Of Q5_K as well.  Bytes 0 to 3 and 4 to 7: groups 0 to 3, and above them the top bits of groups 4 to 7, whose rest follows. */
static void scales_q4_k(int8_t *scale, uint8_t *min, const unsigned char *block)
{
    const unsigned char *first = block + 4, *second = first + 4, *rest = first + 8;
    for (size_t g = 0; g < 4; g++) {
        scale[g] = first[g] & 63;
        min[g] = second[g] & 63;
        scale[g + 4] = (int8_t)((rest[g] & 15) | (first[g] >> 6) << 4);
        min[g + 4] = (uint8_t)(rest[g] >> 4 | (second[g] >> 6) << 4);
    }
}

static void scales_q6_k(int8_t *scale, uint8_t *min, const unsigned char *block)
{
    (void)min;
    memcpy(scale, block + 192, 16);
}

static const float levels_iq4_nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

const float block_levels_nf4[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};

const struct block_format block_formats[TENSOR_TYPE_COUNT] = {
    /*                 low            high          group bias signed   d    m   levels         scales */
    [TENSOR_Q8_0]   = { { 2, 1, 8 },   { 0 },         32, 128, true,    0,  -1, NULL,          NULL },
    [TENSOR_Q4_0]   = { { 2, 16, 4 },  { 0 },         32,   8, false,   0,  -1, NULL,          NULL },
    [TENSOR_Q4_1]   = { { 4, 16, 4 },  { 0 },         32,   0, false,   0,   2, NULL,          NULL },
    [TENSOR_Q5_0]   = { { 6, 16, 4 },  { 2, 1, 1 },   32,  16, false,   0,  -1, NULL,          NULL },
    [TENSOR_Q5_1]   = { { 8, 16, 4 },  { 4, 1, 1 },   32,   0, false,   0,   2, NULL,          NULL },
    [TENSOR_Q2_K]   = { { 16, 32, 2 }, { 0 },         16,   0, false,  80,  82, NULL,          scales_q2_k },
    [TENSOR_Q3_K]   = { { 32, 32, 2 }, { 0, 32, 1 },  16,   4, false, 108,  -1, NULL,          scales_q3_k },
    [TENSOR_Q4_K]   = { { 16, 32, 4 }, { 0 },         32,   0, false,   0,   2, NULL,          scales_q4_k },
    [TENSOR_Q5_K]   = { { 48, 32, 4 }, { 16, 32, 1 }, 32,   0, false,   0,   2, NULL,          scales_q4_k },
    [TENSOR_Q6_K]   = { { 0, 64, 4 },  { 128, 32, 2 }, 16, 32, false, 208,  -1, NULL,          scales_q6_k },
    [TENSOR_IQ4_NL] = { { 2, 16, 4 },  { 0 },         32,   0, false,   0,  -1, levels_iq4_nl, NULL },
};

static void plane_add(uint8_t *code, size_t elements, const unsigned char *block, struct block_plane plane, unsigned shift)
{
    const unsigned char *in = block + plane.offset;
    unsigned mask = (1u << plane.bits) - 1;
    for (size_t e = 0; e < elements; in += plane.run) {
        for (unsigned at = 0; at < 8; at += plane.bits) {
            for (size_t i = 0; i < plane.run; i++, e++)
                code[e] |= (uint8_t)((in[i] >> at & mask) << shift);
        }
    }
}

static uint16_t half_at(const unsigned char *in)
{
    return (uint16_t)(in[0] | in[1] << 8);
}

void block_unpack(struct block *block, enum tensor_type type, const unsigned char *in)
{
    const struct block_format *format = &block_formats[type];
    size_t elements = tensor_formats[type].block_elements;
    memset(block->code, 0, elements);
    plane_add(block->code, elements, in, format->low, 0);
    if (format->high.bits > 0)
        plane_add(block->code, elements, in, format->high, format->low.bits);
    if (format->signed_codes) {
        for (size_t e = 0; e < elements; e++)
            block->code[e] ^= 0x80;
    }
    block->d = half_at(in + format->d);
    block->m = format->m < 0 ? 0 : half_at(in + format->m);
    memset(block->min, 0, sizeof block->min);
    if (format->scales != NULL)
        format->scales(block->scale, block->min, in);
    else
        memset(block->scale, 1, sizeof block->scale);
}

static void read_blocks(enum tensor_type type, float *out, const unsigned char *in, size_t count)
{
    const struct block_format *format = &block_formats[type];
    size_t elements = tensor_formats[type].block_elements, groups = elements / format->group_elements;
    float value[256];
    for (int i = 0; i < 256; i++)
        value[i] = format->levels != NULL ? format->levels[i % 16] : (float)(i - format->bias);
    for (; count > 0; count -= elements, in += tensor_formats[type].block_bytes) {
        struct block block;
        block_unpack(&block, type, in);
        const uint8_t *code = block.code;
        for (size_t g = 0; g < groups; g++) {
            float scale = float_from_f16(block.d) * (float)block.scale[g], m = float_from_f16(block.m);
            float offset = format->scales != NULL ? -(m * (float)block.min[g]) : m;
            for (size_t i = 0; i < format->group_elements; i++, out++, code++)
                *out = format->m < 0 ? scale * value[*code] : scale * value[*code] + offset;
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
    [TENSOR_NF4]    = { "NF4",    -1,  64,  36, NULL },
};

size_t tensor_row_bytes(enum tensor_type type, size_t K)
{
    const struct tensor_format *format = &tensor_formats[type];
    return (K + format->block_elements - 1) / format->block_elements * format->block_bytes;
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
