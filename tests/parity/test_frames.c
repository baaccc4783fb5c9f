/* test_frames.c - the codec against frames that Python's msgpack wrote (make_frames.py). */
#include "base/json.h"
#include "base/memory.h"
#include "../check.h"
#include "wire/frame.h"

static json_t *cases;

static struct buffer bytes_from_hex(const char *hex)
{
    struct buffer bytes = { 0 };
    for (; hex[0] != '\0'; hex += 2) {
        unsigned value = 0;
        sscanf(hex, "%2x", &value);
        buffer_append(&bytes, &(char){ (char)value }, 1);
    }
    return bytes;
}

/* Goal: what Python packed is read as what it meant, keys in any order,
   and where there is only one way to write it, we write the same. */
static void test_python_frames(void)
{
    struct arena arena;
    arena_init(&arena, "test", 64 << 20);
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one) {
        struct buffer bytes = bytes_from_hex(json_string_value(json_object_get(one, "bytes"))), again = { 0 };
        struct frame frame;
        char reason[512];
        if (frame_decode(&frame, bytes.data, bytes.size, &arena, reason) != 0) {
            TEST_FAIL("case %zu: %s", i, reason);
        } else {
            json_t *shown = frame_to_json(&frame);
            if (!json_equal(shown, json_object_get(one, "json")))
                TEST_FAIL("case %zu, a %s, reads otherwise", i, frame_type_name(frame.type));
            frame_encode(&frame, &again);
            bool same = again.size == bytes.size && memcmp(again.data, bytes.data, bytes.size) == 0;
            if (json_is_true(json_object_get(one, "same")) && !same)
                TEST_FAIL("case %zu, a %s, is written otherwise", i, frame_type_name(frame.type));
            json_decref(shown);
        }
        free(bytes.data);
        free(again.data);
        arena_reset(&arena);
    }
    EXPECT(i >= 40);
    arena_free(&arena);
}

int main(void)
{
    cases = json_read("tests/parity/frames.json");
    if (cases == NULL)
        return 1;
    RUN(test_python_frames);
    json_decref(cases);
    return tests_end();
}
