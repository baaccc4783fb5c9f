/* vocabulary.c - see vocabulary.h. */
#include "text/vocabulary.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"

enum { TEXTS_BYTES_MAX = 1 << 30 };

void vocabulary_init(struct vocabulary *vocabulary)
{
    *vocabulary = (struct vocabulary){ 0 };
    arena_init(&vocabulary->texts, "vocabulary", TEXTS_BYTES_MAX);
}

void vocabulary_free(struct vocabulary *vocabulary)
{
    text_table_free(&vocabulary->ids);
    free(vocabulary->pieces);
    arena_free(&vocabulary->texts);
}

int vocabulary_add(struct vocabulary *vocabulary, int64_t id, const char *piece, size_t size, bool added_only,
                   const char *name)
{
    if (id < 0 || id >= VOCABULARY_SIZE_MAX) {
        log_error("cannot use tokenizer \"%s\": token id %" PRId64 " is outside 0 .. %d", name, id, VOCABULARY_SIZE_MAX - 1);
        return -1;
    }
    if (size > PIECE_SIZE_MAX || utf8_valid_prefix(piece, size) != size || (size > 0 && memchr(piece, '\0', size) != NULL)) {
        log_error("cannot use tokenizer \"%s\": token %" PRId64 " is no UTF-8 text without NUL of at most %d bytes", name, id,
                  PIECE_SIZE_MAX);
        return -1;
    }
    if (vocabulary_has(vocabulary, id)) {
        log_error("cannot use tokenizer \"%s\": id %" PRId64 " is both \"%s\" and \"%.*s\"", name, id,
                  vocabulary->pieces[id].at, (int)size, piece);
        return -1;
    }
    if (vocabulary->texts.used_bytes + size + 64 > TEXTS_BYTES_MAX) {
        log_error("cannot use tokenizer \"%s\": its tokens take more than %d bytes", name, TEXTS_BYTES_MAX);
        return -1;
    }
    const char *text = arena_text(&vocabulary->texts, piece, size);
    int32_t *known = text_table_add(&vocabulary->ids, text, size);
    if (*known != TABLE_NONE) {
        log_error("cannot use tokenizer \"%s\": tokens %" PRId32 " and %" PRId64 " are both \"%s\"", name, *known, id, text);
        return -1;
    }
    *known = (int32_t)id;
    if ((size_t)id >= vocabulary->capacity) {
        size_t capacity = vocabulary->capacity ? vocabulary->capacity : 1024;
        while (capacity <= (size_t)id)
            capacity *= 2;
        vocabulary->pieces = memory_grow(vocabulary->pieces, capacity, sizeof *vocabulary->pieces);
        memset(vocabulary->pieces + vocabulary->capacity, 0, (capacity - vocabulary->capacity) * sizeof *vocabulary->pieces);
        vocabulary->capacity = capacity;
    }
    vocabulary->pieces[id] = (struct piece){ text, (uint32_t)size, added_only };
    if ((size_t)id >= vocabulary->count)
        vocabulary->count = (size_t)id + 1;
    return 0;
}

bool vocabulary_has(const struct vocabulary *vocabulary, int64_t id)
{
    return id >= 0 && (uint64_t)id < vocabulary->count && vocabulary->pieces[id].at != NULL;
}
