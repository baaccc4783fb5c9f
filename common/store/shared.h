/*
 * shared.h - models that workers may fetch: the store knows which files they have and where these lie, and reads them from there.
 */
#ifndef STORE_SHARED_H
#define STORE_SHARED_H

#include "model/manifest.h"
#include "store/db.h"
#include "wire/frame.h"

/* Shares a model under a name, in place of what had it.  paths: (count) where its files lie, absolute.  0 or -1. */
int share_model(struct db *db, const char *name, const struct manifest *manifest, char *const *paths);

/* The files of a model, by name or digest, as a frame that borrows from arena.  1, 0 with a line in reason,
   -1 when the store cannot be read. */
int shared_model(struct db *db, const struct frame_find *asked, struct arena *arena, struct frame *frame, char *reason);
/* Bytes of a file.  The same. */
int shared_file(struct db *db, const struct frame_read *asked, struct arena *arena, struct frame *frame, char *reason);

#endif
