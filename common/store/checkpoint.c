/* checkpoint.c - see checkpoint.h. */
#include "store/checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "base/digest.h"

struct stored {
    int64_t id, size, received;  // id 0: not there
    bool complete;
    char sha256[DIGEST_HEX_SIZE];
};

static int stored_find(struct db *db, int64_t run, const char *kind, int64_t step, struct stored *stored)
{
    *stored = (struct stored){ .id = 0 };
    sqlite3_stmt *query = db_query(db, "SELECT id, size, complete, sha256,"
                                       " (SELECT max(offset + size) FROM checkpoint_chunk WHERE checkpoint = c.id)"
                                       " FROM checkpoint c WHERE run = ?1 AND kind = ?2 AND step = ?3", "iti", run, kind, step);
    int stepped = db_step(db, query);
    if (stepped > 0) {
        stored->id = sqlite3_column_int64(query, 0);
        stored->size = sqlite3_column_int64(query, 1);
        stored->complete = sqlite3_column_int(query, 2);
        snprintf(stored->sha256, sizeof stored->sha256, "%s", (const char *)sqlite3_column_text(query, 3));
        stored->received = sqlite3_column_int64(query, 4);
        db_end(query);
    }
    return stepped < 0 ? -1 : 0;
}

static int stored_drop(struct db *db, int64_t id)
{
    return db_run(db, db_query(db, "DELETE FROM checkpoint WHERE id = ?1", "i", id));
}

static enum put_status sql_refused(struct db *db, char *reason)
{
    if (db_trouble(db) != DB_REFUSED)
        return PUT_FAILED;
    snprintf(reason, STORE_REASON_BYTES, "the store cannot hold this: %s", db_reason(db));
    return PUT_REFUSED;
}

/* 1 when the chunks make up the file that was announced. */
static int digest_is_right(struct db *db, int64_t id, const char *sha256)
{
    struct digest digest;
    digest_init(&digest);
    sqlite3_stmt *query = db_query(db, "SELECT data FROM checkpoint_chunk WHERE checkpoint = ?1 ORDER BY offset", "i", id);
    int stepped;
    while ((stepped = db_step(db, query)) > 0)
        digest_add(&digest, sqlite3_column_blob(query, 0), (size_t)sqlite3_column_bytes(query, 0));
    char hex[DIGEST_HEX_SIZE];
    digest_hex(&digest, hex);
    return stepped < 0 ? -1 : strcmp(hex, sha256) == 0;
}

/* Those that newer ones replace, and older ones that never became whole. */
static int drop_old(struct db *db, int64_t run, const char *kind, int64_t keep)
{
    return db_run(db, db_query(db, "DELETE FROM checkpoint WHERE run = ?1 AND kind = ?2 AND final = 0 AND step <"
                                   " (SELECT min(step) FROM (SELECT step FROM checkpoint WHERE run = ?1 AND kind = ?2 AND complete"
                                   " ORDER BY step DESC LIMIT ?3))", "iti", run, kind, keep));
}

static enum put_status complete(struct db *db, const struct frame_checkpoint *chunk, int64_t run, int64_t id, int64_t keep,
                                char *reason)
{
    int right = digest_is_right(db, id, chunk->sha256);
    if (right < 0)
        return PUT_FAILED;
    if (right == 0) {
        snprintf(reason, STORE_REASON_BYTES,
                 "checkpoint \"%s\" of run \"%s\", step %lld, does not have the sha256 %s that was announced",
                 chunk->kind, chunk->run, (long long)chunk->step, chunk->sha256);
        return stored_drop(db, id) == 0 ? PUT_REFUSED : PUT_FAILED;
    }
    if (db_run(db, db_query(db, "UPDATE checkpoint SET complete = 1 WHERE id = ?1", "i", id)) != 0
        || drop_old(db, run, chunk->kind, keep) != 0)
        return PUT_FAILED;
    return PUT_NEW;
}

static enum put_status begin(struct db *db, const struct frame_checkpoint *chunk, int64_t run, struct stored *stored, char *reason)
{
    if (stored->id != 0 && stored_drop(db, stored->id) != 0)  // begun by somebody else, with other content
        return PUT_FAILED;
    if (db_run(db, db_query(db, "INSERT INTO checkpoint (run, step, kind, batch, final, size, sha256, complete)"
                                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)", "iitiiit", run, chunk->step, chunk->kind, chunk->batch,
                            chunk->final, chunk->size, chunk->sha256)) != 0)
        return sql_refused(db, reason);
    *stored = (struct stored){ .id = db_last_id(db), .size = chunk->size };
    return PUT_NEW;
}

/* A run may find only afterwards that a checkpoint was its last: when no later batch had anything to train on. */
static enum put_status mark_final(struct db *db, int64_t id, int64_t batch)
{
    if (db_run(db, db_query(db, "UPDATE checkpoint SET final = 1, batch = ?2 WHERE id = ?1 AND final = 0", "ii", id, batch)) != 0)
        return PUT_FAILED;
    return db_changes(db) > 0 ? PUT_NEW : PUT_HAD;
}

