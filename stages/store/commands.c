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
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "base/progress.h"
#include "base/stop.h"
#include "store/ask.h"
#include "store/backup.h"
#include "store/checkpoint.h"
#include "store/content.h"
#include "store/pin.h"
#include "store/put.h"
#include "store/read.h"
#include "store/server.h"
#include "store/status.h"
#include "wire/edge.h"
#include "wire/endpoint.h"

#define EXIT_CODES_READ(or_else) \
    "  0   done\n  64  usage\n  65  the file is not a store, or of another version" or_else "\n" \
    "  66  there is no such file\n  74  it could not be read or written\n"

/* A name that an option gave ("": none) and the row that it stands for: EX_OK, or an exit code where there is no such row, said. */
static int name_check(struct db *db, const char *kind, const char *name, int64_t found)
{
    if (name[0] == '\0' || found > 0)
        return EX_OK;
    if (found < 0) {
        log_error("could not read store \"%s\": %s", db_path(db), db_reason(db));
        return EX_IOERR;
    }
    log_error("store \"%s\" has no %s \"%s\"", db_path(db), kind, name);
    log_hint("'store status' lists what it has");
    return EX_DATAERR;
}

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
    int64_t keep = CHECKPOINT_KEEP_WEIGHTS;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &db, 0, 0, "the SQLite file; made when it is missing" },
        { 0, "listen", "ENDPOINT", OPTION_LIST, &listen, 0, 0,
          "where workers connect, may be given again\n"
          "(default ipc://FILE.sock)" },
        { 0, "key", "FILE", OPTION_TEXT, &key, 0, 0,
          "the store's secret key ('store keygen'): workers at tcp:// must\nhave its public key, and one of their own in --allow" },
        { 0, "allow", "FILE|DIR", OPTION_TEXT, &allow, 0, 0,
          "public keys of workers, or a directory with their *.pub files;\n"
          "read again when it changes" },
        { 0, "lease-s", "SECONDS", OPTION_NUMBER, &lease_s, 0.1, 86400,
          "a worker that is silent so long has vanished (default 60);\nafter 15 its items are offered to others" },
        { 0, "keep", "N", OPTION_INT, &keep, CHECKPOINT_KEEP_WEIGHTS, CHECKPOINT_KEEP_WEIGHTS_MAX,
          "of each run the weights of the last N snapshots stay, beside\nthe final ones (default 3)" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store serve",
        .example = "store serve --db vas.db",
        .synopsis = "store serve --db FILE [--listen ENDPOINT]... [--key FILE --allow FILE|DIR]",
        .summary = "Keeps prompts, rollouts, scores, targets and checkpoints, and gives workers what is missing.\n"
                   "Workers find it through -s or the environment variable VAS_STORE: ipc://FILE.sock, or tcp://ADDRESS:PORT,\n"
                   "which takes keys unless the address is a loopback one.\n"
                   "It may be killed at any time; what was acknowledged is in the file.",
        .exit_codes = "  0   stopped by SIGTERM or SIGINT\n  64  usage\n  65  the file is not a store, or of a newer version\n"
                      "  66  the key file or the list of allowed keys is missing\n"
                      "  69  another process serves it, or the endpoint is taken\n"
                      "  74  the store could not be written, and waiting does not help\n  77  the key file can be read by others\n",
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &db);
    if ((key == NULL) != (allow == NULL))
        options_refuse("%s is missing: a store with keys needs its own and those of its workers",
                       key == NULL ? "--key" : "--allow");
    bool has_tcp = false;
    for (size_t i = 0; i < listen.count; i++) {
        char reason[STORE_REASON_BYTES];
        has_tcp = has_tcp || endpoint_is_tcp(listen.items[i]);
        if (endpoint_check(listen.items[i], key != NULL, reason) != 0)
            options_refuse("%s", reason);
    }
    if (key != NULL && !has_tcp)
        options_refuse("--key is for an endpoint at tcp://, which --listen names");
    stop_install();
    signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is a full disk, not the end

    int code;
    struct server *server = server_open(&(struct server_options){ .db = db, .endpoints = listen.items,
                                            .endpoint_count = listen.count, .key = key, .allow = allow,
                                            .desk = { .silent_s = lease_s < 15 ? lease_s : 15, .lease_s = lease_s,
                                                      .keep_weights = keep } }, &code);
    if (server != NULL)
        code = server_run(server);
    server_close(server);
    free(listen.items);
    return code;
}

/* ---- status ---- */

struct status_source {
    struct db *db;         // NULL: the file is not ours to read
    struct asker *asker;   // NULL: nobody to ask
    double wait_s;
};

/* From who serves the store, or from its file. */
static json_t *status_get(const struct status_source *source)
{
    json_t *status = source->asker != NULL ? asker_ask(source->asker, source->wait_s) : NULL;
    return status != NULL || source->db == NULL ? status : status_read(source->db, NULL, 0);
}

