/* chat.c - see chat.h. */
#define _GNU_SOURCE
#include "text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_COUNT };
static const char *const role_names[] = { "system", "user", "assistant" };

static const struct style {
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
} styles[] = {
    [CHAT_LLAMA_2] = {
        .name = "llama-2", .marks = { "<<SYS>>", "' [/INST]'", "' ' + eos_token" },
        .begin = "<s>", .end = "</s>", .begin_next = "[INST] '",
        .turns = { { "<<SYS>>\n", "\n<</SYS>>\n\n" }, { "<s>[INST] ", " [/INST]" }, { " ", " </s>" } },
        .start = "", .next = "", .trims = true, .alternates = true, .system_inside = true,
    },
    [CHAT_LLAMA_3] = {
        .name = "llama-3", .marks = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
        .begin = "<|begin_of_text|>",
        .turns = { { "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>" },
                   { "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>" },
                   { "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>" } },
        .start = "<|begin_of_text|>", .next = "<|start_header_id|>assistant<|end_header_id|>\n\n",
        .trims = true,
    },
    [CHAT_CHATML] = {
        .name = "chatml", .marks = { "<|im_start|>", "<|im_end|>" },
        .turns = { { "<|im_start|>system\n", "<|im_end|>\n" },
                   { "<|im_start|>user\n", "<|im_end|>\n" },
                   { "<|im_start|>assistant\n", "<|im_end|>\n" } },
        .start = "", .next = "<|im_start|>assistant\n",
    },
    [CHAT_ZEPHYR] = {
        .name = "zephyr", .marks = { "<|user|>", "<|assistant|>" }, .user_end = "eos_token", .end = "</s>",
        .turns = { { "<|system|>\n", "</s>\n" }, { "<|user|>\n", "</s>\n" }, { "<|assistant|>\n", "</s>\n" } },
        .start = "", .next = "<|assistant|>\n",
    },
    [CHAT_HH] = {
        .name = "hh", .marks = { "Human:", "Assistant:" },
        .turns = { [ROLE_USER] = { "\n\nHuman: ", "" }, [ROLE_ASSISTANT] = { "\n\nAssistant: ", "" } },
        .start = "", .next = "\n\nAssistant:", .begins = true,
    },
};

enum chat_format chat_format_from_name(const char *name)
{
    size_t format = 0;
    while (format < CHAT_FORMAT_COUNT && strcmp(name, styles[format].name) != 0)
        format++;
    return (enum chat_format)format;
}

const char *chat_format_name(enum chat_format format)
{
    return styles[format].name;
}

/*
 * What these formats do not do: Llama 3.1 writes the date, Phi-3 ends turns otherwise, Phi-4 ends roles otherwise, Qwen3 takes the
 * thinking out of what the assistant said; a text for what is not there and a message of the template's own may be the system's.
 */
static const char *const foreign_marks[] = { "strftime_now", "date_string", "<|end|>", "<|im_sep|>", "<think>",
                                             "default('", "default(\"", "'role': '", "\"role\": \"" };

static bool holds_one(const char *template, const char *const *marks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strstr(template, marks[i]) != NULL)
            return true;
    }
    return false;
}

/* Tulu and Falcon 3 have Zephyr's marks and end only the assistant's turns. */
static bool ends_user(const char *template, const struct style *style)
{
    if (style->user_end == NULL)
        return true;
    const char *user = strstr(template, style->marks[0]) + strlen(style->marks[0]);
    const char *next = strstr(user, "<|"), *end = strstr(user, style->user_end);
    return end != NULL && (next == NULL || end < next);
}

/* Past what joins two texts in a template: {{ bos_token + '[INST]' }}, {{ bos_token }}[INST]. */
static const char *after_joint(const char *at)
{
    return at + strspn(at, " +~'\"{}-");
}

/* Llama 2 begins every turn of the user; others with its marks begin once, before all turns. */
static bool begins_turns(const char *template, const struct style *style)
{
    static const char begin[] = "bos_token";
    for (const char *at = template; style->begin_next != NULL && (at = strstr(at, begin)) != NULL;) {
        at = after_joint(at + strlen(begin));
        if (strncmp(at, style->begin_next, strlen(style->begin_next)) != 0)
            return false;
    }
    return true;
}

/* Whether a template's use of a special token is the style's, which writes it as `written`; token: the model's own. */
static bool is_token_of_style(const char *template, const char *name, const char *written, const char *token)
{
    if (strstr(template, name) == NULL)
        return written == NULL;
    return written != NULL && token != NULL && strcmp(written, token) == 0;
}

