/*
 * encoder.h - bidirectional encoders with a sequence-classification head: BERT (and MiniLM), DistilBERT, RoBERTa, XLM-RoBERTa,
 * ELECTRA, DeBERTa-v2 and v3.
 *
 * Texts of a batch are packed one after the other, without padding; a text's numbers are the same in any batch and with any
 * number of threads.
 *
 *     T tokens   M rows of a batch   C channels   N labels
 */
#ifndef MODEL_ENCODER_H
#define MODEL_ENCODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "math/tensor_type.h"

struct encoder;

/* Whether a directory's config.json names an encoder (what a reward model's loader asks first).  False for what cannot be read. */
bool encoder_is(const char *path);
/*
 * A Hugging Face directory.  quant rounds the matrices of the layers to a block type (TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4);
 * TENSOR_TYPE_COUNT: as in the file.  keep_packed: as in model_open_quantised, of matrices.  Keeps pool.  NULL on failure, logged;
 * *code is then the exit code.
 */
struct encoder *encoder_open(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code);
void encoder_close(struct encoder *encoder);

const char *encoder_key(const struct encoder *encoder);      // content digest, KEY_SIZE
size_t encoder_vocab_size(const struct encoder *encoder);
size_t encoder_position_max(const struct encoder *encoder);  // tokens of one text; SIZE_MAX where positions are relative alone
size_t encoder_type_count(const struct encoder *encoder);    // size of the type vocabulary; 0: it has no types
size_t encoder_channel_count(const struct encoder *encoder);
size_t encoder_label_count(const struct encoder *encoder);   // 0: no head

struct encoder_text {
    const int32_t *tokens;  // (T) inside the vocabulary
    const int32_t *types;   // (T) segment of each token, inside the type vocabulary; not read where there is none; NULL: all 0
    size_t T;               // 1 .. position_max
};
/* hidden: (M, C) out, the last layer's states of all texts in a row. */
void encoder_run(const struct encoder *encoder, const struct encoder_text *texts, size_t count, float *hidden);
/* scores: (count, N) out, as transformers' logits. */
void encoder_scores(const struct encoder *encoder, const struct encoder_text *texts, size_t count, float *scores);

#endif
