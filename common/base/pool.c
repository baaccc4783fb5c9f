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
#include <stdbool.h>
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

    _Atomic(pool_job *) job;      // that no thread has come to; NULL: none
    void *job_context;
    atomic_bool job_runs;         // it has not ended

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_size_t sleepers;       // changed under the mutex
};

#define LOOP_CLOSING UINT_FAST64_MAX

static _Thread_local bool in_job;  // whether a worker does a job

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

/* The job, for whoever asks first; else NULL. */
static pool_job *pool_take_job(struct pool *pool)
{
    return atomic_load(&pool->job) != NULL ? atomic_exchange(&pool->job, NULL) : NULL;
}

/* The number of an open loop that comes after one; or *job is one to do. */
static uint_fast64_t pool_await(struct pool *pool, uint_fast64_t after, pool_job **job)
{
    uint_fast64_t open = 0;
    for (unsigned round = 0; round < SPIN_ROUNDS; round++) {
        if ((*job = pool_take_job(pool)) != NULL || (open = atomic_load_explicit(&pool->open, memory_order_acquire)) > after)
            return open;
        spin(round);
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while ((*job = pool_take_job(pool)) == NULL && (open = atomic_load(&pool->open)) <= after)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
    return open;
}

static void *pool_worker_run(void *argument)
{
    struct pool_worker *worker = argument;
    struct pool *pool = worker->pool;
    pool_job *job;
    for (uint_fast64_t loop = 0, open; (open = pool_await(pool, loop, &job)) != LOOP_CLOSING; ) {
        if (job != NULL) {
            in_job = true;
            job(pool->job_context);
            in_job = false;
            atomic_store_explicit(&pool->job_runs, false, memory_order_release);
            continue;
        }
        loop = open;
        atomic_fetch_add(&pool->inside, 1);
        if (atomic_load(&pool->open) == loop)  // not ended meanwhile
            pool_share(pool, worker->thread);
        atomic_fetch_sub_explicit(&pool->inside, 1, memory_order_release);
    }
    return NULL;
}

/* After a loop was opened, or a job laid down: a worker that falls asleep sees it, or is seen. */
static void pool_wake(struct pool *pool)
{
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
    atomic_store(&pool->open, LOOP_CLOSING);
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
    return in_job ? 1 : pool->threads;
}

void pool_run(struct pool *pool, size_t tasks, pool_task *task, void *context)
{
    if (pool_threads(pool) == 1 || tasks <= 1) {
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
    atomic_store(&pool->open, ++pool->loops);
    pool_wake(pool);
    pool_share(pool, 0);
    atomic_store(&pool->open, 0);
    for (unsigned round = 0; atomic_load(&pool->inside) > 0; round++)
        spin(round);
}

void pool_start(struct pool *pool, pool_job *job, void *context)
{
    pool->job_context = context;
    atomic_store(&pool->job_runs, true);
    atomic_store(&pool->job, job);
    pool_wake(pool);
}

void pool_finish(struct pool *pool)
{
    pool_job *job = pool_take_job(pool);
    if (job != NULL) {
        job(pool->job_context);
        atomic_store(&pool->job_runs, false);
    }
    for (unsigned round = 0; atomic_load_explicit(&pool->job_runs, memory_order_acquire); round++)
        spin(round);
}
