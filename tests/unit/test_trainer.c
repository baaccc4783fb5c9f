/* The trainer as its callers see it: what a step does to the bits, what is refused, and what checkpoints keep. */
#include "learn/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/philox.h"
#include "base/pool.h"
#include "model/model.h"
#include "model/weights.h"
#include "../check.h"

enum { EXAMPLES = 6, VOCABULARY = 29, T_MAX = 150 };

static const struct model_config config = {
    .vocab_size = VOCABULARY, .channel_count = 24, .layer_count = 2, .head_count = 4, .kv_head_count = 2, .head_size = 6,
    .ff_count = 36, .position_max = 256, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

/* Sequences of 1 to T_MAX tokens, more rows than one block of them, with targets and a mask. */
struct batch {
    int32_t token[EXAMPLES][T_MAX];
    float target[EXAMPLES][T_MAX], mask[EXAMPLES][T_MAX];
    struct example examples[EXAMPLES];
};

static void batch_fill(struct batch *batch)
{
    const size_t T[EXAMPLES] = { 150, 1, 64, 3, 111, 40 };
    for (uint32_t i = 0; i < EXAMPLES; i++) {
        for (uint32_t t = 0; t < T[i]; t++) {
            batch->token[i][t] = (int32_t)(philox_uniform(1, PHILOX_DATA, 0, i, t) * VOCABULARY);
            batch->target[i][t] = (float)philox_normal(1, PHILOX_DATA, 1, i, t);
            batch->mask[i][t] = philox_uniform(1, PHILOX_DATA, 2, i, t) < 0.7;
        }
        batch->examples[i] = (struct example){ batch->token[i], T[i], batch->target[i], batch->mask[i] };
    }
}

static struct trainer *trainer_fresh(enum objective objective, struct pool *pool, int64_t micro_batch_tokens)
{
    struct trainer_options options = trainer_defaults(objective);
    options.warmup_steps = 2;
    options.micro_batch_tokens = micro_batch_tokens;
    int code;
    return trainer_open(&options, &config, NULL, "0123", pool, &code);
}

static void steps_run(struct trainer *trainer, const struct batch *batch, int count)
{
    struct step_metrics metrics;
    for (int step = 0; step < count; step++)
        EXPECT_INT(trainer_step(trainer, batch->examples, EXAMPLES, &metrics), 0);
}

static void expect_same(const struct buffer *a, const struct buffer *b)
{
    EXPECT_INT(a->size, b->size);
    EXPECT(a->size == b->size && memcmp(a->data, b->data, a->size) == 0);
}

/* Goal: a run that is saved and taken up by another trainer ends with the bytes of one that was never interrupted. */
static void test_resumes_to_the_bit(void)
{
    struct pool *pool = pool_open(1);
    struct batch batch;
    batch_fill(&batch);
    for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++) {
        struct trainer *whole = trainer_fresh(objective, pool, 200), *first = trainer_fresh(objective, pool, 200);
        struct buffer expected = { 0 }, middle = { 0 }, actual = { 0 };
        steps_run(whole, &batch, 5);
        trainer_save(whole, true, "17", &expected);
        steps_run(first, &batch, 3);
        trainer_save(first, true, NULL, &middle);
        trainer_close(first);

        struct trainer *second = trainer_fresh(objective, pool, 200);
        struct weights *checkpoint = weights_from_memory(middle.data, middle.size, "middle");
        EXPECT_TEXT(weights_metadata(checkpoint, "step"), "3");
        EXPECT_TEXT(weights_metadata(checkpoint, "tokenizer"), "0123");
        EXPECT_INT(trainer_load(second, checkpoint, "middle"), 0);
        EXPECT_INT(trainer_steps(second), 3);
        steps_run(second, &batch, 2);
        trainer_save(second, true, "17", &actual);
        expect_same(&actual, &expected);

        weights_close(checkpoint);
        trainer_close(whole);
        trainer_close(second);
        free(expected.data), free(middle.data), free(actual.data);
    }
    pool_close(pool);
}

/* Goal: 1, 2 and 4 threads give the same bytes. */
static void test_threads_do_not_show(void)
{
    struct batch batch;
    batch_fill(&batch);
    for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++) {
        struct buffer saved[3] = { { 0 } };
        for (size_t i = 0; i < 3; i++) {
            struct pool *pool = pool_open((size_t)1 << i);
            struct trainer *trainer = trainer_fresh(objective, pool, 300);
            steps_run(trainer, &batch, 3);
            trainer_save(trainer, true, NULL, &saved[i]);
            expect_same(&saved[i], &saved[0]);
            trainer_close(trainer);
            pool_close(pool);
        }
        free(saved[0].data), free(saved[1].data), free(saved[2].data);
    }
}

