/* plan.c - see plan.h. */
#include "store/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/philox.h"
#include "store/pin.h"

/* ---- settings ---- */

struct plan_target {
    const char *reward, *policy, *split, *state_tokenizer;  // borrow from the JSON
    double lambda;
    json_int_t refresh;
};

struct plan_train {
    json_int_t batch, epochs, updates, refresh, seed;
};

enum { NAME_BYTES = 128, TOKENIZER_BYTES = 64 };  // what a frame can carry

static int text_read(const json_t *settings, const char *key, size_t most, const char **out, char *reason)
{
    *out = json_string_value(json_object_get(settings, key));
    if (*out != NULL && **out != '\0' && strlen(*out) <= most)
        return 1;
    snprintf(reason, STORE_REASON_BYTES, "field \"%s\" of target must be a text of 1 to %zu bytes", key, most);
    return 0;
}

static int int_read(const json_t *settings, const char *key, json_int_t low, json_int_t high, json_int_t *out, char *reason)
{
    const json_t *value = json_object_get(settings, key);
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= low && *out <= high)
        return 1;
    snprintf(reason, STORE_REASON_BYTES, "field \"%s\" of the run's settings must be a whole number from %lld to %lld", key,
             (long long)low, (long long)high);
    return 0;
}

static int target_read(const json_t *settings, struct plan_target *target, char *reason)
{
    const json_t *lambda = json_object_get(settings, "lambda");
    target->lambda = json_number_value(lambda);
    if (!json_is_number(lambda) || !(target->lambda >= 0 && target->lambda <= 1)) {
        snprintf(reason, STORE_REASON_BYTES, "field \"lambda\" of target must be a number from 0 to 1");
        return 0;
    }
    target->state_tokenizer = "";
    if (json_object_get(settings, "state_tokenizer") != NULL
        && !text_read(settings, "state_tokenizer", TOKENIZER_BYTES, &target->state_tokenizer, reason))
        return 0;
    return text_read(settings, "reward", NAME_BYTES, &target->reward, reason)
           && text_read(settings, "policy", NAME_BYTES, &target->policy, reason)
           && text_read(settings, "split", NAME_BYTES, &target->split, reason)
           && int_read(settings, "refresh", 1, 1000000000, &target->refresh, reason);
}

static int train_read(const json_t *settings, struct plan_train *train, char *reason)
{
    return int_read(settings, "batch", 1, 1 << 20, &train->batch, reason)
           && int_read(settings, "epochs", 1, 1 << 20, &train->epochs, reason)
           && int_read(settings, "updates", 1, 1 << 20, &train->updates, reason)
           && int_read(settings, "refresh", 1, 1000000000, &train->refresh, reason)
           && int_read(settings, "seed", INT64_MIN, INT64_MAX, &train->seed, reason);
}

/* The run's pinned settings, read into both structs; parts that are not pinned are NULL.  0, or -1 on failure. */
static int settings_load(struct db *db, const char *run, json_t **target, json_t **train)
{
    sqlite3_stmt *query = db_query(db, "SELECT target, train FROM run WHERE name = ?1", "t", run);
    *target = *train = NULL;
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    json_t **parts[2] = { target, train };
    for (int i = 0; i < 2; i++) {
        const char *text = (const char *)sqlite3_column_text(query, i);
        *parts[i] = text ? json_parse(text, strlen(text), run) : NULL;
    }
    db_end(query);
    return 0;
}

static int goes_together(const char *run, const struct plan_target *target, const struct plan_train *train, char *reason)
{
    if (target->lambda >= 1 || target->refresh == train->refresh)
        return 1;
    snprintf(reason, STORE_REASON_BYTES, "run \"%s\" has refresh %lld in value-target and %lld in train, they must be equal", run,
             (long long)target->refresh, (long long)train->refresh);
    return 0;
}

int plan_check(struct db *db, const char *run, const char *part, const json_t *settings, char *reason)
{
    json_t *target_json, *train_json;
    struct plan_target target;
    struct plan_train train;
    if (settings_load(db, run, &target_json, &train_json) != 0)
        return -1;
    bool is_target = strcmp(part, "target") == 0;
    const json_t *mine_target = is_target ? settings : target_json, *mine_train = is_target ? train_json : settings;
    int fits = (mine_target == NULL || target_read(mine_target, &target, reason))
               && (mine_train == NULL || train_read(mine_train, &train, reason))
               && (mine_target == NULL || mine_train == NULL || goes_together(run, &target, &train, reason));
    json_decref(target_json);
    json_decref(train_json);
    return fits;
}

/* ---- making a plan ---- */

/* What the plan will fix. */
struct plan_facts {
    int64_t run, policy, reward, imported, samples, prompt_last, rollout_last, rollouts, batches;
};

