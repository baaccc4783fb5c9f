/* admit.c - see admit.h. */
#define _GNU_SOURCE
#include "store/admit.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <zmq.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "wire/curve.h"

enum {
    KEY_BYTES = 32,         // as ZeroMQ has it
    ADDRESS_BYTES = 256,
    REFUSED_MAX = 4096,     // addresses that are remembered, so that each is told of once
};
static const double LOOK_S = 0.5;

struct admit {
    const char *path;
    void *socket;
    struct map keys;        // public key to itself
    struct map refused;     // address to itself
    char read[KEY_SIZE], seen[KEY_SIZE];  // what its files looked like when it was read, and when last looked at
    double looked_s;
};

/* ---- the list ---- */

static void texts_free(struct map *map)
{
    size_t at = 0;
    for (void *text; (text = map_next(map, &at)) != NULL; )
        free(text);
    map_free(map);
}

static void take_key(void *of, const char *key)
{
    struct map *keys = of;
    if (map_find(keys, key, strlen(key)) == NULL) {
        char *copy = memory_text(key);
        map_add(keys, copy, strlen(copy), copy);
    }
}

/* The list's files, one after the other: (count) paths, freed by the caller.  0, or -1 with errno and none of them. */
static int list_files(const char *path, char ***paths, size_t *count)
{
    char **files = NULL;
    *paths = NULL;
    *count = 0;
    if (!file_is_directory(path)) {
        *paths = memory_alloc(1, sizeof **paths);
        (*paths)[(*count)++] = memory_text(path);
        return 0;
    }
    struct dirent **entries;
    int found = scandir(path, &entries, NULL, alphasort);
    if (found < 0)
        return -1;
    for (int i = 0; i < found; i++) {
        size_t size = strlen(entries[i]->d_name);
        if (size > 4 && strcmp(entries[i]->d_name + size - 4, ".pub") == 0) {
            files = memory_grow(files, *count + 1, sizeof *files);
            files[(*count)++] = memory_printf("%s/%s", path, entries[i]->d_name);
        }
        free(entries[i]);
    }
    free(entries);
    *paths = files;
    return 0;
}

static void files_free(char **files, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(files[i]);
    free(files);
}

/* What tells one state of the list from another without reading it. */
static void list_look(const char *path, char key[KEY_SIZE])
{
    struct digest digest;
    size_t count;
    char **files;
    int unread = list_files(path, &files, &count);
    digest_init(&digest);
    digest_add(&digest, &unread, sizeof unread);
    for (size_t i = 0; i < count; i++) {
        struct stat status = { 0 };
        int missing = stat(files[i], &status);
        digest_add(&digest, files[i], strlen(files[i]) + 1);
        digest_add(&digest, &missing, sizeof missing);
        digest_add(&digest, &status.st_ino, sizeof status.st_ino);
        digest_add(&digest, &status.st_size, sizeof status.st_size);
        digest_add(&digest, &status.st_mtim.tv_sec, sizeof status.st_mtim.tv_sec);
        digest_add(&digest, &status.st_mtim.tv_nsec, sizeof status.st_mtim.tv_nsec);
    }
    files_free(files, count);
    digest_key(&digest, key);
}

/* The keys that are listed now.  0, or -1 logged. */
static int list_read(const char *path, struct map *keys)
{
    size_t count;
    char **files;
    int result = list_files(path, &files, &count) == 0 && file_exists(path) ? 0 : -1;
    if (result != 0)
        log_error("cannot read the list of allowed keys \"%s\": %s", path, strerror(errno));
    for (size_t i = 0; i < count && result == 0; i++) {
        char reason[512];
        char *text = file_read(files[i], NULL);
        if (text == NULL) {
            result = -1;
        } else if (curve_list(text, take_key, keys, reason) != 0) {
            log_error("cannot use the list of allowed keys \"%s\": %s", files[i], reason);
            result = -1;
        }
        free(text);
    }
    files_free(files, count);
    if (result != 0)
        texts_free(keys);
    return result;
}

static int list_load(struct admit *admit)
{
    struct map keys = { 0 };
    if (list_read(admit->path, &keys) != 0)
        return -1;
    texts_free(&admit->keys);
    texts_free(&admit->refused);  // who is refused from now on is worth a line again
    admit->keys = keys;
    log_event("allowed keys=%zu in \"%s\"", keys.count, admit->path);
    return 0;
}

bool admit_turn(struct admit *admit, double now_s)
{
    if (now_s - admit->looked_s < LOOK_S)
        return false;
    char seen[KEY_SIZE];
    admit->looked_s = now_s;
    list_look(admit->path, seen);
    bool settled = strcmp(seen, admit->seen) == 0;  // else somebody may be writing it just now
    memcpy(admit->seen, seen, sizeof seen);
    if (!settled || strcmp(seen, admit->read) == 0)
        return false;
    memcpy(admit->read, seen, sizeof seen);
    if (list_load(admit) == 0)
        return true;
    log_hint("the keys that were allowed before still are");
    return false;
}

