/*
 * kernels_vector.h - what the kernels are written in: registers of LANES floats, blocks of 16 of them, and functions on them.
 *
 * Inside common/math, for the instruction set that a file is compiled for.
 */
#ifndef MATH_KERNELS_VECTOR_H
#define MATH_KERNELS_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined __AVX2__
#include <immintrin.h>
#endif

#include "math/kernels.h"

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define INLINE static inline __attribute__((always_inline))
#if defined __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#if defined __AVX512F__
enum { LANES = 16 };
#elif defined __AVX2__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { PARTS = PANEL / LANES };

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t vec_int __attribute__((vector_size(LANES * 4)));
typedef uint32_t vec_bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t vec_half __attribute__((vector_size(LANES * 2)));
typedef float vec_narrow __attribute__((vector_size(LANES * 2)));
typedef int8_t vec_bytes __attribute__((vector_size(LANES)));
typedef double vec_double __attribute__((vector_size(LANES * 4)));

INLINE vec vec_load(const float *x)
{
    vec v;
    memcpy(&v, x, sizeof v);
    return v;
}

INLINE void vec_store(float *x, vec v)
{
    memcpy(x, &v, sizeof v);
}

INLINE vec vec_all(float x)
{
    return x - (vec){ 0 };
}

/* a where mask is all ones, else b. */
INLINE bool any_lane(vec_int mask)
{
    uint64_t words[sizeof mask / 8], any = 0;
    memcpy(words, &mask, sizeof mask);
    UNROLL for (size_t i = 0; i < sizeof mask / 8; i++)
        any |= words[i];
    return any != 0;
}

INLINE vec vec_select(vec_int mask, vec a, vec b)
{
    return (vec)(((vec_int)a & mask) | ((vec_int)b & ~mask));
}

/*
 * exp(x): 0 below -87, infinity above 88.72, NaN for NaN.  x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for exp(r)
 * (Cephes expf, error below 2 units in the last place), and 2^n put together from exponent bits in two factors since n may be 128.
 */
INLINE vec vec_exp(vec x)
{
    const float shift = 0x1.8p23f;  // adding it rounds to an integer, found in the low bits
    vec shifted = x * 0x1.715476p+0f + shift;
    vec n = shifted - shift;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    vec_bits scale = ((vec_bits)shifted - (vec_bits)vec_all(shift) + 126u) << 23;  // 2^(n - 1)
    p = p * (vec)scale * 2.0f;
    p = vec_select(x > 88.7228317f, vec_all(INFINITY), p);
    return (vec)((vec_int)p & ~(x < -87.0f));
}

INLINE vec vec_silu(vec x)
{
    return x / (vec_exp(-x) + 1.0f);
}

/* Cephes tanhf: a polynomial where 1 - tanh would cancel. */
INLINE vec vec_tanh(vec x)
{
    vec size = vec_select(x < 0.0f, -x, x), square = x * x;
    vec far = 1.0f - 2.0f / (vec_exp(size * 2.0f) + 1.0f);
    vec near = -5.70498872745e-3f * square + 2.06390887954e-2f;
    near = near * square - 5.37397155531e-2f;
    near = near * square + 1.33314422036e-1f;
    near = near * square - 3.33332819422e-1f;
    near = near * square * x + x;
    return vec_select(size < 0.625f, near, vec_select(x < 0.0f, -far, far));
}

/*
 * x Phi(x).  With a = |x|, Phi(-a) exp(a^2 / 2) is t times a polynomial in t = 1 / (1 + a / 4), fitted to 1e-8 relative on [0, 14],
 * beyond which float32 has nothing left.  exp(-a^2 / 2) is taken from a^2 in two parts, the first exact, since its own rounding
 * would be multiplied by a^2 / 2.
 */
INLINE vec vec_gelu(vec x)
{
    vec a = vec_select(x < 0.0f, -x, x);
    a = vec_select(a > 14.0f, vec_all(14.0f), a);
    vec t = 1.0f / (a * 0.25f + 1.0f);
    vec p = 0.0165797528f * t - 0.0627926961f;
    p = p * t + 0.0516535304f;
    p = p * t + 0.0284343939f;
    p = p * t + 0.0127128968f;
    p = p * t + 0.086656414f;
    p = p * t + 0.0719995499f;
    p = p * t + 0.0955156982f;
    p = p * t + 0.0994925573f;
    p = p * t + 0.0997479036f;
    vec high = (vec)((vec_bits)a & 0xfffff000u);
    vec tail = p * t * vec_exp(high * high * -0.5f) * vec_exp((a - high) * (a + high) * -0.5f);  // Phi(-a)
    return x * vec_select(x < 0.0f, tail, 1.0f - tail);
}

/* x / 2 (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3). */
INLINE vec vec_gelu_tanh(vec x)
{
    vec u = x * x * (0.0713548163f * x) + 1.59576912f * x;  // 2 u
    return x / (vec_exp(-u) + 1.0f);
}

/* ---- 16 lanes at a time ---- */

struct block {
    vec part[PARTS];
};

INLINE struct block block_all(float x)
{
    struct block b;
    UNROLL for (size_t i = 0; i < PARTS; i++)
        b.part[i] = vec_all(x);
    return b;
}

/* The first n of x, at most 16, and fill behind them. */
INLINE struct block block_load(const float *x, size_t n, float fill)
{
    struct block b;
    if (n >= PANEL) {
        UNROLL for (size_t i = 0; i < PARTS; i++)
            b.part[i] = vec_load(x + i * LANES);
        return b;
    }
#if defined __AVX512F__
    b.part[0] = (vec)_mm512_mask_loadu_ps((__m512)vec_all(fill), (__mmask16)((1u << n) - 1), x);
#else
    b = block_all(fill);
    float lanes[PANEL];
    memcpy(lanes, &b, sizeof b);
    for (size_t i = 0; i < n; i++)
        lanes[i] = x[i];
    memcpy(&b, lanes, sizeof b);
#endif
    return b;
}

INLINE void block_store(float *x, size_t n, struct block b)
{
    if (n >= PANEL) {
        UNROLL for (size_t i = 0; i < PARTS; i++)
            vec_store(x + i * LANES, b.part[i]);
        return;
    }
#if defined __AVX512F__
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << n) - 1), (__m512)b.part[0]);
#else
    float lanes[PANEL];
    memcpy(lanes, &b, sizeof b);
    for (size_t i = 0; i < n; i++)
        x[i] = lanes[i];
#endif
}

INLINE float block_sum(struct block b)
{
    float lanes[PANEL];
    memcpy(lanes, &b, sizeof b);
    UNROLL for (size_t half = PANEL / 2; half > 0; half /= 2)
        UNROLL for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

INLINE float block_max(struct block b)
{
    float lanes[PANEL];
    memcpy(lanes, &b, sizeof b);
    UNROLL for (size_t half = PANEL / 2; half > 0; half /= 2)
        UNROLL for (size_t i = 0; i < half; i++)
            lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
}

/* Lane by lane; NaN in x is passed over. */
static inline float max_of(const float *x, size_t n)
{
    struct block max = block_all(-INFINITY);
    for (size_t i = 0; i < n; i += PANEL) {
        struct block b = block_load(x + i, n - i, -INFINITY);
        UNROLL for (size_t j = 0; j < PARTS; j++)
            max.part[j] = vec_select(b.part[j] > max.part[j], b.part[j], max.part[j]);
    }
    return block_max(max);
}

#endif