/* Goal: how a batch is cut into micro batches changes rounding and nothing else. */
static void test_micro_batches_agree(void)
{
    struct pool *pool = pool_open(2);
    struct batch batch;
    batch_fill(&batch);
    for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++) {
        const int64_t sizes[] = { 1000000, 160, 1 };
        struct step_metrics metrics[3];
        for (size_t i = 0; i < 3; i++) {
            struct trainer *trainer = trainer_fresh(objective, pool, sizes[i]);
            EXPECT_INT(trainer_step(trainer, batch.examples, EXAMPLES, &metrics[i]), 0);
            EXPECT_INT(metrics[i].counted, metrics[0].counted);
            EXPECT_INT(metrics[i].tokens, 369);
            EXPECT_NEAR(metrics[i].loss, metrics[0].loss, 1e-6 * metrics[0].loss);
            EXPECT_NEAR(metrics[i].gradient_norm, metrics[0].gradient_norm, 1e-5 * metrics[0].gradient_norm);
            EXPECT_NEAR(trainer_loss(trainer, batch.examples, EXAMPLES), metrics[0].loss, 0.1 * metrics[0].loss);
            trainer_close(trainer);
        }
    }
    pool_close(pool);
}

/*
 * Goal: into how many parts a batch is cut, also more than it has examples, changes rounding and nothing else; and with the
 * same parts, threads do not show.
 */
static void test_parts_agree(void)
{
    struct batch batch;
    batch_fill(&batch);
    for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++) {
        const int64_t parts[] = { 1, 2, 3, 20 };
        struct step_metrics metrics[4];
        for (size_t i = 0; i < 4; i++) {
            struct buffer saved[2] = { { 0 } };
            for (size_t threads = 1; threads <= 2; threads++) {
                struct pool *pool = pool_open(threads);
                struct trainer_options options = trainer_defaults(objective);
                options.parts = parts[i];
                options.micro_batch_tokens = 100;
                int code;
                struct trainer *trainer = trainer_open(&options, &config, NULL, "", pool, &code);
                EXPECT_INT(trainer_step(trainer, batch.examples, EXAMPLES, &metrics[i]), 0);
                EXPECT_INT(metrics[i].counted, metrics[0].counted);
                EXPECT_INT(metrics[i].tokens, 369);
                EXPECT_NEAR(metrics[i].loss, metrics[0].loss, 1e-6 * metrics[0].loss);
                EXPECT_NEAR(metrics[i].gradient_norm, metrics[0].gradient_norm, 1e-5 * metrics[0].gradient_norm);
                EXPECT_NEAR(trainer_loss(trainer, batch.examples, EXAMPLES), metrics[0].loss, 0.1 * metrics[0].loss);
                steps_run(trainer, &batch, 3);
                trainer_save(trainer, true, NULL, &saved[threads - 1]);
                trainer_close(trainer);
                pool_close(pool);
            }
            expect_same(&saved[0], &saved[1]);
            free(saved[0].data), free(saved[1].data);
        }
    }
}

/* Goal: enough steps learn a small batch by heart, values and texts alike. */
static void test_overfits(void)
{
    int code;
    struct pool *pool = pool_open(2);
    struct batch batch;
    batch_fill(&batch);
    for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++) {
        struct trainer_options options = trainer_defaults(objective);
        options.learning_rate = 1e-2;
        options.warmup_steps = 10;
        struct trainer *trainer = trainer_open(&options, &config, NULL, "", pool, &code);
        struct step_metrics metrics;
        for (int step = 0; step < 300; step++)
            EXPECT_INT(trainer_step(trainer, batch.examples + 5, 1, &metrics), 0);
        EXPECT(trainer_loss(trainer, batch.examples + 5, 1) < 0.02);
        if (objective == OBJECTIVE_VALUE)
            EXPECT(metrics.explained_variance > 0.95);
        trainer_close(trainer);
    }
    pool_close(pool);
}

/*
 * Goal: the metrics of a first step by hand.  A fresh value head says 0 everywhere; targets 1, 3 count and 100 does not:
 * loss = (0.5 + 4.5) / 2, means 0 and 2, error and target both have variance 1, so nothing is explained.
 */
static void test_metrics_by_hand(void)
{
    struct pool *pool = pool_open(1);
    struct trainer *trainer = trainer_fresh(OBJECTIVE_VALUE, pool, 100);
    const int32_t token[] = { 3, 4, 5 };
    const struct example example = { token, 3, (float[]){ 1, 100, 3 }, (float[]){ 1, 0, 1 } };
    struct step_metrics metrics;
    EXPECT_INT(trainer_step(trainer, &example, 1, &metrics), 0);
    EXPECT_NEAR(metrics.loss, 2.5, 1e-6);
    EXPECT_NEAR(metrics.value_mean, 0, 0);
    EXPECT_NEAR(metrics.target_mean, 2, 0);
    EXPECT_NEAR(metrics.explained_variance, 0, 1e-12);
    EXPECT_INT(metrics.counted, 2);
    EXPECT_INT(metrics.tokens, 3);
    const struct example flat = { token, 3, (float[]){ 1, 1, 1 }, NULL };
    EXPECT_INT(trainer_step(trainer, &flat, 1, &metrics), 0);
    EXPECT_INT(metrics.counted, 3);
    EXPECT(isnan(metrics.explained_variance));
    trainer_close(trainer);
    pool_close(pool);
}

