/* reader.c - see reader.h.  zlib's gz functions read plain files too. */
#include "tokenize/reader.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>
#include <zlib.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stop.h"
#include "base/utf8.h"

enum { LINE_BYTES_MAX = 16 << 20 };

struct reader {
    const char *path;  // "standard input" where it is that
    const char *field;
    enum reader_format format;
    gzFile file;
    char chunk[1 << 16];  // of the file, read and not yet in a line
    size_t chunk_at, chunk_size;
    struct buffer line;
    json_t *object;  // of the current line; the record borrows from it
    int64_t line_number, bad_lines;
    bool failed;
};

struct reader *reader_open(const char *path, enum reader_format format, const char *field, int *code)
{
    errno = 0;
    bool standard = strcmp(path, "-") == 0;
    gzFile file = standard ? gzdopen(dup(STDIN_FILENO), "rb") : gzopen(path, "rb");
    if (file == NULL) {
        *code = errno != 0 ? EX_NOINPUT : EX_OSERR;
        log_error("could not open \"%s\": %s", path, errno ? strerror(errno) : "out of memory");
        return NULL;
    }
    gzbuffer(file, 1 << 17);
    struct reader *reader = memory_alloc(1, sizeof *reader);
    reader->path = standard ? "standard input" : path;
    reader->field = field;
    reader->format = format;
    reader->file = file;
    return reader;
}

void reader_close(struct reader *reader)
{
    if (reader == NULL)
        return;
    gzclose(reader->file);
    json_decref(reader->object);
    free(reader->line.data);
    free(reader);
}

int64_t reader_bad_lines(const struct reader *reader)
{
    return reader->bad_lines;
}

bool reader_failed(const struct reader *reader)
{
    return reader->failed;
}

/* Fills the chunk when it is used up; false at the end of the file and when it cannot be read. */
static bool fill_chunk(struct reader *reader)
{
    if (reader->chunk_at < reader->chunk_size)
        return true;
    bool first = reader->chunk_size == 0;
    int got = gzread(reader->file, reader->chunk, sizeof reader->chunk);
    reader->chunk_size = got > 0 ? (size_t)got : 0;
    reader->chunk_at = first ? utf8_mark(reader->chunk, reader->chunk_size) : 0;
    if (reader->chunk_at < reader->chunk_size)
        return true;
    int status;
    const char *message = gzerror(reader->file, &status);
    if (status != Z_OK && status != Z_STREAM_END) {
        log_error("cannot read \"%s\" after line %lld: %s", reader->path, (long long)reader->line_number,
                  status == Z_ERRNO ? strerror(errno) : message);
        reader->failed = true;
    }
    return false;
}

/*
 * The next line without its end, NUL-terminated (NULs within are judged with its text); false at the end of the file and when it
 * was stopped.  *whole is false where the line is longer than it may be and the rest of it is left out.
 */
static bool read_line(struct reader *reader, bool *whole)
{
    bool any = false, ended = false;
    *whole = true;
    reader->line.size = 0;
    while (!ended && fill_chunk(reader)) {
        const char *start = reader->chunk + reader->chunk_at;
        size_t left = reader->chunk_size - reader->chunk_at;
        const char *end = memchr(start, '\n', left);
        size_t size = end != NULL ? (size_t)(end - start) : left;
        any = true;
        ended = end != NULL;
        *whole = *whole && reader->line.size + size <= LINE_BYTES_MAX;
        if (*whole)
            buffer_append(&reader->line, start, size);
        reader->chunk_at += size + ended;
        if (stop_requested())  // the line may have no end
            return false;
    }
    if (!any || reader->failed)
        return false;
    while (reader->line.size > 0 && reader->line.data[reader->line.size - 1] == '\r')
        reader->line.size--;
    buffer_append(&reader->line, "", 1);
    reader->line.size--;
    reader->line_number++;
    return true;
}

/* What a field holds; NULL where it is missing or null. */
static const json_t *field_value(const json_t *object, const char *field)
{
    const json_t *value = json_object_get(object, field);
    return json_is_null(value) ? NULL : value;
}

/* The text of a field; NULL when it is missing, no text, or holds a NUL, which frames cannot carry. */
static const char *field_text(const json_t *object, const char *field, size_t *size, const char **trouble)
{
    const json_t *value = field_value(object, field);
    *trouble = value == NULL ? "is missing" : !json_is_string(value) ? "is not a text" : NULL;
    if (*trouble != NULL)
        return NULL;
    *size = json_string_length(value);
    const char *text = json_string_value(value);
    if (memchr(text, '\0', *size) != NULL) {
        *trouble = "contains a NUL character";
        return NULL;
    }
    return text;
}

