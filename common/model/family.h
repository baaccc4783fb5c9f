/*
 * family.h - how the families of decoders differ, a row each: names of architectures, arithmetic, names and layouts of weights.
 *
 * To add one: a value in model_family, a row in family.c's table, and in config_json.c what its config.json says that no
 * other's does.
 */
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include "model/config.h"

/* How a weight lies in a file of its family, where it differs from its canonical rows. */
enum weight_layout {
    LAYOUT_ROWS,         // (N, K) as the canonical shape says
    LAYOUT_TRANSPOSED,   // (K, N): GPT-2's Conv1D
};

/* A family's own name for a role.  Roles with one name share a tensor (GPT-2's c_attn, Phi-3's qkv_proj), in their order. */
struct family_weight {
    enum weight_role role;
    const char *name;           // in safetensors, %d where the layer number goes; NULL: the canonical name
    const char *gguf_name;      // NULL where GGUF has none
    enum weight_layout layout;  // in safetensors; GGUF keeps rows
};

struct family {
    enum model_family family;
    const char *architecture;       // "LlamaForCausalLM"
    const char *classification;     // "LlamaForSequenceClassification"
    const char *model_type;         // "llama"
    const char *gguf_architecture;  // "llama"; the first family that has one owns it
    const char *prefix;             // of names in safetensors, which files may leave out
    bool gguf_interleaves;          // GGUF keeps rows of q and k as rotary pairs
    bool norm_less_one;             // safetensors hold a norm's weight - 1 (GGUF the weight)
    /* The arithmetic of all its models, and transformers' values for what a config.json leaves out. */
    struct model_config defaults;
    /* Where its weights differ from Llama's.  No file of the family has a tensor with the canonical name of the first. */
    const struct family_weight *weights;
    size_t weight_count;
};
extern const struct family families[FAMILY_COUNT];

/* Never NULL: roles that no table names have their canonical name and none in GGUF. */
const struct family_weight *family_weight(enum model_family family, enum weight_role role);

/* A role's name in safetensors of the family, %d where the layer number goes. */
const char *family_name(enum model_family family, enum weight_role role);
/* What safetensors of the family leave out of each element: 1 of norms that hold weight - 1, else 0. */
float family_offset(enum model_family family, enum weight_role role);

/* The family of a GGUF architecture; NULL where none is supported. */
const struct family *family_from_gguf(const char *architecture);

#endif
