/*
 * relay.c - a link that can be cut: hands bytes between two Unix sockets until it is killed.
 *
 *     relay LISTEN TARGET      two paths; a connection to the first is continued to the second
 *
 * Killed, it cuts every connection through it; stopped, it lets them hang with nothing lost.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/memory.h"

struct link {
    int ends[2];
};

static int unix_socket(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    snprintf(address->sun_path, sizeof address->sun_path, "%s", path);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

/* Until one end closes; then both are closed for the other direction too. */
static void pump(int from, int to)
{
    char bytes[65536];
    ssize_t got;
    while ((got = read(from, bytes, sizeof bytes)) > 0) {
        for (ssize_t done = 0, sent; done < got; done += sent)
            if ((sent = write(to, bytes + done, (size_t)(got - done))) <= 0)
                goto cut;
    }
cut:
    shutdown(from, SHUT_RDWR);
    shutdown(to, SHUT_RDWR);
}

static void *pump_back(void *of)
{
    struct link *link = of;
    pump(link->ends[1], link->ends[0]);
    return NULL;
}

static void *serve(void *of)
{
    struct link *link = of;
    pthread_t back;
    if (pthread_create(&back, NULL, pump_back, link) == 0) {
        pump(link->ends[0], link->ends[1]);
        pthread_join(back, NULL);
    }
    close(link->ends[0]);
    close(link->ends[1]);
    free(link);
    return NULL;
}

int main(int argc, char **argv)
{
    struct sockaddr_un here, there;
    if (argc != 3)
        return EX_USAGE;
    signal(SIGPIPE, SIG_IGN);
    int listener = unix_socket(argv[1], &here);
    unlink(argv[1]);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 64) != 0) {
        perror(argv[1]);
        return EX_OSERR;
    }
    for (;;) {
        struct link *link = memory_alloc(1, sizeof *link);
        link->ends[0] = accept(listener, NULL, NULL);
        link->ends[1] = unix_socket(argv[2], &there);
        pthread_t thread;
        if (link->ends[0] >= 0 && connect(link->ends[1], (struct sockaddr *)&there, sizeof there) == 0
            && pthread_create(&thread, NULL, serve, link) == 0) {
            pthread_detach(thread);
            continue;
        }
        close(link->ends[0]);
        close(link->ends[1]);
        free(link);
    }
}
