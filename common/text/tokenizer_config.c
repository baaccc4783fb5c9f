/*
 * tokenizer_config.c - what stands beside tokenizer.json: which tokens begin and end a text.
 *
 *     tokenizer_config.json, special_tokens_map.json   bos_token, eos_token (a text, or an object with "content");
 *                                                      add_bos_token, add_eos_token
 *     generation_config.json, config.json              bos_token_id, eos_token_id (a number, or a list of them)
 *
 * The first file that names one decides begin and end; the end tokens of all of them stop sampling.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "text/tokenizer_parts.h"

/* -1: not named, or no token of this tokenizer. */
static int32_t named_token(const struct tokenizer *tokenizer, const json_t *config, const char *key)
{
    const json_t *token = json_object_get(config, key);
    if (json_is_object(token))
        token = json_object_get(token, "content");
    if (!json_is_string(token))
        return -1;
    return vocabulary_find(&tokenizer->vocabulary, json_string_value(token), json_string_length(token));
}

static int32_t token_of_id(const struct tokenizer *tokenizer, const json_t *id)
{
    double number = json_is_number(id) ? json_number_value(id) : -1;
    bool possible = number >= 0 && number < VOCABULARY_SIZE_MAX;
    return possible && vocabulary_has(&tokenizer->vocabulary, (int64_t)number) ? (int32_t)number : -1;
}

/* Integers become doubles: transformers writes a model_max_length of 10^30.  NULL on failure, logged. */
static json_t *read_config(const char *path)
{
    size_t size;
    char *text = file_read(path, &size);
    if (text == NULL)
        return NULL;
    json_error_t error;
    json_t *config = json_loadb(text, size, JSON_DECODE_INT_AS_REAL, &error);
    if (config == NULL)
        log_error("cannot read \"%s\" as JSON: line %d column %d: %s", path, error.line, error.column, error.text);
    free(text);
    return config;
}

static void use_begin(struct tokenizer *tokenizer, int32_t id)
{
    if (tokenizer->begin < 0)
        tokenizer->begin = id;
}

static void use_end(struct tokenizer *tokenizer, int32_t id)
{
    if (id < 0)
        return;
    if (tokenizer->end < 0)
        tokenizer->end = id;
    token_list_add_new(&tokenizer->stops, id);
}

/* add_bos_token and its like override what tokenizer.json puts around a text, as in transformers. */
static void set_around(struct token_list *list, const json_t *wanted, int32_t token)
{
    if (token < 0 || !json_is_boolean(wanted))
        return;
    bool has = list->count == 1 && list->at[0] == token;
    if (json_is_true(wanted) && list->count == 0)
        token_list_add(list, token);
    else if (json_is_false(wanted) && has)
        list->count = 0;
}

static void use_config(struct tokenizer *tokenizer, const json_t *config)
{
    use_begin(tokenizer, named_token(tokenizer, config, "bos_token"));
    use_end(tokenizer, named_token(tokenizer, config, "eos_token"));

    const json_t *begin = json_object_get(config, "bos_token_id"), *ends = json_object_get(config, "eos_token_id");
    use_begin(tokenizer, token_of_id(tokenizer, json_is_array(begin) ? json_array_get(begin, 0) : begin));
    if (!json_is_array(ends))
        use_end(tokenizer, token_of_id(tokenizer, ends));
    for (size_t i = 0; i < json_array_size(ends); i++)
        use_end(tokenizer, token_of_id(tokenizer, json_array_get(ends, i)));

    set_around(&tokenizer->prefix, json_object_get(config, "add_bos_token"), tokenizer->begin);
    set_around(&tokenizer->suffix, json_object_get(config, "add_eos_token"), tokenizer->end);
}

int tokenizer_read_configs(struct tokenizer *tokenizer, const char *directory)
{
    static const char *const files[] = {
        "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json",
    };
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char *path = memory_printf("%s/%s", directory, files[i]);
        bool exists = file_exists(path);
        json_t *config = exists ? read_config(path) : NULL;
        free(path);
        if (exists && config == NULL)
            return -1;
        use_config(tokenizer, config);
        json_decref(config);
    }
    return 0;
}
