/*
 * generate_turn.c - one token for a group of responses: the base's pass, the values of the candidates, the draw.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "sample/generate_parts.h"

/* ---- the base ---- */

/* Logits of the next token: from the base's pass over the newest tokens, which may be over, or at the first from the prompt's. */
static void turns_base(struct generator *generator, size_t count)
{
    const struct generate_options *options = &generator->options;
    struct span span = span_begin();
    size_t M = 0;
    for (size_t g = 0; g < count; g++) {
        struct live *live = generator->turns[g].live;
        if (live->count > 0 && !live->ahead) {
            generator->turns[g].logits = generator->logits + M * generator->V;
            generator->rows[M++] = (struct row){ live->base_sequence, live->tokens[live->count - 1], ROW_CACHED };
        }
    }
    if (M > 0) {
        model_forward(options->base, generator->base_cache, generator->rows, M, generator->hidden);
        for (size_t m = 0; m < M; m++)
            row_keep(generator->base_cache, m);
        model_logits(options->base, generator->hidden, M, generator->logits);
    }
    for (size_t g = 0; g < count; g++) {
        struct live *live = generator->turns[g].live;
        if (live->count == 0 || live->ahead) {
            const float *known = live->ahead ? generator->ahead_logits : live->prompt->logits;
            generator->turns[g].logits = generator->logits + M++ * generator->V;
            memcpy(generator->turns[g].logits, known, generator->V * sizeof(float));
            live->ahead = false;
        }
    }
    span_end(span, &generator->stats.base_s);
}

/* ---- candidates and their values ---- */

/* How many candidates are valued; 0 where the base policy is so sure that the token is left to it. */
static size_t turn_needed(const struct generator *generator, const struct turn *turn)
{
    const struct live *live = turn->live;
    size_t K = generator->K;
    double spread = 0, share = generator->options.skip_share;
    if (share == 0 || K < 2)
        return K;
    for (size_t i = 0; i < generator->I; i++)
        if (live->job->betas[i] != 0)  // before the first values: infinite
            spread += fabs(live->job->betas[i] * ((double)live->followers[i].high - live->followers[i].low));
    size_t needed = augment_needed(generator->kernels, turn->logits, turn->candidates, generator->V, K, spread,
                                   live->job->order.sampling.temperature, share);
    if (needed > 1)
        return needed;
    return live->pending + generator->guide_every > generator->pending_max ? K : 0;
}

static void turn_candidates(void *context, size_t task, size_t thread)
{
    (void)thread;
    struct generator *generator = context;
    struct turn *turn = &generator->turns[task];
    if (!turn->live->job->steered || turn->live->count % generator->guide_every != 0)
        return;
    top_candidates(generator->kernels, turn->candidates, turn->logits, generator->V, generator->K);
    turn->K = turn_needed(generator, turn);
    for (size_t k = 0; k < turn->K; k++)
        turn->base_logits[k] = turn->logits[turn->candidates[k]];
}

/* Rows of value model i for all candidates of the group, from row M on;
   newest tokens that it has not run go before them.  How many. */
static size_t turns_rows(struct generator *generator, size_t count, size_t i, size_t M)
{
    size_t first = M;
    for (size_t g = 0; g < count; g++) {
        struct turn *turn = &generator->turns[g];
        struct live *live = turn->live;
        if (turn->K == 0)
            continue;
        int32_t sequence = live->followers[i].sequence, parent = ROW_CACHED;
        for (size_t n = live->count - live->pending; n < live->count; n++) {
            generator->rows[M] = (struct row){ sequence, live->tokens[n], parent };
            parent = (int32_t)M++;
        }
        turn->candidate_row = M - first;
        for (size_t k = 0; k < turn->K; k++)
            generator->rows[M++] = (struct row){ sequence, turn->candidates[k], parent };
    }
    return M - first;
}

/* One pass of the value models that a leader begins, over all candidates of the group for each of them. */
static void turns_values(struct generator *generator, size_t count, size_t leader)
{
    size_t M = 0, C = (size_t)model_config(generator->value_models[leader])->channel_count;
    for (size_t i = leader; i < generator->I; i++)
        if (generator->leader[i] == leader)
            M += generator->pass_rows = turns_rows(generator, count, i, M);
    if (M == 0)
        return;
    model_forward(generator->value_models[leader], generator->value_caches[leader], generator->rows, M, generator->hidden);
    for (size_t i = leader; i < generator->I; i++) {
        if (generator->leader[i] != leader)
            continue;
        const float *hidden = generator->hidden + generator->pass_place[i] * generator->pass_rows * C;
        model_values(generator->value_models[i], hidden, generator->pass_rows, generator->row_values);
        for (size_t g = 0; g < count; g++) {
            struct turn *turn = &generator->turns[g];
            if (turn->K > 0)
                memcpy(turn->values + i * turn->K, generator->row_values + turn->candidate_row, turn->K * sizeof(float));
        }
    }
}

