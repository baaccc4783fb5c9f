/* chat_parts.h - the formats that chat.c renders and chat_template.c recognises.  Internal to common/text; callers use chat.h. */
#ifndef TEXT_CHAT_PARTS_H
#define TEXT_CHAT_PARTS_H

#include "text/chat.h"

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_COUNT };
extern const char *const chat_role_names[ROLE_COUNT];

struct chat_style {
    const char *name;
    const char *marks[4];         // what a template of this format holds
    const char *begin, *end;      // what it writes as bos_token and eos_token; NULL: it writes none
    const char *begin_next;       // what stands behind bos_token; NULL: anything
    const char *user_end;         // what it holds between marks[0], of the user, and the next "<|"; NULL: anything
    struct { const char *before, *after; } turns[ROLE_COUNT];  // NULL: there are no such messages
    const char *start;            // of the whole text
    const char *next;             // makes the assistant speak
    bool begins;                  // see struct chat_text
    bool trims;
    bool alternates;              // user, assistant, user, ...
    bool system_inside;           // the system message is a part of the first user's
};
extern const struct chat_style chat_styles[CHAT_FORMAT_COUNT];

#endif
