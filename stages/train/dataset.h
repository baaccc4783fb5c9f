/*
 * dataset.h - training examples, copied out of frames.
 */
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "learn/trainer.h"
#include "text/tokenizer.h"
#include "wire/frame.h"

struct dataset {
    struct arena arena;
    struct example *examples;  // (count), borrow from arena
    size_t count, capacity;
};

void dataset_init(struct dataset *dataset);
void dataset_reset(struct dataset *dataset);
void dataset_free(struct dataset *dataset);

/*
 * Targets of a response, each at the position where its state's value is read.  tokenizer is the model's.  0; 1 with a line in
 * reason when prompt and response are longer than position_max; or -1 with one: states of another tokenizer, an id outside the
 * vocabulary, targets that do not fit the response.
 */
int dataset_add_target(struct dataset *dataset, const struct frame_target *target, const struct model_config *config,
                       const struct tokenizer *tokenizer, char reason[256]);

/* A document for the language model, cut into pieces of position_max tokens.  0, or -1 with a line in reason. */
int dataset_add_document(struct dataset *dataset, const struct frame_prompt *document, const struct model_config *config,
                         const struct tokenizer *tokenizer, char reason[256]);

/* Of all tokens, targets and masks in order; key holds KEY_SIZE bytes. */
void dataset_key(const struct dataset *dataset, char *key);

#endif
