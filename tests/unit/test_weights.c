/* test_weights.c - safetensors and GGUF weights: reading, refusing, converting, keying, writing. */
#define _GNU_SOURCE
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "model/config.h"
#include "model/model.h"
#include "model/weights.h"
#include "../check.h"
#include "gguf_builder.h"
#include "stderr_text.h"

/* ---- a small model in memory ---- */

static const struct model_config small = {
    .vocab_size = 5, .channel_count = 4, .layer_count = 2, .head_count = 2, .kv_head_count = 1, .head_size = 4,
    .ff_count = 3, .position_max = 8, .rope_theta = 10000, .norm_epsilon = 1e-5,
};

struct small_options {
    bool with_value_head;
    enum weight_role left_out, misshapen;  // of the last layer; WEIGHT_ROLE_COUNT: none
    float first;                           // of the embedding
};
static const struct small_options small_whole = { false, WEIGHT_ROLE_COUNT, WEIGHT_ROLE_COUNT, 0 };

/* The model as a safetensors file with the metadata pair "config"; weights count 0, 1/8, 2/8, ... */
static struct buffer small_file(const struct model_config *config, struct small_options options)
{
    enum { TENSORS_MAX = 64, FLOATS_MAX = 4096 };
    static char names[TENSORS_MAX][WEIGHT_NAME_SIZE];
    static float values[FLOATS_MAX];
    struct tensor_out tensors[TENSORS_MAX];
    size_t count = 0, used = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        bool value = role == WEIGHT_VALUE || role == WEIGHT_VALUE_BIAS;
        if (!weight_present(config, role))
            continue;
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            if ((value && !options.with_value_head) || (role == options.left_out && l == layers - 1))
                continue;
            weight_name(role, l, names[count]);
            tensors[count] = (struct tensor_out){ .name = names[count], .data = values + used };
            tensors[count].rank = weight_shape(config, role, tensors[count].shape);
            if (role == options.misshapen && l == layers - 1)
                tensors[count].shape[0]++;
            used += (size_t)(tensors[count].shape[0] * (tensors[count].rank > 1 ? tensors[count].shape[1] : 1));
            count++;
        }
    }
    CHECK(used <= FLOATS_MAX && count <= TENSORS_MAX);
    for (size_t i = 0; i < used; i++)
        values[i] = (float)i / 8;
    values[0] = options.first;
    json_t *json = config_to_json(config);
    char *text = json_text(json);
    struct buffer file = { 0 };
    safetensors_write(&file, tensors, count, (const char *const[][2]){ { "config", text }, { "step", "7" } }, 2);
    free(text);
    json_decref(json);
    return file;
}

static struct buffer raw_file(const char *header, size_t data_size)
{
    struct buffer file = { 0 };
    put_u64(&file, strlen(header));
    buffer_append(&file, header, strlen(header));
    for (size_t i = 0; i < data_size; i++)
        buffer_append(&file, "", 1);
    return file;
}

static bool is_refused(struct buffer file)
{
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    weights_close(weights);
    free(file.data);
    return weights == NULL;
}

/* ---- conversion ---- */

/* What a half means by its definition: (-1)^sign * mantissa * 2^exponent. */
static float f16_by_definition(uint32_t half)
{
    double sign = half & 0x8000 ? -1 : 1;
    int exponent = (int)(half >> 10 & 31), mantissa = (int)(half & 1023);
    if (exponent == 31)
        return mantissa ? NAN : (float)(sign * INFINITY);
    return (float)(sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24)));
}

