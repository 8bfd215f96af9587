/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of a stream; everything here runs on the loop thread.
 *
 *   start --> attempt --headers 2xx--> active --end marker, whole body--> completed
 *               |  ^                     |
 *               |  | backup, as long as no byte of an answer came
 *               v  |                     v
 *             failed -------------> error | timeout | cancelled | disconnected
 *
 * A callback of the transfer never ends it: it notes the failure, returns STOP, and done() does the rest. Timers and watches
 * are called outside libcurl and may abort.
 */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <http_log.h>

APLOG_USE_MODULE(chatstream);

#define RETRY_FULL_ARENA apr_time_from_msec(50)

static cs_stream_t *all; /* streams of this child */

static const cs_upstream_t *upstream_of(const cs_stream_t *stream)
{
    return &APR_ARRAY_IDX(stream->conf.upstreams, stream->attempt, cs_upstream_t);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void fill_ending(cs_stream_t *stream, cs_state_e state, const cs_result_t *failure, int retryable,
                        cs_log_ending_t *ending)
{
    const cs_outcome_t *outcome = stream->decoder ? cs_decoder_outcome(stream->decoder) : NULL;

    memset(ending, 0, sizeof(*ending));
    ending->state = state;
    ending->retryable = retryable;
    if (failure) {
        ending->http_status = failure->status;
        ending->retry_after = failure->retry_after;
        snprintf(ending->code, sizeof(ending->code), "%s", failure->code);
        snprintf(ending->message, sizeof(ending->message), "%s", failure->message);
    }
    if (outcome && outcome->finish_reason) {
        size_t len = strlen(outcome->finish_reason), max = sizeof(ending->finish_reason) - 1;

        /* The upstream's word, so it may be long, and must not be cut in a character. */
        memcpy(ending->finish_reason, outcome->finish_reason,
               cs_utf8_valid_prefix(outcome->finish_reason, len < max ? len : max));
    }
    ending->prompt_tokens = outcome ? outcome->prompt_tokens : -1;
    ending->completion_tokens = outcome ? outcome->completion_tokens : -1;
    ending->first_token_ms = stream->first_at ? apr_time_as_msec(stream->first_at - stream->created) : -1;
    ending->duration_ms = apr_time_as_msec(cs_clock_mono() - stream->created);
    ending->tokens = stream->tokens;
}

static int keeps_answer(const cs_stream_t *stream)
{
    return stream->ticket && stream->conf.record & CS_RECORD_TRANSCRIPT;
}

static void tell_closed(cs_stream_t *stream, const cs_log_ending_t *ending)
{
    cs_closed_t closed = {ending, upstream_of(stream)->name, keeps_answer(stream) ? &stream->answer : NULL,
                          ending->state != CS_STATE_COMPLETED};

    cs_tell_closed(stream->ticket, &closed);
}

/* Nothing went wrong: somebody left, cancelled, or may not read any longer. */
static int is_routine(cs_state_e state, const cs_result_t *failure)
{
    return state == CS_STATE_CANCELLED || state == CS_STATE_DISCONNECTED || failure->status == 401;
}

/* The one place where a stream ends. Frees it. */
static void end_stream(cs_stream_t *stream, cs_state_e state, const cs_result_t *failure, int retryable)
{
    apr_time_t age = cs_loop_now(cs_stream_loop()) - stream->created;
    cs_log_ending_t ending;

    fill_ending(stream, state, failure, retryable, &ending);
    if (failure && failure->log) {
        ap_log_error(APLOG_MARK, is_routine(state, failure) ? APLOG_INFO : APLOG_WARNING, 0, stream->server,
                     "chatstream: stream %s ended as %s (%s): upstream %s: %s", stream->id, cs_state_name(state),
                     failure->code, upstream_of(stream)->name, failure->log);
    }
    cs_loop_timer_clear(cs_stream_loop(), &stream->timer);
    if (state == CS_STATE_COMPLETED) {
        cs_transfer_let_go(stream->transfer);
    }
    else {
        cs_transfer_abort(stream->transfer);
    }
    /* Nobody was told a stream id yet when it failed before a reader could have committed: then there is nothing to resume. */
    cs_log_end(cs_stream_log(), stream->slot, &ending,
               failure && !stream->headers_at && age < stream->conf.commit_after && state == CS_STATE_ERROR
                   ? CS_LOG_FORGET
                   : CS_LOG_KEEP);
    cs_log_hub_mark(cs_stream_hub(), stream->slot);
    cs_log_hub_remove(cs_stream_hub(), &stream->watch);
    tell_closed(stream, &ending);
    *stream->prev = stream->next;
    if (stream->next) {
        stream->next->prev = stream->prev;
    }
    cs_stream_free(stream);
    cs_stream_count(-1);
}

static void end_upstream_error(cs_stream_t *stream, const char *message, const char *log)
{
    cs_result_t failure = {502, "upstream_error", message, 0, log};

    end_stream(stream, CS_STATE_ERROR, &failure, 1);
}

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

static apr_time_t earlier(apr_time_t a, apr_time_t b)
{
    return b < a ? b : a;
}

static apr_time_t next_deadline(const cs_stream_t *stream)
{
    const cs_dir_config_t *conf = &stream->conf;
    apr_time_t when = stream->created + conf->timeout_total;

    if (!stream->headers_at) {
        when = earlier(when, stream->attempt_at + conf->timeout_headers);
    }
    else if (stream->paused) {
        when = earlier(when, cs_loop_now(cs_stream_loop()) + RETRY_FULL_ARENA);
    }
    else if (!stream->first_at) {
        when = earlier(when, stream->headers_at + conf->timeout_first_token);
    }
    else {
        when = earlier(when, stream->last_at + conf->timeout_idle);
    }
    if (stream->left_at && conf->on_disconnect == CS_LEAVE_ABORT) {
        when = earlier(when, stream->left_at + conf->grace);
    }
    if (stream->expires_at) {
        when = earlier(when, stream->expires_at);
    }
    return when;
}

/* Deadlines that move later are noticed when the timer fires, so a token costs no timer work. */
static void arm(cs_stream_t *stream)
{
    apr_time_t when = next_deadline(stream);

    if (!stream->timer.index || when < stream->timer.when) {
        cs_loop_timer_set(cs_stream_loop(), &stream->timer, when);
    }
}

static void give_room(cs_stream_t *stream)
{
    if (stream->paused && cs_log_has_room(cs_stream_log(), stream->slot)) {
        stream->paused = 0;
        stream->last_at = cs_loop_now(cs_stream_loop()); /* the pause was ours, not the upstream's silence */
        cs_transfer_resume(stream->transfer);
    }
}

static void clock_struck(void *baton)
{
    static const cs_result_t total = {504, "timeout", "The answer took longer than allowed.", 0, "total time is over"};
    static const cs_result_t headers = {504, "upstream_timeout", "The upstream did not answer in time.", 0,
                                        "no response headers in time"};
    static const cs_result_t first = {504, "upstream_timeout", "The upstream did not begin its answer in time.", 0,
                                      "no first token in time"};
    static const cs_result_t idle = {504, "upstream_timeout", "The upstream fell silent.", 0,
                                     "no further token in time"};
    static const cs_result_t expired = {401, "unauthorized", "The token has expired.", 0, "the token has expired"};
    static const cs_result_t left = {503, "cancelled", "The client left and did not come back in time.", 0,
                                     "every reader left"};
    cs_stream_t *stream = baton;
    const cs_dir_config_t *conf = &stream->conf;
    apr_time_t now = cs_loop_now(cs_stream_loop());

    if (stream->left_at && cs_log_has_readers(cs_stream_log(), stream->slot)) {
        stream->left_at = 0; /* somebody came back, and word of it is still on its way */
    }
    if (now >= stream->created + conf->timeout_total) {
        end_stream(stream, CS_STATE_TIMEOUT, &total, 1);
    }
    else if (stream->expires_at && now >= stream->expires_at) {
        end_stream(stream, CS_STATE_ERROR, &expired, 0);
    }
    else if (stream->left_at && conf->on_disconnect == CS_LEAVE_ABORT && now >= stream->left_at + conf->grace) {
        end_stream(stream, CS_STATE_DISCONNECTED, &left, 1);
    }
    else if (!stream->headers_at && now >= stream->attempt_at + conf->timeout_headers) {
        end_stream(stream, CS_STATE_ERROR, &headers, 1);
    }
    else if (stream->headers_at && !stream->paused && !stream->first_at
             && now >= stream->headers_at + conf->timeout_first_token) {
        end_stream(stream, CS_STATE_ERROR, &first, 1);
    }
    else if (stream->first_at && !stream->paused && now >= stream->last_at + conf->timeout_idle) {
        end_stream(stream, CS_STATE_ERROR, &idle, 1);
    }
    else {
        arm(stream);
        give_room(stream); /* last: the transfer's callbacks may follow from it */
    }
}

/* ---- what the transfer tells ------------------------------------------------------------------------------------- */

static void attempt(cs_stream_t *stream);

static cs_flow_e stop_because(cs_stream_t *stream, const cs_result_t *why, int retryable)
{
    stream->failure = *why;
    stream->failure_retryable = retryable;
    return CS_FLOW_STOP;
}

/* Nothing was generated, so asking again or elsewhere cannot charge twice. */
static int is_busy(int status)
{
    return status == 429 || status == 503;
}

static cs_flow_e on_headers(void *baton, int status, int retry_after)
{
    cs_stream_t *stream = baton;
    cs_result_t failure = {502, "upstream_error", "The upstream refused the request.", 0, stream->refusal};

    if (status >= 200 && status < 300) {
        stream->headers_at = cs_loop_now(cs_stream_loop());
        cs_log_set_state(cs_stream_log(), stream->slot, CS_STATE_ACTIVE);
        cs_log_hub_mark(cs_stream_hub(), stream->slot);
        arm(stream);
        return CS_FLOW_ON;
    }
    snprintf(stream->refusal, sizeof(stream->refusal), "answered %d", status);
    stream->refused_with = status;
    if (status == 429) {
        failure.status = 429;
        failure.code = "rate_limited";
        failure.message = "The upstream is over its rate limit.";
    }
    else if (status == 503) {
        failure.message = "The upstream is overloaded.";
    }
    failure.retry_after = is_busy(status) ? retry_after : 0;
    return stop_because(stream, &failure, status == 408 || status == 429 || status >= 500);
}

static apr_status_t on_event(void *baton, const cs_event_t *event)
{
    static const cs_result_t full = {503, "unavailable", "The server is out of room for this answer.", 0,
                                     "the arena is full"};
    cs_stream_t *stream = baton;
    apr_status_t rv = cs_log_append(cs_stream_log(), stream->slot, event);

    if (rv) {
        stop_because(stream, &full, 1);
        return rv;
    }
    stream->appended = 1;
    if (event->kind == CS_EVENT_TOKEN && keeps_answer(stream)) {
        cs_buf_append(&stream->answer, event->data, event->len); /* ChatStreamMaxAnswer bounds both */
    }
    if (event->kind != CS_EVENT_METADATA && !cs_decoder_outcome(stream->decoder)->is_ping) {
        stream->tokens++;
        stream->last_at = cs_loop_now(cs_stream_loop());
        if (!stream->first_at) {
            stream->first_at = stream->last_at;
            arm(stream); /* the idle clock may strike before the one for the first token would have */
        }
    }
    return APR_SUCCESS;
}

/* Of a second decoder: what it cannot decode, the first one has told already. */
static apr_status_t on_answer(void *baton, const cs_event_t *event)
{
    cs_stream_t *stream = baton;

    return event->kind == CS_EVENT_TOKEN ? cs_buf_append(&stream->answer, event->data, event->len) : APR_SUCCESS;
}

static void publish(cs_stream_t *stream)
{
    if (stream->appended) {
        stream->appended = 0;
        cs_log_publish(cs_stream_log(), stream->slot);
        cs_log_hub_mark(cs_stream_hub(), stream->slot);
    }
}

/* Notes why a feed, or the decoder's look at the end (`why`), says that this is no answer. 0: it is. */
static int decoding_failed(cs_stream_t *stream, apr_status_t rv, const char *why)
{
    static const cs_result_t too_large = {502, "too_large", "The upstream's answer is larger than allowed.", 0,
                                          "an event or the answer is larger than allowed"};
    const cs_outcome_t *outcome = cs_decoder_outcome(stream->decoder);
    cs_result_t failure = {502, "upstream_error", "The upstream reported an error.", 0, outcome->failure};

    if (stream->failure.status) { /* on_event noted it */
        return 1;
    }
    if (outcome->failure) {
        stop_because(stream, &failure, outcome->failure_retryable);
    }
    else if (why) {
        failure.message = "The upstream's answer was cut off.";
        failure.log = why;
        stop_because(stream, &failure, 1);
    }
    else if (rv) {
        stop_because(stream, &too_large, 0);
    }
    return stream->failure.status != 0;
}

static cs_flow_e on_data(void *baton, const char *bytes, size_t len)
{
    cs_stream_t *stream = baton;
    apr_status_t rv;

    if (!cs_log_has_room(cs_stream_log(), stream->slot)) {
        stream->paused = 1;
        arm(stream);
        return CS_FLOW_PAUSE;
    }
    rv = cs_decoder_feed(stream->decoder, bytes, len);
    if (stream->reader && !rv) {
        cs_decoder_feed(stream->reader, bytes, len);
    }
    publish(stream);
    if (decoding_failed(stream, rv, NULL)) {
        return CS_FLOW_STOP;
    }
    if (cs_decoder_outcome(stream->decoder)->done) {
        end_stream(stream, CS_STATE_COMPLETED, NULL, 0);
    }
    return CS_FLOW_ON;
}

static int may_try_next(const cs_stream_t *stream)
{
    return !stream->headers_at && stream->attempt + 1 < (unsigned)stream->conf.upstreams->nelts;
}

static void try_next(cs_stream_t *stream, const char *reason)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, stream->server,
                 "chatstream: stream %s: upstream %s: %s; trying the next one", stream->id, upstream_of(stream)->name,
                 reason);
    memset(&stream->failure, 0, sizeof(stream->failure));
    stream->refused_with = 0;
    stream->attempt++;
    attempt(stream);
}

