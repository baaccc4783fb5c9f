/* desk_hello.c - who says hello is welcomed, with the line of work that its settings name, or refused.  See desk_parts.h. */
#define _GNU_SOURCE
#include "store/desk_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "store/checkpoint.h"
#include "store/pin.h"

enum { WORKERS_MAX = 1 << 14 };

/* Within this time of a store's first frame its workers have noticed by their beats that it was restarted, and are back. */
static const double RETURN_S = 3;

enum greeting { WELCOME, REFUSED, FAILED };

static enum greeting greeting_of_pin(int64_t pinned)
{
    return pinned > 0 ? WELCOME : pinned == 0 ? REFUSED : FAILED;
}

static enum greeting greet_tokenize(struct desk *desk, struct worker *worker, char *reason)
{
    const struct settings *settings = &worker->settings;
    json_t *imported = json_pack("{s:b}", "imported", 1);
    enum greeting greeting = announce_source(desk->db, settings->tokenizer) == 0 ? WELCOME : FAILED;
    if (greeting == WELCOME && settings->policy[0] != '\0')
        greeting = greeting_of_pin(worker->policy = pin_policy(desk->db, settings->policy, imported, reason));
    if (greeting == WELCOME && settings->reward[0] != '\0')
        greeting = greeting_of_pin(worker->reward = pin_reward(desk->db, settings->reward, imported, reason));
    json_decref(imported);
    return greeting;
}

static enum greeting greet_sampler(struct desk *desk, struct worker *worker, int64_t *missing, char *reason)
{
    const struct settings *settings = &worker->settings;
    if (settings->policy[0] == '\0')
        return WELCOME;
    worker->policy = pin_policy(desk->db, settings->policy, settings->spec, reason);
    if (worker->policy <= 0)
        return greeting_of_pin(worker->policy);
    char tokenizer[NAME_BYTES + 1];
    int foreign = work_split_foreign(desk->db, worker->policy, settings->split, tokenizer, sizeof tokenizer);
    if (foreign != 0) {
        snprintf(reason, STORE_REASON_BYTES, "split \"%s\" has prompts of tokenizer %s, not of the tokenizer of policy \"%s\"",
                 settings->split, tokenizer, settings->policy);
        return foreign > 0 ? REFUSED : FAILED;
    }
    if (announce_samples(desk->db, worker->policy, settings->split, settings->samples) != 0)
        return FAILED;
    worker->line = lines_samples(&desk->lines, stage_name(settings->stage), worker->policy, settings->split, settings->samples);
    *missing = work_samples_count(desk->db, &worker->line->samples);
    return *missing < 0 ? FAILED : WELCOME;
}

static enum greeting greet_reward(struct desk *desk, struct worker *worker, int64_t *missing, char *reason)
{
    const struct settings *settings = &worker->settings;
    worker->reward = pin_reward(desk->db, settings->reward, settings->spec, reason);
    if (worker->reward <= 0)
        return greeting_of_pin(worker->reward);
    int64_t policy = settings->policy[0] != '\0' ? find_policy(desk->db, settings->policy) : 0;
    worker->line = lines_scores(&desk->lines, worker->reward, settings->policy, settings->split);
    worker->line->scores.policy = policy > 0 ? policy : 0;
    *missing = policy == 0 && settings->policy[0] != '\0' ? 0 : work_scores_count(desk->db, &worker->line->scores);
    return *missing < 0 || policy < 0 ? FAILED : WELCOME;
}

/* A second train of a run takes over. */
static void take_over(struct desk *desk, const struct worker *successor)
{
    for (size_t i = 0; i < desk->worker_count; i++) {
        struct worker *worker = desk->workers[i];
        if (worker != successor && worker->settings.stage == STAGE_TRAIN && worker->run == successor->run && !worker->taken_over) {
            worker->taken_over = true;
            worker->want = 0;
        }
    }
}

/* The plan of a run is fixed: says which prompts came too late for it. */
static int say_left_out(struct desk *desk, const struct plan *plan)
{
    int64_t left_out = plan_left_out(desk->db, plan);
    if (left_out > 0) {
        log_event("run \"%s\" does not train on %lld prompts that were stored after it was planned", plan->name,
                  (long long)left_out);
        log_hint("another --run trains on all");
    }
    return left_out < 0 ? -1 : 0;
}

