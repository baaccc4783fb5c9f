/* quant.c - see quant.h. */
#include "math/quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

const float quant_levels_iq4_nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

/* Quantiles of the normal distribution scaled to [-1, 1] (QLoRA, appendix E). */
const float quant_levels_nf4[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};

/* ---- scales of groups ---- */

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

static void scales_nf4(int8_t *scale, uint8_t *min, const unsigned char *block)
{
    (void)min;
    memcpy(scale, block, 1);
}

/* ---- where a block's bits lie ---- */

/* Some bits of the codes: run bytes hold one code after the other in their lowest bits, then run codes above these. */
struct plane {
    uint8_t offset, run;  // bytes
};

static const struct {
    struct plane low, high;
    uint8_t d, m;  // bytes from the block's start
    void (*scales)(int8_t *scale, uint8_t *min, const unsigned char *block);
} places[TENSOR_TYPE_COUNT] = {
    /*                 low         high         d    m   scales */
    [TENSOR_Q8_0]   = { { 2, 1 },   { 0, 0 },     0,  0, NULL },
    [TENSOR_Q4_0]   = { { 2, 16 },  { 0, 0 },     0,  0, NULL },
    [TENSOR_Q4_1]   = { { 4, 16 },  { 0, 0 },     0,  2, NULL },
    [TENSOR_Q5_0]   = { { 6, 16 },  { 2, 1 },     0,  0, NULL },
    [TENSOR_Q5_1]   = { { 8, 16 },  { 4, 1 },     0,  2, NULL },
    [TENSOR_Q2_K]   = { { 16, 32 }, { 0, 0 },    80, 82, scales_q2_k },
    [TENSOR_Q3_K]   = { { 32, 32 }, { 0, 32 },  108,  0, scales_q3_k },
    [TENSOR_Q4_K]   = { { 16, 32 }, { 0, 0 },     0,  2, scales_q4_k },
    [TENSOR_Q5_K]   = { { 48, 32 }, { 16, 32 },   0,  2, scales_q4_k },
    [TENSOR_Q6_K]   = { { 0, 64 },  { 128, 32 }, 208, 0, scales_q6_k },
    [TENSOR_IQ4_NL] = { { 2, 16 },  { 0, 0 },     0,  0, NULL },
    [TENSOR_NF4]    = { { 1, 32 },  { 0, 0 },     0,  0, scales_nf4 },
};

static void plane_add(uint8_t *code, size_t elements, const unsigned char *in, size_t run, unsigned bits, unsigned shift)
{
    unsigned mask = (1u << bits) - 1;
    for (size_t e = 0; e < elements; in += run) {
        for (unsigned at = 0; at < 8; at += bits) {
            for (size_t i = 0; i < run; i++, e++)
                code[e] |= (uint8_t)((in[i] >> at & mask) << shift);
        }
    }
}

static uint16_t half_at(const unsigned char *in)
{
    return (uint16_t)(in[0] | in[1] << 8);
}

void quant_block_unpack(struct quant_block *block, enum tensor_type type, const unsigned char *in)
{
    const struct quant_form *form = &quant_forms[type];
    struct plane low = places[type].low, high = places[type].high;
    memset(block->code, 0, form->block_elements);
    plane_add(block->code, form->block_elements, in + low.offset, low.run, form->low_bits, 0);
    if (form->high_bits > 0)
        plane_add(block->code, form->block_elements, in + high.offset, high.run, form->high_bits, form->low_bits);
    if (type == TENSOR_Q8_0) {  // stored as int8
        for (size_t e = 0; e < form->block_elements; e++)
            block->code[e] ^= 0x80;
    }
    block->d = form->has_d ? half_at(in + places[type].d) : 0;
    block->m = form->has_m ? half_at(in + places[type].m) : 0;
    memset(block->scale, 1, sizeof block->scale);
    memset(block->min, 0, sizeof block->min);
    if (form->has_scales)
        places[type].scales(block->scale, block->min, in);
}

