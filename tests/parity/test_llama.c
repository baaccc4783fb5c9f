/*
 * test_llama.c - the engine against transformers, llama2.c and PyTorch.
 *
 * tests/parity/llama/ is made by make_llama.py, tests/parity/stories.json by make_stories.py.
 */
#include "../check.h"

#include <sysexits.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "math/kernels.h"
#include "model/model.h"

static struct pool *pool;

/* The largest |actual - expected| over the largest |expected|; NaN counts as infinite. */
static double difference(const float *actual, const float *expected, size_t count)
{
    double worst = 0.0, scale = 0.0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)actual[i] - (double)expected[i]);
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        scale = fmax(scale, fabs((double)expected[i]));
    }
    return worst / scale;
}

static float *floats_read(const char *directory, const char *file, size_t count)
{
    char *path = memory_printf("%s/%s", directory, file);
    size_t size;
    char *floats = file_read(path, &size);
    if (floats == NULL || size != count * sizeof(float))
        TEST_FAIL("%s has %zu bytes, expected %zu", path, size, count * sizeof(float));
    free(path);
    return (float *)(void *)floats;
}

static void compare_with_transformers(const char *directory)
{
    int code;
    struct model *model = model_open(directory, pool, &code);
    char *path = memory_printf("%s/tokens.json", directory);
    json_t *tokens = json_read(path);
    free(path);
    EXPECT(model != NULL && tokens != NULL);
    if (model == NULL || tokens == NULL)
        return;

    size_t B = json_array_size(tokens), T = json_array_size(json_array_get(tokens, 0));
    size_t V = (size_t)model_config(model)->vocab_size, C = (size_t)model_config(model)->channel_count;
    float *hidden_expected = floats_read(directory, "hidden.f32", B * T * C);  // (B, T, C)
    float *logits_expected = floats_read(directory, "logits.f32", B * T * V);  // (B, T, V)
    float *hidden = memory_alloc(B * T * C, sizeof *hidden), *logits = memory_alloc(B * T * V, sizeof *logits);
    int32_t *ids = memory_alloc(T, sizeof *ids);
    struct cache *cache = cache_open(model, B * (T + CACHE_PAGE_POSITIONS));
    for (size_t b = 0; b < B; b++) {
        for (size_t t = 0; t < T; t++)
            ids[t] = (int32_t)json_integer_value(json_array_get(json_array_get(tokens, b), t));
        model_extend(model, cache, sequence_open(cache), ids, T, hidden + b * T * C, NULL);
    }
    model_logits(model, hidden, B * T, logits);
    EXPECT_NEAR(difference(hidden, hidden_expected, B * T * C), 0.0, 1e-4);
    EXPECT_NEAR(difference(logits, logits_expected, B * T * V), 0.0, 1e-4);

    cache_close(cache);
    free(ids);
    free(logits);
    free(hidden);
    free(logits_expected);
    free(hidden_expected);
    json_decref(tokens);
    model_close(model);
}

/* Goal: grouped-query attention in float32, with a language model head of its own, gives transformers' numbers. */
static void test_gqa_f32(void)
{
    compare_with_transformers("tests/parity/llama/gqa_f32");
}

/* Goal: so do BF16 weights with tied embeddings, one key/value head and sizes that fill no panel. */
static void test_tied_bf16(void)
{
    compare_with_transformers("tests/parity/llama/tied_bf16");
}

/* Goal: so do F16 weights in shards, with a head size apart from C / NH and another rotary base. */
static void test_sharded_f16(void)
{
    compare_with_transformers("tests/parity/llama/sharded_f16");
}

int main(void)
{
    pool = pool_open(1);
    RUN(test_gqa_f32);
    RUN(test_tied_bf16);
    RUN(test_sharded_f16);
    pool_close(pool);
    return tests_end();
}
