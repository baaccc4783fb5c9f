/*
 * config.h - what a model's shape is, from config.json or GGUF metadata.
 *
 * Every field is checked (positive, within limits, divisible where the arithmetic needs it), so code that has a
 * model_config need not check again.
 */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_family {
    FAMILY_LLAMA,    // Llama 1, 2, 3, TinyLlama
    FAMILY_MISTRAL,
    FAMILY_QWEN2,
    FAMILY_QWEN3,
    FAMILY_GEMMA2,
    FAMILY_PHI3,
    FAMILY_GPT2,
    FAMILY_COUNT
};

enum norm_kind { NORM_RMS, NORM_LAYER };
enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_GELU };

/* How the rotary frequencies are stretched; transformers' rope_type. */
enum { ROPE_FACTORS_MAX = 256 };
enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_YARN, ROPE_LONGROPE, ROPE_LLAMA3 };

struct model_config {
    enum model_family family;
    int64_t vocab_size;      // V
    int64_t channel_count;   // C
    int64_t layer_count;     // L
    int64_t head_count;      // NH
    int64_t kv_head_count;   // NKV, divides NH
    int64_t head_size;       // HS, even where positions are rotary
    int64_t ff_count;        // F
    int64_t position_max;    // context length in tokens
    int64_t label_count;     // N: scores that a sequence-classification head gives; 0: no such head
    double norm_epsilon;
    bool tied_embeddings;    // lm_head is the token embedding

    /* Positions: rotary, or an embedding that is added to the token's. */
    bool learned_positions;
    double rope_theta;
    struct rope_scaling {
        enum rope_kind kind;
        double factor;                             // linear, dynamic, yarn, llama3
        int64_t original_positions;                // yarn, longrope, llama3
        double low_frequency, high_frequency;      // llama3
        double beta_fast, beta_slow;               // yarn
        double attention_factor;                   // yarn, longrope: multiplies cosine and sine; 0: 1
        float factors[ROPE_FACTORS_MAX];           // longrope: of each pair of channels (HS / 2)
        /* What longrope has for longer texts, of which nothing is computed: position_max ends at original_positions. */
        float long_factors[ROPE_FACTORS_MAX];
        int64_t long_positions;
    } rope;

    /* What else the arithmetic has; all zero is Llama's. */
    enum norm_kind norm;
    enum activation activation;
    bool plain_ff;           // activation(up); else activation(gate) * up
    bool qkv_bias, o_bias, ff_bias;
    bool qk_norm;            // queries and keys RMS-normed a head at a time, before the rotation
    bool post_norms;         // attention's and the feed-forward's outputs are normed too, before they are added
    double embedding_scale;  // multiplies token embeddings; 0: 1
    double attention_scale;  // multiplies queries; 0: 1 / sqrt(HS)
    double attention_cap;    // scores become cap * tanh(score / cap); 0: none
    double logit_cap;        // the same for logits
    int64_t window;          // a position sees itself and the window - 1 before it; 0: all
    int64_t window_first, window_period;  // layers that have the window: l >= first, (l - first) % period == 0; period 0: 1
};

/* Positions that a row of layer l sees, at most: the window, or position_max. */
int64_t config_window(const struct model_config *config, int64_t l);

struct gguf;

/*
 * path: model directory (config.json), GGUF file or llama2.c's .bin.  0, or the exit code with the reason logged.  The others
 * return 0 or -1, logged; name is how errors call the model.
 */
int config_open(struct model_config *config, const char *path);
int config_from_json(struct model_config *config, const json_t *json, const char *name);
int config_from_gguf(struct model_config *config, const struct gguf *gguf, const char *name);
/* config.json as transformers 4 and 5 read it. The caller json_decref()s. */
json_t *config_to_json(const struct model_config *config);

/* Parameters of the network, value head not counted. */
int64_t config_parameter_count(const struct model_config *config);

/*
 * Every weight of any family in checkpoint order.  Loader, exporter, optimiser and gradient checks walk the roles and
 * skip those that the config lacks (weight_present).  A role's canonical name is that of Llama's family
 * ("model.layers.0.self_attn.q_proj.weight"), which store checkpoints use for all; how a family's own files name and lay out
 * its weights is family.h's.
 */
enum weight_role {
    WEIGHT_EMBEDDING, WEIGHT_POSITION,
    WEIGHT_ATTN_NORM, WEIGHT_ATTN_NORM_BIAS,
    WEIGHT_Q, WEIGHT_K, WEIGHT_V, WEIGHT_Q_BIAS, WEIGHT_K_BIAS, WEIGHT_V_BIAS, WEIGHT_Q_NORM, WEIGHT_K_NORM,
    WEIGHT_O, WEIGHT_O_BIAS, WEIGHT_ATTN_POST_NORM,
    WEIGHT_FF_NORM, WEIGHT_FF_NORM_BIAS,
    WEIGHT_GATE, WEIGHT_UP, WEIGHT_GATE_BIAS, WEIGHT_UP_BIAS, WEIGHT_DOWN, WEIGHT_DOWN_BIAS, WEIGHT_FF_POST_NORM,
    WEIGHT_FINAL_NORM, WEIGHT_FINAL_NORM_BIAS,
    WEIGHT_LM_HEAD, WEIGHT_SCORE, WEIGHT_VALUE, WEIGHT_VALUE_BIAS,
    WEIGHT_ROLE_COUNT
};
enum weight_dimension {
    DIMENSION_NONE, DIMENSION_1, DIMENSION_V, DIMENSION_C, DIMENSION_Q, DIMENSION_KV, DIMENSION_F, DIMENSION_HS, DIMENSION_P,
    DIMENSION_N,
};
struct weight_spec {
    enum weight_role role;
    const char *name;                // canonical; %d where the layer number goes
    enum weight_dimension shape[2];  // Q is NH * HS, KV is NKV * HS, P is position_max; NONE ends a vector
    bool per_layer;
};
extern const struct weight_spec weight_specs[WEIGHT_ROLE_COUNT];

/* Whether a network of this config has the weight: heads (LM head, score) where the config says so, a value head always. */
bool weight_present(const struct model_config *config, enum weight_role role);
/* Whether a file of this config must hold it: present, and no value head. */
bool weight_required(const struct model_config *config, enum weight_role role);
/* Rank and shape of a weight under this config. */
size_t weight_shape(const struct model_config *config, enum weight_role role, int64_t shape[2]);
/* The canonical name with the layer filled in. */
enum { WEIGHT_NAME_SIZE = 96 };
void weight_name(enum weight_role role, int64_t layer, char out[WEIGHT_NAME_SIZE]);
/* The same for any name with %d where the layer number goes, and whether a name is such a one. */
void weight_name_fill(const char *pattern, int64_t layer, char out[WEIGHT_NAME_SIZE]);
bool weight_name_matches(const char *pattern, const char *name);

#endif
