/*
 * llama2c.h - the checkpoints of llama2.c (version 0, float32).
 *
 *     7 int32    channels, feed-forward width, layers, heads, key/value heads, vocabulary (negative: it has an lm_head), context
 *     float32    token embedding, attention norms of all layers, q of all layers, k, v, o, feed-forward norms, gate, down, up,
 *                final norm, cosines and sines (context, HS / 2), lm_head where there is one
 *
 * All numbers little-endian.  Rows of q and k lie as rotary pairs.  Theta is 10000 and epsilon 1e-5; the file does not say it.
 */
#ifndef MODEL_LLAMA2C_H
#define MODEL_LLAMA2C_H

#include <stdbool.h>
#include <stddef.h>

#include "base/memory.h"
#include "model/config.h"
#include "model/safetensors.h"

/* By the name, since nothing in the file tells: *.bin that is no GGUF file. */
bool llama2c_is(const char *path, const void *data, size_t size);

/* The config, after the file's size has been held against it.  0 or -1, logged; name is how errors call the file. */
int llama2c_config(struct model_config *config, const void *data, size_t size, const char *name);

/* The same, and appends the tensors under their canonical names, which lie in the arena.  Borrows data. */
int llama2c_read(struct tensor_list *tensors, struct arena *arena, const void *data, size_t size, const char *name);

#endif
