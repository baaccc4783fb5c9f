/*
 * pool.c - see pool.h.
 *
 * Workers spin briefly for the next loop, then sleep: loops of a forward pass follow each other within
 * microseconds, and an idle stage must not keep a core busy.
 */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"

enum { SPIN_ROUNDS = 4000, THREADS_MAX = 256 };

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
    atomic_size_t busy;           // workers that have not left this loop
    atomic_uint_fast64_t loop;    // counts loops; a worker sees a change
    atomic_bool closing;

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    size_t sleepers;              // guarded by mutex
};

/* First the thread's own share, then what the others have not come to. */
static void pool_share(struct pool *pool, size_t thread)
{
    for (size_t i = 0; i < pool->threads; i++) {
        struct share *share = &pool->shares[(thread + i) % pool->threads];
        for (size_t task; (task = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end; )
            pool->task(pool->context, task, thread);
    }
}

static void pool_await(struct pool *pool, uint_fast64_t seen)
{
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        if (atomic_load_explicit(&pool->loop, memory_order_acquire) != seen)
            return;
        __builtin_ia32_pause();
    }
    pthread_mutex_lock(&pool->mutex);
    pool->sleepers++;
    while (atomic_load(&pool->loop) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    pool->sleepers--;
    pthread_mutex_unlock(&pool->mutex);
}

static void *pool_worker_run(void *argument)
{
    struct pool_worker *worker = argument;
    struct pool *pool = worker->pool;
    for (uint_fast64_t seen = 0; ; seen++) {
        pool_await(pool, seen);
        if (atomic_load(&pool->closing))
            return NULL;
        pool_share(pool, worker->thread);
        atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_release);
    }
}

static void pool_wake(struct pool *pool)
{
    atomic_fetch_add(&pool->loop, 1);
    pthread_mutex_lock(&pool->mutex);
    if (pool->sleepers > 0)
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
    atomic_store(&pool->closing, true);
    pool_wake(pool);
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
    atomic_store(&pool->busy, pool->threads - 1);
    pool_wake(pool);
    pool_share(pool, 0);
    for (int round = 0; atomic_load_explicit(&pool->busy, memory_order_acquire) > 0; round++) {
        if (round < SPIN_ROUNDS)
            __builtin_ia32_pause();
        else
            sched_yield();
    }
}
