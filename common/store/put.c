/* put.c - see put.h. */
#include "store/put.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

/* Runs an INSERT; a constraint that we did not foresee is a refusal too. */
static enum put_status insert(struct db *db, sqlite3_stmt *query, char *reason)
{
    if (db_run(db, query) == 0)
        return db_changes(db) > 0 ? PUT_NEW : PUT_HAD;
    if (db_trouble(db) != DB_REFUSED)
        return PUT_FAILED;
    snprintf(reason, STORE_REASON_BYTES, "the store cannot hold this: %s", db_reason(db));
    return PUT_REFUSED;
}

__attribute__((format(printf, 2, 3))) static enum put_status refuse(char *reason, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, STORE_REASON_BYTES, format, arguments);
    va_end(arguments);
    return PUT_REFUSED;
}

static size_t tokens_size(struct tokens tokens)
{
    return tokens.count * sizeof *tokens.at;
}

static size_t floats_size(struct floats floats)
{
    return floats.count * sizeof *floats.at;
}

/* An empty blob, which a NULL pointer would turn into NULL. */
static const void *floats_data(struct floats floats)
{
    return floats.count > 0 ? (const void *)floats.at : "";
}

enum put_status put_prompt(struct db *db, const struct frame_prompt *prompt, char *reason)
{
    if (db_begin(db) != 0)
        return PUT_FAILED;
    return insert(db, db_query(db, "INSERT INTO prompt (key, tokenizer, split, text, token_count, tokens)"
                                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO NOTHING", "ttttib", prompt->prompt_key,
                               prompt->tokenizer, prompt->split, prompt->prompt, (int64_t)prompt->prompt_tokens.count,
                               prompt->prompt_tokens.at, tokens_size(prompt->prompt_tokens)), reason);
}

enum put_status put_rollout(struct db *db, const struct frame_rollout *rollout, int64_t policy, char *reason)
{
    if (rollout->sample < 0)
        return refuse(reason, "field \"sample\" is %lld, must be from 0 to 1048575", (long long)rollout->sample);
    size_t R = rollout->response_tokens.count;
    if (rollout->logprobs.count != 0 && rollout->logprobs.count != R)
        return refuse(reason, "field \"logprobs\" has %zu elements, the response has %zu tokens", rollout->logprobs.count, R);
    if (db_begin(db) != 0)
        return PUT_FAILED;
    sqlite3_stmt *query = db_query(db, "SELECT p.id, o.tokenizer IN ('', p.tokenizer) FROM prompt p, policy o WHERE p.key = ?1"
                                   " AND o.id = ?2", "ti", rollout->prompt_key, policy);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped < 0 ? PUT_FAILED : refuse(reason, "field \"prompt_key\" is \"%s\", the store has no such prompt",
                                                 rollout->prompt_key);
    int64_t prompt = sqlite3_column_int64(query, 0);
    bool fits = sqlite3_column_int(query, 1);
    db_end(query);
    if (!fits)
        return refuse(reason, "field \"prompt_key\" is \"%s\", a prompt of another tokenizer than the policy's",
                      rollout->prompt_key);
    return insert(db, db_query(db, "INSERT INTO rollout (policy, prompt, sample, stopped, kl, token_count, tokens, logprobs, text)"
                                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (policy, prompt, sample) DO NOTHING",
                               "iiiiribbt", policy, prompt, rollout->sample, rollout->stopped, rollout->kl, (int64_t)R,
                               rollout->response_tokens.at, tokens_size(rollout->response_tokens),
                               R == rollout->logprobs.count ? (const void *)rollout->logprobs.at : NULL,
                               floats_size(rollout->logprobs), rollout->response), reason);
}

/* A stored rollout by the keys that frames carry. */
struct rollout_found {
    int64_t id, prompt, token_count;
};

