/*
 * learner.h - a training run: which batches, when a snapshot, where to resume.
 *
 * As a worker of a store the batches arrive in order, metrics and checkpoints go to the store.  Between pipes
 * the whole input is read first, then trained on for some epochs; the checkpoint is a file in the output directory.
 * Both resume at the last checkpoint and give the same weights as a run that was never interrupted.
 */
#ifndef TRAIN_LEARNER_H
#define TRAIN_LEARNER_H

#include <stdbool.h>
#include <stdint.h>

#include "learn/trainer.h"
#include "wire/edge.h"

struct tokenizer;
struct weights;

struct learner_options {
    const char *model;         // where training starts from
    const char *run;           // in the store
    const char *output;        // directory for the trained model; NULL: none
    int64_t batch, epochs, updates;  // rollouts a batch, passes over the data, updates on each batch
    int64_t refresh;           // steps between snapshots of the weights
    int64_t checkpoint_every;  // steps between checkpoints that can be resumed
    uint64_t seed;             // of the order
    bool decay;                // let the learning rate fall over all steps
    enum objective objective;
};

struct learner {
    struct learner_options options;
    struct trainer_options settings;
    const struct model_config *config;
    const struct weights *weights;  // what training starts from; NULL: random weights
    const char *init_key;           // of weights
    const struct tokenizer *tokenizer;
    struct pool *pool;
    struct edge *edge;
    struct trainer *trainer;        // opened by learner_run_*, owned
};

/*
 * Trains until the run is complete or the input's epochs are over.  Returns what the last edge_take gave; *code is set
 * to an exit code when training itself failed, else 0.
 */
enum edge_status learner_run_store(struct learner *learner, int *code);
enum edge_status learner_run_pipe(struct learner *learner, int *code);

/*
 * Writes the model that was trained, with its tokenizer, as a Hugging Face directory; with LoRA merged, and in adapter/ the
 * adapters as PEFT reads them.  0 or -1.
 */
int learner_export(struct learner *learner);

#endif
