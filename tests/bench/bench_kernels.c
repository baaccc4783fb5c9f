/*
 * bench_kernels.c - speed of the linear kernels for every element type, against OpenBLAS on float32.
 *
 *     bench_kernels [KERNELS [N [K]]]        avx512, avx2 or portable; 2048 2048
 *
 * One thread, its processor time.  Weights are cold: so many copies take turns that the caches hold none of them.  Prints GB/s of packed bytes at
 * M = 1 and GFLOP/s (2 M N K in a call) at M = 1, 8, 20 and 32, each the best of several rounds.
 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "math/kernels.h"

enum { COLD_BYTES = 160 << 20, ROUNDS = 5, M_MAX = 32 };

static const size_t row_counts[] = { 1, 8, 20, 32 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static float *normals(size_t count)
{
    float *x = memory_alloc_aligned(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)philox_normal(3, PHILOX_DATA, 0, i >> 32, (uint32_t)i);
    return x;
}

/* From float32 where a type is made on load; else whole blocks of random bytes, whose scales are made small numbers. */
static void pack(struct packed *packed, enum tensor_type type, const float *weight, size_t N, size_t K)
{
    size_t row_bytes = tensor_row_bytes(type, K);
    unsigned char *rows = memory_alloc(PANEL, row_bytes);
    bool made_on_load = type <= TENSOR_Q4_0 || type == TENSOR_NF4;
    packed_init(packed, type, N, K);
    for (size_t i = 0; i < PANEL * row_bytes; i++)
        rows[i] = (unsigned char)(philox_normal(5, PHILOX_DATA, 0, 0, (uint32_t)i) * 40.0) & 0x3f;
    for (size_t panel = 0; panel < packed_panels(packed); panel++) {
        const float *floats[PANEL] = { NULL };
        const void *blocks[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && panel * PANEL + i < N; i++) {
            floats[i] = weight + (panel * PANEL + i) * K;
            blocks[i] = rows + i * row_bytes;
        }
        if (made_on_load)
            packed_quantise_panel(packed, panel, floats);
        else
            packed_set_panel(packed, panel, blocks);
    }
    free(rows);
}

/* Seconds of the fastest of some rounds, for one matrix; kernels NULL: OpenBLAS on weight, the copies one after the other in memory. */
static double call_seconds(const struct kernels *kernels, const struct packed *copies, const float *weight, size_t count, float *y,
                           const float *x, size_t M, size_t N, size_t K)
{
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds();
        for (size_t i = 0; i < count; i++) {
            if (kernels != NULL)
                kernels->linear(y, N, x, M, &copies[i], 0, packed_panels(&copies[i]));
            else if (M == 1)
                cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)N, (int)K, 1.0f, weight + i * N * K, (int)K, x, 1, 0.0f, y, 1);
            else
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)M, (int)N, (int)K, 1.0f, x, (int)K, weight + i * N * K,
                            (int)K, 0.0f, y, (int)N);
        }
        double taken = (seconds() - start) / (double)count;
        best = taken < best ? taken : best;
    }
    return best;
}

static void report(const char *name, const struct kernels *kernels, const struct packed *copies, const float *weight, size_t count,
                   size_t size_bytes, const float *x, size_t N, size_t K)
{
    float *y = memory_alloc_aligned(M_MAX * N, sizeof *y);
    printf("%-9s %6.3f", name, 8.0 * (double)size_bytes / (double)(N * K));
    for (size_t i = 0; i < COUNT_OF(row_counts); i++) {
        double taken = call_seconds(kernels, copies, weight, count, y, x, row_counts[i], N, K);
        if (row_counts[i] == 1)
            printf(" %7.1f", (double)size_bytes / taken * 1e-9);
        printf(" %7.1f", 2.0 * (double)(row_counts[i] * N * K) / taken * 1e-9);
    }
    printf("\n");
    fflush(stdout);
    free(y);
}

int main(int argc, char **argv)
{
    const struct kernels *kernels = argc > 1 ? kernels_named(argv[1]) : kernels_get();
    size_t N = argc > 2 ? strtoul(argv[2], NULL, 10) : 2048, K = argc > 3 ? strtoul(argv[3], NULL, 10) : 2048;
    if (kernels == NULL || N == 0 || K == 0) {
        fprintf(stderr, "usage: bench_kernels [avx512|avx2|portable [N [K]]]\n");
        return 64;
    }
    size_t copies_f32 = COLD_BYTES / (N * K * 4) + 1;
    float *x = normals(M_MAX * K), *weight = memory_alloc_aligned(copies_f32 * N * K, sizeof *weight), *first = normals(N * K);
    for (size_t i = 0; i < copies_f32; i++)
        memcpy(weight + i * N * K, first, N * K * sizeof *weight);
    free(first);
    printf("%s, N = %zu, K = %zu\n%-9s %6s %7s %7s %7s %7s %7s\n", kernels->name, N, K, "type", "bits/w", "M=1 GB/s", "M=1", "M=8", "M=20", "M=32");
    openblas_set_num_threads(1);
    report("openblas", NULL, NULL, weight, copies_f32, N * K * 4, x, N, K);
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        size_t size_bytes = packed_size_bytes((enum tensor_type)type, N, K), count = COLD_BYTES / size_bytes + 1;
        struct packed *copies = memory_alloc(count, sizeof *copies);
        pack(&copies[0], (enum tensor_type)type, weight, N, K);
        for (size_t i = 1; i < count; i++) {
            packed_init(&copies[i], (enum tensor_type)type, N, K);
            memcpy(copies[i].data, copies[0].data, size_bytes);
        }
        report(tensor_formats[type].name, kernels, copies, NULL, count, size_bytes, x, N, K);
        for (size_t i = 0; i < count; i++)
            packed_free(&copies[i]);
        free(copies);
    }
    free(weight);
    free(x);
    return 0;
}
