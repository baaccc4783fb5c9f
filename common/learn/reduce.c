/* reduce.c - see reduce.h. */
#include "learn/reduce.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "learn/activations.h"

enum {
    ADD_BLOCK = 1 << 16,   // floats that one task adds or zeroes
    SUM_MIN = 1 << 18,     // floats that are worth a message: 1 MiB
};

/* After layers, in the order of a backward pass, where there is enough for a message. */
static void bounds_init(struct reduce *reduce)
{
    const size_t L = (size_t)reduce->parameters->config.layer_count;
    reduce->bounds = memory_alloc(L + 1, sizeof *reduce->bounds);
    size_t before = reduce->parameters->trained_count;
    for (size_t l = L; l-- > 0; ) {
        const size_t first = parameters_layer_first(reduce->parameters, (int64_t)l);
        if (first > 0 && before - first >= SUM_MIN)
            before = reduce->bounds[reduce->bound_count++] = first;
    }
    reduce->bounds[reduce->bound_count++] = 0;
}

void reduce_init(struct reduce *reduce, struct parameters *parameters, size_t parts, struct ranks *ranks, struct pool *pool)
{
    const struct sum_span span = sum_span_of(parts, ranks_count(ranks), ranks_index(ranks));
    *reduce = (struct reduce){
        .parameters = parameters, .ranks = ranks, .pool = pool, .span = span,
        .waiting_max = sum_waiting_max(span.last - span.first),
    };
    reduce->waiting = memory_alloc(reduce->waiting_max + 1, sizeof *reduce->waiting);
    for (size_t i = 0; i < reduce->waiting_max; i++)
        reduce->waiting[i] = memory_alloc_aligned(parameters->trained_count, sizeof **reduce->waiting);
    bounds_init(reduce);
}

void reduce_free(struct reduce *reduce)
{
    for (size_t i = 0; i < reduce->waiting_max; i++)
        free(reduce->waiting[i]);
    free(reduce->waiting);
    free(reduce->bounds);
}

size_t reduce_size_bytes(const struct parameters *parameters, size_t parts, const struct ranks *ranks)
{
    const struct sum_span span = sum_span_of(parts, ranks_count(ranks), ranks_index(ranks));
    return (sum_waiting_max(span.last - span.first) * parameters->trained_count + ranks_sum_room(ranks, parameters->trained_count))
        * sizeof(float);
}

static void zero_block(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct parameters *parameters = context;
    memset(parameters->gradients + block * ADD_BLOCK, 0, block_size(parameters->trained_count, ADD_BLOCK, block) * sizeof(float));
}

void reduce_part(struct reduce *reduce, size_t part)
{
    reduce->part = part;
    reduce->closing = sum_closing(reduce->span, part);
    reduce->ready = reduce->parameters->trained_count;
    reduce->bounds_begun = 0;
    pool_run(reduce->pool, blocks_of(reduce->parameters->trained_count, ADD_BLOCK), zero_block, reduce->parameters);
}

struct addition {
    float *to;
    const float *from;
    size_t count;
};

static void add_block(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct addition *addition = context;
    sum_add(addition->to + block * ADD_BLOCK, addition->from + block * ADD_BLOCK, block_size(addition->count, ADD_BLOCK, block));
}

/* The other halves of the nodes that the part closes, the lowest node first. */
static void add_waiting(struct reduce *reduce, size_t first, size_t count)
{
    for (size_t i = 0; i < reduce->closing; i++) {
        struct addition addition = {
            reduce->parameters->gradients + first, reduce->waiting[reduce->waiting_count - 1 - i] + first, count,
        };
        pool_run(reduce->pool, blocks_of(count, ADD_BLOCK), add_block, &addition);
    }
}

void reduce_ready(void *context, size_t first)
{
    struct reduce *reduce = context;
    add_waiting(reduce, first, reduce->ready - first);
    reduce->ready = first;
    if (reduce->part + 1 != reduce->span.last)
        return;
    for (; reduce->bounds_begun < reduce->bound_count && reduce->bounds[reduce->bounds_begun] >= first; reduce->bounds_begun++) {
        const size_t from = reduce->bounds[reduce->bounds_begun];
        const size_t to = reduce->bounds_begun > 0 ? reduce->bounds[reduce->bounds_begun - 1] : reduce->parameters->trained_count;
        ranks_sum_begin(reduce->ranks, reduce->parameters->gradients + from, to - from);
    }
    ranks_sum_advance(reduce->ranks);
}

void reduce_part_end(struct reduce *reduce)
{
    reduce_ready(reduce, 0);
    reduce->waiting_count -= reduce->closing;
    if (reduce->part + 1 == reduce->span.last)
        return;
    float *sum = reduce->parameters->gradients;
    reduce->parameters->gradients = reduce->waiting[reduce->waiting_count];
    reduce->waiting[reduce->waiting_count++] = sum;
}

void reduce_end(struct reduce *reduce)
{
    ranks_sum_end(reduce->ranks);
}