static enum plan_status waits(char *reason, const char *what, const char *name)
{
    snprintf(reason, STORE_REASON_BYTES, "%s%s%s%s", what, name[0] ? " \"" : "", name, name[0] ? "\"" : "");
    return PLAN_WAITS;
}

static enum plan_status facts_policy(struct db *db, const struct plan_target *target, struct plan_facts *facts, char *reason)
{
    sqlite3_stmt *query = db_query(db, "SELECT id, imported, tokenizer FROM policy WHERE name = ?1", "t", target->policy);
    int stepped = db_step(db, query);
    if (stepped < 0)
        return PLAN_FAILED;
    if (stepped == 0)
        return waits(reason, "a worker of policy", target->policy);
    facts->policy = sqlite3_column_int64(query, 0);
    facts->imported = sqlite3_column_int64(query, 1);
    db_end(query);
    int64_t to_come = db_int(db, db_query(db, "SELECT count(*) FROM source, policy WHERE policy.id = ?1"
                                              " AND policy.tokenizer IN ('', source.tokenizer)", "i", facts->policy), -1);
    if (to_come < 0)
        return PLAN_FAILED;
    if (to_come > 0)
        return waits(reason, "the end of tokenize", "");
    facts->samples = db_int(db, db_query(db, "SELECT samples FROM sampling WHERE policy = ?1 AND split = ?2", "it", facts->policy,
                                         target->split), 0);
    if (facts->samples == 0 && !facts->imported)
        return waits(reason, "a worker that samples split", target->split);
    facts->reward = find_reward(db, target->reward);
    if (facts->reward < 0)
        return PLAN_FAILED;
    return facts->reward == 0 ? waits(reason, "a worker of reward", target->reward) : PLAN_MADE;
}

/* How many there are, and the last row ids of prompt and rollout.  ?1 policy, ?2 split. */
static const char count_prompts[] =
    "SELECT (SELECT sum(prompts) FROM prompt_count c WHERE c.split = ?2 AND o.tokenizer IN ('', c.tokenizer)),"
    " (SELECT p.id FROM prompt p WHERE p.split = ?2 AND o.tokenizer IN ('', p.tokenizer) ORDER BY p.id DESC LIMIT 1), 0"
    " FROM policy o WHERE o.id = ?1";
static const char count_imported[] =
    "SELECT (SELECT sum(rollouts) FROM rollout_count WHERE policy = ?1 AND split = ?2),"
    " (SELECT r.prompt FROM rollout r JOIN prompt p ON p.id = r.prompt WHERE r.policy = ?1 AND p.split = ?2"
    "  ORDER BY r.prompt DESC LIMIT 1),"
    " (SELECT r.id FROM rollout r JOIN prompt p ON p.id = r.prompt WHERE r.policy = ?1 AND p.split = ?2"
    "  ORDER BY r.id DESC LIMIT 1)";

static enum plan_status facts_set(struct db *db, const struct plan_target *target, const struct plan_train *train,
                                  struct plan_facts *facts, char *reason)
{
    sqlite3_stmt *query = db_query(db, facts->imported ? count_imported : count_prompts, "it", facts->policy, target->split);
    if (db_step(db, query) <= 0)
        return PLAN_FAILED;
    int64_t rows = sqlite3_column_int64(query, 0);
    facts->prompt_last = sqlite3_column_int64(query, 1);
    facts->rollout_last = sqlite3_column_int64(query, 2);
    db_end(query);
    facts->samples = facts->imported ? 0 : facts->samples;
    facts->rollouts = facts->imported ? rows : rows * facts->samples;
    if (facts->rollouts == 0)
        return waits(reason, "prompts of split", target->split);
    if (facts->rollouts > INT32_MAX)
        return waits(reason, "fewer rollouts: a run takes at most 2147483647", "");
    facts->batches = (facts->rollouts + train->batch - 1) / train->batch * train->epochs;
    return PLAN_MADE;
}

static enum plan_status facts_store(struct db *db, const struct plan_facts *facts)
{
    if (db_begin(db) != 0)
        return PLAN_FAILED;
    int stored = db_run(db, db_query(db, "UPDATE run SET policy = ?2, reward = ?3, samples = ?4, prompt_last = ?5,"
                                         " rollout_last = ?6, rollouts = ?7, batches = ?8 WHERE id = ?1", "iiiiiiii",
                                     facts->run, facts->policy, facts->reward, facts->samples, facts->prompt_last,
                                     facts->rollout_last, facts->rollouts, facts->batches));
    return stored == 0 ? PLAN_MADE : PLAN_FAILED;
}

enum plan_status plan_make(struct db *db, int64_t run, char *reason)
{
    sqlite3_stmt *query = db_query(db, "SELECT name, batches IS NOT NULL FROM run WHERE id = ?1", "i", run);
    if (db_step(db, query) <= 0)
        return PLAN_FAILED;
    char *name = memory_text((const char *)sqlite3_column_text(query, 0));
    bool made = sqlite3_column_int(query, 1);
    db_end(query);
    enum plan_status status = PLAN_MADE;
    if (made)
        goto free_name;

