/* serve.c - see serve.h. */
#include "sample/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "wire/edge.h"

/* A prompt some of whose samples are still to come. */
struct asked {
    struct asked *next, **link;  // of the server's list
    int64_t item;
    char *prompt_key, *tokenizer, *split, *prompt;
    int32_t *tokens;
    size_t count;
    size_t left;                 // samples to come
    struct sample {
        struct asked *asked;
        int64_t number;
    } samples[];
};

struct server {
    const struct serve_options *options;
    const struct generate_options *generate;
    struct generator *generator;
    struct edge *edge;
    struct asked *asked;  // all that are held
    int64_t given;
};

static json_t *stops_json(const struct tokenizer *tokenizer)
{
    const struct token_list *stops = tokenizer_stops(tokenizer);
    json_t *list = json_array();
    for (size_t i = 0; i < stops->count; i++)
        json_array_append_new(list, json_integer(stops->at[i]));
    return list;
}

/* What makes this policy's rollouts what they are, as the store pins it under the policy's name. */
static json_t *policy_spec(const struct server *server)
{
    const struct serve_options *options = server->options;
    const struct generate_options *generate = server->generate;
    json_t *values = json_array();
    for (size_t i = 0; i < generate->value_count; i++) {
        const struct value_model *value = &generate->values[i];
        if (value->beta != 0)
            json_array_append_new(values, json_pack("{s:s, s:f, s:s*}", "model", model_key(value->model), "beta", value->beta,
                                                    "tokenizer", value->tokenizer != NULL ? value->tokenizer_key : NULL));
    }
    json_t *spec = json_pack("{s:s, s:s, s:f, s:f, s:I, s:I, s:I, s:I}", "model", model_key(generate->base),
                             "tokenizer", tokenizer_key(generate->tokenizer), "temperature", options->sampling.temperature,
                             "top_p", options->sampling.top_p, "top_k", (json_int_t)options->sampling.top_k,
                             "max_new_tokens", (json_int_t)options->max_new_tokens, "seed", (json_int_t)options->seed,
                             "context", (json_int_t)generator_context(server->generator));
    CHECK(spec != NULL && values != NULL);
    // What the tokenizer's key tells goes unsaid: stores hold specs without stops.
    if (!tokenizer_stops_usual(generate->tokenizer))
        json_object_set_new(spec, "stops", stops_json(generate->tokenizer));
    if (json_array_size(values) > 0) {
        json_object_set_new(spec, "candidates", json_integer((json_int_t)generate->candidates));
        if (generate->guide_every > 1)
            json_object_set_new(spec, "guide_every", json_integer((json_int_t)generate->guide_every));
        if (generate->skip_share > 0)
            json_object_set_new(spec, "skip_share", json_real(generate->skip_share));
    }
    json_object_set_new(spec, "values", values);
    return spec;
}

static char *settings_text(const struct server *server)
{
    const struct serve_options *options = server->options;
    json_t *settings = json_pack("{s:s, s:I, s:s, s:o}", "policy", options->policy, "samples", (json_int_t)options->samples,
                                 "split", options->split, "spec", policy_spec(server));
    CHECK(settings != NULL);
    char *text = json_text(settings);
    json_decref(settings);
    return text;
}

/* ---- prompts in ---- */

static struct asked *asked_add(struct server *server, const struct frame_prompt *prompt, int64_t first, size_t count)
{
    struct asked *asked = memory_alloc(1, sizeof *asked + count * sizeof asked->samples[0]);
    asked->item = prompt->item;
    asked->prompt_key = memory_text(prompt->prompt_key);
    asked->tokenizer = memory_text(prompt->tokenizer);
    asked->split = memory_text(prompt->split);
    asked->prompt = memory_text(prompt->prompt);
    asked->count = prompt->prompt_tokens.count;
    asked->tokens = memory_alloc(asked->count, sizeof *asked->tokens);
    memcpy(asked->tokens, prompt->prompt_tokens.at, asked->count * sizeof *asked->tokens);
    asked->left = count;
    for (size_t i = 0; i < count; i++)
        asked->samples[i] = (struct sample){ .asked = asked, .number = first + (int64_t)i };

