/* server.c - see server.h. */
#define _GNU_SOURCE
#include "store/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
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
#include "store/admit.h"
#include "store/peers.h"
#include "wire/curve.h"
#include "wire/endpoint.h"
#include "wire/frame.h"

enum {
    GROUP_FRAMES = 2048,        // at most so many are committed together,
    GROUP_BYTES = 64 << 20,     // so many bytes of them or of replies to them,
    SEND_QUEUE_FRAMES = 200000, // a worker that leaves more than these unread is cut off (peers.h counts bytes)
    RECEIVE_QUEUE_FRAMES = 128, // of one worker, until its connection waits
    LINGER_MS = 500,
    HANDSHAKE_MS = 10000,       // who has not shown a key until then is cut off
    KEEPALIVE_S = 30, KEEPALIVE_AGAIN_S = 10, KEEPALIVE_COUNT = 3,  // tcp: a link cut without a word is closed after 60 s,
    UNANSWERED_MS = 60000,      // with something on its way too
    BACKLOG = 4096,             // connections that wait to be accepted
};
static const double GROUP_S = 0.02;        // and from so long a time
static const double REPORT_S = 60;         // between two lines about what was done
static const double WATCH_S = 1;           // between two looks at every connection
static const double TROUBLE_PAUSE_S = 0.25;

struct server {
    struct db *db;
    struct desk *desk;
    void *context, *socket;
    struct peers *peers;
    struct curve_pair key;
    struct admit *admit;  // NULL: no keys are wanted
    int *locks;        // (lock_count) of ipc paths
    size_t lock_count;
    double reported_s, watched_s;
    long long reported_taken;
};

/* ---- endpoints ---- */

