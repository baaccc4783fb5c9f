/*
 * test_family.c - what the families of decoders say in config.json, and their weights under any name.
 *
 * tests/parity/families/NAME/ are models that transformers saved (make_families.py).
 */
#define _GNU_SOURCE
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/config.h"
#include "model/family.h"
#include "model/model.h"
#include "model/weights.h"
#include "../check.h"
#include "stderr_text.h"

static const char *const names[] = {
    "llama_llama3", "llama_yarn", "llama_linear", "llama_scores", "mistral_window", "mistral_plain", "mistral_scores",
    "qwen2_untied", "qwen2_window", "qwen2_scores", "qwen3_norms", "qwen3_layers", "qwen3_scores", "gemma2_capped",
    "gemma2_uncapped", "gemma2_scores", "phi3_window", "phi3_longrope", "phi3_scores", "gpt2_tied", "gpt2_bare", "gpt2_untied",
    "gpt2_scores",
};

static const char *directory_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "tests/parity/families/%s", name);
    return path;
}

static json_t *json_of(const char *name)
{
    char *path = memory_printf("%s/config.json", directory_of(name));
    json_t *json = json_read(path);
    CHECK(json != NULL);
    free(path);
    return json;
}

static struct model_config config_of(const char *name)
{
    struct model_config config;
    json_t *json = json_of(name);
    CHECK(config_from_json(&config, json, name) == 0);
    json_decref(json);
    return config;
}

/* A model's config.json with some keys set to the JSON in value (NULL: removed), read; 0 or -1. */
struct change { const char *key, *value; };

static int read_changed(struct model_config *config, const char *name, const struct change *changes, size_t count)
{
    json_t *json = json_of(name);
    for (size_t i = 0; i < count; i++) {
        if (changes[i].value == NULL)
            json_object_del(json, changes[i].key);
        else
            json_object_set_new(json, changes[i].key, json_loads(changes[i].value, JSON_DECODE_ANY, NULL));
    }
    int result = config_from_json(config, json, "made");
    json_decref(json);
    return result;
}
#define READ_CHANGED(config, name, ...) \
    read_changed(config, name, (struct change[]){ __VA_ARGS__ }, COUNT_OF(((struct change[]){ __VA_ARGS__ })))

/* ---- config.json ---- */

/* Goal: what is written reads back the same, for every family and kind of rotary scaling. */
static void test_round_trip(void)
{
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct model_config config = config_of(names[i]), again;
        json_t *json = config_to_json(&config);
        EXPECT_INT(config_from_json(&again, json, names[i]), 0);
        json_t *json_again = config_to_json(&again);
        if (!json_equal(json, json_again))
            TEST_FAIL("%s is another after it was written and read", names[i]);
        json_decref(json_again);
        json_decref(json);
    }
}

/* Goal: each kind of rotary scaling arrives with its numbers, in both spellings. */
static void test_rope_kinds(void)
{
    struct model_config config = config_of("llama_llama3");
    EXPECT_INT(config.rope.kind, ROPE_LLAMA3);
    EXPECT(config.rope.factor == 8 && config.rope.low_frequency == 1 && config.rope.high_frequency == 4);
    EXPECT_INT(config.rope.original_positions, 24);
    EXPECT(config.rope_theta == 100 && config.qkv_bias && config.o_bias && config.ff_bias);

    config = config_of("llama_yarn");
    EXPECT_INT(config.rope.kind, ROPE_YARN);
    EXPECT(config.rope.factor == 4 && config.rope.beta_fast == 2 && config.rope.beta_slow == 0.25);
    EXPECT_NEAR(config.rope.attention_factor, 0.1 * log(4) + 1, 1e-12);

    config = config_of("llama_linear");
    EXPECT(config.rope.kind == ROPE_LINEAR && config.rope.factor == 2.5);
    config = config_of("llama_scores");
    EXPECT(config.rope.kind == ROPE_DYNAMIC && config.rope.factor == 2);

    config = config_of("phi3_longrope");
    EXPECT_INT(config.rope.kind, ROPE_LONGROPE);
    EXPECT(config.rope.factors[1] == 1.25f && config.rope.long_factors[2] == 9.5f);
    EXPECT_INT(config.position_max, 16);  // where the short factors end
    EXPECT_INT(config.rope.long_positions, 64);
    EXPECT_NEAR(config.rope.attention_factor, sqrt(1.5), 1e-12);  // 1 + ln 4 / ln 16
}

