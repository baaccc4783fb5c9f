/* option.c - see option.h. */
#define _GNU_SOURCE
#include "base/option.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"

/* What getopt_long returns for long options: of a table from LONG_BASE on, of every table LONG_COMMON and the short one's letter. */
enum { LONG_BASE = 256, LONG_COMMON = 10000 };

static const char *asked_command;  // whose options were read last; NULL: the program has none
static const char **given_names;   // (given_count) of the options that were found
static size_t given_count;

_Noreturn static void refuse_end(void)
{
    const char *program = log_program();
    program += strncmp(program, "vas-", 4) == 0 ? 4 : 0;
    log_hint("see '%s --help'", asked_command != NULL ? asked_command : program);
    exit(EX_USAGE);
}

_Noreturn void options_refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text;
    if (vasprintf(&text, format, arguments) >= 0)
        log_error("%s", text);
    va_end(arguments);
    refuse_end();
}

bool options_given(const char *name)
{
    for (size_t i = 0; i < given_count; i++)
        if (strcmp(given_names[i], name) == 0)
            return true;
    return false;
}

static void help_option(char letter, const char *name, const char *argument, const char *help)
{
    char left[64], mark[8] = "    ";
    if (letter)
        snprintf(mark, sizeof mark, "-%c, ", letter);
    snprintf(left, sizeof left, "  %s--%s%s%s", mark, name, argument ? " " : "", argument ? argument : "");
    const char *line = help;
    printf("%-34s", left);
    if (strlen(left) > 33)
        printf("\n%34s", "");
    for (const char *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
        printf("%.*s\n%34s", (int)(end - line), line, "");
    printf("%s\n", line);
}

static _Noreturn void print_help(const struct option_usage *usage, const struct option_spec *specs, size_t spec_count)
{
    printf("example:  %s\n\nusage:    %s\n\n%s\n\noptions:\n", usage->example, usage->synopsis, usage->summary);
    for (size_t i = 0; i < spec_count; i++) {
        if (specs[i].kind == OPTION_HEADING)
            printf("\n%s:\n", specs[i].help);
        else
            help_option(specs[i].letter, specs[i].name, specs[i].argument, specs[i].help);
    }
    help_option('q', "quiet", NULL, "errors only");
    help_option('v', "verbose", NULL, "more detail on standard error");
    help_option('h', "help", NULL, "this text");
    help_option(0, "version", NULL, "the version");
    printf("\nexit codes:\n%s", usage->exit_codes);
    exit(fflush(stdout) == 0 && !ferror(stdout) ? EX_OK : EX_IOERR);
}

/* Spells a choice as the table does, or refuses it. */
static void choose(const struct option_spec *spec, char *text)
{
    char words[256] = "";
    for (const char *word = spec->argument, *end; word != NULL; word = *end != '\0' ? end + 1 : NULL) {
        size_t size = strcspn(word, "|");
        end = word + size;
        if (strlen(text) == size && strncasecmp(text, word, size) == 0) {
            memcpy(text, word, size);
            return;
        }
        size_t length = strlen(words);
        const char *before = length == 0 ? "" : *end != '\0' ? ", " : " or ";
        snprintf(words + length, sizeof words - length, "%s%.*s", before, (int)size, word);
    }
    options_refuse("--%s is \"%s\", must be %s", spec->name, text, words);
}

static void store_value(const struct option_spec *spec, char *text)
{
    bool bounded = spec->min != 0 || spec->max != 0;
    char *end;
    errno = 0;
    switch (spec->kind) {
    case OPTION_FLAG:
        *(bool *)spec->target = true;
        return;
    case OPTION_INT: {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end != '\0' || (errno != 0 && !bounded))
            options_refuse("--%s takes a whole number, not \"%s\"", spec->name, text);
        if (bounded && ((double)value < spec->min || (double)value > spec->max))
            options_refuse("--%s is %s, must be from %.0f to %.0f", spec->name, text, spec->min, spec->max);
        *(int64_t *)spec->target = value;
        return;
    }
    case OPTION_NUMBER: {
        double value = strtod(text, &end);
        if (end == text || *end != '\0' || !isfinite(value))
            options_refuse("--%s takes a number, not \"%s\"", spec->name, text);
        if (bounded && (value < spec->min || value > spec->max))
            options_refuse("--%s is %g, must be from %g to %g", spec->name, value, spec->min, spec->max);
        *(double *)spec->target = value;
        return;
    }
    case OPTION_NAME: {
        size_t size = strlen(text);
        if ((double)size < spec->min || (double)size > spec->max || !utf8_is_valid(text, size))
            options_refuse("--%s has %zu bytes, must be UTF-8 of %.0f to %.0f bytes", spec->name, size, spec->min, spec->max);
        *(const char **)spec->target = text;
        return;
    }
    case OPTION_CHOICE:
        choose(spec, text);
        *(const char **)spec->target = text;
        return;
    case OPTION_TEXT:
        *(const char **)spec->target = text;
        return;
    case OPTION_LIST: {
        struct option_list *list = spec->target;
        list->items = memory_grow(list->items, list->count + 1, sizeof *list->items);
        list->items[list->count++] = text;
        return;
    }
    case OPTION_HEADING:
        break;
    }
    CHECK(!"a heading has no value");
}

