/* SPDX-License-Identifier: Apache-2.0 */
#include "loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_PER_ROUND 128

struct cs_loop_t {
    int epoll;
    cs_loop_wake_t wake;
    cs_fd_watch_t wake_watch;
    _Atomic(cs_task_t *) inbox; /* newest first */
    _Atomic int asleep;
    _Atomic int stopping;
    apr_time_t now;
    struct epoll_event events[EVENTS_PER_ROUND];
    int count, at; /* events of this round; those after `at` are still to come */
    cs_timer_heap_t timers;
};

static void woken(void *baton, uint32_t events)
{
    cs_loop_t *loop = baton;

    (void)events;
    loop->wake.drained(loop->wake.baton);
}

apr_status_t cs_loop_create(cs_loop_t **out, const cs_loop_wake_t *wake)
{
    cs_loop_t *loop = calloc(1, sizeof(*loop));
    apr_status_t rv;

    *out = NULL;
    if (!loop) {
        return APR_ENOMEM;
    }
    loop->wake = *wake;
    loop->now = cs_clock_mono();
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_watch.fd = wake->fd;
    loop->wake_watch.ready = woken;
    loop->wake_watch.baton = loop;
    rv = loop->epoll < 0 ? errno : cs_loop_watch_fd(loop, &loop->wake_watch, EPOLLIN);
    if (rv) {
        cs_loop_destroy(loop);
        return rv;
    }
    *out = loop;
    return APR_SUCCESS;
}

void cs_loop_destroy(cs_loop_t *loop)
{
    if (loop) {
        if (loop->epoll >= 0) {
            close(loop->epoll);
        }
        cs_timer_heap_free(&loop->timers);
        free(loop);
    }
}

apr_time_t cs_loop_now(const cs_loop_t *loop)
{
    return loop->now;
}

/* ---- inbox ------------------------------------------------------------------------------------------------------- */

void cs_loop_post(cs_loop_t *loop, cs_task_t *task)
{
    cs_task_t *head = atomic_load_explicit(&loop->inbox, memory_order_relaxed);

    do {
        task->next = head;
    } while (!atomic_compare_exchange_weak(&loop->inbox, &head, task));
    if (atomic_exchange(&loop->asleep, 0)) {
        loop->wake.wake(loop->wake.baton);
    }
}

void cs_loop_stop(cs_loop_t *loop)
{
    atomic_store(&loop->stopping, 1);
    loop->wake.wake(loop->wake.baton);
}

static void run_tasks(cs_loop_t *loop)
{
    cs_task_t *task, *next, *ordered = NULL;

    if (!atomic_load_explicit(&loop->inbox, memory_order_relaxed)) {
        return;
    }
    for (task = atomic_exchange(&loop->inbox, NULL); task; task = next) {
        next = task->next;
        task->next = ordered;
        ordered = task;
    }
    while (ordered) {
        task = ordered;
        ordered = task->next;
        task->run(task->baton);
        loop->wake.after(loop->wake.baton);
    }
}

/* ---- file descriptors -------------------------------------------------------------------------------------------- */

static apr_status_t control(cs_loop_t *loop, int op, cs_fd_watch_t *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    return epoll_ctl(loop->epoll, op, watch->fd, &event) ? errno : APR_SUCCESS;
}

apr_status_t cs_loop_watch_fd(cs_loop_t *loop, cs_fd_watch_t *watch, uint32_t events)
{
    return control(loop, EPOLL_CTL_ADD, watch, events);
}

apr_status_t cs_loop_rewatch_fd(cs_loop_t *loop, cs_fd_watch_t *watch, uint32_t events)
{
    return control(loop, EPOLL_CTL_MOD, watch, events);
}

void cs_loop_unwatch_fd(cs_loop_t *loop, cs_fd_watch_t *watch)
{
    if (watch->fd >= 0) {
        control(loop, EPOLL_CTL_DEL, watch, 0);
        cs_loop_forget_fd(loop, watch);
    }
}

void cs_loop_forget_fd(cs_loop_t *loop, cs_fd_watch_t *watch)
{
    int i;

    for (i = loop->at; i < loop->count; i++) {
        if (loop->events[i].data.ptr == watch) {
            loop->events[i].data.ptr = NULL;
        }
    }
    watch->fd = -1;
}

/* ---- timers ------------------------------------------------------------------------------------------------------ */

void cs_loop_timer_set(cs_loop_t *loop, cs_timer_t *timer, apr_time_t when)
{
    cs_timer_heap_set(&loop->timers, timer, when);
}

void cs_loop_timer_clear(cs_loop_t *loop, cs_timer_t *timer)
{
    cs_timer_heap_clear(&loop->timers, timer);
}

static void run_timers(cs_loop_t *loop)
{
    cs_timer_t *timer;

    while ((timer = cs_timer_heap_due(&loop->timers, loop->now)) != NULL) {
        timer->fire(timer->baton);
        loop->wake.after(loop->wake.baton);
    }
}

/* Milliseconds until the next timer, rounded up so that it is due then; -1: there is none. */
static int next_timeout(const cs_loop_t *loop)
{
    apr_time_t first = cs_timer_heap_first(&loop->timers), left;

    if (first < 0) {
        return -1;
    }
    left = first - cs_clock_mono();
    return left <= 0 ? 0 : left > apr_time_from_sec(3600) ? 3600000 : (int)((left + 999) / 1000);
}

/* ---- the round --------------------------------------------------------------------------------------------------- */

static void wait_for_events(cs_loop_t *loop)
{
    int timeout;

    atomic_store(&loop->asleep, 1);
    timeout = atomic_load(&loop->inbox) || atomic_load(&loop->stopping) ? 0 : next_timeout(loop);
    loop->count = epoll_wait(loop->epoll, loop->events, EVENTS_PER_ROUND, timeout);
    atomic_store_explicit(&loop->asleep, 0, memory_order_relaxed);
    loop->now = cs_clock_mono();
}

void cs_loop_run(cs_loop_t *loop)
{
    while (!atomic_load(&loop->stopping)) {
        wait_for_events(loop);
        for (loop->at = 0; loop->at < loop->count;) {
            struct epoll_event *event = &loop->events[loop->at++];
            cs_fd_watch_t *watch = event->data.ptr;

            if (watch) {
                watch->ready(watch->baton, event->events);
                loop->wake.after(loop->wake.baton);
            }
        }
        loop->count = loop->at = 0;
        run_tasks(loop);
        run_timers(loop);
    }
    run_tasks(loop); /* what was posted before the stop is not lost */
}
