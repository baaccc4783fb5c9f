/* endpoint.c - see endpoint.h. */
#include "wire/endpoint.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"

bool endpoint_is_tcp(const char *endpoint)
{
    return strncmp(endpoint, "tcp://", strlen("tcp://")) == 0;
}

bool endpoint_has_port(const char *endpoint)
{
    const char *colon = strrchr(endpoint + strlen("tcp://"), ':'), *port = colon != NULL ? colon + 1 : "";
    size_t digits = strspn(port, "0123456789");
    long number = digits > 0 && digits <= 5 && port[digits] == '\0' ? strtol(port, NULL, 10) : 0;
    return 1 <= number && number <= ENDPOINT_PORT_MAX;
}

int endpoint_check_port(const char *endpoint)
{
    if (!endpoint_is_tcp(endpoint) || endpoint_has_port(endpoint))
        return EX_OK;
    log_error("store \"%s\" must end in a port, from 1 to %d", endpoint, ENDPOINT_PORT_MAX);
    return EX_USAGE;
}