static enum greeting greet_run(struct desk *desk, struct worker *worker, json_t *welcome, int64_t *missing, double now_s,
                               char *reason)
{
    const struct settings *settings = &worker->settings;
    if (settings->run[0] == '\0')
        return WELCOME;
    bool train = settings->stage == STAGE_TRAIN;
    const char *part = train ? "train" : "target";
    int fits = plan_check(desk->db, settings->run, part, settings->part, reason);
    if (fits <= 0)
        return fits < 0 ? FAILED : REFUSED;
    worker->run = pin_run(desk->db, settings->run, part, settings->part, reason);
    if (worker->run <= 0)
        return greeting_of_pin(worker->run);
    worker->line = lines_run(&desk->lines, train ? LINE_BATCHES : LINE_TARGETS, worker->run);
    lines_changed(&desk->lines);
    if (lines_plan(&desk->lines) != 0)
        return FAILED;
    if (train) {
        struct checkpoint_newest newest;
        take_over(desk, worker);
        if (line_restart(worker->line) != 0 || checkpoint_newest(desk->db, worker->run, "full", &newest) != 0)
            return FAILED;
        json_object_set_new(welcome, "checkpoint", json_integer(newest.step));
        if (worker->line->plan != NULL && say_left_out(desk, worker->line->plan) != 0)
            return FAILED;
    }
    return line_missing(worker->line, now_s, missing) == 0 ? WELCOME : FAILED;
}

static enum greeting greet(struct desk *desk, struct worker *worker, json_t *welcome, int64_t *missing, double now_s, char *reason)
{
    switch (worker->settings.stage) {
    case STAGE_TOKENIZE:
        return greet_tokenize(desk, worker, reason);
    case STAGE_ROLLOUT:
    case STAGE_DECODE:
        return greet_sampler(desk, worker, missing, reason);
    case STAGE_REWARD:
        return greet_reward(desk, worker, missing, reason);
    case STAGE_VALUE_TARGET:
    case STAGE_TRAIN:
        return greet_run(desk, worker, welcome, missing, now_s, reason);
    case STAGE_FETCH:
        return WELCOME;
    case STAGE_COUNT:
        break;
    }
    CHECK(!"settings_read gives one of the seven stages");
    return FAILED;
}

/* The worker's earlier conversations: on this connection, or on one that broke. */
static void end_earlier(struct desk *desk, const void *peer, size_t peer_size, const char *name, enum worker_stage stage)
{
    const struct worker *same = worker_find(desk, peer, peer_size);
    for (size_t i = desk->worker_count; i-- > 0; ) {
        struct worker *worker = desk->workers[i];
        if (worker == same || (worker->silent && worker->settings.stage == stage && strcmp(worker->name, name) == 0)) {
            worker_pardon(worker);
            worker_leave(desk, worker);
        }
    }
}

void desk_greet(struct desk *desk, const void *peer, size_t peer_size, const struct frame_hello *hello, double now_s)
{
    char reason[STORE_REASON_BYTES] = "";
    struct settings settings;
    if (settings_read(&settings, hello, reason) != 0) {
        desk_refuse(desk, peer, peer_size, 0, 0, true, reason);
        settings_free(&settings);
        return;
    }
    end_earlier(desk, peer, peer_size, hello->worker, settings.stage);
    if (desk->worker_count == WORKERS_MAX) {
        snprintf(reason, sizeof reason, "the store serves %d workers already", WORKERS_MAX);
        desk_refuse(desk, peer, peer_size, 0, 0, true, reason);
        settings_free(&settings);
        return;
    }
    struct worker *worker = memory_alloc(1, sizeof *worker);
    *worker = (struct worker){ .peer = memcpy(memory_alloc(peer_size, 1), peer, peer_size), .peer_size = peer_size,
                               .name = memory_text(hello->worker), .settings = settings, .heard_s = now_s, .spoke = true };
    rate_begin(&worker->rate, now_s);
    json_t *welcome = json_object();
    int64_t missing = 0;
    desk_look(desk);
    enum greeting greeting = greet(desk, worker, welcome, &missing, now_s, reason);
    if (greeting == FAILED && db_trouble(desk->db) == DB_REFUSED) {
        snprintf(reason, sizeof reason, "the store cannot hold these settings: %s", db_reason(desk->db));
        greeting = REFUSED;
    }
    if (greeting != WELCOME) {
        if (greeting == REFUSED)
            desk_refuse(desk, peer, peer_size, 0, 0, true, reason);
        else
            desk->failed = true;
        worker_free(worker);
    } else {
        worker_add(desk, worker);
        if (worker->line != NULL)
            worker->line->workers++;
        if (worker->line != NULL && hello->again)  // others may have what this one would be handed
            worker->line->rests_until_s = desk->opened_s + RETURN_S;
        desk->lines.sources += settings.stage == STAGE_TOKENIZE;
        lines_changed(&desk->lines);
        char *text = json_text(welcome);
        struct frame frame = frame_make(FRAME_welcome);
        frame.welcome.settings = text;
        frame.welcome.missing = missing;
        frame.welcome.holds = 1;
        desk_reply(desk, worker, &frame, now_s);
        free(text);
        worker->missing_at_first = missing;
    }
    json_decref(welcome);
}
