/* fresh_store.h - an empty store in a directory of its own, one at a time. */
#ifndef TESTS_UNIT_FRESH_STORE_H
#define TESTS_UNIT_FRESH_STORE_H

#include <stdio.h>
#include <stdlib.h>

#include "store/db.h"

static char directory[64], path[96];

static struct db *fresh_open(void)
{
    int code;
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/s.db", directory);
    return db_open(path, DB_SERVE, &code);
}

static void fresh_close(struct db *db)
{
    char command[128];
    db_close(db);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0)
        abort();
}

#endif
