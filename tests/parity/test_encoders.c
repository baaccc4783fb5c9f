/*
 * test_encoders.c - encoders and their heads against transformers.
 *
 * tests/parity/encoders/ is made by make_encoders.py.
 */
#include "../check.h"

#include "base/json.h"
#include "base/memory.h"
#include "model/encoder.h"
#include "model/encoder_config.h"
#include "text/tokenizer.h"

/* Texts of a fixture with what transformers computes from them, all texts in a row. */
struct fixture {
    struct encoder *encoder;
    struct encoder_text *texts;
    size_t count, M, C, N;
    float *hidden;  // (M, C)
    float *scores;  // (count, N)
};

static int32_t *ids_read(const json_t *list)
{
    if (!json_is_array(list))
        return NULL;
    int32_t *ids = memory_alloc(json_array_size(list), sizeof *ids);
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

static size_t floats_append(float **floats, size_t count, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        *floats = memory_grow(*floats, count + 1, sizeof **floats);
        (*floats)[count++] = (float)json_number_value(json_array_get(list, i));
    }
    return count;
}

static bool fixture_open(struct fixture *fixture, const char *name, enum tensor_type quant, struct pool *pool)
{
    *fixture = (struct fixture){ 0 };
    int code;
    char *directory = memory_printf("tests/parity/encoders/%s", name), *file = memory_printf("%s/expected.json", directory);
    fixture->encoder = encoder_open(directory, quant, false, pool, &code);
    json_t *expected = json_read(file);
    free(file);
    free(directory);
    if (fixture->encoder == NULL || expected == NULL) {
        TEST_FAIL("%s cannot be opened", name);
        return false;
    }
    fixture->C = encoder_channel_count(fixture->encoder);
    fixture->N = encoder_label_count(fixture->encoder);
    fixture->count = json_array_size(expected);
    fixture->texts = memory_alloc(fixture->count, sizeof *fixture->texts);
    size_t hidden = 0, scores = 0;
    for (size_t b = 0; b < fixture->count; b++) {
        json_t *text = json_array_get(expected, b), *tokens = json_object_get(text, "tokens");
        fixture->texts[b] = (struct encoder_text){ .tokens = ids_read(tokens), .types = ids_read(json_object_get(text, "types")),
                                                   .T = json_array_size(tokens) };
        fixture->M += fixture->texts[b].T;
        hidden = floats_append(&fixture->hidden, hidden, json_object_get(text, "hidden"));
        scores = floats_append(&fixture->scores, scores, json_object_get(text, "scores"));
    }
    EXPECT_INT(hidden, fixture->M * fixture->C);
    EXPECT_INT(scores, fixture->count * fixture->N);
    json_decref(expected);
    return !test_case_failed;
}

static void fixture_close(struct fixture *fixture)
{
    for (size_t b = 0; b < fixture->count; b++) {
        free((void *)fixture->texts[b].tokens);
        free((void *)fixture->texts[b].types);
    }
    free(fixture->texts);
    free(fixture->hidden);
    free(fixture->scores);
    encoder_close(fixture->encoder);
}

/* The largest |actual - expected| over the largest |expected|; NaN counts as infinite. */
static double difference(const float *actual, const float *expected, size_t count)
{
    double worst = 0.0, scale = 0.0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)actual[i] - (double)expected[i]);
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        scale = fmax(scale, fabs((double)expected[i]));
    }
    return scale > 0.0 ? worst / scale : worst;
}

static void compare(const char *name, enum tensor_type quant, double tolerance)
{
    struct pool *pool = pool_open(2);
    struct fixture fixture;
    if (fixture_open(&fixture, name, quant, pool)) {
        float *hidden = memory_alloc(fixture.M * fixture.C, sizeof *hidden);
        float *scores = memory_alloc(fixture.count * fixture.N + 1, sizeof *scores);
        encoder_run(fixture.encoder, fixture.texts, fixture.count, hidden);
        double worst = difference(hidden, fixture.hidden, fixture.M * fixture.C);
        if (!(worst <= tolerance))
            TEST_FAIL("%s: hidden differ by %g with %s kernels", name, worst, getenv("VAS_KERNELS"));
        if (fixture.N > 0)
            encoder_scores(fixture.encoder, fixture.texts, fixture.count, scores);
        worst = difference(scores, fixture.scores, fixture.count * fixture.N);
        if (!(worst <= tolerance))
            TEST_FAIL("%s: scores differ by %g with %s kernels", name, worst, getenv("VAS_KERNELS"));
        free(hidden);
        free(scores);
    }
    fixture_close(&fixture);
    pool_close(pool);
}

