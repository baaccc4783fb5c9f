/*
 * encoder_config.h - what an encoder's shape is, from config.json, and what its family calls its weights.
 *
 * Every field is checked (positive, within limits, divisible where the arithmetic needs it), so code that has an
 * encoder_config need not check again.  What is not supported is refused by name.
 *
 * To add a family: a row in encoder_config.c's table, and there what its config.json says that no other's does.
 */
#ifndef MODEL_ENCODER_CONFIG_H
#define MODEL_ENCODER_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum encoder_activation {
    ENCODER_GELU, ENCODER_GELU_TANH, ENCODER_RELU, ENCODER_SILU, ENCODER_TANH,
    ENCODER_ACTIVATION_COUNT
};

/* The parts of an encoder.  Each has a weight and most a bias; those from PART_Q on are of a layer. */
enum encoder_part {
    PART_WORD, PART_POSITION, PART_TYPE, PART_EMBEDDING_NORM, PART_PROJECTION,
    PART_RELATIVE, PART_RELATIVE_NORM, PART_CONV, PART_CONV_NORM,
    PART_POOL, PART_LABELS,
    PART_Q, PART_K, PART_V, PART_O, PART_ATTN_NORM, PART_UP, PART_DOWN, PART_FF_NORM, PART_POSITION_K, PART_POSITION_Q,
    PART_COUNT,
    PART_FIRST_OF_LAYER = PART_Q
};

struct encoder_family {
    const char *model_type;            // "bert"
    const char *architecture;          // its names' beginning: "Bert" of "BertForSequenceClassification"
    const char *prefix;                // of all names but the head's, unless the file leaves it out: "bert."
    const char *names[PART_COUNT];     // without prefix and ".weight"; %d where the layer number goes; NULL: it has none
    bool prefixed_pool;                // PART_POOL is one of the names with a prefix
    bool short_keys;                   // DistilBERT's keys in the config
    bool positions_after_padding;      // a text's positions begin behind the padding token's id; padding itself has that position
    bool norm_before_projection;       // of embeddings to C channels; and the projection has a bias
    bool disentangled;                 // DeBERTa's keys in the config: relative positions, convolution, no positions or types
    enum encoder_activation pool_activation;
    bool pool_activation_given;        // by pooler_hidden_act instead
};

struct encoder_config {
    const struct encoder_family *family;
    int64_t vocab_size;            // V
    int64_t channel_count;         // C
    int64_t layer_count;           // L
    int64_t head_count;            // NH, divides C
    int64_t ff_count;              // F
    int64_t embedding_size;        // channels of the embeddings, projected to C where they differ
    int64_t position_count;        // rows of the position embedding; 0: none
    int64_t position_first;        // row of a text's first token
    int64_t padding;               // token id
    int64_t type_count;            // rows of the type embedding; 0: none
    int64_t label_count;           // N; 0: no head
    double norm_epsilon;
    enum encoder_activation activation, pool_activation;

    /* Disentangled attention. */
    bool relative;                 // there are relative positions
    bool content_to_position, position_to_content;
    bool shared_keys;              // relative positions go through the layer's own query and key matrices
    bool relative_norm;            // their embeddings are normed
    int64_t buckets;               // 0: none
    int64_t relative_max;          // distance at which they end
    int64_t span;                  // there are 2 * span of them
    int64_t conv_size;             // taps of the convolution beside the first layer; odd, 0: none
    enum encoder_activation conv_activation;
};

/* The family that config.json names, NULL if it is no encoder's. */
const struct encoder_family *encoder_family_of(const json_t *json);
/* That of a Hugging Face directory.  EX_OK, or the exit code with the reason logged. */
int encoder_config_open(struct encoder_config *config, const char *path);
/* 0, or -1 with the reason logged. */
int encoder_config_from_json(struct encoder_config *config, const json_t *json, const char *name);
/* The fields that decide the numbers, as an object.  The caller json_decref()s. */
json_t *encoder_config_to_json(const struct encoder_config *config);

/* Whether a network of this config has the part's weight and bias. */
bool encoder_has_weight(const struct encoder_config *config, enum encoder_part part);
bool encoder_has_bias(const struct encoder_config *config, enum encoder_part part);
/* Rank and shape of the weight; a bias is (shape[0]). */
size_t encoder_weight_shape(const struct encoder_config *config, enum encoder_part part, int64_t shape[3]);

struct weights;
/*
 * Sets used[i] for each tensor weights_at(weights, i) that a network of this config uses.  0, or -1 when one is missing or
 * has another shape, logged.
 */
int encoder_weights_used(const struct encoder_config *config, const struct weights *weights, const char *name, bool *used);

/* Where the table of 2 * span relative positions keeps that of a key which lies distance (query less key) before its query. */
int64_t encoder_relative_index(const struct encoder_config *config, int64_t distance);

#endif
