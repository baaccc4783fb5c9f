/* remote_model.c - see remote_model.h. */
#define _GNU_SOURCE
#include "wire/remote_model.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"
#include "model/manifest.h"
#include "wire/edge.h"

#define PREFIX "store:"
#define CHECKED ".checked"  // the manifest, with changed_ns of each file whose bytes were right then

enum { MB = 1000000, TRIES = 2 };
enum { TOLD_BY_EDGE = -1 };  // in place of an exit code: edge_close knows it

struct remote {
    const char *name, *endpoint;  // of the model, without the prefix; of the store
    struct edge *edge;            // NULL until it is needed
    struct manifest manifest;     // once checked, changed_ns 0: the file is not there
    char *directory;
    int lock;
    struct progress progress;
    int64_t done;                 // bytes that are there
};

bool model_is_remote(const char *model)
{
    return strncmp(model, PREFIX, strlen(PREFIX)) == 0;
}

static bool is_digest(const char *name)
{
    return strlen(name) == KEY_SIZE - 1 && strspn(name, "0123456789abcdef") == KEY_SIZE - 1;
}

static int connect_store(struct remote *remote)
{
    int code = EX_OK;
    if (remote->edge == NULL)
        remote->edge = edge_open(&(struct edge_options){ .endpoint = remote->endpoint, .stage = "fetch", .settings = "{}",
                                                         .hold_max = 1, .takes_nothing = true }, &code);
    return code;
}

/* The caller frees. */
static char *path_of(const struct remote *remote, const char *before, const char *name, const char *after)
{
    return memory_printf("%s/%s%s%s", remote->directory, before, name, after);
}

/* ---- which files ---- */

/* Where models are kept.  NULL, logged.  The caller frees. */
static char *cache_path(void)
{
    const char *cache = getenv("VAS_CACHE"), *home = getenv("HOME");
    if (cache != NULL && cache[0] != '\0')
        return memory_printf("%s/models", cache);
    if (home != NULL && home[0] != '\0')
        return memory_printf("%s/.cache/vas/models", home);
    log_error("nowhere to keep models of the store: neither VAS_CACHE nor HOME is set");
    return NULL;
}

/* What an earlier process wrote down about the model in this directory.  False when there is nothing. */
static bool checked_read(const struct remote *remote, const char *digest, struct manifest *checked)
{
    char *path = path_of(remote, "", CHECKED, "");
    json_t *json = file_exists(path) ? json_read(path) : NULL;
    bool found = json != NULL && manifest_from_json(checked, json, path) == 0;
    if (found && strcmp(checked->digest, digest) != 0) {
        manifest_free(checked);
        found = false;
    }
    json_decref(json);
    free(path);
    return found;
}

static int checked_write(const struct remote *remote)
{
    json_t *json = manifest_to_json(&remote->manifest);
    char *text = json_text(json), *path = path_of(remote, "", CHECKED, "");
    int result = file_write(path, text, strlen(text));
    free(path);
    free(text);
    json_decref(json);
    return result == 0 ? EX_OK : EX_IOERR;
}

static int manifest_ask(struct remote *remote)
{
    int code = connect_store(remote);
    if (code != EX_OK)
        return code;
    struct buffer files = { 0 };
    int fetched = edge_fetch_model(remote->edge, remote->name, &files);
    json_t *json = fetched == 0 ? json_parse(files.data, files.size, remote->name) : NULL;
    if (fetched != 0)
        code = fetched > 0 ? EX_NOINPUT : TOLD_BY_EDGE;
    else if (json == NULL || manifest_from_json(&remote->manifest, json, remote->name) != 0)
        code = EX_DATAERR;
    json_decref(json);
    free(files.data);
    if (code == EX_OK && is_digest(remote->name) && strcmp(remote->manifest.digest, remote->name) != 0) {
        log_error("cannot use model \"%s\": the store sent files whose digest is %s", remote->name, remote->manifest.digest);
        code = EX_DATAERR;
    }
    return code;
}

