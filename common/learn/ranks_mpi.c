/*
 * ranks_mpi.c - ranks.h over MPI.
 *
 * A sum in three steps: every rank sends every other the slice that this one adds up; each adds its slice's rows in the order of
 * sum_tree.h, where MPI_Allreduce leaves the order to the library; and all send their sums to all.  That moves as few bytes as a
 * ring does.  MPI advances only inside its functions, so sums move on where ranks_sum_advance is called, which is after every layer
 * of the backward pass.
 */
#include "learn/ranks.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"
#include "learn/sum_tree.h"

enum {
    SLICE_ALIGN = 16,          // floats: 64 bytes
    MESSAGE_MAX = 1 << 30,     // bytes of one MPI call: counts are ints
    EAGER_ROUNDS = 200,        // looks at a request before sleeping between looks: beside other work, who sleeps is served sooner
    LOOK_EVERY_NS = 50000,
};

enum sum_state { SUM_SPREADING, SUM_GATHERING, SUM_DONE };

struct sum {
    float *data;
    size_t slice;              // rank r adds up [r * slice, ...)
    float *rows;               // (ranks, slice): what the ranks have for this rank's slice
    size_t rows_room;          // floats
    int *slice_count, *slice_first;  // (ranks)
    int *row_count, *row_first;      // (ranks)
    enum sum_state state;
    MPI_Request request;
};

struct ranks {
    MPI_Comm control, spread, gather;  // each sees its operations in one order on all ranks
    int count, index, here;
    struct sum *sums;          // those begun since ranks_sum_end; the others keep their rows for the next time
    size_t sum_count, sum_room;
    double waited_s;           // in ranks_sum_end
};

int ranks_open(struct ranks **out)
{
    *out = NULL;
    if (getenv("OMPI_COMM_WORLD_SIZE") == NULL && getenv("PMIX_RANK") == NULL && getenv("PMI_RANK") == NULL)
        return EX_OK;  // no launcher: MPI stays asleep
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    struct ranks *ranks = memory_alloc(1, sizeof *ranks);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks->count);
    if (ranks->count == 1) {
        free(ranks);
        MPI_Finalize();
        return EX_OK;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks->index);
    MPI_Comm here;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &ranks->here);
    MPI_Comm_free(&here);
    MPI_Comm_dup(MPI_COMM_WORLD, &ranks->control);
    MPI_Comm_dup(MPI_COMM_WORLD, &ranks->spread);
    MPI_Comm_dup(MPI_COMM_WORLD, &ranks->gather);
    *out = ranks;
    return EX_OK;
}

void ranks_close(struct ranks *ranks)
{
    if (ranks == NULL)
        return;
    if (ranks->index == 0 && ranks->sum_room > 0)
        log_event("ranks=%d waited_s=%.2f for gradients", ranks->count, ranks->waited_s);
    for (size_t i = 0; i < ranks->sum_room; i++) {
        free(ranks->sums[i].rows);
        free(ranks->sums[i].slice_count);
    }
    free(ranks->sums);
    MPI_Comm_free(&ranks->control);
    MPI_Comm_free(&ranks->spread);
    MPI_Comm_free(&ranks->gather);
    free(ranks);
    MPI_Finalize();
}

size_t ranks_count(const struct ranks *ranks)
{
    return ranks != NULL ? (size_t)ranks->count : 1;
}

size_t ranks_index(const struct ranks *ranks)
{
    return ranks != NULL ? (size_t)ranks->index : 0;
}

size_t ranks_here(const struct ranks *ranks)
{
    return ranks != NULL ? (size_t)ranks->here : 1;
}

/* ---- waiting ---- */

static void look_later(size_t round)
{
    if (round >= EAGER_ROUNDS)
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_EVERY_NS }, NULL);
}

static void await(MPI_Request *request)
{
    int done = 0;
    for (size_t round = 0; MPI_Test(request, &done, MPI_STATUS_IGNORE), !done; round++)
        look_later(round);
}

void ranks_broadcast(struct ranks *ranks, void *data, size_t size)
{
    if (ranks == NULL)
        return;
    for (size_t done = 0; done < size; done += MESSAGE_MAX) {
        const size_t piece = size - done < MESSAGE_MAX ? size - done : MESSAGE_MAX;
        MPI_Request request;
        MPI_Ibcast((char *)data + done, (int)piece, MPI_BYTE, 0, ranks->control, &request);
        await(&request);
    }
}

