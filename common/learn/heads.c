/* heads.c - the losses: hidden states of the counted rows to loss and dhidden.  See pass.h. */
#include <string.h>

#include "learn/ops.h"
#include "learn/pass.h"

static void choose_rows(const struct pass *pass)
{
    const size_t C = pass->s.C;
    for (size_t i = 0; i < pass->rows->counted; i++)
        memcpy(pass->a->chosen + i * C, pass->a->hidden + pass->rows->row[i] * C, C * sizeof(float));
}

static void return_rows(const struct pass *pass)
{
    const size_t C = pass->s.C;
    memset(pass->a->dhidden, 0, pass->M * C * sizeof(float));
    for (size_t i = 0; i < pass->rows->counted; i++)
        memcpy(pass->a->dhidden + pass->rows->row[i] * C, pass->a->dchosen + i * C, C * sizeof(float));
}

/* loss = sum of 0.5 * (value - target)^2 */
static double value_loss(const struct pass *pass, float *value)
{
    const struct parameters *parameters = &pass->network->parameters;
    struct activations *a = pass->a;
    const size_t counted = pass->rows->counted, C = pass->s.C;
    const float *weight = parameter_at(parameters, WEIGHT_VALUE, PART_WEIGHT, 0);
    value_head_forward(value, a->chosen, weight, *parameter_at(parameters, WEIGHT_VALUE_BIAS, PART_WEIGHT, 0), counted, C);
    double loss = 0.0, dbias = 0.0;
    for (size_t i = 0; i < counted; i++) {
        const float error = value[i] - pass->rows->target[i];
        loss += 0.5 * (double)error * (double)error;
        a->dvalue[i] = pass->scale * error;
        dbias += (double)a->dvalue[i];
    }
    if (pass->backward) {
        value_head_backward(a->dchosen, gradient_at(parameters, WEIGHT_VALUE, PART_WEIGHT, 0), a->dvalue, a->chosen, weight,
                            counted, C);
        *gradient_at(parameters, WEIGHT_VALUE_BIAS, PART_WEIGHT, 0) += (float)dbias;
    }
    return loss;
}

/* ---- language models ---- */

static enum weight_role lm_head_role(const struct pass *pass)
{
    return pass->config->tied_embeddings ? WEIGHT_EMBEDDING : WEIGHT_LM_HEAD;
}

/* Logits, losses and, with backward, gradients of a block of counted rows. */
static void lm_rows(void *context, size_t block, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct activations *a = pass->a;
    const float *lm_head = parameter_at(&pass->network->parameters, lm_head_role(pass), PART_WEIGHT, 0);
    const float cap = (float)pass->config->logit_cap;
    const size_t C = pass->s.C, V = pass->s.V;
    const size_t i = block * LOGIT_ROWS, count = block_size(pass->chunk, LOGIT_ROWS, block), row = pass->first + i;
    float *logits = a->logits + i * V;  // (count, V)
    linear_forward(logits, a->chosen + row * C, lm_head, count, V, C, OP_SET);
    if (cap > 0.0f)
        soft_cap(logits, count * V, cap);
    cross_entropy_forward(a->loss + row, logits, pass->rows->next + row, count, V);
    if (pass->backward) {
        cross_entropy_backward(logits, a->loss + row, pass->rows->next + row, pass->scale, cap, count, V);
        linear_backward_input(a->dchosen + row * C, logits, lm_head, count, V, C);
    }
}

static void lm_weight(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const size_t C = pass->s.C, V = pass->s.V, v = task * OUTPUT_BLOCK;
    linear_backward_weight(gradient_at(&pass->network->parameters, lm_head_role(pass), PART_WEIGHT, 0) + v * C,
                           pass->a->logits + v, V, pass->a->chosen + pass->first * C, pass->chunk,
                           block_size(V, OUTPUT_BLOCK, task), C);
}

/* loss = sum of -log p(next) */
static double lm_loss(struct pass *pass)
{
    struct pool *pool = pass->network->pool;
    const struct parameters *parameters = &pass->network->parameters;
    const bool trained = gradient_at(parameters, lm_head_role(pass), PART_WEIGHT, 0) != NULL;
    const size_t counted = pass->rows->counted, room = logit_rows(parameters, pass->a->M);
    for (pass->first = 0; pass->first < counted; pass->first += room) {
        pass->chunk = counted - pass->first < room ? counted - pass->first : room;
        pool_run(pool, blocks_of(pass->chunk, LOGIT_ROWS), lm_rows, pass);
        if (pass->backward && trained)
            pool_run(pool, blocks_of(pass->s.V, OUTPUT_BLOCK), lm_weight, pass);
    }
    double loss = 0.0;
    for (size_t i = 0; i < counted; i++)
        loss += (double)pass->a->loss[i];
    return loss;
}

double heads_loss(struct pass *pass, float *value)
{
    choose_rows(pass);
    const double loss = pass->network->parameters.objective == OBJECTIVE_VALUE ? value_loss(pass, value) : lm_loss(pass);
    if (pass->backward)
        return_rows(pass);
    return loss;
}
