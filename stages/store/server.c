/* server.c - see server.h. */
#define _GNU_SOURCE
#include "store/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/un.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"
#include "wire/frame.h"

enum {
    GROUP_FRAMES = 2048,        // at most so many are committed together,
    GROUP_BYTES = 64 << 20,     // so many bytes of them or of replies to them,
    SEND_QUEUE_FRAMES = 200000, // a worker that leaves more than these unread is cut off
    LINGER_MS = 500,
};
static const double GROUP_S = 0.02;        // and from so long a time
static const double REPORT_S = 60;         // between two lines about what was done
static const double TROUBLE_PAUSE_S = 0.25;

struct server {
    struct db *db;
    struct desk *desk;
    void *context, *socket;
    int *locks;        // (lock_count) of ipc paths
    size_t lock_count;
    double reported_s;
    long long reported_taken;
};

/* ---- endpoints ---- */

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 || strncmp(address, "localhost:", 10) == 0;
}

int endpoint_check(const char *endpoint, char *reason)
{
    enum { PATH_BYTES_MAX = sizeof ((struct sockaddr_un *)0)->sun_path - 1 };
    if (strncmp(endpoint, "ipc://", 6) == 0 && endpoint[6] != '\0') {
        if (strlen(endpoint + 6) <= PATH_BYTES_MAX)
            return 0;
        snprintf(reason, STORE_REASON_BYTES, "endpoint \"%s\" has a path of %zu bytes, a socket's may have %d", endpoint, strlen(endpoint + 6),
                 PATH_BYTES_MAX);
    } else if (strncmp(endpoint, "tcp://", 6) == 0) {
        if (is_loopback(endpoint + 6))
            return 0;
        snprintf(reason, STORE_REASON_BYTES, "endpoint \"%s\" is not a loopback address: a store there would be open to everybody", endpoint);
    } else {
        snprintf(reason, STORE_REASON_BYTES, "endpoint \"%s\" must be ipc://PATH or tcp://127.0.0.1:PORT", endpoint);
    }
    return -1;
}

/* Binding would silently take a live path from another store: each has a lock beside it. */
static int path_lock(struct server *server, const char *path)
{
    char *name = memory_printf("%s.lock", path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666), result = -1;
    if (fd < 0) {
        log_error("could not open lock file \"%s\": %s", name, strerror(errno));
    } else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        log_error("endpoint \"ipc://%s\" is served by another process already", path);
        close(fd);
    } else {
        server->locks = memory_grow(server->locks, server->lock_count + 1, sizeof *server->locks);
        server->locks[server->lock_count++] = fd;
        result = 0;
    }
    free(name);
    return result;
}

static int endpoint_bind(struct server *server, const char *endpoint)
{
    char reason[STORE_REASON_BYTES];
    if (endpoint_check(endpoint, reason) != 0) {
        log_error("%s", reason);
        return EX_USAGE;
    }
    const char *path = strncmp(endpoint, "ipc://", 6) == 0 ? endpoint + 6 : NULL;
    if (path != NULL && path_lock(server, path) != 0)
        return EX_UNAVAILABLE;
    if (path != NULL)
        unlink(path);  // left by a store that was killed: the lock says that nobody serves it
    if (zmq_bind(server->socket, endpoint) != 0) {
        log_error("could not bind endpoint \"%s\": %s", endpoint, zmq_strerror(zmq_errno()));
        return EX_UNAVAILABLE;
    }
    log_event("serving \"%s\" at \"%s\"", db_path(server->db), endpoint);
    return EX_OK;
}

static int endpoints_bind(struct server *server, const struct server_options *options)
{
    char *own = memory_printf("ipc://%s.sock", options->db);  // the default
    int code = EX_OK;
    if (options->endpoint_count == 0)
        code = endpoint_bind(server, own);
    for (size_t i = 0; i < options->endpoint_count && code == EX_OK; i++)
        code = endpoint_bind(server, options->endpoints[i]);
    free(own);
    return code;
}

/* ---- opening ---- */

static int socket_open(struct server *server)
{
    server->context = zmq_ctx_new();
    server->socket = server->context ? zmq_socket(server->context, ZMQ_ROUTER) : NULL;
    int on = 1, linger_ms = LINGER_MS, queue = SEND_QUEUE_FRAMES;
    int64_t size_max = FRAME_SIZE_MAX;
    if (server->socket != NULL
        && zmq_setsockopt(server->socket, ZMQ_ROUTER_MANDATORY, &on, sizeof on) == 0
        && zmq_setsockopt(server->socket, ZMQ_IPV6, &on, sizeof on) == 0
        && zmq_setsockopt(server->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms) == 0
        && zmq_setsockopt(server->socket, ZMQ_SNDHWM, &queue, sizeof queue) == 0
        && zmq_setsockopt(server->socket, ZMQ_MAXMSGSIZE, &size_max, sizeof size_max) == 0)
        return EX_OK;
    log_error("could not open a socket: %s", zmq_strerror(zmq_errno()));
    return EX_OSERR;
}

