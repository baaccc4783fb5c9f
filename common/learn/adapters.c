/* adapters.c - low-rank adapters beside the frozen matrices of a layer, forward, backward and their gradients.  See pass.h. */
#include <string.h>

#include "learn/pass.h"

static size_t at_most(size_t count, size_t limit)
{
    return count < limit ? count : limit;
}

static float scale_of(const struct pass *pass)
{
    const struct lora_options *lora = &pass->network->parameters.lora;
    return (float)(lora->alpha / (double)lora->rank);
}

static const float *adapter_part(const struct pass *pass, const struct linear_part *part, enum parameter_part which, size_t l)
{
    return parameter_at(&pass->network->parameters, part->role, which, (int64_t)l);
}

/* x A^T of row m of layer l, all targets of the matrix side by side: (adapter_count * R). */
static float *down_row(const struct pass *pass, const struct linear *linear, size_t l, size_t m)
{
    const size_t rows = pass->a->recompute ? pass->M : pass->s.L * pass->M;
    return pass->a->lora_down + (linear->adapter_first * rows + kept_row(pass->a, pass->M, l, m) * linear->adapter_count)
        * pass->s.R;
}

/* scale dy B of row m, like down_row. */
static float *up_row(const struct pass *pass, const struct linear *linear, size_t m)
{
    return pass->a->lora_up + (linear->adapter_first * pass->M + m * linear->adapter_count) * pass->s.R;
}

/* ---- packing ---- */

void adapters_place(struct pass *pass, bool forward)
{
    const size_t R = pass->s.R;
    float *data = pass->a->adapters_packed;
    for (size_t i = 0; i < LINEAR_COUNT; i++) {
        const struct linear *linear = &pass->network->linears[i];
        const size_t width = linear->adapter_count * R;
        if (width == 0)
            continue;
        pass->a_packed[i] = (struct right){
            .P = forward ? linear->K : width, .J = forward ? width : linear->K, .from_columns = forward, .data = data,
        };
        data += right_floats(linear->K, width);
        for (size_t p = 0; p < linear->part_count; p++) {
            const size_t rows = linear->parts[p].rows;
            if (linear->parts[p].adapter == SIZE_MAX)
                continue;
            pass->b_packed[i][p] = (struct right){ .P = forward ? R : rows, .J = forward ? rows : R, .from_columns = forward,
                                                   .data = data };
            data += right_floats(rows, R);
        }
    }
}

/* Row r of the matrix's A, one target below the other. */
static const float *a_row(const struct pass *pass, const struct linear *linear, size_t l, size_t r)
{
    const size_t R = pass->s.R;
    const struct linear_part *part = linear->parts;
    while (part->adapter != r / R)
        part++;
    return adapter_part(pass, part, PART_A, l) + r % R * linear->K;
}

static void pack_a(const struct pass *pass, enum linear_name name, size_t l, float *scratch)
{
    const struct linear *linear = &pass->network->linears[name];
    const size_t width = linear->adapter_count * pass->s.R, K = linear->K;
    for (size_t r = 0; r < width; r += PACK_ROWS) {
        const size_t count = at_most(width - r, PACK_ROWS);
        for (size_t i = 0; i < count; i++)
            memcpy(scratch + i * K, a_row(pass, linear, l, r + i), K * sizeof *scratch);
        pass->network->products->pack(&pass->a_packed[name], r, scratch, K);
    }
}

/* scale B */
static void pack_b(const struct pass *pass, enum linear_name name, size_t p, size_t l, float *scratch)
{
    const struct linear_part *part = &pass->network->linears[name].parts[p];
    const size_t R = pass->s.R;
    const float *b = adapter_part(pass, part, PART_B, l), scale = scale_of(pass);
    for (size_t n = 0; n < part->rows; n += PACK_ROWS) {
        const size_t count = at_most(part->rows - n, PACK_ROWS);
        for (size_t i = 0; i < count * R; i++)
            scratch[i] = scale * b[n * R + i];
        pass->network->products->pack(&pass->b_packed[name][p], n, scratch, R);
    }
}

void adapters_pack(const struct pass *pass, enum linear_name name, size_t l, size_t thread)
{
    const struct linear *linear = &pass->network->linears[name];
    float *scratch = pass->a->scratch + thread * pass->a->scratch_count;
    if (linear->adapter_count == 0)
        return;
    pack_a(pass, name, l, scratch);
    for (size_t p = 0; p < linear->part_count; p++)
        if (linear->parts[p].adapter != SIZE_MAX)
            pack_b(pass, name, p, l, scratch);
}

/* ---- rows ---- */

void adapters_down(const struct pass *pass, enum linear_name name, size_t l, const float *x, size_t m, size_t count)
{
    const struct linear *linear = &pass->network->linears[name];
    if (linear->adapter_count > 0)
        pass->network->products->multiply(down_row(pass, linear, l, m), linear->adapter_count * pass->s.R,
                                          (struct left){ x, linear->K, false }, count, &pass->a_packed[name], false);
}

void adapters_forward(const struct pass *pass, enum linear_name name, size_t l, float *y, const float *x, size_t m, size_t count)
{
    const struct linear *linear = &pass->network->linears[name];
    const size_t R = pass->s.R, width = linear->adapter_count * R;
    adapters_down(pass, name, l, x, m, count);
    for (size_t p = 0; p < linear->part_count; p++) {
        const struct linear_part *part = &linear->parts[p];
        if (part->adapter != SIZE_MAX)
            pass->network->products->multiply(y + part->first, linear->N,
                                              (struct left){ down_row(pass, linear, l, m) + part->adapter * R, width, false },
                                              count, &pass->b_packed[name][p], true);
    }
}

