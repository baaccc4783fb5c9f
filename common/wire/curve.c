/* curve.c - see curve.h. */
#define _GNU_SOURCE
#include "wire/curve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

enum { REASON_BYTES = 512, KEY_BYTES = 32 };

static bool is_key(const char *text, size_t size)
{
    char key[CURVE_KEY_SIZE];
    unsigned char bytes[KEY_BYTES];
    if (size != CURVE_KEY_SIZE - 1)
        return false;
    memcpy(key, text, size);
    key[size] = '\0';
    return zmq_z85_decode(bytes, key) != NULL;
}

/* ---- reading ---- */

/* The next line's name and value, without quotes and spaces around.  Value NULL: the line has none.  False at the end. */
static bool next_line(const char **text, const char **name, size_t *name_size, const char **value, size_t *value_size)
{
    if (**text == '\0')
        return false;
    const char *line = *text, *end = strchrnul(line, '\n'), *equals = memchr(line, '=', (size_t)(end - line));
    *text = *end == '\n' ? end + 1 : end;
    line += strspn(line, " \t");
    *name = line;
    *name_size = strcspn(line, " \t\r\n=");
    *value = NULL;
    if (*line == '#' || equals == NULL)
        return true;
    const char *first = equals + 1 + strspn(equals + 1, " \t\"'"), *last = end;
    while (last > first && strchr(" \t\r\"'", last[-1]) != NULL)
        last--;
    *value = first;
    *value_size = (size_t)(last - first);
    return true;
}

static bool is_named(const char *name, size_t size, const char *wanted)
{
    return size == strlen(wanted) && memcmp(name, wanted, size) == 0;
}

int curve_list(const char *text, void (*take)(void *of, const char *key), void *of, char *reason)
{
    const char *name, *value;
    size_t name_size, value_size = 0;
    for (long line = 1; next_line(&text, &name, &name_size, &value, &value_size); line++) {
        if (value == NULL)
            continue;
        if (is_named(name, name_size, "secret-key")) {
            snprintf(reason, REASON_BYTES,
                     "line %ld is a secret key, which stays with its owner: the public key is in the file ending in .pub", line);
            return -1;
        }
        if (!is_named(name, name_size, "public-key"))
            continue;
        if (!is_key(value, value_size)) {
            snprintf(reason, REASON_BYTES, "line %ld: \"%.*s\" is not a key, which has 40 characters of Z85", line,
                     (int)(value_size < 80 ? value_size : 80), value);
            return -1;
        }
        char key[CURVE_KEY_SIZE];
        memcpy(key, value, value_size);
        key[value_size] = '\0';
        take(of, key);
    }
    return 0;
}

static char *read_text(const char *path, int *code)
{
    *code = file_exists(path) ? EX_DATAERR : EX_NOINPUT;
    return file_read(path, NULL);
}

int curve_read_pair(struct curve_pair *pair, const char *path)
{
    struct stat status;
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & 077) != 0) {
        log_error("key file \"%s\" can be read by others: its mode is %03o, must be 600", path, (unsigned)(status.st_mode & 0777));
        log_hint("chmod 600 %s; if somebody may have read it, make a new one with 'store keygen'", path);
        return EX_NOPERM;
    }
    int code;
    char *text = read_text(path, &code);
    if (text == NULL)
        return code;
    const char *rest = text, *name, *value;
    size_t name_size, value_size = 0;
    bool found = false;
    while (!found && next_line(&rest, &name, &name_size, &value, &value_size))
        found = value != NULL && is_named(name, name_size, "secret-key") && is_key(value, value_size);
    if (found) {
        memcpy(pair->secret_key, value, value_size);
        pair->secret_key[value_size] = '\0';
        found = zmq_curve_public(pair->public_key, pair->secret_key) == 0;
    }
    explicit_bzero(text, strlen(text));
    free(text);
    if (found)
        return EX_OK;
    log_error("key file \"%s\" has no line 'secret-key = \"...\"' with 40 characters of Z85", path);
    log_hint("make one with 'store keygen -o FILE'");
    return EX_DATAERR;
}

static void take_first(void *of, const char *key)
{
    char *first = of;
    if (*first == '\0')
        memcpy(first, key, CURVE_KEY_SIZE);
}

int curve_read_public(char key[CURVE_KEY_SIZE], const char *path)
{
    int code;
    char reason[REASON_BYTES] = "there is no line 'public-key = \"...\"'";
    char *text = read_text(path, &code);
    if (text == NULL)
        return code;
    key[0] = '\0';
    if (curve_list(text, take_first, key, reason) == 0 && key[0] != '\0')
        code = EX_OK;
    else
        log_error("cannot use key file \"%s\": %s", path, reason);
    free(text);
    return code;
}

/* ---- making ---- */

static int write_new(const char *path, mode_t mode, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) {
        int code = errno == EEXIST ? EX_CANTCREAT : EX_IOERR;
        log_error("could not create key file \"%s\": %s", path, strerror(errno));
        return code;
    }
    int error = fchmod(fd, mode) == 0 && file_write_all(fd, text, strlen(text)) == 0 && fsync(fd) == 0 ? 0 : errno;
    if (close(fd) != 0 && error == 0)
        error = errno;
    if (error == 0)
        return EX_OK;
    log_error("could not write key file \"%s\": %s", path, strerror(error));
    unlink(path);
    return EX_IOERR;
}

int curve_make(const char *path)
{
    struct curve_pair pair;
    if (zmq_curve_keypair(pair.public_key, pair.secret_key) != 0) {
        log_error("could not make a key: %s", zmq_strerror(zmq_errno()));
        return EX_UNAVAILABLE;
    }
    char *public_path = memory_printf("%s.pub", path);
    char *secret = memory_printf("# Secret: whoever reads this may work in the owner's name.\ncurve\n    public-key = \"%s\"\n"
                                 "    secret-key = \"%s\"\n", pair.public_key, pair.secret_key);
    char *open_text = memory_printf("curve\n    public-key = \"%s\"\n", pair.public_key);
    int code = write_new(path, 0600, secret);
    if (code == EX_OK && (code = write_new(public_path, 0644, open_text)) != EX_OK)
        unlink(path);
    if (code == EX_OK)
        log_event("wrote secret key \"%s\" and public key \"%s\"", path, public_path);
    explicit_bzero(secret, strlen(secret));
    free(secret);
    free(open_text);
    free(public_path);
    return code;
}

/* ---- sockets ---- */

int curve_serve(void *socket, const struct curve_pair *pair)
{
    int on = pair != NULL;
    if (zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &on, sizeof on) != 0)
        return on ? -1 : 0;  // a ZeroMQ that was built without CURVE can only be open
    return on ? zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, pair->secret_key, CURVE_KEY_SIZE) : 0;
}

int curve_join(void *socket, const struct curve_pair *pair, const char *store_key)
{
    return zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, store_key, CURVE_KEY_SIZE) == 0
           && zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, pair->public_key, CURVE_KEY_SIZE) == 0
           && zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, pair->secret_key, CURVE_KEY_SIZE) == 0 ? 0 : -1;
}
