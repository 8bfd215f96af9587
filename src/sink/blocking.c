/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The blocking sink: the request thread waits for the loop thread's signal, reads the log itself and writes itself.
 *
 * What both threads touch is the waiter, on the C heap: the request thread makes it and posts it to the loop; when it is done
 * it posts it once more, and the loop thread frees it. The delivery (with the cursor) is used by the request thread in
 * between and closed by the loop thread at the end.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <fcntl.h>
#include <unistd.h>

#include <apr_portable.h>
#include <http_core.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "sink.h"

#define LOOK_AROUND apr_time_from_msec(250) /* HTTP/2 only marks an aborted stream; nobody signals it */

typedef struct {
    cs_task_t task;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int signalled; /* mutex */
    int gone;      /* mutex: the client closed its connection */
    cs_delivery_t delivery;
    cs_log_watch_t watch;   /* loop: */
    cs_fd_watch_t fd_watch; /* loop: on a dup of the client's socket, which the MPM may close before the loop hears of it */
} waiter_t;

/* ---- loop thread ------------------------------------------------------------------------------------------------- */

static void signal_waiter(waiter_t *waiter, int gone)
{
    pthread_mutex_lock(&waiter->mutex);
    waiter->signalled = 1;
    waiter->gone |= gone;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

static void slot_changed(void *baton) { signal_waiter(baton, 0); }

static void client_left(void *baton, uint32_t events)
{
    (void)events;
    signal_waiter(baton, 1);
}

static void begin(void *baton)
{
    waiter_t *waiter = baton;

    waiter->watch.changed = slot_changed;
    waiter->watch.baton = waiter;
    waiter->watch.slot = waiter->delivery.cursor.slot;
    cs_log_hub_add(cs_sink_hub(), &waiter->watch);
    waiter->fd_watch.ready = client_left;
    waiter->fd_watch.baton = waiter;
    if (waiter->fd_watch.fd >= 0) {
        cs_loop_watch_fd(cs_sink_loop(), &waiter->fd_watch, EPOLLRDHUP | EPOLLET);
    }
    signal_waiter(waiter, 0); /* the slot may have changed before anybody watched */
}

static void end(void *baton)
{
    waiter_t *waiter = baton;
    uint32_t slot = waiter->delivery.cursor.slot;
    int fd = waiter->fd_watch.fd;

    cs_log_hub_remove(cs_sink_hub(), &waiter->watch);
    if (fd >= 0) {
        cs_loop_unwatch_fd(cs_sink_loop(), &waiter->fd_watch);
        close(fd);
    }
    cs_delivery_close(&waiter->delivery);
    cs_log_hub_mark(cs_sink_hub(), slot);
    pthread_cond_destroy(&waiter->cond);
    pthread_mutex_destroy(&waiter->mutex);
    free(waiter);
    cs_sink_counted(-1);
}

static void post(waiter_t *waiter, void (*run)(void *))
{
    waiter->task.run = run;
    waiter->task.baton = waiter;
    cs_loop_post(cs_sink_loop(), &waiter->task);
}

/* ---- request thread ---------------------------------------------------------------------------------------------- */

static waiter_t *waiter_create(request_rec *r, const cs_sink_spec_t *spec)
{
    waiter_t *waiter = calloc(1, sizeof(*waiter));
    pthread_condattr_t attr;

    if (!waiter) {
        return NULL;
    }
    if (cs_delivery_open(&waiter->delivery, r, spec)) {
        free(waiter);
        return NULL;
    }
    pthread_mutex_init(&waiter->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&waiter->cond, &attr);
    pthread_condattr_destroy(&attr);
    waiter->fd_watch.fd = -1;
    if (!r->connection->master) {
        apr_os_sock_t fd;

        apr_os_sock_get(&fd, ap_get_conn_socket(r->connection));
        waiter->fd_watch.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    return waiter;
}

/* Until signalled, or `deadline` (-1: none), or it is time to look around. 0: the client is gone. */
static int wait_for_signal(waiter_t *waiter, conn_rec *c, apr_time_t deadline)
{
    apr_time_t until = cs_clock_mono() + LOOK_AROUND;
    struct timespec when;
    int gone, rc = 0;

    if (deadline >= 0 && deadline < until) {
        until = deadline;
    }
    when.tv_sec = (time_t)apr_time_sec(until);
    when.tv_nsec = (long)apr_time_usec(until) * 1000;
    pthread_mutex_lock(&waiter->mutex);
    while (!waiter->signalled && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&waiter->cond, &waiter->mutex, &when);
    }
    waiter->signalled = 0;
    gone = waiter->gone;
    pthread_mutex_unlock(&waiter->mutex);
    return !gone && !c->aborted;
}

static int deliver(waiter_t *waiter, request_rec *r)
{
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    cs_buf_t out;
    int here = 1;

    cs_buf_init(&out, SIZE_MAX / 2);
    while (here) {
        cs_delivery_e got = cs_delivery_fill(&waiter->delivery, cs_clock_mono(), &out);

        if (out.len && (cs_filter_send(r, bb, &out) || r->connection->aborted)) {
            here = 0;
        }
        else if (got == CS_DELIVERY_DONE || got == CS_DELIVERY_ANSWERED) {
            break;
        }
        else if (got == CS_DELIVERY_WAIT && cs_log_want_wake(&waiter->delivery.cursor)) {
            here = wait_for_signal(waiter, r->connection, cs_delivery_deadline(&waiter->delivery));
        }
    }
    cs_buf_free(&out);
    return here;
}

int cs_blocking_serve(request_rec *r, const cs_sink_spec_t *spec)
{
    waiter_t *waiter = waiter_create(r, spec);
    int here;

    if (!waiter) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    cs_sink_counted(1);
    if (spec->format) {
        cs_filter_add(r, CS_PUSH_FLUSH);
    }
    post(waiter, begin);
    if (spec->ready) {
        spec->ready(spec->baton);
    }
    here = deliver(waiter, r);
    if (!here && !r->connection->master) {
        r->connection->aborted = 1;
    }
    post(waiter, end);
    return OK;
}
