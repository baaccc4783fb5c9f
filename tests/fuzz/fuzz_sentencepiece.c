/* fuzz_sentencepiece.c - whatever the *.model, it is refused or gives a tokenizer that holds to tokenizer_use.h. */
#include "fuzz.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *tokenizer = tokenizer_from_sentencepiece(data, size, "fuzz");
    if (tokenizer == NULL)
        return 0;
    tokenizer_finish(tokenizer);
    tokenizer_use(tokenizer);
    tokenizer_write_and_read(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