/* The manifest, and the directory.  A digest that is known here needs no store. */
static int manifest_find(struct remote *remote)
{
    char *cache = cache_path();
    if (cache == NULL)
        return EX_CONFIG;
    int code = EX_OK;
    if (is_digest(remote->name))
        remote->directory = memory_printf("%s/%s", cache, remote->name);
    if (remote->directory == NULL || !checked_read(remote, remote->name, &remote->manifest))
        code = manifest_ask(remote);
    if (code == EX_OK && remote->directory == NULL)
        remote->directory = memory_printf("%s/%s", cache, remote->manifest.digest);
    free(cache);
    return code;
}

/* One process at a time.  Whoever waits goes on talking to the store. */
static int lock_take(struct remote *remote)
{
    char *path = path_of(remote, "", ".lock", "");
    remote->lock = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0666);
    int code = remote->lock >= 0 ? EX_OK : EX_IOERR;
    if (code != EX_OK)
        log_error("could not open lock file \"%s\": %s", path, strerror(errno));
    bool told = false;
    while (code == EX_OK && flock(remote->lock, LOCK_EX | LOCK_NB) != 0) {
        struct batch none;
        if (!told)
            log_event("waiting for another process that fetches model \"%s\"", remote->name);
        told = true;
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
        if (stop_requested())
            code = EX_TEMPFAIL;
        else if (remote->edge != NULL && edge_take(remote->edge, &none, 0, false) == EDGE_FAILED)
            code = TOLD_BY_EDGE;
    }
    free(path);
    return code;
}

/* ---- what is there ---- */

/* False: there is no file. */
static bool path_state(const char *path, struct file_state *state)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is_there = fd >= 0 && file_state(fd, state) == 0;
    if (fd >= 0)
        close(fd);
    return is_there;
}

/* A file under its name: right, or taken away.  checked_ns: its last change when its bytes were found right; 0: never. */
static int file_check(struct remote *remote, struct manifest_file *file, int64_t checked_ns)
{
    char *path = path_of(remote, "", file->name, "");
    struct file_state state;
    struct manifest_file found = { .size = -1 };
    bool is_there = path_state(path, &state), is_right = is_there && state.size == file->size && state.changed_ns == checked_ns;
    int code = EX_OK;
    file->changed_ns = 0;  // whatever the store or an earlier process said of it
    if (is_there && state.size == file->size && !is_right) {
        code = manifest_file_read(&found, path, NULL);
        is_right = found.size == file->size && strcmp(found.sha256, file->sha256) == 0;
    }
    if (code == EX_OK && is_right) {
        file->changed_ns = state.changed_ns;
        remote->done += file->size;
    } else if (code == EX_OK && is_there) {
        log_event("\"%s\" is not as the store has it: fetching it again", path);
        unlink(path);
    }
    free(path);
    return code;
}

static int files_check(struct remote *remote)
{
    struct manifest checked = { 0 };
    checked_read(remote, remote->manifest.digest, &checked);
    int code = EX_OK;
    bool news = false;
    for (size_t i = 0; i < remote->manifest.count && code == EX_OK; i++) {
        int64_t checked_ns = checked.count > 0 ? checked.files[i].changed_ns : 0;
        code = file_check(remote, &remote->manifest.files[i], checked_ns);
        news |= remote->manifest.files[i].changed_ns != checked_ns;
    }
    manifest_free(&checked);
    return code == EX_OK && news ? checked_write(remote) : code;
}

/* ---- what is lacking ---- */

/* A file on its way, beside its name. */
struct arrival {
    struct remote *remote;
    int fd;
    const char *path;
    int64_t size;  // bytes that have arrived
    struct digest digest;
};

