/*
 * tokenizer_json.c - the tokenizers library's tokenizer.json, and GPT-2's vocab.json with merges.txt.
 *
 * The file may come from anywhere: every type, id and size is checked, and what this program cannot do exactly is
 * refused by name.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/tokenizer_parts.h"

enum {
    DEPTH_MAX = 8,        // Sequences inside Sequences
    TEXT_SIZE_MAX = 256,  // bytes of what a step looks for or puts in
    GROWTH_MAX = 64,      // how much longer all replacements together may make a text
    AROUND_MAX = 16,      // tokens before or after a text
};

/* ---- fields ---- */

/* The string at key, or fallback where it is missing or null.  NULL when it is of another type or too long. */
static const char *text_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, const char *fallback)
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

static int flag_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, bool fallback, bool *out)
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

static int count_field(const struct tokenizer *tokenizer, const json_t *object, const char *key, size_t *out)
{
    const json_t *value = json_object_get(object, key);
    *out = 0;
    if (value == NULL)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > TEXT_SIZE_MAX)
        return tokenizer_refuse(tokenizer, "\"%s\" is no number in 0 .. %d", key, TEXT_SIZE_MAX);
    *out = (size_t)json_integer_value(value);
    return 0;
}

/* The "type" of a step.  NULL when it has none, logged; part is how the error calls it. */
static const char *type_of(const struct tokenizer *tokenizer, const json_t *step, const char *part)
{
    const char *type = json_string_value(json_object_get(step, "type"));
    if (type == NULL)
        tokenizer_refuse(tokenizer, "a %s has no \"type\"", part);
    return type;
}

static int refuse_kind(const struct tokenizer *tokenizer, const char *part, const char *type)
{
    return tokenizer_refuse(tokenizer, "the %s kind \"%.64s\" is not supported", part, type);
}

static int refuse_steps(const struct tokenizer *tokenizer, const char *part)
{
    return tokenizer_refuse(tokenizer, "more %ss than one text needs", part);
}

/*
 * Calls read for step, or for each step of the list at key where step is a Sequence.  A missing or null step is none.
 */
typedef int read_step(struct tokenizer *tokenizer, const json_t *step, const char *type);
static int read_steps(struct tokenizer *tokenizer, const json_t *step, const char *part, const char *key, read_step *read,
                      size_t depth)
{
    if (step == NULL || json_is_null(step))
        return 0;
    const char *type = type_of(tokenizer, step, part);
    if (type == NULL)
        return -1;
    if (strcmp(type, "Sequence") != 0)
        return read(tokenizer, step, type);
    const json_t *list = json_object_get(step, key), *item;
    if (!json_is_array(list) || depth == DEPTH_MAX)
        return tokenizer_refuse(tokenizer, "a Sequence of %ss has no list \"%s\", or lies deeper than %d", part, key, DEPTH_MAX);
    size_t i;
    json_array_foreach(list, i, item) {
        if (read_steps(tokenizer, item, part, key, read, depth + 1) != 0)
            return -1;
    }
    return 0;
}

/* ---- normalizer ---- */

/* The text that a Replace looks for; NULL when it is no literal, logged. */
static const char *literal_pattern(const struct tokenizer *tokenizer, const json_t *step, const char *part)
{
    const json_t *pattern = json_object_get(step, "pattern");
    if (json_object_get(pattern, "Regex") != NULL) {
        tokenizer_refuse(tokenizer, "the %s kind \"Replace\" with a regular expression is not supported", part);
        return NULL;
    }
    const char *text = text_field(tokenizer, pattern, "String", "");
    if (text != NULL && *text == '\0') {
        tokenizer_refuse(tokenizer, "a Replace of a %s has no text to look for", part);
        return NULL;
    }
    return text;
}

