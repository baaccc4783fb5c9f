/* learner.c - see learner.h. */
#include "train/learner.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/effort.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/progress.h"
#include "base/stop.h"
#include "model/model.h"
#include "model/weights.h"
#include "text/tokenizer.h"
#include "train/dataset.h"
#include "train/team.h"

/* ---- what both lives share ---- */

static char *metrics_text(enum objective objective, const struct step_metrics *metrics)
{
    json_t *json = json_pack("{s:f, s:f, s:f, s:I}", "loss", metrics->loss, "gradient_norm", metrics->gradient_norm,
                             "learning_rate", metrics->learning_rate, "counted", (json_int_t)metrics->counted);
    CHECK(json != NULL);
    if (objective == OBJECTIVE_VALUE) {
        json_object_set_new(json, "value_mean", json_real(metrics->value_mean));
        json_object_set_new(json, "target_mean", json_real(metrics->target_mean));
        if (isfinite(metrics->explained_variance))
            json_object_set_new(json, "explained_variance", json_real(metrics->explained_variance));
    }
    char *text = json_text(json);
    json_decref(json);
    return text;
}

static void progress_note(struct progress *progress, const struct step_metrics *metrics)
{
    snprintf(progress->note, sizeof progress->note, "loss=%.4f lr=%.2g", metrics->loss, metrics->learning_rate);
}

/* Adam moves values by little in a step, however far they have to go. */
static void say_far_targets(const struct step_metrics *first)
{
    enum { FAR = 10 };
    double distance = sqrt(2 * first->loss);  // the root mean square
    if (distance > FAR)
        log_event("targets are %.3g away from the values that training begins with, which takes long to come near;"
                  " 'reward --scale' makes scores smaller", distance);
}

static int compute_step(struct learner *learner, const struct example *batch, size_t count, struct step_metrics *metrics)
{
    enum effort before = effort_enter(EFFORT_COMPUTE);
    edge_background_begin(learner->edge);
    int result = team_step(learner, batch, count, metrics);
    edge_background_end(learner->edge);
    effort_enter(before);
    if (result == 0 && learner->options.objective == OBJECTIVE_VALUE && trainer_steps(learner->trainer) == 1)
        say_far_targets(metrics);
    return result;
}

/* Beside the merged model. */
static int export_adapter(const struct learner *learner)
{
    char *directory = memory_printf("%s/adapter", learner->options.output);
    int result = trainer_export_adapter(learner->trainer, learner->options.model, directory);
    if (result == 0)
        log_event("wrote \"%s\" for PEFT", directory);
    free(directory);
    return result;
}

int learner_export(struct learner *learner)
{
    const char *directory = learner->options.output;
    struct buffer content = { 0 };
    trainer_save(learner->trainer, false, NULL, &content);
    struct weights *weights = weights_from_memory(content.data, content.size, "trained model");
    int result = weights != NULL && directory_make(directory) == 0
                 && model_export(weights, learner->config, directory) == 0
                 && tokenizer_write(learner->tokenizer, directory) == 0 ? 0 : -1;
    if (result == 0)
        log_event("wrote \"%s\" steps=%lld", directory, (long long)trainer_steps(learner->trainer));
    weights_close(weights);
    free(content.data);
    return result == 0 && learner->settings.lora.rank > 0 ? export_adapter(learner) : result;
}

/* ---- a worker of a store ---- */

static int give_checkpoint(struct learner *learner, const char *kind, int64_t next_batch, bool final)
{
    struct buffer content = { 0 };
    char cursor[32];
    snprintf(cursor, sizeof cursor, "%lld", (long long)next_batch);
    trainer_save(learner->trainer, strcmp(kind, "full") == 0, cursor, &content);
    return edge_give_checkpoint(learner->edge, learner->options.run, trainer_steps(learner->trainer), next_batch, kind, final,
                                &content);
}

static int give_final(struct learner *learner, int64_t next_batch)
{
    if (give_checkpoint(learner, "weights", next_batch, true) != 0)
        return -1;
    return give_checkpoint(learner, "full", next_batch, true);
}

