/* print.c - see print.h. */
#include "report/print.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/check.h"

/* ---- text ---- */

size_t text_next(const char *text, int32_t *code)
{
    utf8proc_int32_t found;
    utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &found);
    if (size <= 0) {
        *code = 0xFFFD;
        return 1;
    }
    bool control = (found < 0x20 && found != '\n' && found != '\t') || (0x7F <= found && found <= 0x9F);
    bool direction = (0x202A <= found && found <= 0x202E) || (0x2066 <= found && found <= 0x2069) || found == 0x200E ||
                     found == 0x200F;
    *code = control || direction ? 0xFFFD : found;
    return (size_t)size;
}

static void append_code(struct buffer *out, int32_t code)
{
    utf8proc_uint8_t bytes[4];
    buffer_append(out, bytes, (size_t)utf8proc_encode_char(code, bytes));
}

static size_t code_width(int32_t code)
{
    int width = utf8proc_charwidth(code);
    return width > 0 ? (size_t)width : 0;
}

/* One line: line ends and tabs as spaces.  Returns its width in columns. */
static size_t append_line(struct buffer *out, const char *text)
{
    size_t columns = 0;
    while (*text != '\0') {
        int32_t code;
        text += text_next(text, &code);
        code = code == '\n' || code == '\t' ? ' ' : code;
        append_code(out, code);
        columns += code_width(code);
    }
    return columns;
}

static void pad(struct buffer *out, size_t used, size_t width)
{
    for (; used < width; used++)
        buffer_append(out, " ", 1);
}

static void end_line(struct buffer *out)
{
    while (out->size > 0 && out->data[out->size - 1] == ' ')
        out->size--;
    buffer_append(out, "\n", 1);
}

/* Appends the next line of *text, at most width columns, broken at a space where there is one.  Returns its width. */
static size_t take_line(struct buffer *out, const char **text, size_t width)
{
    size_t columns = 0, break_columns = 0, break_size = 0, begin = out->size;
    const char *at = *text, *break_at = NULL;
    while (*at != '\0') {
        int32_t code;
        const char *next = at + text_next(at, &code);
        if (code == '\n') {
            at = next;
            goto done;
        }
        code = code == '\t' ? ' ' : code;
        if (code == ' ') {
            break_at = next;
            break_columns = columns;
            break_size = out->size - begin;
        }
        if (columns + code_width(code) > width)
            break;
        append_code(out, code);
        columns += code_width(code);
        at = next;
    }
    if (*at != '\0' && break_at != NULL) {
        at = break_at;
        columns = break_columns;
        out->size = begin + break_size;
    }
done:
    *text = at;
    return columns;
}

void print_columns(struct buffer *out, const char *const *texts, size_t count, size_t width)
{
    const char *left[8];
    CHECK(1 <= count && count <= COUNT_OF(left) && width >= 4 * count);
    size_t column = (width - 2 * (count - 1)) / count;
    memcpy(left, texts, count * sizeof *left);
    for (bool more = true; more; ) {
        more = false;
        for (size_t k = 0; k < count; k++) {
            size_t used = take_line(out, &left[k], column);
            if (k + 1 < count)
                pad(out, used, column + 2);
            more = more || *left[k] != '\0';
        }
        end_line(out);
    }
}

/* ---- the table ---- */

enum { COLUMN_COUNT = 6 };

int estimate_digits(struct estimate estimate)
{
    double size = fabs(estimate.mean);
    if (estimate.error > 0 && estimate.error < 0.0005)
        return 4;
    return size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
}

void number_text(char text[32], double number, int digits)
{
    if (fabs(number) < 1e7)
        snprintf(text, 32, "%.*f", digits, number);
    else
        snprintf(text, 32, "%.4g", number);
}

static const char *estimate_text(struct arena *arena, struct estimate estimate, const char *bound)
{
    if (isnan(estimate.mean))
        return "-";
    char mean[32], error[32];
    number_text(mean, estimate.mean, estimate_digits(estimate));
    if (isnan(estimate.error) || estimate.error == 0)
        return arena_printf(arena, "%s%s", bound, mean);
    number_text(error, estimate.error, estimate_digits(estimate));
    return arena_printf(arena, "%s%s ± %s", bound, mean, error);
}

