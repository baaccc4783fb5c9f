/* commands.c - see commands.h. */
#define _GNU_SOURCE
#include "store/commands.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "base/stop.h"
#include "store/content.h"
#include "store/put.h"
#include "store/read.h"
#include "store/server.h"

#define EXIT_CODES_READ "  0   done\n  64  usage\n  65  the file is not a store, or of a newer version\n  66  there is no such file\n" \
                        "  74  it could not be read or written\n"

/* Parses, refuses operands, and wants --db. */
static void command_options(const struct option_usage *usage, const struct option_spec *specs, size_t count, int argc, char **argv,
                            const char *const *db)
{
    int first = options_parse(usage, specs, count, argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (*db == NULL)
        options_refuse("--db is missing: which store?");
}

/* ---- serve ---- */

int command_serve(int argc, char **argv)
{
    const char *db = NULL;
    const char *key = NULL, *allow = NULL;
    struct option_list listen = { 0 };
    double lease_s = 60;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &db, 0, 0, "the SQLite file; made when it is missing" },
        { 0, "listen", "ENDPOINT", OPTION_LIST, &listen, 0, 0, "where workers connect, may be given again\n(default ipc://FILE.sock)" },
        { 0, "key", "FILE", OPTION_TEXT, &key, 0, 0, "the store's secret key ('store keygen'): workers at tcp:// must\nhave its public key, and one of their own in --allow" },
        { 0, "allow", "FILE|DIR", OPTION_TEXT, &allow, 0, 0, "public keys of workers, or a directory with their *.pub files;\nread again when it changes" },
        { 0, "lease-s", "SECONDS", OPTION_NUMBER, &lease_s, 0.1, 86400, "a worker that is silent so long has vanished (default 60);\nafter 15 its items are offered to others" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .example = "store serve --db vas.db",
        .synopsis = "store serve --db FILE [--listen ENDPOINT]... [--key FILE --allow FILE|DIR]",
        .summary = "Keeps prompts, rollouts, scores, targets and checkpoints, and gives workers what is missing.\n"
                   "Workers find it through -s or the environment variable VAS_STORE: ipc://FILE.sock, or tcp://ADDRESS:PORT,\n"
                   "which takes keys unless the address is a loopback one.\n"
                   "It may be killed at any time; what was acknowledged is in the file.",
        .exit_codes = "  0   stopped by SIGTERM or SIGINT\n  64  usage\n  65  the file is not a store, or of a newer version\n"
                      "  69  another process serves it, or the endpoint is taken\n  74  the store could not be written, and waiting does not help\n"
                      "  77  the key file can be read by others\n",
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &db);
    if ((key == NULL) != (allow == NULL))
        options_refuse("%s is missing: a store with keys needs its own and those of its workers", key == NULL ? "--key" : "--allow");
    bool has_tcp = false;
    for (size_t i = 0; i < listen.count; i++) {
        char reason[STORE_REASON_BYTES];
        has_tcp = has_tcp || strncmp(listen.items[i], "tcp://", 6) == 0;
        if (endpoint_check(listen.items[i], key != NULL, reason) != 0)
            options_refuse("%s", reason);
    }
    if (key != NULL && !has_tcp)
        options_refuse("--key is for an endpoint at tcp://, which --listen names");
    stop_install();
    signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is a full disk, not the end

    int code;
    struct server *server = server_open(&(struct server_options){ .db = db, .endpoints = listen.items, .endpoint_count = listen.count,
                                            .key = key, .allow = allow,
                                            .desk = { .silent_s = lease_s < 15 ? lease_s : 15, .lease_s = lease_s } }, &code);
    if (server != NULL)
        code = server_run(server);
    server_close(server);
    free(listen.items);
    return code;
}

/* ---- status ---- */

static json_t *stage_line(const char *stage, const char *key, const char *split, int64_t done, int64_t missing, int64_t failed)
{
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:I}", "stage", stage, "key", key, "done", (json_int_t)done, "missing",
                             (json_int_t)(missing > 0 ? missing : 0), "failed", (json_int_t)failed);
    if (split[0] != '\0')
        json_object_set_new(line, "split", json_string(split));
    return line;
}

static int status_prompts(struct db *db, json_t *lines)
{
    struct read *rows = read_splits(db);
    struct read_split split;
    while (read_split_next(rows, &split))
        json_array_append_new(lines, stage_line("tokenize", "prompts", split.split, split.prompts, 0, 0));
    return read_end(rows);
}

