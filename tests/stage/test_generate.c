/*
 * The generator against the plain way of doing the same: whatever the batch, the order and the threads, and token by token
 * against fresh passes over the whole text.  On a small random model; the last tests on stories260K where it is.
 */
#include <sysexits.h>

#include "base/digest.h"
#include "sample/generate.h"
#include "../check.h"
#include "../unit/random_adapter.h"
#include "../unit/tiny_model.h"

enum { VOCAB = 300, PROMPTS = 12, SAMPLES = 3, JOBS = PROMPTS * SAMPLES, LENGTH = 20 };

struct fixture {
    struct pool *pool;
    struct tokenizer *tokenizer;
    struct model *base, *value, *other, *constant;
    struct model *trunk, *adapted[2];  // value models of one trunk
};

/* Two adapters of different ranks and matrices. */
static void adapters_open(struct fixture *fixture, const struct model_config *config)
{
    static const enum weight_role roles[] = { WEIGHT_DOWN, WEIGHT_Q, WEIGHT_V };
    char directory[64];
    int code;
    test_directory(directory, sizeof directory);
    fixture->trunk = tiny_model(config, 5, fixture->pool);
    for (size_t i = 0; i < 2; i++) {
        random_adapter(directory, directory, config, 2 + 3 * i, roles + i, 2, i);
        fixture->adapted[i] = model_open_adapter(directory, fixture->trunk, &code);
        CHECK(fixture->adapted[i] != NULL);
    }
    char *remove = memory_printf("rm -r %s", directory);
    EXPECT_INT(system(remove), 0);
    free(remove);
}

/* The weights with another value head: random, or a constant whatever the state. */
static struct model *with_head(const struct weights *weights, const struct model_config *config, uint64_t seed, bool constant,
                               struct pool *pool)
{
    struct tensor_out tensors[128];
    char names[COUNT_OF(tensors)][WEIGHT_NAME_SIZE];
    size_t count = 0, C = (size_t)config->channel_count;
    for (enum weight_role role = 0; role < WEIGHT_VALUE; role++) {
        for (int64_t l = 0; l < (weight_specs[role].per_layer ? config->layer_count : 1); l++) {
            struct tensor tensor;
            if (!weights_role(weights, config, role, l, &tensor))
                continue;
            CHECK(count < COUNT_OF(tensors) - 2);
            weight_name(role, l, names[count]);
            struct tensor_out *out = &tensors[count];
            *out = (struct tensor_out){ .name = names[count++], .rank = tensor.rank };
            memcpy(out->shape, tensor.shape, sizeof out->shape);
            float *data = memory_alloc(tensor_elements(&tensor), sizeof *data);
            tensor_read_canonical(&tensor, (size_t)config->head_size, data);
            out->data = data;
        }
    }
    float *head = memory_alloc(C, sizeof *head), *bias = memory_alloc(1, sizeof *bias);
    for (size_t c = 0; c < C && !constant; c++)
        head[c] = (float)(philox_normal(seed, PHILOX_INIT, 0, 0, (uint32_t)c) / sqrt((double)C));
    bias[0] = 0.3f;
    tensors[count++] = (struct tensor_out){ "v_head.summary.weight", 2, { 1, (int64_t)C }, head };
    tensors[count++] = (struct tensor_out){ "v_head.summary.bias", 1, { 1 }, bias };
    struct buffer file = { 0 };
    safetensors_write(&file, tensors, count, NULL, 0);
    for (size_t i = 0; i < count; i++)
        free((void *)tensors[i].data);

    struct weights *written = weights_from_memory(file.data, file.size, "value");
    CHECK(written != NULL);
    int code;
    struct model *model = model_from_weights(written, config, "value", pool, &code);
    CHECK(model != NULL);
    weights_close(written);
    free(file.data);
    return model;
}

