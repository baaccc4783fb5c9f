/*
 * test_model.c - a row's numbers are the same to the bit in any chunk, batch, slot, and with any number of threads.
 */
#include "../check.h"

#include <sysexits.h>

#include "math/kernels.h"
#include "model/model.h"
#include "tiny_model.h"

enum { T = 70 };

/* tiny_config crosses no task border with few rows; this one has work for several threads in every matrix. */
static const struct model_config wide_config = {
    .family = FAMILY_LLAMA, .vocab_size = 500, .channel_count = 256, .layer_count = 2, .head_count = 8, .kv_head_count = 2,
    .head_size = 32, .ff_count = 700, .position_max = 400, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

/* What other families have: windows in every other layer, norms of heads and of outputs, biases, scales and caps. */
static const struct model_config windowed_config = {
    .family = FAMILY_LLAMA, .vocab_size = 61, .channel_count = 40, .layer_count = 2, .head_count = 4, .kv_head_count = 2,
    .head_size = 10, .ff_count = 52, .position_max = 400, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
    .activation = ACTIVATION_GELU_TANH, .qkv_bias = true, .o_bias = true, .ff_bias = true, .qk_norm = true, .post_norms = true,
    .embedding_scale = 1.7, .attention_scale = 0.4, .attention_cap = 3, .logit_cap = 5, .window = 19, .window_period = 2,
};

/* GPT-2's: positions in a table, LayerNorm, a feed-forward without gate. */
static const struct model_config learned_config = {
    .family = FAMILY_LLAMA, .vocab_size = 61, .channel_count = 40, .layer_count = 2, .head_count = 4, .kv_head_count = 4,
    .head_size = 10, .ff_count = 52, .position_max = 400, .norm_epsilon = 1e-5, .tied_embeddings = true, .learned_positions = true,
    .norm = NORM_LAYER, .activation = ACTIVATION_GELU, .plain_ff = true, .qkv_bias = true, .o_bias = true, .ff_bias = true,
};

static const struct model_config *const every_config[] = { &tiny_config, &windowed_config, &learned_config };

static int32_t tokens[T];

static void begin(void)
{
    for (int32_t t = 0; t < T; t++)
        tokens[t] = t * 31 % 61;
}

static size_t channels(const struct model *model)
{
    return (size_t)model_config(model)->channel_count;
}

/* Hidden states of all tokens from one model_extend.  (T, C), the caller frees. */
static float *hidden_of_all(const struct model *model)
{
    float *hidden = memory_alloc(T * channels(model), sizeof *hidden);
    struct cache *cache = cache_open(model, T);
    model_extend(model, cache, sequence_open(cache), tokens, T, hidden, NULL);
    cache_close(cache);
    return hidden;
}

static void expect_same(const float *actual, const float *expected, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&actual[i], &expected[i], sizeof *actual) != 0) {
            TEST_FAIL("%s: element %zu of %zu is %.9g, expected the bits of %.9g", what, i, count, (double)actual[i],
                      (double)expected[i]);
            return;
        }
    }
}

static void expect_chunks_agree(const struct model *model)
{
    static const size_t chunks[] = { 1, 3, 16, 17, 64 };
    size_t C = channels(model);
    float *whole = hidden_of_all(model), *hidden = memory_alloc(T * C, sizeof *hidden), *last = memory_alloc(C, sizeof *last);
    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        struct cache *cache = cache_open(model, T);
        int32_t s = sequence_open(cache);
        for (size_t t = 0, count; t < T; t += count) {
            count = T - t < chunks[i] ? T - t : chunks[i];
            model_extend(model, cache, s, tokens + t, count, hidden + t * C, last);
        }
        expect_same(hidden, whole, T * C, "chunks");
        expect_same(last, whole + (T - 1) * C, C, "last");
        cache_close(cache);
    }
    free(last);
    free(hidden);
    free(whole);
}

