/* inspect.c - model inspect: what a model file is, a line for each fact. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "math/kernels.h"
#include "model/commands.h"
#include "model/encoder.h"
#include "model/encoder_config.h"
#include "model/family.h"
#include "model/model.h"
#include "model/weights.h"
#include "text/tokenizer.h"

static void fact(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fact(const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("%-11s", name);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

/* 1234567 as "1,234,567". */
static const char *grouped(int64_t number, char out[32])
{
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRId64, number), at = 0;
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

static double mib(double bytes)
{
    return bytes / (1 << 20);
}

/* ---- tensors ---- */

/* Marks what some role of the network uses, by the place among the weights. */
static void mark_used(const struct weights *weights, const struct model_config *config, bool *used)
{
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            struct tensor tensor;
            if (!weights_role(weights, config, role, l, &tensor))
                continue;
            const struct tensor *source = weights_find(weights, tensor.name);
            if (source != NULL)
                used[source - weights_at(weights, 0)] = true;
        }
    }
}

static void print_types(const struct weights *weights)
{
    int64_t elements[TENSOR_TYPE_COUNT] = { 0 }, bytes = 0;
    for (size_t i = 0; i < weights_count(weights); i++) {
        elements[weights_at(weights, i)->type] += (int64_t)tensor_elements(weights_at(weights, i));
        bytes += (int64_t)weights_at(weights, i)->size_bytes;
    }
    struct buffer text = { 0 };
    for (enum tensor_type type = 0; type < TENSOR_TYPE_COUNT; type++)
        if (elements[type] > 0)
            buffer_printf(&text, "%s%s", text.size ? ", " : "", tensor_formats[type].name);
    buffer_append(&text, "", 1);
    char number[32];
    fact("tensors", "%zu of type %s, %s bytes", weights_count(weights), text.data, grouped(bytes, number));
    free(text.data);
}

/* Returns how many are not understood. */
static size_t print_unused(const struct weights *weights, const bool *used)
{
    size_t unused = 0;
    for (size_t i = 0; i < weights_count(weights); i++)
        unused += !used[i];
    if (unused == 0) {
        fact("understood", "every tensor");
        return 0;
    }
    struct buffer names = { 0 };
    enum { SHOWN = 5 };
    size_t shown = 0;
    for (size_t i = 0; i < weights_count(weights) && shown < SHOWN; i++)
        if (!used[i])
            buffer_printf(&names, "%s\"%s\"", shown++ > 0 ? ", " : "", weights_at(weights, i)->name);
    buffer_append(&names, "", 1);
    fact("understood", "%zu of %zu tensors; not %s%s", weights_count(weights) - unused, weights_count(weights), names.data,
         unused > SHOWN ? ", ..." : "");
    free(names.data);
    return unused;
}

/* ---- decoders ---- */

static const char *rope_name(enum rope_kind kind)
{
    static const char *const names[] = { [ROPE_DEFAULT] = "", [ROPE_LINEAR] = ", linear scaling",
                                         [ROPE_DYNAMIC] = ", dynamic scaling",
                                         [ROPE_YARN] = ", YaRN", [ROPE_LONGROPE] = ", longrope",
                                         [ROPE_LLAMA3] = ", Llama 3's scaling" };
    return names[kind];
}

static void print_shape(const struct model_config *config)
{
    fact("shape", "%" PRId64 " layers of %" PRId64 " channels; %" PRId64 " heads of %" PRId64 ", %" PRId64 " for keys and values;"
         " feed-forward %" PRId64, config->layer_count, config->channel_count, config->head_count, config->head_size,
         config->kv_head_count, config->ff_count);
    if (config->learned_positions)
        fact("context", "%" PRId64 " tokens, learned positions", config->position_max);
    else
        fact("context", "%" PRId64 " tokens, rotary (theta %g%s)", config->position_max, config->rope_theta,
             rope_name(config->rope.kind));
    if (config->window > 0)
        fact("window", "%" PRId64 " tokens%s", config->window, config->window_period > 1 ? " in every other layer" : "");
}

static void print_heads(const struct weights *weights, const struct model_config *config)
{
    struct tensor tensor;
    struct buffer heads = { 0 };
    if (config->label_count == 0)
        buffer_printf(&heads, "language model%s", config->tied_embeddings ? " (the token embedding)" : "");
    else
        buffer_printf(&heads, "classification, %" PRId64 " label%s", config->label_count, config->label_count > 1 ? "s" : "");
    if (weights_role(weights, config, WEIGHT_VALUE, 0, &tensor))
        buffer_printf(&heads, ", value");
    buffer_append(&heads, "", 1);
    fact("heads", "%s", heads.data);
    free(heads.data);
}

/* Bytes of the matrices of the layers, and of everything else, packed; layers as type or, TENSOR_TYPE_COUNT, as in the file. */
static double packed_bytes(const struct weights *weights, const struct model_config *config, enum tensor_type quant)
{
    double bytes = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t layers = weight_specs[role].per_layer ? config->layer_count : 1;
        for (int64_t l = 0; l < layers; l++) {
            struct tensor tensor;
            if (!weights_role(weights, config, role, l, &tensor))
                continue;
            bool matrix = tensor.rank == 2;
            bool rounded = model_rounds((enum weight_role)role, quant) && tensor.type <= TENSOR_BF16;
            bytes += matrix ? (double)packed_size_bytes(rounded ? quant : tensor.type, (size_t)tensor.shape[0],
                                                        (size_t)tensor.shape[1])
                            : 4.0 * (double)tensor_elements(&tensor);
        }
    }
    return bytes;
}

