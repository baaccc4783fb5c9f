/*
 * philox.h - random numbers as a pure function of a key and a counter.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011).
 * Nothing is kept between calls, so a number does not depend on which worker asks or in what order.
 */
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stddef.h>
#include <stdint.h>

void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/*
 * What the stream is for keeps streams apart: the same seed never gives the same numbers to two uses.
 * low and high are the use's own coordinates, for example a prompt's key and a sample index.
 */
enum philox_use { PHILOX_SAMPLE = 1, PHILOX_INIT = 2, PHILOX_SHUFFLE = 3, PHILOX_DATA = 4 };

/* Uniform in [0, 1), 53 bits. */
double philox_uniform(uint64_t seed, enum philox_use use, uint64_t stream, uint32_t substream, uint32_t position);
/* Standard normal (Box-Muller). */
double philox_normal(uint64_t seed, enum philox_use use, uint64_t stream, uint32_t substream, uint32_t position);

/* A permutation of 0 .. count-1 (Fisher-Yates), the same for the same seed and stream. */
void philox_shuffle(uint32_t *order, size_t count, uint64_t seed, uint64_t stream);

#endif
