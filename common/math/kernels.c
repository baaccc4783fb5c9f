/* kernels.c - the choice among the builds of kernels_isa.c, with products of their own where the processor has them. */
#define _GNU_SOURCE
#include "math/kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/input.h"
#include "math/kernels_amx.h"
#include "math/kernels_codes.h"
#include "math/kernels_vnni.h"
#include "math/quant.h"

extern const struct kernels kernels_avx512, kernels_avx2, kernels_portable;

/* ---- what the processor has ---- */

#if defined __x86_64__
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
}

/* Every processor with these has F16C. */
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avxvnni(void)
{
    enum { AVX_VNNI = 1 << 4 };
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI) != 0;
}

static bool has_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

/* The registers of AMX are large, so that Linux gives them only to those who ask. */
static bool has_amx(void)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    return has_vnni() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (BF16 | TILE | INT8)) == (BF16 | TILE | INT8)
           && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#else
static bool has_avx512(void)
{
    return false;
}
#define has_vnni has_avx512
#define has_amx has_avx512
#endif

/* ---- sets ---- */

static struct kernels kernels_vnni, kernels_amx, kernels_avxvnni, kernels_maddubs;

static void sets_make(void)
{
#if defined __x86_64__
    kernels_vnni = kernels_avx512;
    kernels_vnni.name = "vnni";
    kernels_vnni.input_make = vnni_input_make;
    kernels_vnni.linear = vnni_linear;
    kernels_avxvnni = kernels_maddubs = kernels_avx2;
    kernels_avxvnni.name = "avxvnni";
    kernels_avxvnni.input_make = avxvnni_input_make;
    kernels_avxvnni.linear = avxvnni_linear;
    kernels_maddubs.name = "maddubs";
    kernels_maddubs.input_make = maddubs_input_make;
    kernels_maddubs.linear = maddubs_linear;
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        if (quant_forms[type].group_elements == 0 || type == TENSOR_NF4)
            continue;
        kernels_vnni.input[type] = INPUT_BYTES;
        kernels_avxvnni.input[type] = avxvnni_input_form(type);
        kernels_maddubs.input[type] = maddubs_input_form(type);
    }
    kernels_amx = kernels_vnni;
    kernels_amx.name = "amx";
    kernels_amx.input[TENSOR_BF16] = kernels_amx.input[TENSOR_F16] = INPUT_HALVES;
    kernels_amx.linear = amx_linear;
#endif
}

const struct kernels *kernels_named(const char *name)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, sets_make);
#if defined __x86_64__
    __builtin_cpu_init();
    if (strcmp(name, "amx") == 0 && has_amx())
        return &kernels_amx;
    if (strcmp(name, "vnni") == 0 && has_vnni())
        return &kernels_vnni;
    if (strcmp(name, "avx512") == 0 && has_avx512())
        return &kernels_avx512;
    if (strcmp(name, "avxvnni") == 0 && has_avxvnni())
        return &kernels_avxvnni;
    if (strcmp(name, "maddubs") == 0 && has_avx2())
        return &kernels_maddubs;
    if (strcmp(name, "avx2") == 0 && has_avx2())
        return &kernels_avx2;
#endif
    return strcmp(name, "portable") == 0 ? &kernels_portable : NULL;
}

const struct kernels *kernels_get(void)
{
    static const char *const best_first[] = { "amx", "vnni", "avx512", "avxvnni", "maddubs", "avx2", "portable" };
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

/* ---- inputs ---- */

size_t input_bytes(enum input_form form, size_t M, size_t K)
{
    switch (form) {
    case INPUT_TILES: return M * input_tile_row(K) * sizeof(float);
    case INPUT_HALVES: return M * input_steps(K) * HALVES_STEP_BYTES;
    case INPUT_BYTES: return M * input_steps(K) * BYTES_STEP_BYTES;
    case INPUT_WORDS: return M * input_steps(K) * WORDS_STEP_BYTES;
    default: return M * K * sizeof(float);
    }
}

void kernels_linear(const struct kernels *kernels, float *y, size_t y_stride, const float *x, size_t M, const struct packed *w)
{
    enum input_form form = kernels->input[w->type];
    void *input = form == INPUT_FLOATS ? NULL : memory_alloc_aligned(input_bytes(form, M, w->K), 1);
    if (input != NULL)
        kernels->input_make(input, form, x, M, w->K, NULL);
    kernels->linear(y, y_stride, input != NULL ? input : x, M, w, 0, packed_panels(w));
    free(input);
}