static bool is_of_style(const char *template, const struct style *style, const char *begin, const char *end)
{
    static const char *const trims[] = { "trim", "strip()" };
    for (size_t i = 0; i < COUNT_OF(style->marks) && style->marks[i] != NULL; i++) {
        if (strstr(template, style->marks[i]) == NULL)
            return false;
    }
    return ends_user(template, style) && holds_one(template, trims, COUNT_OF(trims)) == style->trims
           && is_token_of_style(template, "bos_token", style->begin, begin) && begins_turns(template, style)
           && is_token_of_style(template, "eos_token", style->end, end);
}

/* ---- the system message that a template puts before conversations without one ---- */

/* Past so many line breaks, which may be escaped; NULL where there are others. */
static const char *after_lines(const char *at, size_t count)
{
    for (; count > 0; count--) {
        if (*at != '\n' && strncmp(at, "\\n", 2) != 0)
            return NULL;
        at += *at == '\n' ? 1 : 2;
    }
    return at;
}

/* Whether a text of a template is written as it stands there, with this quote around it ('\0': without any). */
static bool is_plain(const char *text, size_t size, char quote)
{
    const char *const never = quote == '\'' ? "'\\{}" : quote == '"' ? "\"\\{}" : "'\"\\{}";
    return size > 0 && strcspn(text, never) >= size;
}

/* Takes the text for the system message; false where the template has another already. */
static bool take_system(char **system, const char *text, size_t size)
{
    if (*system == NULL)
        *system = memory_printf("%.*s", (int)size, text);
    return strlen(*system) == size && memcmp(*system, text, size) == 0;
}

/* The next system turn of a template at or after `at`: *text is what follows its mark, NULL where its line breaks do not. */
static const char *next_turn(const char *at, const struct style *style, const char **text)
{
    const char *before = style->turns[ROLE_SYSTEM].before;
    size_t size = before != NULL ? strcspn(before, "\n") : 0;
    if (size == 0 || (at = memmem(at, strlen(at), before, size)) == NULL)
        return NULL;
    *text = after_lines(at + size, strlen(before) - size);
    return at + size;
}

static size_t name_size(const char *at)
{
    return strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
}

/* Whether a message's role stands here: message['role'], m.role, role. */
static bool is_role(const char *at)
{
    const char *next = at + name_size(at);
    return strncmp(at, "role", 4) == 0 || strncmp(next, "['role']", 8) == 0 || strncmp(next, "[\"role\"]", 8) == 0
           || strncmp(next, ".role", 5) == 0;
}

/* Whether the template puts system messages into turns, by their name or by that of every message's role. */
static bool turns_system(const char *template, const struct style *style)
{
    const char *before = style->turns[ROLE_SYSTEM].before, *text;
    const char *role = before != NULL ? strstr(before, role_names[ROLE_SYSTEM]) : NULL;
    if (role == NULL || next_turn(template, style, &text) != NULL)
        return true;
    size_t size = (size_t)(role - before);
    for (const char *at = template; (at = memmem(at, strlen(at), before, size)) != NULL;) {
        at += size;
        if (is_role(after_joint(at)))
            return true;
    }
    return false;
}

/* A system turn with its message in one literal, or in the open between {% %}. */
static bool system_in_turns(const char *template, const struct style *style, char **system)
{
    const char *text;
    bool branches = false;
    for (const char *at = template; (at = next_turn(at, style, &text)) != NULL;) {
        size_t mark_size = strcspn(style->turns[ROLE_SYSTEM].before, "\n");
        char opened = (size_t)(at - template) > mark_size ? at[-1 - (ptrdiff_t)mark_size] : '\0';
        const char *after = style->turns[ROLE_SYSTEM].after, *next = text != NULL ? text : at;
        if (*next == '{' || *next == '\'' || *next == '"') {
            next += *next != '{';
            next += strspn(next, " \n+~{}-");
            if (*next == '\'' || *next == '"')  // its message is another literal
                return false;
            branches |= *next == '%';
        } else if (*next != '\0') {
            const char *end = text != NULL ? memmem(text, strlen(text), after, strcspn(after, "\n")) : NULL;
            if (end == NULL || !is_plain(text, (size_t)(end - text), opened) || !take_system(system, text, (size_t)(end - text)))
                return false;
        }
    }
    return !branches || *system != NULL;  // a turn that branches may hold a message which is not seen here
}

/* Whether a system turn of the template holds what this variable does. */
static bool turn_holds(const char *template, const struct style *style, const char *name, size_t size)
{
    const char *text;
    for (const char *at = template; (at = next_turn(at, style, &text)) != NULL;) {
        const char *held = text != NULL ? after_joint(text) : "";
        if (name_size(held) == size && memcmp(held, name, size) == 0)
            return true;
    }
    return false;
}

