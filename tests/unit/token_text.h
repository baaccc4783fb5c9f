/* token_text.h - token ids as a text, for tests. */
#ifndef TESTS_TOKEN_TEXT_H
#define TESTS_TOKEN_TEXT_H

#include <stdlib.h>

#include "base/memory.h"
#include "text/tokenizer.h"
#include "../check.h"

/* expected: "1 2". */
static inline void expect_list(const struct token_list *ids, const char *expected)
{
    struct buffer printed = { 0 };
    for (size_t i = 0; i < ids->count; i++)
        buffer_printf(&printed, "%s%d", i ? " " : "", ids->at[i]);
    buffer_append(&printed, "", 1);
    EXPECT_TEXT(printed.data, expected);
    free(printed.data);
}

#endif