static int resume_from_store(struct learner *learner, int64_t *next_batch)
{
    json_t *welcome = json_parse(edge_welcome(learner->edge), strlen(edge_welcome(learner->edge)), "welcome");
    json_int_t step = -1;
    if (welcome == NULL || json_unpack(welcome, "{s?:I}", "checkpoint", &step) != 0)
        step = -1;
    json_decref(welcome);
    *next_batch = 0;
    if (step < 0)
        return give_checkpoint(learner, "weights", 0, false);  // values of the first batches come from it

    struct buffer content = { 0 };
    int64_t found;
    int result = edge_fetch(learner->edge, learner->options.run, step, "full", &content, &found);
    if (result > 0)
        log_error("the store has no checkpoint of run \"%s\" at step %lld any more", learner->options.run, (long long)step);
    struct weights *checkpoint = result == 0 ? weights_from_memory(content.data, content.size, "checkpoint") : NULL;
    result = checkpoint != NULL ? trainer_load(learner->trainer, checkpoint, "checkpoint") : -1;
    if (result == 0) {
        const char *cursor = weights_metadata(checkpoint, "cursor");
        *next_batch = cursor != NULL ? strtoll(cursor, NULL, 10) : 0;
        log_event("run \"%s\" resumes at step=%lld batch=%lld", learner->options.run,
                  (long long)trainer_steps(learner->trainer), (long long)*next_batch);
    }
    weights_close(checkpoint);
    free(content.data);
    return result;
}

/* All updates on one batch, with the snapshots and checkpoints that fall due.  Returns an exit code. */
static int train_batch(struct learner *learner, const struct dataset *batch, int64_t next_batch, bool last,
                       struct progress *progress)
{
    const struct learner_options *options = &learner->options;
    for (int64_t update = 0; update < options->updates; update++) {
        struct step_metrics metrics;
        if (compute_step(learner, batch->examples, batch->count, &metrics) != 0)
            return EX_SOFTWARE;
        int64_t step = trainer_steps(learner->trainer);
        char *numbers = metrics_text(options->objective, &metrics);
        struct frame metric = frame_make(FRAME_metric);
        metric.metric.subject = options->run;
        metric.metric.step = step;
        metric.metric.numbers = numbers;
        int given = edge_give(learner->edge, &metric);
        free(numbers);
        if (given != 0)
            return EX_DATAERR;
        progress_note(progress, &metrics);
        progress_set(progress, step);
        if ((step % options->refresh == 0 && !(last && update + 1 == options->updates))
            && give_checkpoint(learner, "weights", next_batch, false) != 0)
            return EX_DATAERR;
    }
    int64_t step = trainer_steps(learner->trainer);
    int given = 0;
    if (last)
        given = give_final(learner, next_batch);
    else if (step / options->checkpoint_every != (step - options->updates) / options->checkpoint_every)
        given = give_checkpoint(learner, "full", next_batch, false);
    return given == 0 ? EX_OK : EX_DATAERR;
}

/* A batch of a run as its rollouts come in. */
struct incoming {
    struct dataset data;
    int64_t next_batch;  // the number of this batch, or of the one after the last
    int64_t cursor;      // the batch after the last that was trained on: where a checkpoint of these weights resumes
    int64_t taken;       // rollouts of this batch that have come, also those left out
    int64_t left_out;    // of all batches: longer than the model's context
    bool final;          // the run's last batch has come, and its final checkpoint is given
};

/* 0 when the rollout was taken or left out, -1 when training cannot go on. */
static int incoming_add(struct learner *learner, struct incoming *incoming, const struct frame_target *target)
{
    char reason[256];
    if (incoming->taken == 0)
        incoming->next_batch = target->batch;  // a batch whose rollouts all failed is left out
    int added = dataset_add_target(&incoming->data, target, learner->config, learner->tokenizer, reason);
    if (added < 0) {
        log_error("cannot train on rollout prompt=%s sample=%lld: %s", target->prompt_key, (long long)target->sample, reason);
        return -1;
    }
    if (added > 0) {
        log_error("left out rollout prompt=%s sample=%lld: %s", target->prompt_key, (long long)target->sample, reason);
        incoming->left_out++;
    }
    incoming->taken++;
    return 0;
}

/* Trains on the batch, which is whole, and begins the next.  Returns an exit code. */
static int incoming_train(struct learner *learner, struct incoming *incoming, int64_t batches, struct progress *progress)
{
    int code = EX_OK;
    progress->total = batches * learner->options.updates;
    if (learner->options.decay)
        learner->settings.total_steps = progress->total;
    incoming->next_batch++;
    incoming->final = incoming->next_batch == batches;
    if (incoming->data.count > 0) {
        incoming->cursor = incoming->next_batch;
        code = train_batch(learner, &incoming->data, incoming->cursor, incoming->final, progress);
    } else if (incoming->final && trainer_steps(learner->trainer) > 0 && give_final(learner, incoming->cursor) != 0) {
        code = EX_DATAERR;
    }
    dataset_reset(&incoming->data);
    incoming->taken = 0;
    return code;
}

