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

#include "base/option.h"
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

/* The options of both programs. */
#define SAMPLING_OPTION_SPECS(serve) \
    { 0, "max-new-tokens", "N", OPTION_INT, &(serve).max_new_tokens, 1, NEW_TOKENS_MAX, \
      "length limit of a response (default 128)" }, \
    { 0, "temperature", "T", OPTION_NUMBER, &(serve).sampling.temperature, 0, TEMPERATURE_MAX, \
      "logits are divided by it; 0: greedy (default 1)" }, \
    { 0, "top-p", "P", OPTION_NUMBER, &(serve).sampling.top_p, TOP_P_MIN, 1, \
      "sample from the likeliest tokens that hold this much\nprobability (default 1: all)" }, \
    { 0, "top-k", "K", OPTION_INT, &(serve).sampling.top_k, 0, TOP_K_MAX, \
      "sample from the K likeliest tokens (default 0: all)" }, \
    { 0, "seed", "N", OPTION_INT, &(serve).seed, 0, SEED_MAX, "of the random numbers (default 0)" }

/* Returns the exit code; whatever went wrong has been logged.  serve sets in_order. */
int serve(const struct serve_options *options, const struct generate_options *generate);

#endif
