/* encoder_weights.c - an encoder's tensors by their family's names, checked, digested and packed; see encoder_network.h. */
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/encoder_network.h"
#include "model/packed_file.h"
#include "model/room.h"

struct stack;
struct wanted;

struct loader {
    struct encoder *encoder;
    const struct weights *weights;
    const char *name;           // of the model
    const char *prefix;         // of the tensors' names in this file
    enum tensor_type quant;
    struct wanted *wanted;      // what the config asks for
    size_t wanted_count;
    struct stack *stacks;       // that are to be filled
    size_t stack_count;
};

/* ---- finding ---- */

enum { NAME_SIZE = 128 };

static void tensor_name(const struct loader *loader, enum encoder_part part, size_t l, const char *ending, char name[NAME_SIZE])
{
    const struct encoder_family *family = loader->encoder->config.family;
    bool bare = part == PART_LABELS || (part == PART_POOL && !family->prefixed_pool);
    int size = snprintf(name, NAME_SIZE, "%s", bare ? "" : loader->prefix);
    size += snprintf(name + size, NAME_SIZE - (size_t)size, family->names[part], (int)l);
    snprintf(name + size, NAME_SIZE - (size_t)size, ".%s", ending);
}

/* Weight or bias of a part, NULL when the file lacks it.  Old files call those of norms gamma and beta. */
static const struct tensor *loader_find(const struct loader *loader, enum encoder_part part, size_t l, bool bias)
{
    char name[NAME_SIZE];
    tensor_name(loader, part, l, bias ? "bias" : "weight", name);
    const struct tensor *tensor = weights_find(loader->weights, name);
    if (tensor != NULL)
        return tensor;
    tensor_name(loader, part, l, bias ? "beta" : "gamma", name);
    return weights_find(loader->weights, name);
}

/* A weight or bias that the config asks for. */
struct wanted {
    enum encoder_part part;
    size_t l;
    bool bias;
    const struct tensor *tensor;
    unsigned char hash[crypto_generichash_BYTES];
};

static int wanted_check(const struct loader *loader, struct wanted *wanted)
{
    const struct encoder_config *config = &loader->encoder->config;
    char name[NAME_SIZE];
    tensor_name(loader, wanted->part, wanted->l, wanted->bias ? "bias" : "weight", name);
    wanted->tensor = loader_find(loader, wanted->part, wanted->l, wanted->bias);
    if (wanted->tensor == NULL) {
        log_error("model \"%s\": tensor \"%s\" is missing", loader->name, name);
        return -1;
    }
    int64_t shape[3];
    size_t rank = encoder_weight_shape(config, wanted->part, shape);
    if (wanted->bias)
        rank = 1;
    if (wanted->tensor->rank == rank && memcmp(wanted->tensor->shape, shape, rank * sizeof *shape) == 0)
        return 0;
    struct buffer text = { 0 };
    for (size_t i = 0; i < wanted->tensor->rank; i++)
        buffer_printf(&text, i ? ", %lld" : "%lld", (long long)wanted->tensor->shape[i]);
    buffer_printf(&text, "], config says [");
    for (size_t i = 0; i < rank; i++)
        buffer_printf(&text, i ? ", %lld" : "%lld", (long long)shape[i]);
    buffer_append(&text, "]", 2);
    log_error("model \"%s\": tensor \"%s\" has shape [%s", loader->name, wanted->tensor->name, text.data);
    free(text.data);
    return -1;
}

