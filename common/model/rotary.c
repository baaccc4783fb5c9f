/* rotary.c - see rotary.h. */
#include "model/rotary.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

void rotary_fill(float *cosine, float *sine, size_t first, size_t count, size_t HS, double theta)
{
    /* Frequency and angle are rounded to float32 where transformers rounds them: at position 4096 that moves an
       angle by up to 2e-4, and models were trained with it. */
    size_t half = HS / 2;
    float *frequency = memory_alloc(half, sizeof *frequency);
    for (size_t c = 0; c < half; c++)
        frequency[c] = 1.0f / (float)pow(theta, (double)((float)(2 * c) / (float)HS));
    for (size_t t = 0; t < count; t++) {
        for (size_t c = 0; c < half; c++) {
            float angle = (float)(first + t) * frequency[c];
            cosine[t * half + c] = (float)cos((double)angle);
            sine[t * half + c] = (float)sin((double)angle);
        }
    }
    free(frequency);
}

void rotary_turn(float *x, const float *cosine, const float *sine, size_t H, size_t HS)
{
    size_t half = HS / 2;
    for (size_t h = 0; h < H; h++) {
        float *x_h = x + h * HS, *y_h = x_h + half;  // (HS / 2)
        for (size_t c = 0; c < half; c++) {
            float x_c = x_h[c], y_c = y_h[c];
            x_h[c] = x_c * cosine[c] - y_c * sine[c];
            y_h[c] = y_c * cosine[c] + x_c * sine[c];
        }
    }
}
