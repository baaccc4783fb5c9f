/*
 * gguf.c - see gguf.h.
 *
 * The file, all numbers little-endian, a text being its size in bytes (u64) and then its bytes:
 *
 *     header    magic "GGUF", version (u32), tensor count (u64), value count (u64)
 *     values    key (text), type (u32), value; an array is element type (u32), count (u64), elements
 *     tensors   name (text), rank (u32), shape (u64 each, fastest first), type (u32), offset (u64)
 *     padding   to the alignment (value "general.alignment", else 32)
 *     data      each tensor at its offset, which is a multiple of the alignment
 */
#define _GNU_SOURCE
#include "model/gguf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"

enum value_type {
    VALUE_U8, VALUE_I8, VALUE_U16, VALUE_I16, VALUE_U32, VALUE_I32, VALUE_F32, VALUE_BOOL, VALUE_TEXT, VALUE_ARRAY,
    VALUE_U64, VALUE_I64, VALUE_F64, VALUE_TYPE_COUNT
};

/* Bytes of a value; 0 where that depends on the value. */
static const size_t value_sizes[VALUE_TYPE_COUNT] = {
    [VALUE_U8] = 1, [VALUE_I8] = 1, [VALUE_U16] = 2, [VALUE_I16] = 2, [VALUE_U32] = 4, [VALUE_I32] = 4,
    [VALUE_F32] = 4, [VALUE_BOOL] = 1, [VALUE_U64] = 8, [VALUE_I64] = 8, [VALUE_F64] = 8,
};

/* ggml's tensor types: elements that share a block, and the bytes of a block.  Numbers without a row are retired. */
static const struct ggml_type {
    const char *name;
    uint32_t block_elements, block_bytes;
} ggml_types[] = {
    [0] = { "F32", 1, 4 },         [1] = { "F16", 1, 2 },         [2] = { "Q4_0", 32, 18 },
    [3] = { "Q4_1", 32, 20 },      [6] = { "Q5_0", 32, 22 },      [7] = { "Q5_1", 32, 24 },
    [8] = { "Q8_0", 32, 34 },      [9] = { "Q8_1", 32, 40 },      [10] = { "Q2_K", 256, 84 },
    [11] = { "Q3_K", 256, 110 },   [12] = { "Q4_K", 256, 144 },   [13] = { "Q5_K", 256, 176 },
    [14] = { "Q6_K", 256, 210 },   [15] = { "Q8_K", 256, 292 },   [16] = { "IQ2_XXS", 256, 66 },
    [17] = { "IQ2_XS", 256, 74 },  [18] = { "IQ3_XXS", 256, 98 }, [19] = { "IQ1_S", 256, 50 },
    [20] = { "IQ4_NL", 32, 18 },   [21] = { "IQ3_S", 256, 110 },  [22] = { "IQ2_S", 256, 82 },
    [23] = { "IQ4_XS", 256, 136 }, [24] = { "I8", 1, 1 },         [25] = { "I16", 1, 2 },
    [26] = { "I32", 1, 4 },        [27] = { "I64", 1, 8 },        [28] = { "F64", 1, 8 },
    [29] = { "IQ1_M", 256, 56 },   [30] = { "BF16", 1, 2 },       [34] = { "TQ1_0", 256, 54 },
    [35] = { "TQ2_0", 256, 66 },   [39] = { "MXFP4", 32, 17 },    [40] = { "NVFP4", 64, 36 },
    [41] = { "Q1_0", 128, 18 },
};

enum {
    KEY_BYTES_MAX = 65535,  // this and the next are the format's own limits
    NAME_BYTES_MAX = 64,
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MAX = 1 << 20,
    VALUE_BYTES_MIN = 8 + 1 + 4 + 1,
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,
};

struct value {
    const char *key;
    uint32_t type;
    const void *data;         // numbers: at the value, unaligned
    struct gguf_text text;    // VALUE_TEXT: with a NUL after it
    struct gguf_array array;  // VALUE_ARRAY
};

struct gguf {
    const char *name;
    struct file_map map;      // empty when the bytes are borrowed
    struct arena arena;       // keys, names and texts
    struct value *values;     // sorted by key
    size_t value_count;
    struct gguf_tensor *tensors;
    size_t tensor_count;
};

