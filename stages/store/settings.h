/*
 * settings.h - what a worker says in its hello: its stage and what makes its outputs.
 */
#ifndef STORE_SETTINGS_H
#define STORE_SETTINGS_H

#include <jansson.h>
#include <stdint.h>

#include "wire/frame.h"

enum worker_stage { STAGE_TOKENIZE, STAGE_ROLLOUT, STAGE_REWARD, STAGE_VALUE_TARGET, STAGE_TRAIN, STAGE_DECODE, STAGE_FETCH,
                    STAGE_COUNT };

struct settings {
    enum worker_stage stage;
    json_t *json;
    /* Borrow from json; names that are absent are "", objects NULL. */
    const char *tokenizer, *policy, *reward, *run, *split;
    const json_t *spec;  // of the policy or the reward
    const json_t *part;  // "target" or "train" of the run
    int64_t samples;
};

const char *stage_name(enum worker_stage stage);
/* The name of what it makes: of its policy, reward, run or tokenizer; "" when it only fetches. */
const char *settings_name(const struct settings *settings);

/*
 * 0, or -1 with a line in reason (512 bytes).  A rollout, decode, value-target or train worker that names nothing may fetch only,
 * and so does a fetch worker.
 * The caller settings_free()s in both cases.
 */
int settings_read(struct settings *settings, const struct frame_hello *hello, char *reason);
void settings_free(struct settings *settings);

#endif
