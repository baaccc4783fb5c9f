/* test_edge_pipe.c - an edge between real pipes put in the place of standard input and output. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/stop.h"
#include "../check.h"
#include "wire/edge_parts.h"

/* Standard input and output while a case runs: in is our end of the first, out of the second. */
static struct {
    int in, out, saved_in, saved_out, saved_error;
} ends;

static void pipes_open(void)
{
    int input[2], output[2];
    fflush(stdout);
    ends.saved_in = dup(STDIN_FILENO);
    ends.saved_out = dup(STDOUT_FILENO);
    ends.saved_error = dup(STDERR_FILENO);
    if (pipe(input) != 0 || pipe(output) != 0)
        exit(71);
    fcntl(input[1], F_SETPIPE_SZ, 1 << 20);
    fcntl(output[1], F_SETPIPE_SZ, 1 << 20);
    dup2(input[0], STDIN_FILENO);
    dup2(output[1], STDOUT_FILENO);
    close(input[0]);
    close(output[1]);
    ends.in = input[1];
    ends.out = output[0];
}

static void pipes_close(void)
{
    if (ends.in >= 0)
        close(ends.in);
    if (ends.out >= 0)
        close(ends.out);
    dup2(ends.saved_in, STDIN_FILENO);
    dup2(ends.saved_out, STDOUT_FILENO);
    dup2(ends.saved_error, STDERR_FILENO);
    close(ends.saved_in);
    close(ends.saved_out);
    close(ends.saved_error);
}

static struct edge *open_rollout(void)
{
    int code;
    struct edge *edge = edge_open(&(struct edge_options){ .stage = "rollout", .takes = FRAME_prompt, .hold_max = 8 }, &code);
    EXPECT_INT(code, 0);
    return edge;
}

static struct frame make_prompt(int64_t sample)
{
    static const int32_t tokens[] = { 1, 2, 3 };
    struct frame frame = frame_make(FRAME_prompt);
    frame.prompt.prompt_key = "key";
    frame.prompt.tokenizer = "tokenizer";
    frame.prompt.split = "train";
    frame.prompt.prompt = "Once upon a time";
    frame.prompt.prompt_tokens = (struct tokens){ tokens, 3 };
    frame.prompt.sample = sample;
    return frame;
}

static struct frame make_metric(int64_t step)
{
    struct frame frame = frame_make(FRAME_metric);
    frame.metric.subject = "policy";
    frame.metric.step = step;
    frame.metric.numbers = "{}";
    return frame;
}

static void put_frame(struct frame frame)
{
    struct buffer bytes = { 0 };
    frame_encode(&frame, &bytes);
    EXPECT_INT(write(ends.in, bytes.data, bytes.size), bytes.size);
    free(bytes.data);
}

static void put_end(void)
{
    close(ends.in);
    ends.in = -1;
}

/* What has come out so far, without waiting. */
static struct buffer read_output(void)
{
    struct buffer bytes = { 0 };
    char block[65536];
    fcntl(ends.out, F_SETFL, O_NONBLOCK);
    for (ssize_t n; (n = read(ends.out, block, sizeof block)) > 0; )
        buffer_append(&bytes, block, (size_t)n);
    return bytes;
}

/* Goal: prompts come in order, what is not a prompt goes through unchanged, outputs lose item and output. */
static void test_frames_flow(void)
{
    pipes_open();
    struct edge *edge = open_rollout();
    struct frame metric = make_metric(5);
    metric.metric.output = 9;
    struct buffer expected = { 0 };
    frame_encode(&metric, &expected);
    for (int i = 0; i < 5; i++)
        put_frame(make_prompt(i));
    put_frame(metric);
    put_frame(make_prompt(5));
    put_end();

    struct batch batch;
    int64_t next = 0;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, 4, true)) == EDGE_BATCH) {
        EXPECT(batch.count <= 4);
        for (size_t i = 0; i < batch.count; i++)
            EXPECT_INT(batch.frames[i].prompt.sample, next++);
        edge_done(edge, &batch);
    }
    EXPECT_INT(status, EDGE_END);
    EXPECT_INT(next, 6);
    struct frame given = make_prompt(7);
    given.prompt.item = 3;
    EXPECT_INT(edge_give(edge, &given), 0);
    EXPECT_INT(given.prompt.item, 3);  // the caller's is left alone
    EXPECT_INT(edge_close(edge, status), 0);

    given.prompt.item = 0;
    frame_encode(&given, &expected);
    struct buffer got = read_output();
    EXPECT_INT(got.size, expected.size);
    EXPECT(got.size == expected.size && memcmp(got.data, expected.data, got.size) == 0);
    free(got.data);
    free(expected.data);
    pipes_close();
}

