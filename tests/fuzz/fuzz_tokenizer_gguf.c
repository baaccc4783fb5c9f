/* fuzz_tokenizer_gguf.c - whatever the metadata, it is refused or gives a tokenizer that holds to tokenizer_use.h. */
#include "fuzz.h"
#include "model/gguf.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *gguf = gguf_from_memory(data, size, "fuzz");
    struct tokenizer *tokenizer = gguf != NULL ? tokenizer_from_gguf(gguf, "fuzz") : NULL;
    gguf_close(gguf);
    if (tokenizer == NULL)
        return 0;
    tokenizer_finish(tokenizer);
    tokenizer_use(tokenizer);
    tokenizer_write_and_read(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
