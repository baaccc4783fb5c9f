/* weights_parts.h - what is behind the handle of weights.h.  Internal to common/model. */
#ifndef MODEL_WEIGHTS_PARTS_H
#define MODEL_WEIGHTS_PARTS_H

#include "base/file.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "model/weights.h"

struct adapter;
struct gguf;

/* One mapped file. */
struct shard {
    char *path;
    struct file_map map;
    json_t *header;              // of safetensors; else NULL
};

struct weights {
    char *name;
    struct tensor_list tensors;  // sorted by name
    struct shard *shards;
    size_t shard_count;
    struct gguf *gguf;           // or NULL
    struct adapter *adapter;     // what it replaces holds before the file; or NULL
    struct arena arena;          // names of llama2.c's tensors
};

#endif
