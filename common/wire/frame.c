/*
 * frame.c - frames to bytes and back.  See frame.h and schemas/frames.def.
 *
 * msgpack-c allocates from declared counts, so frame_extent walks the bytes first: depth and values are
 * limited there, and an object that the walk has seen whole cannot declare more than it brings.
 */
#define _GNU_SOURCE
#include "wire/frame.h"

#include <ctype.h>
#include <endian.h>
#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "wire/frame_table.h"

enum {
    FRAME_VERSION = 1,
    DEPTH_MAX = 8,        // of maps and arrays; our own frames have 1
    VALUES_MAX = 65536,   // of an unknown field's arrays, mostly
    REASON_SIZE = 512,
    QUOTE_SIZE = 49,      // of what a stranger named, with its NUL
};

/* ---- limits, the same for what arrives and for what is sent ---- */

static int __attribute__((format(printf, 3, 4)))
refuse(char *reason, const struct field_spec *field, const char *format, ...)
{
    int used = field ? snprintf(reason, REASON_SIZE, "field \"%s\" ", field->name) : 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason + used, REASON_SIZE - (size_t)used, format, arguments);
    va_end(arguments);
    return -1;
}

/* A stranger's name, fit for a log line and for a refusal. */
static const char *quote(char out[QUOTE_SIZE], const char *text, size_t size)
{
    size_t kept = size < QUOTE_SIZE - 1 ? size : QUOTE_SIZE - 1;
    for (size_t i = 0; i < kept; i++)
        out[i] = isascii((unsigned char)text[i]) && isprint((unsigned char)text[i]) && text[i] != '"' ? text[i] : '?';
    out[kept] = '\0';
    return out;
}

static int check_count(const struct field_spec *field, size_t count, const char *unit, char *reason)
{
    if ((double)count < field->low || (double)count > field->high)
        return refuse(reason, field, "has %zu %s, must have from %.0f to %.0f", count, unit, field->low, field->high);
    return 0;
}

static int check_text(const struct field_spec *field, const char *text, size_t size, char *reason)
{
    if (check_count(field, size, "bytes", reason) != 0)
        return -1;
    return utf8_is_valid(text, size) ? 0 : refuse(reason, field, "is not UTF-8, or has a NUL");
}

static int check_int(const struct field_spec *field, int64_t value, char *reason)
{
    if ((double)value < field->low || (double)value > field->high)
        return refuse(reason, field, "is %lld, must be from %.0f to %.0f", (long long)value, field->low, field->high);
    return 0;
}

static int check_number(const struct field_spec *field, double value, char *reason)
{
    if (!isfinite(value) || value < field->low || value > field->high)
        return refuse(reason, field, "is %.17g, must be from %g to %g", value, field->low, field->high);
    return 0;
}

static int check_tokens(const struct field_spec *field, struct tokens tokens, char *reason)
{
    if (check_count(field, tokens.count, "elements", reason) != 0)
        return -1;
    for (size_t i = 0; i < tokens.count; i++)
        if (tokens.at[i] < 0)
            return refuse(reason, field, "has %d as element %zu, must be 0 or more", (int)tokens.at[i], i);
    return 0;
}

static int check_floats(const struct field_spec *field, struct floats floats, char *reason)
{
    if (check_count(field, floats.count, "elements", reason) != 0)
        return -1;
    for (size_t i = 0; i < floats.count; i++)
        if (!isfinite(floats.at[i]))
            return refuse(reason, field, "has %g as element %zu, must be finite", (double)floats.at[i], i);
    return 0;
}

static int check_field(const struct frame *frame, const struct field_spec *field, char *reason)
{
    const void *at = field_at(frame, field);
    switch (field->kind) {
    case FIELD_TEXT: return check_text(field, *(const frame_TEXT *)at, strlen(*(const frame_TEXT *)at), reason);
    case FIELD_INT: return check_int(field, *(const frame_INT *)at, reason);
    case FIELD_NUMBER: return check_number(field, *(const frame_NUMBER *)at, reason);
    case FIELD_TOKENS: return check_tokens(field, *(const frame_TOKENS *)at, reason);
    case FIELD_FLOATS: return check_floats(field, *(const frame_FLOATS *)at, reason);
    case FIELD_BYTES: return check_count(field, ((const frame_BYTES *)at)->size, "bytes", reason);
    }
    CHECK(!"every kind is listed");
    return -1;
}

