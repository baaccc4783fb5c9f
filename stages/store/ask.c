/* ask.c - see ask.h. */
#include "store/ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <zmq.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"
#include "store/status.h"
#include "wire/curve.h"
#include "wire/edge.h"
#include "wire/endpoint.h"
#include "wire/frame.h"

struct asker {
    void *context, *socket;
    struct arena arena;
};

static int socket_options(void *socket, const struct edge_keys *keys, const struct curve_pair *pair, const char *store_key,
                          const char *endpoint)
{
    int linger_ms = 0, ipv6 = strchr(endpoint, '[') != NULL;
    int64_t size_max = FRAME_SIZE_MAX;
    if (zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms) != 0
        || zmq_setsockopt(socket, ZMQ_IPV6, &ipv6, sizeof ipv6) != 0
        || zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &size_max, sizeof size_max) != 0)
        return -1;
    return keys->own != NULL ? curve_join(socket, pair, store_key) : 0;
}

struct asker *asker_open(const char *endpoint, int *code)
{
    struct edge_keys keys;
    struct curve_pair pair;
    char store_key[CURVE_KEY_SIZE];
    if ((*code = endpoint_check_port(endpoint)) != EX_OK)
        return NULL;
    *code = edge_keys_read(&keys, &pair, store_key, endpoint);
    if (*code != EX_OK)
        return NULL;
    struct asker *asker = memory_alloc(1, sizeof *asker);
    arena_init(&asker->arena, "status", 2 * (size_t)FRAME_SIZE_MAX);
    asker->context = zmq_ctx_new();
    asker->socket = zmq_socket(asker->context, ZMQ_DEALER);
    if (asker->socket != NULL && socket_options(asker->socket, &keys, &pair, store_key, endpoint) == 0
        && zmq_connect(asker->socket, endpoint) == 0)
        return asker;
    log_error("cannot connect to store \"%s\": %s", endpoint, zmq_strerror(errno));
    log_hint("an endpoint is ipc://FILE or tcp://HOST:PORT");
    asker_close(asker);
    *code = EX_USAGE;
    return NULL;
}

void asker_close(struct asker *asker)
{
    if (asker == NULL)
        return;
    if (asker->socket != NULL)
        zmq_close(asker->socket);
    while (zmq_ctx_term(asker->context) != 0 && errno == EINTR)
        ;
    arena_free(&asker->arena);
    free(asker);
}

static json_t *status_from_frame(struct asker *asker, const void *data, size_t size)
{
    struct frame frame;
    char reason[512];
    arena_reset(&asker->arena);
    if (frame_decode(&frame, data, size, &asker->arena, reason) != 0 || frame.type != FRAME_status)
        return NULL;
    json_t *status = json_loads(frame.status.status, 0, NULL);
    if (status_is_sound(status))
        return status;
    json_decref(status);
    return NULL;
}

json_t *asker_ask(struct asker *asker, double wait_s)
{
    struct frame frame = frame_make(FRAME_ask);
    struct buffer bytes = { 0 };
    frame_encode(&frame, &bytes);
    zmq_send(asker->socket, bytes.data, bytes.size, ZMQ_DONTWAIT);
    free(bytes.data);
    json_t *status = NULL;
    double until_s = clock_s() + wait_s, left_s;
    while (status == NULL && (left_s = until_s - clock_s()) > 0 && !stop_requested()) {
        zmq_pollitem_t item = { .socket = asker->socket, .events = ZMQ_POLLIN };
        zmq_poll(&item, 1, (long)(1000 * left_s) + 1);
        zmq_msg_t message;
        zmq_msg_init(&message);
        while (zmq_msg_recv(&message, asker->socket, ZMQ_DONTWAIT) >= 0) {  // the last of them, when earlier ones came too late
            json_decref(status);
            status = status_from_frame(asker, zmq_msg_data(&message), zmq_msg_size(&message));
        }
        zmq_msg_close(&message);
    }
    return status;
}