/* The text of the record's own field, or messages in its place.  0, or -1 with the field and its trouble. */
static int prompt_from_json(const struct reader *reader, struct record *record, const char **field, const char **trouble)
{
    const json_t *object = reader->object, *value = field_value(object, *field);
    const json_t *messages = field_value(object, "messages");
    bool list = json_is_array(value) && (json_array_size(value) == 0 || json_is_object(json_array_get(value, 0)));
    if (reader->format != READER_HH && (list || (value == NULL && messages != NULL))) {
        *field = value != NULL ? *field : "messages";
        record->messages = value != NULL ? value : messages;
        *trouble = json_is_array(record->messages) ? NULL : "is not a list";
        return *trouble != NULL ? -1 : 0;
    }
    record->prompt = field_text(object, *field, &record->prompt_size, trouble);
    return record->prompt != NULL ? 0 : -1;
}

/* 0, or -1 with the field and its trouble. */
static int record_from_json(const struct reader *reader, struct record *record, const char **field, const char **trouble)
{
    const json_t *object = reader->object;
    *field = reader->format == READER_HH ? "chosen" : reader->format == READER_ROLLOUTS ? "prompt" : reader->field;
    if (prompt_from_json(reader, record, field, trouble) != 0)
        return -1;

    if (reader->format == READER_HH) {
        static const char turn[] = "\n\nAssistant:";
        const char *last = NULL;
        for (const char *at = record->prompt; (at = strstr(at, turn)) != NULL; at++)
            last = at;
        if (last == NULL) {
            *trouble = "has no turn of the assistant";
            return -1;
        }
        record->prompt_size = (size_t)(last - record->prompt) + strlen(turn);
        return 0;
    }
    size_t split_size;
    if (field_value(object, "split") != NULL) {
        *field = "split";
        record->split = field_text(object, *field, &split_size, trouble);
        if (record->split != NULL && (split_size == 0 || split_size > 128))
            *trouble = "must have 1 to 128 bytes";
        if (*trouble != NULL)
            return -1;
    }
    if (reader->format == READER_ROLLOUTS) {
        *field = "response";
        record->response = field_text(object, *field, &record->response_size, trouble);
        if (record->response == NULL)
            return -1;
        const json_t *score = field_value(object, "score"), *stopped = field_value(object, "stopped");
        if (score != NULL) {
            *field = "score";
            *trouble = "is not a number from -1e30 to 1e30";
            if (!json_is_number(score) || !(fabs(json_number_value(score)) <= 1e30))
                return -1;
            record->score = json_number_value(score);
        }
        *field = "stopped";
        *trouble = "is neither true nor false";
        if (stopped != NULL && !json_is_boolean(stopped))
            return -1;
        record->cut = json_is_false(stopped);
    }
    return 0;
}

static bool read_json_record(struct reader *reader, struct record *record)
{
    json_decref(reader->object);
    reader->object = json_parse_line(reader->line.data, reader->line.size, reader->path, (size_t)reader->line_number);
    if (reader->object == NULL)
        return false;
    const char *field, *trouble = "";
    if (!json_is_object(reader->object)) {
        log_error("cannot use \"%s\" line %lld: not a JSON object", reader->path, (long long)reader->line_number);
        return false;
    }
    if (record_from_json(reader, record, &field, &trouble) != 0) {
        log_error("cannot use \"%s\" line %lld: field \"%s\" %s", reader->path, (long long)reader->line_number, field, trouble);
        return false;
    }
    return true;
}

bool reader_next(struct reader *reader, struct record *record)
{
    bool whole;
    while (read_line(reader, &whole)) {
        *record = (struct record){ .path = reader->path, .line = reader->line_number, .score = NAN };
        if (!whole) {
            log_error("cannot use \"%s\" line %lld: it has more than %d bytes", reader->path, (long long)reader->line_number,
                      LINE_BYTES_MAX);
        } else if (reader->format != READER_LINES && strspn(reader->line.data, " \t") == reader->line.size) {
            continue;
        } else if (reader->format != READER_TEXT && reader->format != READER_LINES) {
            if (read_json_record(reader, record))
                return true;
        } else if (utf8_is_valid(reader->line.data, reader->line.size)) {
            record->prompt = reader->line.data;
            record->prompt_size = reader->line.size;
            return true;
        } else {
            log_error("cannot use \"%s\" line %lld: not UTF-8, or has a NUL", reader->path, (long long)reader->line_number);
        }
        reader->bad_lines++;
    }
    return false;
}
