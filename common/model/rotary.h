/*
 * rotary.h - the angles of rotary position embedding, as transformers computes them.
 *
 * Channel c of a head turns together with channel c + HS / 2 (rotate-half, rotary_turn of kernels.h) by position * frequency[c],
 * frequency[c] = theta^(-2 c / HS), stretched as the config's rope says, which may scale cosines and sines too (YaRN, LongRoPE).
 */
#ifndef MODEL_ROTARY_H
#define MODEL_ROTARY_H

#include <stddef.h>

#include "model/config.h"

/* cosine, sine: (count, HS / 2) out, of positions first .. first + count - 1, times the attention factor. */
void rotary_fill(float *cosine, float *sine, size_t first, size_t count, const struct model_config *config);

#endif
