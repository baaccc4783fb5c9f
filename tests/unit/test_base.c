/* test_base.c - the base library: random numbers, digests, memory, threads, files, UTF-8. */
#include "../check.h"

#include <math.h>
#include <sodium.h>
#include <stdint.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/effort.h"
#include "base/file.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/philox.h"
#include "base/pace.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/utf8.h"

/* Goal: the generator is Philox4x32-10; the numbers are Random123's known-answer vectors. */
static void test_philox_known_answers(void)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        philox4x32(out, known[i].counter, known[i].key);
        for (int j = 0; j < 4; j++)
            EXPECT_INT(out[j], known[i].out[j]);
    }
}

/* Goal: uniform numbers have the moments of a uniform distribution, and each coordinate of the key matters. */
static void test_philox_uniform(void)
{
    enum { COUNT = 20000 };
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        double u = philox_uniform(7, PHILOX_SAMPLE, 11, 3, i);
        EXPECT(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    EXPECT_NEAR(sum / COUNT, 0.5, 4 * sqrt(1.0 / 12 / COUNT));
    EXPECT_NEAR(squares / COUNT, 1.0 / 3, 0.01);
    double u = philox_uniform(7, PHILOX_SAMPLE, 11, 3, 5);
    EXPECT(u != philox_uniform(8, PHILOX_SAMPLE, 11, 3, 5));
    EXPECT(u != philox_uniform(7, PHILOX_INIT, 11, 3, 5));
    EXPECT(u != philox_uniform(7, PHILOX_SAMPLE, 12, 3, 5));
    EXPECT(u != philox_uniform(7, PHILOX_SAMPLE, 11, 4, 5));
    EXPECT(u != philox_uniform(7, PHILOX_SAMPLE, 11, 3, 6));
}

/* Goal: a shuffle is a permutation, the same for the same seed and stream, another one otherwise. */
static void test_philox_shuffle(void)
{
    enum { COUNT = 100 };
    uint32_t a[COUNT], b[COUNT], c[COUNT];
    bool seen[COUNT] = { false };
    philox_shuffle(a, COUNT, 1, 2);
    philox_shuffle(b, COUNT, 1, 2);
    philox_shuffle(c, COUNT, 1, 3);
    for (int i = 0; i < COUNT; i++) {
        EXPECT(a[i] < COUNT && !seen[a[i]]);
        seen[a[i] % COUNT] = true;
    }
    EXPECT(memcmp(a, b, sizeof a) == 0);
    EXPECT(memcmp(a, c, sizeof a) != 0);
}

/* Goal: on every length up to some blocks, in one piece and in two, the digest is libsodium's. */
static void test_digest_of_every_length(void)
{
    enum { SIZE_MAX_TESTED = 300 };
    unsigned char data[SIZE_MAX_TESTED], bytes[crypto_hash_sha256_BYTES];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 7 + i / 13);
    for (size_t size = 0; size <= sizeof data; size++) {
        char expected[DIGEST_HEX_SIZE], hex[DIGEST_HEX_SIZE];
        crypto_hash_sha256(bytes, data, size);
        sodium_bin2hex(expected, sizeof expected, bytes, sizeof bytes);
        for (size_t first = 0; first <= size; first += 1 + size / 5) {
            struct digest digest;
            digest_init(&digest);
            digest_add(&digest, data, first);
            digest_add(&digest, data + first, size - first);
            digest_hex(&digest, hex);
            EXPECT_TEXT(hex, expected);
        }
    }
}

