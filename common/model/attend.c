/*
 * attend.c - keys and values of rows stored, and rows attending to them; see pass.h.
 */
#include "model/pass.h"

#include <math.h>
#include <string.h>

#include "math/quant.h"

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Neighbouring rows read pages together: as many as make QUERIES_MAX queries for a key/value head. */
enum { QUERIES_MAX = 12 };

size_t attend_rows_max(const struct model_config *config)
{
    size_t G = (size_t)(config->head_count / config->kv_head_count);
    return G < QUERIES_MAX ? QUERIES_MAX / G : 1;
}

/* What one thread works in: q (R G, HS), scores (R G, positions), out (R G, VP PANEL), lanes (R G, PANEL), chain (positions). */
size_t attention_floats(const struct model *model, size_t position_limit)
{
    const struct model_config *config = &model->config;
    size_t G = (size_t)(config->head_count / config->kv_head_count), queries = attend_rows_max(config) * G;
    size_t positions = round_up(position_limit, PANEL), HS = round_up((size_t)config->head_size, PANEL);
    return queries * (HS + positions + HS + PANEL) + positions;
}

/*
 * ---- asking ahead ----
 *
 * Between two passes of a model another one's weights go through the caches, so that pages lie far away.  Few lines are read of
 * each, which the processor does not guess.
 */

enum { LINE_BYTES = 64 };

static void lines_ask(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        __builtin_prefetch(at + i);
}

/* Lines that will be written to. */
static void lines_own(char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        __builtin_prefetch(at + i, 1);
}

/* Where row m of a head goes. */
static void slot_ask(const struct pass *pass, size_t l, size_t m, size_t h)
{
    const struct cache *cache = pass->cache;
    const struct slot *slot = &cache->slots[m];
    size_t HS = (size_t)pass->model->config.head_size, row_bytes = PANEL * cache->element_bytes;
    char *page = cache_at(cache, l, (size_t)slot->page, h), *values = page + HS * row_bytes;
    if (m == 0 || cache->slots[m - 1].page != slot->page)
        lines_own(page, HS * row_bytes);
    for (size_t c = 0; c < HS; c += PANEL)
        lines_own(values + (c + (size_t)slot->lane) * row_bytes, PANEL * cache->element_bytes);
}

/* Keys and values of a head in listed pages, as many as the caches bear beside all else. */
static void pages_ask(const struct pass *pass, size_t l, const int32_t *pages, size_t count, size_t h)
{
    enum { PAGES_MAX = 16 };
    for (size_t i = 0; i < count && i < PAGES_MAX; i++)
        lines_ask(cache_at(pass->cache, l, (size_t)pages[i], h), pass->cache->head_elements * pass->cache->element_bytes);
}

/* ---- storing ---- */

/* Norms H heads, each by itself, where the model has such norms.  x: (H, HS). */
static void heads_norm(const struct model *model, float *x, const float *weight, size_t H)
{
    size_t HS = (size_t)model->config.head_size;
    if (weight == NULL)
        return;
    for (size_t h = 0; h < H; h++)
        model->kernels->rms_norm(x + h * HS, x + h * HS, weight, HS, (float)model->config.norm_epsilon);
}

static void slot_fill(const struct pass *pass, size_t l, size_t m, size_t h)
{
    const struct model_config *config = &pass->model->config;
    const struct slot *slot = &pass->cache->slots[m];
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count;
    size_t lane = (size_t)slot->lane, value = HS * PANEL + lane * PANEL;
    const float *k = pass->qkv + (m * (NH + 2 * NKV) + NH + h) * HS;  // (HS)
    const float *v = k + NKV * HS;                                    // (HS)
    void *page = cache_at(pass->cache, l, (size_t)slot->page, h);
    if (pass->model->kv_type == TENSOR_F16) {
        uint16_t *halves = page;
        for (size_t c = 0; c < HS; c++) {
            halves[c * PANEL + lane] = f16_from_float(k[c]);
            halves[value + c / PANEL * PANEL * PANEL + c % PANEL] = f16_from_float(v[c]);
        }
        return;
    }
    float *floats = page;
    for (size_t c = 0; c < HS; c++)
        floats[c * PANEL + lane] = k[c];
    size_t c = 0;
    for (; c + PANEL <= HS; c += PANEL)
        memcpy(floats + value + c * PANEL, v + c, PANEL * sizeof(float));
    for (; c < HS; c++)
        floats[value + c / PANEL * PANEL * PANEL + c % PANEL] = v[c];
}

