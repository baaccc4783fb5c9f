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

enum model_family { FAMILY_LLAMA };

struct model_config {
    enum model_family family;
    int64_t vocab_size;      // V
    int64_t channel_count;   // C
    int64_t layer_count;     // L
    int64_t head_count;      // NH
    int64_t kv_head_count;   // NKV, divides NH
    int64_t head_size;       // HS, even
    int64_t ff_count;        // F
    int64_t position_max;    // context length in tokens
    double rope_theta;
    double norm_epsilon;
    bool tied_embeddings;    // lm_head is the token embedding
};

struct gguf;

/* path: model directory (config.json) or GGUF file.  0, or the exit code with the reason logged. */
int config_open(struct model_config *config, const char *path);
int config_from_json(struct model_config *config, const json_t *json, const char *name);
int config_from_gguf(struct model_config *config, const struct gguf *gguf, const char *name);
/* config.json as transformers reads it. The caller json_decref()s. */
json_t *config_to_json(const struct model_config *config);

/* Parameters of the network, value head not counted. */
int64_t config_parameter_count(const struct model_config *config);

/*
 * Every weight of the model in checkpoint order, one row each: names with %d where the layer number goes (per_layer).
 * Loader, exporter, optimiser and gradient checks walk this table.
 */
enum weight_role {
    WEIGHT_EMBEDDING, WEIGHT_ATTN_NORM, WEIGHT_Q, WEIGHT_K, WEIGHT_V, WEIGHT_O, WEIGHT_FF_NORM,
    WEIGHT_GATE, WEIGHT_UP, WEIGHT_DOWN, WEIGHT_FINAL_NORM, WEIGHT_LM_HEAD, WEIGHT_VALUE, WEIGHT_VALUE_BIAS,
    WEIGHT_ROLE_COUNT
};
enum weight_dimension { DIMENSION_NONE, DIMENSION_1, DIMENSION_V, DIMENSION_C, DIMENSION_Q, DIMENSION_KV, DIMENSION_F };
struct weight_spec {
    enum weight_role role;
    const char *name;       // "model.layers.%d.self_attn.q_proj.weight"
    const char *gguf_name;  // "blk.%d.attn_q.weight"; NULL where GGUF has none
    enum weight_dimension shape[2];  // Q is NH * HS, KV is NKV * HS; NONE ends a vector
    bool per_layer;
    bool optional;          // value head; lm_head of tied models
};
extern const struct weight_spec weight_specs[WEIGHT_ROLE_COUNT];
/* Rank and shape of a weight under this config. */
size_t weight_shape(const struct model_config *config, enum weight_role role, int64_t shape[2]);
/* The name with the layer filled in. */
enum { WEIGHT_NAME_SIZE = 96 };
void weight_name(enum weight_role role, int64_t layer, char out[WEIGHT_NAME_SIZE]);
/* Whether name is that of a weight; then role and layer (0 for those outside layers) are set. */
bool weight_from_name(const char *name, enum weight_role *role, int64_t *layer);
bool weight_from_gguf_name(const char *name, enum weight_role *role, int64_t *layer);
/* Whether a model of this config must have the weight. */
bool weight_required(const struct model_config *config, enum weight_role role);

#endif
