/* export.c - model export: a model in another format, with its tokenizer. */
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/option.h"
#include "model/commands.h"
#include "model/gguf_write.h"
#include "model/model.h"
#include "model/weights.h"
#include "text/tokenizer.h"

struct options {
    const char *model, *tokenizer, *output, *type;
};

static const struct {
    const char *name;
    enum tensor_type type;
} types[] = { { "f32", TENSOR_F32 }, { "f16", TENSOR_F16 }, { "bf16", TENSOR_BF16 }, { "q8_0", TENSOR_Q8_0 },
              { "q4_0", TENSOR_Q4_0 } };

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

static enum tensor_type type_of(const char *name)
{
    size_t i = 0;
    while (strcmp(name, types[i].name) != 0)
        i++;
    return types[i].type;
}

static int export_gguf(const struct options *options, const struct weights *weights, const struct model_config *config,
                       const struct tokenizer *tokenizer)
{
    struct gguf_out out = { 0 };
    struct tensor head;
    int code = tokenizer_put_gguf(tokenizer, (size_t)config->vocab_size, &out) == 0 ? EX_OK : EX_DATAERR;
    if (code == EX_OK)
        code = model_export_gguf(weights, config, options->model, type_of(options->type), &out, options->output);
    if (code == EX_OK && weights_role(weights, config, WEIGHT_VALUE, 0, &head))
        log_event("\"%s\" has a value head, which other programs do not know", options->output);
    gguf_out_free(&out);
    return code;
}

int model_export_command(int argc, char **argv)
{
    struct options options = { 0 };
    const struct option_spec specs[] = {
        { 'm', "model", "DIR|FILE", OPTION_TEXT, &options.model, 0, 0, "model to read" },
        { 'o', "output", "DIR|FILE.gguf", OPTION_TEXT, &options.output, 0, 0,
          "a Hugging Face directory in float32, or a GGUF file" },
        { 0, "type", "f32|f16|bf16|q8_0|q4_0", OPTION_CHOICE, &options.type, 0, 0, "of matrices in a GGUF file (default f16)" },
        { 0, "tokenizer", "DIR|FILE", OPTION_TEXT, &options.tokenizer, 0, 0, "tokenizer, where it is not the model's own" },
    };
    static const struct option_usage usage = {
        .program = "vas-model",
        .command = "model export",
        .example = "model export -m value/ -o value.gguf --type q8_0",
        .synopsis = "model export -m MODEL -o DIR|FILE.gguf [--type TYPE]",
        .summary = "Writes the same model in another format, with its tokenizer: what transformers or llama.cpp read.",
        .exit_codes = "  0   done\n  64  usage\n  65  the model is bad, or cannot be written so\n  66  the model is missing\n"
                      "  73  another model is there already\n  74  the output could not be written\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (options.model == NULL || options.output == NULL)
        options_refuse("%s is missing", options.model == NULL ? "-m" : "-o");
    bool gguf = ends_with(options.output, ".gguf");
    if (!gguf && options.type != NULL && strcmp(options.type, "f32") != 0)
        options_refuse("--type %s is for GGUF; a directory is in float32", options.type);
    options.type = options.type != NULL ? options.type : "f16";
    type_of(options.type);

    struct model_config config;
    int code = model_output_check(options.output, options.model);
    if (code == EX_OK)
        code = config_open(&config, options.model);
    struct tokenizer *tokenizer =
        code == EX_OK ? tokenizer_open(options.tokenizer ? options.tokenizer : options.model, &code) : NULL;
    struct weights *weights = tokenizer != NULL ? weights_open(options.model, &code) : NULL;
    if (weights != NULL && weights_check(weights, &config) != 0)
        code = EX_DATAERR;
    else if (weights != NULL && gguf)
        code = export_gguf(&options, weights, &config, tokenizer);
    else if (weights != NULL)
        code = model_export(weights, &config, options.output) == 0 && tokenizer_write(tokenizer, options.output) == 0
            ? EX_OK : EX_IOERR;
    weights_close(weights);
    tokenizer_close(tokenizer);
    return code;
}
