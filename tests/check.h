/*
 * check.h - assertions for test programs, and one line per test case.
 *
 * A test program is a list of RUN(test_name) in main() that ends with return tests_end().  Each case prints
 * "ok NAME" or "not ok NAME: where and what"; the program exits 1 if any case failed.  Lines beginning with
 * "skip NAME: why" count as skipped.  tests/run.sh adds up the lines of all programs.
 */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tests_failed;
static bool test_case_failed, test_case_skipped;
static const char *test_case_name;

#define TEST_FAIL(...)                                                                        \
    do {                                                                                      \
        if (!test_case_failed) {                                                              \
            printf("not ok %s: %s:%d: ", test_case_name, __FILE__, __LINE__);                 \
            printf(__VA_ARGS__);                                                              \
            printf("\n");                                                                     \
        }                                                                                     \
        test_case_failed = true;                                                              \
    } while (0)

/* Ends the case: call it in the test function itself. */
#define TEST_SKIP(...)                                   \
    do {                                                 \
        printf("skip %s: ", test_case_name);             \
        printf(__VA_ARGS__);                             \
        printf("\n");                                    \
        test_case_skipped = true;                        \
        return;                                          \
    } while (0)

#define EXPECT(expression) \
    do { if (!(expression)) TEST_FAIL("%s does not hold", #expression); } while (0)

#define EXPECT_INT(actual, expected)                                                              \
    do {                                                                                          \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected);               \
        if (actual_ != expected_) TEST_FAIL("%s is %lld, expected %lld", #actual, actual_, expected_); \
    } while (0)

#define EXPECT_TEXT(actual, expected)                                                             \
    do {                                                                                          \
        const char *actual_ = (actual), *expected_ = (expected);                                  \
        if (actual_ == NULL || strcmp(actual_, expected_) != 0)                                   \
            TEST_FAIL("%s is \"%s\", expected \"%s\"", #actual, actual_ ? actual_ : "(null)", expected_); \
    } while (0)

/* |actual - expected| <= tolerance */
#define EXPECT_NEAR(actual, expected, tolerance)                                                  \
    do {                                                                                          \
        double actual_ = (actual), expected_ = (expected);                                        \
        if (!(fabs(actual_ - expected_) <= (tolerance)))                                          \
            TEST_FAIL("%s is %.9g, expected %.9g within %g", #actual, actual_, expected_, (double)(tolerance)); \
    } while (0)

/* Every element within tolerance * max(1, |expected|). */
#define EXPECT_FLOATS(actual, expected, count, tolerance)                                         \
    do {                                                                                          \
        for (size_t i_ = 0; i_ < (size_t)(count); i_++) {                                         \
            double a_ = (actual)[i_], e_ = (expected)[i_];                                        \
            if (!(fabs(a_ - e_) <= (tolerance) * fmax(1.0, fabs(e_)))) {                          \
                TEST_FAIL("%s[%zu] is %.9g, expected %.9g within %g", #actual, i_, a_, e_, (double)(tolerance)); \
                break;                                                                            \
            }                                                                                     \
        }                                                                                         \
    } while (0)

static inline void test_run(const char *name, void (*test)(void))
{
    test_case_name = name;
    test_case_failed = test_case_skipped = false;
    test();
    if (test_case_failed)
        tests_failed++;
    else if (!test_case_skipped)
        printf("ok %s\n", name);
    fflush(stdout);
}
#define RUN(test) test_run(#test, test)

static inline int tests_end(void)
{
    return tests_failed ? 1 : 0;
}

/* A new directory in TMPDIR, or in /tmp where that leaves no room for the path of a socket.  directory: (size) out. */
static inline void test_directory(char *directory, size_t size)
{
    enum { PARENT_BYTES_MAX = 40 };
    const char *parent = getenv("TMPDIR");
    snprintf(directory, size, "%s/vas-test.XXXXXX", parent != NULL && strlen(parent) <= PARENT_BYTES_MAX ? parent : "/tmp");
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        abort();
    }
}

/* Where the real models and texts are; NULL when they are not here. */
static inline const char *test_data(const char *file)
{
    static char path[4][1024];
    static int turn;
    const char *directory = getenv("VAS_TEST_DATA");
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", directory ? directory : "../shared/data", file);
    FILE *probe = fopen(out, "r");
    if (probe == NULL)
        return NULL;
    fclose(probe);
    return out;
}

#endif