void quant_values(float value[256], enum tensor_type type)
{
    const struct quant_form *form = &quant_forms[type];
    for (int i = 0; i < 256; i++)
        value[i] = form->levels != NULL ? form->levels[i % 16] : (float)(i - form->bias);
}

/* ---- float32 to blocks ---- */

uint16_t f16_from_float(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, 4);
    uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000) {  // subnormal: the sum with 0.5 has its mantissa in the lowest bits, rounded
        memcpy(&number, &bits, 4);
        number += 0.5f;
        memcpy(&bits, &number, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

static uint16_t bf16_from_float(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, 4);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);  // a NaN stays one
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void put_half(unsigned char *out, uint16_t half)
{
    out[0] = (unsigned char)half;
    out[1] = (unsigned char)(half >> 8);
}

/* Towards zero, within [low, high]; NaN gives low. */
static int clamp(float number, int low, int high)
{
    return number >= (float)high ? high : number > (float)low ? (int)number : low;
}

/* To nearest, halves away from zero, within [low, high]; NaN gives low. */
static int clamp_rounded(float number, int low, int high)
{
    int whole = clamp(number, low, high);
    float rest = number - (float)whole;
    return whole + (rest >= 0.5f && whole < high) - (rest <= -0.5f && whole > low);
}

static float absmax_of(const float *x, size_t n)
{
    float max = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float size = fabsf(x[i]);
        max = size > max ? size : max;
    }
    return max;
}

static void quant_q8_0(unsigned char *out, const float x[32])
{
    float d = absmax_of(x, 32) / 127.0f, inverse = d == 0.0f ? 0.0f : 1.0f / d;
    put_half(out, f16_from_float(d));
    for (size_t i = 0; i < 32; i++)
        out[2 + i] = (unsigned char)clamp_rounded(x[i] * inverse, -128, 127);
}

static void quant_q4_0(unsigned char *out, const float x[32])
{
    float max = 0.0f;  // the first of greatest size, with its sign
    for (size_t i = 0; i < 32; i++) {
        if (fabsf(x[i]) > fabsf(max))
            max = x[i];
    }
    float d = max / -8.0f, inverse = d == 0.0f ? 0.0f : 1.0f / d;
    int code[32];
    put_half(out, f16_from_float(d));
    for (size_t i = 0; i < 32; i++) {
        volatile float scaled = x[i] * inverse;  // rounded before the sum, as ggml does it
        code[i] = clamp(scaled + 8.5f, 0, 15);
    }
    for (size_t i = 0; i < 16; i++)
        out[2 + i] = (unsigned char)(code[i] | code[i + 16] << 4);
}

/* Codes of the nearest levels: each counts the midpoints between levels that lie below. */
static void quant_nf4(unsigned char *out, const float x[64])
{
    float absmax = absmax_of(x, 64), inverse = absmax == 0.0f ? 0.0f : 1.0f / absmax, scaled[64];
    int32_t code[64] = { 0 };
    for (size_t i = 0; i < 64; i++)
        scaled[i] = x[i] * inverse;
    for (size_t level = 0; level < 15; level++) {
        float middle = (quant_levels_nf4[level] + quant_levels_nf4[level + 1]) / 2.0f;
        for (size_t i = 0; i < 64; i++)
            code[i] += scaled[i] > middle;
    }
    for (size_t i = 0; i < 32; i++)
        out[i] = (unsigned char)(code[i] | code[i + 32] << 4);
}

/* The K numbers of a row, 0 behind them: element first and those after it. */
static const float *elements_at(const float *row, size_t K, size_t first, float *buffer, size_t count)
{
    if (K - first >= count)
        return row + first;
    memset(buffer, 0, count * sizeof *buffer);
    memcpy(buffer, row + first, (K - first) * sizeof *buffer);
    return buffer;
}