/* Goal: what transformers takes for fields left out: YaRN's ramp and ratio, longrope's factor, Phi-3's older names. */
static void test_rope_defaults(void)
{
    struct model_config config;
    EXPECT_INT(READ_CHANGED(&config, "llama_linear", { "rope_scaling",
        "{\"rope_type\": \"yarn\", \"factor\": null, \"original_max_position_embeddings\": 16}" }), 0);
    EXPECT(config.rope.factor == 2 && config.rope.beta_fast == 32 && config.rope.beta_slow == 1);  // 32 / 16 positions
    EXPECT_INT(READ_CHANGED(&config, "llama_linear", { "rope_scaling",
        "{\"type\": \"yarn\", \"factor\": 2, \"mscale\": 2, \"mscale_all_dim\": 1}" }), 0);
    EXPECT_NEAR(config.rope.attention_factor, (0.2 * log(2) + 1) / (0.1 * log(2) + 1), 1e-12);
    EXPECT_INT(config.rope.original_positions, 32);
    EXPECT_INT(READ_CHANGED(&config, "llama_linear", { "rope_scaling",
        "{\"rope_type\": \"yarn\", \"factor\": 2, \"attention_factor\": 1.5, \"truncate\": true}" }), 0);
    EXPECT_NEAR(config.rope.attention_factor, 1.5, 0);
    EXPECT_INT(READ_CHANGED(&config, "phi3_longrope", { "rope_scaling",
        "{\"type\": \"su\", \"factor\": 16, \"short_factor\": [1, 1, 1], \"long_factor\": [1, 1, 1]}" }), 0);
    EXPECT_NEAR(config.rope.attention_factor, sqrt(2), 1e-12);
    json_t *json = config_to_json(&config);
    struct model_config again;
    EXPECT_INT(config_from_json(&again, json, "again"), 0);
    EXPECT_NEAR(again.rope.attention_factor, sqrt(2), 1e-12);  // which its positions alone would not give
    json_decref(json);
    EXPECT_INT(READ_CHANGED(&config, "phi3_longrope", { "original_max_position_embeddings", NULL }), 0);
    EXPECT_INT(config.rope.original_positions, 4096);  // the class's, above the 64 of this model
    EXPECT_INT(config.position_max, 64);
    EXPECT_NEAR(config.rope.attention_factor, 1, 0);
    /* nested for each layer type, equal */
    EXPECT_INT(READ_CHANGED(&config, "gemma2_capped", { "rope_parameters",
        "{\"sliding_attention\": {\"rope_type\": \"linear\", \"factor\": 3, \"rope_theta\": 7e3}, "
        "\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 3, \"rope_theta\": 7e3}}" }), 0);
    EXPECT(config.rope.kind == ROPE_LINEAR && config.rope.factor == 3 && config.rope_theta == 7000);
}

/* Goal: the windows of each layer are transformers': everywhere, behind the first layers, every other, as layer_types say. */
static void test_windows(void)
{
    static const struct { const char *name; int64_t windows[3]; } expected[] = {  // 32 positions
        { "mistral_window", { 5, 5, -1 } }, { "mistral_plain", { 32, 32, -1 } }, { "qwen2_window", { 32, 4, 4 } },
        { "qwen2_untied", { 32, 32, -1 } }, { "qwen3_layers", { 32, 3, 32 } }, { "gemma2_capped", { 4, 32, 4 } },
        { "gemma2_scores", { 32, 32, -1 } }, { "phi3_window", { 6, 6, -1 } },
    };
    struct model_config config;
    for (size_t i = 0; i < COUNT_OF(expected); i++) {
        config = config_of(expected[i].name);
        for (int64_t l = 0; l < config.layer_count; l++)
            if (config_window(&config, l) != expected[i].windows[l])
                TEST_FAIL("layer %lld of %s has window %lld", (long long)l, expected[i].name, (long long)config_window(&config, l));
    }
    EXPECT_INT(READ_CHANGED(&config, "gemma2_capped", { "layer_types", NULL }), 0);
    EXPECT(config_window(&config, 0) == 4 && config_window(&config, 1) == 32 && config_window(&config, 2) == 4);
    EXPECT_INT(READ_CHANGED(&config, "gemma2_capped", { "layer_types",
        "[\"sliding_attention\", \"full_attention\", \"full_attention\"]" }), 0);
    EXPECT(config_window(&config, 0) == 4 && config_window(&config, 1) == 32 && config_window(&config, 2) == 32);
    EXPECT_INT(READ_CHANGED(&config, "gemma2_capped", { "layer_types",
        "[\"full_attention\", \"full_attention\", \"full_attention\"]" }), 0);
    EXPECT_INT(config.window, 0);
    json_t *json = config_to_json(&config);
    EXPECT_INT(json_integer_value(json_object_get(json, "sliding_window")), 32);  // transformers refuses null
    json_decref(json);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_window", { "layer_types", NULL }, { "max_window_layers", "3" }), 0);
    EXPECT_INT(config.window, 0);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_window", { "layer_types", NULL }, { "use_sliding_window", NULL }), 0);
    EXPECT_INT(config.window, 0);
    EXPECT_INT(READ_CHANGED(&config, "mistral_window", { "sliding_window", NULL }, { "max_position_embeddings", "8192" }), 0);
    EXPECT_INT(config_window(&config, 0), 4096);
}

