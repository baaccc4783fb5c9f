/* regex.c - see regex.h. */
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"

enum {
    PATTERN_SIZE_MAX = 1 << 16,   // bytes
    MATCH_LIMIT = 10000000,       // steps, and as many more for each 16 MB of text
    STACK_BYTES_MAX = 64 << 20,
};

struct regex {
    pcre2_code *code;
    char *pattern;
    bool literal;
};

/*
 * PCRE2's own \s also holds U+180E; its \w lacks marks and connectors, and holds numbers that are not digits.  The
 * code points are what Oniguruma adds: to \w letters in circles and squares, and fractions and superscripts of Latin-1 where it
 * does not stand between brackets; to letters and small letters those that are so since Unicode 15 and 16.
 */
#define SPACE_CLASS "\\t-\\r \\x{85}\\p{Z}"
#define WORD_MORE "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define WORD_ALONE "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define ALPHA_MORE "\\p{Alphabetic}\\x{363}-\\x{36f}\\x{897}\\x{c04}\\x{cf3}\\x{f82}-\\x{f83}\\x{1dd3}-\\x{1de6}\\x{10d69}" \
    "\\x{10efc}\\x{11080}-\\x{11081}\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113cd}" \
    "\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f40}\\x{1611e}-\\x{1612e}\\x{1e08f}"
#define LOWER_MORE "\\p{Lowercase}\\x{10fc}\\x{a7f2}-\\x{a7f4}\\x{ab69}\\x{1e030}-\\x{1e06d}"

struct newer {
    uint32_t first, last;
    char category[3];
};
#include "text/regex_tables.h"

/* Appends a property of characters, "L" or "Lu", as what stands in a class. */
static void append_category(struct buffer *out, const char *name, size_t size)
{
    buffer_printf(out, "\\p{%.*s}", (int)size, name);
    for (size_t i = 0; i < COUNT_OF(newer); i++) {
        if (memcmp(newer[i].category, name, size) == 0)
            buffer_printf(out, "\\x{%x}-\\x{%x}", newer[i].first, newer[i].last);
    }
}

/* The size of "\p{L}", "\P{Lu}" or "\p{^Han}" at the start of text, with what it says; 0: it is no property. */
static size_t read_property(const char *text, size_t size, const char **name, size_t *name_size, bool *negated)
{
    if (size < 5 || (text[1] != 'p' && text[1] != 'P') || text[2] != '{')
        return 0;
    bool caret = text[3] == '^';
    *name = text + 3 + caret;
    const char *end = memchr(*name, '}', (size_t)(text + size - *name));
    if (end == NULL)
        return 0;
    *name_size = (size_t)(end - *name);
    *negated = caret != (text[1] == 'P');
    return (size_t)(end + 1 - text);
}

static bool is_category(const char *name, size_t size)
{
    static const char majors[] = "LMNPSZC";
    return (size == 1 || size == 2) && memchr(majors, *name, sizeof majors - 1) != NULL;
}

/* A script is its own characters here; PCRE2 means by its name alone also those that it shares. */
static bool is_script(const char *name, size_t size)
{
    enum { SCRIPT_SIZE_MAX = 32 };
    char pattern[SCRIPT_SIZE_MAX + 8];
    int error;
    PCRE2_SIZE where;
    if (size < 3 || size > SCRIPT_SIZE_MAX)
        return false;
    int pattern_size = snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)size, name);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, (size_t)pattern_size, PCRE2_UTF, &error, &where, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/* Classes that Oniguruma reads otherwise: as an escape, as a bracket, and what stands for them between brackets. */
static const struct class {
    char letter;
    const char *bracket, *categories[5], *more, *alone;  // alone: more as an escape that does not stand between brackets
} classes[] = {
    { 's', "[:space:]", { NULL }, SPACE_CLASS, "" },
    { 'd', "[:digit:]", { "Nd" }, "", "" },
    { 'w', "[:word:]", { "L", "M", "Nd", "Nl", "Pc" }, WORD_MORE, WORD_ALONE },
    { 'h', "[:xdigit:]", { NULL }, "0-9A-Fa-f", "" },
    { 0, "[:alpha:]", { "L", "Nl" }, ALPHA_MORE, "" },
    { 0, "[:alnum:]", { "L", "Nl", "Nd" }, ALPHA_MORE, "" },
    { 0, "[:punct:]", { "P", "S" }, "", "" },
    { 0, "[:blank:]", { "Zs" }, "\\t", "" },
    { 0, "[:upper:]", { "Lu" }, "\\p{Uppercase}", "" },
    { 0, "[:lower:]", { "Ll" }, LOWER_MORE, "" },
};

