/* digest.c - see digest.h.  The hashing is libsodium's, or the processor's own where it can, which is five times as fast. */
#include "base/digest.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "base/check.h"

enum { BLOCK_BYTES = 64 };

/* By the processor: the state so far, and what has not filled a block. */
struct sha256 {
    uint32_t state[8];
    uint64_t size;  // bytes
    unsigned char block[BLOCK_BYTES];
};

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(((struct digest *)0)->state), "digest.h must hold the state");
_Static_assert(sizeof(struct sha256) <= sizeof(((struct digest *)0)->state), "digest.h must hold the state");

static crypto_hash_sha256_state *state_of(struct digest *digest)
{
    return (crypto_hash_sha256_state *)(void *)digest->state;
}

static struct sha256 *sha256_of(struct digest *digest)
{
    return (struct sha256 *)(void *)digest->state;
}

#ifdef __x86_64__

/* FIPS 180-4, 4.2.2 and 5.3.3. */
_Alignas(16) static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static const uint32_t first_state[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static bool has_sha(void)
{
    static int has = -1;
    unsigned a, b, c, d;
    if (has < 0)
        has = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
    return has;
}

/* The instructions want the state as (A, B, E, F) and (C, D, G, H), highest lane first, and do two rounds each. */
__attribute__((target("sha,sse4.1"))) static void sha256_blocks(uint32_t state[8], const unsigned char *data, size_t count)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
    for (; count > 0; count--, data += BLOCK_BYTES) {
        __m128i abef_before = abef, cdgh_before = cdgh, w[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i < 4)
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), big_endian);
            else
                w[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                                                              _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4)), w[(i + 3) % 4]);
            __m128i wk = _mm_add_epi32(w[i % 4], _mm_load_si128((const __m128i *)round_constants + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

#else

static const uint32_t first_state[8];

static bool has_sha(void)
{
    return false;
}

static void sha256_blocks(uint32_t state[8], const unsigned char *data, size_t count)
{
    (void)state, (void)data, (void)count;
}

#endif

static void sha256_begin(struct sha256 *sha)
{
    memcpy(sha->state, first_state, sizeof sha->state);
    sha->size = 0;
}

static void sha256_add(struct sha256 *sha, const unsigned char *data, size_t size)
{
    size_t used = (size_t)(sha->size % BLOCK_BYTES);
    sha->size += size;
    if (used > 0 && used + size >= BLOCK_BYTES) {
        size_t rest = BLOCK_BYTES - used;
        memcpy(sha->block + used, data, rest);
        sha256_blocks(sha->state, sha->block, 1);
        data += rest;
        size -= rest;
        used = 0;
    }
    if (used == 0) {
        sha256_blocks(sha->state, data, size / BLOCK_BYTES);
        data += size / BLOCK_BYTES * BLOCK_BYTES;
        size %= BLOCK_BYTES;
    }
    if (size > 0)
        memcpy(sha->block + used, data, size);
}

static void put_big_endian(unsigned char *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> 8 * (bytes - 1 - i));
}

/* Ends with a bit 1, zeros, and the number of bits. */
static void sha256_end(struct sha256 *sha, unsigned char out[crypto_hash_sha256_BYTES])
{
    unsigned char end[2 * BLOCK_BYTES] = { 0x80 };
    size_t used = (size_t)(sha->size % BLOCK_BYTES);
    size_t zeros_end = (used < BLOCK_BYTES - 8 ? BLOCK_BYTES : 2 * BLOCK_BYTES) - 8 - used;
    put_big_endian(end + zeros_end, 8 * sha->size, 8);
    sha256_add(sha, end, zeros_end + 8);
    for (int i = 0; i < 8; i++)
        put_big_endian(out + 4 * i, sha->state[i], 4);
}

void digest_init(struct digest *digest)
{
    if (has_sha())
        sha256_begin(sha256_of(digest));
    else
        crypto_hash_sha256_init(state_of(digest));
}

void digest_add(struct digest *digest, const void *data, size_t size)
{
    if (has_sha())
        sha256_add(sha256_of(digest), data, size);
    else
        crypto_hash_sha256_update(state_of(digest), data, size);
}

void digest_hex(struct digest *digest, char hex[DIGEST_HEX_SIZE])
{
    unsigned char bytes[crypto_hash_sha256_BYTES];
    if (has_sha())
        sha256_end(sha256_of(digest), bytes);
    else
        crypto_hash_sha256_final(state_of(digest), bytes);
    sodium_bin2hex(hex, DIGEST_HEX_SIZE, bytes, sizeof bytes);
}

void digest_key(struct digest *digest, char key[KEY_SIZE])
{
    char hex[DIGEST_HEX_SIZE];
    digest_hex(digest, hex);
    memcpy(key, hex, KEY_SIZE - 1);
    key[KEY_SIZE - 1] = '\0';
}

void key_from_texts(char key[KEY_SIZE], const char *text, ...)
{
    struct digest digest;
    digest_init(&digest);
    va_list more;
    va_start(more, text);
    for (; text != NULL; text = va_arg(more, const char *))
        digest_add(&digest, text, strlen(text) + 1);
    va_end(more);
    digest_key(&digest, key);
}

uint64_t number_from_key(const char *key)
{
    unsigned char bytes[8];
    size_t size;
    if (strlen(key) < 16 || sodium_hex2bin(bytes, sizeof bytes, key, 16, NULL, &size, NULL) != 0 || size != 8)
        return 0;
    uint64_t number = 0;
    for (size_t i = 0; i < 8; i++)
        number = number << 8 | bytes[i];
    return number;
}