/* Goal: up in 4 steps, then half a cosine from 1 to 0.2 over 8: (1 + cos(pi i / 8)) / 2 * 0.8 + 0.2, then flat. */
static void test_learning_rate_schedule(void)
{
    int code;
    struct pool *pool = pool_open(1);
    struct trainer_options options = trainer_defaults(OBJECTIVE_LM);
    options.learning_rate = 1.0;
    options.warmup_steps = 4;
    options.total_steps = 12;
    options.final_fraction = 0.2;
    struct trainer *trainer = trainer_open(&options, &config, NULL, "", pool, &code);
    const double expected[] = { 0.25, 0.5, 0.75, 1.0, 0.96955181, 0.88284271, 0.75307337, 0.6, 0.44692663, 0.31715729,
                                0.23044819, 0.2, 0.2 };
    const int32_t token[] = { 1, 2 };
    const struct example example = { .tokens = token, .T = 2 };
    for (size_t i = 0; i < 13; i++) {
        struct step_metrics metrics;
        EXPECT_INT(trainer_step(trainer, &example, 1, &metrics), 0);
        EXPECT_NEAR(metrics.learning_rate, expected[i], 1e-8);
    }
    trainer_close(trainer);
    pool_close(pool);
}

/* Goal: examples that do not fit, and numbers that are not finite, are refused and change no bit. */
static void test_refuses(void)
{
    struct pool *pool = pool_open(1);
    struct batch batch;
    batch_fill(&batch);
    struct trainer *trainer = trainer_fresh(OBJECTIVE_VALUE, pool, 200);
    struct buffer before = { 0 }, after = { 0 };
    steps_run(trainer, &batch, 1);
    trainer_save(trainer, true, NULL, &before);

    static const int32_t zeros[300];
    static const float target[300], huge[] = { 3e38f, 3e38f, 3e38f };
    const int32_t negative[] = { 0, -1 }, large[] = { 0, VOCABULARY };
    const struct example refused[] = {
        { zeros, 0, target, NULL },
        { zeros, 257, target, NULL },
        { negative, 2, target, NULL },
        { large, 2, target, NULL },
        { zeros, 2, (float[]){ 0, NAN }, NULL },
        { zeros, 2, (float[]){ INFINITY, 0 }, NULL },
        { zeros, 2, target, (float[]){ 0, 0 } },
        { zeros, 3, huge, NULL },  // finite as its loss is in double, but the head's gradient is the sum of three
    };
    struct step_metrics metrics;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        EXPECT_INT(trainer_step(trainer, &refused[i], 1, &metrics), -1);
    EXPECT(isnan(trainer_loss(trainer, &refused[0], 1)));
    trainer_save(trainer, true, NULL, &after);
    expect_same(&after, &before);
    trainer_close(trainer);
    pool_close(pool);
    free(before.data), free(after.data);
}

/* Goal: a weight that is not a number stops the first step. */
static void test_refuses_loss_that_is_not_finite(void)
{
    int code;
    struct pool *pool = pool_open(1);
    struct trainer *trainer = trainer_fresh(OBJECTIVE_LM, pool, 200);
    struct batch batch;
    batch_fill(&batch);
    struct buffer content = { 0 };
    trainer_save(trainer, false, NULL, &content);
    trainer_close(trainer);
    memset(content.data + content.size - sizeof(float), 0xff, sizeof(float));  // the last weight of the LM head
    struct weights *weights = weights_from_memory(content.data, content.size, "damaged");
    struct trainer_options options = trainer_defaults(OBJECTIVE_LM);
    trainer = trainer_open(&options, &config, weights, "", pool, &code);
    struct step_metrics metrics;
    EXPECT_INT(trainer_step(trainer, batch.examples, EXAMPLES, &metrics), -1);
    EXPECT_INT(trainer_steps(trainer), 0);
    trainer_close(trainer);
    weights_close(weights);
    free(content.data);
    pool_close(pool);
}

static bool same_tensor(const struct weights *a, const struct weights *b, const char *name)
{
    const struct tensor *x = weights_find(a, name), *y = weights_find(b, name);
    return x != NULL && y != NULL && x->size_bytes == y->size_bytes && memcmp(x->data, y->data, x->size_bytes) == 0;
}

