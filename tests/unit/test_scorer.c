/* The two kinds of scorer: word lists worked by hand and against Python; commands that behave in every way but well. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "score/scorer.h"
#include "../check.h"

/* ---- lexicon ---- */

/* A file in a directory of its own.  path: out. */
static void write_file(char path[96], const char *content, size_t size)
{
    test_directory(path, 80);
    strcat(path, "/lexicon");
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(content, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

/* The scorer of a lexicon with this content; NULL with the code when it is refused. */
static struct scorer *lexicon_of(const char *content, size_t size, double scale, int *code)
{
    char path[96];
    write_file(path, content, size);
    struct scorer_options options = SCORER_DEFAULTS;
    options.lexicon = path;
    options.scale = scale;
    struct scorer *scorer = scorer_open(&options, code);
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path);
    return scorer;
}

static double score_one(struct scorer *scorer, const char *prompt, const char *response)
{
    struct scorer_result result;
    if (scorer_score(scorer, &(struct scorer_text){ prompt, response }, 1, &result) != 0 || result.status != SCORER_SCORED)
        return NAN;
    return result.score;
}

/* Goal: s / sqrt(s*s + 15) over the words of the lower-cased response, the prompt not counted. */
static void test_lexicon_by_hand(void)
{
    static const char content[] = "good\t1.0\t0.1\t[1, 1]\nbad\t-1\nfine 7\n:)\t2.0\n\nit's\t0.5\nEnd 3\r\n";
    int code;
    struct scorer *scorer = lexicon_of(content, sizeof content - 1, 1, &code);
    EXPECT(scorer != NULL);
    if (scorer == NULL)
        return;
    EXPECT_NEAR(score_one(scorer, "good good", ""), 0, 0);
    EXPECT_NEAR(score_one(scorer, "", "Good."), 0.25, 1e-15);              // s = 1: 1 / sqrt(16)
    EXPECT_NEAR(score_one(scorer, "bad", "BAD"), -0.25, 1e-15);
    EXPECT_NEAR(score_one(scorer, "", "fine :)"), 0.875, 1e-15);           // s = 7: 7 / sqrt(64)
    EXPECT_NEAR(score_one(scorer, "", "it's it's"), 0.25, 1e-15);          // s = 0.5 + 0.5
    EXPECT_NEAR(score_one(scorer, "", "goodbye 'good' good's"), 0, 0);     // other words, all of them
    EXPECT_NEAR(score_one(scorer, "", "end bad-bad good\xC3\xA9" "bad\nx"), 1 / 4.0, 1e-15);  // 3 - 1 - 1 + 1 - 1
    scorer_close(scorer);
}

/* Goal: the last valence of a word that stands twice counts; a byte order mark and a missing last newline do no harm. */
static void test_lexicon_repeats_and_edges(void)
{
    static const char content[] = "\xEF\xBB\xBFword 100\nword 1\nword\t7";
    int code;
    struct scorer *scorer = lexicon_of(content, sizeof content - 1, 1, &code);
    EXPECT_NEAR(scorer ? score_one(scorer, "", "word") : 0, 0.875, 1e-15);
    scorer_close(scorer);
}

/* Goal: --scale multiplies, and is part of what the scorer is. */
static void test_lexicon_scale_and_spec(void)
{
    int code;
    struct scorer *plain = lexicon_of("good 1\n", 7, 1, &code), *turned = lexicon_of("good 1\n", 7, -2, &code);
    EXPECT(plain != NULL && turned != NULL);
    if (plain == NULL || turned == NULL)
        return;
    EXPECT_NEAR(score_one(turned, "", "good"), -0.5, 1e-15);
    // printf 'good 1\n' | sha256sum
    EXPECT_TEXT(scorer_spec(plain), "{\"kind\":\"lexicon\",\"scale\":1.0,"
                "\"sha256\":\"c9c4cebfcfebf77e12aa4aa04b22ae54cd286dbca32980e9dcc54680ca0cbf19\"}");
    EXPECT(strcmp(scorer_spec(plain), scorer_spec(turned)) != 0);
    scorer_close(plain);
    scorer_close(turned);
}

/* Goal: a bad lexicon is refused with 65, a missing one with 66, no or two kinds with 64. */
static void test_lexicon_refusals(void)
{
    static const struct { const char *content; size_t size; } bad[] = {
        { "", 0 }, { "\n \n", 3 }, { "word\n", 5 }, { "word\tx\n", 7 }, { "word 1x\n", 8 }, { "word nan\n", 9 },
        { "word 1e7\n", 9 }, { "\t1\n", 3 }, { ":) 1\n", 5 }, { "a 1\nb\0 2\n", 9 }, { "word\t\n", 6 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int code = 0;
        struct scorer *scorer = lexicon_of(bad[i].content, bad[i].size, 1, &code);
        if (scorer != NULL || code != EX_DATAERR)
            TEST_FAIL("case %zu gave code %d", i, code);
        scorer_close(scorer);
    }
    int code = 0;
    struct scorer_options options = SCORER_DEFAULTS;
    EXPECT(scorer_open(&options, &code) == NULL);
    EXPECT_INT(code, EX_USAGE);
    options.lexicon = "/nowhere/lexicon";
    EXPECT(scorer_open(&options, &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    options.exec = "cat";
    EXPECT(scorer_open(&options, &code) == NULL);
    EXPECT_INT(code, EX_USAGE);
    EXPECT(lexicon_of("a 1\n", 4, 0, &code) == NULL);
    EXPECT_INT(code, EX_USAGE);
}

/* Goal: with VADER every score is what Python's re and str.lower give (tests/parity/make_lexicon.py). */
static void test_lexicon_equals_python(void)
{
    const char *path = test_data("vader/vader_lexicon.txt");
    if (path == NULL)
        TEST_SKIP("../shared/data is not here");
    json_t *fixture = json_read("tests/parity/lexicon.json");
    int code;
    struct scorer_options options = SCORER_DEFAULTS;
    options.lexicon = path;
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT(fixture != NULL && scorer != NULL);
    if (fixture == NULL || scorer == NULL)
        return;
    const char *sha256 = json_string_value(json_object_get(fixture, "lexicon_sha256"));
    EXPECT(strstr(scorer_spec(scorer), sha256) != NULL);
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(fixture, "cases"), i, one) {
        const char *response = json_string_value(json_object_get(one, "response"));
        double expected = json_real_value(json_object_get(one, "score")), actual = score_one(scorer, "", response);
        if (!(fabs(actual - expected) <= 1e-15))
            TEST_FAIL("case %zu, \"%.40s\", is %.17g, expected %.17g", i, response, actual, expected);
    }
    EXPECT(i >= 16);
    scorer_close(scorer);
    json_decref(fixture);
}

/* ---- exec ---- */

enum { COUNT_MAX = 1000 };
static struct scorer_result results[COUNT_MAX];
static char responses[COUNT_MAX][16];
static struct scorer_text texts[COUNT_MAX];

/* Opens the command and scores the responses "0", "1", ... with it.  Gives what scorer_score gave. */
static int exec_run(const char *command, size_t count, double timeout_s)
{
    struct scorer_options options = SCORER_DEFAULTS;
    options.exec = command;
    options.timeout_s = timeout_s;
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    if (scorer == NULL)
        return code;
    for (size_t i = 0; i < count; i++) {
        snprintf(responses[i], sizeof responses[i], "%zu", i);
        texts[i] = (struct scorer_text){ "p", responses[i] };
    }
    int status = scorer_score(scorer, texts, count, results);
    scorer_close(scorer);
    return status;
}

/* How many results have the status, and the scores equal their number. */
static size_t count_status(size_t count, enum scorer_status status)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        found += results[i].status == status && (status != SCORER_SCORED || results[i].score == (double)i);
    return found;
}

/* Answers each line with the number x in its response; what stands before it may misbehave first.  n is the line's number. */
#define SHELL(misbehave)                                                                       \
    "n=0; while IFS= read -r line; do n=$((n + 1)); x=${line##*:\\\"}; x=${x%%\\\"*}; " misbehave \
    " echo \"$x\"; done"

/* Goal: many responses go through in order, both pipes full at times, whatever the order of reading and writing. */
static void test_exec_answers_in_order(void)
{
    EXPECT_INT(exec_run(SHELL(""), COUNT_MAX, 10), 0);
    EXPECT_INT(count_status(COUNT_MAX, SCORER_SCORED), COUNT_MAX);
}

/* Goal: texts arrive as JSON, whole, whatever is in them, and are larger than a pipe. */
static void test_exec_gives_json(void)
{
    struct scorer_options options = SCORER_DEFAULTS;
    // the count of bytes in the line, without the newline
    options.exec = "LC_ALL=C; while IFS= read -r line; do echo ${#line}; done";
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT_NEAR(score_one(scorer, "", ""), 27, 0);  // {"prompt":"","response":""}
    EXPECT_NEAR(score_one(scorer, "\"\\\n", "\x01\xC3\xA9"), 27 + 6 + 6 + 2, 0);  // three escapes of 2 bytes, one of 6
    size_t size = 100000;
    char *large = memory_alloc(size + 1, 1);
    memset(large, 'x', size);
    EXPECT_NEAR(score_one(scorer, large, large), 27 + 2e5, 0);
    struct scorer_result result;
    EXPECT_INT(scorer_score(scorer, &(struct scorer_text){ "", "\xFF" }, 1, &result), 0);
    EXPECT_INT(result.status, SCORER_FAILED);
    free(large);
    scorer_close(scorer);
}

/* Goal: a command that dies now and then costs no score. */
static void test_exec_dies_now_and_then(void)
{
    EXPECT_INT(exec_run(SHELL("test $n = 30 && exit 3;"), 40, 10), 0);
    EXPECT_INT(count_status(40, SCORER_SCORED), 40);
}

/* Goal: a response that kills the command fails alone, after two tries, with the status and the last words in its reason. */
static void test_exec_poison(void)
{
    EXPECT_INT(exec_run(SHELL("test $x = 17 && { echo ouch >&2; exit 3; };"), 40, 10), 0);
    EXPECT_INT(count_status(40, SCORER_SCORED), 39);
    EXPECT_INT(results[17].status, SCORER_FAILED);
    EXPECT_TEXT(results[17].reason, "the command ended with status 3 after 16 answers: ouch");  // 1 to 16, one by one
}

/* Goal: a command that answers one line and ends is started for each response. */
static void test_exec_one_shot(void)
{
    EXPECT_INT(exec_run("read -r line; echo 5", 5, 10), 0);
    for (size_t i = 0; i < 5; i++)
        EXPECT(results[i].status == SCORER_SCORED && results[i].score == 5);
}

/* Goal: a response over which the command hangs fails after the time allowed, and its whole process group is ended. */
static void test_exec_hangs(void)
{
    double begin = clock_s();
    EXPECT_INT(exec_run("while read -r line; do case $line in *'\"3\"'*) sleep 61;; esac; echo 1; done", 6, 0.3), 0);
    EXPECT(clock_s() - begin < 5);
    for (size_t i = 0; i < 6; i++)
        EXPECT_INT(results[i].status, i == 3 ? SCORER_FAILED : SCORER_SCORED);
    EXPECT(strstr(results[3].reason, "gave no answer within 0.3 s") != NULL);
}

/* Goal: an answer that is no number fails its response with the line; NaN and infinity do at once. */
static void test_exec_garbage(void)
{
    EXPECT_INT(exec_run(SHELL("case $x in 5) x=five;; 6) x=nan;; 7) x=-inf;; 8) x=1e31;; esac;"), 12, 10), 0);
    EXPECT_INT(count_status(12, SCORER_SCORED), 8);
    EXPECT(strstr(results[5].reason, "is no number") != NULL && strstr(results[5].reason, "\"five\"") != NULL);
    EXPECT(strstr(results[6].reason, "not finite") != NULL && strstr(results[6].reason, "\"nan\"") != NULL);
    EXPECT(strstr(results[7].reason, "-inf") != NULL);
    EXPECT(strstr(results[8].reason, "within 1e+30") != NULL);
}

/* Goal: a command that prints two lines for one, or a banner, never gets a score believed, and is given up. */
static void test_exec_prints_more(void)
{
    EXPECT_INT(exec_run(SHELL("echo 0;"), 8, 10), -1);
    EXPECT_INT(count_status(8, SCORER_LEFT), 8);
    EXPECT_INT(exec_run("echo loading; " SHELL(""), 8, 10), -1);
    EXPECT_INT(count_status(8, SCORER_LEFT), 8);
}

/* Goal: when one line is skipped, no score goes to the wrong response. */
static void test_exec_prints_fewer(void)
{
    EXPECT_INT(exec_run(SHELL("test $x = 4 && continue;"), 10, 0.3), 0);
    EXPECT_INT(count_status(10, SCORER_SCORED), 9);
    EXPECT_INT(results[4].status, SCORER_FAILED);
}

/* Goal: one number too many somewhere in a window withdraws the window's scores, which are found again one by one. */
static void test_exec_one_line_too_many(void)
{
    // the surplus line is there before the last answer is asked for
    EXPECT_INT(exec_run(SHELL("test $x = 9 && { printf '99\\n9\\n'; continue; };"), 10, 10), 0);
    EXPECT_INT(count_status(10, SCORER_SCORED), 9);
    EXPECT_INT(results[9].status, SCORER_FAILED);
    EXPECT(strstr(results[9].reason, "more lines than it was given") != NULL);
}

/* Goal: a number too many that comes after its window was believed ends the scorer. */
static void test_exec_late_line(void)
{
    struct scorer_options options = SCORER_DEFAULTS;
    options.exec = "read -r line; echo 1; sleep 0.2; echo 2; cat >&2";
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT_NEAR(score_one(scorer, "", ""), 1, 0);
    usleep(600000);
    struct scorer_result result;
    EXPECT_INT(scorer_score(scorer, &(struct scorer_text){ "", "" }, 1, &result), -1);
    EXPECT_INT(result.status, SCORER_LEFT);
    scorer_close(scorer);
}

/* Goal: megabytes on standard error block nothing. */
static void test_exec_floods_errors(void)
{
    EXPECT_INT(exec_run(SHELL("head -c 1000000 /dev/zero | tr '\\0' '\\n' >&2;"), 4, 10), 0);
    EXPECT_INT(count_status(4, SCORER_SCORED), 4);
}

/* Goal: an endless line is cut off. */
static void test_exec_floods_output(void)
{
    EXPECT_INT(exec_run("exec tr '\\0' x </dev/zero", 3, 0.2), -1);
    EXPECT_INT(count_status(3, SCORER_LEFT), 3);
}

/* Goal: a command that never reads is given up although the window is larger than a pipe. */
static void test_exec_never_reads(void)
{
    EXPECT_INT(exec_run("exec sleep 61", COUNT_MAX, 0.1), -1);
    EXPECT_INT(count_status(COUNT_MAX, SCORER_LEFT), COUNT_MAX);
}

/* Goal: a command that does not exist is given up at once, one that always fails soon; neither fault is the responses'. */
static void test_exec_cannot_start(void)
{
    double begin = clock_s();
    EXPECT_INT(exec_run("/nowhere/scorer --fast", 5, 10), -1);
    EXPECT(clock_s() - begin < 2);
    EXPECT_INT(count_status(5, SCORER_LEFT), 5);
    EXPECT_INT(exec_run("exit 1", 5, 10), -1);
    EXPECT_INT(count_status(5, SCORER_LEFT), 5);
}

static bool wait_no_longer(void *context)
{
    ++*(int *)context;
    return false;
}

/* Goal: while it waits the scorer asks whether to go on; told not to, it leaves what has no score. */
static void test_exec_wait_is_given_up(void)
{
    int asked = 0, code;
    struct scorer_options options = SCORER_DEFAULTS;
    options.exec = "sleep 61; cat";
    options.wait = wait_no_longer;
    options.wait_context = &asked;
    struct scorer *scorer = scorer_open(&options, &code);
    struct scorer_result result[2];
    double begin = clock_s();
    EXPECT_INT(scorer_score(scorer, (struct scorer_text[]){ { "", "a" }, { "", "b" } }, 2, result), 0);
    EXPECT(clock_s() - begin < 2);
    EXPECT_INT(asked, 1);
    EXPECT(result[0].status == SCORER_LEFT && result[1].status == SCORER_LEFT);
    scorer_close(scorer);
}

/* Goal: closing ends the command and what it started, also when it ignores the end of its input. */
static void test_exec_close_ends_the_group(void)
{
    struct scorer_options options = SCORER_DEFAULTS;
    options.exec = "sleep 61 & echo $!; trap '' TERM; sleep 62";  // its first answer is the number of a process it started
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    double pid = score_one(scorer, "", "");
    EXPECT(pid > 1 && kill((pid_t)pid, 0) == 0);
    double begin = clock_s();
    scorer_close(scorer);
    EXPECT(clock_s() - begin < 3);
    bool gone = false;
    for (int turns = 0; turns < 100 && !gone; turns++) {  // init reaps it
        char path[64], state = 'Z';
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *file = fopen(path, "r");
        gone = file == NULL || fscanf(file, "%*d (%*[^)]) %c", &state) != 1 || state == 'Z';
        if (file != NULL)
            fclose(file);
        usleep(10000);
    }
    EXPECT(gone);
}

/* Goal: the command text and the scale are the spec. */
static void test_exec_spec(void)
{
    struct scorer_options options = SCORER_DEFAULTS;
    options.exec = "./score \"x\"";
    options.scale = -1;
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT_TEXT(scorer_spec(scorer), "{\"command\":\"./score \\\"x\\\"\",\"kind\":\"exec\",\"scale\":-1.0}");
    scorer_close(scorer);
}

int main(void)
{
    if (getenv("VERBOSE") == NULL && freopen("/dev/null", "w", stderr) == NULL)  // the commands' noise
        return 1;
    RUN(test_lexicon_by_hand);
    RUN(test_lexicon_repeats_and_edges);
    RUN(test_lexicon_scale_and_spec);
    RUN(test_lexicon_refusals);
    RUN(test_lexicon_equals_python);
    RUN(test_exec_answers_in_order);
    RUN(test_exec_gives_json);
    RUN(test_exec_dies_now_and_then);
    RUN(test_exec_poison);
    RUN(test_exec_one_shot);
    RUN(test_exec_hangs);
    RUN(test_exec_garbage);
    RUN(test_exec_prints_more);
    RUN(test_exec_prints_fewer);
    RUN(test_exec_one_line_too_many);
    RUN(test_exec_late_line);
    RUN(test_exec_floods_errors);
    RUN(test_exec_floods_output);
    RUN(test_exec_never_reads);
    RUN(test_exec_cannot_start);
    RUN(test_exec_wait_is_given_up);
    RUN(test_exec_close_ends_the_group);
    RUN(test_exec_spec);
    return tests_end();
}
