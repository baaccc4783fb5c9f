/*
 * page.c - see page.h.
 *
 * Every text that comes from the store goes through html_text.  The policy in the page's head forbids scripts and anything
 * from elsewhere in any case.
 */
#include "report/page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/option.h"
#include "report/pictures.h"
#include "report/print.h"
#include "report/svg.h"

/* A class of a series or of an ink sets --c; what it is drawn with follows from that. */
static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<style>\n"
    ":root { color-scheme: light dark; --paper: #ffffff; --card: #f6f7f9; --ink: #1c2330; --quiet: #667085;\n"
    "  --grid: #e4e7ec; --s0: #2563c9; --s1: #c2571a; --s2: #15803d; --s3: #7c4dbd; --s4: #b83280; --s5: #8a6d0b; }\n"
    "@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --card: #1d2128; --ink: #e4e7ec; --quiet: #98a2b3;\n"
    "  --grid: #2e343e; --s0: #7aa7f5; --s1: #f2975c; --s2: #5cc98a; --s3: #b794f0; --s4: #f084bd; --s5: #d9b949; } }\n"
    ".s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }\n"
    ".s4 { --c: var(--s4); } .s5 { --c: var(--s5); } .ink { --c: var(--ink); } .quietly { --c: var(--quiet); }\n"
    "body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);\n"
    "  font: 15px/1.55 system-ui, sans-serif; }\n"
    "h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }\n"
    "h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } p { margin: .3rem 0 .8rem; max-width: 46rem; }\n"
    ".quiet, .note { color: var(--quiet); } .note { font-size: .88rem; } bdi { unicode-bidi: isolate; }\n"
    "table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; } .wide { overflow-x: auto; }\n"
    "th, td { text-align: right; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--grid); white-space: nowrap; }\n"
    "th { font-weight: 600; color: var(--quiet); font-size: .85rem; } th:first-child, td:first-child { text-align: left; }\n"
    "tr.best td { color: var(--quiet); } table.settings td:nth-child(2) { min-width: 8rem; }\n"
    "table.settings td:first-child { white-space: nowrap; }\n"
    "table.settings td, table.settings th { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top;"
    " }\ncode { font: .82rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }\n"
    ".legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .3rem 0; font-size: .88rem; }\n"
    ".legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: 50%; margin-right: .4rem;\n"
    "  vertical-align: -.08rem; background: var(--c); }\n"
    ".grid2, .grid4, .texts { display: grid; gap: .6rem 1.4rem; }\n"
    ".grid2 { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }\n"
    ".grid4 { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }\n"
    ".texts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .8rem; margin: .4rem 0 1.2rem; }\n"
    ".texts div { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; }\n"
    ".texts p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 0; }\n"
    "figure { margin: 0; min-width: 0; } figcaption { font-size: .88rem; overflow-wrap: anywhere; }\n"
    "svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }\n"
    "svg .tick, svg .title { fill: var(--quiet); font-size: 11px; } svg .grid { stroke: var(--grid); }\n"
    "svg .axis { stroke: var(--quiet); } svg path { fill: none; }\n"
    "svg .line { stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; } svg .raw { stroke-width: 1; opacity: .35; }\n"
    "svg .dashed { stroke-dasharray: 5 4; } svg .bar { stroke: var(--c); stroke-width: 1.4; opacity: .65; }\n"
    "svg circle { stroke: var(--c); fill: var(--c); } svg .hollow circle { fill: var(--paper); stroke-width: 1.6; }\n"
    "svg rect { fill: var(--c); opacity: .75; }\n"
    "svg .label { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; font-size: 11.5px; }\n"
    "</style>\n";

/* A text of the store that keeps its direction of writing to itself. */
static void bdi(struct buffer *out, const char *text)
{
    buffer_printf(out, "<bdi>");
    html_text(out, text);
    buffer_printf(out, "</bdi>");
}

/* ---- results ---- */

static void cell(struct buffer *out, const char *format, double number, bool is_known)
{
    buffer_printf(out, "<td>");
    if (is_known && !isnan(number))
        buffer_printf(out, format, number);
    buffer_printf(out, "</td>");
}

static void estimate_cells(struct buffer *out, struct estimate estimate, bool is_bound)
{
    char mean[32], error[32];
    number_text(mean, estimate.mean, estimate_digits(estimate));
    number_text(error, estimate.error, estimate_digits(estimate));
    buffer_printf(out, "<td>%s%s</td><td>%s%s</td>", is_bound ? "&le;&thinsp;" : "", isnan(estimate.mean) ? "" : mean,
                  estimate.error > 0 ? "&plusmn;&thinsp;" : "", estimate.error > 0 ? error : "");
}

