/* pretokenizer.c - see pretokenizer.h. */
#include "text/pretokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/character.h"

const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static void step_free(struct pretokenizer_step *step)
{
    regex_free(step->regex);
    free(step->replacement);
}

int pretokenizer_add(struct pretokenizer *pretokenizer, struct pretokenizer_step step)
{
    if (pretokenizer->count == PRETOKENIZER_STEPS_MAX) {
        step_free(&step);
        return -1;
    }
    pretokenizer->steps[pretokenizer->count++] = step;
    return 0;
}

void pretokenizer_free(struct pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->count; i++)
        step_free(&pretokenizer->steps[i]);
    pretokenizer->count = 0;
}

void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch)
{
    for (size_t i = 0; i < PRETOKENIZER_STEPS_MAX; i++)
        free(scratch->texts[i].data);
    regex_scratch_free(&scratch->regex);
}

/*
 * GPT-2's letters: a byte that is a printable Latin-1 character stands for itself, the 68 others are U+0100 and up in
 * their order.
 */
static bool byte_is_own_letter(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

uint32_t byte_letter(unsigned char byte)
{
    if (byte_is_own_letter(byte))
        return byte;
    // The bytes that are not their own letters: 0x00-0x20, 0x7f-0xa0, 0xad.
    return byte <= 0x20 ? 0x100u + byte : byte <= 0xa0 ? 0x121u + (byte - 0x7fu) : 0x143u;
}

int byte_of_letter(uint32_t code_point)
{
    if (code_point < 0x100)
        return byte_is_own_letter(code_point) ? (int)code_point : -1;
    if (code_point <= 0x120)
        return (int)(code_point - 0x100);
    if (code_point <= 0x142)
        return (int)(code_point - 0x121 + 0x7f);
    return code_point == 0x143 ? 0xad : -1;
}

/* Where in the pipeline a text is: the steps from `step` on still lie before it. */
struct flow {
    const struct pretokenizer *pretokenizer;
    struct pretokenizer_scratch *scratch;
    pretokenizer_take *take;
    void *context;
};

static void run_from(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start);

/* A piece that may still grow before it goes on to the next step. */
struct pending {
    size_t start, end;
    bool match;  // as the behavior looks at it
    bool any;
};

static void split_flush(const struct flow *flow, size_t step, const char *text, bool at_start, struct pending *pending)
{
    if (pending->any)
        run_from(flow, step + 1, text + pending->start, pending->end - pending->start, at_start && pending->start == 0);
    pending->any = false;
}

/* One part of the text, matched or not, joins the part before it or starts anew. */
static void split_part(const struct flow *flow, size_t step, const char *text, bool at_start, struct pending *pending,
                       size_t start, size_t end, bool match)
{
    enum split_behavior behavior = flow->pretokenizer->steps[step].behavior;
    if (start == end || (behavior == SPLIT_REMOVED && match))
        return;
    bool joins = pending->any
                 && ((behavior == SPLIT_MERGED_WITH_PREVIOUS && match && !pending->match)
                     || (behavior == SPLIT_MERGED_WITH_NEXT && !match && pending->match)
                     || (behavior == SPLIT_CONTIGUOUS && match == pending->match));
    if (joins) {
        pending->end = end;
        pending->match = match;
        return;
    }
    split_flush(flow, step, text, at_start, pending);
    *pending = (struct pending){ start, end, match, true };
}

static void run_split(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    const struct pretokenizer_step *split = &flow->pretokenizer->steps[step];
    struct pending pending = { 0 };
    size_t done = 0, start, end;
    while (regex_next(split->regex, &flow->scratch->regex, text, size, done, &start, &end)) {
        split_part(flow, step, text, at_start, &pending, done, start, split->invert);
        if (start == end)  // a match of nothing, between two characters, is a cut
            split_flush(flow, step, text, at_start, &pending);
        split_part(flow, step, text, at_start, &pending, start, end, !split->invert);
        done = end;
    }
    split_part(flow, step, text, at_start, &pending, done, size, split->invert);
    split_flush(flow, step, text, at_start, &pending);
}

static void emit_letters(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    struct buffer *letters = &flow->scratch->texts[step];
    letters->size = 0;
    for (size_t i = 0; i < size; i++) {
        char letter[UTF8_SIZE_MAX];
        buffer_append(letters, letter, utf8_write(byte_letter((unsigned char)text[i]), letter));
    }
    run_from(flow, step + 1, letters->data, letters->size, at_start);
}

static void run_byte_level(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    const struct pretokenizer_step *byte_level = &flow->pretokenizer->steps[step];
    struct buffer prefixed = { 0 };
    if (byte_level->prefix_space && text[0] != ' ') {
        buffer_append(&prefixed, " ", 1);
        buffer_append(&prefixed, text, size);
        text = prefixed.data;
        size = prefixed.size;
    }
    if (byte_level->regex == NULL) {
        emit_letters(flow, step, text, size, at_start);
    } else {
        size_t done = 0, start, end;
        while (regex_next(byte_level->regex, &flow->scratch->regex, text, size, done, &start, &end)) {
            if (start > done)
                emit_letters(flow, step, text + done, start - done, at_start && done == 0);
            emit_letters(flow, step, text + start, end - start, at_start && start == 0);
            done = end;
        }
        if (size > done)
            emit_letters(flow, step, text + done, size - done, at_start && done == 0);
    }
    free(prefixed.data);
}

static void run_metaspace(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    const struct pretokenizer_step *metaspace = &flow->pretokenizer->steps[step];
    const char *mark = metaspace->replacement;
    size_t mark_size = strlen(mark);
    bool marked = text[0] == ' ' || (size >= mark_size && memcmp(text, mark, mark_size) == 0);
    bool prepends = metaspace->prepend == PREPEND_ALWAYS || (metaspace->prepend == PREPEND_FIRST && at_start);
    struct buffer *out = &flow->scratch->texts[step];
    out->size = 0;
    if (prepends && !marked)
        buffer_append(out, mark, mark_size);
    for (size_t i = 0; i < size; i++)
        buffer_append(out, text[i] == ' ' ? mark : text + i, text[i] == ' ' ? mark_size : 1);

    if (!metaspace->split) {
        run_from(flow, step + 1, out->data, out->size, at_start);
        return;
    }
    for (size_t start = 0; start < out->size;) {
        size_t end = start + utf8_size((unsigned char)out->data[start]);
        while (end < out->size && !(out->size - end >= mark_size && memcmp(out->data + end, mark, mark_size) == 0))
            end += utf8_size((unsigned char)out->data[end]);
        run_from(flow, step + 1, out->data + start, end - start, at_start && start == 0);
        start = end;
    }
}

static bool is_digit(const char *at, size_t size)
{
    if (size == 1)
        return *at >= '0' && *at <= '9';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)utf8_code_point(at, size));
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