/* Goal: what a family always has, and transformers' defaults of what its config.json leaves out. */
static void test_family_traits(void)
{
    struct model_config config = config_of("gemma2_capped");
    EXPECT(config.post_norms && config.tied_embeddings && config.activation == ACTIVATION_GELU_TANH);
    EXPECT(config.attention_cap == 3 && config.logit_cap == 4);
    EXPECT_NEAR(config.embedding_scale, (double)sqrtf(12), 0);
    EXPECT_NEAR(config.attention_scale, 1 / sqrt(6), 0);
    EXPECT_INT(READ_CHANGED(&config, "gemma2_capped", { "query_pre_attn_scalar", NULL }, { "attn_logit_softcapping", NULL },
                            { "final_logit_softcapping", NULL }, { "tie_word_embeddings", NULL }, { "hidden_activation", NULL },
                            { "head_dim", NULL }, { "num_attention_heads", "4" }, { "num_key_value_heads", NULL }), 0);
    EXPECT(config.attention_scale == 1.0 / 16 && config.attention_cap == 50 && config.logit_cap == 30 && config.tied_embeddings);
    EXPECT(config.head_size == 256 && config.kv_head_count == 4);
    config = config_of("gemma2_uncapped");
    EXPECT(config.attention_cap == 0 && config.logit_cap == 0 && config.qkv_bias && config.o_bias && !config.tied_embeddings);

    config = config_of("gpt2_tied");
    EXPECT(config.learned_positions && config.norm == NORM_LAYER && config.plain_ff && config.ff_bias && config.tied_embeddings);
    EXPECT(config.ff_count == 48 && config.head_size == 4 && config.activation == ACTIVATION_GELU_TANH);
    config = config_of("gpt2_untied");
    EXPECT(config.ff_count == 17 && config.activation == ACTIVATION_GELU && !config.tied_embeddings);
    EXPECT_INT(READ_CHANGED(&config, "gpt2_tied", { "n_positions", NULL }, { "n_ctx", "24" }), 0);
    EXPECT_INT(config.position_max, 24);

    config = config_of("qwen2_untied");
    EXPECT(config.qkv_bias && !config.o_bias);
    config = config_of("qwen3_norms");
    EXPECT(config.qk_norm && !config.qkv_bias && config.head_size == 8);
    EXPECT_INT(READ_CHANGED(&config, "mistral_window", { "num_attention_heads", "16" }, { "head_dim", "2" },
                            { "num_key_value_heads", NULL }), 0);
    EXPECT_INT(config.kv_head_count, 8);
    EXPECT_INT(READ_CHANGED(&config, "mistral_window", { "num_key_value_heads", "null" }, { "head_dim", "null" }), 0);
    EXPECT(config.kv_head_count == 3 && config.head_size == 4);
    EXPECT_INT(READ_CHANGED(&config, "phi3_window", { "rms_norm_eps", NULL }), 0);
    EXPECT_NEAR(config.norm_epsilon, 1e-5, 0);
}

/* Goal: a classifier has as many labels as it names, 2 where it names none, and no LM head. */
static void test_labels(void)
{
    struct model_config config = config_of("mistral_scores");
    EXPECT_INT(config.label_count, 3);
    EXPECT(weight_required(&config, WEIGHT_SCORE) && !weight_present(&config, WEIGHT_LM_HEAD));
    EXPECT_INT(config_of("qwen2_scores").label_count, 2);
    EXPECT_INT(config_of("llama_scores").label_count, 1);
    EXPECT_INT(config_of("qwen2_untied").label_count, 0);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_scores", { "num_labels", "5" }), 0);
    EXPECT_INT(config.label_count, 5);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_scores", { "id2label", "{}" }), -1);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_scores", { "num_labels", "0" }), -1);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_scores", { "num_labels", "65537" }), -1);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_scores", { "num_labels", "\"2\"" }), -1);
    EXPECT_INT(READ_CHANGED(&config, "qwen2_scores", { "id2label", "[\"a\"]" }), -1);
}