/* Goal: a value model keeps the LM head of its weights to the bit, without moments, and trains all else. */
static void test_value_model_keeps_lm_head(void)
{
    struct pool *pool = pool_open(1);
    struct batch batch;
    batch_fill(&batch);
    struct trainer *trainer = trainer_fresh(OBJECTIVE_VALUE, pool, 200);
    struct buffer before = { 0 }, after = { 0 };
    trainer_save(trainer, true, NULL, &before);
    steps_run(trainer, &batch, 3);
    trainer_save(trainer, true, NULL, &after);
    struct weights *first = weights_from_memory(before.data, before.size, "before");
    struct weights *last = weights_from_memory(after.data, after.size, "after");
    EXPECT(same_tensor(first, last, "lm_head.weight"));
    EXPECT(weights_find(last, "adam.m.lm_head.weight") == NULL);
    EXPECT(weights_find(last, "adam.v.v_head.summary.bias") != NULL);
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        char name[WEIGHT_NAME_SIZE];
        if (!weight_present(&config, role))
            continue;
        weight_name(role, 1, name);
        EXPECT(weights_find(last, name) != NULL);
        EXPECT(role == WEIGHT_LM_HEAD || !same_tensor(first, last, name));
    }
    weights_close(first);
    weights_close(last);
    trainer_close(trainer);
    free(before.data), free(after.data);
    pool_close(pool);
}

/* Goal: a checkpoint of another shape, and one without optimiser, are refused and change no bit. */
static void test_load_refuses(void)
{
    int code;
    struct pool *pool = pool_open(1);
    struct batch batch;
    batch_fill(&batch);
    struct trainer *trainer = trainer_fresh(OBJECTIVE_VALUE, pool, 200);
    steps_run(trainer, &batch, 1);
    struct buffer before = { 0 }, after = { 0 };
    trainer_save(trainer, true, NULL, &before);
    for (int kind = 0; kind < 2; kind++) {
        struct model_config other = config;
        other.layer_count = kind == 0 ? 3 : config.layer_count;
        struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
        struct trainer *stranger = trainer_open(&options, &other, NULL, "", pool, &code);
        struct buffer content = { 0 };
        trainer_save(stranger, kind == 0, NULL, &content);
        struct weights *checkpoint = weights_from_memory(content.data, content.size, "stranger");
        EXPECT_INT(trainer_load(trainer, checkpoint, "stranger"), -1);
        weights_close(checkpoint);
        trainer_close(stranger);
        free(content.data);
    }
    trainer_save(trainer, true, NULL, &after);
    expect_same(&after, &before);
    trainer_close(trainer);
    free(before.data), free(after.data);
    pool_close(pool);
}

static double tensor_deviation(const struct weights *weights, const char *name)
{
    const struct tensor *tensor = weights_find(weights, name);
    size_t count = tensor_elements(tensor);
    float *x = memory_alloc(count, sizeof *x);
    double square = 0.0;
    tensor_read(tensor, 0, count, x);
    for (size_t i = 0; i < count; i++)
        square += (double)x[i] * x[i];
    free(x);
    return sqrt(square / (double)count);
}

/* Goal: deviations 0.02 and, where a residual branch ends, 0.02 / sqrt(2 L) = 0.01; norms 1; the seed alone decides. */
static void test_initialisation(void)
{
    struct pool *pool = pool_open(1);
    struct trainer *a = trainer_fresh(OBJECTIVE_VALUE, pool, 200), *b = trainer_fresh(OBJECTIVE_VALUE, pool, 100);
    struct buffer a_content = { 0 }, b_content = { 0 };
    trainer_save(a, true, NULL, &a_content);
    trainer_save(b, true, NULL, &b_content);
    expect_same(&a_content, &b_content);
    struct weights *weights = weights_from_memory(a_content.data, a_content.size, "fresh");
    EXPECT_NEAR(tensor_deviation(weights, "model.embed_tokens.weight"), 0.02, 2e-3);  // 696 numbers: within 4 deviations
    EXPECT_NEAR(tensor_deviation(weights, "model.layers.1.mlp.up_proj.weight"), 0.02, 2e-3);
    EXPECT_NEAR(tensor_deviation(weights, "model.layers.0.mlp.down_proj.weight"), 0.01, 1e-3);
    EXPECT_NEAR(tensor_deviation(weights, "model.layers.1.self_attn.o_proj.weight"), 0.01, 1e-3);
    EXPECT_NEAR(tensor_deviation(weights, "model.norm.weight"), 1.0, 0.0);
    EXPECT_NEAR(tensor_deviation(weights, "v_head.summary.weight"), 0.0, 0.0);
    weights_close(weights);
    trainer_close(a);
    trainer_close(b);
    free(a_content.data), free(b_content.data);
    pool_close(pool);
}

