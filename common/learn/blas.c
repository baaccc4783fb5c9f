/* blas.c - see blas.h. */
#include "learn/blas.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

void blas_settle(char **argv)
{
    char path[PATH_MAX];
    if (getenv("OPENBLAS_CORETYPE") != NULL || !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")
        || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return;
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return;
    path[size] = '\0';
    if (setenv("OPENBLAS_CORETYPE", "SkylakeX", 1) == 0)
        execv(path, argv);
}
