/*
 * bench_store.c - outputs per second of the store's process with small outputs, and how it scans a large store.
 *
 *     BIN=bin build/tests/bench/bench_store [PROMPTS [SAMPLES]]      (default 20000, 5)
 *
 * One tokenize worker gives the prompts, two rollout workers and one reward worker answer everything at once with a few
 * tokens; the rates are of whole round trips, committed with synchronous=FULL.  Then the finished store is opened again:
 * how long until a worker of a key that lacks nothing, and one of a key that lacks all, have their answer.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "base/stop.h"
#include "wire/edge.h"

static char endpoint[128];

static struct edge *worker_open(const char *stage, const char *settings, enum frame_type takes, bool source)
{
    int code;
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = stage, .settings = settings, .takes = takes,
                                      .takes_nothing = source, .hold_max = 1024 }, &code);
    if (edge == NULL)
        exit(code);
    return edge;
}

static int run_tokenize(long prompts)
{
    struct edge *edge = worker_open("tokenize", "{\"tokenizer\":\"T\"}", FRAME_prompt, true);
    for (long i = 0; i < prompts; i++) {
        char key[32];
        snprintf(key, sizeof key, "%ld", i);
        struct frame frame = frame_make(FRAME_prompt);
        frame.prompt.prompt_key = frame.prompt.prompt = key;
        frame.prompt.tokenizer = "T";
        frame.prompt.split = "train";
        frame.prompt.prompt_tokens = (struct tokens){ (int32_t[]){ 1, 2, 3, 4 }, 4 };
        edge_give(edge, &frame);
    }
    return edge_close(edge, EDGE_END);
}

static void answer(struct edge *edge, const struct frame *item)
{
    static const int32_t tokens[16] = { 5 };
    struct frame frame = *item;
    if (item->type == FRAME_prompt) {
        frame.type = FRAME_rollout;
        frame.rollout.policy = "base";
        frame.rollout.response = "a short response";
        frame.rollout.response_tokens = (struct tokens){ tokens, 16 };
        frame.rollout.logprobs = (struct floats){ NULL, 0 };
        frame.rollout.stopped = 1;
        frame.rollout.kl = 0;
    } else {
        frame.type = FRAME_scored;
        frame.scored.reward = "w";
        frame.scored.score = 1;
        frame.scored.run = "";
        frame.scored.batch = frame.scored.step = -1;
        frame.scored.batch_size = frame.scored.batches = 0;
    }
    edge_give(edge, &frame);
}

static int run_worker(const char *stage, const char *settings, enum frame_type takes)
{
    struct edge *edge = worker_open(stage, settings, takes, false);
    struct batch batch;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, 256, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < batch.count; i++)
            answer(edge, &batch.frames[i]);
        edge_done(edge, &batch);
    }
    return edge_close(edge, status);
}

static double hello_s(const char *stage, const char *settings, enum frame_type takes)
{
    double start_s = clock_s();
    struct edge *edge = worker_open(stage, settings, takes, false);
    struct batch batch;
    if (edge_take(edge, &batch, 1, true) == EDGE_BATCH)
        edge_done(edge, &batch);
    double taken_s = clock_s() - start_s;
    edge_close(edge, EDGE_STOPPED);
    return taken_s;
}

static pid_t store_start(const char *path)
{
    const char *bin = getenv("BIN");
    char program[256];
    snprintf(program, sizeof program, "%s/store", bin ? bin : "bin");
    pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, "serve", "--db", path, "--listen", endpoint, "-q", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void rate(const char *what, long count, double start_s)
{
    double taken_s = clock_s() - start_s;
    printf("%-10s %8ld in %6.2f s  %8.0f/s\n", what, count, taken_s, (double)count / taken_s);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    long prompts = argc > 1 ? atol(argv[1]) : 20000, samples = argc > 2 ? atol(argv[2]) : 5;
    char directory[] = "/tmp/bench_store.XXXXXX", path[64], settings[128], command[64];
    log_open("bench", -1);
    stop_install();
    if (mkdtemp(directory) == NULL)
        return EX_OSERR;
    snprintf(path, sizeof path, "%s/s.db", directory);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/sock", directory);
    snprintf(settings, sizeof settings, "{\"policy\":\"base\",\"spec\":{},\"samples\":%ld,\"split\":\"train\"}", samples);
    pid_t store = store_start(path);

    double start_s = clock_s();
    run_tokenize(prompts);
    rate("prompts", prompts, start_s);
    start_s = clock_s();
    pid_t other = fork();
    if (other == 0)
        _exit(run_worker("rollout", settings, FRAME_prompt));
    run_worker("rollout", settings, FRAME_prompt);
    waitpid(other, NULL, 0);
    rate("rollouts", prompts * samples, start_s);
    start_s = clock_s();
    run_worker("reward", "{\"reward\":\"w\",\"spec\":{}}", FRAME_rollout);
    rate("scores", prompts * samples, start_s);

    kill(store, SIGKILL);
    waitpid(store, NULL, 0);
    store = store_start(path);
    printf("after a kill: nothing missing %.2f s\n", hello_s("rollout", settings, FRAME_prompt));
    printf("all missing %.2f s, first scores %.2f s\n",
           hello_s("rollout", "{\"policy\":\"p2\",\"spec\":{},\"samples\":4,\"split\":\"train\"}", FRAME_prompt),
           hello_s("reward", "{\"reward\":\"w2\",\"spec\":{}}", FRAME_rollout));
    kill(store, SIGTERM);
    waitpid(store, NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command) == 0 ? EX_OK : EX_OSERR;
}