/* getopt_long accepts abbreviations; they would become an interface, so they are refused here. */
static void refuse_abbreviation(const char *argument, const struct option *table)
{
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
        return;
    size_t size = strcspn(argument + 2, "=");
    for (const struct option *known = table; known->name != NULL; known++)
        if (strlen(known->name) == size && strncmp(known->name, argument + 2, size) == 0)
            return;
    options_refuse("unknown option \"%.*s\"", (int)size + 2, argument);
}

int options_parse(const struct option_usage *usage, const struct option_spec *specs, size_t spec_count,
                  int argc, char **argv)
{
    log_open(usage->program, 0);
    asked_command = usage->command;
    given_count = 0;
    struct option *table = memory_alloc(spec_count + 5, sizeof *table);
    char letters[256] = ":", *letter = letters + 1;
    size_t table_count = 0;
    for (size_t i = 0; i < spec_count; i++) {
        if (specs[i].kind == OPTION_HEADING)
            continue;
        int has_argument = specs[i].kind == OPTION_FLAG ? no_argument : required_argument;
        table[table_count++] = (struct option){ specs[i].name, has_argument, NULL, LONG_BASE + (int)i };
        if (specs[i].letter) {
            *letter++ = specs[i].letter;
            if (has_argument)
                *letter++ = ':';
        }
    }
    table[table_count++] = (struct option){ "quiet", no_argument, NULL, LONG_COMMON + 'q' };
    table[table_count++] = (struct option){ "verbose", no_argument, NULL, LONG_COMMON + 'v' };
    table[table_count++] = (struct option){ "help", no_argument, NULL, LONG_COMMON + 'h' };
    table[table_count++] = (struct option){ "version", no_argument, NULL, LONG_COMMON };
    strcpy(letter, "qvh");

    opterr = 0;
    int found;
    while ((found = getopt_long(argc, argv, letters, table, NULL)) != -1) {
        const char *given = argv[optind - 1];
        if (found >= LONG_BASE)
            refuse_abbreviation(argv[optarg == given ? optind - 2 : optind - 1], table);
        if (found == 'q' || found == LONG_COMMON + 'q') {
            log_open(usage->program, -1);
        } else if (found == 'v' || found == LONG_COMMON + 'v') {
            log_open(usage->program, 1);
        } else if (found == 'h' || found == LONG_COMMON + 'h') {
            print_help(usage, specs, spec_count);
        } else if (found == LONG_COMMON) {
            printf("%s %s\n", usage->program, VAS_VERSION);
            exit(fflush(stdout) == 0 ? EX_OK : EX_IOERR);
        } else if (found == ':') {
            options_refuse("option \"%s\" needs an argument", given);
        } else if (found == '?') {
            if (optopt >= LONG_BASE)
                options_refuse("option \"%s\" takes no argument", given);
            if (optopt != 0)
                options_refuse("unknown option \"-%c\"", optopt);
            options_refuse("unknown option \"%s\"", given);
        } else {
            size_t i = 0;
            while (i < spec_count && found != LONG_BASE + (int)i && !(specs[i].letter && found == specs[i].letter))
                i++;
            CHECK(i < spec_count);
            store_value(&specs[i], optarg);
            given_names = memory_grow(given_names, given_count + 1, sizeof *given_names);
            given_names[given_count++] = specs[i].name;
        }
    }
    free(table);
    return optind;
}