/* ---- LoRA ---- */

/* Adapters of q, v and down on random weights; base_key as a caller would give it. */
static struct trainer *trainer_adapting(enum objective objective, const struct weights *weights, int64_t rank, const char *base_key,
                                        struct pool *pool)
{
    int code;
    struct trainer_options options = trainer_defaults(objective);
    options.warmup_steps = 2;
    options.micro_batch_tokens = 200;
    options.lora = (struct lora_options){ .rank = rank, .alpha = 8, .base_key = base_key };
    EXPECT_INT(lora_targets_read("q,v,down", &options.lora.targets), 0);
    return trainer_open(&options, &config, weights, "0123", pool, &code);
}

static struct buffer random_model(enum objective objective, struct pool *pool)
{
    struct buffer content = { 0 };
    struct trainer *trainer = trainer_fresh(objective, pool, 200);
    trainer_save(trainer, false, NULL, &content);
    trainer_close(trainer);
    return content;
}

/* Goal: a fresh adapter changes no bit; training changes its targets and the value head, no other weight. */
static void test_lora_changes_its_targets(void)
{
    struct pool *pool = pool_open(1);
    struct batch batch;
    batch_fill(&batch);
    struct buffer base = random_model(OBJECTIVE_VALUE, pool), before = { 0 }, after = { 0 };
    struct weights *weights = weights_from_memory(base.data, base.size, "base");
    struct trainer *trainer = trainer_adapting(OBJECTIVE_VALUE, weights, 4, "k", pool);
    trainer_save(trainer, false, NULL, &before);
    struct weights *fresh = weights_from_memory(before.data, before.size, "before");
    steps_run(trainer, &batch, 3);
    trainer_save(trainer, false, NULL, &after);
    struct weights *trained = weights_from_memory(after.data, after.size, "after");
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        char name[WEIGHT_NAME_SIZE];
        if (!weight_present(&config, role))
            continue;
        weight_name(role, 1, name);
        const bool changes = role == WEIGHT_Q || role == WEIGHT_V || role == WEIGHT_DOWN || role == WEIGHT_VALUE
            || role == WEIGHT_VALUE_BIAS;
        EXPECT(same_tensor(weights, fresh, name));
        if (same_tensor(weights, trained, name) == changes)
            TEST_FAIL("%s %s", name, changes ? "is as before" : "has changed");
    }
    weights_close(fresh);
    weights_close(trained);
    trainer_close(trainer);
    weights_close(weights);
    free(base.data), free(before.data), free(after.data);
    pool_close(pool);
}

/* Goal: as test_resumes_to_the_bit, from a checkpoint that holds adapters and their moments and no weight of the base. */
static void test_lora_resumes_to_the_bit(void)
{
    struct pool *pool = pool_open(2);
    struct batch batch;
    batch_fill(&batch);
    for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++) {
        struct buffer base = random_model(objective, pool), expected = { 0 }, middle = { 0 }, actual = { 0 };
        struct weights *weights = weights_from_memory(base.data, base.size, "base");
        struct trainer *whole = trainer_adapting(objective, weights, 4, "k", pool);
        struct trainer *first = trainer_adapting(objective, weights, 4, "k", pool);
        steps_run(whole, &batch, 5);
        trainer_save(whole, true, NULL, &expected);
        steps_run(first, &batch, 3);
        trainer_save(first, true, NULL, &middle);
        trainer_close(first);

        struct trainer *second = trainer_adapting(objective, weights, 4, "k", pool);
        struct weights *checkpoint = weights_from_memory(middle.data, middle.size, "middle");
        EXPECT(weights_find(checkpoint, "model.layers.0.self_attn.q_proj.weight") == NULL);
        EXPECT(weights_find(checkpoint, "model.layers.0.self_attn.q_proj.lora_A.weight") != NULL);
        EXPECT(weights_find(checkpoint, "adam.v.model.layers.1.mlp.down_proj.lora_B.weight") != NULL);
        EXPECT_TEXT(weights_metadata(checkpoint, "lora"), "rank=4 alpha=8 targets=q,v,down");
        EXPECT_INT(trainer_load(second, checkpoint, "middle"), 0);
        steps_run(second, &batch, 2);
        trainer_save(second, true, NULL, &actual);
        expect_same(&actual, &expected);

        weights_close(checkpoint);
        trainer_close(whole);
        trainer_close(second);
        weights_close(weights);
        free(base.data), free(expected.data), free(middle.data), free(actual.data);
    }
    pool_close(pool);
}

/* Goal: a checkpoint of adapters is refused by another rank, on another base, and by a training of all weights,
   and the other way round. */
