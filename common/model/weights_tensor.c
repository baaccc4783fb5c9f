/* weights_tensor.c - the numbers of a tensor, however they lie in their file; see weights.h. */
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"
#include "model/weights.h"

size_t tensor_elements(const struct tensor *tensor)
{
    size_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++)
        count *= (size_t)tensor->shape[i];
    return count;
}

static size_t tensor_rows(const struct tensor *tensor)
{
    size_t count = 1;
    for (size_t i = 0; i + 1 < tensor->rank; i++)
        count *= (size_t)tensor->shape[i];
    return count;
}

static size_t tensor_columns(const struct tensor *tensor)
{
    return tensor->rank > 0 ? (size_t)tensor->shape[tensor->rank - 1] : 1;
}

void tensor_read(const struct tensor *tensor, size_t first, size_t count, float *out)
{
    const struct tensor_format *format = &tensor_formats[tensor->type];
    CHECK(tensor->column_count == 0 && first % format->block_elements == 0 && count % format->block_elements == 0);
    CHECK(count <= tensor_elements(tensor) && first <= tensor_elements(tensor) - count);
    format->read(out, (const unsigned char *)tensor->data + first / format->block_elements * format->block_bytes, count);
}

/* The row of the file that is canonical row n: rows i and i + HS/2 of a head lie as a pair, rows 2i and 2i + 1. */
static size_t stored_row(const struct tensor *tensor, size_t head_size, size_t n)
{
    if (!tensor->rows_interleaved)
        return n;
    CHECK(head_size >= 2 && head_size % 2 == 0);
    size_t i = n % head_size, half = head_size / 2;
    return n - i + (i < half ? 2 * i : 2 * (i - half) + 1);
}

const void *tensor_row(const struct tensor *tensor, size_t head_size, size_t n)
{
    if (tensor->column_count != 0 || tensor->offset != 0.0f)
        return NULL;
    CHECK(tensor->rank == 2 && n < (size_t)tensor->shape[0]);
    return (const unsigned char *)tensor->data
           + stored_row(tensor, head_size, n) * tensor_row_bytes(tensor->type, (size_t)tensor->shape[1]);
}

/* The file's row k holds column k of all canonical rows. */
static void read_transposed(const struct tensor *tensor, size_t first, size_t count, float *out)
{
    const struct tensor_format *format = &tensor_formats[tensor->type];
    size_t K = tensor_columns(tensor);
    CHECK(format->block_elements == 1 && count <= tensor_rows(tensor) && first <= tensor_rows(tensor) - count);
    float *column = memory_alloc(count, sizeof *column);
    for (size_t k = 0; k < K; k++) {
        size_t at = k * tensor->column_count + first;
        format->read(column, (const unsigned char *)tensor->data + at * format->block_bytes, count);
        for (size_t n = 0; n < count; n++)
            out[n * K + k] = column[n];
    }
    free(column);
}

static void read_interleaved(const struct tensor *tensor, size_t head_size, size_t first, size_t count, float *out)
{
    size_t columns = tensor_columns(tensor);
    if (tensor->rank > 1) {
        for (size_t n = 0; n < count; n++)
            tensor_read(tensor, stored_row(tensor, head_size, first + n) * columns, columns, out + n * columns);
        return;
    }
    float *stored = memory_alloc(columns, sizeof *stored);  // a bias, whose elements are rows
    tensor_read(tensor, 0, columns, stored);
    for (size_t n = 0; n < columns; n++)
        out[n] = stored[stored_row(tensor, head_size, n)];
    free(stored);
}

void tensor_read_rows(const struct tensor *tensor, size_t head_size, size_t first, size_t count, float *out)
{
    size_t columns = tensor_columns(tensor);
    CHECK(count <= tensor_rows(tensor) && first <= tensor_rows(tensor) - count);
    if (count == 0)
        return;
    if (tensor->column_count != 0)
        read_transposed(tensor, first, count, out);
    else if (tensor->rows_interleaved)
        read_interleaved(tensor, head_size, first, count, out);
    else
        tensor_read(tensor, first * columns, count * columns, out);
    for (size_t i = 0; tensor->offset != 0.0f && i < count * columns; i++)
        out[i] += tensor->offset;
}

void tensor_read_canonical(const struct tensor *tensor, size_t head_size, float *out)
{
    tensor_read_rows(tensor, head_size, 0, tensor_rows(tensor), out);
}
