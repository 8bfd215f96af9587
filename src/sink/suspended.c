/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The suspended sink: a connection without a thread. The handler returns SUSPENDED, the MPM runs the suspend_connection hook, and
 * from that hook on the connection is the loop thread's.
 *
 *   STREAMING --done--> FLUSHING --all sent, SHUT_WR--> LINGERING --client's FIN, or 2 s--> gone
 *       \__________________\___ client gone ______________/
 *
 * An answer that is over before anybody could suspend stays on its request thread (see patience, below).
 *
 * The MPM writes two words of its own right after the hook, so the connection's pool lives on for a moment in any case
 * (SETTLE). Nothing here may block: no FLUSH bucket, no read.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <apr_portable.h>
#include <apr_strings.h>
#include <ap_mpm.h>
#include <http_config.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_request.h>
#include <mpm_common.h>

#include "waiter.h"

APLOG_USE_MODULE(chatstream);

extern module AP_MODULE_DECLARE_DATA chatstream_module;

#define SETTLE      apr_time_from_msec(50)
#define LINGER      apr_time_from_sec(2)
#define FIRST_BYTES 4096
#define PATIENCE    apr_time_from_msec(20)
#define SLICE       32768 /* with more than FlushMaxThreshold (64 KiB) in hand httpd's last filter waits for the client */

typedef enum { STREAMING, FLUSHING, LINGERING, GONE } phase_e;

typedef struct suspended_t {
    cs_task_t task;
    struct suspended_t *next, **prev;
    conn_rec *c;
    request_rec *r; /* NULL: its EOR bucket was passed on */
    ap_filter_t *last_filter;
    apr_bucket_brigade *bb;
    apr_bucket_brigade *rest; /* of a large event or document: goes out slice by slice, as the client takes it */
    cs_delivery_e said;       /* by the delivery, when last asked */
    cs_delivery_t delivery;
    cs_log_watch_t watch;
    cs_fd_watch_t fd_watch;
    cs_timer_t timer;
    phase_e phase;
    apr_time_t handed_over; /* mono */
    apr_time_t moved;       /* when the client last took bytes it had refused */
    apr_time_t stall;       /* how long it may refuse once the stream has ended */
    int holds_cursor;
    cs_push_e push;
    int fresh;   /* nothing was sent on this connection yet */
    int clogged; /* data_in_output_filters, as of the last time we looked: changes only by what we do */
    cs_direct_t direct;
    void (*ready)(void *baton); /* still to be called; NULL: was */
    void *baton;
    cs_waiter_t *waiter; /* of the patient phase; NULL: there was none */
} suspended_t;

static suspended_t *all;                          /* loop: */
static cs_buf_t outgoing = {.max = SIZE_MAX / 2}; /* loop: what is being sent; its memory is used again and again */
static _Atomic int patient;                       /* request threads that wait for an answer's end */

