/* trainer.c - see trainer.h. */
#include "learn/trainer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "learn/adamw.h"
#include "learn/network.h"
#include "model/weights.h"

struct trainer {
    struct trainer_options options;
    struct network network;
    struct adamw adamw;
    char *tokenizer_key;
    int64_t steps;
    struct arena arena;  // what lives for one call
};

struct trainer_options trainer_defaults(enum objective objective)
{
    struct trainer_options options = {
        .objective = objective, .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8,
        .clip_norm = 1.0, .warmup_steps = 20, .final_fraction = 0.1, .micro_batch_tokens = 2048,
    };
    if (objective == OBJECTIVE_LM) {
        options.learning_rate = 3e-3;
        options.beta2 = 0.95;
        options.weight_decay = 0.1;
        options.warmup_steps = 100;
    }
    return options;
}

/* ---- weights in ---- */

/* The tensor if it is there in the parameter's shape; otherwise NULL, logged unless it may be missing. */
static const struct tensor *tensor_for(const struct weights *weights, const struct parameter *parameter, const char *name,
                                       const char *source, bool optional, bool *failed)
{
    const struct tensor *tensor = weights_find(weights, name);
    if (tensor == NULL) {
        if (!optional) {
            log_error("%s has no tensor \"%s\"", source, name);
            *failed = true;
        }
        return NULL;
    }
    bool fits = tensor->rank == parameter->rank;
    for (size_t i = 0; fits && i < parameter->rank; i++)
        fits = tensor->shape[i] == parameter->shape[i];
    if (!fits) {
        log_error("%s: tensor \"%s\" has rank %zu and shape (%lld, %lld), the model needs rank %zu and (%lld, %lld)", source,
                  name, tensor->rank, (long long)tensor->shape[0], (long long)(tensor->rank > 1 ? tensor->shape[1] : 1),
                  parameter->rank, (long long)parameter->shape[0], (long long)(parameter->rank > 1 ? parameter->shape[1] : 1));
        *failed = true;
        return NULL;
    }
    return tensor;
}

/* The network's parameters from weights; those that may be missing and are stay zero. */
static int parameters_read(struct network *network, const struct weights *weights, const char *source)
{
    bool failed = false;
    for (size_t i = 0; i < network->table_count && !failed; i++) {
        const struct parameter *parameter = &network->table[i];
        const bool optional = parameter->role == WEIGHT_VALUE || parameter->role == WEIGHT_VALUE_BIAS;
        const struct tensor *tensor = tensor_for(weights, parameter, parameter->name, source, optional, &failed);
        if (tensor != NULL)
            tensor_read_canonical(tensor, (size_t)network->config.head_size, network->parameters + parameter->first);
    }
    return failed ? -1 : 0;
}

/* ---- open, close ---- */

static bool parameter_decays(const struct parameter *parameter)
{
    switch (parameter->role) {
    case WEIGHT_Q: case WEIGHT_K: case WEIGHT_V: case WEIGHT_O: case WEIGHT_GATE: case WEIGHT_UP: case WEIGHT_DOWN:
    case WEIGHT_LM_HEAD:
        return true;
    default:
        return false;
    }
}

struct trainer *trainer_open(const struct trainer_options *options, const struct model_config *config,
                             const struct weights *weights, const char *tokenizer_key, struct pool *pool)
{
    struct trainer *trainer = memory_alloc(1, sizeof *trainer);
    trainer->options = *options;
    trainer->tokenizer_key = memory_text(tokenizer_key != NULL ? tokenizer_key : "");
    arena_init(&trainer->arena, "training batch", SIZE_MAX / 2);
    network_init(&trainer->network, config, options->objective, pool);
    const struct adamw_options adamw = { options->beta1, options->beta2, options->epsilon, options->weight_decay };
    adamw_init(&trainer->adamw, &adamw, trainer->network.trained_count, pool);
    for (size_t i = 0; i < trainer->network.table_count; i++) {
        const struct parameter *parameter = &trainer->network.table[i];
        if (parameter->first < trainer->network.trained_count)
            adamw_cover(&trainer->adamw, parameter->first, parameter->count, parameter_decays(parameter));
    }
    if (weights == NULL) {
        network_randomise(&trainer->network, options->seed);
    } else if (parameters_read(&trainer->network, weights, "model to train") != 0) {
        trainer_close(trainer);
        return NULL;
    }
    return trainer;
}

void trainer_close(struct trainer *trainer)
{
    if (trainer == NULL)
        return;
    adamw_free(&trainer->adamw);
    network_free(&trainer->network);
    arena_free(&trainer->arena);
    free(trainer->tokenizer_key);
    free(trainer);
}