/* The same for a value model with its own tokenizer. */
static void turns_text_values(struct generator *generator, size_t count, size_t i)
{
    size_t asks = 0;
    for (size_t g = 0; g < count; g++) {
        struct turn *turn = &generator->turns[g];
        if (turn->K > 0)
            generator->asks[asks++] = (struct value_ask){ .text = turn->live->followers[i].text, .candidates = turn->candidates,
                                                          .K = turn->K, .values = turn->values + i * turn->K };
    }
    text_values_get(generator->text_values[i], generator->asks, asks);
    const struct value_ask *ask = generator->asks;
    for (size_t g = 0; g < count; g++) {
        struct turn *turn = &generator->turns[g];
        if (turn->K > 0)
            turn->too_long |= (ask++)->too_long && turn->live->job->betas[i] != 0;
    }
}

/* All value models' passes. */
static void turns_all_values(struct generator *generator, size_t count)
{
    for (size_t i = 0; i < generator->I; i++) {
        if (generator->text_values[i] != NULL)
            turns_text_values(generator, count, i);
        else if (generator->leader[i] == i)
            turns_values(generator, count, i);
    }
}

/* ---- the draw ---- */

static struct sampled turn_draw(struct generator *generator, const struct turn *turn, size_t thread)
{
    const struct generate_job *order = &turn->live->job->order;
    double uniform = sample_uniform(order->seed, order->prompt_key, order->sample, (uint32_t)turn->live->count);
    return sample_token(generator->kernels, turn->logits, generator->V, order->sampling, uniform, &generator->scratch[thread]);
}

static void turn_sample(void *context, size_t task, size_t thread)
{
    struct generator *generator = context;
    struct turn *turn = &generator->turns[task];
    const struct generate_job *order = &turn->live->job->order;
    size_t K = turn->K;
    turn->kl = 0;
    if (K > 0) {
        turn->kl = augment_logits(generator->kernels, turn->logits, turn->candidates, turn->values, turn->live->job->betas,
                                  generator->V, K, generator->I, order->sampling.temperature);
        for (size_t k = 0; k < K; k++)
            turn->steered_logits[k] = turn->logits[turn->candidates[k]];
    }
    turn->sampled = turn_draw(generator, turn, thread);
    turn->chosen = -1;
    for (size_t k = 0; k < K; k++)
        if (turn->candidates[k] == turn->sampled.token)
            turn->chosen = (int)k;
}

static char *failure_text(const struct generator *generator, const struct turn *turn)
{
    for (size_t i = 0; i < generator->I; i++) {
        size_t k = 0;
        while (k < turn->K && isfinite(turn->values[i * turn->K + k]))
            k++;
        if (k == turn->K || turn->live->job->betas[i] == 0)
            continue;
        if (turn->too_long && generator->text_values[i] != NULL)
            return memory_printf("its text does not fit value model \"%s\" (context %lld) at response token %zu",
                                 generator->value_names[i], (long long)model_config(generator->value_models[i])->position_max,
                                 turn->live->count);
        return memory_printf("values of \"%s\" are missing or not finite at response token %zu", generator->value_names[i],
                             turn->live->count);
    }
    return memory_printf("logits of \"%s\" are not finite at response token %zu", generator->options.base_name,
                         turn->live->count);
}

/* The sampled token becomes the response's newest, or there is none: a value model's context is full, or sampling has failed. */
static void turn_end(struct generator *generator, const struct turn *turn)
{
    struct live *live = turn->live;
    if (turn->too_long && live->count > 0) {
        live->ended = true;
        return;
    }
    if (turn->sampled.token < 0 || !isfinite(turn->kl)) {
        live->failure = failure_text(generator, turn);
        live->ended = true;
        return;
    }
    if (generator->options.watch != NULL)
        generator->options.watch(generator->options.watch_context, &(struct token_event){
            .tag = live->job->order.tag, .position = live->count, .token = turn->sampled.token,
            .logprob = turn->sampled.logprob, .kl = turn->kl, .K = turn->K,
            .I = turn->K > 0 ? generator->I : 0, .candidates = turn->candidates, .base_logits = turn->base_logits,
            .steered_logits = turn->steered_logits, .values = turn->values,
        });
    live->tokens[live->count] = turn->sampled.token;
    live->logprobs[live->count++] = (float)turn->sampled.logprob;
    live->kl += turn->kl;
    live->stopped = tokenizer_is_stop(generator->options.tokenizer, turn->sampled.token);
    live->ended = live->stopped || live->count == live->count_max;
    generator->stats.tokens++;
    generator->stats.steered += turn->K > 0;
}