static apr_time_t now(void)
{
    return cs_loop_now(cs_sink_loop());
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

static void destroy(void *baton)
{
    suspended_t *sink = baton;
    apr_time_t settled = sink->handed_over + SETTLE;

    if (now() < settled || sink->c->sbh) {
        sink->timer.fire = destroy;
        cs_loop_timer_set(cs_sink_loop(), &sink->timer, now() < settled ? settled : now() + SETTLE);
        return;
    }
    /* Not left to close(): a fork of some other module may hold a copy of the socket, and epoll would go on reporting it. */
    cs_loop_unwatch_fd(cs_sink_loop(), &sink->fd_watch);
    *sink->prev = sink->next;
    if (sink->next) {
        sink->next->prev = sink->prev;
    }
    sink->c->cs->state = CONN_STATE_SUSPENDED; /* what the MPM's own cleanup counts by */
    apr_pool_destroy(sink->c->pool);
    free(sink);
    cs_sink_counted(-1);
}

/* No more events for this connection; its cursor is given back. */
static void detach(suspended_t *sink)
{
    cs_loop_timer_clear(cs_sink_loop(), &sink->timer);
    cs_log_hub_remove(cs_sink_hub(), &sink->watch);
    if (sink->holds_cursor) {
        uint32_t slot = sink->delivery.cursor.slot;

        sink->holds_cursor = 0;
        cs_delivery_close(&sink->delivery);
        cs_log_hub_mark(cs_sink_hub(), slot);
    }
}

/* Writes the access log and frees the request. */
static void end_request(suspended_t *sink)
{
    if (sink->r) {
        request_rec *r = sink->r;

        sink->r = NULL;
        cs_direct_settle(&sink->direct, r);
        ap_process_request_after_handler(r);
        sink->c->cs->state = CONN_STATE_SUSPENDED;
    }
}

static void vanish(suspended_t *sink)
{
    detach(sink);
    sink->phase = GONE;
    sink->c->aborted = 1;
    end_request(sink);
    destroy(sink);
}

static void linger(suspended_t *sink)
{
    sink->phase = LINGERING;
    sink->timer.fire = destroy;
    cs_loop_timer_set(cs_sink_loop(), &sink->timer, now() + LINGER);
    shutdown(sink->fd_watch.fd, SHUT_WR);
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

/* Sends what the core filter holds, without blocking. */
static int send_pending(suspended_t *sink)
{
    sink->last_filter->frec->filter_func.out_func(sink->last_filter, NULL);
    sink->clogged = sink->c->data_in_output_filters;
    return !sink->c->aborted;
}

/* A TLS client can tell a cut from an end only by this; an alert always fits where everything else has gone out. */
static void say_goodbye(suspended_t *sink)
{
    apr_bucket_brigade *bb = apr_brigade_create(sink->c->pool, sink->c->bucket_alloc);

    APR_BRIGADE_INSERT_TAIL(bb, ap_bucket_eoc_create(sink->c->bucket_alloc));
    ap_pass_brigade(sink->c->output_filters, bb);
    apr_brigade_cleanup(bb);
    send_pending(sink);
}

static void flush(suspended_t *sink)
{
    if (!send_pending(sink)) {
        vanish(sink);
    }
    else if (!sink->clogged) {
        say_goodbye(sink);
        linger(sink);
    }
    else {
        sink->moved = now();
        cs_loop_timer_set(cs_sink_loop(), &sink->timer, now() + sink->stall);
    }
}

/* The last event is on its way: end of body, access log, then the connection. */
static void finish(suspended_t *sink, int answered)
{
    detach(sink);
    sink->phase = FLUSHING;
    if (!answered) {
        APR_BRIGADE_INSERT_TAIL(sink->bb, apr_bucket_eos_create(sink->c->bucket_alloc));
        ap_pass_brigade(sink->r->output_filters, sink->bb);
        apr_brigade_cleanup(sink->bb);
    }
    end_request(sink);
    flush(sink);
}

static void arm(suspended_t *sink)
{
    apr_time_t when = cs_delivery_deadline(&sink->delivery);

    if (sink->clogged) {
        when = sink->moved + sink->stall;
    }
    /* Deadlines that move later are noticed when the timer fires. */
    if (when >= 0 && (!sink->timer.index || when < sink->timer.when)) {
        cs_loop_timer_set(cs_sink_loop(), &sink->timer, when);
    }
}

/* Passes events on; they are on their way to the client afterwards, or set aside. 0: the client is gone. */
static int send_events(suspended_t *sink)
{
    if (sink->direct.on) {
        cs_direct_e sent = cs_direct_send(&sink->direct, sink->r, sink->bb, &outgoing);

        return sent == CS_DIRECT_ALL || (sent == CS_DIRECT_PART && send_pending(sink));
    }
    /*
     * The first bytes on a fresh connection always fit into its empty socket buffer, so a FLUSH does not block, and spares the core
     * filter the pool it would set them aside in: 8 KiB for each stream.
     */
    sink->push = sink->fresh && outgoing.len < FIRST_BYTES ? CS_PUSH_FLUSH : CS_PUSH_MARK;
    sink->fresh = 0;
    cs_filter_send(sink->r, sink->bb, &outgoing);
    sink->push =
        CS_PUSH_MARK; /* for good: a FLUSH of anything later may block, and with it every stream of this child */
    if (!send_pending(sink)) {
        return 0;
    }
    cs_direct_look(&sink->direct, sink->r);
    return 1;
}

static void keep_rest(suspended_t *sink)
{
    size_t len;
    char *bytes = cs_buf_detach(&outgoing, &len);

    APR_BRIGADE_INSERT_TAIL(sink->rest, apr_bucket_heap_create(bytes, len, free, sink->c->bucket_alloc));
}

static int send_slice(suspended_t *sink)
{
    apr_bucket *slice = APR_BRIGADE_FIRST(sink->rest);

    if (slice->length > SLICE) {
        apr_bucket_split(slice, SLICE);
    }
    APR_BUCKET_REMOVE(slice);
    APR_BRIGADE_INSERT_TAIL(sink->bb, slice);
    ap_pass_brigade(sink->r->output_filters, sink->bb);
    apr_brigade_cleanup(sink->bb);
    return send_pending(sink);
}

/* Sends the next of what there is. 0: the client is gone. */
static int send_some(suspended_t *sink)
{
    if (APR_BRIGADE_EMPTY(sink->rest)) {
        outgoing.len = 0; /* whatever became of it: what one client was to get must never reach the next */
        sink->said = cs_delivery_fill(&sink->delivery, now(), &outgoing);
        if (!outgoing.len) {
            return 1;
        }
        if (outgoing.len > SLICE) {
            keep_rest(sink);
        }
    }
    sink->moved = now();
    if (!APR_BRIGADE_EMPTY(sink->rest)) {
        return send_slice(sink);
    }
    if (sink->said == CS_DELIVERY_DONE) {
        cs_filter_send(sink->r, sink->bb, &outgoing); /* leaves together with the end of the body */
        return 1;
    }
    return send_events(sink);
}

static void pump(suspended_t *sink)
{
    int here = 1;

    while (!sink->clogged && (here = send_some(sink)) != 0) {
        if (!APR_BRIGADE_EMPTY(sink->rest)) {
            continue;
        }
        if (sink->said == CS_DELIVERY_DONE || sink->said == CS_DELIVERY_ANSWERED) {
            finish(sink, sink->said == CS_DELIVERY_ANSWERED);
            return;
        }
        if (sink->said == CS_DELIVERY_WAIT && cs_log_want_wake(&sink->delivery.cursor)) {
            break;
        }
    }
    if (here) {
        arm(sink);
    }
    else {
        vanish(sink);
    }
}

/* ---- what wakes it ----------------------------------------------------------------------------------------------- */

static void slot_changed(void *baton)
{
    suspended_t *sink = baton;

    if (sink->phase == STREAMING) {
        pump(sink);
    }
}

static void socket_ready(void *baton, uint32_t events)
{
    suspended_t *sink = baton;

    if (sink->phase == GONE) {
        return; /* only waits for its pool to settle */
    }
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        if (sink->phase == LINGERING) {
            detach(sink);
            sink->phase = GONE;
            destroy(sink);
        }
        else {
            vanish(sink);
        }
    }
    else if (sink->clogged && (events & EPOLLOUT)) {
        if (sink->phase == FLUSHING) {
            flush(sink);
        }
        else if (!send_pending(sink)) {
            vanish(sink);
        }
        else {
            sink->moved = now();
            pump(sink);
        }
    }
}

static void timer_fired(void *baton)
{
    suspended_t *sink = baton;
    int ended = sink->phase == FLUSHING
                || cs_state_is_end(cs_log_slot_state(sink->delivery.cursor.log, sink->delivery.cursor.slot));

    if (!sink->clogged) {
        pump(sink);
    }
    else if (ended && now() >= sink->moved + sink->stall) {
        /* Not ap_log_cerror, here and elsewhere: the log gets no address. */
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, sink->c->base_server,
                     "chatstream: the client takes nothing any more, giving up");
        vanish(sink);
    }
    else {
        /* As long as the stream lives, its own clocks bound how long a client may stand still. */
        cs_loop_timer_set(cs_sink_loop(), &sink->timer, now() + sink->stall);
    }
}