static void result_cells(struct arena *arena, const struct result *result, const char *cells[COLUMN_COUNT])
{
    bool is_best = result->kind == RESULT_BEST_OF_N;
    cells[0] = result->label;
    cells[1] = is_best ? "" : arena_printf(arena, "%zu", result->count);
    cells[2] = estimate_text(arena, result->mean, "");
    cells[3] = estimate_text(arena, result->drift, is_best ? "<= " : "");
    cells[4] = is_best ? "" : isnan(result->policy->tokens_per_s) ? "-" : arena_printf(arena, "%.0f", result->policy->tokens_per_s);
    cells[5] = is_best ? "" : arena_printf(arena, "%.1f", result->tokens_mean);
}

static size_t text_width(const char *text)
{
    struct buffer scratch = { 0 };
    size_t width = append_line(&scratch, text);
    free(scratch.data);
    return width;
}

static void print_table(struct buffer *out, struct arena *arena, const struct comparison *comparison)
{
    static const char *const heads[COLUMN_COUNT] = { "policy", "responses", "score", "KL/nats", "tokens/s", "tokens" };
    const char *(*cells)[COLUMN_COUNT] = arena_alloc(arena, comparison->count + 1, sizeof *cells);
    size_t widths[COLUMN_COUNT] = { 0 };
    memcpy(cells[0], heads, sizeof heads);
    for (size_t i = 0; i < comparison->count; i++)
        result_cells(arena, &comparison->results[i], cells[i + 1]);
    for (size_t i = 0; i <= comparison->count; i++)
        for (size_t c = 0; c < COLUMN_COUNT; c++)
            widths[c] = (size_t)fmax((double)widths[c], (double)text_width(cells[i][c]));
    for (size_t i = 0; i <= comparison->count; i++) {
        pad(out, append_line(out, cells[i][0]), widths[0]);
        for (size_t c = 1; c < COLUMN_COUNT; c++) {
            pad(out, text_width(cells[i][c]), widths[c] + 3);
            append_line(out, cells[i][c]);
        }
        end_line(out);
    }
}

/* What is not complete, a line each; nothing when all is. */
static void print_gaps(struct buffer *out, const struct survey *survey, const struct comparison *comparison)
{
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        const struct policy *policy = result->policy;
        if (result->kind == RESULT_BEST_OF_N)
            continue;
        if (policy->missing > 0 || policy->failed > 0 || result_unscored(result) > 0) {
            buffer_printf(out, "incomplete: ");
            append_line(out, policy->name);
            if (policy->missing > 0)
                buffer_printf(out, ", %lld responses missing", (long long)policy->missing);
            if (policy->failed > 0)
                buffer_printf(out, ", %lld failed", (long long)policy->failed);
            if (result_unscored(result) > 0)
                buffer_printf(out, ", %lld without this score", (long long)result_unscored(result));
            buffer_append(out, "\n", 1);
        }
    }
    if (comparison->failed > 0)
        buffer_printf(out, "failed: %lld responses of all splits could not be scored\n", (long long)comparison->failed);
    size_t others = 0;
    for (size_t i = 0; i < survey->policy_count; i++) {
        const struct policy *policy = &survey->policies[i];
        bool compared = false;
        for (size_t k = 0; k < comparison->count; k++)
            compared = compared || comparison->results[k].policy == policy;
        if (compared)
            continue;
        buffer_printf(out, others++ == 0 ? "without any score: " : ", ");
        append_line(out, policy->name);
    }
    if (others > 0)
        buffer_append(out, "\n", 1);
}

