/*
 * tokenizer_gguf.c - the tokenizer that a GGUF file carries in its metadata.
 *
 *     tokenizer.ggml.model   "llama": SentencePiece BPE; scores rank the pieces
 *                            "t5": SentencePiece Unigram; scores, and perhaps a precompiled_charsmap
 *                            "gpt2": byte-level BPE; merges, and the pre-tokenizer by name in tokenizer.ggml.pre
 *                            "bert": WordPiece
 *     tokenizer.ggml.tokens, scores, token_type, merges
 *     tokenizer.ggml.{bos,eos,eot,eom,unknown}_token_id, add_bos_token, add_eos_token, add_space_prefix,
 *                    remove_extra_whitespaces
 *     tokenizer.chat_template
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "model/gguf.h"
#include "text/sentencepiece.h"

#define KEY(name) "tokenizer.ggml." name

enum { GGUF_UINT8 = 0, GGUF_INT8 = 1, GGUF_INT32 = 5, GGUF_FLOAT32 = 6 };

/* Where the numbers of an array lie; NULL when the file has none.  false: it has another type or length, logged. */
static bool number_array(const struct tokenizer *tokenizer, const struct gguf *gguf, const char *key, uint32_t type, size_t count,
                         const char **out)
{
    struct gguf_array array;
    *out = NULL;
    if (!gguf_array(gguf, key, &array))
        return true;
    if (array.type != type || array.count != count) {
        tokenizer_refuse(tokenizer, "%s has %zu elements of type %" PRIu32 ", expected %zu of type %" PRIu32, key, array.count,
                         array.type, count, type);
        return false;
    }
    *out = array.data;
    return true;
}

/* -1 where the key is missing or says that there is none. */
static int32_t token_at(const struct tokenizer *tokenizer, const struct gguf *gguf, const char *key, int32_t fallback)
{
    int64_t id = fallback;
    gguf_integer(gguf, key, &id);
    return vocabulary_has(&tokenizer->vocabulary, id) ? (int32_t)id : -1;
}

static bool flag_at(const struct gguf *gguf, const char *key, bool fallback)
{
    int64_t flag = fallback;
    gguf_integer(gguf, key, &flag);
    return flag != 0;
}

/*
 * BERT's pieces as vocab.txt has them: in GGUF one that begins a word has U+2581 before it, one inside a word nothing, and
 * "[CLS]" and its like are as they were.
 */
static void append_wordpiece(struct buffer *piece, struct gguf_text text)
{
    static const char mark[] = "\xe2\x96\x81";
    size_t skip = 0;
    if (text.size >= 3 && memcmp(text.at, mark, 3) == 0)
        skip = 3;
    else if (!(text.size >= 2 && text.at[0] == '[' && text.at[text.size - 1] == ']'))
        buffer_append(piece, "##", 2);
    buffer_append(piece, text.at + skip, text.size - skip);
}

static int read_tokens(struct tokenizer *tokenizer, const struct gguf *gguf, bool wordpieces)
{
    struct gguf_array tokens;
    if (!gguf_array(gguf, KEY("tokens"), &tokens) || tokens.texts == NULL)
        return tokenizer_refuse(tokenizer, "it has no texts " KEY("tokens"));
    struct buffer piece = { 0 };
    int result = 0;
    for (size_t id = 0; id < tokens.count && result == 0; id++) {
        struct gguf_text text = tokens.texts[id];
        if (wordpieces) {
            piece.size = 0;
            append_wordpiece(&piece, text);
            text = (struct gguf_text){ piece.data, piece.size };
        }
        result = vocabulary_add(&tokenizer->vocabulary, (int64_t)id, text.at, text.size, false, tokenizer->name);
    }
    free(piece.data);
    return result;
}