static int check_growth(const struct tokenizer *tokenizer)
{
    double growth = 1;
    for (size_t i = 0; i < tokenizer->normalizer.count; i++) {
        const struct normalizer_step *step = &tokenizer->normalizer.steps[i];
        if (step->kind == NORMALIZER_REPLACE && strlen(step->replacement) > strlen(step->text))
            growth *= (double)strlen(step->replacement) / (double)strlen(step->text);
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

static int read_normalizer(struct tokenizer *tokenizer, const json_t *step, const char *type)
{
    static const struct { const char *type; enum normalizer_kind kind; } forms[] = {
        { "NFC", NORMALIZER_NFC }, { "NFD", NORMALIZER_NFD }, { "NFKC", NORMALIZER_NFKC }, { "NFKD", NORMALIZER_NFKD },
    };
    int full;
    if (strcmp(type, "Prepend") == 0) {
        const char *prepend = text_field(tokenizer, step, "prepend", "");
        if (prepend == NULL)
            return -1;
        full = normalizer_add(&tokenizer->normalizer, NORMALIZER_PREPEND, prepend, NULL);
    } else if (strcmp(type, "Replace") == 0) {
        const char *from = literal_pattern(tokenizer, step, "normalizer"), *to = text_field(tokenizer, step, "content", "");
        if (from == NULL || to == NULL)
            return -1;
        full = normalizer_add(&tokenizer->normalizer, NORMALIZER_REPLACE, from, to);
    } else {
        size_t form = 0;
        while (form < COUNT_OF(forms) && strcmp(type, forms[form].type) != 0)
            form++;
        if (form == COUNT_OF(forms))
            return refuse_kind(tokenizer, "normalizer", type);
        full = normalizer_add(&tokenizer->normalizer, forms[form].kind, NULL, NULL);
    }
    return full != 0 ? refuse_steps(tokenizer, "normalizer") : 0;
}

/* ---- pre-tokenizer ---- */

static int read_split(struct tokenizer *tokenizer, const json_t *json, struct pretokenizer_step *step)
{
    static const char *const behaviors[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    const char *behavior = text_field(tokenizer, json, "behavior", "");
    if (behavior == NULL || flag_field(tokenizer, json, "invert", false, &step->invert) != 0)
        return -1;
    size_t kind = 0;
    while (kind < COUNT_OF(behaviors) && strcmp(behavior, behaviors[kind]) != 0)
        kind++;
    if (kind == COUNT_OF(behaviors))
        return tokenizer_refuse(tokenizer, "the split behavior \"%s\" is not known", behavior);
    step->behavior = (enum split_behavior)kind;
    const json_t *pattern = json_object_get(json, "pattern"), *expression = json_object_get(pattern, "Regex"),
                 *literal = json_object_get(pattern, "String"), *text = expression != NULL ? expression : literal;
    if (!json_is_string(text))
        return tokenizer_refuse(tokenizer, "a Split has no \"pattern\"");
    step->regex = regex_compile(json_string_value(text), json_string_length(text), expression == NULL, tokenizer->name);
    return step->regex != NULL ? 0 : -1;
}

/* "prepend_scheme", or the older "add_prefix_space". */
static int read_prepend_scheme(const struct tokenizer *tokenizer, const json_t *json, enum prepend_scheme *out)
{
    bool prefix;
    if (flag_field(tokenizer, json, "add_prefix_space", true, &prefix) != 0)
        return -1;
    const char *scheme = text_field(tokenizer, json, "prepend_scheme", prefix ? "always" : "never");
    if (scheme == NULL)
        return -1;
    *out = strcmp(scheme, "always") == 0 ? PREPEND_ALWAYS : strcmp(scheme, "first") == 0 ? PREPEND_FIRST : PREPEND_NEVER;
    if (*out == PREPEND_NEVER && strcmp(scheme, "never") != 0)
        return tokenizer_refuse(tokenizer, "the prepend_scheme \"%s\" is not known", scheme);
    return 0;
}

/* The one character that stands for a space; NULL, logged. */
static const char *metaspace_mark(const struct tokenizer *tokenizer, const json_t *json)
{
    const char *mark = text_field(tokenizer, json, "replacement", "\xe2\x96\x81");
    if (mark != NULL && (*mark == '\0' || strlen(mark) != utf8_size((unsigned char)*mark))) {
        tokenizer_refuse(tokenizer, "the replacement \"%s\" of a Metaspace is not one character", mark);
        return NULL;
    }
    return mark;
}

static int read_metaspace(struct tokenizer *tokenizer, const json_t *json, struct pretokenizer_step *step)
{
    const char *mark = metaspace_mark(tokenizer, json);
    if (mark == NULL || read_prepend_scheme(tokenizer, json, &step->prepend) != 0
        || flag_field(tokenizer, json, "split", true, &step->split) != 0)
        return -1;
    step->replacement = memory_text(mark);
    return 0;
}

static int read_byte_level(struct tokenizer *tokenizer, const json_t *json)
{
    bool prefix_space, gpt2_split;
    if (flag_field(tokenizer, json, "add_prefix_space", true, &prefix_space) != 0
        || flag_field(tokenizer, json, "use_regex", true, &gpt2_split) != 0)
        return -1;
    for (size_t i = 0; i < tokenizer->pretokenizer.count; i++) {
        if (tokenizer->pretokenizer.steps[i].kind == PRETOKENIZER_BYTE_LEVEL)
            return tokenizer_refuse(tokenizer, "more than one ByteLevel pre-tokenizer");
    }
    if (tokenizer->pretokenizer.count == PRETOKENIZER_STEPS_MAX)
        return refuse_steps(tokenizer, "pre-tokenizer");
    tokenizer_use_byte_level(tokenizer, prefix_space, gpt2_split);
    return 0;
}

static int read_pretokenizer(struct tokenizer *tokenizer, const json_t *json, const char *type)
{
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(tokenizer, json);
    struct pretokenizer_step step = { 0 };
    int bad;
    if (strcmp(type, "Split") == 0) {
        step.kind = PRETOKENIZER_SPLIT;
        bad = read_split(tokenizer, json, &step);
    } else if (strcmp(type, "Metaspace") == 0) {
        step.kind = PRETOKENIZER_METASPACE;
        bad = read_metaspace(tokenizer, json, &step);
    } else if (strcmp(type, "Digits") == 0) {
        step.kind = PRETOKENIZER_DIGITS;
        bad = flag_field(tokenizer, json, "individual_digits", false, &step.split);
    } else {
        return refuse_kind(tokenizer, "pre-tokenizer", type);
    }
    if (bad != 0)
        return -1;
    return pretokenizer_add(&tokenizer->pretokenizer, step) != 0 ? refuse_steps(tokenizer, "pre-tokenizer") : 0;
}

/* ---- model ---- */

static int read_vocabulary(struct tokenizer *tokenizer, const json_t *vocabulary)
{
    if (!json_is_object(vocabulary))
        return tokenizer_refuse(tokenizer, "the model has no object \"vocab\"");
    const char *piece;
    json_t *id;
    json_object_foreach((json_t *)(size_t)vocabulary, piece, id) {
        if (!json_is_integer(id))
            return tokenizer_refuse(tokenizer, "the id of token \"%.64s\" is no integer", piece);
        if (vocabulary_add(&tokenizer->vocabulary, json_integer_value(id), piece, strlen(piece), false, tokenizer->name) != 0)
            return -1;
    }
    return 0;
}

static int add_merge(struct tokenizer *tokenizer, const char *left, size_t left_size, const char *right, size_t right_size)
{
    int32_t a = vocabulary_find_model(&tokenizer->vocabulary, left, left_size);
    int32_t b = vocabulary_find_model(&tokenizer->vocabulary, right, right_size);
    if (bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, a, b) != 0)
        return tokenizer_refuse(tokenizer, "merge %zu, \"%.*s\" and \"%.*s\", is not two tokens that join to a third",
                                tokenizer->bpe.merge_count, (int)(left_size < 64 ? left_size : 64), left,
                                (int)(right_size < 64 ? right_size : 64), right);
    return 0;
}

/* A merge written as "left right".  Where tokens hold spaces themselves, the first reading that has tokens on both sides. */
static int add_merge_line(struct tokenizer *tokenizer, const char *line, size_t size)
{
    const char *end = line + size, *space = line;
    while ((space = memchr(space, ' ', (size_t)(end - space))) != NULL) {
        int32_t left = vocabulary_find_model(&tokenizer->vocabulary, line, (size_t)(space - line));
        int32_t right = vocabulary_find_model(&tokenizer->vocabulary, space + 1, (size_t)(end - space - 1));
        if (bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, left, right) == 0)
            return 0;
        space++;
    }
    return tokenizer_refuse(tokenizer, "merge %zu, \"%.*s\", is not two tokens that join to a third", tokenizer->bpe.merge_count,
                            (int)(size < 64 ? size : 64), line);
}

static int read_merges(struct tokenizer *tokenizer, const json_t *merges)
{
    if (!json_is_array(merges) || json_array_size(merges) > MERGES_MAX)
        return tokenizer_refuse(tokenizer, "the model has no list \"merges\" of at most %d", MERGES_MAX);
    size_t i;
    const json_t *merge;
    json_array_foreach(merges, i, merge) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        int bad;
        if (json_is_string(merge))
            bad = add_merge_line(tokenizer, json_string_value(merge), json_string_length(merge));
        else if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right))
            bad = add_merge(tokenizer, json_string_value(left), json_string_length(left), json_string_value(right),
                            json_string_length(right));
        else
            bad = tokenizer_refuse(tokenizer, "merge %zu is no pair of texts", i);
        if (bad != 0)
            return -1;
    }
    return 0;
}

