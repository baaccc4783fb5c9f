/* llama2c.c - see llama2c.h. */
#include "model/llama2c.h"

#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "model/config_parts.h"
#include "model/family.h"

enum { HEADER_NUMBERS = 7, HEADER_BYTES = HEADER_NUMBERS * sizeof(int32_t), MAGIC_LATER = 0x616b3432 };

/* The order of the file; of each role all layers lie together.  The angles, which are computed anew, come before lm_head. */
static const enum weight_role file_roles[] = {
    WEIGHT_EMBEDDING, WEIGHT_ATTN_NORM, WEIGHT_Q, WEIGHT_K, WEIGHT_V, WEIGHT_O, WEIGHT_FF_NORM, WEIGHT_GATE, WEIGHT_DOWN,
    WEIGHT_UP, WEIGHT_FINAL_NORM, WEIGHT_LM_HEAD,
};

bool llama2c_is(const char *path, const void *data, size_t size)
{
    size_t length = strlen(path), ending = strlen(".bin");
    bool gguf = size >= 4 && memcmp(data, "GGUF", 4) == 0;
    return !gguf && length > ending && strcmp(path + length - ending, ".bin") == 0;
}

static size_t angle_bytes(const struct model_config *config)
{
    return (size_t)config->position_max * (size_t)config->head_size * sizeof(float);  // HS / 2 cosines, HS / 2 sines
}

static size_t weight_bytes(const struct model_config *config, enum weight_role role)
{
    int64_t shape[2];
    weight_shape(config, role, shape);
    return (size_t)shape[0] * (size_t)shape[1] * sizeof(float);
}

static int size_check(const struct model_config *config, size_t size, const char *name)
{
    size_t wanted = HEADER_BYTES + (size_t)config_parameter_count(config) * sizeof(float) + angle_bytes(config);
    if (size == wanted)
        return 0;
    log_error("cannot read llama2.c file \"%s\": it has %zu bytes, its header asks for %zu", name, size, wanted);
    return -1;
}

int llama2c_config(struct model_config *config, const void *data, size_t size, const char *name)
{
    /* Where each number of the header goes; the vocabulary's sign is another field. */
    static const size_t places[HEADER_NUMBERS] = { 1, 6, 2, 3, 4, 0, 7 };  // in config_counts
    int32_t header[HEADER_NUMBERS];
    if (size < sizeof header) {
        log_error("cannot read llama2.c file \"%s\": it has %zu bytes, its header takes %zu", name, size, sizeof header);
        return -1;
    }
    memcpy(header, data, sizeof header);
    if (memcmp(data, "PK\3\4", 4) == 0) {
        log_error("cannot read llama2.c file \"%s\": it is a PyTorch archive, only safetensors of it are supported", name);
        return -1;
    }
    if (header[0] == MAGIC_LATER) {
        log_error("cannot read llama2.c file \"%s\": it has version %d, only version 0 is supported", name, header[1]);
        return -1;
    }
    *config = families[FAMILY_LLAMA].defaults;
    config->norm_epsilon = 1e-5;
    config->tied_embeddings = header[5] > 0;
    for (size_t i = 0; i < HEADER_NUMBERS; i++) {
        const struct config_count *count = &config_counts[places[i]];
        int64_t number = i == 5 && header[i] < 0 ? -(int64_t)header[i] : header[i];
        if (config_count_set(config, count, count->json_key, number, name) != 0)
            return -1;
    }
    return config_complete(config, name) != 0 ? -1 : size_check(config, size, name);
}

int llama2c_read(struct tensor_list *tensors, struct arena *arena, const void *data, size_t size, const char *name)
{
    struct model_config config;
    if (llama2c_config(&config, data, size, name) != 0)
        return -1;
    const unsigned char *at = (const unsigned char *)data + HEADER_BYTES;
    for (size_t i = 0; i < COUNT_OF(file_roles); i++) {
        enum weight_role role = file_roles[i];
        if (role == WEIGHT_LM_HEAD)
            at += angle_bytes(&config);
        if (!weight_present(&config, role))
            continue;
        int64_t layers = weight_specs[role].per_layer ? config.layer_count : 1;
        for (int64_t l = 0; l < layers; l++, at += weight_bytes(&config, role)) {
            char canonical[WEIGHT_NAME_SIZE];
            weight_name(role, l, canonical);
            struct tensor tensor = { .name = arena_text(arena, canonical, strlen(canonical)), .type = TENSOR_F32, .data = at,
                                     .size_bytes = weight_bytes(&config, role),
                                     .rows_interleaved = role == WEIGHT_Q || role == WEIGHT_K };
            tensor.rank = weight_shape(&config, role, tensor.shape);
            tensor_list_add(tensors, &tensor);
        }
    }
    CHECK(at == (const unsigned char *)data + size);
    return 0;
}
