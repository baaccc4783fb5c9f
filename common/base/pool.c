/*
 * pool.c - see pool.h.
 *
 * Workers spin briefly for the next loop, then sleep: loops of a forward pass follow each other within microseconds, and an idle
 * stage must not keep a core busy.  A thread may lose its core to other processes at any time, or share one with the thread that it
 * waits for: so nobody waits for a worker that has not come to a loop, and who spins soon lets others run.
 */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"

enum { SPIN_ROUNDS = 4000, ROUNDS_ALONE = 100, THREADS_MAX = 256 };

/* The tasks that a thread takes first, neighbours, so that what it reads for them is read in one go. */
struct share {
    _Alignas(64) atomic_size_t next;  // that nobody took
    size_t end;
};

struct pool_worker {
    struct pool *pool;
    pthread_t id;
    size_t thread;
};

struct pool {
    size_t threads;
    struct pool_worker *workers;  // (threads - 1)

    pool_task *task;
    void *context;
    struct share *shares;         // (threads)
    uint_fast64_t loops;          // begun so far
    atomic_uint_fast64_t open;    // the number of the loop that workers may come to; 0: none; LOOP_CLOSING: the pool closes
    atomic_size_t inside;         // workers that may be in the open loop; while there are any, all of the above but open stays

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_size_t sleepers;       // changed under the mutex
};

#define LOOP_CLOSING UINT_FAST64_MAX

/* One round of waiting. */
static void spin(unsigned round)
{
    if (round < ROUNDS_ALONE || round % 8 != 0)
        __builtin_ia32_pause();
    else
        sched_yield();
}

/* First the thread's own share, then what the others have not come to. */
static void pool_share(struct pool *pool, size_t thread)
{
    for (size_t i = 0; i < pool->threads; i++) {
        struct share *share = &pool->shares[(thread + i) % pool->threads];
        for (size_t task; (task = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end; )
            pool->task(pool->context, task, thread);
    }
}

/* The number of an open loop that comes after one. */
static uint_fast64_t pool_await(struct pool *pool, uint_fast64_t after)
{
    uint_fast64_t open;
    for (unsigned round = 0; round < SPIN_ROUNDS; round++) {
        if ((open = atomic_load_explicit(&pool->open, memory_order_acquire)) > after)
            return open;
        spin(round);
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while ((open = atomic_load(&pool->open)) <= after)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
    return open;
}

static void *pool_worker_run(void *argument)
{
    struct pool_worker *worker = argument;
    struct pool *pool = worker->pool;
    for (uint_fast64_t loop = 0; (loop = pool_await(pool, loop)) != LOOP_CLOSING; ) {
        atomic_fetch_add(&pool->inside, 1);
        if (atomic_load(&pool->open) == loop)  // not ended meanwhile
            pool_share(pool, worker->thread);
        atomic_fetch_sub_explicit(&pool->inside, 1, memory_order_release);
    }
    return NULL;
}

/* Opens a loop.  A worker that falls asleep sees it, or is seen. */
static void pool_begin(struct pool *pool, uint_fast64_t loop)
{
    atomic_store(&pool->open, loop);
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

size_t pool_cores(void)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? (size_t)CPU_COUNT(&cores) : 1;
}

struct pool *pool_open(size_t threads)
{
    if (threads == 0)
        threads = pool_cores();
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    struct pool *pool = memory_alloc(1, sizeof *pool);
    pool->workers = memory_alloc(threads, sizeof *pool->workers);
    pool->shares = memory_alloc_aligned(threads, sizeof *pool->shares);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = 1;
    while (pool->threads < threads) {
        struct pool_worker *worker = &pool->workers[pool->threads - 1];
        *worker = (struct pool_worker){ .pool = pool, .thread = pool->threads };
        if (pthread_create(&worker->id, NULL, pool_worker_run, worker) != 0)
            break;  // fewer threads do the same work
        pool->threads++;
    }
    return pool;
}

void pool_close(struct pool *pool)
{
    if (pool == NULL)
        return;
    pool_begin(pool, LOOP_CLOSING);
    for (size_t i = 0; i + 1 < pool->threads; i++)
        pthread_join(pool->workers[i].id, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

size_t pool_threads(const struct pool *pool)
{
    return pool->threads;
}

void pool_run(struct pool *pool, size_t tasks, pool_task *task, void *context)
{
    if (pool->threads == 1 || tasks <= 1) {
        for (size_t i = 0; i < tasks; i++)
            task(context, i, 0);
        return;
    }
    pool->task = task;
    pool->context = context;
    for (size_t thread = 0, begin = 0; thread < pool->threads; thread++) {
        atomic_store_explicit(&pool->shares[thread].next, begin, memory_order_relaxed);
        begin = pool->shares[thread].end = tasks * (thread + 1) / pool->threads;
    }
    pool_begin(pool, ++pool->loops);
    pool_share(pool, 0);
    atomic_store(&pool->open, 0);
    for (unsigned round = 0; atomic_load(&pool->inside) > 0; round++)
        spin(round);
}
