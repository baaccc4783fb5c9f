/*
 * kernels_tiles.h - what all products by AMX share: the tiles' configuration, and the order in which rows and steps are gone
 * through.
 *
 * Inside common/math, and for training's products.
 */
#ifndef MATH_KERNELS_TILES_H
#define MATH_KERNELS_TILES_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Steps of a panel, or of two, that stay in the L1 cache while rows pass by. */
enum { STEP_BLOCK = 16, TILE_BYTES = 1024 };

/* What the 8 tiles hold, as the processor reads it. */
struct tiles {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void tiles_set(struct tiles *tiles, size_t i, size_t rows, size_t row_bytes)
{
    tiles->rows[i] = (uint8_t)rows;
    tiles->row_bytes[i] = (uint16_t)row_bytes;
}

/* What was written before, tiles may read, and what tiles write,
   may be read behind: GCC 12 takes them for instructions that leave memory alone. */
static inline void tiles_see_memory(void)
{
    __asm__ volatile("" : : : "memory");
}

static inline void tiles_config(const struct tiles *tiles)
{
    tiles_see_memory();
    _tile_loadconfig(tiles);
}

/* Sums begin at 0, or where those of the steps before ended. */
#define SUM_BEGIN(tile, at, stride) do { if (resume) _tile_loadd(tile, at, stride); else _tile_zero(tile); } while (0)

/* Rows, a whole number of pairs of groups but for the last, and steps, whose inputs stay in the L2 cache while panels pass by. */
struct extent {
    size_t m, m_end, step, step_end;
};

static inline bool extent_next(struct extent *at, size_t M, size_t steps, size_t step_bytes)
{
    enum { ROWS_MAX = 256, L2_BYTES = 1 << 20 };
    if (at->step_end == steps && at->m_end == M)
        return false;
    bool same_rows = at->m_end > 0 && at->step_end < steps;
    if (!same_rows) {
        at->m = at->m_end;
        at->m_end = M - at->m < ROWS_MAX ? M : at->m + ROWS_MAX;
    }
    size_t fitting = L2_BYTES / ((at->m_end - at->m) * step_bytes) / STEP_BLOCK * STEP_BLOCK;
    at->step = same_rows ? at->step_end : 0;
    at->step_end = fitting < steps - at->step ? at->step + (fitting ? fitting : STEP_BLOCK) : steps;
    return true;
}

#endif