static void transfer_failed(cs_stream_t *stream, cs_transfer_end_e end, const char *reason)
{
    cs_result_t failure = {502, "upstream_error", "The upstream could not be reached.", 0, reason};

    if (end == CS_TRANSFER_CONNECT_TIMEOUT) {
        failure.status = 504;
        failure.code = "upstream_timeout";
    }
    else if (end == CS_TRANSFER_CUT) {
        failure.message =
            stream->headers_at ? "The upstream's answer was cut off." : "The upstream closed the connection.";
    }
    else if (end == CS_TRANSFER_GARBAGE) {
        failure.message = "The upstream did not speak HTTP.";
    }
    end_stream(stream, CS_STATE_ERROR, &failure, 1);
}

static void on_done(void *baton, cs_transfer_end_e end, const char *reason)
{
    cs_stream_t *stream = baton;
    const char *why = NULL;
    apr_status_t rv;

    stream->transfer = NULL;
    if (end == CS_TRANSFER_CONNECT_TIMEOUT) {
        reason = "no connection in time";
    }
    if (stream->failure.status) {
        if (may_try_next(stream) && is_busy(stream->refused_with)) {
            try_next(stream, stream->failure.log);
            return;
        }
        end_stream(stream, CS_STATE_ERROR, &stream->failure, stream->failure_retryable);
        return;
    }
    if (end != CS_TRANSFER_WHOLE) {
        if (may_try_next(stream)) {
            try_next(stream, reason);
            return;
        }
        transfer_failed(stream, end, reason);
        return;
    }
    rv = cs_decoder_finish(stream->decoder, &why);
    publish(stream);
    if (decoding_failed(stream, rv, why)) {
        end_stream(stream, CS_STATE_ERROR, &stream->failure, stream->failure_retryable);
        return;
    }
    end_stream(stream, CS_STATE_COMPLETED, NULL, 0);
}

