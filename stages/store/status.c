/* status.c - see status.h. */
#include "store/status.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "store/read.h"

enum { FAILURES_SHOWN = 10, WORKERS_SHOWN = 4096 };

static const char *const effort_names[EFFORT_COUNT] = {
    [EFFORT_COMPUTE] = "compute_s", [EFFORT_WAIT] = "wait_s", [EFFORT_WIRE] = "wire_s", [EFFORT_OTHER] = "other_s",
};

/* ---- what the file knows ---- */

static json_t *stage_add(json_t *stages, const char *stage, const char *key, const char *split, int64_t done, int64_t missing,
                         int64_t failed)
{
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:I}", "stage", stage, "key", key, "done", (json_int_t)done, "missing",
                             (json_int_t)(missing > 0 ? missing : 0), "failed", (json_int_t)failed);
    CHECK(line != NULL);  // names are UTF-8
    if (split[0] != '\0')
        json_object_set_new(line, "split", json_string(split));
    json_array_append_new(stages, line);
    return line;
}

static int read_prompts(struct db *db, json_t *stages)
{
    struct read *rows = read_splits(db);
    struct read_split split;
    while (read_split_next(rows, &split))
        stage_add(stages, "tokenize", "prompts", split.split, split.prompts, 0, 0);
    return read_end(rows);
}

/* rollouts: of all policies. */
static int read_samples(struct db *db, json_t *stages, int64_t *rollouts)
{
    struct read *rows = read_policies(db);
    struct read_policy policy;
    while (read_policy_next(rows, &policy)) {
        stage_add(stages, "rollout", policy.name, policy.split, policy.rollouts, policy.missing, policy.failed);
        *rollouts += policy.rollouts;
    }
    return read_end(rows);
}

static int read_rewarded(struct db *db, json_t *stages, int64_t rollouts)
{
    struct read *rows = read_rewards(db);
    struct read_reward reward;
    while (read_reward_next(rows, &reward))
        stage_add(stages, "reward", reward.name, "", reward.scores, rollouts - reward.scores - reward.failed, reward.failed);
    return read_end(rows);
}

static int read_training(struct db *db, json_t *stages)
{
    struct read *rows = read_runs(db);
    struct read_run run;
    while (read_run_next(rows, &run)) {
        json_t *train = json_loads(run.train, 0, NULL);
        int64_t epochs = json_integer_value(json_object_get(train, "epochs"));
        json_decref(train);
        stage_add(stages, "value-target", run.name, "", run.targets, run.rollouts * epochs - run.targets - run.failed, run.failed);
        int64_t batch = run.batch > 0 ? run.batch : 0;
        json_t *line = stage_add(stages, "train", run.name, "", batch, run.batches - batch, 0);
        json_object_set_new(line, "step", json_integer(run.step));
        json_object_set_new(line, "final", json_boolean(run.final));
    }
    return read_end(rows);
}

static void seconds_add(json_t *line, const double seconds[EFFORT_COUNT])
{
    for (int i = 0; i < EFFORT_COUNT; i++)
        json_object_set_new(line, effort_names[i],
                            json_real(json_number_value(json_object_get(line, effort_names[i])) + seconds[i]));
}

static bool is_of(const json_t *line, const char *stage, const char *key)
{
    return strcmp(json_string_value(json_object_get(line, "stage")), stage) == 0
           && strcmp(json_string_value(json_object_get(line, "key")), key) == 0;
}

static json_t *effort_find(json_t *efforts, const char *stage, const char *key)
{
    for (size_t i = 0; i < json_array_size(efforts); i++)
        if (is_of(json_array_get(efforts, i), stage, key))
            return json_array_get(efforts, i);
    json_t *line = json_pack("{s:s, s:s}", "stage", stage, "key", key);
    json_array_append_new(efforts, line);
    return line;
}

static int read_stored_efforts(struct db *db, json_t *efforts)
{
    struct read *rows = read_efforts(db);
    struct read_effort effort;
    while (read_effort_next(rows, &effort))
        seconds_add(effort_find(efforts, effort.stage, effort.name), effort.seconds);
    return read_end(rows);
}

static int read_first_failures(struct db *db, json_t *failures)
{
    struct read *rows = read_failures(db);
    struct read_failure failure;
    while (json_array_size(failures) < FAILURES_SHOWN && read_failure_next(rows, &failure))
        json_array_append_new(failures, json_pack("{s:s, s:s, s:I, s:s}", "stage", failure.stage, "key", failure.name, "attempts",
                                                  (json_int_t)failure.attempts, "reason", failure.reason));
    return read_end(rows);
}

/* ---- what the desk knows ---- */

static void number_add(json_t *line, const char *name, double number)
{
    json_object_set_new(line, name, json_real(json_number_value(json_object_get(line, name)) + number));
}

static void count_add(json_t *line, const char *name, int64_t count)
{
    json_object_set_new(line, name, json_integer(json_integer_value(json_object_get(line, name)) + count));
}

/* The samples of a policy are one line, whether rollout or decode makes them; a reward is one line,
   whatever part of it a worker does. */