/* Reads forward through bytes; after the first error, which is logged, everything reads as 0. */
struct reader {
    const unsigned char *data;
    size_t size, at;
    const char *name;  // of the file
    bool failed;
};

static LOG_FORMAT(2) void reader_fail(struct reader *reader, const char *format, ...)
{
    if (!reader->failed) {
        char *why;
        va_list arguments;
        va_start(arguments, format);
        if (vasprintf(&why, format, arguments) >= 0) {
            log_error("cannot read GGUF file \"%s\": %s", reader->name, why);
            free(why);
        }
        va_end(arguments);
    }
    reader->failed = true;
}

/* The next size bytes; NULL when there are fewer. */
static const void *read_bytes(struct reader *reader, uint64_t size, const char *what)
{
    if (reader->failed)
        return NULL;
    if (size > reader->size - reader->at) {
        reader_fail(reader, "%s at byte %zu takes %llu bytes, %zu are left", what, reader->at, (unsigned long long)size,
                    reader->size - reader->at);
        return NULL;
    }
    const void *bytes = reader->data + reader->at;
    reader->at += (size_t)size;
    return bytes;
}

static uint32_t read_u32(struct reader *reader, const char *what)
{
    uint32_t number = 0;
    const void *bytes = read_bytes(reader, sizeof number, what);
    if (bytes != NULL)
        memcpy(&number, bytes, sizeof number);
    return number;
}

static uint64_t read_u64(struct reader *reader, const char *what)
{
    uint64_t number = 0;
    const void *bytes = read_bytes(reader, sizeof number, what);
    if (bytes != NULL)
        memcpy(&number, bytes, sizeof number);
    return number;
}

/* How many things of at least bytes_min each follow. */
static size_t read_count(struct reader *reader, size_t bytes_min, const char *what)
{
    uint64_t count = read_u64(reader, what);
    if (!reader->failed && count > (reader->size - reader->at) / bytes_min)
        reader_fail(reader, "%s announces %llu items, the %zu bytes left cannot hold them", what,
                    (unsigned long long)count, reader->size - reader->at);
    return reader->failed ? 0 : (size_t)count;
}

static struct gguf_text read_text(struct reader *reader, const char *what)
{
    size_t size = read_count(reader, 1, what);
    const void *at = read_bytes(reader, size, what);
    return at == NULL ? (struct gguf_text){ "", 0 } : (struct gguf_text){ at, size };
}

/* A key or tensor name: printable, so that it may be logged and compared as a C string. */
static const char *read_name(struct reader *reader, struct arena *arena, size_t size_max, const char *what)
{
    size_t at = reader->at;
    struct gguf_text text = read_text(reader, what);
    if (reader->failed)
        return "";
    if (text.size == 0 || text.size > size_max)
        reader_fail(reader, "%s at byte %zu has %zu bytes, it must have 1 to %zu", what, at, text.size, size_max);
    for (size_t i = 0; i < text.size && !reader->failed; i++)
        if ((unsigned char)text.at[i] < ' ' || text.at[i] == 0x7f)
            reader_fail(reader, "%s at byte %zu contains the control character %d", what, at, text.at[i]);
    return reader->failed ? "" : arena_text(arena, text.at, text.size);
}

/* ---- values ---- */

static void read_array(struct reader *reader, struct arena *arena, const char *key, struct gguf_array *array)
{
    array->type = read_u32(reader, "type of an array");
    if (array->type >= VALUE_TYPE_COUNT || array->type == VALUE_ARRAY) {
        reader_fail(reader, "key \"%s\" is an array of type %u, which is not supported", key, array->type);
        return;
    }
    bool texts = array->type == VALUE_TEXT;
    size_t element_bytes = texts ? sizeof(uint64_t) : value_sizes[array->type];
    array->count = read_count(reader, element_bytes, "length of an array");
    if (!texts) {
        array->data = read_bytes(reader, (uint64_t)array->count * element_bytes, "array");
        return;
    }
    struct gguf_text *all = arena_alloc(arena, array->count, sizeof *all);
    for (size_t i = 0; i < array->count && !reader->failed; i++)
        all[i] = read_text(reader, "text in an array");
    array->texts = all;
}