/* Whether this place of a template is reached unless another branch is: not below an if, elif or for of its own. */
static bool is_default_branch(const char *template, const char *place)
{
    bool is = true;
    for (const char *at = template; (at = strstr(at, "{%")) != NULL && at < place;) {
        at += strlen("{%");
        const char *tag = at + strspn(at, "- ");
        if (strncmp(tag, "if ", 3) == 0 || strncmp(tag, "elif ", 5) == 0 || strncmp(tag, "for ", 4) == 0)
            is = false;
        else if (*tag == 'e')  // else, endif, endfor
            is = true;
    }
    return is;
}

/* {% set system_message = 'You are ...' %}, which the system turn holds. */
static bool system_in_variable(const char *template, const struct style *style, char **system)
{
    for (const char *at = template; (at = strstr(at, "set ")) != NULL;) {
        const char *name = at + strlen("set ");
        size_t size = name_size(name);
        at = name + size;
        const char *value = at + strspn(at, " =");
        bool named = memmem(name, size, "system", strlen("system")) != NULL;
        size_t expression = strcspn(value, "%");
        if (named && (memmem(value, expression, "else '", 6) != NULL || memmem(value, expression, "else \"", 6) != NULL))
            return false;
        if (*value != '\'' && *value != '"')
            continue;
        const char *text = value + 1, ends[] = { *value, '\0' };
        size_t text_size = strcspn(text, ends);
        const char *next = text + text_size + (text[text_size] != '\0');
        next += strspn(next, " -");
        bool whole = strncmp(next, "%}", 2) == 0, sentence = whole && memchr(text, ' ', text_size) != NULL;
        if (!named && !sentence)
            continue;
        if (!whole || !is_plain(text, text_size, *value) || !turn_holds(template, style, name, size)
            || !is_default_branch(template, name) || !take_system(system, text, text_size))
            return false;
    }
    return true;
}

enum chat_format chat_format_from_template(const char *template, const char *begin, const char *end, char **system)
{
    *system = NULL;
    if (holds_one(template, foreign_marks, COUNT_OF(foreign_marks)))
        return CHAT_FORMAT_COUNT;
    size_t format = 0;
    while (format < CHAT_FORMAT_COUNT && !is_of_style(template, &styles[format], begin, end))
        format++;
    if (format < CHAT_FORMAT_COUNT && turns_system(template, &styles[format])
        && system_in_turns(template, &styles[format], system) && system_in_variable(template, &styles[format], system))
        return (enum chat_format)format;
    free(*system);
    *system = NULL;
    return CHAT_FORMAT_COUNT;
}

enum chat_format chat_format_of(const struct tokenizer *tokenizer, char **system)
{
    const char *template = tokenizer_chat_template(tokenizer);
    *system = NULL;
    if (template == NULL)
        return CHAT_FORMAT_COUNT;
    return chat_format_from_template(template, tokenizer_piece(tokenizer, tokenizer_begin(tokenizer)),
                                     tokenizer_piece(tokenizer, tokenizer_end(tokenizer)), system);
}

/* What Python's strip() takes away: the templates are Jinja's. */
static bool is_space(const char *at, size_t size)
{
    uint32_t c = utf8_code_point(at, size);
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static size_t spaces_at_start(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size && is_space(text + at, utf8_size((unsigned char)text[at])))
        at += utf8_size((unsigned char)text[at]);
    return at;
}

static size_t size_without_end_spaces(const char *text, size_t size)
{
    while (size > 0) {
        size_t start = size - 1;
        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
            start--;
        if (!is_space(text + start, size - start))
            break;
        size = start;
    }
    return size;
}

struct message {
    enum role role;
    const char *content;
    size_t size;  // bytes
};

