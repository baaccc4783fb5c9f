/* line_options.c - see line_options.h. */
#include "decode/line_options.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

static const struct {
    const char *name;
    bool whole;       // int64_t, else double
    double min, max;
    size_t offset;    // bytes, in struct line_options
} numbers[] = {
    { "temperature", false, 0, TEMPERATURE_MAX, offsetof(struct line_options, sampling.temperature) },
    { "top_p", false, TOP_P_MIN, 1, offsetof(struct line_options, sampling.top_p) },
    { "top_k", true, 0, TOP_K_MAX, offsetof(struct line_options, sampling.top_k) },
    { "seed", true, 0, SEED_MAX, offsetof(struct line_options, seed) },
    { "max_new_tokens", true, 1, NEW_TOKENS_MAX, offsetof(struct line_options, max_new_tokens) },
};

static int number_check(const char *name, const json_t *value, bool whole, double min, double max, char reason[256])
{
    if (whole ? !json_is_integer(value) : !json_is_number(value)) {
        snprintf(reason, 256, "\"%s\" under \"decode\" is no %snumber", name, whole ? "whole " : "");
        return -1;
    }
    if (json_number_value(value) < min || json_number_value(value) > max) {
        // 16 digits tell SEED_MAX from the next number.
        snprintf(reason, 256, "\"%s\" under \"decode\" is %.16g, must be from %.16g to %.16g", name, json_number_value(value), min,
                 max);
        return -1;
    }
    return 0;
}

static int betas_read(double betas[VALUE_MODELS_MAX], const json_t *json, const struct value_model *values, size_t value_count,
                      char reason[256])
{
    size_t count = json_is_array(json) ? json_array_size(json) : 1;
    if (value_count == 0) {
        snprintf(reason, 256, "\"beta\" under \"decode\" is for value models, and there is no --value");
        return -1;
    }
    if (count != value_count) {
        snprintf(reason, 256, "\"beta\" under \"decode\" has %zu numbers, must have %zu, one for each --value", count, value_count);
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *beta = json_is_array(json) ? json_array_get(json, i) : json;
        if (number_check("beta", beta, false, -BETA_MAX, BETA_MAX, reason) != 0)
            return -1;
        betas[i] = json_number_value(beta);
        if (values[i].beta == 0 && betas[i] != 0) {
            snprintf(reason, 256, "\"beta\" under \"decode\" is %g for \"%.100s\", which was not read, since --value says :0",
                     betas[i], values[i].name);
            return -1;
        }
    }
    return 0;
}

int line_options_read(struct line_options *options, const json_t *json, const struct value_model *values, size_t value_count,
                      char reason[256])
{
    if (!json_is_object(json)) {
        snprintf(reason, 256, "\"decode\" is no object");
        return -1;
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)json, name, value) {
        if (json_is_null(value))
            continue;
        if (strcmp(name, "beta") == 0) {
            if (betas_read(options->betas, value, values, value_count, reason) != 0)
                return -1;
            continue;
        }
        size_t i = 0;
        while (i < COUNT_OF(numbers) && strcmp(numbers[i].name, name) != 0)
            i++;
        if (i == COUNT_OF(numbers)) {
            snprintf(reason, 256, "\"decode\" has \"%.100s\", knows beta, temperature, top_p, top_k, seed and max_new_tokens",
                     name);
            return -1;
        }
        if (number_check(name, value, numbers[i].whole, numbers[i].min, numbers[i].max, reason) != 0)
            return -1;
        void *target = (char *)options + numbers[i].offset;
        if (numbers[i].whole)
            *(int64_t *)target = json_integer_value(value);
        else
            *(double *)target = json_number_value(value);
    }
    return 0;
}
