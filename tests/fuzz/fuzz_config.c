/* fuzz_config.c - whatever the JSON, it is refused or gives a config within its limits that survives being written. */
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "fuzz.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_parse((const char *)data, size, "fuzz");
    struct model_config config, again;
    if (json != NULL && config_from_json(&config, json, "fuzz") == 0) {
        CHECK(config.head_count % config.kv_head_count == 0 && config.head_size % 2 == 0);
        CHECK(config_parameter_count(&config) > 0);
        json_t *written = config_to_json(&config);
        CHECK(config_from_json(&again, written, "again") == 0);
        CHECK(again.head_size == config.head_size && again.kv_head_count == config.kv_head_count
              && again.vocab_size == config.vocab_size && again.rope_theta == config.rope_theta
              && again.norm_epsilon == config.norm_epsilon && again.tied_embeddings == config.tied_embeddings);
        json_decref(written);
    }
    json_decref(json);
    return 0;
}