static struct fixture fixture_open(size_t threads)
{
    static const char text[] = "One day, Mia the fox ran to the park.\n\nTom had a red ball and a big dog.\n\n";
    struct fixture fixture = { .pool = pool_open(threads), .tokenizer = tokenizer_train(text, sizeof text - 1, VOCAB) };
    struct model_config config = tiny_config, small = tiny_config;
    config.vocab_size = small.vocab_size = (int64_t)tokenizer_vocab_size(fixture.tokenizer);
    config.position_max = small.position_max = 100;
    small.layer_count = 1;
    fixture.base = tiny_model(&config, 1, fixture.pool);
    fixture.value = tiny_model(&small, 2, fixture.pool);
    fixture.other = tiny_model(&config, 3, fixture.pool);
    struct buffer file = tiny_safetensors(&config, 4);
    struct weights *weights = weights_from_memory(file.data, file.size, "constant");
    fixture.constant = with_head(weights, &config, 0, true, fixture.pool);
    weights_close(weights);
    free(file.data);
    adapters_open(&fixture, &config);
    return fixture;
}

static void fixture_close(struct fixture *fixture)
{
    model_close(fixture->base);
    model_close(fixture->value);
    model_close(fixture->other);
    model_close(fixture->constant);
    model_close(fixture->adapted[0]);
    model_close(fixture->adapted[1]);
    model_close(fixture->trunk);
    tokenizer_close(fixture->tokenizer);
    pool_close(fixture->pool);
}

static struct value_model value_of(const struct fixture *fixture, const struct model *model, double beta)
{
    return (struct value_model){ .name = "value", .model = model, .tokenizer_key = tokenizer_key(fixture->tokenizer),
                                 .beta = beta };
}

static struct generate_options options_of(const struct fixture *fixture, const struct value_model *values, size_t count)
{
    return (struct generate_options){
        .base_name = "base", .base = fixture->base, .tokenizer = fixture->tokenizer, .values = values, .value_count = count,
        .candidates = 5, .batch = 8, .max_new_tokens = LENGTH, .pool = fixture->pool,
    };
}

/* ---- running jobs ---- */

struct outcome {
    int32_t tokens[LENGTH];
    float logprobs[LENGTH];
    size_t count;
    bool stopped, failed;
    double kl;
    char text[512];
};

/* Prompts of 1 .. 45 tokens, some the beginning of others. */
static size_t prompt_of(size_t p, int32_t tokens[64])
{
    size_t count = 1 + p * 4;
    for (size_t t = 0; t < count; t++)
        tokens[t] = (int32_t)(1 + (7 * t + t * t + (p % 3 ? 0 : p)) % 250);
    return count;
}

static void add_job(struct generator *generator, size_t j, double temperature, const double *betas)
{
    int32_t tokens[64];
    size_t count = prompt_of(j / SAMPLES, tokens);
    char key[KEY_SIZE], number[24];
    snprintf(number, sizeof number, "%zu", j / SAMPLES);
    key_from_texts(key, number, NULL);
    generator_add(generator, &(struct generate_job){
        .prompt_tokens = tokens, .prompt_count = count, .prompt_key = key, .sample = (uint32_t)(j % SAMPLES), .seed = 7,
        .max_new_tokens = 1 + (j * 5) % LENGTH, .sampling = { .temperature = temperature, .top_p = 1 }, .betas = betas,
        .tag = (void *)j,
    });
}

static void take_all(struct generator *generator, struct outcome *outcomes, size_t order[], size_t *taken)
{
    struct response response;
    while (generator_next(generator, &response)) {
        size_t j = (size_t)response.tag;
        struct outcome *outcome = &outcomes[j];
        order[(*taken)++] = j;
        outcome->failed = response.failure != NULL;
        outcome->count = response.count;
        outcome->stopped = response.stopped;
        outcome->kl = response.kl;
        if (response.count > 0) {
            memcpy(outcome->tokens, response.tokens, response.count * sizeof *response.tokens);
            memcpy(outcome->logprobs, response.logprobs, response.count * sizeof *response.logprobs);
        }
        snprintf(outcome->text, sizeof outcome->text, "%s", response.text);
    }
}

static struct generate_stats last_stats;  // of run_jobs

