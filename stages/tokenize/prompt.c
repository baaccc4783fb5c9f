/* prompt.c - see prompt.h. */
#include "tokenize/prompt.h"

#include <stdlib.h>
#include <sysexits.h>

#include "base/log.h"

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

int prompt_make(const struct prompt_style *style, const struct record *record, struct buffer *text, struct token_list *ids)
{
    int code = EX_OK;
    char reason[256];
    struct chat_text chat = { 0 };
    text->size = ids->count = 0;
    if (record->messages == NULL) {
        tokenizer_encode(style->tokenizer, record->prompt, record->prompt_size, ENCODE_SPECIAL, ids);
        buffer_append(text, record->prompt, record->prompt_size);
    } else if (style->chat == CHAT_FORMAT_COUNT) {
        log_error("cannot use \"%s\" line %lld: it has messages, and the model names no chat format that is known", record->path,
                  (long long)record->line);
        log_hint("say --chat llama-2, llama-3, chatml, zephyr or hh");
        code = EX_USAGE;
    } else if (chat_render(style->chat, record->messages, style->system, &chat, reason) != 0) {
        log_error("cannot use \"%s\" line %lld: %s", record->path, (long long)record->line, reason);
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
