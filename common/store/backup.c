/* backup.c - see backup.h. */
#define _GNU_SOURCE
#include "store/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

enum { STEP_PAGES = 1024 };

static int could_not(const char *what, const char *path, const char *why)
{
    log_error("could not %s \"%s\": %s", what, path, why);
    return EX_IOERR;
}

/* All pages, as one reader sees them.  Since it has begun to read, what is written meanwhile does not make it begin again. */
static int copy_pages(struct db *db, sqlite3 *copy, const char *path, backup_progress *progress, void *context)
{
    sqlite3 *from = sqlite3_db_handle(db_query(db, "SELECT count(*) FROM sqlite_schema", ""));
    int64_t page_bytes = db_int(db, db_query(db, "PRAGMA page_size", ""), 0);
    sqlite3_backup *backup = sqlite3_backup_init(copy, "main", from, "main");
    if (backup == NULL)
        return could_not("write backup", path, sqlite3_errmsg(copy));
    int result;
    bool goes_on = true;
    do {
        result = sqlite3_backup_step(backup, STEP_PAGES);
        int64_t total = sqlite3_backup_pagecount(backup), left = sqlite3_backup_remaining(backup);
        goes_on = progress(context, (total - left) * page_bytes, total * page_bytes);
    } while (result == SQLITE_OK && goes_on);
    sqlite3_backup_finish(backup);
    if (result == SQLITE_DONE)
        return EX_OK;
    return goes_on ? could_not("write backup", path, sqlite3_errstr(result)) : EX_TEMPFAIL;
}

static int copy_to(struct db *db, const char *path, backup_progress *progress, void *context)
{
    sqlite3 *copy = NULL;
    int code = EX_OK;
    if (sqlite3_open_v2(path, &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK
        || sqlite3_exec(copy, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF", NULL, NULL, NULL) != SQLITE_OK)
        code = could_not("write backup", path, copy != NULL ? sqlite3_errmsg(copy) : "out of memory");
    /* The transaction makes it one reader from the first page to the last. */
    if (code == EX_OK && (db_run(db, db_query(db, "BEGIN", "")) != 0
                          || db_int(db, db_query(db, "SELECT count(*) FROM sqlite_schema", ""), -1) < 0))
        code = could_not("read store", db_path(db), db_reason(db));
    if (code == EX_OK)
        code = copy_pages(db, copy, path, progress, context);
    db_rollback(db);
    if (sqlite3_close(copy) != SQLITE_OK && code == EX_OK)
        code = could_not("write backup", path, "it cannot be closed");
    return code;
}

static int sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    int result = fd >= 0 ? fsync(fd) : -1;
    if (fd >= 0)
        close(fd);
    return result;
}

/* Durable under its name. */
static int settle(const char *beside, const char *path)
{
    char *directory = memory_text(path), *slash = strrchr(directory, '/');
    *(slash != NULL ? slash + 1 : directory) = '\0';
    bool durable = sync_path(beside, O_RDWR) == 0 && rename(beside, path) == 0
                   && sync_path(directory[0] != '\0' ? directory : ".", O_RDONLY | O_DIRECTORY) == 0;
    free(directory);
    return durable ? EX_OK : could_not("write backup", path, strerror(errno));
}

int backup_make(struct db *db, const char *path, backup_progress *progress, void *context)
{
    char *log = memory_printf("%s-wal", path), *beside = memory_printf("%s.%ld.new", path, (long)getpid());
    int code = EX_CANTCREAT;
    if (file_exists(path) || file_exists(log)) {  // a log that another store left would be read as this one's
        log_error("could not write backup \"%s\": \"%s\" is there already", path, file_exists(path) ? path : log);
    } else {
        code = copy_to(db, beside, progress, context);
        if (code == EX_OK)
            code = settle(beside, path);
        unlink(beside);
    }
    free(beside);
    free(log);
    return code;
}
