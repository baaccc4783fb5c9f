/* outputs.c - see outputs.h. */
#include "wire/outputs.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/progress.h"

enum { NUMBERS = 1 << 30 };

_Static_assert(NUMBERS % OUTPUTS_MAX == 0, "a number tells the place in kept");

/* Output n as it is numbered on the wire, from 1. */
static int64_t number_of(int64_t n)
{
    return 1 + n % NUMBERS;
}

static struct output *place_of(struct outputs *outputs, int64_t n)
{
    return &outputs->kept[n % OUTPUTS_MAX];
}

static void keep(struct outputs *outputs, int64_t n, struct frame *frame)
{
    struct buffer bytes = { 0 };
    *frame_output(frame) = number_of(n);
    frame_encode(frame, &bytes);
    *place_of(outputs, n) = (struct output){ bytes.data, bytes.size };
    outputs->bytes += bytes.size;
}

static void release(struct outputs *outputs, int64_t n)
{
    struct output *output = place_of(outputs, n);
    free(output->bytes);
    outputs->bytes -= output->size;
    *output = (struct output){ 0 };
    while (outputs->first < outputs->next && place_of(outputs, outputs->first)->bytes == NULL)
        outputs->first++;
    if (outputs->unsent < outputs->first)
        outputs->unsent = outputs->first;
}

bool outputs_are_full(const struct outputs *outputs)
{
    return outputs_count(outputs) >= OUTPUTS_MAX || outputs->bytes >= OUTPUTS_BYTES_MAX;
}

bool outputs_are_done(const struct outputs *outputs)
{
    return outputs->first == outputs->next && !parcel_waits(outputs);
}

void outputs_add(struct outputs *outputs, struct frame *frame)
{
    if (outputs->first == outputs->next)
        outputs->acked_s = clock_s();
    keep(outputs, outputs->next++, frame);
}

const struct output *outputs_next(struct outputs *outputs)
{
    while (outputs->unsent < outputs->next && place_of(outputs, outputs->unsent)->bytes == NULL)
        outputs->unsent++;
    return outputs->unsent < outputs->next ? place_of(outputs, outputs->unsent) : NULL;
}

void outputs_sent(struct outputs *outputs)
{
    outputs->unsent++;
}

void outputs_send_again(struct outputs *outputs)
{
    outputs->unsent = outputs->first;
}

static void drop_lease(struct outputs *outputs, int64_t n, struct arena *scratch)
{
    struct output *output = place_of(outputs, n);
    if (output->bytes == NULL)
        return;
    struct frame frame;
    char reason[512];
    arena_reset(scratch);
    int decoded = frame_decode(&frame, output->bytes, output->size, scratch, reason);
    CHECK(decoded == 0);
    if (frame.type == FRAME_failed) {
        release(outputs, n);  // the item is offered again
    } else if (*frame_item(&frame) != 0) {
        *frame_item(&frame) = 0;
        outputs->bytes -= output->size;
        free(output->bytes);
        keep(outputs, n, &frame);
    }
}

void outputs_drop_leases(struct outputs *outputs, struct arena *scratch)
{
    for (int64_t n = outputs->first; n < outputs->next; n++)
        drop_lease(outputs, n, scratch);
    outputs_send_again(outputs);
}

bool outputs_release(struct outputs *outputs, int64_t number)
{
    int64_t n = outputs->first + (number - number_of(outputs->first) + NUMBERS) % NUMBERS;
    if (number < 1 || number > NUMBERS || n >= outputs->next)
        return false;
    release(outputs, n);
    return true;
}

/* ---- a checkpoint ---- */

static void parcel_drop(struct parcel *parcel)
{
    free(parcel->content.data);
    free((char *)parcel->frame.checkpoint.run);
    free((char *)parcel->frame.checkpoint.kind);
    *parcel = (struct parcel){ .given = 0 };
}

void parcel_put(struct outputs *outputs, const struct frame *frame, struct buffer *content)
{
    struct parcel *parcel = &outputs->parcel;
    parcel_drop(parcel);
    *parcel = (struct parcel){ .frame = *frame, .content = *content };
    parcel->frame.checkpoint.run = memory_text(frame->checkpoint.run);
    parcel->frame.checkpoint.kind = memory_text(frame->checkpoint.kind);
    *content = (struct buffer){ 0 };
}

bool parcel_waits(const struct outputs *outputs)
{
    return outputs->parcel.content.data != NULL;
}

void parcel_give(struct outputs *outputs)
{
    struct parcel *parcel = &outputs->parcel;
    struct frame_checkpoint *chunk = &parcel->frame.checkpoint;
    if (parcel_waits(outputs) && parcel->sha256[0] == '\0') {
        struct digest digest;
        digest_init(&digest);
        digest_add(&digest, parcel->content.data, parcel->content.size);
        digest_hex(&digest, parcel->sha256);
        chunk->sha256 = parcel->sha256;
    }
    while (parcel_waits(outputs) && !outputs_are_full(outputs)) {
        size_t left = parcel->content.size - parcel->given, size = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        chunk->offset = (int64_t)parcel->given;
        chunk->data = (struct bytes){ (const unsigned char *)parcel->content.data + parcel->given, size };
        outputs_add(outputs, &parcel->frame);
        parcel->given += size;
        if (parcel->given == parcel->content.size)
            parcel_drop(parcel);
    }
}

void outputs_free(struct outputs *outputs)
{
    for (int64_t n = outputs->first; n < outputs->next; n++)
        free(place_of(outputs, n)->bytes);
    parcel_drop(&outputs->parcel);
}