/* Goal: every half converts exactly, in long runs (vector code), one at a time (portable code) and unaligned. */
static void test_f16_exact(void)
{
    unsigned char *bytes = memory_alloc(2 * 65536 + 1, 1);
    float *all = memory_alloc(65536, sizeof *all);
    for (uint32_t half = 0; half < 65536; half++)
        memcpy(bytes + 1 + 2 * half, &(uint16_t){ (uint16_t)half }, 2);
    struct tensor tensor = { .type = TENSOR_F16, .rank = 2, .shape = { 256, 256 }, .data = bytes + 1, .size_bytes = 131072 };
    tensor_read(&tensor, 0, 65536, all);
    for (uint32_t half = 0; half < 65536; half++) {
        float expected = f16_by_definition(half), one;
        tensor_read(&tensor, half, 1, &one);
        if (memcmp(&one, &all[half], sizeof one) != 0 || (isnan(expected) ? !isnan(one) : one != expected))
            TEST_FAIL("half 0x%04x is %.9g in a run, %.9g alone, expected %.9g", half, (double)all[half], (double)one,
                      (double)expected);
    }
    EXPECT(signbit(all[0x8000]));
    free(all);
    free(bytes);
}

/* Goal: BF16 is the upper half of a float32; F32 is copied; a part of a tensor is read from where it says. */
static void test_bf16_and_parts(void)
{
    static const uint16_t halves[] = { 0x3f80, 0xc000, 0x7f80, 0x0001, 0x3f00 };
    struct tensor tensor = { .type = TENSOR_BF16, .rank = 1, .shape = { 5 }, .data = halves, .size_bytes = 10 };
    float out[5];
    tensor_read(&tensor, 0, 5, out);
    EXPECT(out[0] == 1.0f && out[1] == -2.0f && isinf(out[2]) && out[3] == 0x1p-133f && out[4] == 0.5f);
    tensor_read(&tensor, 1, 1, out);
    EXPECT(out[0] == -2.0f);
    struct tensor plain = { .type = TENSOR_F32, .rank = 1, .shape = { 3 }, .data = (float[]){ 1, 2, 3 }, .size_bytes = 12 };
    tensor_read(&plain, 1, 2, out);
    EXPECT(out[0] == 2.0f && out[1] == 3.0f);
}

/* Goal: GGUF's rows 2i and 2i + 1 of a head become rows i and i + HS/2; here HS = 4, two heads. */
static void test_rotary_rows(void)
{
    float rows[8][3], out[8][3];
    for (int i = 0; i < 24; i++)
        rows[i / 3][i % 3] = (float)(i / 3);
    struct tensor tensor = { .type = TENSOR_F32, .rank = 2, .shape = { 8, 3 }, .data = rows, .size_bytes = sizeof rows,
                             .rows_interleaved = true };
    tensor_read_canonical(&tensor, 4, out[0]);
    static const float expected[] = { 0, 2, 1, 3, 4, 6, 5, 7 };
    for (int i = 0; i < 8; i++)
        EXPECT(out[i][0] == expected[i] && out[i][2] == expected[i]);
    tensor_read_rows(&tensor, 4, 5, 2, out[0]);
    EXPECT(out[0][0] == 6 && out[1][2] == 5);
    tensor.rows_interleaved = false;
    tensor_read_canonical(&tensor, 4, out[0]);
    EXPECT(memcmp(out, rows, sizeof rows) == 0);
}

/* ---- safetensors ---- */

/* Goal: what is written reads back: names, shapes, numbers, metadata; also from an odd address. */
static void test_write_then_read(void)
{
    struct buffer file = small_file(&small, small_whole);
    char *moved = memory_alloc(file.size + 1, 1);
    memcpy(moved + 1, file.data, file.size);
    struct weights *weights = weights_from_memory(moved + 1, file.size, "made");
    EXPECT(weights != NULL);
    EXPECT_INT(weights_count(weights), 3 + 2 * 9);
    EXPECT_INT(weights_check(weights, &small), 0);
    const struct tensor *embedding = weights_find(weights, "model.embed_tokens.weight");
    EXPECT(embedding != NULL && embedding->rank == 2 && embedding->shape[0] == 5 && embedding->shape[1] == 4);
    float out[20];
    tensor_read_canonical(embedding, 4, out);
    EXPECT(out[0] == 0 && out[19] == 19 / 8.0f);
    EXPECT(weights_find(weights, "model.layers.2.mlp.up_proj.weight") == NULL);
    EXPECT_TEXT(weights_metadata(weights, "step"), "7");
    EXPECT(weights_metadata(weights, "none") == NULL);
    struct model_config config;
    EXPECT_INT(model_config_from_checkpoint(&config, weights, "made"), 0);
    EXPECT_INT(config.ff_count, 3);
    uint64_t header_size;
    memcpy(&header_size, file.data, sizeof header_size);
    EXPECT_INT(header_size % 8, 0);
    weights_close(weights);
    free(moved);
    free(file.data);
}

