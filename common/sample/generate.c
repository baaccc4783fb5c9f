/*
 * generate.c - see generate.h.
 *
 * The base's cache and each value model's part of one hold the same positions, so one account of pages serves all: a kept prompt
 * holds ceil(P / 16) pages or, where it begins like another, shares some of them, a live response at most
 * ceil((P + R) / 16) - floor(P / 16) of its own, since it shares the prompt's full pages.  A job starts only when what it may come
 * to need is free; so a forward pass never lacks pages.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "sample/generate_parts.h"

/* ---- open and close ---- */

int value_model_check(const struct generate_options *options, const struct value_model *value)
{
    int64_t V = model_config(options->base)->vocab_size, value_V = model_config(value->model)->vocab_size;
    const char *base_key = tokenizer_key(options->tokenizer);
    if (!model_has_value_head(value->model)) {
        log_error("value model \"%s\" has no value head (tensor \"v_head.summary.weight\")", value->name);
        log_hint("'train' writes value models");
        return -1;
    }
    if (value->tokenizer != NULL || (value_V == V && strcmp(value->tokenizer_key, base_key) == 0))
        return 0;
    if (strcmp(value->tokenizer_key, base_key) == 0)
        log_error("value model \"%s\" has vocab_size %lld, base policy \"%s\" has %lld", value->name,
                  (long long)value_V, options->base_name, (long long)V);
    else
        log_error("value model \"%s\" has tokenizer %s, base policy \"%s\" has %s", value->name, value->tokenizer_key,
                  options->base_name, base_key);
    log_hint("--value-tokenizer DIR|FILE names its tokenizer: it is then asked about the text of each candidate");
    return -1;
}

/* Puts value models of one trunk into one pass, as many as have room there for one response. */
static void group_passes(struct generator *generator)
{
    size_t most = MODEL_ROWS_MAX / (generator->K + generator->pending_max);
    generator->pass_most = 1;
    for (size_t i = 0; i < generator->I; i++) {
        size_t leader = 0;
        while (leader < i && (generator->tokenizers[leader] != NULL || generator->tokenizers[i] != NULL
                              || generator->pass_size[leader] == most
                              || generator->leader[leader] != leader
                              || !model_shares_trunk(generator->value_models[leader], generator->value_models[i])))
            leader++;
        generator->leader[i] = leader;
        generator->pass_place[i] = generator->pass_size[leader]++;
        generator->pass_most = size_max(generator->pass_most, generator->pass_size[leader]);
    }
}

static void open_caches(struct generator *generator)
{
    // Most prompts are this short; where they are longer, jobs wait for pages.
    enum { PROMPT_TYPICAL = 256 };
    const struct generate_options *options = &generator->options;
    size_t typical = size_min(generator->context, PROMPT_TYPICAL + options->max_new_tokens);
    generator->pages_limit = size_max(pages_for(generator->context) + 1, options->batch * pages_for(typical));

    // All but the first candidate of a response lie outside its own pages during a pass.
    size_t scratch_pages = pages_for(generator->group_max * generator->K);
    generator->base_cache = cache_open(options->base, generator->pages_limit * CACHE_PAGE_POSITIONS);
    for (size_t i = 0; i < generator->I; i++) {
        if (generator->tokenizers[i] != NULL)
            generator->text_values[i] = text_values_open(generator->value_models[i], generator->tokenizers[i], options->tokenizer,
                                                         generator->pages_limit * CACHE_PAGE_POSITIONS);
        else if (generator->leader[i] == i)
            generator->value_caches[i] = cache_open(generator->value_models[i], generator->pass_size[i] * CACHE_PAGE_POSITIONS
                                                                                * (generator->pages_limit + scratch_pages));
        else
            generator->value_caches[i] = generator->value_caches[generator->leader[i]];
    }
}

static void alloc_work(struct generator *generator)
{
    const struct generate_options *options = &generator->options;
    size_t G = generator->group_max, K = generator->K, I = generator->I, V = generator->V;
    size_t row_count = generator->pass_most * G * (K + generator->pending_max);
    size_t C = (size_t)model_config(options->base)->channel_count;
    for (size_t i = 0; i < I; i++)
        C = size_max(C, (size_t)model_config(generator->value_models[i])->channel_count);

    generator->rows = memory_alloc(row_count, sizeof *generator->rows);
    generator->hidden = memory_alloc_aligned(row_count * C, sizeof(float));
    generator->ahead_hidden = memory_alloc_aligned((size_t)model_config(options->base)->channel_count, sizeof(float));
    generator->ahead_logits = memory_alloc_aligned(V, sizeof(float));
    generator->row_values = memory_alloc(row_count, sizeof(float));
    generator->asks = memory_alloc(G, sizeof *generator->asks);
    generator->logits = memory_alloc_aligned(G * V, sizeof(float));
    generator->turns = memory_alloc(G, sizeof *generator->turns);
    for (size_t g = 0; g < G; g++) {
        generator->turns[g].candidates = memory_alloc(K, sizeof(int32_t));
        generator->turns[g].base_logits = memory_alloc(K, sizeof(float));
        generator->turns[g].steered_logits = memory_alloc(K, sizeof(float));
        generator->turns[g].values = memory_alloc(I * K, sizeof(float));
    }
    generator->prompts = memory_alloc(options->batch, sizeof *generator->prompts);
    generator->live = memory_alloc(options->batch, sizeof *generator->live);
    generator->scratch = memory_alloc(pool_threads(options->pool), sizeof *generator->scratch);
    for (size_t i = 0; i < pool_threads(options->pool); i++)
        sample_scratch_init(&generator->scratch[i], V);
}

