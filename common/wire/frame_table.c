/* frame_table.c - see frame_table.h. */
#include "wire/frame_table.h"

#include <math.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"

#define FRAME(name, route, meaning) static const struct field_spec name##_fields[] = {
#define FIELD(of, kind, name, presence, low, high, meaning) \
    { #name, FIELD_##kind, presence, low, high, offsetof(struct frame, of.name), meaning },
#define END(name) { 0 } };
#include "frames.def"
#undef FRAME
#undef FIELD
#undef END

const struct frame_spec frame_specs[FRAME_TYPE_COUNT] = {
#define FRAME(name, route, meaning) { #name, route, meaning, name##_fields },
#define FIELD(of, kind, name, presence, low, high, meaning)
#define END(name)
#include "frames.def"
#undef FRAME
#undef FIELD
#undef END
};

const struct field_spec *frame_field(enum frame_type type, const char *name, size_t name_size)
{
    for (const struct field_spec *field = frame_specs[type].fields; field->name != NULL; field++)
        if (strlen(field->name) == name_size && memcmp(field->name, name, name_size) == 0)
            return field;
    return NULL;
}

bool field_is_absent(const struct frame *frame, const struct field_spec *field)
{
    const void *at = field_at(frame, field);
    if (field->presence == REQUIRED)
        return false;
    switch (field->kind) {
    case FIELD_TEXT: return (*(const frame_TEXT *)at)[0] == '\0';
    case FIELD_INT: return *(const frame_INT *)at == (int64_t)field->low;
    case FIELD_NUMBER: return isnan(*(const frame_NUMBER *)at);
    case FIELD_TOKENS: return ((const frame_TOKENS *)at)->count == 0;
    case FIELD_FLOATS: return ((const frame_FLOATS *)at)->count == 0;
    case FIELD_BYTES: return ((const frame_BYTES *)at)->size == 0;
    }
    CHECK(!"every kind is listed");
    return false;
}

const char *frame_type_name(enum frame_type type)
{
    CHECK((unsigned)type < FRAME_TYPE_COUNT);
    return frame_specs[type].name;
}

struct frame frame_make(enum frame_type type)
{
    CHECK((unsigned)type < FRAME_TYPE_COUNT);
    struct frame frame;
    memset(&frame, 0, sizeof frame);
    frame.type = type;
    for (const struct field_spec *field = frame_specs[type].fields; field->name != NULL; field++) {
        void *at = field_at(&frame, field);
        if (field->kind == FIELD_TEXT)
            *(frame_TEXT *)at = "";
        else if (field->kind == FIELD_INT)
            *(frame_INT *)at = (int64_t)field->low;
        else if (field->kind == FIELD_NUMBER)
            *(frame_NUMBER *)at = NAN;
    }
    return frame;
}

static size_t field_size(enum field_kind kind)
{
    switch (kind) {
    case FIELD_TEXT: return sizeof(frame_TEXT);
    case FIELD_INT: return sizeof(frame_INT);
    case FIELD_NUMBER: return sizeof(frame_NUMBER);
    case FIELD_TOKENS: return sizeof(frame_TOKENS);
    case FIELD_FLOATS: return sizeof(frame_FLOATS);
    case FIELD_BYTES: return sizeof(frame_BYTES);
    }
    CHECK(!"every kind is listed");
    return 0;
}

struct frame frame_extended(enum frame_type type, const struct frame *from)
{
    struct frame frame = frame_make(type);
    for (const struct field_spec *field = frame_specs[type].fields; field->name != NULL; field++) {
        const struct field_spec *other = frame_field(from->type, field->name, strlen(field->name));
        if (other != NULL && other->kind == field->kind)
            memcpy(field_at(&frame, field), field_at(from, other), field_size(field->kind));
    }
    if (frame_output(&frame) != NULL)
        *frame_output(&frame) = 0;
    return frame;
}

bool name_is_valid(const char *name)
{
    size_t size = strlen(name);
    return size >= 1 && size <= NAME_BYTES && utf8_is_valid(name, size);
}

static int64_t *int_field(struct frame *frame, const char *name)
{
    const struct field_spec *field = frame_field(frame->type, name, strlen(name));
    return field != NULL ? field_at(frame, field) : NULL;
}

int64_t *frame_item(struct frame *frame)
{
    return int_field(frame, "item");
}

int64_t *frame_output(struct frame *frame)
{
    return int_field(frame, "output");
}