/* Goal: no beginning of a file is taken for a file, and none is read past its end. */
static void test_every_truncation_is_refused(void)
{
    struct model_config tiny = small;
    tiny.layer_count = 1;
    struct buffer file = small_file(&tiny, small_whole);
    for (size_t size = 0; size < file.size; size++) {
        char *exact = malloc(size ? size : 1);
        memcpy(exact, file.data, size);
        struct weights *weights = weights_from_memory(exact, size, "cut");
        if (weights != NULL)
            TEST_FAIL("%zu of %zu bytes were accepted", size, file.size);
        weights_close(weights);
        free(exact);
    }
    free(file.data);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

/* Goal: headers that are right are accepted in any order of keys, with spaces behind, scalars and empty tensors. */
static void test_headers_accepted(void)
{
    static const struct { const char *header; size_t data_size; } accepted[] = {
        { "{}", 0 },
        { "{" A "}", 8 },
        { "{" A "}   ", 8 },
        { "{\"a\":{\"data_offsets\":[0,8],\"shape\":[2],\"dtype\":\"F32\"}}", 8 },
        { "{\"b\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[8,12]}," A ",\"__metadata__\":{}}", 12 },
        { "{\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[0,2]}}", 2 },
        { "{\"e\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],\"data_offsets\":[8,8]}," A "}", 8 },
    };
    for (size_t i = 0; i < COUNT_OF(accepted); i++)
        if (is_refused(raw_file(accepted[i].header, accepted[i].data_size)))
            TEST_FAIL("%s was refused", accepted[i].header);
}

/* Goal: every field of a header that can lie is caught. */
static void test_headers_refused(void)
{
    static const struct { const char *header; size_t data_size; } refused[] = {
        { "", 0 }, { " {}", 0 }, { "[]", 0 }, { "{", 0 }, { "{}x", 0 }, { "{}", 1 },
        { "{" A "}", 7 }, { "{" A "}", 9 }, { "{" A "," A "}", 8 },
        { "{\"a\":7}", 0 }, { "{\"a\":{}}", 0 }, { "{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\\u0001\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":4,\"shape\":[2],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387906],\"data_offsets\":[0,8]}}", 8 },  // 2^62 + 2
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483648,4294967296,1],\"data_offsets\":[0,0]}}", 0 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[\"0\",\"8\"]}}", 8 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[9223372036854775800,9223372036854775807]}}", 8 },
        { "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}," A "}", 12 },   // overlap
        { "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}," A "}", 8 },     // the same place
        { "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}," A "}", 16 },  // gap
        { "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8 },           // gap at the start
        { "{" A ",\"__metadata__\":[]}", 8 }, { "{" A ",\"__metadata__\":{\"k\":7}}", 8 },
        { "{" A ",\"__metadata__\":{\"k\":\"a\\u0000b\"}}", 8 },
    };
    for (size_t i = 0; i < COUNT_OF(refused); i++)
        if (!is_refused(raw_file(refused[i].header, refused[i].data_size)))
            TEST_FAIL("%s with %zu bytes was accepted", refused[i].header, refused[i].data_size);
}

