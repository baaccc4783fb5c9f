/* bpe.c - see bpe.h. */
#include "text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/utf8.h"

static const char mark[] = "\xe2\x96\x81";  // U+2581
enum { MARK_SIZE = 3 };

int bpe_add_merge(struct bpe *bpe, const struct vocabulary *vocabulary, int32_t left, int32_t right)
{
    if (!vocabulary_has(vocabulary, left) || !vocabulary_has(vocabulary, right) || bpe->merge_count == MERGES_MAX)
        return -1;
    struct piece a = vocabulary->pieces[left], b = vocabulary->pieces[right];
    size_t drop = bpe->continuing != NULL ? strlen(bpe->continuing) : 0;
    if (drop > 0 && (b.size < drop || memcmp(b.at, bpe->continuing, drop) != 0))
        return -1;
    b.at += drop;
    b.size -= (uint32_t)drop;
    char small[128];
    char *joined = a.size + b.size <= sizeof small ? small : memory_alloc(a.size + b.size, 1);
    memcpy(joined, a.at, a.size);
    memcpy(joined + a.size, b.at, b.size);
    int32_t result = vocabulary_find_model(vocabulary, joined, a.size + b.size);
    if (joined != small)
        free(joined);
    if (result < 0)
        return -1;
    if (bpe->merge_count == bpe->merge_capacity) {
        bpe->merge_capacity = bpe->merge_capacity ? 2 * bpe->merge_capacity : 1024;
        bpe->merges = memory_grow(bpe->merges, bpe->merge_capacity, sizeof *bpe->merges);
    }
    *pair_table_add(&bpe->ranks, pair_of(left, right)) = (int32_t)bpe->merge_count;  // of a repeated pair the last counts
    bpe->merges[bpe->merge_count++] = (struct merge){ left, right, result };
    return 0;
}

int32_t token_of_byte(const struct vocabulary *vocabulary, unsigned byte)
{
    char piece[8];
    snprintf(piece, sizeof piece, "<0x%02X>", byte);
    return vocabulary_find_model(vocabulary, piece, 6);
}

int byte_of_piece(const char *piece, size_t size)
{
    if (size != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>')
        return -1;
    int byte = 0;
    for (size_t i = 3; i < 5; i++) {
        const char *digits = "0123456789ABCDEF0123456789abcdef", *digit = piece[i] ? strchr(digits, piece[i]) : NULL;
        if (digit == NULL)
            return -1;
        byte = byte * 16 + (int)((digit - digits) % 16);
    }
    return byte;
}

/* Whether some character other than the mark is followed by the mark inside the piece. */
static bool has_inner_mark(struct piece piece)
{
    for (size_t i = 1; i + MARK_SIZE <= piece.size; i++) {
        if (memcmp(piece.at + i, mark, MARK_SIZE) == 0
            && !(i >= MARK_SIZE && memcmp(piece.at + i - MARK_SIZE, mark, MARK_SIZE) == 0))
            return true;
    }
    return false;
}

void bpe_finish(struct bpe *bpe, const struct vocabulary *vocabulary)
{
    for (uint32_t letter = 0; letter < BPE_LETTERS; letter++) {
        char text[UTF8_SIZE_MAX];
        size_t size = utf8_write(letter, text);
        bpe->letters[letter] = vocabulary_find_model(vocabulary, text, size);
    }
    for (unsigned byte = 0; byte < 256; byte++)
        bpe->bytes[byte] = token_of_byte(vocabulary, byte);
    bool plain = !bpe->ignore_merges && bpe->continuing == NULL && bpe->word_end == NULL;
    bpe->cut_at_mark = plain && vocabulary_find_model(vocabulary, mark, MARK_SIZE) >= 0;
    for (size_t i = 0; i < bpe->merge_count && bpe->cut_at_mark; i++)
        bpe->cut_at_mark = !has_inner_mark(vocabulary->pieces[bpe->merges[i].result]);
}

void bpe_free(struct bpe *bpe)
{
    free(bpe->merges);
    free(bpe->continuing);
    free(bpe->word_end);
    pair_table_free(&bpe->ranks);
}

/* The symbols of a word are a list over an array; one that was joined to the symbol before it is dead. */
struct bpe_symbol {
    int32_t id;  // -1: dead
    uint32_t previous, next;
};
#define NO_SYMBOL UINT32_MAX

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
}

