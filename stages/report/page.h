/*
 * page.h - a survey as one HTML page with its pictures inside: no script, nothing loaded from elsewhere, for light and
 * dark screens.
 */
#ifndef REPORT_PAGE_H
#define REPORT_PAGE_H

#include "base/memory.h"
#include "report/survey.h"

void page_write(struct buffer *out, const struct survey *survey);

#endif
