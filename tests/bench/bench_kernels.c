/*
 * bench_kernels.c - speed of the linear kernels for every element type, beside OpenBLAS on float32 and what the processor could do.
 *
 *     bench_kernels [-t THREADS] [-T TYPE] [KERNELS [N [K]]]      amx, vnni, avx512, avxvnni, maddubs, avx2 or portable; 2048 2048
 *
 * Times are processor time, of each thread, so that they bear other work on the machine.  Weights are cold: so many copies take
 * turns that the caches hold none of them.  Threads share a matrix by its panels; making the input's form is part of a call.
 * Prints GB/s of packed bytes at M = 1 and GFLOP/s (2 M N K in a call) for several M, each the best of several rounds.
 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "base/pool.h"
#include "limits.h"
#include "math/kernels.h"

enum { COLD_BYTES = 320 << 20, ROUNDS = 7, M_MAX = 256 };

static const size_t row_counts[] = { 1, 4, 8, 10, 20, 32, 64, 256 };

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

/* ---- one product ---- */

struct product {
    const struct kernels *kernels;  // NULL: OpenBLAS
    const struct packed *w;
    const float *weight;            // (N, K)
    float *y;
    const float *x;
    void *made;                     // x in the kernels' form
    size_t M, N, K, tasks;
};

/* A share of the panels. */
static void product_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct product *product = context;
    size_t N = product->N, K = product->K, panels = (N + PANEL - 1) / PANEL, each = (panels + product->tasks - 1) / product->tasks;
    each = (each + 3) / 4 * 4;
    size_t panel = task * each, n = panel * PANEL;
    if (panel >= panels)
        return;
    each = panels - panel < each ? panels - panel : each;
    size_t width = N - n < each * PANEL ? N - n : each * PANEL;
    if (product->kernels != NULL)
        product->kernels->linear(product->y, N, product->made, product->M, product->w, panel, each);
    else if (product->M == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)width, (int)K, 1.0f, product->weight + n * K, (int)K, product->x, 1, 0.0f,
                    product->y + n, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)product->M, (int)width, (int)K, 1.0f, product->x, (int)K,
                    product->weight + n * K, (int)K, 0.0f, product->y + n, (int)N);
}

static void product_run(struct product *product, struct pool *pool)
{
    product->tasks = pool_threads(pool) == 1 ? 1 : 8 * pool_threads(pool);
    if (product->kernels != NULL) {
        enum input_form form = product->kernels->input[product->w->type];
        product->made = form == INPUT_FLOATS ? (void *)product->x : product->made;
        if (form != INPUT_FLOATS)
            product->kernels->input_make(product->made, form, product->x, product->M, product->K, NULL);
    }
    pool_run(pool, product->tasks, product_task, product);
}

/* ---- rounds over cold copies ---- */

static void report(const char *name, struct pool *pool, const struct kernels *kernels, const struct packed *copies,
                   const float *weight, size_t count, size_t size_bytes, const float *x, size_t N, size_t K)
{
    float *y = memory_alloc_aligned(M_MAX * N, sizeof *y), *made = memory_alloc_aligned(M_MAX * (K + 32), sizeof *made);
    printf("%-9s %6.3f", name, 8.0 * (double)size_bytes / (double)(N * K));
    for (size_t i = 0; i < COUNT_OF(row_counts); i++) {
        double best = 1e9;
        for (int round = 0; round < (row_counts[i] > 64 ? 2 : ROUNDS); round++) {
            double start = seconds();
            for (size_t c = 0; c < count; c++) {
                struct product product = { .kernels = kernels, .w = &copies[c], .weight = weight + c * N * K, .y = y, .x = x,
                                           .made = made, .M = row_counts[i], .N = N, .K = K };
                product_run(&product, pool);
            }
            double taken = (seconds() - start) / (double)count / (double)pool_threads(pool);
            best = taken < best ? taken : best;
        }
        if (row_counts[i] == 1)
            printf(" %8.1f", (double)size_bytes / best * 1e-9);
        printf(" %7.1f", 2.0 * (double)(row_counts[i] * N * K) / best * 1e-9);
        fflush(stdout);
    }
    printf("\n");
    free(made);
    free(y);
}

static void report_limits(struct pool *pool, const float *weight)
{
    static const struct {
        const char *name;
        double (*rate)(void);
    } limits[] = { { "fma", limit_fma }, { "dpbf16", limit_dpbf16 }, { "dpbusd", limit_dpbusd },
                   { "maddubs", limit_maddubs }, { "amx bf16", limit_amx_bf16 }, { "amx int8", limit_amx_int8 } };
    printf("limits   ");
    for (size_t i = 0; i < COUNT_OF(limits); i++)
        printf(" %s %.0f,", limits[i].name, 1e-9 * limit_of_pool(pool, limits[i].rate));
    printf(" read %.1f GB/s\n", 1e-9 * limit_read_of_pool(pool, weight, COLD_BYTES));
}

int main(int argc, char **argv)
{
    size_t threads = 1;
    const char *only = NULL;
    for (int option; (option = getopt(argc, argv, "t:T:")) != -1; ) {
        if (option == 't')
            threads = strtoul(optarg, NULL, 10);
        else if (option == 'T')
            only = optarg;
        else
            return 64;
    }
    argv += optind;
    argc -= optind;
    const struct kernels *kernels = argc > 0 ? kernels_named(argv[0]) : kernels_get();
    size_t N = argc > 1 ? strtoul(argv[1], NULL, 10) : 2048, K = argc > 2 ? strtoul(argv[2], NULL, 10) : 2048;
    if (kernels == NULL || N == 0 || K == 0) {
        fprintf(stderr, "usage: bench_kernels [-t THREADS] [-T TYPE] [amx|vnni|avx512|avxvnni|maddubs|avx2|portable [N [K]]]\n");
        return 64;
    }
    struct pool *pool = pool_open(threads);
    size_t copies_f32 = COLD_BYTES / (N * K * 4) + 1;
    float *x = normals(M_MAX * K), *weight = memory_alloc_aligned(copies_f32 * N * K, sizeof *weight), *first = normals(N * K);
    for (size_t i = 0; i < copies_f32; i++)
        memcpy(weight + i * N * K, first, N * K * sizeof *weight);
    free(first);
    printf("%s, N = %zu, K = %zu, threads = %zu\n", kernels->name, N, K, pool_threads(pool));
    report_limits(pool, weight);
    printf("%-9s %6s %8s", "type", "bits/w", "M=1 GB/s");
    for (size_t i = 0; i < COUNT_OF(row_counts); i++)
        printf("   M=%-3zu", row_counts[i]);
    printf("\n");
    openblas_set_num_threads(1);
    if (only == NULL)
        report("openblas", pool, NULL, NULL, weight, copies_f32, N * K * 4, x, N, K);
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        size_t size_bytes = packed_size_bytes((enum tensor_type)type, N, K), count = COLD_BYTES / size_bytes + 1;
        if (only != NULL && strcasecmp(only, tensor_formats[type].name) != 0)
            continue;
        struct packed *copies = memory_alloc(count, sizeof *copies);
        pack(&copies[0], (enum tensor_type)type, weight, N, K);
        for (size_t i = 1; i < count; i++) {
            packed_init(&copies[i], (enum tensor_type)type, N, K);
            memcpy(copies[i].data, copies[0].data, size_bytes);
        }
        report(tensor_formats[type].name, pool, kernels, copies, NULL, count, size_bytes, x, N, K);
        for (size_t i = 0; i < count; i++)
            packed_free(&copies[i]);
        free(copies);
    }
    free(weight);
    free(x);
    pool_close(pool);
    return 0;
}
