/* tokenizer_json_steps.c - normalizers, pre-tokenizers and decoders of a tokenizer.json, a row of a table each. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/tokenizer_json.h"

static int refuse_steps(const struct tokenizer *tokenizer, const char *part)
{
    return tokenizer_refuse(tokenizer, "more %ss than one text needs", part);
}

/* The text that a Replace looks for; NULL when it is no literal, logged. */
static const char *literal_pattern(const struct tokenizer *tokenizer, const json_t *step, const char *part)
{
    const json_t *pattern = json_object_get(step, "pattern");
    if (json_object_get(pattern, "Regex") != NULL) {
        tokenizer_refuse(tokenizer, "the %s kind \"Replace\" with a regular expression is not supported", part);
        return NULL;
    }
    const char *text = json_text_field(tokenizer, pattern, "String", "");
    if (text != NULL && *text == '\0') {
        tokenizer_refuse(tokenizer, "a Replace of a %s has no text to look for", part);
        return NULL;
    }
    return text;
}

/* ---- normalizers ---- */

/* Takes what the step holds. */
static int add_normalizer(struct tokenizer *tokenizer, struct normalizer_step step)
{
    return normalizer_add_step(&tokenizer->normalizer, step) != 0 ? refuse_steps(tokenizer, "normalizer") : 0;
}

#define PLAIN_NORMALIZER(name, normalizer_kind)                                    \
    static int name(struct tokenizer *tokenizer, const json_t *json)               \
    {                                                                              \
        (void)json;                                                                \
        return add_normalizer(tokenizer, (struct normalizer_step){ .kind = normalizer_kind }); \
    }
PLAIN_NORMALIZER(read_nfc, NORMALIZER_NFC)
PLAIN_NORMALIZER(read_nfd, NORMALIZER_NFD)
PLAIN_NORMALIZER(read_nfkc, NORMALIZER_NFKC)
PLAIN_NORMALIZER(read_nfkd, NORMALIZER_NFKD)
PLAIN_NORMALIZER(read_lowercase, NORMALIZER_LOWERCASE)
PLAIN_NORMALIZER(read_strip_accents, NORMALIZER_STRIP_ACCENTS)
PLAIN_NORMALIZER(read_nmt, NORMALIZER_NMT)
PLAIN_NORMALIZER(read_byte_letters, NORMALIZER_BYTE_LEVEL)

static int read_prepend(struct tokenizer *tokenizer, const json_t *json)
{
    const char *prepend = json_text_field(tokenizer, json, "prepend", "");
    if (prepend == NULL)
        return -1;
    return add_normalizer(tokenizer, (struct normalizer_step){ .kind = NORMALIZER_PREPEND, .text = memory_text(prepend) });
}

static int read_replace(struct tokenizer *tokenizer, const json_t *json)
{
    const json_t *expression = json_object_get(json_object_get(json, "pattern"), "Regex");
    const char *to = json_text_field(tokenizer, json, "content", "");
    struct normalizer_step step = { .kind = NORMALIZER_REPLACE };
    if (to == NULL)
        return -1;
    if (expression == NULL) {
        const char *from = literal_pattern(tokenizer, json, "normalizer");
        if (from == NULL)
            return -1;
        step.text = memory_text(from);
    } else {
        if (!json_is_string(expression))
            return tokenizer_refuse(tokenizer, "the \"Regex\" of a Replace is no text");
        step.regex = regex_compile(json_string_value(expression), json_string_length(expression), false, tokenizer->name);
        if (step.regex == NULL)
            return -1;
        if (regex_may_be_empty(step.regex)) {
            regex_free(step.regex);
            return tokenizer_refuse(tokenizer, "the pattern \"%.64s\" of a Replace may match nothing",
                                    json_string_value(expression));
        }
    }
    step.replacement = memory_text(to);
    return add_normalizer(tokenizer, step);
}

static int read_strip_spaces(struct tokenizer *tokenizer, const json_t *json)
{
    struct normalizer_step step = { .kind = NORMALIZER_STRIP };
    if (json_flag_field(tokenizer, json, "strip_left", true, &step.left) != 0
        || json_flag_field(tokenizer, json, "strip_right", true, &step.right) != 0)
        return -1;
    return add_normalizer(tokenizer, step);
}

