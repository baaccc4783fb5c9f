/* test_config.c - a model's shape from config.json and GGUF metadata, and the table of its weights. */
#include <sysexits.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "model/config.h"
#include "model/family.h"
#include "model/gguf.h"
#include "../check.h"
#include "gguf_builder.h"
#include "stderr_text.h"

/* What every case begins from. */
static json_t *base_json(void)
{
    static const char text[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 24, \"intermediate_size\": 40,"
        " \"num_hidden_layers\": 3, \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 8,"
        " \"vocab_size\": 50, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0,"
        " \"tie_word_embeddings\": true, \"hidden_act\": \"silu\", \"attention_bias\": false, \"rope_scaling\": null}";
    return json_parse(text, sizeof text - 1, "base");
}

/* base_json with one key set to the JSON in value (NULL: removed), read; 0 or -1. */
static int read_changed(struct model_config *config, const char *key, const char *value)
{
    json_t *json = base_json();
    if (value == NULL)
        json_object_del(json, key);
    else
        json_object_set_new(json, key, json_parse(value, strlen(value), key));
    int result = config_from_json(config, json, "made");
    json_decref(json);
    return result;
}

static void expect_same(const struct model_config *a, const struct model_config *b)
{
    EXPECT_INT(a->vocab_size, b->vocab_size);
    EXPECT_INT(a->channel_count, b->channel_count);
    EXPECT_INT(a->layer_count, b->layer_count);
    EXPECT_INT(a->head_count, b->head_count);
    EXPECT_INT(a->kv_head_count, b->kv_head_count);
    EXPECT_INT(a->head_size, b->head_size);
    EXPECT_INT(a->ff_count, b->ff_count);
    EXPECT_INT(a->position_max, b->position_max);
    EXPECT_NEAR(a->rope_theta, b->rope_theta, 0);
    EXPECT_NEAR(a->norm_epsilon, b->norm_epsilon, 0);
    EXPECT_INT(a->tied_embeddings, b->tied_embeddings);
}

static const struct model_config base_config = {
    .vocab_size = 50, .channel_count = 24, .layer_count = 3, .head_count = 6, .kv_head_count = 2, .head_size = 8,
    .ff_count = 40, .position_max = 64, .rope_theta = 500000, .norm_epsilon = 1e-5, .tied_embeddings = true,
};

/* ---- config.json ---- */

/* Goal: every field arrives, and what is written reads back the same. */
static void test_json_round_trip(void)
{
    struct model_config config, again;
    json_t *json = base_json();
    EXPECT_INT(config_from_json(&config, json, "made"), 0);
    json_decref(json);
    expect_same(&config, &base_config);
    json = config_to_json(&config);
    EXPECT_INT(config_from_json(&again, json, "again"), 0);
    expect_same(&again, &config);
    json_decref(json);
}

/* Goal: absent and null keys mean transformers' defaults: all heads, C / heads, theta 10000, epsilon 1e-6, untied. */
static void test_json_defaults(void)
{
    struct model_config config;
    for (int null = 0; null < 2; null++) {
        const char *value = null ? "null" : NULL;
        EXPECT_INT(read_changed(&config, "num_key_value_heads", value), 0);
        EXPECT_INT(config.kv_head_count, 6);
        EXPECT_INT(read_changed(&config, "head_dim", value), 0);
        EXPECT_INT(config.head_size, 4);
        EXPECT_INT(read_changed(&config, "rope_theta", value), 0);
        EXPECT_NEAR(config.rope_theta, 10000, 0);
        EXPECT_INT(read_changed(&config, "rms_norm_eps", value), 0);
        EXPECT_NEAR(config.norm_epsilon, 1e-6, 0);
        EXPECT_INT(read_changed(&config, "tie_word_embeddings", value), 0);
        EXPECT(!config.tied_embeddings);
        EXPECT_INT(read_changed(&config, "hidden_act", value), 0);
        EXPECT_INT(read_changed(&config, "architectures", value), 0);
        EXPECT_INT(read_changed(&config, "model_type", value), 0);
    }
}

/* Goal: transformers 5's rope_parameters count and win over the older key; a default rope_scaling is allowed. */
static void test_json_rope_parameters(void)
{
    struct model_config config;
    EXPECT_INT(read_changed(&config, "rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 2e4}"), 0);
    EXPECT_NEAR(config.rope_theta, 20000, 0);
    EXPECT_INT(read_changed(&config, "rope_parameters", "{\"rope_theta\": 30000}"), 0);
    EXPECT_NEAR(config.rope_theta, 30000, 0);
    EXPECT_INT(read_changed(&config, "rope_scaling", "{\"type\": \"default\"}"), 0);
    EXPECT_NEAR(config.rope_theta, 500000, 0);
    EXPECT_INT(config.rope.kind, ROPE_DEFAULT);
}

/* Goal: what we do not compute, and what makes no sense, is refused. */
static void test_json_refusals(void)
{
    static const char *const changes[][2] = {
        { "architectures", "[\"GPT2LMHeadModel\"]" }, { "architectures", "[]" }, { "architectures", "\"LlamaForCausalLM\"" },
        { "architectures", "[7]" }, { "model_type", "\"mistral\"" }, { "model_type", "7" },
        { "hidden_act", "\"relu\"" }, { "hidden_act", "7" }, { "attention_bias", "\"no\"" }, { "mlp_bias", "1" },
        { "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8.0}" }, { "rope_scaling", "{\"type\": \"linear\"}" },
        { "rope_scaling", "2" }, { "rope_scaling", "{\"rope_type\": \"mrope\"}" },
        { "rope_parameters", "{\"rope_type\": \"yarn\", \"factor\": 2, \"truncate\": false}" },
        { "rope_parameters", "{\"rope_theta\": 1e4, \"partial_rotary_factor\": 0.5}" },
        { "rope_parameters", "{\"rope_theta\": \"1e4\"}" }, { "quantization_config", "{\"bits\": 4}" },
        { "is_causal", "false" }, { "rope_theta", "0" }, { "rope_theta", "-1" }, { "rope_theta", "1e13" }, { "rope_theta", "\"10000\"" },
        { "rms_norm_eps", "0" }, { "rms_norm_eps", "-1e-5" }, { "rms_norm_eps", "0.2" }, { "rms_norm_eps", "[]" },
        { "tie_word_embeddings", "1" },
        { "num_key_value_heads", "4" },   // 6 heads
        { "num_key_value_heads", "12" },
        { "head_dim", "7" },              // odd
        { "hidden_size", NULL }, { "intermediate_size", NULL }, { "num_hidden_layers", NULL },
        { "num_attention_heads", NULL }, { "vocab_size", NULL }, { "max_position_embeddings", NULL },
        { "vocab_size", "50.0" }, { "vocab_size", "\"50\"" }, { "vocab_size", "true" },
    };
    struct model_config config;
    for (size_t i = 0; i < COUNT_OF(changes); i++)
        if (read_changed(&config, changes[i][0], changes[i][1]) == 0)
            TEST_FAIL("%s = %s was accepted", changes[i][0], changes[i][1] ? changes[i][1] : "(absent)");
    json_t *list = json_array();
    EXPECT_INT(config_from_json(&config, list, "made"), -1);
    EXPECT_INT(config_from_json(&config, NULL, "made"), -1);
    json_decref(list);
    json_t *json = base_json();  // C / heads must be whole where head_dim does not say otherwise
    json_object_del(json, "head_dim");
    json_object_set_new(json, "hidden_size", json_integer(25));
    EXPECT_INT(config_from_json(&config, json, "made"), -1);
    json_decref(json);
}

/* Goal: each count is accepted at its limit and refused one beyond, at 0 and below. */
static void test_json_limits(void)
{
    static const struct { const char *key; long long max; } limits[] = {
        { "vocab_size", 1 << 24 }, { "hidden_size", 1 << 17 }, { "num_hidden_layers", 1 << 12 },
        { "head_dim", 1 << 12 }, { "intermediate_size", 1 << 20 }, { "max_position_embeddings", 1 << 24 },
    };
    struct model_config config;
    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        char text[32];
        long long wrong[] = { limits[i].max + 1, 0, -1, INT64_MAX, INT64_MIN };
        snprintf(text, sizeof text, "%lld", limits[i].max);
        EXPECT_INT(read_changed(&config, limits[i].key, text), 0);
        for (size_t k = 0; k < COUNT_OF(wrong); k++) {
            snprintf(text, sizeof text, "%lld", wrong[k]);
            if (read_changed(&config, limits[i].key, text) == 0)
                TEST_FAIL("%s = %s was accepted", limits[i].key, text);
        }
    }
}

