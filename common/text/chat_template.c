/*
 * chat_template.c - which of the known formats a model's Jinja template writes.
 *
 * Templates are not run, they are recognised by what they hold.  Where that leaves open what a template would write, above all as a
 * system message of its own, it is none that is known.
 */
#define _GNU_SOURCE
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "text/chat_parts.h"

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
static bool ends_user(const char *template, const struct chat_style *style)
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
static bool begins_turns(const char *template, const struct chat_style *style)
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

static bool is_of_style(const char *template, const struct chat_style *style, const char *begin, const char *end)
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
static const char *next_turn(const char *at, const struct chat_style *style, const char **text)
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
static bool turns_system(const char *template, const struct chat_style *style)
{
    const char *before = style->turns[ROLE_SYSTEM].before, *text;
    const char *role = before != NULL ? strstr(before, chat_role_names[ROLE_SYSTEM]) : NULL;
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
static bool system_in_turns(const char *template, const struct chat_style *style, char **system)
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
static bool turn_holds(const char *template, const struct chat_style *style, const char *name, size_t size)
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
static bool system_in_variable(const char *template, const struct chat_style *style, char **system)
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
    while (format < CHAT_FORMAT_COUNT && !is_of_style(template, &chat_styles[format], begin, end))
        format++;
    if (format < CHAT_FORMAT_COUNT && turns_system(template, &chat_styles[format])
        && system_in_turns(template, &chat_styles[format], system) && system_in_variable(template, &chat_styles[format], system))
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