static void row_store(const struct pass *pass, size_t l, size_t m, size_t h)
{
    const struct kernels *kernels = pass->model->kernels;
    const struct model_config *config = &pass->model->config;
    const struct layer *layer = &pass->model->layers[l];
    size_t HS = (size_t)config->head_size, NH = (size_t)config->head_count, NKV = (size_t)config->kv_head_count, G = NH / NKV;
    float scale = config->attention_scale != 0 ? (float)config->attention_scale : 1.0f / sqrtf((float)HS);
    float *row = pass->qkv + m * (NH + 2 * NKV) * HS, *q = row + h * G * HS, *k = row + (NH + h) * HS;  // (G, HS), (HS)
    size_t angle = (size_t)pass->cache->slots[m].position * (HS / 2);
    heads_norm(pass->model, q, layer->q_norm, G);
    heads_norm(pass->model, k, layer->k_norm, 1);
    if (!config->learned_positions) {
        kernels->rotary_turn(q, pass->cache->cosine + angle, pass->cache->sine + angle, G, HS);
        kernels->rotary_turn(k, pass->cache->cosine + angle, pass->cache->sine + angle, 1, HS);
    }
    kernels->scale(q, G * HS, scale);
    slot_fill(pass, l, m, h);
}

void rows_store(const struct pass *pass, size_t l, size_t first, size_t end, size_t h)
{
    for (size_t m = first; m < end; m++)
        slot_ask(pass, l, m, h);
    for (size_t m = first; m < end; m++)
        row_store(pass, l, m, h);
}

/* ---- attending ---- */

/* The space of one thread, for rows that attend to one key/value head of layer l. */
struct attention {
    const struct pass *pass;
    size_t G, HS, VP, stride;   // stride: of scores, in floats
    size_t window;              // positions that a row sees, at most
    float cap;                  // of scores; 0: none
    float *q, *scores, *out;
    float *lanes;               // (R G, PANEL) scores of the page that a row lies in
    int32_t *chain;             // (positions) the ancestor at each position outside natural slots
    struct page_list keys, values;
};

static struct attention attention_begin(const struct pass *pass, size_t l, size_t h, size_t thread)
{
    const struct model_config *config = &pass->model->config;
    const struct cache *cache = pass->cache;
    struct attention attention = { .pass = pass, .HS = (size_t)config->head_size, .cap = (float)config->attention_cap };
    attention.window = (size_t)config_window(config, (int64_t)l);
    attention.G = (size_t)(config->head_count / config->kv_head_count);
    attention.VP = round_up(attention.HS, PANEL) / PANEL;
    attention.stride = round_up(cache->position_limit, PANEL);
    size_t queries = attend_rows_max(config) * attention.G;
    attention.q = cache->attention + thread * cache->attention_floats;
    attention.scores = attention.q + queries * attention.VP * PANEL;
    attention.out = attention.scores + queries * attention.stride;
    attention.lanes = attention.out + queries * attention.VP * PANEL;
    attention.chain = (int32_t *)(attention.lanes + queries * PANEL);
    char *keys = cache_at(cache, l, 0, h), *values = keys + attention.HS * PANEL * cache->element_bytes;
    attention.keys = (struct page_list){ keys, cache->page_elements, NULL, pass->model->kv_type };
    attention.values = (struct page_list){ values, cache->page_elements, NULL, pass->model->kv_type };
    return attention;
}

static const int32_t *row_pages(const struct pass *pass, size_t m)
{
    return pass->cache->sequences[pass->cache->slots[m].sequence].pages;
}

/* Rows that follow row m, up to end, and are of its sequence. */
static size_t rows_of_sequence(const struct pass *pass, size_t m, size_t end)
{
    const struct slot *slots = pass->cache->slots;
    size_t rows = 1;
    while (m + rows < end && slots[m + rows].sequence == slots[m].sequence)
        rows++;
    return rows;
}

