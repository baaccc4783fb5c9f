/*
 * backup.h - a copy of a store, whether it is served or not.
 *
 * The copy is the store as it was at one moment, appears whole or not at all, and is a store like any other.  While it is made the
 * served store goes on, and its write-ahead log grows: that is emptied only behind the last reader.
 */
#ifndef STORE_BACKUP_H
#define STORE_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "store/db.h"

/* Called now and then with the bytes that are copied; false ends the backup. */
typedef bool backup_progress(void *context, int64_t done, int64_t total);

/*
 * Copies db to path, where nothing may be.  The exit code, logged where it is not 0: 73 there is something, 75 progress said false,
 * 74 it could not be read or written.
 */
int backup_make(struct db *db, const char *path, backup_progress *progress, void *context);

#endif
