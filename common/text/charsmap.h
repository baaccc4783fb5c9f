/*
 * charsmap.h - SentencePiece's map of characters to their normal forms ("precompiled_charsmap").
 *
 *     bytes 0 .. 3     size of the trie in bytes, little-endian
 *     the trie         Darts's double array of 4-byte units: what is looked for
 *     the rest         UTF-8 texts, each ended by a NUL: what it becomes
 *
 * The data may come from anywhere: no index in it is followed before it is checked.
 */
#ifndef TEXT_CHARSMAP_H
#define TEXT_CHARSMAP_H

#include <stddef.h>

#include "base/memory.h"

enum { CHARSMAP_FORM_MAX = 128 };  // bytes of one normal form; Unicode's longest has 33

struct charsmap;

/* Copies data.  NULL when it is no such map; *reason then says why. */
struct charsmap *charsmap_open(const void *data, size_t size, const char **reason);
void charsmap_free(struct charsmap *charsmap);
/* What charsmap_open was given; borrowed. */
const void *charsmap_data(const struct charsmap *charsmap, size_t *size);
/* The size of its longest form, in bytes. */
size_t charsmap_form_max(const struct charsmap *charsmap);

/*
 * Appends the normal form of text (valid UTF-8) as the tokenizers library's Precompiled makes it: a grapheme of less than 6
 * bytes becomes the form of its shortest beginning that has one; else each of its characters is looked for alone.
 */
void charsmap_run(const struct charsmap *charsmap, const char *text, size_t size, struct buffer *out);

#endif