struct generator *generator_open(const struct generate_options *options, int *code)
{
    CHECK(options->batch >= 1 && options->value_count <= VALUE_MODELS_MAX);
    CHECK(1 <= options->candidates && options->candidates <= CANDIDATES_MAX && options->guide_every <= GUIDE_EVERY_MAX);
    CHECK(0 <= options->skip_share && options->skip_share < 1);
    enum { SKIPPED_MAX = 64 };  // tokens: as many as one pass runs at little cost beside the candidates
    struct generator *generator = memory_alloc(1, sizeof *generator);
    generator->options = *options;
    generator->kernels = kernels_get();
    generator->V = (size_t)model_config(options->base)->vocab_size;
    generator->context = (size_t)model_config(options->base)->position_max;
    for (size_t i = 0; i < options->value_count; i++) {
        const struct value_model *value = &options->values[i];
        if (value->beta == 0)
            continue;
        if (value_model_check(options, value) != 0) {
            free(generator);
            *code = EX_DATAERR;
            return NULL;
        }
        if (value->tokenizer == NULL)
            generator->context = size_min(generator->context, (size_t)model_config(value->model)->position_max);
        generator->value_models[generator->I] = value->model;
        generator->value_names[generator->I] = value->name;
        generator->tokenizers[generator->I] = value->tokenizer;
        generator->places[generator->I++] = i;
    }
    generator->context = size_min(generator->context, options->context > 0 ? options->context : CONTEXT_DEFAULT);
    generator->K = generator->I > 0 ? size_min(options->candidates, generator->V) : 0;
    generator->guide_every = size_max(options->guide_every, 1);
    generator->pending_max = generator->guide_every + (options->skip_share > 0 ? SKIPPED_MAX : 0);
    group_passes(generator);
    generator->group_max = size_min(options->batch,
                                    MODEL_ROWS_MAX / (generator->pass_most * (generator->K + generator->pending_max)));
    generator->waiting_end = &generator->waiting;
    alloc_work(generator);
    open_caches(generator);
    return generator;
}

static void finished_free(struct finished *finished)
{
    if (finished == NULL)
        return;
    free(finished->tokens);
    free(finished->logprobs);
    free(finished->text);
    free(finished->failure);
    free(finished);
}

static void job_free(struct job *job)
{
    free((void *)job->order.prompt_tokens);
    free((void *)job->order.prompt_key);
    free((void *)job->order.prompt);
    free(job);
}

/* Everything of a live response but what its struct finished takes over. */
static void live_free(struct generator *generator, struct live *live)
{
    sequence_close(generator->base_cache, live->base_sequence);
    followers_close(generator, live->followers);
    generator->pages_used -= live->pages;
    live->prompt->live--;
    job_free(live->job);
}

void generator_close(struct generator *generator)
{
    if (generator == NULL)
        return;
    for (struct job *job = generator->waiting, *next; job != NULL; job = next) {
        next = job->next;
        job_free(job);
    }
    for (size_t i = 0; i < generator->live_count; i++) {
        free(generator->live[i].tokens);
        free(generator->live[i].logprobs);
        free(generator->live[i].failure);
        live_free(generator, &generator->live[i]);
    }
    for (struct finished *finished = generator->finished, *next; finished != NULL; finished = next) {
        next = finished->next;
        finished_free(finished);
    }
    finished_free(generator->handed_out);
    for (size_t i = 0; i < generator->options.batch; i++)
        if (generator->prompts[i].tokens != NULL)
            prompt_give_up(generator, &generator->prompts[i]);
    for (size_t g = 0; g < generator->group_max; g++) {
        free(generator->turns[g].candidates);
        free(generator->turns[g].base_logits);
        free(generator->turns[g].steered_logits);
        free(generator->turns[g].values);
    }
    for (size_t i = 0; i < pool_threads(generator->options.pool); i++)
        sample_scratch_free(&generator->scratch[i]);
    for (size_t i = 0; i < generator->I; i++) {
        text_values_close(generator->text_values[i]);
        if (generator->leader[i] == i)
            cache_close(generator->value_caches[i]);
    }
    cache_close(generator->base_cache);
    free(generator->scratch);
    free(generator->turns);
    free(generator->prompts);
    free(generator->live);
    free(generator->logits);
    free(generator->asks);
    free(generator->row_values);
    free(generator->ahead_logits);
    free(generator->ahead_hidden);
    free(generator->hidden);
    free(generator->rows);
    free(generator);
}

