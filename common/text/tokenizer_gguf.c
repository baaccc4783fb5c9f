/*
 * tokenizer_gguf.c - the tokenizer that a GGUF file carries in its metadata.
 *
 *     tokenizer.ggml.model   "llama": SentencePiece BPE; scores rank the pieces
 *                            "gpt2": byte-level BPE; merges, and the pre-tokenizer by name in tokenizer.ggml.pre
 *     tokenizer.ggml.tokens, scores, token_type, merges
 *     tokenizer.ggml.{bos,eos,eot,eom,unknown}_token_id, add_bos_token, add_eos_token, add_space_prefix
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "model/gguf.h"
#include "text/tokenizer_parts.h"

#define KEY(name) "tokenizer.ggml." name

enum { GGUF_INT32 = 5, GGUF_FLOAT32 = 6 };
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };

enum { SPLIT_PIECE_MAX = 1024 };  // bytes of a SentencePiece piece; the trainer's own limit is far below

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

/* The array's elements need not be aligned. */
static int32_t int32_at(const char *data, size_t index)
{
    int32_t value;
    memcpy(&value, data + index * sizeof value, sizeof value);
    return value;
}

static float float_at(const char *data, size_t index)
{
    float value;
    memcpy(&value, data + index * sizeof value, sizeof value);
    return value;
}

static enum token_type type_at(const char *types, size_t id)
{
    return types != NULL ? (enum token_type)int32_at(types, id) : TOKEN_NORMAL;
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

static int read_tokens(struct tokenizer *tokenizer, const struct gguf *gguf, const char **types)
{
    struct gguf_array tokens;
    if (!gguf_array(gguf, KEY("tokens"), &tokens) || tokens.texts == NULL)
        return tokenizer_refuse(tokenizer, "it has no texts " KEY("tokens"));
    for (size_t id = 0; id < tokens.count; id++) {
        struct gguf_text text = tokens.texts[id];
        if (vocabulary_add(&tokenizer->vocabulary, (int64_t)id, text.at, text.size, false, tokenizer->name) != 0)
            return -1;
    }
    if (!number_array(tokenizer, gguf, KEY("token_type"), GGUF_INT32, tokens.count, types))
        return -1;
    for (size_t id = 0; id < tokens.count; id++) {
        enum token_type type = type_at(*types, id);
        if ((type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_USER_DEFINED) && tokens.texts[id].size > 0)
            added_add(&tokenizer->added, (struct added_token){ .id = (int32_t)id, .special = type != TOKEN_USER_DEFINED });
    }
    return 0;
}

/* ---- SentencePiece ---- */

/* Two pieces that join to a third. */
struct join {
    int32_t left, right, result;
    float score;             // of the result
    uint32_t left_size, right_size;  // characters
};

/* The highest score first, as SentencePiece merges; of one piece's joins that with the longer left, as transformers lists them. */
static int compare_joins(const void *a, const void *b)
{
    const struct join *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_size != y->left_size)
        return x->left_size > y->left_size ? -1 : 1;
    if (x->right_size != y->right_size)
        return x->right_size > y->right_size ? -1 : 1;
    return x->result < y->result ? -1 : x->result > y->result;
}

static bool is_mergeable(const char *types, int32_t id)
{
    enum token_type type = id >= 0 ? type_at(types, (size_t)id) : TOKEN_CONTROL;
    return type == TOKEN_NORMAL || type == TOKEN_USER_DEFINED || type == TOKEN_UNUSED;
}

struct joins {
    struct join *at;
    size_t count, capacity;
};