static void add_symbol(struct bpe_scratch *scratch, int32_t id)
{
    CHECK(scratch->symbol_count < UINT32_MAX - 1);
    if (scratch->symbol_count == scratch->symbol_capacity) {
        scratch->symbol_capacity = scratch->symbol_capacity ? 2 * scratch->symbol_capacity : 256;
        scratch->symbols = memory_grow(scratch->symbols, scratch->symbol_capacity, sizeof *scratch->symbols);
    }
    uint32_t at = (uint32_t)scratch->symbol_count++;
    scratch->symbols[at] = (struct bpe_symbol){ id, at > 0 ? at - 1 : NO_SYMBOL, at + 1 };
}

static int32_t character_token(const struct bpe *bpe, const struct vocabulary *vocabulary, const char *at, size_t size)
{
    if (size <= 2 && size == utf8_size((unsigned char)*at)) {
        uint32_t code_point = utf8_code_point(at, size);
        if (code_point < BPE_LETTERS)
            return bpe->letters[code_point];
    }
    return vocabulary_find_model(vocabulary, at, size);
}

/* False when a byte of the character has no token of its own. */
static bool add_bytes(const struct bpe *bpe, struct bpe_scratch *scratch, const char *at, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bpe->bytes[(unsigned char)at[i]] < 0)
            return false;
    }
    for (size_t i = 0; i < size; i++)
        add_symbol(scratch, bpe->bytes[(unsigned char)at[i]]);
    return true;
}

/* The piece of a character within a word: perhaps marked as no first one, or as the last one. */
static void name_character(const struct bpe *bpe, const char *at, size_t size, bool first, bool last, struct buffer *name)
{
    name->size = 0;
    if (!first && bpe->continuing != NULL)
        buffer_append(name, bpe->continuing, strlen(bpe->continuing));
    buffer_append(name, at, size);
    if (last && bpe->word_end != NULL)
        buffer_append(name, bpe->word_end, strlen(bpe->word_end));
}

/*
 * As in the tokenizers library, an unknown token waits until a character that is a token follows, or the end: the bytes of
 * characters between come before it.
 */
static void symbols_from_word(const struct bpe *bpe, const struct vocabulary *vocabulary, struct bpe_scratch *scratch,
                              const char *word, size_t size)
{
    bool named = bpe->continuing != NULL || bpe->word_end != NULL, waiting = false;
    struct buffer name = { 0 };
    scratch->symbol_count = 0;
    for (size_t at = 0, step; at < size; at += step) {
        const char *piece = word + at;
        size_t piece_size = step = utf8_size((unsigned char)word[at]);
        if (named) {
            name_character(bpe, piece, step, at == 0, at + step == size, &name);
            piece = name.data;
            piece_size = name.size;
        }
        int32_t id = character_token(bpe, vocabulary, piece, piece_size);
        if (id < 0 && bpe->byte_fallback && add_bytes(bpe, scratch, piece, piece_size))
            continue;
        if (waiting && (id >= 0 || !bpe->fuse_unknown))
            add_symbol(scratch, bpe->unknown);
        waiting = id < 0 && bpe->unknown >= 0;
        if (id >= 0)
            add_symbol(scratch, id);
    }
    if (waiting)
        add_symbol(scratch, bpe->unknown);
    if (scratch->symbol_count > 0)
        scratch->symbols[scratch->symbol_count - 1].next = NO_SYMBOL;
    free(name.data);
}