static bool is_complete(const struct comparison *comparison)
{
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        if (result->policy->missing + result_unscored(result) + result->policy->failed > 0)
            return false;
    }
    return true;
}

static void results_table(struct buffer *out, const struct comparison *comparison)
{
    bool has_gaps = !is_complete(comparison);
    buffer_printf(out, "<div class=\"wide\"><table><tr><th>policy</th><th>responses</th><th>mean score</th><th>95&thinsp;%%</th>"
                       "<th>KL, nats</th><th>95&thinsp;%%</th><th>tokens/s</th><th>tokens</th>%s</tr>\n",
                  has_gaps ? "<th>missing</th><th>failed</th>" : "");
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        bool is_best = result->kind == RESULT_BEST_OF_N;
        buffer_printf(out, "<tr%s><td>", is_best ? " class=\"best\"" : "");
        bdi(out, result->label);
        buffer_printf(out, "</td>");
        cell(out, "%.0f", (double)result->count, !is_best);
        estimate_cells(out, result->mean, false);
        estimate_cells(out, result->drift, is_best);
        cell(out, "%.0f", result->policy->tokens_per_s, !is_best);
        cell(out, "%.1f", result->tokens_mean, !is_best);
        if (has_gaps) {
            cell(out, "%.0f", (double)(result->policy->missing + result_unscored(result)), !is_best);
            cell(out, "%.0f", (double)result->policy->failed, !is_best);
        }
        buffer_printf(out, "</tr>\n");
    }
    buffer_printf(out, "</table></div>\n"
                  "<p class=\"note\">Intervals hold with 95&thinsp;%% confidence over new prompts: samples of one "
                  "prompt count as one cluster. KL is how far a response has drifted from the base policy: the sum over its tokens "
                  "of KL(steered&thinsp;||&thinsp;base) over the whole vocabulary, averaged over responses. Best of n is computed "
                  "from the base policy&rsquo;s stored samples (the mean of the largest of n drawn without replacement); its KL is "
                  "at most log&#8239;n&nbsp;&minus;&nbsp;(n&#8239;&minus;&#8239;1)/n.%s</p>\n",
                  has_gaps ? " Missing: not yet sampled or not yet scored." : "");
    if (comparison->failed > 0)
        buffer_printf(out, "<p>%lld responses of all splits could not be scored.</p>\n", (long long)comparison->failed);
}

static void examples_section(struct buffer *out, const struct comparison *comparison)
{
    if (comparison->prompt_count == 0)
        return;
    buffer_printf(out, "<h3>Responses side by side</h3>\n"
                  "<p class=\"note\">The first stored sample of each policy, to prompts taken "
                  "at equal distances from the list: nothing was picked. The number is the score.</p>\n");
    for (size_t i = 0; i < comparison->prompt_count; i++) {
        buffer_printf(out, "<p><span class=\"quiet\">Prompt:</span> ");
        bdi(out, comparison->prompts[i]);
        buffer_printf(out, "</p>\n<div class=\"texts\">\n");
        for (size_t k = 0; k < comparison->shown_count; k++) {
            const struct example *example = &comparison->examples[i * comparison->shown_count + k];
            buffer_printf(out, "<div><span class=\"quiet\">");
            bdi(out, comparison->results[comparison->shown[k]].label);
            char score[32] = "";
            if (!isnan(example->score))
                number_text(score, example->score, 3);
            buffer_printf(out, "</span> <b>%s</b><p>", score);
            bdi(out, example->response != NULL ? example->response : "(none)");
            buffer_printf(out, "</p></div>\n");
        }
        buffer_printf(out, "</div>\n");
    }
}

static void comparison_section(struct buffer *out, const struct comparison *comparison)
{
    buffer_printf(out, "<h2>Reward ");
    bdi(out, comparison->reward);
    buffer_printf(out, "</h2>\n");
    if (comparison->count == 0) {
        buffer_printf(out, "<p>No response of this split has a score of this reward yet.</p>\n");
        return;
    }
    picture_tradeoff(out, comparison);
    results_table(out, comparison);
    picture_histograms(out, comparison);
    examples_section(out, comparison);
}

/* ---- training and settings ---- */

