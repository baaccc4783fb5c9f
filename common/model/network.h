/*
 * network.h - what model.c loads and cache.c keeps, as forward.c runs it.  Internal to common/model; callers use model.h.
 *
 * A page of the cache holds PANEL positions of every layer and key/value head: keys as (HS, PANEL), a panel whose
 * outputs are positions; values as (VP, PANEL positions, PANEL channels), VP = ceil(HS / PANEL).
 *
 * Each row of a batch gets a slot, a page and a lane.  The first row at a (sequence, position) gets the natural slot: that of
 * the position in the sequence's own pages, copied first if they are shared.  Others get a scratch slot.  A row's ancestors
 * lie in natural slots up to some position and are found through parents from there on.
 */
#ifndef MODEL_NETWORK_H
#define MODEL_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/pool.h"
#include "math/kernels.h"
#include "model/model.h"

_Static_assert((int)PANEL == (int)CACHE_PAGE_POSITIONS, "a page is a panel of positions");

struct norm {
    float *weight;  // (C), NULL: none
    float *bias;    // (C), NULL: none
};

/* A matrix, or several with one input whose outputs lie one behind the other. */
enum { LINEAR_PARTS_MAX = 3 };
enum linear_name { LINEAR_QKV, LINEAR_O, LINEAR_GATE, LINEAR_UP, LINEAR_DOWN, LINEAR_COUNT };
struct linear {
    enum linear_name name;                  // in its layer
    struct packed parts[LINEAR_PARTS_MAX];  // stacked where neighbours have one type
    size_t part_count;                      // 0: the network has no such matrix
    size_t N, K;                            // of all parts together
    float *bias;                            // (N), NULL: none
};

/* What the config lacks is all zero. */
struct layer {
    struct norm attn_norm, attn_post_norm, ff_norm, ff_post_norm;
    float *q_norm, *k_norm;      // (HS)
    struct linear qkv;           // ((NH + 2 NKV) HS, C)
    struct linear o;             // (C, NH HS)
    struct linear gate, up;      // (F, C)
    struct linear down;          // (C, F)
};

/* What an adapter adds to a linear: B (A x) with the scale in B.  Of several adapted matrices A is stacked, B in blocks. */
struct low_rank {
    struct packed a;                    // (R, K); no data: nothing is added
    struct packed b[LINEAR_PARTS_MAX];  // of each part of the linear: (its N, R)
};

struct model {
    struct model_config config;
    char key[KEY_SIZE];
    const struct kernels *kernels;
    struct pool *pool;           // not owned
    enum tensor_type kv_type;    // of keys and values in caches: F32 or F16
    struct packed embedding;     // (V, C)
    struct packed positions;     // (P, C) of learned positions
    struct packed lm_head;       // (V, C); no data: the embedding is used
    struct packed score;         // (N, C); no data without such a head
    struct layer *layers;        // (L)
    struct norm final_norm;
    float *value_weight;         // (C), NULL without a value head
    float value_bias;
    struct file_map mapped;      // matrices that are kept packed borrow from it
    const struct model *trunk;   // all but the value head and the adapter is borrowed from it; NULL: from none
    struct low_rank *adapter;    // (L, LINEAR_COUNT), NULL without a trunk
    size_t adapter_rank;         // the highest R
};

struct sequence {
    bool open;
    const struct model *model;   // the cache's, or another one with its trunk
    size_t length;               // positions kept
    size_t placed_end;           // positions with a natural slot, kept or of the present batch
    int32_t *pages;              // (page_count)
    size_t page_count, page_capacity;
    int32_t newest_row;          // of the present batch, -1: none
};

/* Where a row of the present batch lies. */
struct slot {
    int32_t sequence;            // -1: given up
    int32_t parent;              // row, or ROW_CACHED
    int32_t older_row;           // the sequence's row before this one, -1: none
    int32_t position;
    int32_t page, lane;
    int32_t natural_end;         // it and its ancestors at positions before this one lie in natural slots
};

struct cache {
    const struct model *model;
    size_t page_count;
    size_t head_elements;        // of one page, layer and head, keys then values
    size_t page_elements;        // of one page and layer
    size_t element_bytes;        // of the model's kv_type
    char *data;                  // (L, page_count, NKV, head_elements)
    int32_t *references;         // (page_count): sequences that hold the page, or rows for which it is scratch
    int32_t *free_pages;         // a stack
    size_t free_count;

    struct sequence *sequences;
    size_t sequence_count;

    struct slot slots[MODEL_ROWS_MAX];
    size_t slot_count;

    size_t position_limit;       // positions that fit the cache and the model
    float *cosine, *sine;        // (position_limit, HS / 2)
    float *work;                 // activations, see forward.c
    size_t work_rows;
    float *attention;            // (threads, attention_floats), see attend.c
    size_t attention_floats;
};

/*
 * Gives slots to rows; scratch slots of two blocks of block_rows lie in different pages.  What rows of the batch before were not
 * kept is given up.
 */
void cache_place(struct cache *cache, const struct row *rows, size_t M, size_t block_rows);

/* Keys of a page, the values follow them after HS * PANEL elements. */
static inline char *cache_at(const struct cache *cache, size_t l, size_t page, size_t h)
{
    return cache->data + ((l * cache->page_count + page) * cache->page_elements + h * cache->head_elements) * cache->element_bytes;
}

/* Closes a model with a trunk. */
void adapted_free(struct model *model);

/* Floats of attention each thread needs; see attend.c. */
size_t attention_floats(const struct model *model, size_t position_limit);

#endif
