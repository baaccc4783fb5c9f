/*
 * hub.c - a wire between network interfaces that delays and loses packets and can be cut: what the kernel's netem does, where
 * there is none.
 *
 *     hub DELAY_MS LOSS_PERCENT INTERFACE...
 *
 * Each packet that arrives on one interface leaves on all others DELAY_MS later, or never.  SIGUSR1 cuts the wire, SIGUSR2 mends
 * it.  Prints "ready" when it carries packets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { INTERFACES_MAX = 8, PACKETS_MAX = 1 << 14, PACKET_BYTES_MAX = sizeof(struct virtio_net_hdr) + 66000 };

struct packet {
    double due_s;
    int from;
    size_t size;
    char *data;
};

static struct packet packets[PACKETS_MAX];  // a ring, in the order in which they are due
static size_t first, count;
static volatile sig_atomic_t is_cut;

static void on_signal(int number)
{
    is_cut = number == SIGUSR1;
}

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int interface_open(const char *name)
{
    // With this header a large segment that the sender's kernel left to its network card passes as it is.
    int on = 1, room = 8 << 20, fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
                                   .sll_ifindex = (int)if_nametoindex(name) };
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0
        || setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) != 0
        || bind(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror(name);
        exit(69);
    }
    return fd;
}

static void take(int from, int fd, double delay_s, double loss)
{
    static char data[PACKET_BYTES_MAX];
    ssize_t size = recv(fd, data, sizeof data, MSG_DONTWAIT);
    if (size <= 0 || is_cut || count == PACKETS_MAX || drand48() < loss)
        return;
    struct packet *packet = &packets[(first + count++) % PACKETS_MAX];
    *packet = (struct packet){ clock_s() + delay_s, from, (size_t)size, malloc((size_t)size) };
    memcpy(packet->data, data, (size_t)size);
}

static void give(const int *fds, int fd_count)
{
    struct packet *packet = &packets[first];
    for (int i = 0; i < fd_count && !is_cut; i++)
        if (i != packet->from && send(fds[i], packet->data, packet->size, MSG_DONTWAIT) < 0)
            continue;  // its queue is full: one more that is lost
    free(packet->data);
    first = (first + 1) % PACKETS_MAX;
    count--;
}

int main(int argc, char **argv)
{
    int fds[INTERFACES_MAX], fd_count = 0;
    if (argc < 5 || argc - 3 > INTERFACES_MAX)
        return 64;
    double delay_s = atof(argv[1]) / 1000, loss = atof(argv[2]) / 100;
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    for (int i = 3; i < argc; i++)
        fds[fd_count++] = interface_open(argv[i]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd waits[INTERFACES_MAX];
        struct timespec wait = { 0, 100000000 };
        if (count > 0) {
            double left_s = packets[first].due_s - clock_s();
            wait.tv_nsec = left_s <= 0 ? 0 : left_s > 0.1 ? 100000000 : (long)(left_s * 1e9);
        }
        for (int i = 0; i < fd_count; i++)
            waits[i] = (struct pollfd){ fds[i], POLLIN, 0 };
        if (ppoll(waits, (nfds_t)fd_count, &wait, NULL) > 0)
            for (int i = 0; i < fd_count; i++)
                if (waits[i].revents != 0)
                    take(i, fds[i], delay_s, loss);
        while (count > 0 && packets[first].due_s <= clock_s())
            give(fds, fd_count);
    }
}
