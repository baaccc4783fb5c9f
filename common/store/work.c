/* work.c - see work.h. */
#include "store/work.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Row ids in a block of the tables of counts (schemas/store.sql). */
#define BLOCK_ROWS 4096
#define BLOCK_ROWS_TEXT "4096"

/* The number in the first row, if there is one.  1, 0, -1. */
static int number_read(struct db *db, sqlite3_stmt *query, int64_t *number)
{
    int stepped = db_step(db, query);
    if (stepped > 0) {
        *number = sqlite3_column_int64(query, 0);
        db_end(query);
    }
    return stepped;
}

/* ---- samples ---- */

/* ?1 policy, ?2 split, ?3 samples, ?4 block: the first from there on whose prompts lack samples. */
static const char next_prompt_block[] =
    "SELECT c.block FROM prompt_count c WHERE c.split = ?2 AND c.block >= ?4"
    " AND (SELECT tokenizer FROM policy WHERE id = ?1) IN ('', c.tokenizer) GROUP BY c.block"
    " HAVING sum(c.prompts) * ?3 > coalesce((SELECT sum(rollouts + failed) FROM sample_count"
    "   WHERE policy = ?1 AND split = ?2 AND block = c.block AND sample < ?3), 0) ORDER BY c.block LIMIT 1";

/* ?1 policy, ?2 split, ?3 samples, ?4 block, ?5 cursor. */
static const char next_prompt[] =
    "SELECT p.id FROM prompt p WHERE p.split = ?2 AND p.id > max(?5, ?4 * " BLOCK_ROWS_TEXT " - 1)"
    " AND p.id < (?4 + 1) * " BLOCK_ROWS_TEXT
    " AND (SELECT tokenizer FROM policy WHERE id = ?1) IN ('', p.tokenizer)"
    " AND (SELECT count(*) FROM rollout r WHERE r.policy = ?1 AND r.prompt = p.id AND r.sample < ?3)"
    "   + (SELECT count(*) FROM failure f WHERE f.policy = ?1 AND f.prompt = p.id AND f.sample < ?3) < ?3"
    " ORDER BY p.id LIMIT 1";

static const char samples_present[] =
    "SELECT sample FROM rollout WHERE policy = ?1 AND prompt = ?2 AND sample >= ?3 AND sample < ?4"
    " UNION SELECT sample FROM failure WHERE policy = ?1 AND prompt = ?2 AND sample >= ?3 AND sample < ?4 ORDER BY 1";

/* Missing samples of the cursor's prompt from first on. */
static int64_t scan_prompt(struct db *db, struct work_samples *key, int64_t first, struct work_item *items, size_t max)
{
    sqlite3_stmt *query = db_query(db, samples_present, "iiii", key->policy, key->prompt, first, key->samples);
    size_t count = 0;
    int64_t sample = first;
    int stepped;
    do {
        stepped = db_step(db, query);
        if (stepped < 0)
            return -1;
        int64_t present = stepped > 0 ? sqlite3_column_int64(query, 0) : key->samples;
        for (; sample < present && count < max; sample++)
            items[count++] = (struct work_item){ key->prompt, sample };
        if (sample == present)
            sample++;
    } while (stepped > 0 && count < max);
    if (stepped > 0)
        db_end(query);
    key->sample = sample;
    key->inside = sample < key->samples;
    return (int64_t)count;
}

/* Moves the cursor to the next prompt that lacks samples.  1, 0 when there is none, -1. */
static int next_prompt_find(struct db *db, struct work_samples *key)
{
    for (int64_t block = key->prompt / BLOCK_ROWS; ; block++) {
        int found = number_read(db, db_query(db, next_prompt_block, "itii", key->policy, key->split, key->samples, block), &block);
        if (found <= 0)
            return found;
        sqlite3_stmt *query = db_query(db, next_prompt, "itiii", key->policy, key->split, key->samples, block, key->prompt);
        int stepped = db_step(db, query);
        if (stepped > 0) {
            key->prompt = sqlite3_column_int64(query, 0);
            key->sample = 0;
            db_end(query);
        }
        if (stepped != 0)
            return stepped;
    }
}

