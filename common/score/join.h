/*
 * join.h - how a prompt and a response become the one input that a reward model reads.
 *
 *     pair        the tokenizer's own rule for two texts: prompt, response
 *     last-turn   the same, but of a prompt that is a dialogue (chat.h's formats, HH among them) only what the user said last
 *     concat      prompt and response as one text
 *     chat:NAME   the dialogue in a format of chat.h with the response as the assistant's; a prompt that is no dialogue is the
 *                 user's message
 *     a text that holds {response} and perhaps {prompt}, which are put in their places; \n in it is a line break
 *
 * Special tokens that the response contains are read as text, those of the prompt only where it may have been written for this very
 * model: in concat.  What unwraps a dialogue takes off the spaces around its messages and the response, since they belong to the
 * format.
 *
 * An input that is too long loses tokens, as the truncation says:
 *
 *     left        the prompt loses its beginning; the response is never cut
 *     right       as transformers' truncation=True: of two texts the longer loses its end, one text its end
 *     refuse      nothing; the input cannot be used
 */
#ifndef SCORE_JOIN_H
#define SCORE_JOIN_H

#include <stdbool.h>
#include <stddef.h>

#include "score/scorer.h"
#include "text/chat.h"
#include "text/tokenizer.h"

enum join_kind { JOIN_PAIR, JOIN_LAST_TURN, JOIN_CONCAT, JOIN_CHAT, JOIN_TEMPLATE };
enum truncation { TRUNCATE_LEFT, TRUNCATE_RIGHT, TRUNCATE_REFUSE, TRUNCATION_COUNT };

struct join {
    enum join_kind kind;
    enum chat_format chat;
    char *system;                       // chat: of a dialogue that has no system message, as chat_render; NULL: none
    char *name;                         // what join_init was given; also the template
    enum truncation truncation;
    const struct tokenizer *tokenizer;  // borrowed
    bool around;                        // chat: also what the tokenizer puts around a text, asked for by the format or not
    size_t token_max;                   // of one input
    size_t vocab_size;                  // ids at and above it cannot be used
    struct chat_marks {                 // of each chat format, what stands around messages; NULL where it has no such thing
        char *head, *system_head;       // begins the text, before the user's or the system's message
        char *system_end;               // before the first message of the user when there is a system's
        char *opener, *middle;          // before a message of the assistant, before another of the user
    } marks[CHAT_FORMAT_COUNT];
};

/* Reads the name of a join.  0, or -1 logged.  The caller sets truncation, tokenizer, token_max, vocab_size, and perhaps
   around and system; join_free frees system. */
int join_init(struct join *join, const char *name);
void join_free(struct join *join);

/* TRUNCATION_COUNT: no such name. */
enum truncation truncation_from_name(const char *name);
const char *truncation_name(enum truncation truncation);

struct join_input {
    struct token_list ids;
    struct token_list types;  // of each id the segment, 0 or 1; empty where the join makes one text
    size_t cut;               // tokens that truncation left out
};
/* 0, or -1 with one line of reason: empty, too long, or outside the vocabulary.  join_input_free in both cases. */
int join_encode(const struct join *join, const struct scorer_text *text, struct join_input *input, char reason[256]);
void join_input_free(struct join_input *input);

/*
 * The messages of a prompt that one of chat.h's formats has rendered and that waits for the assistant's; NULL when it is none.
 * The caller json_decref()s.
 */
json_t *join_messages(const struct join *join, const char *prompt);

#endif
