/* decoder.c - see decoder.h. */
#define _GNU_SOURCE
#include "text/decoder.h"

#include <stdlib.h>
#include <string.h>

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

static void decode_piece(const struct decoder *decoder, struct piece piece, struct buffer *text)
{
    text->size = 0;
    buffer_append(text, piece.at, piece.size);
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
            replace_in(text, step->text, " ");
            break;
        case DECODER_BYTE_FALLBACK:
            if ((byte = byte_of_piece(text->data, text->size)) >= 0) {
                text->data[0] = (char)byte;
                text->size = 1;
                return;  // a byte is not looked at again: it may be a part of a character
            }
            break;
        case DECODER_FUSE:
        case DECODER_STRIP:
            break;
        }
    }
}

void decoder_finish(struct decoder *decoder, const struct vocabulary *vocabulary)
{
    struct buffer all = { 0 }, text = { 0 };
    size_t *starts = memory_alloc(vocabulary->count + 1, sizeof *starts);
    for (size_t id = 0; id < vocabulary->count; id++) {
        starts[id] = all.size;
        if (vocabulary->pieces[id].at != NULL) {
            decode_piece(decoder, vocabulary->pieces[id], &text);
            buffer_append(&all, text.data, text.size);
        }
    }
    starts[vocabulary->count] = all.size;
    free(text.data);
    buffer_append(&all, "", 1);  // so that there is an address even when no token gives anything
    decoder->data = all.data;
    decoder->byte_count = vocabulary->count;
    decoder->bytes = memory_alloc(vocabulary->count, sizeof *decoder->bytes);
    for (size_t id = 0; id < vocabulary->count; id++)
        decoder->bytes[id] = (struct piece){ .at = all.data + starts[id], .size = (uint32_t)(starts[id + 1] - starts[id]) };
    free(starts);
    for (size_t i = 0; i < decoder->count; i++) {
        const struct decoder_step *step = &decoder->steps[i];
        if (step->kind == DECODER_STRIP) {
            decoder->strip = step->text[0];
            decoder->strip_max = step->count;
        } else if (step->kind == DECODER_METASPACE) {
            decoder->strip = ' ';
            decoder->strip_max = step->count;
        }
    }
}