static int read_model(struct tokenizer *tokenizer, const json_t *model)
{
    // Files of old have no "type"; a BPE model is the one with merges.
    const char *type = text_field(tokenizer, model, "type", json_object_get(model, "merges") != NULL ? "BPE" : "none");
    if (type == NULL)
        return -1;
    if (strcmp(type, "BPE") != 0)
        return refuse_kind(tokenizer, "model", type);
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return tokenizer_refuse(tokenizer, "the model's \"dropout\" makes ids random, which is not supported");
    const char *prefix = text_field(tokenizer, model, "continuing_subword_prefix", ""),
               *suffix = text_field(tokenizer, model, "end_of_word_suffix", ""),
               *unknown = text_field(tokenizer, model, "unk_token", "");
    if (prefix == NULL || suffix == NULL || unknown == NULL)
        return -1;
    if (*prefix != '\0' || *suffix != '\0')
        return tokenizer_refuse(tokenizer, "a model with a prefix or suffix of words, \"%s\" and \"%s\", is not supported",
                                prefix, suffix);
    struct bpe *bpe = &tokenizer->bpe;
    if (flag_field(tokenizer, model, "byte_fallback", false, &bpe->byte_fallback) != 0
        || flag_field(tokenizer, model, "fuse_unk", false, &bpe->fuse_unknown) != 0
        || flag_field(tokenizer, model, "ignore_merges", false, &bpe->ignore_merges) != 0
        || read_vocabulary(tokenizer, json_object_get(model, "vocab")) != 0
        || read_merges(tokenizer, json_object_get(model, "merges")) != 0)
        return -1;
    if (*unknown != '\0' && (bpe->unknown = vocabulary_find(&tokenizer->vocabulary, unknown, strlen(unknown))) < 0)
        return tokenizer_refuse(tokenizer, "the unk_token \"%s\" is not in the vocabulary", unknown);
    return 0;
}