static void read_value(struct reader *reader, struct arena *arena, struct value *value)
{
    value->key = read_name(reader, arena, KEY_BYTES_MAX, "key");
    value->type = read_u32(reader, "type of a value");
    if (reader->failed)
        return;
    if (value->type >= VALUE_TYPE_COUNT) {
        reader_fail(reader, "key \"%s\" has the unknown type %u", value->key, value->type);
    } else if (value->type == VALUE_ARRAY) {
        read_array(reader, arena, value->key, &value->array);
    } else if (value->type == VALUE_TEXT) {
        struct gguf_text text = read_text(reader, "text");
        value->text = (struct gguf_text){ arena_text(arena, text.at, text.size), text.size };
    } else {
        value->data = read_bytes(reader, value_sizes[value->type], "value");
    }
}

static int compare_values(const void *a, const void *b)
{
    return strcmp(((const struct value *)a)->key, ((const struct value *)b)->key);
}

static void read_values(struct reader *reader, struct gguf *gguf)
{
    gguf->values = arena_alloc(&gguf->arena, gguf->value_count, sizeof *gguf->values);
    memset(gguf->values, 0, gguf->value_count * sizeof *gguf->values);
    for (size_t i = 0; i < gguf->value_count && !reader->failed; i++)
        read_value(reader, &gguf->arena, &gguf->values[i]);
    if (reader->failed)
        return;
    qsort(gguf->values, gguf->value_count, sizeof *gguf->values, compare_values);
    for (size_t i = 1; i < gguf->value_count; i++)
        if (strcmp(gguf->values[i - 1].key, gguf->values[i].key) == 0)
            reader_fail(reader, "key \"%s\" appears twice", gguf->values[i].key);
}

static const struct value *value_find(const struct gguf *gguf, const char *key)
{
    struct value wanted = { .key = key };
    return bsearch(&wanted, gguf->values, gguf->value_count, sizeof wanted, compare_values);
}

/* ---- tensors ---- */

/* Size in bytes from shape and type; 0 after an error. */
static size_t tensor_size(struct reader *reader, const struct gguf_tensor *tensor)
{
    if (tensor->type >= COUNT_OF(ggml_types) || ggml_types[tensor->type].name == NULL) {
        reader_fail(reader, "tensor \"%s\" has the unknown type %u", tensor->name, tensor->type);
        return 0;
    }
    const struct ggml_type *format = &ggml_types[tensor->type];
    size_t elements = 1, size = 0;
    for (size_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] < 1 || __builtin_mul_overflow(elements, (size_t)tensor->shape[i], &elements)) {
            reader_fail(reader, "tensor \"%s\" has the impossible dimension %lld", tensor->name, (long long)tensor->shape[i]);
            return 0;
        }
    }
    if (tensor->shape[tensor->rank - 1] % format->block_elements != 0)
        reader_fail(reader, "tensor \"%s\" has rows of %lld elements, type %s needs a multiple of %u", tensor->name,
                    (long long)tensor->shape[tensor->rank - 1], format->name, format->block_elements);
    else if (__builtin_mul_overflow(elements / format->block_elements, (size_t)format->block_bytes, &size)
             || size > reader->size)
        reader_fail(reader, "tensor \"%s\" has %zu elements of type %s, which do not fit into the file of %zu bytes",
                    tensor->name, elements, format->name, reader->size);
    return reader->failed ? 0 : size;
}

/* offset: from the start of the data section, not known before the last tensor has been read. */
static void read_tensor(struct reader *reader, struct arena *arena, struct gguf_tensor *tensor, uint64_t *offset)
{
    tensor->name = read_name(reader, arena, NAME_BYTES_MAX, "tensor name");
    uint32_t rank = read_u32(reader, "rank of a tensor");
    if (reader->failed)
        return;
    if (rank < 1 || rank > COUNT_OF(tensor->shape)) {
        reader_fail(reader, "tensor \"%s\" has rank %u, it must be 1 to %zu", tensor->name, rank, COUNT_OF(tensor->shape));
        return;
    }
    tensor->rank = rank;
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t extent = read_u64(reader, "shape of a tensor");
        tensor->shape[rank - 1 - i] = extent > INT64_MAX ? -1 : (int64_t)extent;
    }
    tensor->type = read_u32(reader, "type of a tensor");
    *offset = read_u64(reader, "offset of a tensor");
    if (!reader->failed)
        tensor->size_bytes = tensor_size(reader, tensor);
}

