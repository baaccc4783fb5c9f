/*
 * test_rotary.c - rotary angles against transformers', tests/parity/rotary.json (made by tests/parity/make_rotary.py).
 */
#include "../check.h"

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "math/kernels.h"
#include "model/rotary.h"

static json_t *fixture;

static double number(const json_t *json, const char *key)
{
    return json_number_value(json_object_get(json, key));
}

static struct model_config config_of(const json_t *json)
{
    static const char *const kinds[] = {
        [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic",
        [ROPE_YARN] = "yarn", [ROPE_LONGROPE] = "longrope", [ROPE_LLAMA3] = "llama3",
    };
    struct model_config config = { .head_size = (int64_t)number(json, "head_size"), .rope_theta = number(json, "theta") };
    config.rope = (struct rope_scaling){
        .factor = number(json, "factor"), .original_positions = (int64_t)number(json, "original_positions"),
        .low_frequency = number(json, "low_frequency"), .high_frequency = number(json, "high_frequency"),
        .beta_fast = number(json, "beta_fast"), .beta_slow = number(json, "beta_slow"),
        .attention_factor = number(json, "attention_factor"),
    };
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (strcmp(kinds[i], json_string_value(json_object_get(json, "kind"))) == 0)
            config.rope.kind = (enum rope_kind)i;
    for (size_t c = 0; c < json_array_size(json_object_get(json, "factors")); c++)
        config.rope.factors[c] = (float)json_number_value(json_array_get(json_object_get(json, "factors"), c));
    return config;
}

/* Goal: of every kind of rope, cosines and sines at near and far positions are transformers' to the last bits. */
static void test_kinds(void)
{
    const json_t *positions = json_object_get(fixture, "positions"), *cases = json_object_get(fixture, "cases"), *json;
    size_t i, kinds = 0;
    json_array_foreach(cases, i, json) {
        struct model_config config = config_of(json);
        size_t half = (size_t)config.head_size / 2;
        kinds |= (size_t)1 << config.rope.kind;
        for (size_t t = 0; t < json_array_size(positions); t++) {
            float cosine[16], sine[16], cosine_expected[16], sine_expected[16];
            rotary_fill(cosine, sine, (size_t)json_integer_value(json_array_get(positions, t)), 1, &config);
            for (size_t c = 0; c < half; c++) {
                cosine_expected[c] = (float)json_number_value(json_array_get(json_object_get(json, "cosine"), t * half + c));
                sine_expected[c] = (float)json_number_value(json_array_get(json_object_get(json, "sine"), t * half + c));
            }
            EXPECT_FLOATS(cosine, cosine_expected, half, 2e-7);
            EXPECT_FLOATS(sine, sine_expected, half, 2e-7);
            if (test_case_failed) {
                printf("# case %zu position %zu\n", i, t);
                return;
            }
        }
    }
    EXPECT_INT(kinds, 63);  // every value of rope_kind
}

/* Goal: positions filled together are those filled one by one. */
static void test_ranges(void)
{
    const json_t *json = json_array_get(json_object_get(fixture, "cases"), 5);
    struct model_config config = config_of(json);
    enum { COUNT = 9, HALF = 16 };
    float cosine[COUNT * HALF], sine[COUNT * HALF], one_cosine[HALF], one_sine[HALF];
    EXPECT_INT(config.head_size, 2 * HALF);
    rotary_fill(cosine, sine, 40, COUNT, &config);
    for (size_t t = 0; t < COUNT; t++) {
        rotary_fill(one_cosine, one_sine, 40 + t, 1, &config);
        EXPECT(memcmp(cosine + t * HALF, one_cosine, sizeof one_cosine) == 0);
        EXPECT(memcmp(sine + t * HALF, one_sine, sizeof one_sine) == 0);
    }
}

/* Goal: channel c turns with channel c + HS / 2: (1, 0) by a quarter becomes (0, 1), (0, 2) becomes (-2, 0). */
static void test_turn(void)
{
    float x[8] = { 1, 0, 0, 2,   3, 4, 5, 6 };  // 2 heads of 2 pairs
    kernels_get()->rotary_turn(x, (float[]){ 0, 0 }, (float[]){ 1, 1 }, 2, 4);
    EXPECT_FLOATS(x, ((float[]){ 0, -2, 1, 0,   -5, -6, 3, 4 }), 8, 0);
}

int main(void)
{
    fixture = json_read("tests/parity/rotary.json");
    if (fixture == NULL)
        return 1;
    RUN(test_kinds);
    RUN(test_ranges);
    RUN(test_turn);
    json_decref(fixture);
    return tests_end();
}