/* ---- encoding ---- */

static int append_packed(void *buffer, const char *data, size_t size)
{
    buffer_append(buffer, data, size);
    return 0;
}

static void pack_text(msgpack_packer *packer, const char *text)
{
    msgpack_pack_str(packer, strlen(text));
    msgpack_pack_str_body(packer, text, strlen(text));
}

/* Elements of 4 bytes, little-endian whatever this machine is. */
static void pack_elements(msgpack_packer *packer, int8_t ext_type, const void *elements, size_t count)
{
    msgpack_pack_ext(packer, count * 4, ext_type);
    for (size_t i = 0; i < count; ) {
        uint32_t words[1024];
        size_t some = count - i < COUNT_OF(words) ? count - i : COUNT_OF(words);
        memcpy(words, (const char *)elements + i * 4, some * 4);
        for (size_t w = 0; w < some; w++)
            words[w] = htole32(words[w]);
        msgpack_pack_ext_body(packer, words, some * 4);
        i += some;
    }
}

static void pack_field(msgpack_packer *packer, const struct frame *frame, const struct field_spec *field)
{
    const void *at = field_at(frame, field);
    const struct tokens *tokens = at;
    const struct floats *floats = at;
    const struct bytes *bytes = at;
    pack_text(packer, field->name);
    switch (field->kind) {
    case FIELD_TEXT: pack_text(packer, *(const frame_TEXT *)at); break;
    case FIELD_INT: msgpack_pack_int64(packer, *(const frame_INT *)at); break;
    case FIELD_NUMBER: msgpack_pack_double(packer, *(const frame_NUMBER *)at); break;
    case FIELD_TOKENS: pack_elements(packer, EXT_TOKENS, tokens->at, tokens->count); break;
    case FIELD_FLOATS: pack_elements(packer, EXT_FLOATS, floats->at, floats->count); break;
    case FIELD_BYTES:
        msgpack_pack_bin(packer, bytes->size);
        msgpack_pack_bin_body(packer, bytes->at, bytes->size);
        break;
    }
}

void frame_encode(const struct frame *frame, struct buffer *out)
{
    const struct field_spec *fields = frame_specs[frame->type].fields;
    size_t count = 2, start = out->size;
    for (const struct field_spec *field = fields; field->name != NULL; field++) {
        if (field_is_absent(frame, field))
            continue;
        char reason[REASON_SIZE];
        int fault = check_field(frame, field, reason);
        if (fault != 0)
            log_error("internal error: %s frame: %s", frame_type_name(frame->type), reason);
        CHECK(fault == 0);
        count++;
    }
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, append_packed);
    msgpack_pack_map(&packer, count);
    pack_text(&packer, "v");
    msgpack_pack_int(&packer, FRAME_VERSION);
    pack_text(&packer, "type");
    pack_text(&packer, frame_type_name(frame->type));
    for (const struct field_spec *field = fields; field->name != NULL; field++)
        if (!field_is_absent(frame, field))
            pack_field(&packer, frame, field);
    CHECK(out->size - start <= FRAME_SIZE_MAX);
}

/* ---- the walk ---- */

struct head {
    size_t size;     // bytes before the payload
    size_t payload;  // bytes of it
    size_t values;   // that follow: elements of an array, twice the pairs of a map
    bool nests;
};

