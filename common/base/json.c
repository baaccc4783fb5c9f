/* json.c - see json.h. */
#include "base/json.h"

#include <stdlib.h>
#include <sysexits.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

enum { PARSE_FLAGS = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL };

json_t *json_parse(const char *text, size_t size, const char *name)
{
    if (size == 0) {
        log_error("cannot read \"%s\" as JSON: it is empty", name);
        return NULL;
    }
    json_error_t error;
    json_t *json = json_loadb(text, size, PARSE_FLAGS, &error);
    if (json == NULL)
        log_error("cannot read \"%s\" as JSON: line %d column %d: %s", name, error.line, error.column, error.text);
    return json;
}

json_t *json_parse_line(const char *text, size_t size, const char *name, size_t line)
{
    json_error_t error;
    json_t *json = json_loadb(text, size, PARSE_FLAGS, &error);
    if (json == NULL)
        log_error("cannot read \"%s\" line %zu as JSON: column %d: %s", name, line, error.column, error.text);
    return json;
}

json_t *json_read(const char *path)
{
    struct file_map map;
    if (file_map(&map, path) != EX_OK)
        return NULL;
    json_t *json = json_parse((const char *)map.data, map.size, path);
    file_unmap(&map);
    return json;
}

static char *json_print(const json_t *json, size_t flags)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY | flags);
    if (text == NULL) {
        log_error("out of memory: could not print JSON");
        exit(EX_OSERR);
    }
    return text;
}

char *json_text(const json_t *json)
{
    return json_print(json, 0);
}

char *json_text_readable(const json_t *json)
{
    return json_print(json, JSON_REAL_PRECISION(15));
}