static void run_digits(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    bool each = flow->pretokenizer->steps[step].split;
    for (size_t start = 0; start < size;) {
        size_t end = start + utf8_size((unsigned char)text[start]);
        bool digit = is_digit(text + start, end - start);
        while (end < size && !(digit && each)) {
            size_t next = utf8_size((unsigned char)text[end]);
            if (is_digit(text + end, next) != digit)
                break;
            end += next;
        }
        run_from(flow, step + 1, text + start, end - start, at_start && start == 0);
        start = end;
    }
}

/* Each character of a class is a match of a split. */
typedef bool character_class(uint32_t character);

static void run_class(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start, character_class *is)
{
    struct pending pending = { 0 };
    size_t done = 0;
    for (size_t at = 0, width; at < size; at += width) {
        width = utf8_size((unsigned char)text[at]);
        if (!is(utf8_code_point(text + at, width)))
            continue;
        split_part(flow, step, text, at_start, &pending, done, at, false);
        split_part(flow, step, text, at_start, &pending, at, at + width, true);
        done = at + width;
    }
    split_part(flow, step, text, at_start, &pending, done, size, false);
    split_flush(flow, step, text, at_start, &pending);
}

enum word_class { CLASS_SPACE, CLASS_WORD, CLASS_OTHER };

static enum word_class word_class(const char *at, size_t size)
{
    uint32_t character = utf8_code_point(at, size);
    return character_is_word(character) ? CLASS_WORD : character_is_space(character) ? CLASS_SPACE : CLASS_OTHER;
}

static void run_words(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    for (size_t start = 0, end; start < size; start = end) {
        end = start + utf8_size((unsigned char)text[start]);
        enum word_class class = word_class(text + start, end - start);
        for (size_t next; end < size; end += next) {
            next = utf8_size((unsigned char)text[end]);
            if (word_class(text + end, next) != class)
                break;
        }
        if (class != CLASS_SPACE)
            run_from(flow, step + 1, text + start, end - start, at_start && start == 0);
    }
}

static void run_from(const struct flow *flow, size_t step, const char *text, size_t size, bool at_start)
{
    if (size == 0)
        return;
    if (step == flow->pretokenizer->count) {
        flow->take(flow->context, text, size);
        return;
    }
    switch (flow->pretokenizer->steps[step].kind) {
    case PRETOKENIZER_SPLIT: run_split(flow, step, text, size, at_start); break;
    case PRETOKENIZER_BYTE_LEVEL: run_byte_level(flow, step, text, size, at_start); break;
    case PRETOKENIZER_METASPACE: run_metaspace(flow, step, text, size, at_start); break;
    case PRETOKENIZER_DIGITS: run_digits(flow, step, text, size, at_start); break;
    case PRETOKENIZER_SPACES: run_class(flow, step, text, size, at_start, character_is_space); break;
    case PRETOKENIZER_PUNCTUATION: run_class(flow, step, text, size, at_start, character_is_punctuation); break;
    case PRETOKENIZER_WORDS: run_words(flow, step, text, size, at_start); break;
    }
}

void pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_scratch *scratch, const char *text,
                      size_t size, bool at_start, pretokenizer_take *take, void *context)
{
    run_from(&(struct flow){ pretokenizer, scratch, take, context }, 0, text, size, at_start);
}