static void test_lora_load_refuses(void)
{
    struct pool *pool = pool_open(1);
    struct buffer base = random_model(OBJECTIVE_VALUE, pool), adapted = { 0 }, full = { 0 };
    struct weights *weights = weights_from_memory(base.data, base.size, "base");
    struct trainer *trainer = trainer_adapting(OBJECTIVE_VALUE, weights, 4, "one", pool);
    struct trainer *all = trainer_fresh(OBJECTIVE_VALUE, pool, 200);
    struct trainer *rank = trainer_adapting(OBJECTIVE_VALUE, weights, 2, "one", pool);
    struct trainer *other = trainer_adapting(OBJECTIVE_VALUE, weights, 4, "two", pool);
    trainer_save(trainer, true, NULL, &adapted);
    trainer_save(all, true, NULL, &full);
    struct weights *adapters = weights_from_memory(adapted.data, adapted.size, "adapters");
    struct weights *checkpoint = weights_from_memory(full.data, full.size, "full");
    EXPECT_INT(trainer_load(rank, adapters, "adapters"), -1);
    EXPECT_INT(trainer_load(other, adapters, "adapters"), -1);
    EXPECT_INT(trainer_load(all, adapters, "adapters"), -1);
    EXPECT_INT(trainer_load(trainer, checkpoint, "full"), -1);
    EXPECT_INT(trainer_load(trainer, adapters, "adapters"), 0);
    weights_close(adapters);
    weights_close(checkpoint);
    trainer_close(trainer), trainer_close(all), trainer_close(rank), trainer_close(other);
    weights_close(weights);
    free(base.data), free(adapted.data), free(full.data);
    pool_close(pool);
}

/* Goal: adapters of full rank on all matrices learn a small batch by heart although embeddings and norms stay random. */
static void test_lora_learns(void)
{
    int code;
    struct pool *pool = pool_open(2);
    struct batch batch;
    batch_fill(&batch);
    struct buffer base = random_model(OBJECTIVE_VALUE, pool);
    struct weights *weights = weights_from_memory(base.data, base.size, "base");
    struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
    options.learning_rate = 3e-3;
    options.warmup_steps = 10;
    options.lora = (struct lora_options){ .rank = config.channel_count, .alpha = 2.0 * (double)config.channel_count,
                                          .base_key = "k" };
    EXPECT_INT(lora_targets_read("q,k,v,o,gate,up,down", &options.lora.targets), 0);
    struct trainer *trainer = trainer_open(&options, &config, weights, "", pool, &code);
    struct step_metrics metrics;
    for (int step = 0; step < 600; step++)
        EXPECT_INT(trainer_step(trainer, batch.examples + 5, 1, &metrics), 0);
    EXPECT(trainer_loss(trainer, batch.examples + 5, 1) < 0.02);
    trainer_close(trainer);
    weights_close(weights);
    free(base.data);
    pool_close(pool);
}

/* A checkpoint with optimiser after three steps. */
static struct buffer trained(const struct trainer_options *options, const struct weights *weights, struct pool *pool)
{
    int code;
    struct batch batch;
    batch_fill(&batch);
    struct buffer content = { 0 };
    struct trainer *trainer = trainer_open(options, &config, weights, "0123", pool, &code);
    steps_run(trainer, &batch, 3);
    trainer_save(trainer, true, NULL, &content);
    trainer_close(trainer);
    return content;
}

/* Goal: activations that are computed again change no bit, with all weights trained and with adapters. */
static void test_recomputing_does_not_show(void)
{
    struct pool *pool = pool_open(2);
    struct buffer base = random_model(OBJECTIVE_VALUE, pool);
    struct weights *weights = weights_from_memory(base.data, base.size, "base");
    for (int64_t rank = 0; rank <= 4; rank += 4) {
        struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
        options.micro_batch_tokens = 200;
        options.lora = (struct lora_options){ .rank = rank, .alpha = 8, .base_key = "k" };
        EXPECT_INT(lora_targets_read("q,v,down", &options.lora.targets), 0);
        struct buffer kept = trained(&options, weights, pool);
        options.recompute = true;
        struct buffer again = trained(&options, weights, pool);
        expect_same(&kept, &again);
        free(kept.data), free(again.data);
    }
    weights_close(weights);
    free(base.data);
    pool_close(pool);
}

