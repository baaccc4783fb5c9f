/* trainer.c - see trainer.h. */
#include "learn/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "learn/trainer_parts.h"
#include "model/room.h"
#include "model/weights.h"

struct trainer_options trainer_defaults(enum objective objective)
{
    struct trainer_options options = {
        .objective = objective, .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8,
        .clip_norm = 1.0, .warmup_steps = 20, .final_fraction = 0.1, .micro_batch_tokens = 2048,
        .parts = 1,
    };
    if (objective == OBJECTIVE_LM) {
        options.learning_rate = 3e-3;
        options.beta2 = 0.95;
        options.weight_decay = 0.1;
        options.warmup_steps = 100;
    }
    return options;
}

/* ---- LoRA's targets ---- */

static const struct {
    const char *name;
    enum weight_role role;
} targets[] = {
    { "q", WEIGHT_Q }, { "k", WEIGHT_K }, { "v", WEIGHT_V }, { "o", WEIGHT_O },
    { "gate", WEIGHT_GATE }, { "up", WEIGHT_UP }, { "down", WEIGHT_DOWN },
};

int lora_targets_read(const char *text, uint64_t *out)
{
    *out = 0;
    for (const char *at = text;; at++) {
        const size_t size = strcspn(at, ",");
        size_t i = 0;
        while (i < COUNT_OF(targets) && (strlen(targets[i].name) != size || strncmp(targets[i].name, at, size) != 0))
            i++;
        if (i == COUNT_OF(targets))
            return -1;
        *out |= (uint64_t)1 << targets[i].role;
        at += size;
        if (*at == '\0')
            return 0;
    }
}

char *lora_text(const struct lora_options *lora)
{
    if (lora->rank == 0)
        return memory_text("none");
    struct buffer text = { 0 };
    buffer_printf(&text, "rank=%lld alpha=%.9g targets=", (long long)lora->rank, lora->alpha);
    const char *comma = "";
    for (size_t i = 0; i < COUNT_OF(targets); i++) {
        if ((lora->targets >> targets[i].role & 1) == 0)
            continue;
        buffer_printf(&text, "%s%s", comma, targets[i].name);
        comma = ",";
    }
    if (lora->base_type != TENSOR_F32)
        buffer_printf(&text, " base=%s", tensor_formats[lora->base_type].name);
    buffer_append(&text, "", 1);
    return text.data;
}

/* 0, or -1 when a target is no weight of the model, logged. */
static int lora_check(const struct lora_options *lora, const struct model_config *config)
{
    for (size_t i = 0; i < COUNT_OF(targets) && lora->rank > 0; i++) {
        if ((lora->targets >> targets[i].role & 1) == 0 || weight_present(config, targets[i].role))
            continue;
        log_error("lora target \"%s\" is no weight of this model", targets[i].name);
        return -1;
    }
    return 0;
}

/* ---- open, close ---- */

struct rounding {
    const struct parameters *parameters;
    const struct parameter *parameter;
    const struct tensor *tensor;
};

enum { ROUNDED_ROWS = 16 };  // of a task

static void round_rows(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct rounding *rounding = context;
    const size_t N = (size_t)rounding->parameter->shape[0], K = (size_t)rounding->parameter->shape[1];
    const size_t n = task * ROUNDED_ROWS, count = block_size(N, ROUNDED_ROWS, task);
    float *rows = memory_alloc(count * K, sizeof *rows);
    tensor_read_rows(rounding->tensor, (size_t)rounding->parameters->config.head_size, n, count, rows);
    rounded_set(rounding->parameters, rounding->parameter, n, count, rows);
    free(rows);
}

static void parameter_read(const struct parameters *parameters, const struct parameter *parameter, const struct tensor *tensor,
                           struct pool *pool)
{
    struct rounding rounding = { parameters, parameter, tensor };
    if (parameter->type != TENSOR_F32)
        pool_run(pool, blocks_of((size_t)parameter->shape[0], ROUNDED_ROWS), round_rows, &rounding);
    else
        tensor_read_canonical(tensor, (size_t)parameters->config.head_size, parameters->floats + parameter->first);
}

