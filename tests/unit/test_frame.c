/* test_frame.c - the codec of schemas/frames.def against every row of its own table. */
#define _GNU_SOURCE
#include <msgpack.h>

#include "base/check.h"
#include "base/memory.h"
#include "../check.h"
#include "wire/frame_table.h"

enum { ARRAY_MAX = 1048576 + 1, TEXT_MAX = 4194304 + 1 };

static struct arena arena;
static char reason[512];

/* Long enough for every upper limit plus one. */
static char *long_text;
static int32_t *long_tokens;
static float *long_floats;

static void prepare(void)
{
    arena_init(&arena, "test", 256 << 20);
    long_text = memory_alloc(TEXT_MAX + 1, 1);
    memset(long_text, 'x', TEXT_MAX);
    long_tokens = memory_alloc(ARRAY_MAX, sizeof *long_tokens);
    long_floats = memory_alloc(ARRAY_MAX, sizeof *long_floats);
    for (int i = 0; i < ARRAY_MAX; i++) {
        long_tokens[i] = i;
        long_floats[i] = 0.25f * (float)i;
    }
}

static void finish(void)
{
    arena_free(&arena);
    free(long_text);
    free(long_tokens);
    free(long_floats);
}

/* The field's value made small and valid, but different from absence. */
static void fill_field(struct frame *frame, const struct field_spec *field, size_t turn)
{
    enum { FIELDS_MAX = 64 };
    static char *texts[FIELDS_MAX];
    CHECK(turn < FIELDS_MAX);
    void *at = field_at(frame, field);
    size_t count = (size_t)field->low > 0 ? (size_t)field->low : 1;
    count += count < field->high && turn % 2;
    switch (field->kind) {
    case FIELD_TEXT:
        free(texts[turn]);
        texts[turn] = memory_alloc(count + 1, 1);
        memset(texts[turn], 'a' + (int)(turn % 26), count);
        *(frame_TEXT *)at = texts[turn];
        break;
    case FIELD_INT: *(frame_INT *)at = (int64_t)field->low + 1; break;
    case FIELD_NUMBER: *(frame_NUMBER *)at = -0.1; break;
    case FIELD_TOKENS: *(frame_TOKENS *)at = (struct tokens){ long_tokens + turn, count }; break;
    case FIELD_FLOATS: *(frame_FLOATS *)at = (struct floats){ long_floats + turn, count }; break;
    case FIELD_BYTES: *(frame_BYTES *)at = (struct bytes){ (const unsigned char *)long_text, count }; break;
    }
}

static struct frame make_full(enum frame_type type, bool with_optional)
{
    struct frame frame = frame_make(type);
    size_t turn = 0;
    for (const struct field_spec *field = frame_specs[type].fields; field->name != NULL; field++, turn++)
        if (with_optional || field->presence == REQUIRED)
            fill_field(&frame, field, turn);
    return frame;
}

static bool fields_equal(const struct frame *a, const struct frame *b, const struct field_spec *field)
{
    const void *x = field_at(a, field), *y = field_at(b, field);
    const struct tokens *s = x, *t = y;  // tokens, floats and bytes: a pointer and a count
    switch (field->kind) {
    case FIELD_TEXT: return strcmp(*(const frame_TEXT *)x, *(const frame_TEXT *)y) == 0;
    case FIELD_INT: return *(const frame_INT *)x == *(const frame_INT *)y;
    case FIELD_NUMBER: return memcmp(x, y, sizeof(double)) == 0;
    case FIELD_TOKENS:
    case FIELD_FLOATS: return s->count == t->count && (s->count == 0 || memcmp(s->at, t->at, s->count * 4) == 0);
    case FIELD_BYTES: return s->count == t->count && (s->count == 0 || memcmp(s->at, t->at, s->count) == 0);
    }
    return false;
}

/* One field as raw MessagePack, put in place of what the encoder would have written. */
struct raw {
    const struct field_spec *field;
    const void *bytes;
    size_t size;
};

static int append(void *buffer, const char *data, size_t size)
{
    buffer_append(buffer, data, size);
    return 0;
}

static void pack_name(msgpack_packer *packer, const char *name)
{
    msgpack_pack_str(packer, strlen(name));
    msgpack_pack_str_body(packer, name, strlen(name));
}