int64_t trainer_steps(const struct trainer *trainer)
{
    return trainer->steps;
}

/* ---- examples to packed rows ---- */

static bool position_counts(enum objective objective, const struct example *example, size_t t)
{
    if (objective == OBJECTIVE_LM && t + 1 == example->T)
        return false;  // nothing follows
    return example->mask == NULL || example->mask[t] != 0.0f;
}

static int example_check(const struct trainer *trainer, const struct example *example, size_t index)
{
    const struct model_config *config = &trainer->network.config;
    if (example->T < 1 || example->T > (size_t)config->position_max) {
        log_error("example %zu has %zu tokens, the model takes 1 to %lld", index, example->T, (long long)config->position_max);
        return -1;
    }
    for (size_t t = 0; t < example->T; t++) {
        if (example->tokens[t] < 0 || example->tokens[t] >= config->vocab_size) {
            log_error("example %zu: token %zu is %d, the vocabulary has %lld", index, t, (int)example->tokens[t],
                      (long long)config->vocab_size);
            return -1;
        }
    }
    if (trainer->options.objective != OBJECTIVE_VALUE)
        return 0;
    CHECK(example->target != NULL);
    for (size_t t = 0; t < example->T; t++) {
        if (position_counts(OBJECTIVE_VALUE, example, t) && !isfinite(example->target[t])) {
            log_error("example %zu: target at position %zu is %g", index, t, (double)example->target[t]);
            return -1;
        }
    }
    return 0;
}

/* Counted positions of all examples, or -1 if there are none or an example does not fit. */
static int64_t examples_count(const struct trainer *trainer, const struct example *examples, size_t count)
{
    int64_t counted = 0;
    for (size_t i = 0; i < count; i++) {
        if (example_check(trainer, &examples[i], i) != 0)
            return -1;
        for (size_t t = 0; t < examples[i].T; t++)
            counted += position_counts(trainer->options.objective, &examples[i], t);
    }
    if (counted == 0) {
        log_error("no position of %zu examples counts in the loss", count);
        return -1;
    }
    return counted;
}

/* How many of the examples fit into one micro batch: at least one. */
static size_t micro_batch_count(const struct trainer *trainer, const struct example *examples, size_t count)
{
    size_t tokens = 0, fit = 0;
    while (fit < count && (fit == 0 || tokens + examples[fit].T <= (size_t)trainer->options.micro_batch_tokens))
        tokens += examples[fit++].T;
    return fit;
}

/* Borrows from arena. */
static struct packed_rows examples_pack(struct arena *arena, enum objective objective, const struct example *examples, size_t count)
{
    size_t M = 0, m = 0, counted = 0;
    for (size_t i = 0; i < count; i++)
        M += examples[i].T;
    int32_t *token = arena_alloc(arena, M, sizeof *token), *position = arena_alloc(arena, M, sizeof *position);
    int32_t *next = arena_alloc(arena, M, sizeof *next);
    size_t *start = arena_alloc(arena, count + 1, sizeof *start), *row = arena_alloc(arena, M, sizeof *row);
    float *target = arena_alloc(arena, M, sizeof *target);
    for (size_t i = 0; i < count; i++) {
        const struct example *example = &examples[i];
        start[i] = m;
        for (size_t t = 0; t < example->T; t++, m++) {
            token[m] = example->tokens[t];
            position[m] = (int32_t)t;
            if (!position_counts(objective, example, t))
                continue;
            row[counted] = m;
            if (objective == OBJECTIVE_LM)
                next[counted] = example->tokens[t + 1];
            else
                target[counted] = example->target[t];
            counted++;
        }
    }
    start[count] = m;
    return (struct packed_rows){
        .M = M, .sequences = count, .counted = counted, .token = token, .position = position, .start = start,
        .row = row, .target = target, .next = next,
    };
}

/* ---- a step ---- */

/* Values and targets of a batch's counted positions. */
struct fit {
    float *value, *target;  // (counted)
    size_t counted;
};

static void fit_metrics(const struct fit *fit, struct step_metrics *metrics)
{
    const double n = (double)fit->counted;
    double value_sum = 0.0, target_sum = 0.0;
    for (size_t i = 0; i < fit->counted; i++) {
        value_sum += (double)fit->value[i];
        target_sum += (double)fit->target[i];
    }
    metrics->value_mean = value_sum / n;
    metrics->target_mean = target_sum / n;
    double error = 0.0, variance = 0.0;
    for (size_t i = 0; i < fit->counted; i++) {
        double target = (double)fit->target[i] - metrics->target_mean;
        double value = (double)fit->value[i] - metrics->value_mean;
        error += (target - value) * (target - value);
        variance += target * target;
    }
    metrics->explained_variance = variance > 0.0 ? 1.0 - error / variance : NAN;
}