/* The end of the natural positions that some of rows [m, m + R) sees. */
static size_t rows_reach(const struct pass *pass, size_t m, size_t R)
{
    size_t reach = 0;
    for (size_t r = 0; r < R; r++) {
        size_t natural = (size_t)pass->cache->slots[m + r].natural_end;
        reach = natural > reach ? natural : reach;
    }
    return reach;
}

bool rows_share_pages(const struct pass *pass, size_t a, size_t b)
{
    const struct slot *slots = pass->cache->slots;
    return slots[a].sequence == slots[b].sequence || row_pages(pass, a)[0] == row_pages(pass, b)[0];
}

/* Pages that rows [m, m + R) have in common, from page first to before page end. */
static size_t pages_shared(const struct pass *pass, size_t m, size_t R, size_t first, size_t end)
{
    for (size_t r = 1; r < R; r++) {
        if (pass->cache->slots[m + r].sequence == pass->cache->slots[m].sequence)
            continue;
        for (size_t i = first; i < end; i++) {
            if (row_pages(pass, m + r)[i] != row_pages(pass, m)[i])
                end = i;
        }
    }
    return end > first ? end - first : 0;
}

/* The first position that row m sees. */
static size_t attention_begins(const struct attention *attention, size_t m)
{
    size_t T = (size_t)attention->pass->cache->slots[m].position + 1;
    return T > attention->window ? T - attention->window : 0;
}

/* Query blocks [r, r + R) with the page that a row lies in.  A score has the same bits wherever its key lies. */
static void attention_page(struct attention *attention, size_t r, size_t R, const struct slot *slot)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    struct page_list keys = { attention->keys.base, attention->keys.stride, &slot->page, attention->keys.type };
    size_t G = attention->G;
    kernels->attend_scores(attention->lanes + r * G * PANEL, PANEL, attention->q + r * G * attention->HS, R * G, attention->HS,
                           &keys, 1);
}

/* Of rows [m, m + R) that lie outside natural slots, the scores of their own pages. */
static void attention_own_pages(struct attention *attention, size_t m, size_t R)
{
    const struct slot *slots = attention->pass->cache->slots + m;
    for (size_t r = 0, rows; r < R; r += rows) {
        rows = 1;
        if (slots[r].natural_end > slots[r].position)
            continue;
        while (r + rows < R && slots[r + rows].page == slots[r].page)
            rows++;
        attention_page(attention, r, rows, &slots[r]);
    }
}

/* Scores and then probabilities of row m, query block r, whose natural positions from first, a border of pages, on are scored, and
   its own page.  Positions before the window get probability 0. */
static void attention_probs(struct attention *attention, size_t m, size_t r, size_t first)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    const struct slot *slots = attention->pass->cache->slots;
    size_t G = attention->G, stride = attention->stride, T = (size_t)slots[m].position + 1;
    size_t begin = attention_begins(attention, m), natural = (size_t)slots[m].natural_end;
    float *scores = attention->scores + r * G * stride;        // (G, stride)
    int32_t row = (int32_t)m;
    for (size_t t = T; t-- > natural && t >= begin; row = slots[row].parent) {
        if (row != (int32_t)m)
            attention_page(attention, r, 1, &slots[row]);
        for (size_t g = 0; g < G; g++)
            scores[g * stride + t] = attention->lanes[(r * G + g) * PANEL + (size_t)slots[row].lane];
    }
    for (size_t g = 0; g < G; g++) {
        float *seen = scores + g * stride + begin;             // (T - begin)
        if (attention->cap != 0)
            kernels->soft_cap(seen, T - begin, attention->cap);
        kernels->softmax(seen, T - begin);
        memset(scores + g * stride + first, 0, (begin - first) * sizeof(float));
    }
}

