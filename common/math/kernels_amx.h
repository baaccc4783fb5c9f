/*
 * kernels_amx.h - products by AMX: of quantised weights with rows in bytes, as kernels_vnni.h defines them, and of BF16.
 *
 * Inside common/math.  Of a BF16 weight, y is summed in steps of UNIT elements, first those of the rows' high parts, then those of
 * the low ones, each step in the processor's order.
 */
#ifndef MATH_KERNELS_AMX_H
#define MATH_KERNELS_AMX_H

#include "math/kernels.h"

void amx_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels);

#endif
