/*
 * parameters.h - the weights of a decoder in one block of floats: which of them are trained, and where each lies.
 *
 * Trained ones come first, in the order of a forward pass, and have gradients; frozen ones follow.  The weights of q, k and v lie
 * together and are multiplied as one, and so do those of gate and up, and their biases.
 *
 * With LoRA the frozen matrices of layers may be rounded to blocks of fewer bits; their rows are made floats where they are used.
 *
 * A value model trains all but the heads for tokens and scores.  With LoRA (arXiv 2106.09685) the weights of the decoder are
 * frozen, and each target W (N, K) gets a trained A (R, K) and B (N, R): it is then W + alpha / R B A.
 */
#ifndef LEARN_PARAMETERS_H
#define LEARN_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "learn/trainer.h"
#include "model/config.h"

enum parameter_part { PART_WEIGHT, PART_A, PART_B, PART_COUNT };
enum { PARAMETER_NAME_SIZE = WEIGHT_NAME_SIZE + 16 };

struct parameter {
    enum weight_role role;
    enum parameter_part part;
    int64_t layer;                   // 0 where there is one for all layers
    char name[PARAMETER_NAME_SIZE];  // canonical; "….lora_A.weight" of a part
    size_t rank;
    int64_t shape[2];
    size_t first, count;             // floats
    enum tensor_type type;           // other than TENSOR_F32: rows of it, which begin at byte first of rounded
    bool trained;
};

struct parameters {
    struct model_config config;
    enum objective objective;
    struct lora_options lora;
    struct parameter *table;         // (table_count) in the order of floats
    size_t table_count;
    size_t *first[PART_COUNT];       // (L, WEIGHT_ROLE_COUNT): of a weight's part, SIZE_MAX where there is none or it is rounded
    const struct parameter **rounded_at;  // (L, WEIGHT_ROLE_COUNT), NULL where none is rounded
    size_t count, trained_count;     // floats
    size_t rounded_bytes;
    float *floats;                   // (count)
    unsigned char *rounded;          // (rounded_bytes)
    float *gradients;                // (trained_count), sums since they were last set to 0
};

/* Lays out the table, without floats. */
void parameters_init(struct parameters *parameters, const struct model_config *config, enum objective objective,
                     const struct lora_options *lora);
/* Zero. */
void parameters_alloc(struct parameters *parameters);
void parameters_free(struct parameters *parameters);

/* Where a weight or its part begins; NULL where the network has none or it is rounded, of gradients also where it is frozen. */
float *parameter_at(const struct parameters *parameters, enum weight_role role, enum parameter_part part, int64_t layer);
float *gradient_at(const struct parameters *parameters, enum weight_role role, enum parameter_part part, int64_t layer);

/* Rows [n, n + count) of a rounded matrix (N, K), as floats and back.  x: (count, K). */
void rounded_set(const struct parameters *parameters, const struct parameter *parameter, size_t n, size_t count, const float *x);
void rounded_get(const struct parameters *parameters, const struct parameter *parameter, size_t n, size_t count, float *x);
/* The rounded matrix that a role is, or NULL. */
const struct parameter *rounded_find(const struct parameters *parameters, enum weight_role role, int64_t layer);

/* Where the trained floats of a layer begin; those of later layers and of the heads follow. */
size_t parameters_layer_first(const struct parameters *parameters, int64_t layer);

/*
 * Like transformers and PEFT: weights normal with deviation 0.02, those that end a residual branch divided by sqrt(2L), norms 1,
 * biases and the value head 0; A uniform within 1 / sqrt(K), B 0.
 */
void parameters_randomise(struct parameters *parameters, uint64_t seed);
/* Only the parts of LoRA. */
void parameters_randomise_lora(struct parameters *parameters, uint64_t seed);

/* Of all weights and parts, rounded or not. */
size_t parameters_elements(const struct parameters *parameters);

/* A weight with its parts added: W + alpha / R B A.  out: its shape. */
void parameter_merged(const struct parameters *parameters, const struct parameter *parameter, float *out);

#endif