/* A key that has come into the list since it was read. */
static bool list_adds(struct admit *admit, const char *key)
{
    char seen[KEY_SIZE];
    struct map keys = { 0 };
    list_look(admit->path, seen);
    if (strcmp(seen, admit->read) == 0 || list_read(admit->path, &keys) != 0)
        return false;
    bool listed = map_find(&keys, key, strlen(key)) != NULL;
    if (listed)
        take_key(&admit->keys, key);
    texts_free(&keys);
    return listed;
}

bool admit_allows(const struct admit *admit, const char *key)
{
    return map_find(&admit->keys, key, strlen(key)) != NULL;
}

/* ---- handshakes ---- */

static void tell_refused(struct admit *admit, const char *key, const char *address)
{
    if (map_find(&admit->refused, address, strlen(address)) != NULL || admit->refused.count >= REFUSED_MAX)
        return;
    char *copy = memory_text(address);
    map_add(&admit->refused, copy, strlen(copy), copy);
    const char *shown = strncmp(address, "::ffff:", 7) == 0 ? address + 7 : address;  // IPv4 on a socket for both
    log_event("refused key %s of a worker at %s: it is not in \"%s\"", key, shown, admit->path);
}

/* One part of a request, as text.  Its bytes, or -1 when there is none or it is too long. */
static int next_part(void *socket, void *part, size_t size)
{
    int more = 0, got = zmq_recv(socket, part, size - 1, ZMQ_DONTWAIT);
    size_t more_size = sizeof more;
    if (got < 0)
        return -1;
    ((char *)part)[(size_t)got < size ? (size_t)got : size - 1] = '\0';
    zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &more_size);
    return (size_t)got < size ? got : -1;
}

/* The rest of a request that is not as it should be. */
static void skip_parts(void *socket)
{
    int more = 1;
    size_t size = sizeof more;
    char part;
    while (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) == 0 && more && zmq_recv(socket, &part, 1, ZMQ_DONTWAIT) >= 0)
        ;
}

static void send_part(void *socket, const char *text, bool more)
{
    zmq_send(socket, text, strlen(text), ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
}

/* Request: version, id, domain, address, identity, mechanism, key.  Answer: version, id, status, reason, user, metadata. */
void admit_answer(struct admit *admit)
{
    char version[8], id[64], domain[256], address[ADDRESS_BYTES], identity[256], mechanism[16];
    unsigned char bytes[KEY_BYTES + 1];
    while (next_part(admit->socket, version, sizeof version) >= 0) {
        bool fine = next_part(admit->socket, id, sizeof id) >= 0 && next_part(admit->socket, domain, sizeof domain) >= 0
                    && next_part(admit->socket, address, sizeof address) >= 0
                    && next_part(admit->socket, identity, sizeof identity) >= 0
                    && next_part(admit->socket, mechanism, sizeof mechanism) >= 0 && strcmp(mechanism, "CURVE") == 0
                    && next_part(admit->socket, bytes, sizeof bytes) == KEY_BYTES;
        char key[CURVE_KEY_SIZE] = "";
        skip_parts(admit->socket);
        if (fine) {
            zmq_z85_encode(key, bytes, KEY_BYTES);
            fine = admit_allows(admit, key) || list_adds(admit, key);
            if (!fine)
                tell_refused(admit, key, address);
        }
        send_part(admit->socket, "1.0", true);
        send_part(admit->socket, id, true);
        send_part(admit->socket, fine ? "200" : "400", true);
        send_part(admit->socket, fine ? "OK" : "this key is not allowed", true);
        send_part(admit->socket, key, true);
        send_part(admit->socket, "", false);
    }
}

void *admit_socket(const struct admit *admit)
{
    return admit->socket;
}

struct admit *admit_open(void *context, const char *allow, int *code)
{
    struct admit *admit = memory_alloc(1, sizeof *admit);
    int linger_ms = 0;
    admit->path = allow;
    list_look(allow, admit->read);
    memcpy(admit->seen, admit->read, sizeof admit->seen);
    *code = file_exists(allow) ? EX_DATAERR : EX_NOINPUT;
    if (list_load(admit) != 0)
        goto close_admit;
    *code = EX_OSERR;
    admit->socket = zmq_socket(context, ZMQ_REP);
    if (admit->socket == NULL || zmq_setsockopt(admit->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms) != 0
        || zmq_bind(admit->socket, "inproc://zeromq.zap.01") != 0) {
        log_error("could not open a socket: %s", zmq_strerror(zmq_errno()));
        goto close_admit;
    }
    *code = EX_OK;
    return admit;

close_admit:
    admit_close(admit);
    return NULL;
}

void admit_close(struct admit *admit)
{
    if (admit == NULL)
        return;
    if (admit->socket != NULL)
        zmq_close(admit->socket);
    texts_free(&admit->keys);
    texts_free(&admit->refused);
    free(admit);
}
