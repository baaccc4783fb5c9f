/*
 * gguf_write.h - a GGUF file (version 3): metadata and tensor table gathered first, tensor data streamed.
 */
#ifndef MODEL_GGUF_WRITE_H
#define MODEL_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "base/memory.h"
#include "math/tensor_type.h"

struct gguf_out {
    struct buffer metadata, table;
    uint64_t key_count, tensor_count, data_bytes;
};
void gguf_out_free(struct gguf_out *out);

/* Metadata.  Keys are said once. */
void gguf_put_text(struct gguf_out *out, const char *key, const char *text);
void gguf_put_integer(struct gguf_out *out, const char *key, uint32_t number);
void gguf_put_float(struct gguf_out *out, const char *key, float number);
void gguf_put_bool(struct gguf_out *out, const char *key, bool flag);
/* Arrays: a head, then count elements one by one. */
enum gguf_element { GGUF_ELEMENT_INT32 = 5, GGUF_ELEMENT_FLOAT32 = 6, GGUF_ELEMENT_TEXT = 8 };
void gguf_put_array(struct gguf_out *out, const char *key, enum gguf_element element, size_t count);
void gguf_put_element_int32(struct gguf_out *out, int32_t number);
void gguf_put_element_float(struct gguf_out *out, float number);
void gguf_put_element_text(struct gguf_out *out, const char *text, size_t size);

/* A tensor whose data follows in this order.  shape is row-major, as everywhere here. */
void gguf_put_tensor(struct gguf_out *out, const char *name, enum tensor_type type, size_t rank, const int64_t *shape);

/* Header, metadata and table; then the caller writes each tensor's bytes and gguf_pad after each. */
void gguf_write_head(const struct gguf_out *out, struct file_out *file);
void gguf_pad(struct file_out *file, size_t size_bytes);

#endif
