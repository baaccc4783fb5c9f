/* packed.c - weights in panels: filling them, rounding into them, reading rows back.  See kernels.h and panel.h. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "math/kernels.h"
#include "math/panel.h"
#include "math/quant.h"

static bool is_quantised(enum tensor_type type)
{
    return quant_forms[type].group_elements > 0;
}

size_t packed_panels(const struct packed *w)
{
    return (w->N + PANEL - 1) / PANEL;
}

static size_t blocks_of(enum tensor_type type, size_t K)
{
    return (K + quant_forms[type].block_elements - 1) / quant_forms[type].block_elements;
}

static size_t panel_size_bytes(enum tensor_type type, size_t K)
{
    if (type == TENSOR_BF16)
        return (K + UNIT - 1) / UNIT * UNIT * PANEL * 2;
    if (!is_quantised(type))
        return PANEL * K * tensor_formats[type].block_bytes;
    struct panel_layout layout = panel_layout(type);
    return layout.header_bytes + blocks_of(type, K) * layout.block_bytes;
}

size_t packed_size_bytes(enum tensor_type type, size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * panel_size_bytes(type, K);
}

struct packed packed_shape(enum tensor_type type, size_t N, size_t K)
{
    return (struct packed){ .type = type, .N = N, .K = K, .panel_bytes = panel_size_bytes(type, K) };
}

void packed_init(struct packed *w, enum tensor_type type, size_t N, size_t K)
{
    *w = packed_shape(type, N, K);
    w->data = memory_alloc_aligned(packed_size_bytes(type, N, K), 1);
}

void packed_free(struct packed *w)
{
    if (!w->borrowed)
        free(w->data);
    w->data = NULL;
    w->borrowed = false;
}

/* ---- filling ---- */

/* Output i of a float panel. */
static void set_elements(unsigned char *out, enum tensor_type type, const unsigned char *row, size_t K, size_t i)
{
    if (type == TENSOR_F32) {
        for (size_t k = 0; k < K; k++)
            memcpy(out + (k * PANEL + i) * 4, row + k * 4, 4);
    } else if (type == TENSOR_F16) {
        for (size_t k = 0; k < K; k++)
            memcpy(out + (k * PANEL + i) * 2, row + k * 2, 2);
    } else {
        for (size_t k = 0; k < K; k++)
            memcpy(out + (k / 2 * 2 * PANEL + 2 * i + k % 2) * 2, row + k * 2, 2);
    }
}

#define INLINE static inline __attribute__((always_inline))

/* The byte of a plane of b bits, and the bit in it, where element k of a unit begins in lane i. */
INLINE size_t plane_byte(size_t k, unsigned bits, size_t i)
{
    return (k * bits / 32 * PANEL + i) * 4 + k % 4;
}

INLINE unsigned plane_bit(size_t k, unsigned bits)
{
    return bits == 8 ? 0 : (unsigned)(k / 4 % 2 * 4 + k / 8 * bits % 4);
}

INLINE void plane_put_bits(unsigned char *plane, const uint8_t code[UNIT], unsigned from, unsigned bits, size_t i)
{
    for (size_t k = 0; k < UNIT; k++)
        plane[plane_byte(k, bits, i)] |= (unsigned char)((code[k] >> from & ((1u << bits) - 1)) << plane_bit(k, bits));
}

INLINE void plane_get_bits(uint8_t code[UNIT], const unsigned char *plane, unsigned to, unsigned bits, size_t i)
{
    for (size_t k = 0; k < UNIT; k++)
        code[k] |= (uint8_t)((plane[plane_byte(k, bits, i)] >> plane_bit(k, bits) & ((1u << bits) - 1)) << to);
}

/* Lane i of a plane takes bits [from, from + bits) of the codes of a unit. */
static void plane_put(unsigned char *plane, const uint8_t code[UNIT], unsigned from, unsigned bits, size_t i)
{
    switch (bits) {
    case 1: plane_put_bits(plane, code, from, 1, i); break;
    case 2: plane_put_bits(plane, code, from, 2, i); break;
    case 4: plane_put_bits(plane, code, from, 4, i); break;
    case 8: plane_put_bits(plane, code, from, 8, i); break;
    }
}

/* Adds them to the codes at bit to. */
static void plane_get(uint8_t code[UNIT], const unsigned char *plane, unsigned to, unsigned bits, size_t i)
{
    switch (bits) {
    case 1: plane_get_bits(code, plane, to, 1, i); break;
    case 2: plane_get_bits(code, plane, to, 2, i); break;
    case 4: plane_get_bits(code, plane, to, 4, i); break;
    case 8: plane_get_bits(code, plane, to, 8, i); break;
    }
}

static void block_put(unsigned char *out, enum tensor_type type, const struct quant_block *block, size_t i)
{
    const struct quant_form *form = &quant_forms[type];
    struct panel_layout layout = panel_layout(type);
    if (form->has_d)
        memcpy(out + 2 * i, &block->d, 2);
    if (form->has_m)
        memcpy(out + layout.m + 2 * i, &block->m, 2);
    for (size_t g = 0; form->has_scales && g < form->block_elements / form->group_elements; g++) {
        unsigned char scale = (unsigned char)block->scale[g];
        if (type == TENSOR_Q2_K)
            scale |= (unsigned char)(block->min[g] << 4);
        else if (form->has_m)
            out[layout.mins + g * PANEL + i] = block->min[g];
        out[layout.scales + g * PANEL + i] = scale;
    }
    for (size_t unit = 0; unit < form->block_elements / UNIT; unit++) {
        unsigned char *planes = out + layout.codes + unit * layout.unit_bytes;
        const uint8_t *code = block->code + unit * UNIT;
        plane_put(planes, code, 0, form->low_bits, i);
        plane_put(planes + layout.low_plane_bytes, code, form->low_bits, form->high_bits, i);
    }
}

