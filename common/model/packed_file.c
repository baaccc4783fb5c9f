/* packed_file.c - see packed_file.h. */
#define _GNU_SOURCE
#include "model/packed_file.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/quant.h"

enum { FORMAT = 1, BYTE_ORDER_MARK = 0x01020304, PLACE_BYTES = 4096 };
static const char MAGIC[8] = "VASPACK", zeros[PLACE_BYTES];

/* A packed_file and where it lies. */
struct kept {
    const struct packed_file *file;
    char *path;
    char origin[KEY_SIZE];
};

struct head {
    char magic[8];
    uint32_t format, byte_order;
    char origin[KEY_SIZE + 7], key[KEY_SIZE + 7];
    uint64_t count;
};

struct entry {
    uint64_t type, N, K, place;
};

/* ---- the origin ---- */

static bool is_rounded_to(enum tensor_type type)
{
    return type <= TENSOR_BF16 || type == TENSOR_Q8_0 || type == TENSOR_Q4_0 || type == TENSOR_NF4;
}

/* What this program makes of known weights: blocks as numbers, blocks packed, numbers rounded and packed. */
static void digest_add_packing(struct digest *digest, enum tensor_type type)
{
    enum { K = QUANT_ELEMENTS_MAX, ROW_BYTES_MAX = K * sizeof(float) };
    unsigned char stored[ROW_BYTES_MAX + PANEL];
    float numbers[K + PANEL];
    const void *stored_rows[PANEL];
    const float *number_rows[PANEL];
    for (size_t i = 0; i < sizeof stored; i++)
        stored[i] = (unsigned char)((i * i + i / 3) & 0xbf);  // as floats of any type finite
    for (size_t i = 0; i < K + PANEL; i++)
        numbers[i] = (float)((int)(i * 37 % 101) - 50) / 64.0f;
    for (size_t i = 0; i < PANEL; i++) {
        stored_rows[i] = stored + i;
        number_rows[i] = numbers + i;
    }
    struct packed packed;
    packed_init(&packed, type, PANEL, K);
    packed_set_panel(&packed, 0, stored_rows);
    digest_add(digest, packed.data, packed.panel_bytes);
    if (is_rounded_to(type)) {
        packed_quantise_panel(&packed, 0, number_rows);
        digest_add(digest, packed.data, packed.panel_bytes);
    }
    packed_free(&packed);
    if (tensor_formats[type].read == NULL)
        return;
    tensor_formats[type].read(numbers, stored, K);
    digest_add(digest, numbers, K * sizeof *numbers);
}

/* path is to be freed.  False where the weights are no files of their own. */
static bool kept_init(struct kept *kept, const struct packed_file *file)
{
    struct digest digest;
    digest_init(&digest);
    if (!weights_add_files(file->weights, &digest))
        return false;
    char *config = json_text(file->config);
    digest_add(&digest, config, strlen(config) + 1);
    free(config);
    digest_add(&digest, &file->quant, sizeof file->quant);
    for (enum tensor_type type = 0; type < TENSOR_TYPE_COUNT; type++)
        digest_add_packing(&digest, type);
    *kept = (struct kept){ .file = file };
    digest_key(&digest, kept->origin);
    const char *of = file_is_directory(file->model) ? "/model" : "";
    if (file->quant == TENSOR_TYPE_COUNT)
        kept->path = memory_printf("%s%s.packed", file->model, of);
    else
        kept->path = memory_printf("%s%s.%s.packed", file->model, of, tensor_formats[file->quant].name);
    return true;
}

/* ---- the layout ---- */

static size_t matrix_bytes(const struct packed *matrix)
{
    return packed_panels(matrix) * matrix->panel_bytes;
}

static size_t place_after(size_t bytes)
{
    return (bytes + PLACE_BYTES - 1) / PLACE_BYTES * PLACE_BYTES;
}

/* The header with this key, up to the first matrix.  *end: of the last one. */
static struct buffer header_make(const struct kept *kept, const char *key, size_t *end)
{
    struct packed *const *matrices = kept->file->matrices;
    size_t count = kept->file->count;
    struct buffer header = { 0 };
    struct head head = { .format = FORMAT, .byte_order = BYTE_ORDER_MARK, .count = count };
    memcpy(head.magic, MAGIC, sizeof head.magic);
    memcpy(head.origin, kept->origin, KEY_SIZE);
    memcpy(head.key, key, strnlen(key, KEY_SIZE - 1));
    buffer_append(&header, &head, sizeof head);
    *end = place_after(sizeof head + count * sizeof(struct entry));
    for (size_t i = 0; i < count; i++) {
        struct entry entry = { matrices[i]->type, matrices[i]->N, matrices[i]->K, *end };
        buffer_append(&header, &entry, sizeof entry);
        *end += place_after(matrix_bytes(matrices[i]));
    }
    buffer_append(&header, zeros, place_after(header.size) - header.size);
    return header;
}

/* Each step is one to one in both its inputs, so that a single changed word is never missed.  Not against who means it. */
static uint64_t content_sum(const void *data, size_t size)
{
    enum { LANES = 8 };  // independent, so that memory sets the pace
    static const uint64_t factor = 0x9E3779B97F4A7C15;
    uint64_t lanes[LANES] = { 0 }, words[LANES], sum = size;
    for (size_t at = 0, bytes; at < size; at += bytes) {
        bytes = sizeof words;
        if (size - at < bytes) {
            memset(words, 0, sizeof words);
            bytes = size - at;
            memcpy(words, (const char *)data + at, bytes);
        } else {
            memcpy(words, (const char *)data + at, sizeof words);
        }
        for (size_t l = 0; l < LANES; l++) {
            lanes[l] = (lanes[l] ^ words[l]) * factor;
            lanes[l] = lanes[l] << 29 | lanes[l] >> 35;
        }
    }
    for (size_t l = 0; l < LANES; l++)
        sum = (sum ^ lanes[l]) * factor;
    return sum;
}

