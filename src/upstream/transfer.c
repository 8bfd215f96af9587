/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request and its response on a connection.
 *
 *   start --> connecting --opened--> sending, reading --whole--> keep or close the connection, done()
 *               ^                        |
 *               '--- once, when a connection that had served before turned out closed
 *
 * While the parser runs, callbacks may let the transfer go, but nothing ends it: that happens when the parser has returned.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "connection.h"
#include "head.h"
#include "http1.h"

#define HEAD_MAX        (1024 * 1024)
#define SPARE_MAX       1024 /* memory kept for transfers to come, about 1 KiB each */
#define SPARE_HEAD_MAX  4096
#define READS_PER_ROUND 8     /* of TLS records, before others have their turn */
#define LEFT_OVER_MAX   65536 /* what is read after the answer is known, to save the connection */
#define LEFT_OVER_TIME  apr_time_from_sec(2)
#define RETRY_AFTER_MAX 86400

struct cs_transfer_t {
    cs_engine_t *engine;
    const cs_upstream_t *upstream;
    const cs_transfer_events_t *events;
    void *baton; /* NULL: let go */
    cs_connection_t *conn;
    cs_transfer_t *next, **prev; /* running, or spare */
    cs_timer_t let_go;
    cs_http1_t http;
    cs_buf_t head;
    char *body;
    size_t body_len;
    size_t sent; /* of head and body */
    char *rest;  /* what was read but not taken, while paused */
    size_t rest_len;
    size_t left_over;
    int answered; /* headers() was called */
    int heard;    /* at least a byte came */
    int send_failed;
    int parsing;
    int paused;
};

static void send_request(void *baton);
static void receive(void *baton);
static void connect_failed(void *baton, CURLcode code);

static const cs_connection_events_t connection_events = {send_request, connect_failed, send_request, receive};

