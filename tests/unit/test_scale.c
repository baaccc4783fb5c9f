/* test_scale.c - a store with many rollouts answers as quickly as one with few, and its counts are those of the rows. */
#include <stdlib.h>
#include <unistd.h>

#include "../check.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/philox.h"
#include "store/backup.h"
#include "store/content.h"
#include "store/pin.h"
#include "store/plan.h"
#include "store/put.h"
#include "store/read.h"
#include "store/work.h"
#include "big_store.h"
#include "fresh_store.h"

/* Each version of the format alone, as in db.c. */
static const char *const versions[] = {
#include "store_sql.h"
};

/* ---- the counts ---- */

static int64_t count_of(struct db *db, const char *text)
{
    sqlite3_stmt *query = db_prepare(db, text);
    int64_t count = db_int(db, query, -1);
    sqlite3_finalize(query);
    return count;
}

/* Rows of the counts that the rows which they count do not give, and the other way round. */
#define DIFFERENCE(counts, rows) \
    "SELECT (SELECT count(*) FROM (SELECT * FROM (" counts ") EXCEPT SELECT * FROM (" rows ")))" \
    " + (SELECT count(*) FROM (SELECT * FROM (" rows ") EXCEPT SELECT * FROM (" counts ")))"

static void check_counts(struct db *db)
{
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT split, block, tokenizer, prompts FROM prompt_count",
                                       "SELECT split, id / 4096, tokenizer, count(*) FROM prompt GROUP BY 1, 2, 3")), 0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT policy, split, block, sample, rollouts FROM sample_count WHERE rollouts > 0",
                                       "SELECT policy, split, prompt / 4096, sample, count(*) FROM rollout"
                                       " JOIN prompt ON prompt.id = prompt GROUP BY 1, 2, 3, 4")), 0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT policy, split, block, sample, failed FROM sample_count WHERE failed > 0",
                                       "SELECT policy, split, prompt / 4096, sample, count(*) FROM failure"
                                       " JOIN prompt ON prompt.id = prompt WHERE policy IS NOT NULL GROUP BY 1, 2, 3, 4")), 0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT block, policy, split, rollouts FROM rollout_count",
                                       "SELECT r.id / 4096, policy, split, count(*) FROM rollout r"
                                       " JOIN prompt ON prompt.id = prompt GROUP BY 1, 2, 3")), 0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT reward, block, policy, split, scores FROM score_count WHERE scores > 0",
                                       "SELECT reward, r.id / 4096, policy, split, count(*) FROM score"
                                       " JOIN rollout r ON r.id = rollout JOIN prompt ON prompt.id = prompt GROUP BY 1, 2, 3, 4")),
                                       0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT reward, block, policy, split, failed FROM score_count WHERE failed > 0",
                                       "SELECT reward, r.id / 4096, r.policy, split, count(*) FROM failure f"
                                       " JOIN rollout r ON r.id = rollout JOIN prompt ON prompt.id = r.prompt"
                                       " WHERE reward IS NOT NULL GROUP BY 1, 2, 3, 4")), 0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT run, targets FROM target_count WHERE targets > 0", "SELECT run, count(*) FROM target"
                                       " GROUP BY 1")), 0);
    EXPECT_INT(count_of(db, DIFFERENCE("SELECT run, failed FROM target_count WHERE failed > 0",
                                       "SELECT run, count(*) FROM failure WHERE run IS NOT NULL GROUP BY 1")), 0);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM failure f WHERE EXISTS (SELECT 1 FROM rollout r WHERE r.policy = f.policy"
                            " AND r.prompt = f.prompt AND r.sample = f.sample) OR EXISTS (SELECT 1 FROM score s"
                            " WHERE s.reward = f.reward AND s.rollout = f.rollout)"), 0);
}

static void execute(struct db *db, const char *text)
{
    sqlite3_exec(sqlite3_db_handle(db_query(db, "SELECT 1", "")), text, NULL, NULL, NULL);
}

/* A row somewhere in two blocks, of two policies, splits and rewards: an output or a failure,
   of which the store may have either. */
