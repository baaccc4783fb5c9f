/* test_quantised.c - models whose matrices are blocks: read so from GGUF, or rounded on load. */
#include "../check.h"

#include "gguf_builder.h"
#include "math/quant.h"
#include "model/family.h"
#include "model/network.h"
#include "tiny_model.h"

enum { T = 40, TENSORS_MAX = 64 };

static struct pool *pool;

/* Rows of 256 elements, which the largest blocks need. */
static const struct model_config block_config = {
    .family = FAMILY_LLAMA, .vocab_size = 61, .channel_count = 256, .layer_count = 4, .head_count = 8, .kv_head_count = 2,
    .head_size = 32, .ff_count = 256, .position_max = 64, .rope_theta = 10000.0, .norm_epsilon = 1e-5,
};

/* The types of blocks that files have, where their F16 scales lie (-1: none), and scales that give weights of everyday size. */
static const struct block_type {
    enum tensor_type type;
    int d_at, m_at;
    float d, m;
} block_types[] = {
    { TENSOR_Q8_0, 0, -1, 1e-3f, 0 },   { TENSOR_Q4_0, 0, -1, 0.02f, 0 },    { TENSOR_Q4_1, 0, 2, 0.02f, -0.15f },
    { TENSOR_Q5_0, 0, -1, 0.01f, 0 },   { TENSOR_Q5_1, 0, 2, 0.01f, -0.15f }, { TENSOR_Q2_K, 80, 82, 8e-3f, 8e-3f },
    { TENSOR_Q3_K, 108, -1, 2e-3f, 0 }, { TENSOR_Q4_K, 0, 2, 4e-4f, 3e-3f }, { TENSOR_Q5_K, 0, 2, 2e-4f, 3e-3f },
    { TENSOR_Q6_K, 208, -1, 6e-5f, 0 }, { TENSOR_IQ4_NL, 0, -1, 1.5e-3f, 0 },
};

/* ---- files in memory ---- */

/* Of q, k and v in each layer: all alike, the last or the first apart, all different.  Others take turns. */
static const struct block_type *block_type_of(size_t l, enum weight_role role, size_t turn)
{
    static const size_t qkv[4][3] = { { 0, 0, 0 }, { 1, 1, 2 }, { 3, 4, 4 }, { 5, 6, 7 } };
    bool is_qkv = role == WEIGHT_Q || role == WEIGHT_K || role == WEIGHT_V;
    return &block_types[is_qkv ? qkv[l][role - WEIGHT_Q] : turn % COUNT_OF(block_types)];
}

static void put_blocks(struct buffer *data, const struct block_type *block, size_t rows, size_t columns, uint64_t seed)
{
    size_t bytes = tensor_formats[block->type].block_bytes, count = rows * columns / tensor_formats[block->type].block_elements;
    unsigned char *one = memory_alloc(bytes, 1);
    for (size_t b = 0; b < count; b++) {
        for (size_t i = 0; i < bytes; i++)
            one[i] = (unsigned char)(philox_uniform(seed, PHILOX_INIT, b, 1, (uint32_t)i) * 256);
        uint16_t d = f16_from_float(block->d), m = f16_from_float(block->m);
        memcpy(one + block->d_at, &d, sizeof d);
        if (block->m_at >= 0)
            memcpy(one + block->m_at, &m, sizeof m);
        buffer_append(data, one, bytes);
    }
    free(one);
}

/* A GGUF file of this config: its matrices in all types of blocks by turns, mixed within a layer, norms in F32. */
static struct buffer gguf_of_blocks(const struct model_config *config)
{
    struct buffer table = { 0 }, data = { 0 }, file = { 0 };
    uint64_t count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1, shape[2];
        const char *pattern = family_weight(config->family, role)->gguf_name;
        for (int64_t l = 0; l < layers && pattern != NULL && weight_present(config, role); l++, count++) {
            char name[WEIGHT_NAME_SIZE];
            weight_name_fill(pattern, l, name);
            if (weight_shape(config, role, shape) == 1) {
                put_tensor(&table, name, 0, (uint64_t)shape[0], 0, data.size);
                for (int64_t i = 0; i < shape[0]; i++)
                    put_f32(&data, 1 + 0.2f * (float)(i % 3));
            } else {
                const struct block_type *block = block_type_of((size_t)l, role, count);
                put_tensor(&table, name, (uint64_t)shape[0], (uint64_t)shape[1],
                           (uint32_t)tensor_formats[block->type].gguf_type, data.size);
                put_blocks(&data, block, (size_t)shape[0], (size_t)shape[1], count);
            }
            put_padding(&data, 32);
        }
    }
    put_header(&file, 3, count, 1);
    put_key_text(&file, "general.architecture", "llama");
    buffer_append(&file, table.data, table.size);
    put_padding(&file, 32);
    buffer_append(&file, data.data, data.size);
    free(table.data);
    free(data.data);
    return file;
}