int64_t work_samples_scan(struct db *db, struct work_samples *key, struct work_item *items, size_t max)
{
    size_t count = 0;
    while (count < max) {
        int next = key->inside ? 1 : next_prompt_find(db, key);
        if (next <= 0)
            return next < 0 ? -1 : (int64_t)count;
        int64_t found = scan_prompt(db, key, key->sample, items + count, max - count);
        if (found < 0)
            return -1;
        count += (size_t)found;
    }
    return (int64_t)count;
}

int64_t work_samples_count(struct db *db, const struct work_samples *key)
{
    return db_int(db, db_query(db,
        "SELECT coalesce((SELECT sum(prompts) FROM prompt_count c, policy o WHERE o.id = ?1 AND split = ?2"
        "                 AND o.tokenizer IN ('', c.tokenizer)), 0) * ?3"
        " - coalesce((SELECT sum(rollouts + failed) FROM sample_count WHERE policy = ?1 AND split = ?2 AND sample < ?3), 0)", "iti",
        key->policy, key->split, key->samples), -1);
}

int work_split_foreign(struct db *db, int64_t policy, const char *split, char *tokenizer, size_t size)
{
    sqlite3_stmt *query = db_query(db, "SELECT c.tokenizer FROM prompt_count c WHERE c.split = ?2 AND NOT EXISTS (SELECT 1"
                                       " FROM prompt_count k, policy o WHERE o.id = ?1 AND k.split = ?2"
                                       " AND o.tokenizer IN ('', k.tokenizer)) LIMIT 1", "it", policy, split);
    int stepped = db_step(db, query);
    if (stepped > 0) {
        snprintf(tokenizer, size, "%s", (const char *)sqlite3_column_text(query, 0));
        db_end(query);
    }
    return stepped;
}

int work_samples_done(struct db *db, const struct work_samples *key, struct work_item item)
{
    return (int)db_int(db, db_query(db, "SELECT EXISTS (SELECT 1 FROM rollout WHERE policy = ?1 AND prompt = ?2 AND sample = ?3)",
                                    "iii", key->policy, item.a, item.b), -1);
}

int work_samples_named(struct db *db, const struct work_samples *key, const struct frame_hold *hold, struct work_item *item)
{
    if (hold->sample < 0 || hold->sample >= key->samples)
        return 0;
    sqlite3_stmt *query = db_query(db,
        "SELECT p.id FROM prompt p WHERE p.key = ?1 AND p.split = ?2"
        " AND (SELECT tokenizer FROM policy WHERE id = ?3) IN ('', p.tokenizer)"
        " AND NOT EXISTS (SELECT 1 FROM rollout WHERE policy = ?3 AND prompt = p.id AND sample = ?4)"
        " AND NOT EXISTS (SELECT 1 FROM failure WHERE policy = ?3 AND prompt = p.id AND sample = ?4)",
        "ttii", hold->prompt_key, key->split, key->policy, hold->sample);
    *item = (struct work_item){ .b = hold->sample };
    return number_read(db, query, &item->a);
}

/* ---- scores ---- */

/* ?1 reward, ?2 policy or 0, ?3 split or '', ?4 block: the first from there on of whose rollouts some lack a score. */
static const char next_rollout_block[] =
    "SELECT c.block FROM rollout_count c WHERE c.block >= ?4 AND ?2 IN (0, c.policy) AND ?3 IN ('', c.split)"
    " AND c.rollouts > coalesce((SELECT scores + failed FROM score_count s WHERE s.reward = ?1 AND s.block = c.block"
    " AND s.policy = c.policy   AND s.split = c.split), 0) ORDER BY c.block LIMIT 1";

/* ?1 reward, ?2 policy, ?3 split or '', ?4 block, ?5 cursor, ?6 how many at most. */
#define NEXT_ROLLOUTS(of_policy) \
    "SELECT r.id FROM rollout r WHERE " of_policy \
    "r.id > max(?5, ?4 * " BLOCK_ROWS_TEXT " - 1) AND r.id < (?4 + 1) * " BLOCK_ROWS_TEXT \
    " AND (?3 = '' OR (SELECT split FROM prompt WHERE id = r.prompt) = ?3)" \
    " AND NOT EXISTS (SELECT 1 FROM score WHERE reward = ?1 AND rollout = r.id)" \
    " AND NOT EXISTS (SELECT 1 FROM failure WHERE reward = ?1 AND rollout = r.id) ORDER BY r.id LIMIT ?6"
