/*
 * base_policy.h - the model that responses are sampled from, as rollout's and decode's command lines name it.
 */
#ifndef SAMPLE_BASE_POLICY_H
#define SAMPLE_BASE_POLICY_H

#include <stdbool.h>

#include "base/option.h"
#include "base/pool.h"
#include "model/model.h"
#include "text/tokenizer.h"

struct base_policy {
    const char *path, *tokenizer_path, *quant, *kv_type;  // as given, or NULL; a path also of what was fetched
    bool keep_packed;
    struct model *model;
    struct tokenizer *tokenizer;
};

#define BASE_POLICY_OPTION_SPECS(base) \
    { 'm', "model", "DIR|FILE", OPTION_TEXT, &(base).path, 0, 0, \
      "base policy: model directory, GGUF file or llama2.c's .bin,\nor store:NAME, which is fetched (store share)" }, \
    { 0, "tokenizer", "DIR|FILE", OPTION_TEXT, &(base).tokenizer_path, 0, 0, \
      "its tokenizer where the model brings none (llama2.c's\nfiles), or another than its own" }, \
    { 0, "quant", MODEL_QUANTS, OPTION_CHOICE, &(base).quant, 0, 0, \
      "round the model's matrices on load: less memory, another\npolicy (default: as in the file)" }, \
    { 0, "kv-type", MODEL_KV_TYPES, OPTION_CHOICE, &(base).kv_type, 0, 0, \
      "hold the policy's keys and values so; f16: half the memory,\nanother policy (default f32)" }

/* Refuses the command line where it names none. */
void base_policy_check(const struct base_policy *base);

/* Opens it; what is the store's is fetched from this endpoint.  Returns the exit code; whatever went wrong has been logged. */
int base_policy_open(struct base_policy *base, const char *endpoint, struct pool *pool);
void base_policy_close(struct base_policy *base);

#endif