struct server *server_open(const struct server_options *options, int *code)
{
    struct server *server = memory_alloc(1, sizeof *server);
    server->db = db_open(options->db, DB_SERVE, code);
    if (server->db == NULL)
        goto close_server;
    server->desk = desk_open(server->db, &options->desk);
    *code = socket_open(server);
    if (*code == EX_OK)
        *code = endpoints_bind(server, options);
    if (*code != EX_OK)
        goto close_server;
    server->reported_s = clock_s();
    return server;

close_server:
    server_close(server);
    return NULL;
}

void server_close(struct server *server)
{
    if (server == NULL)
        return;
    if (server->socket != NULL)
        zmq_close(server->socket);
    if (server->context != NULL)
        while (zmq_ctx_term(server->context) != 0 && zmq_errno() == EINTR)
            ;
    desk_close(server->desk);
    db_close(server->db);
    for (size_t i = 0; i < server->lock_count; i++)
        close(server->locks[i]);
    free(server->locks);
    free(server);
}

/* ---- the loop ---- */

/* One frame with its routing id before it.  Bytes of it, 0 when none is there. */
static size_t receive_one(struct server *server)
{
    zmq_msg_t peer, data;
    zmq_msg_init(&peer);
    zmq_msg_init(&data);
    size_t size = 0;
    if (zmq_msg_recv(&peer, server->socket, ZMQ_DONTWAIT) >= 0) {
        size = 1;
        if (zmq_msg_more(&peer) && zmq_msg_recv(&data, server->socket, ZMQ_DONTWAIT) >= 0) {
            size += zmq_msg_size(&data);
            desk_take(server->desk, zmq_msg_data(&peer), zmq_msg_size(&peer), zmq_msg_data(&data), zmq_msg_size(&data), clock_s());
            while (zmq_msg_more(&data) && zmq_msg_recv(&data, server->socket, ZMQ_DONTWAIT) >= 0)
                ;  // a frame is one part: others are not ours
        }
    }
    zmq_msg_close(&peer);
    zmq_msg_close(&data);
    return size;
}

/* What is there, within the limits of a group.  How many. */
static size_t receive_group(struct server *server)
{
    double start_s = clock_s();
    size_t count = 0, bytes = 0;
    while (count < GROUP_FRAMES && bytes < GROUP_BYTES && desk_parcel_bytes(server->desk) < GROUP_BYTES) {
        size_t size = receive_one(server);
        if (size == 0)
            break;
        bytes += size;
        if (++count % 16 == 0 && clock_s() - start_s >= GROUP_S)
            break;
    }
    return count;
}

static void send_parcels(struct server *server)
{
    for (size_t i = 0; i < desk_parcel_count(server->desk); i++) {
        struct parcel parcel = desk_parcel(server->desk, i);
        int sent;
        do
            sent = zmq_send(server->socket, parcel.peer, parcel.peer_size, ZMQ_SNDMORE | ZMQ_DONTWAIT);
        while (sent < 0 && zmq_errno() == EINTR);
        if (sent < 0) {  // it has gone, or reads nothing: its conversation is over
            desk_unreachable(server->desk, parcel.peer, parcel.peer_size, clock_s());
            continue;
        }
        while (zmq_send(server->socket, parcel.data, parcel.size, ZMQ_DONTWAIT) < 0 && zmq_errno() == EINTR)
            ;
    }
    desk_sent(server->desk);
}

static void report(struct server *server)
{
    double now = clock_s();
    struct desk_counters counters = desk_count(server->desk);
    if (now - server->reported_s < REPORT_S || counters.taken == server->reported_taken)
        return;
    log_event("workers=%zu leased=%zu frames=%lld stored=%lld duplicates=%lld refused=%lld", counters.workers, counters.leased,
              counters.taken, counters.stored, counters.duplicates, counters.refused);
    server->reported_s = now;
    server->reported_taken = counters.taken;
}

static void pause_s(double seconds)
{
    struct timespec span = { .tv_nsec = (long)(seconds * 1e9) };
    nanosleep(&span, NULL);
}

int server_run(struct server *server)
{
    enum desk_status status = DESK_FINE;
    while (!stop_requested() && status != DESK_BROKEN) {
        zmq_pollitem_t item = { .socket = server->socket, .events = ZMQ_POLLIN };
        if (zmq_poll(&item, 1, desk_waits(server->desk) ? 20 : 200) < 0 && zmq_errno() != EINTR) {
            log_error("could not wait for frames: %s", zmq_strerror(zmq_errno()));
            return EX_OSERR;
        }
        receive_group(server);
        status = desk_commit(server->desk, clock_s());
        if (status == DESK_FINE)
            status = desk_turn(server->desk, clock_s());
        send_parcels(server);
        if (status == DESK_LATER)
            pause_s(TROUBLE_PAUSE_S);
        report(server);
    }
    return status == DESK_BROKEN ? EX_IOERR : EX_OK;
}