/* The heap holds rank << 32 | position, smallest first: the earliest merge, the leftmost of equals. */
static void heap_push(struct bpe_scratch *scratch, uint64_t entry)
{
    if (scratch->heap_count == scratch->heap_capacity) {
        scratch->heap_capacity = scratch->heap_capacity ? 2 * scratch->heap_capacity : 256;
        scratch->heap = memory_grow(scratch->heap, scratch->heap_capacity, sizeof *scratch->heap);
    }
    uint64_t *heap = scratch->heap;
    size_t at = scratch->heap_count++;
    for (size_t parent; at > 0 && heap[parent = (at - 1) / 2] > entry; at = parent)
        heap[at] = heap[parent];
    heap[at] = entry;
}

static uint64_t heap_pop(struct bpe_scratch *scratch)
{
    uint64_t *heap = scratch->heap, top = heap[0], last = heap[--scratch->heap_count];
    size_t at = 0, count = scratch->heap_count;
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static void push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left, uint32_t right)
{
    if (left == NO_SYMBOL || right == NO_SYMBOL)
        return;
    int32_t rank = pair_table_find(&bpe->ranks, pair_of(scratch->symbols[left].id, scratch->symbols[right].id));
    if (rank >= 0)
        heap_push(scratch, (uint64_t)(uint32_t)rank << 32 | left);
}

static void merge_symbols(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_symbol *symbols = scratch->symbols;
    scratch->heap_count = 0;
    for (uint32_t i = 0; i + 1 < scratch->symbol_count; i++)
        push_pair(bpe, scratch, i, i + 1);
    while (scratch->heap_count > 0) {
        uint64_t entry = heap_pop(scratch);
        const struct merge *merge = &bpe->merges[entry >> 32];
        uint32_t left = (uint32_t)entry, right = symbols[left].next;
        if (symbols[left].id != merge->left || right == NO_SYMBOL || symbols[right].id != merge->right)
            continue;  // one of the two has been joined to another since
        symbols[left].id = merge->result;
        symbols[left].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[left].next != NO_SYMBOL)
            symbols[symbols[left].next].previous = left;
        push_pair(bpe, scratch, symbols[left].previous, left);
        push_pair(bpe, scratch, left, symbols[left].next);
    }
}

static void encode_part(const struct bpe *bpe, const struct vocabulary *vocabulary, struct bpe_scratch *scratch,
                        const char *part, size_t size, struct token_list *ids)
{
    symbols_from_word(bpe, vocabulary, scratch, part, size);
    merge_symbols(bpe, scratch);
    for (uint32_t i = 0; i < scratch->symbol_count; i++) {
        if (scratch->symbols[i].id >= 0)
            token_list_add(ids, scratch->symbols[i].id);
    }
}

void bpe_encode(const struct bpe *bpe, const struct vocabulary *vocabulary, struct bpe_scratch *scratch, const char *word,
                size_t size, struct token_list *ids)
{
    if (bpe->ignore_merges) {
        int32_t whole = vocabulary_find_model(vocabulary, word, size);
        if (whole >= 0) {
            token_list_add(ids, whole);
            return;
        }
    }
    // SentencePiece reads a text as one word; parts that no merge can join are merged apart, in cache.
    size_t start = 0;
    for (size_t at = 1; bpe->cut_at_mark && at + MARK_SIZE <= size; at++) {
        const char *found = memchr(word + at, mark[0], size - MARK_SIZE - at + 1);
        if (found == NULL)
            break;
        at = (size_t)(found - word);
        if (memcmp(found, mark, MARK_SIZE) == 0 && !(at >= MARK_SIZE && memcmp(found - MARK_SIZE, mark, MARK_SIZE) == 0)) {
            encode_part(bpe, vocabulary, scratch, word + start, at - start, ids);
            start = at;
        }
    }
    encode_part(bpe, vocabulary, scratch, word + start, size - start, ids);
}
