/*
 * test_strangers.c - a store among strangers on loopback: they send too much, ask and never read, come in thousands, or have no
 * key.  Whatever they do, a worker is served and the store's memory stays within a bound.
 *
 *     test_strangers [ADDRESS PORT]      the strangers without a key only, against a store that wants keys, elsewhere
 *
 * The strangers are plain TCP sockets that speak just enough ZMTP 3.0 (RFC 23), so that nothing of ZeroMQ reads or waits for them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "wire/curve.h"
#include "wire/edge_parts.h"

static const char *host = "127.0.0.1";
static char directory[64], endpoint[64], key_file[96], allow_file[96];
static int port;
static pid_t store;
static long start_kib;

/* ---- the store ---- */

/* Its memory at its highest, KiB. */
static long store_kib(void)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%ld/status", (long)store);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "VmHWM: %ld", &kib);
    if (file != NULL)
        fclose(file);
    return kib;
}

/* AddressSanitizer keeps what was freed for a while, and more beside everything. */
static long grown_mib_max(long mib)
{
#ifdef __SANITIZE_ADDRESS__
    return 3 * mib + 512;
#else
    return mib;
#endif
}

static struct sockaddr_in address(void)
{
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    if (inet_pton(AF_INET, host, &here.sin_addr) != 1)
        abort();
    return here;
}

static int free_port(void)
{
    struct sockaddr_in here = { .sin_family = AF_INET };
    socklen_t size = sizeof here;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&here, size) != 0 || getsockname(fd, (struct sockaddr *)&here, &size) != 0)
        abort();
    close(fd);
    return ntohs(here.sin_port);
}

static int dial(void)
{
    struct sockaddr_in here = address();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&here, sizeof here) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void store_start(bool wants_keys)
{
    const char *bin = getenv("BIN");
    char program[256], db[96];
    test_directory(directory, sizeof directory);
    port = free_port();
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port);
    snprintf(program, sizeof program, "%s/store", bin ? bin : "bin");
    snprintf(db, sizeof db, "%s/s.db", directory);
    snprintf(key_file, sizeof key_file, "%s/key", directory);
    snprintf(allow_file, sizeof allow_file, "%s/key.pub", directory);
    if (curve_make(key_file) != 0)
        abort();
    store = fork();
    if (store == 0) {
        execl(program, program, "serve", getenv("VERBOSE") ? "-v" : "-q", "--db", db, "--listen", endpoint,
              wants_keys ? "--key" : (char *)NULL, key_file, "--allow", allow_file, (char *)NULL);
        _exit(127);
    }
    int fd = -1;
    for (int tries = 0; tries < 600 && (fd = dial()) < 0; tries++)
        usleep(50000);
    if (fd < 0 || waitpid(store, NULL, WNOHANG) != 0) {  // a port that nobody listens at may also connect to itself
        fprintf(stderr, "%s does not listen\n", program);
        abort();
    }
    close(fd);
    start_kib = store_kib();
}

static void store_stop(void)
{
    char command[96];
    int status;
    kill(store, SIGTERM);
    waitpid(store, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    EXPECT_INT(system(command), 0);
}

static void expect_memory(const char *what, long mib_max)
{
    long mib = (store_kib() - start_kib) / 1024;
    fprintf(stderr, "%s: the store grew by %ld MiB\n", what, mib);
    if (mib > grown_mib_max(mib_max))
        TEST_FAIL("%s: the store grew by %ld MiB, at most %ld are its due", what, mib, grown_mib_max(mib_max));
}

/* A worker is served. */
static void expect_service(void)
{
    int code;
    double start_s = clock_s();
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = "reward", .takes = FRAME_rollout,
                                      .hold_max = 8, .settings = "{\"reward\":\"w\",\"spec\":{}}" }, &code);
    if (edge == NULL) {
        TEST_FAIL("a worker was not served: code %d", code);
        return;
    }
    struct batch batch;
    EXPECT_INT(edge_take(edge, &batch, 8, true), EDGE_END);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    fprintf(stderr, "a worker was served in %.2f s\n", clock_s() - start_s);
}

/* ---- strangers ---- */