/* The value models keep the row of the newest token; of a token that was no candidate there is none, only its parent's.
   Those with their own tokenizer read its text. */
static void turn_keep(struct generator *generator, const struct turn *turn)
{
    struct live *live = turn->live;
    for (size_t i = 0; i < generator->I; i++) {
        struct follower *follower = &live->followers[i];
        size_t candidate_row = generator->pass_place[i] * generator->pass_rows + turn->candidate_row;
        for (size_t k = 0; k < turn->K; k++) {
            follower->low = fminf(follower->low, turn->values[i * turn->K + k]);
            follower->high = fmaxf(follower->high, turn->values[i * turn->K + k]);
        }
        if (generator->text_values[i] != NULL)
            value_text_push(follower->text, turn->sampled.token);
        else if (turn->chosen >= 0)
            row_keep(generator->value_caches[i], candidate_row + (size_t)turn->chosen);
        else if (turn->K > 0 && live->pending > 0)
            row_keep(generator->value_caches[i], candidate_row - 1);
    }
    live->pending = turn->chosen >= 0 ? 0 : turn->K > 0 ? 1 : live->pending + 1;
}

/* ---- the base goes ahead of a single response's values ---- */

/* Whether to go ahead now.  What the answer led to is timed up to the next valued token of the response: a wrong guess is paid for
   only there, and after a right one also tokens that are not valued come sooner. */
static bool ahead_pays(struct generator *generator, const struct live *live)
{
    if (generator->options.always_ahead)
        return true;
    if (pool_threads(generator->options.pool) == 1)
        return false;
    double now_s = clock_s();
    if (generator->paced == live->job->number + 1)
        pace_add(&generator->pace, now_s - generator->paced_s);
    generator->paced = live->job->number + 1;
    generator->paced_s = now_s;
    return pace_way(&generator->pace) == 1;
}

/* The token that would be drawn without values; -1: nothing follows it, or the base does not go ahead. */
static int32_t turn_guess(struct generator *generator, const struct turn *turn)
{
    const struct live *live = turn->live;
    if (generator->live_count > 1)
        generator->paced = 0;
    if (generator->live_count > 1 || turn->K == 0 || !ahead_pays(generator, live) || live->count + 1 == live->count_max)
        return -1;
    int32_t token = turn_draw(generator, turn, 0).token;
    return token >= 0 && !tokenizer_is_stop(generator->options.tokenizer, token) ? token : -1;
}

static void base_ahead(struct generator *generator, const struct live *live, int32_t guess)
{
    const struct model *base = generator->options.base;
    struct span span = span_begin();
    model_forward(base, generator->base_cache, &(struct row){ live->base_sequence, guess, ROW_CACHED }, 1, generator->ahead_hidden);
    model_logits(base, generator->ahead_hidden, 1, generator->ahead_logits);
    span_end(span, &generator->stats.base_s);
}

static void values_job(void *context)
{
    turns_all_values(context, 1);
}

/* ---- a step ---- */

void group_step(struct generator *generator, struct live *live, size_t count)
{
    struct pool *pool = generator->options.pool;
    int32_t guess = -1;
    for (size_t g = 0; g < count; g++) {
        generator->turns[g].live = &live[g];
        generator->turns[g].K = 0;
        generator->turns[g].too_long = false;
    }
    turns_base(generator, count);
    if (generator->I > 0) {
        struct span span = span_begin();
        pool_run(pool, count, turn_candidates, generator);
        guess = turn_guess(generator, &generator->turns[0]);
        if (guess >= 0) {
            pool_start(pool, values_job, generator);
            span_end(span, &generator->stats.value_s);
            base_ahead(generator, live, guess);
            span = span_begin();
            pool_finish(pool);
        } else {
            turns_all_values(generator, count);
        }
        span_end(span, &generator->stats.value_s);
    }
    struct span span = span_begin();
    pool_run(pool, count, turn_sample, generator);
    span_end(span, &generator->stats.sample_s);
    for (size_t g = 0; g < count; g++) {
        turn_end(generator, &generator->turns[g]);
        if (generator->I > 0 && !live[g].ended)
            turn_keep(generator, &generator->turns[g]);
    }
    if (guess >= 0 && !live->ended && generator->turns[0].sampled.token == guess) {
        row_keep(generator->base_cache, 0);
        live->ahead = true;
        generator->stats.ahead++;
    }
}
