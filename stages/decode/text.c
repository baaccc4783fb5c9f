/* text.c - see text.h. */
#include "decode/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"
#include "decode/linefile.h"
#include "decode/refusal.h"
#include "text/prompt.h"

/* One prompt and what has come of it; or, for JSON lines, a line that cannot be answered, whose one answer is its refusal. */
struct request {
    char *prompt;
    struct token_list tokens;
    size_t line;             // its number, from 1; 0: an operand
    json_t *own;             // "decode" of its line, or NULL
    size_t left;             // samples to come
    struct candidate {       // of best-of, each sample that succeeded
        json_t *json;
        struct scorer_text text;  // borrows from json
    } *candidates;
    size_t candidate_count;
    struct answer {
        struct request *request;
        struct answer *next;          // in the order of the output
        int64_t sample;
        struct text_stream stream;
        struct buffer waiting;        // text that is not printed yet, because it is another's turn
        json_t *refusal;              // what is printed in place of a response; NULL: one will come
    } answers[];
};

struct run {
    const struct text_options *options;
    const struct generate_options *generate;
    struct generator *generator;
    struct prompt_style style;
    struct line_options line;   // of lines that say nothing themselves
    bool hinted;             // that --chat is missing
    struct linefile *lines;     // of the operand that is being read, if it is a file
    size_t operand;          // that comes next
    bool streams;            // the first unfinished answer is printed token by token
    struct answer *first, **last;
    size_t queued;           // answers from first to last
    int code;                // EX_OK until something went wrong
    bool unscorable;         // the scorer is of no use any more
    int64_t responses;
    double kl;               // summed over responses, nats
};

/* ---- prompts in ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t text_size = strlen(text), end_size = strlen(end);
    return text_size >= end_size && strcmp(text + text_size - end_size, end) == 0;
}

/* A prompt that reads like the name of a file is one, so that a misspelt name is an error and not answered. */
static bool is_file(const char *operand)
{
    if (strcmp(operand, "-") == 0 || (file_exists(operand) && !file_is_directory(operand)))
        return true;
    return strpbrk(operand, " \n") == NULL && (ends_with(operand, ".jsonl") || ends_with(operand, ".txt"));
}

static void queue(struct run *run, struct answer *answer)
{
    *run->last = answer;
    run->last = &answer->next;
    run->queued++;
}

/* Of the present prompt. */
static size_t line_number(const struct run *run)
{
    return run->lines != NULL ? linefile_number(run->lines) : 0;
}

/* The present prompt has no response.  Where answers are JSON lines it has one all the same, so that who asks in turn goes on. */
static void refuse(struct run *run, const char *reason)
{
    run->code = EX_DATAERR;
    if (!run->options->json)
        return;
    struct request *request = memory_alloc(1, sizeof *request + sizeof request->answers[0]);
    request->left = 1;
    request->answers[0].request = request;
    request->answers[0].refusal = refusal_to_json(reason, line_number(run));
    queue(run, &request->answers[0]);
}

/* The same, with a word about where the prompt comes from. */
static void refuse_logged(struct run *run, const char *reason)
{
    if (run->lines != NULL)
        log_error("line %zu of \"%s\": %s", linefile_number(run->lines), linefile_name(run->lines), reason);
    else
        log_error("%s", reason);
    refuse(run, reason);
}

/* own: what its line says under "decode", or NULL. */
static void ask(struct run *run, const struct prompt_source *source, json_t *own)
{
    char reason[256] = "prompt has a NUL";
    struct line_options line = run->line;
    struct buffer text = { 0 };
    struct token_list tokens = { 0 };
    int code = source->messages == NULL && memchr(source->text, '\0', source->size) != NULL
        ? EX_DATAERR : prompt_make(&run->style, source, &text, &tokens, reason);
    if (code == EX_OK && generator_check_prompt(run->generator, tokens.at, tokens.count, reason) != 0)
        code = EX_DATAERR;
    if (code == EX_OK && own != NULL
        && line_options_read(&line, own, run->generate->values, run->generate->value_count, reason) != 0)
        code = EX_DATAERR;
    if (code != EX_OK) {
        refuse_logged(run, reason);
        if (code == EX_USAGE && !run->hinted)
            log_hint(CHAT_HINT);
        run->hinted = run->hinted || code == EX_USAGE;
        free(text.data);
        free(tokens.at);
        return;
    }
    const struct text_options *options = run->options;
    const size_t size = text.size, samples = (size_t)options->samples;
    struct request *request = memory_alloc(1, sizeof *request + samples * sizeof request->answers[0]);
    request->prompt = text.data;
    request->tokens = tokens;
    request->line = line_number(run);
    request->own = json_incref(own);
    request->left = samples;
    if (options->scorer != NULL)
        request->candidates = memory_alloc(samples, sizeof *request->candidates);
    char key[KEY_SIZE];
    // As tokenize makes it, so that samples are the rollouts'.
    key_from_texts(key, tokenizer_key(run->style.tokenizer), request->prompt, NULL);
    for (size_t i = 0; i < samples; i++) {
        struct answer *answer = &request->answers[i];
        *answer = (struct answer){ .request = request, .sample = (int64_t)i, .stream = { .started = size > 0 } };
        queue(run, answer);
        generator_add(run->generator, &(struct generate_job){
            .prompt_tokens = request->tokens.at, .prompt_count = request->tokens.count, .prompt = request->prompt,
            .prompt_key = key, .sample = (uint32_t)i, .seed = (uint64_t)line.seed,
            .max_new_tokens = (size_t)line.max_new_tokens, .sampling = line.sampling, .betas = line.betas,
            .begins_text = size == 0, .tag = answer,
        });
    }
}

