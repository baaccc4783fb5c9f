/* edge_fetch.c - what a worker asks the store for beside work: checkpoints, and the files of shared models.  See edge.h. */
#include <string.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/memory.h"
#include "wire/edge_parts.h"

/* ---- a checkpoint, into memory ---- */

enum { CHECKPOINT_TRIES = 3 };

struct checkpoint_question {
    struct question question;
    const char *endpoint, *run, *kind;
    int64_t step;            // asked for; -1: the newest
    int64_t found_step;      // -1 until the first piece
    struct buffer *out;
    size_t start;            // in out, where the file begins
    int64_t size;            // bytes of the file
    char sha256[DIGEST_HEX_SIZE];
    bool waits;              // for the next piece
    int tries;
    int result;              // of edge_fetch
};

static void checkpoint_ask(struct question *question, struct edge *edge)
{
    struct checkpoint_question *fetch = (struct checkpoint_question *)question;
    if (fetch->waits)
        return;
    struct frame frame = frame_make(FRAME_fetch);
    frame.fetch.run = fetch->run;
    frame.fetch.kind = fetch->kind;
    frame.fetch.step = fetch->found_step >= 0 ? fetch->found_step : fetch->step;
    frame.fetch.offset = (int64_t)(fetch->out->size - fetch->start);
    fetch->waits = store_send(edge, &frame);
}

static void checkpoint_forget(struct question *question)
{
    ((struct checkpoint_question *)question)->waits = false;
}

static void checkpoint_end(struct checkpoint_question *fetch, int result)
{
    fetch->result = result;
    fetch->question.ended = true;
}

static void checkpoint_again(struct checkpoint_question *fetch, const char *why)
{
    fetch->out->size = fetch->start;
    fetch->found_step = -1;
    if (++fetch->tries < CHECKPOINT_TRIES)
        return;
    log_error("cannot fetch checkpoint run=%s kind=%s step=%lld from store \"%s\": %s", fetch->run, fetch->kind,
              (long long)fetch->step, fetch->endpoint, why);
    checkpoint_end(fetch, -1);
}

static void checkpoint_refused(struct question *question, const char *reason)
{
    (void)reason;
    struct checkpoint_question *fetch = (struct checkpoint_question *)question;
    fetch->waits = false;
    if (fetch->step < 0 && fetch->found_step >= 0)  // the newest, of which some pieces are here: the store has dropped it since
        checkpoint_again(fetch, "newer ones keep replacing it");
    else
        checkpoint_end(fetch, 1);
}

static bool checkpoint_answer(struct question *question, struct edge *edge, const struct frame *frame)
{
    (void)edge;
    struct checkpoint_question *fetch = (struct checkpoint_question *)question;
    const struct frame_checkpoint *piece = &frame->checkpoint;
    if (frame->type != FRAME_checkpoint)
        return false;
    if (strcmp(piece->run, fetch->run) != 0 || strcmp(piece->kind, fetch->kind) != 0
        || (fetch->step >= 0 && piece->step != fetch->step) || piece->offset != (int64_t)(fetch->out->size - fetch->start))
        return true;  // the answer to a question that was asked again
    fetch->waits = false;
    if (fetch->found_step < 0) {
        fetch->found_step = piece->step;
        fetch->size = piece->size;
        memcpy(fetch->sha256, piece->sha256, sizeof fetch->sha256);
    }
    if (piece->step != fetch->found_step || piece->size != fetch->size || strcmp(piece->sha256, fetch->sha256) != 0) {
        checkpoint_again(fetch, "it keeps changing");
        return true;
    }
    buffer_append(fetch->out, piece->data.at, piece->data.size);
    int64_t got = (int64_t)(fetch->out->size - fetch->start);
    if (got < fetch->size)
        return true;
    struct digest digest;
    char sha256[DIGEST_HEX_SIZE];
    digest_init(&digest);
    digest_add(&digest, fetch->out->data + fetch->start, (size_t)got);
    digest_hex(&digest, sha256);
    if (got == fetch->size && strcmp(sha256, fetch->sha256) == 0)
        checkpoint_end(fetch, 0);
    else
        checkpoint_again(fetch, "its bytes do not have the digest they should have");
    return true;
}

int edge_fetch(struct edge *edge, const char *run, int64_t step, const char *kind, struct buffer *out, int64_t *found_step)
{
    struct checkpoint_question fetch = {
        .question = { .ask = checkpoint_ask, .forget = checkpoint_forget, .answer = checkpoint_answer,
                      .refused = checkpoint_refused },
        .endpoint = edge->options.endpoint, .run = run, .kind = kind, .step = step, .found_step = -1, .out = out, .start = out->size,
    };
    *found_step = -1;
    if (edge->store == NULL)
        return 1;
    if (store_ask(edge, &fetch.question) != 0)
        return -1;
    if (fetch.result == 0)
        *found_step = fetch.found_step;
    if (fetch.result > 0)
        out->size = fetch.start;
    return fetch.result;
}

