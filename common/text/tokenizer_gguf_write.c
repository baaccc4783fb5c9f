/*
 * tokenizer_gguf_write.c - a tokenizer as the metadata that llama.cpp reads; tokenizer_gguf.c is the other way.
 *
 * llama.cpp joins SentencePiece pieces by the score of the result, not by a list of merges: a piece's score is minus the
 * rank of the first merge that makes it, which is the same order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "model/gguf_write.h"
#include "text/tokenizer_parts.h"

enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };

#define KEY(name) "tokenizer.ggml." name

static int32_t type_of(const struct tokenizer *tokenizer, size_t id)
{
    if (!vocabulary_has(&tokenizer->vocabulary, (int64_t)id))
        return TOKEN_UNUSED;
    const struct piece *piece = &tokenizer->vocabulary.pieces[id];
    const struct added_token *added = added_find(&tokenizer->added, (int32_t)id);
    if ((int32_t)id == tokenizer->bpe.unknown)
        return TOKEN_UNKNOWN;
    if (added != NULL)
        return added->special ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
    return tokenizer->bpe.byte_fallback && byte_of_piece(piece->at, piece->size) >= 0 ? TOKEN_BYTE : TOKEN_NORMAL;
}

/* Models may have more rows than there are tokens. */
static void put_pieces(const struct tokenizer *tokenizer, size_t vocab_size, struct gguf_out *out)
{
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    gguf_put_array(out, KEY("tokens"), GGUF_ELEMENT_TEXT, vocab_size);
    for (size_t id = 0; id < vocab_size; id++) {
        char unused[32];
        snprintf(unused, sizeof unused, "[PAD%zu]", id);
        bool used = vocabulary_has(vocabulary, (int64_t)id);
        gguf_put_element_text(out, used ? vocabulary->pieces[id].at : unused, used ? vocabulary->pieces[id].size : strlen(unused));
    }
    gguf_put_array(out, KEY("token_type"), GGUF_ELEMENT_INT32, vocab_size);
    for (size_t id = 0; id < vocab_size; id++)
        gguf_put_element_int32(out, type_of(tokenizer, id));
}

static void put_scores(const struct tokenizer *tokenizer, size_t vocab_size, struct gguf_out *out)
{
    const struct bpe *bpe = &tokenizer->bpe;
    float *scores = memory_alloc(vocab_size, sizeof *scores);
    for (size_t m = bpe->merge_count; m-- > 0; )
        scores[bpe->merges[m].result] = -(float)(m + 1);
    gguf_put_array(out, KEY("scores"), GGUF_ELEMENT_FLOAT32, vocab_size);
    for (size_t id = 0; id < vocab_size; id++)
        gguf_put_element_float(out, scores[id]);
    free(scores);
}

static void put_merges(const struct tokenizer *tokenizer, struct gguf_out *out)
{
    const struct bpe *bpe = &tokenizer->bpe;
    struct buffer text = { 0 };
    gguf_put_array(out, KEY("merges"), GGUF_ELEMENT_TEXT, bpe->merge_count);
    for (size_t m = 0; m < bpe->merge_count; m++) {
        const struct piece *left = &tokenizer->vocabulary.pieces[bpe->merges[m].left];
        const struct piece *right = &tokenizer->vocabulary.pieces[bpe->merges[m].right];
        text.size = 0;
        buffer_append(&text, left->at, left->size);
        buffer_append(&text, " ", 1);
        buffer_append(&text, right->at, right->size);
        gguf_put_element_text(out, text.data, text.size);
    }
    free(text.data);
}

static bool begins_with_space(const struct tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->normalizer.count; i++)
        if (tokenizer->normalizer.steps[i].kind == NORMALIZER_PREPEND)
            return true;
    for (size_t i = 0; i < tokenizer->pretokenizer.count; i++)
        if (tokenizer->pretokenizer.steps[i].kind == PRETOKENIZER_METASPACE)
            return tokenizer->pretokenizer.steps[i].prepend != PREPEND_NEVER;
    return false;
}

static void put_token(struct gguf_out *out, const char *key, int32_t id)
{
    if (id >= 0)
        gguf_put_integer(out, key, (uint32_t)id);
}

/* Where a SentencePiece file is silent, readers take tokens 1 and 2; a number beyond the vocabulary says that there is none,
   though llama.cpp takes them even then. */
static void put_around(struct gguf_out *out, const char *key, int32_t id, bool byte_level)
{
    if (id >= 0 || !byte_level)
        gguf_put_integer(out, key, id >= 0 ? (uint32_t)id : UINT32_MAX);
}

/*
 * GGUF has two keys for stop tokens besides the end.  eom first: an eot would replace the end of turn that llama.cpp finds by
 * its name.
 */
static void put_stops(const struct tokenizer *tokenizer, struct gguf_out *out)
{
    static const char *const keys[] = { KEY("eom_token_id"), KEY("eot_token_id") };
    struct token_list stops = { 0 };
    struct buffer left_out = { 0 };
    tokenizer_unnamed_stops(tokenizer, &stops);
    for (size_t i = 0; i < stops.count; i++) {
        if (i < COUNT_OF(keys))
            put_token(out, keys[i], stops.at[i]);
        else
            buffer_printf(&left_out, " %d", stops.at[i]);
    }
    if (left_out.size > 0)
        log_event("tokenizer \"%s\" has %zu stop tokens to list, GGUF has keys for %zu: the file does not stop at%.*s",
                  tokenizer->name, stops.count, COUNT_OF(keys), (int)left_out.size, left_out.data);
    free(left_out.data);
    free(stops.at);
}

int tokenizer_put_gguf(const struct tokenizer *tokenizer, size_t vocab_size, struct gguf_out *out)
{
    bool byte_level = tokenizer_is_byte_level(tokenizer);
    const char *pre = byte_level ? tokenizer_gguf_pre(tokenizer) : "default";
    if (tokenizer->kind != TOKENIZER_BPE || (!byte_level && !tokenizer->bpe.byte_fallback))
        return tokenizer_refuse(tokenizer, "only BPE tokenizers of bytes or with byte fallback can be written as GGUF");
    if (pre == NULL)
        return tokenizer_refuse(tokenizer, "GGUF has no name for its pre-tokenizer");
    if (tokenizer->vocabulary.count > vocab_size)
        return tokenizer_refuse(tokenizer, "it has %zu tokens, the model %zu", tokenizer->vocabulary.count, vocab_size);
    gguf_put_text(out, KEY("model"), byte_level ? "gpt2" : "llama");
    gguf_put_text(out, KEY("pre"), pre);
    put_pieces(tokenizer, vocab_size, out);
    if (byte_level)
        put_merges(tokenizer, out);
    else
        put_scores(tokenizer, vocab_size, out);
    put_around(out, KEY("bos_token_id"), tokenizer->begin, byte_level);
    put_around(out, KEY("eos_token_id"), tokenizer->end, byte_level);
    put_stops(tokenizer, out);
    put_token(out, KEY("unknown_token_id"), tokenizer->bpe.unknown);
    gguf_put_bool(out, KEY("add_bos_token"), tokenizer->prefix.count > 0);
    gguf_put_bool(out, KEY("add_eos_token"), tokenizer->suffix.count > 0);
    gguf_put_bool(out, KEY("add_space_prefix"), !byte_level && begins_with_space(tokenizer));
    if (tokenizer_chat_template(tokenizer) != NULL)
        gguf_put_text(out, GGUF_CHAT_TEMPLATE, tokenizer_chat_template(tokenizer));
    return 0;
}