/* All jobs, added a few at a time between steps; backwards: the last first.  order: (JOBS) in which they came out. */
static void run_jobs(const struct generate_options *options, double temperature, bool backwards, struct outcome *outcomes,
                     size_t order[JOBS])
{
    int code;
    struct generator *generator = generator_open(options, &code);
    CHECK(generator != NULL);
    memset(outcomes, 0, JOBS * sizeof *outcomes);
    size_t added = 0, taken = 0;
    while (added < JOBS || generator_held(generator) > 0) {
        for (size_t i = 0; i < 5 && added < JOBS; i++, added++)
            add_job(generator, backwards ? JOBS - 1 - added : added, temperature, NULL);
        generator_step(generator);
        take_all(generator, outcomes, order, &taken);
    }
    EXPECT_INT(taken, JOBS);
    EXPECT(!generator_step(generator));
    last_stats = generator_stats(generator);
    generator_close(generator);
}

static struct outcome first_outcomes[JOBS], second_outcomes[JOBS];
static size_t first_order[JOBS], second_order[JOBS];

static void expect_same(const char *what)
{
    for (size_t j = 0; j < JOBS; j++)
        if (memcmp(&first_outcomes[j], &second_outcomes[j], sizeof first_outcomes[j]) != 0)
            TEST_FAIL("%s changes response %zu", what, j);
}

static void check_batch_order_threads(bool one_trunk, size_t guide_every, double skip_share, double beta)
{
    static const struct { size_t batch, threads; bool backwards; } cases[] = {
        { 1, 1, false }, { 7, 2, false }, { 32, 1, true }, { 32, 3, false }, { 2, 2, true }, { 1, 2, false }, { 1, 4, true },
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct fixture fixture = fixture_open(cases[i].threads);
        struct value_model values[] = { value_of(&fixture, one_trunk ? fixture.adapted[0] : fixture.value, beta),
                                        value_of(&fixture, one_trunk ? fixture.adapted[1] : fixture.other, -0.5 * beta) };
        struct generate_options options = options_of(&fixture, values, 2);
        options.batch = cases[i].batch;
        options.guide_every = guide_every;
        options.skip_share = skip_share;
        struct outcome *outcomes = i == 0 ? first_outcomes : second_outcomes;
        options.always_ahead = i > 0;
        run_jobs(&options, 1, cases[i].backwards, outcomes, second_order);
        if (i > 0)
            expect_same("batch, order, threads or going ahead");
        EXPECT(i > 0 || last_stats.ahead == 0);
        if (i > 0 && cases[i].batch == 1 && guide_every == 1 && skip_share == 0)
            EXPECT(last_stats.ahead > 0);
        fixture_close(&fixture);
    }
    for (size_t j = 0; j < JOBS; j++)
        EXPECT(!first_outcomes[j].failed && first_outcomes[j].count >= 1 && first_outcomes[j].kl > 0);
}

/* Goal: the same bytes whatever the batch, the order of the jobs and the threads, with two value models, of their own weights or of
   one trunk. */
static void test_batch_order_threads(void)
{
    check_batch_order_threads(false, 1, 0, 0.8);
    check_batch_order_threads(true, 1, 0, 0.8);
}

/* Goal: so it is where some tokens are left to the base policy, by their place or since it is sure of them, and where only some
   candidates are valued. */
static void test_left_to_base(void)
{
    for (int one_trunk = 0; one_trunk < 2; one_trunk++) {
        check_batch_order_threads(one_trunk, 3, 0, 0.8);
        check_batch_order_threads(one_trunk, 1, 0.9, 0.01);
        check_batch_order_threads(one_trunk, 2, 0.9, 0.01);
    }
}

/* Goal: in order, responses come out as the jobs went in, however long each takes. */
static void test_in_order(void)
{
    struct fixture fixture = fixture_open(1);
    struct generate_options options = options_of(&fixture, NULL, 0);
    run_jobs(&options, 1, false, first_outcomes, first_order);
    options.in_order = true;
    run_jobs(&options, 1, false, second_outcomes, second_order);
    expect_same("order");
    bool was_sorted = true;
    for (size_t j = 0; j < JOBS; j++) {
        was_sorted = was_sorted && first_order[j] == j;
        EXPECT_INT(second_order[j], j);
    }
    EXPECT(!was_sorted);
    fixture_close(&fixture);
}