static void ask_line(struct run *run, const char *line, size_t size)
{
    if (line[0] != '{') {
        ask(run, &(struct prompt_source){ .text = line, .size = size }, NULL);
        return;
    }
    json_t *json = json_parse_line(line, size, linefile_name(run->lines), linefile_number(run->lines));
    const json_t *prompt = json_object_get(json, "prompt"), *messages = json_object_get(json, "messages");
    json_t *own = json_object_get(json, "decode");
    own = json_is_null(own) ? NULL : own;
    if (json_is_string(prompt)) {
        ask(run, &(struct prompt_source){ .text = json_string_value(prompt), .size = json_string_length(prompt) }, own);
    } else if (json_is_array(prompt) || json_is_array(messages)) {
        ask(run, &(struct prompt_source){ .messages = json_is_array(prompt) ? prompt : messages }, own);
    } else if (json != NULL) {
        refuse_logged(run, "neither a text under \"prompt\" nor a list of messages");
    } else {
        refuse(run, "the line is no JSON");
    }
    json_decref(json);
}

/* Asks one more prompt.  False when there is none now, or none at all: then run->operand is behind the last. */
static bool ask_next(struct run *run, bool wait)
{
    const struct text_options *options = run->options;
    if (run->lines == NULL && run->operand < options->operand_count) {
        const char *operand = options->operands[run->operand];
        if (!is_file(operand)) {
            ask(run, &(struct prompt_source){ .text = operand, .size = strlen(operand) }, NULL);
            run->operand++;
            return true;
        }
        run->lines = linefile_open(operand, &run->code);
        run->operand += run->lines == NULL;
    }
    if (run->lines == NULL)
        return run->operand < options->operand_count;
    char *line;
    size_t size;
    switch (linefile_next(run->lines, wait, &line, &size)) {
    case LINEFILE_ONE:
        if (strspn(line, " \t") < size)  // tokenize leaves empty lines out too
            ask_line(run, line, size);
        return true;
    case LINEFILE_LONG:
        refuse(run, "the line is too long");
        return true;
    case LINEFILE_NONE:
        return false;
    case LINEFILE_FAILED:
        run->code = EX_IOERR;
        break;
    case LINEFILE_END:
        break;
    }
    linefile_close(run->lines);
    run->lines = NULL;
    run->operand++;
    return run->operand < options->operand_count;
}

/* ---- responses out ---- */

static void request_free(struct request *request)
{
    for (size_t i = 0; i < request->candidate_count; i++)
        json_decref(request->candidates[i].json);
    json_decref(request->own);
    free(request->candidates);
    free(request->prompt);
    free(request->tokens.at);
    free(request);
}

static json_t *json_from_tokens(const int32_t *tokens, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(tokens[i]));
    return array;
}

/* null where it holds broken UTF-8, which is no JSON text. */
static json_t *prompt_to_json(const struct request *request)
{
    json_t *prompt = json_string(request->prompt);
    return prompt != NULL ? prompt : json_null();
}

static json_t *response_to_json(const struct answer *answer, const struct response *response)
{
    const struct request *request = answer->request;
    double logprob = 0;
    for (size_t i = 0; i < response->count; i++)
        logprob += response->logprobs[i];
    json_t *json = json_pack("{s:o, s:s, s:I, s:o, s:o, s:f, s:f, s:b}", "prompt", prompt_to_json(request),
                             "response", response->text, "sample", (json_int_t)answer->sample,
                             "prompt_tokens", json_from_tokens(request->tokens.at, request->tokens.count),
                             "response_tokens", json_from_tokens(response->tokens, response->count),
                             "logprob", logprob, "kl", response->kl, "stopped", response->stopped);
    CHECK(json != NULL);
    if (request->own != NULL)
        json_object_set(json, "decode", request->own);
    return json;
}