/* The network's parameters from weights; a value head that is missing stays zero. */
static int parameters_read(struct parameters *parameters, const struct weights *weights, struct pool *pool)
{
    for (size_t i = 0; i < parameters->table_count; i++) {
        const struct parameter *parameter = &parameters->table[i];
        const bool optional = parameter->role == WEIGHT_VALUE || parameter->role == WEIGHT_VALUE_BIAS;
        if (parameter->part != PART_WEIGHT)
            continue;
        struct tensor tensor;
        if (weights_role(weights, &parameters->config, parameter->role, parameter->layer, &tensor)) {
            if (tensor_elements(&tensor) != parameter->count) {
                log_error("model to train: weight \"%s\" has %zu elements, the config says %zu", parameter->name,
                          tensor_elements(&tensor), parameter->count);
                return -1;
            }
            parameter_read(parameters, parameter, &tensor, pool);
        } else if (!optional) {
            log_error("model to train has no weight \"%s\"", parameter->name);
            return -1;
        }
    }
    return 0;
}

/* States what training takes, with *recompute or, where that is more than there is, with it set.
   False, logged, when there is not so much. */
static bool memory_suffices(const struct trainer_options *options, const struct parameters *parameters, size_t threads,
                            bool *recompute)
{
    const size_t weights = parameters->count * sizeof(float) + parameters->rounded_bytes;
    const size_t trained = parameters->trained_count * sizeof(float);
    const size_t known = (size_t)options->longest_tokens, micro_batch = (size_t)options->micro_batch_tokens;
    const size_t M = micro_batch > known ? micro_batch : known, positions = (size_t)parameters->config.position_max;
    const size_t longest = known > 0 ? known : M < positions ? M : positions;
    const size_t gradients = trained + reduce_size_bytes(parameters, (size_t)options->parts, options->ranks);
    const char *bound;
    const size_t room = room_bytes(&bound) / ranks_here(options->ranks);
    size_t activations = activations_size_bytes(parameters, *recompute, M, longest, threads);
    if (weights + gradients + 2 * trained + activations > room) {
        *recompute = true;
        activations = activations_size_bytes(parameters, *recompute, M, longest, threads);
    }
    const size_t total = weights + gradients + 2 * trained + activations;
    log_event("training takes total_mib=%zu weights_mib=%zu gradients_mib=%zu moments_mib=%zu activations_mib=%zu "
              "(of %zu tokens%s) trained=%zu of parameters=%zu",
              (total >> 20) + 1, weights >> 20, gradients >> 20, 2 * trained >> 20, activations >> 20,
              M, *recompute ? ", of one layer" : "", parameters->trained_count,
              parameters_elements(parameters));
    if (total <= room)
        return true;
    log_error("training takes %zu MiB of memory, %s %zu MiB", (total >> 20) + 1, bound, room >> 20);
    log_hint("--lora keeps gradients and moments of adapters only");
    return false;
}

static bool parameter_decays(const struct parameter *parameter)
{
    if (parameter->part != PART_WEIGHT)
        return true;
    switch (parameter->role) {
    case WEIGHT_Q: case WEIGHT_K: case WEIGHT_V: case WEIGHT_O: case WEIGHT_GATE: case WEIGHT_UP: case WEIGHT_DOWN:
    case WEIGHT_LM_HEAD:
        return true;
    default:
        return false;
    }
}

static void optimiser_init(struct trainer *trainer)
{
    const struct trainer_options *options = &trainer->options;
    const struct parameters *parameters = &trainer->network.parameters;
    const struct adamw_options adamw = { options->beta1, options->beta2, options->epsilon, options->weight_decay };
    adamw_init(&trainer->adamw, &adamw, parameters->trained_count, trainer->network.pool);
    for (size_t i = 0; i < parameters->table_count && parameters->table[i].trained; i++)
        adamw_cover(&trainer->adamw, parameters->table[i].first, parameters->table[i].count,
                    parameter_decays(&parameters->table[i]));
}

/* What can be refused before anything large is allocated; settles what is to be recomputed.  EX_OK, or the exit code. */
static int training_check(struct trainer_options *options, const struct model_config *config, size_t threads)
{
    if (options->objective == OBJECTIVE_LM && !config->tied_embeddings && !weight_present(config, WEIGHT_LM_HEAD)) {
        log_error("cannot train for next tokens: the model has no LM head");
        return EX_DATAERR;
    }
    if (lora_check(&options->lora, config) != 0)
        return EX_DATAERR;
    if (product_kernels_get(options->products) == NULL) {
        log_error("cannot multiply in bf16: this processor has no AMX, or VAS_KERNELS leaves it out");
        return EX_UNAVAILABLE;
    }
    struct parameters parameters;
    parameters_init(&parameters, config, options->objective, &options->lora);
    const bool suffices = memory_suffices(options, &parameters, threads, &options->recompute);
    parameters_free(&parameters);
    return suffices ? EX_OK : EX_OSERR;
}

