/*
 * safetensors.h - the tensor table of one safetensors file, and the header that goes before the data of a new one.
 *
 *     u64 little-endian    size of the header in bytes
 *     header               JSON: { name: { "dtype", "shape", "data_offsets": [begin, end] }, ...,
 *                                  "__metadata__": { key: text } }, may end in spaces
 *     data                 each tensor from begin to end, counted from here; together they fill it without a gap
 *
 * weights.h is what models are read through; this is its part for one file.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "model/weights.h"

/* A growable list of tensors.  Zero-initialise; free(list.at) at the end. */
struct tensor_list {
    struct tensor *at;
    size_t count, capacity;
};
void tensor_list_add(struct tensor_list *list, const struct tensor *tensor);

/*
 * Checks the whole file and appends its tensors.  Tensors of other types than F32, F16 and BF16 are left out; weights_check
 * finds their type in the header.  Names and metadata borrow from the header that is returned, data from data.
 * NULL on failure, logged; name is how errors call the file.  The caller json_decref()s.
 */
json_t *safetensors_read(struct tensor_list *tensors, const void *data, size_t size, const char *name);

/*
 * Appends size and header for float32 tensors whose data follow in this order.  Their data pointers are not read.  Names are
 * UTF-8 and differ.
 */
void safetensors_header(struct buffer *out, const struct tensor_out *tensors, size_t count,
                        const char *const (*metadata)[2], size_t metadata_count);

#endif
