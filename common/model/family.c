/* family.c - see family.h. */
#include "model/family.h"

#include <string.h>

#include "base/check.h"

#define LAYER "model.layers.%d."
#define BLOCK "blk.%d."

/* Llama's, whose names in safetensors are the canonical ones. */
static const struct family_weight llama_weights[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = { .role = WEIGHT_EMBEDDING, .gguf_name = "token_embd.weight" },
    [WEIGHT_POSITION] = { .role = WEIGHT_POSITION },
    [WEIGHT_ATTN_NORM] = { .role = WEIGHT_ATTN_NORM, .gguf_name = BLOCK "attn_norm.weight" },
    [WEIGHT_ATTN_NORM_BIAS] = { .role = WEIGHT_ATTN_NORM_BIAS },
    [WEIGHT_Q] = { .role = WEIGHT_Q, .gguf_name = BLOCK "attn_q.weight" },
    [WEIGHT_K] = { .role = WEIGHT_K, .gguf_name = BLOCK "attn_k.weight" },
    [WEIGHT_V] = { .role = WEIGHT_V, .gguf_name = BLOCK "attn_v.weight" },
    [WEIGHT_Q_BIAS] = { .role = WEIGHT_Q_BIAS, .gguf_name = BLOCK "attn_q.bias" },
    [WEIGHT_K_BIAS] = { .role = WEIGHT_K_BIAS, .gguf_name = BLOCK "attn_k.bias" },
    [WEIGHT_V_BIAS] = { .role = WEIGHT_V_BIAS, .gguf_name = BLOCK "attn_v.bias" },
    [WEIGHT_Q_NORM] = { .role = WEIGHT_Q_NORM, .gguf_name = BLOCK "attn_q_norm.weight" },
    [WEIGHT_K_NORM] = { .role = WEIGHT_K_NORM, .gguf_name = BLOCK "attn_k_norm.weight" },
    [WEIGHT_O] = { .role = WEIGHT_O, .gguf_name = BLOCK "attn_output.weight" },
    [WEIGHT_O_BIAS] = { .role = WEIGHT_O_BIAS, .gguf_name = BLOCK "attn_output.bias" },
    [WEIGHT_ATTN_POST_NORM] = { .role = WEIGHT_ATTN_POST_NORM },
    [WEIGHT_FF_NORM] = { .role = WEIGHT_FF_NORM, .gguf_name = BLOCK "ffn_norm.weight" },
    [WEIGHT_FF_NORM_BIAS] = { .role = WEIGHT_FF_NORM_BIAS },
    [WEIGHT_GATE] = { .role = WEIGHT_GATE, .gguf_name = BLOCK "ffn_gate.weight" },
    [WEIGHT_UP] = { .role = WEIGHT_UP, .gguf_name = BLOCK "ffn_up.weight" },
    [WEIGHT_GATE_BIAS] = { .role = WEIGHT_GATE_BIAS, .gguf_name = BLOCK "ffn_gate.bias" },
    [WEIGHT_UP_BIAS] = { .role = WEIGHT_UP_BIAS, .gguf_name = BLOCK "ffn_up.bias" },
    [WEIGHT_DOWN] = { .role = WEIGHT_DOWN, .gguf_name = BLOCK "ffn_down.weight" },
    [WEIGHT_DOWN_BIAS] = { .role = WEIGHT_DOWN_BIAS, .gguf_name = BLOCK "ffn_down.bias" },
    [WEIGHT_FF_POST_NORM] = { .role = WEIGHT_FF_POST_NORM },
    [WEIGHT_FINAL_NORM] = { .role = WEIGHT_FINAL_NORM, .gguf_name = "output_norm.weight" },
    [WEIGHT_FINAL_NORM_BIAS] = { .role = WEIGHT_FINAL_NORM_BIAS },
    [WEIGHT_LM_HEAD] = { .role = WEIGHT_LM_HEAD, .gguf_name = "output.weight" },
    [WEIGHT_SCORE] = { .role = WEIGHT_SCORE, .gguf_name = "cls.output.weight" },
    [WEIGHT_VALUE] = { .role = WEIGHT_VALUE, .gguf_name = "v_head.summary.weight" },
    [WEIGHT_VALUE_BIAS] = { .role = WEIGHT_VALUE_BIAS, .gguf_name = "v_head.summary.bias" },
};

