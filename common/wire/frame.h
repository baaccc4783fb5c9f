/*
 * frame.h - messages as C structs, made from schemas/frames.def.
 *
 * A decoded frame borrows its texts and arrays from the arena given; arrays are aligned for SIMD.  A frame from outside is walked
 * once before anything is allocated (counts against the bytes left, depth, size), then every field is checked
 * against its limits.
 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

struct tokens { const int32_t *at; size_t count; };
struct floats { const float *at; size_t count; };
struct bytes { const unsigned char *at; size_t size; };

typedef const char *frame_TEXT;
typedef int64_t frame_INT;
typedef double frame_NUMBER;
typedef struct tokens frame_TOKENS;
typedef struct floats frame_FLOATS;
typedef struct bytes frame_BYTES;

/* enum frame_type { FRAME_prompt, FRAME_rollout, ... } */
enum frame_type {
#define FRAME(name, route, meaning) FRAME_##name,
#define FIELD(frame, kind, name, presence, low, high, meaning)
#define END(name)
#include "frames.def"
#undef FRAME
#undef FIELD
#undef END
    FRAME_TYPE_COUNT
};

/* struct frame_prompt { int64_t item; ... }, and so on. */
#define FRAME(name, route, meaning) struct frame_##name {
#define FIELD(frame, kind, name, presence, low, high, meaning) frame_##kind name;
#define END(name) char end_; };
#include "frames.def"
#undef FRAME
#undef FIELD
#undef END

struct frame {
    enum frame_type type;
    union {
#define FRAME(name, route, meaning) struct frame_##name name;
#define FIELD(frame, kind, name, presence, low, high, meaning)
#define END(name)
#include "frames.def"
#undef FRAME
#undef FIELD
#undef END
    };
};

/* The most bytes one frame may have, on a socket or in a pipe. */
enum { FRAME_SIZE_MAX = 32 << 20 };

const char *frame_type_name(enum frame_type type);

/* A frame of this type with every field as if absent; give it to frame_encode after filling in what is meant. */
struct frame frame_make(enum frame_type type);

/*
 * A frame of this type with what it has in common with another (fields of the same name and kind), the rest as if absent.
 * Borrows the texts and arrays.  An output of an item is the item extended: its lease comes along, but not
 * output, which numbers a single frame.
 */
struct frame frame_extended(enum frame_type type, const struct frame *from);

/* Whether frames can carry a name that a user gave: UTF-8 of 1 to NAME_BYTES bytes. */
bool name_is_valid(const char *name);

/* Appends the frame's bytes.  What is encoded is ours: a field outside its limits is CHECKed.  Fields as if absent are left out. */
void frame_encode(const struct frame *frame, struct buffer *out);

/*
 * 0, or -1 with one line of ASCII in reason that names the field, the value and the limit.  size must be exactly one frame.
 * The arena never needs more than size + 2048 bytes for it.
 */
int frame_decode(struct frame *frame, const void *data, size_t size, struct arena *arena, char reason[512]);

/*
 * Walks one MessagePack object without allocating.  Returns its size in bytes, 0 when data ends before it does,
 * or -1 when it cannot be a frame (no map, too deep, too large, reserved byte).
 */
int64_t frame_extent(const void *data, size_t size);

/* As JSON: tokens and floats as arrays, bytes as their count; what is absent is left out.  The caller json_decref()s. */
json_t *frame_to_json(const struct frame *frame);

/* The delivery fields of any frame that has them; NULL for one that has none. */
int64_t *frame_item(struct frame *frame);
int64_t *frame_output(struct frame *frame);

/* Markdown tables of all frames, for schemas/README.md. */
void frame_describe(struct buffer *out);

#endif
