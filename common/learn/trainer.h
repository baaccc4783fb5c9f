/*
 * trainer.h - one network being trained: forward, backward, AdamW, checkpoints; all in float32 but, on request, products of
 * matrices.
 *
 * Value models: loss = mean over counted states of 0.5 * (V(s) - target)^2.
 * Language models: loss = mean over counted positions of -log p(next token).
 *
 * Sequences of a batch are packed one after the other, no padding.  The result of a step does not depend on the number
 * of threads, nor on that of ranks, which all make the same calls with the same arguments.
 */
#ifndef LEARN_TRAINER_H
#define LEARN_TRAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "base/pool.h"
#include "learn/product.h"
#include "math/tensor_type.h"
#include "model/config.h"

struct weights;
struct trainer;

enum objective { OBJECTIVE_VALUE, OBJECTIVE_LM };

/* Low-rank adapters of frozen weights; see parameters.h. */
struct lora_options {
    int64_t rank;          // 0: all weights are trained
    double alpha;          // the adapter's product is multiplied by alpha / rank
    uint64_t targets;      // bit 1 << role: of q, k, v, o, gate, up, down
    const char *base_key;  // weights_key of what is adapted: checkpoints say it
    enum tensor_type base_type;  // the frozen matrices of layers are rounded to; TENSOR_F32: kept as they are
};

struct trainer_options {
    enum objective objective;
    double learning_rate;       // peak
    double beta1, beta2, epsilon, weight_decay;  // AdamW; decay not on norms, biases, embeddings and value head
    double clip_norm;           // gradient's global norm is scaled down to this; 0: never
    int64_t warmup_steps;       // the learning rate rises linearly and is at its peak in the last of them
    int64_t total_steps;        // 0: no decay; else cosine from peak to final_fraction * peak at total_steps
    double final_fraction;
    int64_t micro_batch_tokens; // tokens whose activations are held at once; a longer sequence is held whole
    int64_t longest_tokens;     // of a sequence, for the memory that training takes; 0: not known
    bool recompute;             // hold one layer's activations and compute them again; also where there is no memory for all
    uint64_t seed;              // of a random initialisation
    struct lora_options lora;
    enum products products;     // how matrices are multiplied: bytes depend on it
    int64_t parts;              // of a batch, whose gradients are added in a tree; bytes depend on it
    struct ranks *ranks;        // processes that share the parts, at most as many; NULL: this one alone
};
struct trainer_options trainer_defaults(enum objective objective);

/* "q,k,v,o" of a command line to targets.  0, or -1 for a name that is none of q, k, v, o, gate, up, down. */
int lora_targets_read(const char *text, uint64_t *targets);
/* "rank=8 alpha=16 targets=q,k,v,o", with " base=NF4" where the base is rounded, or "none".  The caller frees. */
char *lora_text(const struct lora_options *lora);

/*
 * Starts from weights (NULL: random initialisation, not with LoRA).  A value model without a value head gets a zero one and
 * keeps the heads for tokens and scores untouched; a language model drops a value head.  tokenizer_key goes into
 * the metadata of checkpoints.  Keeps pool.  States the memory that training takes.  NULL on failure, logged; *code is then the
 * exit code: 65 the weights do not fit, 69 this processor has no such products, or 71 this machine has less memory.
 */
struct trainer *trainer_open(const struct trainer_options *options, const struct model_config *config,
                             const struct weights *weights, const char *tokenizer_key, struct pool *pool, int *code);
void trainer_close(struct trainer *trainer);

struct example {
    const int32_t *tokens;  // (T)
    size_t T;
    const float *target;    // (T) value target of the state that ends at token t; NULL for the LM objective
    const float *mask;      // (T) 1 where position t counts; for LM: where predicting tokens[t + 1] counts. NULL: all that can
};
struct step_metrics {
    double loss, gradient_norm, learning_rate;
    double value_mean, target_mean;  // value objective only, of values before the update
    double explained_variance;       // 1 - variance of (target - value) / variance of target; NaN if targets are all equal
    int64_t counted;                 // positions in the loss
    int64_t tokens;                  // positions run
};
/* Over so many steps the learning rate falls (options.total_steps). */
void trainer_expect(struct trainer *trainer, int64_t total_steps);
/*
 * One update from these examples.  0, or -1 with the reason logged and nothing changed: an example that does not fit the
 * model, no counted position, a loss or a gradient that is not finite.
 */
int trainer_step(struct trainer *trainer, const struct example *examples, size_t count, struct step_metrics *metrics);
/* Weights, moments and steps of rank 0 become those of all ranks. */
void trainer_share(struct trainer *trainer);
/* The loss without an update.  NaN, logged, for examples that trainer_step would refuse. */
double trainer_loss(struct trainer *trainer, const struct example *examples, size_t count);
int64_t trainer_steps(const struct trainer *trainer);  // updates so far

/*
 * Checkpoint as a safetensors file.  Without the optimiser: whole weights by canonical names, adapters merged; with it, what
 * resuming needs beside the weights that training began with.  trainer_save.c says what is where.  cursor is one more
 * metadata entry, or NULL.
 */
void trainer_save(const struct trainer *trainer, bool with_optimiser, const char *cursor, struct buffer *out);
/* Writes the adapters, and a value head beside them, as PEFT reads them; base is where PEFT finds what they adapt.  0 or -1. */
int trainer_export_adapter(const struct trainer *trainer, const char *base, const char *directory);
/* Restores a checkpoint with optimiser exactly.  0, or -1 with the reason logged and nothing changed: also where LoRA's options or
   the weights that it adapts are others. */
int trainer_load(struct trainer *trainer, const struct weights *checkpoint, const char *name);

#endif
