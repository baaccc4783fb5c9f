/*
 * input.h - how the rows that a product takes lie in memory, for kernels that do not take them as float32.
 *
 * Inside common/math.  Rows lie in groups of up to PANEL, and a group in steps of UNIT elements, 0 behind the last: so a step of a
 * group is what a tile or a broadcast reads.  Of R rows a step is
 *
 *   INPUT_HALVES   high (R, UNIT) BF16, low (R, UNIT) BF16          x = high + low, but for 2^-17 of it
 *   INPUT_BYTES    codes (R, UNIT) int8, then 8 fields of R numbers x = d * code, to nearest, code from -127 to 127:
 *                  d float32; minus the sum of the codes, of those in the first and of those in the second half, int32;
 *                  d times these three sums, float32; one is not used
 */
#ifndef MATH_INPUT_H
#define MATH_INPUT_H

#include "math/kernels.h"
#include "math/panel.h"

enum { HALVES_STEP_BYTES = 4 * UNIT, BYTES_STEP_BYTES = 2 * UNIT };  // of a row
enum { FIELD_D, FIELD_MINUS_SUM, FIELD_SUM_D = FIELD_MINUS_SUM + 3, FIELD_COUNT = 8 };

static inline size_t input_steps(size_t K)
{
    return (K + UNIT - 1) / UNIT;
}

/* Rows of the group of row m. */
static inline size_t input_lanes(size_t M, size_t m)
{
    size_t left = M - m / PANEL * PANEL;
    return left < PANEL ? left : PANEL;
}

#endif