/* Goal: digests are SHA-256 (FIPS 180-2's "abc"), keys its first half, and borders between texts count. */
static void test_digest(void)
{
    struct digest digest;
    char hex[DIGEST_HEX_SIZE], key[KEY_SIZE], other[KEY_SIZE];
    digest_init(&digest);
    digest_add(&digest, "a", 1);
    digest_add(&digest, "bc", 2);
    digest_hex(&digest, hex);
    EXPECT_TEXT(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    key_from_texts(key, "ab", "c", NULL);
    key_from_texts(other, "a", "bc", NULL);
    EXPECT(strcmp(key, other) != 0);
    EXPECT(number_from_key("00000000000000ff0000000000000000") == 255);
    EXPECT(number_from_key("no hex at all....") == 0);
}

/* Goal: arena memory is aligned, keeps its content, and a reset arena is used again. */
static void test_arena(void)
{
    struct arena arena;
    arena_init(&arena, "test", 1 << 20);
    for (int round = 0; round < 3; round++) {
        unsigned char *parts[100];
        for (int i = 0; i < 100; i++) {
            parts[i] = arena_alloc(&arena, 1 + (size_t)i * 37, 1);
            EXPECT((uintptr_t)parts[i] % 16 == 0);
            memset(parts[i], i, 1 + (size_t)i * 37);
        }
        for (int i = 0; i < 100; i++)
            EXPECT(parts[i][0] == i && parts[i][(size_t)i * 37] == i);
        EXPECT_TEXT(arena_printf(&arena, "%d-%s", 5, "x"), "5-x");
        arena_reset(&arena);
        EXPECT(arena.used_bytes == 0);
    }
    arena_free(&arena);
}

struct sum_context {
    uint64_t results[1000];
    size_t threads;
    bool thread_out_of_range;
};

static void square_task(void *context, size_t task, size_t thread)
{
    struct sum_context *sums = context;
    sums->results[task] += task * task;
    if (thread >= sums->threads)
        sums->thread_out_of_range = true;
}

/* Goal: every task runs exactly once, whatever the number of threads, also after the threads have slept. */
static void test_pool(void)
{
    for (size_t threads = 1; threads <= 4; threads++) {
        struct pool *pool = pool_open(threads);
        for (int round = 0; round < 50; round++) {
            struct sum_context sums = { .threads = pool_threads(pool) };
            size_t tasks = (size_t)(round * 20);
            pool_run(pool, tasks, square_task, &sums);
            EXPECT(!sums.thread_out_of_range);
            for (size_t i = 0; i < 1000; i++)
                EXPECT_INT(sums.results[i], i < tasks ? i * i : 0);
            if (round % 20 == 0)
                usleep(2000);
        }
        pool_close(pool);
    }
}

struct turn_context {
    int round, ran[4];
};

static void turn_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    struct turn_context *turn = context;
    turn->ran[task] += turn->round;
}

/* Goal: a thread that comes late to a short loop, there are more of them than cores, leaves it and the next ones alone. */
static void test_pool_short_loops(void)
{
    struct pool *pool = pool_open(8);
    for (int round = 1; round <= 20000; round++) {
        struct turn_context turn = { .round = round };
        size_t tasks = 2 + (size_t)round % 3;
        pool_run(pool, tasks, turn_task, &turn);
        for (size_t i = 0; i < 4; i++)
            EXPECT_INT(turn.ran[i], i < tasks ? round : 0);
    }
    pool_close(pool);
}

struct beside_context {
    struct pool *pool;
    size_t threads;
    struct sum_context sums;
};

static void beside_job(void *context)
{
    struct beside_context *beside = context;
    beside->threads = pool_threads(beside->pool);
    beside->sums.threads = beside->threads;
    pool_run(beside->pool, 300, square_task, &beside->sums);
}

/* Goal: a job beside loops runs once and is over when pool_finish returns, its loops and theirs run every task once, also where no
   other thread comes to it in time, or there is none. */
static void test_pool_beside(void)
{
    for (size_t threads = 1; threads <= 4; threads++) {
        struct pool *pool = pool_open(threads);
        for (int round = 0; round < 2000; round++) {
            struct beside_context beside = { .pool = pool };
            struct sum_context sums = { .threads = threads };
            pool_start(pool, beside_job, &beside);
            for (int loop = 0; loop < round % 4; loop++)
                pool_run(pool, 100, square_task, &sums);
            pool_finish(pool);
            EXPECT(beside.threads == 1 || beside.threads == threads);
            EXPECT(!sums.thread_out_of_range && !beside.sums.thread_out_of_range);
            for (size_t i = 0; i < 1000; i++) {
                EXPECT_INT(beside.sums.results[i], i < 300 ? i * i : 0);
                EXPECT_INT(sums.results[i], i < 100 ? (uint64_t)(round % 4) * i * i : 0);
            }
            if (round % 500 == 0)
                usleep(2000);
        }
        pool_close(pool);
    }
}

/* How many of the steps go by way 1, where they take so many times as long; with seldom every fourth twice that.  Now and then one
   is held up either way. */