/* Goal: whatever changes the arithmetic in a way we lack, or makes no sense, is refused. */
static void test_refusals(void)
{
    static const struct { const char *name, *key, *value; } refused[] = {
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 0.5}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": \"2\"}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"su\", \"factor\": 2}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"proportional\"}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": [\"linear\"], \"factor\": 2}" },
        { "llama_linear", "partial_rotary_factor", "0.5" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"longrope\", \"short_factor\": [1, 1], \"long_factor\": [1]}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"longrope\", \"short_factor\": [1, 0], \"long_factor\": [1, 1]}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"longrope\", \"short_factor\": [1, \"1\"], \"long_factor\": [1, 1]}" },
        { "llama_linear", "rope_scaling", "{\"rope_type\": \"longrope\", \"short_factor\": 1, \"long_factor\": [1, 1]}" },
        { "llama_llama3", "rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
                                             "\"high_freq_factor\": 4}" },
        { "llama_llama3", "rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1, \"beta_slow\": 2}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"truncate\": false}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 0}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 8.5}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"attention_factor\": -1}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": \"32\"}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"beta_slow\": []}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"mscale\": {}}" },
        { "llama_yarn", "rope_scaling", "{\"type\": \"linear\", \"factor\": 2, \"partial_rotary_factor\": []}" },
        { "llama_yarn", "rope_theta", "1" },
        { "mistral_window", "sliding_window", "0" }, { "mistral_window", "sliding_window", "-5" },
        { "mistral_window", "sliding_window", "2147483648" }, { "mistral_window", "sliding_window", "5.5" },
        { "mistral_window", "model_type", "\"llama\"" }, { "mistral_window", "architectures", "[\"MixtralForCausalLM\"]" },
        { "mistral_window", "architectures", "[\"MistralForTokenClassification\"]" },
        { "qwen2_window", "use_sliding_window", "1" }, { "qwen2_window", "use_sliding_window", "false" },
        { "qwen2_window", "max_window_layers", "-1" },
        { "qwen2_window", "layer_types", "[\"sliding_attention\"]" }, { "qwen2_window", "layer_types", "\"full_attention\"" },
        { "qwen2_window", "layer_types", "[\"full_attention\", \"full_attention\", \"chunked_attention\"]" },
        { "qwen2_window", "layer_types", "[\"full_attention\", \"full_attention\", 7]" },
        { "qwen3_norms", "attention_bias", "0" }, { "qwen3_norms", "num_key_value_heads", "2" }, { "qwen3_norms", "head_dim", "7" },
        { "gemma2_capped", "attn_logit_softcapping", "-3" }, { "gemma2_capped", "final_logit_softcapping", "\"30\"" },
        { "gemma2_capped", "query_pre_attn_scalar", "0" }, { "gemma2_capped", "query_pre_attn_scalar", "2.5" },
        { "gemma2_capped", "hidden_activation", "\"quick_gelu\"" }, { "gemma2_capped", "use_bidirectional_attention", "true" },
        { "gemma2_capped", "rope_parameters", "{\"sliding_attention\": {\"rope_theta\": 1e4}, "
                                              "\"full_attention\": {\"rope_theta\": 2e4}}" },
        { "gemma2_capped", "rope_parameters", "{\"sliding_attention\": null, \"full_attention\": {\"rope_theta\": 2e4}}" },
        { "phi3_window", "rope_scaling", "{\"type\": \"linear\", \"factor\": 2}" },
        { "phi3_longrope", "partial_rotary_factor", "0.75" },
        { "phi3_longrope", "rope_scaling", "{\"type\": \"longrope\", \"short_factor\": [1, 1, 1]}" },
        { "phi3_longrope", "original_max_position_embeddings", "\"16\"" },
        { "gpt2_tied", "scale_attn_weights", "false" }, { "gpt2_tied", "scale_attn_by_inverse_layer_idx", "true" },
        { "gpt2_tied", "add_cross_attention", "true" }, { "gpt2_tied", "activation_function", "\"relu\"" },
        { "gpt2_tied", "n_head", "5" }, { "gpt2_tied", "n_inner", "0" }, { "gpt2_tied", "n_embd", "null" },
        { "gpt2_tied", "layer_norm_epsilon", "0" }, { "gpt2_tied", "quantization_config", "{}" },
    };
    struct model_config config;
    EXPECT_INT(READ_CHANGED(&config, "llama_yarn", { "architectures", "null" }, { "model_type", "null" }), -1);
    EXPECT_INT(READ_CHANGED(&config, "llama_linear", { "hidden_size", "131072" }, { "head_dim", "null" },
                            { "num_attention_heads", "1" }), -1);  // a head of 131072
    EXPECT_INT(READ_CHANGED(&config, "qwen2_window", { "num_hidden_layers", "4" }, { "layer_types",
        "[\"sliding_attention\", \"full_attention\", \"sliding_attention\", \"sliding_attention\"]" }), -1);
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        stderr_hold();
        int result = READ_CHANGED(&config, refused[i].name, { refused[i].key, refused[i].value });
        const char *message = stderr_release(), *end = strchr(message, '\n');
        if (result == 0)
            TEST_FAIL("%s with %s = %s was accepted", refused[i].name, refused[i].key, refused[i].value);
        else if (end == NULL || end[1] != '\0')
            TEST_FAIL("%s with %s = %s did not give one line: %s", refused[i].name, refused[i].key, refused[i].value, message);
    }
}