    asked->next = server->asked;
    asked->link = &server->asked;
    if (asked->next != NULL)
        asked->next->link = &asked->next;
    server->asked = asked;
    return asked;
}

static void asked_drop(struct asked *asked)
{
    *asked->link = asked->next;
    if (asked->next != NULL)
        asked->next->link = asked->link;
    free(asked->prompt_key);
    free(asked->tokenizer);
    free(asked->split);
    free(asked->prompt);
    free(asked->tokens);
    free(asked);
}

/* 0, or -1 when the edge has failed. */
static int ask(struct server *server, const struct frame_prompt *prompt)
{
    const struct serve_options *options = server->options;
    const char *key = tokenizer_key(server->generate->tokenizer);
    char reason[256];
    if (strcmp(prompt->tokenizer, key) != 0) {
        snprintf(reason, sizeof reason, "prompt was tokenized by tokenizer %s, model \"%.80s\" has %s", prompt->tokenizer,
                 server->generate->base_name, key);
        return edge_fail(server->edge, prompt->item, reason);
    }
    if (generator_check_prompt(server->generator, prompt->prompt_tokens.at, prompt->prompt_tokens.count, reason) != 0)
        return edge_fail(server->edge, prompt->item, reason);

    bool all = prompt->sample < 0;
    struct asked *asked = asked_add(server, prompt, all ? 0 : prompt->sample, all ? (size_t)options->samples : 1);
    size_t count = asked->left;
    for (size_t i = 0; i < count; i++) {
        struct sample *sample = &asked->samples[i];
        generator_add(server->generator, &(struct generate_job){
            .prompt_tokens = asked->tokens, .prompt_count = asked->count, .prompt = asked->prompt, .prompt_key = asked->prompt_key,
            .sample = (uint32_t)sample->number, .seed = (uint64_t)options->seed, .max_new_tokens = (size_t)options->max_new_tokens,
            .sampling = options->sampling, .begins_text = asked->prompt[0] == '\0', .tag = sample,
        });
    }
    return 0;
}

/* ---- rollouts out ---- */

static int give(struct server *server, const struct response *response)
{
    struct sample *sample = response->tag;
    struct asked *asked = sample->asked;
    bool last = --asked->left == 0;
    int result;
    if (response->failure != NULL) {
        result = edge_fail(server->edge, asked->item, response->failure);
    } else {
        struct frame frame = frame_make(FRAME_rollout);
        struct frame_rollout *rollout = &frame.rollout;
        rollout->item = last ? asked->item : 0;  // the lease ends with the last of them
        rollout->prompt_key = asked->prompt_key;
        rollout->tokenizer = asked->tokenizer;
        rollout->split = asked->split;
        rollout->prompt = asked->prompt;
        rollout->prompt_tokens = (struct tokens){ asked->tokens, asked->count };
        rollout->sample = sample->number;
        rollout->policy = server->options->policy;
        rollout->response = response->text;
        rollout->response_tokens = (struct tokens){ response->tokens, response->count };
        rollout->logprobs = (struct floats){ response->logprobs, response->count };
        rollout->stopped = response->stopped;
        rollout->kl = response->kl;
        result = edge_give(server->edge, &frame);
    }
    if (last)
        asked_drop(asked);
    server->given++;
    return result;
}

/* seconds: at work. */
static int give_metric(struct server *server, double seconds)
{
    struct generate_stats stats = generator_stats(server->generator);
    if (stats.tokens == 0)
        return 0;
    json_t *numbers = json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "tokens", (json_int_t)stats.tokens,
                                "prompt_tokens", (json_int_t)stats.prompt_tokens, "seconds", seconds, "prompt_s", stats.prompt_s,
                                "base_s", stats.base_s, "value_s", stats.value_s, "sample_s", stats.sample_s);
    CHECK(numbers != NULL);
    char *text = json_text(numbers);
    json_decref(numbers);
    struct frame frame = frame_make(FRAME_metric);
    frame.metric.subject = server->options->policy;
    frame.metric.step = 0;
    frame.metric.numbers = text;
    int result = edge_give(server->edge, &frame);
    free(text);
    return result;
}

