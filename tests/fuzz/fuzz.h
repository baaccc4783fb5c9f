/*
 * fuzz.h - what every fuzzer defines.
 *
 * 'make fuzz' links them with libFuzzer; the tests link them with replay.c, which runs the corpus in
 * tests/fuzz/corpus/NAME/, every truncation of small inputs and a fixed number of random damages.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
