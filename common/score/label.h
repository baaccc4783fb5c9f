/*
 * label.h - which of a classification head's numbers are the score.
 */
#ifndef SCORE_LABEL_H
#define SCORE_LABEL_H

#include <jansson.h>
#include <stddef.h>

/* The score is the number of label plus, less that of label minus unless it is LABEL_NONE. */
struct label {
    size_t plus, minus;
};
#define LABEL_NONE ((size_t)-1)

/*
 * text: a label's name or index, or A-B for the difference of two; NULL: the only one.  config is the model's config.json, whose
 * id2label has the names.  0, or -1 when it names none or several, logged with all there are.  name is for messages.
 */
int label_choose(struct label *label, const char *text, const json_t *config, size_t label_count, const char *name);

#endif