/* ---- which files a model has ---- */

struct model_question {
    struct question question;
    const char *model;
    struct buffer *files;
    bool waits, is_refused;
};

static void model_ask(struct question *question, struct edge *edge)
{
    struct model_question *fetch = (struct model_question *)question;
    if (fetch->waits)
        return;
    struct frame frame = frame_make(FRAME_find);
    frame.find.model = fetch->model;
    fetch->waits = store_send(edge, &frame);
}

static void model_forget(struct question *question)
{
    ((struct model_question *)question)->waits = false;
}

static bool model_answer(struct question *question, struct edge *edge, const struct frame *frame)
{
    (void)edge;
    struct model_question *fetch = (struct model_question *)question;
    if (frame->type != FRAME_model)
        return false;
    if (strcmp(frame->model.model, fetch->model) == 0 && !question->ended) {
        buffer_append(fetch->files, frame->model.files, strlen(frame->model.files));
        question->ended = true;
    }
    return true;
}

static void model_refused(struct question *question, const char *reason)
{
    struct model_question *fetch = (struct model_question *)question;
    log_error("cannot fetch model \"%s\": %s", fetch->model, reason);
    fetch->is_refused = question->ended = true;
}

int edge_fetch_model(struct edge *edge, const char *model, struct buffer *files)
{
    CHECK(edge->store != NULL);
    struct model_question fetch = {
        .question = { .ask = model_ask, .forget = model_forget, .answer = model_answer, .refused = model_refused },
        .model = model, .files = files,
    };
    if (store_ask(edge, &fetch.question) != 0)
        return -1;
    return fetch.is_refused ? 1 : 0;
}

/* ---- bytes of a file ---- */

/* Small pieces, so that a slow link is heard from often; several on their way, so that a long one is filled. */
enum { PIECE_BYTES = 256 << 10, WINDOW_BYTES = 4 << 20 };

struct file_question {
    struct question question;
    const char *sha256;
    int64_t received, asked, size;  // received <= asked <= size, offsets in the file
    file_taker *take;
    void *context;
    int result;                     // of edge_fetch_file
};

static void file_ask(struct question *question, struct edge *edge)
{
    struct file_question *fetch = (struct file_question *)question;
    while (!question->ended && fetch->asked < fetch->size && fetch->asked - fetch->received < WINDOW_BYTES) {
        int64_t left = fetch->size - fetch->asked;
        struct frame frame = frame_make(FRAME_read);
        frame.read.sha256 = fetch->sha256;
        frame.read.offset = fetch->asked;
        frame.read.size = left < PIECE_BYTES ? left : PIECE_BYTES;
        if (!store_send(edge, &frame))
            return;
        fetch->asked += frame.read.size;
    }
}

static void file_forget(struct question *question)
{
    struct file_question *fetch = (struct file_question *)question;
    fetch->asked = fetch->received;
}

static bool file_answer(struct question *question, struct edge *edge, const struct frame *frame)
{
    (void)edge;
    struct file_question *fetch = (struct file_question *)question;
    const struct frame_piece *piece = &frame->piece;
    if (frame->type != FRAME_piece)
        return false;
    if (question->ended || strcmp(piece->sha256, fetch->sha256) != 0 || piece->offset != fetch->received
        || (int64_t)piece->data.size > fetch->asked - fetch->received)
        return true;  // the answer to a question that was asked again, or to none
    fetch->received += (int64_t)piece->data.size;
    fetch->result = fetch->take(fetch->context, piece->data.at, piece->data.size);
    question->ended = fetch->result != 0 || fetch->received == fetch->size;
    return true;
}

static void file_refused(struct question *question, const char *reason)
{
    struct file_question *fetch = (struct file_question *)question;
    log_error("cannot fetch a file: %s", reason);
    fetch->result = 1;
    question->ended = true;
}

int edge_fetch_file(struct edge *edge, const char *sha256, int64_t offset, int64_t size, file_taker *take, void *context)
{
    CHECK(edge->store != NULL && 0 <= offset && offset <= size);
    struct file_question fetch = {
        .question = { .ask = file_ask, .forget = file_forget, .answer = file_answer, .refused = file_refused,
                      .ended = offset == size },
        .sha256 = sha256, .received = offset, .asked = offset, .size = size, .take = take, .context = context,
    };
    return store_ask(edge, &fetch.question) != 0 ? -1 : fetch.result;
}