/* Goal: beta 0 gives the base policy's bytes, and the value model is not even looked at. */
static void test_beta_zero(void)
{
    struct fixture fixture = fixture_open(1);
    struct generate_options options = options_of(&fixture, NULL, 0);
    run_jobs(&options, 0.9, false, first_outcomes, first_order);
    struct value_model values[] = { { .name = "absent", .tokenizer_key = "none" } };
    options = options_of(&fixture, values, 1);
    run_jobs(&options, 0.9, false, second_outcomes, second_order);
    expect_same("a value model with beta 0");
    for (size_t j = 0; j < JOBS; j++)
        EXPECT_NEAR(first_outcomes[j].kl, 0, 0);
    fixture_close(&fixture);
}

/* Goal: a constant value model changes nothing, and its KL is exactly 0. */
static void test_constant_value(void)
{
    struct fixture fixture = fixture_open(1);
    struct generate_options options = options_of(&fixture, NULL, 0);
    run_jobs(&options, 1, false, first_outcomes, first_order);
    struct value_model values[] = { value_of(&fixture, fixture.constant, 50) };
    options = options_of(&fixture, values, 1);
    run_jobs(&options, 1, false, second_outcomes, second_order);
    expect_same("a constant value model");
    fixture_close(&fixture);
}

/* Goal: value models with betas b and 0 are the first alone; with b and another they are not. */
static void test_second_beta_zero(void)
{
    struct fixture fixture = fixture_open(1);
    struct value_model values[] = { value_of(&fixture, fixture.value, 1.5), value_of(&fixture, fixture.other, 0) };
    struct generate_options options = options_of(&fixture, values, 1);
    run_jobs(&options, 1, false, first_outcomes, first_order);
    options.value_count = 2;
    run_jobs(&options, 1, false, second_outcomes, second_order);
    expect_same("a second value model with beta 0");
    values[1].beta = 1.5;
    run_jobs(&options, 1, false, second_outcomes, second_order);
    EXPECT(memcmp(first_outcomes, second_outcomes, sizeof first_outcomes) != 0);
    fixture_close(&fixture);
}

/* Goal: jobs with betas of their own, in one batch with others, are what generators with these betas give. */
static void test_own_betas(void)
{
    enum { KINDS = 3 };
    static const double own[KINDS][2] = { { 1.5, -0.7 }, { 0, 0 }, { -2, 0 } };
    static struct outcome expected[KINDS][JOBS];
    for (size_t guide_every = 1; guide_every <= 2; guide_every++) {
        struct fixture fixture = fixture_open(2);
        struct value_model values[] = { value_of(&fixture, fixture.value, 0), value_of(&fixture, fixture.other, 0) };
        struct generate_options options = options_of(&fixture, values, 2);
        options.guide_every = guide_every;
        for (size_t kind = 0; kind < KINDS; kind++) {
            values[0].beta = own[kind][0];
            values[1].beta = own[kind][1];
            run_jobs(&options, 1, false, expected[kind], first_order);
        }
        for (size_t kind = 1; kind < KINDS; kind++)
            EXPECT(memcmp(expected[kind - 1], expected[kind], sizeof expected[kind]) != 0);

        values[0].beta = own[0][0];
        values[1].beta = own[0][1];
        int code;
        struct generator *generator = generator_open(&options, &code);
        CHECK(generator != NULL);
        memset(second_outcomes, 0, sizeof second_outcomes);
        for (size_t j = 0; j < JOBS; j++) {
            memcpy(&first_outcomes[j], &expected[j % KINDS][j], sizeof first_outcomes[j]);
            add_job(generator, j, 1, j % KINDS == 0 ? NULL : own[j % KINDS]);
        }
        size_t taken = 0;
        while (generator_step(generator))
            take_all(generator, second_outcomes, second_order, &taken);
        EXPECT_INT(taken, JOBS);
        expect_same("the company of jobs with other betas");
        generator_close(generator);
        fixture_close(&fixture);
    }
}

/* ---- against fresh passes over the whole text ---- */

struct witness {
    const struct fixture *fixture;
    const struct value_model *values;
    struct cache *base_cache, *value_caches[2];
    int32_t tokens[JOBS][64 + LENGTH];
    size_t prompt_count[JOBS], outside, checked, guide_every, steered, skipped, partly;
    float low[JOBS][2], high[JOBS][2];
    double skip_share;
    bool was_outside[JOBS];
    double logprob[JOBS];
};

