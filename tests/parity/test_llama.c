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
#include "sample/sampler.h"
#include "text/tokenizer.h"

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

/* Goal: stories260K read from GGUF gives sampled and drawn tokens the log-probabilities that float64 PyTorch gives them. */
static void test_stories_logprobs(void)
{
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("stories260K is not here");
    int code;
    struct model *model = model_open(path, pool, &code);
    json_t *fixture = json_read("tests/parity/stories.json");
    EXPECT(model != NULL && fixture != NULL);
    if (model == NULL || fixture == NULL)
        return;
    json_t *tokens = json_object_get(fixture, "tokens"), *expected = json_object_get(fixture, "logprobs");
    size_t T = json_array_size(tokens), V = (size_t)model_config(model)->vocab_size;
    int32_t *ids = memory_alloc(T, sizeof *ids);
    float *hidden = memory_alloc(T * (size_t)model_config(model)->channel_count, sizeof *hidden);
    float *logits = memory_alloc(T * V, sizeof *logits);
    for (size_t t = 0; t < T; t++)
        ids[t] = (int32_t)json_integer_value(json_array_get(tokens, t));
    struct cache *cache = cache_open(model, T);
    model_extend(model, cache, sequence_open(cache), ids, T, hidden, NULL);
    model_logits(model, hidden, T, logits);
    for (size_t t = 0; t + 1 < T; t++)
        EXPECT_NEAR(logprob_from_logits(kernels_get(), logits + t * V, V, ids[t + 1]), json_real_value(json_array_get(expected, t)),
                    1e-4);
    EXPECT_INT(T, 400);
    cache_close(cache);
    free(logits);
    free(hidden);
    free(ids);
    json_decref(fixture);
    model_close(model);
}

/* Goal: the greedy continuation of the begin token is byte for byte what llama2.c prints in 256 positions. */
static void test_stories_greedy(void)
{
    const char *path = test_data("stories260K/stories260K.gguf"), *golden_path = test_data("stories260K/golden-greedy-n256.txt");
    if (path == NULL || golden_path == NULL)
        TEST_SKIP("stories260K is not here");
    enum { POSITIONS = 256, V = 512, C = 64 };
    int code;
    struct model *model = model_open(path, pool, &code);
    struct tokenizer *tokenizer = tokenizer_open(path, &code);
    EXPECT(model != NULL && tokenizer != NULL);
    if (model == NULL || tokenizer == NULL)
        return;
    struct cache *cache = cache_open(model, POSITIONS);
    int32_t sequence = sequence_open(cache), ids[1 + POSITIONS] = { tokenizer_begin(tokenizer) };
    float hidden[C], logits[V];
    for (size_t t = 0; t < POSITIONS; t++) {
        model_extend(model, cache, sequence, &ids[t], 1, NULL, hidden);
        model_logits(model, hidden, 1, logits);
        for (int32_t v = 1; v < V; v++)
            ids[t + 1] = logits[v] > logits[ids[t + 1]] ? v : ids[t + 1];
    }
    struct buffer text = { 0 };
    tokenizer_decode(tokenizer, ids, 1 + POSITIONS, 0, &text);
    buffer_append(&text, "\n", 2);  // llama2.c ends its output with a newline; NUL
    char *golden = file_read(golden_path, &(size_t){ 0 });
    EXPECT_TEXT(text.data, golden);
    free(golden);
    free(text.data);
    cache_close(cache);
    tokenizer_close(tokenizer);
    model_close(model);
}

int main(void)
{
    pool = pool_open(1);
    RUN(test_gqa_f32);
    RUN(test_tied_bf16);
    RUN(test_sharded_f16);
    RUN(test_stories_logprobs);
    RUN(test_stories_greedy);
    pool_close(pool);
    return tests_end();
}