/* Goal: without wait a take returns at once, with wait as soon as one frame is whole; outputs do not wait for more. */
static void test_promptness(void)
{
    pipes_open();
    struct edge *edge = open_rollout();
    struct batch batch;
    EXPECT_INT(edge_take(edge, &batch, 4, false), EDGE_EMPTY);
    struct frame prompt = make_prompt(0);
    struct buffer bytes = { 0 };
    frame_encode(&prompt, &bytes);
    EXPECT_INT(write(ends.in, bytes.data, bytes.size - 1), bytes.size - 1);
    EXPECT_INT(edge_take(edge, &batch, 4, false), EDGE_EMPTY);
    EXPECT_INT(write(ends.in, bytes.data + bytes.size - 1, 1), 1);
    EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_BATCH);
    EXPECT_INT(batch.count, 1);
    EXPECT_INT(edge_give(edge, &prompt), 0);
    struct batch none;
    EXPECT_INT(edge_take(edge, &none, 0, false), EDGE_EMPTY);
    struct buffer got = read_output();
    EXPECT_INT(got.size, bytes.size);
    EXPECT_TEXT(batch.frames[0].prompt.prompt, "Once upon a time");  // still valid
    edge_done(edge, &batch);
    put_end();
    EXPECT_INT(edge_take(edge, &batch, 4, false), EDGE_END);
    EXPECT_INT(edge_close(edge, EDGE_END), 0);
    free(bytes.data);
    free(got.data);
    pipes_close();
}

static const char *read_errors(int fd)
{
    static char text[4096];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static int catch_errors(void)
{
    int fd = memfd_create("errors", 0);
    dup2(fd, STDERR_FILENO);
    return fd;
}

/* Goal: a frame that breaks a limit is refused with its place, and the frames around it arrive. */
static void test_bad_frame_is_skipped(void)
{
    pipes_open();
    int errors = catch_errors();
    struct edge *edge = open_rollout();
    put_frame(make_prompt(1));
    static const char bad[] = "\x83\xa1v\x01\xa4type\xa4" "beat\xa4held\xff";
    EXPECT_INT(write(ends.in, bad, sizeof bad - 1), sizeof bad - 1);
    put_frame(make_prompt(2));
    put_end();
    struct batch batch;
    EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_BATCH);
    EXPECT_INT(batch.count, 2);
    EXPECT_INT(batch.frames[1].prompt.sample, 2);
    edge_done(edge, &batch);
    EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_END);
    EXPECT_INT(edge_close(edge, EDGE_END), EX_DATAERR);
    struct buffer first = { 0 };
    struct frame prompt = make_prompt(1);
    frame_encode(&prompt, &first);
    char expected[256];
    snprintf(expected, sizeof expected,
             "test: standard input, frame at byte %zu: beat frame: field \"held\" is -1, must be from 0 to "
             "9007199254740991\n", first.size);
    EXPECT_TEXT(read_errors(errors), expected);
    free(first.data);
    close(errors);
    pipes_close();
}

/* Goal: a stream that is no frames ends with 65 after what was good, and the outputs of that are still written. */
static void test_nonsense_ends_the_stream(void)
{
    pipes_open();
    int errors = catch_errors();
    struct edge *edge = open_rollout();
    put_frame(make_prompt(1));
    EXPECT_INT(write(ends.in, "{\"prompt\":", 10), 10);
    struct batch batch;
    EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_BATCH);
    EXPECT_INT(batch.count, 1);
    EXPECT_INT(edge_give(edge, &batch.frames[0]), 0);
    edge_done(edge, &batch);
    EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_FAILED);
    EXPECT_INT(edge_close(edge, EDGE_FAILED), EX_DATAERR);
    EXPECT(strstr(read_errors(errors), "is not a frame") != NULL);
    struct buffer got = read_output();
    EXPECT(got.size > 0);
    free(got.data);
    close(errors);
    pipes_close();
}

/* Goal: an input cut inside a frame is an error, not an end. */
static void test_cut_input(void)
{
    pipes_open();
    int errors = catch_errors();
    struct edge *edge = open_rollout();
    EXPECT_INT(write(ends.in, "\x82\xa1v", 3), 3);
    put_end();
    struct batch batch;
    EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_FAILED);
    EXPECT_INT(edge_close(edge, EDGE_FAILED), EX_DATAERR);
    EXPECT_TEXT(read_errors(errors), "test: standard input ends inside the frame at byte 0, after 3 bytes of it\n");
    close(errors);
    pipes_close();
}

/* Goal: a reader that left is exit code 74. */
static void test_broken_pipe(void)
{
    pipes_open();
    int errors = catch_errors();
    struct edge *edge = open_rollout();
    close(ends.out);
    ends.out = -1;
    struct frame prompt = make_prompt(0);
    EXPECT_INT(edge_give(edge, &prompt), 0);
    struct batch batch;
    EXPECT_INT(edge_take(edge, &batch, 4, false), EDGE_FAILED);
    EXPECT_INT(edge_give(edge, &prompt), -1);
    EXPECT_INT(edge_close(edge, EDGE_FAILED), EX_IOERR);
    EXPECT_TEXT(read_errors(errors), "test: could not write to standard output: Broken pipe\n");
    close(errors);
    pipes_close();
}

