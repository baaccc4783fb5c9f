/* fuzz_frame.c - whatever the bytes, they are refused or a frame within its limits, which survives being written and read again. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "fuzz.h"
#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct arena arena;
    if (arena.name == NULL)
        arena_init(&arena, "fuzz", 2 * (size_t)FRAME_SIZE_MAX);
    arena_reset(&arena);
    struct frame frame;
    char reason[512] = "";
    int64_t extent = frame_extent(data, size);
    int result = frame_decode(&frame, data, size, &arena, reason);
    CHECK(arena.used_bytes <= size + 2048);
    if (result != 0) {
        CHECK(reason[0] != '\0' && strchr(reason, '\n') == NULL);
        return 0;
    }
    CHECK(extent == (int64_t)size);
    json_t *json = frame_to_json(&frame);
    CHECK(json_object_size(json) > 0);
    json_decref(json);

    struct buffer first = { 0 }, second = { 0 };
    frame_encode(&frame, &first);
    CHECK(frame_decode(&frame, first.data, first.size, &arena, reason) == 0);
    frame_encode(&frame, &second);
    CHECK(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    free(first.data);
    free(second.data);
    return 0;
}
