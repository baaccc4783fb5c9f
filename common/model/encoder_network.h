/*
 * encoder_network.h - what encoder_weights.c loads, as encoder.c and encoder_attention.c run it.  Internal to common/model;
 * callers use encoder.h.
 *
 *     M rows   C channels   L layers   NH heads   HS head size   F feed-forward width   E embedding channels
 *     VP panels of a head's channels   S panels of relative positions
 */
#ifndef MODEL_ENCODER_NETWORK_H
#define MODEL_ENCODER_NETWORK_H

#include "base/digest.h"
#include "base/file.h"
#include "base/pool.h"
#include "math/kernels.h"
#include "model/encoder.h"
#include "model/encoder_config.h"
#include "model/weights.h"

struct linear {
    struct packed weight;  // (N, K)
    float *bias;           // (N), or NULL
};

struct norm {
    float *weight, *bias;  // (C)
};

struct encoder_layer {
    struct linear qkv;         // (3 C, C)
    struct linear o;           // (C, C)
    struct linear up, down;    // (F, C), (C, F)
    struct norm attn_norm, ff_norm;
    float *position_keys;      // (NH, S, HS, PANEL) pages of relative positions as attend_scores reads them, or NULL
    float *position_queries;   // (NH, S, HS, PANEL) times the attention's scale, or NULL
};

struct encoder {
    struct encoder_config config;
    char key[KEY_SIZE];
    const struct kernels *kernels;
    struct pool *pool;         // not owned
    struct tensor words;       // (V, E) in the file's type; its data are owned
    float *positions;          // (position_count, E), or NULL
    float *types;              // (type_count, E), or NULL
    struct norm embedding_norm;
    struct linear projection;  // (C, E)
    struct linear conv;        // (C, taps C)
    struct norm conv_norm;
    struct encoder_layer *layers;  // (L)
    struct linear pool_dense;  // (C, C)
    struct linear labels;      // (N, C)
    struct file_map mapped;    // matrices that are kept packed borrow from it
};

/* Fills an encoder whose config is set; name is its path.  0, or the exit code with the reason logged. */
int encoder_load(struct encoder *encoder, const struct weights *weights, enum tensor_type quant, bool keep_packed,
                 const char *name);

/* What multiplies every attention score. */
float encoder_attention_scale(const struct encoder_config *config);
static inline size_t encoder_head_size(const struct encoder_config *config)
{
    return (size_t)(config->channel_count / config->head_count);
}
static inline size_t panels_of(size_t n)
{
    return (n + PANEL - 1) / PANEL;
}

/*
 * y = activation(x weight + bias) + residual, shared among the pool's threads.  x: (M, K), y and residual: (M, N).
 * ENCODER_ACTIVATION_COUNT: no activation; residual may be NULL.
 */
void encoder_linear(const struct encoder *encoder, float *y, const float *x, size_t M, const struct linear *linear,
                    enum encoder_activation activation, const float *residual);

/* ---- attention of all rows of a batch ---- */

struct attention {
    const struct encoder *encoder;
    const struct encoder_layer *layer;
    const struct encoder_text *texts;
    size_t count;              // texts
    const size_t *offsets;     // (count) row of each text's first token
    const float *qkv;          // (M, 3 C)
    float *out;                // (M, C); (count, C) when first_only
    bool first_only;           // only each text's first token attends
    const int32_t *columns;    // (2 T_max - 1) index of the relative position of key t and query q at T_max - 1 + t - q
    const int32_t *pages;      // 0, 1, 2, ...
    size_t T_max;
    float *space;              // (threads, space_floats)
    size_t space_floats;
};
/* Numbers that pages must have, and floats that one thread works in. */
size_t encoder_attention_pages(const struct encoder *encoder, size_t T_max);
size_t encoder_attention_floats(const struct encoder *encoder, size_t T_max);
void encoder_attend(const struct attention *attention);

#endif
