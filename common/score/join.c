/* join.c - see join.h. */
#define _GNU_SOURCE
#include "score/join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"

static const char *const truncation_names[TRUNCATION_COUNT] = { "left", "right", "refuse" };

enum truncation truncation_from_name(const char *name)
{
    size_t i = 0;
    while (i < TRUNCATION_COUNT && strcmp(name, truncation_names[i]) != 0)
        i++;
    return (enum truncation)i;
}

const char *truncation_name(enum truncation truncation)
{
    return truncation_names[truncation];
}

/* ---- what the chat formats put around messages, found by rendering some ---- */

static const char user_1[] = "(u1)", user_2[] = "(u2)", assistant_1[] = "(a1)", system_1[] = "(s1)";

/* NULL when the format does not take such messages. */
static char *rendered(enum chat_format format, json_t *messages)
{
    struct chat_text out = { 0 };
    char reason[256], *text = NULL;
    if (chat_render(format, messages, NULL, &out, reason) == 0)
        text = memory_printf("%.*s", (int)out.text.size, out.text.data);
    chat_text_free(&out);
    json_decref(messages);
    return text;
}

/* A copy of what stands in text between two messages, or from its start (after NULL) or to its end;
   spaces at its end do not count. */
static char *text_between(const char *text, const char *after, const char *before)
{
    const char *start = text != NULL && after != NULL ? strstr(text, after) : text;
    if (start == NULL)
        return NULL;
    start += after != NULL ? strlen(after) : 0;
    const char *end = before != NULL ? strstr(start, before) : start + strlen(start);
    if (end == NULL)
        return NULL;
    while (end > start && end[-1] == ' ')
        end--;
    return memory_printf("%.*s", (int)(end - start), start);
}

static void marks_find(struct chat_marks *marks, enum chat_format format)
{
    json_t *plain = json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user", "content", user_1, "role", "assistant",
                              "content", assistant_1, "role", "user", "content", user_2);
    json_t *system = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "system", "content", system_1, "role", "user", "content",
                               user_1);
    char *text = rendered(format, plain), *text_with_system = rendered(format, system);
    marks->head = text_between(text, NULL, user_1);
    marks->middle = text_between(text, assistant_1, user_2);
    marks->opener = text_between(text, user_2, NULL);
    marks->system_head = text_between(text_with_system, NULL, system_1);
    marks->system_end = text_between(text_with_system, system_1, user_1);
    free(text);
    free(text_with_system);
}

/* ---- opening ---- */

static int name_refuse(const char *name)
{
    struct buffer formats = { 0 };
    for (size_t i = 0; i < CHAT_FORMAT_COUNT; i++)
        buffer_printf(&formats, "%s%s", i > 0 ? ", " : "", chat_format_name((enum chat_format)i));
    log_error("join is \"%.200s\", must be pair, last-turn, concat, chat:NAME, or a text with {response} once and {prompt} at most"
              " once", name);
    log_hint("chat's NAME is one of %.*s", (int)formats.size, formats.data);
    free(formats.data);
    return -1;
}

/* How often a place stands in a template. */
static size_t place_count(const char *text, const char *place)
{
    size_t count = 0;
    while ((text = strstr(text, place)) != NULL) {
        text += strlen(place);
        count++;
    }
    return count;
}

int join_init(struct join *join, const char *name)
{
    static const struct { const char *name; enum join_kind kind; } names[] = {
        { "pair", JOIN_PAIR }, { "last-turn", JOIN_LAST_TURN }, { "concat", JOIN_CONCAT },
    };
    if (!utf8_is_valid(name, strlen(name))) {
        log_error("--join is not UTF-8");
        return -1;
    }
    size_t i = 0;
    while (i < COUNT_OF(names) && strcmp(name, names[i].name) != 0)
        i++;
    *join = (struct join){ 0 };
    if (i < COUNT_OF(names)) {
        join->kind = names[i].kind;
    } else if (strncmp(name, "chat:", 5) == 0) {
        join->kind = JOIN_CHAT;
        join->chat = chat_format_from_name(name + 5);
        if (join->chat == CHAT_FORMAT_COUNT)
            return name_refuse(name);
    } else {
        join->kind = JOIN_TEMPLATE;
        if (place_count(name, "{response}") != 1 || place_count(name, "{prompt}") > 1)
            return name_refuse(name);
    }
    join->name = memory_text(name);
    for (size_t format = 0; format < CHAT_FORMAT_COUNT; format++)
        marks_find(&join->marks[format], (enum chat_format)format);
    return 0;
}

