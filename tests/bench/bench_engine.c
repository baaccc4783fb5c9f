/*
 * bench_engine.c - tokens per second of sampling and steering, through the generator that rollout and decode use.
 *
 *     bench_engine -m MODEL [--tokenizer FILE] [[--trunk MODEL] --value MODEL...] [--quant TYPE] [--value-quant TYPE]
 *                  [-t THREADS] CASE...
 *
 *     prompt:T            a prompt of T tokens is read
 *     sample:B:P:N        B responses of N tokens, each to a prompt of its own of P tokens
 *     serial:B:P:N        the same one after the other
 *     shared:B:P:N        B responses of N tokens to one prompt of P tokens
 *     steer:K:B:P:N       as sample, steered by all value models over K candidates, and drawn among the K likeliest: of random
 *                         weights nearly all tokens are others, while a trained model seldom draws one
 *
 * Prints "CASE TOKENS_PER_SECOND" a line: prompt tokens for prompt:, else response tokens over the time after the prompts, except
 * shared:, which counts the prompt's time.  Prompts are drawn at random.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "base/philox.h"
#include "base/pool.h"
#include "base/progress.h"
#include "limits.h"
#include "sample/generate.h"

struct options {
    const char *model, *tokenizer, *trunk, *quant_name, *value_quant_name;
    struct option_list values;
    int64_t threads;
};

struct setting {
    const struct model *base;
    struct model *values[VALUE_MODELS_MAX];
    size_t value_count;
    const struct tokenizer *tokenizer;
    struct pool *pool;
};

struct bench_case {
    bool steered, serial, shared, prompt_counts, prompt_only;
    size_t candidates, responses, prompt_count, response_count;
};

static bool case_read(struct bench_case *read, const char *text)
{
    size_t K = 1, B = 1, P = 1, N = 1;
    *read = (struct bench_case){ 0 };
    if (sscanf(text, "prompt:%zu", &P) == 1)
        read->prompt_only = true;
    else if (sscanf(text, "shared:%zu:%zu:%zu", &B, &P, &N) == 3)
        read->shared = read->prompt_counts = true;
    else if (sscanf(text, "serial:%zu:%zu:%zu", &B, &P, &N) == 3)
        read->serial = true;
    else if (sscanf(text, "steer:%zu:%zu:%zu:%zu", &K, &B, &P, &N) == 4)
        read->steered = true;
    else if (sscanf(text, "sample:%zu:%zu:%zu", &B, &P, &N) != 3)
        return false;
    read->candidates = K;
    read->responses = B;
    read->prompt_count = P;
    read->response_count = N;
    return B > 0 && P > 0 && N > 0 && K > 0;
}

static double tokens_per_s(const struct setting *setting, const struct bench_case *what)
{
    struct value_model values[VALUE_MODELS_MAX];
    for (size_t i = 0; i < setting->value_count; i++)
        values[i] = (struct value_model){ .name = "value", .model = setting->values[i],
                                          .tokenizer_key = tokenizer_key(setting->tokenizer), .beta = 1 };
    int code;
    struct generator *generator = generator_open(&(struct generate_options){
        .base_name = "base", .base = setting->base, .tokenizer = setting->tokenizer, .values = values,
        .value_count = what->steered ? setting->value_count : 0,
        .candidates = what->candidates, .batch = what->serial ? 1 : what->responses, .max_new_tokens = what->response_count,
        .pool = setting->pool, .context = what->prompt_count + what->response_count,
    }, &code);
    if (generator == NULL)
        exit(code);
    size_t V = (size_t)model_config(setting->base)->vocab_size;
    int32_t *tokens = memory_alloc(what->prompt_count, sizeof *tokens);
    for (size_t b = 0; b < what->responses; b++) {
        char key[KEY_SIZE], number[24];
        snprintf(number, sizeof number, "%zu", what->shared ? 0 : b);
        key_from_texts(key, number, NULL);
        for (size_t t = 0; t < what->prompt_count; t++)
            tokens[t] = (int32_t)(philox_uniform(what->shared ? 0 : b, PHILOX_DATA, 0, 0, (uint32_t)t) * (double)V);
        generator_add(generator, &(struct generate_job){
            .prompt_tokens = tokens, .prompt_count = what->prompt_count, .prompt_key = key, .sample = (uint32_t)b,
            .max_new_tokens = what->response_count,
            .sampling = { .temperature = 1, .top_p = 1, .top_k = what->steered ? (int64_t)what->candidates : 0 },
        });
    }
    free(tokens);
    double start_s = clock_s();
    struct response response;
    while (generator_step(generator))
        while (generator_next(generator, &response))
            CHECK(response.failure == NULL);
    double whole_s = clock_s() - start_s;
    struct generate_stats stats = generator_stats(generator);
    generator_close(generator);
    if (what->prompt_only)
        return (double)what->prompt_count / stats.prompt_s;
    return (double)stats.tokens / (what->prompt_counts ? whole_s : whole_s - stats.prompt_s);
}

int main(int argc, char **argv)
{
    struct options options = { 0 };
    const struct option_spec specs[] = {
        { 'm', "model", "DIR|FILE", OPTION_TEXT, &options.model, 0, 0, "base policy" },
        { 0, "tokenizer", "DIR|FILE", OPTION_TEXT, &options.tokenizer, 0, 0, "where the model brings none" },
        { 0, "value", "DIR|FILE", OPTION_LIST, &options.values, 0, 0, "value model, for steer:; may be given several times" },
        { 0, "trunk", "DIR|FILE", OPTION_TEXT, &options.trunk, 0, 0,
          "the value models are adapters' directories, all beside this model" },
        { 0, "quant", MODEL_QUANTS, OPTION_CHOICE, &options.quant_name, 0, 0, "round the matrices of all" },
        { 0, "value-quant", MODEL_QUANTS, OPTION_CHOICE, &options.value_quant_name, 0, 0,
          "otherwise those of the value models and their trunk" },
        { 't', "threads", "N", OPTION_INT, &options.threads, 1, 256, "threads" },
    };
    static const struct option_usage usage = {
        .program = "bench_engine", .example = "bench_engine -m model.gguf -t 2 prompt:512 sample:8:16:64",
        .synopsis = "bench_engine -m MODEL [options] CASE...",
        .summary = "Tokens per second, a case a line; the source says which cases.",
        .exit_codes = "  0   done\n  64  usage\n  65  a model is bad\n  66  a model is missing\n",
    };
    int first = options_parse(&usage, specs, sizeof specs / sizeof *specs, argc, argv), code = EX_OK;
    if (options.model == NULL)
        options_refuse("-m is missing");
    if (options.values.count > VALUE_MODELS_MAX)
        options_refuse("--value is given %zu times, at most %d", options.values.count, VALUE_MODELS_MAX);
    struct bench_case what;
    for (int i = first; i < argc; i++)
        if (!case_read(&what, argv[i]) || (what.steered && options.values.count == 0))
            options_refuse("case \"%s\" is not one of prompt:T, sample:B:P:N, serial:B:P:N, shared:B:P:N, and with --value "
                           "steer:K:B:P:N", argv[i]);
    const enum tensor_type quant = model_quant_from_name(options.quant_name);
    const enum tensor_type value_quant = options.value_quant_name != NULL ? model_quant_from_name(options.value_quant_name) : quant;
    struct setting setting = { .pool = pool_open((size_t)options.threads) };
    struct tokenizer *tokenizer = tokenizer_open(options.tokenizer ? options.tokenizer : options.model, &code);
    struct model *base = tokenizer ? model_open_policy(options.model, quant, false, setting.pool, &code) : NULL;
    if (base == NULL)
        return code;
    setting.base = base;
    setting.tokenizer = tokenizer;
    struct model *trunk = options.trunk != NULL ? model_open_quantised(options.trunk, value_quant, false, setting.pool, &code) : NULL;
    if (options.trunk != NULL && trunk == NULL)
        return code;
    for (; setting.value_count < options.values.count; setting.value_count++) {
        const char *path = options.values.items[setting.value_count];
        struct model *value = trunk != NULL ? model_open_adapter(path, trunk, &code)
                                            : model_open_quantised(path, value_quant, false, setting.pool, &code);
        if (value == NULL)
            return code;
        setting.values[setting.value_count] = value;
    }
    for (int i = first; i < argc; i++) {
        case_read(&what, argv[i]);
        printf("%s %.2f\n", argv[i], tokens_per_s(&setting, &what));
        fflush(stdout);
    }
    peak_print(usage.program);
    for (size_t i = 0; i < setting.value_count; i++)
        model_close(setting.values[i]);
    model_close(trunk);
    model_close(base);
    tokenizer_close(tokenizer);
    pool_close(setting.pool);
    return EX_OK;
}
