/* sum_tree.c - see sum_tree.h. */
#include "learn/sum_tree.h"

#include "learn/vector.h"

static size_t larger_half(size_t count)
{
    return count - count / 2;
}

struct sum_span sum_span_of(size_t parts, size_t ranks, size_t rank)
{
    struct sum_span span = { 0, parts };
    while (ranks > 1) {
        const size_t middle = span.first + larger_half(span.last - span.first), before = larger_half(ranks);
        if (rank < before) {
            span.last = middle;
            ranks = before;
        } else {
            span.first = middle;
            rank -= before;
            ranks -= before;
        }
    }
    return span;
}

size_t sum_closing(struct sum_span span, size_t part)
{
    size_t closing = 0;
    while (span.last - span.first > 1) {
        const size_t middle = span.first + larger_half(span.last - span.first);
        closing += part + 1 == span.last;
        if (part < middle)
            span.last = middle;
        else
            span.first = middle;
    }
    return closing;
}

size_t sum_waiting_max(size_t parts)
{
    if (parts == 1)
        return 0;
    const size_t before = larger_half(parts);
    const size_t in_first = sum_waiting_max(before), in_second = 1 + sum_waiting_max(parts - before);
    return in_first > in_second ? in_first : in_second;
}

CLONES void sum_add(float *to, const float *from, size_t count)
{
    vector_add(to, 1.0f, from, count);
}

void sum_rows(float *rows, size_t stride, size_t ranks, size_t count)
{
    if (ranks == 1)
        return;
    const size_t before = larger_half(ranks);
    sum_rows(rows, stride, before, count);
    sum_rows(rows + before * stride, stride, ranks - before, count);
    sum_add(rows, rows + before * stride, count);
}
