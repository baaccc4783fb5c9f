/* test_store.c - the store's tables, pins, plans, outputs and checkpoints, without workers. */
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "../check.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/memory.h"
#include "store/checkpoint.h"
#include "store/content.h"
#include "store/db.h"
#include "store/pin.h"
#include "store/plan.h"
#include "store/put.h"
#include "store/read.h"
#include "store/work.h"
#include "fresh_store.h"

static int sql(struct db *db, const char *text)
{
    sqlite3_stmt *query = db_prepare(db, text);
    int result = db_run(db, query);
    sqlite3_finalize(query);
    return result;
}

static int64_t count_of(struct db *db, const char *text)
{
    sqlite3_stmt *query = db_prepare(db, text);
    int64_t count = db_int(db, query, -1);
    sqlite3_finalize(query);
    return count;
}

static json_t *json(const char *text)
{
    return json_parse(text, strlen(text), "test");
}

static int64_t policy_pin(struct db *db, const char *name, const char *spec, char *reason)
{
    json_t *value = json(spec);
    int64_t id = pin_policy(db, name, value, reason);
    json_decref(value);
    return id;
}

static const int32_t two_tokens[] = { 1, 7 };

static enum put_status prompt_put(struct db *db, const char *key, const char *split, char *reason)
{
    struct frame frame = frame_make(FRAME_prompt);
    frame.prompt.prompt_key = key;
    frame.prompt.tokenizer = "T";
    frame.prompt.split = split;
    frame.prompt.prompt = key;
    frame.prompt.prompt_tokens = (struct tokens){ two_tokens, 2 };
    return put_prompt(db, &frame.prompt, reason);
}

static enum put_status rollout_put(struct db *db, const char *key, int64_t sample, int64_t policy, char *reason)
{
    struct frame frame = frame_make(FRAME_rollout);
    frame.rollout.prompt_key = key;
    frame.rollout.policy = "base";
    frame.rollout.sample = sample;
    frame.rollout.response = "yes";
    frame.rollout.response_tokens = (struct tokens){ two_tokens, 2 };
    return put_rollout(db, &frame.rollout, policy, reason);
}

static enum put_status score_put(struct db *db, const char *key, int64_t sample, int64_t reward, double score, char *reason)
{
    struct frame frame = frame_make(FRAME_scored);
    frame.scored.prompt_key = key;
    frame.scored.policy = "base";
    frame.scored.sample = sample;
    frame.scored.score = score;
    return put_score(db, &frame.scored, reward, reason);
}

/* Goal: a tensor whose length differs from its count, an unknown reference,
   and a second row of a key are refused by the schema itself. */
static void test_schema_refuses(void)
{
    struct db *db = fresh_open();
    EXPECT_INT(sql(db, "INSERT INTO prompt VALUES (1, 'k', 'T', 'train', 'text', 2, x'0100000007000000')"), 0);
    EXPECT_INT(sql(db, "INSERT INTO prompt VALUES (2, 'l', 'T', 'train', 'text', 2, x'01000000070000')"), -1);
    EXPECT_INT(db_trouble(db), DB_REFUSED);
    EXPECT_INT(sql(db, "INSERT INTO prompt VALUES (3, 'k', 'T', 'train', 'text', 1, x'01000000')"), -1);
    EXPECT_INT(sql(db, "INSERT INTO prompt VALUES (4, 'm', 'T', 'train', 'text', 'two', x'0100000007000000')"), -1);  // STRICT
    EXPECT_INT(sql(db, "INSERT INTO score VALUES (1, 1, 0.5)"), -1);  // no such reward, no such rollout
    EXPECT_INT(sql(db, "INSERT INTO policy VALUES (1, 'base', '{', '', 0)"), -1);
    EXPECT_INT(sql(db, "INSERT INTO failure VALUES (1, 'reward', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 3, 'why', 0)"), -1);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM prompt"), 1);
    fresh_close(db);
}

