/*
 * rotary.h - the angles of rotary position embedding, as transformers computes them.
 *
 * Channel c of a head turns together with channel c + HS / 2 (rotate-half): with (x, y) the pair,
 *
 *     (x, y) -> (x cos - y sin, y cos + x sin),   angle = position * theta^(-2 c / HS).
 */
#ifndef MODEL_ROTARY_H
#define MODEL_ROTARY_H

#include <stddef.h>

/* cosine, sine: (count, HS / 2) out, of positions first .. first + count - 1. */
void rotary_fill(float *cosine, float *sine, size_t first, size_t count, size_t HS, double theta);

/* Turns H heads in place by the angles of one position.  x: (H, HS), cosine, sine: (HS / 2). */
void rotary_turn(float *x, const float *cosine, const float *sine, size_t H, size_t HS);

#endif
