/*
 * peer_llama2c.c - tokens a second of llama2.c's run.c, which this file includes: its forward pass and its sampler.
 *
 *     cc -O3 -march=native -fopenmp -DLLAMA2C='"PATH/run.c"' -o peer_llama2c tests/bench/peer_llama2c.c -lm
 *     peer_llama2c MODEL.bin TOKENS TIMES
 *
 * TIMES sequences of TOKENS tokens at temperature 1, whatever is sampled; prints tokens a second of each.
 */
#ifndef LLAMA2C
int main(void)
{
    return 69;  // bench-programs builds this too, without that source
}
#else
#define TESTING  // leaves out its main
#include LLAMA2C

int main(int argc, char **argv)
{
    if (argc != 4)
        return 64;
    int tokens = atoi(argv[2]);
    Transformer transformer;
    Sampler sampler;
    build_transformer(&transformer, argv[1]);
    build_sampler(&sampler, transformer.config.vocab_size, 1.0f, 1.0f, 1);
    for (int times = atoi(argv[3]); times > 0; times--) {
        struct timespec begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        for (int position = 0, token = 1; position < tokens; position++)
            token = sample(&sampler, forward(&transformer, token, position));
        clock_gettime(CLOCK_MONOTONIC, &ended);
        printf("%.1f\n", tokens / ((double)(ended.tv_sec - begun.tv_sec) + 1e-9 * (double)(ended.tv_nsec - begun.tv_nsec)));
    }
    return 0;
}
#endif
