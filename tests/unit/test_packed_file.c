/* test_packed_file.c - packed weights that are kept beside a model: the same numbers, written once, and only where they hold. */
#define _GNU_SOURCE
#include "../check.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/philox.h"
#include "model/encoder.h"
#include "model/model.h"
#include "stderr_text.h"
#include "tiny_model.h"

static struct pool *pool;
static char scratch[256];

/* ---- directories ---- */

static void copy_file(const char *from, const char *to)
{
    size_t size;
    char *content = file_read(from, &size);
    CHECK(content != NULL && file_write(to, content, size) == 0);
    free(content);
}

/* What a model needs, into an empty directory of scratch.  The caller frees its path. */
static char *directory_copy(const char *from, const char *name)
{
    static const char *const files[] = { "config.json", "model.safetensors" };
    char *directory = memory_printf("%s/%s", scratch, name);
    CHECK(directory_make(directory) == 0);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char *source = memory_printf("%s/%s", from, files[i]), *target = memory_printf("%s/%s", directory, files[i]);
        copy_file(source, target);
        free(source);
        free(target);
    }
    return directory;
}

/* The tiny model of a seed as a directory: model.safetensors alone where there is one already. */
static void tiny_write(const char *directory, uint64_t seed)
{
    struct buffer file = tiny_safetensors(&tiny_config, seed);
    struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
    CHECK(model_export(weights, &tiny_config, directory) == 0);
    weights_close(weights);
    free(file.data);
}

static char *tiny_directory(const char *name)
{
    char *directory = memory_printf("%s/%s", scratch, name);
    CHECK(directory_make(directory) == 0);
    tiny_write(directory, 1);
    return directory;
}

struct identity {
    ino_t inode;
    off_t size;
};

/* No inode: there is no such file. */
static struct identity identity_of(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 ? (struct identity){ status.st_ino, status.st_size } : (struct identity){ 0 };
}

/* ---- what a model computes ---- */

enum { TOKENS = 5 };

/* The key and all numbers of a few rows; "" where it cannot be opened.  The caller frees. */
static char *decoder_answer(const char *path, enum tensor_type quant, bool keep_packed)
{
    int code;
    struct model *model = model_open_quantised(path, quant, keep_packed, pool, &code);
    if (model == NULL)
        return memory_text("");
    size_t C = (size_t)model_config(model)->channel_count, V = (size_t)model_config(model)->vocab_size;
    size_t N = model_label_count(model);
    size_t count = C > V ? C : V;
    count = N > count ? N : count;
    float hidden[TOKENS * 512], *numbers = memory_alloc(TOKENS * count, sizeof *numbers);
    CHECK(C <= 512);
    struct cache *cache = cache_open(model, 64);
    model_extend(model, cache, sequence_open(cache), (const int32_t[]){ 1, 4, 3, 2, 0 }, TOKENS, hidden, NULL);
    struct digest digest;
    char key[KEY_SIZE];
    digest_init(&digest);
    digest_add(&digest, hidden, TOKENS * C * sizeof *hidden);
    if (N > 0)
        model_scores(model, hidden, TOKENS, numbers);
    else
        model_logits(model, hidden, TOKENS, numbers);
    digest_add(&digest, numbers, TOKENS * (N > 0 ? N : V) * sizeof *numbers);
    digest_key(&digest, key);
    char *answer = memory_printf("%s %s", model_key(model), key);
    cache_close(cache);
    model_close(model);
    free(numbers);
    return answer;
}

static char *encoder_answer(const char *path, enum tensor_type quant, bool keep_packed)
{
    int code;
    struct encoder *encoder = encoder_open(path, quant, keep_packed, pool, &code);
    if (encoder == NULL)
        return memory_text("");
    size_t C = encoder_channel_count(encoder);
    float *hidden = memory_alloc(TOKENS * C, sizeof *hidden);
    struct encoder_text text = { .tokens = (const int32_t[]){ 1, 4, 3, 2, 0 }, .T = TOKENS };
    encoder_run(encoder, &text, 1, hidden);
    struct digest digest;
    char key[KEY_SIZE];
    digest_init(&digest);
    digest_add(&digest, hidden, TOKENS * C * sizeof *hidden);
    digest_key(&digest, key);
    char *answer = memory_printf("%s %s", encoder_key(encoder), key);
    encoder_close(encoder);
    free(hidden);
    return answer;
}

typedef char *answer_function(const char *path, enum tensor_type quant, bool keep_packed);

