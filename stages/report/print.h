/*
 * print.h - a survey as text for a terminal and as JSON.
 *
 * Responses are hostile text: what could move a terminal's cursor or turn the direction of writing comes out as U+FFFD.
 */
#ifndef REPORT_PRINT_H
#define REPORT_PRINT_H

#include <jansson.h>
#include <stddef.h>

#include "base/memory.h"
#include "report/survey.h"

/* Tables, failures and sample texts, lines at most width columns wide (>= 40) where that can be. */
void print_text(struct buffer *out, const struct survey *survey, size_t width);

/* The caller json_decref()s. */
json_t *survey_json(const struct survey *survey);

/* How many digits after the point the estimate deserves. */
int estimate_digits(struct estimate estimate);
/* With so many digits after the point; very large numbers as powers of ten. */
void number_text(char text[32], double number, int digits);

/* The next character of text, at least one byte of it; U+FFFD for bytes that are no UTF-8 and for what steers a terminal. */
size_t text_next(const char *text, int32_t *code);

/* Text in two or more columns of the same width, wrapped at spaces, separated by two spaces. */
void print_columns(struct buffer *out, const char *const *texts, size_t count, size_t width);

#endif