static float fresh_value(const struct model *model, struct cache *cache, const int32_t *tokens, size_t T)
{
    float hidden[64], value;
    int32_t sequence = sequence_open(cache);
    model_extend(model, cache, sequence, tokens, T, NULL, hidden);
    sequence_close(cache, sequence);
    model_values(model, hidden, 1, &value);
    return value;
}

/* Logits of the base after these tokens, as a fresh pass gives them. */
static void fresh_logits(const struct witness *witness, const int32_t *tokens, size_t T, float *logits)
{
    float hidden[64];
    int32_t sequence = sequence_open(witness->base_cache);
    model_extend(witness->fixture->base, witness->base_cache, sequence, tokens, T, NULL, hidden);
    sequence_close(witness->base_cache, sequence);
    model_logits(witness->fixture->base, hidden, 1, logits);
}

/* A token is left to the base policy where it stands for that, or where the base policy is sure; else the needed are valued. */
static void check_steered(struct witness *witness, const struct token_event *event, const float *logits, size_t V)
{
    enum { K = 3 };
    size_t j = (size_t)event->tag, needed = K;
    bool in_turn = event->position % witness->guide_every == 0;
    double spread = event->position == 0 ? INFINITY : 0;
    int32_t candidates[K];
    top_candidates(kernels_get(), candidates, logits, V, K);
    for (size_t i = 0; i < 2 && event->position > 0; i++)
        spread += fabs(witness->values[i].beta * ((double)witness->high[j][i] - witness->low[j][i]));
    if (witness->skip_share > 0)
        needed = augment_needed(kernels_get(), logits, candidates, V, K, spread, 1, witness->skip_share);
    bool sure = needed == 1;
    EXPECT_INT(event->I, in_turn && !sure ? 2 : 0);
    EXPECT_INT(event->K, in_turn && !sure ? needed : 0);
    if (event->I == 0)
        EXPECT_NEAR(event->kl, 0, 0);
    witness->steered += event->I > 0;
    witness->partly += event->I > 0 && event->K < K;
    witness->skipped += in_turn && sure;
    for (size_t i = 0; i < event->I; i++) {
        for (size_t k = 0; k < event->K; k++) {
            float value = event->values[i * event->K + k];
            bool first = event->position == 0 && k == 0;
            witness->low[j][i] = first || value < witness->low[j][i] ? value : witness->low[j][i];
            witness->high[j][i] = first || value > witness->high[j][i] ? value : witness->high[j][i];
        }
    }
}

static void witness_token(void *context, const struct token_event *event)
{
    struct witness *witness = context;
    size_t j = (size_t)event->tag, T;
    int32_t *tokens = witness->tokens[j];
    if (event->position == 0)
        witness->prompt_count[j] = prompt_of(j / SAMPLES, tokens);
    T = witness->prompt_count[j] + event->position;

    float logits[VOCAB];
    size_t V = tokenizer_vocab_size(witness->fixture->tokenizer);
    fresh_logits(witness, tokens, T, logits);
    check_steered(witness, event, logits, V);
    for (size_t k = 0; k < event->K; k++)
        if (event->base_logits[k] != logits[event->candidates[k]])
            TEST_FAIL("base logit of job %zu position %zu candidate %zu is %.9g, a fresh pass gives %.9g", j, event->position, k,
                      event->base_logits[k], logits[event->candidates[k]]);
    for (size_t i = 0; i < event->I; i++) {
        for (size_t k = 0; k < event->K; k++) {
            tokens[T] = event->candidates[k];
            float fresh = fresh_value(witness->values[i].model, witness->value_caches[i], tokens, T + 1);
            if (event->values[i * event->K + k] != fresh)
                TEST_FAIL("value %zu of job %zu position %zu candidate %zu is %.9g, a fresh pass gives %.9g", i, j,
                          event->position, k, event->values[i * event->K + k], fresh);
        }
    }
    if (event->I > 0) {
        double betas[] = { witness->values[0].beta, witness->values[1].beta };
        double kl = augment_logits(kernels_get(), logits, event->candidates, event->values, betas, V, event->K, event->I, 1);
        EXPECT_NEAR(event->kl, kl, 0);
    }
    EXPECT_NEAR(event->logprob, logprob_from_logits(kernels_get(), logits, V, event->token), 1e-9);
    witness->checked += witness->was_outside[j];  // a step whose first row is the token before
    witness->was_outside[j] = true;
    for (size_t k = 0; k < event->K; k++)
        witness->was_outside[j] = witness->was_outside[j] && event->candidates[k] != event->token;
    witness->outside += witness->was_outside[j];
    tokens[T] = event->token;
}