/* Opens the model and holds what it computes against the answer that is expected.  Returns what it said;
   valid until the next call. */
static const char *expect_answer(answer_function *answer_of, const char *path, enum tensor_type quant, const char *expected,
                                 const char *when)
{
    stderr_hold();
    char *answer = answer_of(path, quant, true);
    const char *said = stderr_release();
    if (expected[0] == '\0' || strcmp(answer, expected) != 0)
        TEST_FAIL("%s %s: key and numbers are \"%s\", expected \"%s\"; it said: %s", path, when, answer, expected, said);
    free(answer);
    return said;
}

/* ---- the same numbers ---- */

static const enum tensor_type quants[] = { TENSOR_TYPE_COUNT, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4 };

/* The first start writes the file that the name says, the second one maps it and leaves it alone. */
static void expect_kept(answer_function *answer_of, const char *path, const char *kept, enum tensor_type quant)
{
    char *expected = answer_of(path, quant, false);
    EXPECT(identity_of(kept).inode == 0);
    const char *said = expect_answer(answer_of, path, quant, expected, "when it writes");
    if (strstr(said, "wrote packed weights") == NULL)
        TEST_FAIL("%s was not written: %s", kept, said);
    struct identity written = identity_of(kept);
    EXPECT(written.inode != 0 && written.size > 4096);
    said = expect_answer(answer_of, path, quant, expected, "when it maps");
    EXPECT(strstr(said, "packed") == NULL);
    EXPECT(identity_of(kept).inode == written.inode);
    free(expected);
}

static void expect_family_kept(answer_function *answer_of, const char *parent, const char *name)
{
    char *from = memory_printf("%s/%s", parent, name), *directory = directory_copy(from, name);
    char *gguf = memory_printf("%s/model.gguf", from);
    for (size_t q = 0; q < COUNT_OF(quants); q++) {
        enum tensor_type quant = quants[q];
        const char *type = quant != TENSOR_TYPE_COUNT ? tensor_formats[quant].name : "";
        char *kept = memory_printf("%s/model%s%s.packed", directory, type[0] != '\0' ? "." : "", type);
        expect_kept(answer_of, directory, kept, quant);
        free(kept);
    }
    if (file_exists(gguf)) {
        char *copy = memory_printf("%s/copy.gguf", directory), *kept = memory_printf("%s.packed", copy);
        copy_file(gguf, copy);
        expect_kept(answer_of, copy, kept, TENSOR_TYPE_COUNT);
        free(copy);
        free(kept);
    }
    free(gguf);
    free(directory);
    free(from);
}

static void expect_families_kept(answer_function *answer_of, const char *parent)
{
    DIR *entries = opendir(parent);
    CHECK(entries != NULL);
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.') != NULL)
            continue;
        expect_family_kept(answer_of, parent, entry->d_name);
        count++;
    }
    closedir(entries);
    EXPECT(count > 10);
}

/* Goal: every decoder family, with every rounding, from a directory and from GGUF, computes the same bits from its kept weights. */
static void test_decoders(void)
{
    expect_families_kept(decoder_answer, "tests/parity/families");
}

/* Goal: so do encoders, those with relative positions made from their matrices among them. */
static void test_encoders(void)
{
    expect_families_kept(encoder_answer, "tests/parity/encoders");
}

/* ---- files that do not hold ---- */

/* Puts content in the kept file's place.  The model must answer as before,
   say why it does not use the file, and write whole again. */
static void expect_written_anew(const char *directory, const char *expected, const char *content, size_t size,
                                const struct buffer *whole, const char *when)
{
    char *kept = memory_printf("%s/model.packed", directory);
    CHECK(file_write(kept, content, size) == 0);
    const char *said = expect_answer(decoder_answer, directory, TENSOR_TYPE_COUNT, expected, when);
    size_t now_size;
    char *now = file_read(kept, &now_size);
    if (strstr(said, ": it is written anew\n") == NULL || now_size != whole->size || memcmp(now, whole->data, now_size) != 0)
        TEST_FAIL("%s: it said \"%s\", and has %zu bytes, expected %zu", when, said, now_size, whole->size);
    free(now);
    free(kept);
}

