/*
 * retokenize.h - a rollout in the tokens of another tokenizer: a value model that does not share the base policy's
 * vocabulary is trained on, and asked about, the text.
 */
#ifndef TEXT_RETOKENIZE_H
#define TEXT_RETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>

#include "text/tokenizer.h"

/* Appends the ids of a text that goes on, or with ended has its end token behind it (where the tokenizer has one). */
void retokenize_text(const struct tokenizer *tokenizer, const char *text, size_t size, bool ended, struct token_list *ids);

/*
 * Appends the ids of prompt and response as one text.  Returns P, how many of them the prompt alone begins with, at least 1:
 * state n of the response is read at index P - 1 + n.
 */
size_t retokenize_rollout(const struct tokenizer *tokenizer, const char *prompt, const char *response, bool stopped,
                          struct token_list *ids);

#endif