static const struct family_weight gemma2_weights[] = {
    { WEIGHT_ATTN_POST_NORM, LAYER "post_attention_layernorm.weight", BLOCK "post_attention_norm.weight", LAYOUT_ROWS },
    { WEIGHT_FF_NORM, LAYER "pre_feedforward_layernorm.weight", BLOCK "ffn_norm.weight", LAYOUT_ROWS },
    { WEIGHT_FF_POST_NORM, LAYER "post_feedforward_layernorm.weight", BLOCK "post_ffw_norm.weight", LAYOUT_ROWS },
};

static const struct family_weight phi3_weights[] = {
    { WEIGHT_Q, LAYER "self_attn.qkv_proj.weight", BLOCK "attn_qkv.weight", LAYOUT_ROWS },
    { WEIGHT_K, LAYER "self_attn.qkv_proj.weight", BLOCK "attn_qkv.weight", LAYOUT_ROWS },
    { WEIGHT_V, LAYER "self_attn.qkv_proj.weight", BLOCK "attn_qkv.weight", LAYOUT_ROWS },
    { WEIGHT_GATE, LAYER "mlp.gate_up_proj.weight", BLOCK "ffn_up.weight", LAYOUT_ROWS },
    { WEIGHT_UP, LAYER "mlp.gate_up_proj.weight", BLOCK "ffn_up.weight", LAYOUT_ROWS },
};

#define H "transformer.h.%d."
static const struct family_weight gpt2_weights[] = {
    { WEIGHT_EMBEDDING, "transformer.wte.weight", "token_embd.weight", LAYOUT_ROWS },
    { WEIGHT_POSITION, "transformer.wpe.weight", "position_embd.weight", LAYOUT_ROWS },
    { WEIGHT_ATTN_NORM, H "ln_1.weight", BLOCK "attn_norm.weight", LAYOUT_ROWS },
    { WEIGHT_ATTN_NORM_BIAS, H "ln_1.bias", BLOCK "attn_norm.bias", LAYOUT_ROWS },
    { WEIGHT_Q, H "attn.c_attn.weight", BLOCK "attn_qkv.weight", LAYOUT_TRANSPOSED },
    { WEIGHT_K, H "attn.c_attn.weight", BLOCK "attn_qkv.weight", LAYOUT_TRANSPOSED },
    { WEIGHT_V, H "attn.c_attn.weight", BLOCK "attn_qkv.weight", LAYOUT_TRANSPOSED },
    { WEIGHT_Q_BIAS, H "attn.c_attn.bias", BLOCK "attn_qkv.bias", LAYOUT_ROWS },
    { WEIGHT_K_BIAS, H "attn.c_attn.bias", BLOCK "attn_qkv.bias", LAYOUT_ROWS },
    { WEIGHT_V_BIAS, H "attn.c_attn.bias", BLOCK "attn_qkv.bias", LAYOUT_ROWS },
    { WEIGHT_O, H "attn.c_proj.weight", BLOCK "attn_output.weight", LAYOUT_TRANSPOSED },
    { WEIGHT_O_BIAS, H "attn.c_proj.bias", BLOCK "attn_output.bias", LAYOUT_ROWS },
    { WEIGHT_FF_NORM, H "ln_2.weight", BLOCK "ffn_norm.weight", LAYOUT_ROWS },
    { WEIGHT_FF_NORM_BIAS, H "ln_2.bias", BLOCK "ffn_norm.bias", LAYOUT_ROWS },
    { WEIGHT_UP, H "mlp.c_fc.weight", BLOCK "ffn_up.weight", LAYOUT_TRANSPOSED },
    { WEIGHT_UP_BIAS, H "mlp.c_fc.bias", BLOCK "ffn_up.bias", LAYOUT_ROWS },
    { WEIGHT_DOWN, H "mlp.c_proj.weight", BLOCK "ffn_down.weight", LAYOUT_TRANSPOSED },
    { WEIGHT_DOWN_BIAS, H "mlp.c_proj.bias", BLOCK "ffn_down.bias", LAYOUT_ROWS },
    { WEIGHT_FINAL_NORM, "transformer.ln_f.weight", "output_norm.weight", LAYOUT_ROWS },
    { WEIGHT_FINAL_NORM_BIAS, "transformer.ln_f.bias", "output_norm.bias", LAYOUT_ROWS },
};
#undef H
#undef BLOCK
#undef LAYER