/* Goal: text in chunks of 1, 3, 16, 17, 64 or all at once gives the same hidden states, with every set of kernels. */
static void test_chunks_of_any_size(void)
{
    static const char *const names[] = { "portable", "avx2", "avx512", "amx" };
    struct pool *pool = pool_open(1);
    begin();
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (kernels_named(names[i]) == NULL)
            continue;
        setenv("VAS_KERNELS", names[i], 1);
        struct model *wide = tiny_model(&wide_config, 1, pool);
        expect_chunks_agree(wide);
        model_close(wide);
        for (size_t k = 0; k < COUNT_OF(every_config); k++) {
            struct model *model = tiny_model(every_config[k], 1, pool);
            expect_chunks_agree(model);
            model_close(model);
        }
    }
    unsetenv("VAS_KERNELS");
    pool_close(pool);
}

/* Goal: the same holds with keys and values in F16, which change the key and the numbers a little. */
static void test_chunks_with_f16_keys_and_values(void)
{
    struct pool *pool = pool_open(1);
    begin();
    for (size_t k = 0; k < COUNT_OF(every_config); k++) {
        struct model *plain = tiny_model(every_config[k], 1, pool), *half = tiny_model(every_config[k], 1, pool);
        size_t count = T * channels(plain);
        model_set_kv_type(half, TENSOR_F16);
        EXPECT(strcmp(model_key(plain), model_key(half)) != 0);
        expect_chunks_agree(half);
        float *expected = hidden_of_all(plain), *actual = hidden_of_all(half);
        EXPECT_FLOATS(actual, expected, count, 0.05);
        EXPECT(memcmp(actual, expected, count * sizeof *actual) != 0);
        free(actual);
        free(expected);
        model_close(half);
        model_close(plain);
    }
    pool_close(pool);
}

/* Goal: more text than one chunk of model_extend goes on where the chunk before it ended. */
static void test_extend_over_its_own_chunks(void)
{
    enum { LONG = 300 };
    struct pool *pool = pool_open(1);
    struct model *model = tiny_model(&tiny_config, 1, pool);
    size_t C = channels(model);
    int32_t text[LONG];
    for (int32_t t = 0; t < LONG; t++)
        text[t] = t * t % 61;
    float *whole = memory_alloc(LONG * C, sizeof *whole), *last = memory_alloc(C, sizeof *last);
    float *step = memory_alloc(C, sizeof *step);
    struct cache *cache = cache_open(model, 3 * (LONG + CACHE_PAGE_POSITIONS));
    model_extend(model, cache, sequence_open(cache), text, LONG, whole, NULL);
    int32_t silent = sequence_open(cache), single = sequence_open(cache);
    model_extend(model, cache, silent, text, LONG, NULL, last);
    EXPECT_INT(sequence_length(cache, silent), LONG);
    expect_same(last, whole + (LONG - 1) * C, C, "last");
    for (size_t t = 0; t < LONG; t++) {
        model_extend(model, cache, single, text + t, 1, step, NULL);
        expect_same(step, whole + t * C, C, "one by one");
    }
    cache_close(cache);
    free(step);
    free(last);
    free(whole);
    model_close(model);
    pool_close(pool);
}

