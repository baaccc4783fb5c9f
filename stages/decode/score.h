/*
 * score.h - log-probabilities of given text under the base policy, and values of its states.
 *
 * Reads JSON lines of one of these forms, writes a JSON line for each:
 *
 *     {"tokens": [...]}                                   every token but the first is scored
 *     {"prompt_tokens": [...], "response_tokens": [...]}  the response is scored (what decode --json prints)
 *     {"prompt": "...", "response": "..."}                as tokens of the whole text, from where the prompt's own end
 *
 *     {"tokens": all, "logprobs": of the last R of them, nats, "sum": of logprobs, "values": of states 0 .. R}
 *
 * Temperature 1, nothing steered or truncated.  values is there if a value model is.
 */
#ifndef DECODE_SCORE_H
#define DECODE_SCORE_H

#include <stddef.h>

#include "sample/generate.h"

/*
 * path: a file or "-".  Of generate the base, its tokenizer, the first value model and the context count.  Returns the exit code;
 * bad lines are logged, skipped, and make it EX_DATAERR.
 */
int score_run(const char *path, const struct generate_options *generate);

#endif
