/*
 * test_families_gguf.c - GGUF files of every family against transformers.
 *
 * tests/parity/families/NAME/model.gguf hold the weights of the directory they are in, tests/parity/families_gguf/NAME/model.gguf
 * quantised ones.  make_families.py made them with the gguf package, and with transformers beside them tokens.json (B, T),
 * hidden.f32 (B, T, C) and logits.f32 (B, T, V).
 */
#include "../check.h"

#include <dirent.h>
#include <sysexits.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/kernels.h"
#include "model/model.h"
#include "model/weights.h"

static struct pool *pool;
static double tolerance = 1e-4;

/* The largest |actual - expected| over the largest |expected|; NaN counts as infinite. */
static void expect_close(const char *directory, const char *file, const float *actual, size_t count)
{
    char *path = memory_printf("%s/%s", directory, file);
    size_t size = 0;
    float *expected = (float *)(void *)file_read(path, &size);
    double worst = 0.0, scale = 0.0;
    for (size_t i = 0; expected != NULL && i < count && size == count * sizeof *expected; i++) {
        double d = fabs((double)actual[i] - (double)expected[i]);
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        scale = fmax(scale, fabs((double)expected[i]));
    }
    if (!(worst <= tolerance * scale && scale > 0))
        TEST_FAIL("%s differs by %g of %g", path, worst, scale);
    free(expected);
    free(path);
}

static void compare(const char *directory, const char *gguf)
{
    int code;
    char *path = memory_printf("%s/tokens.json", directory);
    struct model *model = model_open(gguf, pool, &code);
    json_t *tokens = json_read(path);
    free(path);
    EXPECT(model != NULL && tokens != NULL);
    if (model != NULL && tokens != NULL) {
        size_t B = json_array_size(tokens), T = json_array_size(json_array_get(tokens, 0));
        size_t C = (size_t)model_config(model)->channel_count, V = (size_t)model_config(model)->vocab_size;
        float *hidden = memory_alloc(B * T * C, sizeof *hidden), *logits = memory_alloc(B * T * V, sizeof *logits);
        int32_t *ids = memory_alloc(T, sizeof *ids);
        struct cache *cache = cache_open(model, B * (T + CACHE_PAGE_POSITIONS));
        for (size_t b = 0; b < B; b++) {
            for (size_t t = 0; t < T; t++)
                ids[t] = (int32_t)json_integer_value(json_array_get(json_array_get(tokens, b), t));
            model_extend(model, cache, sequence_open(cache), ids, T, hidden + b * T * C, NULL);
        }
        model_logits(model, hidden, B * T, logits);
        expect_close(directory, "hidden.f32", hidden, B * T * C);
        expect_close(directory, "logits.f32", logits, B * T * V);
        cache_close(cache);
        free(ids);
        free(logits);
        free(hidden);
    }
    json_decref(tokens);
    model_close(model);
}

/* The key of a directory or file, or "" when it does not open. */
static void key_of(const char *path, char key[KEY_SIZE])
{
    int code;
    struct model_config config;
    key[0] = '\0';
    struct weights *weights = weights_open(path, &code);
    if (weights != NULL && config_open(&config, path) == EX_OK && weights_check(weights, &config) == 0)
        weights_key(weights, &config, NULL, key);
    weights_close(weights);
}

/* Llama 3's stretched frequencies are parameters in config.json and factors in GGUF, which their keys tell apart. */
static void compare_keys(const char *directory, const char *gguf)
{
    char key[KEY_SIZE], gguf_key[KEY_SIZE];
    key_of(directory, key);
    key_of(gguf, gguf_key);
    EXPECT(key[0] != '\0' && gguf_key[0] != '\0');
    if ((strstr(directory, "llama3") == NULL) != (strcmp(key, gguf_key) == 0))
        TEST_FAIL("%s has key %s, its GGUF file %s", directory, key, gguf_key);
}

static void compare_all(const char *root, bool twins, size_t expected)
{
    struct dirent **entries;
    int count = scandir(root, &entries, NULL, alphasort);
    if (count < 0)
        TEST_SKIP("%s is not here", root);
    size_t compared = 0;
    for (int i = 0; i < count; i++) {
        char *directory = memory_printf("%s/%s", root, entries[i]->d_name), *gguf = memory_printf("%s/model.gguf", directory);
        if (file_exists(gguf)) {
            compare(directory, gguf);
            if (twins)
                compare_keys(directory, gguf);
            compared++;
        }
        free(gguf);
        free(directory);
        free(entries[i]);
    }
    free(entries);
    EXPECT_INT(compared, expected);
}

/*
 * Goal: every architecture gives transformers' numbers from GGUF (rows of rotary pairs, fused and transposed matrices, norms with
 * 1 added, rotary factors as tensors), and has the key of the directory that it was made from.
 */
static void test_twins(void)
{
    compare_all("tests/parity/families", true, FAMILY_COUNT);
}

/* Goal: quantised matrices of all types give the numbers of their dequantised weights,
   with the kernels that do not round rows to bytes. */
static void test_quantised(void)
{
    setenv("VAS_KERNELS", kernels_named("avx512") != NULL ? "avx512" : kernels_named("avx2") != NULL ? "avx2" : "portable", 1);
    compare_all("tests/parity/families_gguf", false, 2);
    unsetenv("VAS_KERNELS");
}

/* Goal: those that do come as near as bytes allow. */
static void test_quantised_bytes(void)
{
    tolerance = 0.025;
    compare_all("tests/parity/families_gguf", false, 2);
}

int main(void)
{
    log_open("test_families_gguf", -1);
    pool = pool_open(1);
    RUN(test_twins);
    RUN(test_quantised);
    RUN(test_quantised_bytes);
    pool_close(pool);
    return tests_end();
}
