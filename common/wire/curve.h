/*
 * curve.h - CURVE keys: their files, and sockets that use them.
 *
 * A key pair is two files.  FILE has the secret key (and the public one) and is readable by its owner only; FILE.pub has the
 * public key.  Both are in the form of pyzmq's certificates, so that it reads them too:
 *
 *     curve
 *         public-key = "40 characters of Z85"
 *         secret-key = "40 characters of Z85"
 */
#ifndef WIRE_CURVE_H
#define WIRE_CURVE_H

#include <stddef.h>

enum { CURVE_KEY_SIZE = 41 };  // as text, with the final NUL

struct curve_pair {
    char public_key[CURVE_KEY_SIZE], secret_key[CURVE_KEY_SIZE];
};

/* These return exit codes, what is wrong is logged: 65 not a key file, 66 missing, 73 there already,
 * 74 cannot be written, 77 readable by others. */
int curve_make(const char *path);  // neither file may be there already
int curve_read_pair(struct curve_pair *pair, const char *path);
int curve_read_public(char key[CURVE_KEY_SIZE], const char *path);

/*
 * Calls take for each public key in the text of a key file, or of several after each other.  0, or -1 and a reason (512 bytes)
 * that names the line; a secret key is refused, since the text is for everybody.
 */
int curve_list(const char *text, void (*take)(void *of, const char *key), void *of, char *reason);

/* For the next zmq_bind: only who has the public key of this pair may talk,
   and only whom the ZAP handler lets in; NULL: everybody. */
int curve_serve(void *socket, const struct curve_pair *pair);  // 0 or -1
/* Before zmq_connect: talk as pair to the store that has the secret key of store_key. */
int curve_join(void *socket, const struct curve_pair *pair, const char *store_key);

#endif