static int add_joins(const struct tokenizer *tokenizer, const char *types, float score, int32_t id, struct joins *joins)
{
    struct piece piece = tokenizer->vocabulary.pieces[id];
    if (piece.size > SPLIT_PIECE_MAX)
        return tokenizer_refuse(tokenizer, "token %" PRId32 " has %" PRIu32 " bytes, limit %d", id, piece.size, SPLIT_PIECE_MAX);
    uint32_t characters = 0, left_size = 0;
    for (size_t at = 0; at < piece.size; at += utf8_size((unsigned char)piece.at[at]))
        characters++;
    for (size_t at = 0; at < piece.size;) {
        at += utf8_size((unsigned char)piece.at[at]);
        left_size++;
        int32_t left = vocabulary_find(&tokenizer->vocabulary, piece.at, at);
        int32_t right = vocabulary_find(&tokenizer->vocabulary, piece.at + at, piece.size - at);
        if (at == piece.size || !is_mergeable(types, left) || !is_mergeable(types, right))
            continue;
        if (joins->count == MERGES_MAX)
            return tokenizer_refuse(tokenizer, "its pieces join in more than %d ways", MERGES_MAX);
        if (joins->count == joins->capacity) {
            joins->capacity = joins->capacity ? 2 * joins->capacity : 4096;
            joins->at = memory_grow(joins->at, joins->capacity, sizeof *joins->at);
        }
        joins->at[joins->count++] = (struct join){ left, right, id, score, left_size, characters - left_size };
    }
    return 0;
}

static int merges_from_scores(struct tokenizer *tokenizer, const struct gguf *gguf, const char *types)
{
    const char *scores;
    size_t count = tokenizer->vocabulary.count;
    if (!number_array(tokenizer, gguf, KEY("scores"), GGUF_FLOAT32, count, &scores))
        return -1;
    if (scores == NULL)
        return tokenizer_refuse(tokenizer, "it has no " KEY("scores"));
    struct joins joins = { 0 };
    int result = 0;
    for (size_t id = 0; id < count && result == 0; id++) {
        float score = float_at(scores, id);
        if (!isfinite(score))
            result = tokenizer_refuse(tokenizer, "the score of token %zu is not finite", id);
        else if (is_mergeable(types, (int32_t)id))
            result = add_joins(tokenizer, types, score, (int32_t)id, &joins);
    }
    if (result == 0 && joins.count > 0)
        qsort(joins.at, joins.count, sizeof *joins.at, compare_joins);
    for (size_t i = 0; i < joins.count && result == 0; i++)
        CHECK(bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, joins.at[i].left, joins.at[i].right) == 0);
    free(joins.at);
    return result;
}