/* Goal: a file that is cut, longer, another, or changed in one bit of the header, a matrix or a sum is never used. */
static void test_damage(void)
{
    static const size_t cuts[] = { 0, 1, 7, 8, 16, 50, 103, 104, 200, 4095, 4096, 4097, 8192 };
    char *directory = tiny_directory("damage"), *kept = memory_printf("%s/model.packed", directory), when[64];
    char *expected = decoder_answer(directory, TENSOR_TYPE_COUNT, false);
    expect_answer(decoder_answer, directory, TENSOR_TYPE_COUNT, expected, "when it writes");
    struct buffer whole = { 0 };
    whole.data = file_read(kept, &whole.size);
    for (size_t i = 0; i < COUNT_OF(cuts) + 2; i++) {
        size_t size = i < COUNT_OF(cuts) ? cuts[i] : i == COUNT_OF(cuts) ? whole.size - 1 : whole.size + 1;  // file_read adds a NUL
        snprintf(when, sizeof when, "cut to %zu bytes", size);
        expect_written_anew(directory, expected, whole.data, size, &whole, when);
    }
    expect_written_anew(directory, expected, "weights", 7, &whole, "another file");
    for (uint32_t i = 0, changed = 0; changed < 300; i++) {
        size_t region = changed < 100 ? 1024 : whole.size, at = (size_t)(philox_uniform(1, PHILOX_DATA, 0, 0, i) * (double)region);
        if (changed >= 100 && whole.data[at] == '\0')
            continue;  // perhaps between two matrices, where nothing is read
        char flipped = (char)(1 << i % 8);
        whole.data[at] ^= flipped;
        char *damaged = memory_alloc(whole.size, 1);
        memcpy(damaged, whole.data, whole.size);
        whole.data[at] ^= flipped;
        snprintf(when, sizeof when, "bit %u of byte %zu changed", i % 8, at);
        expect_written_anew(directory, expected, damaged, whole.size, &whole, when);
        free(damaged);
        changed++;
    }
    free(whole.data);
    free(expected);
    free(kept);
    free(directory);
}

/* Goal: the file is of these weights: others in their place, with the old times even, another config, or another model's file. */
static void test_other_weights(void)
{
    char *directory = tiny_directory("other"), *kept = memory_printf("%s/model.packed", directory);
    char *file = memory_printf("%s/model.safetensors", directory), *config = memory_printf("%s/config.json", directory);
    char *first = decoder_answer(directory, TENSOR_TYPE_COUNT, false);
    expect_answer(decoder_answer, directory, TENSOR_TYPE_COUNT, first, "at first");

    struct stat before;
    CHECK(stat(file, &before) == 0);
    usleep(20000);  // a tick of the clock that files' times are taken from
    tiny_write(directory, 2);
    CHECK(utimensat(AT_FDCWD, file, (const struct timespec[]){ before.st_atim, before.st_mtim }, 0) == 0);
    char *second = decoder_answer(directory, TENSOR_TYPE_COUNT, false);
    EXPECT(strcmp(first, second) != 0);
    const char *said = expect_answer(decoder_answer, directory, TENSOR_TYPE_COUNT, second,
                                     "with other weights of the same size and time");
    EXPECT(strstr(said, "is of other weights or another program") != NULL);

    size_t size;
    char *text = file_read(config, &size), *theta = strstr(text, "10000.0");
    CHECK(theta != NULL);
    theta[0] = '2';
    CHECK(file_write(config, text, size) == 0);
    char *third = decoder_answer(directory, TENSOR_TYPE_COUNT, false);
    EXPECT(strcmp(second, third) != 0);
    expect_answer(decoder_answer, directory, TENSOR_TYPE_COUNT, third, "with another config");

    char *elsewhere = tiny_directory("elsewhere"), *foreign = memory_printf("%s/model.packed", elsewhere);
    copy_file(kept, foreign);
    said = expect_answer(decoder_answer, elsewhere, TENSOR_TYPE_COUNT, first, "with another model's file");
    EXPECT(strstr(said, "is of other weights or another program") != NULL);
    char *rounded = memory_printf("%s/model.Q8_0.packed", elsewhere), *answer = decoder_answer(elsewhere, TENSOR_Q8_0, false);
    copy_file(foreign, rounded);
    said = expect_answer(decoder_answer, elsewhere, TENSOR_Q8_0, answer, "with the file of another rounding");
    EXPECT(strstr(said, "is of other weights or another program") != NULL);
    char *const texts[] = { answer, rounded, foreign, elsewhere, third, text, second, first, config, file, kept, directory };
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        free(texts[i]);
}

/* ---- files that cannot be ---- */

