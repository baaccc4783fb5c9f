/*
 * sum_tree.h - the one order in which the gradients of a batch's parts are added, whoever computes them.
 *
 * The parts are the leaves of a binary tree.  A node over parts [first, last) is the sum of its first half, which is the larger
 * one where the number is odd, and its second half.  Ranks are spread over the tree in the same way: a node that has several
 * gives the larger half of them to its first half, one that has a single rank is computed by it alone.  So every number of
 * ranks adds the same pairs of floats, and gives the same bytes.
 *
 * Pure arithmetic: allocates nothing, cannot fail.
 */
#ifndef LEARN_SUM_TREE_H
#define LEARN_SUM_TREE_H

#include <stddef.h>

struct sum_span {
    size_t first, last;  // parts
};

/* The parts of a rank: 1 <= ranks <= parts. */
struct sum_span sum_span_of(size_t parts, size_t ranks, size_t rank);

/* Nodes below and including the span's own of which this part is the last: their sums are complete once the part's is. */
size_t sum_closing(struct sum_span span, size_t part);

/* The most sums that wait at one time for the other half of their node while parts are added up one after the other. */
size_t sum_waiting_max(size_t parts);

/* to += from. */
void sum_add(float *to, const float *from, size_t count);

/* The first row becomes the sum of all, each of a rank; the others are spoilt. */
void sum_rows(float *rows,  // (ranks, count), rows stride apart
              size_t stride, size_t ranks, size_t count);

#endif