/* Goal: adapters of a rounded base are those of a base that holds the rounded numbers as float32. */
static void test_rounded_base_is_its_numbers(void)
{
    static const enum tensor_type types[] = { TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4 };
    struct pool *pool = pool_open(2);
    int code;
    struct buffer base = random_model(OBJECTIVE_VALUE, pool);
    struct weights *weights = weights_from_memory(base.data, base.size, "base");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
        options.lora = (struct lora_options){ .rank = 3, .alpha = 8, .base_key = "k", .base_type = types[i] };
        EXPECT_INT(lora_targets_read("q,k,v,o", &options.lora.targets), 0);
        struct trainer *fresh = trainer_open(&options, &config, weights, "0123", pool, &code);
        struct buffer merged = { 0 };
        trainer_save(fresh, false, NULL, &merged);
        trainer_close(fresh);
        struct weights *rounded = weights_from_memory(merged.data, merged.size, "rounded");
        EXPECT(!same_tensor(weights, rounded, "model.layers.1.mlp.gate_proj.weight"));
        struct buffer of_blocks = trained(&options, weights, pool);
        options.lora.base_type = TENSOR_F32;
        struct buffer of_floats = trained(&options, rounded, pool);
        struct weights *a = weights_from_memory(of_blocks.data, of_blocks.size, "blocks");
        struct weights *b = weights_from_memory(of_floats.data, of_floats.size, "floats");
        EXPECT(same_tensor(a, b, "model.layers.0.self_attn.q_proj.lora_A.weight"));
        EXPECT(same_tensor(a, b, "model.layers.1.self_attn.o_proj.lora_B.weight"));
        EXPECT(same_tensor(a, b, "v_head.summary.weight"));
        weights_close(a), weights_close(b), weights_close(rounded);
        free(of_blocks.data), free(of_floats.data), free(merged.data);
    }
    weights_close(weights);
    free(base.data);
    pool_close(pool);
}

/* Goal: products in BF16 follow the loss of float32 within 5 % of the first, and do not depend on threads. */
static void test_bf16_follows_float32(void)
{
    enum { STEPS = 60 };
    if (product_kernels_get(PRODUCTS_BF16) == NULL)
        TEST_SKIP("this processor has no products in BF16");
    struct batch batch;
    batch_fill(&batch);
    static double loss[3][STEPS];
    for (size_t i = 0; i < 3; i++) {  // float32; BF16 on one thread and on three
        int code;
        struct pool *pool = pool_open(i == 2 ? 3 : 1);
        struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
        options.products = i == 0 ? PRODUCTS_FLOAT32 : PRODUCTS_BF16;
        struct trainer *trainer = trainer_open(&options, &config, NULL, "0123", pool, &code);
        for (size_t step = 0; step < STEPS; step++) {
            struct step_metrics metrics;
            EXPECT_INT(trainer_step(trainer, batch.examples, EXAMPLES, &metrics), 0);
            loss[i][step] = metrics.loss;
        }
        trainer_close(trainer);
        pool_close(pool);
    }
    double most = 0.0;
    for (size_t step = 0; step < STEPS; step++) {
        most = fmax(most, fabs(loss[1][step] - loss[0][step]) / loss[0][0]);
        EXPECT(loss[1][step] == loss[2][step]);
    }
    if (most > 0.05 || most == 0.0)
        TEST_FAIL("the loss in BF16 is off float32 by %g of the first loss, expected at most 0.05 and more than nothing", most);
    if (getenv("VAS_TEST_VERBOSE") != NULL)
        printf("# losses from %g to %g, differences up to %g\n", loss[0][0], loss[0][STEPS - 1], most);
}

