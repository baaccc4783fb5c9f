/*
 * Training against PyTorch: loss, gradient of every weight, and the weights after five clipped steps of AdamW, for a model of
 * each family.  The witness is tests/parity/train, written by tests/parity/make_train.py.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "learn/network.h"
#include "learn/trainer.h"
#include "model/weights.h"
#include "../check.h"

enum { EXAMPLES_MAX = 8 };

struct fixture {
    const char *directory;
    json_t *json;
    struct model_config config;
    struct weights *weights;
    struct example examples[EXAMPLES_MAX];
    size_t count;
    struct pool *pool;
    struct arena arena;
};

static float *floats_from_json(struct arena *arena, const json_t *json)
{
    float *x = arena_alloc(arena, json_array_size(json), sizeof *x);
    for (size_t i = 0; i < json_array_size(json); i++)
        x[i] = (float)json_number_value(json_array_get(json, i));
    return x;
}

/* A file of the fixture; the arena holds the path. */
static const char *path_of(struct fixture *fixture, const char *objective, const char *file)
{
    return arena_printf(&fixture->arena, "%s/%s%s", fixture->directory, objective, file);
}

static void fixture_open(struct fixture *fixture, const char *directory)
{
    int code;
    *fixture = (struct fixture){ .directory = directory, .pool = pool_open(2) };
    arena_init(&fixture->arena, "fixture", (size_t)1 << 24);
    fixture->json = json_read(path_of(fixture, "", "witness.json"));
    EXPECT_INT(config_open(&fixture->config, directory), 0);
    fixture->weights = weights_open(directory, &code);
    EXPECT(fixture->weights != NULL);
    const json_t *examples = json_object_get(fixture->json, "examples");
    fixture->count = json_array_size(examples);
    for (size_t i = 0; i < fixture->count; i++) {
        const json_t *example = json_array_get(examples, i), *tokens = json_object_get(example, "tokens");
        int32_t *ids = arena_alloc(&fixture->arena, json_array_size(tokens), sizeof *ids);
        for (size_t t = 0; t < json_array_size(tokens); t++)
            ids[t] = (int32_t)json_integer_value(json_array_get(tokens, t));
        fixture->examples[i] = (struct example){
            .tokens = ids, .T = json_array_size(tokens),
            .target = floats_from_json(&fixture->arena, json_object_get(example, "target")),
            .mask = floats_from_json(&fixture->arena, json_object_get(example, "mask")),
        };
    }
}

static void fixture_close(struct fixture *fixture)
{
    weights_close(fixture->weights);
    arena_free(&fixture->arena);
    pool_close(fixture->pool);
    json_decref(fixture->json);
}

/*
 * |actual - expected| <= 1e-4 * largest |expected|, over one weight, and 2e-8 for the rounding of a gradient that is 0: a key's
 * bias without rotation moves all scores alike, so that 0 and PyTorch's rounding of it are both right, and what lies between.
 * expected is a file with the weight under its family's name; gradient: it holds a gradient, which a norm kept as weight - 1 shares
 * with the weight.
 */
static void expect_weight(const struct fixture *fixture, const struct parameter *parameter, const float *actual,
                          const struct weights *expected, bool gradient)
{
    struct tensor tensor;
    bool zero = gradient && parameter->role == WEIGHT_K_BIAS && fixture->config.learned_positions;
    if (!weights_role(expected, &fixture->config, parameter->role, parameter->layer, &tensor)) {
        TEST_FAIL("%s: PyTorch has no %s", fixture->directory, parameter->name);
        return;
    }
    if (gradient)
        tensor.offset = 0.0f;
    EXPECT_INT(tensor_elements(&tensor), parameter->count);
    float *e = memory_alloc(parameter->count, sizeof *e);
    tensor_read_canonical(&tensor, (size_t)fixture->config.head_size, e);
    double largest = 0.0;
    for (size_t i = 0; i < parameter->count; i++)
        largest = fmax(largest, fabs((double)e[i]));
    for (size_t i = 0; i < parameter->count; i++) {
        double a = (double)actual[i], right = (double)e[i];
        if (zero)
            right = fmax(fmin(a, fmax(right, 0.0)), fmin(right, 0.0));
        if (!(fabs(a - right) <= 1e-4 * largest + 2e-8))
            TEST_FAIL("%s: %s[%zu] is %.9g, PyTorch says %.9g, largest %.3g", fixture->directory, parameter->name, i, a,
                      (double)e[i], largest);
    }
    free(e);
}

/* The fixture's examples as packed rows, the way trainer.c packs them. */
static struct packed_rows rows_pack(struct fixture *fixture, enum objective objective)
{
    size_t M = 0, m = 0, counted = 0;
    for (size_t i = 0; i < fixture->count; i++)
        M += fixture->examples[i].T;
    int32_t *token = arena_alloc(&fixture->arena, M, sizeof *token), *position = arena_alloc(&fixture->arena, M, sizeof *position);
    int32_t *next = arena_alloc(&fixture->arena, M, sizeof *next);
    size_t *row = arena_alloc(&fixture->arena, M, sizeof *row), *start = arena_alloc(&fixture->arena, M + 1, sizeof *start);
    float *target = arena_alloc(&fixture->arena, M, sizeof *target);
    for (size_t i = 0; i < fixture->count; i++) {
        const struct example *example = &fixture->examples[i];
        start[i] = m;
        for (size_t t = 0; t < example->T; t++, m++) {
            token[m] = example->tokens[t];
            position[m] = (int32_t)t;
            bool last = t + 1 == example->T;
            if (example->mask[t] == 0.0f || (objective == OBJECTIVE_LM && last))
                continue;
            row[counted] = m;
            target[counted] = example->target[t];
            next[counted++] = last ? -1 : example->tokens[t + 1];
        }
    }
    start[fixture->count] = m;
    return (struct packed_rows){ M, fixture->count, counted, token, position, start, row, target, next };
}

