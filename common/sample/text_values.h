/*
 * text_values.h - values of candidates through their text, by a value model whose tokenizer is not the base policy's.
 *
 * The state "text so far and candidate" is tokenized anew for each candidate.  Most of its tokens are those of the step before
 * and lie in the value model's cache; of a text's end a few are always run again, since the next characters
 * may change how they are cut.  Texts that are not in the cache any more are run from their beginning: what the cache
 * holds never shows in a value.
 *
 *     K candidates
 */
#ifndef SAMPLE_TEXT_VALUES_H
#define SAMPLE_TEXT_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"
#include "text/tokenizer.h"

struct text_values;

/* Everything is borrowed.  positions: what the cache should hold, all texts together; there is always room for one. */
struct text_values *text_values_open(const struct model *model, const struct tokenizer *tokenizer,
                                     const struct tokenizer *base_tokenizer, size_t positions);
void text_values_close(struct text_values *values);  // after all its texts

/* A text that grows by tokens of the base policy.  begins: the first token begins the text, so it loses its space. */
struct value_text;
struct value_text *value_text_open(struct text_values *values, const char *prompt, bool begins);
/* A copy; shares what is in the cache. */
struct value_text *value_text_fork(struct value_text *text);
void value_text_close(struct value_text *text);
void value_text_push(struct value_text *text, int32_t token);

struct value_ask {
    struct value_text *text;
    const int32_t *candidates;  // (K)
    size_t K;
    float *values;              // (K) out; NaN where the text with that candidate does not fit the value model
    bool too_long;              // out: with one of them it is longer than the value model's context
};
/* The values of all candidates of all texts.  Each text at most once. */
void text_values_get(struct text_values *values, struct value_ask *asks, size_t count);

#endif