static uint64_t read_big_endian(const unsigned char *at, size_t width)
{
    uint64_t value = 0;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

/* The head of one value: 1; 0 when data ends inside it; -1 for the reserved byte. */
static int read_head(struct head *head, const unsigned char *data, size_t left)
{
    enum { DATA, EXT, ARRAY, MAP };
    static const struct { unsigned char of, width; } sized[0xe0 - 0xc0] = {  // by byte - 0xc0: whose size has so many bytes
        [0x04] = { DATA, 1 }, [0x05] = { DATA, 2 }, [0x06] = { DATA, 4 },   // bin
        [0x07] = { EXT, 1 }, [0x08] = { EXT, 2 }, [0x09] = { EXT, 4 },
        [0x19] = { DATA, 1 }, [0x1a] = { DATA, 2 }, [0x1b] = { DATA, 4 },   // str
        [0x1c] = { ARRAY, 2 }, [0x1d] = { ARRAY, 4 }, [0x1e] = { MAP, 2 }, [0x1f] = { MAP, 4 },
    };
    static const unsigned char fixed[0xe0 - 0xc0] = {  // payload bytes of the others
        [0x0a] = 4, [0x0b] = 8,                                             // float
        [0x0c] = 1, [0x0d] = 2, [0x0e] = 4, [0x0f] = 8,                     // uint
        [0x10] = 1, [0x11] = 2, [0x12] = 4, [0x13] = 8,                     // int
        [0x14] = 2, [0x15] = 3, [0x16] = 5, [0x17] = 9, [0x18] = 17,        // fixext, with the type
    };
    *head = (struct head){ .size = 1 };
    unsigned char byte = data[0];
    if (byte < 0x80 || byte >= 0xe0)  // a small integer
        return 1;
    if (byte < 0xa0) {
        head->nests = true;
        head->values = byte < 0x90 ? 2 * (size_t)(byte & 0x0f) : (size_t)(byte & 0x0f);
        return 1;
    }
    if (byte < 0xc0) {
        head->payload = byte & 0x1f;
        return 1;
    }
    if (byte == 0xc1)
        return -1;
    size_t width = sized[byte - 0xc0].width;
    if (width == 0) {
        head->payload = fixed[byte - 0xc0];
        return 1;
    }
    head->size += width;
    if (left < head->size)
        return 0;
    uint64_t count = read_big_endian(data + 1, width);
    switch (sized[byte - 0xc0].of) {
    case DATA: head->payload = count; break;
    case EXT: head->payload = count + 1; break;
    case ARRAY: head->nests = true; head->values = count; break;
    case MAP: head->nests = true; head->values = 2 * count; break;
    }
    return 1;
}

int64_t frame_extent(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    size_t open[DEPTH_MAX];  // values still to come in each map or array
    size_t depth = 0, at = 0, values = 0;
    if (size > 0 && (bytes[0] < 0x80 || bytes[0] > 0x8f) && bytes[0] != 0xde && bytes[0] != 0xdf)
        return -1;
    do {
        if (at >= size)
            return 0;
        struct head head;
        int found = read_head(&head, bytes + at, size - at);
        if (found <= 0)
            return found;
        if (depth > 0)
            open[depth - 1]--;
        if (++values > VALUES_MAX || head.values > VALUES_MAX || head.payload > FRAME_SIZE_MAX)
            return -1;
        at += head.size + head.payload;
        if (at > FRAME_SIZE_MAX)
            return -1;
        if (head.nests) {
            if (depth == DEPTH_MAX)
                return -1;
            open[depth++] = head.values;
        }
        while (depth > 0 && open[depth - 1] == 0)
            depth--;
    } while (depth > 0);
    return at <= size ? (int64_t)at : 0;
}

/* ---- decoding ---- */

static const char *object_kind(const msgpack_object *object)
{
    switch (object->type) {
    case MSGPACK_OBJECT_NIL: return "nil";
    case MSGPACK_OBJECT_BOOLEAN: return "a boolean";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER: return "an integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64: return "a float";
    case MSGPACK_OBJECT_STR: return "str";
    case MSGPACK_OBJECT_ARRAY: return "an array";
    case MSGPACK_OBJECT_MAP: return "a map";
    case MSGPACK_OBJECT_BIN: return "bin";
    case MSGPACK_OBJECT_EXT: return "ext";
    }
    return "of an unknown type";
}

static bool object_is_text(const msgpack_object *object, const char *text)
{
    return object->type == MSGPACK_OBJECT_STR && object->via.str.size == strlen(text)
           && memcmp(object->via.str.ptr, text, strlen(text)) == 0;
}

static int read_int(const struct field_spec *field, const msgpack_object *object, int64_t *value, char *reason)
{
    bool is_int = object->type == MSGPACK_OBJECT_POSITIVE_INTEGER || object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER;
    if (!is_int)
        return refuse(reason, field, "is %s, must be an integer", object_kind(object));
    if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER && object->via.u64 > INT64_MAX)
        return refuse(reason, field, "is %llu, must be from %.0f to %.0f", (unsigned long long)object->via.u64,
                      field->low, field->high);
    *value = object->via.i64;
    return check_int(field, *value, reason);
}

