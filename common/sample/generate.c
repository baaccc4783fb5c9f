/*
 * generate.c - see generate.h.
 *
 * The base's cache and each value model's part of one hold the same positions, so one account of pages serves all: a kept prompt
 * holds ceil(P / 16) pages or, where it begins like another, shares some of them, a live response at most
 * ceil((P + R) / 16) - floor(P / 16) of its own, since it shares the prompt's full pages.  A job starts only when what it may come
 * to need is free; so a forward pass never lacks pages.
 */
#include "sample/generate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pace.h"
#include "base/progress.h"
#include "sample/text_values.h"

/* How far a value model has followed a text: in its cache, or through its own tokens. */
struct follower {
    int32_t sequence;         // of a value model that shares the base policy's tokenizer
    struct value_text *text;  // of one that does not; else NULL
    float low, high;          // of the values that the response has seen
};

/* A prompt that has been run, kept for other jobs that share it. */
struct prompt {
    int32_t *tokens;          // (count); NULL: a free place
    size_t count;
    char *text;
    int32_t base_sequence;
    struct follower *followers; // (I)
    float *logits;            // (V) after the last token
    size_t live;              // responses that share its pages
    uint64_t used;            // when it was last wanted
};

struct job {
    struct generate_job order;
    double betas[VALUE_MODELS_MAX];  // (I)
    bool steered;             // one of them is other than 0
    uint64_t number;          // of the jobs that were added
    struct job *next;
};

struct live {
    struct job *job;
    struct prompt *prompt;
    int32_t base_sequence;
    struct follower *followers; // (I)
    int32_t *tokens;           // (count_max)
    float *logprobs;           // (count_max)
    size_t count, count_max;
    size_t pages;              // set aside for it
    size_t pending;            // so many of the newest tokens were no valued candidates: the value models have not run them
    bool ahead;                // the base has run its newest token: generator->ahead_logits
    bool ended, stopped;
    double kl;
    char *failure;
};

struct finished {
    struct response response;
    uint64_t number;          // of its job
    int32_t *tokens;
    float *logprobs;
    char *text, *failure;
    struct finished *next;
};

/* What one response needs while it gets one token. */
struct turn {
    struct live *live;
    float *logits;            // (V)
    int32_t *candidates;      // (K)
    size_t K;                 // so many of them are valued, 0: left to the base policy
    float *base_logits;       // (K)
    float *steered_logits;    // (K)
    float *values;            // (I, K)
    bool too_long;            // with one of them the text is longer than the context of a value model with its own tokenizer
    size_t candidate_row;     // row of candidate 0 among those of each value model, behind the pending tokens'
    int chosen;               // valued candidate that was sampled, -1: another token
    struct sampled sampled;
    double kl;
};

struct generator {
    struct generate_options options;
    const struct kernels *kernels;
    const struct model *value_models[VALUE_MODELS_MAX];  // those with beta other than 0
    const char *value_names[VALUE_MODELS_MAX];
    const struct tokenizer *tokenizers[VALUE_MODELS_MAX];  // their own, or NULL
    size_t places[VALUE_MODELS_MAX];      // where they stand among the options' value models
    size_t V, K, I, context;
    size_t guide_every, pending_max;
    size_t leader[VALUE_MODELS_MAX];      // the first value model that runs in one pass with this one: those of one trunk do
    size_t pass_place[VALUE_MODELS_MAX];  // so many value models' rows come before this one's in that pass
    size_t pass_size[VALUE_MODELS_MAX];   // of a leader: value models that run in its pass
    size_t pass_most;  // the largest of these, at least 1
    size_t pass_rows;  // of each value model in the present pass
    size_t group_max;  // responses whose pending tokens and candidates fit one forward pass

    struct cache *base_cache;
    struct cache *value_caches[VALUE_MODELS_MAX];       // its leader's; of those with their own tokenizer NULL
    struct text_values *text_values[VALUE_MODELS_MAX];  // of the others, else NULL
    size_t pages_limit, pages_used;

