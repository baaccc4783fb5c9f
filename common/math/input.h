/*
 * input.h - how the rows that a product takes lie in memory, for kernels that do not take them as they are.
 *
 * Inside common/math; training's products take tile_height from here.  Rows lie in groups of up to PANEL.  Of INPUT_TILES,
 * float32, a group is tiles of input_tile rows, one after the other; of R rows a tile is (K / PANEL, R, PANEL), so that one address
 * serves for all its rows, and each row has cache lines of its own.  Of the others a group lies in steps of UNIT elements, 0 behind
 * the last: so a step of a group is what a tile of AMX or a broadcast reads.  Of R rows a step is
 *
 *   INPUT_HALVES   high (R, UNIT) BF16, low (R, UNIT) BF16          x = high + low, but for 2^-17 of it
 *   INPUT_BYTES    codes (R, UNIT) int8, then 8 fields of R numbers x = d * code, to nearest, code from -127 to 127:
 *                  d float32; minus the sum of the codes, of those in the first and of those in the second half, int32;
 *                  d times these three sums, float32; one is not used
 *   INPUT_WORDS    codes (R, UNIT) int16, of each 4 elements first those that are even; then d and minus the sum of the codes as
 *                  above, with codes from -32767 to 32767
 */
#ifndef MATH_INPUT_H
#define MATH_INPUT_H

#include "math/kernels.h"
#include "math/panel.h"

enum { HALVES_STEP_BYTES = 4 * UNIT, BYTES_STEP_BYTES = 2 * UNIT, WORDS_STEP_BYTES = 2 * UNIT + 8 };  // of a row
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

/* Floats that a row of a tile takes. */
static inline size_t input_tile_row(size_t K)
{
    return (K + PANEL - 1) / PANEL * PANEL;
}

/* Rows of the next tile of those that are left: as few tiles as possible of at most rows_max, of nearly equal height. */
static inline size_t tile_height(size_t left, size_t rows_max)
{
    size_t tiles = (left + rows_max - 1) / rows_max;
    return (left + tiles - 1) / tiles;
}

/* Of the tile that begins at row m of an input. */
static inline size_t input_tile(size_t M, size_t m, size_t rows_max)
{
    return tile_height(input_lanes(M, m) - m % PANEL, rows_max);
}

#endif