static size_t run_pace(struct pace *pace, double times, bool seldom, size_t steps)
{
    size_t ways = 0;
    for (size_t i = 0; i < steps; i++) {
        size_t way = pace_way(pace);
        ways += way;
        pace_add(pace, (way == 0 ? 1.0 : seldom && i % 4 == 0 ? 2.0 * times : times) * (i % 7 == 0 ? 50.0 : 1.0));
    }
    return ways;
}

/* Goal: but for trials the faster way is taken, also when the other becomes it, or when it is the faster one only most of the time;
   and one that is far slower is not tried for long. */
static void test_pace(void)
{
    struct pace pace = { 0 };
    const size_t trial = PACE_WARM + PACE_TRIED, round = 2 * trial + PACE_KEPT;
    EXPECT_INT(run_pace(&pace, 0.9, false, round), trial + PACE_KEPT);
    EXPECT_INT(run_pace(&pace, 1.1, false, round), trial);
    EXPECT_INT(run_pace(&pace, 0.9, false, round), trial + PACE_KEPT);
    EXPECT_INT(run_pace(&pace, 0.9, true, round), trial);
    EXPECT_INT(run_pace(&pace, 0.7, true, round), trial + PACE_KEPT);
    EXPECT(run_pace(&pace, 50, false, PACE_KEPT) < trial / 3);
}

/* Goal: a file appears whole, replaces the old one, and nothing stays beside it, not even what a killed process had begun there. */
static void test_file_write(void)
{
    char directory[64], path[80];
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/a", directory);
    char begun[96];
    snprintf(begun, sizeof begun, "%s.new", path);
    FILE *left = fopen(begun, "w");
    EXPECT(left != NULL && fputs("longer than what comes", left) >= 0 && fclose(left) == 0);
    EXPECT_INT(file_write(path, "one", 3), 0);
    EXPECT_INT(file_write(path, "second", 6), 0);
    size_t size;
    char *content = file_read(path, &size);
    EXPECT_INT(size, 6);
    EXPECT_TEXT(content, "second");
    free(content);
    unlink(path);
    EXPECT_INT(rmdir(directory), 0);  // nothing was left beside it
}

/* Goal: who reads a mapped file that somebody has cut short leaves with one line and code 74. */
static void test_file_cut_short(void)
{
    char directory[64], path[80], content[10000] = { 1 };
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/a", directory);
    EXPECT_INT(file_write(path, content, sizeof content), 0);
    int said[2], status = 0;
    EXPECT_INT(pipe(said), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(said[1], STDERR_FILENO);
        struct file_map map;
        bool mapped = file_map(&map, path) == EX_OK && truncate(path, 10) == 0;
        _exit(mapped ? ((const volatile unsigned char *)map.data)[9000] : 1);
    }
    close(said[1]);
    EXPECT_INT(waitpid(child, &status, 0), child);
    EXPECT(WIFEXITED(status));
    EXPECT_INT(WEXITSTATUS(status), EX_IOERR);
    char line[200];
    ssize_t size = read(said[0], line, sizeof line - 1);
    line[size > 0 ? size : 0] = '\0';
    EXPECT(strstr(line, ": a mapped file was cut short, or its disk is full\n") != NULL);
    close(said[0]);
    unlink(path);
    EXPECT_INT(rmdir(directory), 0);
}

/* Goal: of processes that write the same file at once each writes it whole. */
static void test_file_write_together(void)
{
    enum { WRITERS = 4, SIZE = 100000 };
    char directory[64], path[80];
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/a", directory);
    pid_t writers[WRITERS];
    for (int w = 0; w < WRITERS; w++) {
        writers[w] = fork();
        if (writers[w] == 0) {
            char *content = memory_alloc(SIZE, 1);
            memset(content, 'a' + w, SIZE);
            int failed = 0;
            for (int i = 0; i < 20; i++)
                failed |= file_write(path, content, SIZE - (size_t)w);
            _exit(failed != 0);
        }
    }
    for (int w = 0; w < WRITERS; w++) {
        int status;
        EXPECT(waitpid(writers[w], &status, 0) == writers[w] && status == 0);
    }
    size_t size;
    char *content = file_read(path, &size);
    EXPECT_INT(size, SIZE - (content[0] - 'a'));
    for (size_t i = 0; i < size; i++)
        if (content[i] != content[0]) {
            TEST_FAIL("byte %zu is %c, byte 0 is %c", i, content[i], content[0]);
            break;
        }
    free(content);
    unlink(path);
    EXPECT_INT(rmdir(directory), 0);
}