/* ---- jobs in, responses out ---- */

size_t generator_context(const struct generator *generator)
{
    return generator->context;
}

size_t generator_held(const struct generator *generator)
{
    return generator->held;
}

struct generate_stats generator_stats(const struct generator *generator)
{
    return generator->stats;
}

int generator_check_prompt(const struct generator *generator, const int32_t *tokens, size_t count, char reason[256])
{
    if (count == 0) {
        snprintf(reason, 256, "prompt has no tokens, must have at least 1");
        return -1;
    }
    if (count >= generator->context) {
        snprintf(reason, 256, "prompt has %zu tokens, context of \"%.100s\" is %zu with the response", count,
                 generator->options.base_name, generator->context);
        return -1;
    }
    for (size_t t = 0; t < count; t++) {
        if (tokens[t] < 0 || (size_t)tokens[t] >= generator->V) {
            snprintf(reason, 256, "prompt token %zu is %d, vocab_size of \"%.100s\" is %zu", t, tokens[t],
                     generator->options.base_name, generator->V);
            return -1;
        }
    }
    return 0;
}

/* The list is in the order of the jobs. */
static void finished_add(struct generator *generator, struct finished *finished, uint64_t number)
{
    finished->number = number;
    struct finished **place = &generator->finished;
    while (*place != NULL && (*place)->number < number)
        place = &(*place)->next;
    finished->next = *place;
    *place = finished;
}

void generator_add(struct generator *generator, const struct generate_job *order)
{
    CHECK(order->max_new_tokens >= 1);
    generator->held++;
    char reason[256];
    if (generator_check_prompt(generator, order->prompt_tokens, order->prompt_count, reason) != 0) {
        struct finished *finished = memory_alloc(1, sizeof *finished);
        finished->failure = memory_text(reason);
        finished->response = (struct response){ .tag = order->tag, .failure = finished->failure, .text = "" };
        finished_add(generator, finished, generator->added++);
        return;
    }
    struct job *job = memory_alloc(1, sizeof *job);
    job->number = generator->added++;
    job->order = *order;
    int32_t *tokens = memory_alloc(order->prompt_count, sizeof *tokens);
    memcpy(tokens, order->prompt_tokens, order->prompt_count * sizeof *tokens);
    job->order.prompt_tokens = tokens;
    job->order.prompt_key = memory_text(order->prompt_key);
    job->order.prompt = memory_text(order->prompt != NULL ? order->prompt : "");
    for (size_t i = 0; i < generator->I; i++) {
        size_t place = generator->places[i];
        job->betas[i] = order->betas != NULL ? order->betas[place] : generator->options.values[place].beta;
        job->steered |= job->betas[i] != 0;
    }
    *generator->waiting_end = job;
    generator->waiting_end = &job->next;
}

bool generator_next(struct generator *generator, struct response *response)
{
    struct finished *finished = generator->finished;
    finished_free(generator->handed_out);
    generator->handed_out = NULL;
    if (finished == NULL || (generator->options.in_order && finished->number != generator->next))
        return false;
    generator->handed_out = finished;
    generator->finished = finished->next;
    generator->next++;
    generator->held--;
    *response = finished->response;
    return true;
}

static void live_finish(struct generator *generator, struct live *live)
{
    const struct generate_job *order = &live->job->order;
    struct finished *finished = memory_alloc(1, sizeof *finished);
    finished->tokens = live->tokens;
    finished->logprobs = live->logprobs;
    finished->failure = live->failure;
    struct buffer text = { 0 };
    tokenizer_decode(generator->options.tokenizer, live->tokens, live->count,
                     DECODE_VALID_UTF8 | (order->begins_text ? 0 : DECODE_CONTINUE), &text);
    buffer_append(&text, "", 1);
    finished->text = text.data;
    finished->response = (struct response){
        .tag = order->tag, .failure = live->failure, .tokens = live->tokens, .logprobs = live->logprobs,
        .count = live->count, .text = text.data, .stopped = live->stopped, .kl = live->kl,
    };
    finished_add(generator, finished, live->job->number);
    live_free(generator, live);
}

bool generator_step(struct generator *generator)
{
    while (generator->waiting != NULL && generator->live_count < generator->options.batch && live_start(generator))
        ;
    CHECK(generator->live_count > 0 || generator->waiting == NULL);
    if (generator->live_count == 0)
        return false;
    for (size_t first = 0; first < generator->live_count; first += generator->group_max)
        group_step(generator, &generator->live[first],
                   size_min(generator->group_max, generator->live_count - first));

    size_t left = 0;
    for (size_t i = 0; i < generator->live_count; i++) {
        if (generator->live[i].ended)
            live_finish(generator, &generator->live[i]);
        else
            generator->live[left++] = generator->live[i];
    }
    generator->live_count = left;
    return true;
}
