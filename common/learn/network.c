/* network.c - see network.h. */
#include "learn/network.h"

#include <cblas.h>

#include "base/check.h"
#include "learn/pass.h"

/* ---- the matrices of a layer ---- */

static void linear_add(struct network *network, enum linear_name name, enum weight_role role, size_t *adapters)
{
    const struct parameters *parameters = &network->parameters;
    if (!weight_present(&parameters->config, role))
        return;
    struct linear *linear = &network->linears[name];
    int64_t shape[2];
    weight_shape(&parameters->config, role, shape);
    struct linear_part *part = &linear->parts[linear->part_count++];
    *part = (struct linear_part){ .role = role, .first = linear->N, .rows = (size_t)shape[0], .adapter = SIZE_MAX };
    if (parameters->first[PART_A][role] != SIZE_MAX) {
        part->adapter = linear->adapter_count++;
        linear->adapter_first = (*adapters)++ - part->adapter;
    }
    linear->N += (size_t)shape[0];
    linear->K = (size_t)shape[1];
}

static void linears_init(struct network *network)
{
    static const struct {
        enum linear_name name;
        enum weight_role role;
    } members[] = {
        { LINEAR_QKV, WEIGHT_Q }, { LINEAR_QKV, WEIGHT_K }, { LINEAR_QKV, WEIGHT_V }, { LINEAR_O, WEIGHT_O },
        { LINEAR_GATE_UP, WEIGHT_GATE }, { LINEAR_GATE_UP, WEIGHT_UP }, { LINEAR_DOWN, WEIGHT_DOWN },
    };
    size_t adapters = 0;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        linear_add(network, members[i].name, members[i].role, &adapters);
    network->linears[LINEAR_QKV].bias = WEIGHT_Q_BIAS;
    network->linears[LINEAR_O].bias = WEIGHT_O_BIAS;
    network->linears[LINEAR_GATE_UP].bias = network->parameters.config.plain_ff ? WEIGHT_UP_BIAS : WEIGHT_GATE_BIAS;
    network->linears[LINEAR_DOWN].bias = WEIGHT_DOWN_BIAS;
}

void network_init(struct network *network, const struct model_config *config, enum objective objective,
                  const struct lora_options *lora, enum products products, bool recompute, struct pool *pool)
{
    openblas_set_num_threads(1);  // our own threads split the work
    *network = (struct network){ .pool = pool, .activations.recompute = recompute };
    network->products = product_kernels_get(products);
    CHECK(network->products != NULL);
    parameters_init(&network->parameters, config, objective, lora);
    parameters_alloc(&network->parameters);
    linears_init(network);
}

void network_free(struct network *network)
{
    parameters_free(&network->parameters);
    activations_free(&network->activations);
}

/* ---- a pass ---- */

static size_t longest_sequence(const struct packed_rows *rows)
{
    size_t T = 1;
    for (size_t i = 0; i < rows->sequences; i++)
        T = rows->start[i + 1] - rows->start[i] > T ? rows->start[i + 1] - rows->start[i] : T;
    return T;
}

double network_loss(struct network *network, const struct packed_rows *rows, float scale, bool backward, float *value)
{
    activations_reserve(&network->activations, &network->parameters, rows->M, longest_sequence(rows), pool_threads(network->pool));
    struct pass pass = {
        .network = network, .config = &network->parameters.config, .rows = rows, .a = &network->activations,
        .s = sizes_from(&network->parameters), .M = rows->M, .block = row_block(rows->M), .scale = scale, .backward = backward,
    };
    layers_forward(&pass);
    const double loss = heads_loss(&pass, value);
    if (backward)
        layers_backward(&pass);
    return loss;
}
