/* trainer_parts.h - the trainer that trainer.c steps and trainer_save.c writes and reads.  Internal to common/learn. */
#ifndef LEARN_TRAINER_PARTS_H
#define LEARN_TRAINER_PARTS_H

#include "base/memory.h"
#include "learn/adamw.h"
#include "learn/network.h"
#include "learn/reduce.h"
#include "learn/trainer.h"

struct trainer {
    struct trainer_options options;
    struct network network;
    struct reduce reduce;
    struct adamw adamw;
    char *tokenizer_key;
    int64_t steps;
    struct arena arena;  // what lives for one call
};

#endif
