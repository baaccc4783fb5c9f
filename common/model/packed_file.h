/*
 * packed_file.h - a model's packed matrices in a file beside it, which later starts and other workers map.
 *
 * Mapped matrices are the page cache's: nothing is packed, and processes on one machine share the memory.  The file lies beside the
 * model as MODEL[.TYPE].packed, TYPE being what it was rounded to, and appears whole or not at all.  Numbers are as this
 * machine stores them, places are multiples of 4096 bytes, gaps are zeros:
 *
 *   header    "VASPACK", format, byte order, origin, the model's key, and for each matrix its type, N, K and place
 *   matrices  panels as kernels.h and panel.h describe them
 *   sums      64 bits of each matrix, then of the header
 *
 * The origin is a digest of all that decides these bytes and can be had without reading a weight: sizes and times of the model's
 * files, the config, the rounding, and what this program makes of a few known weights of every type.  So the header is known
 * before the file is opened, but for the key, and is compared, not parsed.  What differs, or has other sums, is written anew.
 */
#ifndef MODEL_PACKED_FILE_H
#define MODEL_PACKED_FILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/pool.h"
#include "math/kernels.h"
#include "model/weights.h"

struct packed_file {
    const char *model;              // path of the directory or file
    const struct weights *weights;  // opened from there
    json_t *config;                 // taken
    enum tensor_type quant;         // what matrices are rounded to, or TENSOR_TYPE_COUNT
    struct packed *const *matrices; // (count) shaped (packed_shape), without data
    size_t count;
    struct pool *pool;
    /* Make what a new file holds: the model's key, and the i-th matrix (packed_init, and its panels). */
    void (*make_key)(void *context, char key[KEY_SIZE]);
    void (*fill)(void *context, size_t i);
    void *context;
};

/*
 * Gives the matrices their data, borrowed from map until file_unmap, and the key.  Writes the file first where it is missing or
 * another's; waits meanwhile for a process that is writing it.  False, logged, when it could not be written, or the weights are
 * no files of their own (weights_add_files): then the matrices have no data.
 */
bool packed_file_map(const struct packed_file *file, struct file_map *map, char key[KEY_SIZE]);

#endif