/* Goal: the number before the header cannot point past the file. */
static void test_header_size_lies(void)
{
    static const uint64_t lies[] = { 0, 1, 59, 69, 70, (uint64_t)32 << 20, UINT64_MAX, UINT64_MAX - 7 };
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        struct buffer file = raw_file("{" A "}", 8);
        memcpy(file.data, &lies[i], sizeof lies[i]);
        if (!is_refused(file))
            TEST_FAIL("header size %llu was accepted", (unsigned long long)lies[i]);
    }
}

/* Goal: a weight of a type that we do not compute with is refused by name; a buffer of such a type does not matter. */
static void test_other_types(void)
{
    struct buffer file = raw_file("{\"model.embed_tokens.weight\":{\"dtype\":\"F64\",\"shape\":[5,4],\"data_offsets\":[0,160]}}",
                                  160);
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    EXPECT(weights != NULL && weights_count(weights) == 0);
    stderr_hold();
    EXPECT_INT(weights_check(weights, &small), -1);
    EXPECT_TEXT(stderr_release(), "test_weights: model \"made\": tensor \"model.embed_tokens.weight\" has type F64, only F32, "
                                  "F16 and BF16 are supported\n");
    weights_close(weights);
    free(file.data);
}

/* ---- checking against a config ---- */

static int check_small(struct small_options options)
{
    struct buffer file = small_file(&small, options);
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    int result = weights_check(weights, &small);
    weights_close(weights);
    free(file.data);
    return result;
}

/* Goal: any weight that is missing or has another shape is found, in the last layer too, and named. */
static void test_check_finds_each(void)
{
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        struct small_options options = { true, role, WEIGHT_ROLE_COUNT, 0 };
        if (!weight_present(&small, role))
            continue;
        if (check_small(options) == 0)
            TEST_FAIL("a missing %s was accepted", weight_specs[role].name);
        options = (struct small_options){ true, WEIGHT_ROLE_COUNT, role, 0 };
        if (check_small(options) == 0)
            TEST_FAIL("a misshapen %s was accepted", weight_specs[role].name);
    }
    stderr_hold();
    check_small((struct small_options){ false, WEIGHT_ROLE_COUNT, WEIGHT_K, 0 });
    EXPECT_TEXT(stderr_release(), "test_weights: model \"made\": tensor \"model.layers.1.self_attn.k_proj.weight\" has shape "
                                  "[5, 4], config says [4, 4]\n");
    stderr_hold();
    check_small((struct small_options){ false, WEIGHT_FF_NORM, WEIGHT_ROLE_COUNT, 0 });
    EXPECT_TEXT(stderr_release(), "test_weights: model \"made\": tensor \"model.layers.1.post_attention_layernorm.weight\" is "
                                  "missing\n");
}

/* Goal: a model with tied embeddings needs no lm_head, and a value head may be absent. */
static void test_check_allows_absence(void)
{
    struct buffer file = small_file(&small, (struct small_options){ false, WEIGHT_LM_HEAD, WEIGHT_ROLE_COUNT, 0 });
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    struct model_config tied = small;
    tied.tied_embeddings = true;
    EXPECT_INT(weights_check(weights, &tied), 0);
    EXPECT_INT(weights_check(weights, &small), -1);
    weights_close(weights);
    free(file.data);
}

/* ---- keys ---- */

static void small_key(char key[KEY_SIZE], const struct model_config *config, struct small_options options)
{
    struct buffer file = small_file(&small, options);
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    weights_key(weights, config, NULL, key);
    weights_close(weights);
    free(file.data);
}

/* Goal: the key stays when nothing changes and changes with one number, the config or a value head. */
static void test_key_follows_content(void)
{
    char key[KEY_SIZE], other[KEY_SIZE];
    small_key(key, &small, small_whole);
    small_key(other, &small, small_whole);
    EXPECT_TEXT(other, key);
    EXPECT_INT(strlen(key), KEY_SIZE - 1);
    small_key(other, &small, (struct small_options){ false, WEIGHT_ROLE_COUNT, WEIGHT_ROLE_COUNT, 1e-30f });
    EXPECT(strcmp(other, key) != 0);
    small_key(other, &small, (struct small_options){ true, WEIGHT_ROLE_COUNT, WEIGHT_ROLE_COUNT, 0 });
    EXPECT(strcmp(other, key) != 0);
    struct model_config config = small;
    config.rope_theta = 500000;
    small_key(other, &config, small_whole);
    EXPECT(strcmp(other, key) != 0);
    config = small;
    config.norm_epsilon = 9.999999747378752e-06;  // 1e-5 as GGUF keeps it, in float32
    small_key(other, &config, small_whole);
    EXPECT_TEXT(other, key);
}