/* enum piece_type of each token; the caller frees.  NULL on failure, logged. */
static unsigned char *read_types(const struct tokenizer *tokenizer, const struct gguf *gguf)
{
    const char *data;
    size_t count = tokenizer->vocabulary.count;
    if (!number_array(tokenizer, gguf, KEY("token_type"), GGUF_INT32, count, &data))
        return NULL;
    unsigned char *types = memory_alloc(count, 1);
    for (size_t id = 0; id < count; id++) {
        int32_t type = PIECE_NORMAL;
        if (data != NULL)
            memcpy(&type, data + id * sizeof type, sizeof type);  // need not be aligned
        if (type < 0 || type > PIECE_BYTE) {
            tokenizer_refuse(tokenizer, "token %zu has type %" PRId32 ", must be 0 .. %d", id, type, PIECE_BYTE);
            free(types);
            return NULL;
        }
        types[id] = (unsigned char)type;
    }
    return types;
}

/* ---- SentencePiece ---- */

static bool has_bytes(const struct tokenizer *tokenizer, const unsigned char *types)
{
    return tokenizer->vocabulary.count > 0 && memchr(types, PIECE_BYTE, tokenizer->vocabulary.count) != NULL;
}

static int read_sentencepiece(struct tokenizer *tokenizer, const struct gguf *gguf, const unsigned char *types, bool unigram)
{
    const char *data;
    size_t count = tokenizer->vocabulary.count;
    if (!number_array(tokenizer, gguf, KEY("scores"), GGUF_FLOAT32, count, &data))
        return -1;
    if (data == NULL)
        return tokenizer_refuse(tokenizer, "it has no " KEY("scores"));
    float *scores = memory_alloc(count, sizeof *scores);
    if (count > 0)
        memcpy(scores, data, count * sizeof *scores);
    struct sentencepiece spec = {
        .unigram = unigram, .scores = scores, .types = types, .byte_fallback = !unigram || has_bytes(tokenizer, types),
        .dummy_prefix = flag_at(gguf, KEY("add_space_prefix"), true),
        .remove_spaces = flag_at(gguf, KEY("remove_extra_whitespaces"), false), .escape_spaces = true,
        .unknown = token_at(tokenizer, gguf, KEY("unknown_token_id"), unigram ? 2 : 0),
    };
    struct gguf_array charsmap;
    int result = 0;
    if (unigram && gguf_array(gguf, KEY("precompiled_charsmap"), &charsmap)) {
        if (charsmap.type != GGUF_UINT8 && charsmap.type != GGUF_INT8)
            result = tokenizer_refuse(tokenizer, "its " KEY("precompiled_charsmap") " is no array of bytes");
        spec.charsmap = charsmap.data;
        spec.charsmap_size = charsmap.count;
    }
    if (result == 0)
        result = sentencepiece_use(tokenizer, &spec);
    free(scores);
    return result;
}

/* ---- byte-level ---- */

#define SUFFIXES "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN2 SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" SUFFIXES "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" SUFFIXES \
    "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK3 "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define CJK "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+"
#define BLOOM " ?[^(\\s|.,!?\xe2\x80\xa6\xe3\x80\x82\xef\xbc\x8c\xe3\x80\x81\xe0\xa5\xa4\xdb\x94\xd8\x8c)]+"
#define SEED SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define BAILING "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define DEEPSEEK_CJK "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+"
#define QWEN35 SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}" \
    "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

enum { PRE_PATTERNS_MAX = 5 };

