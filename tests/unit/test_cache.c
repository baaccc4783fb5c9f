/* test_cache.c - pages of the KV cache: shared, copied on write, kept, given back, counted. */
#include "../check.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/model.h"
#include "tiny_model.h"

enum { PAGES = 12, C = 40 };

static struct pool *pool;
static struct model *model;
static struct cache *cache;
static float hidden[64 * C];

static void begin(void)
{
    pool = pool_open(1);
    model = tiny_model(&tiny_config, 1, pool);
    cache = cache_open(model, PAGES * CACHE_PAGE_POSITIONS);
}

static void end(void)
{
    cache_close(cache);
    model_close(model);
    pool_close(pool);
}

static void extend(int32_t sequence, size_t count)
{
    int32_t tokens[64];
    for (size_t t = 0; t < count; t++)
        tokens[t] = (int32_t)(7 * t + 3) % 61;
    model_extend(model, cache, sequence, tokens, count, NULL, NULL);
}

/* The hidden state that token gives after what the sequence holds. */
static void probe(int32_t sequence, int32_t token, float out[C])
{
    struct row row = { sequence, token, ROW_CACHED };
    model_forward(model, cache, &row, 1, out);
}

/* Goal: a cache has as many pages as its positions need, and a sequence holds one for every 16 positions begun. */
static void test_pages_follow_length(void)
{
    begin();
    struct cache *odd = cache_open(model, 17);
    EXPECT_INT(cache_free_pages(odd), 2);
    cache_close(odd);
    int32_t s = sequence_open(cache);
    EXPECT_INT(cache_free_pages(cache), PAGES);
    extend(s, 1);
    EXPECT_INT(cache_free_pages(cache), PAGES - 1);
    extend(s, 15);
    EXPECT_INT(cache_free_pages(cache), PAGES - 1);
    extend(s, 1);
    EXPECT_INT(cache_free_pages(cache), PAGES - 2);
    EXPECT_INT(sequence_length(cache, s), 17);
    sequence_close(cache, s);
    EXPECT_INT(cache_free_pages(cache), PAGES);
    end();
}

/* Goal: a fork takes no page; the first to grow copies the last page only, and neither sees what the other wrote. */
static void test_fork_copies_on_write(void)
{
    begin();
    float alone[C], fork_first[C], parent_first[C];
    int32_t parent = sequence_open(cache);
    extend(parent, 20);
    probe(parent, 5, alone);
    int32_t fork = sequence_fork(cache, parent);
    EXPECT_INT(sequence_length(cache, fork), 20);
    probe(fork, 5, fork_first);
    EXPECT(memcmp(fork_first, alone, sizeof alone) == 0);

    struct row row = { fork, 9, ROW_CACHED };
    model_forward(model, cache, &row, 1, hidden);
    row_keep(cache, 0);
    EXPECT_INT(cache_free_pages(cache), PAGES - 3);  // page 0 shared, page 1 twice
    EXPECT_INT(sequence_length(cache, parent), 20);
    probe(parent, 5, parent_first);
    EXPECT(memcmp(parent_first, alone, sizeof alone) == 0);

    sequence_close(cache, parent);
    EXPECT_INT(cache_free_pages(cache), PAGES - 2);
    sequence_close(cache, fork);
    EXPECT_INT(cache_free_pages(cache), PAGES);
    end();
}

/* Goal: a fork of a sequence's first positions holds these alone, and copies a page of them only where it grows inside. */
static void test_fork_prefix(void)
{
    static const size_t lengths[] = { 0, 5, 16, 20, 32, 40 };
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        begin();
        float expected[C], actual[C], before[C], after[C];
        int32_t parent = sequence_open(cache), witness = sequence_open(cache);
        extend(parent, 40);
        probe(parent, 5, before);
        extend(witness, lengths[i]);
        size_t free_pages = cache_free_pages(cache);
        int32_t fork = sequence_fork_prefix(cache, parent, lengths[i]);
        EXPECT_INT(sequence_length(cache, fork), lengths[i]);
        EXPECT_INT(cache_free_pages(cache), free_pages);
        extend(witness, 9);
        extend(fork, 9);
        probe(witness, 3, expected);
        probe(fork, 3, actual);
        EXPECT(memcmp(actual, expected, sizeof actual) == 0);
        probe(parent, 5, after);
        EXPECT(memcmp(after, before, sizeof after) == 0);
        sequence_close(cache, parent);
        sequence_close(cache, witness);
        EXPECT_INT(cache_free_pages(cache), PAGES - (lengths[i] + 9 + CACHE_PAGE_POSITIONS - 1) / CACHE_PAGE_POSITIONS);
        sequence_close(cache, fork);
        EXPECT_INT(cache_free_pages(cache), PAGES);
        end();
    }
}