/* Goal: a refusal says which model, which key, the value and the limit. */
static void test_messages(void)
{
    struct model_config config;
    stderr_hold();
    read_changed(&config, "architectures", "[\"GPT2LMHeadModel\"]");
    EXPECT_TEXT(stderr_release(), "test_config: model \"made\": model_type is \"llama\", GPT2LMHeadModel has \"gpt2\"\n");
    stderr_hold();
    read_changed(&config, "architectures", "[\"BertModel\"]");
    EXPECT_TEXT(stderr_release(), "test_config: model \"made\": architecture is \"BertModel\", supported are LlamaForCausalLM, "
                                  "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma2ForCausalLM, Phi3ForCausalLM, "
                                  "GPT2LMHeadModel and their ForSequenceClassification\n");
    stderr_hold();
    read_changed(&config, "hidden_size", "0");
    EXPECT_TEXT(stderr_release(), "test_config: model \"made\": hidden_size is 0, it must be 1 to 131072\n");
    stderr_hold();
    read_changed(&config, "rope_scaling", "{\"rope_type\": \"mrope\"}");
    EXPECT_TEXT(stderr_release(), "test_config: model \"made\": rope_type is \"mrope\", supported are default, linear, dynamic, "
                                  "yarn, longrope and llama3\n");
    stderr_hold();
    read_changed(&config, "rope_scaling", "{\"rope_type\": \"llama3\"}");
    EXPECT_TEXT(stderr_release(), "test_config: model \"made\": the factor of rope_scaling is 0, it must be 1 to 1e+06\n");
    stderr_hold();
    read_changed(&config, "quantization_config", "{\"bits\": 4}");
    EXPECT_TEXT(stderr_release(), "test_config: model \"made\": quantization_config is {\"bits\":4}, only null is supported\n");
}