static void expect_candidates_equal_plain_text(const struct model_config *config)
{
    struct pool *pool = pool_open(1);
    struct model *model = tiny_model(config, 2, pool);
    enum { CANDIDATES = 35, PREFIX = 37 };
    begin();
    size_t C = channels(model);
    struct cache *cache = cache_open(model, 1000);
    int32_t s = sequence_open(cache);
    model_extend(model, cache, s, tokens, PREFIX, NULL, NULL);
    struct row rows[2 * CANDIDATES];  // each candidate and one row that follows it
    for (int32_t k = 0; k < CANDIDATES; k++) {
        rows[k] = (struct row){ s, k, ROW_CACHED };
        rows[CANDIDATES + k] = (struct row){ s, 60 - k, k };
    }
    float *hidden = memory_alloc(2 * CANDIDATES * C, sizeof *hidden), *plain = memory_alloc(2 * C, sizeof *plain);
    model_forward(model, cache, rows, 2 * CANDIDATES, hidden);
    for (int32_t k = 0; k < CANDIDATES; k++) {
        struct cache *fresh = cache_open(model, T);
        int32_t witness = sequence_open(fresh);
        model_extend(model, fresh, witness, tokens, PREFIX, NULL, NULL);
        model_extend(model, fresh, witness, (int32_t[]){ k, 60 - k }, 2, plain, NULL);
        expect_same(hidden + (size_t)k * C, plain, C, "candidate");
        expect_same(hidden + (size_t)(CANDIDATES + k) * C, plain + C, C, "row after a candidate");
        cache_close(fresh);
    }
    free(plain);
    free(hidden);
    cache_close(cache);
    model_close(model);
    pool_close(pool);
}

/* Goal: a candidate in a scratch slot, and what follows it inside the batch, equals the same text run plainly. */
static void test_candidates_equal_plain_text(void)
{
    for (size_t k = 0; k < COUNT_OF(every_config); k++)
        expect_candidates_equal_plain_text(every_config[k]);
}

static void expect_long_scratch_branch(const struct model_config *config)
{
    struct pool *pool = pool_open(1);
    struct model *model = tiny_model(config, 2, pool);
    begin();
    size_t C = channels(model);
    float *whole = hidden_of_all(model), *hidden = memory_alloc(2 * T * C, sizeof *hidden);
    struct cache *cache = cache_open(model, 1000);
    int32_t s = sequence_open(cache);
    struct row rows[2 * T];
    for (int32_t t = 0; t < T; t++) {
        rows[t] = (struct row){ s, 60 - tokens[t], t - 1 };
        rows[T + t] = (struct row){ s, tokens[t], t > 0 ? T + t - 1 : ROW_CACHED };
    }
    model_forward(model, cache, rows, 2 * T, hidden);
    expect_same(hidden + T * C, whole, T * C, "branch");
    row_keep(cache, 2 * T - 1);
    EXPECT_INT(sequence_length(cache, s), T);
    cache_close(cache);
    free(hidden);
    free(whole);
    model_close(model);
    pool_close(pool);
}

/* Goal: a long branch that lies wholly in scratch slots, across several pages, equals the plain text. */
static void test_long_scratch_branch(void)
{
    for (size_t k = 0; k < COUNT_OF(every_config); k++)
        expect_long_scratch_branch(every_config[k]);
}

static void expect_batch_composition(const struct model_config *config)
{
    struct pool *pool = pool_open(1);
    struct model *model = tiny_model(config, 3, pool);
    enum { SEQUENCES = 9 };
    begin();
    size_t C = channels(model), M = 0;
    float *whole = hidden_of_all(model), *hidden = memory_alloc(100 * C, sizeof *hidden);
    struct cache *cache = cache_open(model, 2000);
    struct row rows[100];
    size_t position[100];
    for (size_t i = 0; i < SEQUENCES; i++) {
        int32_t s = sequence_open(cache);
        size_t length = 7 * i;
        model_extend(model, cache, s, tokens, length, NULL, NULL);
        if (i % 2)
            rows[M] = (struct row){ s, 1, ROW_CACHED }, position[M++] = SIZE_MAX;  // takes the natural slot
        for (size_t n = 0; n <= i; n++, M++) {
            rows[M] = (struct row){ s, tokens[length + n], n > 0 ? (int32_t)M - 1 : ROW_CACHED };
            position[M] = length + n;
        }
    }
    model_forward(model, cache, rows, M, hidden);
    for (size_t m = 0; m < M; m++) {
        if (position[m] != SIZE_MAX)
            expect_same(hidden + m * C, whole + position[m] * C, C, "row of a batch");
    }
    cache_close(cache);
    free(hidden);
    free(whole);
    model_close(model);
    pool_close(pool);
}