/* The smallest valid frame, packed here and not by frame_encode, keys in reverse, with raw in its place. */
static struct buffer make_with_raw(enum frame_type type, const struct raw *raw)
{
    struct buffer out = { 0 };
    struct frame frame = make_full(type, false);
    size_t count = 2, last = 0;
    const struct field_spec *fields = frame_specs[type].fields;
    for (; fields[last].name != NULL; last++)
        count += fields[last].presence == REQUIRED || &fields[last] == raw->field;
    msgpack_packer packer;
    msgpack_packer_init(&packer, &out, append);
    msgpack_pack_map(&packer, count);
    for (size_t i = last; i-- > 0; ) {
        const void *at = field_at(&frame, &fields[i]);
        const struct bytes *bytes = at;
        const struct tokens *words = at;
        if (&fields[i] == raw->field) {
            pack_name(&packer, fields[i].name);
            buffer_append(&out, raw->bytes, raw->size);
            continue;
        }
        if (fields[i].presence == OPTIONAL)
            continue;
        pack_name(&packer, fields[i].name);
        switch (fields[i].kind) {
        case FIELD_TEXT: pack_name(&packer, *(const frame_TEXT *)at); break;
        case FIELD_INT: msgpack_pack_int64(&packer, *(const frame_INT *)at); break;
        case FIELD_NUMBER: msgpack_pack_double(&packer, *(const frame_NUMBER *)at); break;
        case FIELD_TOKENS: msgpack_pack_ext_with_body(&packer, words->at, words->count * 4, 1); break;
        case FIELD_FLOATS: msgpack_pack_ext_with_body(&packer, words->at, words->count * 4, 2); break;
        case FIELD_BYTES: msgpack_pack_bin_with_body(&packer, bytes->at, bytes->size); break;
        }
    }
    pack_name(&packer, "type");
    pack_name(&packer, frame_type_name(type));
    pack_name(&packer, "v");
    msgpack_pack_int(&packer, 1);
    return out;
}

/* Decodes and frees; arena is emptied. */
static int decode_and_free(struct buffer *bytes, struct frame *frame)
{
    char *exact = malloc(bytes->size ? bytes->size : 1);  // so that ASan sees the first byte past it
    if (bytes->size > 0)
        memcpy(exact, bytes->data, bytes->size);
    arena_reset(&arena);
    reason[0] = '\0';
    int result = frame_decode(frame, exact, bytes->size, &arena, reason);
    free(exact);
    free(bytes->data);
    *bytes = (struct buffer){ 0 };
    return result;
}

/* Goal: whatever is in a frame of any type arrives, bit for bit, with and without the optional fields. */
static void test_every_type_round_trips(void)
{
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        for (int with_optional = 0; with_optional < 2; with_optional++) {
            struct frame sent = make_full(type, with_optional), got;
            struct buffer bytes = { 0 };
            frame_encode(&sent, &bytes);
            EXPECT_INT(frame_extent(bytes.data, bytes.size), bytes.size);
            int result = decode_and_free(&bytes, &got);
            if (result != 0)
                TEST_FAIL("%s: %s", frame_type_name(type), reason);
            EXPECT_INT(got.type, type);
            for (const struct field_spec *field = frame_specs[type].fields; result == 0 && field->name != NULL; field++)
                if (!fields_equal(&sent, &got, field))
                    TEST_FAIL("%s.%s differs", frame_type_name(type), field->name);
        }
    }
}

/* Goal: arrays come out aligned for SIMD wherever they lay in the message. */
static void test_arrays_are_aligned(void)
{
    struct frame frame = make_full(FRAME_target, true), got;
    for (size_t shift = 0; shift < 16; shift++) {
        struct buffer bytes = { 0 };
        buffer_append(&bytes, "################", shift);
        frame_encode(&frame, &bytes);
        arena_reset(&arena);
        EXPECT_INT(frame_decode(&got, bytes.data + shift, bytes.size - shift, &arena, reason), 0);
        EXPECT_INT((uintptr_t)got.target.prompt_tokens.at % 16, 0);
        EXPECT_INT((uintptr_t)got.target.values.at % 16, 0);
        free(bytes.data);
    }
}