struct trainer *trainer_open(const struct trainer_options *options, const struct model_config *config,
                             const struct weights *weights, const char *tokenizer_key, struct pool *pool, int *code)
{
    CHECK(options->lora.rank == 0 || weights != NULL);
    CHECK(options->parts >= (int64_t)ranks_count(options->ranks));
    struct trainer *trainer = memory_alloc(1, sizeof *trainer);
    struct parameters *parameters = &trainer->network.parameters;
    trainer->options = *options;
    *code = training_check(&trainer->options, config, pool_threads(pool));
    if (*code != EX_OK) {
        free(trainer);
        return NULL;
    }
    trainer->tokenizer_key = memory_text(tokenizer_key != NULL ? tokenizer_key : "");
    arena_init(&trainer->arena, "training batch", SIZE_MAX / 2);
    network_init(&trainer->network, config, options->objective, &options->lora, options->products, trainer->options.recompute,
                 pool);
    reduce_init(&trainer->reduce, parameters, (size_t)options->parts, options->ranks, pool);
    optimiser_init(trainer);
    if (weights == NULL) {
        parameters_randomise(parameters, options->seed);
    } else if (parameters_read(parameters, weights, pool) != 0) {
        *code = EX_DATAERR;
        trainer_close(trainer);
        return NULL;
    } else {
        parameters_randomise_lora(parameters, options->seed);
    }
    return trainer;
}

void trainer_close(struct trainer *trainer)
{
    if (trainer == NULL)
        return;
    adamw_free(&trainer->adamw);
    reduce_free(&trainer->reduce);
    network_free(&trainer->network);
    arena_free(&trainer->arena);
    free(trainer->tokenizer_key);
    free(trainer);
}

void trainer_share(struct trainer *trainer)
{
    struct ranks *ranks = trainer->options.ranks;
    const struct parameters *parameters = &trainer->network.parameters;
    ranks_broadcast(ranks, &trainer->steps, sizeof trainer->steps);
    ranks_broadcast(ranks, parameters->rounded, parameters->rounded_bytes);
    ranks_broadcast(ranks, parameters->floats, parameters->count * sizeof(float));
    ranks_broadcast(ranks, trainer->adamw.m, parameters->trained_count * sizeof(float));
    ranks_broadcast(ranks, trainer->adamw.v, parameters->trained_count * sizeof(float));
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
    const struct model_config *config = &trainer->network.parameters.config;
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

/* ---- parts of a batch ---- */

struct part {
    const struct example *examples;  // (count)
    size_t count;
    size_t counted_first;            // its counted positions among the batch's
};

static size_t tokens_of(const struct example *examples, size_t count)
{
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++)
        tokens += examples[i].T;
    return tokens;
}

/* Into part (parts): a run of examples each, about equal in tokens.  An example belongs where its middle lies. */
static void batch_cut(const struct trainer *trainer, const struct example *examples, size_t count, struct part *part)
{
    const size_t parts = (size_t)trainer->options.parts, tokens = tokens_of(examples, count);
    size_t i = 0, before = 0, counted = 0;
    for (size_t p = 0; p < parts; p++) {
        part[p] = (struct part){ .examples = examples + i, .counted_first = counted };
        for (; i < count && (2 * before + examples[i].T) * parts < 2 * tokens * (p + 1); i++) {
            before += examples[i].T;
            for (size_t t = 0; t < examples[i].T; t++)
                counted += position_counts(trainer->options.objective, &examples[i], t);
        }
        part[p].count = (size_t)(examples + i - part[p].examples);
    }
}