/* Goal: sequences of different lengths, run in one batch with prefill and candidates between them, answer as they do alone. */
static void test_batch_composition(void)
{
    for (size_t k = 0; k < COUNT_OF(every_config); k++)
        expect_batch_composition(every_config[k]);
}

/* The hidden state of the last of count tokens.  (C), the caller frees. */
static float *hidden_of_last(const struct model *model, const int32_t *text, size_t count)
{
    float *last = memory_alloc(channels(model), sizeof *last);
    struct cache *cache = cache_open(model, count);
    model_extend(model, cache, sequence_open(cache), text, count, NULL, last);
    cache_close(cache);
    return last;
}

/*
 * Goal: in one layer with a window of w, a row's numbers are those of the w tokens that end with it (rotary positions are
 * relative); the token before them changes no bit and the first of them does, wherever the borders of pages lie.
 */
static void test_window_borders(void)
{
    static const int64_t windows[] = { 1, 2, 15, 16, 17, 32, 33, 69, 70, 71 };
    struct pool *pool = pool_open(1);
    begin();
    for (size_t i = 0; i < COUNT_OF(windows); i++) {
        struct model_config config = tiny_config;
        config.layer_count = 1;
        struct model *full = tiny_model(&config, 11, pool);
        config.window = windows[i];
        struct model *windowed = tiny_model(&config, 11, pool);
        size_t C = channels(full), w = (size_t)windows[i];
        float *whole = hidden_of_all(windowed);
        for (size_t t = 0; t < T; t++) {
            size_t seen = t + 1 < w ? t + 1 : w;
            float *alone = hidden_of_last(full, tokens + t + 1 - seen, seen);
            EXPECT_FLOATS(whole + t * C, alone, C, 1e-5);
            free(alone);
            if (t < w)
                continue;
            int32_t changed[T];
            memcpy(changed, tokens, sizeof changed);
            changed[t - w] = (changed[t - w] + 1) % 61;
            float *same = hidden_of_last(windowed, changed, t + 1);
            expect_same(same, whole + t * C, C, "a token before the window");
            changed[t - w + 1] = (changed[t - w + 1] + 1) % 61;
            float *other = hidden_of_last(windowed, changed, t + 1);
            EXPECT(memcmp(other, same, C * sizeof *same) != 0);
            free(other);
            free(same);
        }
        free(whole);
        model_close(windowed);
        model_close(full);
    }
    pool_close(pool);
}

/* Goal: rows of a tree that branch at every length, with a window that ends inside the cache, inside the batch, or leaves the cache
   behind, equal the plain text. */
static void test_window_in_trees(void)
{
    static const int64_t windows[] = { 1, 3, 16, 20, 40 };
    enum { PREFIX = 30, BRANCH = 25 };
    struct pool *pool = pool_open(2);
    begin();
    for (size_t i = 0; i < COUNT_OF(windows); i++) {
        struct model_config config = windowed_config;
        config.window = windows[i];
        config.window_period = 1;
        struct model *model = tiny_model(&config, 12, pool);
        size_t C = channels(model);
        float *whole = hidden_of_all(model), *hidden = memory_alloc(2 * BRANCH * C, sizeof *hidden);
        struct cache *cache = cache_open(model, 1000);
        int32_t s = sequence_open(cache);
        model_extend(model, cache, s, tokens, PREFIX, NULL, NULL);
        struct row rows[2 * BRANCH];  // two branches with the same text, the second in scratch slots, their rows taking turns
        for (int32_t t = 0; t < BRANCH; t++)
            for (int32_t b = 0; b < 2; b++)
                rows[2 * t + b] = (struct row){ s, tokens[PREFIX + t], t > 0 ? 2 * (t - 1) + b : ROW_CACHED };
        model_forward(model, cache, rows, 2 * BRANCH, hidden);
        for (size_t m = 0; m < 2 * BRANCH; m++)
            expect_same(hidden + m * C, whole + (PREFIX + m / 2) * C, C, "row of a tree");
        row_keep(cache, 2 * BRANCH - 1);
        model_extend(model, cache, s, tokens + PREFIX + BRANCH, T - PREFIX - BRANCH, hidden, NULL);
        expect_same(hidden, whole + (PREFIX + BRANCH) * C, (T - PREFIX - BRANCH) * C, "after a kept branch");
        cache_close(cache);
        free(hidden);
        free(whole);
        model_close(model);
    }
    pool_close(pool);
}

