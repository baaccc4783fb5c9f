/* text_values.c - see text_values.h. */
#include "sample/text_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "text/retokenize.h"

enum {
    TAIL = 4,        // tokens at a text's end that are run again at each step: a longer text may cut these characters otherwise
    ROWS_MAX = 1024, // of one batch
};
_Static_assert((int)ROWS_MAX <= (int)MODEL_ROWS_MAX, "a batch fits the model");

struct value_text {
    struct text_values *values;
    struct value_text *next, **link;  // of all texts
    struct buffer text;               // whole characters
    struct text_stream stream;        // a character that has only begun
    bool ended;                       // a stop token came
    int32_t sequence;                 // -1: nothing is in the cache
    struct token_list kept;           // what the sequence holds
    uint64_t used;
};

/* One ask in the batch. */
struct asked {
    const struct value_ask *ask;
    struct token_list *ids;           // (K) of the text with each candidate
    int32_t *rows;                    // (K) whose value is the candidate's; -1: it has none
    size_t whole;                     // a candidate that has a row
    size_t keep;                      // the sequence is to hold so many tokens of it
    int32_t keep_row;                 // the row that ends there; -1: it holds them already
};

struct text_values {
    const struct model *model;
    const struct tokenizer *tokenizer, *base_tokenizer;
    struct cache *cache;
    struct value_text *texts;
    uint64_t clock;
    struct asked *asked;              // of the batch
    size_t asked_count, asked_capacity;
    struct row rows[ROWS_MAX];
    size_t row_count;
    float *hidden;                    // (hidden_rows, C)
    float *row_values;                // (hidden_rows)
    size_t hidden_rows;
};

/* ---- texts ---- */

struct text_values *text_values_open(const struct model *model, const struct tokenizer *tokenizer,
                                     const struct tokenizer *base_tokenizer, size_t positions)
{
    struct text_values *values = memory_alloc(1, sizeof *values);
    size_t position_max = (size_t)model_config(model)->position_max;
    values->model = model;
    values->tokenizer = tokenizer;
    values->base_tokenizer = base_tokenizer;
    // For one text, its rows, and those of the batch before, which are given back only when the next begins.
    size_t least = position_max + 2 * ROWS_MAX + 4 * CACHE_PAGE_POSITIONS;
    values->cache = cache_open(model, positions + least);
    return values;
}

void text_values_close(struct text_values *values)
{
    if (values == NULL)
        return;
    CHECK(values->texts == NULL);
    cache_close(values->cache);
    free(values->asked);
    free(values->hidden);
    free(values->row_values);
    free(values);
}

static struct value_text *text_new(struct text_values *values)
{
    struct value_text *text = memory_alloc(1, sizeof *text);
    text->values = values;
    text->sequence = -1;
    text->used = ++values->clock;
    text->next = values->texts;
    text->link = &values->texts;
    if (text->next != NULL)
        text->next->link = &text->next;
    values->texts = text;
    return text;
}

static void text_forget(struct value_text *text)
{
    if (text->sequence >= 0)
        sequence_close(text->values->cache, text->sequence);
    text->sequence = -1;
    text->kept.count = 0;
}

struct value_text *value_text_open(struct text_values *values, const char *prompt, bool begins)
{
    struct value_text *text = text_new(values);
    buffer_append(&text->text, prompt, strlen(prompt));
    text->stream.started = !begins;
    return text;
}

struct value_text *value_text_fork(struct value_text *from)
{
    struct value_text *text = text_new(from->values);
    buffer_append(&text->text, from->text.data, from->text.size);
    text->stream = from->stream;
    text->ended = from->ended;
    if (from->sequence >= 0) {
        text->sequence = sequence_fork(from->values->cache, from->sequence);
        for (size_t t = 0; t < from->kept.count; t++)
            token_list_add(&text->kept, from->kept.at[t]);
    }
    return text;
}

void value_text_close(struct value_text *text)
{
    if (text == NULL)
        return;
    text_forget(text);
    *text->link = text->next;
    if (text->next != NULL)
        text->next->link = text->link;
    free(text->kept.at);
    free(text->text.data);
    free(text);
}

void value_text_push(struct value_text *text, int32_t token)
{
    const struct tokenizer *base = text->values->base_tokenizer;
    if (tokenizer_is_stop(base, token))
        text->ended = true;
    else
        text_stream_push(&text->stream, base, token, &text->text);
}

