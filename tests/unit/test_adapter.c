/*
 * Adapters in PEFT's files: what PEFT wrote (tests/parity/make_peft.py) computes what PEFT computes, what the trainer writes
 * is the model that it merges, and what is broken is refused.
 */
#include "model/adapter.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "learn/trainer.h"
#include "model/model.h"
#include "model/weights.h"
#include "../check.h"
#include "stderr_text.h"

enum { POSITIONS = 12 };

/* ---- PEFT's adapters ---- */

static void expect_logits(const struct model *model, const char *directory)
{
    char *tokens_path = memory_printf("%s/tokens.json", directory), *logits_path = memory_printf("%s/logits.f32", directory);
    json_t *json = json_read(tokens_path);
    size_t size;
    char *logits = file_read(logits_path, &size);
    const size_t C = (size_t)model_config(model)->channel_count, V = (size_t)model_config(model)->vocab_size;
    EXPECT_INT(size, POSITIONS * V * sizeof(float));
    int32_t tokens[POSITIONS];
    for (size_t t = 0; t < POSITIONS; t++)
        tokens[t] = (int32_t)json_integer_value(json_array_get(json, t));
    float *hidden = memory_alloc(POSITIONS * C, sizeof *hidden), *actual = memory_alloc(POSITIONS * V, sizeof *actual);
    float *expected = memory_alloc(POSITIONS * V, sizeof *expected);
    memcpy(expected, logits, POSITIONS * V * sizeof *expected);
    struct cache *cache = cache_open(model, 2 * CACHE_PAGE_POSITIONS);
    model_extend(model, cache, sequence_open(cache), tokens, POSITIONS, hidden, NULL);
    model_logits(model, hidden, POSITIONS, actual);
    EXPECT_FLOATS(actual, expected, POSITIONS * V, 1e-4);
    cache_close(cache);
    free(hidden), free(actual), free(expected), free(logits), free(tokens_path), free(logits_path);
    json_decref(json);
}

/* The adapter beside the weights of its base, which keep their own. */
static void expect_unmerged_logits(const char *directory, struct pool *pool)
{
    int code;
    char *base = adapter_base_path(directory, &code);
    struct model *trunk = model_open(base, pool, &code), *model = model_open_adapter(directory, trunk, &code);
    EXPECT(model != NULL && strcmp(model_key(model), model_key(trunk)) != 0);
    expect_logits(model, directory);
    model_close(model);
    model_close(trunk);
    free(base);
}

/*
 * Goal: PEFT's adapters as models: single modules, all linear ones with a stabilised scale, a head that was trained whole,
 * transposed and fused modules, and ranks and alphas by pattern.  Their base is found from the adapter's own directory.  Unmerged
 * they compute the same; one that holds a whole head cannot be used so, and says it.
 */
static void test_peft_agrees(void)
{
    static const char *const directories[] = {
        "tests/parity/peft/llama", "tests/parity/peft/llama_stabilised", "tests/parity/peft/llama_head",
        "tests/parity/peft/gpt2", "tests/parity/peft/phi3", "tests/parity/peft/gemma2",
    };
    struct pool *pool = pool_open(1);
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        int code;
        struct model *merged = model_open(directories[i], pool, &code);
        EXPECT(merged != NULL);
        expect_logits(merged, directories[i]);
        model_close(merged);
        EXPECT_INT(adapter_is_low_rank(directories[i], &code), strcmp(directories[i], "tests/parity/peft/llama_head") != 0);
        EXPECT_INT(code, EX_OK);
        if (adapter_is_low_rank(directories[i], &code))
            expect_unmerged_logits(directories[i], pool);
    }
    pool_close(pool);
}

/* ---- ours ---- */

static void trainer_run(struct trainer *trainer, enum objective objective)
{
    static const int32_t tokens[] = { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3 };
    static const float target[] = { 1, -1, 0.5f, 2, 0, 1, 0, -2, 1, 0.25f };
    const struct example example = { .tokens = tokens, .T = 10, .target = objective == OBJECTIVE_VALUE ? target : NULL };
    struct step_metrics metrics;
    double first = 0.0;
    for (int step = 0; step < 12; step++) {
        EXPECT_INT(trainer_step(trainer, &example, 1, &metrics), 0);
        if (step == 0)
            first = metrics.loss;
    }
    EXPECT(metrics.loss < first);
}