static int read_sentencepiece(struct tokenizer *tokenizer, const struct gguf *gguf, const char *types)
{
    static const char mark[] = "\xe2\x96\x81";
    if (merges_from_scores(tokenizer, gguf, types) != 0)
        return -1;
    tokenizer->bpe.byte_fallback = tokenizer->bpe.fuse_unknown = true;
    tokenizer->bpe.unknown = token_at(tokenizer, gguf, KEY("unknown_token_id"), 0);
    bool prefix = flag_at(gguf, KEY("add_space_prefix"), true);
    if (prefix)
        normalizer_add(&tokenizer->normalizer, NORMALIZER_PREPEND, mark, NULL);
    normalizer_add(&tokenizer->normalizer, NORMALIZER_REPLACE, " ", mark);
    decoder_add(&tokenizer->decoder, DECODER_REPLACE, mark, " ", 0);
    decoder_add(&tokenizer->decoder, DECODER_BYTE_FALLBACK, NULL, NULL, 0);
    decoder_add(&tokenizer->decoder, DECODER_FUSE, NULL, NULL, 0);
    if (prefix)
        decoder_add(&tokenizer->decoder, DECODER_STRIP, " ", NULL, 1);
    return 0;
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

enum { PRE_PATTERNS_MAX = 4 };

/* The pre-tokenizers that tokenizer.ggml.pre names: patterns applied one after the other. */
static const struct pre {
    const char *name;
    const char *patterns[PRE_PATTERNS_MAX];
    bool ignore_merges, begins, composes;  // composes: the model's own tokenizer normalises to NFC
} pres[] = {
    { "gpt-2", { GPT2 }, false, false, false },
    { "phi-2", { GPT2 }, false, false, false },
    { "mpt", { GPT2 }, false, false, false },
    { "olmo", { GPT2 }, false, false, false },
    { "jais", { GPT2 }, false, false, false },
    { "roberta-bpe", { GPT2 }, false, true, false },
    { "default", { "[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" }, false, false, false },
    { "falcon", { "[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]" }, false, false, false },
    { "starcoder", { "\\p{N}", GPT2 }, false, false, false },
    { "refact", { "\\p{N}", GPT2 }, false, false, false },
    { "command-r", { "\\p{N}", GPT2 }, false, false, false },
    { "smollm", { "\\p{N}", GPT2 }, false, false, false },
    { "codeshell", { "\\p{N}", GPT2 }, false, false, false },
    { "exaone", { "\\p{N}", GPT2 }, false, false, false },
    { "llama3", { LLAMA3 }, true, true, false },
    { "llama-v3", { LLAMA3 }, true, true, false },
    { "llama-bpe", { LLAMA3 }, true, true, false },
    { "falcon3", { LLAMA3 }, true, true, false },
    { "dbrx", { LLAMA3 }, false, false, false },
    { "smaug-bpe", { LLAMA3 }, false, false, false },
    { "chatglm-bpe", { LLAMA3 }, false, false, false },
    { "qwen2", { QWEN2 }, false, false, true },
    { "deepseek-r1-qwen", { QWEN2 }, false, false, true },
    { "stablelm2", { QWEN2 }, false, false, true },
    { "deepseek-v3", { "\\p{N}{1,3}", "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+", DEEPSEEK3 },
      false, false, false },
    { "tekken", { TEKKEN }, true, true, false },
    { "gpt-4o", { GPT4O }, false, false, false },
    { "llama4", { GPT4O }, false, false, false },
};

static const struct pre *find_pre(const struct tokenizer *tokenizer, const struct gguf *gguf)
{
    struct gguf_text name = { "default", strlen("default") };
    gguf_text(gguf, KEY("pre"), &name);
    for (size_t i = 0; i < COUNT_OF(pres); i++) {
        if (strlen(pres[i].name) == name.size && memcmp(pres[i].name, name.at, name.size) == 0)
            return &pres[i];
    }
    tokenizer_refuse(tokenizer, "the pre-tokenizer \"%.*s\" is not known", (int)(name.size < 64 ? name.size : 64), name.at);
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

/* ---- both ---- */

static void read_ends(struct tokenizer *tokenizer, const struct gguf *gguf, bool sentencepiece, bool begins)
{
    tokenizer->begin = token_at(tokenizer, gguf, KEY("bos_token_id"), sentencepiece ? 1 : -1);
    tokenizer->end = token_at(tokenizer, gguf, KEY("eos_token_id"), sentencepiece ? 2 : -1);
    static const char *const stops[] = { KEY("eot_token_id"), KEY("eom_token_id") };
    for (size_t i = 0; i < COUNT_OF(stops); i++) {
        int32_t stop = token_at(tokenizer, gguf, stops[i], -1);
        if (stop >= 0)
            token_list_add_new(&tokenizer->stops, stop);
    }
    if (tokenizer->begin >= 0 && flag_at(gguf, KEY("add_bos_token"), begins))
        token_list_add(&tokenizer->prefix, tokenizer->begin);
    if (tokenizer->end >= 0 && flag_at(gguf, KEY("add_eos_token"), false))
        token_list_add(&tokenizer->suffix, tokenizer->end);
}

struct tokenizer *tokenizer_from_gguf(const struct gguf *gguf, const char *name)
{
    struct tokenizer *tokenizer = tokenizer_new(name);
    struct gguf_text model = { "", 0 };
    gguf_text(gguf, KEY("model"), &model);
    const char *types;
    if (read_tokens(tokenizer, gguf, &types) != 0)
        goto close_tokenizer;
    if (model.size == 5 && memcmp(model.at, "llama", 5) == 0) {
        if (read_sentencepiece(tokenizer, gguf, types) != 0)
            goto close_tokenizer;
        read_ends(tokenizer, gguf, true, true);
    } else if (model.size == 4 && memcmp(model.at, "gpt2", 4) == 0) {
        const struct pre *pre = find_pre(tokenizer, gguf);
        if (pre == NULL || read_merges(tokenizer, gguf) != 0)
            goto close_tokenizer;
        use_pre(tokenizer, pre);
        read_ends(tokenizer, gguf, false, pre->begins);
    } else {
        tokenizer_refuse(tokenizer, "the model kind \"%.*s\" is not supported", (int)(model.size < 64 ? model.size : 64), model.at);
        goto close_tokenizer;
    }
    return tokenizer;

close_tokenizer:
    tokenizer_close(tokenizer);
    return NULL;
}
