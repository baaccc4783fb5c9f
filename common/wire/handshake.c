/* handshake.c - see handshake.h. */
#include "wire/handshake.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "base/check.h"

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