/* ---- the beginning ----------------------------------------------------------------------------------------------- */

static apr_status_t make_decoder(cs_stream_t *stream)
{
    static const cs_decoder_events_t events = {on_event}, reading = {on_answer};
    cs_decoder_limits_t limits = {(size_t)stream->conf.max_event, (size_t)stream->conf.max_answer};

    cs_decoder_destroy(stream->decoder);
    cs_decoder_destroy(stream->reader);
    stream->decoder = stream->reader = NULL;
    stream->answer.len = 0;
    if (keeps_answer(stream) && stream->conf.format->mode == CS_DECODE_RAW) {
        apr_status_t rv = cs_decoder_create(&stream->reader, upstream_of(stream)->dialect, CS_DECODE_EVENTS, &limits,
                                            &reading, stream);

        if (rv) {
            return rv;
        }
    }
    return cs_decoder_create(&stream->decoder, upstream_of(stream)->dialect, stream->conf.format->mode, &limits,
                             &events, stream);
}

static void attempt(cs_stream_t *stream)
{
    static const cs_transfer_events_t events = {on_headers, on_data, on_done};
    cs_transfer_request_t request = {.stream_id = stream->id, .traceparent = stream->traceparent};

    stream->attempt_at = cs_loop_now(cs_stream_loop());
    if (stream->attempt && cs_stream_build_body(stream)) {
        end_upstream_error(stream, "The upstream's request could not be built.", "request could not be built");
        return;
    }
    request.headers = stream->conf.headers ? (const char *const *)stream->conf.headers->elts : NULL;
    if (make_decoder(stream)) {
        end_upstream_error(stream, "The upstream could not be reached.", "out of memory");
        return;
    }
    request.body = cs_buf_detach(&stream->body, &request.body_len);
    if (cs_transfer_start(&stream->transfer, cs_stream_engine(), upstream_of(stream), &request, &events, stream)) {
        end_upstream_error(stream, "The upstream could not be reached.", "out of memory");
        return;
    }
    arm(stream);
}