/* Goal: no beginning of a frame passes for a frame, and frame_extent asks for more. */
static void test_every_truncation_is_refused(void)
{
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        struct frame frame = make_full(type, true), got;
        struct buffer bytes = { 0 };
        frame_encode(&frame, &bytes);
        for (size_t cut = 0; cut < bytes.size; cut++) {
            struct buffer part = { 0 };
            buffer_append(&part, bytes.data, cut);
            if (cut > 0)
                EXPECT_INT(frame_extent(part.data, cut), 0);
            if (decode_and_free(&part, &got) == 0)
                TEST_FAIL("%s cut to %zu of %zu bytes was accepted", frame_type_name(type), cut, bytes.size);
        }
        free(bytes.data);
    }
}

static struct buffer pack_raw_value(const struct field_spec *field, size_t count, double number)
{
    struct buffer out = { 0 };
    msgpack_packer packer;
    msgpack_packer_init(&packer, &out, append);
    switch (field->kind) {
    case FIELD_TEXT: msgpack_pack_str_with_body(&packer, long_text, count); break;
    case FIELD_INT: msgpack_pack_int64(&packer, (int64_t)number); break;
    case FIELD_NUMBER: msgpack_pack_double(&packer, number); break;
    case FIELD_TOKENS: msgpack_pack_ext_with_body(&packer, long_tokens, count * 4, 1); break;
    case FIELD_FLOATS: msgpack_pack_ext_with_body(&packer, long_floats, count * 4, 2); break;
    case FIELD_BYTES: msgpack_pack_bin_with_body(&packer, long_text, count); break;
    }
    return out;
}

static void expect_value(int type, const struct field_spec *field, double value, bool accepted)
{
    struct buffer raw_value = pack_raw_value(field, value < 0 ? 0 : (size_t)value, value);
    struct buffer bytes = make_with_raw(type, &(struct raw){ field, raw_value.data, raw_value.size });
    struct frame got;
    int result = decode_and_free(&bytes, &got);
    if (accepted ? result != 0 : result == 0)
        TEST_FAIL("%s.%s = %.17g: %s", frame_type_name(type), field->name, value, accepted ? reason : "accepted");
    if (!accepted && strstr(reason, field->name) == NULL)
        TEST_FAIL("%s.%s is not named in \"%s\"", frame_type_name(type), field->name, reason);
    free(raw_value.data);
}

/* Goal: each field takes its lowest and highest value and refuses the next one beyond, by name. */
static void test_every_bound_by_one(void)
{
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        for (const struct field_spec *field = frame_specs[type].fields; field->name != NULL; field++) {
            bool is_number = field->kind == FIELD_NUMBER, is_value = is_number || field->kind == FIELD_INT;
            // The long ones are the same in every type that has them: once is enough.
            if (field->high > 65536 && !is_value && type != FRAME_target && type != FRAME_ack && type != FRAME_checkpoint)
                continue;
            expect_value(type, field, field->low, true);
            expect_value(type, field, field->high, true);
            expect_value(type, field, is_number ? nextafter(field->high, INFINITY) : field->high + 1, false);
            if (is_value || field->low > 0)
                expect_value(type, field, is_number ? nextafter(field->low, -INFINITY) : field->low - 1, false);
        }
    }
}

/* Goal: a value of another MessagePack type is refused for every field; only a number may be an integer. */
static void test_wrong_types(void)
{
    static const struct { const char *bytes; size_t size; int kind; } values[] = {
        { "\xc0", 1, -1 }, { "\xc3", 1, -1 }, { "\x01", 1, FIELD_INT }, { "\xcb\x3f\xf0\0\0\0\0\0\0", 9, FIELD_NUMBER },
        { "\xa1x", 2, FIELD_TEXT }, { "\xc4\x01x", 3, FIELD_BYTES }, { "\x91\x01", 2, -1 }, { "\x80", 1, -1 },
        { "\xd6\x01\0\0\0\0", 6, FIELD_TOKENS }, { "\xd6\x02\0\0\0\0", 6, FIELD_FLOATS }, { "\xd6\x03\0\0\0\0", 6, -1 },
        { "\xd4\x01\0", 3, -1 }, { "\xd4\x02\0", 3, -1 },  // not a multiple of 4
        { "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, -1 },
    };
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        for (const struct field_spec *field = frame_specs[type].fields; field->name != NULL; field++) {
            for (size_t i = 0; i < COUNT_OF(values); i++) {
                bool matches = values[i].kind == (int)field->kind
                               || (field->kind == FIELD_NUMBER && (values[i].kind == FIELD_INT || i + 1 == COUNT_OF(values)));
                struct buffer bytes = make_with_raw(type, &(struct raw){ field, values[i].bytes, values[i].size });
                struct frame got;
                if (decode_and_free(&bytes, &got) == 0 && !matches)
                    TEST_FAIL("%s.%s accepted value %zu", frame_type_name(type), field->name, i);
            }
        }
    }
}

