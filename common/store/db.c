/* db.c - see db.h.  The versions of the format are the texts of schemas/store.sql. */
#define _GNU_SOURCE
#include "store/db.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

/* Element v brings a store from version v - 1 to version v; element 0 is the comment that opens the file. */
static const char *const versions[] = {
#include "store_sql.h"
};

enum {
    VERSION = COUNT_OF(versions) - 1,
    APPLICATION_ID = 0x76617331,  // "vas1": says in the file that it is a store
    QUERY_SLOTS = 256,            // a power of 2, above the number of different queries
    BUSY_WAIT_MS = 5000,
    LOOKASIDE_BYTES = 4096, LOOKASIDE_COUNT = 128,
    PAGE_BYTES = 4096,            // SQLite's default
    LOG_PAGES_MAX = 16384,        // 64 MiB: a page that is written often is written to its place seldom
    LOG_PAGES_MIN = 256,          // a shorter log is left alone
    LOG_SHARE = 3,                // so many logs should fit what is left of the disk
};

struct query_slot {
    const char *sql;  // a literal: its address is the key
    sqlite3_stmt *query;
};

struct db {
    sqlite3 *handle;
    char *path;
    int lock_fd;
    bool writing;
    int64_t data_version;
    enum db_trouble trouble;
    char reason[STORE_REASON_BYTES];
    struct query_slot slots[QUERY_SLOTS];
};

const char *db_path(const struct db *db)
{
    return db->path;
}

enum db_trouble db_trouble(const struct db *db)
{
    return db->trouble;
}

const char *db_reason(const struct db *db)
{
    return db->reason;
}

bool db_writing(const struct db *db)
{
    return db->writing;
}

static int db_note(struct db *db, int code)
{
    switch (code & 0xff) {
    case SQLITE_CONSTRAINT: case SQLITE_TOOBIG: case SQLITE_MISMATCH: case SQLITE_RANGE:
        db->trouble = DB_REFUSED;
        break;
    case SQLITE_FULL: case SQLITE_IOERR: case SQLITE_BUSY: case SQLITE_LOCKED: case SQLITE_NOMEM:
    case SQLITE_CANTOPEN: case SQLITE_PROTOCOL: case SQLITE_INTERRUPT: case SQLITE_ABORT:
        db->trouble = DB_LATER;
        break;
    default:
        db->trouble = DB_BROKEN;
    }
    const char *text = sqlite3_errmsg(db->handle);
    int system_error = (code & 0xff) == SQLITE_IOERR || (code & 0xff) == SQLITE_FULL ? sqlite3_system_errno(db->handle) : 0;
    snprintf(db->reason, sizeof db->reason, "%s%s%s", text, system_error ? ": " : "", system_error ? strerror(system_error) : "");
    if (db->writing && sqlite3_get_autocommit(db->handle))
        db->writing = false;  // SQLite has rolled back by itself
    return -1;
}

/* ---- queries ---- */

static struct query_slot *slot_of(struct db *db, const char *sql)
{
    size_t i = ((uintptr_t)sql >> 3) * 0x9E3779B1u % QUERY_SLOTS;
    for (size_t tried = 0; tried < QUERY_SLOTS; tried++, i = (i + 1) % QUERY_SLOTS)
        if (db->slots[i].sql == sql || db->slots[i].sql == NULL)
            return &db->slots[i];
    CHECK(!"more queries than slots");
    return NULL;
}