static void append_class(struct buffer *out, const struct class *class, bool alone)
{
    for (size_t i = 0; i < COUNT_OF(class->categories) && class->categories[i] != NULL; i++)
        append_category(out, class->categories[i], strlen(class->categories[i]));
    buffer_append(out, class->more, strlen(class->more));
    buffer_append(out, class->alone, alone ? strlen(class->alone) : 0);
}

static const struct class *class_of_letter(char letter)
{
    size_t i = 0;
    while (classes[i].letter != 0 && classes[i].letter != letter)
        i++;
    return classes[i].letter != 0 ? &classes[i] : NULL;
}

/* The class of "[:punct:]" or its like at the start of text; NULL: it means the same to PCRE2. */
static const struct class *class_of_bracket(const char *text, size_t size)
{
    for (size_t i = 0; i < COUNT_OF(classes); i++) {
        size_t bracket_size = strlen(classes[i].bracket);
        if (size >= bracket_size && memcmp(text, classes[i].bracket, bracket_size) == 0)
            return &classes[i];
    }
    return NULL;
}

/* Where a word begins or ends, or negated where none does, by the characters of \w. */
static void append_boundary(struct buffer *out, bool negated)
{
    static const char *const parts[2][4] = {
        { "(?:(?<=[", "])(?![", "])|(?<![", "])(?=[" }, { "(?:(?<=[", "])(?=[", "])|(?<![", "])(?![" },
    };
    for (size_t i = 0; i < COUNT_OF(parts[0]); i++) {
        buffer_append(out, parts[negated][i], strlen(parts[negated][i]));
        append_class(out, class_of_letter('w'), true);
    }
    buffer_append(out, "]))", 3);
}

/*
 * Appends what the escape at the start of text means and returns its size.  Inside a class a negated one stays, which differs in
 * few characters only.
 */
static size_t translate_escape(struct buffer *out, const char *text, size_t size, bool in_class)
{
    const char *name = "";
    size_t name_size = 0;
    bool negated = strchr("SWDH", text[1]) != NULL;
    const struct class *class = class_of_letter((char)(text[1] | 0x20));
    size_t taken = read_property(text, size, &name, &name_size, &negated);
    if (is_script(name, name_size)) {
        buffer_printf(out, "\\%c{sc:%.*s}", negated ? 'P' : 'p', (int)name_size, name);
        return taken;
    }
    if (!in_class && (text[1] == 'b' || text[1] == 'B')) {
        append_boundary(out, text[1] == 'B');
        return 2;
    }
    bool known = taken > 0 ? is_category(name, name_size) : class != NULL;
    taken = taken > 0 ? taken : 2;
    if (!known || (in_class && negated)) {
        buffer_append(out, text, taken);
        return taken;
    }
    if (!in_class)
        buffer_append(out, "[^", negated ? 2 : 1);
    if (taken > 2)
        append_category(out, name, name_size);
    else
        append_class(out, class, !in_class);
    if (!in_class)
        buffer_append(out, "]", 1);
    return taken;
}

/* 0, or -1 with *what saying which construct has no translation. */
static int translate(struct buffer *out, const char *pattern, size_t size, const char **what)
{
    bool in_class = false;
    const struct class *class;
    size_t class_start = 0;
    for (size_t i = 0; i < size; i++) {
        char c = pattern[i];
        if (c == '\\' && i + 1 < size) {
            i += translate_escape(out, pattern + i, size - i, in_class) - 1;
            continue;
        }
        if (!in_class && c == '[') {
            in_class = true;
            class_start = i + (i + 1 < size && pattern[i + 1] == '^' ? 2 : 1);
        } else if (in_class && c == ']' && i > class_start) {
            in_class = false;
        } else if (in_class && c == '[' && i + 1 < size && pattern[i + 1] != ':') {
            *what = "a character class inside a character class";
            return -1;
        } else if (in_class && c == '[' && i + 2 < size && pattern[i + 2] == '^') {
            *what = "a negated bracket, [:^";
            return -1;
        } else if (in_class && c == '[' && (class = class_of_bracket(pattern + i, size - i)) != NULL) {
            append_class(out, class, false);
            i += strlen(class->bracket) - 1;
            continue;
        } else if (in_class && c == '&' && i + 1 < size && pattern[i + 1] == '&') {
            *what = "an intersection of character classes";
            return -1;
        }
        buffer_append(out, &c, 1);
    }
    return 0;
}

