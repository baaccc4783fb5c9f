/*
 * make_llama2c.c - a model with random weights as llama2.c's .bin, for measurements beside it.
 *
 *     make_llama2c C,L,NH,NKV,F,V,CONTEXT FILE
 */
#include <stdint.h>
#include <stdio.h>

#include "base/file.h"
#include "base/philox.h"

int main(int argc, char **argv)
{
    long long C, L, NH, NKV, F, V, T;
    struct file_out file;
    if (argc != 3 || sscanf(argv[1], "%lld,%lld,%lld,%lld,%lld,%lld,%lld", &C, &L, &NH, &NKV, &F, &V, &T) != 7) {
        fprintf(stderr, "usage: make_llama2c C,L,NH,NKV,F,V,CONTEXT FILE\n");
        return 64;
    }
    if (file_out_begin(&file, argv[2]) != 0)
        return 74;
    int64_t KV = C / NH * NKV;
    int32_t header[] = { (int32_t)C, (int32_t)F, (int32_t)L, (int32_t)NH, (int32_t)NKV, (int32_t)V, (int32_t)T };
    file_out_write(&file, header, sizeof header);
    const struct { int64_t count; bool ones; } tensors[] = {  // in the order of common/model/llama2c.h
        { V * C, false }, { L * C, true }, { L * C * C, false }, { L * C * KV, false }, { L * C * KV, false }, { L * C * C, false },
        { L * C, true }, { L * C * F, false }, { L * C * F, false }, { L * C * F, false }, { C, true }, { T * (C / NH), true },
    };
    for (uint64_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        for (int64_t n = 0; n < tensors[i].count; n++) {
            float number = tensors[i].ones ? 1 : 0.1f * (float)philox_normal(1, PHILOX_INIT, i, 0, (uint32_t)n);
            file_out_write(&file, &number, sizeof number);
        }
    }
    return file_out_end(&file, true) == 0 ? 0 : 74;
}