static struct witness check_against_fresh_passes(bool one_trunk, size_t guide_every, double skip_share, double beta)
{
    struct fixture fixture = fixture_open(2);
    const struct model *first = one_trunk ? fixture.adapted[0] : fixture.value;
    const struct model *second = one_trunk ? fixture.adapted[1] : fixture.other;
    struct value_model values[] = { value_of(&fixture, first, beta), value_of(&fixture, second, 0.5 * beta) };
    static struct witness witness;
    witness = (struct witness){ .fixture = &fixture, .values = values, .guide_every = guide_every, .skip_share = skip_share,
                                .base_cache = cache_open(fixture.base, 112),
                                .value_caches = { cache_open(first, 112), cache_open(second, 112) } };
    struct generate_options options = options_of(&fixture, values, 2);
    options.watch = witness_token;
    options.watch_context = &witness;
    options.candidates = 3;  // few, so that other tokens are sampled too
    options.guide_every = guide_every;
    options.skip_share = skip_share;
    run_jobs(&options, 1, false, first_outcomes, first_order);
    cache_close(witness.base_cache);
    cache_close(witness.value_caches[0]);
    cache_close(witness.value_caches[1]);
    fixture_close(&fixture);
    return witness;
}

/*
 * Goal: the logits, values, divergence and log-probability of every token are those of fresh passes, to the bit, also behind
 * tokens that were no candidates.
 */
static void test_against_fresh_passes(void)
{
    for (int one_trunk = 0; one_trunk < 2; one_trunk++) {
        struct witness witness = check_against_fresh_passes(one_trunk, 1, 0, 1);
        EXPECT(witness.outside > 20 && witness.checked > 20 && witness.skipped == 0);
    }
}

/* Goal: so they are where tokens before were left to the base policy, or only some candidates valued, which happens where it should
   and nowhere else. */
static void test_left_to_base_against_fresh_passes(void)
{
    struct witness every = check_against_fresh_passes(false, 4, 0, 1), of_trunk = check_against_fresh_passes(true, 4, 0, 1);
    EXPECT(of_trunk.steered > 20 && of_trunk.skipped == 0);
    EXPECT(every.steered > 20 && every.skipped == 0 && every.partly == 0);
    struct witness sure = check_against_fresh_passes(false, 1, 0.9, 0.01), both = check_against_fresh_passes(true, 3, 0.9, 0.01);
    EXPECT(sure.steered > 20 && sure.skipped > 20);
    EXPECT(both.steered > 20 && both.skipped > 20);
    EXPECT(sure.partly > 20 && both.partly > 5);
}

/* Goal: of a prompt that begins like a kept one, the pages that they have alike are not run again; the response has the same bytes
   as without. */
static void test_prompts_alike(void)
{
    enum { LIKE = 37, LONG = 45, ALIKE = 4 };
    struct fixture fixture = fixture_open(1);
    struct value_model values[] = { value_of(&fixture, fixture.value, 1), value_of(&fixture, fixture.adapted[0], -1) };
    struct generate_options options = options_of(&fixture, values, 2);
    int32_t sampled[2][ALIKE][LENGTH] = { 0 };
    for (int apart = 0; apart < 2; apart++) {
        options.batch = apart ? 1 : ALIKE;  // prompts of which one is kept at a time have nothing to share
        int code;
        struct generator *generator = generator_open(&options, &code);
        for (size_t p = 0; p < ALIKE; p++) {
            int32_t tokens[LONG];
            for (size_t t = 0; t < LONG; t++)
                tokens[t] = (int32_t)(1 + (3 * t + (t < LIKE ? 0 : p)) % 250);
            generator_add(generator, &(struct generate_job){
                .prompt_tokens = tokens, .prompt_count = LONG, .prompt_key = "alike", .sample = (uint32_t)p, .seed = 7,
                .max_new_tokens = LENGTH, .sampling = { .temperature = 1, .top_p = 1 }, .tag = (void *)p,
            });
        }
        struct response response;
        while (generator_step(generator)) {
            while (generator_next(generator, &response)) {
                EXPECT(response.failure == NULL && response.count >= 1);
                memcpy(sampled[apart][(size_t)response.tag], response.tokens, response.count * sizeof *response.tokens);
            }
        }
        int64_t pages_alike = LIKE - LIKE % CACHE_PAGE_POSITIONS, all = ALIKE * LONG;
        EXPECT_INT(generator_stats(generator).prompt_tokens, apart ? all : all - (ALIKE - 1) * pages_alike);
        generator_close(generator);
    }
    EXPECT(memcmp(sampled[0], sampled[1], sizeof sampled[0]) == 0);
    fixture_close(&fixture);
}

