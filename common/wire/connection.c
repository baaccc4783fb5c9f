/* connection.c - see connection.h. */
#define _GNU_SOURCE
#include "wire/connection.h"

#include <errno.h>
#include <netdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <zmq.h>

#include "base/log.h"
#include "wire/endpoint.h"
#include "wire/frame.h"

enum {
    HANDSHAKE_TRIES = 3,  // that may break for the link's sake before the store's key is doubted
    CONNECT_MS = 5000,    // for one attempt
};

int edge_keys_read(struct edge_keys *files, struct curve_pair *pair, char *store_key, const char *endpoint)
{
    const char *own = edge_keys.own ? edge_keys.own : getenv("VAS_KEY");
    const char *other = edge_keys.store ? edge_keys.store : getenv("VAS_STORE_KEY");
    *files = (struct edge_keys){ NULL, NULL };
    if (!endpoint_is_tcp(endpoint) || (own == NULL && other == NULL))
        return EX_OK;
    if (own == NULL || other == NULL) {
        log_error("%s is missing: a worker with a key needs its own and the store's", own == NULL ? "--key" : "--store-key");
        return EX_USAGE;
    }
    *files = (struct edge_keys){ own, other };
    int code = curve_read_pair(pair, own);
    return code == EX_OK ? curve_read_public(store_key, other) : code;
}

/* Whether the endpoint's host is an IPv6 address, or a name that has no other.  (Of names with both kinds ZeroMQ would take only
   the first.) */
static bool is_ipv6_only(const char *endpoint)
{
    char host[256];
    struct addrinfo *found = NULL;
    if (strchr(endpoint, '[') != NULL)
        return true;
    const char *name = endpoint + strlen("tcp://"), *colon = strrchr(name, ':');
    if (colon == NULL || (size_t)(colon - name) >= sizeof host)
        return false;
    memcpy(host, name, (size_t)(colon - name));
    host[colon - name] = '\0';
    if (getaddrinfo(host, NULL, &(struct addrinfo){ .ai_family = AF_INET }, &found) == 0) {
        freeaddrinfo(found);
        return false;
    }
    if (getaddrinfo(host, NULL, &(struct addrinfo){ .ai_family = AF_INET6 }, &found) != 0)
        return false;
    freeaddrinfo(found);
    return true;
}

static int tcp_options(struct connection *connection)
{
    int ipv6 = is_ipv6_only(connection->endpoint), connect_ms = CONNECT_MS;
    if (zmq_setsockopt(connection->socket, ZMQ_IPV6, &ipv6, sizeof ipv6) != 0
        || zmq_setsockopt(connection->socket, ZMQ_CONNECT_TIMEOUT, &connect_ms, sizeof connect_ms) != 0)
        return -1;
    if (connection->key_files.own != NULL && curve_join(connection->socket, &connection->key, connection->store_key) != 0)
        return -1;
    return handshakes_open(&connection->handshakes, connection->context, connection->socket);
}

static void close_socket(struct connection *connection)
{
    handshakes_close(&connection->handshakes);
    if (connection->socket != NULL)
        zmq_close(connection->socket);
    connection->socket = NULL;
}

int connection_renew(struct connection *connection)
{
    int linger_ms = 0, immediate = 1;
    int64_t size_max = FRAME_SIZE_MAX;
    close_socket(connection);
    void *socket = connection->socket = zmq_socket(connection->context, ZMQ_DEALER);
    if (socket == NULL) {
        log_error("could not make a socket: %s", zmq_strerror(errno));
        return EX_OSERR;
    }
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(socket, ZMQ_IMMEDIATE, &immediate, sizeof immediate);  // nothing waits in the socket for a store that is away
    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &size_max, sizeof size_max);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &connection->receive_max, sizeof connection->receive_max);
    if ((!endpoint_is_tcp(connection->endpoint) || tcp_options(connection) == 0)
        && zmq_connect(socket, connection->endpoint) == 0)
        return EX_OK;
    log_error("cannot connect to store \"%s\": %s", connection->endpoint, zmq_strerror(errno));
    log_hint("an endpoint is ipc://FILE or tcp://HOST:PORT");
    close_socket(connection);
    return EX_USAGE;
}

int connection_open(struct connection *connection, const char *endpoint, int receive_max)
{
    *connection = (struct connection){ .endpoint = endpoint, .receive_max = receive_max };
    connection->context = zmq_ctx_new();  // NULL: the socket cannot be made
    int code = endpoint_check_port(endpoint);
    if (code == EX_OK)
        code = edge_keys_read(&connection->key_files, &connection->key, connection->store_key, endpoint);
    return code == EX_OK ? connection_renew(connection) : code;
}

static int refuse_keys(const struct connection *connection, const char *what, const char *which)
{
    log_error("store \"%s\" %s%s%s%s", connection->endpoint, what, which ? " \"" : "", which ? which : "", which ? "\"" : "");
    return EX_NOPERM;
}

static int judge(struct connection *connection, enum handshake handshake)
{
    const char *own = connection->key_files.own;
    int code = EX_OK;
    connection->broken = handshake == HANDSHAKE_BROKEN ? connection->broken + 1 : 0;
    if (connection->broken == HANDSHAKE_TRIES)
        handshake = handshake_probe(connection->endpoint, own != NULL);
    if (handshake == HANDSHAKE_REFUSED) {
        code = refuse_keys(connection, "refuses the key in", own);
        log_hint("its public key %s must be among those of the store's --allow", connection->key.public_key);
    } else if (handshake == HANDSHAKE_OTHER && own != NULL) {
        code = refuse_keys(connection, "takes no keys, and this worker has", own);
    } else if (handshake == HANDSHAKE_OTHER) {
        code = refuse_keys(connection, "wants keys, and this worker has none", NULL);
        log_hint("give it --key and --store-key, or VAS_KEY and VAS_STORE_KEY");
    } else if (own != NULL && connection->broken == HANDSHAKE_TRIES) {
        log_error("store \"%s\" does not prove that it has the key in \"%s\"", connection->endpoint, connection->key_files.store);
    }
    return code;
}

int connection_judge(struct connection *connection)
{
    enum handshake handshake;
    int code = EX_OK;
    while (code == EX_OK && (handshake = handshakes_next(&connection->handshakes)) != HANDSHAKE_NONE)
        code = judge(connection, handshake);
    return code;
}

bool connection_lacks_proof(const struct connection *connection)
{
    return connection->key_files.own != NULL && connection->broken >= HANDSHAKE_TRIES;
}

void connection_close(struct connection *connection, int linger_ms)
{
    if (connection->socket != NULL)
        zmq_setsockopt(connection->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    close_socket(connection);
    while (zmq_ctx_term(connection->context) != 0 && errno == EINTR) {
    }
}
