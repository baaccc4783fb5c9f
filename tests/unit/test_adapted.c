/*
 * test_adapted.c - models of one trunk with adapters beside its matrices: they are the merged models, rounded trunks keep adapters
 * exact, and a row's numbers are the same to the bit beside rows of any other adapter, with any number of threads.
 */
#include "../check.h"

#include <sysexits.h>

#include "base/digest.h"
#include "base/file.h"
#include "math/kernels.h"
#include "model/model.h"
#include "random_adapter.h"
#include "tiny_model.h"

enum { T = 24 };

static const enum weight_role all_roles[] = { WEIGHT_Q, WEIGHT_K, WEIGHT_V, WEIGHT_O, WEIGHT_GATE, WEIGHT_UP, WEIGHT_DOWN };
static const enum weight_role some_roles[] = { WEIGHT_K, WEIGHT_DOWN };

static void tokens_fill(int32_t tokens[T], const struct model_config *config)
{
    for (int32_t t = 0; t < T; t++)
        tokens[t] = t * 31 % (int32_t)config->vocab_size;
}

static void expect_same(const float *actual, const float *expected, size_t count, const char *what)
{
    if (memcmp(actual, expected, count * sizeof *actual) != 0)
        TEST_FAIL("%s: not the same bits", what);
}

static void directory_remove(const char *directory)
{
    char *remove = memory_printf("rm -r %s", directory);
    EXPECT_INT(system(remove), 0);
    free(remove);
}

/* Values of the states after each of T tokens.  Free. */
static float *values_of(const struct model *model)
{
    int32_t tokens[T];
    float *hidden = memory_alloc(T * (size_t)model_config(model)->channel_count, sizeof *hidden);
    float *values = memory_alloc(T, sizeof *values);
    struct cache *cache = cache_open(model, T);
    tokens_fill(tokens, model_config(model));
    model_extend(model, cache, sequence_open(cache), tokens, T, hidden, NULL);
    model_values(model, hidden, T, values);
    cache_close(cache);
    free(hidden);
    return values;
}

static double far_apart(const float *a, const float *b)
{
    double most = 0;
    for (size_t t = 0; t < T; t++)
        most = fmax(most, fabs((double)a[t] - (double)b[t]));
    return most;
}

/* Both adapters of a base beside the weights of trunk, and merged into the float32 base that their directories name. */
static void expect_as_merged(const char *base, const struct model_config *config, const struct model *trunk, struct pool *pool)
{
    /* Both sum the same K + R products, of about 1, in other orders and with other roundings: some 1e-6 a
       layer, in values of about 1. */
    const double rounding = 5e-5;
    int code;
    char directory[64];
    float *values[2];
    test_directory(directory, sizeof directory);
    for (size_t i = 0; i < 2; i++) {
        if (i == 0)
            random_adapter(directory, base, config, 3, all_roles, COUNT_OF(all_roles), 7);
        else
            random_adapter(directory, base, config, 5, some_roles, COUNT_OF(some_roles), 8);
        struct model *merged = model_open(directory, pool, &code), *adapted = model_open_adapter(directory, trunk, &code);
        EXPECT(merged != NULL && adapted != NULL && model_has_value_head(adapted));
        float *expected = values_of(merged);
        values[i] = values_of(adapted);
        EXPECT_FLOATS(values[i], expected, T, rounding);
        free(expected);
        model_close(adapted);
        model_close(merged);
    }
    EXPECT(far_apart(values[0], values[1]) > 0.1);
    free(values[0]);
    free(values[1]);
    directory_remove(directory);
}

/* Goal: for every family, fused modules among them, adapters beside the weights give the values of the merged models. */
static void test_as_merged(void)
{
    static const char *const bases[] = {
        "tests/parity/train/llama", "tests/parity/train/mistral", "tests/parity/train/qwen2", "tests/parity/train/qwen3",
        "tests/parity/train/gemma2", "tests/parity/train/phi3", "tests/parity/train/gpt2",
    };
    struct pool *pool = pool_open(1);
    for (size_t i = 0; i < COUNT_OF(bases); i++) {
        int code;
        struct model *trunk = model_open(bases[i], pool, &code);
        expect_as_merged(bases[i], model_config(trunk), trunk, pool);
        model_close(trunk);
    }
    pool_close(pool);
}

