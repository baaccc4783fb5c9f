/* table.c - see table.h. */
#include "text/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { SLOTS_FIRST = 64 };

/* The high half of a 128-bit product folded into the low one spreads every input bit over the result. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_pair(uint64_t pair)
{
    return mix(pair ^ 0x9e3779b97f4a7c15u, 0xd6e8feb86659fd93u);
}

static uint64_t hash_text(const char *text, size_t size)
{
    uint64_t hash = size * 0x9e3779b97f4a7c15u;
    for (; size >= 8; text += 8, size -= 8) {
        uint64_t eight;
        memcpy(&eight, text, 8);
        hash = mix(hash ^ eight, 0xd6e8feb86659fd93u);
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < size; i++)
        rest = rest << 8 | (unsigned char)text[i];
    return mix(hash ^ rest, 0xa0761d6478bd642fu);
}

/* The slot that holds text, or the free one where it belongs. */
static struct text_slot *text_slot(const struct text_table *table, const char *text, size_t size)
{
    size_t mask = table->slot_count - 1;
    for (size_t at = hash_text(text, size) & mask;; at = (at + 1) & mask) {
        struct text_slot *slot = &table->slots[at];
        if (slot->text == NULL || (slot->size == size && memcmp(slot->text, text, size) == 0))
            return slot;
    }
}

int32_t *text_table_add(struct text_table *table, const char *text, size_t size)
{
    if (2 * (table->count + 1) > table->slot_count) {
        struct text_table larger = { .slot_count = table->slot_count ? 2 * table->slot_count : SLOTS_FIRST,
                                     .count = table->count };
        larger.slots = memory_alloc(larger.slot_count, sizeof *larger.slots);
        for (size_t i = 0; i < table->slot_count; i++) {
            const struct text_slot *old = &table->slots[i];
            if (old->text != NULL)
                *text_slot(&larger, old->text, old->size) = *old;
        }
        free(table->slots);
        *table = larger;
    }
    struct text_slot *slot = text_slot(table, text, size);
    if (slot->text == NULL) {
        *slot = (struct text_slot){ text, (uint32_t)size, TABLE_NONE };
        table->count++;
    }
    return &slot->value;
}

int32_t text_table_find(const struct text_table *table, const char *text, size_t size)
{
    if (table->count == 0)
        return TABLE_NONE;
    const struct text_slot *slot = text_slot(table, text, size);
    return slot->text != NULL ? slot->value : TABLE_NONE;
}

void text_table_free(struct text_table *table)
{
    free(table->slots);
    *table = (struct text_table){ 0 };
}

static struct pair_slot *pair_slot(const struct pair_table *table, uint64_t pair)
{
    size_t mask = table->slot_count - 1;
    for (size_t at = hash_pair(pair) & mask;; at = (at + 1) & mask) {
        struct pair_slot *slot = &table->slots[at];
        if (!slot->used || slot->pair == pair)
            return slot;
    }
}

int32_t *pair_table_add(struct pair_table *table, uint64_t pair)
{
    if (2 * (table->count + 1) > table->slot_count) {
        struct pair_table larger = { .slot_count = table->slot_count ? 2 * table->slot_count : SLOTS_FIRST,
                                     .count = table->count };
        larger.slots = memory_alloc(larger.slot_count, sizeof *larger.slots);
        for (size_t i = 0; i < table->slot_count; i++) {
            if (table->slots[i].used)
                *pair_slot(&larger, table->slots[i].pair) = table->slots[i];
        }
        free(table->slots);
        *table = larger;
    }
    struct pair_slot *slot = pair_slot(table, pair);
    if (!slot->used) {
        *slot = (struct pair_slot){ pair, TABLE_NONE, 1 };
        table->count++;
    }
    return &slot->value;
}

int32_t pair_table_find(const struct pair_table *table, uint64_t pair)
{
    if (table->count == 0)
        return TABLE_NONE;
    const struct pair_slot *slot = pair_slot(table, pair);
    return slot->used ? slot->value : TABLE_NONE;
}

void pair_table_free(struct pair_table *table)
{
    free(table->slots);
    *table = (struct pair_table){ 0 };
}
