/*
 * text.h - prompts as text in, responses as text or JSON lines out.
 *
 * A prompt comes from the command line, or from a line of a file: the line itself, or the "prompt" or the "messages" of a line that
 * is a JSON object, with what its "decode" asks for (line_options.h).  Answers come in the order of the prompts.  The response to a
 * prompt is the same as the rollout that workers of a store give for it.
 */
#ifndef DECODE_TEXT_H
#define DECODE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/line_options.h"
#include "sample/generate.h"
#include "score/scorer.h"

struct text_options {
    char *const *operands;   // (operand_count) each a file, "-" or a prompt
    size_t operand_count;
    struct line_options line; // what lines may ask for otherwise; betas are the value models'
    const char *chat;        // format of messages, NULL: that of the model's own template
    int64_t samples;         // of each prompt
    struct scorer *scorer;   // NULL: every sample is given; else only the one with the highest score
    bool json;
};

/* Returns the exit code; whatever went wrong has been logged.  text_run sets in_order and watch. */
int text_run(const struct text_options *options, const struct generate_options *generate);

#endif
