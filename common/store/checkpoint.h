/*
 * checkpoint.h - checkpoints in chunks: they come in order, are whole or cannot be fetched, and old ones make room.
 */
#ifndef STORE_CHECKPOINT_H
#define STORE_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "store/db.h"
#include "store/put.h"
#include "wire/frame.h"

/*
 * Whole checkpoints of kind "full" that are kept of each run, and how many of kind "weights" may be and usually are; beside them
 * those that are final.  Fewer weights than the default would be gone before the values that need them are computed.
 */
enum { CHECKPOINT_KEEP_FULL = 2, CHECKPOINT_KEEP_WEIGHTS = 3, CHECKPOINT_KEEP_WEIGHTS_MAX = 1 << 20 };

/*
 * Stores a chunk.  The last one is PUT_NEW only when the file's SHA-256 is right; otherwise all its chunks are
 * dropped and it is refused.  A chunk that is stored already, or belongs to a checkpoint too old to be kept, is PUT_HAD.
 */
enum put_status checkpoint_put(struct db *db, const struct frame_checkpoint *chunk, int64_t run, int64_t keep_weights,
                               char *reason);

/* Bytes from offset on, at most a chunk, as a checkpoint frame that borrows from arena.  1, 0 when there is none, -1 on failure. */
int checkpoint_fetch(struct db *db, const struct frame_fetch *fetch, struct arena *arena, struct frame *chunk);

struct checkpoint_newest {
    int64_t step, batch;  // -1 and 0 when there is none
    bool final;
};
/* Of one kind.  0 or -1. */
int checkpoint_newest(struct db *db, int64_t run, const char *kind, struct checkpoint_newest *newest);
/* 1, 0, -1. */
int checkpoint_has(struct db *db, int64_t run, const char *kind, int64_t step);

#endif