void adapters_backward(const struct pass *pass, enum linear_name name, float *dx, const float *dy, size_t m, size_t count)
{
    // forward was: y += down (scale B)^T, down = x A^T
    const struct linear *linear = &pass->network->linears[name];
    const size_t R = pass->s.R, width = linear->adapter_count * R;
    float *up = up_row(pass, linear, m);
    if (width == 0)
        return;
    for (size_t p = 0; p < linear->part_count; p++) {
        const struct linear_part *part = &linear->parts[p];
        if (part->adapter != SIZE_MAX)
            pass->network->products->multiply(up + part->adapter * R, width, (struct left){ dy + part->first, linear->N, false },
                                              count, &pass->b_packed[name][p], false);
    }
    if (dx != NULL)
        pass->network->products->multiply(dx, linear->K, (struct left){ up, width, false }, count, &pass->a_packed[name], true);
}

/* ---- gradients ---- */

size_t adapters_gradient_tasks(const struct pass *pass, enum linear_name name)
{
    const struct linear *linear = &pass->network->linears[name];
    if (linear->adapter_count == 0)
        return 0;
    size_t tasks = blocks_of(linear->K, ADAPTER_COLUMNS);
    for (size_t p = 0; p < linear->part_count; p++)
        tasks += linear->parts[p].adapter != SIZE_MAX ? blocks_of(linear->parts[p].rows, ADAPTER_COLUMNS) : 0;
    return tasks;
}

/* Columns of rows [m, m + ADAPTER_ROWS), or fewer at the end, for a product that sums over rows. */
static struct right columns_packed(const struct pass *pass, const float *columns, size_t stride, size_t width, size_t m,
                                   float *data)
{
    const struct right right = { .P = block_size(pass->M, ADAPTER_ROWS, m / ADAPTER_ROWS), .J = width, .data = data };
    for (size_t p = 0; p < right.P; p += PACK_ROWS)
        pass->network->products->pack(&right, p, columns + (m + p) * stride, stride);
    return right;
}

/* dA += up^T x, columns [k, k + ADAPTER_COLUMNS) of all targets of a matrix. */
static void a_gradient(const struct pass *pass, const struct linear *linear, const float *x, size_t k, float *scratch)
{
    const size_t R = pass->s.R, K = linear->K, stride = linear->adapter_count * R;
    const size_t width = at_most(K - k, ADAPTER_COLUMNS);
    for (size_t m = 0; m < pass->M; m += ADAPTER_ROWS) {
        const struct right right = columns_packed(pass, x + k, K, width, m, scratch);
        for (size_t p = 0; p < linear->part_count; p++) {
            const struct linear_part *part = &linear->parts[p];
            if (part->adapter == SIZE_MAX)
                continue;
            float *da = gradient_at(&pass->network->parameters, part->role, PART_A, (int64_t)pass->l);
            const float *up = up_row(pass, linear, m) + part->adapter * R;
            for (size_t r = 0; r < R; r += PRODUCT_ROWS_MAX)
                pass->network->products->multiply(da + r * K + k, K, (struct left){ up + r, stride, true },
                                                  at_most(R - r, PRODUCT_ROWS_MAX), &right, true);
        }
    }
}

/* dB += scale dy^T down, outputs [n, n + ADAPTER_COLUMNS) of one target; summed transposed,
   so that what is thin is the left matrix. */
static void b_gradient(const struct pass *pass, const struct linear *linear, const struct linear_part *part, const float *dy,
                       size_t n, float *scratch)
{
    const size_t R = pass->s.R, stride = linear->adapter_count * R, width = at_most(part->rows - n, ADAPTER_COLUMNS);
    float *db = gradient_at(&pass->network->parameters, part->role, PART_B, (int64_t)pass->l) + n * R, scale = scale_of(pass);
    float *sum = scratch + ADAPTER_ROWS * ADAPTER_COLUMNS;  // (at most PRODUCT_ROWS_MAX, width)
    for (size_t r = 0; r < R; r += PRODUCT_ROWS_MAX) {
        const size_t count = at_most(R - r, PRODUCT_ROWS_MAX);
        for (size_t m = 0; m < pass->M; m += ADAPTER_ROWS) {
            const struct right right = columns_packed(pass, dy + part->first + n, linear->N, width, m, scratch);
            const float *down = down_row(pass, linear, pass->l, m) + part->adapter * R + r;
            pass->network->products->multiply(sum, width, (struct left){ down, stride, true }, count, &right, m > 0);
        }
        for (size_t i = 0; i < width; i++)
            for (size_t j = 0; j < count; j++)
                db[i * R + r + j] += scale * sum[j * width + i];
    }
}

void adapters_gradient(const struct pass *pass, enum linear_name name, const float *x, const float *dy, size_t task, size_t thread)
{
    const struct linear *linear = &pass->network->linears[name];
    float *scratch = pass->a->scratch + thread * pass->a->scratch_count;
    size_t tasks = blocks_of(linear->K, ADAPTER_COLUMNS);
    if (task < tasks) {
        a_gradient(pass, linear, x, task * ADAPTER_COLUMNS, scratch);
        return;
    }
    for (const struct linear_part *part = linear->parts; ; part++) {
        if (part->adapter == SIZE_MAX)
            continue;
        task -= tasks;
        tasks = blocks_of(part->rows, ADAPTER_COLUMNS);
        if (task < tasks) {
            b_gradient(pass, linear, part, dy, task * ADAPTER_COLUMNS, scratch);
            return;
        }
    }
}