/* Finds all that the config asks for, of the right shape.  0, or -1 with the first that is not logged. */
static int loader_check(struct loader *loader)
{
    const struct encoder_config *config = &loader->encoder->config;
    loader->prefix = "";
    if (loader_find(loader, PART_WORD, 0, false) == NULL)
        loader->prefix = config->family->prefix;
    for (enum encoder_part part = 0; part < PART_COUNT; part++) {
        size_t layers = part >= PART_FIRST_OF_LAYER ? (size_t)config->layer_count : 1;
        if (!encoder_has_weight(config, part))
            continue;
        for (size_t i = 0; i < layers * (encoder_has_bias(config, part) ? 2 : 1); i++) {
            loader->wanted = memory_grow(loader->wanted, loader->wanted_count + 1, sizeof *loader->wanted);
            struct wanted *wanted = &loader->wanted[loader->wanted_count++];
            *wanted = (struct wanted){ .part = part, .l = i % layers, .bias = i >= layers };
            if (wanted_check(loader, wanted) != 0)
                return -1;
        }
    }
    return 0;
}

int encoder_weights_used(const struct encoder_config *config, const struct weights *weights, const char *name, bool *used)
{
    struct encoder encoder = { .config = *config };
    struct loader loader = { .encoder = &encoder, .weights = weights, .name = name };
    int result = loader_check(&loader);
    for (size_t i = 0; result == 0 && i < loader.wanted_count; i++)
        used[loader.wanted[i].tensor - weights_at(weights, 0)] = true;
    free(loader.wanted);
    return result;
}

/* Bytes that the loaded weights take, and their count. */
static size_t wanted_bytes(const struct loader *loader, int64_t *parameters)
{
    const struct wanted *list = loader->wanted;
    const struct encoder_config *config = &loader->encoder->config;
    size_t bytes = 0, S = panels_of(2 * (size_t)config->span), terms = config->content_to_position + config->position_to_content;
    *parameters = 0;
    for (size_t i = 0; i < loader->wanted_count; i++) {
        const struct tensor *tensor = list[i].tensor;
        size_t elements = tensor_elements(tensor), N = (size_t)tensor->shape[0];
        bool matrix = !list[i].bias && list[i].part >= PART_FIRST_OF_LAYER && tensor->rank == 2;
        enum tensor_type type = loader->quant != TENSOR_TYPE_COUNT ? loader->quant : tensor->type;
        if (list[i].part == PART_WORD)
            bytes += tensor->size_bytes;
        else
            bytes += matrix ? packed_size_bytes(type, N, elements / N) : elements * sizeof(float);
        *parameters += (int64_t)elements;
    }
    if (config->relative)
        bytes += (size_t)config->layer_count * terms * S * PANEL * (size_t)config->channel_count * sizeof(float);
    return bytes;
}

/* ---- the key ---- */

/* BLAKE2b of a tensor's float32 content. */
static void digest_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    enum { CHUNK = 1 << 14 };  // elements; stays in the cache between conversion and hashing
    struct wanted *wanted = (struct wanted *)context + task;
    float chunk[CHUNK];
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, sizeof wanted->hash);
    size_t elements = tensor_elements(wanted->tensor);
    for (size_t first = 0, count; first < elements; first += count) {
        count = elements - first < CHUNK ? elements - first : CHUNK;
        tensor_read(wanted->tensor, first, count, chunk);
        crypto_generichash_update(&state, (const unsigned char *)chunk, count * sizeof *chunk);
    }
    crypto_generichash_final(&state, wanted->hash, sizeof wanted->hash);
}

/* Config, and the hashes in the order of enum encoder_part: the same for the same numbers whatever the file calls them. */
static void loader_key(void *context, char key[KEY_SIZE])
{
    const struct loader *loader = context;
    struct digest digest;
    digest_init(&digest);
    json_t *json = encoder_config_to_json(&loader->encoder->config);
    char *text = json_text(json);
    digest_add(&digest, text, strlen(text) + 1);
    free(text);
    json_decref(json);
    if (loader->quant != TENSOR_TYPE_COUNT)
        digest_add(&digest, tensor_formats[loader->quant].name, strlen(tensor_formats[loader->quant].name) + 1);
    CHECK(sodium_init() >= 0);  // picks the fastest BLAKE2b of this processor
    pool_run(loader->encoder->pool, loader->wanted_count, digest_task, loader->wanted);
    for (size_t i = 0; i < loader->wanted_count; i++)
        digest_add(&digest, loader->wanted[i].hash, sizeof loader->wanted[i].hash);
    digest_key(&digest, key);
}