/* ---- added tokens ---- */

static int read_added_token(struct tokenizer *tokenizer, const json_t *json)
{
    const json_t *id = json_object_get(json, "id"), *content = json_object_get(json, "content");
    if (!json_is_integer(id) || !json_is_string(content) || json_string_length(content) == 0)
        return tokenizer_refuse(tokenizer, "an added token has no \"id\" or no \"content\"");
    struct added_token token = { 0 };
    if (flag_field(tokenizer, json, "special", false, &token.special) != 0
        || flag_field(tokenizer, json, "normalized", !token.special, &token.normalized) != 0
        || flag_field(tokenizer, json, "single_word", false, &token.single_word) != 0
        || flag_field(tokenizer, json, "lstrip", false, &token.lstrip) != 0
        || flag_field(tokenizer, json, "rstrip", false, &token.rstrip) != 0)
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

/* "single": special tokens before and after the one sequence. */
static int read_template(struct tokenizer *tokenizer, const json_t *json)
{
    const json_t *single = json_object_get(json, "single"), *specials = json_object_get(json, "special_tokens"), *item, *id;
    bool text_seen = false;
    size_t i, k;
    json_array_foreach(single, i, item) {
        const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        if (name == NULL) {
            if (json_object_get(item, "Sequence") == NULL || text_seen)
                return tokenizer_refuse(tokenizer, "the template's \"single\" is not one sequence among special tokens");
            text_seen = true;
            continue;
        }
        const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
        if (!json_is_array(ids))
            return tokenizer_refuse(tokenizer, "the template's special token \"%.64s\" has no \"ids\"", name);
        json_array_foreach(ids, k, id) {
            if (add_around(tokenizer, text_seen ? &tokenizer->suffix : &tokenizer->prefix, id) != 0)
                return -1;
        }
    }
    if (!text_seen)
        return tokenizer_refuse(tokenizer, "the template's \"single\" has no sequence");
    return 0;
}

static int read_postprocessor(struct tokenizer *tokenizer, const json_t *json, const char *type)
{
    if (strcmp(type, "ByteLevel") == 0)
        return 0;  // moves offsets only
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(tokenizer, json);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        return add_around(tokenizer, &tokenizer->prefix, json_array_get(json_object_get(json, "cls"), 1)) != 0
               || add_around(tokenizer, &tokenizer->suffix, json_array_get(json_object_get(json, "sep"), 1)) != 0 ? -1 : 0;
    }
    return refuse_kind(tokenizer, "post-processor", type);
}

