/* fuzz_config.c - whatever the JSON, it is refused or gives a config within its limits that survives being written. */
#include "base/check.h"
#include "base/json.h"
#include "fuzz.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_parse((const char *)data, size, "fuzz");
    struct model_config config, again;
    if (json != NULL && config_from_json(&config, json, "fuzz") == 0) {
        CHECK(config.head_count % config.kv_head_count == 0 && (config.head_size % 2 == 0 || config.learned_positions));
        CHECK(config_parameter_count(&config) > 0);
        for (int64_t l = 0; l < config.layer_count; l++)
            CHECK(config_window(&config, l) >= 1 && config_window(&config, l) <= config.position_max);
        json_t *written = config_to_json(&config);
        CHECK(config_from_json(&again, written, "again") == 0);
        json_t *written_again = config_to_json(&again);
        CHECK(json_equal(written, written_again));
        json_decref(written_again);
        json_decref(written);
    }
    json_decref(json);
    return 0;
}
