/*
 * encoder_attention.c - every token of a text attends to all of it; see encoder_network.h.
 *
 * With disentangled attention (He et al., "DeBERTa", 2021, equation 4) a query q and a key t, p the relative position of
 * the two, score
 *
 *     scale * (query[q] . key[t] + query[q] . position_key[p] + key[t] . position_query[p]).
 *
 * The products with all p that a text of its length has are taken at once, as with any keys, and then picked from.
 */
#include <string.h>

#include "model/encoder_network.h"

enum { QUERIES = 24 };  // attend together: whole tiles of every kernel, and few enough that their scores stay in the cache

/* What one thread works in, for one head of one text. */
struct space {
    float *keys;        // (pages, HS, PANEL)
    float *values;      // (pages, VP, PANEL, PANEL)
    float *key_rows;    // (T, HS)
    float *q;           // (QUERIES, HS)
    float *scores;      // (QUERIES, stride)
    float *by_position; // (QUERIES, width)
    float *by_key;      // (T, width)
    float *out;         // (QUERIES, VP PANEL)
    size_t pages;       // of the text
    size_t stride;      // an odd number of panels, or all queries' scores of a key would share a few sets of the cache
    size_t first, width;  // relative positions that the text has, whole pages of them
};

/* Columns of whole pages that a text of T tokens needs of 2 span relative positions. */
static size_t width_max(const struct encoder_config *config, size_t T)
{
    size_t all = panels_of(2 * (size_t)config->span), text = panels_of(2 * T) + 1;
    return config->relative ? PANEL * (text < all ? text : all) : 0;
}

size_t encoder_attention_pages(const struct encoder *encoder, size_t T_max)
{
    size_t text = panels_of(T_max), positions = panels_of(2 * (size_t)encoder->config.span);
    return text > positions ? text : positions;
}

/* Cuts a space for texts of T tokens; returns its floats. */
static size_t space_cut(struct space *space, float *at, const struct encoder_config *config, size_t T)
{
    size_t HS = encoder_head_size(config), VP = panels_of(HS), pages = panels_of(T), stride = (pages | 1) * PANEL;
    size_t width = width_max(config, T), used = 0;
    const struct { float **part; size_t floats; } parts[] = {
        { &space->keys, pages * HS * PANEL }, { &space->values, pages * VP * PANEL * PANEL }, { &space->key_rows, T * HS },
        { &space->q, QUERIES * HS }, { &space->scores, QUERIES * stride }, { &space->by_position, QUERIES * width },
        { &space->by_key, T * width }, { &space->out, QUERIES * VP * PANEL },
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = at + used;
        used += panels_of(parts[i].floats) * PANEL;
    }
    space->pages = pages;
    space->stride = stride;
    return used;
}

size_t encoder_attention_floats(const struct encoder *encoder, size_t T_max)
{
    struct space space;
    return space_cut(&space, NULL, &encoder->config, T_max);
}

/* Copies keys and values of head h to where the kernels read them.  qkv: the text's rows. */
static void space_fill(struct space *space, const struct encoder_config *config, const float *qkv, size_t T, size_t h)
{
    size_t HS = encoder_head_size(config), VP = panels_of(HS), C = (size_t)config->channel_count;
    for (size_t t = 0; t < T; t++) {
        const float *k = qkv + t * 3 * C + C + h * HS, *v = k + C;  // (HS)
        float *keys = space->keys + t / PANEL * HS * PANEL + t % PANEL;
        float *values = space->values + (t / PANEL * VP * PANEL + t % PANEL) * PANEL;
        memcpy(space->key_rows + t * HS, k, HS * sizeof *k);
        for (size_t c = 0; c < HS; c++)
            keys[c * PANEL] = k[c];
        for (size_t c = 0; c < HS; c += PANEL)
            memcpy(values + c * PANEL, v + c, (HS - c < PANEL ? HS - c : PANEL) * sizeof *v);
        for (size_t c = HS; c < VP * PANEL; c++)
            values[c / PANEL * PANEL * PANEL + c % PANEL] = 0.0f;
    }
}

/* Products of R rows (HS) with the relative positions of head h that the text has.  out: (R, width). */
static void by_positions(const struct attention *attention, const struct space *space, const float *pages, size_t h,
                         const float *rows, size_t R, float *out)
{
    size_t HS = encoder_head_size(&attention->encoder->config), S = panels_of(2 * (size_t)attention->encoder->config.span);
    struct page_list list = { pages + (h * S + space->first / PANEL) * HS * PANEL, HS * PANEL, attention->pages, TENSOR_F32 };
    attention->encoder->kernels->attend_scores(out, space->width, rows, R, HS, &list, space->width / PANEL);
}

