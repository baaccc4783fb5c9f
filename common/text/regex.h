/*
 * regex.h - the regular expressions of pre-tokenizers: Oniguruma's language as the tokenizers library uses it, run by PCRE2.
 *
 * What the two read differently is translated: \s, \w, \d, \h, \p{L}, \p{Han}, [:punct:] and their like stand for the same
 * characters as there, which knows Unicode 16, \b for the ends of words of these, ^ and $ for the ends of lines.  Nested,
 * intersected and negated ([:^) character classes are refused.  A script lacks the characters that are newer than PCRE2.
 */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>

struct regex;

/* literal: pattern is a text, not an expression.  name is how errors call the file.  NULL on failure, logged. */
struct regex *regex_compile(const char *pattern, size_t size, bool literal, const char *name);
void regex_free(struct regex *regex);

const char *regex_pattern(const struct regex *regex);
bool regex_is_literal(const struct regex *regex);
bool regex_may_be_empty(const struct regex *regex);  // whether it matches nothing in some text

/* What one thread needs to match.  Zero-initialise. */
struct regex_scratch {
    void *match, *context, *stack;
};
void regex_scratch_free(struct regex_scratch *scratch);

/*
 * The first match in text (valid UTF-8) at or after from, as [*start, *end): an empty one only behind from, as Oniguruma goes
 * on from the end of a match.  False when there is none.
 * An expression that backtracks without end is cut short: one logged line, and no match.
 */
bool regex_next(const struct regex *regex, struct regex_scratch *scratch, const char *text, size_t size, size_t from,
                size_t *start, size_t *end);

#endif