/* ---- limits ---- */

/* Goal: a small cache makes jobs wait and gives up kept prompts; every response is still there, with the same bytes. */
static void test_small_cache(void)
{
    struct fixture fixture = fixture_open(1);
    struct value_model values[] = { value_of(&fixture, fixture.value, 1) };
    struct generate_options options = options_of(&fixture, values, 1);
    run_jobs(&options, 1, false, first_outcomes, first_order);
    options.max_new_tokens = 1;
    options.batch = 3;
    options.context = 70;  // room for little more than one of the longest
    run_jobs(&options, 1, false, second_outcomes, second_order);
    expect_same("a small cache");
    fixture_close(&fixture);

    // The base goes ahead with a token that is not kept, and then other prompts want pages.
    fixture = fixture_open(2);
    values[0] = value_of(&fixture, fixture.value, 1);
    for (options = options_of(&fixture, values, 1), options.batch = 1; options.batch <= 3; options.batch++) {
        options.max_new_tokens = 1;
        options.context = 70;
        options.always_ahead = true;
        run_jobs(&options, 1, options.batch == 2, second_outcomes, second_order);
        expect_same("a small cache, and a base that goes ahead");
        EXPECT(options.batch > 1 || last_stats.ahead > 0);
    }
    fixture_close(&fixture);
}

/* Goal: a response ends where prompt and response fill the context; a prompt that fills it alone is refused with both lengths. */
static void test_context(void)
{
    struct fixture fixture = fixture_open(1);
    struct generate_options options = options_of(&fixture, NULL, 0);
    options.context = 25;  // prompts have 1, 5, 9, ... 25, ... tokens
    run_jobs(&options, 0, false, first_outcomes, first_order);
    for (size_t j = 0; j < JOBS; j++) {
        size_t P = 1 + j / SAMPLES * 4, asked = 1 + (j * 5) % LENGTH;
        EXPECT_INT(first_outcomes[j].failed, P >= 25);
        if (P < 25 && !first_outcomes[j].stopped)
            EXPECT_INT(first_outcomes[j].count, asked < 25 - P ? asked : 25 - P);
    }
    int code;
    struct generator *generator = generator_open(&options, &code);
    char reason[256];
    int32_t tokens[25] = { 0 };
    EXPECT_INT(generator_check_prompt(generator, tokens, 25, reason), -1);
    EXPECT_TEXT(reason, "prompt has 25 tokens, context of \"base\" is 25 with the response");
    tokens[3] = (int32_t)tokenizer_vocab_size(fixture.tokenizer);
    EXPECT_INT(generator_check_prompt(generator, tokens, 5, reason), -1);
    EXPECT_INT(generator_check_prompt(generator, tokens, 0, reason), -1);
    EXPECT_INT(generator_check_prompt(generator, tokens, 3, reason), 0);
    generator_close(generator);
    fixture_close(&fixture);
}

/* Goal: a value model with another vocabulary, another tokenizer or no value head is refused. */
static void test_value_model_must_fit(void)
{
    struct fixture fixture = fixture_open(1);
    struct model_config config = tiny_config;
    struct model *narrow = tiny_model(&config, 5, fixture.pool);
    struct value_model cases[] = { value_of(&fixture, narrow, 1), value_of(&fixture, fixture.value, 1) };
    cases[1].tokenizer_key = "another";
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct generate_options options = options_of(&fixture, &cases[i], 1);
        int code = 0;
        EXPECT(generator_open(&options, &code) == NULL);
        EXPECT_INT(code, EX_DATAERR);
    }
    model_close(narrow);
    fixture_close(&fixture);
}

