/*
 * ranks.h - the processes that train one model together, started by mpirun.  Each is a rank; rank 0 leads.
 *
 * ranks_mpi.c is this over MPI ("make MPI=1"), ranks_alone.c for one process.  A NULL is one process in both.  All functions but
 * those that only ask are called by all ranks in the same order, by one thread.  Waiting takes no processor for long.  When a rank
 * dies, or ends without ranks_close, mpirun ends the others.
 */
#ifndef LEARN_RANKS_H
#define LEARN_RANKS_H

#include <stddef.h>

struct ranks;

/*
 * EX_OK, and NULL in *ranks unless this process was started as one of several; or an exit code, logged by rank 0: several were
 * started and this program was built without MPI.
 */
int ranks_open(struct ranks **ranks);
void ranks_close(struct ranks *ranks);

size_t ranks_count(const struct ranks *ranks);
size_t ranks_index(const struct ranks *ranks);
size_t ranks_here(const struct ranks *ranks);  // on this machine

/* Rank 0's bytes become everybody's. */
void ranks_broadcast(struct ranks *ranks, void *data, size_t size);
/* Every byte is zero but on one rank, whose byte becomes everybody's. */
void ranks_unite(struct ranks *ranks, void *data, size_t size);

/*
 * Begins to replace data by its sum over all ranks, added in the order of sum_tree.h.  data is left alone until ranks_sum_end,
 * which waits for all sums that were begun; meanwhile ranks_sum_advance moves them on, and does not wait.
 */
void ranks_sum_begin(struct ranks *ranks, float *data, size_t count);
void ranks_sum_advance(struct ranks *ranks);
void ranks_sum_end(struct ranks *ranks);

/* Floats that sums of count floats need beside them. */
size_t ranks_sum_room(const struct ranks *ranks, size_t count);

#endif
