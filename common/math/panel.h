/*
 * panel.h - how a panel of PANEL outputs holds quantised blocks: the same codes and scales as in a file, in the order in which
 * kernels want them.
 *
 * A panel is, of NF4, PANEL row scales and PANEL row offsets (float32), and then blocks, ceil(K / block_elements) of them.
 * A block of the panel is PANEL blocks of the file, one of each output:
 *
 *   d           PANEL F16                where the type has d
 *   m           PANEL F16                where it has m
 *   scales      groups x PANEL bytes     int8 where it has scales; of Q2_K scale | min << 4
 *   mins        groups x PANEL bytes     uint8 where it has scales and m, but for Q2_K
 *   codes       units of UNIT elements, each the plane of low bits and then that of high bits
 *
 * A plane of b bits is vectors of PANEL uint32, a lane for each output, with 32 / b successive elements: element k lies in
 * byte k % 4, there, unless it is the whole byte, from bit 4 * (k / 4 % 2) + b * (k / 8) % 4 on.  So a shift and a mask make
 * 4 elements 4 bytes, what dot products of bytes take, and a mask makes one element a number in its own lane.
 *
 * Bits for a weight, the file's in brackets where they differ: Q8_0 8.5, Q4_0 and IQ4_NL 4.5, Q4_1 5, Q5_0 5.5, Q5_1 6, Q2_K 2.625,
 * Q3_K 3.5625 (3.4375), Q4_K 4.625 (4.5), Q5_K 5.625 (5.5), Q6_K 6.5625, NF4 4.125 + 64 / K.
 */
#ifndef MATH_PANEL_H
#define MATH_PANEL_H

#include "math/kernels.h"
#include "math/quant.h"

enum { UNIT = 32 };

struct panel_layout {
    size_t header_bytes;                 // of the panel
    size_t m, scales, mins, codes;       // bytes from a block's start
    size_t low_plane_bytes, unit_bytes;
    size_t block_bytes;
};

static inline __attribute__((always_inline)) struct panel_layout panel_layout(enum tensor_type type)
{
    const struct quant_form *form = &quant_forms[type];
    size_t groups = form->block_elements / form->group_elements;
    bool has_mins = form->has_scales && form->has_m && type != TENSOR_Q2_K;
    struct panel_layout layout = { .header_bytes = type == TENSOR_NF4 ? 2 * PANEL * sizeof(float) : 0 };
    layout.m = form->has_d ? PANEL * sizeof(uint16_t) : 0;
    layout.scales = layout.m + (form->has_m ? PANEL * sizeof(uint16_t) : 0);
    layout.mins = layout.scales + (form->has_scales ? groups * PANEL : 0);
    layout.codes = layout.mins + (has_mins ? groups * PANEL : 0);
    layout.low_plane_bytes = (size_t)form->low_bits * (UNIT * PANEL / 8);
    layout.unit_bytes = layout.low_plane_bytes + (size_t)form->high_bits * (UNIT * PANEL / 8);
    layout.block_bytes = layout.codes + form->block_elements / UNIT * layout.unit_bytes;
    return layout;
}

#endif