static size_t read_alignment(struct reader *reader, const struct gguf *gguf)
{
    const struct value *value = value_find(gguf, "general.alignment");
    if (value == NULL)
        return ALIGNMENT_DEFAULT;
    int64_t alignment = 0;
    if (!gguf_integer(gguf, value->key, &alignment) || alignment < 1 || alignment > ALIGNMENT_MAX
        || (alignment & (alignment - 1)) != 0) {
        reader_fail(reader, "general.alignment is %lld, it must be a power of two up to %d", (long long)alignment,
                    ALIGNMENT_MAX);
        return ALIGNMENT_DEFAULT;
    }
    return (size_t)alignment;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const struct gguf_tensor *const *)a)->name, (*(const struct gguf_tensor *const *)b)->name);
}

static int compare_places(const void *a, const void *b)
{
    const unsigned char *at_a = (*(const struct gguf_tensor *const *)a)->data;
    const unsigned char *at_b = (*(const struct gguf_tensor *const *)b)->data;
    return (at_a > at_b) - (at_a < at_b);
}

/* Names once, data apart. */
static void tensors_compare(struct reader *reader, const struct gguf *gguf)
{
    const struct gguf_tensor **sorted = memory_alloc(gguf->tensor_count, sizeof *sorted);
    for (size_t i = 0; i < gguf->tensor_count; i++)
        sorted[i] = &gguf->tensors[i];
    qsort(sorted, gguf->tensor_count, sizeof *sorted, compare_names);
    for (size_t i = 1; i < gguf->tensor_count; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            reader_fail(reader, "tensor \"%s\" appears twice", sorted[i]->name);
    qsort(sorted, gguf->tensor_count, sizeof *sorted, compare_places);
    for (size_t i = 1; i < gguf->tensor_count; i++)
        if ((const unsigned char *)sorted[i - 1]->data + sorted[i - 1]->size_bytes > (const unsigned char *)sorted[i]->data)
            reader_fail(reader, "tensors \"%s\" and \"%s\" overlap", sorted[i - 1]->name, sorted[i]->name);
    free(sorted);
}

static void read_tensors(struct reader *reader, struct gguf *gguf)
{
    size_t alignment = read_alignment(reader, gguf);
    gguf->tensors = arena_alloc(&gguf->arena, gguf->tensor_count, sizeof *gguf->tensors);
    memset(gguf->tensors, 0, gguf->tensor_count * sizeof *gguf->tensors);
    uint64_t *offsets = memory_alloc(gguf->tensor_count, sizeof *offsets);
    for (size_t i = 0; i < gguf->tensor_count && !reader->failed; i++)
        read_tensor(reader, &gguf->arena, &gguf->tensors[i], &offsets[i]);

    size_t start = (reader->at + alignment - 1) / alignment * alignment;  // of the data section
    for (size_t i = 0; i < gguf->tensor_count && !reader->failed; i++) {
        struct gguf_tensor *tensor = &gguf->tensors[i];
        if (offsets[i] % alignment != 0)
            reader_fail(reader, "tensor \"%s\" has offset %llu, which is no multiple of the alignment %zu", tensor->name,
                        (unsigned long long)offsets[i], alignment);
        else if (start > reader->size || offsets[i] > reader->size - start
                 || tensor->size_bytes > reader->size - start - offsets[i])
            reader_fail(reader, "tensor \"%s\" ends beyond the file: %zu bytes at %zu + %llu, the file has %zu", tensor->name,
                        tensor->size_bytes, start, (unsigned long long)offsets[i], reader->size);
        else
            tensor->data = reader->data + start + offsets[i];
    }
    free(offsets);
    if (!reader->failed)
        tensors_compare(reader, gguf);
}

/* ---- the file ---- */

static void read_header(struct reader *reader, struct gguf *gguf)
{
    const void *magic = read_bytes(reader, 4, "magic");
    if (magic != NULL && memcmp(magic, "GGUF", 4) != 0)
        reader_fail(reader, "it does not begin with \"GGUF\"");
    uint32_t version = read_u32(reader, "version");
    if (!reader->failed && (version < 2 || version > 3)) {
        if (__builtin_bswap32(version) <= 3)
            reader_fail(reader, "it is big-endian, only little-endian files are supported");
        else
            reader_fail(reader, "it has version %u, only 2 and 3 are supported", version);
    }
    gguf->tensor_count = read_count(reader, TENSOR_BYTES_MIN, "number of tensors");
    gguf->value_count = read_count(reader, VALUE_BYTES_MIN, "number of values");
}

struct gguf *gguf_from_memory(const void *data, size_t size, const char *name)
{
    struct gguf *gguf = memory_alloc(1, sizeof *gguf);
    arena_init(&gguf->arena, "GGUF header", SIZE_MAX);  // every count was held against the size of the file
    struct reader reader = { .data = data, .size = size, .name = name };
    read_header(&reader, gguf);
    if (!reader.failed)
        read_values(&reader, gguf);
    if (!reader.failed)
        read_tensors(&reader, gguf);
    if (reader.failed) {
        gguf_close(gguf);
        return NULL;
    }
    return gguf;
}

struct gguf *gguf_open(const char *path, int *code)
{
    struct file_map map;
    *code = file_map(&map, path);
    if (*code != EX_OK)
        return NULL;
    struct gguf *gguf = gguf_from_memory(map.data, map.size, path);
    if (gguf == NULL) {
        *code = EX_DATAERR;
        file_unmap(&map);
        return NULL;
    }
    gguf->map = map;
    return gguf;
}

void gguf_close(struct gguf *gguf)
{
    if (gguf == NULL)
        return;
    arena_free(&gguf->arena);
    file_unmap(&gguf->map);
    free(gguf);
}

const struct file_state *gguf_state(const struct gguf *gguf)
{
    return gguf->map.data != NULL ? &gguf->map.state : NULL;
}

size_t gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index)
{
    CHECK(index < gguf->tensor_count);
    return &gguf->tensors[index];
}

