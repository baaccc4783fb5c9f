/* pin.c - see pin.h. */
#include "store/pin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"

/* ---- differences ---- */

struct json_path {
    char text[256];
    size_t size;
};

static struct json_path path_join(const struct json_path *path, const char *key, size_t index)
{
    struct json_path joined = *path;
    int more = key != NULL
        ? snprintf(joined.text + path->size, sizeof joined.text - path->size, "%s%s", path->size ? "." : "", key)
        : snprintf(joined.text + path->size, sizeof joined.text - path->size, "[%zu]", index);
    joined.size = path->size + (size_t)more < sizeof joined.text ? path->size + (size_t)more : sizeof joined.text - 1;
    return joined;
}

/* As people write it: 0.7, where JSON would have 17 digits.  The caller frees. */
static char *value_text(const json_t *value)
{
    return json_is_real(value) ? memory_printf("%.12g", json_real_value(value)) : json_text(value);
}

static bool difference_say(const struct json_path *path, const json_t *stored, const json_t *given, char *line, size_t size)
{
    char *has = stored ? value_text(stored) : NULL, *gives = given ? value_text(given) : NULL;
    if (has == NULL)
        snprintf(line, size, "no %s, this worker has %.160s", path->text, gives);
    else
        snprintf(line, size, "%s %.160s, this worker has %.160s", path->text, has, gives ? gives : "none");
    free(has);
    free(gives);
    return true;
}

static bool difference_find(const struct json_path *path, const json_t *stored, const json_t *given, char *line, size_t size)
{
    if (stored != NULL && given != NULL && json_is_number(stored) && json_is_number(given)) {
        bool equal = json_is_integer(stored) && json_is_integer(given)
            ? json_integer_value(stored) == json_integer_value(given) : json_number_value(stored) == json_number_value(given);
        return equal ? false : difference_say(path, stored, given, line, size);
    }
    if (stored == NULL || given == NULL || json_typeof(stored) != json_typeof(given))
        return difference_say(path, stored, given, line, size);
    if (json_is_array(stored)) {
        for (size_t i = 0; i < json_array_size(stored) || i < json_array_size(given); i++) {
            struct json_path joined = path_join(path, NULL, i);
            if (difference_find(&joined, json_array_get(stored, i), json_array_get(given, i), line, size))
                return true;
        }
        return false;
    }
    if (!json_is_object(stored))
        return json_equal(stored, given) ? false : difference_say(path, stored, given, line, size);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)stored, key, value) {
        struct json_path joined = path_join(path, key, 0);
        if (difference_find(&joined, value, json_object_get(given, key), line, size))
            return true;
    }
    json_object_foreach((json_t *)given, key, value) {
        struct json_path joined = path_join(path, key, 0);
        if (json_object_get(stored, key) == NULL)
            return difference_say(&joined, NULL, value, line, size);
    }
    return false;
}

bool json_difference(const json_t *stored, const json_t *given, char *line, size_t size)
{
    return difference_find(&(struct json_path){ .size = 0 }, stored, given, line, size);
}

/* 1 when text, which the store holds, means the same as given; 0 with a reason when not. */
static int same_meaning(const char *kind, const char *name, const char *text, const json_t *given, char *reason)
{
    json_t *stored = json_parse(text, strlen(text), name);
    char line[STORE_REASON_BYTES - 2 * 128];
    int same = 1;
    if (stored == NULL) {
        snprintf(reason, STORE_REASON_BYTES, "%s \"%s\" has settings that cannot be read", kind, name);
        same = 0;
    } else if (json_difference(stored, given, line, sizeof line)) {
        snprintf(reason, STORE_REASON_BYTES, "%s \"%s\" has %s", kind, name, line);
        same = 0;
    }
    json_decref(stored);
    return same;
}

/* ---- pins ---- */

/* query gives id and settings of the row, or nothing.  The id, 0 with a reason, -1; -2: there is no row. */
static int64_t pinned(struct db *db, sqlite3_stmt *query, const char *kind, const char *name, const json_t *given, char *reason)
{
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped == 0 ? -2 : -1;
    int64_t id = sqlite3_column_int64(query, 0);
    const char *text = (const char *)sqlite3_column_text(query, 1);
    int same = text == NULL || same_meaning(kind, name, text, given, reason);
    db_end(query);
    return same ? id : 0;
}

int64_t pin_policy(struct db *db, const char *name, const json_t *spec, char *reason)
{
    int64_t id = pinned(db, db_query(db, "SELECT id, spec FROM policy WHERE name = ?1", "t", name), "policy", name, spec, reason);
    if (id != -2)
        return id;
    const char *tokenizer = json_string_value(json_object_get(spec, "tokenizer"));
    char *text = json_text(spec);
    int64_t imported = json_is_true(json_object_get(spec, "imported"));
    int result = db_begin(db);
    if (result == 0)
        result = db_run(db, db_query(db, "INSERT INTO policy (name, spec, tokenizer, imported) VALUES (?1, ?2, ?3, ?4)", "ttti",
                                     name, text, tokenizer ? tokenizer : "", imported));
    free(text);
    return result == 0 ? db_last_id(db) : -1;
}

