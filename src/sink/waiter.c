/* SPDX-License-Identifier: Apache-2.0 */
#include "waiter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <apr_portable.h>
#include <http_core.h>

/* Bits of `word`. A futex rather than a condition variable: its waking needs no memory the other thread may have freed. */
enum {
    SIGNALLED = 1,
    WAITING = 2,
    GONE = 4,    /* the client closed its connection */
    RELEASED = 8 /* the loop thread will not touch the waiter again */
};

struct cs_waiter_t {
    cs_task_t begin, end; /* two: a short answer is over before the loop has taken the first out of its inbox */
    _Atomic uint32_t word;
    int is_first;         /* the stream starts after the watch stands: nothing can have changed before */
    cs_log_watch_t watch; /* loop: */
    cs_fd_watch_t
        fd_watch; /* loop: on a dup of the client's socket, which the MPM may close before the loop hears of it */
    void (*close)(void *baton);
    void *baton;
};

/* ---- loop thread ------------------------------------------------------------------------------------------------- */

static void signal_waiter(cs_waiter_t *waiter, uint32_t bits)
{
    _Atomic uint32_t *word = &waiter->word;

    if (atomic_fetch_or(word, SIGNALLED | bits) & WAITING) {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void unwatch(cs_waiter_t *waiter)
{
    int fd = waiter->fd_watch.fd;

    cs_log_hub_remove(cs_sink_hub(), &waiter->watch);
    if (fd >= 0) {
        cs_loop_unwatch_fd(cs_sink_loop(), &waiter->fd_watch);
        close(fd);
    }
}

/* What happens before the stream is active needs no reader, and after its end nothing happens. */
static void slot_changed(void *baton)
{
    cs_waiter_t *waiter = baton;
    cs_state_e state = cs_log_slot_state(cs_sink_log(), waiter->watch.slot);

    if (cs_state_is_end(state)) {
        unwatch(waiter);
        signal_waiter(waiter, RELEASED);
    }
    else if (state == CS_STATE_ACTIVE) {
        signal_waiter(waiter, 0);
    }
}

static void client_left(void *baton, uint32_t events)
{
    (void)events;
    signal_waiter(baton, GONE);
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
    unwatch(waiter);
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

    if (!waiter) {
        return NULL;
    }
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
    if (atomic_load(&waiter->word) & RELEASED) {
        free(waiter);
        close_owner(baton);
        return;
    }
    waiter->close = close_owner;
    waiter->baton = baton;
    post(waiter, &waiter->end, end);
}

int cs_waiter_wait(cs_waiter_t *waiter, apr_time_t until)
{
    struct timespec when = {(time_t)apr_time_sec(until), (long)apr_time_usec(until) * 1000};
    uint32_t word = atomic_load(&waiter->word);
    int timed_out = 0;

    while (!(word & SIGNALLED) && !timed_out) {
        if ((word & WAITING) || atomic_compare_exchange_weak(&waiter->word, &word, word | WAITING)) {
            timed_out = syscall(SYS_futex, &waiter->word, FUTEX_WAIT_BITSET_PRIVATE, word | WAITING, &when, NULL,
                                FUTEX_BITSET_MATCH_ANY)
                            < 0
                        && errno == ETIMEDOUT;
            word = atomic_load(&waiter->word);
        }
    }
    return !(atomic_fetch_and(&waiter->word, ~(uint32_t)(SIGNALLED | WAITING)) & GONE);
}
