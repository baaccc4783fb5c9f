/*
 * endpoint.h - where a store is: ipc://FILE or tcp://HOST:PORT.
 */
#ifndef WIRE_ENDPOINT_H
#define WIRE_ENDPOINT_H

#include <stdbool.h>
#include <stdint.h>

enum { ENDPOINT_PORT_MAX = UINT16_MAX };

bool endpoint_is_tcp(const char *endpoint);
/* Whether one of tcp ends in a port from 1 to ENDPOINT_PORT_MAX.  ZeroMQ reads "7070x" and 65536 + 7070 as 7070. */
bool endpoint_has_port(const char *endpoint);
/* For those who connect: EX_OK, or EX_USAGE, logged, where one of tcp has no port. */
int endpoint_check_port(const char *endpoint);

#endif