/* ---- a real model ---- */

struct story {
    struct pool *pool;
    struct tokenizer *tokenizer;
    struct model *base, *value;
};

static bool story_open(struct story *story)
{
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        return false;
    int code;
    struct model_config config;
    story->pool = pool_open(1);
    story->tokenizer = tokenizer_open(path, &code);
    story->base = model_open(path, story->pool, &code);
    struct weights *weights = weights_open(path, &code);
    CHECK(story->tokenizer != NULL && story->base != NULL && weights != NULL && config_open(&config, path) == EX_OK);
    story->value = with_head(weights, &config, 11, false, story->pool);
    weights_close(weights);
    return true;
}

static void story_close(struct story *story)
{
    model_close(story->base);
    model_close(story->value);
    tokenizer_close(story->tokenizer);
    pool_close(story->pool);
}

/* Mean KL of 16 responses to the empty prompt; stopped: how many ended by themselves. */
static double story_kl(const struct story *story, double beta, size_t length, size_t *stopped)
{
    struct value_model value = { .name = "value", .model = story->value, .tokenizer_key = tokenizer_key(story->tokenizer),
                                 .beta = beta };
    struct generate_options options = {
        .base_name = "stories260K", .base = story->base, .tokenizer = story->tokenizer, .values = &value, .value_count = 1,
        .candidates = 20, .batch = 16, .max_new_tokens = length, .context = 512, .pool = story->pool,
    };
    int code;
    struct generator *generator = generator_open(&options, &code);
    CHECK(generator != NULL);
    int32_t begin = tokenizer_begin(story->tokenizer);
    for (uint32_t i = 0; i < 16; i++)
        generator_add(generator, &(struct generate_job){
            .prompt_tokens = &begin, .prompt_count = 1, .prompt_key = "empty", .sample = i, .max_new_tokens = length,
            .sampling = { .temperature = 1, .top_p = 1 }, .begins_text = true,
        });
    while (generator_step(generator))
        ;
    struct response response;
    double kl = 0;
    *stopped = 0;
    while (generator_next(generator, &response)) {
        EXPECT(response.failure == NULL && response.kl >= 0 && response.text[0] != ' ');
        bool is_stop = tokenizer_is_stop(story->tokenizer, response.tokens[response.count - 1]);
        EXPECT_INT(response.stopped, is_stop);
        for (size_t n = 0; n + 1 < response.count; n++)
            EXPECT(!tokenizer_is_stop(story->tokenizer, response.tokens[n]));
        *stopped += response.stopped;
        kl += response.kl / 16;
    }
    generator_close(generator);
    return kl;
}

/* Goal: KL is 0 at beta 0, and four times as large for a small beta twice as large. */
static void test_story_kl(void)
{
    struct story story;
    if (!story_open(&story))
        TEST_SKIP("stories260K is not here");
    size_t stopped;
    EXPECT_NEAR(story_kl(&story, 0, 24, &stopped), 0, 0);
    double one = story_kl(&story, 0.01, 24, &stopped), two = story_kl(&story, 0.02, 24, &stopped);
    EXPECT(one > 0);
    EXPECT_NEAR(two / one, 4, 0.4);
    story_close(&story);
}

/* Goal: responses end at a stop token and nowhere behind it. */
static void test_story_stops(void)
{
    struct story story;
    if (!story_open(&story))
        TEST_SKIP("stories260K is not here");
    size_t stopped;
    story_kl(&story, 1, 500, &stopped);
    EXPECT(stopped >= 8);
    story_close(&story);
}

int main(void)
{
    RUN(test_batch_order_threads);
    RUN(test_left_to_base);
    RUN(test_in_order);
    RUN(test_beta_zero);
    RUN(test_constant_value);
    RUN(test_second_beta_zero);
    RUN(test_own_betas);
    RUN(test_against_fresh_passes);
    RUN(test_left_to_base_against_fresh_passes);
    RUN(test_prompts_alike);
    RUN(test_small_cache);
    RUN(test_context);
    RUN(test_value_model_must_fit);
    RUN(test_story_kl);
    RUN(test_story_stops);
    return tests_end();
}
