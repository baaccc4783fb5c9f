/*
 * adapter.h - low-rank adapters of a decoder (LoRA, arXiv 2106.09685) in PEFT's files.
 *
 * A directory holds adapter_config.json, adapter_model.safetensors and, where 'train' wrote it for a value model,
 * value_head.safetensors.  As a model (-m DIR) it is its base model with the adapters merged: W + scale B A.  Several models of one
 * base may keep them beside its weights instead: W x + scale B (A x), see model_open_adapter.
 *
 * An adapter in PEFT belongs to a module.  Where a family keeps several of our matrices in one module (GPT-2's c_attn, Phi-3's
 * qkv_proj and gate_up_proj), adapters of n of them become one of n times the rank and alpha: A stacked, B in blocks.
 *
 *     N outputs   K inputs   R rank
 */
#ifndef MODEL_ADAPTER_H
#define MODEL_ADAPTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/config.h"

struct weights;
struct tensor;

/* Whether path is an adapter and not a model: a directory with adapter_config.json and without config.json. */
bool adapter_is_directory(const char *path);

/*
 * Where the model is whose config, tokenizer and weights path stands for: the base of an adapter's directory, else path
 * itself.  The caller frees.  NULL on failure, logged; *code is then the exit code.
 */
char *adapter_base_path(const char *path, int *code);

/* Whether it leaves embeddings and heads as they are (all but the value head), so that it can be used unmerged.  False too on
   failure, logged; *code is then the exit code. */
bool adapter_is_low_rank(const char *path, int *code);

/* The weights that an adapter replaces, in float32, and where it is not merged its matrices. */
struct adapter;

/* Merged.  base: open weights of config, borrowed for the call.  NULL on failure, logged; *code is then the exit code. */
struct adapter *adapter_open(const char *path, const struct weights *base, const struct model_config *config, int *code);
/* Unmerged, of one that adapter_is_low_rank: it replaces the value head alone. */
struct adapter *adapter_open_unmerged(const char *path, const struct model_config *config, int *code);
void adapter_close(struct adapter *adapter);
/* False where the base's own weight holds.  tensor borrows from the adapter. */
bool adapter_role(const struct adapter *adapter, enum weight_role role, int64_t layer, struct tensor *tensor);

/* What is added to a matrix: scale B A. */
struct adapter_product {
    float *a;      // (R, K)
    float *b;      // (N, R)
    double scale;
    size_t N, K, R;
};
/* Of an unmerged adapter; NULL where the base's matrix holds. */
const struct adapter_product *adapter_product(const struct adapter *adapter, enum weight_role role, int64_t layer);

/* w += scale * b a, to the same bits wherever it is done; sums in double. */
void adapter_merge(float *w,        // (N, K)
                   const float *a,  // (R, K)
                   const float *b,  // (N, R)
                   double scale, size_t N, size_t K, size_t R);

/* ---- out ---- */

struct adapter_part {
    enum weight_role role;
    int64_t layer;
    const float *a;  // (R, K)
    const float *b;  // (N, R)
};
struct adapter_out {
    const struct adapter_part *parts;   // the same roles in every layer
    size_t part_count;
    size_t rank;
    double alpha;
    const char *base;                   // path of the model that is adapted
    const struct model_config *config;
    const float *value_weight;          // (C), NULL without a value head
    const float *value_bias;            // (1)
};
/* Writes a directory that PEFT reads.  0 or -1, logged. */
int adapter_export(const struct adapter_out *adapter, const char *directory);

/* ---- names ---- */

/* The module of transformers that holds a matrix, and which of its outputs are the role's. */
struct adapter_module {
    char name[WEIGHT_NAME_SIZE];  // "model.layers.0.self_attn.q_proj"
    size_t first, rows, total;    // outputs: of the role, and of the module in all
    size_t K;
};
/* False where role is no matrix that config has. */
bool adapter_module(const struct model_config *config, enum weight_role role, int64_t layer, struct adapter_module *module);

#endif