/* ---- packing ---- */

static float *loader_floats(const struct loader *loader, enum encoder_part part, size_t l, bool bias)
{
    const struct tensor *tensor = loader_find(loader, part, l, bias);
    size_t count = tensor_elements(tensor);
    float *floats = memory_alloc_aligned(count, sizeof *floats);
    tensor_read(tensor, 0, count, floats);
    return floats;
}

static struct norm loader_norm(const struct loader *loader, enum encoder_part part, size_t l)
{
    return (struct norm){ loader_floats(loader, part, l, false), loader_floats(loader, part, l, true) };
}

/* Matrices of equal K, one above the other. */
struct stack {
    const struct tensor *tensors[3];
    size_t count;
    size_t taps;               // of a convolution: rows lie as (C, taps) in the file, (taps, C) when packed
    struct packed *packed;     // has its shape
};

static void stack_panel(void *context, size_t panel, size_t thread)
{
    (void)thread;
    const struct stack *stack = context;
    struct packed *packed = stack->packed;
    size_t K = packed->K, taps = stack->taps, C = K / taps;
    float *converted = memory_alloc((PANEL + 1) * K, sizeof *converted), *file_row = converted + PANEL * K;
    const float *rows[PANEL] = { NULL };
    for (size_t i = 0; i < PANEL && panel * PANEL + i < packed->N; i++) {
        size_t n = panel * PANEL + i, t = 0;
        while (n >= (size_t)stack->tensors[t]->shape[0])
            n -= (size_t)stack->tensors[t++]->shape[0];
        float *row = converted + i * K;
        tensor_read(stack->tensors[t], n * K, K, taps > 1 ? file_row : row);
        for (size_t k = 0; taps > 1 && k < K; k++)
            row[k] = file_row[k % C * taps + k / C];
        rows[i] = row;
    }
    packed_quantise_panel(packed, panel, rows);
    free(converted);
}

static void stack_fill(void *context, size_t i)
{
    const struct loader *loader = context;
    struct stack *stack = &loader->stacks[i];
    packed_init(stack->packed, stack->packed->type, stack->packed->N, stack->packed->K);
    pool_run(loader->encoder->pool, packed_panels(stack->packed), stack_panel, stack);
}

/*
 * Parts from first on, stacked, all but their data; their type where they have one, else float32; quant instead if it is a type.
 */
static void loader_linear(struct loader *loader, struct linear *linear, enum encoder_part first, size_t count, size_t l,
                          enum tensor_type quant)
{
    struct stack stack = { .count = count, .packed = &linear->weight, .taps = 1 };
    enum tensor_type type = loader_find(loader, first, l, false)->type;
    size_t N = 0, K = 0;
    for (size_t i = 0; i < count; i++) {
        const struct tensor *tensor = stack.tensors[i] = loader_find(loader, first + (enum encoder_part)i, l, false);
        if (tensor->type != type)
            type = TENSOR_F32;
        N += (size_t)tensor->shape[0];
        K = (size_t)tensor->shape[1];
        if (tensor->rank == 3) {
            stack.taps = (size_t)tensor->shape[2];
            K *= stack.taps;
        }
    }
    linear->weight = packed_shape(quant != TENSOR_TYPE_COUNT ? quant : type, N, K);
    loader->stacks = memory_grow(loader->stacks, loader->stack_count + 1, sizeof *loader->stacks);
    loader->stacks[loader->stack_count++] = stack;
    if (!encoder_has_bias(&loader->encoder->config, first))
        return;
    linear->bias = memory_alloc_aligned(N, sizeof *linear->bias);
    for (size_t i = 0; i < count; i++)
        tensor_read(loader_find(loader, first + (enum encoder_part)i, l, true), 0, (size_t)stack.tensors[i]->shape[0],
                    linear->bias + i * (size_t)stack.tensors[0]->shape[0]);
}