static const char *const kernel_names[] = { "amx", "avx512", "avxvnni", "maddubs", "avx2", "portable" };

/* Every model through every build of the kernels that this processor runs. */
static void compare_all(const char *const *names, size_t count)
{
    for (size_t k = 0; k < sizeof kernel_names / sizeof *kernel_names; k++) {
        setenv("VAS_KERNELS", kernel_names[k], 1);
        for (size_t i = 0; i < count; i++)
            compare(names[i], TENSOR_TYPE_COUNT, 1e-4);
    }
    unsetenv("VAS_KERNELS");
}
#define COMPARE_ALL(...) \
    compare_all((const char *const[]){ __VA_ARGS__ }, sizeof (const char *const[]){ __VA_ARGS__ } / sizeof(char *))

/* Goal: BERT with and without a head, sizes that fill no panel, types, activations, 16-bit weights and the old names of norms. */
static void test_bert(void)
{
    COMPARE_ALL("bert_odd", "bert_bare", "bert_old");
}

/* Goal: DistilBERT, its own keys and names, with the number of labels left to transformers' default. */
static void test_distilbert(void)
{
    COMPARE_ALL("distilbert_two", "distilbert_relu", "distilbert_bare");
}

/* Goal: RoBERTa, whose positions begin behind the padding token's id, and which counts no padding inside a text. */
static void test_roberta(void)
{
    COMPARE_ALL("roberta_one", "roberta_padding", "roberta_bare", "xlm_roberta");
}

/* Goal: ELECTRA, with narrower embeddings that are normed before they are projected, and without. */
static void test_electra(void)
{
    COMPARE_ALL("electra_projected", "electra_one");
}

/* Goal: DeBERTa-v3 and v2: one term or both, shared matrices or own, buckets or none, convolution, absolute positions. */
static void test_deberta(void)
{
    COMPARE_ALL("deberta_v3", "deberta_conv", "deberta_own", "deberta_c2p", "deberta_p2c", "deberta_absolute");
}

/* Goal: every distance falls into transformers' bucket, on the borders of buckets and beyond the last one too. */
static void test_buckets(void)
{
    json_t *cases = json_read("tests/parity/encoders/buckets.json");
    EXPECT_INT(json_array_size(cases), 4);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *item = json_array_get(cases, i), *bucket = json_object_get(item, "bucket");
        struct encoder_config config = { .buckets = json_integer_value(json_object_get(item, "position_buckets")),
                                         .relative_max = json_integer_value(json_object_get(item, "max_relative_positions")) };
        config.span = config.buckets;
        for (size_t distance = 0; distance < json_array_size(bucket); distance++) {
            int64_t expected = config.span + json_integer_value(json_array_get(bucket, distance)), last = 2 * config.span - 1;
            int64_t mirrored = 2 * config.span - expected;
            EXPECT_INT(encoder_relative_index(&config, (int64_t)distance), expected < last ? expected : last);
            EXPECT_INT(encoder_relative_index(&config, -(int64_t)distance), mirrored > 0 ? mirrored : 0);
        }
    }
    json_decref(cases);
}

/*
 * Goal: a text's numbers have the same bits alone, with one thread or three, and among so many others that the batch is cut.
 * Each fixture has another shape of arithmetic.
 */
static void test_bits_do_not_depend_on_batch_or_threads(void)
{
    enum { COPIES = 160 };
    static const char *const names[] = { "bert_odd", "roberta_padding", "electra_projected",
                                         "deberta_v3", "deberta_conv", "deberta_own" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (size_t threads = 1; threads <= 3; threads += 2) {
            struct pool *pool = pool_open(threads);
            struct fixture fixture;
            if (!fixture_open(&fixture, names[i], TENSOR_TYPE_COUNT, pool))
                return;
            size_t count = COPIES * fixture.count, C = fixture.C, N = fixture.N;
            struct encoder_text *texts = memory_alloc(count, sizeof *texts);
            for (size_t b = 0; b < count; b++)
                texts[b] = fixture.texts[(b * 7 + b / 11) % fixture.count];  // in no order
            size_t M = 0;
            for (size_t b = 0; b < count; b++)
                M += texts[b].T;
            EXPECT(M > 2048);
            float *hidden = memory_alloc(M * C, sizeof *hidden), *scores = memory_alloc(count * N, sizeof *scores);
            float *alone = memory_alloc(64 * C, sizeof *alone), *score = memory_alloc(N, sizeof *score);
            encoder_run(fixture.encoder, texts, count, hidden);
            encoder_scores(fixture.encoder, texts, count, scores);
            for (size_t b = 0, m = 0; b < count; m += texts[b].T, b++) {
                encoder_run(fixture.encoder, &texts[b], 1, alone);
                encoder_scores(fixture.encoder, &texts[b], 1, score);
                EXPECT(memcmp(alone, hidden + m * C, texts[b].T * C * sizeof *alone) == 0);
                EXPECT(memcmp(score, scores + b * N, N * sizeof *score) == 0);
            }
            free(score);
            free(alone);
            free(scores);
            free(hidden);
            free(texts);
            fixture_close(&fixture);
            pool_close(pool);
        }
    }
}

