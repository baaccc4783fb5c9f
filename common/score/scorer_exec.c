/*
 * scorer_exec.c - scores by a command of the user's: /bin/sh -c COMMAND, kept running.
 *
 * It reads one JSON line {"prompt": ..., "response": ...} for each response and answers with one number on a line, in order.
 * It is a stranger: it may hang, die, print too much, too little or nonsense, and never read.  The rules:
 *
 * - Responses are sent many at a time (a window) without waiting; both pipes are polled, so neither side can block the other.
 * - The answers of a window are believed after a short silence.  The first response of a newly started command is sent alone
 *   and followed by a longer one, so that a command that prints two lines for one is noticed before any score is believed.  A
 *   line that comes later than that is noticed in the next call, which is then the last.
 * - Any trouble ends the command with its whole process group and starts another.  Since it is then not known which lines
 *   belonged to which response, the whole window is scored again one by one, each followed by the longer silence.  A
 *   response that was in trouble twice fails.
 * - NaN and infinities are answers, so they are no trouble: their response fails at once.
 * - After troubles_max troubles without one answer between them the command itself is at fault.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "score/scorer_backend.h"

enum {
    LINE_SIZE_MAX = 4096,  // bytes of an answer
    READ_SIZE = 65536,
    SHELL_NO_EXEC = 126, SHELL_NOT_FOUND = 127,  // exit statuses of sh
};

static const int troubles_max = 6, tries_max = 2;
static const double silence_s = 0.005, silence_careful_s = 0.02, leave_s = 1.0, turn_s = 0.5;
static const double backoff_first_s = 0.05, backoff_max_s = 5;

/* Lines that arrive in pieces. */
struct line_reader {
    int fd;  // -1: ended
    char data[LINE_SIZE_MAX + 1];
    size_t size;    // bytes of the line so far
    bool overlong;  // the line's end was dropped
};

struct exec {
    const struct scorer_options *options;
    pid_t pid;  // leader of the command's process group; 0: not running
    int input;  // the command's standard input
    struct line_reader output, errors;
    char last_error[160];   // the newest line of its standard error
    size_t answers;         // lines of this process
    int troubles;           // since the last window without any
    double waited_s;        // when options->wait was last called
};

struct item {
    const struct scorer_text *text;
    struct scorer_result *result;
    int tries;  // troubles that were perhaps its fault
};

/* What is sent without waiting for answers in between. */
struct window {
    struct exec *exec;
    struct item *items;
    size_t count, answered;
    struct buffer lines;  // to be sent, of which sent_size bytes are
    size_t sent_size;
    bool careful;         // wait longer for lines that nobody asked for
    bool closed;          // the command's output has ended
    char trouble[256];    // empty: none
};

enum outcome { OUTCOME_DONE, OUTCOME_TROUBLE, OUTCOME_LEFT };

/* ---- the process ---- */

static void pipe_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static _Noreturn void child_run(const char *command, const int ends[3])
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    int away[3];  // from 0 .. 2, which may be ours if this process was started with them closed
    for (int fd = 0; fd < 3; fd++)
        away[fd] = fcntl(ends[fd], F_DUPFD_CLOEXEC, 3);
    for (int fd = 0; fd < 3; fd++)
        if (dup2(away[fd], fd) < 0)
            _exit(SHELL_NOT_FOUND);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(SHELL_NOT_FOUND);
}

/* 0, or -1 when the system has no pipes or processes left, logged. */
static int exec_start(struct exec *exec)
{
    int input[2] = { -1, -1 }, output[2] = { -1, -1 }, errors[2] = { -1, -1 };
    if (pipe2(input, O_CLOEXEC) != 0 || pipe2(output, O_CLOEXEC) != 0 || pipe2(errors, O_CLOEXEC) != 0)
        goto close_pipes;
    pid_t pid = fork();
    if (pid < 0)
        goto close_pipes;
    if (pid == 0)
        child_run(exec->options->exec, (int[]){ input[0], output[1], errors[1] });
    setpgid(pid, pid);  // here as well: whoever comes first
    close(input[0]);
    close(output[1]);
    close(errors[1]);
    fcntl(input[1], F_SETFL, O_NONBLOCK);
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    fcntl(errors[0], F_SETFL, O_NONBLOCK);
    exec->pid = pid;
    exec->input = input[1];
    exec->output.fd = output[0];
    exec->errors.fd = errors[0];
    exec->output.size = exec->errors.size = 0;
    exec->output.overlong = exec->errors.overlong = false;
    exec->last_error[0] = '\0';
    exec->answers = 0;
    log_debug("started \"%s\", pid=%ld", exec->options->exec, (long)pid);
    return 0;

close_pipes:
    log_error("could not start \"%s\": %s", exec->options->exec, strerror(errno));
    for (int i = 0; i < 2; i++) {
        pipe_close(&input[i]);
        pipe_close(&output[i]);
        pipe_close(&errors[i]);
    }
    return -1;
}

