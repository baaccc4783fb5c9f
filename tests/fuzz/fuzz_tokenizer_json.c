/* fuzz_tokenizer_json.c - whatever the file, it is refused or gives a tokenizer that holds to tokenizer_use.h. */
#include "base/json.h"
#include "fuzz.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_parse((const char *)data, size, "fuzz");
    struct tokenizer *tokenizer = json != NULL ? tokenizer_from_json(json, "fuzz") : NULL;
    json_decref(json);
    if (tokenizer == NULL)
        return 0;
    tokenizer_finish(tokenizer);
    tokenizer_use(tokenizer);
    tokenizer_write_and_read(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