/* Line over line on a terminal, so that nothing flickers; line after line elsewhere. */
static void status_show(const struct buffer *text, bool again)
{
    bool terminal = again && isatty(STDOUT_FILENO);
    fputs(terminal ? "\033[H" : "", stdout);
    for (size_t i = 0; i < text->size; i++) {
        if (terminal && text->data[i] == '\n')
            fputs("\033[K", stdout);
        putchar(text->data[i]);
    }
    fputs(terminal ? "\033[J" : "", stdout);
    fflush(stdout);
}

static int status_once(const struct status_source *source, bool as_json, bool again)
{
    json_t *status = status_get(source);
    struct buffer text = { 0 };
    if (status == NULL)
        return source->db != NULL ? EX_IOERR : EX_UNAVAILABLE;
    if (as_json) {
        char *line = json_text(status);
        buffer_printf(&text, "%s\n", line);
        free(line);
        again = false;
    } else {
        status_print(&text, status);
    }
    status_show(&text, again);
    free(text.data);
    json_decref(status);
    return EX_OK;
}

/* "5" after --watch. */
static double watch_seconds(const char *operand)
{
    char *end;
    double seconds = strtod(operand, &end);
    if (end == operand || *end != '\0' || !(seconds >= 0.1 && seconds <= 86400))
        options_refuse("--watch is given \"%s\", must be from 0.1 to 86400 seconds", operand);
    return seconds;
}

static int status_watch(const struct status_source *source, bool as_json, double every_s)
{
    if (!as_json && isatty(STDOUT_FILENO))
        fputs("\033[2J", stdout);
    int code = status_once(source, as_json, true);
    while (code == EX_OK && !ferror(stdout) && !stop_requested()) {
        struct timespec pause = { (time_t)every_s, (long)(1e9 * (every_s - floor(every_s))) };
        if (nanosleep(&pause, NULL) != 0)
            break;
        if (!as_json && !isatty(STDOUT_FILENO))
            putchar('\n');
        code = status_once(source, as_json, true);
    }
    return code;
}

int command_status(int argc, char **argv)
{
    const char *path = NULL, *endpoint = NULL;
    bool as_json = false, watch = false;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0,
          "the store's file; who serves it is asked at ipc://FILE.sock,\n"
          "and the file is read when nobody answers" },
        { 's', "store", "ENDPOINT", OPTION_TEXT, &endpoint, 0, 0, "ask there (without --db the default is VAS_STORE)" },
        { 0, "json", NULL, OPTION_FLAG, &as_json, 0, 0, "one JSON object: stages, workers, efforts, failures" },
        { 0, "watch", NULL, OPTION_FLAG, &watch, 0, 0, "again every SECONDS (default 2) until interrupted" },
        EDGE_KEY_OPTIONS,
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store status",
        .example = "store status --db vas.db",
        .synopsis = "store status --db FILE | -s ENDPOINT [--json] [--watch [SECONDS]]",
        .summary = "For each stage and key how many outputs are there, are missing, and were given up; while a store serves, also"
                   " what is\nhanded out, how fast it goes, how long it takes, each worker with the time since it was last heard,"
                   " and what workers\ndid with their time: model arithmetic (compute), waiting for items, wire and store, other.\n"
                   "A reward's missing scores are counted over the rollouts of all policies.",
        .exit_codes = "  0   done\n  64  usage\n  65  the file is not a store, or of another version\n  66  there is no such file\n"
                      "  69  no store answers\n  74  it could not be read or written\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    double every_s = watch && first + 1 == argc ? watch_seconds(argv[first]) : 2;
    if (first < argc - (watch ? 1 : 0))
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (path == NULL && endpoint == NULL && (endpoint = getenv("VAS_STORE")) == NULL)
        options_refuse("--db or -s is missing: which store?");
    stop_install();

    int code = EX_OK;
    struct status_source source = { .wait_s = path != NULL ? 1 : 10 };
    char *own = path != NULL ? memory_printf("ipc://%s.sock", path) : NULL;
    if (path != NULL && (source.db = db_open(path, DB_READ, &code)) == NULL)
        goto free_own;
    if (endpoint == NULL && file_exists(own + strlen("ipc://")))
        endpoint = own;
    if (endpoint != NULL && (source.asker = asker_open(endpoint, &code)) == NULL)
        goto close_db;
    code = watch ? status_watch(&source, as_json, every_s) : status_once(&source, as_json, false);
    if (code == EX_UNAVAILABLE && !stop_requested())
        log_error("no store answers at \"%s\", waited %.0f s", endpoint, source.wait_s);
    asker_close(source.asker);
close_db:
    db_close(source.db);
free_own:
    free(own);
    return stdout_close() == 0 ? code : EX_IOERR;
}

/* ---- export ---- */

static void export_line(const struct read_text *text)
{
    json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:I, s:b, s:I}", "prompt", text->prompt, "response", text->response, "policy",
                             text->policy, "split", text->split, "sample", (json_int_t)text->sample, "stopped", text->stopped,
                             "tokens", (json_int_t)text->tokens);
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