/* Its last batch has come, and no rollout of any could be trained on. */
static bool run_is_empty(const struct learner *learner, const struct incoming *incoming)
{
    return incoming->final && trainer_steps(learner->trainer) == 0;
}

/* What remains to be said and given once no more batches come.  Returns an exit code. */
static int incoming_end(struct learner *learner, const struct incoming *incoming, enum edge_status status)
{
    if (incoming->left_out > 0)
        log_event("run \"%s\" left_out=%lld rollouts longer than the model's context of %lld tokens", learner->options.run,
                  (long long)incoming->left_out, (long long)learner->config->position_max);
    int given = 0;
    if (run_is_empty(learner, incoming) || (status == EDGE_END && trainer_steps(learner->trainer) == 0)) {
        log_error("run \"%s\" has nothing to train on: no rollout of it has a target that the model has room for",
                  learner->options.run);
        log_hint("'store status' shows what was given up, 'store retry' offers it again");
        return EX_DATAERR;
    }
    if (status == EDGE_END && !incoming->final)
        given = give_final(learner, incoming->cursor);
    else if (status == EDGE_STOPPED && trainer_steps(learner->trainer) > 0)
        given = give_checkpoint(learner, "full", incoming->cursor, false);  // nothing is trained again
    return given == 0 ? EX_OK : EX_DATAERR;
}

