/*
 * line_options.h - what a line of prompts asks for itself, in place of what the command line says.
 *
 *     {"prompt": "One day", "decode": {"beta": 5, "temperature": 0.7, "top_p": 1, "top_k": 0, "seed": 1, "max_new_tokens": 32}}
 *
 * Beside several value models beta is a list, a number for each --value.
 */
#ifndef DECODE_LINE_OPTIONS_H
#define DECODE_LINE_OPTIONS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "sample/generate.h"

struct line_options {
    struct sampling sampling;
    int64_t seed, max_new_tokens;
    double betas[VALUE_MODELS_MAX];
};

/*
 * Puts what json names into options, which hold what is not named or null.  values: (value_count) those that --value names.
 * 0, or -1 with one line of reason.
 */
int line_options_read(struct line_options *options, const json_t *json, const struct value_model *values, size_t value_count,
                      char reason[256]);

#endif
