/*
 * test_families.c - the engine against transformers, for every family of decoders and every set of kernels.
 *
 * tests/parity/families/NAME/ are made by make_families.py, tests/parity/windows/NAME/ by make_windows.py: config.json and weights
 * as transformers saves them, tokens.json (B, T), hidden.f32 (B, T, C) after the final norm, and logits.f32 (B, T, V), or
 * scores.f32 (B, N) of a sequence classifier.
 */
#include "../check.h"

#include <dirent.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "math/kernels.h"
#include "model/model.h"

static struct pool *pool;

/* A model, what it is given, and what transformers makes of it. */
struct fixture {
    const char *directory;
    struct model *model;
    size_t B, T, C, V, N;
    int32_t *tokens;  // (B, T)
    float *hidden;    // (B, T, C) as first computed here
};

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

static void expect_close(const struct fixture *fixture, const float *actual, const char *file, size_t count)
{
    char *path = memory_printf("%s/%s", fixture->directory, file);
    size_t size;
    float *expected = (float *)(void *)file_read(path, &size);
    double worst = expected != NULL && size == count * sizeof *expected ? difference(actual, expected, count) : INFINITY;
    if (!(worst <= 1e-4))
        TEST_FAIL("%s with %s kernels differs by %g, limit 1e-4", path, kernels_get()->name, worst);
    free(expected);
    free(path);
}

static void expect_same(const struct fixture *fixture, const float *actual, size_t b, size_t t, const char *how)
{
    if (memcmp(actual, fixture->hidden + (b * fixture->T + t) * fixture->C, fixture->C * sizeof *actual) != 0)
        TEST_FAIL("%s with %s kernels: row %zu of text %zu %s has other bits", fixture->directory, kernels_get()->name, t, b, how);
}

static bool fixture_open(struct fixture *fixture, const char *directory)
{
    int code;
    char *path = memory_printf("%s/tokens.json", directory);
    json_t *tokens = json_read(path);
    free(path);
    *fixture = (struct fixture){ .directory = directory, .model = model_open(directory, pool, &code) };
    if (fixture->model == NULL || tokens == NULL) {
        TEST_FAIL("could not open %s", directory);
        json_decref(tokens);
        return false;
    }
    fixture->B = json_array_size(tokens);
    fixture->T = json_array_size(json_array_get(tokens, 0));
    fixture->C = (size_t)model_config(fixture->model)->channel_count;
    fixture->V = (size_t)model_config(fixture->model)->vocab_size;
    fixture->N = model_label_count(fixture->model);
    fixture->tokens = memory_alloc(fixture->B * fixture->T, sizeof *fixture->tokens);
    fixture->hidden = memory_alloc(fixture->B * fixture->T * fixture->C, sizeof *fixture->hidden);
    for (size_t i = 0; i < fixture->B * fixture->T; i++)
        fixture->tokens[i] = (int32_t)json_integer_value(json_array_get(json_array_get(tokens, i / fixture->T), i % fixture->T));
    json_decref(tokens);
    return true;
}

static void fixture_close(struct fixture *fixture)
{
    free(fixture->hidden);
    free(fixture->tokens);
    model_close(fixture->model);
}

/* All texts in one batch, a row of each in turn. */
static void run_prefill(struct fixture *fixture, struct cache *cache)
{
    size_t B = fixture->B, M = B * fixture->T, C = fixture->C;
    struct row *rows = memory_alloc(M, sizeof *rows);
    float *hidden = memory_alloc(M * C, sizeof *hidden);
    for (size_t m = 0; m < M; m++)
        rows[m] = (struct row){ m < B ? sequence_open(cache) : rows[m % B].sequence, fixture->tokens[m % B * fixture->T + m / B],
                                m < B ? ROW_CACHED : (int32_t)(m - B) };
    model_forward(fixture->model, cache, rows, M, hidden);
    for (size_t m = 0; m < M; m++)
        memcpy(fixture->hidden + (m % B * fixture->T + m / B) * C, hidden + m * C, C * sizeof *hidden);
    for (size_t b = 0; b < B; b++)
        sequence_close(cache, rows[b].sequence);
    free(hidden);
    free(rows);
}

static void run_token_by_token(const struct fixture *fixture, struct cache *cache)
{
    float *hidden = memory_alloc(fixture->C, sizeof *hidden);
    for (size_t b = 0; b < fixture->B; b++) {
        int32_t sequence = sequence_open(cache);
        for (size_t t = 0; t < fixture->T; t++) {
            model_extend(fixture->model, cache, sequence, fixture->tokens + b * fixture->T + t, 1, hidden, NULL);
            expect_same(fixture, hidden, b, t, "token by token");
        }
        sequence_close(cache, sequence);
    }
    free(hidden);
}

