/*
 * adapted.c - models that have their weights from a trunk and an adapter of their own; see model_open_adapter.
 */
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/adapter.h"
#include "model/network.h"
#include "model/weights.h"

/* The matrices of a linear, in the order of their outputs. */
static const struct linear_roles {
    enum weight_role roles[LINEAR_PARTS_MAX];
    size_t count;
} linear_roles[LINEAR_COUNT] = {
    [LINEAR_QKV] = { { WEIGHT_Q, WEIGHT_K, WEIGHT_V }, 3 },
    [LINEAR_O] = { { WEIGHT_O }, 1 },
    [LINEAR_GATE] = { { WEIGHT_GATE }, 1 },
    [LINEAR_UP] = { { WEIGHT_UP }, 1 },
    [LINEAR_DOWN] = { { WEIGHT_DOWN }, 1 },
};

/* ---- packing ---- */

/* rows: (N, K) float32. */
static struct packed pack(const float *rows, size_t N, size_t K)
{
    struct packed packed;
    packed_init(&packed, TENSOR_F32, N, K);
    for (size_t panel = 0; panel < packed_panels(&packed); panel++) {
        const float *of_panel[PANEL] = { NULL };
        for (size_t i = 0; i < PANEL && panel * PANEL + i < N; i++)
            of_panel[i] = rows + (panel * PANEL + i) * K;
        packed_quantise_panel(&packed, panel, of_panel);
    }
    return packed;
}

static bool same_a(const struct adapter_product *product, const struct adapter_product *other)
{
    return product->R == other->R && memcmp(product->a, other->a, product->R * product->K * sizeof *product->a) == 0;
}

/* Where each product's A begins among the stacked ones; those of one module in PEFT have one A.  Returns the rows of all. */
static size_t products_stack(const struct adapter_product *const products[LINEAR_PARTS_MAX], size_t first[LINEAR_PARTS_MAX])
{
    size_t R = 0;
    for (size_t i = 0; i < LINEAR_PARTS_MAX; i++) {
        size_t j = 0;
        if (products[i] == NULL)
            continue;
        while (j < i && (products[j] == NULL || !same_a(products[i], products[j])))
            j++;
        first[i] = j < i ? first[j] : R;
        R += j < i ? 0 : products[i]->R;
    }
    return R;
}

/* The block of a product in the B of all.  b: (product's N, R). */
static void block_fill(float *b, size_t R, size_t first, const struct adapter_product *product)
{
    for (size_t n = 0; n < product->N; n++)
        for (size_t r = 0; r < product->R; r++)
            b[n * R + first + r] = (float)(product->scale * (double)product->b[n * product->R + r]);
}

/* A and B of what is added to a linear of matrices with rows[i] outputs; products[i] may be NULL. */
static struct low_rank low_rank_pack(const struct linear *linear, const struct adapter_product *const products[LINEAR_PARTS_MAX],
                                     const size_t rows[LINEAR_PARTS_MAX])
{
    struct low_rank low = { 0 };
    size_t first[LINEAR_PARTS_MAX], R = products_stack(products, first), n = 0;
    if (R == 0)
        return low;
    float *a = memory_alloc(R * linear->K, sizeof *a), *b = memory_alloc(linear->N * R, sizeof *b);
    for (size_t i = 0; i < LINEAR_PARTS_MAX; n += rows[i++]) {
        if (products[i] == NULL)
            continue;
        memcpy(a + first[i] * linear->K, products[i]->a, products[i]->R * linear->K * sizeof *a);
        block_fill(b + n * R, R, first[i], products[i]);
    }
    low.a = pack(a, R, linear->K);
    n = 0;
    for (size_t i = 0; i < linear->part_count; n += linear->parts[i++].N)
        low.b[i] = pack(b + n * R, linear->parts[i].N, R);
    free(a);
    free(b);
    return low;
}