/* Trains adapters on a base, writes them to directory, and expects the key of the merged weights from it. */
static void expect_own_adapter(const char *base, enum objective objective, const char *targets, const char *directory,
                               struct pool *pool)
{
    int code;
    struct model_config config;
    char key[KEY_SIZE], merged_key[KEY_SIZE], adapter_key[KEY_SIZE];
    EXPECT_INT(config_open(&config, base), EX_OK);
    struct weights *weights = weights_open(base, &code);
    weights_key(weights, &config, NULL, key);
    struct trainer_options options = trainer_defaults(objective);
    options.learning_rate = 1e-2;
    options.warmup_steps = 2;
    options.lora = (struct lora_options){ .rank = 3, .alpha = 5, .base_key = key };
    EXPECT_INT(lora_targets_read(targets, &options.lora.targets), 0);
    struct trainer *trainer = trainer_open(&options, &config, weights, "", pool, &code);
    trainer_run(trainer, objective);

    struct buffer content = { 0 };
    trainer_save(trainer, false, NULL, &content);
    struct weights *merged = weights_from_memory(content.data, content.size, "merged");
    weights_key(merged, &config, NULL, merged_key);
    EXPECT_INT(trainer_export_adapter(trainer, base, directory), 0);
    struct weights *adapted = weights_open(directory, &code);
    EXPECT(adapted != NULL && adapter_is_directory(directory));
    weights_key(adapted, &config, NULL, adapter_key);
    if (objective == OBJECTIVE_VALUE)
        EXPECT_TEXT(adapter_key, merged_key);
    else
        EXPECT(strcmp(adapter_key, key) != 0);  // the base has a value head, which a language model drops
    weights_close(adapted);
    weights_close(merged);
    trainer_close(trainer);
    weights_close(weights);
    free(content.data);
}

/* Goal: for every family, adapters of all and of some matrices lower the loss and come back as the merged weights, to the bit. */
static void test_own_adapters(void)
{
    static const struct {
        const char *base, *targets;
    } cases[] = {
        { "tests/parity/train/llama", "q,k,v,o,gate,up,down" }, { "tests/parity/train/mistral", "q,v" },
        { "tests/parity/train/qwen2", "o,down" }, { "tests/parity/train/qwen3", "k" },
        { "tests/parity/train/gemma2", "q,k,v,o,up" },
        { "tests/parity/train/phi3", "q,v,up,down" }, { "tests/parity/train/gpt2", "k,v,o,up,down" },
    };
    struct pool *pool = pool_open(1);
    char directory[64];
    test_directory(directory, sizeof directory);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (enum objective objective = OBJECTIVE_VALUE; objective <= OBJECTIVE_LM; objective++)
            expect_own_adapter(cases[i].base, objective, cases[i].targets, directory, pool);
    char *remove = memory_printf("rm -r %s", directory);
    EXPECT_INT(system(remove), 0);
    free(remove);
    pool_close(pool);
}

/* ---- what is refused ---- */

static void write_text(const char *directory, const char *file, const void *data, size_t size)
{
    char *path = memory_printf("%s/%s", directory, file);
    EXPECT_INT(file_write(path, data, size), 0);
    free(path);
}

static void write_adapter(const char *directory, const char *config, const struct tensor_out *tensors, size_t count)
{
    struct buffer content = { 0 };
    safetensors_write(&content, tensors, count, NULL, 0);
    write_text(directory, "adapter_config.json", config, strlen(config));
    write_text(directory, "adapter_model.safetensors", content.data, content.size);
    free(content.data);
}

static void expect_refused(const char *directory, int expected_code, const char *expected)
{
    int code = 0;
    stderr_hold();
    struct weights *weights = weights_open(directory, &code);
    const char *text = stderr_release();
    if (weights != NULL || code != expected_code || strstr(text, expected) == NULL)
        TEST_FAIL("code %d, expected %d with \"%s\", said: %s", code, expected_code, expected, text);
    weights_close(weights);
}

#define Q_PROJ "base_model.model.model.layers.0.self_attn.q_proj"
#define BASE "\"base_model_name_or_path\": \"tests/parity/train/llama\""

