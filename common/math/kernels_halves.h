/*
 * kernels_halves.h - products of BF16 and F16 weights with rows in halves, by AMX.
 *
 * Inside common/math.  A step of UNIT elements is a product of tiles, which adds to y the sum of the products of its even elements
 * and that of its odd ones, each one fused multiply-add after the other; numbers below float32's normal ones count as 0.  Of BF16,
 *
 *   y += high * w;  y += low * w                                   step after step, x = high + low
 *   y += high * w_high;  y += low * w_high;                        of F16, w = w_high + w_low, 8 and 3 bits
 *   y += low * w_low;  y += high * w_low
 *
 * so that x, to 2^-17 of it, is all that is rounded.  One row goes by AVX-512, with the same sums.
 */
#ifndef MATH_KERNELS_HALVES_H
#define MATH_KERNELS_HALVES_H

#include "math/kernels.h"

void halves_linear(float *y, size_t y_stride, const unsigned char *input, size_t M, const struct packed *w, size_t panel,
                   size_t panels);

#endif
