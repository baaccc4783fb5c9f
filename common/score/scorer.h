/*
 * scorer.h - one number for a whole response: the interface that every kind of reward implements.
 *
 * A scorer is a pure function of (prompt, response), as far as its backend keeps that promise; scorer_spec says which
 * function it is, and the store pins that under the reward's name.  Not thread-safe.
 *
 *   lexicon   a file of words with valences: s / sqrt(s*s + 15), s = sum over the words of the response (scorer_lexicon.c)
 *   exec      a command that is kept running and answers one number a line (scorer_exec.c)
 *   model     a reward model: an encoder or a decoder with a sequence-classification head (scorer_model.c)
 *
 * A further kind is a file with a struct scorer_backend (scorer_backend.h), a line in scorer.c's table and its option below.
 */
#ifndef SCORE_SCORER_H
#define SCORE_SCORER_H

#include <stdbool.h>
#include <stddef.h>

#include "model/model.h"

/* Exactly one of the kinds is set.  Everything is borrowed until scorer_close. */
struct scorer_options {
    const char *lexicon;  // file
    const char *exec;     // command for /bin/sh -c
    const char *model;    // reward model: Hugging Face directory
    const char *label;    // model: NAME, INDEX, or A-B for the difference of two; NULL: the only one
    const char *join;     // model: how prompt and response become its input, see join.h; NULL: as scorer_model.c says
    const char *truncate; // model: left, right or refuse, see join.h; NULL: left
    const char *quant;    // model: bf16, q8_0, q4_0 or nf4; NULL: as in the file
    bool keep_packed;     // model: as model_open_quantised says
    struct pool *pool;    // model: threads
    double scale;         // multiplies every score, finite and not 0
    double timeout_s;     // exec: for one response, > 0

    /*
     * Called at least once a second while a score is waited for; may be NULL.  A stage serves its edge here.
     * False: give up, and leave what has no score yet.
     */
    bool (*wait)(void *context);
    void *wait_context;
};

#define SCORER_DEFAULTS { .scale = 1, .timeout_s = 60 }

/*
 * The rows of a program's option table, so that every program calls them the same.  o is a struct scorer_options.  Where a program
 * has a model of its own, the reward model's options begin with "reward-": prefix is that or "", letter the short name or 0.
 */
#define SCORER_OPTION_SPECS(o, letter, prefix)                                                                      \
    { 0, "lexicon", "FILE", OPTION_TEXT, &(o).lexicon, 0, 0,                                                        \
      "score words by a file of \"word TAB valence\" lines\n(VADER's format): s / sqrt(s*s + 15), s their sum" },    \
    { 0, "exec", "COMMAND", OPTION_TEXT, &(o).exec, 0, 0,                                                           \
      "score by a command, kept running: one JSON line\n{\"prompt\",\"response\"} in, one number a line out" },      \
    { 0, "timeout", "S", OPTION_NUMBER, &(o).timeout_s, 0.01, 86400, "seconds the command has for one response (default 60)" }, \
    { letter, prefix "model", "DIR", OPTION_TEXT, &(o).model, 0, 0,                                                 \
      "score by a reward model: a directory whose architecture\nis *ForSequenceClassification, encoder or decoder" }, \
    { 0, prefix "label", "LABEL", OPTION_TEXT, &(o).label, 0, 0,                                                    \
      "which of its labels: NAME, INDEX, or A-B for the\ndifference of two (default: the only one)" },              \
    { 0, prefix "join", "HOW", OPTION_TEXT, &(o).join, 0, 0,                                                        \
      "how prompt and response become its input: pair,\nlast-turn (a pair too, of a dialogue only the user's last\n"   \
      "words), concat, chat:NAME, or a text with {prompt} and\n{response} (default: last-turn for encoders; for\n"     \
      "decoders their chat template if known, else concat)" },                                                      \
    { 0, prefix "truncate", "left|right|refuse", OPTION_CHOICE, &(o).truncate, 0, 0,                                \
      "what an input that is too long loses: left, the prompt's\nbeginning; right, as transformers does it; or\n"     \
      "refuse to score it (default left)" },                                                                        \
    { 0, prefix "quant", MODEL_QUANTS, OPTION_CHOICE, &(o).quant, 0, 0, "round its weights on loading" },           \
    { 0, "scale", "FACTOR", OPTION_NUMBER, &(o).scale, -1e6, 1e6, "multiplies every score; -1 prefers the opposite (default 1)" }

/* How many kinds are chosen. */
size_t scorer_kinds(const struct scorer_options *options);

struct scorer;

/* NULL on failure, logged; *code is then the exit code (64 not exactly one kind or scale 0, 65, 66, 71). */
struct scorer *scorer_open(const struct scorer_options *options, int *code);
void scorer_close(struct scorer *scorer);

/*
 * What this scorer computes, as canonical JSON: {"kind", the content that decides its scores, "scale"}.
 * Equal functions give equal bytes.  Valid until scorer_close.
 */
const char *scorer_spec(const struct scorer *scorer);

struct scorer_text {
    const char *prompt, *response;  // UTF-8
};

enum scorer_status {
    SCORER_SCORED,  // score is set, finite, at most 1e30 in size
    SCORER_FAILED,  // this response cannot be scored; reason says why in one line
    SCORER_LEFT,    // not tried to the end: the wait was given up, or the scorer is broken
};

struct scorer_result {
    enum scorer_status status;
    double score;
    char reason[256];  // empty unless failed
};

/* 0, or -1 when the scorer is broken for good (logged); what was scored before that still counts. */
int scorer_score(struct scorer *scorer, const struct scorer_text *texts, size_t count, struct scorer_result *results);

#endif
