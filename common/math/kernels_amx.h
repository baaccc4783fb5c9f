/*
 * kernels_amx.h - products by AMX: of quantised weights with rows in bytes, as kernels_vnni.h defines them, and of BF16 and F16
 * with rows in halves, as kernels_halves.h does.
 *
 * Inside common/math.
 */
#ifndef MATH_KERNELS_AMX_H
#define MATH_KERNELS_AMX_H

#include "math/kernels.h"

void amx_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels);

#endif