    json_t *target_json, *train_json;
    struct plan_target target;
    struct plan_train train;
    struct plan_facts facts = { .run = run };
    if (settings_load(db, name, &target_json, &train_json) != 0) {
        status = PLAN_FAILED;
        goto free_name;
    }
    if (target_json == NULL || train_json == NULL)
        status = waits(reason, target_json == NULL ? "value-target" : "train", "");
    else if (!target_read(target_json, &target, reason) || !train_read(train_json, &train, reason))
        status = PLAN_WAITS;
    else if ((status = facts_policy(db, &target, &facts, reason)) == PLAN_MADE
             && (status = facts_set(db, &target, &train, &facts, reason)) == PLAN_MADE
             && (status = facts_store(db, &facts)) == PLAN_MADE)
        log_event("run \"%s\" is planned rollouts=%lld batches=%lld", name, (long long)facts.rollouts, (long long)facts.batches);
    json_decref(target_json);
    json_decref(train_json);

free_name:
    free(name);
    return status;
}

/* ---- a plan in memory ---- */

static const char load_prompts[] = "SELECT p.id FROM prompt p, policy WHERE policy.id = ?1 AND p.split = ?2 AND p.id <= ?3"
                                   " AND policy.tokenizer IN ('', p.tokenizer) ORDER BY p.id";
static const char load_imported[] = "SELECT r.prompt, r.sample FROM rollout r JOIN prompt p ON p.id = r.prompt"
                                    " WHERE r.policy = ?1 AND p.split = ?2 AND r.prompt <= ?3 AND r.id <= ?4"
                                    " ORDER BY r.prompt, r.sample";

static int members_load(struct db *db, struct plan *plan, const char *split, int64_t prompt_last, int64_t rollout_last)
{
    bool imported = plan->samples == 0;
    sqlite3_stmt *query = imported ? db_query(db, load_imported, "itii", plan->policy, split, prompt_last, rollout_last)
                                   : db_query(db, load_prompts, "iti", plan->policy, split, prompt_last);
    size_t count = 0, prompts = 0, prompts_max = imported ? plan->count : plan->count / (size_t)plan->samples;
    plan->prompts = memory_alloc(prompts_max, sizeof *plan->prompts);
    plan->window_ends = memory_alloc(prompts_max / PLAN_WINDOW_PROMPTS + 1, sizeof *plan->window_ends);
    if (imported)
        plan->places = memory_alloc(plan->count, sizeof *plan->places);
    int stepped;
    while ((stepped = db_step(db, query)) > 0 && count < plan->count) {
        int64_t prompt = sqlite3_column_int64(query, 0);
        if (prompts == 0 || plan->prompts[prompts - 1] != prompt)
            plan->prompts[prompts++] = prompt;
        if (imported)
            plan->places[count] = (struct plan_place){ (uint32_t)(prompts - 1), sqlite3_column_int(query, 1) };
        count += imported ? 1 : (size_t)plan->samples;
        plan->window_ends[(prompts - 1) / PLAN_WINDOW_PROMPTS] = (uint32_t)count;
    }
    if (stepped > 0)
        db_end(query);
    plan->prompt_count = prompts;
    CHECK(stepped < 0 || count == plan->count);  // prompts and rollouts are never deleted
    return stepped < 0 ? -1 : 0;
}

struct plan *plan_load(struct db *db, int64_t run)
{
    sqlite3_stmt *query = db_query(db, "SELECT run.name, policy, reward, samples, prompt_last, rollout_last, rollouts, batches,"
                                       " target, train, imported FROM run JOIN policy ON policy.id = run.policy WHERE run.id = ?1",
                                       "i", run);
    if (db_step(db, query) <= 0)
        return NULL;
    struct plan *plan = memory_alloc(1, sizeof *plan);
    plan->run = run;
    plan->name = memory_text((const char *)sqlite3_column_text(query, 0));
    plan->policy = sqlite3_column_int64(query, 1);
    plan->reward = sqlite3_column_int64(query, 2);
    plan->samples = sqlite3_column_int64(query, 3);
    int64_t prompt_last = sqlite3_column_int64(query, 4), rollout_last = sqlite3_column_int64(query, 5);
    plan->count = (size_t)sqlite3_column_int64(query, 6);
    plan->batches = sqlite3_column_int64(query, 7);
    plan->imported = sqlite3_column_int(query, 10);
    json_t *target_json = json_loads((const char *)sqlite3_column_text(query, 8), 0, NULL);
    json_t *train_json = json_loads((const char *)sqlite3_column_text(query, 9), 0, NULL);
    db_end(query);

