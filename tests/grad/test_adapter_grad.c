/*
 * test_adapter_grad.c - the gradients of adapters are those of the matrices W + s B A that they stand for, by the chain rule:
 * dA = s B^T dW, dB = s dW A^T.  Those of whole matrices are held against PyTorch's by test_train_torch.
 */
#include "../check.h"

#include <math.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/philox.h"
#include "learn/network.h"

/* No size a multiple of a vector; more rows than a block of any kind has. */
enum { SEQUENCES = 3, ROWS_OF_EACH = 190, M = SEQUENCES * ROWS_OF_EACH };

static const struct model_config config = {
    .family = FAMILY_LLAMA, .vocab_size = 61, .channel_count = 40, .layer_count = 2, .head_count = 4, .kv_head_count = 2,
    .head_size = 10, .ff_count = 300, .position_max = 400, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

static struct packed_rows rows_make(void)
{
    static int32_t token[M], position[M], next[M];
    static size_t row[M], start[SEQUENCES + 1];
    static float target[M];
    for (size_t m = 0; m < M; m++) {
        token[m] = (int32_t)(m * m % 61);
        position[m] = (int32_t)(m % ROWS_OF_EACH);
        row[m] = m;
        target[m] = (float)philox_normal(5, PHILOX_DATA, 0, 0, (uint32_t)m);
        start[m / ROWS_OF_EACH + 1] = m + 1;
    }
    return (struct packed_rows){ M, SEQUENCES, M, token, position, start, row, target, next };
}

/* All floats normal: with B zero A would have no gradient, and with a value head of zero nothing would. */
static void fill(struct parameters *parameters)
{
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        double scale = parameter->rank == 1 ? 0.1 : 1.0 / sqrt((double)parameter->shape[1]);
        for (size_t j = 0; j < parameter->count; j++)
            parameters->floats[parameter->first + j] = (float)(scale * philox_normal(9, PHILOX_INIT, i, 0, (uint32_t)j));
    }
}

/* Every element within a thousandth of the largest, since both are sums of float32. */
static void expect_near(const char *name, const float *actual, const double *expected, size_t count)
{
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(expected[i]));
    EXPECT(largest > 0);
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)actual[i] - expected[i]) <= 1e-3 * largest))
            TEST_FAIL("%s[%zu] is %g, the chain rule says %g, largest %g", name, i, (double)actual[i], expected[i], largest);
}

/* dW: (N, K) of the whole matrix. */
static void expect_adapter(const struct parameters *parameters, const struct parameter *weight, const float *dw)
{
    size_t N = (size_t)weight->shape[0], K = (size_t)weight->shape[1], R = (size_t)parameters->lora.rank;
    double scale = parameters->lora.alpha / (double)R;
    const float *a = parameter_at(parameters, weight->role, PART_A, weight->layer);
    const float *b = parameter_at(parameters, weight->role, PART_B, weight->layer);
    double *da = memory_alloc(R * K, sizeof *da), *db = memory_alloc(N * R, sizeof *db);
    for (size_t n = 0; n < N; n++) {
        for (size_t r = 0; r < R; r++) {
            for (size_t k = 0; k < K; k++) {
                da[r * K + k] += scale * (double)b[n * R + r] * (double)dw[n * K + k];
                db[n * R + r] += scale * (double)dw[n * K + k] * (double)a[r * K + k];
            }
        }
    }
    expect_near(weight->name, gradient_at(parameters, weight->role, PART_A, weight->layer), da, R * K);
    expect_near(weight->name, gradient_at(parameters, weight->role, PART_B, weight->layer), db, N * R);
    free(db);
    free(da);
}

/* Goal: of every target, alone or beside others of its matrix, of ranks below and above what products take at once, with
   activations kept and made again. */
static void test_chain_rule(void)
{
    static const struct {
        int64_t rank;
        const char *targets;
        bool recompute;
    } cases[] = { { 1, "q,k,v,o,gate,up,down", false }, { 16, "q,k,v,o", true }, { 35, "k,up,down", false } };
    struct pool *pool = pool_open(2);
    const struct packed_rows rows = rows_make();
    static float value[M];
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct network adapted, whole;
        struct lora_options lora = { .rank = cases[i].rank, .alpha = 12, .base_key = "k" };
        EXPECT_INT(lora_targets_read(cases[i].targets, &lora.targets), 0);
        network_init(&adapted, &config, OBJECTIVE_VALUE, &lora, PRODUCTS_FLOAT32, cases[i].recompute, pool);
        network_init(&whole, &config, OBJECTIVE_VALUE, &(struct lora_options){ 0 }, PRODUCTS_FLOAT32, false, pool);
        const struct parameters *parameters = &adapted.parameters;
        fill(&adapted.parameters);
        for (size_t p = 0; p < parameters->table_count; p++) {
            const struct parameter *parameter = &parameters->table[p];
            if (parameter->part == PART_WEIGHT)
                parameter_merged(parameters, parameter, parameter_at(&whole.parameters, parameter->role, PART_WEIGHT,
                                                                     parameter->layer));
        }
        double loss = network_loss(&adapted, &rows, 1.0f / M, true, value);
        EXPECT_NEAR(loss, network_loss(&whole, &rows, 1.0f / M, true, value), 1e-4 * loss);
        size_t targets = 0;
        for (size_t p = 0; p < parameters->table_count; p++) {
            const struct parameter *parameter = &parameters->table[p];
            if (parameter->part != PART_WEIGHT || parameter_at(parameters, parameter->role, PART_A, parameter->layer) == NULL)
                continue;
            expect_adapter(parameters, parameter, gradient_at(&whole.parameters, parameter->role, PART_WEIGHT, parameter->layer));
            targets++;
        }
        EXPECT(targets >= 6);
        network_free(&whole);
        network_free(&adapted);
    }
    pool_close(pool);
}

int main(void)
{
    RUN(test_chain_rule);
    return tests_end();
}
