/* sampler.c - see sampler.h. */
#include "sample/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/memory.h"
#include "base/philox.h"

/* Tokens whose weights are added up before the draw looks among them. */
enum { DRAW_BLOCK = 512 };

void sample_scratch_init(struct sample_scratch *scratch, size_t V)
{
    scratch->probs = memory_alloc(V, sizeof *scratch->probs);
    scratch->order = memory_alloc(V, sizeof *scratch->order);
    scratch->sums = memory_alloc((V + DRAW_BLOCK - 1) / DRAW_BLOCK, sizeof *scratch->sums);
}

void sample_scratch_free(struct sample_scratch *scratch)
{
    free(scratch->probs);
    free(scratch->order);
    free(scratch->sums);
    *scratch = (struct sample_scratch){ 0 };
}

double sample_uniform(uint64_t seed, const char *prompt_key, uint32_t sample, uint32_t position)
{
    uint64_t stream = number_from_key(prompt_key);
    if (stream == 0) {  // no hexadecimal key: somebody else's prompts must not share one stream
        char key[KEY_SIZE];
        key_from_texts(key, prompt_key, NULL);
        stream = number_from_key(key);
    }
    return philox_uniform(seed, PHILOX_SAMPLE, stream, sample, position);
}

/* ---- order ---- */

/* Whether token a comes after token b among the candidates. */
static bool comes_after(const float *logits, int32_t a, int32_t b)
{
    float logit_a = logits[a], logit_b = logits[b];
    if (isnan(logit_a) || isnan(logit_b))
        return isnan(logit_a) && isnan(logit_b) ? a > b : isnan(logit_a);
    return logit_a < logit_b || (logit_a == logit_b && a > b);
}

/* heap[0] comes last of all; heap[i] may have moved up in the order and sinks to its place. */
static void heap_sink(int32_t *heap, size_t count, size_t i, const float *logits)
{
    int32_t token = heap[i];
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && comes_after(logits, heap[child + 1], heap[child]))
            child++;
        if (!comes_after(logits, heap[child], token))
            break;
        heap[i] = heap[child];
    }
    heap[i] = token;
}

void top_candidates(const struct kernels *kernels, int32_t *candidates, const float *logits, size_t V, size_t K)
{
    CHECK(1 <= K && K <= V);
    for (size_t k = 0; k < K; k++)
        candidates[k] = (int32_t)k;
    for (size_t k = K / 2; k-- > 0; )
        heap_sink(candidates, K, k, logits);
    for (size_t v = K; v < V; v++) {
        float last = logits[candidates[0]];
        if (!isnan(last) && (v += kernels->first_above(logits + v, V - v, last)) == V)
            break;
        if (comes_after(logits, candidates[0], (int32_t)v)) {
            candidates[0] = (int32_t)v;
            heap_sink(candidates, K, 0, logits);
        }
    }
    for (size_t count = K; count-- > 1; ) {
        int32_t last = candidates[0];
        candidates[0] = candidates[count];
        candidates[count] = last;
        heap_sink(candidates, count, 0, logits);
    }
}

static int compare_ids(const void *a, const void *b)
{
    int32_t id_a = *(const int32_t *)a, id_b = *(const int32_t *)b;
    return (id_a > id_b) - (id_a < id_b);
}

/* ---- softmax ---- */

double softmax_sum(const struct kernels *kernels, const float *logits, size_t V, float max, double temperature)
{
    return kernels->exp_sum(NULL, logits, V, max, (float)(1.0 / temperature));
}

double logprob_from_logits(const struct kernels *kernels, const float *logits, size_t V, int32_t token)
{
    float max = kernels->highest(logits, V);
    return (double)(logits[token] - max) - log(softmax_sum(kernels, logits, V, max, 1));
}

/* ---- the draw ---- */