/* Goal: matrices rounded on load still give nearly the same numbers, by as much as their bits allow. */
static void test_quantised(void)
{
    static const char *const names[] = { "bert_odd", "distilbert_two", "roberta_one", "deberta_v3", "deberta_conv" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        compare(names[i], TENSOR_Q8_0, 0.05);
        compare(names[i], TENSOR_NF4, 0.9);
        compare(names[i], TENSOR_Q4_0, 0.9);
    }
}

/* Mean of the rows, of length 1. */
static void embed_sentence(float *embedding, const float *hidden, size_t T, size_t C)
{
    double square = 0.0;
    for (size_t c = 0; c < C; c++) {
        double sum = 0.0;
        for (size_t t = 0; t < T; t++)
            sum += (double)hidden[t * C + c];
        embedding[c] = (float)(sum / (double)T);
        square += (double)embedding[c] * (double)embedding[c];
    }
    for (size_t c = 0; c < C; c++)
        embedding[c] /= (float)sqrt(square);
}

/* Goal: the real all-MiniLM-L6-v2 gives sentences the tokens and embeddings of sentence-transformers (see make_minilm.py). */
static void test_minilm(void)
{
    const char *directory = getenv("VAS_MINILM");
    if (directory == NULL)
        TEST_SKIP("VAS_MINILM does not say where all-MiniLM-L6-v2 is");
    int code;
    struct pool *pool = pool_open(2);
    struct encoder *encoder = encoder_open(directory, TENSOR_TYPE_COUNT, false, pool, &code);
    struct tokenizer *tokenizer = tokenizer_open(directory, &code);
    json_t *sentences = json_read("tests/parity/minilm.json");
    EXPECT(encoder != NULL && tokenizer != NULL && sentences != NULL);
    for (size_t i = 0; !test_case_failed && i < json_array_size(sentences); i++) {
        json_t *item = json_array_get(sentences, i), *tokens = json_object_get(item, "tokens");
        const char *text = json_string_value(json_object_get(item, "text"));
        struct token_list ids = { 0 };
        tokenizer_encode(tokenizer, text, strlen(text), ENCODE_SPECIAL, &ids);
        int32_t *expected_ids = ids_read(tokens);
        EXPECT_INT(ids.count, json_array_size(tokens));
        EXPECT(ids.count == json_array_size(tokens) && memcmp(ids.at, expected_ids, ids.count * sizeof *ids.at) == 0);
        size_t C = encoder_channel_count(encoder), T = json_array_size(tokens);
        float *hidden = memory_alloc(T * C, sizeof *hidden), *embedding = memory_alloc(C, sizeof *embedding), *expected = NULL;
        EXPECT_INT(floats_append(&expected, 0, json_object_get(item, "embedding")), C);
        encoder_run(encoder, &(struct encoder_text){ expected_ids, NULL, T }, 1, hidden);
        embed_sentence(embedding, hidden, T, C);
        EXPECT_NEAR(difference(embedding, expected, C), 0.0, 1e-4);
        free(expected);
        free(embedding);
        free(hidden);
        free(expected_ids);
        free(ids.at);
    }
    json_decref(sentences);
    tokenizer_close(tokenizer);
    encoder_close(encoder);
    pool_close(pool);
}

int main(void)
{
    RUN(test_bert);
    RUN(test_distilbert);
    RUN(test_roberta);
    RUN(test_electra);
    RUN(test_deberta);
    RUN(test_buckets);
    RUN(test_bits_do_not_depend_on_batch_or_threads);
    RUN(test_quantised);
    RUN(test_minilm);
    return tests_end();
}
