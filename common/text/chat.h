/*
 * chat.h - messages of a conversation as the text that a chat model was trained on.
 *
 *     llama-2   [INST] <<SYS>> ... [/INST]              zephyr   <|user|> ... </s>   (TinyLlama-Chat too)
 *     llama-3   <|start_header_id|>user<|end_header_id|>  chatml   <|im_start|>user ... <|im_end|>   (Qwen)
 *     hh        "\n\nHuman: ... \n\nAssistant:"          (Anthropic's HH dialogues)
 *
 * The texts are those of the models' own chat templates, the begin token written out where they do that ("<s>[INST]").
 * A template that puts in a system message of its own when there is none (Qwen's) is chatml with that
 * text, see chat_format_from_template.
 */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/memory.h"
#include "text/tokenizer.h"

enum chat_format { CHAT_LLAMA_2, CHAT_LLAMA_3, CHAT_CHATML, CHAT_ZEPHYR, CHAT_HH, CHAT_FORMAT_COUNT };
/* Their names in this order, as command lines list them. */
#define CHAT_NAMES "llama-2|llama-3|chatml|zephyr|hh"

/* CHAT_FORMAT_COUNT: no such name. */
enum chat_format chat_format_from_name(const char *name);
const char *chat_format_name(enum chat_format format);

/*
 * The format that a model's Jinja template writes, as its marks tell; CHAT_FORMAT_COUNT where they name none, where bos_token or
 * eos_token is another text than the format's, or where it is not clear what system message it writes.  begin and end are those
 * tokens' texts, NULL where there are none.  *system is the text of a system message that the template puts before conversations
 * without one, or NULL; the caller frees it.
 */
enum chat_format chat_format_from_template(const char *template, const char *begin, const char *end, char **system);
/* The same of the template that stands with a tokenizer; CHAT_FORMAT_COUNT where there is none. */
enum chat_format chat_format_of(const struct tokenizer *tokenizer, char **system);

/* What one rendered conversation is.  Zero-initialise; chat_text_free at the end. */
struct chat_text {
    struct buffer text;
    bool begins;              // no template: what the model puts around any text stands around this one (ENCODE_SPECIAL)
    struct text_span *plain;  // (plain_count) what the messages say: no special token is read there, whatever they contain
    size_t plain_count;
};
/*
 * Appends the conversation, and what makes the assistant speak next when its last message is not the assistant's.
 * messages: [{"role": "system"|"user"|"assistant", "content": text}, ...].  system, unless NULL, is put before messages that do
 * not begin with a system message.  0, or -1 with one line of reason.
 */
int chat_render(enum chat_format format, const json_t *messages, const char *system, struct chat_text *out, char reason[256]);
void chat_text_free(struct chat_text *text);

#endif
