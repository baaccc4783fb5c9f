/* scoring.c - see scoring.h. */
#include "reward/scoring.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/stop.h"

static const double grace_s = 5;  // for what is held, once a signal has come

bool scoring_wait(void *context)
{
    struct scoring *scoring = context;
    struct batch none;
    if (edge_take(scoring->edge, &none, 0, false) == EDGE_FAILED)
        return false;
    if (stop_requested() && scoring->stop_s == 0)
        scoring->stop_s = clock_s();
    return scoring->stop_s == 0 || clock_s() - scoring->stop_s < grace_s;
}

static int give_scored(struct scoring *scoring, const struct frame *rollout, double score)
{
    struct frame frame = frame_extended(FRAME_scored, rollout);
    struct frame_scored *scored = &frame.scored;
    scored->reward = scoring->reward;
    scored->score = score;
    return edge_give(scoring->edge, &frame);
}

enum scoring_status score_rollouts(struct scoring *scoring, const struct batch *rollouts)
{
    struct scorer_text *texts = memory_alloc(rollouts->count, sizeof *texts);
    struct scorer_result *results = memory_alloc(rollouts->count, sizeof *results);
    for (size_t i = 0; i < rollouts->count; i++)
        texts[i] = (struct scorer_text){ rollouts->frames[i].rollout.prompt, rollouts->frames[i].rollout.response };

    enum scoring_status status = SCORING_DONE;
    enum effort before = effort_enter(EFFORT_COMPUTE);
    if (scorer_score(scoring->scorer, texts, rollouts->count, results) != 0)
        status = SCORING_BROKEN;
    effort_enter(before);
    bool edge_works = true;
    for (size_t i = 0; i < rollouts->count && edge_works; i++) {
        switch (results[i].status) {
        case SCORER_SCORED:
            edge_works = give_scored(scoring, &rollouts->frames[i], results[i].score) == 0;
            scoring->scored++;
            scoring->score_sum += results[i].score;
            break;
        case SCORER_FAILED:
            edge_works = edge_fail(scoring->edge, rollouts->frames[i].rollout.item, results[i].reason) == 0;
            scoring->failed++;
            break;
        case SCORER_LEFT:
            if (status == SCORING_DONE)
                status = SCORING_LEFT;
            break;
        }
    }
    free(results);
    free(texts);
    return edge_works ? status : SCORING_NO_EDGE;
}