/* Panels are whole here, and blocks of rounded types. */
static const struct model_config blocks_config = {
    .family = FAMILY_LLAMA, .vocab_size = 61, .channel_count = 64, .layer_count = 2, .head_count = 4, .kv_head_count = 2,
    .head_size = 16, .ff_count = 128, .position_max = 400, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

static void round_rows(float *rows, size_t N, size_t K, enum tensor_type type)
{
    struct packed packed;
    packed_init(&packed, type, N, K);
    for (size_t n = 0; n < N; n += PANEL) {
        const float *of_panel[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && n + i < N; i++)
            of_panel[i] = rows + (n + i) * K;
        packed_quantise_panel(&packed, n / PANEL, of_panel);
    }
    for (size_t n = 0; n < N; n++)
        packed_get_row(&packed, n, rows + n * K);
    packed_free(&packed);
}

/* A directory with the numbers that a model has when it is opened rounded, as float32. */
static void write_rounded(const char *directory, const struct buffer *file, enum tensor_type quant)
{
    struct weights *weights = weights_from_memory(file->data, file->size, "tiny");
    struct tensor_out tensors[64];
    size_t count = weights_count(weights);
    CHECK(count <= COUNT_OF(tensors));
    for (size_t i = 0; i < count; i++) {
        const struct tensor *tensor = weights_at(weights, i);
        float *floats = memory_alloc(tensor_elements(tensor), sizeof *floats);
        tensor_read(tensor, 0, tensor_elements(tensor), floats);
        tensors[i] = (struct tensor_out){ .name = tensor->name, .rank = tensor->rank, .data = floats };
        memcpy(tensors[i].shape, tensor->shape, sizeof tensors[i].shape);
        bool of_layers = strstr(tensor->name, ".layers.") != NULL;
        if (tensor->rank == 2 && strncmp(tensor->name, "v_head", 6) != 0 && (of_layers || quant == TENSOR_BF16))
            round_rows(floats, (size_t)tensor->shape[0], (size_t)tensor->shape[1], quant);
    }
    struct buffer content = { 0 };
    safetensors_write(&content, tensors, count, NULL, 0);
    struct weights *rounded = weights_from_memory(content.data, content.size, "rounded");
    CHECK(model_export(rounded, &blocks_config, directory) == 0);
    weights_close(rounded);
    weights_close(weights);
    for (size_t i = 0; i < count; i++)
        free((void *)tensors[i].data);
    free(content.data);
}

/*
 * Goal: beside a rounded trunk the sum is W_q x + scale B A x: that of a float32 model with the rounded numbers and the product of
 * B and A added in plain C.  Kernels that round x too are another matter, so the portable ones compute.
 */
static void test_rounded_trunk(void)
{
    static const enum tensor_type quants[] = { TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4 };
    struct pool *pool = pool_open(1);
    struct buffer file = tiny_safetensors(&blocks_config, 3);
    setenv("VAS_KERNELS", "portable", 1);
    for (size_t i = 0; i < COUNT_OF(quants); i++) {
        char directory[64];
        test_directory(directory, sizeof directory);
        write_rounded(directory, &file, quants[i]);
        struct model *trunk = tiny_model_quantised(&blocks_config, 3, quants[i], pool);
        expect_as_merged(directory, &blocks_config, trunk, pool);
        model_close(trunk);
        directory_remove(directory);
    }
    unsetenv("VAS_KERNELS");
    free(file.data);
    pool_close(pool);
}

/* ---- rows of several adapters in one batch ---- */

/* Work for several threads in every matrix: blocks of rows, shared columns and shared heads all occur. */
static const struct model_config wide_config = {
    .family = FAMILY_LLAMA, .vocab_size = 500, .channel_count = 256, .layer_count = 2, .head_count = 8, .kv_head_count = 2,
    .head_size = 32, .ff_count = 704, .position_max = 400, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

enum { MODELS = 4, ROWS_MAX = 70 };

struct mixed {
    struct model *trunk, *adapters[2];
    const struct model *models[MODELS];  // a batch has rows of each: two adapters, the trunk, the first adapter again
};

static struct mixed mixed_open(const char *directory, enum tensor_type quant, struct pool *pool)
{
    int code;
    struct mixed mixed = { .trunk = tiny_model_quantised(&wide_config, 4, quant, pool) };
    for (size_t i = 0; i < 2; i++) {
        random_adapter(directory, directory, &wide_config, 2 + 6 * i, i == 0 ? some_roles : all_roles,
                       i == 0 ? COUNT_OF(some_roles) : COUNT_OF(all_roles), i);
        mixed.adapters[i] = model_open_adapter(directory, mixed.trunk, &code);
        CHECK(mixed.adapters[i] != NULL);
    }
    mixed.models[0] = mixed.models[3] = mixed.adapters[0];
    mixed.models[1] = mixed.adapters[1];
    mixed.models[2] = mixed.trunk;
    return mixed;
}

static void mixed_close(struct mixed *mixed)
{
    model_close(mixed->adapters[0]);
    model_close(mixed->adapters[1]);
    model_close(mixed->trunk);
}

/* Rows of one model behind a text: candidates, or a text of their own. */
static void rows_add(struct row *rows, size_t first, size_t count, int32_t sequence, bool chain)
{
    for (size_t m = 0; m < count; m++)
        rows[first + m] = (struct row){ sequence, (int32_t)(m * 3), chain && m > 0 ? (int32_t)(first + m - 1) : ROW_CACHED };
}

/* Hidden states of count rows of each of models[first] .. in one batch.  (models, count, C), the caller frees. */
static float *mixed_run(const struct mixed *mixed, size_t first, size_t models, size_t count, bool chain)
{
    static struct row rows[MODELS * ROWS_MAX];
    int32_t tokens[T];
    tokens_fill(tokens, &wide_config);
    struct cache *cache = cache_open(mixed->models[first], 2000);
    for (size_t i = 0; i < models; i++) {
        int32_t sequence = sequence_open_for(cache, mixed->models[first + i]), fork;
        model_extend(mixed->trunk, cache, sequence, tokens, T, NULL, NULL);
        fork = sequence_fork(cache, sequence);
        sequence_close(cache, sequence);
        rows_add(rows, i * count, count, fork, chain);
    }
    float *hidden = memory_alloc(models * count * (size_t)wide_config.channel_count, sizeof *hidden);
    model_forward(mixed->trunk, cache, rows, models * count, hidden);
    cache_close(cache);
    return hidden;
}

/* Goal: with 1 to 4 threads, rows of every adapter and of the bare trunk in one batch give the bits that
   they give alone, in forks too. */
static void test_batches_and_threads(void)
{
    static const enum tensor_type quants[] = { TENSOR_TYPE_COUNT, TENSOR_BF16, TENSOR_Q8_0 };
    static const size_t counts[] = { 1, 3, 10, ROWS_MAX };
    char directory[64];
    test_directory(directory, sizeof directory);
    size_t C = (size_t)wide_config.channel_count;
    for (size_t q = 0; q < COUNT_OF(quants); q++) {
        struct pool *single = pool_open(1);
        struct mixed alone = mixed_open(directory, quants[q], single);
        for (size_t threads = 1; threads <= 4; threads++) {
            struct pool *pool = pool_open(threads);
            struct mixed mixed = mixed_open(directory, quants[q], pool);
            for (size_t i = 0; i < 2 * COUNT_OF(counts); i++) {
                size_t count = counts[i / 2];
                float *together = mixed_run(&mixed, 0, MODELS, count, i % 2);
                for (size_t m = 0; m < MODELS; m++) {
                    float *expected = mixed_run(&alone, m, 1, count, i % 2);
                    expect_same(together + m * count * C, expected, count * C, "beside other adapters");
                    free(expected);
                }
                EXPECT(memcmp(together, together + count * C, C * sizeof *together) != 0);
                expect_same(together, together + 3 * count * C, count * C, "the same adapter");
                free(together);
            }
            mixed_close(&mixed);
            pool_close(pool);
        }
        mixed_close(&alone);
        pool_close(single);
    }
    directory_remove(directory);
}

/* ---- keys and heads ---- */

/* Goal: a key tells the trunk, its rounding and the adapter; without a value head of its own an adapter has the trunk's. */
static void test_keys_and_heads(void)
{
    char directory[64], key[KEY_SIZE];
    int code;
    struct pool *pool = pool_open(1);
    test_directory(directory, sizeof directory);
    struct mixed floats = mixed_open(directory, TENSOR_TYPE_COUNT, pool), again = mixed_open(directory, TENSOR_TYPE_COUNT, pool);
    struct mixed rounded = mixed_open(directory, TENSOR_Q8_0, pool);
    EXPECT_TEXT(model_key(floats.adapters[0]), model_key(again.adapters[0]));
    EXPECT(strcmp(model_key(floats.adapters[0]), model_key(floats.adapters[1])) != 0);
    EXPECT(strcmp(model_key(floats.adapters[0]), model_key(rounded.adapters[0])) != 0);
    EXPECT(model_shares_trunk(floats.adapters[0], floats.adapters[1]) && model_shares_trunk(floats.trunk, floats.adapters[0]));
    EXPECT(!model_shares_trunk(floats.adapters[0], again.adapters[0]));

    memcpy(key, model_key(floats.adapters[1]), sizeof key);
    char *head = memory_printf("%s/value_head.safetensors", directory);
    EXPECT_INT(remove(head), 0);
    struct model *headless = model_open_adapter(directory, floats.trunk, &code);
    float *hidden = random_floats((size_t)wide_config.channel_count, 1, 5, 0), value, trunk_value, own_value;
    model_values(headless, hidden, 1, &value);
    model_values(floats.trunk, hidden, 1, &trunk_value);
    model_values(floats.adapters[1], hidden, 1, &own_value);
    EXPECT(value == trunk_value && value != own_value && strcmp(model_key(headless), key) != 0);
    free(hidden);
    free(head);
    model_close(headless);
    mixed_close(&floats), mixed_close(&again), mixed_close(&rounded);
    directory_remove(directory);
    pool_close(pool);
}

int main(void)
{
    log_open("test_adapted", -1);
    RUN(test_as_merged);
    RUN(test_rounded_trunk);
    RUN(test_batches_and_threads);
    RUN(test_keys_and_heads);
    return tests_end();
}
