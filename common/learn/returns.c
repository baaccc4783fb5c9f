/* returns.c - see returns.h. */
#include "learn/returns.h"

#include "base/check.h"

void returns_lambda(float *target, const float *value, size_t R, float score, struct returns_config config)
{
    CHECK(R >= 1);
    CHECK(value != NULL || config.lambda == 1.0f);
    target[R] = score;      // the terminal state
    target[R - 1] = score;  // paid on leaving it, so not discounted
    for (size_t n = R - 1; n-- > 0; ) {
        float next = config.lambda * target[n + 1];
        if (config.lambda < 1.0f)
            next += (1.0f - config.lambda) * value[n + 1];
        target[n] = config.gamma * next;
    }
}