/* BERT's are four steps; "strip_accents" is what "lowercase" is where it is null. */
static int read_bert_normalizer(struct tokenizer *tokenizer, const json_t *json)
{
    bool clean, chinese, accents, lowercase;
    if (json_flag_field(tokenizer, json, "clean_text", true, &clean) != 0
        || json_flag_field(tokenizer, json, "handle_chinese_chars", true, &chinese) != 0
        || json_flag_field(tokenizer, json, "lowercase", true, &lowercase) != 0
        || json_flag_field(tokenizer, json, "strip_accents", lowercase, &accents) != 0)
        return -1;
    const struct {
        bool wanted;
        enum normalizer_kind kind;
    } steps[] = {
        { clean, NORMALIZER_CLEAN }, { chinese, NORMALIZER_CHINESE }, { accents, NORMALIZER_BERT_ACCENTS },
        { lowercase, NORMALIZER_LOWERCASE },
    };
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        if (steps[i].wanted && add_normalizer(tokenizer, (struct normalizer_step){ .kind = steps[i].kind }) != 0)
            return -1;
    }
    return 0;
}

static int read_precompiled(struct tokenizer *tokenizer, const json_t *json)
{
    const json_t *text = json_object_get(json, "precompiled_charsmap");
    size_t size = json_string_length(text);
    if (!json_is_string(text))
        return tokenizer_refuse(tokenizer, "a Precompiled has no text \"precompiled_charsmap\"");
    const char *reason = "it is not base64";
    unsigned char *data = memory_alloc(size + 1, 1);
    bool decoded = sodium_base642bin(data, size + 1, json_string_value(text), size, NULL, &size, NULL,
                                     sodium_base64_VARIANT_ORIGINAL) == 0;
    struct charsmap *charsmap = decoded ? charsmap_open(data, size, &reason) : NULL;
    free(data);
    if (charsmap == NULL)
        return tokenizer_refuse(tokenizer, "the precompiled_charsmap is bad: %s", reason);
    return add_normalizer(tokenizer, (struct normalizer_step){ .kind = NORMALIZER_CHARSMAP, .charsmap = charsmap });
}

static const struct json_step_kind normalizers[] = {
    { "NFC", read_nfc }, { "NFD", read_nfd }, { "NFKC", read_nfkc }, { "NFKD", read_nfkd }, { "Prepend", read_prepend },
    { "Replace", read_replace }, { "Lowercase", read_lowercase }, { "Strip", read_strip_spaces },
    { "StripAccents", read_strip_accents }, { "Nmt", read_nmt }, { "ByteLevel", read_byte_letters },
    { "BertNormalizer", read_bert_normalizer }, { "Precompiled", read_precompiled },
};
const struct json_steps json_normalizers = { "normalizer", "normalizers", normalizers, COUNT_OF(normalizers) };

/* ---- pre-tokenizers ---- */

/* Takes what the step holds. */
static int add_pretokenizer(struct tokenizer *tokenizer, struct pretokenizer_step step)
{
    return pretokenizer_add(&tokenizer->pretokenizer, step) != 0 ? refuse_steps(tokenizer, "pre-tokenizer") : 0;
}

