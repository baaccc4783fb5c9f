/*
 * replay.c - runs a fuzzer without libFuzzer: PROGRAM [-n DAMAGES] FILE...
 *
 * Each file is run whole, cut at up to 400 places, and with DAMAGES random changes (bits, bytes, spans copied or removed,
 * extreme 4- and 8-byte numbers).  The changes are a pure function of the file's bytes and their number.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/philox.h"
#include "fuzz.h"

static uint32_t draw(uint32_t round, uint32_t *turn, size_t below)
{
    double uniform = philox_uniform(1, PHILOX_DATA, round, 0, (*turn)++);
    return below ? (uint32_t)(uniform * (double)below) : 0;
}

static void run_copy(const char *data, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);  // its own allocation, so that ASan sees the first byte past it
    if (size > 0)
        memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void run_damaged(const char *data, size_t size, uint32_t round)
{
    static const uint64_t extremes[] = { 0, 1, 0x7f, 0xff, 0x7fffffff, 0xffffffff, 0x7fffffffffffffff, 0xffffffffffffffff,
                                         1ull << 40 };
    uint32_t turn = 0;
    char *copy = memory_alloc(size + 64, 1);
    memcpy(copy, data, size);
    for (uint32_t changes = 1 + draw(round, &turn, 4); changes > 0 && size > 8; changes--) {
        size_t at = draw(round, &turn, 3) ? draw(round, &turn, size < 512 ? size : 512) : draw(round, &turn, size);
        uint64_t extreme = extremes[draw(round, &turn, sizeof extremes / sizeof *extremes)];
        size_t width = draw(round, &turn, 2) ? 4 : 8, span = 1 + draw(round, &turn, 8);
        switch (draw(round, &turn, 5)) {
        case 0: copy[at] ^= (char)(1 << draw(round, &turn, 8)); break;
        case 1: copy[at] = (char)draw(round, &turn, 256); break;
        case 2: if (at + width <= size) memcpy(copy + at, &extreme, width); break;
        case 3: if (at + span < size) { memmove(copy + at, copy + at + span, size - at - span); size -= span; } break;
        case 4: if (span <= 32) { memmove(copy + at + span, copy + at, size - at); size += span; changes = 1; } break;
        }
    }
    run_copy(copy, size);
    free(copy);
}

int main(int argc, char **argv)
{
    log_open(argv[0], -1);
    int first = 1;
    uint32_t damages = 2000;
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        damages = (uint32_t)atoi(argv[2]);
        first = 3;
    }
    if (first >= argc) {
        fprintf(stderr, "usage: %s [-n DAMAGES] FILE...\n", argv[0]);
        return 64;
    }
    if (freopen("/dev/null", "w", stderr) == NULL)
        return 74;  // thousands of refusals are expected and of no interest
    for (int i = first; i < argc; i++) {
        size_t size;
        char *data = file_read(argv[i], &size);
        if (data == NULL) {
            printf("not ok %s: could not be read\n", argv[i]);
            return 1;
        }
        run_copy(data, size);
        size_t stride = size / 400 + 1;
        for (size_t cut = 0; cut < size; cut += stride)
            run_copy(data, cut);
        for (uint32_t round = 0; round < damages; round++)
            run_damaged(data, size, round);
        free(data);
        const char *name = strrchr(argv[i], '/');
        printf("ok replay %s\n", name ? name + 1 : argv[i]);
    }
    return 0;
}
