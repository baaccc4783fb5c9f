/*
 * valuer.h - the values of a response's states under one value model.
 *
 * State n of a response is the prompt and its first n tokens; its value is read at the last of them
 * (schemas/frames.def has the convention).
 */
#ifndef VALUE_TARGET_VALUER_H
#define VALUE_TARGET_VALUER_H

#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "math/tensor_type.h"

struct valuer;
struct weights;

/* From a model directory with a value head, rounded and kept packed as model_open_quantised says.  NULL on failure, logged;
   *code is then the exit code. */
struct valuer *valuer_open(const char *path, enum tensor_type quant, bool keep_packed, struct pool *pool, int *code);
/* From a checkpoint's bytes, which may be freed afterwards.  name is for messages. */
struct valuer *valuer_from_checkpoint(const void *data, size_t size, const char *name, enum tensor_type quant, struct pool *pool);
void valuer_close(struct valuer *valuer);

/*
 * values: (R + 1) out, of states 0 .. R.  prompt: (P), response: (R) token ids.
 * 0, or -1 with one line in reason when the model cannot read these tokens.
 */
int valuer_values(struct valuer *valuer, float *values, const int32_t *prompt, size_t P, const int32_t *response, size_t R,
                  char reason[256]);

#endif