sqlite3_stmt *db_query(struct db *db, const char *sql, const char *format, ...)
{
    struct query_slot *slot = slot_of(db, sql);
    if (slot->query == NULL) {
        int code = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &slot->query, NULL);
        if (code != SQLITE_OK) {
            db_note(db, code);
            return NULL;
        }
        slot->sql = sql;
    }
    sqlite3_stmt *query = slot->query;
    sqlite3_reset(query);
    va_list arguments;
    va_start(arguments, format);
    for (int i = 1; *format != '\0'; format++, i++) {
        switch (*format) {
        case 'i':
            sqlite3_bind_int64(query, i, va_arg(arguments, int64_t));
            break;
        case 'r': {
            double value = va_arg(arguments, double);
            if (isnan(value))
                sqlite3_bind_null(query, i);
            else
                sqlite3_bind_double(query, i, value);
            break;
        }
        case 't':
            sqlite3_bind_text(query, i, va_arg(arguments, const char *), -1, SQLITE_STATIC);
            break;
        case 'b': {
            const void *data = va_arg(arguments, const void *);
            sqlite3_bind_blob64(query, i, data, va_arg(arguments, size_t), SQLITE_STATIC);
            break;
        }
        default:
            CHECK(!"db_query knows the formats i, r, t and b");
        }
    }
    va_end(arguments);
    return query;
}

sqlite3_stmt *db_prepare(struct db *db, const char *sql)
{
    sqlite3_stmt *query = NULL;
    int code = sqlite3_prepare_v2(db->handle, sql, -1, &query, NULL);
    if (code != SQLITE_OK)
        db_note(db, code);
    return query;
}

int db_step(struct db *db, sqlite3_stmt *query)
{
    if (query == NULL)
        return -1;
    int code = sqlite3_step(query);
    if (code == SQLITE_ROW)
        return 1;
    int result = code == SQLITE_DONE ? 0 : db_note(db, code);
    sqlite3_reset(query);
    return result;
}

void db_end(sqlite3_stmt *query)
{
    if (query != NULL)
        sqlite3_reset(query);
}

int db_run(struct db *db, sqlite3_stmt *query)
{
    int stepped;
    while ((stepped = db_step(db, query)) > 0)
        ;
    return stepped;
}

int64_t db_int(struct db *db, sqlite3_stmt *query, int64_t otherwise)
{
    if (db_step(db, query) <= 0)
        return otherwise;
    int64_t value = sqlite3_column_type(query, 0) == SQLITE_NULL ? otherwise : sqlite3_column_int64(query, 0);
    db_end(query);
    return value;
}

int64_t db_changes(struct db *db)
{
    return sqlite3_changes64(db->handle);
}

int64_t db_last_id(struct db *db)
{
    return sqlite3_last_insert_rowid(db->handle);
}

/* ---- transactions ---- */

int db_begin(struct db *db)
{
    if (db->writing)
        return 0;
    if (db_run(db, db_query(db, "BEGIN IMMEDIATE", "")) != 0)
        return -1;
    db->writing = true;
    return 0;
}

int db_commit(struct db *db)
{
    if (!db->writing)
        return 0;
    if (db_run(db, db_query(db, "COMMIT", "")) != 0) {
        db_rollback(db);
        return -1;
    }
    db->writing = false;
    return 0;
}

int db_read_begin(struct db *db)
{
    return db->writing ? 0 : db_run(db, db_query(db, "BEGIN", ""));
}

void db_read_end(struct db *db)
{
    if (!db->writing && !sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "COMMIT", NULL, NULL, NULL);
}