/* ---- the hand-over ----------------------------------------------------------------------------------------------- */

static void take_over(void *baton)
{
    suspended_t *sink = baton;

    sink->next = all;
    sink->prev = &all;
    if (all) {
        all->prev = &sink->next;
    }
    all = sink;
    sink->handed_over = cs_clock_mono();
    sink->moved = now();
    if (sink->waiter) {
        cs_waiter_dismiss(sink->waiter);
        sink->waiter = NULL;
    }
    sink->timer.fire = timer_fired;
    sink->timer.baton = sink;
    sink->watch.changed = slot_changed;
    sink->watch.baton = sink;
    sink->watch.slot = sink->delivery.cursor.slot;
    cs_log_hub_add(cs_sink_hub(), &sink->watch);
    sink->fd_watch.ready = socket_ready;
    sink->fd_watch.baton = sink;
    if (cs_loop_watch_fd(cs_sink_loop(), &sink->fd_watch, EPOLLRDHUP | EPOLLOUT | EPOLLET)) {
        vanish(sink);
        return;
    }
    pump(sink);
}

static void suspend_connection(conn_rec *c, request_rec *r)
{
    suspended_t *sink = ap_get_module_config(c->conn_config, &chatstream_module);

    (void)r;
    if (sink) {
        ap_set_module_config(c->conn_config, &chatstream_module, NULL);
        void (*ready)(void *baton) = sink->ready;
        void *baton = sink->baton;

        sink->task.run = take_over;
        sink->task.baton = sink;
        cs_loop_post(cs_sink_loop(), &sink->task);
        /* From here on the sink is the loop's, which may have freed it by now. */
        if (ready) {
            ready(baton);
        }
    }
}

