/*
 * tensor_type.h - the element types of weight files: how their blocks lie, and what numbers they mean.
 *
 * Blocks as ggml defines them.  A row of K elements is ceil(K / block_elements) blocks; of NF4, after 8 bytes for the row.
 */
#ifndef MATH_TENSOR_TYPE_H
#define MATH_TENSOR_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tensor_type {
    TENSOR_F32, TENSOR_F16, TENSOR_BF16,
    TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
    TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_IQ4_NL,
    TENSOR_NF4,  // QLoRA's, in no file: only made on load
    TENSOR_TYPE_COUNT
};

struct tensor_format {
    const char *name;        // "Q4_K"
    int gguf_type;           // ggml's number; -1: none
    size_t block_elements, block_bytes;
    /* Whole blocks to float32, the numbers of ggml's own dequantisation to the bit.  NULL: NF4. */
    void (*read)(float *out, const unsigned char *in, size_t count);
};
extern const struct tensor_format tensor_formats[TENSOR_TYPE_COUNT];

/* Bytes of a row of K elements. */
size_t tensor_row_bytes(enum tensor_type type, size_t K);
/* False when ggml has no such number or it is not supported. */
bool tensor_type_from_gguf(uint32_t gguf_type, enum tensor_type *type);

#endif