/* Goal: each required field is asked for by name. */
static void test_missing_field(void)
{
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        const struct field_spec *fields = frame_specs[type].fields;
        for (size_t missing = 0; fields[missing].name != NULL; missing++) {
            if (fields[missing].presence == OPTIONAL)
                continue;
            // Renamed to an unknown field of the same length, which is skipped.
            struct frame frame = make_full(type, true), got;
            struct buffer bytes = { 0 };
            frame_encode(&frame, &bytes);
            char packed[64];
            int size = snprintf(packed, sizeof packed, "%c%s", 0xa0 | (char)strlen(fields[missing].name), fields[missing].name);
            size_t head = 10 + strlen(frame_type_name(type));  // map, v, 1, type and its name
            char *at = memmem(bytes.data + head, bytes.size - head, packed, (size_t)size);
            EXPECT(at != NULL);
            if (at != NULL)
                at[1] = '~';
            char expected[128];
            snprintf(expected, sizeof expected, "%s frame: field \"%s\" is missing", frame_type_name(type), fields[missing].name);
            EXPECT_INT(decode_and_free(&bytes, &got), -1);
            EXPECT_TEXT(reason, expected);
        }
    }
}

static int decode_literal(const char *data, size_t size, struct frame *frame)
{
    struct buffer bytes = { 0 };
    buffer_append(&bytes, data, size);
    return decode_and_free(&bytes, frame);
}
#define DECODE(literal, frame) decode_literal(literal, sizeof literal - 1, frame)

/* Goal: what every frame must have, and what no frame may have, each with its own sentence. */
static void test_reasons(void)
{
    static const struct { const char *bytes; size_t size; const char *reason; } cases[] = {
#define CASE(literal, why) { literal, sizeof literal - 1, why }
        CASE("\x82\xa1v\x01\xa4type\xa4" "beat", ""),
        CASE("\x81\xa4type\xa4" "beat", "field \"v\" is missing"),
        CASE("\x81\xa1v\x01", "field \"type\" is missing"),
        CASE("\x82\xa1v\x02\xa4type\xa4" "beat", "field \"v\" is 2, must be 1"),
        CASE("\x82\xa1v\xa1" "1\xa4type\xa4" "beat", "field \"v\" is str, must be the integer 1"),
        CASE("\x83\xa1v\x01\xa1v\x01\xa4type\xa4" "beat", "field \"v\" is there twice"),
        CASE("\x83\xa1v\x01\xa4type\xa4" "beat\xa4type\xa4" "beat", "field \"type\" is there twice"),
        CASE("\x82\xa1v\x01\xa4type\x07", "field \"type\" is an integer, must be str"),
        CASE("\x82\xa1v\x01\xa4type\xa5" "b\n\"\xff\0", "field \"type\" is \"b????\", which is no type of frame"),
        CASE("\x83\xa1v\x01\xa4type\xa4" "beat\x01\x01", "beat frame: a key is an integer, must be str"),
        CASE("\x84\xa1v\x01\xa4type\xa4" "beat\xa4held\x01\xa4held\x01", "beat frame: field \"held\" is there twice"),
        CASE("\x83\xa1v\x01\xa4type\xa4" "beat\xa4held\xff",
             "beat frame: field \"held\" is -1, must be from 0 to 9007199254740991"),
        CASE("\x83\xa1v\x01\xa4type\xa4" "beat\xa4held\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
             "beat frame: field \"held\" is 18446744073709551615, must be from 0 to 9007199254740991"),
        CASE("\x82\xa1v\x01\xa4type\xa4" "beat!", "frame has 14 bytes, followed by 1 more"),
        CASE("\x82\xa1v\x01\xa4type\xa4" "bea", "frame ends before it should, after 13 bytes"),
        CASE("", "frame ends before it should, after 0 bytes"),
        CASE("\x92\xa1v\x01", "not a frame: not a MessagePack map of at most 33554432 bytes, 8 levels and 65536 values"),
#undef CASE
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct frame got;
        EXPECT_INT(decode_literal(cases[i].bytes, cases[i].size, &got), cases[i].reason[0] ? -1 : 0);
        EXPECT_TEXT(reason, cases[i].reason);
    }
}