/* Goal: keys of one family mean nothing to another, as in transformers. */
static void test_keys_of_others(void)
{
    struct model_config config;
    EXPECT_INT(READ_CHANGED(&config, "qwen2_untied", { "attention_bias", "\"strange\"" }, { "scale_attn_weights", "false" }), 0);
    EXPECT_INT(READ_CHANGED(&config, "llama_linear", { "sliding_window", "3" }), 0);
    EXPECT_INT(config.window, 0);
    EXPECT_INT(READ_CHANGED(&config, "gpt2_tied", { "rope_scaling", "{\"type\": \"linear\"}" }, { "rope_theta", "-1" }), 0);
}

/* Goal: a config whose every key in turn is another kind of value is refused or read within its limits. */
static void test_each_key_broken(void)
{
    static const char *const values[] = { "null", "true", "-1", "0", "1", "7.5", "1e300", "9223372036854775807", "\"x\"", "[]",
                                          "[1]", "{}", "{\"rope_type\": 1}" };
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        json_t *json = json_of(names[i]), *value;
        const char *key;
        json_object_foreach(json, key, value) {
            for (size_t k = 0; k < COUNT_OF(values); k++) {
                struct model_config config, again;
                if (READ_CHANGED(&config, names[i], { key, values[k] }) != 0)
                    continue;
                json_t *written = config_to_json(&config);
                if (config_from_json(&again, written, "again") != 0 || config_parameter_count(&config) <= 0)
                    TEST_FAIL("%s with %s = %s was accepted, but not when written", names[i], key, values[k]);
                json_decref(written);
            }
        }
        json_decref(json);
    }
}

