/*
 * pictures.h - the pictures of a report, each with a paragraph on how to read it.
 */
#ifndef REPORT_PICTURES_H
#define REPORT_PICTURES_H

#include "base/memory.h"
#include "report/survey.h"

/* Score against KL: a point for each policy, best-of-n, a line through the strengths of each value model. */
void picture_tradeoff(struct buffer *out, const struct comparison *comparison);

/* How the scores of each policy are spread, beside those of the base. */
void picture_histograms(struct buffer *out, const struct comparison *comparison);

/* Loss, values, explained variance and gradient norm against the step. */
void picture_curves(struct buffer *out, const struct run *run);

#endif