/* Goal: an older program skips what a newer one adds, whatever it is. */
static void test_unknown_field_is_skipped(void)
{
    struct frame got;
    EXPECT_INT(DECODE("\x84\xa1v\x01\xa3new\x92\x81\xa1x\xc0\xc7\x02\x07zz\xa4type\xa4" "beat\xa4held\x03", &got), 0);
    EXPECT_INT(got.type, FRAME_beat);
    EXPECT_INT(got.beat.held, 3);
}

/* Goal: texts are UTF-8 without NUL, tokens are not negative, floats are finite. */
static void test_content(void)
{
    static const char *const broken[] = {
        "\xa2\xc3(", "\xa1\xff", "\xa1\xc3", "\xa3\xed\xa0\x80", "\xa2\xc0\x80", "\xa4\xf4\x90\x80\x80",
    };
    const struct field_spec *split = frame_field(FRAME_target, "split", 5);
    struct frame got;
    for (size_t i = 0; i < COUNT_OF(broken); i++) {
        struct buffer bytes = make_with_raw(FRAME_target, &(struct raw){ split, broken[i], strlen(broken[i]) });
        EXPECT_INT(decode_and_free(&bytes, &got), -1);
        EXPECT_TEXT(reason, "target frame: field \"split\" is not UTF-8, or has a NUL");
    }
    struct buffer nul = make_with_raw(FRAME_target, &(struct raw){ split, "\xa3x\0y", 4 });
    EXPECT_INT(decode_and_free(&nul, &got), -1);
    EXPECT_TEXT(reason, "target frame: field \"split\" is not UTF-8, or has a NUL");

    struct buffer negative = make_with_raw(
        FRAME_target, &(struct raw){ frame_field(FRAME_target, "response_tokens", 15), "\xd7\x01\1\0\0\0\xff\xff\xff\xff", 10 });
    EXPECT_INT(decode_and_free(&negative, &got), -1);
    EXPECT_TEXT(reason, "target frame: field \"response_tokens\" has -1 as element 1, must be 0 or more");

    struct buffer nan_float = make_with_raw(
        FRAME_target, &(struct raw){ frame_field(FRAME_target, "targets", 7), "\xd6\x02\0\0\xc0\x7f", 6 });
    EXPECT_INT(decode_and_free(&nan_float, &got), -1);
    EXPECT_TEXT(reason, "target frame: field \"targets\" has nan as element 0, must be finite");

    static const char *const numbers[] = { "\xcb\x7f\xf8\0\0\0\0\0\0", "\xcb\x7f\xf0\0\0\0\0\0\0", "\xcb\xff\xf0\0\0\0\0\0\0" };
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        struct buffer bytes = make_with_raw(FRAME_target, &(struct raw){ frame_field(FRAME_target, "score", 5), numbers[i], 9 });
        EXPECT_INT(decode_and_free(&bytes, &got), -1);
        EXPECT(strstr(reason, "field \"score\" is ") != NULL);
    }
}

/* Goal: little-endian elements, as the bytes of 1, 258 and -2.5 show. */
static void test_byte_order(void)
{
    struct frame got;
    struct buffer bytes = make_with_raw(
        FRAME_target, &(struct raw){ frame_field(FRAME_target, "prompt_tokens", 13), "\xd7\x01\1\0\0\0\2\1\0\0", 10 });
    EXPECT_INT(decode_and_free(&bytes, &got), 0);
    EXPECT_INT(got.target.prompt_tokens.at[0], 1);
    EXPECT_INT(got.target.prompt_tokens.at[1], 258);
    bytes = make_with_raw(FRAME_target, &(struct raw){ frame_field(FRAME_target, "targets", 7), "\xd6\x02\0\0\x20\xc0", 6 });
    EXPECT_INT(decode_and_free(&bytes, &got), 0);
    EXPECT_NEAR(got.target.targets.at[0], -2.5, 0);
}

