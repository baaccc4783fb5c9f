/*
 * bench_store.c - outputs per second of the store's process with small outputs, and how it answers when it holds many.
 *
 *     BIN=bin build/tests/bench/bench_store [PROMPTS [SAMPLES]]      (default 20000, 5)
 *     BIN=bin build/tests/bench/bench_store large [ROLLOUTS]         (default 10000000: 1.1 GB in TMPDIR, some minutes to make)
 *
 * First: one tokenize worker gives the prompts, two rollout workers and one reward worker answer everything at once with a few
 * tokens; the rates are of whole round trips, committed with synchronous=FULL.  Rates
 * for each second of the store's processor do not depend on what else the machine does.
 *
 * Large: 8 samples of each prompt, all but a hundredth scored.  How long from the start of 'store serve' until a worker of each
 * kind has its first item, or knows that there is none; until a run over all training prompts is planned; how long 'store status'
 * takes; and the memory of both.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "base/stop.h"
#include "wire/edge.h"
#include "../unit/big_store.h"

static char directory[128], path[160], endpoint[192];

static struct edge *worker_open(const char *stage, const char *settings, enum frame_type takes, bool source)
{
    int code;
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = stage, .settings = settings,
                                      .takes = takes, .takes_nothing = source, .hold_max = 1024 }, &code);
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

static pid_t program_start(const char *command, const char *option, const char *value, int out)
{
    const char *bin = getenv("BIN");
    char program[256];
    snprintf(program, sizeof program, "%s/store", bin ? bin : "bin");
    pid_t pid = fork();
    if (pid == 0) {
        if (out >= 0)
            dup2(out, STDOUT_FILENO);
        execl(program, program, command, "--db", path, option, value, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* Processor time of a process so far, of all its threads. */