static void print_memory(const struct weights *weights, const struct model_config *config)
{
    double position = 8.0 * (double)(config->layer_count * config->kv_head_count * config->head_size);
    fact("memory", "%.1f MiB; with --quant bf16 %.1f, q8_0 %.1f, q4_0 %.1f, nf4 %.1f; and %.1f KiB for each token of context",
         mib(packed_bytes(weights, config, TENSOR_TYPE_COUNT)), mib(packed_bytes(weights, config, TENSOR_BF16)),
         mib(packed_bytes(weights, config, TENSOR_Q8_0)), mib(packed_bytes(weights, config, TENSOR_Q4_0)),
         mib(packed_bytes(weights, config, TENSOR_NF4)), position / 1024);
}

static int inspect_decoder(const char *path, size_t *unused)
{
    struct model_config config;
    int code = config_open(&config, path);
    if (code != EX_OK)
        return code;
    const struct family *family = &families[config.family];
    char number[32], key[KEY_SIZE];
    fact("family", "%s (%s)", family->model_type, config.label_count > 0 ? family->classification : family->architecture);
    struct weights *weights = weights_open(path, &code);
    if (weights == NULL)
        return code;
    fact("size", "%s parameters, vocabulary %" PRId64, grouped(config_parameter_count(&config), number), config.vocab_size);
    print_shape(&config);
    print_heads(weights, &config);
    print_types(weights);
    bool *used = memory_alloc(weights_count(weights), sizeof *used);
    mark_used(weights, &config, used);
    *unused += print_unused(weights, used);
    free(used);
    if (weights_check(weights, &config) == 0) {
        print_memory(weights, &config);
        weights_key(weights, &config, NULL, key);
        fact("key", "%s", key);
    } else {
        code = EX_DATAERR;
    }
    weights_close(weights);
    return code;
}

/* ---- encoders ---- */

static int inspect_encoder(const char *path, size_t *unused)
{
    struct encoder_config config;
    int code = encoder_config_open(&config, path);
    if (code != EX_OK)
        return code;
    fact("family", "%s (an encoder)", config.family->model_type);
    struct weights *weights = weights_open(path, &code);
    if (weights == NULL)
        return code;
    fact("shape", "%" PRId64 " layers of %" PRId64 " channels; %" PRId64 " heads; feed-forward %" PRId64 ", vocabulary %" PRId64,
         config.layer_count, config.channel_count, config.head_count, config.ff_count, config.vocab_size);
    if (config.position_count > 0)
        fact("context", "%" PRId64 " tokens", config.position_count - config.position_first);
    else
        fact("context", "any length, relative positions alone");
    if (config.label_count > 0)
        fact("heads", "classification, %" PRId64 " label%s", config.label_count, config.label_count > 1 ? "s" : "");
    else
        fact("heads", "none");
    print_types(weights);
    bool *used = memory_alloc(weights_count(weights), sizeof *used);
    if (encoder_weights_used(&config, weights, path, used) == 0)
        *unused += print_unused(weights, used);
    else
        code = EX_DATAERR;
    free(used);
    weights_close(weights);
    return code;
}

/* ---- both ---- */

static int inspect_tokenizer(const char *path)
{
    int code;
    struct tokenizer *tokenizer = tokenizer_open(path, &code);
    if (tokenizer == NULL)
        return code;
    struct buffer stops = { 0 };
    for (int32_t id = 0; (size_t)id < tokenizer_vocab_size(tokenizer); id++) {
        struct buffer text = { 0 };
        if (!tokenizer_is_stop(tokenizer, id))
            continue;
        tokenizer_decode(tokenizer, &id, 1, DECODE_KEEP_SPECIAL | DECODE_VALID_UTF8, &text);
        buffer_printf(&stops, "%s%.*s (%" PRId32 ")", stops.size ? ", " : "", (int)text.size, text.size ? text.data : "", id);
        free(text.data);
    }
    buffer_append(&stops, "", 1);
    fact("tokenizer", "%s, %zu tokens, stops at %s", tokenizer_kind_name(tokenizer), tokenizer_vocab_size(tokenizer),
         stops.size > 1 ? stops.data : "nothing");
    fact("", "key %s", tokenizer_key(tokenizer));
    free(stops.data);
    tokenizer_close(tokenizer);
    return EX_OK;
}

int model_inspect_command(int argc, char **argv)
{
    const char *tokenizer = NULL;
    const struct option_spec specs[] = {
        { 0, "tokenizer", "DIR|FILE", OPTION_TEXT, &tokenizer, 0, 0, "tokenizer, where it is not the model's own" },
    };
    static const struct option_usage usage = {
        .program = "vas-model",
        .command = "model inspect",
        .example = "model inspect TinyLlama-1.1B",
        .synopsis = "model inspect PATH...",
        .summary = "Says what a model directory or file is, and whether everything in it is understood.",
        .exit_codes = "  0   it can be used\n  64  usage\n  65  it cannot be used, or not every tensor is understood\n"
                      "  66  there is no such file\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv), code = EX_OK;
    if (first == argc)
        options_refuse("a model is missing: a directory or a file");
    for (int i = first; i < argc; i++) {
        const char *path = argv[i];
        size_t unused = 0;
        fact("model", "%s", path);
        int one = encoder_is(path) ? inspect_encoder(path, &unused) : inspect_decoder(path, &unused);
        fflush(stdout);
        int text = one == EX_OK ? inspect_tokenizer(tokenizer != NULL ? tokenizer : path) : EX_OK;
        one = one != EX_OK ? one : text != EX_OK ? text : unused > 0 ? EX_DATAERR : EX_OK;
        code = code == EX_OK ? one : code;
        if (i + 1 < argc)
            putchar('\n');
    }
    return stdout_close() == 0 ? code : EX_IOERR;
}
