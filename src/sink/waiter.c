/* SPDX-License-Identifier: Apache-2.0 */
#include "waiter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <apr_portable.h>
#include <http_core.h>

struct cs_waiter_t {
    cs_task_t begin, end; /* two: a short answer is over before the loop has taken the first out of its inbox */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int signalled;          /* mutex */
    int gone;               /* mutex: the client closed its connection */
    int waiting;            /* mutex */
    int is_first;           /* the stream starts after the watch stands: nothing can have changed before */
    cs_log_watch_t watch;   /* loop: */
    cs_fd_watch_t fd_watch; /* loop: on a dup of the client's socket, which the MPM may close before the loop hears of it */
    void (*close)(void *baton);
    void *baton;
};

/* ---- loop thread ------------------------------------------------------------------------------------------------- */

static void signal_waiter(cs_waiter_t *waiter, int gone)
{
    int waiting;

    pthread_mutex_lock(&waiter->mutex);
    waiter->signalled = 1;
    waiter->gone |= gone;
    waiting = waiter->waiting;
    pthread_mutex_unlock(&waiter->mutex);
    if (waiting) {
        pthread_cond_signal(&waiter->cond); /* unlocked: who wakes finds the mutex free. This thread frees the waiter, not that one. */
    }
}

static void slot_changed(void *baton) { signal_waiter(baton, 0); }

static void client_left(void *baton, uint32_t events)
{
    (void)events;
    signal_waiter(baton, 1);
}

static void begin(void *baton)
{
    cs_waiter_t *waiter = baton;

    waiter->watch.changed = slot_changed;
    waiter->watch.baton = waiter;
    cs_log_hub_add(cs_sink_hub(), &waiter->watch);
    waiter->fd_watch.ready = client_left;
    waiter->fd_watch.baton = waiter;
    if (waiter->fd_watch.fd >= 0) {
        cs_loop_watch_fd(cs_sink_loop(), &waiter->fd_watch, EPOLLRDHUP | EPOLLET);
    }
    if (!waiter->is_first) {
        signal_waiter(waiter, 0); /* the slot may have changed before anybody watched */
    }
}

void cs_waiter_dismiss(cs_waiter_t *waiter)
{
    int fd = waiter->fd_watch.fd;

    cs_log_hub_remove(cs_sink_hub(), &waiter->watch);
    if (fd >= 0) {
        cs_loop_unwatch_fd(cs_sink_loop(), &waiter->fd_watch);
        close(fd);
    }
    pthread_cond_destroy(&waiter->cond);
    pthread_mutex_destroy(&waiter->mutex);
    free(waiter);
}

static void end(void *baton)
{
    cs_waiter_t *waiter = baton;
    void (*close_owner)(void *) = waiter->close;
    void *owner = waiter->baton;

    cs_waiter_dismiss(waiter);
    close_owner(owner);
}

/* ---- request thread ---------------------------------------------------------------------------------------------- */

cs_waiter_t *cs_waiter_create(uint32_t slot, conn_rec *client)
{
    cs_waiter_t *waiter = calloc(1, sizeof(*waiter));
    pthread_condattr_t attr;

    if (!waiter) {
        return NULL;
    }
    pthread_mutex_init(&waiter->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&waiter->cond, &attr);
    pthread_condattr_destroy(&attr);
    waiter->watch.slot = slot;
    waiter->fd_watch.fd = -1;
    if (client) {
        apr_os_sock_t fd;

        apr_os_sock_get(&fd, ap_get_conn_socket(client));
        waiter->fd_watch.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    return waiter;
}

static void post(cs_waiter_t *waiter, cs_task_t *task, void (*run)(void *))
{
    task->run = run;
    task->baton = waiter;
    cs_loop_post(cs_sink_loop(), task);
}

void cs_waiter_begin(cs_waiter_t *waiter, cs_waiter_begin_e when)
{
    waiter->is_first = when == CS_WAITER_BEFORE_THE_STREAM;
    post(waiter, &waiter->begin, begin);
}

void cs_waiter_end(cs_waiter_t *waiter, void (*close_owner)(void *), void *baton)
{
    waiter->close = close_owner;
    waiter->baton = baton;
    post(waiter, &waiter->end, end);
}

int cs_waiter_wait(cs_waiter_t *waiter, apr_time_t until)
{
    struct timespec when;
    int gone, rc = 0;

    when.tv_sec = (time_t)apr_time_sec(until);
    when.tv_nsec = (long)apr_time_usec(until) * 1000;
    pthread_mutex_lock(&waiter->mutex);
    waiter->waiting = 1;
    while (!waiter->signalled && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&waiter->cond, &waiter->mutex, &when);
    }
    waiter->signalled = waiter->waiting = 0;
    gone = waiter->gone;
    pthread_mutex_unlock(&waiter->mutex);
    return !gone;
}
