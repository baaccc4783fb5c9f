/*
 * vector.h - eight floats at a time, in GCC's and clang's vector extension.
 *
 * A function marked CLONES is compiled by gcc for AVX2 with FMA and for any x86-64, and chosen when the program starts.
 * Helpers take vectors by address: passing them by value would depend on the instruction set of the caller.
 *
 * Sums over an array run in eight lanes that are added at the end, always in the same order.
 */
#ifndef LEARN_VECTOR_H
#define LEARN_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Not under ThreadSanitizer, which starts too late for the choice, nor by clang, whose clones other files cannot call. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

enum { LANES = 8 };
typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t lane_bits __attribute__((vector_size(32), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE size_t lanes_round_up(size_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* n >= 8 are all there; of fewer the rest is 0. */
INLINE void lanes_load(lanes *x, const float *from, size_t n)
{
    if (n >= LANES) {
        *x = *(const lanes *)from;
    } else {
        float part[LANES] = { 0 };
        memcpy(part, from, n * sizeof *from);
        *x = *(const lanes *)part;
    }
}

INLINE void lanes_store(float *to, const lanes *x, size_t n)
{
    if (n >= LANES) {
        *(lanes *)to = *x;
    } else {
        float part[LANES];
        *(lanes *)part = *x;
        memcpy(to, part, n * sizeof *to);
    }
}

INLINE float lanes_sum(const lanes *x)
{
    const lanes a = *x;
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

/* x = where mask is set a, else b */
INLINE void lanes_choose(lanes *x, const lane_bits *mask, const lanes *a, const lanes *b)
{
    *x = (lanes)((*mask & (lane_bits)*a) | (~*mask & (lane_bits)*b));
}

INLINE void lanes_max(lanes *x, const lanes *y)
{
    const lane_bits mask = *x > *y;
    lanes_choose(x, &mask, x, y);
}

INLINE float lanes_max_across(const lanes *x)
{
    const lanes a = *x;
    float max = a[0];
    for (size_t i = 1; i < LANES; i++)
        max = a[i] > max ? a[i] : max;
    return max;
}

/*
 * x = exp(x) within 2 units in the last place, for results that are normal floats; x is held inside [-87.3, 88.3].
 * x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by the polynomial of Cephes' expf.  Adding 1.5 * 2^23 rounds to an
 * integer and leaves n in the low bits, from where a shift takes it into the exponent.
 */
INLINE void lanes_exp(lanes *x)
{
    const lanes low = (lanes){ 0 } - 87.3f, high = (lanes){ 0 } + 88.3f;
    const lane_bits below = *x < low, above = *x > high;
    lanes_choose(x, &below, &low, x);
    lanes_choose(x, &above, &high, x);

    const float round = 12582912.0f;
    const lanes shifted = *x * 1.44269504088896341f + round;
    const lanes n = shifted - round;
    const lanes r = *x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    *x = (lanes)((lane_bits)p + ((lane_bits)shifted << 23));
}

/* x = 1 / (1 + exp(-x)) */
INLINE void lanes_sigmoid(lanes *x)
{
    *x = -*x;
    lanes_exp(x);
    *x = 1.0f / (1.0f + *x);
}

/* x = tanh(x) within 4 units in the last place: near 0 the polynomial of Cephes' tanhf, since 1 - 2 / (1 + exp(2x)) cancels. */
INLINE void lanes_tanh(lanes *x)
{
    const lanes z = *x * *x;
    lanes near = z * -5.70498872745e-3f + 2.06390887954e-2f;
    near = near * z - 5.37397155531e-2f;
    near = near * z + 1.33314422036e-1f;
    near = near * z - 3.33332819422e-1f;
    near = near * z * *x + *x;
    lanes e = *x + *x;
    lanes_exp(&e);
    const lanes far = 1.0f - 2.0f / (1.0f + e);
    const lane_bits is_near = z < 0.390625f;  // |x| < 0.625
    lanes_choose(x, &is_near, &near, &far);
}

/* x = Phi(x), the normal distribution, within 1e-6 relative: 1/2 erfc(-x / sqrt(2)) by the fit of Numerical Recipes' erfcc. */
INLINE void lanes_normal(lanes *x)
{
    const lanes zero = { 0 };
    const lane_bits negative = *x < zero;
    const lanes minus = -*x;
    lanes z;
    lanes_choose(&z, &negative, &minus, x);
    z *= 0.70710678118654752f;
    const lanes t = 1.0f / (1.0f + 0.5f * z);
    lanes p = t * 0.17087277f - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f - z * z;
    lanes_exp(&p);
    const lanes below = 0.5f * t * p, above = 1.0f - below;
    lanes_choose(x, &negative, &below, &above);
}

/* sum of a[i] * b[i] */
INLINE float vector_dot(const float *a, const float *b, size_t n)
{
    lanes sum = { 0 };
    for (size_t i = 0; i < n; i += LANES) {
        lanes a_i, b_i;
        lanes_load(&a_i, a + i, n - i);
        lanes_load(&b_i, b + i, n - i);
        sum += a_i * b_i;
    }
    return lanes_sum(&sum);
}

/* y += scale * x */
INLINE void vector_add(float *y, float scale, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        lanes x_i, y_i;
        lanes_load(&x_i, x + i, n - i);
        lanes_load(&y_i, y + i, n - i);
        y_i += scale * x_i;
        lanes_store(y + i, &y_i, n - i);
    }
}

#endif
