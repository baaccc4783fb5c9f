/*
 * gguf.h - the metadata and tensor table of a GGUF file (version 2 or 3, little-endian).
 *
 * The whole header is checked before anything of it is used: counts against the bytes left, string and array
 * lengths, duplicate keys, alignment, tensor extents inside the file and not overlapping.
 */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf;

struct gguf_tensor {
    const char *name;
    uint32_t type;       // ggml type number: 0 F32, 1 F16, 30 BF16, ...
    size_t rank;
    int64_t shape[4];    // row-major: GGUF's own order reversed
    const void *data;
    size_t size_bytes;
};

struct gguf_array {
    uint32_t type;       // GGUF value type of the elements
    size_t count;
    const void *data;    // for numbers and bool: packed little-endian elements (unaligned)
    const struct gguf_text *texts;  // for strings
};
struct gguf_text {
    const char *at;      // lives as long as the gguf; NUL-terminated only where gguf_text gave it
    size_t size;
};

struct file_state;
struct gguf *gguf_open(const char *path, int *code);  // NULL on failure, logged
/* Borrows data. */
struct gguf *gguf_from_memory(const void *data, size_t size, const char *name);
void gguf_close(struct gguf *gguf);
/* Of the file that is mapped; NULL where the bytes are borrowed. */
const struct file_state *gguf_state(const struct gguf *gguf);

size_t gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index);
/* "F32", "Q4_K"; "unknown" for numbers that ggml does not use.  Static. */
const char *gguf_type_name(uint32_t type);

/* Each returns false when the key is missing or of another kind; out is then untouched. */
bool gguf_text(const struct gguf *gguf, const char *key, struct gguf_text *out);
bool gguf_integer(const struct gguf *gguf, const char *key, int64_t *out);  // any integer type or bool
bool gguf_number(const struct gguf *gguf, const char *key, double *out);    // any integer or float type
bool gguf_array(const struct gguf *gguf, const char *key, struct gguf_array *out);

#endif
