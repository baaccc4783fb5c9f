/* normalizer.c - see normalizer.h. */
#define _GNU_SOURCE
#include "text/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/log.h"
#include "base/utf8.h"
#include "text/character.h"
#include "text/pretokenizer.h"

static void step_free(struct normalizer_step *step)
{
    free(step->text);
    free(step->replacement);
    regex_free(step->regex);
    charsmap_free(step->charsmap);
}

int normalizer_add_step(struct normalizer *normalizer, struct normalizer_step step)
{
    if (normalizer->count == NORMALIZER_STEPS_MAX) {
        step_free(&step);
        return -1;
    }
    normalizer->steps[normalizer->count++] = step;
    return 0;
}

int normalizer_add(struct normalizer *normalizer, enum normalizer_kind kind, const char *text, const char *replacement)
{
    return normalizer_add_step(normalizer, (struct normalizer_step){
        .kind = kind, .text = text ? memory_text(text) : NULL, .replacement = replacement ? memory_text(replacement) : NULL,
    });
}

void normalizer_free(struct normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->count; i++)
        step_free(&normalizer->steps[i]);
    normalizer->count = 0;
}

void normalizer_scratch_free(struct normalizer_scratch *scratch)
{
    free(scratch->spare.data);
    regex_scratch_free(&scratch->regex);
}

/* ---- the steps: each appends what text becomes ---- */

/*
 * Whether the first character stays where a replaced part begins the text: of that part the library keeps the place of the
 * last character, so a longer one counts as dropped, and so does one that gives nothing.
 */
static bool replaced_stays(const char *text, size_t replaced_size, const char *to)
{
    return *to != '\0' && replaced_size == utf8_size((unsigned char)text[0]);
}

static bool replace_text(const char *text, size_t size, const char *from, const char *to, struct buffer *out)
{
    size_t from_size = strlen(from), to_size = strlen(to);
    bool first_stays = size < from_size || memcmp(text, from, from_size) != 0 || replaced_stays(text, from_size, to);
    for (const char *found; size > 0 && (found = memmem(text, size, from, from_size)) != NULL;) {
        size_t before = (size_t)(found - text);
        buffer_append(out, text, before);
        buffer_append(out, to, to_size);
        text += before + from_size;
        size -= before + from_size;
    }
    buffer_append(out, text, size);
    return first_stays;
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

/* The text is cut before and after what has no form, and before U+11A7, which utf8proc 2.8 loses after a Hangul syllable. */
static void normal_form(const char *text, size_t size, enum normalizer_kind kind, struct buffer *out)
{
    bool composed = kind == NORMALIZER_NFC || kind == NORMALIZER_NFKC;
    bool compatible = kind == NORMALIZER_NFKC || kind == NORMALIZER_NFKD;
    utf8proc_option_t options = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE)
                                | (compatible ? UTF8PROC_COMPAT : 0);
    if (utf8_is_ascii(text, size)) {
        buffer_append(out, text, size);
        return;
    }
    size_t start = 0;
    for (size_t at = 0, step; at < size; at += step) {
        step = utf8_size((unsigned char)text[at]);
        uint32_t character = utf8_code_point(text + at, step);
        bool formless = character_is_formless(character);
        if (!formless && character != 0x11a7)
            continue;
        append_normal_form(text + start, at - start, options, out);
        start = at;
        if (formless) {
            buffer_append(out, text + at, step);
            start += step;
        }
    }
    append_normal_form(text + start, size - start, options, out);
}

static void append_character(struct buffer *out, uint32_t character)
{
    char text[UTF8_SIZE_MAX];
    buffer_append(out, text, utf8_write(character, text));
}

static void lowercase(const char *text, size_t size, struct buffer *out)
{
    for (size_t at = 0, step; at < size; at += step) {
        step = utf8_size((unsigned char)text[at]);
        uint32_t lower[2];
        size_t count = character_lower(utf8_code_point(text + at, step), lower);
        for (size_t i = 0; i < count; i++)
            append_character(out, lower[i]);
    }
}

/* What a step makes of one character: itself, another, or DROPPED. */
#define DROPPED UINT32_MAX
typedef uint32_t character_map(uint32_t character);

static uint32_t clean(uint32_t character)
{
    if (character == 0 || character == 0xfffd || character_is_control(character))
        return DROPPED;
    return character_is_space(character) ? ' ' : character;
}

static uint32_t nmt(uint32_t character)
{
    switch (character) {
    case 0x01 ... 0x08: case 0x0b: case 0x0e ... 0x1f: case 0x7f: case 0x8f: case 0x9f:
        return DROPPED;
    case 0x09: case 0x0a: case 0x0c: case 0x0d: case 0x1680: case 0x200b ... 0x200f: case 0x2028: case 0x2029: case 0x2581:
    case 0xfeff: case 0xfffd:
        return ' ';
    default:
        return character;
    }
}

static uint32_t drop_combining(uint32_t character)
{
    return character_is_combining(character) ? DROPPED : character;
}

