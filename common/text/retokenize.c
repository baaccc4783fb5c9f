/* retokenize.c - see retokenize.h. */
#include "text/retokenize.h"

#include <stdlib.h>
#include <string.h>

void retokenize_text(const struct tokenizer *tokenizer, const char *text, size_t size, bool ended, struct token_list *ids)
{
    size_t first = ids->count;
    int32_t end = tokenizer_end(tokenizer);
    tokenizer_encode(tokenizer, text, size, ENCODE_SPECIAL, ids);
    bool has_end = ids->count > first + 1 && ids->at[ids->count - 1] == end;
    if (has_end && !ended)
        ids->count--;
    else if (!has_end && ended && end >= 0)
        token_list_add(ids, end);
}

size_t retokenize_rollout(const struct tokenizer *tokenizer, const char *prompt, const char *response, bool stopped,
                          struct token_list *ids)
{
    struct token_list alone = { 0 };
    struct buffer text = { 0 };
    size_t first = ids->count, P = 0;
    retokenize_text(tokenizer, prompt, strlen(prompt), false, &alone);
    buffer_append(&text, prompt, strlen(prompt));
    buffer_append(&text, response, strlen(response));
    retokenize_text(tokenizer, text.size > 0 ? text.data : "", text.size, stopped, ids);
    while (P < alone.count && first + P < ids->count && alone.at[P] == ids->at[first + P])
        P++;
    free(text.data);
    free(alone.at);
    return P > 0 ? P : 1;
}
