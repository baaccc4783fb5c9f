/* decoder.c - see decoder.h. */
#define _GNU_SOURCE
#include "text/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"

int decoder_add(struct decoder *decoder, enum decoder_kind kind, const char *text, const char *replacement, size_t count)
{
    if (decoder->count == DECODER_STEPS_MAX)
        return -1;
    decoder->steps[decoder->count++] = (struct decoder_step){
        kind, text ? memory_text(text) : NULL, replacement ? memory_text(replacement) : NULL, count,
    };
    return 0;
}

void decoder_free(struct decoder *decoder)
{
    for (size_t i = 0; i < decoder->count; i++) {
        free(decoder->steps[i].text);
        free(decoder->steps[i].replacement);
    }
    free(decoder->bytes);
    free(decoder->first);
    free(decoder->data);
}

static void replace_in(struct buffer *text, const char *from, const char *to)
{
    if (text->size == 0)
        return;
    struct buffer out = { 0 };
    const char *at = text->data, *end = text->data + text->size, *found;
    size_t from_size = strlen(from);
    while (at < end && (found = memmem(at, (size_t)(end - at), from, from_size)) != NULL) {
        buffer_append(&out, at, (size_t)(found - at));
        buffer_append(&out, to, strlen(to));
        at = found + from_size;
    }
    if (at < end)
        buffer_append(&out, at, (size_t)(end - at));
    free(text->data);
    *text = out;
}

/* A piece that holds anything but letters is left as it is. */
static void bytes_from_letters(struct buffer *text)
{
    size_t count = 0;
    char *bytes = memory_alloc(text->size, 1);
    for (size_t at = 0, step; at < text->size; at += step) {
        step = utf8_size((unsigned char)text->data[at]);
        int byte = byte_of_letter(utf8_code_point(text->data + at, step));
        if (byte < 0) {
            free(bytes);
            return;
        }
        bytes[count++] = (char)byte;
    }
    memcpy(text->data, bytes, count);
    text->size = count;
    free(bytes);
}

static void drop_beginning(struct buffer *text, size_t size)
{
    memmove(text->data, text->data + size, text->size - size);
    text->size -= size;
}

static bool begins_with(const char *text, size_t size, const char *beginning)
{
    size_t beginning_size = strlen(beginning);
    return size >= beginning_size && memcmp(text, beginning, beginning_size) == 0;
}

static bool ends_with(const char *text, size_t size, const char *end)
{
    size_t end_size = strlen(end);
    return size >= end_size && memcmp(text + size - end_size, end, end_size) == 0;
}

static void strip_beginning(struct buffer *text, const char *character, size_t max)
{
    for (size_t i = 0; i < max && begins_with(text->data, text->size, character); i++)
        drop_beginning(text, strlen(character));
}

static void put_space_before(struct buffer *text)
{
    buffer_append(text, " ", 1);
    memmove(text->data + 1, text->data, text->size - 1);
    text->data[0] = ' ';
}

