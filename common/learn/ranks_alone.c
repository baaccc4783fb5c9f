/* ranks_alone.c - ranks.h for a program that was built without MPI. */
#include "learn/ranks.h"

#include <stdlib.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"

static long number_from_environment(const char *name)
{
    const char *text = getenv(name);
    return text != NULL ? strtol(text, NULL, 10) : 0;
}

int ranks_open(struct ranks **ranks)
{
    *ranks = NULL;
    static const char *const launchers[][2] = { { "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK" }, { "PMI_SIZE", "PMI_RANK" } };
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const long count = number_from_environment(launchers[i][0]);
        if (count <= 1)
            continue;
        if (number_from_environment(launchers[i][1]) == 0) {
            log_error("cannot be one of the %ld ranks that were started: this program was built without MPI", count);
            log_hint("'make MPI=1' builds it with MPI");
        }
        return EX_UNAVAILABLE;
    }
    return EX_OK;
}

void ranks_close(struct ranks *ranks)
{
    CHECK(ranks == NULL);
}

size_t ranks_count(const struct ranks *ranks)
{
    (void)ranks;
    return 1;
}

size_t ranks_index(const struct ranks *ranks)
{
    (void)ranks;
    return 0;
}

size_t ranks_here(const struct ranks *ranks)
{
    (void)ranks;
    return 1;
}

void ranks_broadcast(struct ranks *ranks, void *data, size_t size)
{
    (void)ranks, (void)data, (void)size;
}

void ranks_unite(struct ranks *ranks, void *data, size_t size)
{
    (void)ranks, (void)data, (void)size;
}

void ranks_sum_begin(struct ranks *ranks, float *data, size_t count)
{
    (void)ranks, (void)data, (void)count;
}

void ranks_sum_advance(struct ranks *ranks)
{
    (void)ranks;
}

void ranks_sum_end(struct ranks *ranks)
{
    (void)ranks;
}

size_t ranks_sum_room(const struct ranks *ranks, size_t count)
{
    (void)ranks, (void)count;
    return 0;
}