/* Goal: counts that lie cost nothing: refused at once, or more bytes are asked for, and never memory. */
static void test_lying_counts(void)
{
    struct frame got;
    EXPECT_INT(frame_extent("\xdf\xff\xff\xff\xff", 5), -1);                              // 2^32 pairs
    EXPECT_INT(frame_extent("\xdf\0\0\x80\1", 5), -1);                                    // 65538 values
    EXPECT_INT(frame_extent("\x81\xa1x\xdd\xff\xff\xff\xff", 8), -1);                     // 2^32 elements
    EXPECT_INT(frame_extent("\x81\xa1x\xdb\xff\xff\xff\xff", 8), -1);                     // 4 GiB of text
    EXPECT_INT(frame_extent("\x81\xa1x\xc6\x02\0\0\0", 8), -1);                           // 32 MiB and the head
    EXPECT_INT(frame_extent("\x81\xa1x\xc6\x01\0\0\0", 8), 0);                            // 16 MiB: may still come
    EXPECT_INT(frame_extent("\x8f\xa1x", 3), 0);
    EXPECT_INT(DECODE("\x8f\xa1v\x01", &got), -1);
    EXPECT_INT(DECODE("\x81\xa1x\xc6\x01\0\0\0", &got), -1);
    EXPECT_INT((long long)arena.used_bytes, 0);
}

/* Goal: eight levels are read, nine are not. */
static void test_depth(void)
{
    EXPECT_INT(frame_extent("\x81\xa1x\x91\x91\x91\x91\x91\x91\x91\x01", 11), 11);
    EXPECT_INT(frame_extent("\x81\xa1x\x91\x91\x91\x91\x91\x91\x91\x91\x01", 12), -1);
    EXPECT_INT(frame_extent("\x80", 1), 1);
    EXPECT_INT(frame_extent("", 0), 0);
    EXPECT_INT(frame_extent("\x81\xc1\x01", 3), -1);  // the reserved byte
    EXPECT_INT(frame_extent("\xa1x", 2), -1);
}

/* Goal: extents are found in a row of frames, byte by byte, as a pipe brings them. */
static void test_frames_in_a_row(void)
{
    struct buffer bytes = { 0 };
    int64_t ends[FRAME_TYPE_COUNT];
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        struct frame frame = make_full(type, true);
        frame_encode(&frame, &bytes);
        ends[type] = (int64_t)bytes.size;
    }
    int64_t start = 0;
    for (int type = 0; type < FRAME_TYPE_COUNT; type++) {
        EXPECT_INT(frame_extent(bytes.data + start, bytes.size - (size_t)start), ends[type] - start);
        start = ends[type];
    }
    free(bytes.data);
}

/* Goal: JSON shows every field that is there, bytes by their count. */
static void test_json(void)
{
    struct frame frame = frame_make(FRAME_checkpoint);
    frame.checkpoint.run = "helpful";
    frame.checkpoint.kind = "weights";
    frame.checkpoint.sha256 = "0000000000000000000000000000000000000000000000000000000000000000";
    frame.checkpoint.size = 9;
    frame.checkpoint.data = (struct bytes){ (const unsigned char *)"123456789", 9 };
    json_t *json = frame_to_json(&frame);
    char *text = json_dumps(json, JSON_COMPACT);
    EXPECT_TEXT(text, "{\"type\":\"checkpoint\",\"run\":\"helpful\",\"step\":0,\"kind\":\"weights\",\"batch\":0,\"sha256\":"
                      "\"0000000000000000000000000000000000000000000000000000000000000000\",\"size\":9,\"offset\":0,\"data\":9}");
    free(text);
    json_decref(json);

    frame = frame_make(FRAME_prompt);
    frame.prompt.prompt_key = "k";
    frame.prompt.tokenizer = "t";
    frame.prompt.split = "train";
    frame.prompt.prompt = "\xc3\xa9";
    frame.prompt.prompt_tokens = (struct tokens){ (int32_t[]){ 1, 2 }, 2 };
    json = frame_to_json(&frame);
    text = json_dumps(json, JSON_COMPACT);
    EXPECT_TEXT(text, "{\"type\":\"prompt\",\"prompt_key\":\"k\",\"tokenizer\":\"t\",\"split\":\"train\",\"prompt\":\"\xc3\xa9\","
                      "\"prompt_tokens\":[1,2]}");
    free(text);
    json_decref(json);
}