/* Goal: a file of a newer version, of another program, or that is no database is refused and left as it is. */
static void test_foreign_files_are_refused(void)
{
    int code;
    struct db *db = fresh_open();
    EXPECT_INT(count_of(db, "PRAGMA user_version"), 3);
    EXPECT_INT(sql(db, "PRAGMA user_version = -2"), 0);
    db_close(db);
    EXPECT(db_open(path, DB_SERVE, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
    db = fresh_open();
    EXPECT_INT(sql(db, "PRAGMA user_version = 7"), 0);
    db_close(db);
    EXPECT(db_open(path, DB_SERVE, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
    EXPECT(db_open(path, DB_READ, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);

    sqlite3 *other;
    unlink(path);
    sqlite3_open(path, &other);
    sqlite3_exec(other, "CREATE TABLE t (x); PRAGMA user_version = 1", NULL, NULL, NULL);
    sqlite3_close(other);
    EXPECT(db_open(path, DB_SERVE, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);

    FILE *file = fopen(path, "w");
    fputs("this is a text, and longer than 16 bytes\n", file);
    fclose(file);
    EXPECT(db_open(path, DB_SERVE, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
    struct stat status;
    stat(path, &status);
    EXPECT_INT(status.st_size, 41);
    unlink(path);
    EXPECT(db_open(path, DB_READ, &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    fresh_close(NULL);
}

/* Goal: a second process cannot serve the same file; a reader can look at it. */
static void test_one_writer(void)
{
    int code;
    struct db *db = fresh_open();
    EXPECT(db_open(path, DB_SERVE, &code) == NULL);
    EXPECT_INT(code, EX_UNAVAILABLE);
    struct db *reader = db_open(path, DB_READ, &code);
    EXPECT(reader != NULL);
    EXPECT_INT(sql(reader, "DELETE FROM prompt"), -1);
    db_close(reader);
    fresh_close(db);
}

/* Goal: what is not committed is gone after a rollback, and the other connection's commit is noticed once. */
static void test_transactions(void)
{
    int code;
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    EXPECT_INT(prompt_put(db, "a", "train", reason), PUT_NEW);
    EXPECT(db_writing(db));
    db_rollback(db);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM prompt"), 0);
    EXPECT(!db_changed(db));
    struct db *other = db_open(path, DB_EDIT, &code);
    EXPECT_INT(prompt_put(other, "a", "train", reason), PUT_NEW);
    EXPECT_INT(db_commit(other), 0);
    EXPECT(db_changed(db));
    EXPECT(!db_changed(db));
    db_close(other);
    fresh_close(db);
}

/* Goal: a worker that means something else by a name is told which field differs; 1 and 1.0 are the same. */
static void test_pins(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t id = policy_pin(db, "base", "{\"temperature\": 1, \"values\": [{\"beta\": 2}], \"tokenizer\": \"T\"}", reason);
    EXPECT(id > 0);
    EXPECT_INT(policy_pin(db, "base", "{\"tokenizer\": \"T\", \"values\": [{\"beta\": 2.0}], \"temperature\": 1.0}", reason), id);
    EXPECT_INT(policy_pin(db, "base", "{\"temperature\": 0.7, \"values\": [{\"beta\": 2}], \"tokenizer\": \"T\"}", reason), 0);
    EXPECT_TEXT(reason, "policy \"base\" has temperature 1, this worker has 0.7");
    EXPECT_INT(policy_pin(db, "base", "{\"temperature\": 1, \"values\": [{\"beta\": 3}], \"tokenizer\": \"T\"}", reason), 0);
    EXPECT_TEXT(reason, "policy \"base\" has values[0].beta 2, this worker has 3");
    EXPECT_INT(policy_pin(db, "base", "{\"temperature\": 1, \"values\": [{\"beta\": 2}]}", reason), 0);
    EXPECT_TEXT(reason, "policy \"base\" has tokenizer \"T\", this worker has none");
    EXPECT_INT(policy_pin(db, "base", "{\"temperature\": 1, \"values\": [{\"beta\": 2}], \"tokenizer\": \"T\", \"top_p\": 1}",
                          reason), 0);
    EXPECT_TEXT(reason, "policy \"base\" has no top_p, this worker has 1");

    json_t *target = json("{\"lambda\": 0.95, \"reward\": \"w\", \"policy\": \"base\", \"split\": \"train\", \"refresh\": 2}");
    json_t *train = json("{\"batch\": 4, \"epochs\": 1, \"updates\": 1, \"refresh\": 3, \"seed\": 1}");
    EXPECT_INT(plan_check(db, "r", "target", target, reason), 1);
    EXPECT(pin_run(db, "r", "target", target, reason) > 0);
    EXPECT_INT(plan_check(db, "r", "train", train, reason), 0);
    EXPECT_TEXT(reason, "run \"r\" has refresh 2 in value-target and 3 in train, they must be equal");
    json_object_set_new(train, "refresh", json_integer(2));
    EXPECT_INT(plan_check(db, "r", "train", train, reason), 1);
    EXPECT(pin_run(db, "r", "train", train, reason) > 0);
    json_object_set_new(train, "seed", json_integer(2));
    EXPECT_INT(pin_run(db, "r", "train", train, reason), 0);
    EXPECT_TEXT(reason, "run \"r\" has seed 1, this worker has 2");
    json_object_set_new(train, "batch", json_integer(0));
    EXPECT_INT(plan_check(db, "q", "train", train, reason), 0);
    json_decref(target);
    json_decref(train);
    fresh_close(db);
}

/* Goal: an output that arrives twice is one row, and one whose key does not exist is refused by name. */
static void test_outputs(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t policy = policy_pin(db, "base", "{}", reason);
    json_t *spec = json("{}");
    int64_t reward = pin_reward(db, "w", spec, reason);
    json_decref(spec);
    EXPECT_INT(prompt_put(db, "a", "train", reason), PUT_NEW);
    EXPECT_INT(prompt_put(db, "a", "train", reason), PUT_HAD);
    EXPECT_INT(rollout_put(db, "a", 0, policy, reason), PUT_NEW);
    EXPECT_INT(rollout_put(db, "a", 0, policy, reason), PUT_HAD);
    EXPECT_INT(rollout_put(db, "b", 0, policy, reason), PUT_REFUSED);
    EXPECT_TEXT(reason, "field \"prompt_key\" is \"b\", the store has no such prompt");
    EXPECT_INT(rollout_put(db, "a", -1, policy, reason), PUT_REFUSED);
    EXPECT_TEXT(reason, "field \"sample\" is -1, must be from 0 to 1048575");
    EXPECT_INT(score_put(db, "a", 0, reward, 0.5, reason), PUT_NEW);
    EXPECT_INT(score_put(db, "a", 0, reward, 0.5, reason), PUT_HAD);
    EXPECT_INT(score_put(db, "a", 1, reward, 0.5, reason), PUT_REFUSED);
    EXPECT_TEXT(reason, "the store has no rollout of policy \"base\", prompt_key \"a\", sample 1");

    struct frame metric = frame_make(FRAME_metric);
    metric.metric.subject = "base";
    metric.metric.numbers = "{\"x\": \"y\"}";
    EXPECT_INT(put_metric(db, &metric.metric, 0, reason), PUT_REFUSED);
    EXPECT_TEXT(reason, "field \"numbers\" has \"x\", which is not a number");
    metric.metric.numbers = "{\"x\": 1}";
    EXPECT_INT(put_metric(db, &metric.metric, 0, reason), PUT_NEW);
    metric.metric.numbers = "{\"x\": 2.5, \"y\": 7}";
    for (metric.metric.step = 0; metric.metric.step < 2; metric.metric.step++)
        for (int i = 0; i < 2; i++)
            EXPECT_INT(put_metric(db, &metric.metric, 0, reason), PUT_NEW);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM metric WHERE step = 0 AND json_extract(numbers, '$.x') = 6"
                            " AND json_extract(numbers, '$.y') = 14"), 1);  // 1 + 2.5 + 2.5, 7 + 7
    EXPECT_INT(count_of(db, "SELECT count(*) FROM metric WHERE step = 1 AND json_extract(numbers, '$.x') = 2.5"), 1);
    EXPECT_INT(db_commit(db), 0);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM rollout"), 1);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM score"), 1);
    fresh_close(db);
}

/* Goal: missing samples come in prompt order, those of a prompt together,
   present and failed ones left out, in pieces of any size. */
static void test_missing_samples(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t policy = policy_pin(db, "base", "{}", reason);
    prompt_put(db, "a", "train", reason);
    prompt_put(db, "b", "train", reason);
    prompt_put(db, "e", "eval", reason);
    prompt_put(db, "c", "train", reason);
    rollout_put(db, "a", 1, policy, reason);
    for (int sample = 0; sample < 3; sample++)
        rollout_put(db, "b", sample, policy, reason);
    int64_t prompt_c = count_of(db, "SELECT id FROM prompt WHERE key = 'c'");
    put_failure(db, &(struct failure_key){ .stage = "rollout", .policy = policy, .prompt = prompt_c, .sample = 0 }, 3, "why", 0);

    const struct work_item expected[] = { { 1, 0 }, { 1, 2 }, { prompt_c, 1 }, { prompt_c, 2 } };
    for (size_t piece = 1; piece <= 5; piece++) {
        struct work_samples key = { .policy = policy, .samples = 3, .split = "train" };
        struct work_item items[5];
        size_t seen = 0;
        int64_t found;
        while ((found = work_samples_scan(db, &key, items, piece)) > 0)
            for (int64_t i = 0; i < found && seen < COUNT_OF(expected); i++, seen++) {
                EXPECT_INT(items[i].a, expected[seen].a);
                EXPECT_INT(items[i].b, expected[seen].b);
            }
        EXPECT_INT(found, 0);
        EXPECT_INT(seen, COUNT_OF(expected));
        EXPECT_INT(work_samples_count(db, &key), COUNT_OF(expected));
        EXPECT_INT(db_commit(db), 0);
        prompt_put(db, "d", "train", reason);  // what is added later is found from where the cursor is
        EXPECT_INT(work_samples_scan(db, &key, items, 5), 3);
        EXPECT_INT(work_samples_count(db, &key), COUNT_OF(expected) + 3);
        db_rollback(db);
    }
    EXPECT_INT(failures_forget(db, "rollout", "base"), 1);
    struct work_samples key = { .policy = policy, .samples = 3, .split = "train" };
    EXPECT_INT(work_samples_count(db, &key), 5);
    fresh_close(db);
}

/* Goal: the order of an epoch is what an independent Philox gives (tests/parity/make_plan.py), window by window in epoch 0. */
static void test_plan_order(void)
{
    enum { COUNT = 132 };  // 66 prompts of 2 samples
    const uint32_t window_ends[] = { 128, 132 };
    uint32_t order[COUNT];
    const int first[2][8] = { { 21, 42, 100, 8, 12, 116, 2, 57 }, { 116, 52, 1, 54, 77, 55, 31, 90 } };
    const int last[2][6] = { { 23, 95, 131, 130, 128, 129 }, { 4, 17, 41, 30, 2, 7 } };
    for (int epoch = 0; epoch < 2; epoch++) {
        plan_permute(order, COUNT, window_ends, 42, epoch);
        bool seen[COUNT] = { false };
        for (int i = 0; i < COUNT; i++)
            seen[order[i]] = true;
        for (int i = 0; i < COUNT; i++)
            EXPECT(seen[i]);
        for (int i = 0; i < 8; i++)
            EXPECT_INT(order[i], first[epoch][i]);
        for (int i = 0; i < 6; i++)
            EXPECT_INT(order[COUNT - 6 + i], last[epoch][i]);
    }
}

/* A run over 5 prompts of 2 samples in batches of 4, 2 epochs. */
static int64_t run_make(struct db *db, double lambda, char *reason)
{
    int64_t policy = policy_pin(db, "base", "{\"tokenizer\": \"T\"}", reason);
    json_t *spec = json("{}"), *train = json("{\"batch\": 4, \"epochs\": 2, \"updates\": 3, \"refresh\": 2, \"seed\": 1}");
    json_t *target = json("{\"reward\": \"w\", \"policy\": \"base\", \"split\": \"train\", \"refresh\": 2}");
    json_object_set_new(target, "lambda", json_real(lambda));
    pin_reward(db, "w", spec, reason);
    announce_samples(db, policy, "train", 2);
    pin_run(db, "r", "target", target, reason);
    int64_t run = pin_run(db, "r", "train", train, reason);
    json_decref(spec);
    json_decref(train);
    json_decref(target);
    return run;
}

/* Goal: a run is planned when all it needs is there, and later prompts do not change it. */
static void test_plan_is_fixed(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t run = run_make(db, 0.95, reason);
    EXPECT_INT(plan_make(db, run, reason), PLAN_WAITS);
    EXPECT_TEXT(reason, "prompts of split \"train\"");
    EXPECT(plan_load(db, run) == NULL);
    const char *keys[] = { "a", "b", "c", "d", "e" };
    announce_source(db, "T");
    for (int i = 0; i < 5; i++)
        prompt_put(db, keys[i], "train", reason);
    EXPECT_INT(plan_make(db, run, reason), PLAN_WAITS);
    EXPECT_TEXT(reason, "the end of tokenize");
    announce_source_ended(db, "T");
    EXPECT_INT(plan_make(db, run, reason), PLAN_MADE);
    prompt_put(db, "late", "train", reason);
    announce_samples(db, 1, "train", 8);
    EXPECT_INT(plan_make(db, run, reason), PLAN_MADE);

    struct plan *plan = plan_load(db, run);
    EXPECT_INT(plan->count, 10);
    EXPECT_INT(plan->batches, 6);  // (4 + 4 + 2) twice
    struct plan_member members[4];
    bool seen[10] = { false };
    for (int b = 0; b < 6; b++) {
        if (b == 3)
            memset(seen, 0, sizeof seen);
        EXPECT_INT(plan_batch(plan, b, members), b % 3 == 2 ? 2 : 4);
        for (size_t i = 0; i < plan_batch_size(plan, b); i++) {
            size_t member = (size_t)(2 * (members[i].prompt - plan->prompts[0]) + members[i].sample);
            EXPECT(!seen[member]);
            seen[member] = true;
        }
    }
    EXPECT_INT(plan_snapshot(plan, 0), 0);
    EXPECT_INT(plan_snapshot(plan, 3), 2);   // floor((3 - 1) / 2) * 2
    EXPECT_INT(plan_snapshot(plan, 6), 4);
    EXPECT_INT(plan_snapshot(plan, 9), 8);
    plan->refresh = 1;
    EXPECT_INT(plan_snapshot(plan, 0), 0);
    EXPECT_INT(plan_snapshot(plan, 3), 2);
    plan->lambda = 1;
    EXPECT_INT(plan_snapshot(plan, 9), -1);
    plan_free(plan);
    fresh_close(db);
}

/* Goal: the plan of imported rollouts is what was imported. */
static void test_plan_of_imported(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t policy = policy_pin(db, "base", "{\"imported\": true}", reason);
    prompt_put(db, "a", "train", reason);
    prompt_put(db, "b", "train", reason);
    rollout_put(db, "b", 1, policy, reason);
    rollout_put(db, "a", 0, policy, reason);
    json_t *spec = json("{}"), *train = json("{\"batch\": 4, \"epochs\": 1, \"updates\": 1, \"refresh\": 2, \"seed\": 1}");
    json_t *target = json("{\"reward\": \"w\", \"policy\": \"base\", \"split\": \"train\", \"lambda\": 1, \"refresh\": 2}");
    pin_reward(db, "w", spec, reason);
    pin_run(db, "r", "target", target, reason);
    int64_t run = pin_run(db, "r", "train", train, reason);
    EXPECT_INT(plan_make(db, run, reason), PLAN_MADE);
    rollout_put(db, "a", 1, policy, reason);
    struct plan *plan = plan_load(db, run);
    EXPECT_INT(plan->count, 2);
    EXPECT_INT(plan_member(plan, 0).prompt, 1);
    EXPECT_INT(plan_member(plan, 1).prompt, 2);
    EXPECT_INT(plan_member(plan, 1).sample, 1);
    plan_free(plan);
    json_decref(spec);
    json_decref(train);
    json_decref(target);
    fresh_close(db);
}

static int64_t keep_weights = CHECKPOINT_KEEP_WEIGHTS;

static enum put_status checkpoint_give(struct db *db, int64_t run, const char *kind, int64_t step, const char *content,
                                       size_t offset, size_t size, bool final, char *reason)
{
    struct frame frame = frame_make(FRAME_checkpoint);
    struct digest digest;
    char hex[DIGEST_HEX_SIZE];
    digest_init(&digest);
    digest_add(&digest, content, strlen(content));
    digest_hex(&digest, hex);
    frame.checkpoint.run = "r";
    frame.checkpoint.kind = kind;
    frame.checkpoint.step = step;
    frame.checkpoint.batch = step;
    frame.checkpoint.sha256 = hex;
    frame.checkpoint.size = (int64_t)strlen(content);
    frame.checkpoint.offset = (int64_t)offset;
    frame.checkpoint.data = (struct bytes){ (const unsigned char *)content + offset, size };
    frame.checkpoint.final = final;
    return checkpoint_put(db, &frame.checkpoint, run, keep_weights, reason);
}

static int fetch(struct db *db, int64_t step, const char *kind, int64_t offset, struct arena *arena, struct frame *chunk)
{
    struct frame frame = frame_make(FRAME_fetch);
    frame.fetch.run = "r";
    frame.fetch.kind = kind;
    frame.fetch.step = step;
    frame.fetch.offset = offset;
    return checkpoint_fetch(db, &frame.fetch, arena, chunk);
}

/* Goal: a checkpoint exists when its last chunk is there and its digest right; chunks may come twice, a gap or half a chunk more is refused. */
static void test_checkpoint_chunks(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    struct arena arena;
    struct frame chunk;
    arena_init(&arena, "test", 1 << 20);
    int64_t run = run_make(db, 0.95, reason);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "hello world", 0, 5, false, reason), PUT_NEW);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "hello world", 7, 4, false, reason), PUT_REFUSED);
    EXPECT_TEXT(reason, "field \"offset\" is 7, the store has the first 5 bytes");
    EXPECT_INT(fetch(db, -1, "full", 0, &arena, &chunk), 0);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "hello world", 0, 5, false, reason), PUT_HAD);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "hello world", 3, 8, false, reason), PUT_REFUSED);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "hello world", 5, 6, false, reason), PUT_NEW);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "hello world", 5, 6, false, reason), PUT_HAD);
    EXPECT_INT(checkpoint_give(db, run, "full", 4, "other world", 0, 11, false, reason), PUT_REFUSED);
    EXPECT_INT(fetch(db, -1, "full", 2, &arena, &chunk), 1);
    EXPECT_INT(chunk.checkpoint.data.size, 3);
    EXPECT(memcmp(chunk.checkpoint.data.at, "llo", 3) == 0);
    EXPECT_INT(chunk.checkpoint.step, 4);
    EXPECT_INT(fetch(db, 4, "full", 5, &arena, &chunk), 1);
    EXPECT_INT(chunk.checkpoint.data.size, 6);
    EXPECT_INT(fetch(db, 4, "full", 11, &arena, &chunk), 0);
    EXPECT_INT(fetch(db, 3, "full", 0, &arena, &chunk), 0);

    /* Another file under the same key replaces one that never became whole. */
    EXPECT_INT(checkpoint_give(db, run, "weights", 4, "abcdef", 0, 3, false, reason), PUT_NEW);
    EXPECT_INT(checkpoint_give(db, run, "weights", 4, "ABCDEF", 0, 3, false, reason), PUT_NEW);
    EXPECT_INT(checkpoint_give(db, run, "weights", 4, "ABCDEF", 3, 3, false, reason), PUT_NEW);
    EXPECT_INT(fetch(db, 4, "weights", 0, &arena, &chunk), 1);
    EXPECT(memcmp(chunk.checkpoint.data.at, "ABC", 3) == 0);
    arena_free(&arena);
    fresh_close(db);
}