static int refuse(char reason[256], size_t index, const char *what, const char *value)
{
    snprintf(reason, 256, "message %zu: %s%.64s", index + 1, what, value);
    for (char *c = reason; *c != '\0'; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    return -1;
}

static int read_message(const struct style *style, const json_t *json, size_t index, struct message *message, char reason[256])
{
    if (!json_is_object(json))
        return refuse(reason, index, "is no object with \"role\" and \"content\"", "");
    const json_t *content = json_object_get(json, "content");
    const char *role = json_string_value(json_object_get(json, "role"));
    if (role == NULL)
        return refuse(reason, index, "\"role\" is no text", "");
    size_t known = 0;
    while (known < ROLE_COUNT && strcmp(role, role_names[known]) != 0)
        known++;
    if (known == ROLE_COUNT)
        return refuse(reason, index, "the role is not system, user or assistant but ", role);
    if (style->turns[known].before == NULL)
        return refuse(reason, index, "this chat format has no messages of role ", role);
    if (!json_is_string(content))
        return refuse(reason, index, "\"content\" is no text", "");
    *message = (struct message){ (enum role)known, json_string_value(content), json_string_length(content) };
    if (memchr(message->content, '\0', message->size) != NULL)
        return refuse(reason, index, "\"content\" holds a NUL character", "");
    return 0;
}

static void append_text(struct chat_text *out, const char *text)
{
    buffer_append(&out->text, text, strlen(text));
}

static void append_plain(struct chat_text *out, const char *text, size_t size)
{
    size_t start = out->text.size;
    buffer_append(&out->text, text, size);
    if (size == 0)
        return;
    out->plain = memory_grow(out->plain, out->plain_count + 1, sizeof *out->plain);
    out->plain[out->plain_count++] = (struct text_span){ start, start + size };
}

/* Spaces at the end go, from start on; with them what the last plain span has of them. */
static void trim_end(struct chat_text *out, size_t start)
{
    out->text.size = start + size_without_end_spaces(out->text.data + start, out->text.size - start);
    if (out->plain_count > 0 && out->plain[out->plain_count - 1].end > out->text.size)
        out->plain[out->plain_count - 1].end = out->text.size;
    if (out->plain_count > 0 && out->plain[out->plain_count - 1].start >= out->text.size)
        out->plain_count--;
}

/* One message as a turn; system is what its style puts inside the first turn of the user, or NULL. */
static void append_turn(const struct style *style, const struct message *message, const struct message *system,
                        struct chat_text *out)
{
    append_text(out, style->turns[message->role].before);
    size_t start = out->text.size, spaces = 0;
    if (system != NULL) {
        append_text(out, style->turns[ROLE_SYSTEM].before);
        append_plain(out, system->content, system->size);
        append_text(out, style->turns[ROLE_SYSTEM].after);
    } else if (style->trims) {
        spaces = spaces_at_start(message->content, message->size);
    }
    append_plain(out, message->content + spaces, message->size - spaces);
    if (style->trims && out->text.size > start)
        trim_end(out, start);
    append_text(out, style->turns[message->role].after);
}

/* Whether the message may stand here; before is the one before it, or NULL. */
static int check_order(const struct style *style, const struct message *message, const struct message *before, size_t index,
                       char reason[256])
{
    if (!style->alternates)
        return 0;
    if (message->role == ROLE_SYSTEM)
        return before == NULL ? 0 : refuse(reason, index, "a system message must be the first", "");
    enum role expected = before != NULL && before->role == ROLE_USER ? ROLE_ASSISTANT : ROLE_USER;
    if (message->role == expected)
        return 0;
    return refuse(reason, index, "messages must alternate between user and assistant, beginning with user; this is of role ",
                  role_names[message->role]);
}

int chat_render(enum chat_format format, const json_t *messages, const char *system, struct chat_text *out, char reason[256])
{
    const struct style *style = &styles[format];
    size_t count = json_array_size(messages);
    if (!json_is_array(messages) || count == 0) {
        snprintf(reason, 256, "the messages are no list of at least one");
        return -1;
    }
    struct message first = { ROLE_SYSTEM, "", 0 }, message, before = { 0 };
    const struct message *inside = NULL;
    const char *first_role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    bool has_system = first_role != NULL && strcmp(first_role, role_names[ROLE_SYSTEM]) == 0;
    out->begins = style->begins;
    append_text(out, style->start);
    if (system != NULL && !has_system) {
        CHECK(style->turns[ROLE_SYSTEM].before != NULL);
        first = (struct message){ ROLE_SYSTEM, system, strlen(system) };
        if (style->system_inside)
            inside = &first;
        else
            append_turn(style, &first, NULL, out);
    }
    for (size_t i = 0; i < count; i++, before = message) {
        if (read_message(style, json_array_get(messages, i), i, &message, reason) != 0
            || check_order(style, &message, i > 0 ? &before : NULL, i, reason) != 0)
            return -1;
        if (message.role == ROLE_SYSTEM && style->system_inside) {
            first = message;
            inside = &first;
            continue;
        }
        append_turn(style, &message, inside, out);
        inside = NULL;
    }
    if (inside != NULL)
        return refuse(reason, count - 1, "a system message needs a user's after it", "");
    if (before.role != ROLE_ASSISTANT)
        append_text(out, style->next);
    return 0;
}

void chat_text_free(struct chat_text *text)
{
    free(text->text.data);
    free(text->plain);
    *text = (struct chat_text){ 0 };
}