/* Goal: config.json of published models, abridged, give the number of parameters that their pages state. */
static void test_published(void)
{
    static const struct { int64_t parameters; const char *text; } published[] = {
        /* gpt2 */
        { 124439808, "{\"activation_function\": \"gelu_new\", \"architectures\": [\"GPT2LMHeadModel\"], \"layer_norm_epsilon\":"
          " 1e-05,"
          "\"model_type\": \"gpt2\", \"n_ctx\": 1024, \"n_embd\": 768, \"n_head\": 12, \"n_layer\": 12, \"n_positions\": 1024,"
          "\"summary_activation\": null, \"summary_type\": \"cls_index\", \"vocab_size\": 50257}" },
        /* TinyLlama 1.1B */
        { 1100048384, "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 2048,"
          "\"intermediate_size\": 5632, \"max_position_embeddings\": 2048, \"model_type\": \"llama\", \"num_attention_heads\": 32,"
          "\"num_hidden_layers\": 22, \"num_key_value_heads\": 4, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-05,"
          "\"rope_scaling\": null, \"tie_word_embeddings\": false, \"vocab_size\": 32000}" },
        /* Llama 3.1 8B */
        { 8030261248, "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, \"hidden_act\": \"silu\","
          "\"hidden_size\": 4096, \"intermediate_size\": 14336, \"max_position_embeddings\": 131072, \"mlp_bias\": false,"
          "\"model_type\": \"llama\", \"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 8,"
          "\"rms_norm_eps\": 1e-05, \"rope_scaling\": {\"factor\": 8.0, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0,"
          "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, \"rope_theta\": 500000.0, \"vocab_size\":"
          " 128256}" },
        /* Mistral 7B v0.1 */
        { 7241732096, "{\"architectures\": [\"MistralForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 4096,"
          "\"intermediate_size\": 14336, \"max_position_embeddings\": 32768, \"model_type\": \"mistral\","
          "\"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-05,"
          "\"rope_theta\": 10000.0, \"sliding_window\": 4096, \"tie_word_embeddings\": false, \"vocab_size\": 32000}" },
        /* Qwen 2.5 0.5B */
        { 494032768, "{\"architectures\": [\"Qwen2ForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 896,"
          "\"intermediate_size\": 4864, \"max_position_embeddings\": 32768, \"max_window_layers\": 24, \"model_type\": \"qwen2\","
          "\"num_attention_heads\": 14, \"num_hidden_layers\": 24, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-06,"
          "\"rope_theta\": 1000000.0, \"sliding_window\": 32768, \"tie_word_embeddings\": true, \"use_mrope\": false,"
          "\"use_sliding_window\": false, \"vocab_size\": 151936}" },
        /* Qwen 3 0.6B */
        { 596049920, "{\"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": false, \"head_dim\": 128,"
          "\"hidden_act\": \"silu\", \"hidden_size\": 1024, \"intermediate_size\": 3072, \"max_position_embeddings\": 40960,"
          "\"max_window_layers\": 28, \"model_type\": \"qwen3\", \"num_attention_heads\": 16, \"num_hidden_layers\": 28,"
          "\"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000,"
          "\"sliding_window\": null, \"tie_word_embeddings\": true, \"use_sliding_window\": false, \"vocab_size\": 151936}" },
        /* Gemma 2 2B */
        { 2614341888, "{\"architectures\": [\"Gemma2ForCausalLM\"], \"attention_bias\": false, \"attn_logit_softcapping\": 50.0,"
          "\"cache_implementation\": \"hybrid\", \"final_logit_softcapping\": 30.0, \"head_dim\": 256,"
          "\"hidden_act\": \"gelu_pytorch_tanh\", \"hidden_activation\": \"gelu_pytorch_tanh\", \"hidden_size\": 2304,"
          "\"intermediate_size\": 9216, \"max_position_embeddings\": 8192, \"model_type\": \"gemma2\","
          "\"num_attention_heads\": 8, \"num_hidden_layers\": 26, \"num_key_value_heads\": 4, \"query_pre_attn_scalar\": 256,"
          "\"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0, \"sliding_window\": 4096, \"vocab_size\": 256000}" },
        /* Phi-3 mini 4k */
        { 3821079552, "{\"architectures\": [\"Phi3ForCausalLM\"], \"attention_bias\": false, \"hidden_act\": \"silu\","
          "\"hidden_size\": 3072, \"intermediate_size\": 8192, \"max_position_embeddings\": 4096, \"model_type\": \"phi3\","
          "\"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 32,"
          "\"original_max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05, \"rope_scaling\": null, \"rope_theta\": 10000.0,"
          "\"sliding_window\": 2047, \"tie_word_embeddings\": false, \"vocab_size\": 32064}" },
    };
    for (size_t i = 0; i < COUNT_OF(published); i++) {
        struct model_config config;
        json_t *json = json_parse(published[i].text, strlen(published[i].text), "published");
        EXPECT_INT(config_from_json(&config, json, "published"), 0);
        EXPECT_INT(config_parameter_count(&config), published[i].parameters);
        json_decref(json);
    }
}

/* ---- weights ---- */

static char *scratch_directory(void)
{
    char *path = memory_alloc(64, 1);
    test_directory(path, 64);
    return path;
}

static void scratch_remove(char *directory)
{
    static const char *const files[] = { "config.json", "model.safetensors" };
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char *path = memory_printf("%s/%s", directory, files[i]);
        unlink(path);
        free(path);
    }
    CHECK(rmdir(directory) == 0);
    free(directory);
}

static struct weights *open_checked(struct model_config *config, const char *path)
{
    int code;
    struct weights *weights = weights_open(path, &code);
    CHECK(weights != NULL && config_open(config, path) == EX_OK && weights_check(weights, config) == 0);
    return weights;
}

/* Goal: an export has the numbers of its source, under the family's names and in its layouts, from safetensors and GGUF. */
static void test_export(void)
{
    for (size_t i = 0; i < 2 * COUNT_OF(names); i++) {
        char *path = memory_printf(i % 2 ? "%s/model.gguf" : "%s", directory_of(names[i / 2]));
        if (!file_exists(path)) {
            free(path);
            continue;
        }
        char *directory = scratch_directory(), key[KEY_SIZE], key_again[KEY_SIZE];
        struct model_config config, again;
        struct weights *weights = open_checked(&config, path);
        weights_key(weights, &config, NULL, key);
        EXPECT_INT(model_export(weights, &config, directory), 0);
        weights_close(weights);
        weights = open_checked(&again, directory);
        weights_key(weights, &again, NULL, key_again);
        if (strcmp(key, key_again) != 0)
            TEST_FAIL("the export of %s has another key", path);
        weights_close(weights);
        scratch_remove(directory);
        free(path);
    }
}

