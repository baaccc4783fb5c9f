/*
 * scoring.h - from a batch of rollout frames to scored frames.
 */
#ifndef REWARD_SCORING_H
#define REWARD_SCORING_H

#include "score/scorer.h"
#include "wire/edge.h"

struct scoring {
    struct scorer *scorer;
    struct edge *edge;
    const char *reward;      // name of the reward
    int64_t scored, failed;  // so far
    double score_sum;
    double stop_s;           // when the signal to stop was first seen; 0: not yet
};

enum scoring_status {
    SCORING_DONE,     // one output for every input
    SCORING_LEFT,     // stopped with inputs left; they stay undone
    SCORING_BROKEN,   // the scorer is of no use any more, logged
    SCORING_NO_EDGE,  // the edge failed, logged
};

/* Gives a scored frame, or a failure, for each rollout of the batch. */
enum scoring_status score_rollouts(struct scoring *scoring, const struct batch *rollouts);

/* For scorer_options.wait, context a struct scoring: serves the edge; false some seconds after a signal to stop. */
bool scoring_wait(void *context);

#endif