/* An address and a port; names are looked up elsewhere, so none is known to stay on this machine. */
static bool is_loopback(const char *address)
{
    char host[INET6_ADDRSTRLEN + 2] = "";
    const char *colon = strrchr(address, ':');
    struct in_addr four;
    struct in6_addr six;
    if (colon == NULL || (size_t)(colon - address) >= sizeof host)
        return false;
    memcpy(host, address, (size_t)(colon - address));
    if (inet_pton(AF_INET, host, &four) == 1)
        return ntohl(four.s_addr) >> 24 == 127;
    size_t size = strlen(host);
    if (size < 2 || host[0] != '[' || host[size - 1] != ']')
        return false;
    host[size - 1] = '\0';
    return inet_pton(AF_INET6, host + 1, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

int endpoint_check(const char *endpoint, bool wants_keys, char *reason)
{
    enum { PATH_BYTES_MAX = sizeof ((struct sockaddr_un *)0)->sun_path - 1 };
    if (strncmp(endpoint, "ipc://", 6) == 0 && endpoint[6] != '\0') {
        if (strlen(endpoint + 6) <= PATH_BYTES_MAX)
            return 0;
        snprintf(reason, STORE_REASON_BYTES, "endpoint \"%s\" has a path of %zu bytes, a socket's may have %d", endpoint,
                 strlen(endpoint + 6), PATH_BYTES_MAX);
    } else if (endpoint_is_tcp(endpoint) && !endpoint_has_port(endpoint)) {
        snprintf(reason, STORE_REASON_BYTES, "endpoint \"%s\" must end in a port, from 1 to %d", endpoint,
                 ENDPOINT_PORT_MAX);
    } else if (endpoint_is_tcp(endpoint)) {
        if (wants_keys || is_loopback(endpoint + 6))
            return 0;
        snprintf(reason, STORE_REASON_BYTES,
                 "endpoint \"%s\" is not a loopback address: a store there would be open to everybody without "
                 "--key and --allow", endpoint);
    } else {
        snprintf(reason, STORE_REASON_BYTES, "endpoint \"%s\" must be ipc://PATH or tcp://ADDRESS:PORT", endpoint);
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
    if (endpoint_check(endpoint, server->admit != NULL, reason) != 0) {
        log_error("%s", reason);
        return EX_USAGE;
    }
    const char *path = strncmp(endpoint, "ipc://", 6) == 0 ? endpoint + 6 : NULL;
    if (path != NULL && path_lock(server, path) != 0)
        return EX_UNAVAILABLE;
    if (path != NULL)
        unlink(path);  // left by a store that was killed: the lock says that nobody serves it
    bool keyed = endpoint_is_tcp(endpoint) && server->admit != NULL;
    if (curve_serve(server->socket, keyed ? &server->key : NULL) != 0 || zmq_bind(server->socket, endpoint) != 0) {
        log_error("could not bind endpoint \"%s\": %s", endpoint, zmq_strerror(zmq_errno()));
        return EX_UNAVAILABLE;
    }
    log_event("serving \"%s\" at \"%s\"%s", db_path(server->db), endpoint, keyed ? " with keys" : "");
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

/* A connection is a file: as many as this process may have. */
static void files_raise(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int keys_open(struct server *server, const struct server_options *options)
{
    int code = curve_read_pair(&server->key, options->key);
    if (code == EX_OK)
        server->admit = admit_open(server->context, options->allow, &code);
    return code;
}

/*
 * A worker that is cut off is noticed by its silence (desk.c), its connection by TCP's own keepalive: with ZeroMQ's heartbeats each
 * frame would cost a search through the timers of all connections.
 */
static int socket_open(struct server *server)
{
    static const struct {
        int option, value;
    } options[] = {
        { ZMQ_ROUTER_MANDATORY, 1 },
        { ZMQ_IPV6, 1 },
        { ZMQ_LINGER, LINGER_MS },
        { ZMQ_SNDHWM, SEND_QUEUE_FRAMES },
        { ZMQ_RCVHWM, RECEIVE_QUEUE_FRAMES },
        { ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS },
        { ZMQ_BACKLOG, BACKLOG },
        { ZMQ_TCP_KEEPALIVE, 1 },
        { ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_S },
        { ZMQ_TCP_KEEPALIVE_INTVL, KEEPALIVE_AGAIN_S },
        { ZMQ_TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT },
        { ZMQ_TCP_MAXRT, UNANSWERED_MS },
    };
    int64_t size_max = FRAME_SIZE_MAX;
    server->context = zmq_ctx_new();
    server->socket = server->context ? zmq_socket(server->context, ZMQ_ROUTER) : NULL;
    bool set = server->socket != NULL && zmq_setsockopt(server->socket, ZMQ_MAXMSGSIZE, &size_max, sizeof size_max) == 0;
    for (size_t i = 0; i < COUNT_OF(options) && set; i++)
        set = zmq_setsockopt(server->socket, options[i].option, &options[i].value, sizeof options[i].value) == 0;
    if (set)
        return EX_OK;
    log_error("could not open a socket: %s", zmq_strerror(zmq_errno()));
    return EX_OSERR;
}

static bool is_crowded(const void *of, const void *peer, size_t peer_size)
{
    return peers_crowded(of, peer, peer_size);
}

struct server *server_open(const struct server_options *options, int *code)
{
    struct server *server = memory_alloc(1, sizeof *server);
    server->db = db_open(options->db, DB_SERVE, code);
    if (server->db == NULL)
        goto close_server;
    files_raise();
    *code = socket_open(server);
    if (*code != EX_OK)
        goto close_server;
    struct desk_options desk = options->desk;
    desk.crowded = is_crowded;
    desk.of = server->peers = peers_open(server->socket);
    server->desk = desk_open(server->db, &desk);
    if (options->key != NULL)
        *code = keys_open(server, options);
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
    admit_close(server->admit);  // last, so that nobody is let in without being asked for
    if (server->context != NULL)
        while (zmq_ctx_term(server->context) != 0 && zmq_errno() == EINTR)
            ;
    peers_close(server->peers);
    desk_close(server->desk);
    db_close(server->db);
    for (size_t i = 0; i < server->lock_count; i++)
        close(server->locks[i]);
    free(server->locks);
    free(server);
}

/* ---- the loop ---- */

static void take(struct server *server, zmq_msg_t *peer, zmq_msg_t *data)
{
    double now_s = clock_s();
    const char *key = server->admit != NULL ? zmq_msg_gets(data, "User-Id") : NULL;
    if (key != NULL && !admit_allows(server->admit, key)) {
        connection_cut(data);  // it was allowed once
        return;
    }
    const void *id = zmq_msg_data(peer);
    size_t id_size = zmq_msg_size(peer), size = zmq_msg_size(data);
    if (peers_hear(server->peers, id, id_size, data, now_s)
        && !desk_take(server->desk, id, id_size, zmq_msg_data(data), size, now_s))
        peers_distrust(server->peers, id, id_size, size);
}

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
            take(server, &peer, &data);
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

/* Its conversation is over. */
static void peer_gone(void *of, const void *peer, size_t peer_size)
{
    struct server *server = of;
    desk_unreachable(server->desk, peer, peer_size, clock_s());
}

static void send_parcels(struct server *server)
{
    double now_s = clock_s();
    for (size_t i = 0; i < desk_parcel_count(server->desk); i++) {
        struct parcel parcel = desk_parcel(server->desk, i);
        if (peers_send(server->peers, parcel.peer, parcel.peer_size, parcel.data, parcel.size, now_s) != 0)
            peer_gone(server, parcel.peer, parcel.peer_size);
    }
    desk_sent(server->desk);
}

static bool is_allowed(const void *by, const char *key)
{
    return admit_allows(by, key);
}

static void watch_peers(struct server *server)
{
    double now_s = clock_s();
    if (server->admit != NULL && admit_turn(server->admit, now_s))
        peers_judge(server->peers, is_allowed, server->admit, peer_gone, server);
    if (now_s - server->watched_s < WATCH_S)
        return;
    server->watched_s = now_s;
    peers_turn(server->peers, now_s, peer_gone, server);
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
        zmq_pollitem_t items[] = { { .socket = server->socket, .events = ZMQ_POLLIN }, { .events = ZMQ_POLLIN } };
        if (server->admit != NULL)
            items[1].socket = admit_socket(server->admit);
        if (zmq_poll(items, server->admit != NULL ? 2 : 1, desk_waits(server->desk) ? 20 : 200) < 0 && zmq_errno() != EINTR) {
            log_error("could not wait for frames: %s", zmq_strerror(zmq_errno()));
            return EX_OSERR;
        }
        if (server->admit != NULL)
            admit_answer(server->admit);
        watch_peers(server);
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