struct regex *regex_compile(const char *pattern, size_t size, bool literal, const char *name)
{
    struct buffer translated = { 0 };
    const char *what = NULL;
    pcre2_code *code = NULL;
    if (size == 0 || size > PATTERN_SIZE_MAX || utf8_valid_prefix(pattern, size) != size || memchr(pattern, '\0', size) != NULL) {
        log_error("cannot use tokenizer \"%s\": a pattern of %zu bytes is no UTF-8 text of 1 .. %d bytes", name, size,
                  PATTERN_SIZE_MAX);
        return NULL;
    }
    if (literal) {
        buffer_append(&translated, pattern, size);
    } else if (translate(&translated, pattern, size, &what) != 0) {
        log_error("cannot use tokenizer \"%s\": the pattern \"%.*s\" has %s", name, (int)size, pattern, what);
        goto free_translated;
    }
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int error;
    PCRE2_SIZE where;
    code = pcre2_compile((PCRE2_SPTR)translated.data, translated.size, options, &error, &where, context);
    pcre2_compile_context_free(context);
    if (code == NULL) {
        PCRE2_UCHAR reason[256];
        pcre2_get_error_message(error, reason, sizeof reason);
        log_error("cannot use tokenizer \"%s\": the pattern \"%.*s\" does not compile: %s", name, (int)size, pattern,
                  (char *)reason);
        goto free_translated;
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, matching interprets
    free(translated.data);
    struct regex *regex = memory_alloc(1, sizeof *regex);
    *regex = (struct regex){ code, memory_printf("%.*s", (int)size, pattern), literal };
    return regex;

free_translated:
    free(translated.data);
    return NULL;
}

void regex_free(struct regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_code_free(regex->code);
    free(regex->pattern);
    free(regex);
}

const char *regex_pattern(const struct regex *regex)
{
    return regex->pattern;
}

bool regex_is_literal(const struct regex *regex)
{
    return regex->literal;
}

bool regex_may_be_empty(const struct regex *regex)
{
    uint32_t empty = 0;
    pcre2_pattern_info(regex->code, PCRE2_INFO_MATCHEMPTY, &empty);
    return empty;
}

void regex_scratch_free(struct regex_scratch *scratch)
{
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    *scratch = (struct regex_scratch){ 0 };
}

static int run(const struct regex *regex, struct regex_scratch *scratch, const char *text, size_t size, size_t from)
{
    if (scratch->match == NULL) {
        scratch->match = pcre2_match_data_create(1, NULL);
        scratch->context = pcre2_match_context_create(NULL);
        if (scratch->match == NULL || scratch->context == NULL) {
            log_error("out of memory: could not prepare a regular expression");
            exit(71);
        }
    }
    pcre2_set_match_limit(scratch->context, MATCH_LIMIT + (uint32_t)((size >> 24) * MATCH_LIMIT));
    int found = pcre2_match(regex->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, scratch->match, scratch->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && scratch->stack == NULL) {
        scratch->stack = pcre2_jit_stack_create(1 << 16, STACK_BYTES_MAX, NULL);
        pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
        found = pcre2_match(regex->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, scratch->match, scratch->context);
    }
    return found;
}

bool regex_next(const struct regex *regex, struct regex_scratch *scratch, const char *text, size_t size, size_t from,
                size_t *start, size_t *end)
{
    for (size_t at = from; at < size; at += utf8_size((unsigned char)text[at])) {
        int found = run(regex, scratch, text, size, at);
        if (found < 0) {
            if (found != PCRE2_ERROR_NOMATCH)
                log_error("could not split a text of %zu bytes by the pattern \"%s\": error %d of PCRE2", size,
                          regex->pattern, found);
            return false;
        }
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(scratch->match);
        if (match[1] > from && match[0] <= match[1]) {
            *start = match[0] < from ? from : match[0];
            *end = match[1];
            return true;
        }
        // Nothing, at from: look on behind the next character.  (\K may even put the start behind the end.)
    }
    return false;
}