/* Goal: the texts that frames carry are exactly well-formed UTF-8 without NUL. */
static void test_utf8(void)
{
    EXPECT(utf8_is_valid("", 0));
    EXPECT(utf8_is_valid("plain", 5));
    EXPECT(utf8_is_valid("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9));
    EXPECT(!utf8_is_valid("a\0b", 3));
    EXPECT(!utf8_is_valid("\xc3", 1));              // cut
    EXPECT(!utf8_is_valid("\xc0\x80", 2));          // overlong
    EXPECT(!utf8_is_valid("\xed\xa0\x80", 3));      // surrogate
    EXPECT(!utf8_is_valid("\xf4\x90\x80\x80", 4));  // past U+10FFFF
}

/* Goal: a map holds exactly what was added and not removed, in whatever order that happened. */
static void test_map(void)
{
    enum { KEYS = 500, MOVES = 20000 };
    static uint16_t keys[KEYS];
    static bool there[KEYS];
    struct map map = { 0 };
    size_t count = 0;
    EXPECT(map_find(&map, "a", 1) == NULL && map_remove(&map, "a", 1) == NULL);
    for (uint32_t i = 0; i < MOVES; i++) {
        uint32_t random[4];
        philox4x32(random, (const uint32_t[]){ i, 0, 0, 0 }, (const uint32_t[]){ 1, 2 });
        size_t k = random[0] % KEYS;
        keys[k] = (uint16_t)k;
        EXPECT(map_find(&map, &keys[k], 2) == (there[k] ? &keys[k] : NULL));
        if (there[k])
            EXPECT(map_remove(&map, &keys[k], 2) == &keys[k]);
        else
            map_add(&map, &keys[k], 2, &keys[k]);
        there[k] = !there[k];
        count = there[k] ? count + 1 : count - 1;
    }
    EXPECT_INT(map.count, count);
    size_t at = 0, seen = 0;
    for (uint16_t *key; (key = map_next(&map, &at)) != NULL; seen++)
        EXPECT(there[*key]);
    EXPECT_INT(seen, count);
    map_free(&map);
}

/* Goal: each moment is counted once, in the innermost of the states that were entered. */
static void test_effort(void)
{
    double before[EFFORT_COUNT], after[EFFORT_COUNT], begun_s = clock_s();
    char text[128];
    effort_read(before);
    enum effort outside = effort_enter(EFFORT_COMPUTE);
    EXPECT_INT(outside, EFFORT_OTHER);
    usleep(20000);
    enum effort computing = effort_enter(EFFORT_WIRE);
    EXPECT_INT(computing, EFFORT_COMPUTE);
    usleep(10000);
    effort_enter(computing);
    usleep(20000);
    effort_enter(outside);
    effort_read(after);
    double all = 0, taken_s = clock_s() - begun_s;
    for (int i = 0; i < EFFORT_COUNT; i++)
        all += after[i] - before[i];
    EXPECT(after[EFFORT_COMPUTE] - before[EFFORT_COMPUTE] >= 0.04);
    EXPECT(after[EFFORT_WIRE] - before[EFFORT_WIRE] >= 0.01);
    EXPECT_NEAR(after[EFFORT_WAIT], before[EFFORT_WAIT], 0);
    EXPECT(all >= 0.05 && all <= taken_s);
    effort_text(text, sizeof text, (double[]){ [EFFORT_COMPUTE] = 9, [EFFORT_WAIT] = 0.5, [EFFORT_WIRE] = 0.25,
                                               [EFFORT_OTHER] = 0.25 });
    EXPECT_TEXT(text, "10.0 s: compute 90.0 %, wait 5.0 %, wire 2.5 %, other 2.5 %");
}

int main(void)
{
    RUN(test_philox_known_answers);
    RUN(test_philox_uniform);
    RUN(test_philox_shuffle);
    RUN(test_digest);
    RUN(test_digest_of_every_length);
    RUN(test_arena);
    RUN(test_pool);
    RUN(test_pool_short_loops);
    RUN(test_pool_beside);
    RUN(test_pace);
    RUN(test_file_write);
    RUN(test_file_cut_short);
    RUN(test_file_write_together);
    RUN(test_map);
    RUN(test_utf8);
    RUN(test_effort);
    return tests_end();
}
