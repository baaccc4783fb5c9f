/*
 * weights.h - named tensors of a model file, mapped, never copied.
 *
 * Reads Hugging Face directories (*.safetensors, sharded through model.safetensors.index.json or not), one .safetensors file,
 * GGUF files, llama2.c's .bin, and safetensors or GGUF bytes in memory (a checkpoint of the store).  Tensors have the names of
 * their file; weights_role finds the weight that a role of the network means, under its family's name in that format or its
 * canonical one, and says how its canonical rows lie in the file: part of a fused tensor, transposed, interleaved for rotary
 * pairs.
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
#include "base/pool.h"
#include "math/tensor_type.h"
#include "model/config.h"

enum { TENSOR_RANK_MAX = 4 };

struct tensor {
    const char *name;                   // in the file
    enum tensor_type type;
    size_t rank;
    int64_t shape[TENSOR_RANK_MAX];     // row-major, last fastest: a linear weight is (N outputs, K inputs)
    const void *data;                   // little-endian; may be aligned to no more than 1 byte
    size_t size_bytes;
    /* How a weight's canonical rows lie here; all zero for plain tensors. */
    bool rows_interleaved;              // rotary pairs are neighbours
    size_t column_count;                // transposed: of the file's rows, which hold the canonical columns; 0: not transposed
    float offset;                       // added to every element
};

struct digest;
struct weights;

/* NULL on failure, logged; *code is then the exit code (65 bad, 66 missing, 69 cannot be read). */
struct weights *weights_open(const char *path, int *code);
/* Whether a directory has *.safetensors files, of whatever model. */
bool weights_in_directory(const char *directory);
/* Where a directory of several *.safetensors files says which tensor is in which; malloc'd. */
char *weights_index_path(const char *directory);
/* Borrows data for as long as the weights live.  name is how errors call it. */
struct weights *weights_from_memory(const void *data, size_t size, const char *name);
void weights_close(struct weights *weights);

size_t weights_count(const struct weights *weights);
const struct tensor *weights_at(const struct weights *weights, size_t index);
/* NULL if there is none. */
const struct tensor *weights_find(const struct weights *weights, const char *name);
/*
 * The weight of a role as its canonical shape, borrowing from the weights.  False where the config or the file has none, or
 * the file has it in a shape that weights_check refuses.
 */
bool weights_role(const struct weights *weights, const struct model_config *config, enum weight_role role, int64_t layer,
                  struct tensor *tensor);

/* The text of a "__metadata__" entry of a safetensors file, or of a GGUF string; NULL if there is none. */
const char *weights_metadata(const struct weights *weights, const char *key);

/* Rows [first, first + count) of the canonical order as float32; a vector counts as one row.  head_size from the config. */
void tensor_read_rows(const struct tensor *tensor, size_t head_size, size_t first, size_t count, float *out);
/* All of them. */
void tensor_read_canonical(const struct tensor *tensor, size_t head_size, float *out);
/*
 * Where canonical row n of a matrix begins in the file, its elements in the tensor's type; NULL for tensors whose rows do not
 * lie so, which tensor_read_rows reads.
 */
const void *tensor_row(const struct tensor *tensor, size_t head_size, size_t n);
/* Elements [first, first + count) of a tensor that is not transposed, in storage order, offset left out. */
void tensor_read(const struct tensor *tensor, size_t first, size_t count, float *out);
size_t tensor_elements(const struct tensor *tensor);

/*
 * Whether every weight that the config asks for is there in its shape, and a value head complete or absent.  0, or -1
 * with the first that is wrong logged.
 */
int weights_check(const struct weights *weights, const struct model_config *config);

/*
 * Content digest in hex (KEY_SIZE of base/digest.h) of checked weights: config, names, shapes and float32 values in
 * canonical order.  The same for the same numbers in any format.  pool may be NULL.
 */
void weights_key(const struct weights *weights, const struct model_config *config, struct pool *pool, char *key);

/*
 * Adds to digest what the files are known by without reading them: their sizes and times, as they were when the weights were
 * opened.  False, and nothing added, where these are no files as they are: bytes in memory, or a base model with an adapter merged
 * into it.
 */
bool weights_add_files(const struct weights *weights, struct digest *digest);

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
