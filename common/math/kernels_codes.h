/*
 * kernels_codes.h - products of quantised weights with rows in bytes or words, by AVX2 ("maddubs") and by AVX-VNNI ("avxvnni").
 *
 * Inside common/math.  Sums are those of kernels_vnni.h, to the bit, where rows are in bytes; where they are in words, x_code has
 * 16 bits, and the sum in integers, at most 2^27, is rounded when it becomes a float.
 */
#ifndef MATH_KERNELS_CODES_H
#define MATH_KERNELS_CODES_H

#include "math/kernels.h"

/* Of rows that meet a type of blocks other than NF4: bytes; but for maddubs words where codes take 8 bits, also as levels. */
enum input_form maddubs_input_form(enum tensor_type type);
enum input_form avxvnni_input_form(enum tensor_type type);
/* As kernels.h has it, in bytes, words and floats. */
void maddubs_input_make(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part);
void avxvnni_input_make(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part);
/* As kernels.h has it. */
void maddubs_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels);
void avxvnni_linear(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels);

#endif