/* ---- relative positions ---- */

float encoder_attention_scale(const struct encoder_config *config)
{
    int64_t terms = 1 + config->content_to_position + config->position_to_content;
    return 1.0f / sqrtf((float)(encoder_head_size(config) * (size_t)terms));
}

/* rows: (2 span, N), of which columns [first, first + C) are the positions' keys or queries.  Returns (NH, S, HS, PANEL). */
static float *position_pages(const struct encoder_config *config, const float *rows, size_t N, size_t first, float factor)
{
    size_t count = 2 * (size_t)config->span, S = panels_of(count), HS = encoder_head_size(config), NH = (size_t)config->head_count;
    float *pages = memory_alloc_aligned(NH * S * HS * PANEL, sizeof *pages);
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < NH * HS; c++)
            pages[((c / HS * S + i / PANEL) * HS + c % HS) * PANEL + i % PANEL] = factor * rows[i * N + first + c];
    return pages;
}

/* The same for every text, so they go through their matrices once. */
static void loader_positions(const struct loader *loader, struct encoder_layer *layer, size_t l, const float *relative)
{
    const struct encoder *encoder = loader->encoder;
    const struct encoder_config *config = &encoder->config;
    size_t C = (size_t)config->channel_count, count = 2 * (size_t)config->span;
    const struct { bool used; enum encoder_part part; size_t shared_column; float factor; float **pages; } kinds[] = {
        { config->content_to_position, PART_POSITION_K, C, 1.0f, &layer->position_keys },
        { config->position_to_content, PART_POSITION_Q, 0, encoder_attention_scale(config), &layer->position_queries },
    };
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (!kinds[i].used)
            continue;
        struct linear own = { 0 };
        if (!config->shared_keys) {
            struct loader once = *loader;
            once.stacks = NULL;
            once.stack_count = 0;
            loader_linear(&once, &own, kinds[i].part, 1, l, TENSOR_TYPE_COUNT);
            stack_fill(&once, 0);
            free(once.stacks);
        }
        const struct linear *linear = config->shared_keys ? &layer->qkv : &own;
        float *rows = memory_alloc_aligned(count * linear->weight.N, sizeof *rows);
        encoder_linear(encoder, rows, relative, count, linear, ENCODER_ACTIVATION_COUNT, NULL);
        *kinds[i].pages = position_pages(config, rows, linear->weight.N, config->shared_keys ? kinds[i].shared_column : 0,
                                         kinds[i].factor);
        free(rows);
        packed_free(&own.weight);
        free(own.bias);
    }
}

/* (2 span, C), NULL without relative positions.  The caller frees. */
static float *loader_relative(const struct loader *loader)
{
    const struct encoder_config *config = &loader->encoder->config;
    if (!config->relative)
        return NULL;
    float *relative = loader_floats(loader, PART_RELATIVE, 0, false);
    if (!config->relative_norm)
        return relative;
    size_t C = (size_t)config->channel_count, count = 2 * (size_t)config->span;
    struct norm norm = loader_norm(loader, PART_RELATIVE_NORM, 0);
    float *normed = memory_alloc_aligned(count * C, sizeof *normed);
    for (size_t i = 0; i < count; i++)
        loader->encoder->kernels->layer_norm(normed + i * C, relative + i * C, norm.weight, norm.bias, C,
                                             (float)config->norm_epsilon);
    free(norm.weight);
    free(norm.bias);
    free(relative);
    return normed;
}

/* ---- the whole ---- */

