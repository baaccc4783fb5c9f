/*
 * db.h - the SQLite file: opening it, its format's versions, transactions, and queries in one line each.
 *
 * Only common/store/ includes SQL; the rest of the program sees the functions of its headers.  One process writes (it
 * holds the lock file beside the database), any number read at the same time.
 *
 * Not thread-safe: one struct db for each thread.
 */
#ifndef STORE_DB_H
#define STORE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct db;

enum db_mode {
    DB_SERVE,  // create or migrate, take the lock, write
    DB_EDIT,   // write a few rows beside a store that may be serving
    DB_READ,   // never writes
};

/*
 * NULL on failure, logged; *code is then the exit code: 66 missing, or not to be read without writing; 65 not a store, or newer than
 * this program; 69 served by another process; 74 cannot be written.
 */
struct db *db_open(const char *path, enum db_mode mode, int *code);
/* Rolls back what was not committed. */
void db_close(struct db *db);
/* Whether the file is an SQLite database, a store or not. */
bool db_is_database(const char *path);
const char *db_path(const struct db *db);

/* How bad the last failure was. */
enum db_trouble {
    DB_FINE,
    DB_REFUSED,  // a constraint: this row cannot be stored, others can
    DB_LATER,    // disk full, I/O error, locked: nothing was lost, try again
    DB_BROKEN,   // damaged, read-only, no such table: it cannot go on
};
enum db_trouble db_trouble(const struct db *db);
/* One line that says what it was. */
const char *db_reason(const struct db *db);

/* A transaction begins with the first write after the last commit.  0 or -1; after -1 everything since db_begin is gone. */
int db_begin(struct db *db);   // no effect inside a transaction
int db_commit(struct db *db);  // no effect outside
void db_rollback(struct db *db);
bool db_writing(const struct db *db);
/* Many queries between these two are one reader, which is cheaper; no effect in a transaction.  Nothing is written meanwhile. */
int db_read_begin(struct db *db);
void db_read_end(struct db *db);
/* True once after another process has changed the file. */
bool db_changed(struct db *db);

/*
 * Prepares sql (kept, by its address: give a literal) and binds its parameters ?1, ?2, ... as format says:
 *     i int64_t   r double (NaN: NULL)   t const char *   b const void *, size_t (NULL: NULL)
 * The result is valid until the same sql is queried again; texts and blobs are borrowed for the call of db_step.
 */
sqlite3_stmt *db_query(struct db *db, const char *sql, const char *format, ...);
/* 1: a row, 0: no more, -1: failure (db_trouble says which).  After 0 or -1 the query is reset. */
int db_step(struct db *db, sqlite3_stmt *query);
/* Ends a query before its last row. */
void db_end(sqlite3_stmt *query);
/* Runs a query that gives no row, or whose rows do not matter.  0 or -1. */
int db_run(struct db *db, sqlite3_stmt *query);
/* The first column of the first row; otherwise when there is no row or on failure. */
int64_t db_int(struct db *db, sqlite3_stmt *query, int64_t otherwise);
/* Rows that the last db_run inserted, changed or deleted. */
int64_t db_changes(struct db *db);
int64_t db_last_id(struct db *db);
/* For queries of which several run at once; the caller finalizes them. */
sqlite3_stmt *db_prepare(struct db *db, const char *sql);

enum { STORE_REASON_BYTES = 512 };  // of every "reason" in common/store/

#endif
