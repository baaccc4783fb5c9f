/*
 * prompt.h - the token ids of a record: of its text, or of its messages in the model's chat format.
 */
#ifndef TOKENIZE_PROMPT_H
#define TOKENIZE_PROMPT_H

#include "text/chat.h"
#include "text/tokenizer.h"
#include "tokenize/reader.h"

/* How prompts are made.  Zero-initialise; prompt_style_free at the end. */
struct prompt_style {
    const struct tokenizer *tokenizer;
    enum chat_format chat;  // CHAT_FORMAT_COUNT: not known
    char *system;           // what the model's template says where there is no system message; NULL: nothing
};

/* chat: a name as on the command line, or NULL for the format of the model's own template, where it is one that we know. */
void prompt_style_init(struct prompt_style *style, const struct tokenizer *tokenizer, const char *chat);
void prompt_style_free(struct prompt_style *style);

/*
 * Puts the record's prompt into text (emptied first, a NUL after it) and its ids into ids (emptied first).  EX_OK;
 * EX_DATAERR: the record cannot be used; EX_USAGE: no record with messages can.  What is wrong has been logged.
 */
int prompt_make(const struct prompt_style *style, const struct record *record, struct buffer *text, struct token_list *ids);

#endif
