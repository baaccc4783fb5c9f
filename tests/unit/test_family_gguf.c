/* test_family_gguf.c - what GGUF metadata and tensors say of each architecture, built key by key, and what is written of them. */
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "model/config.h"
#include "model/gguf.h"
#include "model/gguf_write.h"
#include "model/weights.h"
#include "../check.h"
#include "gguf_builder.h"
#include "stderr_text.h"
#include "tiny_model.h"

/* A value or a tensor of the file.  Keys without a dot before them get the architecture's. */
struct piece {
    const char *key;         // ".rope.freq_base"
    const char *text;        // or NULL: a number
    double number;
    const char *tensor;      // or a tensor of zeros
    uint64_t rows, columns;
    uint32_t type;
};
#define NUMBER(key_, number_) { .key = key_, .number = number_ }
#define TEXT(key_, text_) { .key = key_, .text = text_ }
#define TENSOR(name, rows_, columns_) { .tensor = name, .rows = rows_, .columns = columns_ }

static void put_piece(struct buffer *body, const char *architecture, const struct piece *piece)
{
    char *key = memory_printf("%s%s", architecture, piece->key);
    if (piece->text != NULL)
        put_key_text(body, key, piece->text);
    else if (piece->number == (double)(int32_t)piece->number)
        put_key_u32(body, key, (uint32_t)(int32_t)piece->number);
    else
        put_key_f32(body, key, (float)piece->number);
    free(key);
}

static bool has_key(const struct piece *pieces, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (pieces[i].key != NULL && strcmp(pieces[i].key, key) == 0)
            return true;
    return false;
}

/* 16 channels, 3 layers, 4 heads, 24 wide, 64 positions, 10 tokens; and the pieces.  0 or -1. */
static int read_made(struct model_config *config, const char *architecture, const struct piece *pieces, size_t count)
{
    static const struct piece base[] = {
        NUMBER(".embedding_length", 16), NUMBER(".block_count", 3), NUMBER(".attention.head_count", 4),
        NUMBER(".feed_forward_length", 24), NUMBER(".context_length", 64), NUMBER(".attention.layer_norm_rms_epsilon", 0.03125),
        NUMBER(".attention.layer_norm_epsilon", 0.03125),
    };
    struct piece embedding = TENSOR("token_embd.weight", 10, 16);
    struct buffer body = { 0 }, tensors = { 0 }, file = { 0 };
    uint64_t value_count = 1, tensor_count = 0, offset = 0;
    put_key_text(&body, "general.architecture", architecture);
    for (size_t i = 0; i < COUNT_OF(base); i++) {
        if (has_key(pieces, count, base[i].key))
            continue;
        put_piece(&body, architecture, &base[i]);
        value_count++;
    }
    for (size_t i = 0; i <= count; i++) {
        const struct piece *piece = i < count ? &pieces[i] : &embedding;
        if (piece->tensor == NULL) {
            put_piece(&body, architecture, piece);
            value_count++;
            continue;
        }
        put_tensor(&tensors, piece->tensor, piece->rows, piece->columns, piece->type, offset);
        offset += ((piece->rows ? piece->rows : 1) * piece->columns * sizeof(float) + 31) / 32 * 32;
        tensor_count++;
    }
    put_header(&file, 3, tensor_count, value_count);
    buffer_append(&file, body.data, body.size);
    buffer_append(&file, tensors.data, tensors.size);
    put_padding(&file, 32);
    for (uint64_t i = 0; i < offset / sizeof(float); i++)
        put_f32(&file, 1.5f);
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "made");
    CHECK(gguf != NULL);
    int result = config_from_gguf(config, gguf, "made");
    gguf_close(gguf);
    struct weights *weights = result == 0 ? weights_from_memory(file.data, file.size, "made") : NULL;
    if (weights != NULL)
        EXPECT_INT(weights_check(weights, config), -1);  // nearly all tensors are missing
    weights_close(weights);
    free(file.data);
    free(tensors.data);
    free(body.data);
    return result;
}
#define READ(config, architecture, ...) \
    read_made(config, architecture, (struct piece[]){ __VA_ARGS__ }, COUNT_OF(((struct piece[]){ __VA_ARGS__ })))