/* Goal: a fork made between a batch and its row_keep does not see the kept row, and what either appends later is its own. */
static void test_fork_between_forward_and_keep(void)
{
    begin();
    float expected[C], actual[C];
    int32_t parent = sequence_open(cache), witness = sequence_open(cache);
    extend(parent, 20);
    extend(witness, 20);
    struct row rows[] = { { parent, 8, ROW_CACHED }, { parent, 9, ROW_CACHED } };
    model_forward(model, cache, rows, 2, hidden);
    int32_t fork = sequence_fork(cache, parent);
    row_keep(cache, 1);
    EXPECT_INT(sequence_length(cache, fork), 20);
    extend(fork, 3);
    extend(witness, 3);
    probe(witness, 5, expected);
    probe(fork, 5, actual);
    EXPECT(memcmp(actual, expected, sizeof actual) == 0);
    end();
}

/* Goal: a kept candidate leaves the sequence as if its token alone had been run, whichever candidate it was. */
static void test_keep_any_candidate(void)
{
    for (size_t kept = 0; kept < 40; kept += 13) {
        begin();
        float expected[C], actual[C];
        struct row rows[40];
        int32_t s = sequence_open(cache), witness = sequence_open(cache), token = (int32_t)kept + 2;
        extend(s, 18);
        extend(witness, 18);
        model_extend(model, cache, witness, &token, 1, NULL, NULL);
        probe(witness, 3, expected);
        for (size_t m = 0; m < 40; m++)
            rows[m] = (struct row){ s, (int32_t)m + 2, ROW_CACHED };
        EXPECT_INT(cache_pages_needed(cache, rows, 40), 3);  // 39 beside the natural slot
        size_t free_before = cache_free_pages(cache);
        model_forward(model, cache, rows, 40, hidden);
        EXPECT_INT(cache_free_pages(cache), free_before - 3);
        row_keep(cache, kept);
        EXPECT_INT(cache_free_pages(cache), free_before);
        EXPECT_INT(sequence_length(cache, s), 19);
        probe(s, 3, actual);
        EXPECT(memcmp(actual, expected, sizeof actual) == 0);
        end();
    }
}

/* Goal: of a tree of rows, the kept leaf's ancestors stay, wherever they lay, and pages behind them are given back. */
static void test_keep_through_scratch_ancestors(void)
{
    begin();
    float expected[C], actual[C];
    int32_t s = sequence_open(cache), witness = sequence_open(cache);
    extend(s, 15);
    extend(witness, 15);
    struct row tree[] = {
        { s, 10, ROW_CACHED }, { s, 11, 0 }, { s, 12, 1 },  // all in natural slots, over a border of pages
        { s, 20, ROW_CACHED }, { s, 21, 3 }, { s, 22, 4 },  // all in scratch slots
        { s, 23, 5 },                                       // natural again: first at its position
        { s, 31, 3 },                                       // a second child of 20
    };
    EXPECT_INT(cache_pages_needed(cache, tree, COUNT_OF(tree)), 2);
    model_forward(model, cache, tree, COUNT_OF(tree), hidden);
    row_keep(cache, 6);
    model_extend(model, cache, witness, (int32_t[]){ 20, 21, 22, 23 }, 4, NULL, NULL);
    EXPECT_INT(sequence_length(cache, s), 19);
    probe(witness, 3, expected);
    probe(s, 3, actual);
    EXPECT(memcmp(actual, expected, sizeof actual) == 0);

    size_t free_before = cache_free_pages(cache);
    struct row chain[30];
    for (int32_t m = 0; m < 30; m++)
        chain[m] = (struct row){ s, m, m - 1 };
    model_forward(model, cache, chain, 30, hidden);
    EXPECT_INT(cache_free_pages(cache), free_before - 2);
    row_keep(cache, 0);
    EXPECT_INT(cache_free_pages(cache), free_before);
    EXPECT_INT(sequence_length(cache, s), 20);
    end();
}

/* Goal: rows that nobody keeps are given up by the next batch, by a batch of none, or with their sequence. */
static void test_unkept_rows_are_given_back(void)
{
    begin();
    int32_t s = sequence_open(cache), other = sequence_open(cache);
    extend(s, 16);
    extend(other, 16);
    struct row rows[20];
    for (size_t m = 0; m < 20; m++)
        rows[m] = (struct row){ m % 2 ? s : other, (int32_t)m, ROW_CACHED };
    model_forward(model, cache, rows, 20, hidden);
    EXPECT_INT(cache_free_pages(cache), PAGES - 2 - 2 - 2);  // 18 rows in scratch pages
    sequence_close(cache, other);
    EXPECT_INT(cache_free_pages(cache), PAGES - 1 - 1 - 2);  // their pages hold rows of s too
    model_forward(model, cache, NULL, 0, NULL);
    EXPECT_INT(cache_free_pages(cache), PAGES - 1);
    EXPECT_INT(sequence_length(cache, s), 16);
    end();
}

