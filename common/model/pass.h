/*
 * pass.h - what a pass of rows through the layers works on, shared by forward.c and attend.c.
 *
 * Inside common/model.
 */
#ifndef MODEL_PASS_H
#define MODEL_PASS_H

#include "model/network.h"

/* Inputs that are made while others are read lie in places of their own. */
enum input_place { INPUT_OF_ROWS, INPUT_OF_FF, INPUT_PLACE_COUNT };

/* Neighbouring rows of one model with an adapter. */
struct adapted_rows {
    const struct model *model;
    size_t first, end;
};

struct pass {
    const struct model *model;   // any of the rows': what they share
    struct cache *cache;
    const struct row *rows;      // (M)
    size_t M;
    bool share_columns, share_heads;  // of all rows at once; see forward.c
    float *x;         // (M, C) the residual stream
    float *normed;    // (M, C)
    float *qkv;       // (M, (NH + 2 NKV) HS)
    float *attended;  // (M, NH HS)
    float *ff, *up;   // (M, F)
    float *delta;     // (M, C) what attention or the feed-forward adds to x
    float *hidden;    // (M, C) the caller's
    struct adapted_rows *adapted;  // (adapted_count)
    size_t adapted_count, adapted_rank;  // the highest rank
    float *low[LINEAR_COUNT];      // (M, adapted_rank): A x of adapted rows; those of rank R lie R apart from their first on
    unsigned char *inputs[INPUT_PLACE_COUNT][INPUT_FORM_COUNT];   // (M, input_row_bytes) of forms other than floats
    size_t input_row_bytes[INPUT_FORM_COUNT];                     // of the widest input
};

/* Turns and scales queries and keys of rows [first, end) and key/value head h in layer l,
   and puts keys and values into the rows' slots. */
void rows_store(const struct pass *pass, size_t l, size_t first, size_t end, size_t h);

/*
 * Rows [m, m + R), at most attend_rows_max, attend with the queries of key/value head h; all that they see is stored.  Pages that
 * they have in common are read once.
 */
void rows_attend(const struct pass *pass, size_t l, size_t m, size_t R, size_t h, size_t thread);
size_t attend_rows_max(const struct model_config *config);
/* Whether rows have pages in common, at least in the beginning. */
bool rows_share_pages(const struct pass *pass, size_t a, size_t b);

#endif
