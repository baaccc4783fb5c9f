/*
 * product.h - the large products of training: c (I, J) = a (I, P) b (P, J), where many tasks multiply blocks of a by the same b.
 *
 * b is packed once for all of them.  Each element of c is summed in an order that P alone fixes, so a row does not depend on which
 * rows are multiplied with it.  "bf16" rounds the elements of a and b to BF16 and adds their products in float32; numbers below
 * 2^-126 may count as 0 there.
 *
 * Arrays are row-major.
 */
#ifndef LEARN_PRODUCT_H
#define LEARN_PRODUCT_H

#include <stdbool.h>
#include <stddef.h>

enum products { PRODUCTS_FLOAT32, PRODUCTS_BF16 };

enum {
    PACK_ROWS = 32,          // source rows that are packed as one
    PRODUCT_ROWS_MAX = 256,  // rows of c in one call
};

/* b, from a matrix whose rows are the columns of b (a weight (N, K) in the forward pass: P = K, J = N), or else its rows. */
struct right {
    size_t P, J;
    bool from_columns;
    float *data;  // right_floats of them, 64-byte aligned; what they hold is the kernels' own affair
};
static inline size_t right_floats(size_t P, size_t J)
{
    return (P + PACK_ROWS - 1) / PACK_ROWS * PACK_ROWS * ((J + PACK_ROWS - 1) / PACK_ROWS * PACK_ROWS);
}
static inline size_t right_source_rows(const struct right *right)
{
    return right->from_columns ? right->J : right->P;
}

/* a: element (i, p) at i * stride + p, or transposed at p * stride + i. */
struct left {
    const float *at;
    size_t stride;
    bool transposed;
};

struct product_kernels {
    const char *name;  // "blas", "avx2", "avx512", "amx-bf16"
    enum products kind;
    /* Source rows [first, first + PACK_ROWS), or fewer at the end; first is a multiple of PACK_ROWS.  rows: the first of them. */
    void (*pack)(const struct right *right, size_t first, const float *rows, size_t stride);
    /* I <= PRODUCT_ROWS_MAX; add: to what c holds. */
    void (*multiply)(float *c, size_t c_stride, struct left a, size_t I, const struct right *b, bool add);
};

/* The fastest that this processor (or VAS_KERNELS) has; NULL where it has none. */
const struct product_kernels *product_kernels_get(enum products products);

/* c (I, J) = a (I, P) b (P, J), or that added to c,
   where b is used once: its rows lie b_stride apart as they are.  I of any size. */
typedef void product_small(float *c, size_t c_stride, struct left a, size_t I, const float *b, size_t b_stride, size_t P, size_t J,
                           bool add);

/* NULL where this processor has nothing faster than plain vectors, in float32, or no products in BF16. */
product_small *product_small_get(enum products products);

#endif
