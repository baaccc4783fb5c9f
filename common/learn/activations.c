/* activations.c - see activations.h. */
#include "learn/activations.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"
#include "learn/product.h"
#include "model/rotary.h"

enum { ALIGNED = 16 };  // floats: 64 bytes

struct sizes sizes_from(const struct parameters *parameters)
{
    const struct model_config *config = &parameters->config;
    struct sizes s = {
        .C = (size_t)config->channel_count, .L = (size_t)config->layer_count, .F = (size_t)config->ff_count,
        .NH = (size_t)config->head_count, .NKV = (size_t)config->kv_head_count, .HS = (size_t)config->head_size,
        .V = (size_t)config->vocab_size, .R = (size_t)parameters->lora.rank,
    };
    s.A = s.NH * s.HS;
    s.QK = s.A + s.NKV * s.HS;
    s.Q = s.QK + s.NKV * s.HS;
    s.G = config->plain_ff ? s.F : 2 * s.F;
    s.norm_width = s.C > s.HS ? s.C : s.HS;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT && s.R > 0; role++)
        s.lora_parts += parameters->first[PART_A][role] != SIZE_MAX;
    return s;
}

static size_t row_blocks_max(size_t M)
{
    return 8 * blocks_of(M, 8 * PRODUCT_ROWS_MAX);
}

size_t row_block(size_t M)
{
    enum { TILE_ROWS = 32 };
    return blocks_of(blocks_of(M, row_blocks_max(M)), TILE_ROWS) * TILE_ROWS;
}

size_t logit_rows(const struct parameters *parameters, size_t M)
{
    const size_t blocks = LOGITS_MAX / ((size_t)parameters->config.vocab_size * LOGIT_ROWS);
    const size_t fit = (blocks < 1 ? 1 : blocks) * LOGIT_ROWS;
    return M < fit ? M : fit;
}

/* At most what the packed adapters of a layer take. */
static size_t adapters_floats(const struct parameters *parameters)
{
    const size_t R = (size_t)parameters->lora.rank;
    size_t floats = 0;
    for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
        int64_t shape[2];
        if (parameters->first[PART_A][role] == SIZE_MAX)
            continue;
        weight_shape(&parameters->config, role, shape);
        floats += right_floats((size_t)shape[1], R) + right_floats((size_t)shape[0], R);
    }
    return floats;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Places every array behind base, which may be NULL; returns the floats in all. */
static size_t lay_out(struct activations *a, const struct parameters *parameters, size_t M, float *base)
{
    const struct model_config *config = &parameters->config;
    const struct sizes s = sizes_from(parameters);
    const size_t MC = M * s.C, LM = (a->recompute ? 1 : s.L) * M, LMC = LM * s.C;
    const size_t weights = right_floats(s.Q, s.C) + right_floats(s.C, s.A) + right_floats(s.G, s.C) + right_floats(s.C, s.F);
    const size_t inputs = s.R > 0 ? 0 : 2 * right_floats(M, s.C) + right_floats(M, s.A) + right_floats(M, s.F);
    const size_t qk = config->qk_norm, post = config->post_norms, lm = parameters->objective == OBJECTIVE_LM;
    const struct {
        float **at;
        size_t count;
    } parts[] = {
        { &a->x, (s.L + 1) * MC }, { &a->rstd_attn, LM }, { &a->norm_attn, LMC }, { &a->qk, qk * LM * s.QK },
        { &a->rstd_qk, qk * LM * (s.NH + s.NKV) }, { &a->qkv, LM * s.Q }, { &a->attn, LM * s.A }, { &a->lse, LM * s.NH },
        { &a->attn_out, post * LMC }, { &a->rstd_attn_post, post * LM }, { &a->mid, LMC }, { &a->rstd_ff, LM },
        { &a->norm_ff, LMC }, { &a->gate_up, LM * s.G }, { &a->ff_out, post * LMC }, { &a->rstd_ff_post, post * LM },
        { &a->act, M * s.F }, { &a->dact, M * s.F }, { &a->dgate_up, M * s.G }, { &a->dattn, M * s.A },
        { &a->dqkv, M * s.Q }, { &a->dqk, qk * M * s.QK }, { &a->dx, MC }, { &a->dmid, MC }, { &a->dx_next, MC },
        { &a->dattn_out, post * MC }, { &a->dff_out, post * MC }, { &a->dnorm, MC },
        { &a->dnorm_parts, NORM_GRADIENTS * row_blocks_max(M) * s.norm_width },
        { &a->weights_packed, weights }, { &a->inputs_packed, inputs }, { &a->adapters_packed, adapters_floats(parameters) },
        { &a->lora_down, s.lora_parts * LM * s.R }, { &a->lora_up, s.lora_parts * M * s.R },
        { &a->rstd_final, M }, { &a->hidden, MC }, { &a->dhidden, MC }, { &a->chosen, MC }, { &a->dchosen, MC },
        { &a->loss, M }, { &a->dvalue, M }, { &a->logits, lm ? logit_rows(parameters, M) * s.V : 0 },
    };
    size_t total = 0;
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        if (base != NULL)
            *parts[i].at = base + total;
        total += blocks_of(parts[i].count, ALIGNED) * ALIGNED;
    }
    return total;
}

