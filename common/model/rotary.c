/*
 * rotary.c - see rotary.h.
 *
 * Frequencies and angles are rounded to float32 where transformers rounds them: at position 4096 that moves an angle by up to
 * 2e-4, and models were trained with it.  A product that is added to is rounded first (product), not fused, and PyTorch divides
 * a number by a tensor in two steps.
 */
#include "model/rotary.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

static float product(float a, float b)
{
    return (float)((double)a * (double)b);
}

/* ---- frequency of pair c from power = theta^(2 c / HS), a function for each rope_kind ---- */

typedef float frequency_function(const struct model_config *config, float power, size_t c);

static float frequency_default(const struct model_config *config, float power, size_t c)
{
    (void)config;
    (void)c;
    return 1.0f / power;
}

static float frequency_linear(const struct model_config *config, float power, size_t c)
{
    (void)c;
    return 1.0f / power / (float)config->rope.factor;
}

/* The pair, not rounded, that turns so many times within the original positions. */
static double yarn_pair(const struct model_config *config, double turns)
{
    double positions = (double)config->rope.original_positions;
    return (double)config->head_size * log(positions / (turns * 2 * M_PI)) / (2 * log(config->rope_theta));
}

/* Pairs that turn often keep their frequency, those that turn seldom are slowed down by the factor, a ramp lies between. */
static float frequency_yarn(const struct model_config *config, float power, size_t c)
{
    double low = fmax(floor(yarn_pair(config, config->rope.beta_fast)), 0);
    double high = fmin(ceil(yarn_pair(config, config->rope.beta_slow)), (double)config->head_size - 1);
    float width = (float)(high == low ? 0.001 : high - low);
    float ramp = fminf(fmaxf(((float)c - (float)low) / width, 0.0f), 1.0f), keep = 1.0f - ramp;
    float kept = 1.0f / power, slowed = 1.0f / product((float)config->rope.factor, power);
    return product(slowed, 1.0f - keep) + product(kept, keep);
}

static float frequency_longrope(const struct model_config *config, float power, size_t c)
{
    return 1.0f / product(config->rope.factors[c], power);
}

/* By wavelength: short ones keep their frequency, long ones are slowed down by the factor, those between by a part of it. */
static float frequency_llama3(const struct model_config *config, float power, size_t c)
{
    (void)c;
    const struct rope_scaling *rope = &config->rope;
    double positions = (double)rope->original_positions;
    float frequency = 1.0f / power, wavelength = product(1.0f / frequency, (float)(2 * M_PI)), factor = (float)rope->factor;
    if (wavelength > (float)(positions / rope->low_frequency))
        return frequency / factor;
    if (wavelength < (float)(positions / rope->high_frequency))
        return frequency;
    float turns = product(1.0f / wavelength, (float)positions);
    float smooth = (turns - (float)rope->low_frequency) / (float)(rope->high_frequency - rope->low_frequency);
    return product(1.0f - smooth, frequency) / factor + product(smooth, frequency);
}

/* Dynamic scaling sets in behind the context that a config allows. */
static frequency_function *const frequency_functions[] = {
    [ROPE_DEFAULT] = frequency_default, [ROPE_LINEAR] = frequency_linear, [ROPE_DYNAMIC] = frequency_default,
    [ROPE_YARN] = frequency_yarn, [ROPE_LONGROPE] = frequency_longrope, [ROPE_LLAMA3] = frequency_llama3,
};

/* ---- angles ---- */

void rotary_fill(float *cosine, float *sine, size_t first, size_t count, const struct model_config *config)
{
    size_t HS = (size_t)config->head_size, half = HS / 2;
    double scale = config->rope.attention_factor != 0 ? config->rope.attention_factor : 1;
    float *frequency = memory_alloc(half, sizeof *frequency);
    for (size_t c = 0; c < half; c++) {
        float power = (float)pow(config->rope_theta, (double)((float)(2 * c) / (float)HS));
        frequency[c] = frequency_functions[config->rope.kind](config, power, c);
    }
    for (size_t t = 0; t < count; t++) {
        for (size_t c = 0; c < half; c++) {
            double angle = (double)((float)(first + t) * frequency[c]);
            cosine[t * half + c] = (float)cos(angle) * (float)scale;
            sine[t * half + c] = (float)sin(angle) * (float)scale;
        }
    }
    free(frequency);
}
