/*
 * map.h - byte strings to pointers, for keys that strangers choose: SipHash under a secret key, so nobody can make them
 * collide.
 *
 * Open addressing, at most half full.  Zero-initialise.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct map {
    struct map_slot *slots;
    size_t slot_count, count;
    unsigned char secret[16];
};

/* NULL if it is not there. */
void *map_find(const struct map *map, const void *key, size_t size);
/* A key that is not there yet, borrowed until it is removed; value is not NULL. */
void map_add(struct map *map, const void *key, size_t size, void *value);
/* What map_find would have given. */
void *map_remove(struct map *map, const void *key, size_t size);
/* Every value, in no order: *at begins with 0.  NULL at the end.  Nothing may be added or removed meanwhile. */
void *map_next(const struct map *map, size_t *at);
void map_free(struct map *map);

#endif
