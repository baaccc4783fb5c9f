/* content.c - see content.h. */
#include "store/content.h"

#include <string.h>

#include "base/check.h"
#include "base/log.h"

/* Each with a name, so that an empty table counts too. */
static const struct content_part {
    const char *name, *sql;
} parts[] = {
    { "prompt", "SELECT key, tokenizer, split, text, tokens FROM prompt ORDER BY key" },
    { "policy", "SELECT name, spec FROM policy ORDER BY name" },
    { "sampling", "SELECT o.name, s.split, s.samples FROM sampling s JOIN policy o ON o.id = s.policy ORDER BY o.name, s.split" },
    { "rollout", "SELECT o.name, p.key, r.sample, r.stopped, r.kl, r.tokens, r.logprobs, r.text FROM rollout r"
                 " JOIN policy o ON o.id = r.policy JOIN prompt p ON p.id = r.prompt ORDER BY o.name, p.key, r.sample" },
    { "reward", "SELECT name, spec FROM reward ORDER BY name" },
    { "score", "SELECT w.name, o.name, p.key, r.sample, s.score FROM score s JOIN reward w ON w.id = s.reward"
               " JOIN rollout r ON r.id = s.rollout JOIN policy o ON o.id = r.policy JOIN prompt p ON p.id = r.prompt"
               " ORDER BY w.name, o.name, p.key, r.sample" },
    { "run", "SELECT name, target, train, samples, rollouts, batches FROM run ORDER BY name" },
    { "target", "SELECT n.name, t.batch, p.key, r.sample, t.step, t.value, t.target FROM target t JOIN run n ON n.id = t.run"
                " JOIN rollout r ON r.id = t.rollout JOIN prompt p ON p.id = r.prompt ORDER BY n.name, t.batch, p.key, r.sample" },
    { "checkpoint", "SELECT n.name, c.kind, c.step, c.batch, c.size, c.sha256 FROM checkpoint c JOIN run n ON n.id = c.run"
                    " WHERE c.complete AND c.final ORDER BY n.name, c.kind, c.step" },
    { "metric", "SELECT m.subject, m.step, j.key, j.value FROM metric m JOIN run n ON n.name = m.subject, json_each(m.numbers) j"
                " WHERE j.key NOT LIKE '%\\_s' ESCAPE '\\' AND j.key NOT LIKE '%\\_ms' ESCAPE '\\'"
                " ORDER BY m.subject, m.step, j.key" },
    { "failure", "SELECT f.stage, coalesce(o.name, w.name, n.name), coalesce(p.key, q.key), coalesce(f.sample, r.sample), f.batch"
                 " FROM failure f LEFT JOIN policy o ON o.id = f.policy LEFT JOIN reward w ON w.id = f.reward"
                 " LEFT JOIN run n ON n.id = f.run LEFT JOIN prompt p ON p.id = f.prompt LEFT JOIN rollout r ON r.id = f.rollout"
                 " LEFT JOIN prompt q ON q.id = r.prompt ORDER BY 1, 2, 3, 4, 5" },
};

/* Type, size and bytes of a column: no two different rows give the same bytes. */
static void column_add(struct digest *digest, sqlite3_stmt *query, int column)
{
    unsigned char type = (unsigned char)sqlite3_column_type(query, column);
    digest_add(digest, &type, 1);
    if (type == SQLITE_INTEGER) {
        int64_t value = sqlite3_column_int64(query, column);
        digest_add(digest, &value, sizeof value);
    } else if (type == SQLITE_FLOAT) {
        double value = sqlite3_column_double(query, column);
        digest_add(digest, &value, sizeof value);
    } else if (type != SQLITE_NULL) {
        const void *data = sqlite3_column_blob(query, column);
        int64_t size = sqlite3_column_bytes(query, column);
        digest_add(digest, &size, sizeof size);
        digest_add(digest, data ? data : "", (size_t)size);
    }
}

int content_digest(struct db *db, char hex[DIGEST_HEX_SIZE])
{
    struct digest digest;
    digest_init(&digest);
    /* One transaction: one state of the store, whatever is written meanwhile. */
    int stepped = db_run(db, db_query(db, "BEGIN", ""));
    for (size_t i = 0; i < COUNT_OF(parts) && stepped == 0; i++) {
        digest_add(&digest, parts[i].name, strlen(parts[i].name) + 1);
        sqlite3_stmt *query = db_query(db, parts[i].sql, "");
        while ((stepped = db_step(db, query)) > 0)
            for (int column = 0; column < sqlite3_column_count(query); column++)
                column_add(&digest, query, column);
    }
    if (stepped != 0)
        log_error("could not read store \"%s\": %s", db_path(db), db_reason(db));
    db_rollback(db);
    digest_hex(&digest, hex);
    return stepped;
}
