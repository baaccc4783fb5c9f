/*
 * trainer.h - one network being trained in float32: forward, backward, AdamW, checkpoints.
 *
 * Value models: loss = mean over counted states of 0.5 * (V(s) - target)^2.
 * Language models: loss = mean over counted positions of -log p(next token).
 *
 * Sequences of a batch are packed one after the other, no padding.  The result of a step does not depend on the number
 * of threads.
 */
#ifndef LEARN_TRAINER_H
#define LEARN_TRAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "base/pool.h"
#include "model/config.h"

struct weights;
struct trainer;

enum objective { OBJECTIVE_VALUE, OBJECTIVE_LM };

struct trainer_options {
    enum objective objective;
    double learning_rate;       // peak
    double beta1, beta2, epsilon, weight_decay;  // AdamW; decay not on norms, biases, embeddings and value head
    double clip_norm;           // gradient's global norm is scaled down to this; 0: never
    int64_t warmup_steps;       // the learning rate rises linearly and is at its peak in the last of them
    int64_t total_steps;        // 0: no decay; else cosine from peak to final_fraction * peak at total_steps
    double final_fraction;
    int64_t micro_batch_tokens; // tokens whose activations are held at once; a longer sequence is held whole
    uint64_t seed;              // of a random initialisation
};
struct trainer_options trainer_defaults(enum objective objective);

/*
 * Starts from weights (NULL: random initialisation).  A value model without a value head gets a zero one and keeps the LM
 * head of its weights untouched; a language model drops a value head.  tokenizer_key goes into the metadata of
 * checkpoints.  Keeps pool.  NULL on failure, logged.
 */
struct trainer *trainer_open(const struct trainer_options *options, const struct model_config *config,
                             const struct weights *weights, const char *tokenizer_key, struct pool *pool);
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
/*
 * One update from these examples.  0, or -1 with the reason logged and nothing changed: an example that does not fit the
 * model, no counted position, a loss or a gradient that is not finite.
 */
int trainer_step(struct trainer *trainer, const struct example *examples, size_t count, struct step_metrics *metrics);
/* The loss without an update.  NaN, logged, for examples that trainer_step would refuse. */
double trainer_loss(struct trainer *trainer, const struct example *examples, size_t count);
int64_t trainer_steps(const struct trainer *trainer);  // updates so far

/*
 * Checkpoint as a safetensors file: weights by their Hugging Face names, "config", "tokenizer" and "step" in the metadata;
 * with the optimiser also adam.m.NAME and adam.v.NAME of those trained.  cursor is one more metadata entry, or NULL.
 */
void trainer_save(const struct trainer *trainer, bool with_optimiser, const char *cursor, struct buffer *out);
/* Restores a checkpoint with optimiser exactly.  0, or -1 with the reason logged and nothing changed. */
int trainer_load(struct trainer *trainer, const struct weights *checkpoint, const char *name);

#endif