/* The mean loss over all counted positions, micro batch after micro batch; with backward, its gradient in network.gradients. */
static double batch_loss(struct trainer *trainer, const struct example *examples, size_t count, bool backward,
                         struct step_metrics *metrics)
{
    const enum objective objective = trainer->options.objective;
    struct fit fit = { 0 };
    if (objective == OBJECTIVE_VALUE) {
        fit.value = arena_alloc(&trainer->arena, (size_t)metrics->counted, sizeof *fit.value);
        fit.target = arena_alloc(&trainer->arena, (size_t)metrics->counted, sizeof *fit.target);
    }
    if (backward)
        network_zero_gradients(&trainer->network);
    double loss = 0.0;
    for (size_t first = 0, fitting; first < count; first += fitting) {
        fitting = micro_batch_count(trainer, examples + first, count - first);
        const struct packed_rows rows = examples_pack(&trainer->arena, objective, examples + first, fitting);
        float *value = objective == OBJECTIVE_VALUE ? fit.value + fit.counted : NULL;
        loss += network_loss(&trainer->network, &rows, (float)(1.0 / (double)metrics->counted), backward, value);
        if (objective == OBJECTIVE_VALUE)
            memcpy(fit.target + fit.counted, rows.target, rows.counted * sizeof *fit.target);
        fit.counted += rows.counted;
        metrics->tokens += (int64_t)rows.M;
    }
    if (objective == OBJECTIVE_VALUE)
        fit_metrics(&fit, metrics);
    return loss / (double)metrics->counted;
}

static double learning_rate(const struct trainer_options *options, int64_t step)
{
    if (step <= options->warmup_steps)
        return options->learning_rate * (double)step / (double)options->warmup_steps;
    if (options->total_steps <= options->warmup_steps)
        return options->learning_rate;
    double done = (double)(step - options->warmup_steps) / (double)(options->total_steps - options->warmup_steps);
    double cosine = 0.5 * (1.0 + cos(3.14159265358979323846 * fmin(done, 1.0)));
    return options->learning_rate * (options->final_fraction + (1.0 - options->final_fraction) * cosine);
}

/* The name of the first weight whose gradient is not finite. */
static const char *gradient_culprit(const struct network *network)
{
    for (size_t i = 0; i < network->table_count; i++) {
        const struct parameter *parameter = &network->table[i];
        for (size_t k = 0; k < parameter->count && parameter->first + k < network->trained_count; k++)
            if (!isfinite(network->gradients[parameter->first + k]))
                return parameter->name;
    }
    return "none";
}

int trainer_step(struct trainer *trainer, const struct example *examples, size_t count, struct step_metrics *metrics)
{
    struct network *network = &trainer->network;
    const int64_t step = trainer->steps + 1;
    *metrics = (struct step_metrics){ .counted = examples_count(trainer, examples, count) };
    if (metrics->counted < 0)
        return -1;
    metrics->loss = batch_loss(trainer, examples, count, true, metrics);
    arena_reset(&trainer->arena);
    if (!isfinite(metrics->loss)) {
        log_error("step %lld: loss is not finite, weights are left as they were", (long long)step);
        return -1;
    }
    metrics->gradient_norm = adamw_norm(&trainer->adamw, network->gradients);
    if (!isfinite(metrics->gradient_norm)) {
        log_error("step %lld: gradient of \"%s\" is not finite, weights are left as they were", (long long)step,
                  gradient_culprit(network));
        return -1;
    }
    metrics->learning_rate = learning_rate(&trainer->options, step);
    double scale = 1.0;
    if (trainer->options.clip_norm > 0.0 && metrics->gradient_norm > trainer->options.clip_norm)
        scale = trainer->options.clip_norm / metrics->gradient_norm;
    adamw_step(&trainer->adamw, network->parameters, network->gradients, scale, metrics->learning_rate, step);
    trainer->steps = step;
    return 0;
}

double trainer_loss(struct trainer *trainer, const struct example *examples, size_t count)
{
    struct step_metrics metrics = { .counted = examples_count(trainer, examples, count) };
    if (metrics.counted < 0)
        return NAN;
    double loss = batch_loss(trainer, examples, count, false, &metrics);
    arena_reset(&trainer->arena);
    return loss;
}

/* ---- checkpoints ---- */

enum { MOMENT_NAME_SIZE = WEIGHT_NAME_SIZE + 16 };
static const char moment_prefix[2][8] = { "adam.m.", "adam.v." };

