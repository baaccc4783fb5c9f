/*
 * tokenizer_write.c - a tokenizer as tokenizer.json, tokenizer_config.json and, for its stops, generation_config.json.
 *
 * What is read back has the same key and gives the same ids, here and in the tokenizers library.
 */
#include <sodium.h>
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

/* kind: "String" or "Regex". */
static json_t *replace_json(const char *kind, const char *text, const char *replacement)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", kind, text, "content", replacement);
}

static json_t *byte_level_json(bool prefix_space, bool gpt2_split)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", true,
                     "use_regex", gpt2_split);
}

/* One flag of BERT's normalizer. */
static json_t *bert_json(bool clean, bool chinese, bool accents)
{
    return json_pack("{s:s, s:b, s:b, s:b, s:b}", "type", "BertNormalizer", "clean_text", clean, "handle_chinese_chars", chinese,
                     "strip_accents", accents, "lowercase", false);
}

static json_t *charsmap_json(const struct charsmap *charsmap)
{
    size_t size;
    const void *data = charsmap_data(charsmap, &size);
    size_t text_size = sodium_base64_encoded_len(size, sodium_base64_VARIANT_ORIGINAL);
    char *text = memory_alloc(text_size, 1);
    sodium_bin2base64(text, text_size, data, size, sodium_base64_VARIANT_ORIGINAL);
    json_t *json = json_pack("{s:s, s:s}", "type", "Precompiled", "precompiled_charsmap", text);
    free(text);
    return json;
}

static json_t *normalizer_step_json(const struct normalizer_step *step)
{
    static const char *const names[] = {
        [NORMALIZER_NFC] = "NFC", [NORMALIZER_NFD] = "NFD", [NORMALIZER_NFKC] = "NFKC", [NORMALIZER_NFKD] = "NFKD",
        [NORMALIZER_LOWERCASE] = "Lowercase", [NORMALIZER_STRIP_ACCENTS] = "StripAccents", [NORMALIZER_NMT] = "Nmt",
        [NORMALIZER_BYTE_LEVEL] = "ByteLevel",
    };
    switch (step->kind) {
    case NORMALIZER_PREPEND: return json_pack("{s:s, s:s}", "type", "Prepend", "prepend", step->text);
    case NORMALIZER_REPLACE:
        return step->regex == NULL ? replace_json("String", step->text, step->replacement)
                                   : replace_json("Regex", regex_pattern(step->regex), step->replacement);
    case NORMALIZER_STRIP:
        return json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", step->left, "strip_right", step->right);
    case NORMALIZER_CHARSMAP: return charsmap_json(step->charsmap);
    case NORMALIZER_CLEAN: return bert_json(true, false, false);
    case NORMALIZER_CHINESE: return bert_json(false, true, false);
    case NORMALIZER_BERT_ACCENTS: return bert_json(false, false, true);
    default: return json_pack("{s:s}", "type", names[step->kind]);
    }
}

static json_t *normalizer_json(const struct normalizer *normalizer)
{
    json_t *steps = json_array();
    for (size_t i = 0; i < normalizer->count; i++)
        json_array_append_new(steps, normalizer_step_json(&normalizer->steps[i]));
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
        case PRETOKENIZER_SPACES: json = json_pack("{s:s}", "type", "WhitespaceSplit"); break;
        case PRETOKENIZER_WORDS: json = json_pack("{s:s}", "type", "Whitespace"); break;
        case PRETOKENIZER_PUNCTUATION:
            json = json_pack("{s:s, s:s}", "type", "Punctuation", "behavior", behaviors[step->behavior]);
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
        case DECODER_REPLACE: json = replace_json("String", step->text, step->replacement); break;
        case DECODER_BYTE_FALLBACK: json = json_pack("{s:s}", "type", "ByteFallback"); break;
        case DECODER_FUSE: json = json_pack("{s:s}", "type", "Fuse"); break;
        case DECODER_STRIP:
            json = json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", step->text, "start", (int)step->count, "stop", 0);
            break;
        case DECODER_METASPACE:
            json = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", step->text, "prepend_scheme",
                             step->count > 0 ? "always" : "never", "split", true);
            break;
        case DECODER_WORDPIECE:
            json = json_pack("{s:s, s:s, s:b}", "type", "WordPiece", "prefix", step->text, "cleanup", step->count > 0);
            break;
        case DECODER_WORD_ENDS: json = json_pack("{s:s, s:s}", "type", "BPEDecoder", "suffix", step->text); break;
        }
        json_array_append_new(steps, json);
    }
    return sequence(steps, "decoders");
}