/* rollouts: of all policies. */
static int status_policies(struct db *db, json_t *lines, int64_t *rollouts)
{
    struct read *rows = read_policies(db);
    struct read_policy policy;
    while (read_policy_next(rows, &policy)) {
        json_array_append_new(lines, stage_line("rollout", policy.name, policy.split, policy.rollouts, policy.missing, policy.failed));
        *rollouts += policy.rollouts;
    }
    return read_end(rows);
}

static int status_rewards(struct db *db, json_t *lines, int64_t rollouts)
{
    struct read *rows = read_rewards(db);
    struct read_reward reward;
    while (read_reward_next(rows, &reward))
        json_array_append_new(lines, stage_line("reward", reward.name, "", reward.scores, rollouts - reward.scores - reward.failed, reward.failed));
    return read_end(rows);
}

static int status_runs(struct db *db, json_t *lines)
{
    struct read *rows = read_runs(db);
    struct read_run run;
    while (read_run_next(rows, &run)) {
        json_t *train = json_loads(run.train, 0, NULL);
        int64_t epochs = json_integer_value(json_object_get(train, "epochs"));
        json_decref(train);
        json_array_append_new(lines, stage_line("value-target", run.name, "", run.targets, run.rollouts * epochs - run.targets - run.failed, run.failed));
        int64_t batch = run.batch > 0 ? run.batch : 0;
        json_t *line = stage_line("train", run.name, "", batch, run.batches - batch, 0);
        json_object_set_new(line, "step", json_integer(run.step));
        json_object_set_new(line, "final", json_boolean(run.final));
        json_array_append_new(lines, line);
    }
    return read_end(rows);
}

static json_t *status_read(struct db *db)
{
    json_t *lines = json_array();
    int64_t rollouts = 0;
    if (status_prompts(db, lines) == 0 && status_policies(db, lines, &rollouts) == 0 && status_rewards(db, lines, rollouts) == 0
        && status_runs(db, lines) == 0)
        return lines;
    json_decref(lines);
    return NULL;
}

static void status_print(const json_t *lines)
{
    printf("%-13s %-32s %-12s %10s %10s %8s\n", "stage", "key", "split", "done", "missing", "failed");
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        const char *split = json_string_value(json_object_get(line, "split"));
        printf("%-13s %-32s %-12s %10lld %10lld %8lld", json_string_value(json_object_get(line, "stage")),
               json_string_value(json_object_get(line, "key")), split ? split : "", json_integer_value(json_object_get(line, "done")),
               json_integer_value(json_object_get(line, "missing")), json_integer_value(json_object_get(line, "failed")));
        const json_t *step = json_object_get(line, "step");
        if (step != NULL && json_integer_value(step) >= 0)
            printf("  step %lld%s", json_integer_value(step), json_is_true(json_object_get(line, "final")) ? ", final" : "");
        putchar('\n');
    }
}

static int status_failures(struct db *db)
{
    struct read *rows = read_failures(db);
    struct read_failure failure;
    while (read_failure_next(rows, &failure))
        printf("gave up: %s \"%s\" after %" PRId64 " attempts: %s\n", failure.stage, failure.name, failure.attempts, failure.reason);
    return read_end(rows);
}

static int status_once(struct db *db, bool as_json)
{
    json_t *lines = status_read(db);
    if (lines == NULL)
        return EX_IOERR;
    int result = 0;
    if (as_json) {
        char *text = json_text(lines);
        puts(text);
        free(text);
    } else {
        status_print(lines);
        result = status_failures(db);
    }
    json_decref(lines);
    return result == 0 ? EX_OK : EX_IOERR;
}

int command_status(int argc, char **argv)
{
    const char *path = NULL;
    bool as_json = false, watch = false;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
        { 0, "json", NULL, OPTION_FLAG, &as_json, 0, 0, "one JSON array of objects: stage, key, split, done, missing, failed" },
        { 0, "watch", NULL, OPTION_FLAG, &watch, 0, 0, "again every 2 seconds until interrupted" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .example = "store status --db vas.db",
        .synopsis = "store status --db FILE [--json] [--watch]",
        .summary = "For each stage and key how many outputs are there, are missing, and were given up.  Reads the file only, at any\n"
                   "time.  A reward's missing scores are counted over the rollouts of all policies.",
        .exit_codes = EXIT_CODES_READ,
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    stop_install();
    int code;
    struct db *db = db_open(path, DB_READ, &code);
    if (db == NULL)
        return code;
    code = status_once(db, as_json);
    while (watch && code == EX_OK && fflush(stdout) == 0 && sleep(2) == 0 && !stop_requested()) {
        if (!as_json)
            fputs(isatty(STDOUT_FILENO) ? "\033[H\033[J" : "\n", stdout);
        code = status_once(db, as_json);
    }
    db_close(db);
    return stdout_close() == 0 ? code : EX_IOERR;
}

/* ---- export ---- */

static void export_line(const struct read_text *text)
{
    json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:I, s:b, s:I}", "prompt", text->prompt, "response", text->response, "policy", text->policy,
                             "split", text->split, "sample", (json_int_t)text->sample, "stopped", text->stopped, "tokens", (json_int_t)text->tokens);
    CHECK(line != NULL);  // frames carry UTF-8 only
    if (text->reward[0] != '\0') {
        json_object_set_new(line, "reward", json_string(text->reward));
        json_object_set_new(line, "score", json_real(text->score));
    }
    if (!isnan(text->kl))
        json_object_set_new(line, "kl", json_real(text->kl));
    json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(line);
}