/* Keeps trouble and reason: they say why. */
void db_rollback(struct db *db)
{
    for (size_t i = 0; i < QUERY_SLOTS; i++)
        db_end(db->slots[i].query);
    if (!sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    db->writing = false;
}

bool db_changed(struct db *db)
{
    int64_t before = db->data_version;
    db->data_version = db_int(db, db_query(db, "PRAGMA data_version", ""), before);
    return db->data_version != before;
}

/* After each commit: a long log goes to its place and is begun anew; also a shorter one that would soon leave the disk no room, not
   even for what it holds. */
static int log_grew(void *context, sqlite3 *handle, const char *name, int pages)
{
    const struct db *db = context;
    struct statvfs disk;
    bool tight = pages >= LOG_PAGES_MIN && statvfs(db->path, &disk) == 0
                 && (uint64_t)pages * PAGE_BYTES * LOG_SHARE > (uint64_t)disk.f_bavail * disk.f_frsize;
    if (pages >= LOG_PAGES_MAX || tight)
        sqlite3_wal_checkpoint_v2(handle, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    return SQLITE_OK;
}

/* ---- opening ---- */

static int lock_take(struct db *db)
{
    char *path = memory_printf("%s.lock", db->path);
    int code = EX_OK;
    db->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (db->lock_fd < 0) {
        log_error("could not open lock file \"%s\": %s", path, strerror(errno));
        code = EX_IOERR;
    } else if (flock(db->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        log_error("store \"%s\" is served by another process already", db->path);
        code = EX_UNAVAILABLE;
    }
    free(path);
    return code;
}

static bool begins_as_database(int fd)
{
    static const char magic[16] = "SQLite format 3";  // with its NUL
    char head[sizeof magic];
    return pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && memcmp(head, magic, sizeof magic) == 0;
}

bool db_is_database(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is = fd >= 0 && begins_as_database(fd);
    if (fd >= 0)
        close(fd);
    return is;
}

/* What SQLite would answer with a riddle is said here: missing, a directory, some other file. */
static int file_examine(const char *path, enum db_mode mode)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && mode == DB_SERVE)
        return EX_OK;
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) {
        int code = errno == ENOENT ? EX_NOINPUT : EX_IOERR;
        log_error("could not open store \"%s\": %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    bool empty = S_ISREG(status.st_mode) && status.st_size == 0 && mode == DB_SERVE, database = begins_as_database(fd);
    close(fd);
    if (empty || database)
        return EX_OK;
    log_error("\"%s\" is not a store: it is no SQLite database", path);
    return EX_DATAERR;
}

static int migrate(struct db *db, int64_t version)
{
    if (db_begin(db) != 0)
        return EX_IOERR;
    for (; version < VERSION; version++) {
        int code = sqlite3_exec(db->handle, versions[version + 1], NULL, NULL, NULL);
        if (code != SQLITE_OK) {
            db_note(db, code);
            return EX_IOERR;
        }
    }
    char pragmas[96];
    snprintf(pragmas, sizeof pragmas, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID, VERSION);
    int code = sqlite3_exec(db->handle, pragmas, NULL, NULL, NULL);
    if (code != SQLITE_OK) {
        db_note(db, code);
        return EX_IOERR;
    }
    return db_commit(db) == 0 ? EX_OK : EX_IOERR;
}

static int version_settle(struct db *db, enum db_mode mode)
{
    int64_t application = db_int(db, db_query(db, "PRAGMA application_id", ""), INT64_MIN);
    int64_t version = db_int(db, db_query(db, "PRAGMA user_version", ""), INT64_MIN);
    int64_t tables = db_int(db, db_query(db, "SELECT count(*) FROM sqlite_schema", ""), INT64_MIN);
    if (application == INT64_MIN || version == INT64_MIN || tables == INT64_MIN) {
        log_error("could not read store \"%s\": %s", db->path, db->reason);
        return db->trouble == DB_LATER ? EX_IOERR : EX_DATAERR;
    }
    bool fresh = application == 0 && version == 0 && tables == 0;
    if (!fresh && application != APPLICATION_ID) {
        log_error("\"%s\" is not a store: it is a database of another program", db->path);
        return EX_DATAERR;
    }
    if (version < 0 || version > VERSION) {
        log_error("store \"%s\" has format version %lld, this program knows versions up to %d", db->path, (long long)version,
                  VERSION);
        log_hint("use the program that wrote it, or a newer one");
        return EX_DATAERR;
    }
    if (version == VERSION)
        return EX_OK;
    if (mode != DB_SERVE) {
        log_error("store \"%s\" has format version %lld, this program needs version %d", db->path, (long long)version, VERSION);
        log_hint("'store serve' brings it up to date");
        return EX_DATAERR;
    }
    int code = migrate(db, version);
    if (code != EX_OK) {
        log_error("could not bring store \"%s\" from version %lld to %d: %s", db->path, (long long)version, VERSION, db->reason);
        db_rollback(db);
    }
    return code;
}

/* A reader, too, writes FILE-shm beside a store in WAL mode: whether it may. */
static bool reader_may_begin(struct db *db)
{
    if (sqlite3_exec(db->handle, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL) == SQLITE_OK)
        return true;
    int code = sqlite3_errcode(db->handle) & 0xff;
    return code != SQLITE_READONLY && code != SQLITE_CANTOPEN;
}

/* Where no log says that somebody writes, or was killed, the file alone is the whole store.  EX_OK, or EX_NOINPUT and says why. */
static int file_is_whole(const struct db *db)
{
    char *log = memory_printf("%s-wal", db->path);
    int code = file_exists(log) ? EX_NOINPUT : EX_OK;
    if (code != EX_OK) {
        log_error("could not read store \"%s\" where nothing may be written: part of it is in \"%s\", which a store left that was "
                  "killed or still runs", db->path, log);
        log_hint("copy both files to one directory that you may write to, and read the copy");
    }
    free(log);
    return code;
}

/* The file alone, which nobody changes: "file:PATH?immutable=1", PATH as a URI has it. */
static int open_whole(struct db *db, int flags)
{
    struct buffer uri = { 0 };
    buffer_printf(&uri, "file:");
    for (const char *at = db->path; *at != '\0'; at++)
        buffer_printf(&uri, isalnum((unsigned char)*at) || strchr("/._-", *at) != NULL ? "%c" : "%%%02X", (unsigned char)*at);
    buffer_printf(&uri, "?immutable=1");
    sqlite3_close(db->handle);
    int code = sqlite3_open_v2(uri.data, &db->handle, flags | SQLITE_OPEN_URI, NULL);
    free(uri.data);
    return code;
}

struct db *db_open(const char *path, enum db_mode mode, int *code)
{
    struct db *db = memory_alloc(1, sizeof *db);
    db->path = memory_text(path);
    db->lock_fd = -1;
    *code = file_examine(path, mode);
    if (*code == EX_OK && mode == DB_SERVE)
        *code = lock_take(db);
    if (*code != EX_OK)
        goto close_db;

    file_map_guard();  // on blocks below 4 KiB SQLite does not notice itself that FILE-shm finds no room
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);  // nobody asks, and it takes a lock each time; too late after the first store
    int flags = mode == DB_READ   ? SQLITE_OPEN_READONLY
                : mode == DB_EDIT ? SQLITE_OPEN_READWRITE
                                  : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    flags |= SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    *code = EX_IOERR;
    int opened = sqlite3_open_v2(path, &db->handle, flags, NULL);
    if (opened == SQLITE_OK && mode == DB_READ && !reader_may_begin(db)) {
        if ((*code = file_is_whole(db)) != EX_OK)
            goto close_db;
        *code = EX_IOERR;
        opened = open_whole(db, flags);
    }
    if (opened != SQLITE_OK) {
        log_error("could not open store \"%s\": %s", path, db->handle ? sqlite3_errmsg(db->handle) : "out of memory");
        goto close_db;
    }
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_LOOKASIDE, NULL, LOOKASIDE_BYTES, LOOKASIDE_COUNT);  // room for triggers' frames
    sqlite3_busy_timeout(db->handle, BUSY_WAIT_MS);
    *code = version_settle(db, mode);
    if (*code != EX_OK)
        goto close_db;
    const char *pragmas = mode == DB_SERVE
        ? "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536"
        : "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";
    int result = sqlite3_exec(db->handle, pragmas, NULL, NULL, NULL);
    if (result != SQLITE_OK) {
        db_note(db, result);
        log_error("could not open store \"%s\": %s", path, db->reason);
        *code = EX_IOERR;
        goto close_db;
    }
    if (mode == DB_SERVE)
        sqlite3_wal_hook(db->handle, log_grew, db);
    db_changed(db);
    return db;

close_db:
    db_close(db);
    return NULL;
}

void db_close(struct db *db)
{
    if (db == NULL)
        return;
    if (db->handle != NULL) {
        db_rollback(db);
        for (size_t i = 0; i < QUERY_SLOTS; i++)
            sqlite3_finalize(db->slots[i].query);
        sqlite3_close(db->handle);
    }
    if (db->lock_fd >= 0)
        close(db->lock_fd);
    free(db->path);
    free(db);
}
