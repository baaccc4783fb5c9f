/* base_policy.c - see base_policy.h. */
#include "sample/base_policy.h"

#include <sysexits.h>

#include "wire/remote_model.h"

void base_policy_check(const struct base_policy *base)
{
    if (base->path == NULL)
        options_refuse("-m is missing: which base policy?");
}

int base_policy_open(struct base_policy *base, const char *endpoint, struct pool *pool)
{
    int code = model_fetch(&base->path, endpoint);
    if (code == EX_OK)
        code = model_fetch(&base->tokenizer_path, endpoint);
    if (code != EX_OK)
        return code;
    base->tokenizer = tokenizer_open(base->tokenizer_path != NULL ? base->tokenizer_path : base->path, &code);
    if (base->tokenizer == NULL)
        return code;
    base->model = model_open_policy(base->path, model_quant_from_name(base->quant), base->keep_packed, pool, &code);
    if (base->model == NULL)
        return code;
    model_set_kv_type(base->model, model_kv_type_from_name(base->kv_type));
    return EX_OK;
}

void base_policy_close(struct base_policy *base)
{
    model_close(base->model);
    tokenizer_close(base->tokenizer);
}
