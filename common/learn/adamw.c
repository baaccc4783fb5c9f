/* adamw.c - see adamw.h. */
#include "learn/adamw.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "learn/vector.h"

void adamw_init(struct adamw *adamw, const struct adamw_options *options, size_t count, struct pool *pool)
{
    *adamw = (struct adamw){ .options = *options, .pool = pool, .count = count };
    adamw->m = memory_alloc_aligned(count, sizeof *adamw->m);
    adamw->v = memory_alloc_aligned(count, sizeof *adamw->v);
}

void adamw_free(struct adamw *adamw)
{
    free(adamw->blocks);
    free(adamw->squares);
    free(adamw->m);
    free(adamw->v);
}

void adamw_cover(struct adamw *adamw, size_t first, size_t count, bool decayed)
{
    size_t more = (count + ADAMW_BLOCK - 1) / ADAMW_BLOCK;
    adamw->blocks = memory_grow(adamw->blocks, adamw->block_count + more, sizeof *adamw->blocks);
    adamw->squares = memory_grow(adamw->squares, adamw->block_count + more, sizeof *adamw->squares);
    for (size_t end = first + count; first < end; first += ADAMW_BLOCK)
        adamw->blocks[adamw->block_count++] =
            (struct adamw_block){ first, end - first < ADAMW_BLOCK ? end - first : ADAMW_BLOCK, decayed, 0 };
}

/* ---- norm ---- */

struct norm {
    struct adamw *adamw;
    const float *gradients;
};

CLONES static double square_sum(const float *x, size_t count)
{
    double sum[4] = { 0 };
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (size_t lane = 0; lane < 4; lane++)
            sum[lane] += (double)x[i + lane] * (double)x[i + lane];
    for (; i < count; i++)
        sum[0] += (double)x[i] * (double)x[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void norm_block(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct norm *norm = context;
    const struct adamw_block *block = &norm->adamw->blocks[task];
    norm->adamw->squares[task] = square_sum(norm->gradients + block->first, block->count);
}

double adamw_norm(struct adamw *adamw, const float *gradients)
{
    struct norm norm = { adamw, gradients };
    pool_run(adamw->pool, adamw->block_count, norm_block, &norm);
    double sum = 0.0;
    for (size_t i = 0; i < adamw->block_count; i++)
        sum += adamw->squares[i];
    return sqrt(sum);
}

/* ---- step ---- */

struct step {
    struct adamw *adamw;
    float *parameters;
    const float *gradients;
    float gradient_scale, rate, keep;  // rate: learning rate over the bias correction of m; keep: what decay leaves
    float root_correction;             // 1 / sqrt of the bias correction of v
};

/*
 * m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 * parameter = (1 - lr decay) parameter - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
 *
 * Adds the bits of m and v to moments.
 */
INLINE void step_lanes(float *parameter, float *m, float *v, const float *gradient, size_t n, const struct step *step, float keep,
                       lane_bits *moments)
{
    const float beta1 = (float)step->adamw->options.beta1, beta2 = (float)step->adamw->options.beta2;
    const float epsilon = (float)step->adamw->options.epsilon;
    lanes p_i, m_i, v_i, g_i;
    lanes_load(&p_i, parameter, n);
    lanes_load(&m_i, m, n);
    lanes_load(&v_i, v, n);
    lanes_load(&g_i, gradient, n);
    g_i *= step->gradient_scale;
    m_i = m_i * beta1 + g_i * (1.0f - beta1);
    v_i = v_i * beta2 + g_i * g_i * (1.0f - beta2);
    *moments |= (lane_bits)m_i | (lane_bits)v_i;
    lanes root;
    for (size_t lane = 0; lane < LANES; lane++)
        root[lane] = sqrtf(v_i[lane]);
    p_i = p_i * keep - step->rate * m_i / (root * step->root_correction + epsilon);
    lanes_store(parameter, &p_i, n);
    lanes_store(m, &m_i, n);
    lanes_store(v, &v_i, n);
}

INLINE bool bits_are_zero(const lane_bits *bits)
{
    const lane_bits zero = { 0 };
    return memcmp(bits, &zero, sizeof zero) == 0;
}

INLINE bool all_are_zero(const float *x, size_t count)
{
    lane_bits bits = { 0 };
    for (size_t i = 0; i < count; i += LANES) {
        lanes x_i;
        lanes_load(&x_i, x + i, count - i);
        bits |= (lane_bits)x_i;
    }
    return bits_are_zero(&bits);
}

/* Returns whether all moments are 0 then. */
INLINE bool step_chunk(const struct step *step, size_t first, size_t count, float keep, bool resting)
{
    float *parameter = step->parameters + first;
    if (resting && all_are_zero(step->gradients + first, count)) {
        for (size_t i = 0; i < count && keep != 1.0f; i++)
            parameter[i] *= keep;
        return true;
    }
    float *m = step->adamw->m + first, *v = step->adamw->v + first;
    lane_bits moments = { 0 };
    for (size_t i = 0; i < count; i += LANES)
        step_lanes(parameter + i, m + i, v + i, step->gradients + first + i, count - i, step, keep, &moments);
    return bits_are_zero(&moments);
}

CLONES static void step_range(const struct step *step, struct adamw_block *block)
{
    const float keep = block->decayed ? step->keep : 1.0f;
    uint32_t resting = 0;
    for (size_t chunk = 0, i = 0; i < block->count; chunk++, i += ADAMW_CHUNK) {
        const size_t count = block->count - i < ADAMW_CHUNK ? block->count - i : ADAMW_CHUNK;
        resting |= (uint32_t)step_chunk(step, block->first + i, count, keep, block->resting >> chunk & 1) << chunk;
    }
    block->resting = resting;
}

static void step_block(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct step *step = context;
    step_range(step, &step->adamw->blocks[task]);
}

void adamw_moments_changed(struct adamw *adamw)
{
    for (size_t i = 0; i < adamw->block_count; i++)
        adamw->blocks[i].resting = 0;
}

void adamw_step(struct adamw *adamw, float *parameters, const float *gradients, double gradient_scale,
                double learning_rate, int64_t number)
{
    const struct adamw_options *options = &adamw->options;
    struct step step = {
        .adamw = adamw, .parameters = parameters, .gradients = gradients,
        .gradient_scale = (float)gradient_scale,
        .rate = (float)(learning_rate / (1.0 - pow(options->beta1, (double)number))),
        .keep = (float)(1.0 - learning_rate * options->weight_decay),
        .root_correction = (float)(1.0 / sqrt(1.0 - pow(options->beta2, (double)number))),
    };
    pool_run(adamw->pool, adamw->block_count, step_block, &step);
}