static void arrival_count(struct arrival *arrival, const void *data, size_t size)
{
    digest_add(&arrival->digest, data, size);
    arrival->size += (int64_t)size;
    progress_set(&arrival->remote->progress, (arrival->remote->done + arrival->size) / MB);
}

/* Of edge_fetch_file.  0, or an exit code above 1. */
static int arrival_take(void *context, const void *data, size_t size)
{
    struct arrival *arrival = context;
    for (size_t done = 0; done < size; ) {
        ssize_t n = write(arrival->fd, (const char *)data + done, size - done);
        if (n < 0 && errno != EINTR) {
            log_error("could not write \"%s\" after %lld bytes: %s", arrival->path, (long long)arrival->size, strerror(errno));
            return EX_IOERR;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    arrival_count(arrival, data, size);
    return 0;
}

/* Takes in what an earlier process left; what is longer than the file is no part of it. */
static int arrival_resume(struct arrival *arrival, int64_t size_max)
{
    enum { PART_BYTES = 1 << 20 };
    char *part = memory_alloc(PART_BYTES, 1);
    ssize_t n = 0;
    while (arrival->size <= size_max && ((n = read(arrival->fd, part, PART_BYTES)) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0)
            arrival_count(arrival, part, (size_t)n);
    int code = n >= 0 ? EX_OK : EX_IOERR;
    if (arrival->size > size_max) {
        digest_init(&arrival->digest);
        arrival->size = 0;
        code = lseek(arrival->fd, 0, SEEK_SET) == 0 && ftruncate(arrival->fd, 0) == 0 ? EX_OK : EX_IOERR;
    }
    if (code != EX_OK)
        log_error("could not go on with \"%s\": %s", arrival->path, strerror(errno));
    free(part);
    return code;
}

/* Its bytes are all there: they get their name if they are right.  1: they are not. */
static int arrival_end(struct arrival *arrival, struct manifest_file *file)
{
    char sha256[DIGEST_HEX_SIZE], *path = path_of(arrival->remote, "", file->name, "");
    struct file_state state;
    int code = EX_OK;
    digest_hex(&arrival->digest, sha256);
    if (strcmp(sha256, file->sha256) != 0) {
        unlink(arrival->path);
        code = 1;
    } else if (fsync(arrival->fd) != 0 || rename(arrival->path, path) != 0 || file_state(arrival->fd, &state) != 0) {
        log_error("could not write \"%s\": %s", path, strerror(errno));
        code = EX_IOERR;
    } else {
        file->changed_ns = state.changed_ns;
        arrival->remote->done += file->size;
        code = checked_write(arrival->remote);
    }
    free(path);
    return code;
}

/* 1: other bytes came than should have. */
static int file_fetch(struct remote *remote, struct manifest_file *file)
{
    char *path = path_of(remote, ".", file->name, ".part");
    struct arrival arrival = { .remote = remote, .path = path, .fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666) };
    digest_init(&arrival.digest);
    int code = EX_IOERR;
    if (arrival.fd < 0)
        log_error("could not create \"%s\": %s", path, strerror(errno));
    else
        code = arrival_resume(&arrival, file->size);
    if (code == EX_OK) {
        if (arrival.size > 0)
            log_event("goes on with \"%s\" after %lld bytes", file->name, (long long)arrival.size);
        remote->progress.begun += arrival.size / MB;
        code = edge_fetch_file(remote->edge, file->sha256, arrival.size, file->size, arrival_take, &arrival);
        code = code == 1 ? EX_NOINPUT : code < 0 ? TOLD_BY_EDGE : code;
    }
    if (code == EX_OK)
        code = arrival_end(&arrival, file);
    if (arrival.fd >= 0)
        close(arrival.fd);
    free(path);
    return code;
}

/* Better now than after hours. */
static int room_check(const struct remote *remote)
{
    int64_t lacks = remote->manifest.size - remote->done;
    for (size_t i = 0; i < remote->manifest.count; i++) {
        char *part = path_of(remote, ".", remote->manifest.files[i].name, ".part");
        struct file_state state;
        if (path_state(part, &state))
            lacks -= state.size;
        free(part);
    }
    struct statvfs disk;
    if (statvfs(remote->directory, &disk) != 0 || lacks <= 0 || (uint64_t)lacks <= (uint64_t)disk.f_bavail * disk.f_frsize)
        return EX_OK;
    log_error("no room for model \"%s\": it takes %lld MB more in \"%s\", which has %lld MB left", remote->name,
              (long long)(lacks / MB), remote->directory, (long long)((double)disk.f_bavail * (double)disk.f_frsize / MB));
    log_hint("VAS_CACHE names another directory to keep models in");
    return EX_IOERR;
}

static int files_fetch(struct remote *remote)
{
    size_t lacks = 0;
    for (size_t i = 0; i < remote->manifest.count; i++)
        lacks += remote->manifest.files[i].changed_ns == 0;
    if (lacks == 0)
        return EX_OK;
    int code = room_check(remote);
    if (code == EX_OK)
        code = connect_store(remote);
    if (code != EX_OK)
        return code;
    log_event("fetching model \"%s\" into \"%s\"", remote->name, remote->directory);
    progress_start(&remote->progress, "fetched", "MB", remote->manifest.size / MB);
    remote->progress.begun = remote->done / MB;
    for (size_t i = 0; i < remote->manifest.count && code == EX_OK; i++) {
        struct manifest_file *file = &remote->manifest.files[i];
        int tries = file->changed_ns == 0 ? TRIES : 0;
        while (tries-- > 0 && (code = file_fetch(remote, file)) == 1)
            ;
        if (code == 1) {
            log_error("cannot use model \"%s\": the bytes of file \"%s\" do not have the SHA-256 %s that they should have",
                      remote->name, file->name, file->sha256);
            code = EX_DATAERR;
        }
    }
    if (code == EX_OK && remote->progress.total > 0)
        progress_end(&remote->progress);
    return code;
}

/* ---- the whole ---- */

/* A directory, or the one file of a model that is one. */
static const char *path_keep(const struct remote *remote)
{
    static char **paths;  // what was given out, until the process ends
    static size_t count;
    bool is_file = remote->manifest.count == 1;
    paths = memory_grow(paths, count + 1, sizeof *paths);
    paths[count] = is_file ? path_of(remote, "", remote->manifest.files[0].name, "") : memory_text(remote->directory);
    return paths[count++];
}

int model_fetch(const char **model, const char *endpoint)
{
    if (*model == NULL || !model_is_remote(*model))
        return EX_OK;
    if (endpoint == NULL) {
        log_error("model \"%s\" is in a store: name the store with --store or VAS_STORE", *model);
        return EX_USAGE;
    }
    signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is a full disk, not the end
    struct remote remote = { .name = *model + strlen(PREFIX), .endpoint = endpoint, .lock = -1 };
    int code = name_is_valid(remote.name) ? manifest_find(&remote) : EX_USAGE;
    if (!name_is_valid(remote.name))
        log_error("model \"%s\" must name one of the store in 1 to %d bytes", *model, NAME_BYTES);
    if (code == EX_OK && directory_make(remote.directory) != 0)
        code = EX_IOERR;
    if (code == EX_OK)
        code = lock_take(&remote);
    if (code == EX_OK)
        code = files_check(&remote);
    if (code == EX_OK)
        code = files_fetch(&remote);
    if (code == EX_OK)
        *model = path_keep(&remote);
    if (remote.lock >= 0)
        close(remote.lock);
    if (remote.edge != NULL) {
        int closed = edge_close(remote.edge, code == EX_OK ? EDGE_END : EDGE_FAILED);
        code = code == TOLD_BY_EDGE ? closed : code;
    }
    manifest_free(&remote.manifest);
    free(remote.directory);
    return code;
}
