/*
 * tokenizer_json.c - the tokenizers library's tokenizer.json.
 *
 *     added_tokens, normalizer, pre_tokenizer, model, post_processor, decoder
 *
 * "truncation" and "padding" are not read: they say how a batch was shaped where the file was saved, and a caller here has
 * limits of its own.
 *
 * The file may come from anywhere: every type, id and size is checked, and what this program cannot do exactly is
 * refused by name.
 */
#include "text/tokenizer_json.h"

#include <inttypes.h>
#include <string.h>

#include "base/check.h"

enum {
    GROWTH_MAX = 256,  // how much longer all replacements together may make a text
    AROUND_MAX = 16,   // tokens before, between or after texts
};

/* ---- fields ---- */

const char *json_text_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, const char *fallback)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value))
        return fallback;
    if (!json_is_string(value) || json_string_length(value) > TEXT_SIZE_MAX
        || strlen(json_string_value(value)) != json_string_length(value)) {
        tokenizer_refuse(tokenizer, "\"%s\" is no text of at most %d bytes", key, TEXT_SIZE_MAX);
        return NULL;
    }
    return json_string_value(value);
}

int json_flag_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, bool fallback, bool *out)
{
    const json_t *value = json_object_get(object, key);
    *out = fallback;
    if (value == NULL || json_is_null(value))
        return 0;
    if (!json_is_boolean(value))
        return tokenizer_refuse(tokenizer, "\"%s\" is neither true nor false", key);
    *out = json_is_true(value);
    return 0;
}

int json_count_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, size_t fallback, size_t *out)
{
    const json_t *value = json_object_get(object, key);
    *out = fallback;
    if (value == NULL)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > NUMBER_MAX)
        return tokenizer_refuse(tokenizer, "\"%s\" is no number in 0 .. %d", key, NUMBER_MAX);
    *out = (size_t)json_integer_value(value);
    return 0;
}

size_t json_name_index(const char *name, const char *const *names, size_t count)
{
    size_t i = 0;
    while (i < count && strcmp(name, names[i]) != 0)
        i++;
    return i;
}

int json_refuse_kind(const struct tokenizer *tokenizer, const char *part, const char *type)
{
    return tokenizer_refuse(tokenizer, "the %s kind \"%.64s\" is not supported", part, type);
}

/* Reads step, or each step of the list where it is a Sequence; a missing or null one is none.  depth: of Sequences around it. */
static int json_read_steps(struct tokenizer *tokenizer, const json_t *step, const struct json_steps *steps, size_t depth)
{
    if (step == NULL || json_is_null(step))
        return 0;
    const char *type = json_string_value(json_object_get(step, "type"));
    if (type == NULL)
        return tokenizer_refuse(tokenizer, "a %s has no \"type\"", steps->part);
    if (strcmp(type, "Sequence") != 0) {
        size_t kind = 0;
        while (kind < steps->kind_count && strcmp(type, steps->kinds[kind].type) != 0)
            kind++;
        return kind < steps->kind_count ? steps->kinds[kind].read(tokenizer, step) : json_refuse_kind(tokenizer, steps->part, type);
    }
    const json_t *list = json_object_get(step, steps->list_key), *item;
    if (!json_is_array(list) || depth == DEPTH_MAX)
        return tokenizer_refuse(tokenizer, "a Sequence of %ss has no list \"%s\", or lies deeper than %d", steps->part,
                                steps->list_key, DEPTH_MAX);
    size_t i;
    json_array_foreach(list, i, item) {
        if (json_read_steps(tokenizer, item, steps, depth + 1) != 0)
            return -1;
    }
    return 0;
}

/* ---- added tokens ---- */

static int read_added_token(struct tokenizer *tokenizer, const json_t *json)
{
    const json_t *id = json_object_get(json, "id"), *content = json_object_get(json, "content");
    if (!json_is_integer(id) || !json_is_string(content) || json_string_length(content) == 0)
        return tokenizer_refuse(tokenizer, "an added token has no \"id\" or no \"content\"");
    struct added_token token = { 0 };
    if (json_flag_field(tokenizer, json, "special", false, &token.special) != 0
        || json_flag_field(tokenizer, json, "normalized", !token.special, &token.normalized) != 0
        || json_flag_field(tokenizer, json, "single_word", false, &token.single_word) != 0
        || json_flag_field(tokenizer, json, "lstrip", false, &token.lstrip) != 0
        || json_flag_field(tokenizer, json, "rstrip", false, &token.rstrip) != 0)
        return -1;
    const char *text = json_string_value(content);
    size_t size = json_string_length(content);
    int32_t known = vocabulary_find(&tokenizer->vocabulary, text, size);
    if (known >= 0 && known != json_integer_value(id))
        return tokenizer_refuse(tokenizer, "added token \"%.64s\" has id %lld, but %" PRId32 " in the vocabulary", text,
                                (long long)json_integer_value(id), known);
    if (known < 0 && vocabulary_add(&tokenizer->vocabulary, json_integer_value(id), text, size, true, tokenizer->name) != 0)
        return -1;
    token.id = (int32_t)json_integer_value(id);
    added_add(&tokenizer->added, token);
    return 0;
}

