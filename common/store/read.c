/* read.c - see read.h. */
#include "store/read.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"

struct read {
    struct db *db;
    sqlite3_stmt *query;
    bool failed;
};

static void read_failed(struct read *rows)
{
    log_error("could not read store \"%s\": %s", db_path(rows->db), db_reason(rows->db));
    rows->failed = true;
}

static struct read *read_begin(struct db *db, const char *sql)
{
    struct read *rows = memory_alloc(1, sizeof *rows);
    rows->db = db;
    rows->query = db_prepare(db, sql);
    if (rows->query == NULL)
        read_failed(rows);
    return rows;
}

static void bind_text(struct read *rows, int parameter, const char *text)
{
    if (rows->query != NULL)
        sqlite3_bind_text(rows->query, parameter, text, -1, SQLITE_TRANSIENT);
}

int read_end(struct read *rows)
{
    int result = rows->failed ? -1 : 0;
    sqlite3_finalize(rows->query);
    free(rows);
    return result;
}

static bool read_next(struct read *rows)
{
    if (rows->failed)
        return false;
    int stepped = db_step(rows->db, rows->query);
    if (stepped < 0)
        read_failed(rows);
    return stepped > 0;
}

static const char *text_at(struct read *rows, int column)
{
    const char *text = (const char *)sqlite3_column_text(rows->query, column);
    return text ? text : "";
}

static int64_t int_at(struct read *rows, int column)
{
    return sqlite3_column_int64(rows->query, column);
}

static double number_at(struct read *rows, int column)
{
    return sqlite3_column_type(rows->query, column) == SQLITE_NULL ? NAN : sqlite3_column_double(rows->query, column);
}

struct read *read_policies(struct db *db)
{
    return read_begin(db,
        "SELECT o.name, o.spec, k.split, coalesce(n.samples, 0),"
        " (SELECT coalesce(sum(prompts), 0) FROM prompt_count c WHERE c.split = k.split"
        " AND o.tokenizer IN ('', c.tokenizer)) AS prompts,"
        " (SELECT sum(rollouts) FROM sample_count WHERE policy = o.id AND split = k.split),"
        " (SELECT sum(failed) FROM sample_count WHERE policy = o.id AND split = k.split),"
        " (SELECT sum(rollouts + failed) FROM sample_count WHERE policy = o.id AND split = k.split AND sample < n.samples)"
        " FROM policy o JOIN (SELECT policy, split FROM sampling UNION SELECT policy, split FROM sample_count) k ON k.policy = o.id"
        " LEFT JOIN sampling n ON n.policy = o.id AND n.split = k.split ORDER BY o.name, k.split");
}

bool read_policy_next(struct read *rows, struct read_policy *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_policy){ .name = text_at(rows, 0), .spec = text_at(rows, 1), .split = text_at(rows, 2),
                                 .samples = int_at(rows, 3), .prompts = int_at(rows, 4), .rollouts = int_at(rows, 5),
                                 .failed = int_at(rows, 6) };
    row->missing = row->prompts * row->samples - int_at(rows, 7);
    return true;
}

struct read *read_rewards(struct db *db)
{
    return read_begin(db, "SELECT name, spec, coalesce(sum(scores), 0), coalesce(sum(failed), 0) FROM reward w"
                          " LEFT JOIN score_count c ON c.reward = w.id GROUP BY w.id ORDER BY name");
}

bool read_reward_next(struct read *rows, struct read_reward *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_reward){ .name = text_at(rows, 0), .spec = text_at(rows, 1), .scores = int_at(rows, 2),
                                 .failed = int_at(rows, 3) };
    return true;
}

struct read *read_splits(struct db *db)
{
    return read_begin(db, "SELECT split, sum(prompts) FROM prompt_count GROUP BY split ORDER BY split");
}

bool read_split_next(struct read *rows, struct read_split *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_split){ .split = text_at(rows, 0), .prompts = int_at(rows, 1) };
    return true;
}

/* Sums float32 in the order of the response. */
static double blob_sum(struct read *rows, int column)
{
    if (sqlite3_column_type(rows->query, column) == SQLITE_NULL)
        return NAN;
    const float *values = sqlite3_column_blob(rows->query, column);
    size_t count = (size_t)sqlite3_column_bytes(rows->query, column) / sizeof *values;
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)values[i];
    return sum;
}

struct read *read_scores(struct db *db, const char *policy, const char *reward, const char *split)
{
    struct read *rows = read_begin(db,
        "SELECT r.prompt, r.sample, s.score, r.kl, r.logprobs, r.token_count, r.stopped"
        " FROM rollout r JOIN prompt p ON p.id = r.prompt JOIN score s ON s.rollout = r.id"
        " WHERE r.policy = (SELECT id FROM policy WHERE name = ?1) AND s.reward = (SELECT id FROM reward WHERE name = ?2)"
        " AND ?3 IN ('', p.split) ORDER BY r.prompt, r.sample");
    bind_text(rows, 1, policy);
    bind_text(rows, 2, reward);
    bind_text(rows, 3, split);
    return rows;
}

bool read_score_next(struct read *rows, struct read_score *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_score){ .prompt = int_at(rows, 0), .sample = int_at(rows, 1), .score = number_at(rows, 2),
                                .kl = number_at(rows, 3), .logprob = blob_sum(rows, 4), .tokens = int_at(rows, 5),
                                .stopped = int_at(rows, 6) };
    return true;
}