static void layer_adapt(struct model *model, const struct adapter *adapter, size_t l)
{
    const struct layer *layer = &model->layers[l];
    const struct linear *linears[LINEAR_COUNT] = { &layer->qkv, &layer->o, &layer->gate, &layer->up, &layer->down };
    for (enum linear_name name = 0; name < LINEAR_COUNT; name++) {
        const struct adapter_product *products[LINEAR_PARTS_MAX] = { NULL };
        size_t rows[LINEAR_PARTS_MAX] = { 0 };
        for (size_t i = 0; i < linear_roles[name].count; i++) {
            int64_t shape[2] = { 0 };
            weight_shape(&model->config, linear_roles[name].roles[i], shape);
            rows[i] = (size_t)shape[0];
            products[i] = adapter_product(adapter, linear_roles[name].roles[i], (int64_t)l);
        }
        struct low_rank *low = &model->adapter[l * LINEAR_COUNT + name];
        *low = low_rank_pack(linears[name], products, rows);
        if (low->a.N > model->adapter_rank)
            model->adapter_rank = low->a.N;
    }
}

/* ---- the value head and the key ---- */

static void head_take(struct model *model, const struct adapter *adapter)
{
    const size_t C = (size_t)model->config.channel_count;
    const float *borrowed = model->value_weight;
    struct tensor weight, bias;
    if (adapter_role(adapter, WEIGHT_VALUE, 0, &weight) && adapter_role(adapter, WEIGHT_VALUE_BIAS, 0, &bias)) {
        borrowed = weight.data;
        model->value_bias = *(const float *)bias.data;
    }
    model->value_weight = borrowed != NULL ? memory_alloc_aligned(C, sizeof(float)) : NULL;
    if (borrowed != NULL)
        memcpy(model->value_weight, borrowed, C * sizeof(float));
}

/* Of the trunk's key and all numbers of the adapter. */
static void key_make(struct model *model, const struct adapter *adapter)
{
    struct digest digest;
    digest_init(&digest);
    digest_add(&digest, model->trunk->key, KEY_SIZE);
    for (int64_t l = 0; l < model->config.layer_count; l++) {
        for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
            const struct adapter_product *product = adapter_product(adapter, role, l);
            if (product == NULL)
                continue;
            const int64_t place[] = { l, (int64_t)role, (int64_t)product->R };
            digest_add(&digest, place, sizeof place);
            digest_add(&digest, &product->scale, sizeof product->scale);
            digest_add(&digest, product->a, product->R * product->K * sizeof *product->a);
            digest_add(&digest, product->b, product->N * product->R * sizeof *product->b);
        }
    }
    if (model->value_weight != NULL) {
        digest_add(&digest, model->value_weight, (size_t)model->config.channel_count * sizeof *model->value_weight);
        digest_add(&digest, &model->value_bias, sizeof model->value_bias);
    }
    digest_key(&digest, model->key);
}

/* ---- opening ---- */

struct model *model_open_adapter(const char *path, const struct model *trunk, int *code)
{
    CHECK(trunk->trunk == NULL);
    struct adapter *adapter = adapter_open_unmerged(path, &trunk->config, code);
    if (adapter == NULL)
        return NULL;
    struct model *model = memory_alloc(1, sizeof *model);
    *model = *trunk;
    model->trunk = trunk;
    model->adapter = memory_alloc((size_t)model->config.layer_count * LINEAR_COUNT, sizeof *model->adapter);
    for (size_t l = 0; l < (size_t)model->config.layer_count; l++)
        layer_adapt(model, adapter, l);
    head_take(model, adapter);
    key_make(model, adapter);
    adapter_close(adapter);
    log_debug("opened adapter \"%s\" key=%s trunk=%s rank=%zu", path, model->key, trunk->key, model->adapter_rank);
    return model;
}

void adapted_free(struct model *model)
{
    for (size_t i = 0; i < (size_t)model->config.layer_count * LINEAR_COUNT; i++) {
        packed_free(&model->adapter[i].a);
        for (size_t p = 0; p < LINEAR_PARTS_MAX; p++)
            packed_free(&model->adapter[i].b[p]);
    }
    free(model->adapter);
    free(model->value_weight);
    free(model);
}

bool model_shares_trunk(const struct model *a, const struct model *b)
{
    return (a->trunk != NULL ? a->trunk : a) == (b->trunk != NULL ? b->trunk : b);
}