static void loader_embeddings(struct loader *loader)
{
    struct encoder *encoder = loader->encoder;
    const struct encoder_config *config = &encoder->config;
    const struct tensor *words = loader_find(loader, PART_WORD, 0, false);
    encoder->words = *words;
    encoder->words.name = NULL;
    void *data = memory_alloc_aligned(words->size_bytes, 1);
    memcpy(data, words->data, words->size_bytes);
    encoder->words.data = data;
    if (encoder_has_weight(config, PART_POSITION))
        encoder->positions = loader_floats(loader, PART_POSITION, 0, false);
    if (encoder_has_weight(config, PART_TYPE))
        encoder->types = loader_floats(loader, PART_TYPE, 0, false);
    encoder->embedding_norm = loader_norm(loader, PART_EMBEDDING_NORM, 0);
    if (encoder_has_weight(config, PART_PROJECTION))
        loader_linear(loader, &encoder->projection, PART_PROJECTION, 1, 0, loader->quant);
    if (encoder_has_weight(config, PART_CONV)) {
        loader_linear(loader, &encoder->conv, PART_CONV, 1, 0, loader->quant);
        encoder->conv_norm = loader_norm(loader, PART_CONV_NORM, 0);
    }
}

static void loader_layer(struct loader *loader, struct encoder_layer *layer, size_t l)
{
    loader_linear(loader, &layer->qkv, PART_Q, 3, l, loader->quant);
    loader_linear(loader, &layer->o, PART_O, 1, l, loader->quant);
    loader_linear(loader, &layer->up, PART_UP, 1, l, loader->quant);
    loader_linear(loader, &layer->down, PART_DOWN, 1, l, loader->quant);
    layer->attn_norm = loader_norm(loader, PART_ATTN_NORM, l);
    layer->ff_norm = loader_norm(loader, PART_FF_NORM, l);
}

/* The matrices' data and the key, from the file that is kept beside the encoder.  False where that cannot be. */
static bool loader_map(struct loader *loader)
{
    struct encoder *encoder = loader->encoder;
    struct packed **matrices = memory_alloc(loader->stack_count, sizeof *matrices);
    for (size_t i = 0; i < loader->stack_count; i++)
        matrices[i] = loader->stacks[i].packed;
    bool mapped = packed_file_map(&(struct packed_file){
        .model = loader->name, .weights = loader->weights, .config = encoder_config_to_json(&encoder->config),
        .quant = loader->quant, .matrices = matrices, .count = loader->stack_count, .pool = encoder->pool, .make_key = loader_key,
        .fill = stack_fill, .context = loader,
    }, &encoder->mapped, encoder->key);
    free(matrices);
    return mapped;
}

static void loader_encoder(struct loader *loader, bool keep_packed)
{
    struct encoder *encoder = loader->encoder;
    size_t L = (size_t)encoder->config.layer_count;
    loader_embeddings(loader);
    encoder->layers = memory_alloc(L, sizeof *encoder->layers);
    for (size_t l = 0; l < L; l++)
        loader_layer(loader, &encoder->layers[l], l);
    if (encoder->config.label_count > 0) {
        loader_linear(loader, &encoder->pool_dense, PART_POOL, 1, 0, TENSOR_TYPE_COUNT);
        loader_linear(loader, &encoder->labels, PART_LABELS, 1, 0, TENSOR_TYPE_COUNT);
    }
    if (!keep_packed || !loader_map(loader)) {
        loader_key(loader, encoder->key);
        for (size_t i = 0; i < loader->stack_count; i++)
            stack_fill(loader, i);
    }
    float *relative = loader_relative(loader);
    for (size_t l = 0; l < L && relative != NULL; l++)
        loader_positions(loader, &encoder->layers[l], l, relative);
    free(relative);
}

int encoder_load(struct encoder *encoder, const struct weights *weights, enum tensor_type quant, bool keep_packed, const char *name)
{
    struct loader loader = { .encoder = encoder, .weights = weights, .name = name, .quant = quant };
    int64_t parameters;
    int code = loader_check(&loader) == 0 ? EX_OK : EX_DATAERR;
    if (code == EX_OK) {
        size_t bytes = wanted_bytes(&loader, &parameters);
        code = room_check(name, parameters, bytes);
    }
    if (code == EX_OK)
        loader_encoder(&loader, keep_packed);
    free(loader.wanted);
    free(loader.stacks);
    return code;
}