    struct plan_target target;
    struct plan_train train;
    char reason[STORE_REASON_BYTES];
    bool readable = target_json != NULL && train_json != NULL && target_read(target_json, &target, reason)
                    && train_read(train_json, &train, reason);
    if (readable) {
        plan->batch = train.batch;
        plan->epochs = train.epochs;
        plan->updates = train.updates;
        plan->refresh = train.refresh;
        plan->seed = (uint64_t)train.seed;
        plan->lambda = target.lambda;
        plan->state_tokenizer = memory_text(target.state_tokenizer);
        plan->epoch_batches = plan->batches / plan->epochs;
        for (int i = 0; i < PLAN_ORDERS; i++)
            plan->orders[i].epoch = -1;
        readable = members_load(db, plan, target.split, prompt_last, rollout_last) == 0;
    }
    json_decref(target_json);
    json_decref(train_json);
    if (!readable) {
        plan_free(plan);
        return NULL;
    }
    return plan;
}

int64_t plan_left_out(struct db *db, const struct plan *plan)
{
    if (plan->imported)
        return 0;
    int64_t prompts = db_int(db, db_query(db, "SELECT sum(c.prompts) FROM run r JOIN policy o ON o.id = r.policy JOIN prompt_count c"
                                              " ON c.split = json_extract(r.target, '$.split') AND o.tokenizer IN ('', c.tokenizer)"
                                              " WHERE r.id = ?1", "i", plan->run), -1);
    return prompts < 0 ? -1 : prompts - (int64_t)plan->prompt_count;
}

void plan_free(struct plan *plan)
{
    if (plan == NULL)
        return;
    for (int i = 0; i < PLAN_ORDERS; i++)
        free(plan->orders[i].order);
    free(plan->prompts);
    free(plan->places);
    free(plan->window_ends);
    free(plan->state_tokenizer);
    free(plan->name);
    free(plan);
}

void plan_permute(uint32_t *order, size_t count, const uint32_t *window_ends, uint64_t seed, int64_t epoch)
{
    if (epoch > 0) {
        philox_shuffle(order, count, seed, (uint64_t)epoch << 32);
        return;
    }
    size_t start = 0;
    for (uint64_t window = 0; start < count; window++) {
        size_t end = window_ends[window];
        philox_shuffle(order + start, end - start, seed, window);
        for (size_t i = start; i < end; i++)
            order[i] += (uint32_t)start;
        start = end;
    }
}

static const uint32_t *plan_order(struct plan *plan, int64_t epoch)
{
    struct plan_order *oldest = &plan->orders[0];
    for (int i = 0; i < PLAN_ORDERS; i++) {
        if (plan->orders[i].epoch == epoch) {
            plan->orders[i].used = ++plan->clock;
            return plan->orders[i].order;
        }
        if (plan->orders[i].used < oldest->used)
            oldest = &plan->orders[i];
    }
    if (oldest->order == NULL)
        oldest->order = memory_alloc(plan->count, sizeof *oldest->order);
    plan_permute(oldest->order, plan->count, plan->window_ends, plan->seed, epoch);
    oldest->epoch = epoch;
    oldest->used = ++plan->clock;
    return oldest->order;
}

size_t plan_batch_size(const struct plan *plan, int64_t b)
{
    size_t left = plan->count - (size_t)(b % plan->epoch_batches * plan->batch);
    return left < (size_t)plan->batch ? left : (size_t)plan->batch;
}

struct plan_member plan_member(const struct plan *plan, size_t i)
{
    if (plan->places != NULL)
        return (struct plan_member){ plan->prompts[plan->places[i].prompt], plan->places[i].sample };
    return (struct plan_member){ plan->prompts[i / (size_t)plan->samples], (int64_t)(i % (size_t)plan->samples) };
}

size_t plan_batch(struct plan *plan, int64_t b, struct plan_member *members)
{
    CHECK(b >= 0 && b < plan->batches);
    const uint32_t *order = plan_order(plan, b / plan->epoch_batches) + b % plan->epoch_batches * plan->batch;
    size_t count = plan_batch_size(plan, b);
    for (size_t i = 0; i < count; i++)
        members[i] = plan_member(plan, order[i]);
    return count;
}

bool plan_batch_has(struct plan *plan, int64_t b, int64_t prompt, int64_t sample)
{
    struct plan_member *members = memory_alloc((size_t)plan->batch, sizeof *members);
    size_t count = plan_batch(plan, b, members), i = 0;
    while (i < count && (members[i].prompt != prompt || members[i].sample != sample))
        i++;
    free(members);
    return i < count;
}

int64_t plan_snapshot(const struct plan *plan, int64_t updates_before)
{
    if (plan->lambda >= 1)
        return -1;
    return updates_before > 0 ? (updates_before - 1) / plan->refresh * plan->refresh : 0;
}
