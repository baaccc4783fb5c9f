/*
 * Training against PyTorch: loss, gradient of every weight, and the weights after five clipped steps of AdamW.
 * The witness is tests/parity/train.json, written by tests/parity/make_train.py.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/pool.h"
#include "learn/network.h"
#include "learn/trainer.h"
#include "model/weights.h"
#include "../check.h"

enum { EXAMPLES_MAX = 8, TENSORS_MAX = 64 };

struct fixture {
    json_t *json;
    struct model_config config;
    struct buffer content;  // the weights as a safetensors file
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

static void fixture_weights(struct fixture *fixture)
{
    struct tensor_out tensors[TENSORS_MAX];
    size_t count = 0;
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(fixture->json, "weights"), name, value) {
        struct tensor_out *tensor = &tensors[count++];
        enum weight_role role;
        int64_t layer;
        EXPECT(weight_from_name(name, &role, &layer));
        *tensor = (struct tensor_out){ .name = name, .data = floats_from_json(&fixture->arena, value) };
        tensor->rank = weight_shape(&fixture->config, role, tensor->shape);
    }
    safetensors_write(&fixture->content, tensors, count, NULL, 0);
    fixture->weights = weights_from_memory(fixture->content.data, fixture->content.size, "fixture");
}

static void fixture_open(struct fixture *fixture)
{
    *fixture = (struct fixture){ .json = json_read("tests/parity/train.json"), .pool = pool_open(2) };
    arena_init(&fixture->arena, "fixture", (size_t)1 << 24);
    EXPECT_INT(config_from_json(&fixture->config, json_object_get(fixture->json, "config"), "fixture"), 0);
    fixture_weights(fixture);
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
    free(fixture->content.data);
    arena_free(&fixture->arena);
    pool_close(fixture->pool);
    json_decref(fixture->json);
}

/* |actual - expected| <= tolerance * largest |expected|, over one tensor. */
static void expect_tensor(const char *name, const float *actual, const json_t *expected, double tolerance)
{
    double largest = 0.0;
    for (size_t i = 0; i < json_array_size(expected); i++)
        largest = fmax(largest, fabs(json_number_value(json_array_get(expected, i))));
    for (size_t i = 0; i < json_array_size(expected); i++) {
        double e = json_number_value(json_array_get(expected, i));
        if (!(fabs(actual[i] - e) <= tolerance * largest)) {
            TEST_FAIL("%s[%zu] is %.9g, PyTorch says %.9g, largest %.3g", name, i, (double)actual[i], e, largest);
            return;
        }
    }
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

static void expect_gradients(struct fixture *fixture, enum objective objective, const json_t *witness)
{
    struct network network;
    network_init(&network, &fixture->config, objective, fixture->pool);
    for (size_t i = 0; i < network.table_count; i++)
        tensor_read(weights_find(fixture->weights, network.table[i].name), 0, network.table[i].count,
                    network.parameters + network.table[i].first);
    const struct packed_rows rows = rows_pack(fixture, objective);
    float *value = arena_alloc(&fixture->arena, rows.counted, sizeof *value);
    double loss = network_loss(&network, &rows, 1.0f / (float)rows.counted, true, value) / (double)rows.counted;
    double expected = json_number_value(json_object_get(witness, "loss"));
    EXPECT_NEAR(loss, expected, 1e-5 * expected);
    const json_t *gradients = json_object_get(witness, "gradients");
    size_t trained = 0;
    for (size_t i = 0; i < network.table_count; i++) {
        const struct parameter *parameter = &network.table[i];
        if (parameter->first >= network.trained_count)
            continue;
        const json_t *gradient = json_object_get(gradients, parameter->name);
        EXPECT_INT(json_array_size(gradient), parameter->count);
        expect_tensor(parameter->name, network.gradients + parameter->first, gradient, 1e-4);
        trained++;
    }
    EXPECT_INT(trained, json_object_size(gradients));
    network_free(&network);
}

static void expect_trained(struct fixture *fixture, enum objective objective, const json_t *witness)
{
    const json_t *optimiser = json_object_get(fixture->json, "optimiser");
    struct trainer_options options = { .objective = objective, .micro_batch_tokens = 16 };
    EXPECT_INT(json_unpack((json_t *)optimiser, "{s:F, s:F, s:F, s:F, s:F, s:F}", "learning_rate", &options.learning_rate,
                           "beta1", &options.beta1, "beta2", &options.beta2, "epsilon", &options.epsilon,
                           "weight_decay", &options.weight_decay, "clip_norm", &options.clip_norm), 0);
    struct trainer *trainer = trainer_open(&options, &fixture->config, fixture->weights, "", fixture->pool);
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

    struct buffer content = { 0 };
    trainer_save(trainer, false, NULL, &content);
    struct weights *weights = weights_from_memory(content.data, content.size, "trained");
    const char *name;
    json_t *trained;
    json_object_foreach(json_object_get(witness, "trained"), name, trained) {
        const struct tensor *tensor = weights_find(weights, name);
        EXPECT(tensor != NULL && tensor_elements(tensor) == json_array_size(trained));
        float *data = arena_alloc(&fixture->arena, tensor_elements(tensor), sizeof *data);
        tensor_read(tensor, 0, tensor_elements(tensor), data);
        expect_tensor(name, data, trained, 1e-4);
    }
    weights_close(weights);
    free(content.data);
    trainer_close(trainer);
}

static void expect_objective(enum objective objective, const char *name)
{
    struct fixture fixture;
    fixture_open(&fixture);
    const json_t *witness = json_object_get(fixture.json, name);
    expect_gradients(&fixture, objective, witness);
    expect_trained(&fixture, objective, witness);
    fixture_close(&fixture);
}

/* Goal: a value model learns what PyTorch's learns. */
static void test_value_objective(void)
{
    expect_objective(OBJECTIVE_VALUE, "value");
}

/* Goal: a language model learns what PyTorch's learns. */
static void test_lm_objective(void)
{
    expect_objective(OBJECTIVE_LM, "lm");
}

int main(void)
{
    RUN(test_value_objective);
    RUN(test_lm_objective);
    return tests_end();
}
