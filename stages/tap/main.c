/*
 * tap - frames in, JSON lines out: what travels on an edge, for people and for jq.
 *
 *     takes   frames of every type on standard input
 *     gives   one JSON line for each on standard output; with --pass the frames themselves, unchanged, and the
 *             lines on standard error
 *
 * A frame that does not decode is a message with its place and its fault; with --pass it is copied all the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "wire/frame.h"
#include "wire/reader.h"

struct options {
    bool pass, schema;
};

static struct options options_read(int argc, char **argv)
{
    struct options options = { 0 };
    const struct option_spec specs[] = {
        { 'p', "pass", NULL, OPTION_FLAG, &options.pass, 0, 0,
          "copy the frames to standard output, print on standard error:\nstands in the middle of a pipe" },
        { 0, "schema", NULL, OPTION_FLAG, &options.schema, 0, 0, "print tables of all frames as Markdown, and end" },
    };
    const struct option_usage usage = {
        .program = "vas-tap",
        .example = "tokenize -m model.gguf prompts.jsonl | tap",
        .synopsis = "tap [--pass] < FRAMES",
        .summary = "Prints frames as JSON lines.  Tokens and floats are arrays, bytes their count, what is absent is left out.",
        .exit_codes = "  0   every frame was printed\n  64  usage\n  65  some bytes were no frames, or frames broke a limit\n"
                      "  74  standard input or output failed\n",
    };
    int operand = options_parse(&usage, specs, sizeof specs / sizeof *specs, argc, argv);
    if (operand < argc)
        options_refuse("unexpected argument \"%s\": frames come from standard input", argv[operand]);
    if (!options.schema && isatty(STDIN_FILENO))
        options_refuse("standard input is a terminal, expected frames");
    if (options.pass && isatty(STDOUT_FILENO))
        options_refuse("standard output is a terminal, --pass writes frames to it");
    return options;
}

static int print_schema(void)
{
    struct buffer tables = { 0 };
    frame_describe(&tables);
    fwrite(tables.data, 1, tables.size, stdout);
    free(tables.data);
    return stdout_close() == 0 ? EX_OK : EX_IOERR;
}

/* In one write, since standard error is not buffered. */
static void print_frame(const struct frame *frame, FILE *lines)
{
    json_t *json = frame_to_json(frame);
    char *text = json_dumps(json, JSON_COMPACT);
    CHECK(text != NULL);
    char *line = memory_printf("%s\n", text);
    fwrite(line, 1, strlen(line), lines);
    free(line);
    free(text);
    json_decref(json);
}

/* Prints all frames that have arrived whole.  How many could not be decoded, or -1 when reading cannot go on. */
static int64_t print_arrived(struct frame_reader *reader, const struct options *options, struct arena *arena)
{
    int64_t refused = 0;
    const void *data;
    size_t size;
    int found;
    while ((found = frame_reader_next(reader, &data, &size)) > 0) {
        struct frame frame;
        char reason[512];
        if (options->pass)
            fwrite(data, 1, size, stdout);
        if (frame_decode(&frame, data, size, arena, reason) == 0) {
            print_frame(&frame, options->pass ? stderr : stdout);
        } else {
            log_error("%s, frame at byte %lld: %s", reader->name, (long long)reader->offset, reason);
            refused++;
        }
        arena_reset(arena);
    }
    return found == 0 ? refused : -1;
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);
    if (options.schema)
        return print_schema();

    struct frame_reader reader;
    struct arena arena;
    frame_reader_init(&reader, STDIN_FILENO, "standard input");
    arena_init(&arena, "frame", 2 * (size_t)FRAME_SIZE_MAX);
    int64_t refused = 0;
    int code = EX_OK;
    do {
        fflush(stdout);  // what was seen is shown before waiting for more
        if (frame_reader_fill(&reader) != 0) {
            code = EX_IOERR;
            break;
        }
        int64_t more = print_arrived(&reader, &options, &arena);
        if (more < 0)
            code = EX_DATAERR;
        else
            refused += more;
    } while (code == EX_OK && !reader.ended && !ferror(stdout));
    frame_reader_free(&reader);
    arena_free(&arena);
    if (stdout_close() != 0)
        return EX_IOERR;
    return code == EX_OK && refused > 0 ? EX_DATAERR : code;
}