static const char next_rollouts[] = NEXT_ROLLOUTS("");
static const char next_rollouts_of_policy[] = NEXT_ROLLOUTS("r.policy = ?2 AND ");

int64_t work_scores_scan(struct db *db, struct work_scores *key, struct work_item *items, size_t max)
{
    size_t count = 0;
    int64_t block = key->rollout / BLOCK_ROWS;
    for (; count < max; block++) {
        int found = number_read(db, db_query(db, next_rollout_block, "iiti", key->reward, key->policy, key->split, block), &block);
        if (found <= 0)
            return found < 0 ? -1 : (int64_t)count;
        sqlite3_stmt *query = db_query(db, key->policy ? next_rollouts_of_policy : next_rollouts, "iitiii", key->reward,
                                       key->policy, key->split, block, key->rollout, (int64_t)(max - count));
        int stepped;
        while ((stepped = db_step(db, query)) > 0) {
            key->rollout = sqlite3_column_int64(query, 0);
            items[count++] = (struct work_item){ key->rollout, 0 };
        }
        if (stepped < 0)
            return -1;
    }
    return (int64_t)count;
}

int64_t work_scores_count(struct db *db, const struct work_scores *key)
{
    return db_int(db, db_query(db,
        "SELECT coalesce((SELECT sum(rollouts) FROM rollout_count WHERE ?2 IN (0, policy) AND ?3 IN ('', split)), 0)"
        " - coalesce((SELECT sum(scores + failed) FROM score_count WHERE reward = ?1 AND ?2 IN (0, policy)"
        " AND ?3 IN ('', split)), 0)",
        "iit", key->reward, key->policy, key->split), -1);
}

int work_scores_done(struct db *db, const struct work_scores *key, struct work_item item)
{
    return (int)db_int(db, db_query(db, "SELECT EXISTS (SELECT 1 FROM score WHERE reward = ?1 AND rollout = ?2)", "ii", key->reward,
                                    item.a), -1);
}

/* ?1 policy, ?2 prompt's key, ?3 sample. */
#define NAMED_ROLLOUT \
    " FROM rollout r WHERE r.policy = (SELECT id FROM policy WHERE name = ?1)" \
    " AND r.prompt = (SELECT id FROM prompt WHERE key = ?2) AND r.sample = ?3"

int work_scores_named(struct db *db, const struct work_scores *key, const struct frame_hold *hold, struct work_item *item)
{
    sqlite3_stmt *query = db_query(db, "SELECT r.id" NAMED_ROLLOUT
                                   " AND ?4 IN (0, r.policy) AND ?5 IN ('', (SELECT split FROM prompt WHERE id = r.prompt))"
                                   " AND NOT EXISTS (SELECT 1 FROM score WHERE reward = ?6 AND rollout = r.id)"
                                   " AND NOT EXISTS (SELECT 1 FROM failure WHERE reward = ?6 AND rollout = r.id)", "ttiiti",
                                   hold->policy, hold->prompt_key, hold->sample, key->policy, key->split, key->reward);
    *item = (struct work_item){ .b = 0 };
    return number_read(db, query, &item->a);
}

/* ---- batches ---- */

int work_member(struct db *db, const struct plan *plan, int64_t batch, const struct plan_member *member, struct work_member *state)
{
    sqlite3_stmt *query = db_query(db,
        "SELECT r.id, EXISTS (SELECT 1 FROM score WHERE reward = ?2 AND rollout = r.id),"
        " EXISTS (SELECT 1 FROM target WHERE run = ?3 AND batch = ?4 AND rollout = r.id),"
        " EXISTS (SELECT 1 FROM failure WHERE reward = ?2 AND rollout = r.id),"
        " EXISTS (SELECT 1 FROM failure WHERE run = ?3 AND batch = ?4 AND rollout = r.id)"
        " FROM rollout r WHERE r.policy = ?1 AND r.prompt = ?5 AND r.sample = ?6", "iiiiii", plan->policy, plan->reward, plan->run,
        batch, member->prompt, member->sample);
    int stepped = db_step(db, query);
    *state = (struct work_member){ .rollout = 0 };
    if (stepped < 0)
        return -1;
    if (stepped > 0) {
        *state = (struct work_member){ .rollout = sqlite3_column_int64(query, 0), .scored = sqlite3_column_int(query, 1),
                                       .target = sqlite3_column_int(query, 2) };
        state->failed = !state->target && ((!state->scored && sqlite3_column_int(query, 3)) || sqlite3_column_int(query, 4));
        db_end(query);
        return 0;
    }
    int64_t failed = db_int(db, db_query(db, "SELECT EXISTS (SELECT 1 FROM failure WHERE policy = ?1 AND prompt = ?2"
                                         " AND sample = ?3)", "iii", plan->policy, member->prompt, member->sample), -1);
    state->failed = failed > 0;
    return failed < 0 ? -1 : 0;
}