static bool works_at(const struct desk_worker *worker, const json_t *line)
{
    bool samples = strcmp(worker->stage, "rollout") == 0 || strcmp(worker->stage, "decode") == 0;
    const char *split = json_string_value(json_object_get(line, "split"));
    return is_of(line, samples ? "rollout" : worker->stage, worker->key)
        && (!samples || (split != NULL && strcmp(split, worker->split) == 0));
}

static json_t *worker_json(const struct desk_worker *worker)
{
    json_t *line = json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f}", "worker", worker->name, "stage", worker->stage, "key",
                             worker->key, "held", (json_int_t)worker->held, "outputs", (json_int_t)worker->outputs, "per_s",
                             worker->per_s, "silent_s", worker->silent_s);
    CHECK(line != NULL);
    if (worker->split[0] != '\0')
        json_object_set_new(line, "split", json_string(worker->split));
    seconds_add(line, worker->seconds);
    return line;
}

static void add_live(json_t *status, const struct desk *desk, double now_s)
{
    json_t *stages = json_object_get(status, "stages"), *workers = json_object_get(status, "workers"), *line;
    size_t i;
    json_array_foreach(stages, i, line) {
        count_add(line, "leased", 0);
        count_add(line, "workers", 0);
        number_add(line, "per_s", 0);
    }
    for (size_t w = 0; w < desk_worker_count(desk); w++) {
        struct desk_worker worker = desk_worker(desk, w, now_s);
        if (w < WORKERS_SHOWN)
            json_array_append_new(workers, worker_json(&worker));
        if (worker.key[0] != '\0')
            seconds_add(effort_find(json_object_get(status, "efforts"), worker.stage, worker.key), worker.unstored);
        json_array_foreach(stages, i, line) {
            if (!works_at(&worker, line))
                continue;
            count_add(line, "leased", (int64_t)worker.held);
            count_add(line, "workers", 1);
            number_add(line, "per_s", worker.per_s);
        }
    }
    json_array_foreach(stages, i, line) {
        double per_s = json_number_value(json_object_get(line, "per_s"));
        double missing = json_number_value(json_object_get(line, "missing"));
        if (per_s > 0 && missing > 0)
            json_object_set_new(line, "left_s", json_real(missing / per_s));
    }
}

json_t *status_read(struct db *db, const struct desk *desk, double now_s)
{
    json_t *stages = json_array(), *efforts = json_array(), *failures = json_array();
    struct buffer path = { 0 };  // JSON is UTF-8, a file's name may be anything
    utf8_append_repaired(&path, db_path(db), strlen(db_path(db)));
    buffer_append(&path, "", 1);
    json_t *status = json_pack("{s:s, s:b, s:o, s:[], s:o, s:o}", "db", path.data, "served", desk != NULL, "stages", stages,
                               "workers", "efforts", efforts, "failures", failures);
    free(path.data);
    int64_t rollouts = 0;
    if (status == NULL || read_prompts(db, stages) != 0 || read_samples(db, stages, &rollouts) != 0
        || read_rewarded(db, stages, rollouts) != 0
        || read_training(db, stages) != 0 || read_stored_efforts(db, efforts) != 0 || read_first_failures(db, failures) != 0) {
        json_decref(status);
        return NULL;
    }
    if (desk != NULL)
        add_live(status, desk, now_s);
    return status;
}

/* ---- the table ---- */

bool status_is_sound(const json_t *status)
{
    static const char *const lists[] = { "stages", "workers", "efforts", "failures" };
    for (size_t l = 0; l < COUNT_OF(lists); l++) {
        const json_t *list = json_object_get(status, lists[l]);
        if (!json_is_array(list))
            return false;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (!json_is_string(json_object_get(json_array_get(list, i), "stage"))
                || !json_is_string(json_object_get(json_array_get(list, i), "key")))
                return false;
    }
    return json_is_string(json_object_get(status, "db"));
}

static const char *text_of(const json_t *line, const char *name)
{
    const char *text = json_string_value(json_object_get(line, name));
    return text != NULL ? text : "";
}

static long long int_of(const json_t *line, const char *name)
{
    return json_integer_value(json_object_get(line, name));
}

static double number_of(const json_t *line, const char *name)
{
    return json_number_value(json_object_get(line, name));
}

static void print_rate(struct buffer *out, const json_t *line)
{
    double per_s = number_of(line, "per_s");
    buffer_printf(out, " %8.*f/s", per_s < 10 ? 2 : 0, per_s);
}