/* Goal: terminals are refused with advice, on both sides. */
static void test_terminals(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
        TEST_SKIP("no pseudo-terminal here");
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    pipes_open();
    int errors = catch_errors(), code;
    dup2(terminal, STDIN_FILENO);
    struct edge *edge = edge_open(&(struct edge_options){ .stage = "rollout", .takes = FRAME_prompt, .hold_max = 8 }, &code);
    EXPECT(edge == NULL);
    EXPECT_INT(code, EX_USAGE);
    EXPECT(strstr(read_errors(errors), "standard input is a terminal, expected prompt frames\nhint: ") != NULL);

    dup2(terminal, STDOUT_FILENO);
    edge = edge_open(&(struct edge_options){ .stage = "tokenize", .takes_nothing = true, .hold_max = 1 }, &code);
    struct frame prompt = make_prompt(0);
    EXPECT_INT(edge_give(edge, &prompt), -1);
    EXPECT_INT(edge_close(edge, EDGE_END), EX_USAGE);
    pipes_close();
    close(errors);
    close(terminal);
    close(master);
}

/* Goal: what no output can be made of is counted, and no frame stands for it. */
static void test_failed_item(void)
{
    pipes_open();
    int errors = catch_errors();
    struct edge *edge = open_rollout();
    EXPECT_INT(edge_fail(edge, 0, "prompt has 9 tokens, limit 8"), 0);
    EXPECT_INT(edge_close(edge, EDGE_END), EX_DATAERR);
    EXPECT(strstr(read_errors(errors), "prompt has 9 tokens, limit 8") != NULL);
    close(errors);
    pipes_close();
}

/* Goal: many frames of odd sizes through blocks, byte for byte; conservation: in = taken + passed. */
static void test_many_frames(void)
{
    pipes_open();
    struct edge *edge = open_rollout();
    int64_t taken = 0, sum = 0, count = 3000;
    int child = fork();
    if (child == 0) {
        close(ends.out);
        for (int64_t i = 0; i < count; i++) {
            char text[512];
            memset(text, 'x', sizeof text);
            text[i * 7 % 500] = '\0';
            struct frame frame = make_prompt(i);
            frame.prompt.prompt = text;
            put_frame(i % 10 == 9 ? make_metric(i) : frame);
        }
        _exit(0);
    }
    put_end();
    struct batch batch;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, 100, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < batch.count; i++) {
            int64_t sample = batch.frames[i].prompt.sample;
            EXPECT_INT(strlen(batch.frames[i].prompt.prompt), sample * 7 % 500);
            sum += sample;
        }
        taken += (int64_t)batch.count;
        edge_done(edge, &batch);
    }
    EXPECT_INT(status, EDGE_END);
    EXPECT_INT(taken, 2700);
    EXPECT_INT(sum, 2999 * 1500 - 451200);  // 0 + ... + 2999 without 9 + 19 + ... + 2999 = 300 * 1504
    EXPECT_INT(edge->passed, 300);
    EXPECT_INT(edge_close(edge, status), 0);
    pipes_close();
}

/* Goal: a signal ends the taking, what was given is written, and the code asks to be started again. */
static void test_stop(void)
{
    fflush(stdout);
    int child = fork();
    if (child == 0) {
        pipes_open();
        struct edge *edge = open_rollout();
        put_frame(make_prompt(0));
        struct batch batch;
        EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_BATCH);
        raise(SIGTERM);
        EXPECT_INT(edge_take(edge, &batch, 0, true), EDGE_EMPTY);
        struct frame output = make_prompt(1);
        EXPECT_INT(edge_give(edge, &output), 0);
        EXPECT_INT(edge_take(edge, &batch, 4, true), EDGE_STOPPED);
        int code = edge_close(edge, EDGE_STOPPED);
        struct buffer got = read_output();
        EXPECT(got.size > 0);
        _exit(test_case_failed ? 1 : code);
    }
    int state = 0;
    while (waitpid(child, &state, 0) < 0) {
    }
    EXPECT_INT(WEXITSTATUS(state), EX_TEMPFAIL);
}

int main(void)
{
    log_open("test", 0);
    RUN(test_frames_flow);
    RUN(test_promptness);
    RUN(test_bad_frame_is_skipped);
    RUN(test_nonsense_ends_the_stream);
    RUN(test_cut_input);
    RUN(test_broken_pipe);
    RUN(test_terminals);
    RUN(test_failed_item);
    RUN(test_many_frames);
    RUN(test_stop);
    return tests_end();
}
