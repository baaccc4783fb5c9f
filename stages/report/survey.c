/* survey.c - see survey.h. */
#include "report/survey.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "store/read.h"

enum { SHOWN_MAX = 4 };  // policies side by side

const char *const curve_names[CURVE_COUNT] = { "loss", "value_mean", "target_mean", "explained_variance", "gradient_norm" };

/* Grows an array in the arena by one zeroed element; the old one stays behind until the end. */
static void *append(struct arena *arena, void *array, size_t *count, size_t size)
{
    if ((*count & (*count - 1)) == 0) {  // 0 and the powers of two: double
        void *larger = arena_alloc(arena, *count > 0 ? 2 * *count : 1, size);
        if (*count > 0)
            memcpy(larger, array, *count * size);
        array = larger;
    }
    memset((char *)array + *count * size, 0, size);
    ++*count;
    return array;
}

static const char *keep(struct survey *survey, const char *text)
{
    return arena_text(&survey->arena, text, strlen(text));
}

/* ---- policies ---- */

static json_t *object_from_text(const char *text)
{
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return json_object();
}

/* Sets what the spec says about value models: steered, beta, series. */
static void policy_read_values(struct survey *survey, struct policy *policy)
{
    const json_t *values = json_object_get(policy->spec, "values");
    policy->imported = !json_is_string(json_object_get(policy->spec, "model"));
    policy->value_count = json_array_size(values);
    policy->steered = policy->value_count > 0;
    policy->series = "";
    if (!policy->steered)
        return;
    json_t *shared = json_deep_copy(policy->spec), *value;
    size_t i;
    json_array_foreach(json_object_get(shared, "values"), i, value) {
        policy->beta += json_number_value(json_object_get(value, "beta"));
        if (json_is_object(value))
            json_object_del(value, "beta");
    }
    char *text = json_text(shared);
    policy->series = keep(survey, text);
    free(text);
    json_decref(shared);
}

/* Steered ones last, those of one series by beta. */
static int order_policies(const void *a, const void *b)
{
    const struct policy *left = a, *right = b;
    int series = strcmp(left->series, right->series);
    if (series != 0)
        return series;
    if (left->beta != right->beta)
        return left->beta < right->beta ? -1 : 1;
    return strcmp(left->name, right->name);
}

static int read_all_policies(struct survey *survey, struct db *db)
{
    struct read *rows = read_policies(db);
    struct read_policy row;
    while (read_policy_next(rows, &row)) {
        if (strcmp(row.split, survey->options.split) != 0)
            continue;
        survey->policies = append(&survey->arena, survey->policies, &survey->policy_count, sizeof *survey->policies);
        struct policy *policy = &survey->policies[survey->policy_count - 1];
        *policy = (struct policy){ .name = keep(survey, row.name), .spec = object_from_text(row.spec), .rollouts = row.rollouts,
                                   .failed = row.failed, .missing = row.missing, .tokens_per_s = NAN };
        policy_read_values(survey, policy);
    }
    if (read_end(rows) != 0)
        return -1;
    if (survey->policy_count > 0)
        qsort(survey->policies, survey->policy_count, sizeof *survey->policies, order_policies);

    for (size_t i = 0; i < survey->policy_count; i++) {
        struct policy *policy = &survey->policies[i];
        struct read *metrics = read_metrics(db, policy->name);
        struct read_metric metric;
        while (read_metric_next(metrics, &metric)) {
            json_t *numbers = object_from_text(metric.numbers);
            double seconds = json_number_value(json_object_get(numbers, "seconds"));
            if (seconds > 0)
                policy->tokens_per_s = json_number_value(json_object_get(numbers, "tokens")) / seconds;
            json_decref(numbers);
        }
        if (read_end(metrics) != 0)
            return -1;
    }
    return 0;
}

/* Whether two policies sample from the same distribution, of steered ones before their values are added. */
static bool same_distribution(const struct policy *a, const struct policy *b)
{
    static const char *const decides[] = { "model", "tokenizer", "temperature", "top_p", "top_k", "max_new_tokens" };
    for (size_t i = 0; i < COUNT_OF(decides); i++)
        if (!json_equal(json_object_get(a->spec, decides[i]), json_object_get(b->spec, decides[i])))
            return false;
    return true;
}

int64_t result_unscored(const struct result *result)
{
    return result->kind == RESULT_BEST_OF_N ? 0 : result->policy->rollouts - (int64_t)result->count;
}

/* ---- results ---- */