int command_export(int argc, char **argv)
{
    const char *path = NULL, *policy = "", *reward = "", *split = "";
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
        { 0, "policy", "NAME", OPTION_TEXT, &policy, 0, 0, "only rollouts of this policy" },
        { 0, "reward", "NAME", OPTION_TEXT, &reward, 0, 0, "only rollouts with a score of this name" },
        { 0, "split", "NAME", OPTION_TEXT, &split, 0, 0, "only prompts of this split" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .example = "store export --db vas.db --policy base --reward vader > rollouts.jsonl",
        .synopsis = "store export --db FILE [--policy NAME] [--reward NAME] [--split NAME]",
        .summary = "Prints rollouts as JSON lines: prompt, response, policy, split, sample, stopped, tokens, and where known reward,\n"
                   "score and kl.  A rollout with several scores is a line for each.",
        .exit_codes = EXIT_CODES_READ,
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    int code;
    struct db *db = db_open(path, DB_READ, &code);
    if (db == NULL)
        return code;
    struct read *rows = read_texts(db, policy, reward, split, 0);
    struct read_text text;
    while (!ferror(stdout) && read_text_next(rows, &text))
        export_line(&text);
    code = read_end(rows) == 0 ? EX_OK : EX_IOERR;
    db_close(db);
    return stdout_close() == 0 ? code : EX_IOERR;
}

/* ---- retry, digest ---- */

int command_retry(int argc, char **argv)
{
    const char *path = NULL, *stage = "", *name = "";
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
        { 0, "stage", "STAGE", OPTION_TEXT, &stage, 0, 0, "only items of rollout, decode, reward or value-target" },
        { 0, "name", "NAME", OPTION_TEXT, &name, 0, 0, "only items of this policy, reward or run" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .example = "store retry --db vas.db --stage reward",
        .synopsis = "store retry --db FILE [--stage STAGE] [--name NAME]",
        .summary = "Offers items again that were given up after 3 attempts.  Works beside a store that is serving.",
        .exit_codes = EXIT_CODES_READ,
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    static const char *const stages[] = { "", "rollout", "decode", "reward", "value-target" };
    bool known = false;
    for (size_t i = 0; i < COUNT_OF(stages); i++)
        known = known || strcmp(stage, stages[i]) == 0;
    if (!known)
        options_refuse("--stage is \"%s\", must be rollout, decode, reward or value-target", stage);
    int code;
    struct db *db = db_open(path, DB_EDIT, &code);
    if (db == NULL)
        return code;
    int64_t forgotten = failures_forget(db, stage, name);
    if (forgotten < 0)
        log_error("could not write store \"%s\": %s", path, db_reason(db));
    else
        log_event("offers again items=%lld", (long long)forgotten);
    db_close(db);
    return forgotten < 0 ? EX_IOERR : EX_OK;
}

int command_digest(int argc, char **argv)
{
    const char *path = NULL;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .example = "store digest --db vas.db",
        .synopsis = "store digest --db FILE",
        .summary = "Prints one SHA-256 of everything that was made, in the order of its keys: equal content, equal digest, however many\n"
                   "workers there were and in whatever order they worked.  Times, rates and checkpoints to resume from do not count.",
        .exit_codes = EXIT_CODES_READ,
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    int code;
    struct db *db = db_open(path, DB_READ, &code);
    if (db == NULL)
        return code;
    char hex[DIGEST_HEX_SIZE];
    code = content_digest(db, hex) == 0 ? EX_OK : EX_IOERR;
    if (code == EX_OK)
        puts(hex);
    db_close(db);
    return stdout_close() == 0 ? code : EX_IOERR;
}