void join_free(struct join *join)
{
    for (size_t i = 0; i < CHAT_FORMAT_COUNT; i++) {
        struct chat_marks *marks = &join->marks[i];
        free(marks->head);
        free(marks->system_head);
        free(marks->system_end);
        free(marks->opener);
        free(marks->middle);
    }
    free(join->name);
    free(join->system);
    *join = (struct join){ 0 };
}

void join_input_free(struct join_input *input)
{
    free(input->ids.at);
    free(input->types.at);
    *input = (struct join_input){ 0 };
}

/* ---- dialogues ---- */

static void text_trim(const char **text, size_t *size)
{
    static const char blanks[] = " \t\r\n";
    while (*size > 0 && strchr(blanks, (*text)[*size - 1]) != NULL)
        (*size)--;
    while (*size > 0 && strchr(blanks, **text) != NULL) {
        (*text)++;
        (*size)--;
    }
}

/* False where the text is no UTF-8. */
static bool message_add(json_t *messages, const char *role, const char *text, size_t size)
{
    text_trim(&text, &size);
    json_t *content = json_stringn(text, size);
    return content != NULL && json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content)) == 0;
}

/* What the user said in a row is one message, its parts a line each (some of HH's dialogues have that). */
static bool user_add(json_t *messages, const char *text, size_t size, const char *middle)
{
    struct buffer joined = { 0 };
    const char *end = text + size, *next;
    while ((next = memmem(text, (size_t)(end - text), middle, strlen(middle))) != NULL) {
        size_t part = (size_t)(next - text);
        const char *start = text;
        text_trim(&start, &part);
        buffer_append(&joined, start, part);
        buffer_append(&joined, "\n", 1);
        text = next + strlen(middle);
    }
    buffer_append(&joined, text, (size_t)(end - text));
    bool added = message_add(messages, "user", joined.data, joined.size);
    free(joined.data);
    return added;
}

static const char *after_mark(const char *text, const char *mark)
{
    return mark != NULL && strncmp(text, mark, strlen(mark)) == 0 ? text + strlen(mark) : NULL;
}

/* (system) user (assistant user)*, then what makes the assistant speak.  False where the prompt is not of this form. */
static bool messages_read(const struct chat_marks *marks, const char *prompt, json_t *messages)
{
    if (marks->head == NULL || marks->middle == NULL || marks->opener == NULL || marks->middle[0] == '\0'
        || marks->opener[0] == '\0')
        return false;
    const char *at = after_mark(prompt, marks->system_head), *end;
    if (at != NULL) {
        if (marks->system_end == NULL || (end = strstr(at, marks->system_end)) == NULL
            || !message_add(messages, "system", at, (size_t)(end - at)))
            return false;
        at = end + strlen(marks->system_end);
    } else if ((at = after_mark(prompt, marks->head)) == NULL) {
        return false;
    }
    for (;;) {
        if ((end = strstr(at, marks->opener)) == NULL || !user_add(messages, at, (size_t)(end - at), marks->middle))
            return false;
        at = end + strlen(marks->opener);
        if (at[strspn(at, " \n")] == '\0')
            return true;
        if ((end = strstr(at, marks->middle)) == NULL || !message_add(messages, "assistant", at, (size_t)(end - at)))
            return false;
        at = end + strlen(marks->middle);
    }
}

json_t *join_messages(const struct join *join, const char *prompt)
{
    for (size_t i = 0; i < CHAT_FORMAT_COUNT; i++) {
        json_t *messages = json_array();
        if (messages_read(&join->marks[i], prompt, messages))
            return messages;
        json_decref(messages);
    }
    return NULL;
}

/* ---- truncation ---- */

static int too_long(const struct join *join, const struct join_input *input, const char *what, char reason[256])
{
    snprintf(reason, 256, "%s %zu tokens, the reward model reads at most %zu", what, input->ids.count, join->token_max);
    return -1;
}

static void list_cut(struct token_list *list, size_t start, size_t count)
{
    if (list->count == 0)
        return;
    memmove(list->at + start, list->at + start + count, (list->count - start - count) * sizeof *list->at);
    list->count -= count;
}

static void input_cut(struct join_input *input, size_t start, size_t count)
{
    list_cut(&input->ids, start, count);
    list_cut(&input->types, start, count);
    input->cut += count;
}