enum put_status checkpoint_put(struct db *db, const struct frame_checkpoint *chunk, int64_t run, int64_t keep_weights, char *reason)
{
    int64_t size = (int64_t)chunk->data.size;
    if (strcmp(chunk->kind, "weights") != 0 && strcmp(chunk->kind, "full") != 0) {
        snprintf(reason, STORE_REASON_BYTES, "field \"kind\" is \"%s\", must be weights or full", chunk->kind);
        return PUT_REFUSED;
    }
    if (chunk->offset > chunk->size - size) {
        snprintf(reason, STORE_REASON_BYTES, "field \"offset\" is %lld, with %lld bytes of data it passes the size %lld",
                 (long long)chunk->offset, (long long)size, (long long)chunk->size);
        return PUT_REFUSED;
    }
    int64_t keep = strcmp(chunk->kind, "weights") == 0 ? keep_weights : CHECKPOINT_KEEP_FULL;
    struct stored stored;
    if (db_begin(db) != 0 || stored_find(db, run, chunk->kind, chunk->step, &stored) != 0)
        return PUT_FAILED;
    bool same = stored.id != 0 && strcmp(stored.sha256, chunk->sha256) == 0 && stored.size == chunk->size;
    if (stored.complete && same)
        return chunk->final ? mark_final(db, stored.id, chunk->batch) : PUT_HAD;
    if (stored.complete) {
        snprintf(reason, STORE_REASON_BYTES,
                 "checkpoint \"%s\" of run \"%s\", step %lld, is stored with sha256 %s, this one has %s",
                 chunk->kind, chunk->run, (long long)chunk->step, stored.sha256, chunk->sha256);
        return PUT_REFUSED;
    }
    int64_t newer = db_int(db, db_query(db, "SELECT count(*) FROM checkpoint WHERE run = ?1 AND kind = ?2 AND complete"
                                        " AND step > ?3", "iti", run, chunk->kind, chunk->step), -1);
    if (newer >= keep && !chunk->final)
        return PUT_HAD;
    if (!same) {
        enum put_status begun = begin(db, chunk, run, &stored, reason);
        if (begun != PUT_NEW)
            return begun;
    }
    if (chunk->offset < stored.received && chunk->offset + size <= stored.received)
        return PUT_HAD;
    if (chunk->offset != stored.received) {
        snprintf(reason, STORE_REASON_BYTES, "field \"offset\" is %lld, the store has the first %lld bytes",
                 (long long)chunk->offset, (long long)stored.received);
        return PUT_REFUSED;
    }
    if (db_run(db, db_query(db, "INSERT INTO checkpoint_chunk (checkpoint, offset, size, data) VALUES (?1, ?2, ?3, ?4)", "iiib",
                            stored.id, chunk->offset, size, chunk->data.at, chunk->data.size)) != 0)
        return sql_refused(db, reason);
    return chunk->offset + size == chunk->size ? complete(db, chunk, run, stored.id, keep, reason) : PUT_NEW;
}

int checkpoint_fetch(struct db *db, const struct frame_fetch *fetch, struct arena *arena, struct frame *chunk)
{
    sqlite3_stmt *query = db_query(db, "SELECT c.step, c.batch, c.sha256, c.size, c.final, k.offset, k.data"
                                       " FROM checkpoint c JOIN checkpoint_chunk k ON k.checkpoint = c.id"
                                       " WHERE c.id = (SELECT id FROM checkpoint WHERE run = (SELECT id FROM run WHERE name = ?1)"
                                       "               AND kind = ?2 AND complete AND ?3 IN (-1, step) ORDER BY step DESC LIMIT 1)"
                                       " AND k.offset <= ?4 AND k.offset + k.size > ?4 ORDER BY k.offset DESC LIMIT 1", "ttii",
                                   fetch->run, fetch->kind, fetch->step, fetch->offset);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    *chunk = frame_make(FRAME_checkpoint);
    struct frame_checkpoint *out = &chunk->checkpoint;
    size_t skip = (size_t)(fetch->offset - sqlite3_column_int64(query, 5));
    size_t size = (size_t)sqlite3_column_bytes(query, 6) - skip;
    out->run = arena_text(arena, fetch->run, strlen(fetch->run));
    out->kind = arena_text(arena, fetch->kind, strlen(fetch->kind));
    out->step = sqlite3_column_int64(query, 0);
    out->batch = sqlite3_column_int64(query, 1);
    out->sha256 = arena_text(arena, (const char *)sqlite3_column_text(query, 2), (size_t)sqlite3_column_bytes(query, 2));
    out->size = sqlite3_column_int64(query, 3);
    out->final = sqlite3_column_int64(query, 4);
    out->offset = fetch->offset;
    out->data.at = (unsigned char *)arena_text(arena, (const char *)sqlite3_column_blob(query, 6) + skip, size);
    out->data.size = size;
    db_end(query);
    return 1;
}

int checkpoint_newest(struct db *db, int64_t run, const char *kind, struct checkpoint_newest *newest)
{
    *newest = (struct checkpoint_newest){ .step = -1 };
    sqlite3_stmt *query = db_query(db, "SELECT step, batch, final FROM checkpoint WHERE run = ?1 AND kind = ?2 AND complete"
                                       " ORDER BY step DESC LIMIT 1", "it", run, kind);
    int stepped = db_step(db, query);
    if (stepped > 0) {
        *newest = (struct checkpoint_newest){ sqlite3_column_int64(query, 0), sqlite3_column_int64(query, 1),
                                              sqlite3_column_int(query, 2) };
        db_end(query);
    }
    return stepped < 0 ? -1 : 0;
}

int checkpoint_has(struct db *db, int64_t run, const char *kind, int64_t step)
{
    return (int)db_int(db, db_query(db, "SELECT count(*) FROM checkpoint WHERE run = ?1 AND kind = ?2 AND step = ?3 AND complete",
                                    "iti", run, kind, step), -1);
}
