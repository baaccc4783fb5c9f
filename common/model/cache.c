/*
 * cache.c - pages and sequences of the KV cache; see model.h and network.h.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "model/network.h"
#include "model/rotary.h"

static size_t pages_for(size_t positions)
{
    return (positions + PANEL - 1) / PANEL;
}

/* ---- pages ---- */

static int32_t page_take(struct cache *cache)
{
    CHECK(cache->free_count > 0);  // the caller asks cache_pages_needed first
    int32_t page = cache->free_pages[--cache->free_count];
    cache->references[page] = 1;
    return page;
}

static void page_release(struct cache *cache, int32_t page)
{
    if (--cache->references[page] == 0)
        cache->free_pages[cache->free_count++] = page;
}

static int32_t page_copy(struct cache *cache, int32_t page)
{
    int32_t copy = page_take(cache);
    for (size_t l = 0; l < (size_t)cache->model->config.layer_count; l++)
        memcpy(cache_at(cache, l, (size_t)copy, 0), cache_at(cache, l, (size_t)page, 0),
               cache->page_elements * cache->element_bytes);
    return copy;
}

/* Keys and values of one position, of all layers and heads. */
static void position_copy(struct cache *cache, int32_t to_page, size_t to_lane, int32_t from_page, size_t from_lane)
{
    const struct model_config *config = &cache->model->config;
    size_t HS = (size_t)config->head_size, bytes = cache->element_bytes;
    for (size_t l = 0; l < (size_t)config->layer_count; l++) {
        for (size_t h = 0; h < (size_t)config->kv_head_count; h++) {
            char *to = cache_at(cache, l, (size_t)to_page, h);
            const char *from = cache_at(cache, l, (size_t)from_page, h);
            for (size_t c = 0; c < HS; c++)
                memcpy(to + (c * PANEL + to_lane) * bytes, from + (c * PANEL + from_lane) * bytes, bytes);
            to += HS * PANEL * bytes;
            from += HS * PANEL * bytes;
            for (size_t p = 0; p < pages_for(HS); p++)
                memcpy(to + (p * PANEL + to_lane) * PANEL * bytes, from + (p * PANEL + from_lane) * PANEL * bytes, PANEL * bytes);
        }
    }
}

struct cache *cache_open(const struct model *model, size_t position_count)
{
    const struct model_config *config = &model->config;
    size_t HS = (size_t)config->head_size, position_max = (size_t)config->position_max;
    struct cache *cache = memory_alloc(1, sizeof *cache);
    cache->model = model;
    cache->page_count = pages_for(position_count);
    cache->head_elements = HS * PANEL + pages_for(HS) * PANEL * PANEL;
    cache->page_elements = (size_t)config->kv_head_count * cache->head_elements;
    cache->element_bytes = tensor_formats[model->kv_type].block_bytes;
    cache->data = memory_alloc_aligned((size_t)config->layer_count * cache->page_count,
                                       cache->page_elements * cache->element_bytes);
    cache->references = memory_alloc(cache->page_count, sizeof *cache->references);
    cache->free_pages = memory_alloc(cache->page_count, sizeof *cache->free_pages);
    while (cache->free_count < cache->page_count) {
        cache->free_pages[cache->free_count] = (int32_t)(cache->page_count - 1 - cache->free_count);
        cache->free_count++;
    }
    size_t room = cache->page_count * PANEL;
    cache->position_limit = room < position_max ? room : position_max;
    cache->cosine = memory_alloc(cache->position_limit * HS / 2, sizeof(float));
    cache->sine = memory_alloc(cache->position_limit * HS / 2, sizeof(float));
    rotary_fill(cache->cosine, cache->sine, 0, cache->position_limit, config);
    cache->attention_floats = attention_floats(model, cache->position_limit);
    cache->attention = memory_alloc_aligned(pool_threads(model->pool) * cache->attention_floats, sizeof(float));
    return cache;
}