void cs_suspended_register(void)
{
    ap_hook_suspend_connection(suspend_connection, NULL, NULL, APR_HOOK_MIDDLE);
}

int cs_suspended_possible(const request_rec *r)
{
    const conn_rec *c = r->connection;
    int async = 0;

    return ap_mpm_query(AP_MPMQ_IS_ASYNC, &async) == APR_SUCCESS && async && c->cs && !c->master && !r->main && !r->prev
           && cs_filter_chain_is_plain(r);
}

/* ---- patience ---------------------------------------------------------------------------------------------------- */

/*
 * Suspending costs the connection: it cannot be kept alive, and its pools cannot be used again. An answer that is over within
 * moments (an error, a cache, a short document) is not worth that. So the request thread waits a little, as long as not too many
 * of its kind do; the first event of an answer that goes on ends its patience, so no event waits for it.
 */
static int may_be_patient(void)
{
    int threads = 0;

    return ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads) == APR_SUCCESS && atomic_load(&patient) < threads * 3 / 4;
}

/* Whether the whole answer is there. */
static int wait_for_the_end(suspended_t *sink)
{
    const cs_cursor_t *cursor = &sink->delivery.cursor;
    apr_time_t until = cs_clock_mono() + PATIENCE;
    int ended = 0;

    sink->waiter = cs_waiter_create(cursor->slot, NULL);
    if (!sink->waiter) {
        return 0;
    }
    atomic_fetch_add(&patient, 1);
    cs_waiter_begin(sink->waiter, CS_WAITER_BEFORE_THE_STREAM);
    sink->ready(sink->baton);
    sink->ready = NULL;
    while (!(ended = cs_state_is_end(cs_log_slot_state(cursor->log, cursor->slot))) && !cs_log_has_events(cursor)
           && cs_clock_mono() < until) {
        cs_waiter_wait(sink->waiter, until);
    }
    atomic_fetch_sub(&patient, 1);
    return ended;
}

