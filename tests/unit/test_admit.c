/* test_admit.c - a list of allowed keys that cannot be read leaves the last one in force. */
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "../check.h"
#include "base/log.h"
#include "store/admit.h"
#include "wire/curve.h"

/* Goal: while the process has no file descriptor left to read the directory with, nobody loses admission. */
static void test_no_descriptors(void)
{
    char directory[64], path[96], public_path[104], key[CURVE_KEY_SIZE];
    struct rlimit limit, none = { .rlim_cur = 3 };
    int code;
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/key", directory);
    snprintf(public_path, sizeof public_path, "%s.pub", path);
    EXPECT_INT(curve_make(path), EX_OK);
    EXPECT_INT(curve_read_public(key, public_path), EX_OK);
    void *context = zmq_ctx_new();
    struct admit *admit = admit_open(context, directory, &code);
    EXPECT_INT(code, EX_OK);
    EXPECT(admit_allows(admit, key));

    EXPECT_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none.rlim_max = limit.rlim_max;
    EXPECT_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (int second = 1; second <= 3; second++)
        EXPECT(!admit_turn(admit, second));
    EXPECT(admit_allows(admit, key));

    EXPECT_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT(!admit_turn(admit, 4));
    EXPECT(admit_turn(admit, 5));  // read again as soon as that is possible
    EXPECT(admit_allows(admit, key));
    admit_close(admit);
    zmq_ctx_term(context);
    unlink(path);
    unlink(public_path);
    EXPECT_INT(rmdir(directory), 0);
}

int main(void)
{
    log_open("test", getenv("VERBOSE") ? 1 : -1);
    if (getenv("VERBOSE") == NULL && freopen("/dev/null", "w", stderr) == NULL)  // the refusals
        abort();
    RUN(test_no_descriptors);
    return tests_end();
}
