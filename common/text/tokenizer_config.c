/*
 * tokenizer_config.c - what stands beside a tokenizer's own file: which tokens begin and end a text, and what that file leaves
 * open.
 *
 *     tokenizer_config.json, special_tokens_map.json   bos_token, eos_token (a text, or an object with "content");
 *                                                      add_bos_token, add_eos_token
 *     generation_config.json, config.json              bos_token_id, eos_token_id (a number, or a list of them)
 *     tokenizer_config.json                            added_tokens_decoder; do_lower_case, tokenizer_class; chat_template; what
 *                                                    overrides tokenizer.json, see tokenizer_override
 *     config.json                                      model_type
 *
 * The first file that names one decides begin and end; the end tokens of all of them stop sampling.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"
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

/*
 * "added_tokens_decoder": tokens by id that the tokenizer's own file need not have; one that the file contradicts is left
 * out.  0, or -1 when the table is no such thing, logged.
 */
static int use_added(struct tokenizer *tokenizer, const json_t *table)
{
    const char *key;
    json_t *json;
    json_object_foreach((json_t *)(size_t)table, key, json) {
        const json_t *content = json_object_get(json, "content");
        char *end;
        long id = strtol(key, &end, 10);
        bool is_id = *key >= '0' && *key <= '9' && *end == '\0' && id < VOCABULARY_SIZE_MAX;
        if (!is_id || json_string_length(content) == 0)
            return tokenizer_refuse(tokenizer, "added_tokens_decoder: \"%.64s\" is no id below %d with \"content\"", key,
                                    VOCABULARY_SIZE_MAX);
        const char *text = json_string_value(content);
        size_t size = json_string_length(content);
        int32_t known = vocabulary_find(&tokenizer->vocabulary, text, size);
        if (known != id && (known >= 0 || vocabulary_has(&tokenizer->vocabulary, id)))
            continue;
        if (known < 0 && vocabulary_add(&tokenizer->vocabulary, id, text, size, true, tokenizer->name) != 0)
            return -1;
        added_add(&tokenizer->added, (struct added_token){
            .id = (int32_t)id, .special = json_is_true(json_object_get(json, "special")),
            .normalized = json_is_true(json_object_get(json, "normalized")),
            .single_word = json_is_true(json_object_get(json, "single_word")),
            .lstrip = json_is_true(json_object_get(json, "lstrip")), .rstrip = json_is_true(json_object_get(json, "rstrip")),
        });
    }
    return 0;
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

/* DIRECTORY/FILE, or NULL where it is not there.  -1 when it is bad, logged. */
static int read_beside(const char *directory, const char *file, json_t **config)
{
    char *path = memory_printf("%s/%s", directory, file);
    bool exists = file_exists(path);
    *config = exists ? read_config(path) : NULL;
    free(path);
    return exists && *config == NULL ? -1 : 0;
}

static bool text_begins(const json_t *text, const char *beginning)
{
    return json_is_string(text) && strncasecmp(json_string_value(text), beginning, strlen(beginning)) == 0;
}

int tokenizer_read_hints(struct tokenizer_hints *hints, const char *directory)
{
    json_t *config, *model;
    *hints = (struct tokenizer_hints){ .lowercase = true };
    if (read_beside(directory, "tokenizer_config.json", &config) != 0)
        return -1;
    if (read_beside(directory, "config.json", &model) != 0) {
        json_decref(config);
        return -1;
    }
    hints->lowercase = !json_is_false(json_object_get(config, "do_lower_case"));
    hints->roberta = text_begins(json_object_get(config, "tokenizer_class"), "roberta")
                     || text_begins(json_object_get(model, "model_type"), "roberta");
    json_decref(config);
    json_decref(model);
    return 0;
}

int tokenizer_override(json_t *json, const char *directory)
{
    static const struct { const char *classes[2], *part, *type, *field, *key; } overrides[] = {
        { { "BertTokenizer", "ElectraTokenizer" }, "normalizer", "BertNormalizer", "lowercase", "do_lower_case" },
        { { "BertTokenizer", "ElectraTokenizer" }, "normalizer", "BertNormalizer", "strip_accents", "strip_accents" },
        { { "BertTokenizer", "ElectraTokenizer" }, "normalizer", "BertNormalizer", "handle_chinese_chars",
          "tokenize_chinese_chars" },
        { { "GPT2Tokenizer", "GPT2Tokenizer" }, "pre_tokenizer", "ByteLevel", "add_prefix_space", "add_prefix_space" },
    };
    json_t *config;
    if (read_beside(directory, "tokenizer_config.json", &config) != 0)
        return -1;
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    for (size_t i = 0; i < COUNT_OF(overrides) && class != NULL; i++) {
        json_t *part = json_object_get(json, overrides[i].part), *value = json_object_get(config, overrides[i].key);
        const char *type = json_string_value(json_object_get(part, "type"));
        // within the name: DistilBertTokenizer, BertTokenizerFast
        bool of_class = strstr(class, overrides[i].classes[0]) != NULL || strstr(class, overrides[i].classes[1]) != NULL;
        if (of_class && type != NULL && strcmp(type, overrides[i].type) == 0 && json_is_boolean(value))
            json_object_set(part, overrides[i].field, value);
    }
    json_decref(config);
    return 0;
}

int tokenizer_use_template(struct tokenizer *tokenizer, const char *text, size_t size)
{
    if (!utf8_is_valid(text, size))
        return tokenizer_refuse(tokenizer, "its chat template is no UTF-8 or holds NUL");
    json_decref(tokenizer->chat_template);
    tokenizer->chat_template = json_stringn_nocheck(text, size);
    return 0;
}

int tokenizer_read_template(struct tokenizer *tokenizer, const char *directory)
{
    size_t size;
    char *path = memory_printf("%s/chat_template.jinja", directory);
    bool alone = file_exists(path);
    char *text = alone ? file_read(path, &size) : NULL;
    free(path);
    if (alone) {
        int status = text != NULL ? tokenizer_use_template(tokenizer, text, size) : -1;
        free(text);
        return status;
    }
    json_t *config, *template;
    if (read_beside(directory, "tokenizer_config.json", &config) != 0)
        return -1;
    template = json_object_get(config, "chat_template");
    if (json_is_string(template) || json_is_array(template)) {
        json_decref(tokenizer->chat_template);
        tokenizer->chat_template = json_incref(template);
    }
    json_decref(config);
    return 0;
}

int tokenizer_read_configs(struct tokenizer *tokenizer, const char *directory)
{
    static const char *const files[] = {
        "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json",
    };
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        json_t *config;
        if (read_beside(directory, files[i], &config) != 0)
            return -1;
        int bad = use_added(tokenizer, json_object_get(config, "added_tokens_decoder"));
        use_config(tokenizer, config);
        json_decref(config);
        if (bad)
            return -1;
    }
    return tokenizer_read_template(tokenizer, directory);
}