static int read_result(struct survey *survey, struct db *db, const struct policy *policy, const char *reward, struct result *result)
{
    *result = (struct result){ .policy = policy, .label = policy->name, .kind = policy->steered ? RESULT_STEERED : RESULT_OTHER };
    size_t capacity = (size_t)(policy->rollouts > 0 ? policy->rollouts : 1);
    result->score = arena_alloc(&survey->arena, capacity, sizeof *result->score);
    result->kl = arena_alloc(&survey->arena, capacity, sizeof *result->kl);
    result->prompt = arena_alloc(&survey->arena, capacity, sizeof *result->prompt);
    result->tokens = arena_alloc(&survey->arena, capacity, sizeof *result->tokens);
    struct read *rows = read_scores(db, policy->name, reward, survey->options.split);
    struct read_score row;
    double tokens = 0;
    while (result->count < capacity && read_score_next(rows, &row)) {  // more may have come since the policies were counted
        size_t i = result->count++;
        result->prompts += i == 0 || row.prompt != result->prompt[i - 1];
        result->score[i] = row.score;
        result->kl[i] = row.kl;
        result->prompt[i] = row.prompt;
        result->tokens[i] = row.tokens;
        tokens += (double)row.tokens;
    }
    result->mean = clustered_mean(result->score, result->prompt, result->count);
    result->drift = clustered_mean(result->kl, result->prompt, result->count);
    result->tokens_mean = tokens / (double)result->count;
    return read_end(rows);
}

/* The policy that the others are compared with: unsteered, called "base" if there is one, else with the most samples. */
static struct result *base_of(struct result *results, size_t count)
{
    struct result *base = NULL;
    for (size_t i = 0; i < count; i++) {
        struct result *result = &results[i];
        if (result->kind == RESULT_STEERED)
            continue;
        bool named = strcmp(result->label, "base") == 0;
        if (base == NULL || named || (base->policy->imported && !result->policy->imported) ||
            (strcmp(base->label, "base") != 0 && base->policy->imported == result->policy->imported && result->count > base->count))
            base = result;
    }
    return base;
}

static int order_results(const void *a, const void *b)
{
    const struct result *left = a, *right = b;
    if (left->kind != right->kind)
        return left->kind < right->kind ? -1 : 1;
    if (left->n != right->n)
        return left->n < right->n ? -1 : 1;
    double left_kl = isnan(left->drift.mean) ? INFINITY : left->drift.mean;
    double right_kl = isnan(right->drift.mean) ? INFINITY : right->drift.mean;
    if (left->kind == RESULT_STEERED && left_kl != right_kl)
        return left_kl < right_kl ? -1 : 1;
    return strcmp(left->label, right->label);
}

/* Adds best of 2, 4, 8, ... of the base's samples, as far as every prompt has so many. */
static void add_best_of_n(struct survey *survey, struct comparison *comparison, const struct result *base)
{
    struct result of = *base;  // the array below may move
    size_t N = smallest_cluster(of.prompt, of.count);
    for (size_t n = 2; n <= N; n *= 2) {
        comparison->results = append(&survey->arena, comparison->results, &comparison->count, sizeof *comparison->results);
        comparison->results[comparison->count - 1] = (struct result){
            .kind = RESULT_BEST_OF_N, .policy = of.policy, .n = n, .label = arena_printf(&survey->arena, "best of %zu", n),
            .count = of.count, .prompts = of.prompts, .mean = clustered_best_of_n(of.score, of.prompt, of.count, n),
            .drift = { best_of_n_kl(n), NAN }, .tokens_mean = NAN,
        };
    }
}

static int compare(struct survey *survey, struct db *db, struct comparison *comparison)
{
    for (size_t i = 0; i < survey->policy_count; i++) {
        struct result result;
        if (read_result(survey, db, &survey->policies[i], comparison->reward, &result) != 0)
            return -1;
        if (result.count == 0)
            continue;
        comparison->results = append(&survey->arena, comparison->results, &comparison->count, sizeof result);
        comparison->results[comparison->count - 1] = result;
    }
    struct result *base = base_of(comparison->results, comparison->count);
    if (base != NULL) {
        base->kind = RESULT_BASE;
        for (size_t i = 0; i < comparison->count; i++) {
            struct result *result = &comparison->results[i];
            if (result != base && !same_distribution(result->policy, base->policy))
                result->drift = (struct estimate){ NAN, NAN };  // what is stored is from another base, or from itself
            else if (result->kind != RESULT_STEERED)
                result->drift = (struct estimate){ 0, 0 };
        }
        add_best_of_n(survey, comparison, base);
    }
    if (comparison->count > 0)
        qsort(comparison->results, comparison->count, sizeof *comparison->results, order_results);
    return 0;
}

/* ---- texts ---- */

