/*
 * bpe_train.c - learns a byte-level BPE tokenizer from a text.
 *
 * The most frequent pair of neighbouring symbols, counted over the distinct words, becomes a token; of equally
 * frequent pairs that with the smaller ids.  Only words that hold the pair are touched, and counts are changed in
 * place, so a step costs what it changes.  Ids and ties are those of the tokenizers library's BpeTrainer.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "text/tokenizer_parts.h"

enum { WORD_TEXTS_BYTES_MAX = INT32_MAX };

struct word {
    const char *text;  // letters that stand for bytes
    size_t size;
    int64_t count;     // how often the text has it
    int32_t *symbols;  // (symbol_count) token ids
    size_t symbol_count;
};

struct pair {
    int32_t left, right;
    int64_t count;
    int32_t *words;  // (word_count) indexes of words that hold or held it
    size_t word_count, word_capacity;
    bool merged, touched;
};

struct candidate {
    int64_t count;  // when it was pushed; the pair's own count may be lower by now
    int32_t pair;
};

struct trainer_state {
    struct tokenizer *tokenizer;
    struct arena texts;
    struct text_table word_ids;
    struct word *words;
    size_t word_count, word_capacity;
    struct pair_table pair_ids;
    struct pair *pairs;
    size_t pair_count, pair_capacity;
    struct candidate *heap;  // largest first
    size_t heap_count, heap_capacity;
    struct token_list touched;  // pairs that grew in this step
};

static void count_word(void *context, const char *text, size_t size)
{
    struct trainer_state *state = context;
    int32_t index = text_table_find(&state->word_ids, text, size);
    if (index < 0) {
        if (state->word_count == state->word_capacity) {
            state->word_capacity = state->word_capacity ? 2 * state->word_capacity : 4096;
            state->words = memory_grow(state->words, state->word_capacity, sizeof *state->words);
        }
        CHECK(state->word_count < INT32_MAX);
        index = (int32_t)state->word_count++;
        const char *copy = arena_text(&state->texts, text, size);
        state->words[index] = (struct word){ .text = copy, .size = size };
        *text_table_add(&state->word_ids, copy, size) = index;
    }
    state->words[index].count++;
}

/* Documents stand between empty lines. */
static void count_words(struct trainer_state *state, const char *text, size_t size)
{
    struct pretokenizer_scratch scratch = { 0 };
    size_t start = 0;
    for (size_t line = 0; line <= size;) {
        const char *newline = line < size ? memchr(text + line, '\n', size - line) : NULL;
        size_t end = newline != NULL ? (size_t)(newline - text) : size;
        bool empty = end == line || (end == line + 1 && text[line] == '\r');
        if (empty || end == size) {
            size_t stop = empty ? line : end;
            while (empty && stop > start && (text[stop - 1] == '\n' || text[stop - 1] == '\r'))
                stop--;
            if (stop > start)
                pretokenizer_run(&state->tokenizer->pretokenizer, &scratch, text + start, stop - start, true, count_word, state);
            start = end + 1;
        }
        line = end + 1;
    }
    pretokenizer_scratch_free(&scratch);
}

/* ---- the heap of candidates ---- */