/* Who has as many streams as he may have is told when the first of them is over for sure. */
static void tell_ends_by(const cs_stream_t *stream)
{
    const cs_dir_config_t *conf = &stream->conf;
    apr_time_t ends_by = stream->created + conf->timeout_total;

    if (stream->left_at && conf->on_disconnect == CS_LEAVE_ABORT) {
        ends_by = earlier(ends_by, stream->left_at + conf->grace);
    }
    cs_log_set_ends_by(cs_stream_log(), stream->slot, ends_by);
}

/* Somebody came, left, cancelled, or made room. */
static void slot_changed(void *baton)
{
    static const cs_result_t cancelled = {0, "cancelled", "The stream was cancelled.", 0, "cancelled on request"};
    cs_stream_t *stream = baton;

    if (cs_log_is_cancelled(cs_stream_log(), stream->slot)) {
        end_stream(stream, CS_STATE_CANCELLED, &cancelled, 0);
        return;
    }
    if (cs_log_has_readers(cs_stream_log(), stream->slot)) {
        if (stream->left_at) {
            stream->left_at = 0;
            tell_ends_by(stream);
        }
    }
    else if (!stream->left_at) {
        stream->left_at = cs_loop_now(cs_stream_loop());
        tell_ends_by(stream);
        arm(stream);
    }
    give_room(stream);
}

void cs_stream_loop_run(void *baton)
{
    cs_stream_t *stream = baton;

    stream->next = all;
    stream->prev = &all;
    if (all) {
        all->prev = &stream->next;
    }
    all = stream;
    stream->timer.fire = clock_struck;
    stream->timer.baton = stream;
    stream->watch.changed = slot_changed;
    stream->watch.baton = stream;
    stream->watch.slot = stream->slot;
    cs_log_hub_add(cs_stream_hub(), &stream->watch);
    cs_log_set_state(cs_stream_log(), stream->slot, CS_STATE_CONNECTING);
    /* A cancel, or the last reader's leaving, may have come before anybody watched. */
    cs_log_hub_mark(cs_stream_hub(), stream->slot);
    attempt(stream);
}

void cs_stream_loop_end_all(void)
{
    static const cs_result_t failure = {503, "shutting_down", "The server is shutting down.", 1, NULL};

    while (all) {
        end_stream(all, CS_STATE_ERROR, &failure, 1);
    }
}
