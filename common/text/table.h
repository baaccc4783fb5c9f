/*
 * table.h - the two hash tables of a tokenizer: texts to numbers, and pairs of numbers to a number.
 *
 * Open addressing, at most half full.  Readers may share a table; nothing is ever removed.
 */
#ifndef TEXT_TABLE_H
#define TEXT_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum { TABLE_NONE = -1 };

/* Texts are borrowed: they must outlive the table. */
struct text_table {
    struct text_slot *slots;
    size_t slot_count, count;
};
struct text_slot {
    const char *text;  // NULL: free
    uint32_t size;     // bytes
    int32_t value;
};

/* The value's place, to be read or written; a new text has the value TABLE_NONE.  size < 2^32. */
int32_t *text_table_add(struct text_table *table, const char *text, size_t size);
/* TABLE_NONE if it is not there. */
int32_t text_table_find(const struct text_table *table, const char *text, size_t size);
void text_table_free(struct text_table *table);

struct pair_table {
    struct pair_slot *slots;
    size_t slot_count, count;
};
struct pair_slot {
    uint64_t pair;
    int32_t value;
    int32_t used;
};

static inline uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}
int32_t *pair_table_add(struct pair_table *table, uint64_t pair);
int32_t pair_table_find(const struct pair_table *table, uint64_t pair);
void pair_table_free(struct pair_table *table);

#endif
