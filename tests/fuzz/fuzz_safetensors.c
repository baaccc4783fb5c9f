/*
 * fuzz_safetensors.c - whatever the bytes, the reader refuses them or every tensor can be read, and a checkpoint that
 * passes weights_check has a key.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/memory.h"
#include "fuzz.h"
#include "model/config.h"
#include "model/model.h"
#include "model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct weights *weights = weights_from_memory(data, size, "fuzz");
    if (weights == NULL)
        return 0;
    for (size_t i = 0; i < weights_count(weights); i++) {
        const struct tensor *tensor = weights_at(weights, i);
        CHECK(weights_find(weights, tensor->name) == tensor);
        float *values = memory_alloc(tensor_elements(tensor), sizeof *values);
        tensor_read(tensor, 0, tensor_elements(tensor), values);
        free(values);
    }
    struct model_config config;
    char key[KEY_SIZE];
    if (weights_metadata(weights, "config") != NULL && model_config_from_checkpoint(&config, weights, "fuzz") == 0
        && weights_check(weights, &config) == 0)
        weights_key(weights, &config, NULL, key);
    weights_close(weights);
    return 0;
}