/* Goal: of each run the newest 3 weights, the newest 2 full and all final checkpoints stay. */
static void test_checkpoint_retention(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t run = run_make(db, 0.95, reason);
    for (int64_t step = 0; step < 12; step += 2) {
        EXPECT_INT(checkpoint_give(db, run, "weights", step, "content", 0, 7, step == 2, reason), PUT_NEW);
        EXPECT_INT(checkpoint_give(db, run, "full", step, "content", 0, 7, false, reason), PUT_NEW);
    }
    EXPECT_INT(count_of(db, "SELECT group_concat(step, '') FROM (SELECT step FROM checkpoint WHERE kind = 'weights'"
                        " ORDER BY step)"), 26810);
    EXPECT_INT(count_of(db, "SELECT group_concat(step, '') FROM (SELECT step FROM checkpoint WHERE kind = 'full' ORDER BY step)"),
               810);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM checkpoint_chunk"), 6);
    EXPECT_INT(checkpoint_give(db, run, "weights", 4, "content", 0, 7, false, reason), PUT_HAD);  // older than what is kept
    EXPECT_INT(checkpoint_has(db, run, "weights", 4), 0);
    struct checkpoint_newest newest;
    EXPECT_INT(checkpoint_newest(db, run, "full", &newest), 0);
    EXPECT_INT(newest.step, 10);
    EXPECT(!newest.final);
    EXPECT_INT(checkpoint_give(db, run, "full", 10, "content", 0, 7, true, reason), PUT_NEW);  // known only now to be the last
    EXPECT_INT(checkpoint_give(db, run, "full", 10, "content", 0, 7, true, reason), PUT_HAD);
    EXPECT_INT(checkpoint_newest(db, run, "full", &newest), 0);
    EXPECT(newest.final);
    keep_weights = 5;
    for (int64_t step = 12; step < 20; step += 2)
        EXPECT_INT(checkpoint_give(db, run, "weights", step, "content", 0, 7, false, reason), PUT_NEW);
    keep_weights = CHECKPOINT_KEEP_WEIGHTS;
    EXPECT_INT(count_of(db, "SELECT count(*) FROM checkpoint WHERE kind = 'weights' AND step >= 10"), 5);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM checkpoint WHERE kind = 'weights'"), 6);  // and the final one of step 2
    fresh_close(db);
}

