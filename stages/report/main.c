/*
 * report - what a store's policies are worth: tables, sample texts, and a page with pictures.
 *
 *     takes   a store's database, at any time, also while it is served
 *     gives   text or JSON on standard output, one HTML page with -o
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/option.h"
#include "report/page.h"
#include "report/print.h"
#include "report/survey.h"

struct options {
    struct survey_options survey;
    const char *database, *page;
    bool json;
};

static struct options options_read(int argc, char **argv)
{
    static struct options options = { .survey = { .split = "eval", .prompts_shown = 3 } };
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &options.database, 0, 0, "the store's database" },
        { 'o', "output", "FILE", OPTION_TEXT, &options.page, 0, 0, "write a page with pictures there, for a browser" },
        { 0, "json", NULL, OPTION_FLAG, &options.json, 0, 0, "print JSON instead of tables" },
        { 0, "reward", "NAME", OPTION_TEXT, &options.survey.reward, 0, 0, "only this reward (default: each in turn)" },
        { 0, "split", "NAME", OPTION_TEXT, &options.survey.split, 0, 0,
          "compare policies on prompts of this split (default eval)" },
        { 0, "samples-shown", "N", OPTION_INT, &options.survey.prompts_shown, 0, 1000,
          "prompts whose responses are shown as text (default 3)" },
    };
    static const struct option_usage usage = {
        .program = "vas-report",
        .example = "report --db run.db -o report.html",
        .synopsis = "report --db FILE [-o PAGE.html] [options]",
        .summary = "Compares the policies in a store: score, drift from the base policy, speed.",
        .exit_codes = "  0   reported, or the store has nothing to compare yet\n  64  usage\n"
                      "  65  the file is no store, or has no such reward\n  66  the file is missing\n"
                      "  73  -o is a database, which the page would replace\n  74  output could not be written\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (options.database == NULL)
        options_refuse("--db is missing: which store?");
    return options;
}

static size_t terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 100;
    return size.ws_col < 40 ? 40 : size.ws_col;
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);

    int code;
    struct db *db = db_open(options.database, DB_READ, &code);
    if (db == NULL)
        return code;
    if (options.page != NULL && db_is_database(options.page)) {
        log_error("\"%s\" is a database: the page would replace it", options.page);
        log_hint("choose another -o");
        db_close(db);
        return EX_CANTCREAT;
    }
    struct survey survey;
    code = survey_read(&survey, db, &options.survey);
    db_close(db);

    struct buffer out = { 0 };
    if (code == EX_OK && options.page != NULL) {
        page_write(&out, &survey);
        if (file_write(options.page, out.data, out.size) != 0)
            code = EX_IOERR;
        out.size = 0;
    }
    if (code == EX_OK && options.json) {
        json_t *json = survey_json(&survey);
        char *text = json_text(json);
        buffer_printf(&out, "%s\n", text);
        free(text);
        json_decref(json);
    } else if (code == EX_OK) {
        print_text(&out, &survey, terminal_width());
    }
    fwrite(out.data, 1, out.size, stdout);
    if (stdout_close() != 0)
        code = EX_IOERR;
    free(out.data);
    survey_free(&survey);
    return code;
}