/* Either thread: the loop never knew of it. */
static void close_unsuspended(void *baton)
{
    suspended_t *sink = baton;

    cs_delivery_close(&sink->delivery);
    free(sink);
    cs_sink_counted(-1);
}

/* An answer that has ended needs nobody to wait: all of it goes out, and httpd finishes the request in its own way. */
static int serve_at_once(suspended_t *sink)
{
    cs_delivery_e got = CS_DELIVERY_MORE;
    cs_buf_t out;

    cs_buf_init(&out, SIZE_MAX / 2);
    while (got == CS_DELIVERY_MORE && !sink->c->aborted) {
        got = cs_delivery_fill(&sink->delivery, cs_clock_mono(), &out);
        if (out.len) {
            cs_filter_send(sink->r, sink->bb, &out);
        }
    }
    cs_buf_free(&out);
    if (sink->waiter) {
        cs_waiter_end(sink->waiter, close_unsuspended, sink);
    }
    else {
        close_unsuspended(sink);
    }
    return OK;
}

/* ---- serving ----------------------------------------------------------------------------------------------------- */

static suspended_t *create(request_rec *r, const cs_sink_spec_t *spec)
{
    suspended_t *sink = calloc(1, sizeof(*sink));
    conn_rec *c = r->connection;
    apr_os_sock_t fd;

    if (!sink || cs_delivery_open(&sink->delivery, r, spec)) {
        free(sink);
        return NULL;
    }
    apr_os_sock_get(&fd, ap_get_conn_socket(c));
    sink->holds_cursor = 1;
    sink->c = c;
    sink->r = r;
    sink->fd_watch.fd = sink->direct.fd = fd;
    sink->stall = r->server->timeout;
    sink->push = CS_PUSH_MARK;
    sink->fresh = c->keepalives == 0;
    sink->ready = spec->ready;
    sink->baton = spec->baton;
    sink->bb = apr_brigade_create(r->pool, c->bucket_alloc);
    sink->rest = apr_brigade_create(r->pool, c->bucket_alloc);
    sink->last_filter = c->output_filters;
    while (sink->last_filter->next) {
        sink->last_filter = sink->last_filter->next;
    }
    cs_sink_counted(1);
    return sink;
}

/*
 * What the request's parsing leaves behind is not kept for a next request: there is none. The core input filter lets go of its read
 * buffer only when it is asked again.
 */
static void shed_memory(request_rec *r)
{
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    ap_filter_t *last = r->connection->input_filters;

    while (last->next) {
        last = last->next;
    }
    ap_get_brigade(last, bb, AP_MODE_EATCRLF, APR_NONBLOCK_READ, 0);
    apr_brigade_cleanup(bb);
    apr_allocator_max_free_set(apr_pool_allocator_get(r->connection->pool), 1);
}

int cs_suspended_serve(request_rec *r, const cs_sink_spec_t *spec)
{
    suspended_t *sink = create(r, spec);

    if (!sink) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (spec->ready ? may_be_patient() && wait_for_the_end(sink)
                    : cs_state_is_end(cs_log_slot_state(sink->delivery.cursor.log, sink->delivery.cursor.slot))) {
        return serve_at_once(sink);
    }
    if (spec->format) {
        cs_filter_add(r, &sink->push);
    }
    shed_memory(r);
    /* httpd has no way back from a suspension. */
    apr_table_setn(r->headers_out, "Connection", "close");
    ap_set_module_config(r->connection->conn_config, &chatstream_module, sink);
    return SUSPENDED;
}

void cs_suspended_close_all(void)
{
    suspended_t *sink;

    for (sink = all; sink; sink = sink->next) {
        /* The process is about to end: the access log line is what is still owed. */
        sink->c->aborted = 1;
        end_request(sink);
    }
}