/* Which relative positions a text of T tokens has, and the products of its keys with them. */
static void positions_begin(const struct attention *attention, struct space *space, size_t T, size_t h)
{
    const int32_t *columns = attention->columns + attention->T_max - 1;  // of distance 0
    size_t lowest = (size_t)columns[T - 1], highest = (size_t)columns[-(ptrdiff_t)(T - 1)];
    space->first = lowest / PANEL * PANEL;
    space->width = panels_of(highest + 1) * PANEL - space->first;
    if (attention->layer->position_queries != NULL)
        by_positions(attention, space, attention->layer->position_queries, h, space->key_rows, T, space->by_key);
}

/* Adds the terms of relative positions to the scores of queries [q, q + R). */
static void positions_add(const struct attention *attention, struct space *space, size_t q, size_t R, size_t T, size_t h)
{
    const struct encoder_layer *layer = attention->layer;
    size_t stride = space->stride, width = space->width;
    const int32_t *columns = attention->columns + attention->T_max - 1 - q;  // of query q and key 0
    if (layer->position_keys != NULL) {
        by_positions(attention, space, layer->position_keys, h, space->q, R, space->by_position);
        for (size_t r = 0; r < R; r++) {
            float *scores = space->scores + r * stride;                        // (T)
            const float *products = space->by_position + r * width;            // (width)
            const int32_t *column = columns - r;
            for (size_t t = 0; t < T; t++)
                scores[t] += products[(size_t)column[t] - space->first];
        }
    }
    if (layer->position_queries != NULL) {
        for (size_t t = 0; t < T; t++) {
            const float *products = space->by_key + t * width;                 // (width)
            const int32_t *column = columns + t;
            for (size_t r = 0; r < R; r++)
                space->scores[r * stride + t] += products[(size_t)*(column - r) - space->first];
        }
    }
}

static void queries_attend(const struct attention *attention, struct space *space, const float *qkv, size_t q, size_t R, size_t T,
                           size_t h, float *out)
{
    const struct encoder_config *config = &attention->encoder->config;
    const struct kernels *kernels = attention->encoder->kernels;
    size_t HS = encoder_head_size(config), VP = panels_of(HS), C = (size_t)config->channel_count, stride = space->stride;
    float scale = encoder_attention_scale(config);
    for (size_t r = 0; r < R; r++)
        for (size_t c = 0; c < HS; c++)
            space->q[r * HS + c] = scale * qkv[(q + r) * 3 * C + h * HS + c];
    struct page_list keys = { space->keys, HS * PANEL, attention->pages, TENSOR_F32 };
    kernels->attend_scores(space->scores, stride, space->q, R, HS, &keys, space->pages);
    if (config->relative)
        positions_add(attention, space, q, R, T, h);
    for (size_t r = 0; r < R; r++)
        kernels->softmax(space->scores + r * stride, T);
    struct page_list values = { space->values, VP * PANEL * PANEL, attention->pages, TENSOR_F32 };
    memset(space->out, 0, R * VP * PANEL * sizeof(float));
    kernels->attend_values(space->out, space->scores, stride, R, VP, &values, T);
    for (size_t r = 0; r < R; r++)
        memcpy(out + r * C + h * HS, space->out + r * VP * PANEL, HS * sizeof(float));
}

/* A task is a head of a text. */
static void attend_task(void *context, size_t task, size_t thread)
{
    const struct attention *attention = context;
    const struct encoder_config *config = &attention->encoder->config;
    size_t b = task / (size_t)config->head_count, h = task % (size_t)config->head_count;
    size_t T = attention->texts[b].T, C = (size_t)config->channel_count, first = attention->offsets[b];
    const float *qkv = attention->qkv + first * 3 * C;                                  // (T, 3 C)
    float *out = attention->out + (attention->first_only ? b : first) * C;              // (T, C)
    struct space space;
    space_cut(&space, attention->space + thread * attention->space_floats, config, T);
    space_fill(&space, config, qkv, T, h);
    if (config->relative)
        positions_begin(attention, &space, T, h);
    size_t queries = attention->first_only ? 1 : T;
    for (size_t q = 0, R; q < queries; q += R) {
        R = queries - q < QUERIES ? queries - q : QUERIES;
        queries_attend(attention, &space, qkv, q, R, T, h, out + q * C);
    }
}

void encoder_attend(const struct attention *attention)
{
    size_t tasks = attention->count * (size_t)attention->encoder->config.head_count;
    pool_run(attention->encoder->pool, tasks, attend_task, (void *)attention);
}