static int rollout_find(struct db *db, const char *policy, const char *prompt_key, int64_t sample, struct rollout_found *found)
{
    sqlite3_stmt *query = db_query(db, "SELECT r.id, r.prompt, r.token_count FROM rollout r WHERE r.policy = (SELECT id FROM policy"
                                       " WHERE name = ?1) AND r.prompt = (SELECT id FROM prompt WHERE key = ?2) AND r.sample = ?3",
                                       "tti", policy, prompt_key, sample);
    int stepped = db_step(db, query);
    if (stepped > 0) {
        *found = (struct rollout_found){ sqlite3_column_int64(query, 0), sqlite3_column_int64(query, 1),
                                         sqlite3_column_int64(query, 2) };
        db_end(query);
    }
    return stepped;
}

static enum put_status rollout_missing(int found, const char *policy, const char *prompt_key, int64_t sample, char *reason)
{
    if (found < 0)
        return PUT_FAILED;
    return refuse(reason, "the store has no rollout of policy \"%s\", prompt_key \"%s\", sample %lld", policy, prompt_key,
                  (long long)sample);
}

enum put_status put_score(struct db *db, const struct frame_scored *scored, int64_t reward, char *reason)
{
    struct rollout_found rollout;
    int found = db_begin(db) == 0 ? rollout_find(db, scored->policy, scored->prompt_key, scored->sample, &rollout) : -1;
    if (found <= 0)
        return rollout_missing(found, scored->policy, scored->prompt_key, scored->sample, reason);
    return insert(db, db_query(db, "INSERT INTO score (reward, rollout, score) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", "iir",
                               reward, rollout.id, scored->score), reason);
}

enum put_status put_target(struct db *db, const struct frame_target *target, struct plan *plan, char *reason)
{
    struct rollout_found rollout;
    int found = db_begin(db) == 0 ? rollout_find(db, target->policy, target->prompt_key, target->sample, &rollout) : -1;
    if (found <= 0)
        return rollout_missing(found, target->policy, target->prompt_key, target->sample, reason);
    int64_t values = (int64_t)target->values.count, targets = (int64_t)target->targets.count;
    bool own_states = target->state_tokenizer[0] != '\0';  // then only the value model's tokenizer knows R
    int64_t R = !own_states ? rollout.token_count : values > 0 ? values - 1 : targets;
    if (own_states && strcmp(target->state_tokenizer, plan->state_tokenizer) != 0)
        return refuse(reason, "field \"state_tokenizer\" is \"%s\", run \"%s\" has \"%s\"", target->state_tokenizer, plan->name,
                      plan->state_tokenizer);
    if (values != 0 && values != R + 1)
        return refuse(reason, "field \"values\" has %lld elements, the response has %lld states", (long long)values,
                      (long long)(R + 1));
    if (targets != R && targets != R + 1)
        return refuse(reason, "field \"targets\" has %lld elements, must be %lld or %lld", (long long)targets, (long long)R,
                      (long long)(R + 1));
    if (target->batch < 0 || target->batch >= plan->batches)
        return refuse(reason, "field \"batch\" is %lld, run \"%s\" has %lld batches", (long long)target->batch, plan->name,
                      (long long)plan->batches);
    if (!plan_batch_has(plan, target->batch, rollout.prompt, target->sample))
        return refuse(reason, "batch %lld of run \"%s\" does not hold prompt_key \"%s\", sample %lld", (long long)target->batch,
                      plan->name, target->prompt_key, (long long)target->sample);
    return insert(db, db_query(db, "INSERT INTO target (run, batch, rollout, step, value_count, value, target_count, target)"
                                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (run, batch, rollout) DO NOTHING",
                               "iiiiibib", plan->run, target->batch, rollout.id, target->step, values, floats_data(target->values),
                               floats_size(target->values), targets, target->targets.at, floats_size(target->targets)), reason);
}

/* The numbers with those added that the subject's earlier workers have reported.  NULL when the store could not be read. */
static char *numbers_sum(struct db *db, const char *subject, json_t *numbers)
{
    sqlite3_stmt *query = db_query(db, "SELECT numbers FROM metric WHERE subject = ?1 AND step = 0", "t", subject);
    int stepped = db_step(db, query);
    if (stepped < 0)
        return NULL;
    json_t *sum = json_object(), *stored = NULL, *value;
    if (stepped > 0) {
        stored = json_loads((const char *)sqlite3_column_text(query, 0), 0, NULL);
        db_end(query);
    }
    const char *key;
    json_object_foreach(numbers, key, value)
        json_object_set_new(sum, key, json_real(json_number_value(value) + json_number_value(json_object_get(stored, key))));
    char *text = json_text(sum);
    json_decref(stored);
    json_decref(sum);
    return text;
}

