/* product_kernels.h - inside common/learn: product.c's kernels for x86, each in a file that is compiled for its instructions. */
#ifndef LEARN_PRODUCT_KERNELS_H
#define LEARN_PRODUCT_KERNELS_H

#include "learn/product.h"

#define INLINE static inline __attribute__((always_inline))

extern const struct product_kernels product_avx2, product_avx512, product_amx;

product_small product_small_avx512, product_small_amx;

/* b as those of AVX-512 and AMX keep it: panels of so many columns, missing ones zero, each of them a run of P steps of a row of
   32-bit words. */
enum { PRODUCT_PANEL = 32 };

static inline size_t at_most(size_t count, size_t limit)
{
    return count < limit ? count : limit;
}

#endif
