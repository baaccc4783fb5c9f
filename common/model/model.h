/*
 * model.h - a decoder that runs rows: base policies and value models alike.
 *
 * One primitive serves prefill, sampling, scoring candidates and scoring given text: a batch of rows.  A row is one token
 * that continues a sequence of the KV cache, directly or through rows of the same batch (its parents).  Hidden states
 * come back for every row; logits and values are computed from those that need them.
 *
 *     M rows   C channels   L layers   V vocabulary   NH heads   NKV key/value heads   HS head size
 *
 * A row's numbers are the same alone or in any batch, with any number of threads, and wherever its ancestors' keys and values
 * lie (cache or batch): every sum runs in an order that depends on the row's position alone.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "math/tensor_type.h"
#include "model/config.h"

struct weights;
struct model;

/*
 * Reads and repacks the weights of a directory or file.  Keeps pool.  NULL on failure, logged; *code is then the exit code.
 * States the memory it will take before it reads, and refuses what this machine has not got (71).
 */
struct model *model_open(const char *path, struct pool *pool, int *code);
/* The same with matrices of float types rounded on the way, to TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0 or TENSOR_NF4.
   TENSOR_TYPE_COUNT: as in the file.  The key names the rounding.  keep_packed: what it is repacked into is kept in a file beside
   it and mapped (packed_file.h); where that cannot be, it says why and goes on without. */
struct model *model_open_quantised(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code);
/* Which matrices that rounds: to BF16 all, to fewer bits those of layers, whose products are most of the work. */
bool model_rounds(enum weight_role role, enum tensor_type quant);
/* The same for a base policy: a model without a language model head is refused (65). */
struct model *model_open_policy(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code);
/* The option of programs that open models; target is a bool. */
#define MODEL_KEEP_PACKED_OPTION(target) \
    { 0, "keep-packed", NULL, OPTION_FLAG, &(target), 0, 0, \
      "keep the packed weights in a file beside the model and map it:\nlater starts pack nothing, and workers share its memory" }
/* What OPTION_CHOICE of a rounding offers, and what it stands for: TENSOR_TYPE_COUNT for NULL and other texts. */
#define MODEL_QUANTS "bf16|q8_0|q4_0|nf4"
enum tensor_type model_quant_from_name(const char *name);
/* From weights already open (a checkpoint's bytes); they may be closed afterwards.  name is for messages. */
struct model *model_from_weights(const struct weights *weights, const struct model_config *config, const char *name,
                                 struct pool *pool, int *code);
struct model *model_from_weights_quantised(const struct weights *weights, const struct model_config *config, const char *name,
                                           enum tensor_type quant, struct pool *pool, int *code);
/* The config that a checkpoint's safetensors metadata carries under "config".  0 or -1, logged. */
int model_config_from_checkpoint(struct model_config *config, const struct weights *weights, const char *name);
void model_close(struct model *model);

/*
 * A value model that is trunk, a model of the adapter's base, with the adapter at path unmerged beside its matrices: W x + scale B
 * (A x) in each, where W may be rounded and B and A are float32.  Its value head is the adapter's, or the trunk's where that has
 * none.  trunk stays open as long as it; the weights are there once, and rows of all such models may go through them in one pass
 * (sequence_open_for).  NULL on failure, logged; *code is then the exit code.
 */
struct model *model_open_adapter(const char *path, const struct model *trunk, int *code);
/* Whether sequences of both may lie in one cache. */
bool model_shares_trunk(const struct model *a, const struct model *b);

/* Caches opened from now on hold keys and values in F32 (as before) or F16, half the memory.  The key names F16. */
void model_set_kv_type(struct model *model, enum tensor_type kv_type);
/* What OPTION_CHOICE of that type offers, and what it stands for: TENSOR_F32 for NULL and other texts. */
#define MODEL_KV_TYPES "f32|f16"
enum tensor_type model_kv_type_from_name(const char *name);

const struct model_config *model_config(const struct model *model);
const char *model_key(const struct model *model);   // content digest, KEY_SIZE
bool model_has_value_head(const struct model *model);
size_t model_label_count(const struct model *model);  // of a sequence-classification head; 0: none