static void print_json(const json_t *json)
{
    char *text = json_text(json);
    puts(text);
    free(text);
}

/* In place of a sample's response; of best-of (sample -1) in place of the best. */
static void print_failure(const struct request *request, int64_t sample, const char *reason)
{
    json_t *json = refusal_to_json(reason, request->line);
    json_object_set_new(json, "prompt", prompt_to_json(request));
    if (sample >= 0)
        json_object_set_new(json, "sample", json_integer(sample));
    print_json(json);
    json_decref(json);
}

/* Best-of: prints the sample with the highest score, of equal ones the first. */
static void print_best(struct run *run, struct request *request)
{
    size_t count = request->candidate_count, best = count;
    struct scorer_result *results = memory_alloc(count, sizeof *results);
    struct scorer_text *texts = memory_alloc(count, sizeof *texts);
    for (size_t i = 0; i < count; i++)
        texts[i] = request->candidates[i].text;
    run->unscorable = scorer_score(run->options->scorer, texts, count, results) != 0;
    if (run->unscorable)
        run->code = EX_UNAVAILABLE;
    for (size_t i = 0; i < count; i++) {
        if (results[i].status == SCORER_FAILED)
            log_error("sample %zu could not be scored: %s", i, results[i].reason);
        if (results[i].status == SCORER_SCORED && (best == count || results[i].score > results[best].score))
            best = i;
    }
    if (best == count) {
        if (!run->unscorable) {
            log_error("none of %zu samples could be scored", count);
            run->code = run->code != EX_OK ? run->code : EX_DATAERR;
            if (run->options->json)
                print_failure(request, -1, "none of its samples could be scored");
        }
    } else if (run->options->json) {
        json_object_set_new(request->candidates[best].json, "score", json_real(results[best].score));
        print_json(request->candidates[best].json);
    } else {
        puts(request->candidates[best].text.response);
    }
    free(texts);
    free(results);
}

static void candidate_add(struct request *request, const struct answer *answer, const struct response *response)
{
    json_t *json = response_to_json(answer, response);
    json_object_del(json, "kl");  // the sample's own; that of the best of several is another
    request->candidates[request->candidate_count++] = (struct candidate){
        json, { request->prompt, json_string_value(json_object_get(json, "response")) }
    };
}

static void flush_waiting(struct answer *answer)
{
    if (answer->waiting.size > 0)  // else its data may be NULL
        fwrite(answer->waiting.data, 1, answer->waiting.size, stdout);
    fflush(stdout);
    answer->waiting.size = 0;
}

/* The next answer's turn is over. */
static void answer_end(struct run *run)
{
    struct answer *answer = run->first;
    struct request *request = answer->request;
    free(answer->waiting.data);
    json_decref(answer->refusal);
    run->first = answer->next;
    run->queued--;
    if (run->first == NULL)
        run->last = &run->first;
    if (--request->left == 0)
        request_free(request);
}

/* False for good once a signal came, which may have made a write fail: the next might wait for a reader for ever. */
static bool goes_on(const struct run *run)
{
    return !stop_requested() && !ferror(stdout) && !run->unscorable;
}

/* Those whose turn has come. */
static void print_refusals(struct run *run)
{
    while (goes_on(run) && run->first != NULL && run->first->refusal != NULL) {
        print_json(run->first->refusal);
        answer_end(run);
    }
}

/* The answer that comes next has finished. */
static void finish(struct run *run, const struct response *response)
{
    struct answer *answer = response->tag;
    struct request *request = answer->request;
    CHECK(answer == run->first);
    if (response->failure != NULL) {
        log_error("%s", response->failure);
        run->code = EX_DATAERR;
    } else {
        run->responses++;
        run->kl += response->kl;
    }
    if (run->streams) {
        text_stream_end(&answer->stream, &answer->waiting);
        buffer_append(&answer->waiting, "\n", 1);
        flush_waiting(answer);
    } else if (response->failure == NULL) {
        if (request->candidates != NULL) {
            candidate_add(request, answer, response);
        } else if (run->options->json) {
            json_t *json = response_to_json(answer, response);
            print_json(json);
            json_decref(json);
        } else {
            puts(response->text);
        }
    } else if (run->options->json && request->candidates == NULL) {
        print_failure(request, answer->sample, response->failure);
    }
    if (request->left == 1 && request->candidate_count > 0)
        print_best(run, request);
    else if (request->left == 1 && request->candidates != NULL && run->options->json)
        print_failure(request, -1, response->failure);
    answer_end(run);
    if (run->streams && run->first != NULL)
        flush_waiting(run->first);
}

/* ---- while tokens are chosen ---- */

