/*
 * prompt.h - the token ids of a prompt: of its text, or of its messages in the model's chat format.
 */
#ifndef TEXT_PROMPT_H
#define TEXT_PROMPT_H

#include <jansson.h>

#include "text/chat.h"
#include "text/tokenizer.h"

/* How programs that take messages are told their format. */
#define CHAT_HINT "say --chat llama-2, llama-3, chatml, zephyr or hh"
#define CHAT_OPTION(chat) \
    { 0, "chat", CHAT_NAMES, OPTION_CHOICE, &(chat), 0, 0, \
      "how messages become text (default: as the model's own chat\ntemplate, where it is one of these)" }

/* How prompts are made.  Zero-initialise; prompt_style_free at the end. */
struct prompt_style {
    const struct tokenizer *tokenizer;
    enum chat_format chat;  // CHAT_FORMAT_COUNT: not known
    char *system;           // what the model's template says where there is no system message; NULL: nothing
};

/* chat: a name as on the command line, or NULL for the format of the model's own template, where it is one that we know. */
void prompt_style_init(struct prompt_style *style, const struct tokenizer *tokenizer, const char *chat);
void prompt_style_free(struct prompt_style *style);

/* A prompt is a text, or messages in its place. */
struct prompt_source {
    const char *text;
    size_t size;             // bytes
    const json_t *messages;  // a list; NULL where there is a text
};

/*
 * Puts the prompt into text (emptied first, a NUL after it) and its ids into ids (emptied first).  EX_OK; or, with one line of
 * reason, EX_DATAERR: it cannot be used; EX_USAGE: no messages can (CHAT_HINT).
 */
int prompt_make(const struct prompt_style *style, const struct prompt_source *source, struct buffer *text, struct token_list *ids,
                char reason[256]);

#endif
