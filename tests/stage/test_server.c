/*
 * test_server.c - the store's process over a real socket: workers of every stage with small made-up outputs, while the
 * store and they are killed.  What is in the store in the end must not show it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"
#include "store/content.h"
#include "store/db.h"
#include "wire/edge.h"

enum { PROMPTS = 60, SAMPLES = 3, BATCH = 16, EPOCHS = 2, UPDATES = 1, REFRESH = 2, STAGES = 5 };

static char directory[64], path[96], endpoint[128];

/* ---- workers: each a process, each output a pure function of its key ---- */

static int32_t mix(const char *key, int64_t sample)
{
    uint32_t hash = 2166136261u + (uint32_t)sample;
    for (; *key != '\0'; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    return (int32_t)(hash >> 8);
}

static struct edge *worker_open(const char *stage, const char *settings, enum frame_type takes, bool source, size_t hold)
{
    int code;
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = stage, .settings = settings,
                                      .takes = takes, .takes_nothing = source, .hold_max = hold,
                                      .follow = strcmp(stage, "reward") == 0
                                      || strcmp(stage, "rollout") == 0 }, &code);
    if (edge == NULL)
        exit(code);
    return edge;
}

static int run_tokenize(void)
{
    struct edge *edge = worker_open("tokenize", "{\"tokenizer\":\"T\"}", FRAME_prompt, true, 1);
    for (int i = 0; i < PROMPTS; i++) {
        char key[24];
        snprintf(key, sizeof key, "prompt %d", i);
        struct frame frame = frame_make(FRAME_prompt);
        frame.prompt.prompt_key = frame.prompt.prompt = key;
        frame.prompt.tokenizer = "T";
        frame.prompt.split = "train";
        frame.prompt.prompt_tokens = (struct tokens){ (int32_t[]){ 1, i }, 2 };
        if (edge_give(edge, &frame) != 0)
            return EX_IOERR;
    }
    return edge_close(edge, EDGE_END);
}

static int give_rollout(struct edge *edge, const struct frame *item)
{
    int32_t tokens[4];
    for (int i = 0; i < 4; i++)
        tokens[i] = mix(item->prompt.prompt_key, item->prompt.sample) % 1000 + i;
    struct frame frame = *item;
    frame.type = FRAME_rollout;
    frame.rollout.policy = "base";
    frame.rollout.response = "made up";
    frame.rollout.response_tokens = (struct tokens){ tokens, 4 };
    frame.rollout.logprobs = (struct floats){ (float[]){ -1, -2, -3, -4 }, 4 };
    frame.rollout.stopped = 1;
    frame.rollout.kl = NAN;
    return edge_give(edge, &frame);
}

static int give_score(struct edge *edge, const struct frame *item)
{
    struct frame frame = *item;
    frame.type = FRAME_scored;
    frame.scored.reward = "w";
    frame.scored.score = item->rollout.response_tokens.at[0] / 1000.0;
    frame.scored.run = "";
    frame.scored.batch = frame.scored.step = -1;
    frame.scored.batch_size = frame.scored.batches = 0;
    return edge_give(edge, &frame);
}

static int give_target(struct edge *edge, const struct frame *item)
{
    float score = (float)item->scored.score + (float)item->scored.step;  // shows which snapshot was meant
    struct frame frame = *item;
    frame.type = FRAME_target;
    frame.target.state_tokenizer = "";
    frame.target.values = (struct floats){ (float[]){ score, 0, 0, 0, 0 }, 5 };
    frame.target.targets = (struct floats){ (float[]){ score, score, score, score, score }, 5 };
    return edge_give(edge, &frame);
}

static int run_worker(const char *stage, const char *settings, enum frame_type takes, size_t hold,
                      int (*give)(struct edge *edge, const struct frame *item))
{
    struct edge *edge = worker_open(stage, settings, takes, false, hold);
    struct batch batch;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, 8, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < batch.count; i++)
            if (give(edge, &batch.frames[i]) != 0)
                return EX_IOERR;
        edge_done(edge, &batch);
    }
    return edge_close(edge, status);
}

/* A "model" of two numbers: updates so far, and a running product of everything trained on, in order. */
struct model {
    int64_t step;
    uint64_t content;
};

static int give_model(struct edge *edge, const struct model *model, const char *kind, int64_t batch, bool final)
{
    struct buffer content = { 0 };
    buffer_append(&content, model, sizeof *model);
    return edge_give_checkpoint(edge, "r", model->step, batch, kind, final, &content);
}

static int train_on(struct edge *edge, struct model *model, const struct frame_target *target, int64_t *filled, int64_t *next)
{
    if (target->batch != *next)
        return 0;
    model->content = model->content * 6364136223846793005u + (uint64_t)(target->targets.at[0] * 1000)
        + (uint64_t)mix(target->prompt_key, target->sample);
    if (++*filled < target->batch_size)
        return 0;
    *filled = 0;
    ++*next;
    model->step += UPDATES;
    bool last = *next == target->batches;
    struct frame metric = frame_make(FRAME_metric);
    metric.metric.subject = "r";
    metric.metric.step = model->step;
    metric.metric.numbers = "{\"loss\":0.5}";
    if (edge_give(edge, &metric) != 0)
        return -1;
    if ((last || model->step % REFRESH == 0) && give_model(edge, model, "weights", *next, last) != 0)
        return -1;
    return last || model->step % 4 == 0 ? give_model(edge, model, "full", *next, last) : 0;
}