static void token_text(const struct run *run, int32_t token, struct buffer *text)
{
    text->size = 0;
    tokenizer_decode(run->generate->tokenizer, &token, 1, DECODE_KEEP_SPECIAL | DECODE_VALID_UTF8 | DECODE_CONTINUE, text);
    buffer_append(text, "", 1);
}

static void log_token(const struct run *run, const struct token_event *event)
{
    const struct answer *answer = event->tag;
    struct buffer text = { 0 };
    token_text(run, event->token, &text);
    log_debug("sample=%lld position=%zu token=%d \"%s\" logprob=%.4f kl=%.5f", (long long)answer->sample, event->position,
              event->token, text.data, event->logprob, event->kl);
    for (size_t k = 0; k < event->K; k++) {
        char values[VALUE_MODELS_MAX * 16] = "";
        for (size_t i = 0, size = 0; i < event->I; i++)
            size += (size_t)snprintf(values + size, sizeof values - size, i ? ",%.5g" : "%.5g", event->values[i * event->K + k]);
        token_text(run, event->candidates[k], &text);
        log_debug("  candidate %zu token=%d \"%s\" logit=%.5g value=%s steered=%.5g", k, event->candidates[k], text.data,
                  event->base_logits[k], values, event->steered_logits[k]);
    }
    free(text.data);
}

static void watch(void *context, const struct token_event *event)
{
    struct run *run = context;
    struct answer *answer = event->tag;
    if (log_verbosity() > 0)
        log_token(run, event);
    if (!run->streams)
        return;
    text_stream_push(&answer->stream, run->generate->tokenizer, event->token, &answer->waiting);
    if (answer == run->first && answer->waiting.size > 0)
        flush_waiting(answer);
}

/* ---- the loop ---- */

static void log_summary(const struct run *run, double seconds)
{
    struct generate_stats stats = generator_stats(run->generator);
    if (run->responses == 0)
        return;
    char kl[32] = "", steered[40] = "", ahead[40] = "";
    if (run->options->scorer == NULL)
        snprintf(kl, sizeof kl, " kl=%.4g", run->kl / (double)run->responses);
    if (stats.steered > 0 && stats.steered < stats.tokens)
        snprintf(steered, sizeof steered, " steered=%lld", (long long)stats.steered);
    if (stats.ahead > 0)
        snprintf(ahead, sizeof ahead, " ahead=%lld", (long long)stats.ahead);
    log_event("responses=%lld tokens=%lld tokens_per_s=%.0f seconds=%.2f prompt_s=%.2f base_s=%.2f value_s=%.2f sample_s=%.2f"
              "%s%s%s",
              (long long)run->responses, (long long)stats.tokens, (double)stats.tokens / fmax(seconds, 1e-9), seconds,
              stats.prompt_s, stats.base_s, stats.value_s, stats.sample_s, kl, steered, ahead);
}

int text_run(const struct text_options *options, const struct generate_options *generate)
{
    struct run run = { .options = options, .line = options->line, .code = EX_OK };
    for (size_t i = 0; i < generate->value_count; i++)
        run.line.betas[i] = generate->values[i].beta;
    struct generate_options watched = *generate;
    watched.in_order = true;
    watched.watch = watch;
    watched.watch_context = &run;
    run.generate = &watched;
    run.generator = generator_open(&watched, &run.code);
    if (run.generator == NULL)
        return run.code;
    prompt_style_init(&run.style, generate->tokenizer, options->chat);
    run.last = &run.first;
    run.streams = !options->json && options->scorer == NULL
                  && (isatty(STDOUT_FILENO) || (options->operand_count == 1 && !is_file(options->operands[0])));

    double begun_s = clock_s();
    size_t hold_max = 4 * generate->batch;  // answers that came before their turn wait, and the batch stays full
    while (goes_on(&run) && (run.operand < options->operand_count || generator_held(run.generator) > 0)) {
        bool idle = generator_held(run.generator) == 0;
        while (run.queued < hold_max && !stop_requested() && ask_next(&run, idle))
            idle = false;
        generator_step(run.generator);
        struct response response;
        print_refusals(&run);
        while (goes_on(&run) && generator_next(run.generator, &response)) {
            finish(&run, &response);
            print_refusals(&run);
        }
        fflush(stdout);  // who asked over a pipe may wait for it; stdout_close tells of failures
    }
    log_summary(&run, clock_s() - begun_s);
    if (stdout_close() != 0)
        run.code = EX_IOERR;
    if (stop_requested())  // which may have interrupted a write
        run.code = EX_TEMPFAIL;

    while (run.first != NULL)  // what was interrupted
        answer_end(&run);
    linefile_close(run.lines);
    prompt_style_free(&run.style);
    generator_close(run.generator);
    return run.code;
}
