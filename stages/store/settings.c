/* settings.c - see settings.h. */
#include "store/settings.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "store/db.h"

static const char *const stage_names[STAGE_COUNT] = { "tokenize", "rollout", "reward", "value-target", "train", "decode", "fetch" };

const char *stage_name(enum worker_stage stage)
{
    return stage_names[stage];
}

const char *settings_name(const struct settings *settings)
{
    switch (settings->stage) {
    case STAGE_TOKENIZE: return settings->tokenizer;
    case STAGE_REWARD:   return settings->reward;
    case STAGE_ROLLOUT:
    case STAGE_DECODE:   return settings->policy;
    default:             return settings->run;
    }
}

enum presence { MAY, MUST };

/* A name: a text of 1 to NAME_BYTES bytes. */
static int read_name(const struct settings *settings, const char *key, enum presence presence, const char **out, char *reason)
{
    const json_t *value = json_object_get(settings->json, key);
    if (value == NULL && presence == MAY)
        return 0;
    const char *text = json_string_value(value);
    size_t size = text ? strlen(text) : 0;
    if (size < 1 || size > NAME_BYTES || size != json_string_length(value)) {
        snprintf(reason, STORE_REASON_BYTES, "setting \"%s\" of stage \"%s\" must be a text of 1 to %d bytes", key,
                 stage_name(settings->stage), NAME_BYTES);
        return -1;
    }
    *out = text;
    return 0;
}

static int read_object(const struct settings *settings, const char *key, const json_t **out, char *reason)
{
    *out = json_object_get(settings->json, key);
    if (json_is_object(*out))
        return 0;
    snprintf(reason, STORE_REASON_BYTES, "setting \"%s\" of stage \"%s\" must be an object", key, stage_name(settings->stage));
    return -1;
}

static int read_samples(struct settings *settings, char *reason)
{
    const json_t *value = json_object_get(settings->json, "samples");
    settings->samples = json_integer_value(value);
    if (json_is_integer(value) && settings->samples >= 1 && settings->samples <= 1048576)
        return 0;
    snprintf(reason, STORE_REASON_BYTES, "setting \"samples\" of stage \"%s\" must be a whole number from 1 to 1048576",
             stage_name(settings->stage));
    return -1;
}

static int read_fields(struct settings *settings, char *reason)
{
    switch (settings->stage) {
    case STAGE_TOKENIZE:
        if (read_name(settings, "tokenizer", MUST, &settings->tokenizer, reason) != 0
            || read_name(settings, "policy", MAY, &settings->policy, reason) != 0)
            return -1;
        return read_name(settings, "reward", MAY, &settings->reward, reason);
    case STAGE_ROLLOUT:
    case STAGE_DECODE:
        if (json_object_get(settings->json, "policy") == NULL)
            return 0;
        if (read_name(settings, "policy", MUST, &settings->policy, reason) != 0
            || read_name(settings, "split", MUST, &settings->split, reason) != 0
            || read_object(settings, "spec", &settings->spec, reason) != 0)
            return -1;
        return read_samples(settings, reason);
    case STAGE_REWARD:
        if (read_name(settings, "reward", MUST, &settings->reward, reason) != 0
            || read_name(settings, "policy", MAY, &settings->policy, reason) != 0
            || read_name(settings, "split", MAY, &settings->split, reason) != 0)
            return -1;
        return read_object(settings, "spec", &settings->spec, reason);
    case STAGE_VALUE_TARGET:
    case STAGE_TRAIN:
        if (json_object_get(settings->json, "run") == NULL)
            return 0;
        if (read_name(settings, "run", MUST, &settings->run, reason) != 0)
            return -1;
        return read_object(settings, settings->stage == STAGE_TRAIN ? "train" : "target", &settings->part, reason);
    case STAGE_FETCH:
        return 0;
    case STAGE_COUNT:
        break;
    }
    CHECK(!"a stage is one of the seven");
    return -1;
}

int settings_read(struct settings *settings, const struct frame_hello *hello, char *reason)
{
    *settings = (struct settings){ .tokenizer = "", .policy = "", .reward = "", .run = "", .split = "" };
    while (settings->stage < STAGE_COUNT && strcmp(hello->stage, stage_names[settings->stage]) != 0)
        settings->stage++;
    if (settings->stage == STAGE_COUNT) {
        snprintf(reason, STORE_REASON_BYTES,
                 "field \"stage\" is \"%s\", must be tokenize, rollout, reward, value-target, train, decode"
                 " or fetch",
                 hello->stage);
        return -1;
    }
    json_error_t error;
    settings->json = json_loads(hello->settings, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(settings->json)) {
        snprintf(reason, STORE_REASON_BYTES, "field \"settings\" is not a JSON object: %s",
                 settings->json ? "other type" : error.text);
        return -1;
    }
    return read_fields(settings, reason);
}

void settings_free(struct settings *settings)
{
    json_decref(settings->json);
    settings->json = NULL;
}