/* Row scale, row offset, then for each block a byte of scale and 32 bytes of codes. */
static void quant_row_nf4(unsigned char *out, const float *row, size_t K)
{
    size_t blocks = (K + 63) / 64;
    float buffer[64], *absmax = memory_alloc(blocks, sizeof *absmax);
    double sum = 0.0;
    for (size_t b = 0; b < blocks; b++)
        sum += (double)(absmax[b] = absmax_of(elements_at(row, K, b * 64, buffer, 64), 64));
    float offset = (float)(sum / (double)blocks), largest = 0.0f;
    for (size_t b = 0; b < blocks; b++)
        largest = fmaxf(largest, fabsf(absmax[b] - offset));
    float scale = largest / 127.0f;
    uint32_t bits;
    memcpy(&bits, &scale, 4);
    bits = (bits + 0xff) & ~0xffu;  // up, so that 127 is enough
    memcpy(&scale, &bits, 4);
    memcpy(out, &scale, 4);
    memcpy(out + 4, &offset, 4);
    out += NF4_HEADER_BYTES;
    for (size_t b = 0; b < blocks; b++, out += 33) {
        float steps = scale == 0.0f ? 0.0f : (absmax[b] - offset) / scale;
        out[0] = (unsigned char)clamp_rounded(steps, -127, 127);
        quant_nf4(out + 1, elements_at(row, K, b * 64, buffer, 64));
    }
    free(absmax);
}

static void quant_row_halves(unsigned char *out, const float *row, size_t K, uint16_t (*round)(float number))
{
    for (size_t k = 0; k < K; k++)
        put_half(out + 2 * k, round(row[k]));
}

void quant_row(enum tensor_type type, unsigned char *out, const float *row, size_t K)
{
    float buffer[32];
    switch (type) {
    case TENSOR_F32: memcpy(out, row, K * sizeof *row); break;
    case TENSOR_F16: quant_row_halves(out, row, K, f16_from_float); break;
    case TENSOR_BF16: quant_row_halves(out, row, K, bf16_from_float); break;
    case TENSOR_Q8_0:
        for (size_t k = 0; k < K; k += 32, out += 34)
            quant_q8_0(out, elements_at(row, K, k, buffer, 32));
        break;
    case TENSOR_Q4_0:
        for (size_t k = 0; k < K; k += 32, out += 18)
            quant_q4_0(out, elements_at(row, K, k, buffer, 32));
        break;
    case TENSOR_NF4: quant_row_nf4(out, row, K); break;
    default: CHECK(!"a type that is made on load");
    }
}

static void quant_row_read_nf4(float *row, const unsigned char *in, size_t K)
{
    float scale, offset;
    memcpy(&scale, in, 4);
    memcpy(&offset, in + 4, 4);
    in += NF4_HEADER_BYTES;
    for (size_t k = 0; k < K; k += 64, in += 33) {
        const float absmax = offset + scale * (float)(int8_t)in[0];
        float level[16];
        for (size_t i = 0; i < 16; i++)
            level[i] = absmax * quant_levels_nf4[i];
        for (size_t i = 0; i < 32 && k + i < K; i++)
            row[k + i] = level[in[1 + i] & 15];
        for (size_t i = 0; i < 32 && k + 32 + i < K; i++)
            row[k + 32 + i] = level[in[1 + i] >> 4];
    }
}

void quant_row_read(enum tensor_type type, float *row, const unsigned char *in, size_t K)
{
    const struct tensor_format *format = &tensor_formats[type];
    if (type == TENSOR_NF4) {
        quant_row_read_nf4(row, in, K);
        return;
    }
    const size_t blocks = K / format->block_elements, whole = blocks * format->block_elements;
    float last[QUANT_ELEMENTS_MAX];
    format->read(row, in, whole);
    if (whole < K) {
        format->read(last, in + blocks * format->block_bytes, format->block_elements);
        memcpy(row + whole, last, (K - whole) * sizeof *row);
    }
}
