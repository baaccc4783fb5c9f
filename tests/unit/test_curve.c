/* test_curve.c - key files: what is written is read again, what is not a key or not private is refused with its line or mode. */
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "../check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "wire/curve.h"

static char directory[64], path[96], public_path[104];

static void directory_open(void)
{
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/key", directory);
    snprintf(public_path, sizeof public_path, "%s.pub", path);
}

static void directory_close(void)
{
    unlink(path);
    unlink(public_path);
    EXPECT_INT(rmdir(directory), 0);
}

/* Goal: a pair that was made is read again, is private, and is never overwritten. */
static void test_pair(void)
{
    struct curve_pair pair, again;
    char public_key[CURVE_KEY_SIZE];
    struct stat status;
    directory_open();
    EXPECT_INT(curve_make(path), EX_OK);
    EXPECT_INT(stat(path, &status), 0);
    EXPECT_INT(status.st_mode & 0777, 0600);
    EXPECT_INT(curve_read_pair(&pair, path), EX_OK);
    EXPECT_INT(curve_read_public(public_key, public_path), EX_OK);
    EXPECT_TEXT(pair.public_key, public_key);
    EXPECT_INT(strlen(pair.secret_key), CURVE_KEY_SIZE - 1);
    EXPECT_INT(curve_make(path), EX_CANTCREAT);
    unlink(path);
    EXPECT_INT(curve_make(path), EX_CANTCREAT);  // the public key is another's
    EXPECT(!file_exists(path));
    EXPECT_INT(curve_read_pair(&again, path), EX_NOINPUT);
    directory_close();
}

/* Goal: a secret key that the group or others may read, and a file without one, are refused. */
static void test_secrets(void)
{
    static const mode_t open_modes[] = { 0640, 0604, 0660, 0644, 0610 };
    struct curve_pair pair;
    char public_key[CURVE_KEY_SIZE];
    directory_open();
    EXPECT_INT(curve_make(path), EX_OK);
    for (size_t i = 0; i < sizeof open_modes / sizeof *open_modes; i++) {
        chmod(path, open_modes[i]);
        EXPECT_INT(curve_read_pair(&pair, path), EX_NOPERM);
    }
    chmod(path, 0400);
    EXPECT_INT(curve_read_pair(&pair, path), EX_OK);
    EXPECT_INT(curve_read_public(public_key, path), EX_DATAERR);  // it would give a secret away
    chmod(public_path, 0600);
    EXPECT_INT(curve_read_pair(&pair, public_path), EX_DATAERR);
    directory_close();
}

static void count_key(void *of, const char *key)
{
    EXPECT_INT(strlen(key), CURVE_KEY_SIZE - 1);
    ++*(int *)of;
}

static int keys_in(const char *text, char *reason)
{
    int count = 0;
    return curve_list(text, count_key, &count, reason) == 0 ? count : -1;
}

/* Goal: a list is any number of key files after each other, with comments, in any spacing;
   what is wrong in it is named by its line. */
static void test_list(void)
{
#define KEY "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"  // the Z85 key of ZeroMQ's documentation
    char reason[512] = "";
    EXPECT_INT(keys_in("", reason), 0);
    EXPECT_INT(keys_in("# public-key = \"x\"\nmetadata\n    name = \"public-key\"\n", reason), 0);
    EXPECT_INT(keys_in("curve\n    public-key = \"" KEY "\"\n", reason), 1);
    EXPECT_INT(keys_in("public-key=" KEY "\r\n\tpublic-key = '" KEY "'\n\n# end\npublic-key = \"" KEY "\"", reason), 3);
    EXPECT_INT(keys_in("curve\n\npublic-key = \"" KEY "x\"\n", reason), -1);
    EXPECT(strncmp(reason, "line 3: \"" KEY "x\" is not a key", 60) == 0);
    EXPECT_INT(keys_in("public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hI~\"", reason), -1);  // ~ is no digit of Z85
    EXPECT_INT(keys_in("public-key = \"" KEY "\"\nsecret-key = \"" KEY "\"\n", reason), -1);
    EXPECT(strncmp(reason, "line 2 is a secret key", 22) == 0);
    const char whole[] = "public-key = \"" KEY "\"";
    char part[sizeof whole];
    for (size_t size = 0; size < sizeof whole - 2; size++) {
        snprintf(part, size + 1, "%s", whole);
        EXPECT(keys_in(part, reason) <= 0);
    }
}

int main(void)
{
    log_open("test", getenv("VERBOSE") ? 1 : -1);
    if (getenv("VERBOSE") == NULL && freopen("/dev/null", "w", stderr) == NULL)  // the refusals
        abort();
    RUN(test_pair);
    RUN(test_secrets);
    RUN(test_list);
    return tests_end();
}