static const unsigned char greeting[64] = { 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L' };
static const char ready[] = "\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06""DEALER";

/* Everything, or -1: the store has closed the connection, or took nothing for some seconds. */
static int push(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        struct pollfd wait = { .fd = fd, .events = POLLOUT };
        if (poll(&wait, 1, 5000) <= 0)
            return -1;
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (sent <= 0)
            return -1;
        at += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int push_head(int fd, uint64_t size)
{
    unsigned char head[9] = { 2 };
    for (int i = 0; i < 8; i++)
        head[1 + i] = (unsigned char)(size >> (56 - 8 * i));
    return push(fd, head, sizeof head);
}

static int push_frame(int fd, const struct frame *frame)
{
    struct buffer bytes = { 0 };
    frame_encode(frame, &bytes);
    int result = push_head(fd, bytes.size) == 0 ? push(fd, bytes.data, bytes.size) : -1;
    free(bytes.data);
    return result;
}

/* Exactly size bytes, within some seconds. */
static int pull(int fd, void *data, size_t size)
{
    char *at = data;
    for (size_t got = 0; got < size; ) {
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        ssize_t more = poll(&wait, 1, 20000) > 0 ? recv(fd, at + got, size - got, 0) : -1;
        if (more <= 0)
            return -1;
        got += (size_t)more;
    }
    return 0;
}

/* A connection over which frames may be sent, to somebody who never reads; -1 when the store wants keys. */
static int stranger_open(void)
{
    unsigned char theirs[64], head[2], command[256];
    int fd = dial(), small = 4096;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (push(fd, greeting, sizeof greeting) == 0 && push(fd, ready, sizeof ready - 1) == 0
        && pull(fd, theirs, sizeof theirs) == 0 && pull(fd, head, sizeof head) == 0 && pull(fd, command, head[1]) == 0)
        return fd;
    close(fd);
    return -1;
}

static struct frame hello_of(const char *stage, const char *settings)
{
    struct frame frame = frame_make(FRAME_hello);
    frame.hello.stage = stage;
    frame.hello.worker = "stranger";
    frame.hello.settings = settings;
    return frame;
}

/* How many of size bytes of a frame the store takes before it closes the connection. */
static uint64_t push_much(int fd, uint64_t size)
{
    static char zeros[1 << 16];
    uint64_t sent = 0;
    if (push_head(fd, size) != 0)
        return 0;
    while (sent < size && push(fd, zeros, sizeof zeros) == 0)
        sent += sizeof zeros;
    return sent;
}

/* Goal: a frame of 1 GiB, or one byte more than the limit, ends its connection at its first bytes. */
static void test_frames_of_1_GiB(void)
{
    store_start(false);
    for (int i = 0; i < 20; i++) {
        int fd = stranger_open();
        uint64_t sent = push_much(fd, i % 2 ? (uint64_t)1 << 30 : FRAME_SIZE_MAX + 1);
        EXPECT(sent < 32 << 20);
        close(fd);
        fd = dial();  // in place of the handshake
        push(fd, greeting, sizeof greeting);
        EXPECT(push_much(fd, (uint64_t)1 << 30) < 32 << 20);
        close(fd);
    }
    expect_memory("frames of 1 GiB", 64);
    expect_service();
    store_stop();
}

/* Goal: frames of a size that is allowed but that mean nothing end their connection too, small ones after some. */
static void test_nonsense(void)
{
    store_start(false);
    for (int i = 0; i < 20; i++) {
        int fd = stranger_open();
        uint64_t sent = 0;
        for (int frame = 0; frame < 64 && sent % FRAME_SIZE_MAX == 0; frame++)
            sent += push_much(fd, FRAME_SIZE_MAX);
        EXPECT(sent < 16u * FRAME_SIZE_MAX);
        close(fd);
    }
    int fd = stranger_open(), frames = 0;
    while (frames < 1000000 && push(fd, "\x00\x05hello", 7) == 0)
        frames++;
    EXPECT(frames < 1000000);
    close(fd);
    expect_memory("nonsense", 512);
    expect_service();
    store_stop();
}

static void give_checkpoint(void)
{
    int code;
    const char *settings = "{\"run\":\"r\",\"train\":{\"batch\":1,\"epochs\":1,\"updates\":1,\"refresh\":1,\"seed\":1}}";
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = "train", .settings = settings,
                                                          .takes = FRAME_target, .hold_max = 64 }, &code);
    if (edge == NULL) {
        TEST_FAIL("no checkpoint could be given: code %d", code);
        return;
    }
    struct buffer content = { 0 };
    for (size_t i = 0; i < 4 << 20; i++)
        buffer_append(&content, "content!", 2);
    EXPECT_INT(edge_give_checkpoint(edge, "r", 0, 0, "weights", false, &content), 0);
    edge_close(edge, EDGE_STOPPED);
}

/* A worker that reads gets the checkpoint too. */
static void expect_checkpoint(void)
{
    int code;
    int64_t step;
    double start_s = clock_s();
    struct buffer content = { 0 };
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = "decode", .takes = FRAME_prompt,
                                      .hold_max = 1, .settings = "{}" }, &code);
    EXPECT(edge != NULL);
    if (edge == NULL)
        return;
    EXPECT_INT(edge_fetch(edge, "r", -1, "weights", &content, &step), 0);
    EXPECT_INT(content.size, 8 << 20);
    edge_close(edge, EDGE_END);
    free(content.data);
    fprintf(stderr, "a worker got a checkpoint in %.2f s\n", clock_s() - start_s);
}

/* Goal: eighty that ask for megabytes again and again, and read nothing, get little and make the store keep little. */
static void test_asking_and_never_reading(void)
{
    enum { STRANGERS = 80, QUESTIONS = 50 };
    int strangers[STRANGERS];
    store_start(false);
    give_checkpoint();
    struct frame hello = hello_of("decode", "{}"), fetch = frame_make(FRAME_fetch), beat = frame_make(FRAME_beat);
    fetch.fetch.run = "r";
    fetch.fetch.kind = "weights";
    fetch.fetch.step = -1;
    for (int i = 0; i < STRANGERS; i++) {
        strangers[i] = stranger_open();
        EXPECT_INT(push_frame(strangers[i], &hello), 0);
    }
    for (int question = 0; question < QUESTIONS; question++)
        for (int i = 0; i < STRANGERS; i++) {
            push_frame(strangers[i], &fetch);
            push_frame(strangers[i], &beat);
        }
    expect_service();
    expect_checkpoint();
    expect_memory("80 that ask and never read", 400);
    for (int i = 0; i < STRANGERS; i++)
        close(strangers[i]);
    expect_service();
    store_stop();
}

