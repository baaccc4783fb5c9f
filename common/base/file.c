/* file.c - see file.h. */
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"

static int64_t nanoseconds(struct timespec time)
{
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int file_state(int fd, struct file_state *state)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -1;
    *state = (struct file_state){ status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim) };
    errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    return S_ISREG(status.st_mode) ? 0 : -1;
}

static char map_lost[256];  // the line of map_end, made beforehand: a signal handler may not

static void map_end(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code != BUS_ADRERR) {
        signal(signal_number, SIG_DFL);  // what raised it raises it again
        return;
    }
    ssize_t written = write(STDERR_FILENO, map_lost, strlen(map_lost));
    (void)written;
    _exit(EX_IOERR);
}

void file_map_guard(void)
{
    snprintf(map_lost, sizeof map_lost, "%s: a mapped file was cut short, or its disk is full\n", log_program());
    struct sigaction action = { .sa_sigaction = map_end, .sa_flags = SA_SIGINFO };
    sigaction(SIGBUS, &action, NULL);
}

int file_map(struct file_map *map, const char *path)
{
    file_map_guard();
    *map = (struct file_map){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would keep us waiting, to be refused
    if (fd < 0) {
        int code = errno == ENOENT ? EX_NOINPUT : EX_OSERR;
        log_error("could not open \"%s\": %s", path, strerror(errno));
        return code;
    }
    int code = EX_OK;
    if (file_state(fd, &map->state) != 0) {
        log_error("cannot read \"%s\": not a regular file", path);
        code = EX_DATAERR;
    } else if (map->state.size > 0) {
        size_t size = (size_t)map->state.size;
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            log_error("could not map \"%s\" (%zu bytes): %s", path, size, strerror(errno));
            code = EX_OSERR;
        } else {
            map->data = data;
            map->size = size;
        }
    }
    close(fd);
    return code;
}

void file_unmap(struct file_map *map)
{
    if (map->data != NULL)
        munmap((void *)(size_t)map->data, map->size);
    *map = (struct file_map){ 0 };
}

char *file_read(const char *path, size_t *size)
{
    struct file_map map;
    if (file_map(&map, path) != EX_OK)
        return NULL;
    char *data = memory_alloc(map.size + 1, 1);
    if (map.size > 0)
        memcpy(data, map.data, map.size);
    if (size != NULL)
        *size = map.size;
    file_unmap(&map);
    return data;
}

int file_write_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t n = write(fd, at, size < (1u << 30) ? size : (1u << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Waits while another process writes the same file, and empties what a killed one has left. */
static int open_alone(const char *path)
{
    for (;;) {
        struct stat opened, there;
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
            return -1;
        while (flock(fd, LOCK_EX) != 0 && errno == EINTR)
            ;
        bool is_there = fstat(fd, &opened) == 0 && stat(path, &there) == 0 && opened.st_ino == there.st_ino
            && opened.st_dev == there.st_dev;
        if (is_there && ftruncate(fd, 0) == 0)
            return fd;
        close(fd);
        if (is_there)
            return -1;
    }
}

int file_out_begin(struct file_out *file, const char *path)
{
    *file = (struct file_out){ .path = memory_text(path), .beside = memory_printf("%s.new", path) };
    file->fd = open_alone(file->beside);
    if (file->fd >= 0)
        return 0;
    log_error("could not create \"%s\": %s", path, strerror(errno));
    free(file->path);
    free(file->beside);
    return -1;
}

void file_out_write(struct file_out *file, const void *data, size_t size)
{
    if (file->failed || file_write_all(file->fd, data, size) == 0)
        return;
    log_error("could not write \"%s\": %s", file->path, strerror(errno));
    file->failed = true;
}

int file_out_end(struct file_out *file, bool keep)
{
    bool failed = file->failed;
    if (keep && !failed && !(fsync(file->fd) == 0 && rename(file->beside, file->path) == 0)) {
        log_error("could not write \"%s\": %s", file->path, strerror(errno));
        failed = true;
    }
    if (failed || !keep)
        unlink(file->beside);
    close(file->fd);  // last: it is the lock
    free(file->path);
    free(file->beside);
    return failed ? -1 : 0;
}

int file_write(const char *path, const void *data, size_t size)
{
    struct file_out file;
    if (file_out_begin(&file, path) != 0)
        return -1;
    file_out_write(&file, data, size);
    return file_out_end(&file, true);
}

bool file_is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool file_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

int directory_make(const char *path)
{
    char *partial = memory_text(path);
    int result = 0;
    for (char *slash = partial + 1; result == 0; slash++) {
        if (*slash != '/' && *slash != '\0')
            continue;
        char kept = *slash;
        *slash = '\0';
        if (mkdir(partial, 0777) != 0 && !(errno == EEXIST && file_is_directory(partial))) {
            log_error("could not create directory \"%s\": %s", partial, strerror(errno));
            result = -1;
        }
        if (kept == '\0')
            break;
        *slash = kept;
    }
    free(partial);
    return result;
}

int stdout_close(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    log_error("could not write standard output: %s", strerror(errno));
    return -1;
}