/* The pre-tokenizers that tokenizer.ggml.pre names, as in llama.cpp's llama-vocab.cpp: patterns applied one after the other. */
static const struct pre {
    const char *name;
    const char *also;   // other names of it, a space before and after each; NULL: none
    const char *patterns[PRE_PATTERNS_MAX];
    bool ignore_merges, begins;
    bool pairs;         // RoBERTa's: the end token stands behind a text, twice between two
    bool composes;      // the model's own tokenizer normalises to NFC
} pres[] = {
    { "gpt-2", .also = " phi-2 mpt olmo jais jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum exaone4 trillion"
               " granite-docling ", .patterns = { GPT2 } },
    { "roberta-bpe", .also = " jina-v1-en jina-v2-code ", .patterns = { GPT2 }, .begins = true, .pairs = true },
    { "default", .patterns = { "[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
    { "falcon", .patterns = { "[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]" } },
    { "starcoder", .also = " refact command-r smollm codeshell exaone minerva-7b mellum2 ", .patterns = { "\\p{N}", GPT2 } },
    { "llama-bpe", .also = " llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", .patterns = { LLAMA3 },
      .ignore_merges = true, .begins = true },
    { "dbrx", .also = " smaug-bpe chatglm-bpe glm4 ", .patterns = { LLAMA3 } },
    { "qwen2", .also = " deepseek-r1-qwen stablelm2 megrez kormo f2llmv2 hunyuan solar-open ", .patterns = { QWEN2 },
      .composes = true },
    { "grok-2", .patterns = { QWEN2 } },
    { "qwen35", .patterns = { QWEN35 }, .composes = true },
    { "seed-coder", .patterns = { SEED } },
    { "bailingmoe", .also = " bailingmoe2 llada-moe ", .patterns = { BAILING } },
    { "deepseek-v3", .also = " hunyuan-dense joyai-llm hy_v4 ", .patterns = { "\\p{N}{1,3}", CJK, DEEPSEEK3 } },
    { "deepseek-coder", .patterns = { "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}" } },
    { "bloom", .also = " poro-chat gpt3-finnish ", .patterns = { BLOOM } },
    { "viking", .patterns = { BLOOM, "\\p{N}" } },
    { "tekken", .patterns = { TEKKEN }, .ignore_merges = true, .begins = true },
    { "gpt-4o", .also = " llama4 kanana2 talkie minimax-m2 ", .patterns = { GPT4O } },
};

static const struct pre *find_pre(const struct tokenizer *tokenizer, const struct gguf *gguf)
{
    struct gguf_text name = { "default", strlen("default") };
    gguf_text(gguf, KEY("pre"), &name);
    char between[80];
    int size = (int)(name.size < 64 ? name.size : 64);
    snprintf(between, sizeof between, " %.*s ", size, name.at);
    for (size_t i = 0; i < COUNT_OF(pres); i++) {
        if (strlen(pres[i].name) == name.size && memcmp(pres[i].name, name.at, name.size) == 0)
            return &pres[i];
        if (pres[i].also != NULL && memchr(name.at, ' ', name.size) == NULL && strstr(pres[i].also, between) != NULL)
            return &pres[i];
    }
    tokenizer_refuse(tokenizer, "the pre-tokenizer \"%.*s\" is not known", size, name.at);
    return NULL;
}

static void use_pre(struct tokenizer *tokenizer, const struct pre *pre)
{
    tokenizer->bpe.ignore_merges = pre->ignore_merges;
    if (pre->composes)
        normalizer_add(&tokenizer->normalizer, NORMALIZER_NFC, NULL, NULL);
    bool gpt2_split = strcmp(pre->patterns[0], GPT2) == 0;
    for (size_t i = 0; i < PRE_PATTERNS_MAX && pre->patterns[i] != NULL && !gpt2_split; i++) {
        struct pretokenizer_step step = { .kind = PRETOKENIZER_SPLIT, .behavior = SPLIT_ISOLATED };
        step.regex = regex_compile(pre->patterns[i], strlen(pre->patterns[i]), false, tokenizer->name);
        CHECK(step.regex != NULL);
        pretokenizer_add(&tokenizer->pretokenizer, step);
    }
    tokenizer_use_byte_level(tokenizer, false, gpt2_split);
    decoder_add(&tokenizer->decoder, DECODER_BYTE_LEVEL, NULL, NULL, 0);
}

/* Whether the tokenizer does what use_pre makes of this one. */
static bool uses_pre(const struct tokenizer *tokenizer, const struct pre *pre)
{
    const struct pretokenizer *steps = &tokenizer->pretokenizer;
    const struct normalizer *normalizer = &tokenizer->normalizer;
    bool gpt2_split = strcmp(pre->patterns[0], GPT2) == 0;
    size_t splits = 0;
    for (; !gpt2_split && splits < PRE_PATTERNS_MAX && pre->patterns[splits] != NULL; splits++) {
        const struct pretokenizer_step *step = &steps->steps[splits];
        if (splits >= steps->count || step->kind != PRETOKENIZER_SPLIT || step->behavior != SPLIT_ISOLATED || step->invert
            || regex_is_literal(step->regex) || strcmp(regex_pattern(step->regex), pre->patterns[splits]) != 0)
            return false;
    }
    return steps->count == splits + 1 && steps->steps[splits].kind == PRETOKENIZER_BYTE_LEVEL && !steps->steps[splits].prefix_space
           && (steps->steps[splits].regex != NULL) == gpt2_split && tokenizer->bpe.ignore_merges == pre->ignore_merges
           && (tokenizer->pair.middle.count > 0) == pre->pairs && normalizer->count == pre->composes
           && (normalizer->count == 0 || normalizer->steps[0].kind == NORMALIZER_NFC);
}

const char *tokenizer_gguf_pre(const struct tokenizer *tokenizer)
{
    for (size_t i = 0; i < COUNT_OF(pres); i++) {
        if (uses_pre(tokenizer, &pres[i]))
            return pres[i].name;
    }
    return NULL;
}

static int read_merges(struct tokenizer *tokenizer, const struct gguf *gguf)
{
    struct gguf_array merges;
    if (!gguf_array(gguf, KEY("merges"), &merges) || merges.texts == NULL)
        return tokenizer_refuse(tokenizer, "it has no texts " KEY("merges"));
    for (size_t i = 0; i < merges.count; i++) {
        struct gguf_text merge = merges.texts[i];
        const char *space = merge.size > 0 ? memchr(merge.at + 1, ' ', merge.size - 1) : NULL;
        size_t left = space != NULL ? (size_t)(space - merge.at) : merge.size, right = space != NULL ? merge.size - left - 1 : 0;
        if (space == NULL
            || bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, vocabulary_find(&tokenizer->vocabulary, merge.at, left),
                             vocabulary_find(&tokenizer->vocabulary, space + 1, right)) != 0)
            return tokenizer_refuse(tokenizer, "merge %zu, \"%.*s\", is not two tokens that join to a third", i,
                                    (int)(merge.size < 64 ? merge.size : 64), merge.at);
    }
    return 0;
}

/* ---- WordPiece ---- */

/* The metadata do not say whether texts are put into lower case: a model that keeps capitals has pieces with them. */
static bool is_lowercase(const struct tokenizer *tokenizer, const unsigned char *types)
{
    for (size_t id = 0; id < tokenizer->vocabulary.count; id++) {
        struct piece piece = tokenizer->vocabulary.pieces[id];
        if (types[id] == PIECE_NORMAL && piece.size > 0 && piece.at[0] >= 'A' && piece.at[0] <= 'Z')
            return false;
    }
    return true;
}

static int read_bert(struct tokenizer *tokenizer, const struct gguf *gguf, const unsigned char *types)
{
    tokenizer_use_bert(tokenizer, is_lowercase(tokenizer, types));
    (void)gguf;
    return 0;
}

/* ---- all ---- */

/* What a model kind has where the metadata say nothing. */
struct ends {
    int32_t begin, end;     // -1: none
    bool begins, ends;      // the token stands before, behind a text
    bool pairs;             // as in struct pre
};

static void read_ends(struct tokenizer *tokenizer, const struct gguf *gguf, struct ends usual)
{
    tokenizer->begin = token_at(tokenizer, gguf, KEY("bos_token_id"), usual.begin);
    tokenizer->end = token_at(tokenizer, gguf, KEY("eos_token_id"), usual.end);
    static const char *const stops[] = { KEY("eot_token_id"), KEY("eom_token_id") };
    for (size_t i = 0; i < COUNT_OF(stops); i++) {
        int32_t stop = token_at(tokenizer, gguf, stops[i], -1);
        if (stop >= 0)
            token_list_add_new(&tokenizer->stops, stop);
    }
    if (tokenizer->begin >= 0 && flag_at(gguf, KEY("add_bos_token"), usual.begins))
        token_list_add(&tokenizer->prefix, tokenizer->begin);
    if (tokenizer->end >= 0 && flag_at(gguf, KEY("add_eos_token"), usual.ends))
        token_list_add(&tokenizer->suffix, tokenizer->end);
    if (usual.pairs)
        tokenizer_use_pair(tokenizer, 2, 0);
}

static int read_llama(struct tokenizer *tokenizer, const struct gguf *gguf, const unsigned char *types)
{
    if (read_sentencepiece(tokenizer, gguf, types, false) != 0)
        return -1;
    read_ends(tokenizer, gguf, (struct ends){ .begin = 1, .end = 2, .begins = true });
    return 0;
}

static int read_t5(struct tokenizer *tokenizer, const struct gguf *gguf, const unsigned char *types)
{
    if (read_sentencepiece(tokenizer, gguf, types, true) != 0)
        return -1;
    read_ends(tokenizer, gguf, (struct ends){ .begin = -1, .end = 1, .ends = true });
    return 0;
}

static int read_gpt2(struct tokenizer *tokenizer, const struct gguf *gguf, const unsigned char *types)
{
    (void)types;
    const struct pre *pre = find_pre(tokenizer, gguf);
    if (pre == NULL || read_merges(tokenizer, gguf) != 0)
        return -1;
    use_pre(tokenizer, pre);
    read_ends(tokenizer, gguf, (struct ends){ -1, -1, pre->begins, pre->pairs, pre->pairs });
    return 0;
}

static int read_template(struct tokenizer *tokenizer, const struct gguf *gguf)
{
    struct gguf_text template;
    return gguf_text(gguf, GGUF_CHAT_TEMPLATE, &template) ? tokenizer_use_template(tokenizer, template.at, template.size) : 0;
}

struct tokenizer *tokenizer_from_gguf(const struct gguf *gguf, const char *name)
{
    static const struct kind {
        const char *name;
        int (*read)(struct tokenizer *tokenizer, const struct gguf *gguf, const unsigned char *types);
    } kinds[] = { { "llama", read_llama }, { "gpt2", read_gpt2 }, { "bert", read_bert }, { "t5", read_t5 } };
    struct tokenizer *tokenizer = tokenizer_new(name);
    struct gguf_text model = { "", 0 };
    unsigned char *types = NULL;
    size_t kind = 0;
    gguf_text(gguf, KEY("model"), &model);
    while (kind < COUNT_OF(kinds)
           && (strlen(kinds[kind].name) != model.size || memcmp(kinds[kind].name, model.at, model.size) != 0))
        kind++;
    if (kind == COUNT_OF(kinds)) {
        tokenizer_refuse(tokenizer, "the model kind \"%.*s\" is not supported", (int)(model.size < 64 ? model.size : 64), model.at);
        goto close_tokenizer;
    }
    if (read_tokens(tokenizer, gguf, kinds[kind].read == read_bert) != 0 || (types = read_types(tokenizer, gguf)) == NULL)
        goto close_tokenizer;
    piece_types_use(tokenizer, types);
    if (kinds[kind].read(tokenizer, gguf, types) != 0 || read_template(tokenizer, gguf) != 0)
        goto close_tokenizer;
    free(types);
    return tokenizer;

close_tokenizer:
    free(types);
    tokenizer_close(tokenizer);
    return NULL;
}
