/* gguf_write.c - see gguf_write.h.  Little-endian throughout, as this library's processors are. */
#include "model/gguf_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum { ALIGNMENT = 32, VALUE_UINT32 = 4, VALUE_FLOAT32 = 6, VALUE_BOOL = 7, VALUE_TEXT = 8, VALUE_ARRAY = 9 };

void gguf_out_free(struct gguf_out *out)
{
    free(out->metadata.data);
    free(out->table.data);
    *out = (struct gguf_out){ 0 };
}

static void append_uint32(struct buffer *buffer, uint32_t number)
{
    buffer_append(buffer, &number, sizeof number);
}

static void append_uint64(struct buffer *buffer, uint64_t number)
{
    buffer_append(buffer, &number, sizeof number);
}

static void append_text(struct buffer *buffer, const char *text, size_t size)
{
    append_uint64(buffer, size);
    buffer_append(buffer, text, size);
}

static void put_key(struct gguf_out *out, const char *key, uint32_t value_type)
{
    append_text(&out->metadata, key, strlen(key));
    append_uint32(&out->metadata, value_type);
    out->key_count++;
}

void gguf_put_text(struct gguf_out *out, const char *key, const char *text)
{
    put_key(out, key, VALUE_TEXT);
    append_text(&out->metadata, text, strlen(text));
}

void gguf_put_integer(struct gguf_out *out, const char *key, uint32_t number)
{
    put_key(out, key, VALUE_UINT32);
    append_uint32(&out->metadata, number);
}

void gguf_put_float(struct gguf_out *out, const char *key, float number)
{
    put_key(out, key, VALUE_FLOAT32);
    buffer_append(&out->metadata, &number, sizeof number);
}

void gguf_put_bool(struct gguf_out *out, const char *key, bool flag)
{
    unsigned char byte = flag;
    put_key(out, key, VALUE_BOOL);
    buffer_append(&out->metadata, &byte, sizeof byte);
}

void gguf_put_array(struct gguf_out *out, const char *key, enum gguf_element element, size_t count)
{
    put_key(out, key, VALUE_ARRAY);
    append_uint32(&out->metadata, element);
    append_uint64(&out->metadata, count);
}

void gguf_put_element_int32(struct gguf_out *out, int32_t number)
{
    buffer_append(&out->metadata, &number, sizeof number);
}

void gguf_put_element_float(struct gguf_out *out, float number)
{
    buffer_append(&out->metadata, &number, sizeof number);
}

void gguf_put_element_text(struct gguf_out *out, const char *text, size_t size)
{
    append_text(&out->metadata, text, size);
}

void gguf_put_tensor(struct gguf_out *out, const char *name, enum tensor_type type, size_t rank, const int64_t *shape)
{
    CHECK(rank >= 1 && rank <= 4 && tensor_formats[type].gguf_type >= 0);
    append_text(&out->table, name, strlen(name));
    append_uint32(&out->table, (uint32_t)rank);
    size_t rows = 1;
    for (size_t i = rank; i-- > 0; ) {  // GGUF's order is fastest first
        append_uint64(&out->table, (uint64_t)shape[i]);
        rows *= i + 1 < rank ? (size_t)shape[i] : 1;
    }
    append_uint32(&out->table, (uint32_t)tensor_formats[type].gguf_type);
    append_uint64(&out->table, out->data_bytes);
    size_t bytes = rows * tensor_row_bytes(type, (size_t)shape[rank - 1]);
    out->data_bytes += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    out->tensor_count++;
}

void gguf_pad(struct file_out *file, size_t size_bytes)
{
    static const char zeros[ALIGNMENT];
    file_out_write(file, zeros, (ALIGNMENT - size_bytes % ALIGNMENT) % ALIGNMENT);
}

void gguf_write_head(const struct gguf_out *out, struct file_out *file)
{
    struct buffer head = { 0 };
    buffer_append(&head, "GGUF", 4);
    append_uint32(&head, 3);
    append_uint64(&head, out->tensor_count);
    append_uint64(&head, out->key_count);
    file_out_write(file, head.data, head.size);
    file_out_write(file, out->metadata.data, out->metadata.size);
    file_out_write(file, out->table.data, out->table.size);
    gguf_pad(file, head.size + out->metadata.size + out->table.size);
    free(head.data);
}