static void random_row(struct db *db, uint32_t i)
{
    uint32_t random[4];
    philox4x32(random, (uint32_t[]){ i, 0, 0, 0 }, (uint32_t[]){ 1, 2 });
    int64_t policy = 1 + random[0] % 2, prompt = 4090 + random[1] % 12, sample = random[2] % 3, reward = 1 + random[3] % 2;
    int64_t rollout = db_int(db, db_query(db, "SELECT id FROM rollout WHERE policy = ?1 AND prompt = ?2 AND sample = ?3", "iii",
                                          policy, prompt, sample), 0);
    switch (random[3] / 2 % 6) {
    case 0:
        db_run(db, db_query(db, "INSERT INTO rollout SELECT NULL, ?1, ?2, ?3, 1, NULL, 1, x'01000000', NULL, '' WHERE true"
                            " ON CONFLICT DO NOTHING",
                            "iii", policy, prompt, sample));
        break;
    case 1:
        put_failure(db, &(struct failure_key){ .stage = "rollout", .policy = policy, .prompt = prompt, .sample = sample }, 3, "why",
                    0);
        break;
    case 2:
        db_run(db, db_query(db, "INSERT INTO score SELECT ?1, ?2, 1.0 WHERE ?2 > 0 ON CONFLICT DO NOTHING", "ii", reward, rollout));
        break;
    case 3:
        if (rollout > 0)
            put_failure(db, &(struct failure_key){ .stage = "reward", .reward = reward, .rollout = rollout }, 3, "why", 0);
        break;
    case 4:
        db_run(db, db_query(db, "INSERT INTO target SELECT NULL, ?1, ?2, ?3, -1, 0, x'', 1, x'00000000' WHERE ?3 > 0"
                            " ON CONFLICT DO NOTHING", "iii", (int64_t)1, sample, rollout));
        break;
    default:
        if (rollout > 0)
            put_failure(db, &(struct failure_key){ .stage = "value-target", .run = 1, .batch = sample, .rollout = rollout }, 3,
                        "why", 0);
    }
}

static const char random_names[] =
    "INSERT INTO policy VALUES (1, 'base', '{}', '', 0), (2, 'steered', '{}', '', 0);"
    "INSERT INTO reward VALUES (1, 'w', '{}'), (2, 'v', '{}'); INSERT INTO run (id, name) VALUES (1, 'r');"
    "WITH RECURSIVE number (n) AS (SELECT 4090 UNION ALL SELECT n + 1 FROM number WHERE n < 4101)"
    " INSERT INTO prompt SELECT n, n, 'T', iif(n % 3, 'train', 'eval'), '', 1, x'01000000' FROM number;"
    "INSERT INTO rollout VALUES (4090, 1, 4090, 7, 1, NULL, 1, x'01000000', NULL, '')";

/* Goal: whatever comes in whatever order, again, fails, is retried or rolled back: the counts are those of the rows. */
static void test_counts_are_those_of_the_rows(void)
{
    struct db *db = fresh_open();
    execute(db, random_names);
    for (uint32_t i = 0; i < 1500; i++) {
        if (i % 500 == 400) {
            db_commit(db);
            random_row(db, i);
            db_rollback(db);
        }
        random_row(db, i);
        if (i % 500 == 450)
            EXPECT(failures_forget(db, i < 500 ? "reward" : "", "") > 0);
    }
    EXPECT_INT(db_commit(db), 0);
    check_counts(db);
    EXPECT(count_of(db, "SELECT count(*) FROM failure") > 0);
    EXPECT_INT(count_of(db, "SELECT count(DISTINCT block) FROM rollout_count"), 2);
    fresh_close(db);
}