/* Probabilities, times their sum, which is returned, of the count tokens in order; NULL: of token 0 .. count-1. */
static double weigh(const struct kernels *kernels, const float *logits, const int32_t *order, size_t count, float max, float scale,
                    struct sample_scratch *scratch)
{
    double sum = 0;
    for (size_t i = 0; i < count && order != NULL; i++)
        scratch->probs[i] = logits[order[i]];
    const float *x = order != NULL ? scratch->probs : logits;
    for (size_t i = 0; i < count; i += DRAW_BLOCK) {
        size_t n = count - i < DRAW_BLOCK ? count - i : DRAW_BLOCK;
        sum += scratch->sums[i / DRAW_BLOCK] = kernels->exp_sum(scratch->probs + i, x + i, n, max, scale);
    }
    return sum;
}

/* Where the sum of what weigh left first exceeds target; where rounding keeps it from that, the last that has a probability. */
static size_t draw(const struct sample_scratch *scratch, size_t count, double target)
{
    double passed = 0;
    size_t block = 0, drawn = 0;
    for (size_t i = 0; i < (count + DRAW_BLOCK - 1) / DRAW_BLOCK; i++) {
        if (scratch->sums[i] == 0)
            continue;
        block = i;
        if (passed + scratch->sums[i] > target)
            break;
        passed += scratch->sums[i];
    }
    size_t end = (block + 1) * DRAW_BLOCK < count ? (block + 1) * DRAW_BLOCK : count;
    for (size_t i = block * DRAW_BLOCK; i < end; i++) {
        if (scratch->probs[i] > 0) {
            drawn = i;
            passed += scratch->probs[i];
            if (passed > target)
                break;
        }
    }
    return drawn;
}

/*
 * The candidates that top_k and top_p leave, by id, into scratch->order; returns how many.  The nucleus is looked for among
 * ever more of the highest candidates, so that the whole vocabulary is seldom sorted.
 */
static size_t truncate_candidates(const struct kernels *kernels, const float *logits, size_t V, struct sampling sampling, float max,
                                  float scale, struct sample_scratch *scratch)
{
    size_t K = sampling.top_k > 0 && (uint64_t)sampling.top_k < V ? (size_t)sampling.top_k : V;
    int32_t *order = scratch->order;
    size_t kept = K;
    if (sampling.top_p < 1) {
        double whole;
        if (K < V) {
            top_candidates(kernels, order, logits, V, K);
            whole = weigh(kernels, logits, order, K, max, scale, scratch);
        } else {
            whole = softmax_sum(kernels, logits, V, max, sampling.temperature);
        }
        double mass = 0;
        kept = 0;
        for (size_t looked = 64; ; looked *= 8) {
            looked = looked < K ? looked : K;
            top_candidates(kernels, order, logits, V, looked);
            weigh(kernels, logits, order, looked, max, scale, scratch);
            while (kept < looked && (kept == 0 || mass < sampling.top_p * whole))
                mass += scratch->probs[kept++];
            if (kept < looked || looked == K)
                break;
        }
    } else {
        top_candidates(kernels, order, logits, V, K);
    }
    qsort(order, kept, sizeof *order, compare_ids);
    return kept;
}

struct sampled sample_token(const struct kernels *kernels, const float *logits, size_t V, struct sampling sampling, double uniform,
                            struct sample_scratch *scratch)
{
    const struct sampled nothing = { .token = -1, .logprob = NAN };
    float max = kernels->highest(logits, V);
    if (!isfinite(max))
        return nothing;
    if (sampling.temperature < TEMPERATURE_GREEDY) {
        int32_t best = 0;
        while (logits[best] != max)
            best++;
        return (struct sampled){ .token = best, .logprob = 0 };
    }

    float scale = (float)(1.0 / sampling.temperature);
    bool truncates = (sampling.top_k > 0 && (uint64_t)sampling.top_k < V) || sampling.top_p < 1;
    size_t count = V;
    const int32_t *order = NULL;
    if (truncates) {
        count = truncate_candidates(kernels, logits, V, sampling, max, scale, scratch);
        order = scratch->order;
    }
    double sum = weigh(kernels, logits, order, count, max, scale, scratch);  // >= 1: the highest logit's own
    size_t drawn = draw(scratch, count, uniform * sum);
    int32_t token = order ? order[drawn] : (int32_t)drawn;
    double logprob = (double)(logits[token] - max) / sampling.temperature - log(sum);
    return (struct sampled){ .token = token, .logprob = logprob };
}
