/* base/mbox.c - a locked list and a wake-up that is sent only when the list was empty. */
#include "base/mbox.h"

#include <pthread.h>
#include <time.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"

struct mbox {
    pthread_mutex_t lock;
    pthread_cond_t filled; /* thread kind */
    struct mbox_msg *first, **last;
    bool on_loop;
    uv_async_t async; /* loop kind */
};

static struct mbox_msg *take_all(struct mbox *m)
{
    struct mbox_msg *first = m->first;

    m->first = NULL;
    m->last = &m->first;
    return first;
}

static bool run_all(struct mbox_msg *msg)
{
    bool ran = msg != NULL;

    while (msg != NULL) {
        struct mbox_msg *next = msg->next; /* run may free msg */

        msg->run(msg);
        msg = next;
    }
    return ran;
}

static bool drain(struct mbox *m)
{
    struct mbox_msg *first;

    pthread_mutex_lock(&m->lock);
    first = take_all(m);
    pthread_mutex_unlock(&m->lock);
    return run_all(first);
}

static void on_async(uv_async_t *async)
{
    drain(async->data);
}

enum err mbox_create(struct mbox **out)
{
    struct mbox *m = mem_try_calloc(1, sizeof(*m));
    pthread_condattr_t attr;

    if (m == NULL)
        return ERR_NOMEM;
    m->last = &m->first;
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->filled, &attr);
    pthread_condattr_destroy(&attr);
    *out = m;
    return ERR_OK;
}

enum err mbox_create_on_loop(struct uv_loop_s *loop, struct mbox **out)
{
    struct mbox *m;
    enum err err = mbox_create(&m);

    if (err != ERR_OK)
        return err;
    m->on_loop = true;
    if (uv_async_init(loop, &m->async, on_async) != 0) {
        m->on_loop = false;
        mbox_close(m);
        return ERR_NOMEM;
    }
    m->async.data = m;
    uv_unref((uv_handle_t *)&m->async);
    *out = m;
    return ERR_OK;
}

void mbox_post(struct mbox *m, struct mbox_msg *msg)
{
    bool was_empty;

    msg->next = NULL;
    pthread_mutex_lock(&m->lock);
    was_empty = m->first == NULL;
    *m->last = msg;
    m->last = &msg->next;
    if (was_empty && !m->on_loop)
        pthread_cond_signal(&m->filled);
    pthread_mutex_unlock(&m->lock);
    if (was_empty && m->on_loop)
        uv_async_send(&m->async);
}

bool mbox_wait(struct mbox *m, uint64_t timeout_ns)
{
    struct mbox_msg *first;
    struct timespec until = {0, 0};
    uint64_t now = clock_now_ns(), at;

    if (timeout_ns > UINT64_MAX - now)
        timeout_ns = UINT64_MAX; /* further off than the clock counts */
    if (timeout_ns != UINT64_MAX) {
        at = now + timeout_ns;
        until.tv_sec = (time_t)(at / CLOCK_NS_PER_S);
        until.tv_nsec = (long)(at % CLOCK_NS_PER_S);
    }
    pthread_mutex_lock(&m->lock);
    while (m->first == NULL && timeout_ns != 0) {
        if (timeout_ns == UINT64_MAX)
            pthread_cond_wait(&m->filled, &m->lock);
        else if (pthread_cond_timedwait(&m->filled, &m->lock, &until) != 0)
            break;
    }
    first = take_all(m);
    pthread_mutex_unlock(&m->lock);
    return run_all(first);
}

static void free_mbox(struct mbox *m)
{
    pthread_cond_destroy(&m->filled);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

static void on_closed(uv_handle_t *h)
{
    free_mbox(h->data);
}

void mbox_close(struct mbox *m)
{
    drain(m);
    if (m->on_loop)
        uv_close((uv_handle_t *)&m->async, on_closed);
    else
        free_mbox(m);
}