/*
 * Goal: rows of sequences with a common prefix, which read its pages together, have the bits that each has in a cache of its own;
 * some differ from the first token on, some within a page, and each has candidates beside the natural row.
 */
static void test_common_prefix(void)
{
    enum { SEQUENCES = 6, CANDIDATES = 3, PREFIX = 37 };
    static const struct model_config *const configs[] = { &tiny_config, &windowed_config, &learned_config, &wide_config };
    static const size_t forks[SEQUENCES] = { 0, 16, 37, 33, 37, 5 };  // positions in common with the first
    begin();
    struct pool *pool = pool_open(2);
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct model *model = tiny_model(configs[i], 5, pool);
        size_t C = channels(model), rows_count = 0;
        struct cache *cache = cache_open(model, 2000);
        struct row rows[SEQUENCES * CANDIDATES];
        int32_t sequences[SEQUENCES], text[SEQUENCES][T];
        size_t lengths[SEQUENCES];
        for (size_t s = 0; s < SEQUENCES; s++) {
            sequences[s] = s == 0 ? sequence_open(cache) : -1;
            lengths[s] = PREFIX + 5 * s;
            for (size_t t = 0; t < lengths[s]; t++)
                text[s][t] = s == 0 || t < forks[s] ? tokens[t] : (tokens[t] + (int32_t)s) % 61;
        }
        for (size_t t = 0; t < PREFIX; t++) {
            for (size_t s = 1; s < SEQUENCES; s++)
                if (forks[s] == t)
                    sequences[s] = sequence_fork(cache, sequences[0]);
            model_extend(model, cache, sequences[0], &tokens[t], 1, NULL, NULL);
        }
        for (size_t s = 0; s < SEQUENCES; s++) {
            if (sequences[s] < 0)
                sequences[s] = sequence_fork(cache, sequences[0]);
            size_t length = sequence_length(cache, sequences[s]);
            model_extend(model, cache, sequences[s], text[s] + length, lengths[s] - length, NULL, NULL);
            for (int32_t c = 0; c < CANDIDATES; c++)
                rows[rows_count++] = (struct row){ sequences[s], 7 + c, ROW_CACHED };
        }
        float *together = memory_alloc(rows_count * C, sizeof *together), *alone = memory_alloc(rows_count * C, sizeof *alone);
        model_forward(model, cache, rows, rows_count, together);
        for (size_t m = 0; m < rows_count; m++) {
            struct cache *own = cache_open(model, T + 1);
            struct row row = { sequence_open(own), rows[m].token, ROW_CACHED };
            model_extend(model, own, row.sequence, text[m / CANDIDATES], lengths[m / CANDIDATES], NULL, NULL);
            model_forward(model, own, &row, 1, alone + m * C);
            cache_close(own);
        }
        expect_same(together, alone, rows_count * C, "common prefix");
        free(alone);
        free(together);
        cache_close(cache);
        model_close(model);
    }
    pool_close(pool);
}

/* Hidden states (ROWS, C) and logits (ROWS, V) of batches of several sizes, one behind the other. */
enum { BATCHES = 5, ROWS = 250 };

struct batches {
    float *hidden, *logits;
};

