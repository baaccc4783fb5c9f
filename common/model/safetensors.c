/* safetensors.c - see safetensors.h. */
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"

enum {
    SIZE_BYTES = 8,                  // of the number before the header
    HEADER_BYTES_MAX = 32 << 20,     // ten times that of the largest models; bounds what JSON may make us allocate
    NAME_BYTES_MAX = 256,
    HEADER_ALIGNMENT = 8,
};

/* Every type of the format, and ours where we compute with it. */
static const struct dtype {
    const char *name;
    size_t element_bytes;
    int type;  // enum tensor_type, or -1
} dtypes[] = {
    { "F32", 4, TENSOR_F32 }, { "F16", 2, TENSOR_F16 }, { "BF16", 2, TENSOR_BF16 },
    { "BOOL", 1, -1 }, { "U8", 1, -1 }, { "I8", 1, -1 }, { "F8_E5M2", 1, -1 }, { "F8_E4M3", 1, -1 },
    { "F8_E8M0", 1, -1 }, { "I16", 2, -1 }, { "U16", 2, -1 }, { "I32", 4, -1 }, { "U32", 4, -1 },
    { "F64", 8, -1 }, { "I64", 8, -1 }, { "U64", 8, -1 }, { "C64", 8, -1 },
};

/* One tensor as the header describes it. */
struct entry {
    const char *name;
    const struct dtype *dtype;
    size_t rank;
    int64_t shape[TENSOR_RANK_MAX];
    size_t begin, end;  // in the data section
};

void tensor_list_add(struct tensor_list *list, const struct tensor *tensor)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->at = memory_grow(list->at, list->capacity, sizeof *list->at);
    }
    list->at[list->count++] = *tensor;
}

/* ---- reading ---- */

static int entry_refuse(const char *name, const struct entry *entry, const char *why)
{
    log_error("cannot read safetensors \"%s\": tensor \"%s\" %s", name, entry->name, why);
    return -1;
}

