/* added.c - see added.h. */
#include "text/added.h"

#include <stdlib.h>

#include "base/utf8.h"
#include "text/character.h"

void added_add(struct added *added, struct added_token token)
{
    if (added->count == added->capacity) {
        added->capacity = added->capacity ? 2 * added->capacity : 16;
        added->tokens = memory_grow(added->tokens, added->capacity, sizeof *added->tokens);
    }
    token.order = (uint32_t)added->count;
    added->tokens[added->count++] = token;
}

static int compare_tokens(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    return x->id != y->id ? (x->id > y->id) - (x->id < y->id) : (x->order > y->order) - (x->order < y->order);
}

static void sort_tokens(struct added *added)
{
    if (added->count == 0)
        return;
    qsort(added->tokens, added->count, sizeof *added->tokens, compare_tokens);
    size_t kept = 1;
    for (size_t i = 1; i < added->count; i++) {
        if (added->tokens[i].id != added->tokens[kept - 1].id)
            added->tokens[kept++] = added->tokens[i];
    }
    added->count = kept;
}

static int32_t tree_node(struct added_tree *tree)
{
    if (tree->node_count == tree->node_capacity) {
        tree->node_capacity = tree->node_capacity ? 2 * tree->node_capacity : 64;
        tree->tokens = memory_grow(tree->tokens, tree->node_capacity, sizeof *tree->tokens);
    }
    tree->tokens[tree->node_count] = -1;
    return (int32_t)tree->node_count++;
}

static void tree_add(struct added_tree *tree, const char *text, size_t size, int32_t token)
{
    if (size == 0)
        return;
    if (tree->node_count == 0)
        tree_node(tree);
    tree->first[(unsigned char)text[0]] = true;
    int32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        uint64_t edge = pair_of(node, (unsigned char)text[i]);
        node = pair_table_find(&tree->edges, edge);
        if (node < 0) {
            node = tree_node(tree);
            *pair_table_add(&tree->edges, edge) = node;
        }
    }
    if (tree->tokens[node] < 0)
        tree->tokens[node] = token;
}

void added_finish(struct added *added, const struct vocabulary *vocabulary, const struct normalizer *normalizer)
{
    struct buffer normal = { 0 };
    struct normalizer_scratch scratch = { 0 };
    sort_tokens(added);
    for (size_t i = 0; i < added->count; i++) {
        struct piece piece = vocabulary->pieces[added->tokens[i].id];
        if (added->tokens[i].normalized) {
            normalizer_run(normalizer, &scratch, piece.at, piece.size, &normal);
            tree_add(&added->normalized, normal.data, normal.size, (int32_t)i);
        } else {
            tree_add(&added->raw, piece.at, piece.size, (int32_t)i);
        }
    }
    free(normal.data);
    normalizer_scratch_free(&scratch);
}

void added_free(struct added *added)
{
    free(added->tokens);
    pair_table_free(&added->raw.edges);
    free(added->raw.tokens);
    pair_table_free(&added->normalized.edges);
    free(added->normalized.tokens);
}

const struct added_token *added_find(const struct added *added, int32_t id)
{
    size_t low = 0, high = added->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (added->tokens[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < added->count && added->tokens[low].id == id ? &added->tokens[low] : NULL;
}

static bool is_space(const char *at, size_t size)
{
    return character_is_space(utf8_code_point(at, size));
}

static bool is_word(const char *at, size_t size)
{
    return character_is_word(utf8_code_point(at, size));
}

static bool stands_alone(const char *text, size_t size, size_t start, size_t end)
{
    if (start > 0) {
        size_t before = character_before(text, start);
        if (is_word(text + before, start - before))
            return false;
    }
    return end == size || !is_word(text + end, utf8_size((unsigned char)text[end]));
}

/* The longest token of the tree at the start of text, as an index; -1: none. */
static int32_t longest_at(const struct added_tree *tree, const char *text, size_t size, size_t *length)
{
    int32_t node = 0, best = -1;
    for (size_t i = 0; i < size; i++) {
        node = pair_table_find(&tree->edges, pair_of(node, (unsigned char)text[i]));
        if (node < 0)
            break;
        if (tree->tokens[node] >= 0) {
            best = tree->tokens[node];
            *length = i + 1;
        }
    }
    return best;
}

static bool touches_plain(const struct added_reading *reading, size_t start, size_t end)
{
    size_t low = 0, high = reading->plain_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (reading->plain[middle].end <= start)
            low = middle + 1;
        else
            high = middle;
    }
    return low < reading->plain_count && reading->plain[low].start < end;
}

const struct added_token *added_next(const struct added *added, const struct added_tree *tree, const char *text, size_t size,
                                     size_t from, const struct added_reading *reading, size_t *start, size_t *end)
{
    if (tree->node_count == 0)
        return NULL;
    size_t length = 0;
    for (size_t at = from; at < size; at++) {
        if (!tree->first[(unsigned char)text[at]])
            continue;
        int32_t index = longest_at(tree, text + at, size - at, &length);
        if (index < 0)
            continue;
        const struct added_token *token = &added->tokens[index];
        bool unread = token->special && (!reading->markup || touches_plain(reading, at, at + length));
        if (unread || (token->single_word && !stands_alone(text, size, at, at + length))) {
            at += length - 1;  // as the tokenizers library, which does not look inside what it passes over
            continue;
        }
        *start = at;
        *end = at + length;
        for (size_t before; token->lstrip && *start > from; *start = before) {
            before = character_before(text, *start);
            if (!is_space(text + before, *start - before))
                break;
        }
        for (size_t step; token->rstrip && *end < size; *end += step) {
            step = utf8_size((unsigned char)text[*end]);
            if (!is_space(text + *end, step))
                break;
        }
        return token;
    }
    return NULL;
}