/* Candidates of one sequence, which stand in for all rows that do not attend to each other, and the rows of one text. */
static struct batches batches_run(const struct model *model)
{
    static const size_t counts[BATCHES] = { 1, 7, 20, 40, ROWS };
    size_t C = channels(model), V = (size_t)model_config(model)->vocab_size;
    struct batches batches = { memory_alloc(2 * BATCHES * ROWS * C, sizeof(float)),
                               memory_alloc(2 * BATCHES * ROWS * V, sizeof(float)) };
    struct cache *cache = cache_open(model, 2000);
    int32_t s = sequence_open(cache);
    model_extend(model, cache, s, tokens, T, NULL, NULL);
    for (size_t i = 0; i < 2 * BATCHES; i++) {
        struct row rows[ROWS];
        size_t M = counts[i / 2];
        for (size_t m = 0; m < M; m++)
            rows[m] = (struct row){ s, (int32_t)m, i % 2 == 0 || m == 0 ? ROW_CACHED : (int32_t)m - 1 };
        model_forward(model, cache, rows, M, batches.hidden + i * ROWS * C);
        model_logits(model, batches.hidden + i * ROWS * C, M, batches.logits + i * ROWS * V);
    }
    cache_close(cache);
    return batches;
}

/* Goal: 1, 2, 3 and 4 threads give the same bits for one row, few rows and many, and for logits,
   in float32 and rounded; again and again. */
static void test_any_number_of_threads(void)
{
    enum { TIMES = 4 };
    static const enum tensor_type quants[] = { TENSOR_TYPE_COUNT, TENSOR_BF16, TENSOR_Q8_0 };
    begin();
    struct model_config config = wide_config;
    config.post_norms = config.qkv_bias = config.ff_bias = true;
    config.activation = ACTIVATION_GELU;
    config.logit_cap = 4;
    for (size_t q = 0; q < COUNT_OF(quants); q++) {
        struct batches expected = { NULL, NULL };
        for (size_t threads = 1; threads <= 4; threads++) {
            struct pool *pool = pool_open(threads);
            struct model *model = tiny_model_quantised(&config, 4, quants[q], pool);
            size_t C = channels(model), V = (size_t)model_config(model)->vocab_size;
            for (size_t time = 0; time < (threads == 1 ? 1 : TIMES); time++) {
                struct batches batches = batches_run(model);
                if (expected.hidden == NULL) {
                    expected = batches;
                    continue;
                }
                expect_same(batches.hidden, expected.hidden, 2 * BATCHES * ROWS * C, "hidden");
                expect_same(batches.logits, expected.logits, 2 * BATCHES * ROWS * V, "logits");
                free(batches.hidden);
                free(batches.logits);
            }
            model_close(model);
            pool_close(pool);
        }
        free(expected.hidden);
        free(expected.logits);
    }
}

/* Goal: the largest batch that is allowed runs, and equal tokens in it give equal rows. */
static void test_largest_batch(void)
{
    struct pool *pool = pool_open(2);
    struct model *model = tiny_model(&tiny_config, 4, pool);
    size_t C = channels(model);
    float *hidden = memory_alloc(MODEL_ROWS_MAX * C, sizeof *hidden);
    struct row *rows = memory_alloc(MODEL_ROWS_MAX, sizeof *rows);
    struct cache *cache = cache_open(model, MODEL_ROWS_MAX + CACHE_PAGE_POSITIONS);
    int32_t s = sequence_open(cache);
    for (int32_t m = 0; m < MODEL_ROWS_MAX; m++)
        rows[m] = (struct row){ s, m % 61, ROW_CACHED };
    EXPECT_INT(cache_pages_needed(cache, rows, MODEL_ROWS_MAX), MODEL_ROWS_MAX / CACHE_PAGE_POSITIONS + 1);
    model_forward(model, cache, rows, MODEL_ROWS_MAX, hidden);
    for (size_t m = 61; m < MODEL_ROWS_MAX; m++)
        expect_same(hidden + m * C, hidden + m % 61 * C, C, "equal tokens");
    cache_close(cache);
    free(rows);
    free(hidden);
    model_close(model);
    pool_close(pool);
}