/* Goal: cache_pages_needed is what a forward takes, with forks whose last page is shared among the most. */
static void test_pages_needed(void)
{
    begin();
    int32_t s = sequence_open(cache);
    extend(s, 10);
    int32_t fork = sequence_fork(cache, s);
    struct row rows[] = { { s, 1, ROW_CACHED }, { fork, 1, ROW_CACHED }, { fork, 2, ROW_CACHED } };
    EXPECT_INT(cache_pages_needed(cache, rows, 1), 1);
    EXPECT_INT(cache_pages_needed(cache, rows, 3), 3);  // at most: the second to copy finds the page its own
    model_forward(model, cache, rows, 3, hidden);
    EXPECT_INT(cache_free_pages(cache), PAGES - 3);
    end();
}

/* Goal: a batch that the cache has no room for ends the program with CHECK; it does not run. */
static void test_exhaustion_is_checked(void)
{
    begin();
    int32_t s = sequence_open(cache), last = sequence_open(cache);
    for (int i = 0; i < PAGES / 4; i++)
        extend(s, 64);
    EXPECT_INT(cache_free_pages(cache), 0);
    struct row row = { last, 1, ROW_CACHED };
    EXPECT(cache_pages_needed(cache, &row, 1) > cache_free_pages(cache));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(0);
        signal(SIGABRT, SIG_DFL);
        model_forward(model, cache, &row, 1, hidden);
        _exit(0);
    }
    int status;
    EXPECT_INT(waitpid(child, &status, 0), child);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    end();
}

/* Goal: thousands of random forks, batches, keeps and closes neither lose nor invent a page, and every sequence answers as a fresh
   one with the same tokens does. */
static void test_random_history(void)
{
    begin();
    enum { SEQUENCES = 6, LENGTH_MAX = 30 };
    struct { int32_t id; size_t length; int32_t tokens[LENGTH_MAX]; } live[SEQUENCES];
    size_t count = 0;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t draw = (uint32_t)(philox_uniform(3, PHILOX_DATA, 0, 0, round) * 1e9);
        size_t i = count ? draw / 8 % count : 0;
        if (count < SEQUENCES && (count == 0 || draw % 8 == 0)) {
            live[count].id = sequence_open(cache);
            live[count++].length = 0;
        } else if (count < SEQUENCES && draw % 8 == 1) {
            live[count] = live[i];
            live[count++].id = sequence_fork(cache, live[i].id);
        } else if (draw % 8 == 2 || live[i].length + 4 > LENGTH_MAX) {
            sequence_close(cache, live[i].id);
            live[i] = live[--count];
        } else {
            int32_t s = live[i].id, a = (int32_t)(draw % 61), b = (int32_t)(draw / 61 % 61);
            struct row rows[] = { { s, a, ROW_CACHED }, { s, b, ROW_CACHED }, { s, a, 1 }, { s, b, 0 } };
            size_t kept = draw / 64 % 4;
            if (cache_pages_needed(cache, rows, 4) > cache_free_pages(cache))
                continue;
            model_forward(model, cache, rows, 4, hidden);
            row_keep(cache, kept);
            if (rows[kept].parent >= 0)
                live[i].tokens[live[i].length++] = rows[rows[kept].parent].token;
            live[i].tokens[live[i].length++] = rows[kept].token;
            EXPECT_INT(sequence_length(cache, s), live[i].length);
        }
        if (round % 100 == 99 && count > 0) {
            float expected[C], actual[C];
            struct cache *fresh = cache_open(model, LENGTH_MAX + 1 + CACHE_PAGE_POSITIONS);
            int32_t s = sequence_open(fresh);
            model_extend(model, fresh, s, live[0].tokens, live[0].length, NULL, NULL);
            model_forward(model, fresh, &(struct row){ s, 4, ROW_CACHED }, 1, expected);
            probe(live[0].id, 4, actual);
            EXPECT(memcmp(actual, expected, sizeof actual) == 0);
            cache_close(fresh);
        }
    }
    while (count > 0)
        sequence_close(cache, live[--count].id);
    EXPECT_INT(cache_free_pages(cache), PAGES);
    end();
}

int main(void)
{
    RUN(test_pages_follow_length);
    RUN(test_fork_copies_on_write);
    RUN(test_fork_prefix);
    RUN(test_fork_between_forward_and_keep);
    RUN(test_keep_any_candidate);
    RUN(test_keep_through_scratch_ancestors);
    RUN(test_unkept_rows_are_given_back);
    RUN(test_pages_needed);
    RUN(test_exhaustion_is_checked);
    RUN(test_random_history);
    return tests_end();
}