/* The base and the last of the shown policies, which is the one farthest from it. */
static void print_examples(struct buffer *out, struct arena *arena, const struct comparison *comparison, size_t width)
{
    size_t shown = comparison->shown_count;
    if (shown == 0)
        return;
    for (size_t i = 0; i < comparison->prompt_count; i++) {
        const char *texts[2], *heads[2];
        size_t pick[2] = { 0, shown - 1 }, count = shown > 1 ? 2 : 1;
        for (size_t k = 0; k < count; k++) {
            const struct example *example = &comparison->examples[i * shown + pick[k]];
            const char *label = comparison->results[comparison->shown[pick[k]]].label;
            char score[32];
            number_text(score, example->score, 3);
            heads[k] = isnan(example->score) ? arena_printf(arena, "[%s]", label) : arena_printf(arena, "[%s: %s]", label, score);
            texts[k] = example->response != NULL ? example->response : "(none)";
        }
        const char *prompt = arena_printf(arena, "prompt: %s", comparison->prompts[i]);
        buffer_append(out, "\n", 1);
        print_columns(out, &prompt, 1, width);
        print_columns(out, heads, count, width);
        print_columns(out, texts, count, width);
    }
}

void print_text(struct buffer *out, const struct survey *survey, size_t width)
{
    struct arena arena;
    arena_init(&arena, "report text", (size_t)1 << 30);
    if (survey->lacks != NULL)
        buffer_printf(out, "%s\n", survey->lacks);
    for (size_t i = 0; i < survey->comparison_count; i++) {
        const struct comparison *comparison = &survey->comparisons[i];
        if (comparison->count == 0)
            continue;
        buffer_printf(out, "%sreward ", i > 0 ? "\n" : "");
        append_line(out, comparison->reward);
        buffer_printf(out, ", split ");
        append_line(out, survey->options.split);
        buffer_printf(out, ", %lld prompts\n\n", (long long)survey->prompts);
        print_table(out, &arena, comparison);
        print_gaps(out, survey, comparison);
        print_examples(out, &arena, comparison, width);
    }
    for (size_t i = 0; i < survey->failure_count; i++) {
        const struct failure_count *failure = &survey->failures[i];
        const char *line = arena_printf(&arena, "failures of %s \"%s\": %lld, the first: %s", failure->stage, failure->name,
                                        (long long)failure->count, failure->reason);
        buffer_append(out, "\n", i == 0);
        append_line(out, line);
        buffer_append(out, "\n", 1);
    }
    arena_free(&arena);
}

/* ---- JSON ---- */

static json_t *number_json(double number)
{
    return isfinite(number) ? json_real(number) : json_null();
}

/* A text that may not be UTF-8. */
static json_t *text_json(const char *text)
{
    json_t *json = json_string(text);
    return json != NULL ? json : json_string("(not UTF-8)");
}

static json_t *estimate_json(struct estimate estimate, bool is_bound)
{
    json_t *json = json_object();
    json_object_set_new(json, is_bound ? "at_most" : "mean", number_json(estimate.mean));
    if (!is_bound)
        json_object_set_new(json, "error95", number_json(estimate.error));
    return json;
}

static json_t *result_json(const struct result *result)
{
    static const char *const kinds[] = { [RESULT_BASE] = "base", [RESULT_BEST_OF_N] = "best_of_n", [RESULT_OTHER] = "other",
                                         [RESULT_STEERED] = "steered" };
    bool is_best = result->kind == RESULT_BEST_OF_N;
    json_t *json = json_object();
    json_object_set_new(json, "kind", json_string(kinds[result->kind]));
    json_object_set_new(json, "policy", text_json(result->policy->name));
    json_object_set_new(json, "responses", json_integer((json_int_t)result->count));
    json_object_set_new(json, "prompts", json_integer((json_int_t)result->prompts));
    json_object_set_new(json, "score", estimate_json(result->mean, false));
    json_object_set_new(json, "kl", estimate_json(result->drift, is_best));
    if (is_best) {
        json_object_set_new(json, "n", json_integer((json_int_t)result->n));
        return json;
    }
    json_object_set_new(json, "tokens_per_s", number_json(result->policy->tokens_per_s));
    json_object_set_new(json, "tokens_mean", number_json(result->tokens_mean));
    json_object_set_new(json, "missing", json_integer(result->policy->missing));
    json_object_set_new(json, "failed", json_integer(result->policy->failed));
    json_object_set_new(json, "unscored", json_integer(result_unscored(result)));
    json_object_set(json, "spec", result->policy->spec);
    return json;
}

