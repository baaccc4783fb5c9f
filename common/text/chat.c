/* chat.c - see chat.h. */
#include "text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/chat_parts.h"

const char *const chat_role_names[ROLE_COUNT] = { "system", "user", "assistant" };

const struct chat_style chat_styles[CHAT_FORMAT_COUNT] = {
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
    while (format < CHAT_FORMAT_COUNT && strcmp(name, chat_styles[format].name) != 0)
        format++;
    return (enum chat_format)format;
}

const char *chat_format_name(enum chat_format format)
{
    return chat_styles[format].name;
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

static int read_message(const struct chat_style *style, const json_t *json, size_t index, struct message *message, char reason[256])
{
    if (!json_is_object(json))
        return refuse(reason, index, "is no object with \"role\" and \"content\"", "");
    const json_t *content = json_object_get(json, "content");
    const char *role = json_string_value(json_object_get(json, "role"));
    if (role == NULL)
        return refuse(reason, index, "\"role\" is no text", "");
    size_t known = 0;
    while (known < ROLE_COUNT && strcmp(role, chat_role_names[known]) != 0)
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
static void append_turn(const struct chat_style *style, const struct message *message, const struct message *system,
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
static int check_order(const struct chat_style *style, const struct message *message, const struct message *before, size_t index,
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
                  chat_role_names[message->role]);
}

int chat_render(enum chat_format format, const json_t *messages, const char *system, struct chat_text *out, char reason[256])
{
    const struct chat_style *style = &chat_styles[format];
    size_t count = json_array_size(messages);
    if (!json_is_array(messages) || count == 0) {
        snprintf(reason, 256, "the messages are no list of at least one");
        return -1;
    }
    struct message first = { ROLE_SYSTEM, "", 0 }, message, before = { 0 };
    const struct message *inside = NULL;
    const char *first_role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    bool has_system = first_role != NULL && strcmp(first_role, chat_role_names[ROLE_SYSTEM]) == 0;
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