enum put_status put_metric(struct db *db, const struct frame_metric *metric, double now_s, char *reason)
{
    json_t *numbers = json_parse(metric->numbers, strlen(metric->numbers), "metric");
    const char *key, *wrong = NULL;
    json_t *value;
    if (!json_is_object(numbers)) {
        json_decref(numbers);
        return refuse(reason, "field \"numbers\" is not a JSON object");
    }
    char name[128] = "";
    json_object_foreach(numbers, key, value)
        if (!json_is_number(value))
            snprintf(name, sizeof name, "%s", wrong = key);
    if (wrong != NULL) {
        json_decref(numbers);
        return refuse(reason, "field \"numbers\" has \"%s\", which is not a number", name);
    }
    char *text = NULL;
    if (db_begin(db) == 0)
        text = metric->step == 0 ? numbers_sum(db, metric->subject, numbers) : memory_text(metric->numbers);
    json_decref(numbers);
    if (text == NULL)
        return PUT_FAILED;
    enum put_status status = insert(db, db_query(db, "INSERT INTO metric (subject, step, numbers, at_s) VALUES (?1, ?2, ?3, ?4)"
                                                     " ON CONFLICT (subject, step) DO UPDATE SET numbers = ?3, at_s = ?4", "titr",
                                                 metric->subject, metric->step, text, now_s), reason);
    free(text);
    return status;
}

int put_effort(struct db *db, const char *stage, const char *name, const int64_t ms[EFFORT_COUNT])
{
    if (db_begin(db) != 0)
        return -1;
    return db_run(db, db_query(db, "INSERT INTO effort (stage, name, compute_ms, wait_ms, wire_ms, other_ms)"
                                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE"
                                   " SET compute_ms = compute_ms + ?3, wait_ms = wait_ms + ?4, wire_ms = wire_ms + ?5,"
                                   " other_ms = other_ms + ?6", "ttiiii", stage, name, ms[EFFORT_COMPUTE], ms[EFFORT_WAIT],
                               ms[EFFORT_WIRE], ms[EFFORT_OTHER]));
}

/* ---- failures ---- */

enum put_status put_failure(struct db *db, const struct failure_key *key, int64_t attempts, const char *reason, double now_s)
{
    char why[STORE_REASON_BYTES];
    if (db_begin(db) != 0)
        return PUT_FAILED;
    if (key->policy != 0)
        return insert(db, db_query(db, "INSERT INTO failure (stage, policy, prompt, sample, attempts, reason, at_s)"
                                       " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING", "tiiiitr", key->stage,
                                   key->policy, key->prompt, key->sample, attempts, reason, now_s), why);
    if (key->reward != 0)
        return insert(db, db_query(db, "INSERT INTO failure (stage, reward, rollout, attempts, reason, at_s)"
                                       " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING", "tiiitr", key->stage, key->reward,
                                       key->rollout, attempts, reason, now_s), why);
    return insert(db, db_query(db, "INSERT INTO failure (stage, run, batch, rollout, attempts, reason, at_s)"
                                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING", "tiiiitr", key->stage, key->run,
                                   key->batch, key->rollout, attempts, reason, now_s), why);
}

int64_t failures_forget(struct db *db, const char *stage, const char *name)
{
    if (db_begin(db) != 0
        || db_run(db, db_query(db, "DELETE FROM failure WHERE ?1 IN ('', stage) AND (?2 = '' OR policy = (SELECT id FROM policy"
                                   " WHERE name = ?2) OR reward = (SELECT id FROM reward WHERE name = ?2) OR run = (SELECT id"
                                   " FROM run WHERE name = ?2))",
                                "tt", stage, name)) != 0)
        return -1;
    int64_t deleted = db_changes(db);
    return db_commit(db) == 0 ? deleted : -1;
}