/* A safetensors file of the network's weights under their canonical names. */
static struct buffer canonical_file(const struct weights *weights, const struct model_config *config)
{
    struct tensor_out list[128];
    char list_names[COUNT_OF(list)][WEIGHT_NAME_SIZE];
    size_t count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            struct tensor tensor;
            if (!weights_role(weights, config, role, l, &tensor))
                continue;
            CHECK(count < COUNT_OF(list));
            weight_name(role, l, list_names[count]);
            float *data = memory_alloc(tensor_elements(&tensor), sizeof *data);
            tensor_read_canonical(&tensor, (size_t)config->head_size, data);
            list[count] = (struct tensor_out){ .name = list_names[count], .rank = tensor.rank, .data = data };
            memcpy(list[count++].shape, tensor.shape, sizeof tensor.shape);
        }
    }
    struct buffer file = { 0 };
    safetensors_write(&file, list, count, NULL, 0);
    for (size_t i = 0; i < count; i++)
        free((void *)(size_t)list[i].data);
    return file;
}

/* Goal: a checkpoint, which has canonical names and layouts whatever the family, is the same model, and so is its export. */
static void test_canonical_names(void)
{
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct model_config config;
        char key[KEY_SIZE], canonical_key[KEY_SIZE];
        struct weights *weights = open_checked(&config, directory_of(names[i]));
        struct buffer file = canonical_file(weights, &config);
        struct weights *canonical = weights_from_memory(file.data, file.size, "canonical");
        CHECK(canonical != NULL);
        EXPECT_INT(weights_check(canonical, &config), 0);
        weights_key(weights, &config, NULL, key);
        weights_key(canonical, &config, NULL, canonical_key);
        if (strcmp(key, canonical_key) != 0)
            TEST_FAIL("the canonical file of %s has another key", names[i]);
        char *directory = scratch_directory();
        struct model_config again;
        EXPECT_INT(model_export(canonical, &config, directory), 0);
        struct weights *exported = open_checked(&again, directory);
        weights_key(exported, &again, NULL, canonical_key);
        EXPECT_TEXT(canonical_key, key);
        weights_close(exported);
        scratch_remove(directory);
        weights_close(canonical);
        weights_close(weights);
        free(file.data);
    }
}

/* Goal: names may lack the prefix of the whole network, as where its inner part was saved alone. */
static void test_names_without_prefix(void)
{
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct model_config config;
        char key[KEY_SIZE], bare_key[KEY_SIZE];
        struct tensor_out list[128];
        struct weights *weights = open_checked(&config, directory_of(names[i]));
        const char *prefix = families[config.family].prefix;
        size_t count = weights_count(weights);
        CHECK(count <= COUNT_OF(list));
        for (size_t k = 0; k < count; k++) {
            const struct tensor *tensor = weights_at(weights, k);
            bool prefixed = strncmp(tensor->name, prefix, strlen(prefix)) == 0;
            float *data = memory_alloc(tensor_elements(tensor), sizeof *data);
            tensor_read(tensor, 0, tensor_elements(tensor), data);
            list[k] = (struct tensor_out){ .name = tensor->name, .rank = tensor->rank, .data = data };
            list[k].name += prefixed ? strlen(prefix) : 0;
            memcpy(list[k].shape, tensor->shape, sizeof tensor->shape);
        }
        struct buffer file = { 0 };
        safetensors_write(&file, list, count, NULL, 0);
        struct weights *bare = weights_from_memory(file.data, file.size, "bare");
        CHECK(bare != NULL);
        EXPECT_INT(weights_check(bare, &config), 0);
        weights_key(weights, &config, NULL, key);
        weights_key(bare, &config, NULL, bare_key);
        EXPECT_TEXT(bare_key, key);
        weights_close(bare);
        weights_close(weights);
        for (size_t k = 0; k < count; k++)
            free((void *)(size_t)list[k].data);
        free(file.data);
    }
}

/* Goal: parts of transposed and fused tensors, read a few rows at a time, are the rows of the whole. */
static void test_rows_of_parts(void)
{
    static const char *const fused[] = { "gpt2_tied", "phi3_window", "gemma2_capped" };
    static const enum weight_role roles[] = { WEIGHT_K, WEIGHT_UP, WEIGHT_DOWN, WEIGHT_FF_NORM };
    for (size_t i = 0; i < COUNT_OF(fused); i++) {
        struct model_config config;
        struct weights *weights = open_checked(&config, directory_of(fused[i]));
        for (size_t r = 0; r < COUNT_OF(roles); r++) {
            struct tensor tensor;
            EXPECT(weights_role(weights, &config, roles[r], 1, &tensor));
            size_t N = tensor.rank > 1 ? (size_t)tensor.shape[0] : 1, K = (size_t)tensor.shape[tensor.rank - 1];
            float *whole = memory_alloc(N * K, sizeof *whole), *row = memory_alloc(K, sizeof *row);
            tensor_read_canonical(&tensor, (size_t)config.head_size, whole);
            for (size_t n = 0; n < N; n++) {
                tensor_read_rows(&tensor, (size_t)config.head_size, n, 1, row);
                EXPECT(memcmp(row, whole + n * K, K * sizeof *row) == 0);
                const void *at = tensor.rank > 1 ? tensor_row(&tensor, (size_t)config.head_size, n) : NULL;
                if (at != NULL) {
                    tensor_formats[tensor.type].read(row, at, K);
                    EXPECT(memcmp(row, whole + n * K, K * sizeof *row) == 0);
                }
            }
            free(row);
            free(whole);
        }
        weights_close(weights);
    }
}