/* Goal: a store of version 1, failures beside their outputs included, gets the counts that it would have had from the start. */
static void test_an_old_store_is_counted(void)
{
    int code;
    struct db *db = fresh_open();
    db_close(db);
    unlink(path);
    sqlite3 *old;
    sqlite3_open(path, &old);
    EXPECT_INT(sqlite3_exec(old, versions[1], NULL, NULL, NULL), SQLITE_OK);
    EXPECT_INT(sqlite3_exec(old, "PRAGMA application_id = 1986097969; PRAGMA user_version = 1", NULL, NULL, NULL), SQLITE_OK);
    EXPECT_INT(sqlite3_exec(old, random_names, NULL, NULL, NULL), SQLITE_OK);
    EXPECT_INT(sqlite3_exec(old,
        "WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 59)"
        " INSERT INTO rollout SELECT NULL, n % 2 + 1, 4090 + n / 2 % 12, n % 5, 1, NULL, 1, x'01000000', NULL, '' FROM number;"
        "INSERT INTO score SELECT id % 2 + 1, id, 0.5 FROM rollout WHERE id % 5 < 3;"
        "INSERT INTO target SELECT NULL, 1, id % 4, id, -1, 0, x'', 1, x'00000000' FROM rollout WHERE id % 3 = 0;"
        "INSERT INTO failure SELECT NULL, 'reward', NULL, NULL, NULL, 1, id, NULL, NULL, 3, 'why', 0 FROM rollout WHERE id % 2;"
        "INSERT INTO failure SELECT NULL, 'rollout', 1, id, 1, NULL, NULL, NULL, NULL, 3, 'why', 0 FROM prompt;"
        "INSERT INTO failure SELECT NULL, 'value-target', NULL, NULL, NULL, NULL, id, 1, id % 4, 3, 'why', 0 FROM rollout"
        " WHERE id % 4", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(old);
    EXPECT(db_open(path, DB_READ, &code) == NULL);
    db = db_open(path, DB_SERVE, &code);
    EXPECT(db != NULL);
    check_counts(db);
    EXPECT(count_of(db, "SELECT sum(failed) FROM score_count") > 0 && count_of(db, "SELECT sum(failed) FROM sample_count") > 0);
    EXPECT_INT(count_of(db, "SELECT sum(rollouts) FROM rollout_count"), count_of(db, "SELECT count(*) FROM rollout"));
    fresh_close(db);
}

/* ---- the effort ---- */

enum { EVERY = 50 };  // steps of SQLite's machine between two calls

static int step_count(void *steps)
{
    *(int64_t *)steps += EVERY;
    return 0;
}

/* A run over all training prompts. */
static int64_t run_pin(struct db *db)
{
    char reason[STORE_REASON_BYTES];
    json_t *target = json_pack("{s:s, s:s, s:s, s:i, s:i}", "reward", "w", "policy", "base", "split", "train", "lambda", 1,
                               "refresh", 1);
    json_t *train = json_pack("{s:i, s:i, s:i, s:i, s:i}", "batch", 16, "epochs", 2, "updates", 1, "refresh", 1, "seed", 1);
    pin_run(db, "r", "target", target, reason);
    int64_t run = pin_run(db, "r", "train", train, reason);
    json_decref(target);
    json_decref(train);
    return run;
}

/* Goal: with 100,000 rollouts no question of a worker that comes, of a worker that wants items,
   or of status reads the rows that are done. */
static void test_effort_does_not_grow(void)
{
    enum { PROMPTS = 25000, SAMPLES = 4, ROLLOUTS = PROMPTS * SAMPLES, SCORED = ROLLOUTS * 99 / 100, PIECE = 256 };
    char reason[STORE_REASON_BYTES], tokenizer[NAME_BYTES + 1];
    struct work_item items[PIECE];
    struct db *db = fresh_open();
    EXPECT_INT(big_store_fill(db, PROMPTS, SAMPLES), 0);
    int64_t steps = 0, run = run_pin(db);
    sqlite3_progress_handler(sqlite3_db_handle(db_query(db, "SELECT 1", "")), EVERY, step_count, &steps);
#define EFFORT_BELOW(limit) \
    do { \
        if (steps > (limit)) \
            TEST_FAIL("%lld steps, at most %d", (long long)steps, limit); \
        steps = 0; \
    } while (0)

    struct work_samples complete = { .policy = 1, .samples = SAMPLES, .split = "train" };
    EXPECT_INT(work_samples_count(db, &complete), 0);
    EFFORT_BELOW(2000);
    EXPECT_INT(work_samples_scan(db, &complete, items, PIECE), 0);
    EFFORT_BELOW(2000);
    struct work_samples fewer = { .policy = 1, .samples = SAMPLES - 1, .split = "eval" };
    EXPECT_INT(work_samples_count(db, &fewer), 0);
    EXPECT_INT(work_samples_scan(db, &fewer, items, PIECE), 0);
    EFFORT_BELOW(2000);
    struct work_samples more = { .policy = 1, .samples = SAMPLES + 1, .split = "train" };
    EXPECT_INT(work_samples_count(db, &more), PROMPTS * 9 / 10);
    EFFORT_BELOW(2000);
    EXPECT_INT(work_samples_scan(db, &more, items, PIECE), PIECE);
    EXPECT_INT(items[PIECE - 1].b, SAMPLES);
    EFFORT_BELOW(500 * PIECE);
    EXPECT_INT(work_split_foreign(db, 1, "train", tokenizer, sizeof tokenizer), 0);
    EFFORT_BELOW(2000);

    for (int filter = 0; filter < 4; filter++) {
        struct work_scores scores = { .reward = 1, .policy = filter & 1, .split = filter & 2 ? "train" : "" };
        int64_t missing = ROLLOUTS - SCORED, seen = 0, found;
        missing = filter & 2 ? missing * 9 / 10 : missing;
        EXPECT_INT(work_scores_count(db, &scores), missing);
        EFFORT_BELOW(4000);
        EXPECT_INT(work_scores_scan(db, &scores, items, 1), 1);
        EXPECT_INT(items[0].a, SCORED + 1);
        EFFORT_BELOW(100 * 4096);  // its block
        while ((found = work_scores_scan(db, &scores, items, PIECE)) > 0)
            seen += found;
        EXPECT_INT(seen + 1, missing);
        EFFORT_BELOW(100 * 4096);
        EXPECT_INT(work_scores_scan(db, &scores, items, PIECE), 0);
        EFFORT_BELOW(2000);
    }

    struct read *rows = read_policies(db);
    struct read_policy policy;
    while (read_policy_next(rows, &policy))
        EXPECT_INT(policy.rollouts, ROLLOUTS / 10 * (policy.split[0] == 't' ? 9 : 1));
    EXPECT_INT(read_end(rows), 0);
    rows = read_rewards(db);
    struct read_reward reward;
    while (read_reward_next(rows, &reward))
        EXPECT_INT(reward.scores, SCORED);
    EXPECT_INT(read_end(rows), 0);
    rows = read_splits(db);
    struct read_split split;
    while (read_split_next(rows, &split))
        EXPECT_INT(split.prompts, PROMPTS / 10 * (split.split[0] == 't' ? 9 : 1));
    EXPECT_INT(read_end(rows), 0);
    EFFORT_BELOW(20000);

    EXPECT_INT(plan_make(db, run, reason), PLAN_MADE);
    EFFORT_BELOW(2000);
    struct plan *plan = plan_load(db, run);  // reads the prompts, once
    EXPECT_INT(plan->count, ROLLOUTS / 10 * 9);
    plan_free(plan);
    EFFORT_BELOW(20 * PROMPTS);
    rows = read_runs(db);
    struct read_run run_row;
    while (read_run_next(rows, &run_row))
        EXPECT_INT(run_row.rollouts, ROLLOUTS / 10 * 9);
    EXPECT_INT(read_end(rows), 0);
    EFFORT_BELOW(2000);
    fresh_close(db);
}

/* ---- backup ---- */

/* The served store goes on while it is copied. */
struct meanwhile {
    struct db *db;
    int64_t calls, stop_at;
};

static bool write_meanwhile(void *context, int64_t done, int64_t total)
{
    struct meanwhile *meanwhile = context;
    EXPECT(done <= total);
    db_begin(meanwhile->db);
    db_run(meanwhile->db, db_query(meanwhile->db, "INSERT INTO prompt"
                                   " SELECT NULL, 'new' || ?1, 'T', 'train', hex(zeroblob(5000)), 1, x'01000000'", "i",
                                   ++meanwhile->calls));
    EXPECT_INT(db_commit(meanwhile->db), 0);
    return meanwhile->calls != meanwhile->stop_at;
}

/* Goal: a copy that is made while the store is written to is the store as it was when the copy began,
   and a store that can be served. */
static void test_backup_of_a_store_that_is_served(void)
{
    int code;
    char copy[128], beside[192], before[DIGEST_HEX_SIZE], after[DIGEST_HEX_SIZE];
    struct db *db = fresh_open();
    EXPECT_INT(big_store_fill(db, 10000, 10), 0);
    EXPECT_INT(content_digest(db, before), 0);
    snprintf(copy, sizeof copy, "%s/copy.db", directory);
    struct db *reader = db_open(path, DB_READ, &code);
    struct meanwhile meanwhile = { .db = db, .stop_at = 2 };
    EXPECT_INT(backup_make(reader, copy, write_meanwhile, &meanwhile), 75);
    snprintf(beside, sizeof beside, "%s.%ld.new", copy, (long)getpid());
    EXPECT(!file_exists(copy) && !file_exists(beside));
    db_rollback(db);
    EXPECT_INT(count_of(db, "SELECT count(*) FROM prompt WHERE key LIKE 'new%'"), 2);

    EXPECT_INT(content_digest(db, before), 0);
    meanwhile = (struct meanwhile){ .db = db, .calls = 2, .stop_at = -1 };
    EXPECT_INT(backup_make(reader, copy, write_meanwhile, &meanwhile), 0);
    EXPECT(meanwhile.calls > 4 && !file_exists(beside));
    EXPECT_INT(backup_make(reader, copy, write_meanwhile, &meanwhile), 73);
    db_close(reader);
    struct db *restored = db_open(copy, DB_SERVE, &code);
    EXPECT(restored != NULL);
    EXPECT_INT(content_digest(restored, after), 0);
    EXPECT_TEXT(after, before);
    EXPECT_INT(count_of(restored, "SELECT count(*) FROM prompt WHERE key LIKE 'new%'"), 2);
    check_counts(restored);
    db_close(restored);
    fresh_close(db);
}

int main(void)
{
    RUN(test_counts_are_those_of_the_rows);
    RUN(test_an_old_store_is_counted);
    RUN(test_effort_does_not_grow);
    RUN(test_backup_of_a_store_that_is_served);
    return tests_end();
}
