/*
 * content.h - what a store holds, as one number: two stores with equal content have equal digests.
 *
 * In the order of the keys, whatever the order in which rows arrived.  Left out are row ids, times, numbers whose name ends in
 * _s or _ms, metrics that do not belong to a run, and checkpoints that serve only to resume.
 */
#ifndef STORE_CONTENT_H
#define STORE_CONTENT_H

#include "base/digest.h"
#include "store/db.h"

/* 0, or -1 (logged). */
int content_digest(struct db *db, char hex[DIGEST_HEX_SIZE]);

#endif