/* ?1 policy, ?2 reward, ?3 split, '' for any; ?4 prompt. */
#define TEXTS(of_prompt) \
    "SELECT p.id, r.sample, o.name, p.split, p.text, r.text, w.name, s.score, r.kl, r.stopped, r.token_count" \
    " FROM policy o JOIN rollout r ON r.policy = o.id JOIN prompt p ON p.id = r.prompt" \
    " LEFT JOIN score s ON s.rollout = r.id AND (?2 = '' OR s.reward = (SELECT id FROM reward WHERE name = ?2))" \
    " LEFT JOIN reward w ON w.id = s.reward" \
    " WHERE ?1 IN ('', o.name) AND ?3 IN ('', p.split)" of_prompt " AND (?2 = '' OR s.score IS NOT NULL)" \
    " ORDER BY o.name, r.prompt, r.sample, w.name"

struct read *read_texts(struct db *db, const char *policy, const char *reward, const char *split, int64_t prompt)
{
    struct read *rows = read_begin(db, prompt == 0 ? TEXTS("") : TEXTS(" AND r.prompt = ?4"));
    bind_text(rows, 1, policy);
    bind_text(rows, 2, reward);
    bind_text(rows, 3, split);
    if (rows->query != NULL && prompt != 0)
        sqlite3_bind_int64(rows->query, 4, prompt);
    return rows;
}

bool read_text_next(struct read *rows, struct read_text *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_text){ .prompt_id = int_at(rows, 0), .sample = int_at(rows, 1), .policy = text_at(rows, 2),
                               .split = text_at(rows, 3), .prompt = text_at(rows, 4), .response = text_at(rows, 5),
                               .reward = text_at(rows, 6), .score = number_at(rows, 7), .kl = number_at(rows, 8),
                               .stopped = int_at(rows, 9), .tokens = int_at(rows, 10) };
    return true;
}

struct read *read_runs(struct db *db)
{
    return read_begin(db,
        "SELECT r.name, target, train, o.name, w.name, coalesce(rollouts, 0), coalesce(batches, 0),"
        " coalesce(n.targets, 0), coalesce(n.failed, 0), c.batch, c.step,"
        " EXISTS (SELECT 1 FROM checkpoint WHERE run = r.id AND complete AND final)"
        " FROM run r LEFT JOIN policy o ON o.id = r.policy LEFT JOIN reward w ON w.id = r.reward"
        " LEFT JOIN target_count n ON n.run = r.id LEFT JOIN checkpoint c ON c.id = (SELECT id FROM checkpoint WHERE run = r.id"
        " AND complete ORDER BY step DESC LIMIT 1) ORDER BY r.name");
}

bool read_run_next(struct read *rows, struct read_run *row)
{
    if (!read_next(rows))
        return false;
    bool begun = sqlite3_column_type(rows->query, 9) != SQLITE_NULL;
    *row = (struct read_run){ .name = text_at(rows, 0), .target = text_at(rows, 1), .train = text_at(rows, 2),
                              .policy = text_at(rows, 3), .reward = text_at(rows, 4), .rollouts = int_at(rows, 5),
                              .batches = int_at(rows, 6), .targets = int_at(rows, 7), .failed = int_at(rows, 8),
                              .batch = begun ? int_at(rows, 9) : -1, .step = begun ? int_at(rows, 10) : -1,
                              .final = int_at(rows, 11) };
    return true;
}

struct read *read_metrics(struct db *db, const char *subject)
{
    struct read *rows = read_begin(db, "SELECT subject, step, numbers, at_s FROM metric WHERE ?1 IN ('', subject)"
                                   " ORDER BY subject, step");
    bind_text(rows, 1, subject);
    return rows;
}

bool read_metric_next(struct read *rows, struct read_metric *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_metric){ .subject = text_at(rows, 0), .step = int_at(rows, 1), .numbers = text_at(rows, 2),
                                 .at_s = number_at(rows, 3) };
    return true;
}

struct read *read_efforts(struct db *db)
{
    return read_begin(db, "SELECT stage, name, compute_ms, wait_ms, wire_ms, other_ms FROM effort ORDER BY stage, name");
}

bool read_effort_next(struct read *rows, struct read_effort *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_effort){ .stage = text_at(rows, 0), .name = text_at(rows, 1),
        .seconds = { [EFFORT_COMPUTE] = 1e-3 * number_at(rows, 2), [EFFORT_WAIT] = 1e-3 * number_at(rows, 3),
                     [EFFORT_WIRE] = 1e-3 * number_at(rows, 4), [EFFORT_OTHER] = 1e-3 * number_at(rows, 5) } };
    return true;
}

struct read *read_failures(struct db *db)
{
    return read_begin(db, "SELECT stage, coalesce(o.name, w.name, r.name), attempts, reason FROM failure f"
                          " LEFT JOIN policy o ON o.id = f.policy LEFT JOIN reward w ON w.id = f.reward"
                          " LEFT JOIN run r ON r.id = f.run ORDER BY f.id");
}

bool read_failure_next(struct read *rows, struct read_failure *row)
{
    if (!read_next(rows))
        return false;
    *row = (struct read_failure){ .stage = text_at(rows, 0), .name = text_at(rows, 1), .attempts = int_at(rows, 2),
                                  .reason = text_at(rows, 3) };
    return true;
}