static uint32_t drop_nonspacing(uint32_t character)
{
    return character_is_nonspacing(character) ? DROPPED : character;
}

/* Whether the first character stays. */
static bool map_characters(character_map *map, const char *text, size_t size, struct buffer *out)
{
    bool first_stays = true;
    for (size_t at = 0, step; at < size; at += step) {
        step = utf8_size((unsigned char)text[at]);
        uint32_t character = map(utf8_code_point(text + at, step));
        if (character != DROPPED)
            append_character(out, character);
        else if (at == 0)
            first_stays = false;
    }
    return first_stays;
}

static bool bert_accents(const char *text, size_t size, struct buffer *out)
{
    struct buffer decomposed = { 0 };
    normal_form(text, size, NORMALIZER_NFD, &decomposed);
    bool first_stays = map_characters(drop_nonspacing, decomposed.data, decomposed.size, out);
    free(decomposed.data);
    return first_stays;
}

static void space_chinese(const char *text, size_t size, struct buffer *out)
{
    for (size_t at = 0, step; at < size; at += step) {
        step = utf8_size((unsigned char)text[at]);
        bool chinese = character_is_chinese(utf8_code_point(text + at, step));
        buffer_append(out, " ", chinese);
        buffer_append(out, text + at, step);
        buffer_append(out, " ", chinese);
    }
}

static bool strip(const struct normalizer_step *step, const char *text, size_t size, struct buffer *out)
{
    size_t start = 0, end = size;
    for (size_t width; step->left && start < end; start += width) {
        width = utf8_size((unsigned char)text[start]);
        if (!character_is_space(utf8_code_point(text + start, width)))
            break;
    }
    for (size_t before; step->right && end > start; end = before) {
        before = character_before(text, end);
        if (!character_is_space(utf8_code_point(text + before, end - before)))
            break;
    }
    buffer_append(out, text + start, end - start);
    return start == 0;
}

static bool replace_matches(const struct normalizer_step *step, struct regex_scratch *scratch, const char *text, size_t size,
                            struct buffer *out)
{
    size_t done = 0, start, end;
    bool first_stays = true;
    while (regex_next(step->regex, scratch, text, size, done, &start, &end)) {
        if (start == 0)
            first_stays = replaced_stays(text, end, step->replacement);
        buffer_append(out, text + done, start - done);
        buffer_append(out, step->replacement, strlen(step->replacement));
        done = end;
    }
    buffer_append(out, text + done, size - done);
    return first_stays;
}

static void byte_letters(const char *text, size_t size, struct buffer *out)
{
    for (size_t i = 0; i < size; i++)
        append_character(out, byte_letter((unsigned char)text[i]));
}

/* Appends what the step makes of a text that is not empty.  False: its first character was dropped. */
static bool run_step(const struct normalizer_step *step, struct regex_scratch *scratch, const char *text, size_t size,
                     struct buffer *out)
{
    switch (step->kind) {
    case NORMALIZER_PREPEND:
        buffer_append(out, step->text, strlen(step->text));
        buffer_append(out, text, size);
        return true;
    case NORMALIZER_REPLACE:
        return step->regex != NULL ? replace_matches(step, scratch, text, size, out)
                                   : replace_text(text, size, step->text, step->replacement, out);
    case NORMALIZER_NFC:
    case NORMALIZER_NFD:
    case NORMALIZER_NFKC:
    case NORMALIZER_NFKD:
        normal_form(text, size, step->kind, out);
        return true;
    case NORMALIZER_LOWERCASE: lowercase(text, size, out); return true;
    case NORMALIZER_STRIP: return strip(step, text, size, out);
    case NORMALIZER_STRIP_ACCENTS: return map_characters(drop_combining, text, size, out);
    case NORMALIZER_NMT: return map_characters(nmt, text, size, out);
    case NORMALIZER_CHARSMAP: charsmap_run(step->charsmap, text, size, out); return true;
    case NORMALIZER_BYTE_LEVEL: byte_letters(text, size, out); return true;
    case NORMALIZER_CLEAN: return map_characters(clean, text, size, out);
    case NORMALIZER_CHINESE: space_chinese(text, size, out); return true;
    case NORMALIZER_BERT_ACCENTS: return bert_accents(text, size, out);
    }
    return true;
}

bool normalizer_run(const struct normalizer *normalizer, struct normalizer_scratch *scratch, const char *text, size_t size,
                    struct buffer *out)
{
    bool first_stays = true;
    out->size = 0;
    if (normalizer->count == 0)
        buffer_append(out, text, size);
    for (size_t i = 0; i < normalizer->count; i++) {
        if (i > 0) {  // what the step before wrote is this one's text
            struct buffer written = *out;
            *out = scratch->spare;
            scratch->spare = written;
            text = scratch->spare.data;
            size = scratch->spare.size;
            out->size = 0;
        }
        if (size > 0)
            first_stays &= run_step(&normalizer->steps[i], &scratch->regex, text, size, out);
    }
    return first_stays;
}
