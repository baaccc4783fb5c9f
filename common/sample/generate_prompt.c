/*
 * generate_prompt.c - the prompts that a generator keeps, and the responses that begin after them.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "sample/generate_parts.h"

/* ---- what the value models have followed of a text ---- */

/* What follows the order's prompt, from where a kept one's followers are after its first count tokens; 0: from the beginning.
   Those of text take over a whole prompt or nothing. */
static struct follower *followers_open(struct generator *generator, const struct generate_job *order, const struct prompt *kept,
                                       size_t count)
{
    struct follower *followers = memory_alloc(generator->I, sizeof *followers);
    for (size_t i = 0; i < generator->I; i++) {
        struct cache *cache = generator->value_caches[i];
        followers[i].low = INFINITY;
        followers[i].high = -INFINITY;
        if (generator->text_values[i] != NULL)
            followers[i].text = count == order->prompt_count
                                    ? value_text_fork(kept->followers[i].text)
                                    : value_text_open(generator->text_values[i], order->prompt, order->begins_text);
        else
            followers[i].sequence = count > 0 ? sequence_fork_prefix(cache, kept->followers[i].sequence, count)
                                              : sequence_open_for(cache, generator->value_models[i]);
    }
    return followers;
}

void followers_close(struct generator *generator, struct follower *followers)
{
    for (size_t i = 0; i < generator->I; i++) {
        if (followers[i].text != NULL)
            value_text_close(followers[i].text);
        else
            sequence_close(generator->value_caches[i], followers[i].sequence);
    }
    free(followers);
}

/* ---- prompts ---- */

void prompt_give_up(struct generator *generator, struct prompt *prompt)
{
    sequence_close(generator->base_cache, prompt->base_sequence);
    followers_close(generator, prompt->followers);
    generator->pages_used -= pages_for(prompt->count);
    free(prompt->tokens);
    free(prompt->text);
    free(prompt->logits);
    *prompt = (struct prompt){ 0 };
}

static struct prompt *prompt_find(struct generator *generator, const struct generate_job *order)
{
    for (size_t i = 0; i < generator->options.batch; i++) {
        struct prompt *prompt = &generator->prompts[i];
        if (prompt->count == order->prompt_count
            && memcmp(prompt->tokens, order->prompt_tokens, prompt->count * sizeof *prompt->tokens) == 0
            && strcmp(prompt->text, order->prompt) == 0)
            return prompt;
    }
    return NULL;
}

/* The prompt that was not wanted for the longest time and that no live response shares; NULL if there is none. */
static struct prompt *prompt_oldest(struct generator *generator, const struct prompt *except)
{
    struct prompt *oldest = NULL;
    for (size_t i = 0; i < generator->options.batch; i++) {
        struct prompt *prompt = &generator->prompts[i];
        if (prompt->tokens != NULL && prompt->live == 0 && prompt != except
            && (oldest == NULL || prompt->used < oldest->used))
            oldest = prompt;
    }
    return oldest;
}

/* The kept prompt with which the order's begins for longest: for *count tokens, whole pages of them, and never the last one, whose
   logits are wanted.  NULL, and 0, where there is none. */
static const struct prompt *prompt_alike(const struct generator *generator, const struct generate_job *order, size_t *count)
{
    const struct prompt *alike = NULL;
    *count = 0;
    for (size_t i = 0; i < generator->options.batch; i++) {
        const struct prompt *prompt = &generator->prompts[i];
        size_t most = size_min(prompt->count, order->prompt_count - 1), same = 0;
        while (same < most && prompt->tokens[same] == order->prompt_tokens[same])
            same++;
        same -= same % CACHE_PAGE_POSITIONS;
        if (same > *count) {
            *count = same;
            alike = prompt;
        }
    }
    return alike;
}

static struct prompt *prompt_run(struct generator *generator, const struct generate_job *order)
{
    const struct generate_options *options = &generator->options;
    struct span span = span_begin();
    size_t i = 0;
    while (i < options->batch && generator->prompts[i].tokens != NULL)
        i++;
    if (i == options->batch) {
        struct prompt *oldest = prompt_oldest(generator, NULL);
        CHECK(oldest != NULL);
        prompt_give_up(generator, oldest);
        i = (size_t)(oldest - generator->prompts);
    }
    size_t known;
    const struct prompt *kept = prompt_alike(generator, order, &known);
    struct prompt *prompt = &generator->prompts[i];
    prompt->count = order->prompt_count;
    prompt->tokens = memory_alloc(prompt->count, sizeof *prompt->tokens);
    memcpy(prompt->tokens, order->prompt_tokens, prompt->count * sizeof *prompt->tokens);
    prompt->logits = memory_alloc(generator->V, sizeof *prompt->logits);
    prompt->text = memory_text(order->prompt);
    prompt->followers = followers_open(generator, order, kept, known);
    prompt->base_sequence = known > 0 ? sequence_fork_prefix(generator->base_cache, kept->base_sequence, known)
                                      : sequence_open(generator->base_cache);
    model_extend(options->base, generator->base_cache, prompt->base_sequence, prompt->tokens + known, prompt->count - known, NULL,
                 generator->hidden);
    model_logits(options->base, generator->hidden, 1, prompt->logits);
    for (size_t v = 0; v < generator->I; v++)
        if (prompt->followers[v].text == NULL)
            model_extend(generator->value_models[v], generator->value_caches[v], prompt->followers[v].sequence,
                         prompt->tokens + known, prompt->count - known, NULL, NULL);
    generator->pages_used += pages_for(prompt->count);
    generator->stats.prompt_tokens += (int64_t)(prompt->count - known);
    span_end(span, &generator->stats.prompt_s);
    return prompt;
}

/* ---- the beginning of a response ---- */

bool live_start(struct generator *generator)
{
    struct job *job = generator->waiting;
    const struct generate_job *order = &job->order;
    size_t P = order->prompt_count, count_max = size_min(order->max_new_tokens, generator->context - P);
    size_t own_pages = pages_for(P + count_max) - P / CACHE_PAGE_POSITIONS;
    struct prompt *prompt = prompt_find(generator, order);
    size_t new_pages = own_pages + (prompt == NULL ? pages_for(P) : 0);
    while (generator->pages_used + new_pages > generator->pages_limit) {
        struct prompt *oldest = prompt_oldest(generator, prompt);
        if (oldest == NULL)
            return false;
        prompt_give_up(generator, oldest);
    }
    if (prompt == NULL)
        prompt = prompt_run(generator, order);
    prompt->live++;
    prompt->used = ++generator->clock;
    generator->pages_used += own_pages;
    generator->waiting = job->next;
    if (generator->waiting == NULL)
        generator->waiting_end = &generator->waiting;

    struct live *live = &generator->live[generator->live_count++];
    *live = (struct live){ .job = job, .prompt = prompt, .count_max = count_max, .pages = own_pages };
    live->tokens = memory_alloc(count_max, sizeof *live->tokens);
    live->logprobs = memory_alloc(count_max, sizeof *live->logprobs);
    live->base_sequence = sequence_fork(generator->base_cache, prompt->base_sequence);
    live->followers = followers_open(generator, order, prompt, prompt->count);
    return true;
}
