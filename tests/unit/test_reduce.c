/* The order in which gradients are added: one tree, whoever adds. */
#include "learn/reduce.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/philox.h"
#include "base/pool.h"
#include "learn/sum_tree.h"
#include "../check.h"

enum { PARTS_MAX = 20, WIDTH = 11 };

/* The gradient of a part: floats of very different size, so that another order of additions shows. */
static void part_fill(float *out, size_t part)
{
    for (uint32_t i = 0; i < WIDTH; i++)
        out[i] = (float)(philox_normal(7, PHILOX_DATA, part, i, 0) * exp2(20.0 * philox_uniform(7, PHILOX_DATA, part, i, 1)));
}

/* The definition: a node is its first half, the larger one, and its second. */
static void tree_sum(float *out, size_t first, size_t last)
{
    if (last - first == 1) {
        part_fill(out, first);
        return;
    }
    float second[WIDTH];
    const size_t middle = first + (last - first + 1) / 2;
    tree_sum(out, first, middle);
    tree_sum(second, middle, last);
    for (size_t i = 0; i < WIDTH; i++)
        out[i] += second[i];
}

/* Goal: by hand, five parts are ((0 1) 2) (3 4): of two ranks the first has three parts;
   of three the second has part 2 and the third has two. */
static void test_spans_by_hand(void)
{
    const struct { size_t ranks, rank, first, last; } expected[] = {
        { 1, 0, 0, 5 }, { 2, 0, 0, 3 }, { 2, 1, 3, 5 }, { 3, 0, 0, 2 }, { 3, 1, 2, 3 }, { 3, 2, 3, 5 }, { 5, 2, 2, 3 },
            { 5, 4, 4, 5 },
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const struct sum_span span = sum_span_of(5, expected[i].ranks, expected[i].rank);
        EXPECT_INT(span.first, expected[i].first);
        EXPECT_INT(span.last, expected[i].last);
    }
    const size_t closing[] = { 0, 1, 1, 0, 2 };
    for (size_t part = 0; part < 5; part++)
        EXPECT_INT(sum_closing((struct sum_span){ 0, 5 }, part), closing[part]);
}

/* Goal: ranks that add their own parts, and then each other's sums,
   give the bytes of one that adds all, for every number of both. */
static void test_ranks_do_not_show(void)
{
    enum { STRIDE = 16 };
    for (size_t parts = 1; parts <= PARTS_MAX; parts++) {
        float whole[WIDTH];
        tree_sum(whole, 0, parts);
        for (size_t ranks = 1; ranks <= parts; ranks++) {
            float rows[PARTS_MAX * STRIDE];
            size_t next = 0;
            for (size_t rank = 0; rank < ranks; rank++) {
                const struct sum_span span = sum_span_of(parts, ranks, rank);
                EXPECT_INT(span.first, next);
                EXPECT(span.last > span.first);
                next = span.last;
                tree_sum(rows + rank * STRIDE, span.first, span.last);
            }
            EXPECT_INT(next, parts);
            sum_rows(rows, STRIDE, ranks, WIDTH);
            EXPECT(memcmp(rows, whole, sizeof whole) == 0);
        }
    }
}

/* Goal: parts one after the other, ready all at once or from the end down in pieces, give the sum by definition. */
static void test_parts_add_up(void)
{
    struct pool *pool = pool_open(2);
    for (size_t parts = 1; parts <= PARTS_MAX; parts++) {
        struct parameters parameters = { .trained_count = WIDTH };
        parameters.gradients = memory_alloc(WIDTH, sizeof(float));
        struct reduce reduce;
        reduce_init(&reduce, &parameters, parts, NULL, pool);
        for (size_t batch = 0; batch < 2; batch++) {
            for (size_t part = 0; part < parts; part++) {
                reduce_part(&reduce, part);
                for (size_t i = 0; i < WIDTH; i++)
                    EXPECT_NEAR(parameters.gradients[i], 0, 0);
                float gradient[WIDTH];
                part_fill(gradient, part);
                for (size_t i = WIDTH; i-- > 0; ) {
                    parameters.gradients[i] += gradient[i];
                    if (batch == 1 && (i + part) % 3 == 0)
                        reduce_ready(&reduce, i);
                }
                reduce_part_end(&reduce);
            }
            reduce_end(&reduce);
            float expected[WIDTH];
            tree_sum(expected, 0, parts);
            EXPECT(memcmp(parameters.gradients, expected, sizeof expected) == 0);
        }
        EXPECT_INT(reduce.waiting_count, 0);
        reduce_free(&reduce);
        free(parameters.gradients);
    }
    pool_close(pool);
}

int main(void)
{
    log_open("test_reduce", -1);
    RUN(test_spans_by_hand);
    RUN(test_ranks_do_not_show);
    RUN(test_parts_add_up);
    return tests_end();
}