/* The base, and steered policies spread evenly over their order by KL, the last one among them; without any, others. */
static void choose_shown(struct survey *survey, struct comparison *comparison)
{
    size_t steered = 0, plain = 0, *candidates = arena_alloc(&survey->arena, comparison->count + 1, sizeof *candidates);
    comparison->shown = arena_alloc(&survey->arena, SHOWN_MAX, sizeof *comparison->shown);
    for (size_t i = 0; i < comparison->count; i++) {
        if (comparison->results[i].kind == RESULT_STEERED)
            candidates[steered++] = i;
        else if (comparison->results[i].kind == RESULT_BASE)
            comparison->shown[comparison->shown_count++] = i;
    }
    for (size_t i = 0; steered == 0 && i < comparison->count; i++)
        if (comparison->results[i].kind == RESULT_OTHER)
            candidates[plain++] = i;
    size_t found = steered + plain, room = SHOWN_MAX - comparison->shown_count;
    size_t take = found < room ? found : room;
    for (size_t k = 0; k < take; k++)
        comparison->shown[comparison->shown_count++] = candidates[(k + 1) * found / take - 1];
}

/* The first sample of each shown policy to the prompt: no picking. */
static int read_examples_of(struct survey *survey, struct db *db, struct comparison *comparison, int64_t prompt)
{
    struct example *examples = comparison->examples + comparison->prompt_count * comparison->shown_count;
    const char *prompt_text = NULL;
    for (size_t k = 0; k < comparison->shown_count; k++) {
        const struct result *result = &comparison->results[comparison->shown[k]];
        struct read *rows = read_texts(db, result->policy->name, comparison->reward, survey->options.split, prompt);
        struct read_text row;
        examples[k] = (struct example){ .response = NULL, .score = NAN };
        if (read_text_next(rows, &row)) {
            prompt_text = keep(survey, row.prompt);
            examples[k] = (struct example){ .response = keep(survey, row.response), .score = row.score };
        }
        if (read_end(rows) != 0)
            return -1;
    }
    if (prompt_text != NULL)
        comparison->prompts[comparison->prompt_count++] = prompt_text;
    return 0;
}

/* Prompts spread evenly over those that the first shown policy has answered. */
static int read_examples(struct survey *survey, struct db *db, struct comparison *comparison)
{
    choose_shown(survey, comparison);
    if (comparison->shown_count == 0)
        return 0;
    const struct result *first = &comparison->results[comparison->shown[0]];
    size_t shown = (size_t)survey->options.prompts_shown < first->prompts ? (size_t)survey->options.prompts_shown : first->prompts;
    comparison->prompts = arena_alloc(&survey->arena, shown + 1, sizeof *comparison->prompts);
    comparison->examples = arena_alloc(&survey->arena, shown * comparison->shown_count + 1, sizeof *comparison->examples);
    size_t seen = 0, chosen = 0;
    for (size_t i = 0; i < first->count && chosen < shown; i++) {
        if (i > 0 && first->prompt[i] == first->prompt[i - 1])
            continue;
        if (seen++ != chosen * first->prompts / shown)
            continue;
        chosen++;
        if (read_examples_of(survey, db, comparison, first->prompt[i]) != 0)
            return -1;
    }
    return 0;
}

/* ---- runs, failures, what there is ---- */

static int read_curves(struct survey *survey, struct db *db, struct run *run)
{
    struct read *rows = read_metrics(db, run->name);
    struct read_metric row;
    size_t counts[CURVE_COUNT] = { 0 };
    while (read_metric_next(rows, &row)) {
        json_t *numbers = object_from_text(row.numbers);
        run->steps = append(&survey->arena, run->steps, &run->count, sizeof *run->steps);
        run->steps[run->count - 1] = row.step;
        for (int c = 0; c < CURVE_COUNT; c++) {
            const json_t *number = json_object_get(numbers, curve_names[c]);
            run->curves[c] = append(&survey->arena, run->curves[c], &counts[c], sizeof *run->curves[c]);
            run->curves[c][run->count - 1] = json_is_number(number) ? json_number_value(number) : NAN;
        }
        json_decref(numbers);
    }
    return read_end(rows);
}

static int read_all_runs(struct survey *survey, struct db *db)
{
    struct read *rows = read_runs(db);
    struct read_run row;
    while (read_run_next(rows, &row)) {
        survey->runs = append(&survey->arena, survey->runs, &survey->run_count, sizeof *survey->runs);
        survey->runs[survey->run_count - 1] = (struct run){
            .name = keep(survey, row.name), .target = keep(survey, row.target), .train = keep(survey, row.train),
            .policy = keep(survey, row.policy), .reward = keep(survey, row.reward), .rollouts = row.rollouts,
            .batches = row.batches, .targets = row.targets, .failed = row.failed, .step = row.step, .final = row.final };
    }
    if (read_end(rows) != 0)
        return -1;
    for (size_t i = 0; i < survey->run_count; i++)
        if (read_curves(survey, db, &survey->runs[i]) != 0)
            return -1;
    return 0;
}