/* ---- GGUF ---- */

struct gguf_choices {
    const char *architecture;
    bool with_lm_head, with_key_length;
    const char *extra_key;      // one more u32
    uint32_t extra_number;
    const char *missing_key;
};

static void put_count(struct buffer *body, uint64_t *values, const struct gguf_choices *choices, const char *key, uint32_t number)
{
    if (choices->missing_key != NULL && strcmp(choices->missing_key, key) == 0)
        return;
    put_key_u32(body, key, number);
    ++*values;
}

/* base_config's model without its layers, read through config_from_gguf. */
static int read_gguf(struct model_config *config, struct gguf_choices choices)
{
    struct buffer body = { 0 }, file = { 0 };
    uint64_t values = 2, tensors = choices.with_lm_head ? 2 : 1;
    put_key_text(&body, "general.architecture", choices.architecture);
    put_key_f32(&body, "llama.attention.layer_norm_rms_epsilon", 0.5f / 8);
    put_count(&body, &values, &choices, "llama.embedding_length", 24);
    put_count(&body, &values, &choices, "llama.block_count", 3);
    put_count(&body, &values, &choices, "llama.attention.head_count", 6);
    put_count(&body, &values, &choices, "llama.attention.head_count_kv", 2);
    put_count(&body, &values, &choices, "llama.feed_forward_length", 40);
    put_count(&body, &values, &choices, "llama.context_length", 64);
    if (choices.with_key_length)
        put_count(&body, &values, &choices, "llama.attention.key_length", 8);
    if (choices.extra_key != NULL)
        put_count(&body, &values, &choices, choices.extra_key, choices.extra_number);
    put_header(&file, 3, tensors, values);
    buffer_append(&file, body.data, body.size);
    free(body.data);
    put_tensor(&file, "token_embd.weight", 50, 24, 1, 0);  // 50 * 24 * 2 = 2400 bytes, a multiple of 32
    if (choices.with_lm_head)
        put_tensor(&file, "output.weight", 50, 24, 1, 2400);
    put_padding(&file, 32);
    for (uint64_t i = 0; i < tensors * 2400 / 8; i++)
        put_u64(&file, 0);
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "made");
    CHECK(gguf != NULL);
    int result = config_from_gguf(config, gguf, "made");
    gguf_close(gguf);
    free(file.data);
    return result;
}

