/* fuzz_encoder_config.c - whatever the JSON, it is refused or gives an encoder's config whose sizes are within their limits. */
#include "base/check.h"
#include "base/json.h"
#include "fuzz.h"
#include "model/encoder_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_parse((const char *)data, size, "fuzz");
    struct encoder_config config;
    if (json != NULL && encoder_config_from_json(&config, json, "fuzz") == 0) {
        CHECK(config.vocab_size >= 1 && config.layer_count >= 1 && config.channel_count % config.head_count == 0);
        CHECK(config.position_count == 0 || config.position_first < config.position_count);
        CHECK(config.norm_epsilon > 0 && config.norm_epsilon <= 0.1);
        for (enum encoder_part part = 0; part < PART_COUNT; part++) {
            int64_t shape[3], elements = 1;
            if (!encoder_has_weight(&config, part))
                continue;
            CHECK(config.family->names[part] != NULL);
            for (size_t rank = encoder_weight_shape(&config, part, shape); rank > 0; rank--)
                CHECK(shape[rank - 1] >= 1 && !__builtin_mul_overflow(elements, shape[rank - 1], &elements));
        }
        for (int64_t distance = -2000; config.relative && distance <= 2000; distance += 37) {
            int64_t index = encoder_relative_index(&config, distance);
            CHECK(index >= 0 && index < 2 * config.span && index <= encoder_relative_index(&config, distance + 1));
        }
        json_decref(encoder_config_to_json(&config));
    }
    json_decref(json);
    return 0;
}
