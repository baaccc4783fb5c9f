/*
 * blas.h - which of OpenBLAS's kernels multiply.
 *
 * OpenBLAS 0.3.21 has kernels of its own for processors with AMX or BF16 instructions, whose float32 products are two to three
 * times slower than those it has for AVX-512 (training of 0.5 M parameters on a Sapphire Rapids: 13.3 s against 4.0 s), and takes
 * its choice from the environment when it is loaded, before main.  One choice for all processors with AVX-512 also lets them agree
 * to the bit.
 */
#ifndef LEARN_BLAS_H
#define LEARN_BLAS_H

/*
 * The first thing in main: where the processor has AVX-512 and OPENBLAS_CORETYPE is not set, sets it and starts this program anew
 * in the same process.  Returns where there is nothing to do, or where that fails: then the products are slower.
 */
void blas_settle(char **argv);

#endif
