/* added.c - see added.h. */
#include "text/added.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "base/utf8.h"


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
    struct buffer normal = { 0 }, spare = { 0 };
    sort_tokens(added);
    for (size_t i = 0; i < added->count; i++) {
        struct piece piece = vocabulary->pieces[added->tokens[i].id];
        if (added->tokens[i].normalized) {
            normalizer_run(normalizer, piece.at, piece.size, &normal, &spare);
            tree_add(&added->normalized, normal.data, normal.size, (int32_t)i);
        } else {
            tree_add(&added->raw, piece.at, piece.size, (int32_t)i);
        }
    }
    free(normal.data);
    free(spare.data);
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

static size_t character_before(const char *text, size_t end)
{
    size_t start = end - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
        start--;
    return start;
}

static bool is_space(const char *at, size_t size)
{
    uint32_t code_point = utf8_code_point(at, size);
    if (code_point < 0x80)
        return code_point == ' ' || (code_point >= '\t' && code_point <= '\r');
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code_point);
    return code_point == 0x85 || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL
           || category == UTF8PROC_CATEGORY_ZP;
}

/* Alphabetic characters, marks, digits, connectors and joiners: the \w of the tokenizers library's single_word. */
static bool is_word(const char *at, size_t size)
{
    uint32_t code_point = utf8_code_point(at, size);
    if (code_point == 0x200c || code_point == 0x200d || (code_point >= 0x24b6 && code_point <= 0x24e9))
        return true;
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
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

const struct added_token *added_next(const struct added *added, const struct added_tree *tree, const char *text, size_t size,
                                     size_t from, bool markup, size_t *start, size_t *end)
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
        if ((token->special && !markup) || (token->single_word && !stands_alone(text, size, at, at + length))) {
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