int work_target_done(struct db *db, int64_t run, struct work_item item)
{
    return (int)db_int(db, db_query(db, "SELECT EXISTS (SELECT 1 FROM target WHERE run = ?1 AND batch = ?2 AND rollout = ?3)",
                                    "iii", run, item.a, item.b), -1);
}

int work_target_named(struct db *db, struct plan *plan, const struct frame_hold *hold, struct work_item *item)
{
    if (hold->batch < 0 || hold->batch >= plan->batches)
        return 0;
    sqlite3_stmt *query = db_query(db, "SELECT r.id, r.prompt" NAMED_ROLLOUT " AND r.policy = ?4"
                                   " AND NOT EXISTS (SELECT 1 FROM target WHERE run = ?5 AND batch = ?6 AND rollout = r.id)"
                                   " AND NOT EXISTS (SELECT 1 FROM failure WHERE run = ?5 AND batch = ?6 AND rollout = r.id)",
                                   "ttiiii", hold->policy, hold->prompt_key, hold->sample, plan->policy, plan->run, hold->batch);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    *item = (struct work_item){ hold->batch, sqlite3_column_int64(query, 0) };
    int64_t prompt = sqlite3_column_int64(query, 1);
    db_end(query);
    return plan_batch_has(plan, hold->batch, prompt, hold->sample);
}

int64_t work_targets_count(struct db *db, int64_t run)
{
    return db_int(db, db_query(db, "SELECT targets FROM target_count WHERE run = ?1", "i", run), 0);
}

/* ---- frames ---- */

/* Rows are read into the part of the union that all of prompt, rollout, scored and target begin with. */
#define PROMPT_COLUMNS "p.key, p.tokenizer, p.split, p.text, p.tokens"
#define ROLLOUT_COLUMNS PROMPT_COLUMNS ", r.sample, o.name, r.text, r.tokens, r.logprobs, r.stopped, r.kl"
enum { PROMPT_COLUMN_COUNT = 5, ROLLOUT_COLUMN_COUNT = 12 };

static const char *column_text(sqlite3_stmt *query, int column, struct arena *arena)
{
    const char *text = (const char *)sqlite3_column_text(query, column);
    return arena_text(arena, text ? text : "", (size_t)sqlite3_column_bytes(query, column));
}

/* 4-byte elements; count of them in *count. */
static const void *column_elements(sqlite3_stmt *query, int column, struct arena *arena, size_t *count)
{
    const void *data = sqlite3_column_blob(query, column);
    size_t size = (size_t)sqlite3_column_bytes(query, column);
    *count = size / 4;
    return memcpy(arena_alloc(arena, *count + 1, 4), data ? data : "", size);
}

static double column_number(sqlite3_stmt *query, int column)
{
    return sqlite3_column_type(query, column) == SQLITE_NULL ? NAN : sqlite3_column_double(query, column);
}

static void fill_prompt(struct frame *frame, sqlite3_stmt *query, struct arena *arena)
{
    frame->prompt.prompt_key = column_text(query, 0, arena);
    frame->prompt.tokenizer = column_text(query, 1, arena);
    frame->prompt.split = column_text(query, 2, arena);
    frame->prompt.prompt = column_text(query, 3, arena);
    frame->prompt.prompt_tokens.at = column_elements(query, 4, arena, &frame->prompt.prompt_tokens.count);
}