void ranks_unite(struct ranks *ranks, void *data, size_t size)
{
    if (ranks == NULL)
        return;
    for (size_t done = 0; done < size; done += MESSAGE_MAX) {
        const size_t piece = size - done < MESSAGE_MAX ? size - done : MESSAGE_MAX;
        MPI_Request request;
        MPI_Iallreduce(MPI_IN_PLACE, (char *)data + done, (int)piece, MPI_BYTE, MPI_BOR, ranks->control, &request);
        await(&request);
    }
}

/* ---- sums ---- */

static size_t slice_of(const struct ranks *ranks, size_t count)
{
    const size_t slice = (count + (size_t)ranks->count - 1) / (size_t)ranks->count;
    return (slice + SLICE_ALIGN - 1) / SLICE_ALIGN * SLICE_ALIGN;
}

size_t ranks_sum_room(const struct ranks *ranks, size_t count)
{
    return ranks != NULL ? slice_of(ranks, count) * (size_t)ranks->count : 0;
}

static void sum_lay_out(const struct ranks *ranks, struct sum *sum, float *data, size_t count)
{
    const size_t R = (size_t)ranks->count, room = ranks_sum_room(ranks, count);
    if (sum->slice_count == NULL) {
        sum->slice_count = memory_alloc(4 * R, sizeof *sum->slice_count);
        sum->slice_first = sum->slice_count + R;
        sum->row_count = sum->slice_first + R;
        sum->row_first = sum->row_count + R;
    }
    if (room > sum->rows_room) {
        free(sum->rows);
        sum->rows = memory_alloc_aligned(room, sizeof *sum->rows);
        sum->rows_room = room;
    }
    sum->data = data;
    sum->slice = slice_of(ranks, count);
    for (size_t r = 0; r < R; r++) {
        const size_t first = r * sum->slice < count ? r * sum->slice : count;
        sum->slice_first[r] = (int)first;
        sum->slice_count[r] = (int)(count - first < sum->slice ? count - first : sum->slice);
    }
    for (size_t r = 0; r < R; r++) {
        sum->row_first[r] = (int)(r * sum->slice);
        sum->row_count[r] = sum->slice_count[ranks->index];
    }
}

static void sum_spread(struct ranks *ranks, float *data, size_t count)
{
    if (ranks->sum_count == ranks->sum_room) {
        ranks->sums = memory_grow(ranks->sums, ranks->sum_room + 1, sizeof *ranks->sums);
        ranks->sums[ranks->sum_room++] = (struct sum){ 0 };
    }
    struct sum *sum = &ranks->sums[ranks->sum_count++];
    sum_lay_out(ranks, sum, data, count);
    sum->state = SUM_SPREADING;
    MPI_Ialltoallv(data, sum->slice_count, sum->slice_first, MPI_FLOAT, sum->rows, sum->row_count, sum->row_first, MPI_FLOAT,
                   ranks->spread, &sum->request);
}

static void sum_gather(struct ranks *ranks, struct sum *sum)
{
    const int mine = sum->slice_count[ranks->index];
    sum_rows(sum->rows, sum->slice, (size_t)ranks->count, (size_t)mine);
    sum->state = SUM_GATHERING;
    MPI_Iallgatherv(sum->rows, mine, MPI_FLOAT, sum->data, sum->slice_count, sum->slice_first, MPI_FLOAT, ranks->gather,
                    &sum->request);
}

void ranks_sum_begin(struct ranks *ranks, float *data, size_t count)
{
    const size_t most = MESSAGE_MAX / sizeof(float);
    for (size_t done = 0; ranks != NULL && done < count; done += most)
        sum_spread(ranks, data + done, count - done < most ? count - done : most);
}

/* Whether all sums that were begun are done. */
static bool sums_advance(struct ranks *ranks)
{
    bool all_done = true, gather = true;  // gathers begin in the order of the sums, on every rank
    for (size_t i = 0; i < ranks->sum_count; i++) {
        struct sum *sum = &ranks->sums[i];
        int done = 0;
        if (sum->state != SUM_DONE)
            MPI_Test(&sum->request, &done, MPI_STATUS_IGNORE);  // of a request that is over: done again
        if (done && sum->state == SUM_GATHERING)
            sum->state = SUM_DONE;
        else if (done && gather)
            sum_gather(ranks, sum);
        gather = gather && sum->state != SUM_SPREADING;
        all_done = all_done && sum->state == SUM_DONE;
    }
    return all_done;
}

void ranks_sum_advance(struct ranks *ranks)
{
    if (ranks != NULL)
        sums_advance(ranks);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void ranks_sum_end(struct ranks *ranks)
{
    if (ranks == NULL)
        return;
    const double begun = now_s();
    for (size_t round = 0; !sums_advance(ranks); round++)
        look_later(round);
    ranks->sum_count = 0;
    ranks->waited_s += now_s() - begun;
}
