/* unigram.c - see unigram.h. */
#include "text/unigram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/bpe.h"

/* The tokenizers library's distance of an unknown character from the least score. */
static const double unknown_penalty = 10.0;

/* The pieces as a tree of bytes.  Nodes are numbered level by level, so the children of a node stand side by side. */
struct unigram_trie {
    struct trie_node {
        uint32_t children;     // first of them
        uint32_t child_count;
        int32_t id;            // of the piece that ends here; -1: none
        bool special;          // it is a special token
    } *nodes;
    unsigned char *bytes;      // byte that leads to each node; apart, to be searched fast
    size_t count, capacity;
};

static uint32_t trie_add(struct unigram_trie *trie, unsigned char byte)
{
    if (trie->count == trie->capacity) {
        trie->capacity = trie->capacity ? 2 * trie->capacity : 1024;
        trie->nodes = memory_grow(trie->nodes, trie->capacity, sizeof *trie->nodes);
        trie->bytes = memory_grow(trie->bytes, trie->capacity, 1);
    }
    trie->nodes[trie->count] = (struct trie_node){ .id = -1 };
    trie->bytes[trie->count] = byte;
    return (uint32_t)trie->count++;
}

struct sorted_piece {
    const char *at;
    uint32_t size;
    int32_t id;
};

static int compare_pieces(const void *a, const void *b)
{
    const struct sorted_piece *x = a, *y = b;
    int order = memcmp(x->at, y->at, x->size < y->size ? x->size : y->size);
    return order != 0 ? order : (x->size > y->size) - (x->size < y->size);
}

/* The pieces that share the bytes which lead to a node: a run of the sorted ones. */
struct trie_run {
    size_t first, last;
    uint32_t node, depth;
};

/* Level by level: each run gives a run for each next byte. */
static struct unigram_trie *trie_make(const struct sorted_piece *pieces, size_t count)
{
    struct unigram_trie *trie = memory_alloc(1, sizeof *trie);
    size_t run_count = 0, capacity = 1024;
    struct trie_run *runs = memory_alloc(capacity, sizeof *runs);
    runs[run_count++] = (struct trie_run){ 0, count, trie_add(trie, 0), 0 };
    for (size_t r = 0; r < run_count; r++) {
        struct trie_run run = runs[r];
        size_t at = run.first;
        if (at < run.last && pieces[at].size == run.depth)
            trie->nodes[run.node].id = pieces[at++].id;
        trie->nodes[run.node].children = (uint32_t)trie->count;
        for (size_t end; at < run.last; at = end) {
            unsigned char byte = (unsigned char)pieces[at].at[run.depth];
            for (end = at + 1; end < run.last && (unsigned char)pieces[end].at[run.depth] == byte;)
                end++;
            if (run_count == capacity)
                runs = memory_grow(runs, capacity *= 2, sizeof *runs);
            runs[run_count++] = (struct trie_run){ at, end, trie_add(trie, byte), run.depth + 1 };
            trie->nodes[run.node].child_count++;
        }
    }
    free(runs);
    return trie;
}

static bool is_piece(const struct unigram *unigram, const struct vocabulary *vocabulary, size_t id)
{
    return id < unigram->score_count && !isnan(unigram->scores[id]) && vocabulary->pieces[id].at != NULL
           && !vocabulary->pieces[id].added_only;
}

void unigram_finish(struct unigram *unigram, const struct vocabulary *vocabulary, const struct added *added)
{
    struct sorted_piece *pieces = memory_alloc(vocabulary->count + 1, sizeof *pieces);
    size_t count = 0;
    double least = INFINITY;
    for (size_t id = 0; id < vocabulary->count; id++) {
        if (!is_piece(unigram, vocabulary, id))
            continue;
        least = fmin(least, unigram->scores[id]);
        if (vocabulary->pieces[id].size > 0)
            pieces[count++] = (struct sorted_piece){ vocabulary->pieces[id].at, vocabulary->pieces[id].size, (int32_t)id };
    }
    if (count > 0)
        qsort(pieces, count, sizeof *pieces, compare_pieces);
    unigram->trie = trie_make(pieces, count);
    for (size_t i = 0; i < unigram->trie->count; i++) {
        int32_t id = unigram->trie->nodes[i].id;
        const struct added_token *token = id >= 0 ? added_find(added, id) : NULL;
        unigram->trie->nodes[i].special = token != NULL && token->special;
    }
    unigram->unknown_score = least - unknown_penalty;
    for (unsigned byte = 0; byte < 256; byte++)
        unigram->bytes[byte] = token_of_byte(vocabulary, byte);
    free(pieces);
}

