/* normalizer.c - see normalizer.h. */
#define _GNU_SOURCE
#include "text/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/log.h"
#include "base/utf8.h"

int normalizer_add(struct normalizer *normalizer, enum normalizer_kind kind, const char *text, const char *replacement)
{
    if (normalizer->count == NORMALIZER_STEPS_MAX)
        return -1;
    normalizer->steps[normalizer->count++] = (struct normalizer_step){
        kind, text ? memory_text(text) : NULL, replacement ? memory_text(replacement) : NULL,
    };
    return 0;
}

void normalizer_free(struct normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->count; i++) {
        free(normalizer->steps[i].text);
        free(normalizer->steps[i].replacement);
    }
    normalizer->count = 0;
}

static void replace_all(const char *text, size_t size, const char *from, const char *to, struct buffer *out)
{
    size_t from_size = strlen(from), to_size = strlen(to);
    for (const char *found; size > 0 && (found = memmem(text, size, from, from_size)) != NULL;) {
        size_t before = (size_t)(found - text);
        buffer_append(out, text, before);
        buffer_append(out, to, to_size);
        text += before + from_size;
        size -= before + from_size;
    }
    buffer_append(out, text, size);
}

static void append_normal_form(const char *text, size_t size, utf8proc_option_t options, struct buffer *out)
{
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t mapped_size = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &mapped, options);
    if (mapped_size < 0) {  // only memory can be short: the text is valid
        log_error("out of memory: could not normalise a text of %zu bytes", size);
        exit(71);
    }
    buffer_append(out, mapped, (size_t)mapped_size);
    free(mapped);
}

static void normal_form(const char *text, size_t size, enum normalizer_kind kind, struct buffer *out)
{
    if (utf8_is_ascii(text, size)) {
        buffer_append(out, text, size);
        return;
    }
    bool composed = kind == NORMALIZER_NFC || kind == NORMALIZER_NFKC;
    bool compatible = kind == NORMALIZER_NFKC || kind == NORMALIZER_NFKD;
    utf8proc_option_t options = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE)
                                | (compatible ? UTF8PROC_COMPAT : 0);
    static const char swallowed[] = "\xe1\x86\xa7";  // U+11A7: utf8proc 2.8 loses it after a Hangul syllable
    while (size > 0) {
        const char *cut = memmem(text + 1, size - 1, swallowed, 3);
        size_t part = cut != NULL ? (size_t)(cut - text) : size;
        append_normal_form(text, part, options, out);
        text += part;
        size -= part;
    }
}

void normalizer_run(const struct normalizer *normalizer, const char *text, size_t size, struct buffer *out, struct buffer *spare)
{
    out->size = 0;
    if (normalizer->count == 0)
        buffer_append(out, text, size);
    for (size_t i = 0; i < normalizer->count; i++) {
        const struct normalizer_step *step = &normalizer->steps[i];
        if (i > 0) {  // what the step before wrote is this one's text
            struct buffer written = *out;
            *out = *spare;
            *spare = written;
            text = spare->data;
            size = spare->size;
            out->size = 0;
        }
        switch (step->kind) {
        case NORMALIZER_PREPEND:
            if (size > 0)
                buffer_append(out, step->text, strlen(step->text));
            buffer_append(out, text, size);
            break;
        case NORMALIZER_REPLACE:
            replace_all(text, size, step->text, step->replacement, out);
            break;
        case NORMALIZER_NFC:
        case NORMALIZER_NFD:
        case NORMALIZER_NFKC:
        case NORMALIZER_NFKD:
            normal_form(text, size, step->kind, out);
            break;
        }
    }
}