static bool name_is_printable(const char *name)
{
    size_t size = strnlen(name, NAME_BYTES_MAX + 1);
    if (size == 0 || size > NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            return false;
    return true;
}

/* A whole number of at most max, or -1. */
static int64_t json_size(const json_t *json, size_t max)
{
    json_int_t number = json_is_integer(json) ? json_integer_value(json) : -1;
    return number >= 0 && (uint64_t)number <= max ? (int64_t)number : -1;
}

static int entry_read(struct entry *entry, const json_t *json, size_t data_size, const char *name)
{
    const char *dtype = json_string_value(json_object_get(json, "dtype"));
    const json_t *shape = json_object_get(json, "shape"), *offsets = json_object_get(json, "data_offsets");
    if (dtype == NULL || !json_is_array(shape) || !json_is_array(offsets))
        return entry_refuse(name, entry, "lacks dtype, shape or data_offsets");
    for (size_t i = 0; i < COUNT_OF(dtypes); i++)
        if (strcmp(dtypes[i].name, dtype) == 0)
            entry->dtype = &dtypes[i];
    if (entry->dtype == NULL)
        return entry_refuse(name, entry, "has an unknown dtype");

    if (json_array_size(offsets) != 2)
        return entry_refuse(name, entry, "has data_offsets that are no pair");
    int64_t begin = json_size(json_array_get(offsets, 0), data_size), end = json_size(json_array_get(offsets, 1), data_size);
    if (begin < 0 || end < begin)
        return entry_refuse(name, entry, "has data_offsets outside the file");
    entry->begin = (size_t)begin;
    entry->end = (size_t)end;

    if (json_array_size(shape) > TENSOR_RANK_MAX)
        return entry_refuse(name, entry, "has more than 4 dimensions");
    entry->rank = json_array_size(shape);
    size_t size = entry->dtype->element_bytes;
    for (size_t i = 0; i < entry->rank; i++) {
        entry->shape[i] = json_size(json_array_get(shape, i), INT64_MAX);
        if (entry->shape[i] < 0 || __builtin_mul_overflow(size, (size_t)entry->shape[i], &size))
            return entry_refuse(name, entry, "has an impossible shape");
    }
    if (size != entry->end - entry->begin)
        return entry_refuse(name, entry, "has a shape that does not fill its data_offsets");
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Sorted by place, the entries must fill the data exactly. */
static int entries_check(struct entry *entries, size_t count, size_t data_size, const char *name)
{
    size_t at = 0;
    qsort(entries, count, sizeof *entries, compare_entries);
    for (size_t i = 0; i < count; at = entries[i++].end)
        if (entries[i].begin != at)
            return entry_refuse(name, &entries[i], entries[i].begin < at ? "overlaps another" : "has a gap before it");
    if (at != data_size) {
        log_error("cannot read safetensors \"%s\": its tensors end at byte %zu of %zu bytes of data", name, at, data_size);
        return -1;
    }
    return 0;
}

/* Keeps what we compute with. */
static void entries_keep(struct tensor_list *tensors, const struct entry *entries, size_t count, const unsigned char *data)
{
    for (size_t i = 0; i < count; i++) {
        const struct entry *entry = &entries[i];
        if (entry->dtype->type < 0)
            continue;
        struct tensor tensor = { .name = entry->name, .type = (enum tensor_type)entry->dtype->type, .rank = entry->rank,
                                 .data = data + entry->begin, .size_bytes = entry->end - entry->begin };
        memcpy(tensor.shape, entry->shape, sizeof tensor.shape);
        tensor_list_add(tensors, &tensor);
    }
}

static int metadata_check(json_t *metadata, const char *name)
{
    const char *key;
    json_t *value;
    bool texts = json_is_object(metadata);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
            texts = false;
    }
    if (!texts)
        log_error("cannot read safetensors \"%s\": __metadata__ is not an object of texts", name);
    return texts ? 0 : -1;
}

static int header_read(struct tensor_list *tensors, json_t *header, const unsigned char *data, size_t data_size,
                       const char *name)
{
    struct entry *entries = memory_alloc(json_object_size(header), sizeof *entries);
    size_t count = 0;
    int result = 0;
    const char *key;
    json_t *value;
    json_object_foreach(header, key, value) {
        if (strcmp(key, "__metadata__") == 0) {
            result = metadata_check(value, name);
        } else if (!name_is_printable(key)) {
            log_error("cannot read safetensors \"%s\": a tensor's name is empty, unprintable or longer than %d bytes", name,
                      NAME_BYTES_MAX);
            result = -1;
        } else {
            entries[count].name = key;
            result = entry_read(&entries[count++], value, data_size, name);
        }
        if (result != 0)
            break;
    }
    if (result == 0)
        result = entries_check(entries, count, data_size, name);
    if (result == 0)
        entries_keep(tensors, entries, count, data);
    free(entries);
    return result;
}

json_t *safetensors_read(struct tensor_list *tensors, const void *data, size_t size, const char *name)
{
    uint64_t header_size = 0;
    if (size >= SIZE_BYTES)
        memcpy(&header_size, data, sizeof header_size);
    if (size < SIZE_BYTES || header_size > size - SIZE_BYTES || header_size > HEADER_BYTES_MAX) {
        log_error("cannot read safetensors \"%s\": the header takes %llu bytes, the file has %zu, the limit is %d", name,
                  (unsigned long long)header_size, size, HEADER_BYTES_MAX);
        return NULL;
    }
    const char *text = (const char *)data + SIZE_BYTES;
    if (header_size == 0 || text[0] != '{') {
        log_error("cannot read safetensors \"%s\": the header does not begin with \"{\"", name);
        return NULL;
    }
    json_t *header = json_parse(text, (size_t)header_size, name);
    if (header == NULL)
        return NULL;
    const unsigned char *begin = (const unsigned char *)text + header_size;
    if (header_read(tensors, header, begin, size - SIZE_BYTES - (size_t)header_size, name) != 0) {
        json_decref(header);
        return NULL;
    }
    return header;
}

/* ---- writing ---- */

static size_t tensor_out_bytes(const struct tensor_out *tensor)
{
    size_t bytes = sizeof(float);
    for (size_t i = 0; i < tensor->rank; i++)
        bytes *= (size_t)tensor->shape[i];
    return bytes;
}

void safetensors_header(struct buffer *out, const struct tensor_out *tensors, size_t count,
                        const char *const (*metadata)[2], size_t metadata_count)
{
    json_t *header = json_object(), *texts = json_object();
    for (size_t i = 0; i < metadata_count; i++)
        CHECK(json_object_set_new(texts, metadata[i][0], json_string(metadata[i][1])) == 0);
    CHECK(json_object_set_new(header, "__metadata__", texts) == 0);
    size_t begin = 0;
    for (size_t i = 0; i < count; i++) {
        size_t end = begin + tensor_out_bytes(&tensors[i]);
        json_t *shape = json_array();
        for (size_t d = 0; d < tensors[i].rank; d++)
            CHECK(json_array_append_new(shape, json_integer(tensors[i].shape[d])) == 0);
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                  (json_int_t)begin, (json_int_t)end);
        CHECK(json_object_get(header, tensors[i].name) == NULL && json_object_set_new(header, tensors[i].name, entry) == 0);
        begin = end;
    }
    char *text = json_text(header);
    json_decref(header);
    size_t text_size = strlen(text), padding = (HEADER_ALIGNMENT - text_size % HEADER_ALIGNMENT) % HEADER_ALIGNMENT;
    uint64_t header_size = text_size + padding;
    CHECK(header_size <= HEADER_BYTES_MAX);
    buffer_append(out, &header_size, sizeof header_size);
    buffer_append(out, text, text_size);
    buffer_append(out, "        ", padding);
    free(text);
}

void safetensors_write(struct buffer *out, const struct tensor_out *tensors, size_t count,
                       const char *const (*metadata)[2], size_t metadata_count)
{
    safetensors_header(out, tensors, count, metadata, metadata_count);
    size_t total = out->size;
    for (size_t i = 0; i < count; i++)
        total += tensor_out_bytes(&tensors[i]);
    if (out->capacity < total) {
        out->data = memory_grow(out->data, total, 1);
        out->capacity = total;
    }
    for (size_t i = 0; i < count; i++)
        buffer_append(out, tensors[i].data, tensor_out_bytes(&tensors[i]));
}
