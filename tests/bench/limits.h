/*
 * limits.h - what this processor could do at most: products a second of each kind, bytes read a second, on one thread; and what a
 * measurement took of its memory.
 *
 * A limit that the processor has no instruction for is 0.
 */
#ifndef BENCH_LIMITS_H
#define BENCH_LIMITS_H

#include <stddef.h>

#include "base/pool.h"
#include "math/tensor_type.h"

/* One round of some 10 ms of each; callers take the best of several.  Operations: a multiply and an add are 2. */
double limit_fma(void);        // float32, AVX-512 or AVX2
double limit_dpbf16(void);     // vdpbf16ps
double limit_dpbusd(void);     // vpdpbusd, AVX-512 or AVX-VNNI
double limit_maddubs(void);    // vpmaddubsw with vpaddw, AVX2
double limit_amx_bf16(void);   // tdpbf16ps
double limit_amx_int8(void);   // tdpbssd
double limit_read(const void *data, size_t size_bytes);  // bytes/s, size_bytes in 256s

/* The most operations a second of all threads of the pool at once. */
double limit_of_pool(struct pool *pool, double (*limit)(void));
/* The most bytes a second that they read at once, each its part of the data. */
double limit_read_of_pool(struct pool *pool, const void *data, size_t size_bytes);
/* The fastest of these that takes such weights: floats as they are, F16 and BF16 also by BF16 products, blocks as bytes. */
double limit_multiply(struct pool *pool, enum tensor_type type);

/* To standard error: the most memory that this process has had resident, files that it maps included. */
void peak_print(const char *program);

#endif
