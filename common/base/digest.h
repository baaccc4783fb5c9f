/*
 * digest.h - SHA-256 of content, and the short keys by which rows are named.
 *
 * A key is the first 16 bytes of a SHA-256 as 32 hex digits: long enough that two contents never share
 * one, short enough to read in a table.
 */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_HEX_SIZE = 65, KEY_SIZE = 33 };  // with the final NUL

struct digest {
    _Alignas(64) unsigned char state[128];
};

/* SHA-256 of all that is added; the text of either kind ends it, and digest_init begins another. */
void digest_init(struct digest *digest);
void digest_add(struct digest *digest, const void *data, size_t size);
void digest_hex(struct digest *digest, char hex[DIGEST_HEX_SIZE]);
void digest_key(struct digest *digest, char key[KEY_SIZE]);

/* Of several texts, each followed by a NUL so that their borders count.  Ends at NULL. */
void key_from_texts(char key[KEY_SIZE], const char *text, ...) __attribute__((sentinel));

/* The first 8 bytes of a key as a number, for philox streams.  0 if it is not hex. */
uint64_t number_from_key(const char *key);

#endif
