/*
 * frame_table.h - schemas/frames.def as rows, for what walks all fields: encoder, decoder, printers and tests.
 */
#ifndef WIRE_FRAME_TABLE_H
#define WIRE_FRAME_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/frame.h"

enum field_kind { FIELD_TEXT, FIELD_INT, FIELD_NUMBER, FIELD_TOKENS, FIELD_FLOATS, FIELD_BYTES };
enum field_presence { OPTIONAL, REQUIRED };

enum { EXT_TOKENS = 1, EXT_FLOATS = 2 };  // MessagePack ext types

struct field_spec {
    const char *name;  // NULL ends a frame's fields
    enum field_kind kind;
    enum field_presence presence;
    double low, high;  // of the value (INT, NUMBER), its bytes (TEXT, BYTES) or its elements; integers are exact up to 2^53
    size_t offset;     // in struct frame
    const char *meaning;
};

struct frame_spec {
    const char *name, *route, *meaning;
    const struct field_spec *fields;
};

extern const struct frame_spec frame_specs[FRAME_TYPE_COUNT];

/* NULL if frames of this type have no such field. */
const struct field_spec *frame_field(enum frame_type type, const char *name, size_t name_size);

static inline void *field_at(const struct frame *frame, const struct field_spec *field)
{
    return (char *)frame + field->offset;
}

/* An optional field with the value that stands for its absence is not sent. */
bool field_is_absent(const struct frame *frame, const struct field_spec *field);

#endif
