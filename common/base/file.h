/*
 * file.h - files read whole or mapped, and files that appear whole or not at all.
 *
 * Every failure has been logged (which file, why) when a function returns.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What says that an open file is still the one that was read before. */
struct file_state {
    int64_t size;        // bytes
    int64_t changed_ns;  // last write (mtime), since 1970
    int64_t touched_ns;  // last change of content or attributes (ctime), which nobody can set back
};

struct file_map {
    const unsigned char *data;  // NULL for an empty file
    size_t size;                // bytes
    struct file_state state;    // before the first byte was read
};

/* Exit codes: EX_OK, EX_NOINPUT when it is missing, EX_OSERR or EX_DATAERR otherwise. */
int file_map(struct file_map *map, const char *path);
void file_unmap(struct file_map *map);

/*
 * Makes SIGBUS on a mapped file, which somebody has cut short or has no room for what is written to it, one line and exit code 74.
 * file_map calls it; whoever lets a library map files does too.  After log_open.
 */
void file_map_guard(void);

/* The whole file with a NUL after it; the caller frees.  NULL on failure. */
char *file_read(const char *path, size_t *size);

/*
 * A file that is written piece by piece beside its path and appears there whole (fsync, rename), or not at all.
 * file_out_end releases it in any case; keep false leaves the old file untouched, and so does a failure.
 */
struct file_out {
    char *path, *beside;
    int fd;
    bool failed;
};
int file_out_begin(struct file_out *file, const char *path);  // 0 or -1
void file_out_write(struct file_out *file, const void *data, size_t size);
int file_out_end(struct file_out *file, bool keep);           // 0, or -1: some write failed

/* The whole of it at once.  0, or -1 with the old file untouched. */
int file_write(const char *path, const void *data, size_t size);

/* All of it, however many calls that takes.  0, or -1 with errno. */
int file_write_all(int fd, const void *data, size_t size);

/* 0, or -1 with errno; EISDIR or EINVAL: no regular file. */
int file_state(int fd, struct file_state *state);

bool file_is_directory(const char *path);
bool file_exists(const char *path);
/* mkdir -p.  0 or -1. */
int directory_make(const char *path);

/* Flushes standard output; 0, or -1 with a message: what was printed may not have arrived. */
int stdout_close(void);

#endif