/* ---- the loop ---- */

/* Of this process until now, seconds that were not spent waiting for items. */
static double worked_s(void)
{
    double seconds[EFFORT_COUNT];
    effort_read(seconds);
    return seconds[EFFORT_OTHER] + seconds[EFFORT_COMPUTE] + seconds[EFFORT_WIRE];
}

/* How many more prompt frames can be held, each standing for this many samples. */
static size_t room(const struct server *server, size_t hold_max, size_t samples)
{
    size_t held = generator_held(server->generator), left = hold_max > held ? hold_max - held : 0;
    return left >= samples ? left / samples : held < server->generate->batch;
}

/* One token for everything that is held, and what that finished goes out. */
static int serve_step(struct server *server)
{
    struct response response;
    generator_step(server->generator);
    while (generator_next(server->generator, &response))
        if (give(server, &response) != 0)
            return -1;
    return 0;
}

static enum edge_status serve_all(struct server *server, size_t hold_max)
{
    struct progress progress;
    progress_start(&progress, "sampled", "rollouts", edge_missing(server->edge));
    size_t samples = edge_is_pipe(server->edge) ? (size_t)server->options->samples : 1;
    double begun_s = worked_s();
    enum edge_status status = EDGE_EMPTY;
    while (status == EDGE_BATCH || status == EDGE_EMPTY || generator_held(server->generator) > 0) {
        bool ending = status != EDGE_BATCH && status != EDGE_EMPTY;  // then the edge is only kept alive
        struct batch batch;
        enum edge_status taken = edge_take(server->edge, &batch, ending ? 0 : room(server, hold_max, samples),
                                           generator_held(server->generator) == 0);
        bool failed = taken == EDGE_FAILED && !edge_is_pipe(server->edge);  // a pipe whose input broke still takes outputs
        if (taken == EDGE_BATCH) {
            for (size_t i = 0; i < batch.count && !failed; i++)
                failed = ask(server, &batch.frames[i].prompt) != 0;
            edge_done(server->edge, &batch);
        }
        if (failed || serve_step(server) != 0) {
            status = EDGE_FAILED;
            break;
        }
        if (!ending)
            status = taken;
        snprintf(progress.note, sizeof progress.note, "%.0f tokens/s",
                 (double)generator_stats(server->generator).tokens / (worked_s() - begun_s + 1e-9));
        progress_set(&progress, server->given);
    }
    progress_end(&progress);
    if (status != EDGE_FAILED && give_metric(server, worked_s() - begun_s) != 0)
        status = EDGE_FAILED;
    while (server->asked != NULL)
        asked_drop(server->asked);
    return status;
}

int serve(const struct serve_options *options, const struct generate_options *generate)
{
    if (!name_is_valid(options->policy)) {  // one made from the names of value models may be long
        log_error("policy \"%s\" has %zu bytes, must be UTF-8 of 1 to %d bytes", options->policy, strlen(options->policy),
                  NAME_BYTES);
        log_hint("give it a name with --policy");
        return EX_USAGE;
    }
    struct generate_options ordered = *generate;
    ordered.in_order = options->endpoint == NULL;
    int code;
    struct server server = { .options = options, .generate = &ordered, .generator = generator_open(&ordered, &code) };
    if (server.generator == NULL)
        return code;

    // Enough that the batch stays full while the oldest response, for which a pipe's order waits, is still being sampled.
    size_t hold_max = (ordered.in_order ? 8 : 2) * generate->batch;
    char *settings = options->endpoint != NULL ? settings_text(&server) : NULL;
    server.edge = edge_open(&(struct edge_options){ .endpoint = options->endpoint, .stage = options->stage,
                                .settings = settings, .takes = FRAME_prompt, .follow = options->follow,
                                .hold_max = hold_max }, &code);
    free(settings);
    if (server.edge != NULL) {
        enum edge_status status = serve_all(&server, hold_max);
        code = edge_close(server.edge, status);
    }
    generator_close(server.generator);
    return code;
}