static int read_number(const struct field_spec *field, const msgpack_object *object, double *value, char *reason)
{
    switch (object->type) {
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64: *value = object->via.f64; break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER: *value = (double)object->via.u64; break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER: *value = (double)object->via.i64; break;
    default: return refuse(reason, field, "is %s, must be a float", object_kind(object));
    }
    return check_number(field, *value, reason);
}

/* Elements of 4 bytes, copied because those in the message are not aligned. */
static int read_elements(const struct field_spec *field, const msgpack_object *object, int8_t ext_type, struct arena *arena,
                         const void **elements, size_t *count, char *reason)
{
    if (object->type != MSGPACK_OBJECT_EXT)
        return refuse(reason, field, "is %s, must be ext %d", object_kind(object), ext_type);
    if (object->via.ext.type != ext_type)
        return refuse(reason, field, "is ext %d, must be ext %d", object->via.ext.type, ext_type);
    if (object->via.ext.size % 4 != 0)
        return refuse(reason, field, "has %u bytes, must be a multiple of 4", object->via.ext.size);
    *count = object->via.ext.size / 4;
    if (check_count(field, *count, "elements", reason) != 0)
        return -1;
    uint32_t *words = arena_alloc(arena, *count, sizeof *words);
    memcpy(words, object->via.ext.ptr, *count * sizeof *words);
    for (size_t i = 0; i < *count; i++)
        words[i] = le32toh(words[i]);
    *elements = words;
    return 0;
}

static int read_field(struct frame *frame, const struct field_spec *field, const msgpack_object *object, struct arena *arena,
                      char *reason)
{
    void *at = field_at(frame, field);
    const void *elements = NULL;
    size_t count = 0;
    switch (field->kind) {
    case FIELD_TEXT:
        if (object->type != MSGPACK_OBJECT_STR)
            return refuse(reason, field, "is %s, must be str", object_kind(object));
        if (check_text(field, object->via.str.ptr, object->via.str.size, reason) != 0)
            return -1;
        *(frame_TEXT *)at = arena_text(arena, object->via.str.ptr, object->via.str.size);
        return 0;
    case FIELD_INT:
        return read_int(field, object, at, reason);
    case FIELD_NUMBER:
        return read_number(field, object, at, reason);
    case FIELD_TOKENS:
        if (read_elements(field, object, EXT_TOKENS, arena, &elements, &count, reason) != 0)
            return -1;
        *(frame_TOKENS *)at = (struct tokens){ elements, count };
        return check_tokens(field, *(frame_TOKENS *)at, reason);
    case FIELD_FLOATS:
        if (read_elements(field, object, EXT_FLOATS, arena, &elements, &count, reason) != 0)
            return -1;
        *(frame_FLOATS *)at = (struct floats){ elements, count };
        return check_floats(field, *(frame_FLOATS *)at, reason);
    case FIELD_BYTES:
        if (object->type != MSGPACK_OBJECT_BIN)
            return refuse(reason, field, "is %s, must be bin", object_kind(object));
        if (check_count(field, object->via.bin.size, "bytes", reason) != 0)
            return -1;
        *(frame_BYTES *)at = (struct bytes){
            (unsigned char *)arena_text(arena, object->via.bin.ptr, object->via.bin.size), object->via.bin.size };
        return 0;
    }
    CHECK(!"every kind is listed");
    return -1;
}

/* The value of a key that every frame has; NULL, with a reason, when it is missing or there twice. */
static const msgpack_object *find_once(const msgpack_object_map *map, const char *key, char *reason)
{
    const msgpack_object *found = NULL;
    for (size_t i = 0; i < map->size; i++) {
        if (!object_is_text(&map->ptr[i].key, key))
            continue;
        if (found != NULL) {
            refuse(reason, NULL, "field \"%s\" is there twice", key);
            return NULL;
        }
        found = &map->ptr[i].val;
    }
    if (found == NULL)
        refuse(reason, NULL, "field \"%s\" is missing", key);
    return found;
}