/* The summed loss of a part, micro batch after micro batch; with backward, its gradient too.  value: as network_loss. */
static double part_loss(struct trainer *trainer, const struct part *part, float scale, bool backward, float *value)
{
    struct network *network = &trainer->network;
    double loss = 0.0;
    for (size_t first = 0, fitting; first < part->count; first += fitting) {
        fitting = micro_batch_count(trainer, part->examples + first, part->count - first);
        const struct packed_rows rows = examples_pack(&trainer->arena, trainer->options.objective, part->examples + first, fitting);
        network->ready = first + fitting == part->count ? reduce_ready : NULL;
        network->ready_context = &trainer->reduce;
        loss += network_loss(network, &rows, scale, backward, value);
        if (value != NULL)
            value += rows.counted;
    }
    return loss;
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

/* Borrows from arena; values are zero. */
static struct fit fit_begin(struct arena *arena, const struct example *examples, size_t count, size_t counted)
{
    struct fit fit = { arena_alloc(arena, counted, sizeof *fit.value), arena_alloc(arena, counted, sizeof *fit.target), 0 };
    memset(fit.value, 0, counted * sizeof *fit.value);
    for (size_t i = 0; i < count; i++)
        for (size_t t = 0; t < examples[i].T; t++)
            if (position_counts(OBJECTIVE_VALUE, &examples[i], t))
                fit.target[fit.counted++] = examples[i].target[t];
    return fit;
}

/* The mean loss over all counted positions; with backward, its gradient in the parameters' gradients. */
static double batch_loss(struct trainer *trainer, const struct example *examples, size_t count, bool backward,
                         struct step_metrics *metrics)
{
    const bool valued = trainer->options.objective == OBJECTIVE_VALUE;
    const size_t parts = (size_t)trainer->options.parts, counted = (size_t)metrics->counted;
    const struct sum_span mine = trainer->reduce.span;
    struct part *part = arena_alloc(&trainer->arena, parts, sizeof *part);
    double *losses = arena_alloc(&trainer->arena, parts, sizeof *losses);
    batch_cut(trainer, examples, count, part);
    struct fit fit = { 0 };
    if (valued)
        fit = fit_begin(&trainer->arena, examples, count, counted);
    memset(losses, 0, parts * sizeof *losses);
    for (size_t p = mine.first; p < mine.last; p++) {
        if (backward)
            reduce_part(&trainer->reduce, p);
        losses[p] = part_loss(trainer, &part[p], (float)(1.0 / (double)counted), backward,
                              valued ? fit.value + part[p].counted_first : NULL);
        if (backward)
            reduce_part_end(&trainer->reduce);
    }
    if (backward)
        reduce_end(&trainer->reduce);
    ranks_unite(trainer->options.ranks, losses, parts * sizeof *losses);
    ranks_unite(trainer->options.ranks, fit.value, fit.counted * sizeof *fit.value);
    if (valued)
        fit_metrics(&fit, metrics);
    metrics->tokens = (int64_t)tokens_of(examples, count);
    double loss = 0.0;
    for (size_t p = 0; p < parts; p++)
        loss += losses[p];
    return loss / (double)counted;
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
static const char *gradient_culprit(const struct parameters *parameters)
{
    for (size_t i = 0; i < parameters->table_count && parameters->table[i].trained; i++) {
        const struct parameter *parameter = &parameters->table[i];
        for (size_t k = 0; k < parameter->count; k++)
            if (!isfinite(parameters->gradients[parameter->first + k]))
                return parameter->name;
    }
    return "none";
}

void trainer_expect(struct trainer *trainer, int64_t total_steps)
{
    trainer->options.total_steps = total_steps;
}

int trainer_step(struct trainer *trainer, const struct example *examples, size_t count, struct step_metrics *metrics)
{
    struct parameters *parameters = &trainer->network.parameters;
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
    metrics->gradient_norm = adamw_norm(&trainer->adamw, parameters->gradients);
    if (!isfinite(metrics->gradient_norm)) {
        log_error("step %lld: gradient of \"%s\" is not finite, weights are left as they were", (long long)step,
                  gradient_culprit(parameters));
        return -1;
    }
    metrics->learning_rate = learning_rate(&trainer->options, step);
    double scale = 1.0;
    if (trainer->options.clip_norm > 0.0 && metrics->gradient_norm > trainer->options.clip_norm)
        scale = trainer->options.clip_norm / metrics->gradient_norm;
    adamw_step(&trainer->adamw, parameters->floats, parameters->gradients, scale, metrics->learning_rate, step);
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