/* Goal: GGUF metadata and the tensors give the same config as JSON; a missing output.weight means tied embeddings. */
static void test_gguf_fields(void)
{
    struct model_config config, expected = base_config;
    expected.norm_epsilon = 0.0625;
    expected.rope_theta = 10000;
    EXPECT_INT(read_gguf(&config, (struct gguf_choices){ "llama", false, true, NULL, 0, NULL }), 0);
    expect_same(&config, &expected);
    EXPECT_INT(read_gguf(&config, (struct gguf_choices){ "llama", true, true, "llama.rope.freq_base", 70000, NULL }), 0);
    EXPECT(!config.tied_embeddings);
    EXPECT_NEAR(config.rope_theta, 70000, 0);
    EXPECT_INT(read_gguf(&config, (struct gguf_choices){ "llama", false, false, NULL, 0, "llama.attention.head_count_kv" }), 0);
    EXPECT_INT(config.head_size, 4);
    EXPECT_INT(config.kv_head_count, 6);
}

/* Goal: other architectures, missing keys, zero counts and features that we lack are refused. */
static void test_gguf_refusals(void)
{
    static const struct gguf_choices refused[] = {
        { "gpt2", false, true, NULL, 0, NULL },
        { "llama", false, true, NULL, 0, "llama.embedding_length" },
        { "llama", false, true, NULL, 0, "llama.block_count" },
        { "llama", false, true, NULL, 0, "llama.attention.head_count" },
        { "llama", false, true, NULL, 0, "llama.feed_forward_length" },
        { "llama", false, true, NULL, 0, "llama.context_length" },
        { "llama", false, true, "llama.expert_count", 8, NULL },
        { "llama", false, true, "llama.rope.scaling.factor", 0x80000000, NULL },
        { "llama", false, true, "llama.rope.dimension_count", 4, NULL },
        { "llama", false, true, "llama.attention.value_length", 16, NULL },
        { "llama", false, true, "llama.rope.freq_base", 0, NULL },
        { "llama", false, false, "llama.attention.key_length", 0, NULL },
        { "llama", false, false, "llama.attention.key_length", 3, NULL },
    };
    struct model_config config;
    for (size_t i = 0; i < COUNT_OF(refused); i++)
        if (read_gguf(&config, refused[i]) == 0)
            TEST_FAIL("GGUF variant %zu was accepted", i);
}

/* ---- files ---- */

/* Goal: fixtures that transformers wrote and a real GGUF file open; what is missing or no model has its exit code. */
static void test_open(void)
{
    struct model_config config;
    EXPECT_INT(config_open(&config, "tests/parity/llama/sharded_f16"), EX_OK);
    EXPECT_INT(config.head_size, 16);
    EXPECT_NEAR(config.rope_theta, 500000, 0);
    EXPECT_INT(config_open(&config, "tests/parity/llama/tied_bf16"), EX_OK);
    EXPECT(config.tied_embeddings);
    EXPECT_INT(config_open(&config, "tests/parity/none"), EX_NOINPUT);
    EXPECT_INT(config_open(&config, "tests/unit"), EX_NOINPUT);
    EXPECT_INT(config_open(&config, "tests/unit/test_config.c"), EX_DATAERR);
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("../shared/data is not here");
    EXPECT_INT(config_open(&config, path), EX_OK);
    const struct model_config stories = {
        .vocab_size = 512, .channel_count = 64, .layer_count = 5, .head_count = 8, .kv_head_count = 4, .head_size = 8,
        .ff_count = 172, .position_max = 2048, .rope_theta = 10000, .norm_epsilon = (double)1e-5f,
    };
    expect_same(&config, &stories);
}