static void expect_gradients(struct fixture *fixture, enum objective objective, const char *name)
{
    const json_t *witness = json_object_get(fixture->json, name);
    int code;
    struct weights *gradients = weights_open(path_of(fixture, name, "_gradients.safetensors"), &code);
    struct network network;
    const struct parameters *parameters = &network.parameters;
    network_init(&network, &fixture->config, objective, &(struct lora_options){ 0 }, PRODUCTS_FLOAT32, false, fixture->pool);
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        struct tensor tensor;
        EXPECT(weights_role(fixture->weights, &fixture->config, parameter->role, parameter->layer, &tensor));
        tensor_read_canonical(&tensor, (size_t)fixture->config.head_size, parameters->floats + parameter->first);
    }
    const struct packed_rows rows = rows_pack(fixture, objective);
    float *value = arena_alloc(&fixture->arena, rows.counted, sizeof *value);
    double loss = network_loss(&network, &rows, 1.0f / (float)rows.counted, true, value) / (double)rows.counted;
    double expected = json_number_value(json_object_get(witness, "loss"));
    EXPECT_NEAR(loss, expected, 1e-5 * expected);
    for (size_t i = 0; i < parameters->table_count && parameters->table[i].trained; i++)
        expect_weight(fixture, &parameters->table[i], parameters->gradients + parameters->table[i].first, gradients, true);
    network_free(&network);
    weights_close(gradients);
}

/* The trainer's weights, read back from what it saves, against a file of PyTorch's. */
static void expect_saved(struct fixture *fixture, enum objective objective, const struct trainer *trainer, const char *path)
{
    int code;
    struct buffer content = { 0 };
    struct parameters parameters;
    trainer_save(trainer, false, NULL, &content);
    struct weights *saved = weights_from_memory(content.data, content.size, "trained"), *expected = weights_open(path, &code);
    parameters_init(&parameters, &fixture->config, objective, &(struct lora_options){ 0 });
    for (size_t i = 0; i < parameters.table_count && parameters.table[i].trained; i++) {
        const struct parameter *parameter = &parameters.table[i];
        const struct tensor *tensor = weights_find(saved, parameter->name);
        EXPECT(tensor != NULL && tensor_elements(tensor) == parameter->count);
        float *actual = arena_alloc(&fixture->arena, parameter->count, sizeof *actual);
        tensor_read(tensor, 0, parameter->count, actual);
        expect_weight(fixture, parameter, actual, expected, false);
    }
    parameters_free(&parameters);
    weights_close(expected);
    weights_close(saved);
    free(content.data);
}

static void expect_trained(struct fixture *fixture, enum objective objective, const char *name)
{
    const json_t *witness = json_object_get(fixture->json, name);
    const json_t *optimiser = json_object_get(fixture->json, "optimiser");
    struct trainer_options options = { .objective = objective, .micro_batch_tokens = 16, .parts = 1 };
    EXPECT_INT(json_unpack((json_t *)optimiser, "{s:F, s:F, s:F, s:F, s:F, s:F}", "learning_rate", &options.learning_rate,
                           "beta1", &options.beta1, "beta2", &options.beta2, "epsilon", &options.epsilon,
                           "weight_decay", &options.weight_decay, "clip_norm", &options.clip_norm), 0);
    int code;
    struct trainer *trainer = trainer_open(&options, &fixture->config, fixture->weights, "", fixture->pool, &code);
    int64_t steps = json_integer_value(json_object_get(fixture->json, "steps"));
    for (int64_t step = 0; step < steps; step++) {
        struct step_metrics metrics;
        EXPECT_INT(trainer_step(trainer, fixture->examples, fixture->count, &metrics), 0);
        if (step == 0) {
            double norm = json_number_value(json_object_get(witness, "gradient_norm"));
            EXPECT_NEAR(metrics.gradient_norm, norm, 1e-5 * norm);
        }
    }
    double expected = json_number_value(json_object_get(witness, "loss_after"));
    EXPECT_NEAR(trainer_loss(trainer, fixture->examples, fixture->count), expected, 1e-4 * expected);

    expect_saved(fixture, objective, trainer, path_of(fixture, name, "_trained.safetensors"));
    trainer_close(trainer);
}

static void expect_objective(enum objective objective, const char *name)
{
    static const char *const directories[] = {
        "tests/parity/train/llama", "tests/parity/train/mistral", "tests/parity/train/qwen2", "tests/parity/train/qwen3",
        "tests/parity/train/gemma2", "tests/parity/train/phi3", "tests/parity/train/gpt2",
    };
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        struct fixture fixture;
        fixture_open(&fixture, directories[i]);
        expect_gradients(&fixture, objective, name);
        expect_trained(&fixture, objective, name);
        fixture_close(&fixture);
    }
}

/* Goal: value models of every family learn what PyTorch's learn. */
static void test_value_objective(void)
{
    expect_objective(OBJECTIVE_VALUE, "value");
}

/* Goal: language models of every family learn what PyTorch's learn. */
static void test_lm_objective(void)
{
    expect_objective(OBJECTIVE_LM, "lm");
}

int main(void)
{
    log_open("test_train_torch", -1);
    RUN(test_value_objective);
    RUN(test_lm_objective);
    return tests_end();
}