/* ---- reading ---- */

struct summing {
    struct packed *const *matrices;
    uint64_t *sums;
};

static void sum_task(void *context, size_t i, size_t thread)
{
    (void)thread;
    const struct summing *summing = context;
    summing->sums[i] = content_sum(summing->matrices[i]->data, matrix_bytes(summing->matrices[i]));
}

/* The matrices' data and the key where the whole file is right; else says why it is not. */
static const char *map_check(const struct kept *kept, const struct file_map *map, char key[KEY_SIZE])
{
    const struct packed_file *file = kept->file;
    const struct head *head = (const void *)map->data;
    if (map->size < sizeof *head || memcmp(head->magic, MAGIC, sizeof head->magic) != 0)
        return "is no file of packed weights";
    size_t end, sums_bytes = (file->count + 1) * sizeof(uint64_t);
    struct buffer header = header_make(kept, head->key, &end);
    const struct entry *entries = (const void *)(header.data + sizeof *head);
    uint64_t *sums = memory_alloc(file->count + 1, sizeof *sums);
    const char *why = NULL;
    if (map->size < header.size || memcmp(map->data, header.data, header.size) != 0)
        why = "is of other weights or another program";
    else if (map->size != end + sums_bytes)
        why = "is cut short";
    for (size_t i = 0; i < file->count && why == NULL; i++) {
        file->matrices[i]->data = (void *)(size_t)(map->data + entries[i].place);
        file->matrices[i]->borrowed = true;
    }
    if (why == NULL) {
        memcpy(key, head->key, KEY_SIZE);
        sums[file->count] = content_sum(header.data, header.size);
        pool_run(file->pool, file->count, sum_task, &(struct summing){ file->matrices, sums });
        why = memcmp(sums, map->data + end, sums_bytes) != 0 ? "is damaged" : NULL;
    }
    for (size_t i = 0; i < file->count && why != NULL; i++)
        packed_free(file->matrices[i]);
    free(sums);
    free(header.data);
    return why;
}

/* NULL where the matrices have their data now, else why not; "" where there is no such file. */
static const char *map_open(const struct kept *kept, struct file_map *map, char key[KEY_SIZE])
{
    if (!file_exists(kept->path))
        return "";
    if (file_map(map, kept->path) != EX_OK)
        return "cannot be read";
    if (map->size > 0)
        madvise((void *)(size_t)map->data, map->size, MADV_HUGEPAGE);  // where the file system has large folios
    const char *why = map_check(kept, map, key);
    if (why != NULL)
        file_unmap(map);
    return why;
}

/* ---- writing ---- */

static void write_matrices(const struct packed_file *file, struct file_out *out, uint64_t *sums)
{
    for (size_t i = 0; i < file->count && !out->failed; i++) {
        struct packed *matrix = file->matrices[i];
        size_t bytes = matrix_bytes(matrix);
        file->fill(file->context, i);
        sums[i] = content_sum(matrix->data, bytes);
        file_out_write(out, matrix->data, bytes);
        file_out_write(out, zeros, place_after(bytes) - bytes);
        packed_free(matrix);
    }
}

static int write_file(const struct kept *kept, struct file_out *out)
{
    const struct packed_file *file = kept->file;
    char key[KEY_SIZE];
    size_t end;
    file->make_key(file->context, key);
    struct buffer header = header_make(kept, key, &end);
    uint64_t *sums = memory_alloc(file->count + 1, sizeof *sums);
    sums[file->count] = content_sum(header.data, header.size);
    file_out_write(out, header.data, header.size);
    write_matrices(file, out, sums);
    file_out_write(out, sums, (file->count + 1) * sizeof *sums);
    free(sums);
    free(header.data);
    if (file_out_end(out, true) != 0)
        return -1;
    log_event("wrote packed weights \"%s\" mib=%zu", kept->path, (end >> 20) + 1);
    return 0;
}

static bool kept_map(const struct kept *kept, struct file_map *map, char key[KEY_SIZE])
{
    struct file_out out;
    const char *why = map_open(kept, map, key);
    if (why == NULL)
        return true;
    if (file_out_begin(&out, kept->path) != 0)
        return false;
    why = map_open(kept, map, key);  // another process may have written it while this one waited
    if (why == NULL) {
        file_out_end(&out, false);
        return true;
    }
    if (why[0] != '\0')
        log_event("\"%s\" %s: it is written anew", kept->path, why);
    if (write_file(kept, &out) != 0)
        return false;
    why = map_open(kept, map, key);
    if (why != NULL)
        log_error("\"%s\" %s, though it was written just now", kept->path, why[0] != '\0' ? why : "is gone");
    return why == NULL;
}

bool packed_file_map(const struct packed_file *file, struct file_map *map, char key[KEY_SIZE])
{
    struct kept kept;
    bool has_files = kept_init(&kept, file);
    json_decref(file->config);
    if (!has_files) {
        log_event("model \"%s\" is an adapter on a base model: its packed weights are not kept", file->model);
        return false;
    }
    bool mapped = kept_map(&kept, map, key);
    if (!mapped)
        log_hint("going on without it: this process packs the weights into memory of its own");
    free(kept.path);
    return mapped;
}