const char *gguf_type_name(uint32_t type)
{
    return type < COUNT_OF(ggml_types) && ggml_types[type].name != NULL ? ggml_types[type].name : "unknown";
}

/* ---- values by key ---- */

bool gguf_text(const struct gguf *gguf, const char *key, struct gguf_text *out)
{
    const struct value *value = value_find(gguf, key);
    if (value == NULL || value->type != VALUE_TEXT)
        return false;
    *out = value->text;
    return true;
}

#define LOAD(type, at) (__extension__({ type number_; memcpy(&number_, at, sizeof number_); number_; }))

static bool value_integer(const struct value *value, int64_t *out)
{
    switch (value->type) {
    case VALUE_U8:
    case VALUE_BOOL: *out = LOAD(uint8_t, value->data); return true;
    case VALUE_I8:   *out = LOAD(int8_t, value->data); return true;
    case VALUE_U16:  *out = LOAD(uint16_t, value->data); return true;
    case VALUE_I16:  *out = LOAD(int16_t, value->data); return true;
    case VALUE_U32:  *out = LOAD(uint32_t, value->data); return true;
    case VALUE_I32:  *out = LOAD(int32_t, value->data); return true;
    case VALUE_I64:  *out = LOAD(int64_t, value->data); return true;
    case VALUE_U64:
        if (LOAD(uint64_t, value->data) > INT64_MAX)
            return false;
        *out = LOAD(int64_t, value->data);
        return true;
    default: return false;
    }
}

bool gguf_integer(const struct gguf *gguf, const char *key, int64_t *out)
{
    const struct value *value = value_find(gguf, key);
    return value != NULL && value_integer(value, out);
}

bool gguf_number(const struct gguf *gguf, const char *key, double *out)
{
    const struct value *value = value_find(gguf, key);
    int64_t integer;
    if (value == NULL)
        return false;
    if (value->type == VALUE_F32)
        *out = (double)LOAD(float, value->data);
    else if (value->type == VALUE_F64)
        *out = LOAD(double, value->data);
    else if (value_integer(value, &integer))
        *out = (double)integer;
    else
        return false;
    return true;
}

bool gguf_array(const struct gguf *gguf, const char *key, struct gguf_array *out)
{
    const struct value *value = value_find(gguf, key);
    if (value == NULL || value->type != VALUE_ARRAY)
        return false;
    *out = value->array;
    return true;
}