/* ---- decoder ---- */

static int read_strip(struct tokenizer *tokenizer, const json_t *json)
{
    const char *content = text_field(tokenizer, json, "content", " ");
    size_t start, stop;
    if (content == NULL || count_field(tokenizer, json, "start", &start) != 0 || count_field(tokenizer, json, "stop", &stop) != 0)
        return -1;
    if (strlen(content) != 1 || stop != 0)
        return tokenizer_refuse(tokenizer, "a Strip decoder of \"%s\" at the end, or of more than one byte, is not supported",
                                content);
    return decoder_add(&tokenizer->decoder, DECODER_STRIP, content, NULL, start) != 0 ? refuse_steps(tokenizer, "decoder") : 0;
}

static int read_decoder(struct tokenizer *tokenizer, const json_t *json, const char *type)
{
    struct decoder *decoder = &tokenizer->decoder;
    int full;
    if (strcmp(type, "ByteLevel") == 0) {
        full = decoder_add(decoder, DECODER_BYTE_LEVEL, NULL, NULL, 0);
    } else if (strcmp(type, "ByteFallback") == 0) {
        full = decoder_add(decoder, DECODER_BYTE_FALLBACK, NULL, NULL, 0);
    } else if (strcmp(type, "Fuse") == 0) {
        full = decoder_add(decoder, DECODER_FUSE, NULL, NULL, 0);
    } else if (strcmp(type, "Strip") == 0) {
        return read_strip(tokenizer, json);
    } else if (strcmp(type, "Replace") == 0) {
        const char *from = literal_pattern(tokenizer, json, "decoder"), *to = text_field(tokenizer, json, "content", "");
        if (from == NULL || to == NULL)
            return -1;
        full = decoder_add(decoder, DECODER_REPLACE, from, to, 0);
    } else if (strcmp(type, "Metaspace") == 0) {
        enum prepend_scheme scheme;
        const char *mark = metaspace_mark(tokenizer, json);
        if (mark == NULL || read_prepend_scheme(tokenizer, json, &scheme) != 0)
            return -1;
        full = decoder_add(decoder, DECODER_METASPACE, mark, NULL, scheme == PREPEND_NEVER ? 0 : SIZE_MAX);
    } else {
        return refuse_kind(tokenizer, "decoder", type);
    }
    return full != 0 ? refuse_steps(tokenizer, "decoder") : 0;
}