/* Goal: each architecture has its family's arithmetic, and llama.cpp's values for what the metadata leave out. */
static void test_architectures(void)
{
    static const struct { const char *architecture; enum model_family family; } expected[] = {
        { "llama", FAMILY_LLAMA }, { "qwen2", FAMILY_QWEN2 }, { "qwen3", FAMILY_QWEN3 }, { "gemma2", FAMILY_GEMMA2 },
        { "phi3", FAMILY_PHI3 }, { "gpt2", FAMILY_GPT2 },
    };
    for (size_t i = 0; i < COUNT_OF(expected); i++) {
        struct model_config config;
        EXPECT_INT(read_made(&config, expected[i].architecture, NULL, 0), 0);
        EXPECT_INT(config.family, expected[i].family);
        EXPECT(config.head_size == 4 && config.kv_head_count == 4 && config.vocab_size == 10 && config.tied_embeddings);
        EXPECT_NEAR(config.norm_epsilon, 0.03125, 0);
        EXPECT_INT(config.qkv_bias, expected[i].family == FAMILY_QWEN2 || expected[i].family == FAMILY_GPT2);
        EXPECT_INT(config.learned_positions, expected[i].family == FAMILY_GPT2);
    }
}

/* Goal: biases, an LM head and a score head are there where their tensors are, in any layer. */
static void test_tensor_facts(void)
{
    struct model_config config;
    EXPECT_INT(READ(&config, "llama", TENSOR("blk.2.attn_q.bias", 0, 16), TENSOR("output.weight", 10, 16)), 0);
    EXPECT(config.qkv_bias && !config.o_bias && !config.ff_bias && !config.tied_embeddings);
    EXPECT_INT(READ(&config, "llama", TENSOR("blk.0.attn_output.bias", 0, 16), TENSOR("blk.0.ffn_down.bias", 0, 16)), 0);
    EXPECT(!config.qkv_bias && config.o_bias && config.ff_bias);
    EXPECT_INT(READ(&config, "qwen3", TENSOR("cls.output.weight", 3, 16)), 0);
    EXPECT_INT(config.label_count, 3);
}

/* Goal: Gemma-2's caps, windows and scale, which for its largest model alone is not the head size's. */
static void test_gemma2(void)
{
    struct model_config config;
    EXPECT_INT(READ(&config, "gemma2", NUMBER(".attn_logit_softcapping", 40.5), NUMBER(".final_logit_softcapping", 20.5),
                    NUMBER(".attention.sliding_window", 7), NUMBER(".attention.key_length", 8)), 0);
    EXPECT(config.attention_cap == 40.5 && config.logit_cap == 20.5 && config.post_norms);
    EXPECT(config_window(&config, 0) == 7 && config_window(&config, 1) == 64 && config_window(&config, 2) == 7);
    EXPECT_NEAR(config.attention_scale, 1 / sqrt(8), 0);
    EXPECT_INT(READ(&config, "gemma2", NUMBER(".attention.key_length", 8)), 0);
    EXPECT(config.attention_cap == 50 && config.logit_cap == 30 && config.window == 4096);
    EXPECT_INT(READ(&config, "gemma2", NUMBER(".attention.key_length", 8), NUMBER(".block_count", 46)), 0);
    EXPECT_NEAR(config.attention_scale, 1 / sqrt(16 / 4), 0);
}