/* Adds the values of row m's positions from the given one, a border of pages or the end of natural slots, on. */
static void attention_values_from(struct attention *attention, size_t m, size_t r, size_t from)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    const struct slot *slots = attention->pass->cache->slots;
    size_t G = attention->G, stride = attention->stride, VP = attention->VP;
    size_t natural = (size_t)slots[m].natural_end, T = (size_t)slots[m].position + 1;
    size_t begin = attention_begins(attention, m), chain = natural > begin ? natural : begin;
    const float *probs = attention->scores + r * G * stride;   // (G, stride)
    float *out = attention->out + r * G * VP * PANEL;          // (G, VP PANEL)
    struct page_list values = attention->values;
    values.pages = row_pages(attention->pass, m) + from / PANEL;
    if (natural > from)
        kernels->attend_values(out, probs + from, stride, G, VP, &values, natural - from);
    int32_t row = (int32_t)m;
    for (size_t t = T; t-- > chain; row = slots[row].parent)
        attention->chain[t] = row;
    for (size_t t = chain; t < T; t++) {
        const struct slot *slot = &slots[attention->chain[t]];
        const char *lane = (const char *)values.base + (size_t)slot->lane * PANEL * attention->pass->cache->element_bytes;
        struct page_list value = { lane, values.stride, &slot->page, values.type };
        kernels->attend_values(out, probs + t, stride, G, VP, &value, 1);
    }
}

/* The scores of rows [m, m + R), query blocks from r on, with the natural pages from first on that some of them sees. */
static void attention_scores_from(struct attention *attention, size_t m, size_t r, size_t R, size_t first, size_t reach)
{
    const struct kernels *kernels = attention->pass->model->kernels;
    struct page_list keys = attention->keys;
    size_t G = attention->G;
    keys.pages = row_pages(attention->pass, m) + first / PANEL;
    if (reach > first)
        kernels->attend_scores(attention->scores + r * G * attention->stride + first, attention->stride,
                               attention->q + r * G * attention->HS, R * G, attention->HS, &keys,
                               (reach - first + PANEL - 1) / PANEL);
}

void rows_attend(const struct pass *pass, size_t l, size_t m, size_t R, size_t h, size_t thread)
{
    const struct kernels *kernels = pass->model->kernels;
    const struct slot *slots = pass->cache->slots;
    struct attention attention = attention_begin(pass, l, h, thread);
    size_t G = attention.G, HS = attention.HS, width = attention.VP * PANEL, NH = (size_t)pass->model->config.head_count;
    size_t row_floats = pass->model->layers[l].qkv.N, first = SIZE_MAX, common = SIZE_MAX, reach = rows_reach(pass, m, R);
    for (size_t r = 0; r < R; r++) {
        size_t natural = (size_t)slots[m + r].natural_end, begin = attention_begins(&attention, m + r);
        first = begin < first ? begin : first;
        common = natural < common ? natural : common;
        memcpy(attention.q + r * G * HS, pass->qkv + (m + r) * row_floats + h * G * HS, G * HS * sizeof(float));
    }
    /* Positions from first to common are natural, and in the same pages, for all rows: a sequence's last ones where all rows have
       them, whole pages otherwise; none where rows see only what is in scratch slots. */
    first -= first % PANEL;
    bool one_sequence = rows_of_sequence(pass, m, m + R) == R;
    if (!one_sequence || common < reach)
        common = common > first ? first + pages_shared(pass, m, R, first / PANEL, common / PANEL) * PANEL : first;
    else
        common = common > first ? common : first;
    if (h + 1 < (size_t)pass->model->config.kv_head_count)
        pages_ask(pass, l, row_pages(pass, m) + first / PANEL, reach > first ? (reach - first + PANEL - 1) / PANEL : 0, h + 1);
    attention_scores_from(&attention, m, 0, R, first, one_sequence ? reach : common);
    for (size_t r = 0, rows; r < R && !one_sequence; r += rows) {
        rows = rows_of_sequence(pass, m + r, m + R);
        attention_scores_from(&attention, m + r, r, rows, common, rows_reach(pass, m + r, rows));
    }
    attention_own_pages(&attention, m, R);
    for (size_t r = 0; r < R; r++)
        attention_probs(&attention, m + r, r, first);
    memset(attention.out, 0, R * G * width * sizeof(float));
    struct page_list values = attention.values;
    values.pages = row_pages(pass, m) + first / PANEL;
    kernels->attend_values(attention.out, attention.scores + first, attention.stride, R * G, attention.VP, &values, common - first);
    for (size_t r = 0; r < R; r++) {
        attention_values_from(&attention, m + r, r, common);
        for (size_t g = 0; g < G; g++)
            memcpy(pass->attended + ((m + r) * NH + h * G + g) * HS, attention.out + (r * G + g) * width, HS * sizeof(float));
    }
}
