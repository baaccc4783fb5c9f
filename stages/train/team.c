/*
 * team.c - see team.h.
 *
 *     OPEN    processor, tokens                the trainer is opened; tokens: of the longest example
 *     SHARE                                    trainer_share
 *     STEP    total_steps, examples, tokens    then T (examples), tokens, and for the value objective targets and mask,
 *                                              each (tokens)
 *     END
 */
#include "train/team.h"

#include <cblas.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "base/memory.h"
#include "learn/ranks.h"
#include "text/tokenizer.h"

enum order_kind { ORDER_OPEN, ORDER_SHARE, ORDER_STEP, ORDER_END };

struct order {
    enum order_kind kind;
    char processor[64];  // which kernels it has: others would round otherwise
    int64_t total_steps;
    uint64_t examples, tokens;
};

static void processor_name(const struct learner *learner, char name[64])
{
    const struct product_kernels *products = product_kernels_get(learner->settings.products);
    snprintf(name, 64, "%s%s %s", openblas_get_corename(), __builtin_cpu_supports("avx2") ? " avx2" : "",
             products ? products->name : "");
}

static void give_order(struct learner *learner, struct order order)
{
    ranks_broadcast(learner->settings.ranks, &order, sizeof order);
}

static int open_trainer(struct learner *learner)
{
    int code;
    learner->trainer = trainer_open(&learner->settings, learner->config, learner->weights, tokenizer_key(learner->tokenizer),
                                    learner->pool, &code);
    return learner->trainer != NULL ? EX_OK : code;
}

/* ---- rank 0 ---- */

int team_open(struct learner *learner)
{
    struct order order = { .kind = ORDER_OPEN, .tokens = (uint64_t)learner->settings.longest_tokens };
    processor_name(learner, order.processor);
    give_order(learner, order);
    return open_trainer(learner);
}

void team_share(struct learner *learner)
{
    give_order(learner, (struct order){ .kind = ORDER_SHARE });
    trainer_share(learner->trainer);
}

/* The examples one after the other. */
struct packed_batch {
    struct buffer T, tokens, targets, mask;
};

static void packed_batch_free(struct packed_batch *packed)
{
    free(packed->T.data);
    free(packed->tokens.data);
    free(packed->targets.data);
    free(packed->mask.data);
}

static void send_batch(struct learner *learner, const struct example *examples, size_t count)
{
    struct packed_batch packed = { 0 };
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++) {
        const struct example *example = &examples[i];
        const uint64_t T = example->T;
        buffer_append(&packed.T, &T, sizeof T);
        buffer_append(&packed.tokens, example->tokens, example->T * sizeof *example->tokens);
        if (learner->options.objective == OBJECTIVE_VALUE) {
            buffer_append(&packed.targets, example->target, example->T * sizeof *example->target);
            buffer_append(&packed.mask, example->mask, example->T * sizeof *example->mask);
        }
        tokens += example->T;
    }
    struct ranks *ranks = learner->settings.ranks;
    give_order(learner, (struct order){ .kind = ORDER_STEP, .total_steps = learner->settings.total_steps, .examples = count,
                                        .tokens = tokens });
    ranks_broadcast(ranks, packed.T.data, packed.T.size);
    ranks_broadcast(ranks, packed.tokens.data, packed.tokens.size);
    ranks_broadcast(ranks, packed.targets.data, packed.targets.size);
    ranks_broadcast(ranks, packed.mask.data, packed.mask.size);
    packed_batch_free(&packed);
}

int team_step(struct learner *learner, const struct example *examples, size_t count, struct step_metrics *metrics)
{
    if (ranks_count(learner->settings.ranks) > 1)
        send_batch(learner, examples, count);
    trainer_expect(learner->trainer, learner->settings.total_steps);
    return trainer_step(learner->trainer, examples, count, metrics);
}

void team_end(struct learner *learner)
{
    give_order(learner, (struct order){ .kind = ORDER_END });
    ranks_close(learner->settings.ranks);
}

/* ---- the others ---- */

static int follow_open(struct learner *learner, const struct order *order)
{
    char processor[64];
    processor_name(learner, processor);
    if (strcmp(processor, order->processor) != 0) {
        log_error("ranks must run on one kind of processor: rank %zu has the kernels \"%s\", rank 0 has \"%s\"",
                  ranks_index(learner->settings.ranks), processor, order->processor);
        log_hint("OPENBLAS_CORETYPE makes OpenBLAS choose the same on all");
        return EX_UNAVAILABLE;
    }
    learner->settings.longest_tokens = (int64_t)order->tokens;
    return open_trainer(learner);
}

/* Borrows from arena. */
static void *receive(struct learner *learner, struct arena *arena, size_t count, size_t size)
{
    void *data = arena_alloc(arena, count, size);
    ranks_broadcast(learner->settings.ranks, data, count * size);
    return data;
}

static int follow_step(struct learner *learner, struct arena *arena, const struct order *order)
{
    const bool valued = learner->options.objective == OBJECTIVE_VALUE;
    struct example *examples = arena_alloc(arena, order->examples, sizeof *examples);
    const uint64_t *T = receive(learner, arena, order->examples, sizeof *T);
    const int32_t *tokens = receive(learner, arena, order->tokens, sizeof *tokens);
    const float *targets = valued ? receive(learner, arena, order->tokens, sizeof *targets) : NULL;
    const float *mask = valued ? receive(learner, arena, order->tokens, sizeof *mask) : NULL;
    for (size_t i = 0, first = 0; i < order->examples; first += T[i++])
        examples[i] = (struct example){
            .tokens = tokens + first, .T = T[i], .target = valued ? targets + first : NULL, .mask = valued ? mask + first : NULL,
        };
    struct step_metrics metrics;
    trainer_expect(learner->trainer, order->total_steps);
    const int result = trainer_step(learner->trainer, examples, order->examples, &metrics);
    arena_reset(arena);
    return result;
}

int team_follow(struct learner *learner)
{
    struct arena arena;
    arena_init(&arena, "batch of rank 0", SIZE_MAX / 2);
    int code = EX_OK;
    struct order order = { .kind = ORDER_END };
    while (code == EX_OK) {
        ranks_broadcast(learner->settings.ranks, &order, sizeof order);
        if (order.kind == ORDER_END)
            break;
        if (order.kind == ORDER_OPEN)
            code = follow_open(learner, &order);
        else if (order.kind == ORDER_SHARE)
            trainer_share(learner->trainer);
        else
            follow_step(learner, &arena, &order);  // what it refuses rank 0 refuses too, and ends
    }
    arena_free(&arena);
    if (code == EX_OK)
        ranks_close(learner->settings.ranks);
    return code;
}