/* ---- the weights ---- */

/* Goal: shapes are the matrices' own, (outputs, inputs), and their sum is the parameter count. */
static void test_shapes(void)
{
    struct model_config config = base_config;
    int64_t shape[2];
    EXPECT_INT(weight_shape(&config, WEIGHT_Q, shape), 2);
    EXPECT(shape[0] == 48 && shape[1] == 24);
    EXPECT_INT(weight_shape(&config, WEIGHT_K, shape), 2);
    EXPECT(shape[0] == 16 && shape[1] == 24);
    EXPECT_INT(weight_shape(&config, WEIGHT_O, shape), 2);
    EXPECT(shape[0] == 24 && shape[1] == 48);
    EXPECT_INT(weight_shape(&config, WEIGHT_DOWN, shape), 2);
    EXPECT(shape[0] == 24 && shape[1] == 40);
    EXPECT_INT(weight_shape(&config, WEIGHT_FINAL_NORM, shape), 1);
    EXPECT_INT(shape[0], 24);
    EXPECT_INT(weight_shape(&config, WEIGHT_VALUE, shape), 2);
    EXPECT(shape[0] == 1 && shape[1] == 24);
    EXPECT_INT(weight_shape(&config, WEIGHT_VALUE_BIAS, shape), 1);
    EXPECT_INT(shape[0], 1);
    /* 50*24 embedding, 24 final norm, 3 layers of 2*24 norms, 2*48*24 q o, 2*16*24 k v, 3*40*24 feed-forward */
    EXPECT_INT(config_parameter_count(&config), 1200 + 24 + 3 * (48 + 2304 + 768 + 2880));
    config.tied_embeddings = false;
    EXPECT_INT(config_parameter_count(&config), 2400 + 24 + 3 * (48 + 2304 + 768 + 2880));
}

/* Goal: the tables of canonical names and of every family are in the order of roles, and names are found again. */
static void test_names(void)
{
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        char name[WEIGHT_NAME_SIZE];
        EXPECT_INT(weight_specs[role].role, role);
        weight_name(role, 4095, name);
        EXPECT(weight_name_matches(weight_specs[role].name, name));
        for (size_t family = 0; family < FAMILY_COUNT; family++) {
            EXPECT_INT(families[family].family, family);
            EXPECT_INT(families[family].defaults.family, family);
            EXPECT_INT(family_weight((enum model_family)family, role)->role, role);
        }
    }
    char name[WEIGHT_NAME_SIZE];
    weight_name(WEIGHT_GATE, 10, name);
    EXPECT_TEXT(name, "model.layers.10.mlp.gate_proj.weight");
    EXPECT(weight_name_matches("blk.%d.attn_output.weight", "blk.7.attn_output.weight"));
    static const char *const strangers[] = {
        "", "model.layers..mlp.up_proj.weight", "model.layers.01.mlp.up_proj.weight", "model.layers.1x.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weights", "model.layers.9999999.mlp.up_proj.weight", "model.layers.-1.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj", "model.norm.weight.more",
    };
    for (size_t i = 0; i < COUNT_OF(strangers); i++)
        for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++)
            if (weight_name_matches(weight_specs[role].name, strangers[i]))
                TEST_FAIL("\"%s\" was taken for a weight", strangers[i]);
}

int main(void)
{
    log_open("test_config", -1);
    RUN(test_json_round_trip);
    RUN(test_json_defaults);
    RUN(test_json_rope_parameters);
    RUN(test_json_refusals);
    RUN(test_json_limits);
    RUN(test_messages);
    RUN(test_gguf_fields);
    RUN(test_gguf_refusals);
    RUN(test_open);
    RUN(test_shapes);
    RUN(test_names);
    return tests_end();
}