static int is_all_sent(const cs_transfer_t *transfer)
{
    return transfer->sent == transfer->head.len + transfer->body_len;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void destroy(cs_transfer_t *transfer)
{
    cs_http1_release(&transfer->http);
    cs_buf_free(&transfer->head);
    free(transfer);
}

static cs_transfer_t *take_spare(cs_engine_t *engine)
{
    cs_transfer_t *transfer = engine->spare;

    if (!transfer) {
        transfer = calloc(1, sizeof(*transfer));
        if (transfer) {
            transfer->engine = engine;
            cs_buf_init(&transfer->head, HEAD_MAX);
        }
        return transfer;
    }
    engine->spare = transfer->next;
    engine->spare_count--;
    return transfer;
}

static void put_spare(cs_transfer_t *transfer)
{
    cs_engine_t *engine = transfer->engine;

    if (engine->spare_count >= SPARE_MAX || transfer->head.cap > SPARE_HEAD_MAX) {
        destroy(transfer);
        return;
    }
    cs_http1_release(&transfer->http);
    transfer->next = engine->spare;
    engine->spare = transfer;
    engine->spare_count++;
}

/* The transfer is over; its connection is somebody else's by now. */
static void retire(cs_transfer_t *transfer)
{
    cs_loop_timer_clear(transfer->engine->loop, &transfer->let_go);
    *transfer->prev = transfer->next;
    if (transfer->next) {
        transfer->next->prev = transfer->prev;
    }
    free(transfer->body);
    free(transfer->rest);
    transfer->body = transfer->rest = NULL;
    transfer->conn = NULL;
    put_spare(transfer);
}

static void drop(cs_transfer_t *transfer)
{
    if (transfer->conn) {
        cs_connection_close(transfer->conn);
    }
    retire(transfer);
}

void cs_transfer_drop_all(cs_engine_t *engine)
{
    while (engine->running) {
        drop(engine->running);
    }
    while (engine->spare) {
        cs_transfer_t *transfer = engine->spare;

        engine->spare = transfer->next;
        destroy(transfer);
    }
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void finish(cs_transfer_t *transfer, cs_transfer_end_e end, const char *reason)
{
    const cs_transfer_events_t *events = transfer->events;
    void *baton = transfer->baton;

    drop(transfer);
    if (baton) {
        events->done(baton, end, reason);
    }
}

static void finish_whole(cs_transfer_t *transfer, int may_keep)
{
    if (may_keep && is_all_sent(transfer) && !transfer->send_failed && cs_http1_reusable(&transfer->http)) {
        cs_connection_keep(transfer->conn);
        transfer->conn = NULL;
    }
    finish(transfer, CS_TRANSFER_WHOLE, "");
}

static void connect_failed(void *baton, CURLcode code)
{
    cs_transfer_t *transfer = baton;

    transfer->conn = NULL;
    /* The only time-out that is libcurl's. */
    finish(transfer, code == CURLE_OPERATION_TIMEDOUT ? CS_TRANSFER_CONNECT_TIMEOUT : CS_TRANSFER_CONNECT,
           curl_easy_strerror(code));
}

/* ---- the request ------------------------------------------------------------------------------------------------- */

static int is_tls(const cs_transfer_t *transfer)
{
    return transfer->upstream->is_tls;
}

static void watch(cs_transfer_t *transfer)
{
    uint32_t events = is_all_sent(transfer) || transfer->send_failed ? 0 : EPOLLOUT;

    cs_connection_watch(transfer->conn, events | (transfer->paused ? 0 : EPOLLIN | EPOLLRDHUP));
}

/* Opened, or writable. Ends nothing: a failure may hide an answer that is already there, so reading finds it out. */
static void send_request(void *baton)
{
    cs_transfer_t *transfer = baton;
    struct iovec bytes[2];
    int count = 0;
    size_t at = transfer->sent, len = 0;
    cs_io_e result = CS_IO_OK;

    if (at < transfer->head.len) {
        bytes[count].iov_base = transfer->head.data + at;
        bytes[count++].iov_len = transfer->head.len - at;
        at = transfer->head.len;
    }
    if (at < transfer->head.len + transfer->body_len) {
        bytes[count].iov_base = transfer->body + (at - transfer->head.len);
        bytes[count++].iov_len = transfer->head.len + transfer->body_len - at;
    }
    if (count && !transfer->send_failed) {
        result = cs_connection_send(transfer->conn, bytes, count, &len);
    }
    transfer->sent += len;
    if (result == CS_IO_FAILED) {
        transfer->send_failed = 1;
        cs_connection_again(transfer->conn);
    }
    watch(transfer);
}

static apr_status_t connect_it(cs_transfer_t *transfer, cs_connection_which_e which)
{
    transfer->sent = 0;
    transfer->heard = transfer->send_failed = 0;
    transfer->conn = cs_connection_take(transfer->engine, transfer->upstream, which, &connection_events, transfer);
    if (!transfer->conn) {
        return APR_ENOMEM;
    }
    if (cs_connection_is_open(transfer->conn)) {
        send_request(transfer);
    }
    return APR_SUCCESS;
}

/* ---- the response ------------------------------------------------------------------------------------------------ */

/* Seconds, or a date (RFC 9110 section 10.2.3). 0: nothing of use. */
static int read_retry_after(const char *text)
{
    char *end;
    long long seconds;

    if (!*text) {
        return 0;
    }
    seconds = strtoll(text, &end, 10);
    if (*end) {
        apr_time_t when = (apr_time_t)curl_getdate(text, NULL);

        seconds = when < 0 ? 0 : when - apr_time_sec(apr_time_now());
    }
    return seconds > 0 && seconds <= RETRY_AFTER_MAX ? (int)seconds : 0;
}

static cs_flow_e take_head(void *baton)
{
    cs_transfer_t *transfer = baton;

    transfer->answered = 1;
    if (is_all_sent(transfer)) { /* it cannot be needed again, and an answer may take long */
        free(transfer->body);
        transfer->body = NULL;
    }
    return transfer->events->headers(transfer->baton, transfer->http.status,
                                     read_retry_after(transfer->http.retry_after));
}

static cs_flow_e take_body(void *baton, const char *bytes, size_t len)
{
    cs_transfer_t *transfer = baton;

    if (!transfer->baton) {
        transfer->left_over += len;
        return transfer->left_over > LEFT_OVER_MAX ? CS_FLOW_STOP : CS_FLOW_ON;
    }
    return transfer->events->data(transfer->baton, bytes, len);
}

static int keep_rest(cs_transfer_t *transfer, const char *bytes, size_t len)
{
    transfer->rest = malloc(len);
    if (!transfer->rest) {
        finish(transfer, CS_TRANSFER_CUT, curl_easy_strerror(CURLE_OUT_OF_MEMORY));
        return 0;
    }
    memcpy(transfer->rest, bytes, len);
    transfer->rest_len = len;
    transfer->paused = 1;
    watch(transfer);
    return 0;
}

/* 1: read on. 0: paused, or the transfer is gone. */
static int parse(cs_transfer_t *transfer, const char *bytes, size_t len)
{
    size_t consumed;
    cs_http1_e result;

    transfer->parsing = 1;
    result = cs_http1_feed(&transfer->http, bytes, len, &consumed);
    transfer->parsing = 0;
    switch (result) {
    case CS_HTTP1_MORE:
        return 1;
    case CS_HTTP1_PAUSED:
        return keep_rest(transfer, bytes + consumed, len - consumed);
    case CS_HTTP1_DONE:
        finish_whole(transfer, consumed == len); /* bytes that nobody asked for are nobody's */
        return 0;
    case CS_HTTP1_STOPPED:
        finish(transfer, CS_TRANSFER_STOPPED, curl_easy_strerror(CURLE_WRITE_ERROR));
        return 0;
    case CS_HTTP1_GARBAGE:
        break;
    }
    finish(transfer, CS_TRANSFER_GARBAGE, transfer->http.error);
    return 0;
}

static void lost(cs_transfer_t *transfer, cs_io_e how)
{
    CURLcode reason = how == CS_IO_FAILED ? CURLE_RECV_ERROR : transfer->heard ? CURLE_PARTIAL_FILE : CURLE_GOT_NOTHING;

    /* The upstream closed an idle connection just as we used it: it has not seen this request. */
    if (!transfer->heard && cs_connection_is_reused(transfer->conn)) {
        cs_connection_close(transfer->conn);
        if (connect_it(transfer, CS_CONNECTION_NEW)) {
            finish(transfer, CS_TRANSFER_CONNECT, curl_easy_strerror(CURLE_OUT_OF_MEMORY));
        }
    }
    else if (how == CS_IO_END && cs_http1_finish(&transfer->http) == CS_HTTP1_DONE) {
        finish_whole(transfer, 0);
    }
    else {
        finish(transfer, CS_TRANSFER_CUT, curl_easy_strerror(reason));
    }
}

/* Readable. epoll says so again when something is left, but not when it is left inside TLS. */
static void receive(void *baton)
{
    cs_transfer_t *transfer = baton;
    cs_engine_t *engine = transfer->engine;
    int reads = cs_connection_hides_bytes(transfer->conn) ? READS_PER_ROUND : 1;
    size_t len;

    if (transfer->paused) {
        cs_connection_watch(transfer->conn, 0);
        return;
    }
    while (reads--) {
        cs_io_e result = cs_connection_recv(transfer->conn, engine->buffer, sizeof(engine->buffer), &len);

        if (result == CS_IO_OK) {
            transfer->heard = 1;
            if (!parse(transfer, engine->buffer, len)) {
                return;
            }
        }
        else if (result == CS_IO_AGAIN && !transfer->send_failed) {
            return;
        }
        else {
            lost(transfer, result == CS_IO_AGAIN ? CS_IO_FAILED : result);
            return;
        }
    }
    if (is_tls(transfer) || transfer->send_failed) {
        cs_connection_again(transfer->conn);
    }
}

/* ---- interface --------------------------------------------------------------------------------------------------- */

static apr_status_t build_request(cs_transfer_t *transfer, const cs_transfer_request_t *request)
{
    apr_status_t rv;

    transfer->head.len = 0;
    rv = cs_head_append(&transfer->head, transfer->upstream, request);
    transfer->body = request->body;
    transfer->body_len = request->body_len;
    return rv;
}

apr_status_t cs_transfer_start(cs_transfer_t **out, cs_engine_t *engine, const cs_upstream_t *upstream,
                               const cs_transfer_request_t *request, const cs_transfer_events_t *events, void *baton)
{
    static const cs_http1_events_t http_events = {take_head, take_body};
    cs_transfer_t *transfer = take_spare(engine);
    apr_status_t rv;

    *out = NULL;
    if (!transfer) {
        free(request->body);
        return APR_ENOMEM;
    }
    transfer->upstream = upstream;
    transfer->events = events;
    transfer->baton = baton;
    transfer->left_over = 0;
    transfer->answered = transfer->parsing = transfer->paused = 0;
    cs_http1_init(&transfer->http, &http_events, transfer);
    transfer->next = engine->running;
    transfer->prev = &engine->running;
    if (engine->running) {
        engine->running->prev = &transfer->next;
    }
    engine->running = transfer;
    if ((rv = build_request(transfer, request)) || (rv = connect_it(transfer, CS_CONNECTION_ANY))) {
        drop(transfer);
        return rv;
    }
    *out = transfer;
    return APR_SUCCESS;
}

void cs_transfer_resume(cs_transfer_t *transfer)
{
    char *rest;
    int go_on;

    if (!transfer->paused) {
        return;
    }
    transfer->paused = 0;
    rest = transfer->rest;
    transfer->rest = NULL;
    go_on = parse(transfer, rest, transfer->rest_len);
    free(rest);
    if (go_on) {
        watch(transfer);
        if (is_tls(transfer)) {
            cs_connection_again(transfer->conn);
        }
    }
}

void cs_transfer_abort(cs_transfer_t *transfer)
{
    if (transfer) {
        drop(transfer);
    }
}

static void let_go_timed_out(void *baton)
{
    drop(baton);
}

void cs_transfer_let_go(cs_transfer_t *transfer)
{
    cs_loop_t *loop;

    if (!transfer) {
        return;
    }
    if (!transfer->answered) {
        drop(transfer);
        return;
    }
    loop = transfer->engine->loop;
    transfer->baton = NULL;
    transfer->let_go.fire = let_go_timed_out;
    transfer->let_go.baton = transfer;
    cs_loop_timer_set(loop, &transfer->let_go, cs_loop_now(loop) + LEFT_OVER_TIME);
    if (!transfer->parsing) {
        cs_transfer_resume(transfer);
    }
}
