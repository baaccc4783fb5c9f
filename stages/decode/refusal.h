/*
 * refusal.h - what JSON lines have in place of an answer to a line.
 */
#ifndef DECODE_REFUSAL_H
#define DECODE_REFUSAL_H

#include <stddef.h>

#include "base/json.h"

/* {"error": reason, "line": number}; number 0: no "line". */
json_t *refusal_to_json(const char *reason, size_t number);

#endif
