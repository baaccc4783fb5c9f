/*
 * remote_model.h - models of the store: "store:NAME" or "store:DIGEST" in place of a path.
 *
 * Their files lie in $VAS_CACHE/models/DIGEST/ (default ~/.cache/vas), whatever they are called in the store.  What is lacking
 * there is fetched, a file at a time; one that was begun is gone on with where it ends.  A file gets its name when its
 * SHA-256 is right, and is read again to be sure when it has changed since.  Any number of processes may do so at once: one
 * fetches, the others wait for it.
 */
#ifndef WIRE_REMOTE_MODEL_H
#define WIRE_REMOTE_MODEL_H

#include <stdbool.h>

bool model_is_remote(const char *model);

/*
 * *model becomes the path of its files where it names a model of the store; NULL and paths stay.  The path is valid until the
 * process ends.  endpoint: NULL in pipes, where there is none to fetch from.  An exit code, logged unless 0:
 *
 *     64  there is no store                       71  no room for it in memory
 *     65  the store sent what cannot be right     74  no room for it on disk
 *     66  the store does not share it             75  stopped before the end: what has arrived is kept
 *     69  no store answers                        77  it refuses our key
 */
int model_fetch(const char **model, const char *endpoint);

#endif
