/*
 * weights.h - named tensors of a model file, mapped, never copied.
 *
 * Reads Hugging Face directories (*.safetensors, sharded through model.safetensors.index.json or not), one .safetensors file,
 * GGUF files, and safetensors bytes in memory (a checkpoint of the store).  Names are Hugging Face's whatever
 * the file: GGUF's blk.0.attn_q.weight is model.layers.0.self_attn.q_proj.weight here.  Where GGUF stores rows of q and k for
 * interleaved rotary pairs, rows_interleaved is set and the loader puts them into Hugging Face's order.
 *
 * A file is checked whole before the first float is used: header sizes, offsets, overlaps, shapes, types.  Whether it holds
 * the tensors of a certain model is weights_check's question.
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

enum tensor_type { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_TYPE_COUNT };

enum { TENSOR_RANK_MAX = 4 };

struct tensor {
    const char *name;                   // Hugging Face's name
    enum tensor_type type;
    size_t rank;
    int64_t shape[TENSOR_RANK_MAX];     // row-major, last fastest: a linear weight is (N outputs, K inputs)
    const void *data;                   // little-endian; may be aligned to no more than 1 byte
    size_t size_bytes;
    bool rows_interleaved;
};

struct weights;

/* NULL on failure, logged; *code is then the exit code (65 bad, 66 missing, 69 cannot be read). */
struct weights *weights_open(const char *path, int *code);
/* Borrows data for as long as the weights live.  name is how errors call it. */
struct weights *weights_from_memory(const void *data, size_t size, const char *name);
void weights_close(struct weights *weights);

size_t weights_count(const struct weights *weights);
const struct tensor *weights_at(const struct weights *weights, size_t index);
/* NULL if there is none. */
const struct tensor *weights_find(const struct weights *weights, const char *name);

/* The text of a "__metadata__" entry of a safetensors file, or of a GGUF string; NULL if there is none. */
const char *weights_metadata(const struct weights *weights, const char *key);

/* Converts elements [first, first + count) in storage order to float32. */
void tensor_read(const struct tensor *tensor, size_t first, size_t count, float *out);
/* The whole tensor as float32, rows in Hugging Face's order (undoes rows_interleaved; head_size from the config). */
void tensor_read_canonical(const struct tensor *tensor, size_t head_size, float *out);
/* The same for rows [first, first + count) of that order; a vector counts as one row. */
void tensor_read_rows(const struct tensor *tensor, size_t head_size, size_t first, size_t count, float *out);
size_t tensor_elements(const struct tensor *tensor);

/*
 * Whether every weight that the config asks for is there in its shape, and a value head complete or absent.  0, or -1
 * with the first that is wrong logged.
 */
struct model_config;
int weights_check(const struct weights *weights, const struct model_config *config);

/*
 * Content digest in hex (KEY_SIZE of base/digest.h) of checked weights: config, names, shapes and float32 values in
 * canonical order.  The same for the same numbers in any format.
 */
void weights_key(const struct weights *weights, const struct model_config *config, char *key);

/* ---- writing safetensors ---- */

struct tensor_out {
    const char *name;
    size_t rank;
    int64_t shape[TENSOR_RANK_MAX];
    const float *data;  // float32
};
/* Appends a safetensors file with these tensors and metadata (pairs of key and text, metadata_count of them, UTF-8). */
void safetensors_write(struct buffer *out, const struct tensor_out *tensors, size_t count,
                       const char *const (*metadata)[2], size_t metadata_count);

#endif
