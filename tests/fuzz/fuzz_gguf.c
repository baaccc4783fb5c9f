/*
 * fuzz_gguf.c - whatever the bytes, the reader refuses them or every tensor and value lies inside them, and a model that
 * passes weights_check has a key.
 */
#include "base/check.h"
#include "base/digest.h"
#include "fuzz.h"
#include "model/config.h"
#include "model/gguf.h"
#include "model/weights.h"

static void touch(const uint8_t *data, size_t size, const void *at, size_t bytes)
{
    CHECK((const uint8_t *)at >= data && bytes <= size - (size_t)((const uint8_t *)at - data));
}

static void read_array(const uint8_t *data, size_t size, const struct gguf *gguf, const char *key)
{
    struct gguf_array array;
    if (!gguf_array(gguf, key, &array))
        return;
    if (array.texts == NULL)
        touch(data, size, array.data, array.count);
    for (size_t i = 0; array.texts != NULL && i < array.count; i++)
        touch(data, size, array.texts[i].at, array.texts[i].size);
}

static void read_model(const uint8_t *data, size_t size, const struct gguf *gguf)
{
    struct model_config config;
    char key[KEY_SIZE];
    struct weights *weights = weights_from_memory(data, size, "fuzz");
    if (weights != NULL && config_from_gguf(&config, gguf, "fuzz") == 0 && weights_check(weights, &config) == 0)
        weights_key(weights, &config, NULL, key);
    weights_close(weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *gguf = gguf_from_memory(data, size, "fuzz");
    if (gguf == NULL)
        return 0;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        touch(data, size, tensor->data, tensor->size_bytes);
    }
    static const char *const keys[] = {
        "general.architecture", "general.alignment", "llama.block_count", "llama.rope.freq_base",
        "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
    };
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        struct gguf_text text;
        int64_t integer;
        double number;
        if (gguf_text(gguf, keys[i], &text))
            CHECK(text.at[text.size] == '\0');
        if (gguf_integer(gguf, keys[i], &integer))
            CHECK(gguf_number(gguf, keys[i], &number));
        read_array(data, size, gguf, keys[i]);
    }
    read_model(data, size, gguf);
    gguf_close(gguf);
    return 0;
}