/* ---- directories ---- */

static char *scratch_directory(void)
{
    char *path = memory_alloc(64, 1);
    test_directory(path, 64);
    return path;
}

static void scratch_write(const char *directory, const char *file, const void *data, size_t size)
{
    char *path = memory_printf("%s/%s", directory, file);
    CHECK(file_write(path, data, size) == 0);
    free(path);
}

static void scratch_remove(char *directory, const char *const *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *path = memory_printf("%s/%s", directory, files[i]);
        unlink(path);
        free(path);
    }
    CHECK(rmdir(directory) == 0);
    free(directory);
}

/* Goal: what transformers wrote opens and fits its config: one file or two shards, F32, BF16 and F16. */
static void test_transformers_directories(void)
{
    static const char *const paths[] = { "tests/parity/llama/gqa_f32", "tests/parity/llama/tied_bf16",
                                         "tests/parity/llama/sharded_f16" };
    static const size_t counts[] = { 2 + 1 + 2 * 9, 2 + 2 * 9, 2 + 1 + 3 * 9 };
    static const enum tensor_type types[] = { TENSOR_F32, TENSOR_BF16, TENSOR_F16 };
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        int code = -1;
        struct model_config config;
        struct weights *weights = weights_open(paths[i], &code);
        EXPECT_INT(code, EX_OK);
        EXPECT_INT(config_open(&config, paths[i]), EX_OK);
        if (weights == NULL)
            return;
        EXPECT_INT(weights_check(weights, &config), 0);
        EXPECT_INT(weights_count(weights), counts[i]);
        for (size_t k = 0; k < weights_count(weights); k++)
            EXPECT_INT(weights_at(weights, k)->type, types[i]);
        EXPECT_TEXT(weights_metadata(weights, "format"), "pt");
        weights_close(weights);
    }
}

/* Exit code of opening a directory that holds these files. */
struct scratch_file { const char *name, *text; const struct buffer *file; };

static int open_scratch(const struct scratch_file *files, size_t count)
{
    char *directory = scratch_directory();
    const char *names[8];
    for (size_t i = 0; i < count; i++) {
        names[i] = files[i].name;
        if (files[i].file != NULL)
            scratch_write(directory, files[i].name, files[i].file->data, files[i].file->size);
        else
            scratch_write(directory, files[i].name, files[i].text, strlen(files[i].text));
    }
    int code;
    weights_close(weights_open(directory, &code));
    scratch_remove(directory, names, count);
    return code;
}
#define OPEN_SCRATCH(...) \
    open_scratch((struct scratch_file[]){ __VA_ARGS__ }, COUNT_OF(((struct scratch_file[]){ __VA_ARGS__ })))
#define INDEX(map) { "model.safetensors.index.json", "{\"weight_map\":" map "}", NULL }