static int read_all_failures(struct survey *survey, struct db *db)
{
    struct read *rows = read_failures(db);
    struct read_failure row;
    while (read_failure_next(rows, &row)) {
        size_t i = 0;
        while (i < survey->failure_count &&
               (strcmp(survey->failures[i].stage, row.stage) != 0 || strcmp(survey->failures[i].name, row.name) != 0))
            i++;
        if (i == survey->failure_count) {
            survey->failures = append(&survey->arena, survey->failures, &survey->failure_count, sizeof *survey->failures);
            survey->failures[i] = (struct failure_count){ .stage = keep(survey, row.stage), .name = keep(survey, row.name),
                                                          .reason = keep(survey, row.reason) };
        }
        survey->failures[i].count++;
    }
    return read_end(rows);
}

static int read_all_splits(struct survey *survey, struct db *db)
{
    struct read *rows = read_splits(db);
    struct read_split row;
    survey->splits = "";
    while (read_split_next(rows, &row)) {
        survey->splits = arena_printf(&survey->arena, "%s%s%s (%lld)", survey->splits, survey->splits[0] ? ", " : "", row.split,
                                      (long long)row.prompts);
        if (strcmp(row.split, survey->options.split) == 0)
            survey->prompts = row.prompts;
    }
    return read_end(rows);
}

/* 0, EX_DATAERR when the one that is asked for is not there. */
static int read_all_rewards(struct survey *survey, struct db *db)
{
    struct read *rows = read_rewards(db);
    struct read_reward row;
    survey->rewards = "";
    while (read_reward_next(rows, &row)) {
        survey->rewards = arena_printf(&survey->arena, "%s%s%s", survey->rewards, survey->rewards[0] ? ", " : "", row.name);
        if (survey->options.reward != NULL && strcmp(survey->options.reward, row.name) != 0)
            continue;
        survey->comparisons = append(&survey->arena, survey->comparisons, &survey->comparison_count, sizeof *survey->comparisons);
        survey->comparisons[survey->comparison_count - 1] =
            (struct comparison){ .reward = keep(survey, row.name), .spec = keep(survey, row.spec), .failed = row.failed };
    }
    if (read_end(rows) != 0)
        return EX_DATAERR;
    if (survey->options.reward != NULL && survey->comparison_count == 0) {
        log_error("store \"%s\" has no reward \"%s\"", survey->path, survey->options.reward);
        log_hint("it has: %s", survey->rewards[0] ? survey->rewards : "none yet");
        return EX_DATAERR;
    }
    return 0;
}

static void say_what_lacks(struct survey *survey)
{
    int64_t rollouts = 0, given_up = 0;
    size_t results = 0;
    for (size_t i = 0; i < survey->policy_count; i++)
        rollouts += survey->policies[i].rollouts;
    for (size_t i = 0; i < survey->comparison_count; i++) {
        results += survey->comparisons[i].count;
        given_up += survey->comparisons[i].failed;
    }
    const char *split = survey->options.split;
    if (results > 0)
        survey->lacks = NULL;
    else if (survey->splits[0] == '\0')
        survey->lacks = "the store has no prompts yet";
    else if (survey->prompts == 0)
        survey->lacks = arena_printf(&survey->arena, "the store has no prompts of split \"%s\"; it has: %s", split, survey->splits);
    else if (rollouts == 0)
        survey->lacks = arena_printf(&survey->arena, "no responses to the prompts of split \"%s\" yet: run rollout or decode "
                                     "with --split %s", split, split);
    else
        survey->lacks = arena_printf(&survey->arena, "the responses to the prompts of split \"%s\" have no scores yet: run reward"
                                     "%s", split, given_up > 0 ? ", before it 'store retry' for those that were given up" : "");
}

int survey_read(struct survey *survey, struct db *db, const struct survey_options *options)
{
    *survey = (struct survey){ .options = *options };
    arena_init(&survey->arena, "report", (size_t)8 << 30);
    survey->path = keep(survey, db_path(db));
    int code = read_all_rewards(survey, db);
    if (code != 0)
        return code;
    if (read_all_splits(survey, db) != 0 || read_all_policies(survey, db) != 0)
        return EX_DATAERR;
    for (size_t i = 0; i < survey->comparison_count; i++)
        if (compare(survey, db, &survey->comparisons[i]) != 0 || read_examples(survey, db, &survey->comparisons[i]) != 0)
            return EX_DATAERR;
    if (read_all_runs(survey, db) != 0 || read_all_failures(survey, db) != 0)
        return EX_DATAERR;
    say_what_lacks(survey);
    return EX_OK;
}

void survey_free(struct survey *survey)
{
    for (size_t i = 0; i < survey->policy_count; i++)
        json_decref(survey->policies[i].spec);
    arena_free(&survey->arena);
}