void cache_close(struct cache *cache)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; i < cache->sequence_count; i++)
        free(cache->sequences[i].pages);
    free(cache->sequences);
    free(cache->attention);
    free(cache->work);
    free(cache->sine);
    free(cache->cosine);
    free(cache->free_pages);
    free(cache->references);
    free(cache->data);
    free(cache);
}

size_t cache_free_pages(const struct cache *cache)
{
    return cache->free_count;
}

/* ---- sequences ---- */

static struct sequence *sequence_at(const struct cache *cache, int32_t sequence)
{
    CHECK(sequence >= 0 && (size_t)sequence < cache->sequence_count && cache->sequences[sequence].open);
    return &cache->sequences[sequence];
}

static void sequence_add_page(struct sequence *sequence, int32_t page)
{
    if (sequence->page_count == sequence->page_capacity) {
        sequence->page_capacity = sequence->page_capacity ? 2 * sequence->page_capacity : 16;
        sequence->pages = memory_grow(sequence->pages, sequence->page_capacity, sizeof *sequence->pages);
    }
    sequence->pages[sequence->page_count++] = page;
}

int32_t sequence_open(struct cache *cache)
{
    return sequence_open_for(cache, cache->model);
}

int32_t sequence_open_for(struct cache *cache, const struct model *model)
{
    CHECK(model_shares_trunk(model, cache->model));
    size_t i = 0;
    while (i < cache->sequence_count && cache->sequences[i].open)
        i++;
    if (i == cache->sequence_count) {
        cache->sequences = memory_grow(cache->sequences, ++cache->sequence_count, sizeof *cache->sequences);
        cache->sequences[i] = (struct sequence){ 0 };
    }
    struct sequence *sequence = &cache->sequences[i];
    sequence->open = true;
    sequence->model = model;
    sequence->length = sequence->placed_end = 0;
    sequence->newest_row = -1;
    return (int32_t)i;
}

int32_t sequence_fork(struct cache *cache, int32_t sequence)
{
    return sequence_fork_prefix(cache, sequence, sequence_length(cache, sequence));
}

int32_t sequence_fork_prefix(struct cache *cache, int32_t sequence, size_t length)
{
    int32_t fork = sequence_open_for(cache, sequence_at(cache, sequence)->model);
    const struct sequence *from = sequence_at(cache, sequence);
    struct sequence *to = sequence_at(cache, fork);
    CHECK(length <= from->length);
    to->length = to->placed_end = length;
    for (size_t i = 0; i < pages_for(length); i++) {
        sequence_add_page(to, from->pages[i]);
        cache->references[from->pages[i]]++;
    }
    return fork;
}

/* Gives up the sequence's rows of the present batch and its pages behind length. */
static void sequence_settle(struct cache *cache, struct sequence *sequence, size_t length)
{
    for (int32_t row = sequence->newest_row; row >= 0; row = cache->slots[row].older_row) {
        struct slot *slot = &cache->slots[row];
        if (slot->page != sequence->pages[slot->position / PANEL])
            page_release(cache, slot->page);
        slot->sequence = -1;
    }
    sequence->newest_row = -1;
    sequence->length = sequence->placed_end = length;
    while (sequence->page_count > pages_for(length))
        page_release(cache, sequence->pages[--sequence->page_count]);
}

void sequence_close(struct cache *cache, int32_t sequence)
{
    struct sequence *closing = sequence_at(cache, sequence);
    sequence_settle(cache, closing, 0);
    closing->open = false;
}

size_t sequence_length(const struct cache *cache, int32_t sequence)
{
    return sequence_at(cache, sequence)->length;
}

/* ---- rows ---- */

static void settle_all(struct cache *cache)
{
    for (size_t m = 0; m < cache->slot_count; m++) {
        if (cache->slots[m].sequence >= 0) {
            struct sequence *sequence = &cache->sequences[cache->slots[m].sequence];
            sequence_settle(cache, sequence, sequence->length);
        }
    }
    cache->slot_count = 0;
}