static int run_train(void)
{
    struct edge *edge = worker_open("train",
                                    "{\"run\":\"r\",\"train\":{\"batch\":16,\"epochs\":2,\"updates\":1,\"refresh\":2,\"seed\":5}}",
                                    FRAME_target, false, 2 * BATCH);
    struct model model = { .content = 1 };
    int64_t filled = 0, next = 0, found;
    struct buffer content = { 0 };
    int fetched = edge_fetch(edge, "r", -1, "full", &content, &found);
    if (fetched < 0)
        return EX_IOERR;
    if (fetched == 0) {
        memcpy(&model, content.data, sizeof model);
        next = model.step / UPDATES;
    } else if (give_model(edge, &model, "weights", 0, false) != 0) {
        return EX_IOERR;
    }
    struct batch batch;
    enum edge_status status;
    while ((status = edge_take(edge, &batch, BATCH, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < batch.count; i++)
            if (train_on(edge, &model, &batch.frames[i].target, &filled, &next) != 0)
                return EX_IOERR;
        edge_done(edge, &batch);
    }
    return edge_close(edge, status);
}

static int run_stage(int stage)
{
    switch (stage) {
    case 0: return run_tokenize();
    case 1: return run_worker("rollout", "{\"policy\":\"base\",\"spec\":{\"tokenizer\":\"T\"},\"samples\":3,\"split\":\"train\"}",
                              FRAME_prompt, 16, give_rollout);
    case 2: return run_worker("reward", "{\"reward\":\"w\",\"spec\":{}}", FRAME_rollout, 16, give_score);
    case 3: return run_worker("value-target", "{\"run\":\"r\",\"target\":{\"reward\":\"w\",\"policy\":\"base\",\"split\":\"train\","
                              "\"lambda\":0.95,\"gamma\":1,\"refresh\":2}}", FRAME_scored, 16, give_target);
    default: return run_train();
    }
}

/* ---- processes ---- */

static pid_t store_start(void)
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

static pid_t stage_start(int stage)
{
    pid_t pid = fork();
    if (pid == 0) {
        log_open("worker", -1);
        stop_install();
        _exit(run_stage(stage));
    }
    return pid;
}

static void sleep_ms(int ms)
{
    struct timespec span = { .tv_nsec = ms * 1000000L };
    nanosleep(&span, NULL);
}

static void kill_hard(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* The whole pipeline from nothing; kills > 0: so many deaths on the way.  The digest of what is stored, "" when it did not end. */
static void run_pipeline(int kills, char hex[DIGEST_HEX_SIZE])
{
    hex[0] = '\0';
    unlink(path);
    pid_t store = store_start(), workers[STAGES];
    bool done[STAGES] = { false };
    double end_s = clock_s() + 180;  // a tokenize whose bye was lost counts for 60 s
    for (int i = 0; i < STAGES; i++)
        workers[i] = stage_start(i);
    unsigned random = 12345;
    while ((!done[0] || !done[3] || !done[4]) && clock_s() < end_s) {
        sleep_ms(20);
        for (int i = 0; i < STAGES; i++) {
            int status;
            if (done[i] || waitpid(workers[i], &status, WNOHANG) != workers[i])
                continue;
            done[i] = WIFEXITED(status) && WEXITSTATUS(status) == 0;
            if (!done[i])
                workers[i] = stage_start(i);
        }
        random = random * 1103515245u + 12345u;
        unsigned victim = (random >> 16) % (STAGES + 1);
        if (kills == 0)
            continue;
        kills--;
        if (victim == STAGES) {
            kill_hard(store);
            store = store_start();
        } else if (!done[victim]) {
            kill_hard(workers[victim]);
            workers[victim] = stage_start((int)victim);
        }
    }
    for (int i = 0; i < STAGES; i++)
        if (!done[i])
            kill_hard(workers[i]);
    kill(store, SIGTERM);
    int status, code;
    waitpid(store, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT(done[0] && done[3] && done[4]);
    struct db *db = db_open(path, DB_READ, &code);
    EXPECT(db != NULL);
    EXPECT_INT(content_digest(db, hex), 0);
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM rollout", ""), 0), PROMPTS * SAMPLES);
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM target", ""), 0), PROMPTS * SAMPLES * EPOCHS);
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM failure", ""), -1), 0);
    db_close(db);
}

/* Goal: the same content, whether nobody or the store and its workers died on the way. */
static void test_kills_leave_no_trace(void)
{
    char calm[DIGEST_HEX_SIZE], stormy[DIGEST_HEX_SIZE];
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/calm.db", directory);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/sock", directory);
    run_pipeline(0, calm);
    snprintf(path, sizeof path, "%s/stormy.db", directory);
    run_pipeline(40, stormy);
    EXPECT_TEXT(stormy, calm);
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    EXPECT_INT(system(command), 0);
}

int main(void)
{
    RUN(test_kills_leave_no_trace);
    return tests_end();
}