/* The file of a model without one tensor, or with one more row in it; whether it is still taken for whole. */
static bool is_accepted(const struct weights *weights, const struct model_config *config, size_t changed, bool misshapen)
{
    struct tensor_out list[128];
    size_t count = 0;
    CHECK(weights_count(weights) <= COUNT_OF(list));
    for (size_t i = 0; i < weights_count(weights); i++) {
        const struct tensor *tensor = weights_at(weights, i);
        if (i == changed && !misshapen)
            continue;
        float *data = memory_alloc(2 * tensor_elements(tensor), sizeof *data);
        tensor_read(tensor, 0, tensor_elements(tensor), data);
        list[count] = (struct tensor_out){ .name = tensor->name, .rank = tensor->rank, .data = data };
        memcpy(list[count].shape, tensor->shape, sizeof tensor->shape);
        list[count++].shape[0] += i == changed && tensor->rank > 0 ? 1 : 0;
    }
    struct buffer file = { 0 };
    safetensors_write(&file, list, count, NULL, 0);
    for (size_t i = 0; i < count; i++)
        free((void *)(size_t)list[i].data);
    struct weights *made = weights_from_memory(file.data, file.size, "made");
    CHECK(made != NULL);
    bool accepted = weights_check(made, config) == 0;
    weights_close(made);
    free(file.data);
    return accepted;
}

/* Goal: each tensor that transformers saved is needed in its shape, but for the causal masks of the first GPT-2 files. */
static void test_each_tensor_is_needed(void)
{
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct model_config config;
        struct weights *weights = open_checked(&config, directory_of(names[i]));
        EXPECT(is_accepted(weights, &config, SIZE_MAX, false));
        for (size_t k = 0; k < weights_count(weights); k++) {
            const char *name = weights_at(weights, k)->name;
            bool mask = strstr(name, ".attn.bias") != NULL || strstr(name, "masked_bias") != NULL;
            if (is_accepted(weights, &config, k, false) != mask || is_accepted(weights, &config, k, true) != mask)
                TEST_FAIL("%s without \"%s\", or with a row more, was %s", names[i], name, mask ? "refused" : "accepted");
        }
        weights_close(weights);
    }
}

/* Goal: a fused tensor is called by its own name and whole shape. */
static void test_messages(void)
{
    struct model_config config;
    struct weights *weights = open_checked(&config, directory_of("gpt2_tied"));
    config.channel_count = 16;
    config.vocab_size = 24;
    stderr_hold();
    EXPECT_INT(weights_check(weights, &config), -1);
    EXPECT_TEXT(stderr_release(), "test_family: model \"tests/parity/families/gpt2_tied\": tensor \"transformer.wte.weight\" has "
                                  "shape [23, 12], config says [24, 16]\n");
    weights_close(weights);
    stderr_hold();
    EXPECT_INT(READ_CHANGED(&config, "gemma2_capped", { "use_bidirectional_attention", "true" }), -1);
    EXPECT_TEXT(stderr_release(), "test_family: model \"made\": use_bidirectional_attention is true, only false is supported\n");
    stderr_hold();
    EXPECT_INT(READ_CHANGED(&config, "phi3_longrope", { "partial_rotary_factor", "0.75" }), -1);
    EXPECT_TEXT(stderr_release(), "test_family: model \"made\": partial_rotary_factor is 0.75, only 1 is supported\n");
}

int main(void)
{
    log_open("test_family", -1);
    RUN(test_round_trip);
    RUN(test_rope_kinds);
    RUN(test_rope_defaults);
    RUN(test_windows);
    RUN(test_family_traits);
    RUN(test_labels);
    RUN(test_refusals);
    RUN(test_keys_of_others);
    RUN(test_each_key_broken);
    RUN(test_published);
    RUN(test_export);
    RUN(test_canonical_names);
    RUN(test_names_without_prefix);
    RUN(test_rows_of_parts);
    RUN(test_each_tensor_is_needed);
    RUN(test_messages);
    return tests_end();
}