/* Where run stands in list at or after start; the length of list if nowhere. */
static size_t run_find(const struct token_list *list, size_t start, const struct token_list *run)
{
    for (; start + run->count <= list->count; start++) {
        if (run->count == 0 || memcmp(list->at + start, run->at, run->count * sizeof *run->at) == 0)
            return start;
    }
    return list->count;
}

/* How many tokens of two texts stay, as the tokenizers library's "longest first" decides.  max: room for both. */
static void longest_first(size_t *first, size_t *second, size_t max)
{
    size_t *shorter = *first <= *second ? first : second, *longer = shorter == first ? second : first;
    size_t left = *shorter < max ? max - *shorter : 0;
    *longer = left > *shorter ? left : *shorter;
    if (*shorter + *longer > max) {
        *shorter = max / 2;
        *longer = max - max / 2;
    }
}

static int truncate_pair(const struct join *join, const struct token_list *first, const struct token_list *second,
                         struct join_input *input, char reason[256])
{
    size_t over = input->ids.count - join->token_max;
    size_t first_at = run_find(&input->ids, 0, first), second_at = run_find(&input->ids, first_at + first->count, second);
    if (join->truncation == TRUNCATE_REFUSE || second_at == input->ids.count || over > first->count + second->count)
        return too_long(join, input, "prompt and response have", reason);
    if (join->truncation == TRUNCATE_LEFT) {
        if (over > first->count)
            return too_long(join, input, "the response is too long: with the prompt there are", reason);
        input_cut(input, first_at, over);
        return 0;
    }
    size_t first_keep = first->count, second_keep = second->count;
    longest_first(&first_keep, &second_keep, first->count + second->count - over);
    input_cut(input, second_at + second_keep, second->count - second_keep);
    input_cut(input, first_at + first_keep, first->count - first_keep);
    return 0;
}

/* around: what the tokenizer puts around a text; before: tokens of the text before the response. */
static int truncate_text(const struct join *join, const struct token_list *around, size_t before, struct join_input *input,
                         char reason[256])
{
    size_t over = input->ids.count - join->token_max, prefix = 0;
    while (prefix < around->count && input->ids.at[prefix] == around->at[prefix])
        prefix++;
    if (join->truncation == TRUNCATE_REFUSE || over > input->ids.count - around->count)
        return too_long(join, input, "prompt and response have", reason);
    if (join->truncation == TRUNCATE_LEFT && over > before)
        return too_long(join, input, "the response is too long: with the prompt there are", reason);
    input_cut(input, join->truncation == TRUNCATE_LEFT ? prefix : input->ids.count - (around->count - prefix) - over, over);
    return 0;
}

/* ---- encoding ---- */

static int encode_pair(const struct join *join, const char *first, const char *second, size_t second_size, struct join_input *input,
                       char reason[256])
{
    tokenizer_encode_pair(join->tokenizer, first, strlen(first), second, second_size, &input->ids, &input->types);
    if (input->ids.count <= join->token_max)
        return 0;
    struct token_list first_ids = { 0 }, second_ids = { 0 };
    tokenizer_encode(join->tokenizer, first, strlen(first), 0, &first_ids);
    tokenizer_encode(join->tokenizer, second, second_size, 0, &second_ids);
    int status = truncate_pair(join, &first_ids, &second_ids, input, reason);
    free(first_ids.at);
    free(second_ids.at);
    return status;
}

/* One text; special: with what the tokenizer puts around a text; response_at: where the response begins in it. */
static int encode_text(const struct join *join, const char *text, size_t size, bool special, const struct text_span *plain,
                       size_t plain_count, size_t response_at, struct join_input *input, char reason[256])
{
    unsigned flags = ENCODE_MARKUP | (special ? ENCODE_SPECIAL : 0);
    tokenizer_encode_around(join->tokenizer, text, size, flags, plain, plain_count, &input->ids);
    int32_t begin = tokenizer_begin(join->tokenizer);
    if (input->ids.count > 1 && input->ids.at[0] == begin && input->ids.at[1] == begin)
        list_cut(&input->ids, 0, 1);  // the text has its own, as rendered chats do
    if (input->ids.count <= join->token_max)
        return 0;
    struct token_list around = { 0 }, before = { 0 };
    tokenizer_encode(join->tokenizer, "", 0, flags, &around);
    tokenizer_encode(join->tokenizer, text, response_at, ENCODE_MARKUP, &before);
    int status = truncate_text(join, &around, before.count, input, reason);
    free(around.at);
    free(before.at);
    return status;
}

