/* fuzz_vocabulary.c - whatever the vocab.txt, it is refused or gives a tokenizer that holds to tokenizer_use.h. */
#include "fuzz.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *tokenizer = tokenizer_from_vocabulary((const char *)data, size, size % 2 == 0, "fuzz");
    if (tokenizer == NULL)
        return 0;
    tokenizer_finish(tokenizer);
    tokenizer_use(tokenizer);
    tokenizer_write_and_read(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
