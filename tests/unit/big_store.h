/*
 * big_store.h - a store with any number of small rollouts, made by SQL in one transaction.
 *
 * Policy "base" has all of its samples of every prompt; every tenth prompt is of split "eval", the others of "train".  Reward "w"
 * lacks the scores of the last hundredth.
 */
#ifndef TESTS_UNIT_BIG_STORE_H
#define TESTS_UNIT_BIG_STORE_H

#include "store/db.h"

/* 0, or -1 (db_trouble). */
static int big_store_fill(struct db *db, int64_t prompts, int64_t samples)
{
#define NUMBERS "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1) "
    sqlite3_stmt *const queries[] = {
        db_query(db, "INSERT INTO policy VALUES (1, 'base', '{}', 'T', 0)", ""),
        db_query(db, "INSERT INTO sampling VALUES (1, 'train', ?1), (1, 'eval', ?1)", "i", samples),
        db_query(db, "INSERT INTO reward VALUES (1, 'w', '{}')", ""),
        db_query(db, NUMBERS "INSERT INTO prompt SELECT n, 'p' || n, 'T', iif(n % 10, 'train', 'eval'), 'x', 1, x'01000000'"
        " FROM number", "i", prompts), db_query(db, NUMBERS "INSERT INTO rollout SELECT n, 1, (n - 1) / ?2 + 1, (n - 1) % ?2, 1,"
                                                " NULL, 2, x'0100000002000000', NULL, 'ab' FROM number",
                 "ii", prompts * samples, samples),
        db_query(db, NUMBERS "INSERT INTO score SELECT 1, n, n % 100 FROM number", "i", prompts * samples * 99 / 100),
    };
#undef NUMBERS
    if (db_begin(db) != 0)
        return -1;
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
        if (db_run(db, queries[i]) != 0)
            return -1;
    return db_commit(db);
}

#endif
