/*
 * generate_parts.h - what is behind the handle of generate.h.  Internal to common/sample.
 *
 *     generate.c          opening and closing, jobs in, responses out
 *     generate_prompt.c   prompts that are kept, and the beginning of responses
 *     generate_turn.c     one token for a group of responses
 */
#ifndef SAMPLE_GENERATE_PARTS_H
#define SAMPLE_GENERATE_PARTS_H

#include "base/effort.h"
#include "base/pace.h"
#include "base/progress.h"
#include "sample/generate.h"
#include "sample/text_values.h"

/* How far a value model has followed a text: in its cache, or through its own tokens. */
struct follower {
    int32_t sequence;         // of a value model that shares the base policy's tokenizer
    struct value_text *text;  // of one that does not; else NULL
    float low, high;          // of the values that the response has seen
};

/* A prompt that has been run, kept for other jobs that share it. */
struct prompt {
    int32_t *tokens;          // (count); NULL: a free place
    size_t count;
    char *text;
    int32_t base_sequence;
    struct follower *followers; // (I)
    float *logits;            // (V) after the last token
    size_t live;              // responses that share its pages
    uint64_t used;            // when it was last wanted
};

struct job {
    struct generate_job order;
    double betas[VALUE_MODELS_MAX];  // (I)
    bool steered;             // one of them is other than 0
    uint64_t number;          // of the jobs that were added
    struct job *next;
};

struct live {
    struct job *job;
    struct prompt *prompt;
    int32_t base_sequence;
    struct follower *followers; // (I)
    int32_t *tokens;           // (count_max)
    float *logprobs;           // (count_max)
    size_t count, count_max;
    size_t pages;              // set aside for it
    size_t pending;            // so many of the newest tokens were no valued candidates: the value models have not run them
    bool ahead;                // the base has run its newest token: generator->ahead_logits
    bool ended, stopped;
    double kl;
    char *failure;
};

struct finished {
    struct response response;
    uint64_t number;          // of its job
    int32_t *tokens;
    float *logprobs;
    char *text, *failure;
    struct finished *next;
};

/* What one response needs while it gets one token. */
struct turn {
    struct live *live;
    float *logits;            // (V)
    int32_t *candidates;      // (K)
    size_t K;                 // so many of them are valued, 0: left to the base policy
    float *base_logits;       // (K)
    float *steered_logits;    // (K)
    float *values;            // (I, K)
    bool too_long;            // with one of them the text is longer than the context of a value model that has its own tokenizer
                              // and a beta other than 0
    size_t candidate_row;     // row of candidate 0 among those of each value model, behind the pending tokens'
    int chosen;               // valued candidate that was sampled, -1: another token
    struct sampled sampled;
    double kl;
};

struct generator {
    struct generate_options options;
    const struct kernels *kernels;
    const struct model *value_models[VALUE_MODELS_MAX];  // those with beta other than 0
    const char *value_names[VALUE_MODELS_MAX];
    const struct tokenizer *tokenizers[VALUE_MODELS_MAX];  // their own, or NULL
    size_t places[VALUE_MODELS_MAX];      // where they stand among the options' value models
    size_t V, K, I, context;
    size_t guide_every, pending_max;
    size_t leader[VALUE_MODELS_MAX];      // the first value model that runs in one pass with this one: those of one trunk do
    size_t pass_place[VALUE_MODELS_MAX];  // so many value models' rows come before this one's in that pass
    size_t pass_size[VALUE_MODELS_MAX];   // of a leader: value models that run in its pass
    size_t pass_most;  // the largest of these, at least 1
    size_t pass_rows;  // of each value model in the present pass
    size_t group_max;  // responses whose pending tokens and candidates fit one forward pass

    struct cache *base_cache;
    struct cache *value_caches[VALUE_MODELS_MAX];       // its leader's; of those with their own tokenizer NULL
    struct text_values *text_values[VALUE_MODELS_MAX];  // of the others, else NULL
    size_t pages_limit, pages_used;

    struct prompt *prompts;  // (batch): with fewer responses live than that, one can be given up
    uint64_t clock;          // counts uses of prompts
    struct job *waiting, **waiting_end;
    struct live *live;       // (batch)
    size_t live_count, held;
    struct finished *finished, *handed_out;
    uint64_t added, next;    // jobs added; the job whose response comes next where order matters

    struct turn *turns;      // (group_max)
    struct row *rows;        // (group_max * (K + pending_max))
    float *hidden;           // (rows, C of the widest model)
    float *logits;           // (group_max, V)
    float *ahead_hidden;     // (C)
    float *ahead_logits;     // (V)
    struct pace pace;        // whether to go ahead
    double paced_s;          // when this was last asked,
    uint64_t paced;          // for the job of this number - 1; 0: none, or others have lived since
    float *row_values;       // (rows)
    struct value_ask *asks;  // (group_max)
    struct sample_scratch *scratch;  // (threads)
    struct generate_stats stats;
};

/* Model arithmetic, timed. */
struct span {
    double begun_s;
    enum effort before;
};

static inline struct span span_begin(void)
{
    return (struct span){ clock_s(), effort_enter(EFFORT_COMPUTE) };
}

static inline void span_end(struct span span, double *spent_s)
{
    effort_enter(span.before);
    *spent_s += clock_s() - span.begun_s;
}

static inline size_t pages_for(size_t positions)
{
    return (positions + CACHE_PAGE_POSITIONS - 1) / CACHE_PAGE_POSITIONS;
}

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Closes what the value models have followed of a text. */
void followers_close(struct generator *generator, struct follower *followers);
/* Gives up a kept prompt that no live response shares; its place is free then. */
void prompt_give_up(struct generator *generator, struct prompt *prompt);
/* Starts the first waiting job if its pages are free or can be made free.  False when it has to wait. */
bool live_start(struct generator *generator);
/* One token for each of these live responses, at most group_max of them. */
void group_step(struct generator *generator, struct live *live, size_t count);

#endif