/* Goal: equal content gives equal digests whatever the order of arrival; a different score another one. */
static void test_content_digest(void)
{
    char reason[STORE_REASON_BYTES], hex[3][DIGEST_HEX_SIZE];
    for (int turn = 0; turn < 3; turn++) {
        struct db *db = fresh_open();
        int64_t policy = policy_pin(db, "base", "{}", reason);
        json_t *spec = json("{}");
        int64_t reward = pin_reward(db, "w", spec, reason);
        json_decref(spec);
        prompt_put(db, turn == 1 ? "b" : "a", "train", reason);
        prompt_put(db, turn == 1 ? "a" : "b", "train", reason);
        rollout_put(db, turn == 1 ? "b" : "a", 0, policy, reason);
        rollout_put(db, turn == 1 ? "a" : "b", 0, policy, reason);
        score_put(db, "a", 0, reward, turn == 2 ? 0.25 : 0.5, reason);
        EXPECT_INT(db_commit(db), 0);
        EXPECT_INT(content_digest(db, hex[turn]), 0);
        fresh_close(db);
    }
    EXPECT_TEXT(hex[1], hex[0]);
    EXPECT(strcmp(hex[2], hex[0]) != 0);
}

/* Goal: the iterators for report give what was stored. */
static void test_reading(void)
{
    char reason[STORE_REASON_BYTES];
    struct db *db = fresh_open();
    int64_t run = run_make(db, 1, reason);
    prompt_put(db, "a", "train", reason);
    prompt_put(db, "b", "train", reason);
    rollout_put(db, "a", 0, 1, reason);
    rollout_put(db, "b", 1, 1, reason);
    score_put(db, "b", 1, 1, 0.5, reason);
    EXPECT_INT(plan_make(db, run, reason), PLAN_MADE);
    db_commit(db);

    struct read_policy policy;
    struct read *rows = read_policies(db);
    EXPECT(read_policy_next(rows, &policy));
    EXPECT_TEXT(policy.name, "base");
    EXPECT_INT(policy.samples, 2);
    EXPECT_INT(policy.prompts, 2);
    EXPECT_INT(policy.rollouts, 2);
    EXPECT(!read_policy_next(rows, &policy));
    EXPECT_INT(read_end(rows), 0);

    struct read_score score;
    rows = read_scores(db, "base", "w", "train");
    EXPECT(read_score_next(rows, &score));
    EXPECT_INT(score.prompt, 2);
    EXPECT_NEAR(score.score, 0.5, 0);
    EXPECT(isnan(score.kl) && isnan(score.logprob));
    EXPECT(!read_score_next(rows, &score));
    EXPECT_INT(read_end(rows), 0);

    struct read_text text;
    rows = read_texts(db, "base", "", "", 0);
    EXPECT(read_text_next(rows, &text));
    EXPECT_TEXT(text.prompt, "a");
    EXPECT_TEXT(text.reward, "");
    EXPECT(read_text_next(rows, &text));
    EXPECT_TEXT(text.reward, "w");
    EXPECT(!read_text_next(rows, &text));
    EXPECT_INT(read_end(rows), 0);

    struct read_run found;
    rows = read_runs(db);
    EXPECT(read_run_next(rows, &found));
    EXPECT_INT(found.batches, 2);
    EXPECT_INT(found.step, -1);
    EXPECT(!found.final);
    EXPECT_INT(read_end(rows), 0);
    fresh_close(db);
}

int main(void)
{
    RUN(test_schema_refuses);
    RUN(test_foreign_files_are_refused);
    RUN(test_one_writer);
    RUN(test_transactions);
    RUN(test_pins);
    RUN(test_outputs);
    RUN(test_missing_samples);
    RUN(test_plan_order);
    RUN(test_plan_is_fixed);
    RUN(test_plan_of_imported);
    RUN(test_checkpoint_chunks);
    RUN(test_checkpoint_retention);
    RUN(test_content_digest);
    RUN(test_reading);
    return tests_end();
}