/* Goal: windows of all layers for Phi-3 and Llama (Mistral); Qwen's, whose layers the metadata do not tell, are refused. */
static void test_windows(void)
{
    struct model_config config;
    EXPECT_INT(READ(&config, "phi3", NUMBER(".attention.sliding_window", 9)), 0);
    EXPECT_INT(config_window(&config, 2), 9);
    EXPECT_INT(READ(&config, "phi3", NUMBER(".attention.sliding_window", 0)), 0);
    EXPECT_INT(config_window(&config, 2), 64);
    EXPECT_INT(READ(&config, "llama", NUMBER(".attention.sliding_window", 9)), 0);
    EXPECT_INT(config_window(&config, 0), 9);
    EXPECT_INT(READ(&config, "qwen2", NUMBER(".attention.sliding_window", 9)), -1);
    EXPECT_INT(READ(&config, "qwen2", NUMBER(".attention.sliding_window", 64)), 0);
}

/* Goal: rotary scaling by parameters (linear, YaRN) and by tensors of factors (Llama 3, Phi-3). */
static void test_rope(void)
{
    struct model_config config;
    EXPECT_INT(READ(&config, "llama", NUMBER(".rope.scale_linear", 2)), 0);
    EXPECT(config.rope.kind == ROPE_LINEAR && config.rope.factor == 2);
    EXPECT_INT(READ(&config, "llama", NUMBER(".rope.scaling.factor", 1)), 0);
    EXPECT_INT(config.rope.kind, ROPE_DEFAULT);
    EXPECT_INT(READ(&config, "llama", TEXT(".rope.scaling.type", "linear")), 0);
    EXPECT_INT(config.rope.kind, ROPE_DEFAULT);
    EXPECT_INT(READ(&config, "llama", TEXT(".rope.scaling.type", "none"), NUMBER(".rope.scaling.factor", 4)), 0);
    EXPECT_INT(config.rope.kind, ROPE_DEFAULT);
    EXPECT_INT(READ(&config, "qwen2", TEXT(".rope.scaling.type", "yarn"), NUMBER(".rope.scaling.factor", 4),
                    NUMBER(".rope.scaling.original_context_length", 16), NUMBER(".rope.freq_base", 1000000)), 0);
    EXPECT(config.rope.kind == ROPE_YARN && config.rope.original_positions == 16 && config.rope_theta == 1e6);
    EXPECT_NEAR(config.rope.attention_factor, 0.1 * log(4) + 1, 1e-12);
    EXPECT_INT(READ(&config, "llama", TENSOR("rope_freqs.weight", 0, 2)), 0);
    EXPECT(config.rope.kind == ROPE_LONGROPE && config.rope.factors[1] == 1.5f && config.rope.attention_factor == 1);
    EXPECT_INT(config.position_max, 64);
    EXPECT_INT(READ(&config, "phi3", TENSOR("rope_factors_short.weight", 0, 2), TENSOR("rope_factors_long.weight", 0, 2),
                    NUMBER(".rope.scaling.original_context_length", 16)), 0);
    EXPECT(config.position_max == 16 && config.rope.long_positions == 64);
    EXPECT_NEAR(config.rope.attention_factor, sqrt(1.5), 1e-12);
    EXPECT_INT(READ(&config, "phi3", TENSOR("rope_factors_short.weight", 0, 2), TENSOR("rope_factors_long.weight", 0, 2),
                    NUMBER(".rope.scaling.original_context_length", 16), NUMBER(".rope.scaling.attn_factor", 1.25)), 0);
    EXPECT_NEAR(config.rope.attention_factor, 1.25, 0);
}