/* ---- whole files ---- */

struct tokenizer *tokenizer_from_json(const json_t *json, const char *name)
{
    static const struct { const char *field, *name, *list; read_step *read; } parts[] = {
        { "normalizer", "normalizer", "normalizers", read_normalizer },
        { "pre_tokenizer", "pre-tokenizer", "pretokenizers", read_pretokenizer },
        { "post_processor", "post-processor", "processors", read_postprocessor },
        { "decoder", "decoder", "decoders", read_decoder },
    };
    struct tokenizer *tokenizer = tokenizer_new(name);
    const json_t *model = json_object_get(json, "model");
    if (!json_is_object(model)) {
        tokenizer_refuse(tokenizer, "it has no \"model\"");
        goto close_tokenizer;
    }
    if (read_model(tokenizer, model) != 0 || read_added(tokenizer, json_object_get(json, "added_tokens")) != 0)
        goto close_tokenizer;
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        const json_t *step = json_object_get(json, parts[i].field);
        if (read_steps(tokenizer, step, parts[i].name, parts[i].list, parts[i].read, 0) != 0)
            goto close_tokenizer;
    }
    if (check_growth(tokenizer) != 0)
        goto close_tokenizer;
    if (tokenizer->decoder.count == 0) {
        tokenizer_refuse(tokenizer, "it has no decoder");
        goto close_tokenizer;
    }
    return tokenizer;

close_tokenizer:
    tokenizer_close(tokenizer);
    return NULL;
}

struct tokenizer *tokenizer_from_merges(const json_t *vocabulary, const char *merges, size_t size, const char *name)
{
    static const char end_of_text[] = "<|endoftext|>";
    struct tokenizer *tokenizer = tokenizer_new(name);
    if (read_vocabulary(tokenizer, vocabulary) != 0)
        goto close_tokenizer;
    for (size_t at = 0; at < size;) {
        const char *newline = memchr(merges + at, '\n', size - at);
        size_t end = newline != NULL ? (size_t)(newline - merges) : size;
        size_t line = end > at && merges[end - 1] == '\r' ? end - at - 1 : end - at;
        bool version = at == 0 && line >= 8 && memcmp(merges, "#version", 8) == 0;
        if (line > 0 && !version && add_merge_line(tokenizer, merges + at, line) != 0)
            goto close_tokenizer;
        at = end + 1;
    }
    tokenizer_use_byte_level(tokenizer, false, true);
    decoder_add(&tokenizer->decoder, DECODER_BYTE_LEVEL, NULL, NULL, 0);
    int32_t end = vocabulary_find(&tokenizer->vocabulary, end_of_text, strlen(end_of_text));
    if (end >= 0)
        added_add(&tokenizer->added, (struct added_token){ .id = end, .special = true });
    tokenizer->begin = tokenizer->end = end;
    return tokenizer;

close_tokenizer:
    tokenizer_close(tokenizer);
    return NULL;
}