static void print_stages(struct buffer *out, const json_t *stages, bool served)
{
    buffer_printf(out, "%-13s %-32s %-12s %10s %10s %8s", "stage", "key", "split", "done", "missing", "failed");
    buffer_printf(out, "%s\n", served ? "   leased  workers       rate     left" : "");
    for (size_t i = 0; i < json_array_size(stages); i++) {
        const json_t *line = json_array_get(stages, i);
        buffer_printf(out, "%-13s %-32s %-12s %10lld %10lld %8lld", text_of(line, "stage"), text_of(line, "key"),
                      text_of(line, "split"), int_of(line, "done"), int_of(line, "missing"), int_of(line, "failed"));
        if (json_object_get(line, "workers") != NULL) {
            buffer_printf(out, " %8lld %8lld", int_of(line, "leased"), int_of(line, "workers"));
            if (int_of(line, "workers") > 0)
                print_rate(out, line);
            if (json_object_get(line, "left_s") != NULL) {
                char left[16];
                duration_text(left, number_of(line, "left_s"));
                buffer_printf(out, " %8s", left);
            }
        }
        if (json_object_get(line, "step") != NULL && int_of(line, "step") >= 0)
            buffer_printf(out, "  step %lld%s", int_of(line, "step"),
                          json_is_true(json_object_get(line, "final")) ? ", final" : "");
        buffer_printf(out, "\n");
    }
}

static void print_effort(struct buffer *out, const json_t *line)
{
    double total = 0;
    for (int i = 0; i < EFFORT_COUNT; i++)
        total += number_of(line, effort_names[i]);
    double percent = total > 0 ? 100 / total : 0;
    static const enum effort shown[] = { EFFORT_COMPUTE, EFFORT_WAIT, EFFORT_WIRE, EFFORT_OTHER };
    for (size_t i = 0; i < COUNT_OF(shown); i++)
        buffer_printf(out, " %6.1f %%", percent * number_of(line, effort_names[shown[i]]));
    buffer_printf(out, "\n");
}

static void print_workers(struct buffer *out, const json_t *workers)
{
    if (json_array_size(workers) == 0)
        return;
    buffer_printf(out, "\n%-32s %-13s %-24s %8s %10s %10s %8s  %7s %8s %8s %8s\n", "worker", "stage", "key", "holds", "outputs",
                  "rate", "heard", "compute", "wait", "wire", "other");
    for (size_t i = 0; i < json_array_size(workers); i++) {
        const json_t *line = json_array_get(workers, i);
        char silent[16];
        duration_text(silent, number_of(line, "silent_s"));
        buffer_printf(out, "%-32s %-13s %-24s %8lld %10lld", text_of(line, "worker"), text_of(line, "stage"), text_of(line, "key"),
                      int_of(line, "held"), int_of(line, "outputs"));
        print_rate(out, line);
        buffer_printf(out, " %8s ", silent);
        print_effort(out, line);
    }
}

static void print_efforts(struct buffer *out, const json_t *efforts)
{
    if (json_array_size(efforts) == 0)
        return;
    buffer_printf(out, "\n      %-13s %-32s %10s  %7s %8s %8s %8s\n", "stage", "key", "seconds", "compute", "wait", "wire",
                  "other");
    for (size_t i = 0; i < json_array_size(efforts); i++) {
        const json_t *line = json_array_get(efforts, i);
        double total = 0;
        for (int k = 0; k < EFFORT_COUNT; k++)
            total += number_of(line, effort_names[k]);
        buffer_printf(out, "spent %-13s %-32s %10.1f ", text_of(line, "stage"), text_of(line, "key"), total);
        print_effort(out, line);
    }
}

/* Control characters, which in UTF-8 also begin with the byte 0xC2, in names and reasons that workers gave. */
static void tame(json_t *value)
{
    const char *key;
    json_t *inner;
    size_t i;
    if (json_is_object(value)) {
        json_object_foreach(value, key, inner)
            tame(inner);
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, inner)
            tame(inner);
    } else if (json_is_string(value)) {
        char *text = memory_text(json_string_value(value));
        for (char *at = text; *at != '\0'; at++) {
            if ((unsigned char)*at < ' ' || *at == 0x7f)
                *at = '?';
            else if ((unsigned char)at[0] == 0xC2 && (unsigned char)at[1] < 0xA0)
                at[0] = at[1] = '?';
        }
        json_string_set(value, text);
        free(text);
    }
}

void status_print(struct buffer *out, json_t *status)
{
    tame(status);
    const json_t *stages = json_object_get(status, "stages"), *failures = json_object_get(status, "failures");
    print_stages(out, stages, json_is_true(json_object_get(status, "served")));
    print_workers(out, json_object_get(status, "workers"));
    print_efforts(out, json_object_get(status, "efforts"));
    long long failed = 0;
    for (size_t i = 0; i < json_array_size(stages); i++)
        failed += int_of(json_array_get(stages, i), "failed");
    if (failed > 0)
        buffer_printf(out, "\n");
    for (size_t i = 0; i < json_array_size(failures); i++, failed--) {
        const json_t *line = json_array_get(failures, i);
        buffer_printf(out, "gave up: %s \"%s\" after %lld attempts: %s\n", text_of(line, "stage"), text_of(line, "key"),
                      int_of(line, "attempts"), text_of(line, "reason"));
    }
    if (failed > 0)
        buffer_printf(out, "gave up: %lld more\n", failed);
    if (!json_is_true(json_object_get(status, "served")))
        buffer_printf(out, "\nno process that serves this store has answered: what workers are doing is not known\n"
                           "(-s ENDPOINT asks one that listens elsewhere than at ipc://FILE.sock)\n");
}