/* Goal: what is not supported or makes no sense is refused in one line. */
static void test_refusals(void)
{
    static const struct { const char *architecture; struct piece pieces[3]; } refused[] = {
        { "bert", { NUMBER(".x", 1) } }, { "gemma3", { NUMBER(".x", 1) } }, { "", { NUMBER(".x", 1) } },
        { "llama", { NUMBER(".block_count", 0) } }, { "llama", { NUMBER(".context_length", -1) } },
        { "gpt2", { TEXT(".embedding_length", "16") } }, { "qwen3", { NUMBER(".feed_forward_length", 0.5) } },
        { "llama", { TEXT(".attention.layer_norm_rms_epsilon", "x") } }, { "llama", { NUMBER(".attention.head_count", 1e9) } },
        { "llama", { NUMBER(".expert_count", 8) } }, { "qwen2", { NUMBER(".attention.causal", 0) } },
        { "llama", { NUMBER(".attention.key_length", 3) } }, { "llama", { NUMBER(".attention.value_length", 8) } },
        { "llama", { NUMBER(".rope.dimension_count", 2) } }, { "llama", { NUMBER(".attention.head_count_kv", 3) } },
        { "llama", { NUMBER(".attention.sliding_window", -1) } }, { "llama", { NUMBER(".rope.freq_base", 0.5) } },
        { "llama", { TEXT(".rope.scaling.type", "dynamic") } }, { "llama", { NUMBER(".rope.scaling.factor", 0.5) } },
        { "phi3", { TEXT(".rope.scaling.type", "longrope") } },
        { "qwen2", { TEXT(".rope.scaling.type", "yarn"), NUMBER(".rope.scaling.factor", -2) } },
        { "qwen2", { NUMBER(".rope.scaling.attn_factor", 1.5) } },
        { "qwen2", { TEXT(".rope.scaling.type", "linear"), NUMBER(".rope.scaling.factor", 2),
                     NUMBER(".rope.scaling.attn_factor", 1.5) } },
        { "qwen2", { TEXT(".rope.scaling.type", "yarn"), NUMBER(".rope.scaling.factor", 2),
                     TENSOR("rope_freqs.weight", 0, 2) } },
        { "qwen2", { TEXT(".rope.scaling.type", "yarn"), NUMBER(".rope.scaling.factor", 2),
                     NUMBER(".rope.scaling.yarn_beta_slow", 0) } },
        { "qwen2", { TEXT(".rope.scaling.type", "yarn"), NUMBER(".rope.scaling.factor", 2),
                     NUMBER(".rope.scaling.yarn_log_multiplier", 0.1) } },
        { "phi3", { TEXT(".rope.scaling.type", "longrope"), NUMBER(".attention.key_length", 1024) } },
        { "qwen2", { TEXT(".rope.scaling.type", "yarn"), NUMBER(".rope.scaling.factor", 2),
                     NUMBER(".rope.scaling.original_context_length", 0) } },
        { "llama", { TENSOR("rope_freqs.weight", 0, 3) } }, { "llama", { TENSOR("rope_freqs.weight", 1, 2) } },
        { "phi3", { TENSOR("rope_factors_short.weight", 0, 2) } }, { "phi3", { TENSOR("rope_factors_long.weight", 0, 2) } },
        { "gemma2", { NUMBER(".attn_logit_softcapping", -1) } }, { "gpt2", { NUMBER(".attention.key_length", 8) } },
        { "qwen3", { NUMBER(".rope.scaling.attn_factor", 0.5), TENSOR("rope_freqs.weight", 0, 4) } },
    };
    struct model_config config;
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        size_t count = 0;
        const struct piece *pieces = refused[i].pieces;
        while (count < COUNT_OF(refused[i].pieces) && (pieces[count].key != NULL || pieces[count].tensor != NULL))
            count++;
        stderr_hold();
        int result = read_made(&config, refused[i].architecture, pieces, count);
        const char *message = stderr_release();
        if (result == 0)
            TEST_FAIL("variant %zu was accepted", i);
        else if (strchr(message, '\n') == NULL || strchr(message, '\n')[1] != '\0')
            TEST_FAIL("variant %zu did not give one line: %s", i, message);
    }
}