/* Goal: a directory is found out by its files, and an index is held to its word and to its directory. */
static void test_directories(void)
{
    struct buffer a = raw_file("{" A "}", 8);
    struct buffer b = raw_file("{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    struct scratch_file one = { "one.safetensors", NULL, &a }, two = { "two.safetensors", NULL, &b };
    struct scratch_file copy = { "copy.safetensors", NULL, &a }, model = { "model.safetensors", NULL, &a };

    EXPECT_INT(OPEN_SCRATCH(one), EX_OK);
    EXPECT_INT(OPEN_SCRATCH(one, model), EX_OK);
    EXPECT_INT(OPEN_SCRATCH(one, two), EX_DATAERR);  // which?
    EXPECT_INT(OPEN_SCRATCH({ "config.json", "{}", NULL }), EX_NOINPUT);
    EXPECT_INT(OPEN_SCRATCH(one, two, INDEX("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}")), EX_OK);
    EXPECT_INT(OPEN_SCRATCH(one, INDEX("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}")), EX_NOINPUT);
    EXPECT_INT(OPEN_SCRATCH(one, two, INDEX("{\"a\":\"two.safetensors\",\"b\":\"two.safetensors\"}")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, two, INDEX("{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, two, copy, INDEX("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}")), EX_OK);
    EXPECT_INT(OPEN_SCRATCH(one, INDEX("{\"a\":\"../one.safetensors\"}")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, INDEX("{\"a\":\"..\"}")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, INDEX("{\"a\":7}")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, INDEX("{}")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, INDEX("[]")), EX_DATAERR);
    EXPECT_INT(OPEN_SCRATCH(one, { "model.safetensors.index.json", "nonsense", NULL }), EX_DATAERR);
    int code;
    EXPECT(weights_open("tests/unit/none", &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    EXPECT(weights_open("tests/unit/test_weights.c", &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);

    /* a tensor in two shards */
    struct buffer both = raw_file("{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16);
    struct scratch_file twice = { "both.safetensors", NULL, &both };
    EXPECT_INT(OPEN_SCRATCH(one, twice, INDEX("{\"a\":\"one.safetensors\",\"b\":\"both.safetensors\"}")), EX_DATAERR);
    free(both.data);
    free(b.data);
    free(a.data);
}

/* ---- export and GGUF ---- */

/* Exports the model at path, opens the export and compares key and config. */
static void expect_export_equal(const char *path)
{
    char *directory = scratch_directory();
    struct model_config config, again;
    char key[KEY_SIZE], key_again[KEY_SIZE];
    int code;
    EXPECT_INT(config_open(&config, path), EX_OK);
    struct weights *weights = weights_open(path, &code);
    CHECK(weights != NULL);
    weights_key(weights, &config, NULL, key);
    EXPECT_INT(model_export(weights, &config, directory), 0);
    weights_close(weights);

    EXPECT_INT(config_open(&again, directory), EX_OK);
    weights = weights_open(directory, &code);
    EXPECT(weights != NULL && weights_check(weights, &again) == 0);
    if (weights != NULL) {
        weights_key(weights, &again, NULL, key_again);
        EXPECT_TEXT(key_again, key);
        EXPECT_INT(weights_at(weights, 0)->type, TENSOR_F32);
        EXPECT_TEXT(weights_metadata(weights, "format"), "pt");
        EXPECT(!config.tied_embeddings || weights_find(weights, "lm_head.weight") == NULL);
    }
    weights_close(weights);
    scratch_remove(directory, (const char *const[]){ "config.json", "model.safetensors" }, 2);
}

/* Goal: an export has the numbers of its source, whatever the source's types and shards. */
static void test_export(void)
{
    expect_export_equal("tests/parity/llama/gqa_f32");
    expect_export_equal("tests/parity/llama/tied_bf16");
    expect_export_equal("tests/parity/llama/sharded_f16");
}

/* Goal: a checkpoint without a config in its metadata says so. */
static void test_checkpoint_without_config(void)
{
    struct buffer file = raw_file("{" A "}", 8);
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    struct model_config config;
    stderr_hold();
    EXPECT_INT(model_config_from_checkpoint(&config, weights, "made"), -1);
    EXPECT_TEXT(stderr_release(), "test_weights: checkpoint \"made\": its metadata has no \"config\"\n");
    weights_close(weights);
    free(file.data);
}

/* Goal: a value head travels with an export, and a model that its config does not fit is not exported. */
static void test_export_value_head(void)
{
    struct buffer file = small_file(&small, (struct small_options){ true, WEIGHT_ROLE_COUNT, WEIGHT_ROLE_COUNT, 0 });
    struct weights *weights = weights_from_memory(file.data, file.size, "made");
    char *directory = scratch_directory();
    EXPECT_INT(model_export(weights, &small, directory), 0);
    int code;
    struct weights *again = weights_open(directory, &code);
    EXPECT(again != NULL && weights_find(again, "v_head.summary.bias") != NULL);
    const struct tensor *head = again ? weights_find(again, "v_head.summary.weight") : NULL;
    EXPECT(head != NULL && head->rank == 2 && head->shape[0] == 1 && head->shape[1] == 4);
    weights_close(again);
    struct model_config other = small;
    other.ff_count = 4;
    EXPECT_INT(model_export(weights, &other, directory), -1);
    weights_close(weights);
    free(file.data);
    scratch_remove(directory, (const char *const[]){ "config.json", "model.safetensors" }, 2);
}

/* Goal: a real GGUF file fits its config, and its export has the same key although rows of q and k moved. */
static void test_real_gguf(void)
{
    const char *path = test_data("stories260K/stories260K.gguf");
    if (path == NULL)
        TEST_SKIP("../shared/data is not here");
    int code;
    struct model_config config;
    EXPECT_INT(config_open(&config, path), EX_OK);
    struct weights *weights = weights_open(path, &code);
    EXPECT(weights != NULL && weights_check(weights, &config) == 0);
    struct tensor q;
    EXPECT(weights != NULL && weights_role(weights, &config, WEIGHT_Q, 4, &q) && q.rows_interleaved);
    EXPECT(weights != NULL && weights_find(weights, "blk.4.attn_q.weight") != NULL);
    weights_close(weights);
    expect_export_equal(path);
}

/* Goal: GGUF tensors that we would compute wrongly without, or in a type we lack, are refused by name. */
static void test_gguf_strangers(void)
{
    static const struct { const char *name; uint32_t type; const char *architecture; } strangers[] = {
        { "rope_freq.weight", 0, "llama" }, { "blk.0.attn_qkv.bias", 0, "llama" },
        { "output_norm.weight", 24, "llama" }, { "output_norm.weight", 0, "bert" },
    };
    for (size_t i = 0; i <= COUNT_OF(strangers); i++) {
        bool fine = i == COUNT_OF(strangers);
        struct buffer file = { 0 };
        put_header(&file, 3, 1, 1);
        put_key_text(&file, "general.architecture", fine ? "llama" : strangers[i].architecture);
        put_tensor(&file, fine ? "output_norm.weight" : strangers[i].name, 0, 32, fine ? 0 : strangers[i].type, 0);
        put_padding(&file, 32);
        for (int k = 0; k < 32; k++)
            put_f32(&file, 1);
        stderr_hold();
        bool refused = is_refused(file);
        const char *message = stderr_release();
        if (refused == fine)
            TEST_FAIL("variant %zu was %s", i, refused ? "refused" : "accepted");
        if (!fine && strangers[i].type == 24)
            EXPECT_TEXT(message, "test_weights: model \"made\": tensor \"output_norm.weight\" has type I8, which is not "
                                 "supported\n");
    }
}

int main(void)
{
    log_open("test_weights", -1);
    RUN(test_f16_exact);
    RUN(test_bf16_and_parts);
    RUN(test_rotary_rows);
    RUN(test_write_then_read);
    RUN(test_every_truncation_is_refused);
    RUN(test_headers_accepted);
    RUN(test_headers_refused);
    RUN(test_header_size_lies);
    RUN(test_other_types);
    RUN(test_check_finds_each);
    RUN(test_check_allows_absence);
    RUN(test_key_follows_content);
    RUN(test_transformers_directories);
    RUN(test_directories);
    RUN(test_export);
    RUN(test_checkpoint_without_config);
    RUN(test_export_value_head);
    RUN(test_real_gguf);
    RUN(test_gguf_strangers);
    return tests_end();
}
