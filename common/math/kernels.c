/* kernels.c - the choice among the builds of kernels_isa.c. */
#include "math/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"

extern const struct kernels kernels_avx512, kernels_avx2, kernels_portable;

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