enum edge_status learner_run_store(struct learner *learner, int *code)
{
    struct incoming incoming = { 0 };
    *code = team_open(learner);
    if (*code == EX_OK && resume_from_store(learner, &incoming.next_batch) != 0)
        *code = EX_DATAERR;
    if (*code != EX_OK)
        return EDGE_FAILED;
    team_share(learner);
    incoming.cursor = incoming.next_batch;
    dataset_init(&incoming.data);
    struct progress progress;
    progress_start(&progress, "trained", "steps", 0);
    progress.begun = progress.done = trainer_steps(learner->trainer);
    struct batch frames;
    enum edge_status status = EDGE_FAILED;
    while (*code == 0 && !run_is_empty(learner, &incoming)
           && (status = edge_take(learner->edge, &frames, (size_t)learner->options.batch, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < frames.count && *code == 0; i++) {
            const struct frame_target *target = &frames.frames[i].target;
            if (target->batch < incoming.next_batch)
                continue;  // sent before this worker resumed
            if (incoming_add(learner, &incoming, target) != 0)
                *code = EX_DATAERR;
            else if (incoming.taken == target->batch_size)
                *code = incoming_train(learner, &incoming, target->batches, &progress);
        }
        edge_done(learner->edge, &frames);
    }
    progress_end(&progress);
    if (*code == EX_OK)
        *code = incoming_end(learner, &incoming, status);
    dataset_free(&incoming.data);
    return *code == 0 ? status : EDGE_FAILED;
}

/* ---- between pipes ---- */

static enum edge_status read_all(struct learner *learner, struct dataset *data, int64_t *left_out)
{
    struct batch frames;
    enum edge_status status;
    char reason[256], said[256] = "";  // one reason that all examples share is said once
    while ((status = edge_take(learner->edge, &frames, 256, true)) == EDGE_BATCH) {
        for (size_t i = 0; i < frames.count; i++) {
            const struct frame *frame = &frames.frames[i];
            int added = frame->type == FRAME_target
                            ? dataset_add_target(data, &frame->target, learner->config, learner->tokenizer, reason)
                            : dataset_add_document(data, &frame->prompt, learner->config, learner->tokenizer, reason);
            if (added != 0) {
                if (strcmp(reason, said) != 0)
                    log_error("left out an example: %s", reason);
                memcpy(said, reason, sizeof said);
                ++*left_out;
            }
        }
        edge_done(learner->edge, &frames);
    }
    if (*left_out > 1)
        log_error("left out examples=%lld", (long long)*left_out);
    return status;
}

/* What the checkpoint file must have been made with to be resumed, as words NAME=VALUE. */
static char *cursor_text(const struct learner *learner, const struct dataset *data)
{
    char key[KEY_SIZE];
    dataset_key(data, key);
    const struct learner_options *options = &learner->options;
    const struct trainer_options *settings = &learner->settings;
    return memory_printf("data=%s batch=%lld parts=%lld epochs=%lld updates=%lld seed=%llu products=%s init=%s lr=%.9g schedule=%s "
                         "warmup=%lld weight-decay=%.9g clip=%.9g", key, (long long)options->batch, (long long)settings->parts,
                         (long long)options->epochs, (long long)options->updates, (unsigned long long)options->seed,
                         settings->products == PRODUCTS_BF16 ? "bf16" : "float32", learner->init_key, settings->learning_rate,
                         options->decay ? "cosine" : "constant", (long long)settings->warmup_steps, settings->weight_decay,
                         settings->clip_norm);
}

/* Names the first word that differs. */
static void say_other_run(const char *path, const char *found, const char *cursor)
{
    size_t there = strcspn(found, " "), here = strcspn(cursor, " ");
    while (there == here && there > 0 && memcmp(found, cursor, there) == 0) {
        found += there + strspn(found + there, " ");
        cursor += here + strspn(cursor + here, " ");
        there = strcspn(found, " "), here = strcspn(cursor, " ");
    }
    log_error("checkpoint \"%s\" is of another run: it was begun with \"%.*s\", this one with \"%.*s\"", path, (int)there, found,
              (int)here, cursor);
    log_hint("remove it to begin anew");
}

/* The metrics of its steps are in their file before it. */
static int save_file(const struct learner *learner, const char *path, const char *cursor, FILE *metrics_file)
{
    struct buffer content = { 0 };
    fflush(metrics_file);
    trainer_save(learner->trainer, true, cursor, &content);
    int result = file_write(path, content.data, content.size);
    free(content.data);
    return result;
}

static int resume_from_file(struct learner *learner, const char *path, const char *cursor)
{
    if (!file_exists(path))
        return 0;
    int code;
    struct weights *checkpoint = weights_open(path, &code);
    if (checkpoint == NULL)
        return -1;
    const char *found = weights_metadata(checkpoint, "cursor");
    int result = -1;
    if (found == NULL || strcmp(found, cursor) != 0) {
        say_other_run(path, found != NULL ? found : "", cursor);
    } else if ((result = trainer_load(learner->trainer, checkpoint, path)) == 0) {
        log_event("resumes \"%s\" at step=%lld", path, (long long)trainer_steps(learner->trainer));
    }
    weights_close(checkpoint);
    return result;
}

/* Batch number b of the whole run: the next examples in that epoch's order. */
static size_t gather(const struct learner *learner, const struct dataset *data, int64_t b, uint32_t *order, int64_t *order_epoch,
                     struct example *out)
{
    size_t size = (size_t)learner->options.batch;
    int64_t per_epoch = (int64_t)((data->count + size - 1) / size);
    int64_t epoch = b / per_epoch;
    if (*order_epoch != epoch) {
        philox_shuffle(order, data->count, learner->options.seed, (uint64_t)epoch);
        *order_epoch = epoch;
    }
    size_t first = (size_t)(b % per_epoch) * size, count = data->count - first < size ? data->count - first : size;
    for (size_t i = 0; i < count; i++)
        out[i] = data->examples[order[first + i]];
    return count;
}

/* Updates that all epochs make. */
static int64_t steps_of(const struct learner_options *options, const struct dataset *data)
{
    int64_t per_epoch = ((int64_t)data->count + options->batch - 1) / options->batch;
    return per_epoch * options->epochs * options->updates;
}

/* The file of metrics, a line a step, behind the line of the last of these steps.  NULL, logged. */
static FILE *metrics_open(const char *directory, int64_t steps)
{
    char *path = memory_printf("%s/metrics.jsonl", directory);
    FILE *file = fopen(path, steps > 0 ? "r+" : "w");
    if (file == NULL && steps > 0 && errno == ENOENT)
        file = fopen(path, "w");
    off_t end = 0;
    for (int c; file != NULL && steps > 0 && (c = getc(file)) != EOF; ) {
        if (c == '\n') {
            end = ftello(file);
            steps--;
        }
    }
    if (file == NULL || ftruncate(fileno(file), end) != 0 || fseeko(file, end, SEEK_SET) != 0) {
        log_error("could not write \"%s\": %s", path, strerror(errno));
        if (file != NULL)
            fclose(file);
        file = NULL;
    }
    free(path);
    return file;
}

static int64_t longest_of(const struct dataset *data)
{
    size_t longest = 0;
    for (size_t i = 0; i < data->count; i++)
        longest = data->examples[i].T > longest ? data->examples[i].T : longest;
    return (int64_t)longest;
}

/* Returns an exit code; EX_OK also when a signal came first, and the checkpoint is then as far as the weights. */
static int train_data(struct learner *learner, const struct dataset *data, const char *checkpoint_path, const char *cursor)
{
    const struct learner_options *options = &learner->options;
    FILE *metrics_file = metrics_open(options->output, trainer_steps(learner->trainer));
    if (metrics_file == NULL)
        return EX_IOERR;
    team_share(learner);

    int64_t steps = steps_of(options, data);
    uint32_t *order = memory_alloc(data->count, sizeof *order);
    struct example *batch = memory_alloc((size_t)options->batch, sizeof *batch);
    int64_t order_epoch = -1;
    struct progress progress;
    progress_start(&progress, "trained", "steps", steps);
    progress.begun = progress.done = trainer_steps(learner->trainer);
    int code = EX_OK;
    for (int64_t step; code == EX_OK && !stop_requested() && (step = trainer_steps(learner->trainer)) < steps; ) {
        size_t count = gather(learner, data, step / options->updates, order, &order_epoch, batch);
        struct step_metrics metrics;
        if (compute_step(learner, batch, count, &metrics) != 0) {
            code = EX_SOFTWARE;
            break;
        }
        char *numbers = metrics_text(options->objective, &metrics);
        fprintf(metrics_file, "{\"step\":%lld,%s\n", (long long)step + 1, numbers + 1);
        free(numbers);
        progress_note(&progress, &metrics);
        progress_set(&progress, step + 1);
        if ((step + 1) % options->checkpoint_every == 0 && step + 1 < steps
            && save_file(learner, checkpoint_path, cursor, metrics_file) != 0)
            code = EX_IOERR;
    }
    progress_end(&progress);
    if (code == EX_OK && stop_requested() && save_file(learner, checkpoint_path, cursor, metrics_file) != 0)
        code = EX_IOERR;
    free(batch);
    free(order);
    bool lost = ferror(metrics_file);
    if (fclose(metrics_file) != 0 || lost) {
        log_error("could not write \"%s/metrics.jsonl\": %s", options->output, strerror(errno));
        return code == EX_OK ? EX_IOERR : code;
    }
    return code;
}

/* Trains on the whole input and writes the model; *status becomes EDGE_STOPPED when a signal came first.  Returns an exit code. */
static int train_and_export(struct learner *learner, const struct dataset *data, enum edge_status *status)
{
    const char *output = learner->options.output;
    int code = team_open(learner);
    if (code != EX_OK)
        return code;
    if (directory_make(output) != 0)
        return EX_IOERR;
    char *path = memory_printf("%s/checkpoint.safetensors", output);
    char *cursor = cursor_text(learner, data);
    code = resume_from_file(learner, path, cursor) == 0 ? train_data(learner, data, path, cursor) : EX_CONFIG;
    if (code == EX_OK && trainer_steps(learner->trainer) < steps_of(&learner->options, data))
        *status = EDGE_STOPPED;
    else if (code == EX_OK && learner_export(learner) != 0)
        code = EX_IOERR;
    else if (code == EX_OK && unlink(path) != 0 && errno != ENOENT)
        log_error("could not remove \"%s\": %s", path, strerror(errno));
    free(path);
    free(cursor);
    return code;
}

enum edge_status learner_run_pipe(struct learner *learner, int *code)
{
    struct dataset data;
    dataset_init(&data);
    int64_t left_out = 0;
    *code = EX_OK;
    enum edge_status status = read_all(learner, &data, &left_out);
    if (status == EDGE_END && data.count == 0) {
        log_error("nothing to train on: no example came in");
        *code = EX_DATAERR;
    } else if (status == EDGE_END) {
        if (learner->options.decay)
            learner->settings.total_steps = steps_of(&learner->options, &data);
        learner->settings.longest_tokens = longest_of(&data);
        *code = train_and_export(learner, &data, &status);
    }
    if (left_out > 0 && *code == EX_OK)
        *code = EX_DATAERR;
    dataset_free(&data);
    return status;
}