/* Goal: the delivery fields are found where there are any. */
static void test_delivery_fields(void)
{
    struct frame frame = frame_make(FRAME_scored);
    *frame_item(&frame) = 5;
    *frame_output(&frame) = 6;
    EXPECT_INT(frame.scored.item, 5);
    EXPECT_INT(frame.scored.output, 6);
    frame = frame_make(FRAME_welcome);
    EXPECT(frame_item(&frame) == NULL);
    EXPECT(frame_output(&frame) == NULL);
}

/* Goal: an extended frame has every field of the one it came from, and its own as if absent. */
static void test_extended(void)
{
    struct frame rollout = frame_make(FRAME_rollout);
    rollout.rollout.item = 7;
    rollout.rollout.output = 8;
    rollout.rollout.prompt_key = "key";
    rollout.rollout.prompt_tokens = (struct tokens){ (int32_t[]){ 1, 2 }, 2 };
    rollout.rollout.sample = 3;
    rollout.rollout.response = "yes";
    rollout.rollout.logprobs = (struct floats){ (float[]){ -0.5f }, 1 };
    rollout.rollout.kl = 0.25;
    struct frame scored = frame_extended(FRAME_scored, &rollout);
    EXPECT_INT(scored.type, FRAME_scored);
    for (const struct field_spec *field = frame_specs[FRAME_scored].fields; field->name != NULL; field++) {
        const struct field_spec *from = frame_field(FRAME_rollout, field->name, strlen(field->name));
        if (from == NULL)
            EXPECT(field->presence == REQUIRED || field_is_absent(&scored, field));
    }
    EXPECT_INT(scored.scored.item, 7);
    EXPECT_INT(scored.scored.output, 0);
    EXPECT_TEXT(scored.scored.prompt_key, "key");
    EXPECT(scored.scored.prompt_tokens.at == rollout.rollout.prompt_tokens.at);
    EXPECT_INT(scored.scored.prompt_tokens.count, 2);
    EXPECT_INT(scored.scored.sample, 3);
    EXPECT_TEXT(scored.scored.response, "yes");
    EXPECT(scored.scored.logprobs.at == rollout.rollout.logprobs.at);
    EXPECT(scored.scored.kl == 0.25);

    struct frame prompt = frame_extended(FRAME_prompt, &scored);  // and back, with what a prompt has
    EXPECT_TEXT(prompt.prompt.prompt_key, "key");
    EXPECT_INT(prompt.prompt.sample, 3);

    struct frame hold = frame_extended(FRAME_hold, &scored);
    EXPECT_INT(hold.hold.item, 7);
    EXPECT_TEXT(hold.hold.prompt_key, "key");
    EXPECT_INT(hold.hold.sample, 3);
    EXPECT_INT(hold.hold.batch, -1);
}

/* Goal: the names that frames can carry, and those just beyond. */
static void test_names(void)
{
    char longest[NAME_BYTES + 2] = "";
    memset(longest, 'n', NAME_BYTES);
    EXPECT(name_is_valid("n"));
    EXPECT(name_is_valid(longest));
    longest[NAME_BYTES] = 'n';
    EXPECT(!name_is_valid(longest));
    EXPECT(!name_is_valid(""));
    EXPECT(!name_is_valid("\xff"));
}

int main(void)
{
    prepare();
    RUN(test_every_type_round_trips);
    RUN(test_arrays_are_aligned);
    RUN(test_every_truncation_is_refused);
    RUN(test_every_bound_by_one);
    RUN(test_wrong_types);
    RUN(test_missing_field);
    RUN(test_reasons);
    RUN(test_unknown_field_is_skipped);
    RUN(test_content);
    RUN(test_byte_order);
    RUN(test_lying_counts);
    RUN(test_depth);
    RUN(test_frames_in_a_row);
    RUN(test_json);
    RUN(test_delivery_fields);
    RUN(test_extended);
    RUN(test_names);
    finish();
    return tests_end();
}