/* Each row rounded to the type and back.  data: (N, K). */
static void round_rows(float *data, size_t N, size_t K, enum tensor_type type)
{
    for (size_t n = 0; n < N; n++) {
        struct packed packed;
        const float *rows[PANEL] = { data + n * K };
        packed_init(&packed, type, 1, K);
        packed_quantise_panel(&packed, 0, rows);
        packed_get_row(&packed, 0, data + n * K);
        packed_free(&packed);
    }
}

/* The same numbers in float32: matrices rounded to quant first, unless it is TENSOR_TYPE_COUNT. */
static struct model *float_model(const struct weights *weights, const struct model_config *config, enum tensor_type quant)
{
    struct tensor_out tensors[TENSORS_MAX];
    char names[TENSORS_MAX][WEIGHT_NAME_SIZE];
    size_t count = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        struct tensor tensor;
        for (int64_t l = 0; l < layers && weights_role(weights, config, role, l, &tensor); l++, count++) {
            CHECK(count < TENSORS_MAX);
            float *data = memory_alloc(tensor_elements(&tensor), sizeof *data);
            tensor_read_canonical(&tensor, (size_t)config->head_size, data);
            if (model_rounds(role, quant))
                round_rows(data, (size_t)tensor.shape[0], (size_t)tensor.shape[1], quant);
            weight_name(role, l, names[count]);
            tensors[count] = (struct tensor_out){ names[count], tensor.rank, { tensor.shape[0], tensor.shape[1] }, data };
        }
    }
    struct buffer file = { 0 };
    safetensors_write(&file, tensors, count, NULL, 0);
    for (size_t i = 0; i < count; i++)
        free((void *)tensors[i].data);
    int code;
    struct weights *floats = weights_from_memory(file.data, file.size, "floats");
    struct model *model = model_from_weights(floats, config, "floats", pool, &code);
    CHECK(model != NULL);
    weights_close(floats);
    free(file.data);
    return model;
}

/* ---- what models compute ---- */

/* Hidden states of T tokens behind the logits of each.  (T, C + V), the caller frees. */
static float *answer(const struct model *model, size_t chunk)
{
    size_t C = (size_t)model_config(model)->channel_count, V = (size_t)model_config(model)->vocab_size;
    float *out = memory_alloc(T * (C + V), sizeof *out);
    struct cache *cache = cache_open(model, T);
    int32_t sequence = sequence_open(cache), tokens[T];
    for (int32_t t = 0; t < T; t++)
        tokens[t] = t * t % 61;
    for (size_t t = 0, count; t < T; t += count) {
        count = T - t < chunk ? T - t : chunk;
        model_extend(model, cache, sequence, tokens + t, count, out + t * C, NULL);
    }
    model_logits(model, out, T, out + T * C);
    cache_close(cache);
    return out;
}

/* Products of float32 agree but for their rounding, of rows in two BF16 to some 16 bits; rows rounded to bytes are off by a 250th
   of their largest in each matrix. */
static void expect_close(const struct model *actual, const struct model *expected)
{
    static const double tolerances[] = { [INPUT_FLOATS] = 2e-5, [INPUT_TILES] = 2e-5, [INPUT_HALVES] = 2e-4, [INPUT_BYTES] = 0.07,
                                         [INPUT_WORDS] = 0.07 };  // beside layers of other types, whose rows are bytes
    double tolerance = tolerances[actual->kernels->input[actual->layers[0].down.parts[0].type]];
    size_t count = T * (size_t)(model_config(actual)->channel_count + model_config(actual)->vocab_size);
    float *a = answer(actual, T), *b = answer(expected, T), *chunks = answer(actual, 3);
    double worst = 0, scale = 0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        scale = fmax(scale, fabs((double)b[i]));
    }
    EXPECT_NEAR(worst / scale, 0, tolerance);
    EXPECT(memcmp(a, chunks, count * sizeof *a) == 0);
    free(chunks);
    free(b);
    free(a);
}

/*
 * Goal: a GGUF file with blocks of every type computes, within the rounding of products, what their numbers do as float32, with
 * every set of kernels and in chunks of any size; the blocks stay blocks, and q, k and v share a matrix where their types are
 * alike.
 */
