/* engine/cpu/cpu_pool.h - a few threads that share the tasks of one parallel loop after another.
 *
 *   create -> run ... -> destroy
 *
 * The caller works too.  A loop is done when its tasks are done, not when every thread has looked at
 * it: a thread that the kernel has put aside delays nobody unless it holds a task, so on a machine
 * whose cores are taken the loop falls back to the threads that do run.  Idle threads spin for a few
 * microseconds, if there is a core for each, then sleep in the kernel.
 *
 * Thread     one thread at a time calls run and destroy.
 * Blocking   run blocks until all its tasks are done. */
#ifndef ENGINE_CPU_CPU_POOL_H
#define ENGINE_CPU_CPU_POOL_H

#include <stdint.h>

#include "base/err.h"

struct cpu_pool;

/* thread: 0 .. n_threads - 1; no two tasks run at once with the same number. */
typedef void (*cpu_task_fn)(void *arg, uint32_t task, uint32_t thread);

enum { CPU_POOL_THREADS_MAX = 1024 };

/* n_threads counts the caller.  ERR_NOMEM: no memory or no thread. */
MUST_USE enum err cpu_pool_create(uint32_t n_threads, struct cpu_pool **out);
uint32_t cpu_pool_threads(const struct cpu_pool *p);
void cpu_pool_run(struct cpu_pool *p, cpu_task_fn fn, void *arg, uint32_t n_tasks);
void cpu_pool_destroy(struct cpu_pool *p); /* NULL is fine */

/* Cores this process may run on. */
uint32_t cpu_pool_cores(void);

#endif