static void runs_section(struct buffer *out, const struct survey *survey)
{
    buffer_printf(out, "<h2>Training</h2>\n");
    if (survey->run_count == 0)
        buffer_printf(out, "<p>No training run is stored.</p>\n");
    for (size_t i = 0; i < survey->run_count; i++) {
        const struct run *run = &survey->runs[i];
        buffer_printf(out, "<h3>Run ");
        bdi(out, run->name);
        buffer_printf(out, "</h3>\n<p class=\"quiet\">%lld rollouts, %lld batches; ", (long long)run->rollouts,
                      (long long)run->batches);
        if (run->step >= 0)
            buffer_printf(out, "newest checkpoint at step %lld%s", (long long)run->step, run->final ? ", the last" : "");
        else
            buffer_printf(out, "no checkpoint yet");
        if (run->failed > 0)
            buffer_printf(out, "; %lld targets failed", (long long)run->failed);
        buffer_printf(out, "</p>\n");
        picture_curves(out, run);
    }
}

/* One row of settings: a name and what it stands for, as "key value" pairs of its JSON object, nested ones as JSON. */
static void settings_row(struct buffer *out, const char *kind, const char *name, const json_t *object)
{
    buffer_printf(out, "<tr><td class=\"quiet\">%s</td><td>", kind);
    bdi(out, name);
    buffer_printf(out, "</td><td>");
    const char *separator = "";
    void *at = json_object_iter((json_t *)(size_t)object);
    for (; at != NULL; at = json_object_iter_next((json_t *)(size_t)object, at)) {
        const json_t *value = json_object_iter_value(at);
        char *text = json_is_string(value) ? memory_text(json_string_value(value)) : json_text_readable(value);
        buffer_printf(out, "%s<span class=\"quiet\">", separator);
        html_text(out, json_object_iter_key(at));
        buffer_printf(out, "</span>&nbsp;<code>");
        html_text(out, text);
        buffer_printf(out, "</code>");
        free(text);
        separator = ", ";
    }
    buffer_printf(out, "</td></tr>\n");
}

static void settings_row_text(struct buffer *out, const char *kind, const char *name, const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    if (json_is_object(json))
        settings_row(out, kind, name, json);
    json_decref(json);
}

static void settings_section(struct buffer *out, const struct survey *survey)
{
    buffer_printf(out, "<h2>Settings</h2>\n<p class=\"note\">What each name means, as the store pinned it. Models, tokenizers and "
                       "lexicons are named by digests of their content.</p>\n<table class=\"settings\">\n");
    for (size_t i = 0; i < survey->comparison_count; i++)
        settings_row_text(out, "reward", survey->comparisons[i].reward, survey->comparisons[i].spec);
    for (size_t i = 0; i < survey->policy_count; i++)
        settings_row(out, "policy", survey->policies[i].name, survey->policies[i].spec);
    for (size_t i = 0; i < survey->run_count; i++) {
        settings_row_text(out, "targets of run", survey->runs[i].name, survey->runs[i].target);
        settings_row_text(out, "training of run", survey->runs[i].name, survey->runs[i].train);
    }
    buffer_printf(out, "</table>\n");
}

static void failures_section(struct buffer *out, const struct survey *survey)
{
    if (survey->failure_count == 0)
        return;
    buffer_printf(out, "<h2>Failures</h2>\n<p class=\"note\">Given up after several tries; <code>store retry</code> offers them "
                       "again.</p>\n"
                       "<table class=\"settings\"><tr><th>stage</th><th>name</th><th>count</th><th>first reason</th></tr>\n");
    for (size_t i = 0; i < survey->failure_count; i++) {
        const struct failure_count *failure = &survey->failures[i];
        buffer_printf(out, "<tr><td>");
        html_text(out, failure->stage);
        buffer_printf(out, "</td><td>");
        bdi(out, failure->name);
        buffer_printf(out, "</td><td>%lld</td><td>", (long long)failure->count);
        bdi(out, failure->reason);
        buffer_printf(out, "</td></tr>\n");
    }
    buffer_printf(out, "</table>\n");
}

void page_write(struct buffer *out, const struct survey *survey)
{
    buffer_append(out, head, sizeof head - 1);
    buffer_printf(out, "<title>");
    html_text(out, survey->path);
    buffer_printf(out, "</title></head><body>\n<h1>Value-augmented sampling</h1>\n<p class=\"quiet\">Store ");
    bdi(out, survey->path);
    buffer_printf(out, ", split ");
    bdi(out, survey->options.split);
    buffer_printf(out, ", %lld prompts; vas " VAS_VERSION "</p>\n", (long long)survey->prompts);
    if (survey->lacks != NULL) {
        buffer_printf(out, "<p>Nothing to compare: ");
        html_text(out, survey->lacks);
        buffer_printf(out, ".</p>\n");
    }
    for (size_t i = 0; i < survey->comparison_count; i++)
        comparison_section(out, &survey->comparisons[i]);
    runs_section(out, survey);
    failures_section(out, survey);
    settings_section(out, survey);
    buffer_printf(out, "</body></html>\n");
}
