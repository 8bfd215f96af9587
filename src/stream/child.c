/* SPDX-License-Identifier: Apache-2.0 */
#include "machine.h"

#include <stdatomic.h>

#include <apr_thread_proc.h>
#include <http_log.h>

APLOG_USE_MODULE(chatstream);

#define FAREWELL apr_time_from_msec(2000)

static struct {
    cs_log_t *log;
    uint32_t child;
    cs_log_hub_t *hub;
    cs_loop_t *loop;
    cs_engine_t *engine;
    apr_thread_t *thread;
    cs_task_t end_all;
    _Atomic int stopping;
    _Atomic int ended_all;
    _Atomic int running; /* streams this child owns, from their creation on */
} self;

int cs_stream_is_running(void)
{
    return self.thread && !atomic_load(&self.stopping);
}

cs_log_t *cs_stream_log(void)
{
    return self.log;
}

uint32_t cs_stream_child(void)
{
    return self.child;
}

cs_loop_t *cs_stream_loop(void)
{
    return self.loop;
}

cs_log_hub_t *cs_stream_hub(void)
{
    return self.hub;
}

cs_engine_t *cs_stream_engine(void)
{
    return self.engine;
}

void cs_stream_count(int by)
{
    atomic_fetch_add(&self.running, by);
}

static void wake(void *baton)
{
    (void)baton;
    cs_log_child_wake(self.log, self.child);
}

static void drained(void *baton)
{
    (void)baton;
    cs_log_hub_drain(self.hub);
}

static void after(void *baton)
{
    (void)baton;
    cs_log_hub_dispatch(self.hub);
}

static void *APR_THREAD_FUNC loop_thread(apr_thread_t *thread, void *baton)
{
    (void)thread;
    (void)baton;
    cs_loop_run(self.loop);
    return NULL;
}

apr_status_t cs_stream_child_start(apr_pool_t *pchild, server_rec *server, cs_log_t *log)
{
    cs_loop_wake_t waker = {-1, wake, drained, after, NULL};
    apr_status_t rv;

    self.log = log;
    rv = cs_log_child_attach(log, &self.child);
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, server, "chatstream: no place left in the table of children");
        return rv;
    }
    waker.fd = cs_log_child_eventfd(log, self.child);
    if ((rv = cs_log_hub_create(&self.hub, log, self.child)) || (rv = cs_loop_create(&self.loop, &waker))
        || (rv = cs_engine_create(&self.engine, self.loop))
        || (rv = apr_thread_create(&self.thread, NULL, loop_thread, NULL, pchild))) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, server, "chatstream: cannot start the loop thread");
        cs_log_child_detach(log, self.child);
    }
    return rv;
}

static void end_all(void *baton)
{
    (void)baton;
    cs_stream_loop_end_all();
    atomic_store(&self.ended_all, 1);
}

void cs_stream_child_stop(unsigned (*readers_left)(void))
{
    apr_time_t until = cs_clock_mono() + FAREWELL;
    apr_status_t rv;

    if (!self.thread || atomic_exchange(&self.stopping, 1)) {
        return;
    }
    self.end_all.run = end_all;
    cs_loop_post(self.loop, &self.end_all);
    while ((!atomic_load(&self.ended_all) || readers_left()) && cs_clock_mono() < until) {
        apr_sleep(5000);
    }
    cs_loop_stop(self.loop);
    apr_thread_join(&rv, self.thread);
    cs_stream_loop_end_all(); /* what was posted in the last moment; the loop thread is gone, this one may do its work */
    cs_engine_destroy(self.engine);
    cs_log_child_detach(self.log, self.child);
    self.thread = NULL;
}

void cs_stream_child_drain(int (*give_up)(void))
{
    while (self.thread && atomic_load(&self.running) > 0 && !give_up()) {
        apr_sleep(20000);
    }
}