static void expect_without(const char *directory, const char *expected, const char *line)
{
    char *kept = memory_printf("%s/model.packed", directory);
    struct identity before = identity_of(kept);
    const char *said = expect_answer(decoder_answer, directory, TENSOR_TYPE_COUNT, expected, line), *hint = strchr(said, '\n');
    if (strncmp(said, "vas: ", 5) != 0 || strstr(said, line) == NULL || hint == NULL
        || strncmp(hint, "\nhint: going on without it", 26) != 0
        || strchr(hint + 1, '\n') != strrchr(said, '\n'))
        TEST_FAIL("expected \"%s\" and a hint: %s", line, said);
    EXPECT(identity_of(kept).inode == before.inode);
    free(kept);
}

/* Goal: where the file cannot be written the model works without, one line and a hint say so, and nothing is left behind. */
static void test_unwritable(void)
{
    char *directory = tiny_directory("unwritable"), *kept = memory_printf("%s/model.packed", directory);
    char *beside = memory_printf("%s.new", kept), *expected = decoder_answer(directory, TENSOR_TYPE_COUNT, false);
    CHECK(directory_make(beside) == 0);  // stands in for a model that is read-only, where root may write all the same
    expect_without(directory, expected, "could not create");
    CHECK(rmdir(beside) == 0);

    struct rlimit limit, short_limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0 && signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    short_limit = limit;
    for (short_limit.rlim_cur = 1000; short_limit.rlim_cur < 40000; short_limit.rlim_cur += 13000) {  // as a disk that is full
        CHECK(setrlimit(RLIMIT_FSIZE, &short_limit) == 0);
        expect_without(directory, expected, "could not write");
        EXPECT(!file_exists(beside));
    }
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0 && signal(SIGXFSZ, SIG_DFL) != SIG_ERR);

    CHECK(directory_make(kept) == 0);
    char *answer = decoder_answer(directory, TENSOR_TYPE_COUNT, true);
    EXPECT_TEXT(answer, expected);
    EXPECT(!file_exists(beside));
    free(answer);
    free(expected);
    free(beside);
    free(kept);
    free(directory);
}

/* Goal: an adapter merged into its base has no weights of its own to keep. */
static void test_adapter(void)
{
    char *answer = decoder_answer("tests/parity/peft/llama", TENSOR_TYPE_COUNT, false);
    const char *said = expect_answer(decoder_answer, "tests/parity/peft/llama", TENSOR_TYPE_COUNT, answer, "as an adapter");
    EXPECT(strstr(said, "its packed weights are not kept") != NULL);
    EXPECT(!file_exists("tests/parity/peft/llama/model.packed"));
    free(answer);
}

/* ---- several processes ---- */

/* Goal: processes that start at once write the file once, and all have the same numbers. */
static void test_together(void)
{
    enum { PROCESSES = 6 };
    char *directory = tiny_directory("together"), *kept = memory_printf("%s/model.packed", directory);
    char *expected = decoder_answer(directory, TENSOR_TYPE_COUNT, false);
    pid_t processes[PROCESSES];
    stderr_hold();
    for (size_t i = 0; i < PROCESSES; i++) {
        processes[i] = fork();
        CHECK(processes[i] >= 0);
        if (processes[i] > 0)
            continue;
        pool = pool_open(1);  // the parent's threads are not here
        char *answer = decoder_answer(directory, TENSOR_TYPE_COUNT, true);
        _exit(strcmp(answer, expected) == 0 ? 0 : 1);
    }
    for (size_t i = 0; i < PROCESSES; i++) {
        int status;
        CHECK(waitpid(processes[i], &status, 0) == processes[i]);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    const char *said = stderr_release(), *wrote = strstr(said, "wrote packed weights");
    EXPECT(wrote != NULL && strstr(wrote + 1, "wrote packed weights") == NULL);
    char *beside = memory_printf("%s.new", kept);
    EXPECT(file_exists(kept) && !file_exists(beside));
    free(beside);
    free(expected);
    free(kept);
    free(directory);
}

int main(void)
{
    pool = pool_open(2);
    test_directory(scratch, sizeof scratch);
    RUN(test_decoders);
    RUN(test_encoders);
    RUN(test_damage);
    RUN(test_other_weights);
    RUN(test_unwritable);
    RUN(test_adapter);
    RUN(test_together);
    pool_close(pool);
    char *command = memory_printf("rm -rf '%s'", scratch);
    CHECK(system(command) == 0);
    free(command);
    return tests_end();
}
