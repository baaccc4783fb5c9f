/* prompt.c - see prompt.h. */
#include "text/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

void prompt_style_init(struct prompt_style *style, const struct tokenizer *tokenizer, const char *chat)
{
    *style = (struct prompt_style){ .tokenizer = tokenizer };
    style->chat = chat != NULL ? chat_format_from_name(chat) : chat_format_of(tokenizer, &style->system);
}

void prompt_style_free(struct prompt_style *style)
{
    free(style->system);
    style->system = NULL;
}

int prompt_make(const struct prompt_style *style, const struct prompt_source *source, struct buffer *text, struct token_list *ids,
                char reason[256])
{
    int code = EX_OK;
    struct chat_text chat = { 0 };
    text->size = ids->count = 0;
    if (source->messages == NULL) {
        tokenizer_encode(style->tokenizer, source->text, source->size, ENCODE_SPECIAL, ids);
        buffer_append(text, source->text, source->size);
    } else if (style->chat == CHAT_FORMAT_COUNT) {
        snprintf(reason, 256, "it has messages, and the model names no chat format that is known");
        code = EX_USAGE;
    } else if (chat_render(style->chat, source->messages, style->system, &chat, reason) != 0) {
        code = EX_DATAERR;
    } else {
        tokenizer_encode_around(style->tokenizer, chat.text.data, chat.text.size,
                                ENCODE_MARKUP | (chat.begins ? ENCODE_SPECIAL : 0), chat.plain, chat.plain_count, ids);
        buffer_append(text, chat.text.data, chat.text.size);
    }
    buffer_append(text, "", 1);
    text->size--;
    chat_text_free(&chat);
    return code;
}