/* Which enum frame_type, or -1. */
static int read_type(const msgpack_object_map *map, char *reason)
{
    char name[QUOTE_SIZE];
    const msgpack_object *version = find_once(map, "v", reason);
    if (version == NULL)
        return -1;
    if (version->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return refuse(reason, NULL, "field \"v\" is %s, must be the integer %d", object_kind(version), FRAME_VERSION);
    if (version->via.u64 != FRAME_VERSION)
        return refuse(reason, NULL, "field \"v\" is %llu, must be %d", (unsigned long long)version->via.u64, FRAME_VERSION);
    const msgpack_object *type_name = find_once(map, "type", reason);
    if (type_name == NULL)
        return -1;
    for (int type = 0; type < FRAME_TYPE_COUNT; type++)
        if (object_is_text(type_name, frame_specs[type].name))
            return type;
    if (type_name->type != MSGPACK_OBJECT_STR)
        return refuse(reason, NULL, "field \"type\" is %s, must be str", object_kind(type_name));
    return refuse(reason, NULL, "field \"type\" is \"%s\", which is no type of frame",
                  quote(name, type_name->via.str.ptr, type_name->via.str.size));
}

static int read_fields(struct frame *frame, const msgpack_object_map *map, struct arena *arena, char *reason)
{
    const struct field_spec *fields = frame_specs[frame->type].fields;
    uint64_t seen = 0;  // bit i: fields[i] was read
    for (size_t i = 0; i < map->size; i++) {
        const msgpack_object *key = &map->ptr[i].key;
        if (key->type != MSGPACK_OBJECT_STR)
            return refuse(reason, NULL, "a key is %s, must be str", object_kind(key));
        const struct field_spec *field = frame_field(frame->type, key->via.str.ptr, key->via.str.size);
        if (field == NULL)
            continue;
        CHECK(field - fields < 64);
        uint64_t bit = (uint64_t)1 << (field - fields);
        if (seen & bit)
            return refuse(reason, field, "is there twice");
        seen |= bit;
        if (read_field(frame, field, &map->ptr[i].val, arena, reason) != 0)
            return -1;
    }
    for (const struct field_spec *field = fields; field->name != NULL; field++)
        if (field->presence == REQUIRED && !(seen & (uint64_t)1 << (field - fields)))
            return refuse(reason, field, "is missing");
    return 0;
}

static int read_frame(struct frame *frame, const msgpack_object_map *map, struct arena *arena, char *reason)
{
    char fault[REASON_SIZE];
    int type = read_type(map, reason);
    if (type < 0)
        return -1;
    *frame = frame_make((enum frame_type)type);
    if (read_fields(frame, map, arena, fault) == 0)
        return 0;
    return refuse(reason, NULL, "%s frame: %.480s", frame_type_name(frame->type), fault);
}

int frame_decode(struct frame *frame, const void *data, size_t size, struct arena *arena, char reason[512])
{
    int64_t extent = size <= FRAME_SIZE_MAX ? frame_extent(data, size) : -1;
    if (size > FRAME_SIZE_MAX)
        return refuse(reason, NULL, "frame has %zu bytes, must have at most %d", size, FRAME_SIZE_MAX);
    if (extent < 0)
        return refuse(reason, NULL, "not a frame: not a MessagePack map of at most %d bytes, %d levels and %d values",
                      FRAME_SIZE_MAX, DEPTH_MAX, VALUES_MAX);
    if (extent == 0)
        return refuse(reason, NULL, "frame ends before it should, after %zu bytes", size);
    if ((size_t)extent != size)
        return refuse(reason, NULL, "frame has %zu bytes, followed by %zu more", (size_t)extent, size - (size_t)extent);

    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    msgpack_unpack_return found = msgpack_unpack_next(&unpacked, data, size, NULL);
    int result = found == MSGPACK_UNPACK_SUCCESS && unpacked.data.type == MSGPACK_OBJECT_MAP
                     ? read_frame(frame, &unpacked.data.via.map, arena, reason)
                     : refuse(reason, NULL, "not a frame: cannot be unpacked");
    msgpack_unpacked_destroy(&unpacked);
    return result;
}