/* Into name. */
static const char *moment_name(size_t moment, const struct parameter *parameter, char name[MOMENT_NAME_SIZE])
{
    snprintf(name, MOMENT_NAME_SIZE, "%s%s", moment_prefix[moment], parameter->name);
    return name;
}

static char *config_text(const struct model_config *config)
{
    json_t *json = config_to_json(config);
    char *text = json_text(json);
    json_decref(json);
    return text;
}

static struct tensor_out tensor_out_of(const struct parameter *parameter, const char *name, const float *data)
{
    struct tensor_out tensor = { .name = name, .rank = parameter->rank, .data = data + parameter->first };
    memcpy(tensor.shape, parameter->shape, sizeof parameter->shape);
    return tensor;
}

void trainer_save(const struct trainer *trainer, bool with_optimiser, const char *cursor, struct buffer *out)
{
    const struct network *network = &trainer->network;
    const float *moments[2] = { trainer->adamw.m, trainer->adamw.v };
    struct tensor_out *tensors = memory_alloc(3 * network->table_count, sizeof *tensors);
    char (*names)[MOMENT_NAME_SIZE] = memory_alloc(2 * network->table_count, sizeof *names);
    size_t count = 0, named = 0;
    for (size_t i = 0; i < network->table_count; i++)
        tensors[count++] = tensor_out_of(&network->table[i], network->table[i].name, network->parameters);
    for (size_t moment = 0; moment < 2 && with_optimiser; moment++)
        for (size_t i = 0; i < network->table_count; i++)
            if (network->table[i].first < network->trained_count)
                tensors[count++] = tensor_out_of(&network->table[i], moment_name(moment, &network->table[i], names[named++]),
                                                 moments[moment]);

    char *config = config_text(&network->config);
    char step[32];
    snprintf(step, sizeof step, "%lld", (long long)trainer->steps);
    const char *const metadata[][2] = {
        { "config", config }, { "tokenizer", trainer->tokenizer_key }, { "step", step }, { "cursor", cursor },
    };
    safetensors_write(out, tensors, count, metadata, cursor != NULL ? 4 : 3);
    free(config);
    free(names);
    free(tensors);
}

/* The updates that the checkpoint has seen, or -1 if it is not one of this model, logged. */
static int64_t checkpoint_steps(const struct trainer *trainer, const struct weights *checkpoint, const char *name)
{
    const char *config = weights_metadata(checkpoint, "config"), *step = weights_metadata(checkpoint, "step");
    if (config == NULL || step == NULL) {
        log_error("\"%s\" is not a checkpoint: its metadata has no \"%s\"", name, config == NULL ? "config" : "step");
        return -1;
    }
    char *expected = config_text(&trainer->network.config);
    bool same = strcmp(config, expected) == 0;
    free(expected);
    if (!same) {
        log_error("checkpoint \"%s\" is of a model with another config", name);
        return -1;
    }
    char *end;
    errno = 0;
    long long steps = strtoll(step, &end, 10);
    if (end == step || *end != '\0' || errno != 0 || steps < 0) {
        log_error("checkpoint \"%s\": step is \"%.40s\", it must be a count", name, step);
        return -1;
    }
    return steps;
}

int trainer_load(struct trainer *trainer, const struct weights *checkpoint, const char *name)
{
    struct network *network = &trainer->network;
    const int64_t steps = checkpoint_steps(trainer, checkpoint, name);
    if (steps < 0)
        return -1;
    char *source = memory_printf("checkpoint \"%s\"", name);
    char moment_of[MOMENT_NAME_SIZE];
    bool failed = false;
    for (size_t i = 0; i < network->table_count && !failed; i++) {
        const struct parameter *parameter = &network->table[i];
        tensor_for(checkpoint, parameter, parameter->name, source, false, &failed);
        for (size_t moment = 0; moment < 2 && !failed && parameter->first < network->trained_count; moment++)
            tensor_for(checkpoint, parameter, moment_name(moment, parameter, moment_of), source, false, &failed);
    }
    free(source);
    if (failed)
        return -1;

    float *moments[2] = { trainer->adamw.m, trainer->adamw.v };
    for (size_t i = 0; i < network->table_count; i++) {
        const struct parameter *parameter = &network->table[i];
        tensor_read(weights_find(checkpoint, parameter->name), 0, parameter->count, network->parameters + parameter->first);
        for (size_t moment = 0; moment < 2 && parameter->first < network->trained_count; moment++)
            tensor_read(weights_find(checkpoint, moment_name(moment, parameter, moment_of)), 0, parameter->count,
                        moments[moment] + parameter->first);
    }
    trainer->steps = steps;
    return 0;
}
