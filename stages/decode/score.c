/* score.c - see score.h. */
#include "decode/score.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stop.h"
#include "decode/linefile.h"
#include "decode/refusal.h"
#include "sample/sampler.h"

enum { LOGIT_ROWS = 64 };  // rows of logits at once

/* One model that reads whole texts. */
struct reader {
    const struct model *model;
    struct cache *cache;
    size_t C, T_max;
    float *hidden;  // (T_max, C)
};

struct scoring {
    const struct kernels *kernels;
    const struct tokenizer *tokenizer;
    struct reader base, value;  // value.model may be NULL
    size_t V, context;
    float *logits;              // (LOGIT_ROWS, V)
    struct token_list tokens;   // of the present line
    size_t first;               // the first of them that is scored, >= 1
};

static void reader_open(struct reader *reader, const struct model *model, size_t T_max)
{
    reader->model = model;
    reader->T_max = T_max;
    reader->C = (size_t)model_config(model)->channel_count;
    reader->cache = cache_open(model, T_max);
    reader->hidden = memory_alloc_aligned(T_max * reader->C, sizeof *reader->hidden);
}

static void reader_close(struct reader *reader)
{
    cache_close(reader->cache);
    free(reader->hidden);
}

static void reader_read(struct reader *reader, const struct token_list *tokens)
{
    int32_t sequence = sequence_open(reader->cache);
    model_extend(reader->model, reader->cache, sequence, tokens->at, tokens->count, reader->hidden, NULL);
    sequence_close(reader->cache, sequence);
}

/* ---- lines in ---- */

/* Appends an array of token ids.  0, or -1 with a reason. */
static int tokens_append(struct scoring *scoring, const json_t *array, const char *name, char reason[256])
{
    size_t i;
    json_t *id;
    if (!json_is_array(array)) {
        snprintf(reason, 256, "\"%s\" is not an array", name);
        return -1;
    }
    json_array_foreach(array, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || (uint64_t)json_integer_value(id) >= scoring->V) {
            snprintf(reason, 256, "\"%s\"[%zu] is no token id below %zu", name, i, scoring->V);
            return -1;
        }
        token_list_add(&scoring->tokens, (int32_t)json_integer_value(id));
    }
    return 0;
}

/* The tokens of the whole text; scored are those behind what it has in common with the prompt's alone. */
static void tokens_from_text(struct scoring *scoring, const json_t *prompt, const json_t *response)
{
    struct buffer text = { 0 };
    buffer_append(&text, json_string_value(prompt), json_string_length(prompt));
    struct token_list alone = { 0 };
    tokenizer_encode(scoring->tokenizer, text.size ? text.data : "", text.size, ENCODE_SPECIAL, &alone);
    buffer_append(&text, json_string_value(response), json_string_length(response));
    tokenizer_encode(scoring->tokenizer, text.size ? text.data : "", text.size, ENCODE_SPECIAL, &scoring->tokens);
    while (scoring->first < alone.count && scoring->first < scoring->tokens.count
           && alone.at[scoring->first] == scoring->tokens.at[scoring->first])
        scoring->first++;
    free(alone.at);
    free(text.data);
}

static int tokens_from_json(struct scoring *scoring, const json_t *json, char reason[256])
{
    const json_t *prompt = json_object_get(json, "prompt"), *response = json_object_get(json, "response");
    const json_t *prompt_tokens = json_object_get(json, "prompt_tokens");
    scoring->tokens.count = 0;
    scoring->first = 1;
    if (json_object_get(json, "tokens") != NULL) {
        if (tokens_append(scoring, json_object_get(json, "tokens"), "tokens", reason) != 0)
            return -1;
    } else if (prompt_tokens != NULL) {
        if (tokens_append(scoring, prompt_tokens, "prompt_tokens", reason) != 0)
            return -1;
        scoring->first = scoring->tokens.count;
        if (tokens_append(scoring, json_object_get(json, "response_tokens"), "response_tokens", reason) != 0)
            return -1;
    } else if (json_is_string(prompt) && json_is_string(response)) {
        tokens_from_text(scoring, prompt, response);
    } else {
        snprintf(reason, 256,
                 "neither \"tokens\", nor \"prompt_tokens\" and \"response_tokens\", nor \"prompt\" and \"response\"");
        return -1;
    }
    if (scoring->tokens.count == 0 || scoring->first == 0) {
        snprintf(reason, 256, "no tokens that a response could follow");
        return -1;
    }
    if (scoring->tokens.count > scoring->context) {
        snprintf(reason, 256, "%zu tokens, the context is %zu", scoring->tokens.count, scoring->context);
        return -1;
    }
    return 0;
}

/* ---- lines out ---- */

