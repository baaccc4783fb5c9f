/*
 * json.h - jansson with this project's errors: which text, which line, what is wrong.
 *
 * Duplicate keys are refused.  Note what jansson refuses and other readers accept: lone surrogates, NaN,
 * integers of 2^63 and more, and NUL in keys.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stddef.h>

/* name is how errors call it.  NULL on failure, logged.  The caller json_decref()s. */
json_t *json_parse(const char *text, size_t size, const char *name);
json_t *json_parse_line(const char *text, size_t size, const char *name, size_t line);  // line: its number in the file name
json_t *json_read(const char *path);

/* Compact, keys sorted: equal values give equal bytes.  The caller frees. */
char *json_text(const json_t *json);
/* The same for people: 0.95 as it was typed, not the 0.94999999999999996 that it is. */
char *json_text_readable(const json_t *json);

#endif