    struct prompt *prompts;  // (batch): with fewer responses live than that, one can be given up
    uint64_t clock;          // counts uses of prompts
    struct job *waiting, **waiting_end;
    struct live *live;       // (batch)
    size_t live_count, held;
    struct finished *finished, *handed_out;
    uint64_t added, next;    // jobs added; the job whose response comes next where order matters

    struct turn *turns;      // (group_max)
    struct row *rows;        // (group_max * (K + pending_max))
    float *hidden;           // (rows, C of the widest model)
    float *logits;           // (group_max, V)
    float *ahead_hidden;     // (C)
    float *ahead_logits;     // (V)
    struct pace pace;        // whether to go ahead
    float *row_values;       // (rows)
    struct value_ask *asks;  // (group_max)
    struct sample_scratch *scratch;  // (threads)
    struct generate_stats stats;
};

/* Model arithmetic, timed. */
struct span {
    double begun_s;
    enum effort before;
};

static struct span span_begin(void)
{
    return (struct span){ clock_s(), effort_enter(EFFORT_COMPUTE) };
}

static void span_end(struct span span, double *spent_s)
{
    effort_enter(span.before);
    *spent_s += clock_s() - span.begun_s;
}

static size_t pages_for(size_t positions)
{
    return (positions + CACHE_PAGE_POSITIONS - 1) / CACHE_PAGE_POSITIONS;
}

static size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

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

/* ---- what the value models have followed of a text ---- */

/* What follows the order's prompt, from where a kept one's followers are after its first count tokens; 0: from the beginning.  Those
   of text take over a whole prompt or nothing. */
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

static void followers_close(struct generator *generator, struct follower *followers)
{
    for (size_t i = 0; i < generator->I; i++) {
        if (followers[i].text != NULL)
            value_text_close(followers[i].text);
        else
            sequence_close(generator->value_caches[i], followers[i].sequence);
    }
    free(followers);
}

static void prompt_give_up(struct generator *generator, struct prompt *prompt)
{
    sequence_close(generator->base_cache, prompt->base_sequence);
    followers_close(generator, prompt->followers);
    generator->pages_used -= pages_for(prompt->count);
    free(prompt->tokens);
    free(prompt->text);
    free(prompt->logits);
    *prompt = (struct prompt){ 0 };
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

/* ---- starting a response ---- */

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

/* Starts the first waiting job if its pages are free or can be made free.  False when it has to wait. */
static bool start_one(struct generator *generator)
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

/* ---- one token for a group of responses ---- */

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

/* How many candidates are valued; 0 where the base policy is so sure that the token is left to it. */
static size_t turn_needed(const struct generator *generator, const struct turn *turn)
{
    const struct live *live = turn->live;
    size_t K = generator->K;
    double spread = 0, share = generator->options.skip_share;
    if (share == 0 || K < 2)
        return K;
    for (size_t i = 0; i < generator->I; i++)  // before the first values: infinite
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
    for (size_t g = 0; g < count; g++)
        if (generator->turns[g].K > 0)
            generator->turns[g].too_long |= (ask++)->too_long;
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
        if (k == turn->K)
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

/* The token that would be drawn without values; -1: nothing follows it, or the base does not go ahead. */
static int32_t turn_guess(struct generator *generator, const struct turn *turn)
{
    const struct live *live = turn->live;
    if (generator->live_count > 1 || turn->K == 0 || pace_way(&generator->pace) == 0 || live->count + 1 == live->count_max)
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

static void group_step(struct generator *generator, struct live *live, size_t count)
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

bool generator_step(struct generator *generator)
{
    while (generator->waiting != NULL && generator->live_count < generator->options.batch && start_one(generator))
        ;
    CHECK(generator->live_count > 0 || generator->waiting == NULL);
    if (generator->live_count == 0)
        return false;
    double begun_s = clock_s();
    for (size_t first = 0; first < generator->live_count; first += generator->group_max)
        group_step(generator, &generator->live[first],
                   size_min(generator->group_max, generator->live_count - first));
    if (generator->live_count == 1 && generator->I > 0 && pool_threads(generator->options.pool) > 1)
        pace_add(&generator->pace, clock_s() - begun_s);

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
