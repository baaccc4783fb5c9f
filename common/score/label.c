/* label.c - see label.h. */
#include "score/label.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

enum { LABELS_SHOWN = 32 };

/* As transformers calls label i; NULL when the config has no name for it. */
static const char *label_name(const json_t *config, size_t i)
{
    char key[24];
    snprintf(key, sizeof key, "%zu", i);
    return json_string_value(json_object_get(json_object_get(config, "id2label"), key));
}

/* The label that size bytes of text name, LABEL_NONE if none.  A name comes before an index. */
static size_t label_find(const json_t *config, size_t label_count, const char *text, size_t size)
{
    for (size_t i = 0; i < label_count; i++) {
        const char *name = label_name(config, i);
        char other[32];
        if (name == NULL) {
            snprintf(other, sizeof other, "LABEL_%zu", i);
            name = other;
        }
        if (strlen(name) == size && memcmp(name, text, size) == 0)
            return i;
    }
    if (size == 0 || size > 9 || strspn(text, "0123456789") < size)
        return LABEL_NONE;
    size_t index = strtoul(text, NULL, 10);
    return index < label_count ? index : LABEL_NONE;
}

static char *label_list(const json_t *config, size_t label_count)
{
    struct buffer list = { 0 };
    for (size_t i = 0; i < label_count && i < LABELS_SHOWN; i++) {
        const char *name = label_name(config, i);
        buffer_printf(&list, "%s%zu", i > 0 ? ", " : "", i);
        if (name != NULL)
            buffer_printf(&list, " \"%.64s\"", name);
    }
    if (label_count > LABELS_SHOWN)
        buffer_printf(&list, " and %zu more", label_count - LABELS_SHOWN);
    buffer_append(&list, "", 1);
    return list.data;
}

static int label_refuse(const json_t *config, size_t label_count, const char *name, const char *trouble)
{
    char *list = label_list(config, label_count);
    log_error("reward model \"%s\" %s: %s", name, trouble, list);
    log_hint("choose with the option label: a name, an index, or A-B for the difference of two");
    free(list);
    return -1;
}

int label_choose(struct label *label, const char *text, const json_t *config, size_t label_count, const char *name)
{
    *label = (struct label){ 0, LABEL_NONE };
    if (text == NULL)
        return label_count == 1 ? 0 : label_refuse(config, label_count, name, "has several labels");

    label->plus = label_find(config, label_count, text, strlen(text));
    if (label->plus != LABEL_NONE)
        return 0;
    size_t readings = 0;
    for (const char *dash = strchr(text, '-'); dash != NULL; dash = strchr(dash + 1, '-')) {  // names may have dashes too
        size_t plus = label_find(config, label_count, text, (size_t)(dash - text));
        size_t minus = label_find(config, label_count, dash + 1, strlen(dash + 1));
        if (plus != LABEL_NONE && minus != LABEL_NONE) {
            *label = (struct label){ plus, minus };
            readings++;
        }
    }
    if (readings == 1 && label->plus != label->minus)
        return 0;
    char trouble[192];
    snprintf(trouble, sizeof trouble, "%s \"%.100s\", it has",
             readings == 0 ? "has no label" : readings == 1 ? "gives always 0 for label" : "has more than one reading of label",
             text);
    return label_refuse(config, label_count, name, trouble);
}