static int encode_last_turn(const struct join *join, const struct scorer_text *text, struct join_input *input, char reason[256])
{
    json_t *messages = join_messages(join, text->prompt);
    const char *question = text->prompt, *response = text->response;
    size_t response_size = strlen(response);
    if (messages != NULL) {
        question = json_string_value(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content"));
        text_trim(&response, &response_size);
    }
    int status = encode_pair(join, question, response, response_size, input, reason);
    json_decref(messages);
    return status;
}

static int encode_chat(const struct join *join, const struct scorer_text *text, struct join_input *input, char reason[256])
{
    json_t *messages = join_messages(join, text->prompt), *content;
    const char *response = text->response;
    size_t response_size = strlen(response);
    if (messages != NULL) {
        text_trim(&response, &response_size);
    } else {
        messages = json_array();
        content = json_string(text->prompt);
        json_array_append_new(messages, json_pack("{s:s, s:o*}", "role", "user", "content", content));
    }
    content = json_stringn(response, response_size);
    json_array_append_new(messages, json_pack("{s:s, s:o*}", "role", "assistant", "content", content));

    struct chat_text chat = { 0 };
    int status = chat_render(join->chat, messages, join->system, &chat, reason);
    if (status == 0) {
        size_t response_at = chat.plain_count > 0 ? chat.plain[chat.plain_count - 1].start : 0;
        status = encode_text(join, chat.text.data, chat.text.size, join->around || chat.begins, chat.plain, chat.plain_count,
                             response_at, input, reason);
    }
    chat_text_free(&chat);
    json_decref(messages);
    return status;
}

/* concat is the template {prompt}{response}, but for special tokens in the prompt. */
static int encode_template(const struct join *join, const struct scorer_text *text, struct join_input *input, char reason[256])
{
    struct buffer joined = { 0 };
    struct text_span plain[2];
    size_t plain_count = 0, response_at = 0;
    const char *at = join->kind == JOIN_CONCAT ? "{prompt}{response}" : join->name;
    while (*at != '\0') {
        bool is_prompt = after_mark(at, "{prompt}") != NULL, is_response = after_mark(at, "{response}") != NULL;
        if (is_prompt || is_response) {
            const char *inserted = is_prompt ? text->prompt : text->response;
            if (is_response)
                response_at = joined.size;
            if (is_response || join->kind == JOIN_TEMPLATE)
                plain[plain_count++] = (struct text_span){ joined.size, joined.size + strlen(inserted) };
            buffer_append(&joined, inserted, strlen(inserted));
            at += strlen(is_prompt ? "{prompt}" : "{response}");
        } else if (at[0] == '\\' && at[1] == 'n') {
            buffer_append(&joined, "\n", 1);
            at += 2;
        } else {
            buffer_append(&joined, at++, 1);
        }
    }
    buffer_append(&joined, "", 1);
    int status = encode_text(join, joined.data, joined.size - 1, true, plain, plain_count, response_at, input, reason);
    free(joined.data);
    return status;
}

int join_encode(const struct join *join, const struct scorer_text *text, struct join_input *input, char reason[256])
{
    *input = (struct join_input){ 0 };
    int status = 0;
    switch (join->kind) {
    case JOIN_PAIR:
        status = encode_pair(join, text->prompt, text->response, strlen(text->response), input, reason);
        break;
    case JOIN_LAST_TURN:
        status = encode_last_turn(join, text, input, reason);
        break;
    case JOIN_CHAT:
        status = encode_chat(join, text, input, reason);
        break;
    case JOIN_CONCAT:
    case JOIN_TEMPLATE:
        status = encode_template(join, text, input, reason);
        break;
    }
    if (status == 0 && input->ids.count == 0) {
        snprintf(reason, 256, "prompt and response give no tokens");
        status = -1;
    }
    for (size_t t = 0; t < input->ids.count && status == 0; t++) {
        if ((size_t)input->ids.at[t] >= join->vocab_size) {
            snprintf(reason, 256, "token %d of the tokenizer is outside the reward model's vocabulary of %zu", input->ids.at[t],
                     join->vocab_size);
            status = -1;
        }
    }
    return status;
}