/* Goal: a file without a token embedding says so; a vector in a block type, which nobody writes, is refused by its type. */
static void test_tensors(void)
{
    struct buffer file = { 0 };
    put_header(&file, 3, 0, 1);
    put_key_text(&file, "general.architecture", "gpt2");
    struct gguf *gguf = gguf_from_memory(file.data, file.size, "made");
    struct model_config config;
    CHECK(gguf != NULL);
    EXPECT_INT(config_from_gguf(&config, gguf, "made"), -1);
    gguf_close(gguf);
    free(file.data);

    file = (struct buffer){ 0 };
    put_header(&file, 3, 2, 1);
    put_key_text(&file, "general.architecture", "llama");
    put_tensor(&file, "token_embd.weight", 1, 32, 8, 0);  // Q8_0: 34 bytes for 32 elements
    put_tensor(&file, "blk.0.attn_norm.weight", 0, 32, 8, 64);
    put_padding(&file, 32);
    for (size_t i = 0; i < 128 / 8; i++)
        put_u64(&file, 0);
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    CHECK(weights != NULL);
    config = (struct model_config){ .vocab_size = 1, .channel_count = 32, .layer_count = 1, .head_count = 1, .kv_head_count = 1,
                                    .head_size = 32, .ff_count = 32, .position_max = 8, .tied_embeddings = true };
    stderr_hold();
    EXPECT_INT(weights_check(weights, &config), -1);
    EXPECT_TEXT(stderr_release(), "test_family_gguf: model \"made\": tensor \"blk.0.attn_norm.weight\" has type Q8_0, a vector "
                                  "must be F32, F16 or BF16\n");
    struct tensor tensor;
    EXPECT(!weights_role(weights, &config, WEIGHT_ATTN_NORM, 0, &tensor));
    EXPECT(weights_role(weights, &config, WEIGHT_EMBEDDING, 0, &tensor));
    EXPECT_INT(tensor.size_bytes, 34);
    weights_close(weights);
    free(file.data);
}

/* Goal: messages name the key with its architecture, and the limit. */
static void test_messages(void)
{
    struct model_config config;
    stderr_hold();
    EXPECT_INT(READ(&config, "qwen2", NUMBER(".expert_count", 8)), -1);
    EXPECT_TEXT(stderr_release(), "test_family_gguf: model \"made\": qwen2.expert_count is 8, only 0 is supported\n");
    stderr_hold();
    EXPECT_INT(READ(&config, "llama", TENSOR("rope_freqs.weight", 0, 3)), -1);
    EXPECT_TEXT(stderr_release(),
                "test_family_gguf: model \"made\": tensor \"rope_freqs.weight\" has 3 elements of type F32, it must "
                                  "have half a head size, 2 of at most 256, of type F32\n");
}

/* ---- written ---- */

/* The config of 16 channels and 4 layers with what JSON adds. */
static void made_config(struct model_config *config, const char *architecture, const char *more)
{
    char *text = memory_printf("{\"architectures\": [\"%sForCausalLM\"], \"vocab_size\": 10, \"hidden_size\": 16, "
                               "\"num_hidden_layers\": 4, \"num_attention_heads\": 4, \"num_key_value_heads\": 4, \"head_dim\": 4, "
                               "\"intermediate_size\": 24, \"max_position_embeddings\": 64%s}", architecture, more);
    json_t *json = json_loads(text, 0, NULL);
    CHECK(json != NULL && config_from_json(config, json, "made") == 0);
    json_decref(json);
    free(text);
}

/* What model_export_gguf says of it, "" where it wrote the file at path, which *read is then the config of. */
static const char *export_made(const struct model_config *config, const char *path, struct model_config *read)
{
    struct buffer file = tiny_safetensors(config, 1);
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    struct gguf_out out = { 0 };
    CHECK(weights != NULL);
    stderr_hold();
    int code = model_export_gguf(weights, config, "made", TENSOR_F32, &out, path);
    const char *said = stderr_release();
    EXPECT_INT(code, strstr(said, "cannot") != NULL ? EX_DATAERR : EX_OK);
    if (code == EX_OK)
        EXPECT_INT(config_open(read, path), EX_OK);
    gguf_out_free(&out);
    weights_close(weights);
    free(file.data);
    return code == EX_OK ? "" : said;
}