static json_t *examples_json(const struct comparison *comparison)
{
    json_t *array = json_array();
    for (size_t i = 0; i < comparison->prompt_count; i++) {
        json_t *responses = json_array(), *one = json_object();
        for (size_t k = 0; k < comparison->shown_count; k++) {
            const struct example *example = &comparison->examples[i * comparison->shown_count + k];
            if (example->response == NULL)
                continue;
            json_t *response = json_object();
            json_object_set_new(response, "policy", text_json(comparison->results[comparison->shown[k]].label));
            json_object_set_new(response, "response", text_json(example->response));
            json_object_set_new(response, "score", number_json(example->score));
            json_array_append_new(responses, response);
        }
        json_object_set_new(one, "prompt", text_json(comparison->prompts[i]));
        json_object_set_new(one, "responses", responses);
        json_array_append_new(array, one);
    }
    return array;
}

static json_t *settings_json(const char *text)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
    return json != NULL ? json : json_null();
}

static json_t *run_json(const struct run *run)
{
    json_t *last = json_object(), *json = json_object();
    for (int c = 0; c < CURVE_COUNT; c++)
        if (run->count > 0 && isfinite(run->curves[c][run->count - 1]))
            json_object_set_new(last, curve_names[c], json_real(run->curves[c][run->count - 1]));
    json_object_set_new(json, "name", text_json(run->name));
    json_object_set_new(json, "target", settings_json(run->target));
    json_object_set_new(json, "train", settings_json(run->train));
    json_object_set_new(json, "rollouts", json_integer(run->rollouts));
    json_object_set_new(json, "batches", json_integer(run->batches));
    json_object_set_new(json, "failed", json_integer(run->failed));
    json_object_set_new(json, "step", json_integer(run->step));
    json_object_set_new(json, "final", json_boolean(run->final));
    json_object_set_new(json, "last_metrics", last);
    return json;
}

json_t *survey_json(const struct survey *survey)
{
    json_t *rewards = json_array(), *runs = json_array(), *failures = json_array();
    for (size_t i = 0; i < survey->comparison_count; i++) {
        const struct comparison *comparison = &survey->comparisons[i];
        json_t *one = json_object(), *results = json_array();
        for (size_t k = 0; k < comparison->count; k++)
            json_array_append_new(results, result_json(&comparison->results[k]));
        json_object_set_new(one, "reward", text_json(comparison->reward));
        json_object_set_new(one, "spec", settings_json(comparison->spec));
        json_object_set_new(one, "failed", json_integer(comparison->failed));
        json_object_set_new(one, "results", results);
        json_object_set_new(one, "examples", examples_json(comparison));
        json_array_append_new(rewards, one);
    }
    for (size_t i = 0; i < survey->run_count; i++)
        json_array_append_new(runs, run_json(&survey->runs[i]));
    for (size_t i = 0; i < survey->failure_count; i++) {
        const struct failure_count *failure = &survey->failures[i];
        json_t *one = json_object();
        json_object_set_new(one, "stage", text_json(failure->stage));
        json_object_set_new(one, "name", text_json(failure->name));
        json_object_set_new(one, "count", json_integer(failure->count));
        json_object_set_new(one, "first_reason", text_json(failure->reason));
        json_array_append_new(failures, one);
    }
    json_t *json = json_object();
    json_object_set_new(json, "split", text_json(survey->options.split));
    json_object_set_new(json, "prompts", json_integer(survey->prompts));
    json_object_set_new(json, "lacks", survey->lacks ? text_json(survey->lacks) : json_null());
    json_object_set_new(json, "rewards", rewards);
    json_object_set_new(json, "runs", runs);
    json_object_set_new(json, "failures", failures);
    return json;
}