/* The ids of the text with one more token; the text stays as it is. */
static void candidate_ids(struct value_text *text, int32_t candidate, struct token_list *ids)
{
    struct text_stream stream = text->stream;
    bool ended = text->ended;
    size_t size = text->text.size;
    value_text_push(text, candidate);
    retokenize_text(text->values->tokenizer, size > 0 || text->text.size > 0 ? text->text.data : "", text->text.size, text->ended,
                    ids);
    text->text.size = size;
    text->stream = stream;
    text->ended = ended;
}

/* ---- room in the cache ---- */

static bool in_batch(const struct text_values *values, const struct value_text *text)
{
    for (size_t i = 0; i < values->asked_count; i++)
        if (values->asked[i].ask->text == text)
            return true;
    return false;
}

/* Gives up the text outside the batch, other than this one,
   that was not asked about for the longest time.  False: there is none. */
static bool evict(struct text_values *values, const struct value_text *except)
{
    struct value_text *oldest = NULL;
    for (struct value_text *text = values->texts; text != NULL; text = text->next)
        if (text->sequence >= 0 && text != except && (oldest == NULL || text->used < oldest->used) && !in_batch(values, text))
            oldest = text;
    if (oldest != NULL)
        text_forget(oldest);
    return oldest != NULL;
}

/* ---- one ask: the rows that it adds to the batch ---- */

static void asked_free(struct asked *asked)
{
    for (size_t k = 0; k < asked->ask->K; k++)
        free(asked->ids[k].at);
    free(asked->ids);
    free(asked->rows);
}

static bool ids_fit(const struct text_values *values, const struct token_list *ids)
{
    const struct model_config *config = model_config(values->model);
    bool fit = ids->count >= 1 && ids->count <= (size_t)config->position_max;
    for (size_t t = 0; t < ids->count && fit; t++)
        fit = ids->at[t] < config->vocab_size;
    return fit;
}

static size_t common_prefix(const struct token_list *a, const struct token_list *b, size_t limit)
{
    size_t t = 0;
    while (t < limit && t < a->count && t < b->count && a->at[t] == b->at[t])
        t++;
    return t;
}

/* Tokenizes the candidates and finds what all begin with.  False when none fits the value model. */
static bool asked_begin(struct text_values *values, struct asked *asked, struct value_ask *ask)
{
    const size_t K = ask->K;
    *asked = (struct asked){ .ask = ask, .whole = K, .keep_row = -1 };
    asked->ids = memory_alloc(K, sizeof *asked->ids);
    asked->rows = memory_alloc(K, sizeof *asked->rows);
    size_t common = SIZE_MAX;
    for (size_t k = 0; k < K; k++) {
        candidate_ids(ask->text, ask->candidates[k], &asked->ids[k]);
        asked->rows[k] = -1;
        ask->too_long |= asked->ids[k].count > (size_t)model_config(values->model)->position_max;
        if (!ids_fit(values, &asked->ids[k]))
            continue;
        if (asked->whole == K)
            asked->whole = k;
        common = common_prefix(&asked->ids[asked->whole], &asked->ids[k], common);
        common = common < asked->ids[k].count ? common : common - 1;  // the last token's row is the value's
    }
    if (asked->whole == K)
        return false;
    struct value_text *text = ask->text;
    const struct token_list *ids = &asked->ids[asked->whole];
    text->used = ++values->clock;
    if (text->kept.count > common || common_prefix(&text->kept, ids, text->kept.count) < text->kept.count)
        text_forget(text);
    asked->keep = common > TAIL ? common - TAIL : 0;
    if (asked->keep < text->kept.count)
        asked->keep = text->kept.count;
    return true;
}

/* The row for a token after parent among the rows of this ask, which begin at first; added if it is not there. */
static int32_t add_row(struct text_values *values, size_t first, int32_t sequence, int32_t token, int32_t parent)
{
    for (size_t m = first; m < values->row_count; m++)
        if (values->rows[m].token == token && values->rows[m].parent == parent)
            return (int32_t)m;
    if (values->row_count == ROWS_MAX)
        return -1;
    values->rows[values->row_count] = (struct row){ sequence, token, parent };
    return (int32_t)values->row_count++;
}

