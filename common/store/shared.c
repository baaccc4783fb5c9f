/* shared.c - see shared.h. */
#define _GNU_SOURCE
#include "store/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"

int share_model(struct db *db, const char *name, const struct manifest *manifest, char *const *paths)
{
    int result = db_begin(db);
    if (result == 0)
        result = db_run(db, db_query(db, "DELETE FROM model WHERE name = ?1", "t", name));
    if (result == 0)
        result = db_run(db, db_query(db, "INSERT INTO model (name, digest) VALUES (?1, ?2)", "tt", name, manifest->digest));
    int64_t model = db_last_id(db);
    for (size_t i = 0; i < manifest->count && result == 0; i++) {
        const struct manifest_file *file = &manifest->files[i];
        result = db_run(db, db_query(db, "INSERT INTO model_file (model, name, size, sha256, path, changed_ns)"
                                         " VALUES (?1, ?2, ?3, ?4, ?5, ?6)", "ititti", model, file->name, file->size, file->sha256,
                                     paths[i], file->changed_ns));
    }
    return result == 0 ? db_commit(db) : -1;
}

/* "a, b": the names there are. */
static void names_list(struct db *db, char *out, size_t size)
{
    sqlite3_stmt *query = db_query(db, "SELECT name FROM model ORDER BY name", "");
    size_t used = 0;
    while (db_step(db, query) > 0) {
        int more = snprintf(out + used, size - used, "%s%s", used ? ", " : "", (const char *)sqlite3_column_text(query, 0));
        used = used + (size_t)more < size ? used + (size_t)more : size - 1;
    }
}

int shared_model(struct db *db, const struct frame_find *asked, struct arena *arena, struct frame *frame, char *reason)
{
    sqlite3_stmt *query = db_query(db, "SELECT name, size, sha256 FROM model_file WHERE model ="
                                       " (SELECT id FROM model WHERE ?1 IN (name, digest) ORDER BY name = ?1 DESC LIMIT 1)"
                                       " ORDER BY name",
                                   "t", asked->model);
    json_t *files = json_array();
    int stepped;
    while ((stepped = db_step(db, query)) > 0)
        json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", sqlite3_column_text(query, 0), "size",
                                               (json_int_t)sqlite3_column_int64(query, 1), "sha256",
                                               sqlite3_column_text(query, 2)));
    bool found = json_array_size(files) > 0;
    if (stepped == 0 && found) {
        char *text = json_text(files);
        *frame = frame_make(FRAME_model);
        frame->model.model = arena_text(arena, asked->model, strlen(asked->model));
        frame->model.files = arena_text(arena, text, strlen(text));
        free(text);
    } else if (stepped == 0) {
        char names[STORE_REASON_BYTES / 2] = "none";
        names_list(db, names, sizeof names);
        snprintf(reason, STORE_REASON_BYTES, "the store shares no model of that name or digest (it shares: %s)", names);
    }
    json_decref(files);
    return stepped < 0 ? -1 : found;
}

/* Bytes of the file at path if it is still the one that was shared.  Their number, or 0 with a reason. */
static size_t read_bytes(const char *path, int64_t size, int64_t changed_ns, int64_t offset, void *out, size_t out_size,
                         char *reason)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct file_state state;
    ssize_t got = 0;
    if (fd < 0 || file_state(fd, &state) != 0) {
        snprintf(reason, STORE_REASON_BYTES, "the store could not open \"%.300s\": %s", path, strerror(errno));
    } else if (state.size != size || state.changed_ns != changed_ns) {
        snprintf(reason, STORE_REASON_BYTES, "\"%.300s\" has changed since it was shared: share the model again", path);
    } else {
        while ((got = pread(fd, out, out_size, (off_t)offset)) < 0 && errno == EINTR)
            ;
        if (got <= 0)
            snprintf(reason, STORE_REASON_BYTES, "the store could not read \"%.300s\" at byte %lld: %s", path, (long long)offset,
                     got < 0 ? strerror(errno) : "it ends before");
    }
    if (fd >= 0)
        close(fd);
    return got > 0 ? (size_t)got : 0;
}

int shared_file(struct db *db, const struct frame_read *asked, struct arena *arena, struct frame *frame, char *reason)
{
    snprintf(reason, STORE_REASON_BYTES, "the store shares no file with SHA-256 %s that has bytes at offset %lld", asked->sha256,
             (long long)asked->offset);
    sqlite3_stmt *query = db_query(db, "SELECT path, size, changed_ns FROM model_file WHERE sha256 = ?1 AND size > ?2"
                                   " ORDER BY model", "ti", asked->sha256, asked->offset);
    unsigned char *bytes = arena_alloc(arena, (size_t)asked->size, 1);
    int stepped;
    while ((stepped = db_step(db, query)) > 0) {
        int64_t size = sqlite3_column_int64(query, 1), left = size - asked->offset;
        size_t got = read_bytes((const char *)sqlite3_column_text(query, 0), size, sqlite3_column_int64(query, 2), asked->offset,
                                bytes, (size_t)(left < asked->size ? left : asked->size), reason);
        if (got == 0)
            continue;  // the same file may lie in another place too
        *frame = frame_make(FRAME_piece);
        frame->piece.sha256 = arena_text(arena, asked->sha256, strlen(asked->sha256));
        frame->piece.offset = asked->offset;
        frame->piece.data = (struct bytes){ bytes, got };
        db_end(query);
        return 1;
    }
    return stepped < 0 ? -1 : 0;
}