/* Goal: names of targets, and what is none. */
static void test_lora_targets(void)
{
    uint64_t targets;
    EXPECT_INT(lora_targets_read("down,q", &targets), 0);
    EXPECT(targets == ((uint64_t)1 << WEIGHT_Q | (uint64_t)1 << WEIGHT_DOWN));
    static const char *const bad[] = { "", "q,", ",q", "q,,k", "qq", "Q", "q;k", "lm_head" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        EXPECT_INT(lora_targets_read(bad[i], &targets), -1);
    struct pool *pool = pool_open(1);
    struct buffer base = random_model(OBJECTIVE_VALUE, pool);
    struct weights *weights = weights_from_memory(base.data, base.size, "base");
    struct model_config plain = config;
    plain.plain_ff = true;
    struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
    options.lora = (struct lora_options){ .rank = 2, .alpha = 2, .base_key = "k" };
    EXPECT_INT(lora_targets_read("gate", &options.lora.targets), 0);
    int code = 0;
    EXPECT(trainer_open(&options, &plain, weights, "", pool, &code) == NULL);
    EXPECT_INT(code, 65);
    weights_close(weights);
    free(base.data);
    pool_close(pool);
}

/* Goal: a training that this machine has no memory for is refused before it begins. */
static void test_refuses_what_does_not_fit(void)
{
    struct pool *pool = pool_open(1);
    struct model_config large = config;
    large.vocab_size = (int64_t)1 << 31;
    large.channel_count = 1 << 14;  // 128 TiB of embedding
    struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
    int code = 0;
    EXPECT(trainer_open(&options, &large, NULL, "", pool, &code) == NULL);
    EXPECT_INT(code, 71);
    pool_close(pool);
}

/* ---- training and inference are one model ---- */

/* Goal: values that the engine reads from a trained checkpoint are those that the trainer's loss sees. */
static void test_values_agree_with_inference(void)
{
    struct pool *pool = pool_open(1);
    struct batch batch;
    batch_fill(&batch);
    struct trainer *trainer = trainer_fresh(OBJECTIVE_VALUE, pool, 200);
    steps_run(trainer, &batch, 20);
    struct buffer content = { 0 };
    trainer_save(trainer, false, NULL, &content);
    struct weights *weights = weights_from_memory(content.data, content.size, "trained");
    int code;
    struct model *model = model_from_weights(weights, &config, "trained", pool, &code);
    EXPECT(model_has_value_head(model));

    const struct example *example = &batch.examples[0];
    struct cache *cache = cache_open(model, example->T + CACHE_PAGE_POSITIONS);
    float *hidden = memory_alloc(example->T * (size_t)config.channel_count, sizeof *hidden), value[T_MAX], mask[T_MAX] = { 0 };
    model_extend(model, cache, sequence_open(cache), example->tokens, example->T, hidden, NULL);
    model_values(model, hidden, example->T, value);
    const float zero[T_MAX] = { 0 };
    for (size_t t = 0; t < example->T; t += 7) {
        mask[t] = 1.0f;
        const struct example one = { example->tokens, example->T, zero, mask };
        double loss = trainer_loss(trainer, &one, 1);  // 0.5 value^2
        EXPECT_NEAR(sqrt(2.0 * loss), fabsf(value[t]), 1e-5 * fmax(1.0, fabs((double)value[t])));
        mask[t] = 0.0f;
    }
    free(hidden);
    cache_close(cache);
    model_close(model);
    weights_close(weights);
    trainer_close(trainer);
    free(content.data);
    pool_close(pool);
}

/* Goal: on a real model, the loss of the trainer is the mean of the engine's -log p. */
static void test_loss_agrees_with_inference(void)
{
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("stories260K.gguf is not here");
    struct pool *pool = pool_open(2);
    struct model_config real;
    int code = config_open(&real, path);
    EXPECT_INT(code, 0);
    struct weights *weights = weights_open(path, &code);
    struct model *model = model_open(path, pool, &code);
    struct trainer_options options = trainer_defaults(OBJECTIVE_LM);
    struct trainer *trainer = trainer_open(&options, &real, weights, "", pool, &code);
    EXPECT(model != NULL && trainer != NULL);

    enum { T = 100 };
    const size_t C = (size_t)real.channel_count, V = (size_t)real.vocab_size;
    int32_t token[T] = { 1 };
    for (uint32_t t = 1; t < T; t++)
        token[t] = (int32_t)(philox_uniform(2, PHILOX_DATA, 0, 0, t) * (double)V);
    float *hidden = memory_alloc(T * C, sizeof *hidden), *logits = memory_alloc(T * V, sizeof *logits);
    struct cache *cache = cache_open(model, T + CACHE_PAGE_POSITIONS);
    model_extend(model, cache, sequence_open(cache), token, T, hidden, NULL);
    model_logits(model, hidden, T, logits);
    double expected = 0.0;
    for (size_t t = 0; t + 1 < T; t++) {
        double sum = 0.0;
        for (size_t v = 0; v < V; v++)
            sum += exp((double)logits[t * V + v]);
        expected += log(sum) - (double)logits[t * V + (size_t)token[t + 1]];
    }
    expected /= T - 1;
    const struct example example = { .tokens = token, .T = T };
    EXPECT_NEAR(trainer_loss(trainer, &example, 1), expected, 1e-5 * expected);

    free(hidden), free(logits);
    cache_close(cache);
    trainer_close(trainer);
    model_close(model);
    weights_close(weights);
    pool_close(pool);
}

int main(void)
{
    log_open("test_trainer", -1);
    RUN(test_resumes_to_the_bit);
    RUN(test_threads_do_not_show);
    RUN(test_micro_batches_agree);
    RUN(test_parts_agree);
    RUN(test_overfits);
    RUN(test_metrics_by_hand);
    RUN(test_learning_rate_schedule);
    RUN(test_refuses);
    RUN(test_refuses_loss_that_is_not_finite);
    RUN(test_value_model_keeps_lm_head);
    RUN(test_load_refuses);
    RUN(test_initialisation);
    RUN(test_lora_changes_its_targets);
    RUN(test_lora_resumes_to_the_bit);
    RUN(test_lora_load_refuses);
    RUN(test_lora_learns);
    RUN(test_recomputing_does_not_show);
    RUN(test_rounded_base_is_its_numbers);
    RUN(test_bf16_follows_float32);
    RUN(test_lora_targets);
    RUN(test_refuses_what_does_not_fit);
    RUN(test_values_agree_with_inference);
    RUN(test_loss_agrees_with_inference);
    return tests_end();
}