/* Returns an exit code. */
static int export_texts(struct db *db, const char *policy, const char *reward, const char *split)
{
    struct read *rows = read_texts(db, policy, reward, split, 0);
    struct read_text text;
    while (!ferror(stdout) && read_text_next(rows, &text))
        export_line(&text);
    return read_end(rows) == 0 ? EX_OK : EX_IOERR;
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
        .command = "store export",
        .example = "store export --db vas.db --policy base --reward vader > rollouts.jsonl",
        .synopsis = "store export --db FILE [--policy NAME] [--reward NAME] [--split NAME]",
        .summary = "Prints rollouts as JSON lines: prompt, response, policy, split, sample, stopped, tokens, and where known"
                   " reward,\nscore and kl.  A rollout with several scores is a line for each.",
        .exit_codes = EXIT_CODES_READ(", or has no such name"),
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    int code;
    struct db *db = db_open(path, DB_READ, &code);
    if (db == NULL)
        return code;
    code = name_check(db, "policy", policy, find_policy(db, policy));
    if (code == EX_OK)
        code = name_check(db, "reward", reward, find_reward(db, reward));
    if (code == EX_OK)
        code = name_check(db, "split", split, find_split(db, split));
    if (code == EX_OK)
        code = export_texts(db, policy, reward, split);
    db_close(db);
    return stdout_close() == 0 ? code : EX_IOERR;
}

/* ---- backup ---- */

static bool backup_show(void *context, int64_t done, int64_t total)
{
    struct progress *progress = context;
    progress->total = total / 1000000;
    progress_set(progress, done / 1000000);
    return !stop_requested();
}

int command_backup(int argc, char **argv)
{
    const char *path = NULL, *output = NULL;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
        { 'o', "output", "COPY", OPTION_TEXT, &output, 0, 0, "the copy, which must not be there yet" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store backup",
        .example = "store backup --db vas.db -o vas-monday.db",
        .synopsis = "store backup --db FILE -o COPY",
        .summary = "Copies a store, also while it is served, as it is at this moment.  The copy appears whole or not at all; 'store"
                   " serve'\ngoes on from there, and workers make again what it lacks.",
        .exit_codes = "  0   done\n  64  usage\n  65  the file is not a store, or of another version\n  66  there is no such file\n"
                      "  73  the copy is there already\n  74  it could not be read or written\n"
                      "  75  stopped by SIGTERM or SIGINT\n",
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    if (output == NULL)
        options_refuse("-o is missing: where does the copy go?");
    stop_install();
    int code;
    struct db *db = db_open(path, DB_READ, &code);
    if (db == NULL)
        return code;
    struct progress progress;
    progress_start(&progress, "copied", "MB", 0);
    code = backup_make(db, output, backup_show, &progress);
    if (code == EX_OK) {
        progress_end(&progress);
        log_event("wrote \"%s\"", output);
    }
    progress_erase();
    db_close(db);
    return code;
}

/* ---- retry, digest ---- */

int command_retry(int argc, char **argv)
{
    const char *path = NULL, *stage = "", *name = "";
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
        { 0, "stage", "rollout|decode|reward|value-target", OPTION_CHOICE, &stage, 0, 0, "only items of this stage" },
        { 0, "name", "NAME", OPTION_TEXT, &name, 0, 0, "only items of this policy, reward or run" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store retry",
        .example = "store retry --db vas.db --stage reward",
        .synopsis = "store retry --db FILE [--stage STAGE] [--name NAME]",
        .summary = "Offers items again that were given up after 4 attempts.  Works beside a store that is serving.",
        .exit_codes = EXIT_CODES_READ(", or has no such name"),
    };
    command_options(&usage, specs, COUNT_OF(specs), argc, argv, &path);
    int code;
    struct db *db = db_open(path, DB_EDIT, &code);
    if (db == NULL)
        return code;
    int64_t found = find_policy(db, name);
    if (found == 0)
        found = find_reward(db, name);
    if (found == 0)
        found = find_run(db, name);
    code = name_check(db, "policy, reward or run", name, found);
    int64_t forgotten = code == EX_OK ? failures_forget(db, stage, name) : 0;
    if (forgotten < 0) {
        log_error("could not write store \"%s\": %s", path, db_reason(db));
        code = EX_IOERR;
    } else if (code == EX_OK) {
        log_event("offers again items=%lld", (long long)forgotten);
    }
    db_close(db);
    return code;
}

int command_digest(int argc, char **argv)
{
    const char *path = NULL;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store digest",
        .example = "store digest --db vas.db",
        .synopsis = "store digest --db FILE",
        .summary = "Prints one SHA-256 of everything that was made, in the order of its keys: equal content, equal digest, however"
                   " many\nworkers there were and in whatever order they worked.  Times, rates and checkpoints to resume from do"
                   " not count.",
        .exit_codes = EXIT_CODES_READ(""),
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
