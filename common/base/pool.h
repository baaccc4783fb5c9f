/*
 * pool.h - one set of threads that share a loop.
 *
 * A thread begins with neighbouring tasks and helps the others when it has done them.  Which thread takes which task is so
 * left to chance: a task must write only what belongs to it, and a result that needs adding up across tasks is added in task
 * order afterwards.  Then the bits do not depend on the number of threads.
 */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stddef.h>

struct pool;
typedef void pool_task(void *context, size_t task, size_t thread);

/* threads >= 1 includes the caller's own; 0: one per core this process may use. */
struct pool *pool_open(size_t threads);
void pool_close(struct pool *pool);  // NULL is allowed
size_t pool_cores(void);  // that this process may use
size_t pool_threads(const struct pool *pool);

/* Runs task 0 .. tasks-1 and returns when all have ended.  Not reentrant.  thread < pool_threads(). */
void pool_run(struct pool *pool, size_t tasks, pool_task *task, void *context);

/*
 * Has another thread do a job while the caller goes on, whose loops the other threads share meanwhile.  Loops within the job are
 * that thread's alone: there pool_threads() is 1.  pool_finish waits for its end; a job that no thread has come to it does itself,
 * with all threads.  One job at a time.
 */
typedef void pool_job(void *context);
void pool_start(struct pool *pool, pool_job *job, void *context);
void pool_finish(struct pool *pool);

#endif
