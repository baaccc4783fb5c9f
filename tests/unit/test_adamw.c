/* Goal: AdamW follows its formula, and where it rests - gradient and moments 0 - the bits are those of a full step. */
#include "learn/adamw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/philox.h"
#include "../check.h"

enum { COUNT = 3 * ADAMW_BLOCK + 77, DECAYED = ADAMW_BLOCK + 300, STEPS = 6 };

static struct adamw adamw_make(struct pool *pool)
{
    const struct adamw_options options = { 0.9, 0.999, 1e-8, 0.1 };
    struct adamw adamw;
    adamw_init(&adamw, &options, COUNT, pool);
    adamw_cover(&adamw, 0, DECAYED, true);
    adamw_cover(&adamw, DECAYED, COUNT - DECAYED, false);
    return adamw;
}

/* Of 1000 in a row: the first of four rows always has a gradient, the second in some steps, the others never. */
static void gradients_make(float *gradient, int64_t step)
{
    for (size_t i = 0; i < COUNT; i++) {
        const size_t row = i / 1000;
        const bool met = row % 4 == 0 || (row % 4 == 1 && step % 3 == 1);
        gradient[i] = met ? (float)philox_normal(3, PHILOX_DATA, (uint32_t)step, 0, (uint32_t)i) : 0.0f;
    }
}

static void parameters_make(float *parameter)
{
    for (size_t i = 0; i < COUNT; i++)
        parameter[i] = (float)philox_normal(4, PHILOX_DATA, 0, 0, (uint32_t)i);
}

static void test_rest(void)
{
    struct pool *pool = pool_open(2);
    struct adamw resting = adamw_make(pool), full = adamw_make(pool);
    float *a = memory_alloc(COUNT, sizeof *a), *b = memory_alloc(COUNT, sizeof *b);
    float *gradient = memory_alloc(COUNT, sizeof *gradient);
    parameters_make(a);
    parameters_make(b);
    size_t rests = 0;
    for (int64_t step = 1; step <= STEPS; step++) {
        gradients_make(gradient, step);
        adamw_moments_changed(&full);
        adamw_step(&resting, a, gradient, 0.5, 0.01, step);
        adamw_step(&full, b, gradient, 0.5, 0.01, step);
        EXPECT(memcmp(a, b, COUNT * sizeof *a) == 0);
        EXPECT(memcmp(resting.m, full.m, COUNT * sizeof *a) == 0 && memcmp(resting.v, full.v, COUNT * sizeof *a) == 0);
    }
    for (size_t i = 0; i < resting.block_count; i++)
        rests += (size_t)__builtin_popcount(resting.blocks[i].resting);
    EXPECT(rests > COUNT / ADAMW_CHUNK / 4);  // half of the rows have no gradient, but the chunks at their ends have
    adamw_free(&resting);
    adamw_free(&full);
    free(a), free(b), free(gradient);
    pool_close(pool);
}

/* Goal: every parameter, moment and the norm are what the formula gives in double. */
static void test_formula(void)
{
    struct pool *pool = pool_open(2);
    struct adamw adamw = adamw_make(pool);
    float *parameter = memory_alloc(COUNT, sizeof *parameter), *gradient = memory_alloc(COUNT, sizeof *gradient);
    double *expected = memory_alloc(COUNT, sizeof *expected), *m = memory_alloc(COUNT, sizeof *m);
    double *v = memory_alloc(COUNT, sizeof *v);
    parameters_make(parameter);
    for (size_t i = 0; i < COUNT; i++)
        expected[i] = (double)parameter[i], m[i] = v[i] = 0.0;
    for (int64_t step = 1; step <= STEPS; step++) {
        double square = 0.0, off = 0.0;
        gradients_make(gradient, step);
        adamw_step(&adamw, parameter, gradient, 0.5, 0.01, step);
        for (size_t i = 0; i < COUNT; i++) {
            const double g = 0.5 * (double)gradient[i];
            square += 4.0 * g * g;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            expected[i] -= (i < DECAYED ? 0.01 * 0.1 * expected[i] : 0.0)
                           + 0.01 * m[i] / (1.0 - pow(0.9, (double)step)) / (sqrt(v[i] / (1.0 - pow(0.999, (double)step))) + 1e-8);
            off = fmax(off, fabs((double)parameter[i] - expected[i]));
        }
        EXPECT(off < 2e-6);
        EXPECT(fabs(adamw_norm(&adamw, gradient) / sqrt(square) - 1.0) < 1e-12);
    }
    adamw_free(&adamw);
    free(parameter), free(gradient), free(expected), free(m), free(v);
    pool_close(pool);
}

int main(void)
{
    RUN(test_formula);
    RUN(test_rest);
    return tests_end();
}