size_t cache_pages_needed(const struct cache *cache, const struct row *rows, size_t M)
{
    size_t *position = memory_alloc(M, sizeof *position);
    size_t *placed_end = memory_alloc(cache->sequence_count, sizeof *placed_end);  // as if all rows so far were placed
    size_t pages = 0, scratch = 0;
    for (size_t m = 0; m < M; m++) {
        const struct sequence *sequence = sequence_at(cache, rows[m].sequence);
        size_t *end = &placed_end[rows[m].sequence], length = sequence->length;
        if (*end < length)
            *end = length;
        position[m] = rows[m].parent == ROW_CACHED ? length : position[rows[m].parent] + 1;
        if (position[m] < *end) {
            scratch++;
            continue;
        }
        bool copies = position[m] == length && length % PANEL != 0 && cache->references[sequence->pages[length / PANEL]] > 1;
        pages += position[m] % PANEL == 0 || copies;
        ++*end;
    }
    free(placed_end);
    free(position);
    return pages + pages_for(scratch);
}

/* The page of the sequence's next position, its own to write. */
static int32_t sequence_reach(struct cache *cache, struct sequence *sequence)
{
    size_t i = sequence->placed_end++ / PANEL;
    if (i == sequence->page_count) {
        sequence_add_page(sequence, page_take(cache));
    } else if (cache->references[sequence->pages[i]] > 1) {
        int32_t shared = sequence->pages[i];
        sequence->pages[i] = page_copy(cache, shared);
        page_release(cache, shared);
    }
    return sequence->pages[i];
}

void cache_place(struct cache *cache, const struct row *rows, size_t M, size_t block_rows)
{
    CHECK(M <= MODEL_ROWS_MAX);
    settle_all(cache);
    int32_t scratch = -1;
    size_t scratch_lane = PANEL, scratch_block = 0;
    for (size_t m = 0; m < M; m++) {
        struct sequence *sequence = sequence_at(cache, rows[m].sequence);
        int32_t parent = rows[m].parent, position = (int32_t)sequence->length, natural_end = position;
        if (parent != ROW_CACHED) {
            CHECK(parent >= 0 && (size_t)parent < m && rows[parent].sequence == rows[m].sequence);
            position = cache->slots[parent].position + 1;
            natural_end = cache->slots[parent].natural_end;
        }
        CHECK((size_t)position < cache->position_limit);
        struct slot *slot = &cache->slots[m];
        *slot = (struct slot){ .sequence = rows[m].sequence, .parent = parent, .older_row = sequence->newest_row,
                               .position = position, .natural_end = natural_end };
        if ((size_t)position == sequence->placed_end) {
            slot->page = sequence_reach(cache, sequence);
            slot->lane = position % PANEL;
            if (natural_end == position)
                slot->natural_end = position + 1;
        } else {
            if (scratch_lane == PANEL || m / block_rows != scratch_block) {
                scratch = page_take(cache);
                cache->references[scratch] = 0;
                scratch_lane = 0;
                scratch_block = m / block_rows;
            }
            cache->references[scratch]++;
            slot->page = scratch;
            slot->lane = (int32_t)scratch_lane++;
        }
        sequence->newest_row = (int32_t)m;
        cache->slot_count = m + 1;
    }
}

void row_keep(struct cache *cache, size_t row)
{
    CHECK(row < cache->slot_count && cache->slots[row].sequence >= 0);
    struct sequence *sequence = sequence_at(cache, cache->slots[row].sequence);
    for (int32_t m = (int32_t)row; m != ROW_CACHED; m = cache->slots[m].parent) {
        const struct slot *slot = &cache->slots[m];
        int32_t natural = sequence->pages[slot->position / PANEL];
        if (slot->page != natural)
            position_copy(cache, natural, (size_t)slot->position % PANEL, slot->page, (size_t)slot->lane);
    }
    sequence_settle(cache, sequence, (size_t)cache->slots[row].position + 1);
}
