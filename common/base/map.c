/* map.c - see map.h. */
#include "base/map.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

struct map_slot {
    const void *key;
    size_t size;    // bytes
    uint64_t hash;
    void *value;    // NULL: free
};

_Static_assert(crypto_shorthash_KEYBYTES == sizeof ((struct map *)0)->secret && crypto_shorthash_BYTES == 8, "SipHash-2-4");

static uint64_t hash_of(const struct map *map, const void *key, size_t size)
{
    uint64_t hash;
    crypto_shorthash((unsigned char *)&hash, key, size, map->secret);
    return hash;
}

/* Where the key is, or the free slot where it would be. */
static size_t slot_of(const struct map *map, const void *key, size_t size, uint64_t hash)
{
    size_t mask = map->slot_count - 1, i = hash & mask;
    while (map->slots[i].value != NULL
           && (map->slots[i].hash != hash || map->slots[i].size != size || memcmp(map->slots[i].key, key, size) != 0))
        i = (i + 1) & mask;
    return i;
}

void *map_find(const struct map *map, const void *key, size_t size)
{
    return map->count > 0 ? map->slots[slot_of(map, key, size, hash_of(map, key, size))].value : NULL;
}

static void grow(struct map *map)
{
    struct map_slot *old = map->slots;
    size_t old_count = map->slot_count;
    if (old_count == 0) {
        CHECK(sodium_init() >= 0);
        randombytes_buf(map->secret, sizeof map->secret);
    }
    map->slot_count = old_count > 0 ? 2 * old_count : 16;
    map->slots = memory_alloc(map->slot_count, sizeof *map->slots);
    for (size_t i = 0; i < old_count; i++)
        if (old[i].value != NULL)
            map->slots[slot_of(map, old[i].key, old[i].size, old[i].hash)] = old[i];
    free(old);
}

void map_add(struct map *map, const void *key, size_t size, void *value)
{
    if (2 * (map->count + 1) > map->slot_count)
        grow(map);
    uint64_t hash = hash_of(map, key, size);
    struct map_slot *slot = &map->slots[slot_of(map, key, size, hash)];
    CHECK(slot->value == NULL && value != NULL);
    *slot = (struct map_slot){ key, size, hash, value };
    map->count++;
}

void *map_remove(struct map *map, const void *key, size_t size)
{
    if (map->count == 0)
        return NULL;
    size_t mask = map->slot_count - 1, hole = slot_of(map, key, size, hash_of(map, key, size));
    void *value = map->slots[hole].value;
    if (value == NULL)
        return NULL;
    // Whatever was placed behind because of this slot moves up.
    for (size_t i = (hole + 1) & mask; map->slots[i].value != NULL; i = (i + 1) & mask) {
        size_t home = map->slots[i].hash & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole] = (struct map_slot){ 0 };
    map->count--;
    return value;
}

void *map_next(const struct map *map, size_t *at)
{
    while (*at < map->slot_count)
        if (map->slots[(*at)++].value != NULL)
            return map->slots[*at - 1].value;
    return NULL;
}

void map_free(struct map *map)
{
    free(map->slots);
    *map = (struct map){ 0 };
}