/* The tokenizers library cleans each token by itself, with the space before it. */
static void clean_up(struct buffer *text)
{
    static const char *const artifacts[][2] = {
        { " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" }, { " n't", "n't" }, { " 'm", "'m" },
        { " do not", " don't" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
    };
    for (size_t i = 0; i < COUNT_OF(artifacts); i++)
        replace_in(text, artifacts[i][0], artifacts[i][1]);
}

static void run_wordpiece(const struct decoder_step *step, bool first, struct buffer *text)
{
    if (!first && begins_with(text->data, text->size, step->text))
        drop_beginning(text, strlen(step->text));
    else if (!first)
        put_space_before(text);
    if (step->count > 0)
        clean_up(text);
}

/* A word's end at the end of a piece becomes a space with the next token, decoder_append's. */
static void run_word_ends(const struct decoder_step *step, struct buffer *text)
{
    if (ends_with(text->data, text->size, step->text))
        text->size -= strlen(step->text);
    replace_in(text, step->text, " ");
}

static void decode_piece(const struct decoder *decoder, struct piece piece, bool first, struct buffer *text)
{
    bool fused = false;
    text->size = 0;
    buffer_append(text, piece.at, piece.size);
    if (decoder->count == 0 && !first)
        put_space_before(text);
    for (size_t i = 0; i < decoder->count; i++) {
        const struct decoder_step *step = &decoder->steps[i];
        int byte;
        switch (step->kind) {
        case DECODER_BYTE_LEVEL:
            if (text->size > 0)
                bytes_from_letters(text);
            break;
        case DECODER_REPLACE:
            replace_in(text, step->text, step->replacement);
            break;
        case DECODER_METASPACE:
            replace_in(text, step->text, first && step->count > 0 ? "" : " ");
            break;
        case DECODER_BYTE_FALLBACK:
            if ((byte = byte_of_piece(text->data, text->size)) >= 0) {
                text->data[0] = (char)byte;
                text->size = 1;
                return;  // a byte is not looked at again: it may be a part of a character
            }
            break;
        case DECODER_WORDPIECE: run_wordpiece(step, first, text); break;
        case DECODER_WORD_ENDS: run_word_ends(step, text); break;
        case DECODER_FUSE: fused = true; break;
        case DECODER_STRIP:
            if (!fused)
                strip_beginning(text, step->text, step->count);
            break;
        }
    }
}

/* What each token gives at a place: as offsets into all, made pieces once all has stopped moving. */
static struct piece *decode_pieces(const struct decoder *decoder, const struct vocabulary *vocabulary, bool first,
                                   struct buffer *all)
{
    struct piece *pieces = memory_alloc(vocabulary->count + 1, sizeof *pieces);
    struct buffer text = { 0 };
    buffer_append(&text, "", 1);  // so that it has an address
    for (size_t id = 0; id < vocabulary->count; id++) {
        if (vocabulary->pieces[id].at == NULL)
            continue;
        decode_piece(decoder, vocabulary->pieces[id], first, &text);
        pieces[id].size = (uint32_t)text.size;
        buffer_append(all, text.data, text.size);
    }
    free(text.data);
    return pieces;
}

void decoder_finish(struct decoder *decoder, const struct vocabulary *vocabulary)
{
    struct buffer all = { 0 };
    decoder->byte_count = vocabulary->count;
    decoder->bytes = decode_pieces(decoder, vocabulary, false, &all);
    decoder->first = decode_pieces(decoder, vocabulary, true, &all);
    buffer_append(&all, "", 1);  // so that there is an address even when no token gives anything
    decoder->data = all.data;
    const char *at = all.data;
    struct piece *lists[] = { decoder->bytes, decoder->first };
    for (size_t i = 0; i < COUNT_OF(lists); i++) {
        for (size_t id = 0; id < vocabulary->count; id++) {
            lists[i][id].at = at;
            at += lists[i][id].size;
        }
    }
    for (size_t i = 0, fused = 0; i < decoder->count; i++) {
        const struct decoder_step *step = &decoder->steps[i];
        fused |= step->kind == DECODER_FUSE;
        if (step->kind == DECODER_STRIP && fused) {
            decoder->strip = step->text;
            decoder->strip_max = step->count;
        } else if (step->kind == DECODER_WORD_ENDS) {
            decoder->word_end = step->text;
        }
    }
}

void decoder_append(const struct decoder *decoder, const struct vocabulary *vocabulary, struct text_stream *stream, int32_t id,
                    struct buffer *text)
{
    struct piece bytes = stream->started ? decoder->bytes[id] : decoder->first[id];
    if (!stream->started)
        stream->stripping = decoder->strip != NULL;
    stream->started = true;
    if (stream->word_ended)
        buffer_append(text, " ", 1);
    stream->word_ended = decoder->word_end != NULL
                        && ends_with(vocabulary->pieces[id].at, vocabulary->pieces[id].size, decoder->word_end);
    while (stream->stripping && bytes.size > 0) {
        stream->stripping = stream->stripped < decoder->strip_max && begins_with(bytes.at, bytes.size, decoder->strip);
        if (stream->stripping) {
            size_t size = strlen(decoder->strip);
            bytes.at += size;
            bytes.size -= (uint32_t)size;
            stream->stripped++;
        }
    }
    buffer_append(text, bytes.at, bytes.size);
}