typedef void line_taker(void *context, const char *text, bool overlong);

static void line_end(struct line_reader *reader, line_taker *take, void *context)
{
    reader->data[reader->size] = '\0';
    take(context, reader->data, reader->overlong);
    reader->size = 0;
    reader->overlong = false;
}

/*
 * Reads what is there and gives each complete line to take, without what is longer than LINE_SIZE_MAX.
 * False when the other side has closed.
 */
static bool lines_read(struct line_reader *reader, line_taker *take, void *context)
{
    char data[READ_SIZE];
    ssize_t n = read(reader->fd, data, sizeof data);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0) {
        if (reader->size > 0)
            line_end(reader, take, context);
        return false;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (data[i] == '\n')
            line_end(reader, take, context);
        else if (reader->size < LINE_SIZE_MAX)
            reader->data[reader->size++] = data[i] != '\0' ? data[i] : '?';
        else
            reader->overlong = true;
    }
    return true;
}

static void show_error_line(void *context, const char *text, bool overlong)
{
    struct exec *exec = context;
    log_event("exec: %s%s", text, overlong ? "..." : "");
    snprintf(exec->last_error, sizeof exec->last_error, "%.150s", text);
}

static void errors_read(struct exec *exec)
{
    if (exec->errors.fd >= 0 && !lines_read(&exec->errors, show_error_line, exec))
        pipe_close(&exec->errors.fd);
}

/* Waits until the process ends or s seconds have passed; shows its errors meanwhile. */
static bool exec_ends_within(struct exec *exec, double s)
{
    double until = clock_s() + s;
    for (;;) {
        siginfo_t info = { 0 };
        if (waitid(P_PID, (id_t)exec->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0)
            return true;
        if (clock_s() >= until)
            return false;
        struct pollfd wanted = { .fd = exec->errors.fd, .events = POLLIN };
        poll(&wanted, 1, 10);
        errors_read(exec);
    }
}

/* Ends the command and all that it started.  Returns its status as waitpid gives it. */
static int exec_end(struct exec *exec, double patience_s, bool *by_itself)
{
    pipe_close(&exec->input);
    *by_itself = exec_ends_within(exec, patience_s);
    kill(-exec->pid, SIGKILL);  // before the leader is reaped, so the number cannot be anybody else's
    int status = 0;
    while (waitpid(exec->pid, &status, 0) < 0 && errno == EINTR)
        ;
    for (int turns = 0; turns < 16; turns++)  // its last words
        errors_read(exec);
    pipe_close(&exec->output.fd);
    pipe_close(&exec->errors.fd);
    exec->pid = 0;
    return status;
}

/* exec_end where nothing is to be said about it. */
static void exec_leave(struct exec *exec, double patience_s)
{
    bool by_itself;
    size_t answers = exec->answers;
    exec_end(exec, patience_s, &by_itself);
    log_debug("exec \"%s\" ended after %zu answers", exec->options->exec, answers);
}

/* False: the program wants to leave. */
static bool exec_wait(struct exec *exec)
{
    double now = clock_s();
    if (exec->options->wait == NULL || now - exec->waited_s < turn_s)
        return true;
    exec->waited_s = now;
    return exec->options->wait(exec->options->wait_context);
}

/* ---- the dialogue ---- */

static void take_answer(void *context, const char *text, bool overlong)
{
    struct window *window = context;
    if (window->trouble[0] != '\0')
        return;
    char *end;
    double number = strtod(text, &end);
    bool is_number = end != text && end[strspn(end, " \t\r")] == '\0';
    size_t line = ++window->exec->answers;
    if (window->answered == window->count)
        snprintf(window->trouble, sizeof window->trouble, "printed more lines than it was given: line %zu is \"%.60s\"", line,
                 text);
    else if (overlong)
        snprintf(window->trouble, sizeof window->trouble, "printed a line longer than %d bytes: line %zu, \"%.60s...\"",
                 LINE_SIZE_MAX, line, text);
    else if (!is_number)
        snprintf(window->trouble, sizeof window->trouble, "printed what is no number: line %zu is \"%.60s\"", line, text);
    if (window->trouble[0] != '\0')
        return;
    struct scorer_result *result = window->items[window->answered++].result;
    result->status = SCORER_SCORED;
    result->score = number;
    if (!isfinite(number))
        scorer_fail(result, "the command's answer is not finite: line %zu is \"%.60s\"", line, text);
}

static void append_json(struct buffer *lines, const struct scorer_text *text)
{
    json_t *json = json_pack("{s:s,s:s}", "prompt", text->prompt, "response", text->response);
    CHECK(json != NULL);
    char *line = json_dumps(json, JSON_COMPACT);
    CHECK(line != NULL);
    buffer_printf(lines, "%s\n", line);
    free(line);
    json_decref(json);
}

static void window_send(struct window *window)
{
    struct exec *exec = window->exec;
    ssize_t n = write(exec->input, window->lines.data + window->sent_size, window->lines.size - window->sent_size);
    if (n > 0)
        window->sent_size += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR)
        pipe_close(&exec->input);  // it may still answer what it has read
}