#define GEMMA2 "Gemma2", ", \"query_pre_attn_scalar\": 4"
#define YARN "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 16"

/*
 * Goal: a model is written as GGUF with all that its arithmetic is, and refused where GGUF has no key for a part of it.  Its
 * context ends at a window that llama.cpp does not have in the same layers.
 */
static void test_export(void)
{
    static const struct {
        const char *architecture, *more, *refusal;  // refusal: "": none
        int64_t context, windows[2];                // of even and odd layers
    } cases[] = {
        { "Llama", "", "", 64, { 64, 64 } },
        { "Llama", ", \"hidden_act\": \"gelu\"", "its activation is not that of every \"llama\"", 0, { 0 } },
        { "Llama", ", " YARN "}", "", 64, { 64, 64 } },
        { "Llama", ", " YARN ", \"attention_factor\": 1, \"beta_fast\": 16, \"beta_slow\": 2}", "", 64, { 64, 64 } },
        { "Mistral", ", \"sliding_window\": 8", "", 8, { 8, 8 } },
        { "Qwen2", ", \"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 2", "", 8, { 8, 8 } },
        { "Phi3", ", \"sliding_window\": 8, \"original_max_position_embeddings\": 64", "", 64, { 8, 8 } },
        { GEMMA2 ", \"sliding_window\": 8", "", 64, { 8, 64 } },
        { GEMMA2 ", \"sliding_window\": 8, \"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\", "
                 "\"sliding_attention\"]", "", 8, { 8, 8 } },
        { GEMMA2 ", \"sliding_window\": 8, \"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", "
                 "\"full_attention\"], \"max_position_embeddings\": 8192", "", 8192, { 8192, 8192 } },
        { GEMMA2 ", \"attn_logit_softcapping\": null", "its soft capping is not that of every \"gemma2\"", 0, { 0 } },
        { GEMMA2 ", \"attn_logit_softcapping\": 7, \"final_logit_softcapping\": 9", "", 64, { 64, 64 } },
        { "Gemma2", ", \"query_pre_attn_scalar\": 9", "its scale of queries is not that of every \"gemma2\"", 0, { 0 } },
    };
    char directory[64];
    test_directory(directory, sizeof directory);
    char *path = memory_printf("%s/made.gguf", directory);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct model_config config, read;
        made_config(&config, cases[i].architecture, cases[i].more);
        const char *said = export_made(&config, path, &read);
        EXPECT(cases[i].refusal[0] == '\0' ? said[0] == '\0' : strstr(said, cases[i].refusal) != NULL);
        if (said[0] != '\0')
            continue;
        EXPECT_INT(read.position_max, cases[i].context);
        for (int64_t l = 0; l < read.layer_count; l++)
            EXPECT_INT(config_window(&read, l), cases[i].windows[l % 2]);
        EXPECT_INT(read.activation, config.activation);
        EXPECT_NEAR(read.attention_scale, config.attention_scale, 1e-6);
        EXPECT_NEAR(read.attention_cap, config.attention_cap, 1e-6);
        EXPECT_NEAR(read.logit_cap, config.logit_cap, 1e-6);
        EXPECT_INT(read.rope.kind, config.rope.kind);
        EXPECT_NEAR(read.rope.attention_factor, config.rope.attention_factor, 1e-6);
        EXPECT_NEAR(read.rope.beta_fast, config.rope.beta_fast, 1e-6);
        EXPECT_NEAR(read.rope.beta_slow, config.rope.beta_slow, 1e-6);
    }
    remove(path);
    rmdir(directory);
    free(path);
}

int main(void)
{
    log_open("test_family_gguf", -1);
    RUN(test_architectures);
    RUN(test_tensor_facts);
    RUN(test_gemma2);
    RUN(test_windows);
    RUN(test_rope);
    RUN(test_refusals);
    RUN(test_tensors);
    RUN(test_messages);
    RUN(test_export);
    return tests_end();
}