/* Goal: one that is answered again and again, and reads nothing, is cut off. */
static void test_beating_and_never_reading(void)
{
    enum { BEATS_MAX = 5000000 };
    store_start(false);
    struct frame hello = hello_of("decode", "{}"), beat = frame_make(FRAME_beat);
    struct buffer beats = { 0 };
    int stranger = stranger_open(), sent = 0;
    EXPECT_INT(push_frame(stranger, &hello), 0);
    for (int i = 0; i < 1000; i++) {  // short frames
        size_t head = beats.size;
        buffer_append(&beats, "\0", 2);
        frame_encode(&beat, &beats);
        beats.data[head + 1] = (char)(beats.size - head - 2);
    }
    while (sent < BEATS_MAX && push(stranger, beats.data, beats.size) == 0)
        sent += 1000;
    fprintf(stderr, "cut off after %d beats\n", sent);
    EXPECT(sent < BEATS_MAX);
    close(stranger);
    free(beats.data);
    expect_memory("one that beats and never reads", 200);
    expect_service();
    store_stop();
}

/* Goal: ten thousand that are welcomed at once are served, and cost little each. */
static void test_ten_thousand_workers(void)
{
    enum { SPARE = 64 };
#ifdef __SANITIZE_ADDRESS__
    size_t count = 1000;
#else
    size_t count = 10000;
#endif
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < count + SPARE)
        TEST_SKIP("a process may open only %llu files", (unsigned long long)files.rlim_cur);
    store_start(false);
    int *strangers = memory_alloc(count, sizeof *strangers);
    struct frame hello = hello_of("reward", "{\"reward\":\"w\",\"spec\":{}}"), want = frame_make(FRAME_want);
    struct frame beat = frame_make(FRAME_beat);
    want.want.count = 8;
    double start_s = clock_s();
    for (size_t i = 0; i < count; i++) {
        strangers[i] = stranger_open();
        if (strangers[i] < 0 || push_frame(strangers[i], &hello) != 0 || push_frame(strangers[i], &want) != 0) {
            TEST_FAIL("stranger %zu could not connect: %s", i, strerror(errno));
            count = i;
        }
    }
    fprintf(stderr, "%zu workers came in %.1f s\n", count, clock_s() - start_s);
    expect_service();
    for (size_t i = 0; i < count; i++)
        push_frame(strangers[i], &beat);
    expect_service();
    expect_memory("ten thousand workers", 1000);
    for (size_t i = 0; i < count; i++)
        close(strangers[i]);
    expect_service();
    store_stop();
    free(strangers);
}

static void bother(int times)
{
    struct frame hello = hello_of("decode", "{}");
    for (int i = 0; i < times; i++) {
        EXPECT_INT(stranger_open(), -1);
        int fd = dial(), asked = 0;
        push(fd, greeting, sizeof greeting);
        EXPECT(push_much(fd, (uint64_t)1 << 30) < 32 << 20);
        close(fd);
        fd = dial();
        push(fd, greeting, sizeof greeting);
        push(fd, ready, sizeof ready - 1);
        while (asked < 100000 && push_frame(fd, &hello) == 0)
            asked++;
        EXPECT(asked < 100000);
        close(fd);
    }
}

/* Goal: strangers to a store that wants keys get no word of it, and are cut off. */
static void test_strangers_elsewhere(void)
{
    bother(3);
}

/* Goal: without a key no frame arrives, however it is sent; a worker with one is served meanwhile. */
static void test_strangers_without_a_key(void)
{
    enum { SILENT = 200 };
    int silent[SILENT];
    store_start(true);
    edge_keys = (struct edge_keys){ key_file, allow_file };
    for (int i = 0; i < SILENT; i++) {
        silent[i] = dial();
        push(silent[i], greeting, i % 64);
    }
    bother(20);
    expect_service();
    expect_memory("strangers without a key", 64);
    for (int i = 0; i < SILENT; i++)  // cut off after 10 s, or now
        close(silent[i]);
    edge_keys = (struct edge_keys){ 0 };
    store_stop();
}

int main(int argc, char **argv)
{
    log_open("test", getenv("VERBOSE") ? 1 : -1);
    if (argc == 3) {
        host = argv[1];
        port = atoi(argv[2]);
        RUN(test_strangers_elsewhere);
        return tests_end();
    }
    RUN(test_frames_of_1_GiB);
    RUN(test_nonsense);
    RUN(test_asking_and_never_reading);
    RUN(test_beating_and_never_reading);
    RUN(test_ten_thousand_workers);
    RUN(test_strangers_without_a_key);
    return tests_end();
}