void unigram_free(struct unigram *unigram)
{
    if (unigram->trie != NULL) {
        free(unigram->trie->nodes);
        free(unigram->trie->bytes);
    }
    free(unigram->trie);
    free(unigram->scores);
}

double unigram_written_score(const struct unigram *unigram, size_t id)
{
    return isnan(unigram->scores[id]) ? 0 : unigram->scores[id];
}

/* The best way to the end of a character. */
struct unigram_node {
    double score;
    uint32_t start;  // of its last piece
    int32_t id;      // of its last piece, NO_WAY, or NO_PIECE
};
enum { NO_WAY = -2, NO_PIECE = -1 };

void unigram_scratch_free(struct unigram_scratch *scratch)
{
    free(scratch->nodes);
}

static void offer(struct unigram_node *node, double score, size_t start, int32_t id)
{
    if (node->id == NO_WAY || score > node->score)
        *node = (struct unigram_node){ score, (uint32_t)start, id };
}

/* nodes[end] becomes the last piece of the best way to cut the first `end` bytes. */
static void find_ways(const struct unigram *unigram, struct unigram_node *nodes, const char *word, size_t size, bool special)
{
    const struct unigram_trie *trie = unigram->trie;
    for (size_t i = 0; i <= size; i++)
        nodes[i] = (struct unigram_node){ .id = NO_WAY };
    for (size_t start = 0, step; start < size; start += step) {
        step = utf8_size((unsigned char)word[start]);
        const struct trie_node *at = &trie->nodes[0];
        bool known = false;
        for (size_t end = start; end < size;) {
            const unsigned char *children = trie->bytes + at->children;
            const unsigned char *found = at->child_count > 0 ? memchr(children, word[end], at->child_count) : NULL;
            if (found == NULL)
                break;
            at = &trie->nodes[found - trie->bytes];
            end++;
            if (at->id < 0 || (at->special && !special))
                continue;
            offer(&nodes[end], nodes[start].score + unigram->scores[at->id], start, at->id);
            known |= end - start == step;
        }
        if (!known)
            offer(&nodes[start + step], nodes[start].score + unigram->unknown_score, start,
                  unigram->unknown >= 0 ? unigram->unknown : NO_PIECE);
    }
}

/* Characters that are no piece; together they may yet be one that scores less than they do. */
static void add_unknown(const struct unigram *unigram, const struct vocabulary *vocabulary, const char *text, size_t size,
                        struct token_list *ids)
{
    int32_t whole = vocabulary_find_model(vocabulary, text, size);
    bool in_bytes = unigram->byte_fallback && whole < 0;
    for (size_t i = 0; i < size && in_bytes; i++)
        in_bytes = unigram->bytes[(unsigned char)text[i]] >= 0;
    for (size_t i = 0; i < size && in_bytes; i++)
        token_list_add(ids, unigram->bytes[(unsigned char)text[i]]);
    if (!in_bytes && (whole >= 0 || unigram->unknown >= 0))
        token_list_add(ids, whole >= 0 ? whole : unigram->unknown);
}

void unigram_encode(const struct unigram *unigram, const struct vocabulary *vocabulary, struct unigram_scratch *scratch,
                    const char *word, size_t size, bool special, struct token_list *ids)
{
    CHECK(size < UINT32_MAX);
    if (size + 1 > scratch->node_capacity) {
        scratch->node_capacity = 2 * (size + 1);
        scratch->nodes = memory_grow(scratch->nodes, scratch->node_capacity, sizeof *scratch->nodes);
    }
    struct unigram_node *nodes = scratch->nodes;
    find_ways(unigram, nodes, word, size, special);
    // Backwards, each node is told where its successor ends; then forwards.
    size_t next = size;
    for (size_t end = size; end > 0;) {
        size_t start = nodes[end].start;
        nodes[end].start = (uint32_t)next;
        next = end;
        end = start;
    }
    for (size_t start = 0, end = next; start < size;) {
        int32_t id = nodes[end].id;
        size_t stop = end;
        while (id == unigram->unknown && stop < size && nodes[nodes[stop].start].id == id)
            stop = nodes[stop].start;
        if (id < 0 || id == unigram->unknown)
            add_unknown(unigram, vocabulary, word + start, stop - start, ids);
        else
            token_list_add(ids, id);
        start = stop;
        end = nodes[stop].start;
    }
}