/* ---- KV cache: pages of 16 positions, shared between sequences with a common prefix ---- */

struct cache;

/* Room for position_count positions in all.  Never NULL. */
struct cache *cache_open(const struct model *model, size_t position_count);
void cache_close(struct cache *cache);

/* A new empty sequence, or one that shares all that sequence holds, or its first positions.  Copies nothing until one of them
   grows. */
int32_t sequence_open(struct cache *cache);
/* The same of another model than the cache's, which shares its trunk: rows of the sequence go through that model. */
int32_t sequence_open_for(struct cache *cache, const struct model *model);
int32_t sequence_fork(struct cache *cache, int32_t sequence);
int32_t sequence_fork_prefix(struct cache *cache, int32_t sequence, size_t length);
void sequence_close(struct cache *cache, int32_t sequence);
size_t sequence_length(const struct cache *cache, int32_t sequence);

/* Pages of 16 positions that no sequence holds. */
size_t cache_free_pages(const struct cache *cache);
enum { CACHE_PAGE_POSITIONS = 16 };

/* ---- the forward pass ---- */

enum { ROW_CACHED = -1 };  // parent: the last position that the sequence holds

struct row {
    int32_t sequence;
    int32_t token;
    int32_t parent;  // ROW_CACHED, or the index of an earlier row of this batch with the same sequence
};
enum { MODEL_ROWS_MAX = 4096 };  // of one batch

/*
 * The free pages that model_forward takes for these rows, at most, once what the batch before took is given back.  The first row
 * at each position of a sequence uses the sequence's own pages (a new one for every 16 positions, a copy of the last one
 * if that is shared); other rows lie 16 to a page until row_keep or the next batch gives them back.
 */
size_t cache_pages_needed(const struct cache *cache, const struct row *rows, size_t M);

/*
 * Runs M rows, each through its sequence's model; those of one model best lie together.  hidden: (M, C) out, after the final norm.
 * The sequences are unchanged until rows_keep.
 * The caller makes sure that tokens are inside the vocabulary, positions inside position_max and
 * that the cache has room (CHECKed).
 */
void model_forward(const struct model *model, struct cache *cache, const struct row *rows, size_t M, float *hidden);

/*
 * Makes row (of the last model_forward on this cache) and its ancestors in the batch part of its sequence.  Once per sequence:
 * the sequence's other rows are given up.  So are rows of which none was kept when the next batch begins.
 */
void row_keep(struct cache *cache, size_t row);

/* logits: (M, V) out; hidden: (M, C). */
void model_logits(const struct model *model, const float *hidden, size_t M, float *logits);
/* values: (M) out. */
void model_values(const struct model *model, const float *hidden, size_t M, float *values);
/* scores: (M, label_count) out. */
void model_scores(const struct model *model, const float *hidden, size_t M, float *scores);

/* Tokens appended to a sequence in chunks and kept.  hidden: (T, C) out, or NULL; last: (C) out of the last token, or NULL. */
void model_extend(const struct model *model, struct cache *cache, int32_t sequence, const int32_t *tokens, size_t T,
                  float *hidden, float *last);

/*
 * Whether a model may be written to output, a directory or a GGUF file, when it is made of source: not where that lies, nor into a
 * directory with the shards of another, since these would be read instead.  source may be NULL.  EX_OK, or EX_CANTCREAT, logged.
 */
int model_output_check(const char *output, const char *source);

/* Writes a Hugging Face directory: config.json and model.safetensors (not the tokenizer)
   as transformers reads the family, in float32.  0 or -1. */
int model_export(const struct weights *weights, const struct model_config *config, const char *directory);

struct gguf_out;
/*
 * Writes a GGUF file as llama.cpp reads the family; heads that it does not know are left out.  out has the tokenizer's metadata
 * (tokenizer_put_gguf) and is added to.  type: of matrices, F32, F16, BF16, Q8_0 or Q4_0.  name is for messages.  EX_OK,
 * EX_DATAERR when GGUF has no words for the model, or EX_IOERR; logged.
 */
int model_export_gguf(const struct weights *weights, const struct model_config *config, const char *name, enum tensor_type type,
                      struct gguf_out *out, const char *path);

#endif