static int read_behavior(const struct tokenizer *tokenizer, const json_t *json, const char *fallback, enum split_behavior *out)
{
    static const char *const behaviors[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    const char *behavior = json_text_field(tokenizer, json, "behavior", fallback);
    if (behavior == NULL)
        return -1;
    size_t kind = json_name_index(behavior, behaviors, COUNT_OF(behaviors));
    if (kind == COUNT_OF(behaviors))
        return tokenizer_refuse(tokenizer, "the split behavior \"%s\" is not known", behavior);
    *out = (enum split_behavior)kind;
    return 0;
}

static int read_split(struct tokenizer *tokenizer, const json_t *json)
{
    struct pretokenizer_step step = { .kind = PRETOKENIZER_SPLIT };
    if (read_behavior(tokenizer, json, "", &step.behavior) != 0
        || json_flag_field(tokenizer, json, "invert", false, &step.invert) != 0)
        return -1;
    const json_t *pattern = json_object_get(json, "pattern"), *expression = json_object_get(pattern, "Regex"),
                 *literal = json_object_get(pattern, "String"), *text = expression != NULL ? expression : literal;
    if (!json_is_string(text))
        return tokenizer_refuse(tokenizer, "a Split has no \"pattern\"");
    step.regex = regex_compile(json_string_value(text), json_string_length(text), expression == NULL, tokenizer->name);
    return step.regex != NULL ? add_pretokenizer(tokenizer, step) : -1;
}

static int read_char_delimiter(struct tokenizer *tokenizer, const json_t *json)
{
    const char *delimiter = json_text_field(tokenizer, json, "delimiter", "");
    if (delimiter == NULL)
        return -1;
    if (*delimiter == '\0' || strlen(delimiter) != utf8_size((unsigned char)*delimiter))
        return tokenizer_refuse(tokenizer, "the delimiter \"%s\" of a CharDelimiterSplit is not one character", delimiter);
    struct pretokenizer_step step = { .kind = PRETOKENIZER_SPLIT, .behavior = SPLIT_REMOVED };
    step.regex = regex_compile(delimiter, strlen(delimiter), true, tokenizer->name);
    return step.regex != NULL ? add_pretokenizer(tokenizer, step) : -1;
}

/* "prepend_scheme", or the older "add_prefix_space". */
static int read_prepend_scheme(const struct tokenizer *tokenizer, const json_t *json, enum prepend_scheme *out)
{
    static const char *const schemes[] = { "always", "first", "never" };
    bool prefix;
    if (json_flag_field(tokenizer, json, "add_prefix_space", true, &prefix) != 0)
        return -1;
    const char *scheme = json_text_field(tokenizer, json, "prepend_scheme", prefix ? "always" : "never");
    if (scheme == NULL)
        return -1;
    size_t index = json_name_index(scheme, schemes, COUNT_OF(schemes));
    if (index == COUNT_OF(schemes))
        return tokenizer_refuse(tokenizer, "the prepend_scheme \"%s\" is not known", scheme);
    *out = (enum prepend_scheme)index;
    return 0;
}

/* The one character that stands for a space; NULL, logged. */
static const char *metaspace_mark(const struct tokenizer *tokenizer, const json_t *json)
{
    const char *mark = json_text_field(tokenizer, json, "replacement", "\xe2\x96\x81");
    if (mark != NULL && (*mark == '\0' || strlen(mark) != utf8_size((unsigned char)*mark))) {
        tokenizer_refuse(tokenizer, "the replacement \"%s\" of a Metaspace is not one character", mark);
        return NULL;
    }
    return mark;
}

static int read_metaspace(struct tokenizer *tokenizer, const json_t *json)
{
    struct pretokenizer_step step = { .kind = PRETOKENIZER_METASPACE };
    const char *mark = metaspace_mark(tokenizer, json);
    if (mark == NULL || read_prepend_scheme(tokenizer, json, &step.prepend) != 0
        || json_flag_field(tokenizer, json, "split", true, &step.split) != 0)
        return -1;
    step.replacement = memory_text(mark);
    return add_pretokenizer(tokenizer, step);
}

static int read_byte_level(struct tokenizer *tokenizer, const json_t *json)
{
    bool prefix_space, gpt2_split;
    if (json_flag_field(tokenizer, json, "add_prefix_space", true, &prefix_space) != 0
        || json_flag_field(tokenizer, json, "use_regex", true, &gpt2_split) != 0)
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

static int read_digits(struct tokenizer *tokenizer, const json_t *json)
{
    struct pretokenizer_step step = { .kind = PRETOKENIZER_DIGITS };
    return json_flag_field(tokenizer, json, "individual_digits", false, &step.split) != 0 ? -1 : add_pretokenizer(tokenizer, step);
}

static int read_spaces(struct tokenizer *tokenizer, const json_t *json)
{
    (void)json;
    return add_pretokenizer(tokenizer, (struct pretokenizer_step){ .kind = PRETOKENIZER_SPACES, .behavior = SPLIT_REMOVED });
}

static int read_words(struct tokenizer *tokenizer, const json_t *json)
{
    (void)json;
    return add_pretokenizer(tokenizer, (struct pretokenizer_step){ .kind = PRETOKENIZER_WORDS });
}

static int read_punctuation(struct tokenizer *tokenizer, const json_t *json)
{
    struct pretokenizer_step step = { .kind = PRETOKENIZER_PUNCTUATION };
    return read_behavior(tokenizer, json, "Isolated", &step.behavior) != 0 ? -1 : add_pretokenizer(tokenizer, step);
}

static int read_bert_pretokenizer(struct tokenizer *tokenizer, const json_t *json)
{
    return read_spaces(tokenizer, json) != 0 || read_punctuation(tokenizer, NULL) != 0 ? -1 : 0;
}

static const struct json_step_kind pretokenizers[] = {
    { "Split", read_split }, { "ByteLevel", read_byte_level }, { "Metaspace", read_metaspace }, { "Digits", read_digits },
    { "WhitespaceSplit", read_spaces }, { "Whitespace", read_words }, { "Punctuation", read_punctuation },
    { "BertPreTokenizer", read_bert_pretokenizer }, { "CharDelimiterSplit", read_char_delimiter },
};
const struct json_steps json_pretokenizers = { "pre-tokenizer", "pretokenizers", pretokenizers, COUNT_OF(pretokenizers) };

/* ---- decoders ---- */

/* What follows a Fuse sees the whole text: only what looks at its beginning, or at single characters, can do so here. */
static int add_decoder(struct tokenizer *tokenizer, enum decoder_kind kind, const char *text, const char *replacement, size_t count)
{
    struct decoder *decoder = &tokenizer->decoder;
    bool fused = false;
    for (size_t i = 0; i < decoder->count; i++)
        fused |= decoder->steps[i].kind == DECODER_FUSE;
    bool local = kind == DECODER_FUSE || kind == DECODER_STRIP
                 || (kind == DECODER_REPLACE && strlen(text) == utf8_size((unsigned char)*text));
    if (fused && !local)
        return tokenizer_refuse(tokenizer, "a decoder after Fuse is not supported, unless it is Strip or replaces one character");
    return decoder_add(decoder, kind, text, replacement, count) != 0 ? refuse_steps(tokenizer, "decoder") : 0;
}

static int read_byte_level_decoder(struct tokenizer *tokenizer, const json_t *json)
{
    (void)json;
    return add_decoder(tokenizer, DECODER_BYTE_LEVEL, NULL, NULL, 0);
}

static int read_byte_fallback(struct tokenizer *tokenizer, const json_t *json)
{
    (void)json;
    return add_decoder(tokenizer, DECODER_BYTE_FALLBACK, NULL, NULL, 0);
}

static int read_fuse(struct tokenizer *tokenizer, const json_t *json)
{
    (void)json;
    return add_decoder(tokenizer, DECODER_FUSE, NULL, NULL, 0);
}

static int read_strip(struct tokenizer *tokenizer, const json_t *json)
{
    const char *content = json_text_field(tokenizer, json, "content", " ");
    size_t start, stop;
    if (content == NULL || json_count_field(tokenizer, json, "start", 0, &start) != 0
        || json_count_field(tokenizer, json, "stop", 0, &stop) != 0)
        return -1;
    if (*content == '\0' || strlen(content) != utf8_size((unsigned char)*content) || stop != 0)
        return tokenizer_refuse(tokenizer, "a Strip decoder at the end, or of \"%s\", which is not one character, is not supported",
                                content);
    return add_decoder(tokenizer, DECODER_STRIP, content, NULL, start);
}

static int read_replace_decoder(struct tokenizer *tokenizer, const json_t *json)
{
    const char *from = literal_pattern(tokenizer, json, "decoder"), *to = json_text_field(tokenizer, json, "content", "");
    return from == NULL || to == NULL ? -1 : add_decoder(tokenizer, DECODER_REPLACE, from, to, 0);
}

static int read_metaspace_decoder(struct tokenizer *tokenizer, const json_t *json)
{
    enum prepend_scheme scheme;
    const char *mark = metaspace_mark(tokenizer, json);
    if (mark == NULL || read_prepend_scheme(tokenizer, json, &scheme) != 0)
        return -1;
    return add_decoder(tokenizer, DECODER_METASPACE, mark, NULL, scheme != PREPEND_NEVER);
}

static int read_wordpiece_decoder(struct tokenizer *tokenizer, const json_t *json)
{
    bool clean;
    const char *prefix = json_text_field(tokenizer, json, "prefix", "##");
    if (prefix == NULL || json_flag_field(tokenizer, json, "cleanup", true, &clean) != 0)
        return -1;
    return add_decoder(tokenizer, DECODER_WORDPIECE, prefix, NULL, clean);
}

static int read_bpe_decoder(struct tokenizer *tokenizer, const json_t *json)
{
    const char *suffix = json_text_field(tokenizer, json, "suffix", "</w>");
    if (suffix != NULL && *suffix == '\0')
        tokenizer_refuse(tokenizer, "the suffix of a BPEDecoder is empty");
    return suffix == NULL || *suffix == '\0' ? -1 : add_decoder(tokenizer, DECODER_WORD_ENDS, suffix, NULL, 0);
}

static const struct json_step_kind decoders[] = {
    { "ByteLevel", read_byte_level_decoder }, { "ByteFallback", read_byte_fallback }, { "Fuse", read_fuse },
    { "Strip", read_strip }, { "Replace", read_replace_decoder }, { "Metaspace", read_metaspace_decoder },
    { "WordPiece", read_wordpiece_decoder }, { "BPEDecoder", read_bpe_decoder },
};
const struct json_steps json_decoders = { "decoder", "decoders", decoders, COUNT_OF(decoders) };