static size_t scratch_count(const struct parameters *parameters, size_t T)
{
    const struct sizes s = sizes_from(parameters);
    const struct attention_shape shape = { .NH = s.NH, .NKV = s.NKV, .HS = s.HS };
    const size_t widest = most(most(s.C, s.R), most(s.A, s.F));
    /* Of a rounded matrix as floats, or of adapters. */
    const size_t rows = parameters->rounded_bytes > 0 || s.R > 0 ? PACK_ROWS * widest : 0;
    const size_t gradient = s.R > 0 ? (ADAPTER_ROWS + PRODUCT_ROWS_MAX) * ADAPTER_COLUMNS : 0;
    return blocks_of(most(attention_scratch_count(T, shape), most(rows, gradient)), ALIGNED) * ALIGNED;
}

static void reserve_positions(struct activations *a, const struct parameters *parameters, size_t T, size_t threads)
{
    free(a->cosine);
    free(a->sine);
    free(a->scratch);
    a->cosine = a->sine = NULL;
    if (!parameters->config.learned_positions) {
        const size_t angles = T * (size_t)parameters->config.head_size / 2;
        a->cosine = memory_alloc_aligned(angles, sizeof *a->cosine);
        a->sine = memory_alloc_aligned(angles, sizeof *a->sine);
        rotary_fill(a->cosine, a->sine, 0, T, &parameters->config);
    }
    a->scratch_count = scratch_count(parameters, T);
    a->scratch = memory_alloc_aligned(threads * a->scratch_count, sizeof *a->scratch);
    a->T = T;
}

void activations_reserve(struct activations *activations, const struct parameters *parameters, size_t M, size_t T, size_t threads)
{
    if (M > activations->M) {
        free(activations->block);
        activations->block = memory_alloc_aligned(lay_out(activations, parameters, M, NULL), sizeof *activations->block);
        lay_out(activations, parameters, M, activations->block);
        activations->M = M;
    }
    if (T > activations->T)
        reserve_positions(activations, parameters, T, threads);
}

void activations_free(struct activations *activations)
{
    free(activations->block);
    free(activations->cosine);
    free(activations->sine);
    free(activations->scratch);
}

size_t activations_size_bytes(const struct parameters *parameters, bool recompute, size_t M, size_t T, size_t threads)
{
    struct activations none = { .recompute = recompute };
    const size_t angles = parameters->config.learned_positions ? 0 : T * (size_t)parameters->config.head_size;
    return (lay_out(&none, parameters, M, NULL) + angles + threads * scratch_count(parameters, T)) * sizeof(float);
}