static void test_gguf_blocks(void)
{
    static const char *const names[] = { "amx", "vnni", "avx512", "avxvnni", "maddubs", "avx2", "portable" };
    static const size_t parts[] = { 1, 2, 2, 3 };  // of q, k and v in each layer
    struct buffer file = gguf_of_blocks(&block_config);
    struct weights *weights = weights_from_memory(file.data, file.size, "blocks");
    EXPECT(weights != NULL);
    for (size_t i = 0; i < COUNT_OF(names) && weights != NULL; i++) {
        int code;
        if (kernels_named(names[i]) == NULL)
            continue;
        setenv("VAS_KERNELS", names[i], 1);
        struct model *blocks = model_from_weights(weights, &block_config, "blocks", pool, &code);
        struct model *floats = float_model(weights, &block_config, TENSOR_TYPE_COUNT);
        EXPECT(blocks != NULL);
        EXPECT_TEXT(model_key(blocks), model_key(floats));
        for (size_t l = 0; l < COUNT_OF(parts); l++) {
            EXPECT_INT(blocks->layers[l].qkv.part_count, parts[l]);
            EXPECT_INT(floats->layers[l].qkv.part_count, 1);
            EXPECT(blocks->layers[l].down.parts[0].type >= TENSOR_Q8_0);
        }
        expect_close(blocks, floats);
        model_close(floats);
        model_close(blocks);
        unsetenv("VAS_KERNELS");
    }
    weights_close(weights);
    free(file.data);
}

/* Goal: rounding on load gives the numbers of a model whose layers' matrices were rounded before, embeddings and heads as they are;
   rows need be no whole number of blocks; the key tells roundings apart. */
static void test_rounded_on_load(void)
{
    static const char *const names[] = { "bf16", "q8_0", "q4_0", "nf4" };
    int code;
    struct buffer file = tiny_safetensors(&tiny_config, 3);
    struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
    struct model *plain = model_from_weights(weights, &tiny_config, "tiny", pool, &code);
    char keys[COUNT_OF(names) + 1][KEY_SIZE];
    memcpy(keys[COUNT_OF(names)], model_key(plain), KEY_SIZE);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        enum tensor_type quant = model_quant_from_name(names[i]);
        EXPECT(quant != TENSOR_TYPE_COUNT);
        struct model *rounded = model_from_weights_quantised(weights, &tiny_config, "tiny", quant, pool, &code);
        struct model *floats = float_model(weights, &tiny_config, quant);
        EXPECT(rounded != NULL);
        EXPECT_INT(rounded->layers[1].down.parts[0].type, quant);
        EXPECT_INT(rounded->layers[0].qkv.part_count, 1);
        EXPECT_INT(rounded->embedding.type, quant == TENSOR_BF16 ? TENSOR_BF16 : TENSOR_F32);
        EXPECT_INT(rounded->lm_head.type, rounded->embedding.type);
        expect_close(rounded, floats);
        setenv("VAS_KERNELS", kernels_named("avx2") != NULL ? "avx2" : "portable", 1);
        struct model *unrounded_rows = model_from_weights_quantised(weights, &tiny_config, "tiny", quant, pool, &code);
        unsetenv("VAS_KERNELS");
        expect_close(unrounded_rows, floats);
        model_close(unrounded_rows);
        memcpy(keys[i], model_key(rounded), KEY_SIZE);
        struct model *again = model_from_weights_quantised(weights, &tiny_config, "tiny", quant, pool, &code);
        EXPECT_TEXT(model_key(again), keys[i]);
        model_close(again);
        model_close(floats);
        model_close(rounded);
    }
    for (size_t i = 0; i <= COUNT_OF(names); i++)
        for (size_t j = 0; j < i; j++)
            EXPECT(strcmp(keys[i], keys[j]) != 0);
    model_close(plain);
    weights_close(weights);
    free(file.data);
}

/* Goal: what is in blocks already keeps its type when rounding is asked for. */
static void test_blocks_are_not_rounded_again(void)
{
    int code;
    struct buffer file = gguf_of_blocks(&block_config);
    struct weights *weights = weights_from_memory(file.data, file.size, "blocks");
    struct model *model = model_from_weights_quantised(weights, &block_config, "blocks", TENSOR_NF4, pool, &code);
    EXPECT(model != NULL);
    for (size_t l = 0; l < 4 && model != NULL; l++)
        for (size_t i = 0; i < model->layers[l].qkv.part_count; i++)
            EXPECT(model->layers[l].qkv.parts[i].type != TENSOR_NF4);
    model_close(model);
    weights_close(weights);
    free(file.data);
}

/* Goal: only the names of roundings are roundings, in small or capital letters. */
static void test_names(void)
{
    EXPECT(model_quant_from_name("Q8_0") == TENSOR_Q8_0);
    EXPECT(model_quant_from_name("q4_0") == TENSOR_Q4_0);
    EXPECT(model_quant_from_name("nf4") == TENSOR_NF4);
    EXPECT(model_quant_from_name("q4_k") == TENSOR_TYPE_COUNT && model_quant_from_name("") == TENSOR_TYPE_COUNT);
    EXPECT(model_quant_from_name("f16") == TENSOR_TYPE_COUNT && model_quant_from_name(NULL) == TENSOR_TYPE_COUNT);
}

int main(void)
{
    pool = pool_open(1);
    RUN(test_gguf_blocks);
    RUN(test_rounded_on_load);
    RUN(test_blocks_are_not_rounded_again);
    RUN(test_names);
    pool_close(pool);
    return tests_end();
}