/* Goal: AVX-512 and AVX2 give the same hidden states to the bit. */
static void test_vector_sets_agree(void)
{
    if (kernels_named("avx512") == NULL)
        TEST_SKIP("this processor lacks AVX-512");
    begin();
    struct pool *pool = pool_open(1);
    setenv("VAS_KERNELS", "avx512", 1);
    struct model *wide = tiny_model(&wide_config, 5, pool);
    setenv("VAS_KERNELS", "avx2", 1);
    struct model *narrow = tiny_model(&wide_config, 5, pool);
    unsetenv("VAS_KERNELS");
    float *expected = hidden_of_all(wide), *actual = hidden_of_all(narrow);
    expect_same(actual, expected, T * channels(wide), "avx2");
    free(actual);
    free(expected);
    model_close(narrow);
    model_close(wide);
    pool_close(pool);
}

/* Goal: portable kernels, which may not fuse products and sums, stay within rounding of the best. */
static void test_portable_is_close(void)
{
    begin();
    struct pool *pool = pool_open(1);
    struct model *best = tiny_model(&tiny_config, 6, pool);
    setenv("VAS_KERNELS", "portable", 1);
    struct model *portable = tiny_model(&tiny_config, 6, pool);
    unsetenv("VAS_KERNELS");
    float *expected = hidden_of_all(best), *actual = hidden_of_all(portable);
    for (size_t i = 0; i < T * channels(best); i++)
        EXPECT_NEAR(actual[i], expected[i], 2e-4);
    free(actual);
    free(expected);
    model_close(portable);
    model_close(best);
    pool_close(pool);
}

/* Goal: logits and values are the products with head and value head, logits of tied models with the embedding; a row's are the
   same alone. */
static void test_heads(void)
{
    struct model_config configs[] = { tiny_config, tiny_config };
    configs[1].tied_embeddings = true;
    struct pool *pool = pool_open(1);
    begin();
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct model *model = tiny_model(&configs[i], 7, pool);
        struct buffer file = tiny_safetensors(&configs[i], 7);
        struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
        size_t C = channels(model), V = (size_t)configs[i].vocab_size;
        float *hidden = hidden_of_all(model), *logits = memory_alloc(T * V, sizeof *logits);
        float *values = memory_alloc(T, sizeof *values);
        float *head = memory_alloc(V * C, sizeof *head), *value_head = memory_alloc(C, sizeof *value_head), bias, alone[61];
        const struct tensor *tensor = weights_find(weights, i ? "model.embed_tokens.weight" : "lm_head.weight");
        tensor_read(tensor, 0, V * C, head);
        tensor_read(weights_find(weights, "v_head.summary.weight"), 0, C, value_head);
        tensor_read(weights_find(weights, "v_head.summary.bias"), 0, 1, &bias);
        EXPECT(model_has_value_head(model));
        model_logits(model, hidden, T, logits);
        model_values(model, hidden, T, values);
        for (size_t t = 0; t < T; t++) {
            double value = (double)bias;
            for (size_t c = 0; c < C; c++)
                value += (double)hidden[t * C + c] * (double)value_head[c];
            EXPECT_NEAR(values[t], value, 1e-4);
            for (size_t v = 0; v < V; v++) {
                double logit = 0.0;
                for (size_t c = 0; c < C; c++)
                    logit += (double)hidden[t * C + c] * (double)head[v * C + c];
                EXPECT_NEAR(logits[t * V + v], logit, 1e-4);
            }
            model_logits(model, hidden + t * C, 1, alone);
            expect_same(alone, logits + t * V, V, "logits alone");
        }
        free(value_head);
        free(head);
        free(values);
        free(logits);
        free(hidden);
        weights_close(weights);
        free(file.data);
        model_close(model);
    }
    pool_close(pool);
}