static int read_added(struct tokenizer *tokenizer, const json_t *list)
{
    size_t i;
    const json_t *json;
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return tokenizer_refuse(tokenizer, "\"added_tokens\" is no list");
    json_array_foreach(list, i, json) {
        if (read_added_token(tokenizer, json) != 0)
            return -1;
    }
    return 0;
}

/* ---- post-processor ---- */

static int add_around(struct tokenizer *tokenizer, struct token_list *list, const json_t *id)
{
    if (!json_is_integer(id) || !vocabulary_has(&tokenizer->vocabulary, json_integer_value(id)) || list->count == AROUND_MAX)
        return tokenizer_refuse(tokenizer, "the post-processor adds a token that is not in the vocabulary, or more than %d",
                                AROUND_MAX);
    token_list_add(list, (int32_t)json_integer_value(id));
    return 0;
}

/* A template: what stands before, between and after its texts. */
struct around {
    struct token_list *tokens;
    int32_t *type;
};

static int add_special(struct tokenizer *tokenizer, const json_t *json, const char *name, size_t type, struct around around)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(json, "special_tokens"), name), "ids"), *id;
    size_t i;
    if (!json_is_array(ids))
        return tokenizer_refuse(tokenizer, "the template's special token \"%.64s\" has no \"ids\"", name);
    if (around.tokens->count > 0 && *around.type != (int32_t)type)
        return tokenizer_refuse(tokenizer, "the template's neighbouring special tokens have types %d and %zu", *around.type, type);
    *around.type = (int32_t)type;
    json_array_foreach(ids, i, id) {
        if (add_around(tokenizer, around.tokens, id) != 0)
            return -1;
    }
    return 0;
}

/* The list at key: special tokens among the texts "A", or "A" and "B"; around has one more than there are texts. */
static int read_pieces(struct tokenizer *tokenizer, const json_t *json, const char *key, const char *texts,
                       const struct around *around, int32_t *text_types)
{
    const json_t *item;
    size_t i, seen = 0, type;
    json_array_foreach(json_object_get(json, key), i, item) {
        const json_t *special = json_object_get(item, "SpecialToken"), *text = json_object_get(item, "Sequence");
        const char *name = json_string_value(json_object_get(special != NULL ? special : text, "id"));
        if (json_count_field(tokenizer, special != NULL ? special : text, "type_id", 0, &type) != 0)
            return -1;
        if (special != NULL && name != NULL) {
            if (add_special(tokenizer, json, name, type, around[seen]) != 0)
                return -1;
        } else if (name != NULL && texts[seen] != '\0' && name[0] == texts[seen] && name[1] == '\0') {
            text_types[seen++] = (int32_t)type;
        } else {
            return tokenizer_refuse(tokenizer, "the template's \"%s\" is not the texts %s in order among special tokens", key,
                                    texts);
        }
    }
    if (texts[seen] != '\0')
        return tokenizer_refuse(tokenizer, "the template's \"%s\" lacks the text %c", key, texts[seen]);
    return 0;
}

static int refuse_second(const struct tokenizer *tokenizer)
{
    return tokenizer_refuse(tokenizer, "more than one post-processor that adds tokens");
}

static int read_template(struct tokenizer *tokenizer, const json_t *json)
{
    struct pair_rule *pair = &tokenizer->pair;
    int32_t single_types[3];
    const struct around single[] = {
        { &tokenizer->prefix, &single_types[0] }, { &tokenizer->suffix, &single_types[1] },
    };
    const struct around both[] = {
        { &pair->prefix, &pair->prefix_type }, { &pair->middle, &pair->middle_type }, { &pair->suffix, &pair->suffix_type },
    };
    int32_t text_types[2];
    if (tokenizer->prefix.count + tokenizer->suffix.count > 0 || pair->present)
        return refuse_second(tokenizer);
    if (read_pieces(tokenizer, json, "single", "A", single, &single_types[2]) != 0)
        return -1;
    if (json_array_size(json_object_get(json, "pair")) == 0)
        return 0;
    if (read_pieces(tokenizer, json, "pair", "AB", both, text_types) != 0)
        return -1;
    pair->first_type = text_types[0];
    pair->second_type = text_types[1];
    pair->present = true;
    return 0;
}

