/*
 * team.h - one training run by several ranks: rank 0 leads, the others follow.
 *
 * Only rank 0 has the data, the store, the checkpoints and the output.  It sends every batch whole; which examples of it a rank
 * computes is the trainer's affair.  Where there is one rank these functions do no more than their names say.
 */
#ifndef TRAIN_TEAM_H
#define TRAIN_TEAM_H

#include <stddef.h>

#include "learn/trainer.h"
#include "train/learner.h"

/* learner->trainer is opened on all ranks.  EX_OK, or the exit code. */
int team_open(struct learner *learner);
/* All have the weights, moments and steps of rank 0. */
void team_share(struct learner *learner);
/* trainer_step. */
int team_step(struct learner *learner, const struct example *examples, size_t count, struct step_metrics *metrics);
/* The last word of rank 0, also after a failure: closes the ranks. */
void team_end(struct learner *learner);

/* What the other ranks do until then.  Returns an exit code. */
int team_follow(struct learner *learner);

#endif