static void add_template_tokens(const struct tokenizer *tokenizer, const struct token_list *tokens, int32_t type, json_t *pieces,
                                json_t *specials)
{
    for (size_t i = 0; i < tokens->count; i++) {
        struct piece piece = tokenizer->vocabulary.pieces[tokens->at[i]];
        json_array_append_new(pieces, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", piece.at, "type_id", type));
        json_object_set_new(specials, piece.at,
                            json_pack("{s:s, s:[i], s:[s]}", "id", piece.at, "ids", tokens->at[i], "tokens", piece.at));
    }
}

static void add_template_text(const char *name, int32_t type, json_t *pieces)
{
    json_array_append_new(pieces, json_pack("{s:{s:s, s:i}}", "Sequence", "id", name, "type_id", type));
}

static json_t *template_json(const struct tokenizer *tokenizer)
{
    const struct pair_rule *rule = &tokenizer->pair;
    size_t around = tokenizer->prefix.count + tokenizer->suffix.count + rule->prefix.count + rule->middle.count
                    + rule->suffix.count;
    if (around == 0 && rule->first_type == 0 && rule->second_type == 1)
        return json_null();
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    add_template_tokens(tokenizer, &tokenizer->prefix, 0, single, specials);
    add_template_text("A", 0, single);
    add_template_tokens(tokenizer, &tokenizer->suffix, 0, single, specials);
    add_template_tokens(tokenizer, &rule->prefix, rule->prefix_type, pair, specials);
    add_template_text("A", rule->first_type, pair);
    add_template_tokens(tokenizer, &rule->middle, rule->middle_type, pair, specials);
    add_template_text("B", rule->second_type, pair);
    add_template_tokens(tokenizer, &rule->suffix, rule->suffix_type, pair, specials);
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

static json_t *vocabulary_json(const struct vocabulary *vocabulary)
{
    json_t *pieces = json_object();
    for (size_t id = 0; id < vocabulary->count; id++) {
        struct piece piece = vocabulary->pieces[id];
        if (piece.at != NULL && !piece.added_only)
            json_object_set_new(pieces, piece.at, json_integer((json_int_t)id));
    }
    return pieces;
}

static int32_t unknown_of(const struct tokenizer *tokenizer)
{
    switch (tokenizer->kind) {
    case TOKENIZER_UNIGRAM: return tokenizer->unigram.unknown;
    case TOKENIZER_WORDPIECE: return tokenizer->wordpiece.unknown;
    default: return tokenizer->bpe.unknown;
    }
}

static json_t *unknown_json(const struct tokenizer *tokenizer)
{
    int32_t unknown = unknown_of(tokenizer);
    return unknown >= 0 ? piece_json(tokenizer->vocabulary.pieces[unknown]) : json_null();
}

static json_t *affix_json(const char *affix)
{
    return affix != NULL ? json_string(affix) : json_null();
}

static json_t *bpe_json(const struct tokenizer *tokenizer)
{
    const struct bpe *bpe = &tokenizer->bpe;
    return json_pack("{s:s, s:n, s:o, s:o, s:o, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                     unknown_json(tokenizer), "continuing_subword_prefix", affix_json(bpe->continuing), "end_of_word_suffix",
                     affix_json(bpe->word_end), "fuse_unk", bpe->fuse_unknown, "byte_fallback", bpe->byte_fallback,
                     "ignore_merges", bpe->ignore_merges, "vocab", vocabulary_json(&tokenizer->vocabulary), "merges",
                     merges_json(tokenizer));
}

static json_t *unigram_json(const struct tokenizer *tokenizer)
{
    const struct unigram *unigram = &tokenizer->unigram;
    json_t *pieces = json_array();
    for (size_t id = 0; id < unigram->score_count; id++)
        json_array_append_new(pieces, json_pack("[o, f]", piece_json(tokenizer->vocabulary.pieces[id]),
                                                unigram_written_score(unigram, id)));
    return json_pack("{s:s, s:o, s:o, s:b}", "type", "Unigram", "unk_id",
                     unigram->unknown >= 0 ? json_integer(unigram->unknown) : json_null(), "vocab", pieces, "byte_fallback",
                     unigram->byte_fallback);
}

static json_t *wordpiece_json(const struct tokenizer *tokenizer)
{
    const struct wordpiece *wordpiece = &tokenizer->wordpiece;
    json_t *pieces = vocabulary_json(&tokenizer->vocabulary);
    json_t *unknown = wordpiece->unknown >= 0 ? unknown_json(tokenizer) : json_string("");  // the library wants a text
    if (wordpiece->whole)
        return json_pack("{s:s, s:o, s:o}", "type", "WordLevel", "vocab", pieces, "unk_token", unknown);
    return json_pack("{s:s, s:o, s:s, s:i, s:o}", "type", "WordPiece", "unk_token", unknown, "continuing_subword_prefix",
                     wordpiece->continuing, "max_input_chars_per_word", (int)wordpiece->word_max, "vocab", pieces);
}

static json_t *model_json(const struct tokenizer *tokenizer)
{
    switch (tokenizer->kind) {
    case TOKENIZER_UNIGRAM: return unigram_json(tokenizer);
    case TOKENIZER_WORDPIECE: return wordpiece_json(tokenizer);
    default: return bpe_json(tokenizer);
    }
}

static json_t *config_json(const struct tokenizer *tokenizer)
{
    const struct piece *pieces = tokenizer->vocabulary.pieces;
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", false);
    if (tokenizer->begin >= 0)
        json_object_set_new(config, "bos_token", piece_json(pieces[tokenizer->begin]));
    if (tokenizer->end >= 0)
        json_object_set_new(config, "eos_token", piece_json(pieces[tokenizer->end]));
    if (unknown_of(tokenizer) >= 0)
        json_object_set_new(config, "unk_token", unknown_json(tokenizer));
    if (tokenizer->chat_template != NULL)
        json_object_set(config, "chat_template", tokenizer->chat_template);
    return config;
}

/* Every stop; the end token first, which readers of a single one take. */
static json_t *generation_json(const struct tokenizer *tokenizer)
{
    json_t *ends = json_array(), *config = json_object();
    if (tokenizer->end >= 0)
        json_array_append_new(ends, json_integer(tokenizer->end));
    for (size_t i = 0; i < tokenizer->stops.count; i++) {
        int32_t id = tokenizer->stops.at[i];
        if (id != tokenizer->begin && id != tokenizer->end)
            json_array_append_new(ends, json_integer(id));
    }
    if (json_array_size(ends) > 0)
        json_object_set(config, "eos_token_id", ends);
    if (tokenizer->begin >= 0)
        json_object_set_new(config, "bos_token_id", json_integer(tokenizer->begin));
    json_decref(ends);
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

/* Not where the other files tell every stop, but over one that another tokenizer left there. */
static int write_generation(const struct tokenizer *tokenizer, const char *directory)
{
    static const char file[] = "generation_config.json";
    struct token_list unnamed = { 0 };
    tokenizer_unnamed_stops(tokenizer, &unnamed);
    char *path = memory_printf("%s/%s", directory, file);
    int result = unnamed.count > 0 || file_exists(path) ? write_json(generation_json(tokenizer), directory, file) : 0;
    free(path);
    free(unnamed.at);
    return result;
}

int tokenizer_write(const struct tokenizer *tokenizer, const char *directory)
{
    if (directory_make(directory) != 0 || write_json(tokenizer_to_json(tokenizer), directory, "tokenizer.json") != 0)
        return -1;
    if (write_json(config_json(tokenizer), directory, "tokenizer_config.json") != 0)
        return -1;
    return write_generation(tokenizer, directory);
}
