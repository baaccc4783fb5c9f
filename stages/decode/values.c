/* values.c - see values.h. */
#include "decode/values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "wire/edge.h"
#include "wire/remote_model.h"

/* NAME[:BETA].  A colon that no number follows belongs to the name. */
static char *split_spec(const char *spec, double *beta)
{
    char *name = memory_text(spec), *colon = strrchr(name, ':'), *end;
    if (colon != NULL && colon[1] != '\0') {
        double number = strtod(colon + 1, &end);
        if (*end == '\0' && isfinite(number)) {
            *beta = number;
            *colon = '\0';
        }
    }
    return name;
}

/* RUN[@STEP]: the run's name; *step is -1, the newest, where there is none.  The caller frees. */
static char *split_run(const char *name, int64_t *step)
{
    char *run = memory_text(name), *at = strrchr(run, '@'), *end;
    *step = -1;
    if (at != NULL && at[1] >= '0' && at[1] <= '9') {
        long long number = strtoll(at + 1, &end, 10);
        if (*end == '\0' && number < INT_HIGH) {
            *step = number;
            *at = '\0';
        }
    }
    return run;
}

/* Counts a value model with the others of its base; *trunk is NULL where it has its weights for itself.
   0, or the exit code, logged. */
static int trunk_add(struct values *values, const struct value_model *value, struct trunk **trunk)
{
    int code = EX_OK;
    *trunk = NULL;
    if (value->beta == 0 || !adapter_is_directory(value->name) || !adapter_is_low_rank(value->name, &code))
        return code;
    char *base = adapter_base_path(value->name, &code), *path = base != NULL ? realpath(base, NULL) : NULL;
    free(base);
    if (path == NULL)
        return code;
    size_t t = 0;
    while (t < values->trunk_count && strcmp(path, values->trunks[t].path) != 0)
        t++;
    if (t == values->trunk_count)
        values->trunks[values->trunk_count++].path = path;
    else
        free(path);
    *trunk = &values->trunks[t];
    (*trunk)->adapters++;
    return EX_OK;
}

static int open_adapter(struct value_model *value, struct trunk *trunk, enum tensor_type quant, bool keep_packed, struct pool *pool)
{
    int code = EX_OK;
    value->tokenizer_key = tokenizer_key_of_model(trunk->path, &code);
    if (value->tokenizer_key != NULL && trunk->model == NULL)
        trunk->model = model_open_quantised(trunk->path, quant, keep_packed, pool, &code);
    if (trunk->model != NULL)
        value->model = model_open_adapter(value->name, trunk->model, &code);
    return value->model != NULL ? EX_OK : code;
}

static int open_path(struct value_model *value, enum tensor_type quant, bool keep_packed, const char *endpoint, struct pool *pool)
{
    const char *path = value->name;
    int code = model_fetch(&path, endpoint);
    if (code != EX_OK)
        return code;
    value->tokenizer_key = tokenizer_key_of_model(path, &code);
    if (value->tokenizer_key != NULL)
        value->model = model_open_quantised(path, quant, keep_packed, pool, &code);
    return value->model != NULL ? EX_OK : code;
}

static int open_run(struct value_model *value, enum tensor_type quant, struct edge *edge, struct pool *pool)
{
    struct buffer content = { 0 };
    int64_t wanted, step;
    char *run = split_run(value->name, &wanted);
    int fetched = edge_fetch(edge, run, wanted, "weights", &content, &step), code = EX_UNAVAILABLE;
    free(run);
    if (fetched != 0) {
        if (fetched > 0) {
            log_error("value model \"%s\" is no path, and the store has no weights of such a run%s", value->name,
                      wanted < 0 ? "" : " and step");
            code = EX_NOINPUT;
        }
        free(content.data);
        return code;
    }
    code = EX_DATAERR;
    struct weights *weights = weights_from_memory(content.data, content.size, value->name);
    struct model_config config;
    if (weights != NULL && model_config_from_checkpoint(&config, weights, value->name) == 0) {
        const char *key = weights_metadata(weights, "tokenizer");
        value->tokenizer_key = memory_text(key != NULL ? key : "unknown");
        value->model = model_from_weights_quantised(weights, &config, value->name, quant, pool, &code);
    }
    if (value->model != NULL)
        log_event("fetched value model \"%s\" step=%lld", value->name, (long long)step);
    weights_close(weights);
    free(content.data);
    return value->model != NULL ? EX_OK : code;
}

static bool is_path(const char *name)
{
    return file_exists(name) || file_is_directory(name);
}

