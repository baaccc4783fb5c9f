/*
 * serve.h - prompts in, rollouts out: the loop that rollout and decode share.
 *
 *     takes   prompt frames
 *     gives   the rollout frames of its policy: one for an item of a store, all samples for a prompt in a pipe
 *
 * In a pipe rollouts come in the order of their prompts, in a store as they finish; what is in them is the same.
 */
#ifndef SAMPLE_SERVE_H
#define SAMPLE_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "sample/generate.h"

struct serve_options {
    const char *stage;      // "rollout" or "decode"
    const char *endpoint;   // of the store; NULL: pipes
    const char *policy;     // its name
    const char *split;      // a store's prompts of this split
    bool follow;
    int64_t samples;        // of each prompt
    int64_t seed;           // >= 0
    int64_t max_new_tokens; // >= 1
    struct sampling sampling;
};

/* Returns the exit code; whatever went wrong has been logged.  serve sets in_order. */
int serve(const struct serve_options *options, const struct generate_options *generate);

#endif
