/*
 * tokenizer_write.c - a tokenizer as tokenizer.json and tokenizer_config.json.
 *
 * What is read back has the same key and gives the same ids, here and in the tokenizers library.
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "text/tokenizer_parts.h"

static json_t *piece_json(struct piece piece)
{
    return json_stringn(piece.at, piece.size);
}

/* Several steps become a Sequence, none null. */
static json_t *sequence(json_t *steps, const char *key)
{
    size_t count = json_array_size(steps);
    json_t *result = count == 0 ? json_null() : count == 1 ? json_incref(json_array_get(steps, 0))
                                              : json_pack("{s:s, s:O}", "type", "Sequence", key, steps);
    json_decref(steps);
    return result;
}

static json_t *added_json(const struct tokenizer *tokenizer)
{
    json_t *list = json_array();
    for (size_t i = 0; i < tokenizer->added.count; i++) {
        const struct added_token *token = &tokenizer->added.tokens[i];
        json_array_append_new(list, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", token->id, "content",
                                              piece_json(tokenizer->vocabulary.pieces[token->id]), "single_word",
                                              token->single_word, "lstrip", token->lstrip, "rstrip", token->rstrip,
                                              "normalized", token->normalized, "special", token->special));
    }
    return list;
}

static json_t *replace_json(const char *text, const char *replacement)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", text, "content", replacement);
}

static json_t *byte_level_json(bool prefix_space, bool gpt2_split)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", true,
                     "use_regex", gpt2_split);
}

static json_t *normalizer_json(const struct normalizer *normalizer)
{
    static const char *const names[] = {
        [NORMALIZER_NFC] = "NFC", [NORMALIZER_NFD] = "NFD", [NORMALIZER_NFKC] = "NFKC", [NORMALIZER_NFKD] = "NFKD",
    };
    json_t *steps = json_array();
    for (size_t i = 0; i < normalizer->count; i++) {
        const struct normalizer_step *step = &normalizer->steps[i];
        json_t *json;
        if (step->kind == NORMALIZER_PREPEND)
            json = json_pack("{s:s, s:s}", "type", "Prepend", "prepend", step->text);
        else if (step->kind == NORMALIZER_REPLACE)
            json = replace_json(step->text, step->replacement);
        else
            json = json_pack("{s:s}", "type", names[step->kind]);
        json_array_append_new(steps, json);
    }
    return sequence(steps, "normalizers");
}

static json_t *pretokenizer_json(const struct pretokenizer *pretokenizer)
{
    static const char *const behaviors[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    static const char *const schemes[] = { "always", "first", "never" };
    json_t *steps = json_array(), *json = NULL;
    for (size_t i = 0; i < pretokenizer->count; i++) {
        const struct pretokenizer_step *step = &pretokenizer->steps[i];
        switch (step->kind) {
        case PRETOKENIZER_SPLIT:
            json = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                             regex_is_literal(step->regex) ? "String" : "Regex", regex_pattern(step->regex), "behavior",
                             behaviors[step->behavior], "invert", step->invert);
            break;
        case PRETOKENIZER_BYTE_LEVEL:
            json = byte_level_json(step->prefix_space, step->regex != NULL);
            break;
        case PRETOKENIZER_METASPACE:
            json = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", step->replacement, "prepend_scheme",
                             schemes[step->prepend], "split", step->split);
            break;
        case PRETOKENIZER_DIGITS:
            json = json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", step->split);
            break;
        }
        json_array_append_new(steps, json);
    }
    return sequence(steps, "pretokenizers");
}

static json_t *decoder_json(const struct decoder *decoder)
{
    json_t *steps = json_array(), *json = NULL;
    for (size_t i = 0; i < decoder->count; i++) {
        const struct decoder_step *step = &decoder->steps[i];
        switch (step->kind) {
        case DECODER_BYTE_LEVEL: json = byte_level_json(true, true); break;
        case DECODER_REPLACE: json = replace_json(step->text, step->replacement); break;
        case DECODER_BYTE_FALLBACK: json = json_pack("{s:s}", "type", "ByteFallback"); break;
        case DECODER_FUSE: json = json_pack("{s:s}", "type", "Fuse"); break;
        case DECODER_STRIP:
            json = json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", step->text, "start", (int)step->count, "stop", 0);
            break;
        case DECODER_METASPACE:
            json = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", step->text, "prepend_scheme",
                             step->count > 0 ? "always" : "never", "split", true);
            break;
        }
        json_array_append_new(steps, json);
    }
    return sequence(steps, "decoders");
}