int values_open(struct values *values, const struct option_list *specs, double beta, enum tensor_type quant, bool keep_packed,
                const char *endpoint, struct pool *pool)
{
    *values = (struct values){ 0 };
    if (specs->count > VALUE_MODELS_MAX) {
        log_error("--value is given %zu times, must be at most %d", specs->count, VALUE_MODELS_MAX);
        return EX_USAGE;
    }
    struct trunk *trunks[VALUE_MODELS_MAX];
    struct edge *edge = NULL;
    int code = EX_OK;
    for (size_t i = 0; i < specs->count && code == EX_OK; i++) {
        struct value_model *value = &values->models[values->count++];
        value->beta = beta;
        value->name = split_spec(specs->items[i], &value->beta);
        if (fabs(value->beta) > BETA_MAX) {
            log_error("beta of --value \"%s\" is %g, must be from %g to %g", specs->items[i], value->beta, -(double)BETA_MAX,
                      (double)BETA_MAX);
            code = EX_USAGE;
        } else {
            code = trunk_add(values, value, &trunks[i]);
        }
    }
    for (size_t i = 0; i < values->count && code == EX_OK; i++) {
        struct value_model *value = &values->models[i];
        if (value->beta == 0)
            continue;
        if (trunks[i] != NULL && trunks[i]->adapters > 1) {
            code = open_adapter(value, trunks[i], quant, keep_packed, pool);
        } else if (is_path(value->name) || model_is_remote(value->name)) {
            code = open_path(value, quant, keep_packed, endpoint, pool);
        } else if (endpoint == NULL) {
            log_error("could not open value model \"%s\": no such file or directory", value->name);
            log_hint("for a training run name its store with --store");
            code = EX_NOINPUT;
        } else {
            if (edge == NULL)
                edge = edge_open(&(struct edge_options){ .endpoint = endpoint, .stage = "decode", .hold_max = 1,
                                     .settings = "{}", .takes_nothing = true }, &code);
            if (edge != NULL)
                code = open_run(value, quant, edge, pool);
        }
    }
    if (edge != NULL) {
        int closed = edge_close(edge, code == EX_OK ? EDGE_END : EDGE_FAILED);
        code = code != EX_OK ? code : closed;
    }
    return code;
}

int values_use_tokenizers(struct values *values, const struct option_list *paths, const struct tokenizer *base)
{
    if (paths->count > VALUE_MODELS_MAX) {
        log_error("--value-tokenizer is given %zu times, must be at most %d", paths->count, VALUE_MODELS_MAX);
        return EX_USAGE;
    }
    for (size_t t = 0; t < paths->count; t++) {
        int code;
        struct tokenizer *tokenizer = tokenizer_open(paths->items[t], &code);
        if (tokenizer == NULL)
            return code;
        values->tokenizers[values->tokenizer_count++] = tokenizer;
        const char *key = tokenizer_key(tokenizer);
        for (size_t i = 0; i < values->count; i++) {
            struct value_model *value = &values->models[i];
            if (value->beta != 0 && strcmp(value->tokenizer_key, key) == 0 && strcmp(key, tokenizer_key(base)) != 0)
                value->tokenizer = tokenizer;
        }
    }
    return EX_OK;
}

void values_close(struct values *values)
{
    for (size_t i = 0; i < values->tokenizer_count; i++)
        tokenizer_close(values->tokenizers[i]);
    for (size_t i = 0; i < values->count; i++) {
        model_close((struct model *)values->models[i].model);
        free((void *)values->models[i].tokenizer_key);
        free((void *)values->models[i].name);
    }
    for (size_t t = 0; t < values->trunk_count; t++) {
        model_close(values->trunks[t].model);
        free(values->trunks[t].path);
    }
    *values = (struct values){ 0 };
}

char *values_policy_name(const struct values *values)
{
    struct buffer name = { 0 };
    for (size_t i = 0; i < values->count; i++) {
        const char *path = values->models[i].name, *end = path + strlen(path);
        while (end > path + 1 && end[-1] == '/')
            end--;
        const char *last = end;
        while (last > path && last[-1] != '/')
            last--;
        if (values->models[i].beta != 0)
            buffer_printf(&name, "%s %.*s:%g", name.size == 0 ? "vas" : "", (int)(end - last), last,
                          values->models[i].beta);
    }
    if (name.size == 0)
        buffer_printf(&name, "base");
    buffer_append(&name, "", 1);
    return name.data;
}