static bool comes_first(const struct trainer_state *state, struct candidate a, struct candidate b)
{
    if (a.count != b.count)
        return a.count > b.count;
    const struct pair *x = &state->pairs[a.pair], *y = &state->pairs[b.pair];
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static void heap_push(struct trainer_state *state, int32_t pair)
{
    if (state->heap_count == state->heap_capacity) {
        state->heap_capacity = state->heap_capacity ? 2 * state->heap_capacity : 4096;
        state->heap = memory_grow(state->heap, state->heap_capacity, sizeof *state->heap);
    }
    struct candidate entry = { state->pairs[pair].count, pair };
    size_t at = state->heap_count++;
    for (size_t parent; at > 0 && comes_first(state, entry, state->heap[parent = (at - 1) / 2]); at = parent)
        state->heap[at] = state->heap[parent];
    state->heap[at] = entry;
}

static struct candidate heap_pop(struct trainer_state *state)
{
    struct candidate *heap = state->heap, top = heap[0], last = heap[--state->heap_count];
    size_t at = 0, count = state->heap_count;
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_first(state, heap[child + 1], heap[child]))
            child++;
        if (!comes_first(state, heap[child], last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* ---- pairs ---- */

static int32_t pair_index(struct trainer_state *state, int32_t left, int32_t right)
{
    int32_t *index = pair_table_add(&state->pair_ids, pair_of(left, right));
    if (*index < 0) {
        if (state->pair_count == state->pair_capacity) {
            state->pair_capacity = state->pair_capacity ? 2 * state->pair_capacity : 4096;
            state->pairs = memory_grow(state->pairs, state->pair_capacity, sizeof *state->pairs);
        }
        CHECK(state->pair_count < INT32_MAX);
        *index = (int32_t)state->pair_count++;
        state->pairs[*index] = (struct pair){ .left = left, .right = right };
    }
    return *index;
}

/* The pair occurs once more in the word. */
static void pair_add(struct trainer_state *state, int32_t left, int32_t right, int32_t word)
{
    int32_t index = pair_index(state, left, right);
    struct pair *pair = &state->pairs[index];
    pair->count += state->words[word].count;
    if (pair->word_count == 0 || pair->words[pair->word_count - 1] != word) {
        if (pair->word_count == pair->word_capacity) {
            pair->word_capacity = pair->word_capacity ? 2 * pair->word_capacity : 4;
            pair->words = memory_grow(pair->words, pair->word_capacity, sizeof *pair->words);
        }
        pair->words[pair->word_count++] = word;
    }
    if (!pair->touched) {
        pair->touched = true;
        token_list_add(&state->touched, index);
    }
}

static void pair_remove(struct trainer_state *state, int32_t left, int32_t right, int32_t word)
{
    state->pairs[pair_index(state, left, right)].count -= state->words[word].count;
}

static void push_touched(struct trainer_state *state)
{
    for (size_t i = 0; i < state->touched.count; i++) {
        state->pairs[state->touched.at[i]].touched = false;
        heap_push(state, state->touched.at[i]);
    }
    state->touched.count = 0;
}

/* ---- learning ---- */

/* Id 0 is the end of a text, 1 .. 256 are the letters of the bytes in the order of their code points. */
static void add_letters(struct tokenizer *tokenizer, int32_t letter_ids[BPE_LETTERS])
{
    static const char end_of_text[] = "<|endoftext|>";
    CHECK(vocabulary_add(&tokenizer->vocabulary, 0, end_of_text, strlen(end_of_text), false, tokenizer->name) == 0);
    added_add(&tokenizer->added, (struct added_token){ .id = 0, .special = true });
    int32_t next = 1;
    for (uint32_t letter = 0; letter < BPE_LETTERS; letter++) {
        if (byte_of_letter(letter) < 0)
            continue;
        char text[UTF8_SIZE_MAX];
        size_t size = utf8_write(letter, text);
        CHECK(vocabulary_add(&tokenizer->vocabulary, next, text, size, false, tokenizer->name) == 0);
        letter_ids[letter] = next++;
    }
}

static void read_symbols(struct trainer_state *state, const int32_t letter_ids[BPE_LETTERS])
{
    for (size_t w = 0; w < state->word_count; w++) {
        struct word *word = &state->words[w];
        word->symbols = arena_alloc(&state->texts, word->size, sizeof *word->symbols);
        for (size_t at = 0, step; at < word->size; at += step) {
            step = utf8_size((unsigned char)word->text[at]);
            word->symbols[word->symbol_count++] = letter_ids[utf8_code_point(word->text + at, step)];
        }
        for (size_t i = 0; i + 1 < word->symbol_count; i++)
            pair_add(state, word->symbols[i], word->symbols[i + 1], (int32_t)w);
    }
    push_touched(state);
}

static void merge_in_word(struct trainer_state *state, int32_t index, int32_t left, int32_t right, int32_t result)
{
    struct word *word = &state->words[index];
    int32_t *symbols = word->symbols;
    size_t kept = 0;
    for (size_t i = 0; i < word->symbol_count; kept++) {
        if (i + 1 == word->symbol_count || symbols[i] != left || symbols[i + 1] != right) {
            symbols[kept] = symbols[i++];
            continue;
        }
        if (kept > 0) {
            pair_remove(state, symbols[kept - 1], left, index);
            pair_add(state, symbols[kept - 1], result, index);
        }
        if (i + 2 < word->symbol_count) {
            pair_remove(state, right, symbols[i + 2], index);
            pair_add(state, result, symbols[i + 2], index);
        }
        symbols[kept] = result;
        i += 2;
    }
    word->symbol_count = kept;
}

/* The id of left and right joined, a new one if need be; -1 when the piece would be too long. */
static int32_t joined_token(struct tokenizer *tokenizer, int32_t left, int32_t right)
{
    struct piece a = tokenizer->vocabulary.pieces[left], b = tokenizer->vocabulary.pieces[right];
    size_t size = (size_t)a.size + b.size;
    if (size > PIECE_SIZE_MAX)
        return -1;
    char *joined = memory_alloc(size, 1);
    memcpy(joined, a.at, a.size);
    memcpy(joined + a.size, b.at, b.size);
    int32_t id = vocabulary_find(&tokenizer->vocabulary, joined, size);
    if (id < 0) {
        id = (int32_t)tokenizer->vocabulary.count;
        CHECK(vocabulary_add(&tokenizer->vocabulary, id, joined, size, false, tokenizer->name) == 0);
    }
    free(joined);
    return id;
}

static void learn_merges(struct trainer_state *state, size_t vocab_size)
{
    struct tokenizer *tokenizer = state->tokenizer;
    while (tokenizer->vocabulary.count < vocab_size && state->heap_count > 0) {
        struct candidate top = heap_pop(state);
        struct pair *pair = &state->pairs[top.pair];
        int32_t left = pair->left, right = pair->right;
        if (pair->count < top.count) {
            if (pair->count > 0)
                heap_push(state, top.pair);
            continue;
        }
        int32_t result = pair->count > 0 ? joined_token(tokenizer, left, right) : -1;
        if (result < 0)
            continue;
        // A pair comes back when one token has been joined in two ways; its merge keeps its rank.
        if (!pair->merged)
            CHECK(bpe_add_merge(&tokenizer->bpe, &tokenizer->vocabulary, left, right) == 0);
        int32_t *words = pair->words;
        size_t word_count = pair->word_count;
        pair->merged = true;
        pair->words = NULL;
        pair->word_count = pair->word_capacity = 0;
        for (size_t i = 0; i < word_count; i++)
            merge_in_word(state, words[i], left, right, result);
        free(words);
        state->pairs[top.pair].count = 0;
        push_touched(state);
    }
}

struct tokenizer *tokenizer_train(const char *text, size_t size, size_t vocab_size)
{
    struct tokenizer *tokenizer = tokenizer_new("trained");
    struct trainer_state state = { .tokenizer = tokenizer };
    struct buffer repaired = { 0 };
    int32_t letter_ids[BPE_LETTERS];
    arena_init(&state.texts, "words", (size_t)16 * WORD_TEXTS_BYTES_MAX);
    if (utf8_valid_prefix(text, size) != size) {
        utf8_append_repaired(&repaired, text, size);
        text = repaired.data;
        size = repaired.size;
    }
    tokenizer_use_byte_level(tokenizer, false, true);
    decoder_add(&tokenizer->decoder, DECODER_BYTE_LEVEL, NULL, NULL, 0);
    add_letters(tokenizer, letter_ids);
    tokenizer->begin = tokenizer->end = 0;
    token_list_add(&tokenizer->prefix, 0);

    count_words(&state, text, size);
    read_symbols(&state, letter_ids);
    learn_merges(&state, vocab_size);
    tokenizer_finish(tokenizer);

    for (size_t i = 0; i < state.pair_count; i++)
        free(state.pairs[i].words);
    free(state.pairs);
    free(state.heap);
    free(state.touched.at);
    free(state.words);
    free(repaired.data);
    pair_table_free(&state.pair_ids);
    text_table_free(&state.word_ids);
    arena_free(&state.texts);
    return tokenizer;
}
