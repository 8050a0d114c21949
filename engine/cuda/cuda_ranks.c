/* engine/cuda/cuda_ranks.c - a thread for every rank but the first, which runs on its caller's. */
#include "base/mem.h"
#include "engine/cuda/cuda_engine.h"

struct cuda_crew {
    pthread_mutex_t lock;
    pthread_cond_t job, done;
    /* under lock */
    uint64_t number; /* of the last job */
    cuda_rank_fn fn; /* NULL: end */
    void *arg;
    uint32_t n_threads, running;
};

/* The others may be waiting for this rank in a collective. */
static enum err run_one(struct cuda_rank *r, cuda_rank_fn fn, void *arg)
{
    r->err = fn(r, arg);
    if (r->err != ERR_OK)
        gpu_comm_abort(r->engine->group);
    return r->err;
}

static void *rank_thread(void *arg)
{
    struct cuda_rank *r = arg;
    struct cuda_crew *c = r->engine->crew;
    uint64_t seen = 0;

    for (;;) {
        cuda_rank_fn fn;
        void *fn_arg;

        pthread_mutex_lock(&c->lock);
        while (c->number == seen)
            pthread_cond_wait(&c->job, &c->lock);
        seen = c->number;
        fn = c->fn;
        fn_arg = c->arg;
        pthread_mutex_unlock(&c->lock);
        if (fn == NULL)
            return NULL;
        (void)run_one(r, fn, fn_arg);
        pthread_mutex_lock(&c->lock);
        if (--c->running == 0)
            pthread_cond_signal(&c->done);
        pthread_mutex_unlock(&c->lock);
    }
}

static void post(struct cuda_engine *e, cuda_rank_fn fn, void *arg)
{
    struct cuda_crew *c = e->crew;

    pthread_mutex_lock(&c->lock);
    c->fn = fn;
    c->arg = arg;
    c->running = c->n_threads;
    c->number++;
    pthread_cond_broadcast(&c->job);
    pthread_mutex_unlock(&c->lock);
}

enum err cuda_crew_start(struct cuda_engine *e)
{
    struct cuda_crew *c = mem_try_calloc(1, sizeof(*c));

    if (c == NULL)
        return ERR_NOMEM;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->job, NULL);
    pthread_cond_init(&c->done, NULL);
    e->crew = c;
    for (uint32_t i = 1; i < e->n_ranks; i++) {
        struct cuda_rank *r = &e->ranks[i];

        if (pthread_create(&r->thread, NULL, rank_thread, r) != 0)
            return ERR_NOMEM;
        r->has_thread = true;
        c->n_threads++;
    }
    return ERR_OK;
}

enum err cuda_crew_run(struct cuda_engine *e, cuda_rank_fn fn, void *arg)
{
    struct cuda_crew *c = e->crew;
    enum err first = ERR_OK;

    if (e->n_ranks == 1)
        return run_one(&e->ranks[0], fn, arg);
    post(e, fn, arg);
    (void)run_one(&e->ranks[0], fn, arg);
    pthread_mutex_lock(&c->lock);
    while (c->running > 0)
        pthread_cond_wait(&c->done, &c->lock);
    pthread_mutex_unlock(&c->lock);
    /* ERR_DEVICE is also what a rank says that was released by another's failure. */
    for (uint32_t i = 0; i < e->n_ranks; i++) {
        enum err err = e->ranks[i].err;

        if (err != ERR_OK && (first == ERR_OK || first == ERR_DEVICE))
            first = err;
    }
    return first;
}

void cuda_crew_stop(struct cuda_engine *e)
{
    struct cuda_crew *c = e->crew;

    if (c == NULL)
        return;
    post(e, NULL, NULL);
    for (uint32_t i = 1; i < e->n_ranks; i++) {
        if (e->ranks[i].has_thread)
            pthread_join(e->ranks[i].thread, NULL);
    }
    pthread_cond_destroy(&c->done);
    pthread_cond_destroy(&c->job);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
    e->crew = NULL;
}
