/* handshake.c - see handshake.h. */
#define _GNU_SOURCE
#include "wire/handshake.h"

#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <zmq.h>

#include "base/check.h"
#include "wire/endpoint.h"

static const struct {
    uint16_t event;
    enum handshake means;
} meanings[] = {
    { ZMQ_EVENT_HANDSHAKE_SUCCEEDED, HANDSHAKE_DONE },
    { ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, HANDSHAKE_REFUSED },
    { ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, HANDSHAKE_OTHER },
    { ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL, HANDSHAKE_BROKEN },
};

int handshakes_open(struct handshakes *handshakes, void *context, void *socket)
{
    static unsigned number;  // each of a process needs a name of its own
    char name[64];
    int events = 0, linger_ms = 0;
    for (size_t i = 0; i < COUNT_OF(meanings); i++)
        events |= meanings[i].event;
    snprintf(name, sizeof name, "inproc://handshakes-%u", number++);
    *handshakes = (struct handshakes){ .socket = socket };
    if (zmq_socket_monitor(socket, name, events) != 0)
        return -1;
    handshakes->events = zmq_socket(context, ZMQ_PAIR);
    if (handshakes->events != NULL && zmq_setsockopt(handshakes->events, ZMQ_LINGER, &linger_ms, sizeof linger_ms) == 0
        && zmq_connect(handshakes->events, name) == 0)
        return 0;
    handshakes_close(handshakes);
    return -1;
}

/* An event is two parts: its number and value, and the endpoint. */
enum handshake handshakes_next(struct handshakes *handshakes)
{
    unsigned char head[6];
    char endpoint[256];
    uint16_t event;
    uint32_t value;
    if (handshakes->events == NULL || zmq_recv(handshakes->events, head, sizeof head, ZMQ_DONTWAIT) != sizeof head)
        return HANDSHAKE_NONE;
    zmq_recv(handshakes->events, endpoint, sizeof endpoint, ZMQ_DONTWAIT);
    memcpy(&event, head, sizeof event);
    memcpy(&value, head + sizeof event, sizeof value);
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL && value != ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
        return HANDSHAKE_BROKEN;
    for (size_t i = 0; i < COUNT_OF(meanings); i++)
        if (meanings[i].event == event)
            return meanings[i].means;
    return HANDSHAKE_NONE;
}

/* A connected socket whose waits end after a second, or -1. */
static int connect_to(const char *endpoint)
{
    char host[256];
    struct addrinfo *found;
    const char *address = endpoint_is_tcp(endpoint) ? endpoint + strlen("tcp://") : "", *colon = strrchr(address, ':');
    bool brackets = address[0] == '[';
    if (colon == NULL || (size_t)(colon - address) >= sizeof host || colon - address <= 2 * brackets)
        return -1;
    snprintf(host, sizeof host, "%.*s", (int)(colon - address - 2 * brackets), address + brackets);
    if (getaddrinfo(host, colon + 1, &(struct addrinfo){ .ai_socktype = SOCK_STREAM }, &found) != 0)
        return -1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval second = { .tv_sec = 1 };
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second) != 0
                    || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second) != 0
                    || connect(fd, found->ai_addr, found->ai_addrlen) != 0)) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

/*
 * A ZMTP 3 greeting is a signature (10 bytes), a version (2) and the name of a mechanism (20, padded with NUL).  We send no
 * mechanism, so the other side has nothing to break off for.
 */
enum handshake handshake_probe(const char *endpoint, bool has_key)
{
    static const unsigned char ours[] = { 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0 };
    enum { MECHANISM_AT = 12, MECHANISM_BYTES = 20 };
    char theirs[MECHANISM_AT + MECHANISM_BYTES + 1] = "";
    size_t size = 0;
    int fd = connect_to(endpoint);
    if (fd < 0)
        return HANDSHAKE_BROKEN;
    if (send(fd, ours, sizeof ours, MSG_NOSIGNAL) == sizeof ours) {
        ssize_t got;
        while (size < sizeof theirs - 1 && (got = recv(fd, theirs + size, sizeof theirs - 1 - size, 0)) > 0)
            size += (size_t)got;
    }
    close(fd);
    bool whole = size == sizeof theirs - 1, curve = whole && strcmp(theirs + MECHANISM_AT, "CURVE") == 0;
    return whole && curve != has_key ? HANDSHAKE_OTHER : HANDSHAKE_BROKEN;
}

void handshakes_close(struct handshakes *handshakes)
{
    if (handshakes->events != NULL) {
        while (handshakes_next(handshakes) != HANDSHAKE_NONE)
            ;  // ZeroMQ must not wait for room while it is told to stop
        zmq_socket_monitor(handshakes->socket, NULL, 0);
        zmq_close(handshakes->events);
    }
    *handshakes = (struct handshakes){ 0 };
}