static void set_blocks(unsigned char *panel, enum tensor_type type, const unsigned char *row, size_t K, size_t i)
{
    struct panel_layout layout = panel_layout(type);
    unsigned char *out = panel + layout.header_bytes;
    if (type == TENSOR_NF4) {
        memcpy(panel + 4 * i, row, 4);
        memcpy(panel + 4 * (PANEL + i), row + 4, 4);
        row += NF4_HEADER_BYTES;
    }
    for (size_t b = 0; b < blocks_of(type, K); b++) {
        struct quant_block block;
        quant_block_unpack(&block, type, row + b * tensor_formats[type].block_bytes);
        block_put(out + b * layout.block_bytes, type, &block, i);
    }
}

void packed_set_panel(struct packed *w, size_t panel, const void *const rows[PANEL])
{
    unsigned char *out = (unsigned char *)w->data + panel * w->panel_bytes;
    memset(out, 0, w->panel_bytes);
    for (size_t i = 0; i < PANEL; i++) {
        if (rows[i] == NULL)
            continue;
        if (is_quantised(w->type))
            set_blocks(out, w->type, rows[i], w->K, i);
        else
            set_elements(out, w->type, rows[i], w->K, i);
    }
}

void packed_quantise_panel(struct packed *w, size_t panel, const float *const rows[PANEL])
{
    size_t row_bytes = tensor_row_bytes(w->type, w->K);
    unsigned char *rounded = memory_alloc(PANEL, row_bytes);
    const void *from[PANEL] = { NULL };
    for (size_t i = 0; i < PANEL; i++) {
        if (rows[i] == NULL)
            continue;
        quant_row(w->type, rounded + i * row_bytes, rows[i], w->K);
        from[i] = rounded + i * row_bytes;
    }
    packed_set_panel(w, panel, from);
    free(rounded);
}

/* ---- reading back ---- */

/* The scale of a group for output i, and what is added to its products. */
static float group_get(const unsigned char *panel, const unsigned char *block, enum tensor_type type, size_t g, size_t i,
                       float *offset)
{
    const struct quant_form *form = &quant_forms[type];
    struct panel_layout layout = panel_layout(type);
    unsigned char byte = form->has_scales ? block[layout.scales + g * PANEL + i] : 1;
    if (type == TENSOR_NF4) {
        float scale, row_offset;
        memcpy(&scale, panel + 4 * i, 4);
        memcpy(&row_offset, panel + 4 * (PANEL + i), 4);
        return (float)(int8_t)byte * scale + row_offset;
    }
    uint16_t d, m = 0;
    memcpy(&d, block + 2 * i, 2);
    if (form->has_m)
        memcpy(&m, block + layout.m + 2 * i, 2);
    float min = -1.0f;
    if (type == TENSOR_Q2_K)
        min = (float)(byte >> 4);
    else if (form->has_scales && form->has_m)
        min = (float)block[layout.mins + g * PANEL + i];
    *offset = -(float_from_f16(m) * min);
    return float_from_f16(d) * (float)(int8_t)(type == TENSOR_Q2_K ? byte & 15 : byte);
}

static void get_blocks(float *row, const unsigned char *panel, enum tensor_type type, size_t K, size_t i)
{
    const struct quant_form *form = &quant_forms[type];
    struct panel_layout layout = panel_layout(type);
    float value[256], scale = 0.0f, offset = 0.0f;
    quant_values(value, type);
    for (size_t first = 0; first < K; first += UNIT) {
        size_t e = first % form->block_elements, width = K - first < UNIT ? K - first : UNIT;
        const unsigned char *block = panel + layout.header_bytes + first / form->block_elements * layout.block_bytes;
        const unsigned char *planes = block + layout.codes + e / UNIT * layout.unit_bytes;
        uint8_t code[UNIT] = { 0 };
        plane_get(code, planes, 0, form->low_bits, i);
        plane_get(code, planes + layout.low_plane_bytes, form->low_bits, form->high_bits, i);
        for (size_t k = 0; k < width; k++) {
            if ((e + k) % form->group_elements == 0)
                scale = group_get(panel, block, type, (e + k) / form->group_elements, i, &offset);
            row[first + k] = form->has_m ? scale * value[code[k]] + offset : scale * value[code[k]];
        }
    }
}

void packed_get_row(const struct packed *w, size_t n, float *row)
{
    size_t i = n % PANEL, bytes = tensor_formats[w->type].block_bytes;
    const unsigned char *panel = (const unsigned char *)w->data + n / PANEL * w->panel_bytes;
    if (is_quantised(w->type)) {
        get_blocks(row, panel, w->type, w->K, i);
        return;
    }
    for (size_t k = 0; k < w->K; k++) {
        size_t element = w->type == TENSOR_BF16 ? k / 2 * 2 * PANEL + 2 * i + k % 2 : k * PANEL + i;
        tensor_formats[w->type].read(&row[k], panel + element * bytes, 1);
    }
}