/* Goal: scores are the products with the score head, a row's the same alone; capped logits are cap tanh(logit / cap). */
static void test_scores_and_caps(void)
{
    struct pool *pool = pool_open(1);
    begin();
    struct model_config config = tiny_config;
    config.label_count = 3;
    struct model *model = tiny_model(&config, 13, pool);
    struct buffer file = tiny_safetensors(&config, 13);
    struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
    size_t C = channels(model), V = (size_t)config.vocab_size;
    float *hidden = hidden_of_all(model), head[3 * 40], scores[3 * T], alone[3];
    tensor_read(weights_find(weights, "score.weight"), 0, 3 * C, head);
    EXPECT_INT(model_label_count(model), 3);
    model_scores(model, hidden, T, scores);
    for (size_t t = 0; t < T; t++) {
        for (size_t n = 0; n < 3; n++) {
            double score = 0.0;
            for (size_t c = 0; c < C; c++)
                score += (double)hidden[t * C + c] * (double)head[n * C + c];
            EXPECT_NEAR(scores[3 * t + n], score, 1e-4);
        }
        model_scores(model, hidden + t * C, 1, alone);
        expect_same(alone, scores + 3 * t, 3, "scores alone");
    }
    weights_close(weights);
    free(file.data);
    model_close(model);

    config = tiny_config;
    struct model *plain = tiny_model(&config, 14, pool);
    config.logit_cap = 2.5;
    struct model *capped = tiny_model(&config, 14, pool);
    float *logits = memory_alloc(2 * V, sizeof *logits);
    EXPECT_INT(model_label_count(plain), 0);
    model_logits(plain, hidden, 1, logits);
    model_logits(capped, hidden, 1, logits + V);
    for (size_t v = 0; v < V; v++)
        EXPECT_NEAR(logits[V + v], 2.5 * tanh((double)logits[v] / 2.5), 1e-5);
    free(logits);
    free(hidden);
    model_close(capped);
    model_close(plain);
    pool_close(pool);
}

/* Goal: the key tells models apart and is the same for the same numbers; what is no model is refused with its exit code. */
static void test_open(void)
{
    struct pool *pool = pool_open(1);
    struct model *a = tiny_model(&tiny_config, 8, pool), *b = tiny_model(&tiny_config, 8, pool);
    struct model *c = tiny_model(&tiny_config, 9, pool);
    EXPECT_TEXT(model_key(b), model_key(a));
    EXPECT(strcmp(model_key(c), model_key(a)) != 0);
    model_close(c);
    model_close(b);
    model_close(a);

    log_open("test_model", -1);
    if (freopen("/dev/null", "w", stderr) == NULL)
        TEST_FAIL("cannot silence stderr");
    int code = 0;
    EXPECT(model_open("tests/unit/no-such-model", pool, &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    struct buffer file = tiny_safetensors(&tiny_config, 8);
    struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
    struct model_config other = tiny_config;
    other.ff_count++;
    EXPECT(model_from_weights(weights, &other, "tiny", pool, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
    weights_close(weights);
    free(file.data);
    pool_close(pool);
}

int main(void)
{
    unsetenv("VAS_KERNELS");
    RUN(test_chunks_of_any_size);
    RUN(test_chunks_with_f16_keys_and_values);
    RUN(test_extend_over_its_own_chunks);
    RUN(test_candidates_equal_plain_text);
    RUN(test_long_scratch_branch);
    RUN(test_batch_composition);
    RUN(test_window_borders);
    RUN(test_window_in_trees);
    RUN(test_common_prefix);
    RUN(test_any_number_of_threads);
    RUN(test_largest_batch);
    RUN(test_vector_sets_agree);
    RUN(test_portable_is_close);
    RUN(test_heads);
    RUN(test_scores_and_caps);
    RUN(test_open);
    return tests_end();
}
