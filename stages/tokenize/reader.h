/*
 * reader.h - prompts, and stored rollouts, out of the files that people have.
 *
 *     jsonl     one object a line; the text under "prompt" (or another field), optional "split"; or messages instead of
 *               the text: a list under "prompt", or under "messages" where there is no prompt
 *     text      one text a line; empty lines are skipped
 *     lines     one text a line, empty ones too
 *     hh        Anthropic HH dialogues: the prompt is "chosen" up to and including its last "\n\nAssistant:"
 *     rollouts  one object a line: "prompt", "response", optional "score", "split" and "stopped": false where the response was cut
 *               at a length limit, as store export writes it
 *
 * A field that is null is one that is not there.
 *
 * Files may be gzipped and may begin with a byte order mark.  A bad line is logged with its number, counted, and skipped.
 */
#ifndef TOKENIZE_READER_H
#define TOKENIZE_READER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum reader_format { READER_JSONL, READER_TEXT, READER_LINES, READER_HH, READER_ROLLOUTS };

struct record {
    const char *path;      // where it stands
    int64_t line;
    const char *prompt;    // valid until the next record, as all that follows; NULL where there are messages
    size_t prompt_size;    // bytes
    const json_t *messages;  // a list; NULL where there is a text
    const char *response;  // rollouts only
    size_t response_size;
    const char *split;     // NULL: the line names none
    double score;          // NaN: the line has none
    bool cut;              // the line says that its response did not end by itself
};

struct reader;

/* path "-" is standard input.  field: where jsonl has its text.  NULL on failure, logged; *code is then the exit code. */
struct reader *reader_open(const char *path, enum reader_format format, const char *field, int *code);
void reader_close(struct reader *reader);

/* false at the end of the file. */
bool reader_next(struct reader *reader, struct record *record);

/* Lines that were skipped because they could not be read. */
int64_t reader_bad_lines(const struct reader *reader);
/* The file could not be read to its end. */
bool reader_failed(const struct reader *reader);

#endif