/* False when the batch has no room for all of them: it is then as before. */
static bool asked_rows(struct text_values *values, struct asked *asked)
{
    struct value_text *text = asked->ask->text;
    size_t first = values->row_count;
    if (text->sequence < 0)
        text->sequence = sequence_open(values->cache);
    bool room = true;
    for (size_t k = 0; k < asked->ask->K && room; k++) {
        const struct token_list *ids = &asked->ids[k];
        if (!ids_fit(values, ids))
            continue;
        int32_t row = ROW_CACHED;
        for (size_t t = text->kept.count; t < ids->count && room; t++) {
            row = add_row(values, first, text->sequence, ids->at[t], row);
            room = row >= 0;
            if (k == asked->whole && t + 1 == asked->keep)
                asked->keep_row = row;
        }
        asked->rows[k] = row;
    }
    while (room && cache_pages_needed(values->cache, values->rows, values->row_count) > cache_free_pages(values->cache))
        room = evict(values, text);
    if (!room)
        values->row_count = first;
    return room;
}

/* Keeps what is to be kept already, where it is long.  False when the cache has no room before the batch has run. */
static bool asked_extend(struct text_values *values, struct asked *asked)
{
    enum { ROWS_FEW = 32 };  // these go with the batch
    struct value_text *text = asked->ask->text;
    size_t first = text->kept.count, T = asked->keep - first;
    if (T <= ROWS_FEW)
        return true;
    while (cache_free_pages(values->cache) < T / CACHE_PAGE_POSITIONS + 2)
        if (!evict(values, text))
            return false;
    const int32_t *ids = asked->ids[asked->whole].at;
    if (text->sequence < 0)
        text->sequence = sequence_open(values->cache);
    model_extend(values->model, values->cache, text->sequence, ids + first, T, NULL, NULL);
    for (size_t t = first; t < asked->keep; t++)
        token_list_add(&text->kept, ids[t]);
    return true;
}

/* ---- the batch ---- */

static void batch_run(struct text_values *values)
{
    size_t M = values->row_count, C = (size_t)model_config(values->model)->channel_count;
    if (M > values->hidden_rows) {
        free(values->hidden);
        free(values->row_values);
        values->hidden_rows = M;
        values->hidden = memory_alloc_aligned(M * C, sizeof(float));
        values->row_values = memory_alloc(M, sizeof(float));
    }
    model_forward(values->model, values->cache, values->rows, M, values->hidden);
    model_values(values->model, values->hidden, M, values->row_values);
    for (size_t i = 0; i < values->asked_count; i++) {
        struct asked *asked = &values->asked[i];
        struct value_text *text = asked->ask->text;
        for (size_t k = 0; k < asked->ask->K; k++)
            if (asked->rows[k] >= 0)
                asked->ask->values[k] = values->row_values[asked->rows[k]];
        if (asked->keep_row >= 0) {
            row_keep(values->cache, (size_t)asked->keep_row);
            for (size_t t = text->kept.count; t < asked->keep; t++)
                token_list_add(&text->kept, asked->ids[asked->whole].at[t]);
        }
        asked_free(asked);
    }
    values->asked_count = values->row_count = 0;
}

/* Adds the ask to the batch.  False when the batch has to run first; an ask that does not even fit alone gets no values. */
static bool batch_add(struct text_values *values, struct value_ask *ask)
{
    struct asked asked;
    ask->too_long = false;
    for (size_t k = 0; k < ask->K; k++)
        ask->values[k] = NAN;
    bool added = asked_begin(values, &asked, ask);
    bool done = !added;
    if (added && asked_extend(values, &asked) && asked_rows(values, &asked)) {
        if (values->asked_count == values->asked_capacity) {
            values->asked_capacity = values->asked_capacity ? 2 * values->asked_capacity : 32;
            values->asked = memory_grow(values->asked, values->asked_capacity, sizeof *values->asked);
        }
        values->asked[values->asked_count++] = asked;
        return true;
    }
    asked_free(&asked);
    return done || values->asked_count == 0;
}

void text_values_get(struct text_values *values, struct value_ask *asks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!batch_add(values, &asks[i])) {
            batch_run(values);
            CHECK(batch_add(values, &asks[i]));
        }
    }
    if (values->asked_count > 0)
        batch_run(values);
}
