/*
 * kernels.h - the inner loops of inference, chosen at start for this processor: AVX-512 with AMX, AVX-512 with VNNI, AVX-512, AVX2
 * with FMA and AVX-VNNI, with products of bytes of its own, or without these, portable.
 *
 * Every output element is summed in an order fixed by its own indices, so results do not depend on the number of rows, on threads,
 * or on which part of a matrix a call covers.  "avx512", "avx2" and "portable" multiply float32 with the numbers that weights stand
 * for, one fused multiply-add after the other.  The others round the rows that meet quantised weights to 8 bits in blocks of 32, as
 * llama.cpp does, but "maddubs" to 16 where codes or levels take 8, and "amx" those that meet BF16 or F16 to two BF16, some
 * 16 bits.
 *
 * Arrays are row-major, last index fastest.
 */
#ifndef MATH_KERNELS_H
#define MATH_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "math/tensor_type.h"

enum { PANEL = 16 };  // outputs that one panel of a packed matrix holds

/*
 * A weight (N, K) packed as ceil(N / PANEL) panels, missing outputs zero.  Of F32 and F16 a panel is (K, PANEL); of BF16 it is
 * (K / 2, PANEL, 2), K rounded up to 32 with zeros; of quantised types, see panel.h: the blocks keep their numbers to the bit.
 */
struct packed {
    enum tensor_type type;
    size_t N, K;
    size_t panel_bytes;
    void *data;     // 64-byte aligned
    bool borrowed;  // data belong to a mapped file
};
size_t packed_panels(const struct packed *w);
/* Bytes that a weight takes when packed. */
size_t packed_size_bytes(enum tensor_type type, size_t N, size_t K);

/* A weight without data. */
struct packed packed_shape(enum tensor_type type, size_t N, size_t K);
/* All zero.  Free with packed_free. */
void packed_init(struct packed *w, enum tensor_type type, size_t N, size_t K);
void packed_free(struct packed *w);
/*
 * Fills one panel from its rows, each K elements of w's type as in a file (of NF4 as quant_row of quant.h writes them), at any
 * alignment; NULL where the panel has no output.
 */
void packed_set_panel(struct packed *w, size_t panel, const void *const rows[PANEL]);
/* The same from float32 rows (K), rounded to w's type: F32, F16, BF16, Q8_0, Q4_0 or NF4.  K may end inside a block. */
void packed_quantise_panel(struct packed *w, size_t panel, const float *const rows[PANEL]);
/* Row n as float32.  row: (K) out. */
void packed_get_row(const struct packed *w, size_t n, float *row);

/* Pages of PANEL positions, page i of a list at base + pages[i] * stride, in elements. */
struct page_list {
    const void *base;
    size_t stride;
    const int32_t *pages;
    enum tensor_type type;  // F32 or F16
};
/* Page i from an element on. */
static inline const void *page_at(const struct page_list *list, size_t i, size_t element)
{
    return (const char *)list->base + ((size_t)list->pages[i] * list->stride + element) * (list->type == TENSOR_F16 ? 2 : 4);
}

/* How linear takes the rows x: as they are, laid out in tiles, or rounded to pairs of BF16, bytes or words.  input.h has how these
   lie. */
enum input_form { INPUT_FLOATS, INPUT_TILES, INPUT_HALVES, INPUT_BYTES, INPUT_WORDS, INPUT_FORM_COUNT };
/* Each PANEL rows begin at the bytes of the rows before them. */
size_t input_bytes(enum input_form form, size_t M, size_t K);
/* Elements [k, k_end) of rows [m, m_end).  k is a multiple of 2 PANEL, k_end too or K. */
struct input_part {
    size_t m, m_end, k, k_end;
};

struct kernels {
    const char *name;  // "amx", "vnni", "avx512", "avxvnni", "maddubs", "avx2", "portable"

    enum input_form input[TENSOR_TYPE_COUNT];  // by type of the weight
    /* Makes a part of the rows, all of them where it is NULL.  x: (M, K). */
    void (*input_make)(void *input, enum input_form form, const float *x, size_t M, size_t K, const struct input_part *part);
    /* y[m, n] = sum over k of x[m, k] * w[n, k], for panels [panel, panel + panels) only.  y: (M, N) rows of stride y_stride. */
    void (*linear)(float *y, size_t y_stride, const void *input, size_t M, const struct packed *w, size_t panel, size_t panels);

    /*
     * Attention of G query heads over listed pages.  Keys lie as (HS, PANEL): scores[g, t] = sum over c of q[g, c] * key[t, c]
     * for every position t of the first count pages.  q: (G, HS), scores: rows of stride score_stride.
     */
    void (*attend_scores)(float *scores, size_t score_stride, const float *q, size_t G, size_t HS,
                          const struct page_list *keys, size_t count);
    /*
     * Values lie as (VP, PANEL positions, PANEL channels): out[g, c] += sum over t < T of prob[g, t] * value[t, c].
     * out: (G, VP * PANEL), prob: rows of stride prob_stride.
     */
    void (*attend_values)(float *out, const float *prob, size_t prob_stride, size_t G, size_t VP,
                          const struct page_list *values, size_t T);

    void (*scale)(float *x, size_t n, float factor);                                           // x *= factor
    /*
     * Turns H heads in place by the angles of one position, channel c together with channel c + HS / 2:
     * (x, y) -> (x cos - y sin, y cos + x sin).  x: (H, HS), cosine, sine: (HS / 2).
     */
    void (*rotary_turn)(float *x, const float *cosine, const float *sine, size_t H, size_t HS);
    void (*rms_norm)(float *y, const float *x, const float *weight, size_t C, float epsilon);  // y, x, weight: (C)
    void (*swiglu)(float *y, const float *gate, const float *up, size_t F);                    // y = silu(gate) * up
    /* (x - mean) / sqrt(variance + epsilon) * weight + bias */
    void (*layer_norm)(float *y, const float *x, const float *weight, const float *bias, size_t C, float epsilon);
    void (*silu)(float *x, size_t n);                                                          // in place, as all below
    void (*gelu)(float *x, size_t n);                                                          // x Phi(x), by erf
    void (*gelu_tanh)(float *x, size_t n);                                                     // GPT-2's approximation
    void (*soft_cap)(float *x, size_t n, float cap);                                           // cap tanh(x / cap)
    void (*multiply)(float *y, const float *x, size_t n);                                      // y *= x
    void (*softmax)(float *x, size_t n);                                                       // in place
    void (*add)(float *y, const float *x, size_t n);                                           // y += x
    float (*dot)(const float *a, const float *b, size_t n);
    float (*highest)(const float *x, size_t n);                                                // NaN where any is
    size_t (*first_above)(const float *x, size_t n, float bound);                              // its place, n: none is above
    /* y = exp((x - max) * scale), and their sum in double; y may be NULL or x. */
    double (*exp_sum)(float *y, const float *x, size_t n, float max, float scale);
};

/* linear over all panels, from x as it is.  x: (M, K). */
void kernels_linear(const struct kernels *kernels, float *y, size_t y_stride, const float *x, size_t M, const struct packed *w);

/* The best this processor runs; VAS_KERNELS=NAME in the environment asks for another. */
const struct kernels *kernels_get(void);
/* By name, NULL when this processor lacks it.  For tests. */
const struct kernels *kernels_named(const char *name);

#endif
