/*
 * generate.h - responses sampled token by token, many at once, from a base policy steered by value models.
 *
 * Jobs are added at any time; each step gives every live response one token.  A prompt is run once for all jobs that share it.
 * With value models a token costs one pass of the base over the live responses and, for each value model, one pass over their K
 * candidates; the chosen candidate's row stays in the value model's cache, so no token is run twice.  Value models that share a
 * trunk have one pass together.  While the candidates of a single response are valued, the base goes ahead with the token that it
 * would draw without values, where that is faster (pace.h).  A value model with a tokenizer of its own is asked about the
 * candidates' text (text_values.h); a response ends where one of its candidates' texts would be longer than this model's context.
 *
 * Tokens may be left to the base policy: all but every guide_every-th, and those of which it is so sure that values would hardly
 * change them (skip_share).  The value models then run them in one pass with the next token's candidates.  Of other tokens the
 * candidates that are too unlikely to matter need not be valued.
 *
 * A response is a function of its job, the weights and the options that the policy's spec names: not of the batch it was in, the
 * order of the jobs or the number of threads.
 *
 *     V vocabulary   K candidates   I value models
 */
#ifndef SAMPLE_GENERATE_H
#define SAMPLE_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "model/model.h"
#include "sample/augment.h"
#include "sample/sampler.h"
#include "text/tokenizer.h"

struct value_model {
    const char *name;           // for messages
    const struct model *model;  // with beta 0 never looked at, may be NULL; those that share a trunk run it once for all
    const char *tokenizer_key;
    const struct tokenizer *tokenizer;  // its own: candidates are given to it as text; NULL: it shares the base policy's
    double beta;                // 1 / units of score
};

/* What happened when a token was chosen.  Valid during the call. */
struct token_event {
    void *tag;                    // of its job
    size_t position;              // in the response, from 0
    int32_t token;
    double logprob;               // nats
    double kl;                    // KL(steered || base) of this token, nats
    size_t K, I;                  // both 0 when nothing steers this token
    const int32_t *candidates;    // (K) highest base logit first
    const float *base_logits;     // (K)
    const float *steered_logits;  // (K)
    const float *values;          // (I, K) of the state that each candidate would lead to
};
typedef void generate_watch(void *context, const struct token_event *event);

/* Everything is borrowed until generator_close. */
struct generate_options {
    const char *base_name;              // for messages
    const struct model *base;
    const struct tokenizer *tokenizer;
    const struct value_model *values;   // (value_count), at most VALUE_MODELS_MAX
    size_t value_count;
    size_t candidates;                  // K, 1 .. CANDIDATES_MAX
    size_t guide_every;                 // response tokens 0, that, twice that, ... are steered; at most GUIDE_EVERY_MAX; 0: as 1
    double skip_share;                  // values no more candidates than augment_needed says for this share, within the range of
                                        // values that the response has seen so far; in [0, 1), 0: always all
    size_t batch;                       // responses at once, >= 1
    size_t max_new_tokens;              // what most jobs ask for: sizes the cache
    size_t context;                     // prompt and response together, tokens; 0: what the models allow, at most CONTEXT_DEFAULT
    bool always_ahead;                  // the base goes ahead wherever it can, else where it is faster; the responses are the same
    bool in_order;                      // responses come back in the order of the jobs, else as they finish
    struct pool *pool;
    generate_watch *watch;              // NULL: nobody looks
    void *watch_context;
};
enum { CONTEXT_DEFAULT = 8192, GUIDE_EVERY_MAX = 1024, NEW_TOKENS_MAX = 1048576, BETA_MAX = 1000000 /* either way */ };

/* Whether a value model can steer this base policy: 0, or -1, logged. */
int value_model_check(const struct generate_options *options, const struct value_model *value);

struct generator;

/* NULL when a value model does not fit the base policy, logged; *code is then the exit code. */
struct generator *generator_open(const struct generate_options *options, int *code);
void generator_close(struct generator *generator);

/* The most tokens that a prompt and its response have together, whatever a job asks for. */
size_t generator_context(const struct generator *generator);

/* Whether a prompt can be answered: 0, or -1 and one line that says why not. */
int generator_check_prompt(const struct generator *generator, const int32_t *tokens, size_t count, char reason[256]);

struct generate_job {
    const int32_t *prompt_tokens;  // (prompt_count) copied
    size_t prompt_count;
    const char *prompt;            // its text, for value models with their own tokenizer; copied; NULL: ""
    const char *prompt_key;        // with seed and sample decides the random numbers; copied
    uint32_t sample;
    uint64_t seed;
    size_t max_new_tokens;         // >= 1
    struct sampling sampling;
    const double *betas;           // (value_count of the options) copied: those of this job, ignored where a value model's own
                                   // is 0; all 0: the base policy.  NULL: the value models' own
    bool begins_text;              // the prompt has no text, so the response loses the space that begins a text
    void *tag;
};
/* A job that cannot be done comes back as a response with a failure. */
void generator_add(struct generator *generator, const struct generate_job *job);

/* Jobs that were added and have not come back by generator_next. */
size_t generator_held(const struct generator *generator);

/* One token for every live response.  False when there was nothing to do. */
bool generator_step(struct generator *generator);

struct response {
    void *tag;
    const char *failure;       // NULL, or one line: there is no response
    const int32_t *tokens;     // (count) with the stop token where one was sampled
    const float *logprobs;     // (count) nats
    size_t count;
    const char *text;          // valid UTF-8 without NUL
    bool stopped;              // by a stop token
    double kl;                 // summed over the tokens, nats
};
/* The next finished response; valid until the next call.  False when there is none (in order: when the next has not finished). */
bool generator_next(struct generator *generator, struct response *response);

struct generate_stats {
    int64_t tokens;         // sampled
    int64_t steered;        // of these, with values
    int64_t ahead;          // of these, drawn as the base had gone ahead with
    int64_t prompt_tokens;  // run, each prompt once, without whole pages that it begins with like a kept one
    double prompt_s, base_s, value_s, sample_s;
};
struct generate_stats generator_stats(const struct generator *generator);

#endif