static double processor_s(pid_t pid)
{
    clockid_t clock;
    struct timespec used = { 0 };
    if (clock_getcpuclockid(pid, &clock) == 0)
        clock_gettime(clock, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

struct measure {
    pid_t store;
    double start_s, processor_s;
};

static struct measure measure_start(pid_t store)
{
    return (struct measure){ store, clock_s(), processor_s(store) };
}

static void measure_print(const struct measure *measure, const char *what, long count)
{
    double taken_s = clock_s() - measure->start_s, used_s = processor_s(measure->store) - measure->processor_s;
    printf("%-10s %8ld in %6.2f s  %8.0f/s, %8.0f for each second of the store's processor\n", what, count, taken_s,
           (double)count / taken_s, (double)count / used_s);
    fflush(stdout);
}

static pid_t store_start(void)
{
    return program_start("serve", "--listen", endpoint, -1);
}

static void store_stop(pid_t store, int signal_number)
{
    kill(store, signal_number);
    waitpid(store, NULL, 0);
}

static void bench_rates(long prompts, long samples)
{
    char settings[128];
    snprintf(settings, sizeof settings, "{\"policy\":\"base\",\"spec\":{},\"samples\":%ld,\"split\":\"train\"}", samples);
    pid_t store = store_start();
    struct measure measure = measure_start(store);
    run_tokenize(prompts);
    measure_print(&measure, "prompts", prompts);
    measure = measure_start(store);
    pid_t other = fork();
    if (other == 0)
        _exit(run_worker("rollout", settings, FRAME_prompt));
    run_worker("rollout", settings, FRAME_prompt);
    waitpid(other, NULL, 0);
    measure_print(&measure, "rollouts", prompts * samples);
    measure = measure_start(store);
    run_worker("reward", "{\"reward\":\"w\",\"spec\":{}}", FRAME_rollout);
    measure_print(&measure, "scores", prompts * samples);
    store_stop(store, SIGTERM);
}

/* ---- a large store ---- */

/* The memory that the process had at most, MB. */
static double memory_max_mb(pid_t pid)
{
    char name[64], line[128];
    double kb = 0;
    snprintf(name, sizeof name, "/proc/%ld/status", (long)pid);
    FILE *file = fopen(name, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "VmHWM: %lf", &kb);
    if (file != NULL)
        fclose(file);
    return kb / 1000;
}

/* From the start of a store that was killed to the first item of a worker of these settings. */
static void first_item(const char *what, const char *stage, const char *settings, enum frame_type takes)
{
    double start_s = clock_s();
    pid_t store = store_start();
    struct edge *edge = worker_open(stage, settings, takes, false);
    double welcome_s = clock_s() - start_s;
    struct batch batch;
    enum edge_status status = edge_take(edge, &batch, 1, true);
    printf("%-36s welcome %5.2f s, %-14s %5.2f s, missing %lld, store %.0f MB\n", what, welcome_s,
           status == EDGE_BATCH ? "first item" : "nothing to do", clock_s() - start_s, (long long)edge_missing(edge),
           memory_max_mb(store));
    fflush(stdout);
    if (status == EDGE_BATCH)
        edge_done(edge, &batch);
    edge_close(edge, EDGE_STOPPED);
    store_stop(store, SIGKILL);
}

static void plan_run(void)
{
    pid_t store = store_start();
    const char *target = "{\"run\":\"r\","
                         "\"target\":{\"reward\":\"w\",\"policy\":\"base\",\"split\":\"train\","
                         "\"lambda\":1,\"gamma\":1,\"refresh\":100}}";
    const char *train = "{\"run\":\"r\",\"train\":{\"batch\":64,\"epochs\":2,\"updates\":1,\"refresh\":100,\"seed\":1}}";
    struct edge *valuer = worker_open("value-target", target, FRAME_scored, false);
    double start_s = clock_s();
    struct edge *trainer = worker_open("train", train, FRAME_target, false);
    printf("%-36s %5.2f s, missing %lld batches", "a run over all of it is planned", clock_s() - start_s,
           (long long)edge_missing(trainer));
    struct batch batch;
    start_s = clock_s();
    if (edge_take(valuer, &batch, 1, true) == EDGE_BATCH)
        edge_done(valuer, &batch);
    printf(", first item %.2f s later, store %.0f MB\n", clock_s() - start_s, memory_max_mb(store));
    edge_close(trainer, EDGE_STOPPED);
    edge_close(valuer, EDGE_STOPPED);
    store_stop(store, SIGTERM);
}

static void bench_large(long rollouts)
{
    enum { SAMPLES = 8 };
    int code;
    double start_s = clock_s();
    pid_t maker = fork();  // so that its memory is not counted as that of programs that are started later
    if (maker == 0) {
        struct db *db = db_open(path, DB_SERVE, &code);
        if (db == NULL || big_store_fill(db, rollouts / SAMPLES, SAMPLES) != 0)
            _exit(EX_IOERR);
        db_close(db);
        _exit(0);
    }
    if (waitpid(maker, &code, 0) != maker || code != 0)
        exit(EX_IOERR);
    printf("made in %.0f s, with %ld rollouts\n", clock_s() - start_s, rollouts);

    first_item("base has all samples", "rollout", "{\"policy\":\"base\",\"spec\":{},\"samples\":8,\"split\":\"train\"}",
               FRAME_prompt);
    first_item("base lacks a ninth", "rollout", "{\"policy\":\"base\",\"spec\":{},\"samples\":9,\"split\":\"train\"}",
               FRAME_prompt);
    first_item("a policy lacks everything", "rollout", "{\"policy\":\"p\",\"spec\":{},\"samples\":8,\"split\":\"train\"}",
               FRAME_prompt);
    first_item("w lacks the last hundredth", "reward", "{\"reward\":\"w\",\"spec\":{}}", FRAME_rollout);
    first_item("w lacks it of one policy and split", "reward",
               "{\"reward\":\"w\",\"spec\":{},\"policy\":\"base\",\"split\":\"eval\"}", FRAME_rollout);
    first_item("a reward lacks everything", "reward", "{\"reward\":\"v\",\"spec\":{}}", FRAME_rollout);
    plan_run();

    pid_t store = store_start();
    struct edge *edge = worker_open("tokenize", "{\"tokenizer\":\"T\"}", FRAME_prompt, true);
    int nowhere = open("/dev/null", O_WRONLY);
    start_s = clock_s();
    struct rusage usage;
    pid_t status = program_start("status", "--json", NULL, nowhere);
    if (wait4(status, &code, 0, &usage) != status || code != 0)
        exit(EX_SOFTWARE);
    printf("%-36s %5.2f s, %.0f MB\n", "status of a store that serves", clock_s() - start_s, (double)usage.ru_maxrss / 1000);
    close(nowhere);
    edge_close(edge, EDGE_END);
    store_stop(store, SIGTERM);
}

int main(int argc, char **argv)
{
    bool large = argc > 1 && strcmp(argv[1], "large") == 0;
    const char *temporary = getenv("TMPDIR");
    char command[160];
    log_open("bench", -1);
    stop_install();
    snprintf(directory, sizeof directory, "%.100s/bench_store.XXXXXX", temporary ? temporary : "/tmp");
    if (mkdtemp(directory) == NULL)
        return EX_OSERR;
    snprintf(path, sizeof path, "%s/s.db", directory);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/sock", directory);
    if (large)
        bench_large(argc > 2 ? atol(argv[2]) : 10000000);
    else
        bench_rates(argc > 1 ? atol(argv[1]) : 20000, argc > 2 ? atol(argv[2]) : 5);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command) == 0 ? EX_OK : EX_OSERR;
}