static void template_tokens(const struct tokenizer *tokenizer, const struct token_list *tokens, json_t *single, json_t *specials)
{
    for (size_t i = 0; i < tokens->count; i++) {
        struct piece piece = tokenizer->vocabulary.pieces[tokens->at[i]];
        json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", piece.at, "type_id", 0));
        json_object_set_new(specials, piece.at,
                            json_pack("{s:s, s:[i], s:[s]}", "id", piece.at, "ids", tokens->at[i], "tokens", piece.at));
    }
}

/* The library wants a template for pairs as well: the one text after the other. */
static json_t *template_json(const struct tokenizer *tokenizer)
{
    if (tokenizer->prefix.count + tokenizer->suffix.count == 0)
        return json_null();
    json_t *single = json_array(), *specials = json_object();
    template_tokens(tokenizer, &tokenizer->prefix, single, specials);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    template_tokens(tokenizer, &tokenizer->suffix, single, specials);
    json_t *pair = json_copy(single);
    for (size_t i = 0; i < json_array_size(single); i++) {
        json_t *item = json_array_get(single, i);
        json_array_append_new(pair, json_object_get(item, "Sequence") != NULL
                                        ? json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 0)
                                        : json_incref(item));
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens",
                     specials);
}

static json_t *merges_json(const struct tokenizer *tokenizer)
{
    const struct bpe *bpe = &tokenizer->bpe;
    const struct piece *pieces = tokenizer->vocabulary.pieces;
    bool spaces = false;  // "left right" is read by every version of the library, but not where a token holds a space
    for (size_t i = 0; i < bpe->merge_count; i++)
        spaces |= memchr(pieces[bpe->merges[i].result].at, ' ', pieces[bpe->merges[i].result].size) != NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < bpe->merge_count; i++) {
        struct piece left = pieces[bpe->merges[i].left], right = pieces[bpe->merges[i].right];
        json_array_append_new(list, spaces ? json_pack("[o, o]", piece_json(left), piece_json(right))
                                           : json_pack("s%++%", left.at, (size_t)left.size, " ", right.at, (size_t)right.size));
    }
    return list;
}

static json_t *model_json(const struct tokenizer *tokenizer)
{
    const struct bpe *bpe = &tokenizer->bpe;
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    json_t *pieces = json_object();
    for (size_t id = 0; id < vocabulary->count; id++) {
        struct piece piece = vocabulary->pieces[id];
        if (piece.at != NULL && !piece.added_only)
            json_object_set_new(pieces, piece.at, json_integer((json_int_t)id));
    }
    return json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                     bpe->unknown >= 0 ? piece_json(vocabulary->pieces[bpe->unknown]) : json_null(), "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", bpe->fuse_unknown, "byte_fallback", bpe->byte_fallback, "ignore_merges",
                     bpe->ignore_merges, "vocab", pieces, "merges", merges_json(tokenizer));
}

static json_t *config_json(const struct tokenizer *tokenizer)
{
    const struct piece *pieces = tokenizer->vocabulary.pieces;
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", false);
    if (tokenizer->begin >= 0)
        json_object_set_new(config, "bos_token", piece_json(pieces[tokenizer->begin]));
    if (tokenizer->end >= 0)
        json_object_set_new(config, "eos_token", piece_json(pieces[tokenizer->end]));
    if (tokenizer->bpe.unknown >= 0)
        json_object_set_new(config, "unk_token", piece_json(pieces[tokenizer->bpe.unknown]));
    return config;
}

/* Takes json. */
static int write_json(json_t *json, const char *directory, const char *file)
{
    char *text = json != NULL ? json_dumps(json, JSON_INDENT(1)) : NULL;
    json_decref(json);
    if (text == NULL) {
        log_error("out of memory: could not print \"%s\"", file);
        return -1;
    }
    char *path = memory_printf("%s/%s", directory, file);
    int result = file_write(path, text, strlen(text));
    free(path);
    free(text);
    return result;
}

json_t *tokenizer_to_json(const struct tokenizer *tokenizer)
{
    return json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", added_json(tokenizer), "normalizer", normalizer_json(&tokenizer->normalizer),
                     "pre_tokenizer", pretokenizer_json(&tokenizer->pretokenizer), "post_processor", template_json(tokenizer),
                     "decoder", decoder_json(&tokenizer->decoder), "model", model_json(tokenizer));
}

int tokenizer_write(const struct tokenizer *tokenizer, const char *directory)
{
    if (directory_make(directory) != 0 || write_json(tokenizer_to_json(tokenizer), directory, "tokenizer.json") != 0)
        return -1;
    return write_json(config_json(tokenizer), directory, "tokenizer_config.json");
}
