/*
 * tokenizer_json.h - the parts of tokenizer_json.c: fields of an object, the model, the steps.
 *
 * Everything here that fails has said why.
 */
#ifndef TEXT_TOKENIZER_JSON_H
#define TEXT_TOKENIZER_JSON_H

#include <jansson.h>

#include "text/tokenizer_parts.h"

enum {
    DEPTH_MAX = 8,          // Sequences inside Sequences
    TEXT_SIZE_MAX = 256,    // bytes of what a step looks for or puts in
    NUMBER_MAX = 1 << 20,   // of a count
};

/* The string at key, or fallback where it is missing or null.  NULL when it is of another type or too long. */
const char *json_text_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, const char *fallback);
/* The flag or count at key, or fallback where it is missing or null.  0, or -1 when it is of another type or too large. */
int json_flag_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, bool fallback, bool *out);
int json_count_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, size_t fallback, size_t *out);

/* Where name stands among names; count when it is none of them. */
size_t json_name_index(const char *name, const char *const *names, size_t count);

/* "the PART kind "TYPE" is not supported"; -1. */
int json_refuse_kind(const struct tokenizer *tokenizer, const char *part, const char *type);

/* A kind of step and what reads it. */
struct json_step_kind {
    const char *type;
    int (*read)(struct tokenizer *tokenizer, const json_t *step);
};
/* The kinds of a part: one of them, or as a Sequence the list of several. */
struct json_steps {
    const char *part;      // how errors call it
    const char *list_key;  // of a Sequence
    const struct json_step_kind *kinds;
    size_t kind_count;
};
extern const struct json_steps json_normalizers, json_pretokenizers, json_postprocessors, json_decoders;

/* The "model" of a tokenizer.json into the tokenizer's vocabulary and merges, pieces or words.  0 or -1. */
int json_read_model(struct tokenizer *tokenizer, const json_t *model);

#endif