/* Writes and reads what can be, waiting for it at most until the time given. */
static void window_turn(struct window *window, double until)
{
    struct exec *exec = window->exec;
    double left_s = until - clock_s();
    struct pollfd fds[] = {
        { .fd = window->sent_size < window->lines.size ? exec->input : -1, .events = POLLOUT },
        { .fd = exec->output.fd, .events = POLLIN },
        { .fd = exec->errors.fd, .events = POLLIN },
    };
    if (poll(fds, COUNT_OF(fds), left_s > 0 ? (int)(1000 * fmin(left_s, turn_s)) + 1 : 0) <= 0)
        return;
    if (fds[2].revents != 0)
        errors_read(exec);
    if (fds[0].revents != 0)
        window_send(window);
    if (fds[1].revents != 0)
        window->closed = !lines_read(&exec->output, take_answer, window);
}

/* Sends all of the window and reads its answers. */
static enum outcome window_run(struct window *window)
{
    struct exec *exec = window->exec;
    double timeout_s = exec->options->timeout_s, answered_s = clock_s();
    while (!window->closed && window->answered < window->count && window->trouble[0] == '\0') {
        size_t before = window->answered;
        window_turn(window, answered_s + timeout_s);
        if (window->answered > before)
            answered_s = clock_s();
        else if (clock_s() - answered_s >= timeout_s)
            snprintf(window->trouble, sizeof window->trouble, "gave no answer within %g s (--timeout)", timeout_s);
        if (!exec_wait(exec))
            return OUTCOME_LEFT;
    }
    double silent_until = clock_s() + (window->careful ? silence_careful_s : silence_s);
    while (!window->closed && window->trouble[0] == '\0') {
        window_turn(window, silent_until);
        if (clock_s() >= silent_until)
            break;
    }
    return window->trouble[0] == '\0' && window->answered == window->count ? OUTCOME_DONE : OUTCOME_TROUBLE;
}

/* Ends the command after a trouble and says which in window->trouble.  False when there is no use in starting it again. */
static bool trouble_end(struct window *window)
{
    struct exec *exec = window->exec;
    bool by_itself, ended = window->trouble[0] == '\0', hopeless = false;
    int status = exec_end(exec, ended ? 0.5 : 0, &by_itself);
    if (ended) {
        char how[64] = "closed its output";
        if (by_itself && WIFEXITED(status))
            snprintf(how, sizeof how, "ended with status %d", WEXITSTATUS(status));
        else if (by_itself)
            snprintf(how, sizeof how, "was killed by signal %d", WTERMSIG(status));
        bool spoke = exec->last_error[0] != '\0';
        snprintf(window->trouble, sizeof window->trouble, "%s after %zu answers%s%.150s", how, exec->answers, spoke ? ": " : "",
                 exec->last_error);
        hopeless = by_itself && exec->answers == 0 && WIFEXITED(status) &&
                   (WEXITSTATUS(status) == SHELL_NO_EXEC || WEXITSTATUS(status) == SHELL_NOT_FOUND);
    }
    log_error("exec \"%s\" %s", exec->options->exec, window->trouble);
    if (!ended && exec->answers == 0 && exec->troubles == 0)
        log_hint("it must print one number a line for each line it reads, and flush it at once (python3 -u, stdbuf -oL); "
                 "anything else belongs on standard error");
    return !hopeless && ++exec->troubles < troubles_max;
}

/* Waits longer the more troubles there were.  False: the program wants to leave. */
static bool back_off(struct exec *exec)
{
    if (exec->troubles < 2)
        return true;
    double until = clock_s() + fmin(backoff_first_s * (1 << (exec->troubles - 2)), backoff_max_s), left_s;
    while ((left_s = until - clock_s()) > 0) {
        poll(NULL, 0, (int)(1000 * fmin(left_s, turn_s)) + 1);
        if (!exec_wait(exec))
            return false;
    }
    return true;
}