static void fill_rollout(struct frame *frame, sqlite3_stmt *query, struct arena *arena)
{
    fill_prompt(frame, query, arena);
    frame->rollout.sample = sqlite3_column_int64(query, 5);
    frame->rollout.policy = column_text(query, 6, arena);
    frame->rollout.response = column_text(query, 7, arena);
    frame->rollout.response_tokens.at = column_elements(query, 8, arena, &frame->rollout.response_tokens.count);
    frame->rollout.logprobs.at = column_elements(query, 9, arena, &frame->rollout.logprobs.count);
    frame->rollout.stopped = sqlite3_column_int64(query, 10);
    frame->rollout.kl = column_number(query, 11);
}

int work_prompt_frame(struct db *db, int64_t prompt, int64_t sample, struct arena *arena, struct frame *frame)
{
    sqlite3_stmt *query = db_query(db, "SELECT " PROMPT_COLUMNS " FROM prompt p WHERE p.id = ?1", "i", prompt);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    *frame = frame_make(FRAME_prompt);
    fill_prompt(frame, query, arena);
    frame->prompt.sample = sample;
    db_end(query);
    return 1;
}

int work_rollout_frame(struct db *db, int64_t rollout, struct arena *arena, struct frame *frame)
{
    sqlite3_stmt *query = db_query(db, "SELECT " ROLLOUT_COLUMNS " FROM rollout r JOIN prompt p ON p.id = r.prompt"
                                       " JOIN policy o ON o.id = r.policy WHERE r.id = ?1", "i", rollout);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    *frame = frame_make(FRAME_rollout);
    fill_rollout(frame, query, arena);
    db_end(query);
    return 1;
}

int work_scored_frame(struct db *db, int64_t rollout, int64_t reward, struct arena *arena, struct frame *frame)
{
    sqlite3_stmt *query = db_query(db, "SELECT " ROLLOUT_COLUMNS ", w.name, s.score FROM rollout r JOIN prompt p ON p.id = r.prompt"
                                       " JOIN policy o ON o.id = r.policy JOIN score s ON s.reward = ?2 AND s.rollout = r.id"
                                       " JOIN reward w ON w.id = s.reward WHERE r.id = ?1", "ii", rollout, reward);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    *frame = frame_make(FRAME_scored);
    fill_rollout(frame, query, arena);
    frame->scored.reward = column_text(query, ROLLOUT_COLUMN_COUNT, arena);
    frame->scored.score = sqlite3_column_double(query, ROLLOUT_COLUMN_COUNT + 1);
    db_end(query);
    return 1;
}

int work_target_frame(struct db *db, const struct plan *plan, int64_t batch, int64_t rollout, struct arena *arena,
                      struct frame *frame)
{
    sqlite3_stmt *query = db_query(db, "SELECT " ROLLOUT_COLUMNS ", w.name, s.score, t.step, t.value, t.target"
                                       " FROM target t JOIN rollout r ON r.id = t.rollout JOIN prompt p ON p.id = r.prompt"
                                       " JOIN policy o ON o.id = r.policy JOIN score s ON s.reward = ?4 AND s.rollout = r.id"
                                       " JOIN reward w ON w.id = s.reward WHERE t.run = ?1 AND t.batch = ?2 AND t.rollout = ?3",
                                   "iiii", plan->run, batch, rollout, plan->reward);
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    *frame = frame_make(FRAME_target);
    fill_rollout(frame, query, arena);
    frame->target.reward = column_text(query, ROLLOUT_COLUMN_COUNT, arena);
    frame->target.score = sqlite3_column_double(query, ROLLOUT_COLUMN_COUNT + 1);
    frame->target.step = sqlite3_column_int64(query, ROLLOUT_COLUMN_COUNT + 2);
    frame->target.values.at = column_elements(query, ROLLOUT_COLUMN_COUNT + 3, arena, &frame->target.values.count);
    frame->target.targets.at = column_elements(query, ROLLOUT_COLUMN_COUNT + 4, arena, &frame->target.targets.count);
    frame->target.run = plan->name;
    if (strcmp(plan->state_tokenizer, frame->target.tokenizer) != 0)
        frame->target.state_tokenizer = plan->state_tokenizer;
    frame->target.batch = batch;
    frame->target.batches = plan->batches;
    db_end(query);
    return 1;
}