/* Goal: configs that say other arithmetic, tensors that fit nothing, and bases that are not there are refused by name. */
static void test_refuses(void)
{
    static const struct {
        const char *config, *expected;
        int code;
    } configs[] = {
        { "[]", "it is not an object", EX_DATAERR },
        { "{\"peft_type\": \"LORA\"", "adapter_config.json", EX_DATAERR },
        { "{}", "has no base_model_name_or_path", EX_DATAERR },
        { "{\"base_model_name_or_path\": \"nobody/nothing\"}", "is not here", EX_NOINPUT },
        { "{\"base_model_name_or_path\": \"tests/parity/peft/llama\"}", "is an adapter itself", EX_DATAERR },
        { "{" BASE "}", "peft_type must be", EX_DATAERR },
        { "{" BASE ", \"peft_type\": \"IA3\"}", "peft_type must be", EX_DATAERR },
        { "{" BASE ", \"peft_type\": \"LORA\", \"r\": 2}", "lora_alpha must be a number", EX_DATAERR },
        { "{" BASE ", \"peft_type\": \"LORA\", \"lora_alpha\": 2, \"use_dora\": true}", "use_dora is not supported", EX_DATAERR },
        { "{" BASE ", \"peft_type\": \"LORA\", \"lora_alpha\": 2, \"init_lora_weights\": \"pissa\"}",
          "init_lora_weights must be", EX_DATAERR },
        { "{" BASE ", \"peft_type\": \"LORA\", \"lora_alpha\": 2, \"alpha_pattern\": {\"q.*\": 1}}", "alpha_pattern must",
          EX_DATAERR },
    };
    static const float zeros[256];
    const struct tensor_out good[] = {
        { Q_PROJ ".lora_A.weight", 2, { 2, 12 }, zeros }, { Q_PROJ ".lora_B.weight", 2, { 16, 2 }, zeros },
    };
    char directory[64];
    test_directory(directory, sizeof directory);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        write_adapter(directory, configs[i].config, good, 2);
        expect_refused(directory, configs[i].code, configs[i].expected);
    }

    static const char config[] = "{" BASE ", \"peft_type\": \"LORA\", \"lora_alpha\": 2}";
    struct tensor_out bad[2];
    const struct {
        size_t tensor, dimension;
        int64_t size;
        const char *name, *expected;
    } tensors[] = {
        { 0, 1, 11, NULL, "lora_A.weight\" has rank 2 and shape (2, 11), the model needs (2, 12)" },
        { 0, 0, 3, NULL, "lora_B.weight\" has rank 2 and shape (16, 2), the model needs (16, 3)" },
        { 1, 0, 15, NULL, "lora_B.weight\" has rank 2 and shape (15, 2), the model needs (16, 2)" },
        { 1, 0, 16, Q_PROJ ".lora_C.weight", "has only one of lora_A and lora_B" },
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        memcpy(bad, good, sizeof bad);
        bad[tensors[i].tensor].shape[tensors[i].dimension] = tensors[i].size;
        if (tensors[i].name != NULL)
            bad[tensors[i].tensor].name = tensors[i].name;
        write_adapter(directory, config, bad, 2);
        expect_refused(directory, EX_DATAERR, tensors[i].expected);
    }
    const struct tensor_out strange[] = { good[0], good[1], { "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", 2,
                                                              { 2, 12 }, zeros } };
    write_adapter(directory, config, strange, 3);
    expect_refused(directory, EX_DATAERR, "layers.9.mlp.up_proj.lora_A.weight\" belongs to no weight");
    static const char tied[] = "{\"base_model_name_or_path\": \"tests/parity/train/qwen2\", \"peft_type\": \"LORA\","
                               " \"lora_alpha\": 2}";
    const struct tensor_out embedding[] = { { "base_model.model.model.embed_tokens.weight", 2, { 11, 16 }, zeros } };
    write_adapter(directory, tied, embedding, 1);
    expect_refused(directory, EX_DATAERR, "model.embed_tokens.weight replaces an embedding that is the LM head too");

    write_adapter(directory, config, good, 2);
    write_text(directory, "value_head.safetensors", "not one", 7);
    expect_refused(directory, EX_DATAERR, "value_head.safetensors");
    char *remove = memory_printf("rm %s/adapter_model.safetensors %s/value_head.safetensors", directory, directory);
    EXPECT_INT(system(remove), 0);
    free(remove);
    expect_refused(directory, EX_NOINPUT, "adapter_model.safetensors");
    remove = memory_printf("rm -r %s", directory);
    EXPECT_INT(system(remove), 0);
    free(remove);
}

int main(void)
{
    log_open("test_adapter", -1);
    RUN(test_peft_agrees);
    RUN(test_own_adapters);
    RUN(test_refuses);
    return tests_end();
}
