/* limits.c - see limits.h. */
#include "limits.h"

#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "base/memory.h"
#include "math/kernels.h"

enum { CHAINS = 12, ROUNDS = 100000 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Twelve independent sums, which the compiler must keep in registers and cannot foresee. */
#define CHAIN_LIMIT(name, isa, vector, step, operations)                                  \
    __attribute__((target(isa))) static double name(void)                                 \
    {                                                                                     \
        vector sum[CHAINS], x = { 0 };                                                    \
        _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) {                       \
            sum[i] = x;                                                                   \
            __asm__ volatile("" : "+v"(sum[i]));                                          \
        }                                                                                 \
        __asm__ volatile("" : "+v"(x));                                                   \
        double start = seconds();                                                         \
        for (int round = 0; round < ROUNDS; round++) {                                    \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) {                   \
                sum[i] = step(sum[i], x, x);                                              \
                __asm__ volatile("" : "+v"(sum[i]), "+v"(x));                             \
            }                                                                             \
        }                                                                                 \
        return (double)(operations) * CHAINS * ROUNDS / (seconds() - start);              \
    }
CHAIN_LIMIT(chain_fma_512, "avx512f", __m512, _mm512_fmadd_ps, 32)
CHAIN_LIMIT(chain_fma_256, "avx2,fma", __m256, _mm256_fmadd_ps, 16)
#define DPBF16(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
CHAIN_LIMIT(chain_dpbf16, "avx512f,avx512bf16", __m512, DPBF16, 64)
CHAIN_LIMIT(chain_dpbusd_512, "avx512f,avx512vnni", __m512i, _mm512_dpbusd_epi32, 128)
CHAIN_LIMIT(chain_dpbusd_256, "avxvnni", __m256i, _mm256_dpbusd_avx_epi32, 64)
#define MADDUBS(sum, a, b) _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b))
CHAIN_LIMIT(chain_maddubs, "avx2", __m256i, MADDUBS, 64)

double limit_fma(void)
{
    return kernels_named("avx512") != NULL ? chain_fma_512() : kernels_named("avx2") != NULL ? chain_fma_256() : 0.0;
}

double limit_dpbf16(void)
{
    return __builtin_cpu_supports("avx512bf16") ? chain_dpbf16() : 0.0;
}

double limit_dpbusd(void)
{
    return kernels_named("vnni") != NULL ? chain_dpbusd_512() : kernels_named("avxvnni") != NULL ? chain_dpbusd_256() : 0.0;
}

double limit_maddubs(void)
{
    return kernels_named("maddubs") != NULL ? chain_maddubs() : 0.0;
}

#define TILE_LIMIT(name, isa, step, operations)                                           \
    __attribute__((target("amx-tile," isa))) static double name(void)                     \
    {                                                                                     \
        struct {                                                                          \
            uint8_t palette, start, reserved[14];                                         \
            uint16_t row_bytes[16];                                                       \
            uint8_t rows[16];                                                             \
        } tiles = { .palette = 1 };                                                       \
        for (int i = 0; i < 8; i++) {                                                     \
            tiles.row_bytes[i] = 64;                                                      \
            tiles.rows[i] = 16;                                                           \
        }                                                                                 \
        _tile_loadconfig(&tiles);                                                         \
        double start = seconds();                                                         \
        for (int round = 0; round < ROUNDS / 6; round++) {                                \
            step(0, 6, 7);                                                                \
            step(1, 6, 7);                                                                \
            step(2, 6, 7);                                                                \
            step(3, 6, 7);                                                                \
            step(4, 6, 7);                                                                \
            step(5, 6, 7);                                                                \
        }                                                                                 \
        double rate = (double)(operations) * 6 * (double)(ROUNDS / 6) / (seconds() - start); \
        _tile_release();                                                                  \
        return rate;                                                                      \
    }
TILE_LIMIT(tile_bf16, "amx-bf16", _tile_dpbf16ps, 16384)
TILE_LIMIT(tile_int8, "amx-int8", _tile_dpbssd, 32768)

double limit_amx_bf16(void)
{
    return kernels_named("amx") != NULL ? tile_bf16() : 0.0;
}

double limit_amx_int8(void)
{
    return kernels_named("amx") != NULL ? tile_int8() : 0.0;
}

typedef uint64_t line __attribute__((vector_size(64)));

double limit_read(const void *data, size_t size_bytes)
{
    /* Four streams, as kernels read four panels. */
    const line *at = data;
    size_t quarter = size_bytes / sizeof(line) / 4;
    line sum[4] = { { 0 } };
    double start = seconds();
    for (size_t i = 0; i < quarter; i++) {
        for (size_t j = 0; j < 4; j++)
            sum[j] |= at[i + j * quarter];
    }
    double taken = seconds() - start;
    __asm__ volatile("" : : "m"(sum));
    return (double)size_bytes / taken;
}

/* What each thread measures: limit, or where that is NULL how fast it reads a part of data. */
struct shared {
    double (*limit)(void);
    const char *data;
    size_t each;    // bytes, of a thread
    double *rates;  // (threads)
};

static void rate_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    struct shared *shared = context;
    shared->rates[task] = shared->limit != NULL ? shared->limit() : limit_read(shared->data + task * shared->each, shared->each);
}

/* Of all threads at once, the best of some tries. */
static double best_rate(struct pool *pool, struct shared shared)
{
    enum { TRIES = 7 };
    double most = 0.0;
    shared.rates = memory_alloc(pool_threads(pool), sizeof *shared.rates);
    for (size_t i = 0; i < TRIES; i++) {
        double all = 0.0;
        pool_run(pool, pool_threads(pool), rate_task, &shared);
        for (size_t thread = 0; thread < pool_threads(pool); thread++)
            all += shared.rates[thread];
        most = all > most ? all : most;
    }
    free(shared.rates);
    return most;
}

double limit_of_pool(struct pool *pool, double (*limit)(void))
{
    return best_rate(pool, (struct shared){ .limit = limit });
}

double limit_read_of_pool(struct pool *pool, const void *data, size_t size_bytes)
{
    return best_rate(pool, (struct shared){ .data = data, .each = size_bytes / pool_threads(pool) / 256 * 256 });
}

double limit_multiply(struct pool *pool, enum tensor_type type)
{
    double (*const floats[])(void) = { limit_fma, limit_amx_bf16, type == TENSOR_BF16 ? limit_dpbf16 : NULL };
    double (*const bytes[])(void) = { limit_maddubs, limit_dpbusd, limit_amx_int8 };
    double most = 0.0;
    for (size_t i = 0; i < 3; i++) {
        double (*limit)(void) = type > TENSOR_BF16 ? bytes[i] : floats[i];
        if (limit == NULL || (type == TENSOR_F32 && limit != limit_fma))
            continue;
        double rate = limit_of_pool(pool, limit);
        most = rate > most ? rate : most;
    }
    return most;
}

void peak_print(const char *program)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    fprintf(stderr, "%s: resident at most %ld MiB\n", program, usage.ru_maxrss / 1024);
}
