/* frame_print.c - frames for people: JSON, and the tables of schemas/README.md.  See frame.h. */
#include <math.h>

#include "base/check.h"
#include "wire/frame_table.h"

static json_t *json_from_field(const struct frame *frame, const struct field_spec *field)
{
    const void *at = field_at(frame, field);
    const struct tokens *tokens = at;
    const struct floats *floats = at;
    json_t *array;
    switch (field->kind) {
    case FIELD_TEXT: return json_string(*(const frame_TEXT *)at);
    case FIELD_INT: return json_integer(*(const frame_INT *)at);
    case FIELD_NUMBER: return json_real(*(const frame_NUMBER *)at);
    case FIELD_BYTES: return json_integer((json_int_t)((const struct bytes *)at)->size);
    case FIELD_TOKENS:
        array = json_array();
        for (size_t i = 0; i < tokens->count; i++)
            json_array_append_new(array, json_integer(tokens->at[i]));
        return array;
    case FIELD_FLOATS:
        array = json_array();
        for (size_t i = 0; i < floats->count; i++)
            json_array_append_new(array, json_real((double)floats->at[i]));
        return array;
    }
    CHECK(!"every kind is listed");
    return NULL;
}

json_t *frame_to_json(const struct frame *frame)
{
    json_t *json = json_pack("{s:s}", "type", frame_type_name(frame->type));
    for (const struct field_spec *field = frame_specs[frame->type].fields; field->name != NULL; field++)
        if (!field_is_absent(frame, field))
            json_object_set_new(json, field->name, json_from_field(frame, field));
    return json;
}

static void describe_field(const struct field_spec *field, struct buffer *out)
{
    static const char *const kinds[] = {
        [FIELD_TEXT] = "text", [FIELD_INT] = "int", [FIELD_NUMBER] = "number",
        [FIELD_TOKENS] = "tokens", [FIELD_FLOATS] = "floats", [FIELD_BYTES] = "bytes",
    };
    const char *unit = field->kind == FIELD_TEXT || field->kind == FIELD_BYTES ? " bytes"
                       : field->kind == FIELD_TOKENS || field->kind == FIELD_FLOATS ? " elements" : "";
    const char *format = field->kind == FIELD_NUMBER ? "| `%s` | %s | %s | %g .. %g%s | " : "| `%s` | %s | %s | %.0f .. %.0f%s | ";
    char limits[128];
    snprintf(limits, sizeof limits, format, field->name, kinds[field->kind], field->presence == REQUIRED ? "yes" : "",
             field->low, field->high, unit);
    buffer_printf(out, "%s", limits);
    for (const char *c = field->meaning; *c != '\0'; c++)
        buffer_printf(out, *c == '|' ? "\\%c" : "%c", *c);  // a bar would end the column
    buffer_printf(out, " |\n");
}

void frame_describe(struct buffer *out)
{
    for (size_t type = 0; type < FRAME_TYPE_COUNT; type++) {
        const struct frame_spec *spec = &frame_specs[type];
        buffer_printf(out, "%s### %s\n\n%s: %s.\n", type ? "\n" : "", spec->name, spec->route, spec->meaning);
        if (spec->fields->name == NULL)
            continue;
        buffer_printf(out, "\n| field | kind | required | limits | meaning |\n|---|---|---|---|---|\n");
        for (const struct field_spec *field = spec->fields; field->name != NULL; field++)
            describe_field(field, out);
    }
}