#define NAMES(family, type) family "ForCausalLM", family "ForSequenceClassification", type
#define WEIGHTS(table) table, COUNT_OF(table)
const struct family families[FAMILY_COUNT] = {
    { FAMILY_LLAMA, NAMES("Llama", "llama"), "llama", "model.", true, false,
      { .family = FAMILY_LLAMA, .rope_theta = 10000, .norm_epsilon = 1e-6 }, NULL, 0 },
    { FAMILY_MISTRAL, NAMES("Mistral", "mistral"), "llama", "model.", true, false,
      { .family = FAMILY_MISTRAL, .rope_theta = 10000, .norm_epsilon = 1e-6, .kv_head_count = 8, .window = 4096 }, NULL, 0 },
    { FAMILY_QWEN2, NAMES("Qwen2", "qwen2"), "qwen2", "model.", false, false,
      { .family = FAMILY_QWEN2, .rope_theta = 10000, .norm_epsilon = 1e-6, .kv_head_count = 32, .qkv_bias = true }, NULL, 0 },
    { FAMILY_QWEN3, NAMES("Qwen3", "qwen3"), "qwen3", "model.", false, false,
      { .family = FAMILY_QWEN3, .rope_theta = 10000, .norm_epsilon = 1e-6, .kv_head_count = 32, .head_size = 128,
        .qk_norm = true }, NULL, 0 },
    { FAMILY_GEMMA2, NAMES("Gemma2", "gemma2"), "gemma2", "model.", false, true,
      { .family = FAMILY_GEMMA2, .rope_theta = 10000, .norm_epsilon = 1e-6, .kv_head_count = 4, .head_size = 256,
        .tied_embeddings = true, .activation = ACTIVATION_GELU_TANH, .post_norms = true, .attention_scale = 1.0 / 16,
        .attention_cap = 50, .logit_cap = 30, .window = 4096, .window_period = 2 }, WEIGHTS(gemma2_weights) },
    { FAMILY_PHI3, NAMES("Phi3", "phi3"), "phi3", "model.", false, false,
      { .family = FAMILY_PHI3, .rope_theta = 10000, .norm_epsilon = 1e-5 }, WEIGHTS(phi3_weights) },
    { FAMILY_GPT2, "GPT2LMHeadModel", "GPT2ForSequenceClassification", "gpt2", "gpt2", "transformer.", false, false,
      { .family = FAMILY_GPT2, .norm_epsilon = 1e-5, .tied_embeddings = true, .learned_positions = true, .norm = NORM_LAYER,
        .activation = ACTIVATION_GELU_TANH, .plain_ff = true, .qkv_bias = true, .o_bias = true, .ff_bias = true },
      WEIGHTS(gpt2_weights) },
};

const struct family_weight *family_weight(enum model_family family, enum weight_role role)
{
    for (size_t i = 0; i < families[family].weight_count; i++)
        if (families[family].weights[i].role == role)
            return &families[family].weights[i];
    return &llama_weights[role];
}

const char *family_name(enum model_family family, enum weight_role role)
{
    const struct family_weight *own = family_weight(family, role);
    return own->name != NULL ? own->name : weight_specs[role].name;
}

float family_offset(enum model_family family, enum weight_role role)
{
    bool norm = role == WEIGHT_ATTN_NORM || role == WEIGHT_ATTN_POST_NORM || role == WEIGHT_FF_NORM || role == WEIGHT_FF_POST_NORM
                || role == WEIGHT_FINAL_NORM;
    return norm && families[family].norm_less_one ? 1.0f : 0.0f;
}

const struct family *family_from_gguf(const char *architecture)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (strcmp(families[i].gguf_architecture, architecture) == 0)
            return &families[i];
    return NULL;
}
