/* fuzz_chat.c - whatever the messages, every format refuses them with a reason or gives text whose plain
   spans lie in it, in order. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "fuzz.h"
#include "text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *messages = json_loadb((const char *)data, size, JSON_ALLOW_NUL, NULL);
    if (messages == NULL)
        return 0;
    for (int format = 0; format < CHAT_FORMAT_COUNT; format++) {
        struct chat_text chat = { 0 };
        char reason[256] = "";
        if (chat_render((enum chat_format)format, messages, NULL, &chat, reason) != 0)
            CHECK(*reason != '\0' && strchr(reason, '\n') == NULL);
        size_t end = 0;
        for (size_t i = 0; i < chat.plain_count; i++) {
            CHECK(end <= chat.plain[i].start && chat.plain[i].start < chat.plain[i].end && chat.plain[i].end <= chat.text.size);
            end = chat.plain[i].end;
        }
        chat_text_free(&chat);
    }
    char *text = json_dumps(messages, 0), *system = NULL;
    if (text != NULL)
        chat_format_from_template(text, "<s>", "</s>", &system);
    free(system);
    free(text);
    json_decref(messages);
    return 0;
}
