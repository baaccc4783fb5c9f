/* Goal: every kernel of product.h agrees with the naive sum, on awkward shapes,
   and a row's bits do not depend on the rows beside it. */
#include "learn/product.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/philox.h"
#include "math/kernels.h"
#include "../check.h"

static float *normals(size_t count, uint32_t stream)
{
    float *x = memory_alloc_aligned(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)philox_normal(5, PHILOX_DATA, stream, 0, (uint32_t)i);
    return x;
}

/* To BF16, to nearest, ties to even. */
static double rounded(float x, enum products products)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (products == PRODUCTS_BF16)
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static struct right pack(const struct product_kernels *kernels, const float *source, size_t P, size_t J, bool from_columns)
{
    struct right right = { .P = P, .J = J, .from_columns = from_columns,
                           .data = memory_alloc_aligned(right_floats(P, J), sizeof(float)) };
    const size_t width = from_columns ? P : J;
    memset(right.data, 0xff, right_floats(P, J) * sizeof(float));  // not a number, wherever packing leaves it
    for (size_t first = 0; first < right_source_rows(&right); first += PACK_ROWS)
        kernels->pack(&right, first, source + first * width, width);
    return right;
}

static void test_shape(enum products products, size_t I, size_t J, size_t P, bool from_columns, bool transposed, bool add)
{
    const struct product_kernels *kernels = product_kernels_get(products);
    const size_t stride = J + 3, width = (transposed ? I : P) + 2;
    float *a = normals((transposed ? P : I) * width, 1), *source = normals(P * J, 2), *c = normals(I * stride, 3);
    float *before = normals(I * stride, 3);
    struct right b = pack(kernels, source, P, J, from_columns);
    kernels->multiply(c, stride, (struct left){ a, width, transposed }, I, &b, add);
    for (size_t i = 0; i < I; i++) {
        for (size_t j = 0; j < stride; j++) {
            double expected = j >= J || add ? (double)before[i * stride + j] : 0.0, size = fabs(expected);
            for (size_t p = 0; p < P && j < J; p++) {
                const double product = rounded(a[transposed ? p * width + i : i * width + p], products)
                                       * rounded(source[from_columns ? j * P + p : p * J + j], products);
                expected += product;
                size += fabs(product);
            }
            if (!(fabs((double)c[i * stride + j] - expected) <= 1e-6 * size))
                TEST_FAIL("%s I=%zu J=%zu P=%zu %s%s%s: c[%zu, %zu] is %g, expected %g", kernels->name, I, J, P,
                          from_columns ? "columns" : "rows", transposed ? " transposed" : "", add ? " add" : "", i, j,
                          (double)c[i * stride + j], expected);
        }
    }
    // the last row alone
    float *alone = normals(I * stride, 3);
    const size_t last = I - 1;
    kernels->multiply(alone + last * stride, stride, (struct left){ a + (transposed ? last : last * width), width, transposed }, 1,
                      &b, add);
    EXPECT(strcmp(kernels->name, "blas") == 0 || memcmp(alone + last * stride, c + last * stride, J * sizeof *c) == 0);
    free(alone);
    free(a), free(source), free(c), free(before), free(b.data);
}

/* The same from b as it is, its rows a little apart. */
static void test_small_shape(enum products products, size_t I, size_t J, size_t P, bool transposed, bool add)
{
    product_small *small = product_small_get(products);
    const size_t stride = J + 3, width = (transposed ? I : P) + 2, b_stride = J + 5;
    float *a = normals((transposed ? P : I) * width, 1), *b = normals(P * b_stride, 2), *c = normals(I * stride, 3);
    float *before = normals(I * stride, 3);
    small(c, stride, (struct left){ a, width, transposed }, I, b, b_stride, P, J, add);
    for (size_t i = 0; i < I; i++) {
        for (size_t j = 0; j < stride; j++) {
            double expected = j >= J || add ? (double)before[i * stride + j] : 0.0, size = fabs(expected);
            for (size_t p = 0; p < P && j < J; p++) {
                const double a_ip = rounded(a[transposed ? p * width + i : i * width + p], products);
                const double product = a_ip * rounded(b[p * b_stride + j], products);
                expected += product;
                size += fabs(product);
            }
            if (!(fabs((double)c[i * stride + j] - expected) <= 1e-6 * size))
                TEST_FAIL("small %d I=%zu J=%zu P=%zu%s%s: c[%zu, %zu] is %g, expected %g", (int)products, I, J, P,
                          transposed ? " transposed" : "", add ? " add" : "", i, j, (double)c[i * stride + j], expected);
        }
    }
    free(a), free(b), free(c), free(before);
}

static void test_products(enum products products)
{
    static const size_t shapes[][3] = {
        { 1, 1, 1 }, { 2, 20, 70 }, { 3, 5, 7 }, { 12, 32, 256 }, { 13, 33, 257 }, { 31, 16, 31 }, { 33, 17, 64 },
        { 256, 70, 600 }, { 47, 96, 1030 },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int form = 0; form < 8; form++)
            test_shape(products, shapes[i][0], shapes[i][1], shapes[i][2], form & 1, form & 2, form & 4);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && product_small_get(products) != NULL; i++)
        for (int form = 0; form < 4; form++)
            test_small_shape(products, shapes[i][0] + shapes[i][0] / 256 * 50, shapes[i][1], shapes[i][2], form & 1, form & 2);
}

static void test_float32(void)
{
    static const char *const names[] = { "amx", "avx512", "avx2", "portable" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (kernels_named(names[i]) == NULL)
            continue;
        setenv("VAS_KERNELS", names[i], 1);
        test_products(PRODUCTS_FLOAT32);
        unsetenv("VAS_KERNELS");
    }
}

static void test_bf16(void)
{
    if (product_kernels_get(PRODUCTS_BF16) == NULL)
        TEST_SKIP("this processor has no BF16 products");
    else
        test_products(PRODUCTS_BF16);
}

int main(void)
{
    RUN(test_float32);
    RUN(test_bf16);
    return tests_end();
}
