/*
 * option.h - a program's command line as one table, which also prints its help.
 *
 * Long names are never abbreviated.  --help prints to standard output and exits 0; --version too; a bad
 * option, a missing argument or a value out of range is one line and exit code 64.
 */
#ifndef BASE_OPTION_H
#define BASE_OPTION_H

#include <stdbool.h>
#include <stddef.h>

enum option_kind {
    OPTION_FLAG,    // bool *,  set to true
    OPTION_INT,     // int64_t *, within [min, max]
    OPTION_NUMBER,  // double *, within [min, max], finite
    OPTION_TEXT,    // const char **
    OPTION_NAME,    // const char **, UTF-8 of min to max bytes
    OPTION_CHOICE,  // const char **, one of the words between bars that argument lists, in either case
    OPTION_LIST,    // struct option_list *, one item for each time the option is given
    OPTION_HEADING, // no option: a line of the help
};

struct option_list {
    const char **items;  // borrowed from argv
    size_t count;
};

struct option_spec {
    char letter;           // 0: none
    const char *name;      // without the dashes
    const char *argument;  // shown in the help; NULL for a flag
    enum option_kind kind;
    void *target;          // holds the default; written when the option is given
    double min, max;       // both 0: any value
    const char *help;      // ends with the default where there is one
};

struct option_usage {
    const char *program;   // "vas-rollout": how messages name it
    const char *command;   // "store serve", where the program has commands with help of their own; else NULL
    const char *example;   // a command that works, first line of the help; may be several lines
    const char *synopsis;  // "rollout -m MODEL [options]"
    const char *summary;   // what it takes and gives
    const char *exit_codes;  // one "code  meaning" a line
};

/*
 * Calls log_open, handles -q and -v, fills the targets, and returns the index in argv of the
 * first operand.  -h, -q, -v, --version are added to every table.
 */
int options_parse(const struct option_usage *usage, const struct option_spec *specs, size_t spec_count,
                  int argc, char **argv);

/* Whether the last options_parse found the option of this long name, by name or letter. */
bool options_given(const char *name);

/* Prints "hint: see 'PROGRAM --help'", or the command's, and exits 64; for mistakes that options_parse cannot see. */
_Noreturn void options_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define VAS_VERSION "0.1.0"

#endif