/* A third of the text is kept; the rest hangs on it as a tree: at every position another token first, then the text's own. */
static void run_tree(const struct fixture *fixture, struct cache *cache)
{
    size_t first = fixture->T / 3, count = fixture->T - first;
    struct row *rows = memory_alloc(2 * count, sizeof *rows);
    float *hidden = memory_alloc(2 * count * fixture->C, sizeof *hidden);
    for (size_t b = 0; b < fixture->B; b++) {
        const int32_t *tokens = fixture->tokens + b * fixture->T;
        int32_t sequence = sequence_open(cache);
        model_extend(fixture->model, cache, sequence, tokens, first, NULL, NULL);
        for (size_t i = 0; i < count; i++) {
            int32_t parent = i > 0 ? (int32_t)(2 * i - 1) : ROW_CACHED;
            rows[2 * i] = (struct row){ sequence, (tokens[first + i] + 1) % (int32_t)fixture->V, parent };
            rows[2 * i + 1] = (struct row){ sequence, tokens[first + i], parent };
        }
        model_forward(fixture->model, cache, rows, 2 * count, hidden);
        for (size_t i = 0; i < count; i++)
            expect_same(fixture, hidden + (2 * i + 1) * fixture->C, b, first + i, "in a tree");
        sequence_close(cache, sequence);
    }
    free(hidden);
    free(rows);
}

static void expect_heads(const struct fixture *fixture)
{
    size_t B = fixture->B, T = fixture->T;
    float *out = memory_alloc(B * T * (fixture->N > 0 ? fixture->N : fixture->V), sizeof *out);
    if (fixture->N > 0) {
        for (size_t b = 0; b < B; b++)
            model_scores(fixture->model, fixture->hidden + (b * T + T - 1) * fixture->C, 1, out + b * fixture->N);
        expect_close(fixture, out, "scores.f32", B * fixture->N);
    } else {
        model_logits(fixture->model, fixture->hidden, B * T, out);
        expect_close(fixture, out, "logits.f32", B * T * fixture->V);
    }
    free(out);
}

static void compare(const char *directory)
{
    static const char *const kernels[] = { "amx", "avx512", "avxvnni", "maddubs", "avx2", "portable" };
    for (size_t i = 0; i < COUNT_OF(kernels); i++) {
        struct fixture fixture;
        if (kernels_named(kernels[i]) == NULL)
            continue;
        setenv("VAS_KERNELS", kernels[i], 1);
        if (fixture_open(&fixture, directory)) {
            struct cache *cache = cache_open(fixture.model, (2 * fixture.B + 2) * (fixture.T + CACHE_PAGE_POSITIONS));
            run_prefill(&fixture, cache);
            expect_close(&fixture, fixture.hidden, "hidden.f32", fixture.B * fixture.T * fixture.C);
            expect_heads(&fixture);
            run_token_by_token(&fixture, cache);
            run_tree(&fixture, cache);
            cache_close(cache);
            fixture_close(&fixture);
        }
        unsetenv("VAS_KERNELS");
    }
}

/* Returns how many there were. */
static size_t compare_all(const char *root)
{
    struct dirent **entries;
    int count = scandir(root, &entries, NULL, alphasort);
    size_t compared = 0;
    for (int i = 0; i < count; i++) {
        char *directory = memory_printf("%s/%s", root, entries[i]->d_name), *tokens = memory_printf("%s/tokens.json", directory);
        if (file_exists(tokens)) {
            compare(directory);
            compared++;
        }
        free(tokens);
        free(directory);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return compared;
}

/*
 * Goal: hidden states, logits and scores of each family are transformers' within 1e-4 of the largest, with every set of kernels;
 * and the same to the bit for all texts in one batch, token by token, and as branches of a tree.
 */
static void test_every_family(void)
{
    EXPECT(compare_all("tests/parity/families") >= 2 * FAMILY_COUNT);
}

/* Goal: so they are where windows begin and end inside of pages, on their borders, and some pages away. */
static void test_windows(void)
{
    EXPECT_INT(compare_all("tests/parity/windows"), 3);
}

int main(void)
{
    log_open("test_families", -1);
    pool = pool_open(1);
    RUN(test_every_family);
    RUN(test_windows);
    pool_close(pool);
    return tests_end();
}