int64_t pin_reward(struct db *db, const char *name, const json_t *spec, char *reason)
{
    int64_t id = pinned(db, db_query(db, "SELECT id, spec FROM reward WHERE name = ?1", "t", name), "reward", name, spec, reason);
    if (id != -2)
        return id;
    char *text = json_text(spec);
    int result = db_begin(db);
    if (result == 0)
        result = db_run(db, db_query(db, "INSERT INTO reward (name, spec) VALUES (?1, ?2)", "tt", name, text));
    free(text);
    return result == 0 ? db_last_id(db) : -1;
}

int64_t pin_run(struct db *db, const char *name, const char *part, const json_t *settings, char *reason)
{
    bool train = strcmp(part, "train") == 0;
    CHECK(train || strcmp(part, "target") == 0);
    const char *sql = train ? "SELECT id, train FROM run WHERE name = ?1" : "SELECT id, target FROM run WHERE name = ?1";
    int64_t id = pinned(db, db_query(db, sql, "t", name), "run", name, settings, reason);
    if (id == 0 || id == -1)
        return id;
    /* The row may be there without this part. */
    sql = train ? "INSERT INTO run (name, train) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET train = ?2 WHERE train IS NULL"
                : "INSERT INTO run (name, target) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET target = ?2"
                  " WHERE target IS NULL";
    const char *lacks = train ? "SELECT train IS NULL FROM run WHERE name = ?1" : "SELECT target IS NULL FROM run WHERE name = ?1";
    if (id > 0 && db_int(db, db_query(db, lacks, "t", name), 0) == 0)
        return id;
    char *text = json_text(settings);
    int result = db_begin(db);
    if (result == 0)
        result = db_run(db, db_query(db, sql, "tt", name, text));
    free(text);
    return result == 0 ? find_run(db, name) : -1;
}

static int64_t find(struct db *db, sqlite3_stmt *query)
{
    int stepped = db_step(db, query);
    if (stepped <= 0)
        return stepped;
    int64_t id = sqlite3_column_int64(query, 0);
    db_end(query);
    return id;
}

int64_t find_policy(struct db *db, const char *name)
{
    return find(db, db_query(db, "SELECT id FROM policy WHERE name = ?1", "t", name));
}

int64_t find_reward(struct db *db, const char *name)
{
    return find(db, db_query(db, "SELECT id FROM reward WHERE name = ?1", "t", name));
}

int64_t find_run(struct db *db, const char *name)
{
    return find(db, db_query(db, "SELECT id FROM run WHERE name = ?1", "t", name));
}

int64_t find_split(struct db *db, const char *name)
{
    return find(db, db_query(db, "SELECT 1 FROM prompt_count WHERE split = ?1 LIMIT 1", "t", name));
}

/* ---- announcements ---- */

int announce_samples(struct db *db, int64_t policy, const char *split, int64_t samples)
{
    int64_t before = db_int(db, db_query(db, "SELECT samples FROM sampling WHERE policy = ?1 AND split = ?2", "it", policy, split),
                            0);
    if (before == samples)
        return 0;
    if (db_begin(db) != 0)
        return -1;
    return db_run(db, db_query(db, "INSERT INTO sampling (policy, split, samples) VALUES (?1, ?2, ?3)"
                                   " ON CONFLICT DO UPDATE SET samples = ?3", "iti", policy, split, samples));
}

int announce_source(struct db *db, const char *tokenizer)
{
    if (db_int(db, db_query(db, "SELECT 1 FROM source WHERE tokenizer = ?1", "t", tokenizer), 0))
        return 0;
    if (db_begin(db) != 0)
        return -1;
    return db_run(db, db_query(db, "INSERT INTO source (tokenizer) VALUES (?1)", "t", tokenizer));
}

int announce_source_ended(struct db *db, const char *tokenizer)
{
    if (db_begin(db) != 0)
        return -1;
    return db_run(db, db_query(db, "DELETE FROM source WHERE tokenizer = ?1", "t", tokenizer));
}

int64_t announce_sources_vanished(struct db *db)
{
    if (db_int(db, db_query(db, "SELECT count(*) FROM source", ""), 0) == 0)
        return 0;
    if (db_begin(db) != 0 || db_run(db, db_query(db, "DELETE FROM source WHERE true", "")) != 0)
        return -1;
    return db_changes(db);
}
