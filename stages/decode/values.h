/*
 * values.h - the value models that --value names, from directories or from a store's training runs.
 */
#ifndef DECODE_VALUES_H
#define DECODE_VALUES_H

#include "base/option.h"
#include "base/pool.h"
#include "sample/generate.h"

struct values {
    struct value_model models[VALUE_MODELS_MAX];
    size_t count;
    struct tokenizer *tokenizers[VALUE_MODELS_MAX];  // of those that do not share the base policy's
    size_t tokenizer_count;
    struct trunk {
        char *path;
        size_t adapters;      // of the models
        struct model *model;  // opened where these are several, else NULL
    } trunks[VALUE_MODELS_MAX];  // bases of adapters
    size_t trunk_count;
};

/*
 * Each spec is RUN, DIR or FILE.gguf with an optional ":BETA"; without one beta is the default.  A name that is no path is the run
 * whose newest weights the store at endpoint (NULL: there is none) has.  Models with beta 0 are not read.
 * quant and keep_packed (of paths) as in model_open_quantised.  Where several are adapters of one base, it is opened once and they
 * stay unmerged (model_open_adapter); one adapter alone is merged.
 *
 * 0, or the exit code with the reason logged; values_close either way.
 */
int values_open(struct values *values, const struct option_list *specs, double beta, enum tensor_type quant, bool keep_packed,
                const char *endpoint, struct pool *pool);
void values_close(struct values *values);

/*
 * Gives the value models whose tokenizer is not the base policy's theirs, from these directories and files.  What is left without
 * does not fit (value_model_check).  0, or the exit code with the reason logged.
 */
int values_use_tokenizers(struct values *values, const struct option_list *paths, const struct tokenizer *base);

/* "vas RUN:BETA ..." with the last part of paths; "base" where nothing steers.  The caller frees. */
char *values_policy_name(const struct values *values);

#endif