/* "<cls> a <sep>", and of two texts "<cls> a <sep> b <sep>" (BERT) or "<cls> a <sep> <sep> b <sep>", all of type 0 (RoBERTa). */
static int read_cls_and_sep(struct tokenizer *tokenizer, const json_t *json, bool roberta)
{
    struct pair_rule *pair = &tokenizer->pair;
    const json_t *cls = json_array_get(json_object_get(json, "cls"), 1), *sep = json_array_get(json_object_get(json, "sep"), 1);
    const struct {
        struct token_list *list;
        const json_t *id;
    } parts[] = {
        { &tokenizer->prefix, cls }, { &tokenizer->suffix, sep }, { &pair->prefix, cls }, { &pair->middle, sep },
        { &pair->suffix, sep }, { &pair->middle, sep },
    };
    if (tokenizer->prefix.count + tokenizer->suffix.count > 0 || pair->present)
        return refuse_second(tokenizer);
    for (size_t i = 0; i < (roberta ? 6 : 5); i++) {
        if (add_around(tokenizer, parts[i].list, parts[i].id) != 0)
            return -1;
    }
    pair->second_type = pair->suffix_type = !roberta;
    pair->present = true;
    return 0;
}

static int read_bert_processing(struct tokenizer *tokenizer, const json_t *json)
{
    return read_cls_and_sep(tokenizer, json, false);
}

static int read_roberta_processing(struct tokenizer *tokenizer, const json_t *json)
{
    return read_cls_and_sep(tokenizer, json, true);
}

static int read_offsets(struct tokenizer *tokenizer, const json_t *json)
{
    (void)tokenizer;
    (void)json;
    return 0;  // ByteLevel moves offsets only
}

static const struct json_step_kind postprocessors[] = {
    { "ByteLevel", read_offsets }, { "TemplateProcessing", read_template }, { "RobertaProcessing", read_roberta_processing },
    { "BertProcessing", read_bert_processing },
};
const struct json_steps json_postprocessors = { "post-processor", "processors", postprocessors, COUNT_OF(postprocessors) };

/* ---- whole files ---- */

static double step_growth(const struct normalizer_step *step)
{
    if (step->kind == NORMALIZER_CHARSMAP)
        return (double)charsmap_form_max(step->charsmap);
    if (step->kind != NORMALIZER_REPLACE)
        return 1;
    return (double)strlen(step->replacement) / (step->regex != NULL ? 1 : (double)strlen(step->text));
}

static int check_growth(const struct tokenizer *tokenizer)
{
    double growth = 1;
    for (size_t i = 0; i < tokenizer->normalizer.count; i++) {
        double step = step_growth(&tokenizer->normalizer.steps[i]);
        growth *= step > 1 ? step : 1;
    }
    for (size_t i = 0; i < tokenizer->decoder.count; i++) {
        const struct decoder_step *step = &tokenizer->decoder.steps[i];
        if (step->kind == DECODER_REPLACE && strlen(step->replacement) > strlen(step->text))
            growth *= (double)strlen(step->replacement) / (double)strlen(step->text);
    }
    if (growth > GROWTH_MAX)
        return tokenizer_refuse(tokenizer, "its replacements make a text %g times longer, limit %d", growth, GROWTH_MAX);
    return 0;
}

struct tokenizer *tokenizer_from_json(const json_t *json, const char *name)
{
    static const struct {
        const char *field;
        const struct json_steps *steps;
    } parts[] = {
        { "normalizer", &json_normalizers }, { "pre_tokenizer", &json_pretokenizers },
        { "post_processor", &json_postprocessors }, { "decoder", &json_decoders },
    };
    struct tokenizer *tokenizer = tokenizer_new(name);
    const json_t *model = json_object_get(json, "model");
    if (!json_is_object(model)) {
        tokenizer_refuse(tokenizer, "it has no \"model\"");
        goto close_tokenizer;
    }
    if (json_read_model(tokenizer, model) != 0 || read_added(tokenizer, json_object_get(json, "added_tokens")) != 0)
        goto close_tokenizer;
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        if (json_read_steps(tokenizer, json_object_get(json, parts[i].field), parts[i].steps, 0) != 0)
            goto close_tokenizer;
    }
    if (check_growth(tokenizer) != 0)
        goto close_tokenizer;
    return tokenizer;

close_tokenizer:
    tokenizer_close(tokenizer);
    return NULL;
}
