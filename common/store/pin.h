/*
 * pin.h - what a name means: pinned by the first worker that says it, refused to one that means something else.
 *
 * Also what workers announce: how many samples they were asked for, and that prompts are still to come.
 *
 * Functions that pin return the row's id (above 0), 0 with a line in reason when the name means something else, or -1 when the
 * store could not be read or written (db_trouble).  All write inside the caller's transaction.
 */
#ifndef STORE_PIN_H
#define STORE_PIN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/db.h"

/* spec: a JSON object; "tokenizer" in it limits the prompts, {"imported": true} marks rollouts from elsewhere. */
int64_t pin_policy(struct db *db, const char *name, const json_t *spec, char *reason);
int64_t pin_reward(struct db *db, const char *name, const json_t *spec, char *reason);
/* part: "target" or "train". */
int64_t pin_run(struct db *db, const char *name, const char *part, const json_t *settings, char *reason);

/* The row's id, 0 when there is none, -1 on failure. */
int64_t find_policy(struct db *db, const char *name);
int64_t find_reward(struct db *db, const char *name);
int64_t find_run(struct db *db, const char *name);

/* 1 when a prompt is of this split, 0, -1 on failure. */
int64_t find_split(struct db *db, const char *name);

/* The samples of each prompt of the split that the policy is asked for: the latest wish counts.  0 or -1. */
int announce_samples(struct db *db, int64_t policy, const char *split, int64_t samples);
/* A tokenize began; ended says that all its prompts have been sent.  0 or -1. */
int announce_source(struct db *db, const char *tokenizer);
int announce_source_ended(struct db *db, const char *tokenizer);
/* No tokenize is at work, whatever was announced.  How many had not ended, or -1. */
int64_t announce_sources_vanished(struct db *db);

/*
 * The first difference between two JSON values, as "temperature 1, this worker has 0.7".  False when they are equal; 1 and 1.0
 * are.
 */
bool json_difference(const json_t *stored, const json_t *given, char *line, size_t size);

#endif
