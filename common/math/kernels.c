/* kernels.c - packing, and the choice among the builds of kernels_isa.c. */
#include "math/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/block.h"

extern const struct kernels kernels_avx512, kernels_avx2, kernels_portable;

static size_t element_bytes(enum tensor_type type)
{
    return type == TENSOR_F32 ? 4 : 2;
}

size_t packed_panels(const struct packed *w)
{
    return (w->N + PANEL - 1) / PANEL;
}

size_t packed_size_bytes(enum tensor_type type, size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * K * element_bytes(type);
}

void packed_init(struct packed *w, enum tensor_type type, size_t N, size_t K)
{
    *w = (struct packed){ .type = type, .N = N, .K = K };
    w->panel_bytes = PANEL * K * element_bytes(type);
    w->data = memory_alloc_aligned(packed_size_bytes(type, N, K), 1);
}

void packed_free(struct packed *w)
{
    free(w->data);
    w->data = NULL;
}

void packed_set_panel(struct packed *w, size_t panel, const void *const rows[PANEL])
{
    size_t bytes = element_bytes(w->type), K = w->K;
    char *out = (char *)w->data + panel * PANEL * K * bytes;  // (K, PANEL)
    for (size_t i = 0; i < PANEL; i++) {
        const char *row = rows[i];  // (K)
        if (row == NULL)
            continue;
        if (bytes == 4) {
            for (size_t k = 0; k < K; k++)
                memcpy(out + (k * PANEL + i) * 4, row + k * 4, 4);
        } else {
            for (size_t k = 0; k < K; k++)
                memcpy(out + (k * PANEL + i) * 2, row + k * 2, 2);
        }
    }
}

/* Rounded to nearest, ties to even. */
static uint16_t bf16_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Rounded to nearest, ties to even; from 65520 on, infinity. */
static uint16_t f16_from_float(float value)
{
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000) {  // subnormal: a sum with 0.5 leaves its mantissa in the lowest bits, rounded by the processor
        memcpy(&value, &bits, 4);
        value += 0.5f;
        memcpy(&bits, &value, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

void packed_quantise_panel(struct packed *w, size_t panel, const float *const rows[PANEL])
{
    size_t K = w->K;
    uint16_t *row = memory_alloc(K, sizeof *row);
    for (size_t i = 0; i < PANEL; i++) {
        const void *one[PANEL] = { NULL };
        one[i] = row;
        if (rows[i] == NULL)
            continue;
        for (size_t k = 0; k < K; k++)
            row[k] = w->type == TENSOR_F16 ? f16_from_float(rows[i][k]) : bf16_from_float(rows[i][k]);
        if (w->type == TENSOR_F32)
            one[i] = rows[i];
        packed_set_panel(w, panel, one);
    }
    free(row);
}

static float float_from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

void packed_get_row(const struct packed *w, size_t n, float *row)
{
    size_t first = n / PANEL * PANEL * w->K + n % PANEL;
    const float *floats = (const float *)w->data + first;
    const uint16_t *halves = (const uint16_t *)w->data + first;
    for (size_t k = 0; k < w->K; k++) {
        switch (w->type) {
        case TENSOR_F32: row[k] = floats[k * PANEL]; break;
        case TENSOR_F16: row[k] = float_from_f16(halves[k * PANEL]); break;
        default: row[k] = float_from_bf16(halves[k * PANEL]); break;
        }
    }
}

const struct kernels *kernels_named(const char *name)
{
#if defined __x86_64__
    __builtin_cpu_init();
    if (strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
        return &kernels_avx512;
    /* Every processor with AVX2 and FMA has F16C. */
    if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kernels_avx2;
#endif
    return strcmp(name, "portable") == 0 ? &kernels_portable : NULL;
}

const struct kernels *kernels_get(void)
{
    static const char *const best_first[] = { "avx512", "avx2", "portable" };
    const char *wanted = getenv("VAS_KERNELS");
    if (wanted != NULL && *wanted != '\0') {
        const struct kernels *kernels = kernels_named(wanted);
        if (kernels != NULL)
            return kernels;
        log_event("VAS_KERNELS is \"%s\", which this processor does not run; using the best that it does", wanted);
    }
    for (size_t i = 0; i < COUNT_OF(best_first); i++) {
        const struct kernels *kernels = kernels_named(best_first[i]);
        if (kernels != NULL)
            return kernels;
    }
    CHECK(!"portable kernels always run");
    return NULL;
}
