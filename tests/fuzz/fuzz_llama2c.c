/* fuzz_llama2c.c - whatever the bytes, they are refused or every tensor of the config lies inside them. */
#include <stdlib.h>

#include "base/check.h"
#include "fuzz.h"
#include "model/llama2c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config config;
    struct tensor_list tensors = { 0 };
    struct arena arena;
    arena_init(&arena, "names", SIZE_MAX);
    bool fits = llama2c_config(&config, data, size, "fuzz") == 0;
    CHECK((llama2c_read(&tensors, &arena, data, size, "fuzz") == 0) == fits);
    CHECK(fits == (tensors.count > 0));
    for (size_t i = 0; i < tensors.count; i++) {
        const uint8_t *at = tensors.at[i].data;
        CHECK(at >= data && tensors.at[i].size_bytes <= size - (size_t)(at - data));
        CHECK(tensor_elements(&tensors.at[i]) * sizeof(float) == tensors.at[i].size_bytes);
    }
    free(tensors.at);
    arena_free(&arena);
    return 0;
}
