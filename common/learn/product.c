/* product.c - see product.h. */
#include "learn/product.h"

#include <cblas.h>
#include <string.h>

#include "base/check.h"
#include "learn/product_kernels.h"
#include "math/kernels.h"

/* ---- OpenBLAS, where nothing of our own runs: the source as it is ---- */

static void blas_pack(const struct right *right, size_t first, const float *rows, size_t stride)
{
    const size_t width = right->from_columns ? right->P : right->J, left = right_source_rows(right) - first;
    for (size_t r = 0; r < (left < PACK_ROWS ? left : PACK_ROWS); r++)
        memcpy(right->data + (first + r) * width, rows + r * stride, width * sizeof *rows);
}

static void blas_multiply(float *c, size_t c_stride, struct left a, size_t rows, const struct right *b, bool add)
{
    cblas_sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans, b->from_columns ? CblasTrans : CblasNoTrans,
                (int)rows, (int)b->J, (int)b->P, 1.0f, a.at, (int)a.stride, b->data, (int)(b->from_columns ? b->P : b->J),
                add ? 1.0f : 0.0f, c, (int)c_stride);
}

static const struct product_kernels product_blas = { "blas", PRODUCTS_FLOAT32, blas_pack, blas_multiply };

/* ---- the choice ---- */

static bool has_amx(void)
{
    return strcmp(kernels_get()->name, "amx") == 0;
}

static bool has_avx512(void)
{
    return has_amx() || strcmp(kernels_get()->name, "vnni") == 0 || strcmp(kernels_get()->name, "avx512") == 0;
}

static bool has_avx2(void)
{
    return strcmp(kernels_get()->name, "avxvnni") == 0 || strcmp(kernels_get()->name, "maddubs") == 0
           || strcmp(kernels_get()->name, "avx2") == 0;
}

const struct product_kernels *product_kernels_get(enum products products)
{
#if defined __x86_64__
    if (products == PRODUCTS_BF16)
        return has_amx() && __builtin_cpu_supports("avx512bf16") ? &product_amx : NULL;
    if (has_avx512())
        return &product_avx512;
    if (has_avx2())
        return &product_avx2;
#endif
    return products == PRODUCTS_FLOAT32 ? &product_blas : NULL;
}

product_small *product_small_get(enum products products)
{
#if defined __x86_64__
    if (products == PRODUCTS_BF16)
        return product_kernels_get(PRODUCTS_BF16) != NULL ? product_small_amx : NULL;
    if (has_avx512())
        return product_small_avx512;
#endif
    return NULL;
}
