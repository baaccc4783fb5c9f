/* digest.c - see digest.h.  The hashing is libsodium's. */
#include "base/digest.h"

#include <sodium.h>
#include <stdarg.h>
#include <string.h>

#include "base/check.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(((struct digest *)0)->state), "digest.h must hold the state");

static crypto_hash_sha256_state *state_of(struct digest *digest)
{
    return (crypto_hash_sha256_state *)(void *)digest->state;
}

void digest_init(struct digest *digest)
{
    crypto_hash_sha256_init(state_of(digest));
}

void digest_add(struct digest *digest, const void *data, size_t size)
{
    crypto_hash_sha256_update(state_of(digest), data, size);
}

void digest_hex(struct digest *digest, char hex[DIGEST_HEX_SIZE])
{
    unsigned char bytes[crypto_hash_sha256_BYTES];
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