/* 0, or -1 where the model's numbers are not finite. */
static int score_tokens(struct scoring *scoring, json_t *out)
{
    const int32_t *tokens = scoring->tokens.at;
    size_t T = scoring->tokens.count, first = scoring->first;
    json_t *logprobs = json_array(), *ids = json_array();
    double sum = 0;
    for (size_t t = 0; t < T; t++)
        json_array_append_new(ids, json_integer(tokens[t]));
    reader_read(&scoring->base, &scoring->tokens);
    for (size_t begin = first; begin < T; begin += LOGIT_ROWS) {
        size_t rows = T - begin < LOGIT_ROWS ? T - begin : LOGIT_ROWS;
        model_logits(scoring->base.model, scoring->base.hidden + (begin - 1) * scoring->base.C, rows, scoring->logits);
        for (size_t row = 0; row < rows; row++) {
            double logprob = logprob_from_logits(scoring->kernels, scoring->logits + row * scoring->V, scoring->V,
                                                 tokens[begin + row]);
            json_array_append_new(logprobs, json_real(logprob));
            sum += logprob;
        }
    }
    json_object_set_new(out, "tokens", ids);
    json_object_set_new(out, "logprobs", logprobs);
    json_object_set_new(out, "sum", json_real(sum));
    bool finite = isfinite(sum);
    if (scoring->value.model == NULL)
        return finite ? 0 : -1;
    reader_read(&scoring->value, &scoring->tokens);
    float *values = memory_alloc(T - first + 1, sizeof *values);
    model_values(scoring->value.model, scoring->value.hidden + (first - 1) * scoring->value.C, T - first + 1, values);
    json_t *array = json_array();
    for (size_t n = 0; n < T - first + 1; n++) {
        json_array_append_new(array, json_real(values[n]));
        finite = finite && isfinite(values[n]);
    }
    json_object_set_new(out, "values", array);
    free(values);
    return finite ? 0 : -1;
}

static void answer(const json_t *json)
{
    char *text = json_text(json);
    puts(text);
    fflush(stdout);  // who asked over a pipe may wait for it; stdout_close tells of failures
    free(text);
}

static void answer_refusal(const struct linefile *lines, const char *reason)
{
    json_t *json = refusal_to_json(reason, linefile_number(lines));
    answer(json);
    json_decref(json);
}

/* 0, or -1 when the line cannot be scored (logged). */
static int score_line(struct scoring *scoring, const struct linefile *lines, const char *line, size_t size)
{
    char reason[256] = "the line is no JSON";
    json_t *json = json_parse_line(line, size, linefile_name(lines), linefile_number(lines)), *out = json_object();
    int result = json != NULL ? tokens_from_json(scoring, json, reason) : -1;
    if (result == 0) {
        snprintf(reason, sizeof reason, "the model's numbers are not finite");
        result = score_tokens(scoring, out);
    }
    if (result == 0) {
        answer(out);
    } else {
        if (json != NULL)
            log_error("line %zu of \"%s\": %s", linefile_number(lines), linefile_name(lines), reason);
        answer_refusal(lines, reason);
    }
    json_decref(out);
    json_decref(json);
    return result;
}

static size_t context_of(const struct generate_options *generate, const struct model *value)
{
    size_t context = (size_t)model_config(generate->base)->position_max;
    size_t asked = generate->context > 0 ? generate->context : CONTEXT_DEFAULT;
    if (value != NULL && (size_t)model_config(value)->position_max < context)
        context = (size_t)model_config(value)->position_max;
    return asked < context ? asked : context;
}

int score_run(const char *path, const struct generate_options *generate)
{
    const struct model *value = generate->value_count > 0 ? generate->values[0].model : NULL;
    if (value != NULL && generate->values[0].tokenizer != NULL) {
        log_error("value model \"%s\" has a tokenizer of its own: --score takes one that shares the base policy's",
                  generate->values[0].name);
        return EX_USAGE;
    }
    if (value != NULL && value_model_check(generate, &generate->values[0]) != 0)
        return EX_DATAERR;
    int code = EX_OK;
    struct linefile *lines = linefile_open(path, &code);
    if (lines == NULL)
        return code;
    struct scoring scoring = { .kernels = kernels_get(), .tokenizer = generate->tokenizer,
                               .V = (size_t)model_config(generate->base)->vocab_size, .context = context_of(generate, value) };
    scoring.logits = memory_alloc_aligned(LOGIT_ROWS * scoring.V, sizeof *scoring.logits);
    reader_open(&scoring.base, generate->base, scoring.context);
    if (value != NULL)
        reader_open(&scoring.value, value, scoring.context);

    enum linefile_status status = LINEFILE_NONE;
    char *line;
    size_t size;
    while (!stop_requested() && !ferror(stdout) && (status = linefile_next(lines, true, &line, &size)) != LINEFILE_END
           && status != LINEFILE_FAILED) {
        if (status == LINEFILE_LONG)
            answer_refusal(lines, "the line is too long");
        if (status == LINEFILE_LONG || (status == LINEFILE_ONE && size > 0 && score_line(&scoring, lines, line, size) != 0))
            code = EX_DATAERR;
    }
    if (status == LINEFILE_FAILED)
        code = EX_IOERR;
    if (stdout_close() != 0)
        code = EX_IOERR;
    if (stop_requested())  // which may have interrupted a write
        code = EX_TEMPFAIL;

    free(scoring.tokens.at);
    free(scoring.logits);
    reader_close(&scoring.base);
    if (value != NULL)
        reader_close(&scoring.value);
    linefile_close(lines);
    return code;
}