/* Lines that came after the answers of an earlier call, whose scores are given away: nothing can be trusted then.  0 or -1. */
static int idle_check(struct exec *exec)
{
    struct window none = { .exec = exec };
    window_turn(&none, 0);
    if (none.trouble[0] != '\0') {
        log_error("exec \"%s\" %s", exec->options->exec, none.trouble);
        log_error("its earlier scores may belong to other responses than was thought");
        exec->troubles = troubles_max;
        return -1;
    }
    if (none.closed)
        exec_leave(exec, 0);
    return 0;
}

/*
 * Scores the window [*done, *done + count) and advances *done past what is decided.  Those below *careful_end go one by one.
 * -1 when the command is at fault for good.
 */
static int window_score(struct exec *exec, struct item *items, size_t *done, size_t count, size_t *careful_end, bool *leave)
{
    bool careful = exec->answers == 0 || *done < *careful_end;
    if (careful)
        count = 1;
    struct window window = { .exec = exec, .items = items + *done, .count = count, .careful = careful };
    for (size_t i = 0; i < count; i++)
        append_json(&window.lines, window.items[i].text);
    enum outcome outcome = window_run(&window);
    free(window.lines.data);
    if (outcome == OUTCOME_DONE) {
        if (window.closed)  // it has answered all, but ends after every so many
            exec_leave(exec, leave_s);
        exec->troubles = 0;
        *done += count;
        return 0;
    }
    for (size_t i = 0; i < count; i++)
        *window.items[i].result = (struct scorer_result){ .status = SCORER_LEFT };
    if (outcome == OUTCOME_LEFT) {
        exec_leave(exec, 0);
        *leave = true;
        return 0;
    }
    bool useful = trouble_end(&window);
    size_t suspect = window.answered < count ? window.answered : 0;
    if (++window.items[suspect].tries >= tries_max && count == 1) {
        scorer_fail(window.items[0].result, "the command %s", window.trouble);
        ++*done;
    }
    if (*careful_end < *done + count)
        *careful_end = *done + count;
    *leave = useful && !back_off(exec);
    return useful ? 0 : -1;
}

static int exec_score(void *state, const struct scorer_text *texts, size_t count, struct scorer_result *results)
{
    struct exec *exec = state;
    struct item *items = memory_alloc(count, sizeof *items);
    size_t item_count = 0, done = 0, clean_end = 0, careful_end = 0;
    for (size_t i = 0; i < count; i++) {
        if (utf8_is_valid(texts[i].prompt, strlen(texts[i].prompt)) && utf8_is_valid(texts[i].response, strlen(texts[i].response)))
            items[item_count++] = (struct item){ .text = &texts[i], .result = &results[i] };
        else
            scorer_fail(&results[i], "the text is not UTF-8");
    }
    int status = exec->troubles >= troubles_max || (exec->pid != 0 && idle_check(exec) != 0) ? -1 : 0;
    bool leave = false;
    while (status == 0 && !leave && done < item_count) {
        if (exec->pid == 0 && exec_start(exec) != 0) {
            status = -1;
            break;
        }
        status = window_score(exec, items, &done, item_count - done, &careful_end, &leave);
        if (exec->troubles == 0)
            clean_end = done;
    }
    if (status != 0) {
        log_error("cannot score with \"%s\": it is of no use any more", exec->options->exec);
        for (size_t i = clean_end; i < done; i++)  // failed for the command's fault, not for theirs
            *items[i].result = (struct scorer_result){ .status = SCORER_LEFT };
    }
    free(items);
    return status;
}

/* ---- the backend ---- */

static const char *exec_source(const struct scorer_options *options)
{
    return options->exec;
}

static void *exec_open(const struct scorer_options *options, int *code)
{
    if (options->exec[0] == '\0' || !utf8_is_valid(options->exec, strlen(options->exec))) {
        log_error("--exec is %s", options->exec[0] == '\0' ? "empty" : "not UTF-8");
        *code = EX_USAGE;
        return NULL;
    }
    signal(SIGPIPE, SIG_IGN);  // a command that does not read is no reason to end
    struct exec *exec = memory_alloc(1, sizeof *exec);
    *exec = (struct exec){ .options = options, .input = -1, .output.fd = -1, .errors.fd = -1 };
    return exec;
}

static void exec_close(void *state)
{
    struct exec *exec = state;
    if (exec->pid != 0)
        idle_check(exec);
    if (exec->pid != 0)
        exec_leave(exec, leave_s);
    free(exec);
}

static void exec_describe(const void *state, json_t *spec)
{
    const struct exec *exec = state;
    json_object_set_new(spec, "command", json_string(exec->options->exec));
}

const struct scorer_backend scorer_exec = {
    .kind = "exec",
    .source = exec_source,
    .open = exec_open,
    .close = exec_close,
    .describe = exec_describe,
    .score = exec_score,
};
