/*
 * kernels_vnni.h - products of quantised weights with rows in bytes.
 *
 * Inside common/math.  Of a weight with groups of codes, y is summed group after group, all kernels alike, to the bit:
 *
 *   y = fma(scale * d, sum of (code - bias) * x_code, y)       the sum in integers, exact
 *   y = fma(offset, d * sum of x_code, y)                      where the type has an offset
 */
#ifndef MATH_KERNELS_VNNI_H
#define MATH_KERNELS_VNNI_H

#include "math/kernels.h"

/* As kernels.h has it, in halves, bytes and floats. */
void vnni_input_make(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part);
/* As kernels.h has it, for types of blocks other than NF4. */
void vnni_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels);

#endif
