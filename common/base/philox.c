/* philox.c - see philox.h. */
#include "base/philox.h"

#include <math.h>

void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0;
        uint64_t product1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)product1;
        c3 = (uint32_t)product0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/*
 * The seed is the key.  The use takes the top 3 bits of the sample word, which therefore holds
 * substreams below 2^29.
 */
static void philox_words(uint32_t words[4], uint64_t seed, enum philox_use use, uint64_t stream, uint32_t substream,
                         uint32_t position)
{
    uint32_t counter[4] = { position, ((uint32_t)use << 29) ^ substream, (uint32_t)stream, (uint32_t)(stream >> 32) };
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    philox4x32(words, counter, key);
}

static double uniform_from_words(uint32_t high, uint32_t low)
{
    uint64_t bits = ((uint64_t)high << 32 | low) >> 11;
    return (double)bits * 0x1p-53;
}

double philox_uniform(uint64_t seed, enum philox_use use, uint64_t stream, uint32_t substream, uint32_t position)
{
    uint32_t words[4];
    philox_words(words, seed, use, stream, substream, position);
    return uniform_from_words(words[0], words[1]);
}

double philox_normal(uint64_t seed, enum philox_use use, uint64_t stream, uint32_t substream, uint32_t position)
{
    uint32_t words[4];
    philox_words(words, seed, use, stream, substream, position);
    double u = 1.0 - uniform_from_words(words[0], words[1]);  // (0, 1]: its logarithm is finite
    double angle = 2.0 * 3.14159265358979323846 * uniform_from_words(words[2], words[3]);
    return sqrt(-2.0 * log(u)) * cos(angle);
}

void philox_shuffle(uint32_t *order, size_t count, uint64_t seed, uint64_t stream)
{
    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (size_t i = count; i-- > 1; ) {
        size_t j = (size_t)(philox_uniform(seed, PHILOX_SHUFFLE, stream, 0, (uint32_t)i) * (double)(i + 1));
        uint32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}
