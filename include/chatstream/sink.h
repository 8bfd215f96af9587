/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink: from a cursor to a client. A reader of the log either becomes a suspended connection that the loop thread serves (event
 * MPM, HTTP/1.1), or a request thread that waits for the loop's signals and writes by itself (HTTP/2, worker, prefork, and any
 * chain with a filter that might block). Both send the same bytes: what to send is decided in one place (delivery.c).
 */
#ifndef CHATSTREAM_SINK_H
#define CHATSTREAM_SINK_H

#include <httpd.h>

#include "chatstream/core.h"
#include "chatstream/event.h"
#include "chatstream/log.h"
#include "chatstream/upstream.h"

/* Filters and hooks; in the module's register_hooks. */
void cs_sink_register_hooks(void);
/* Once per child, after the loop exists. */
void cs_sink_child_init(cs_log_t *log, cs_log_hub_t *hub, cs_loop_t *loop);
/* Readers under way in this child; any thread. */
unsigned cs_sink_count(void);
/* The loop thread is gone: closes what is left. */
void cs_sink_close_all(void);

typedef struct {
    cs_cursor_t *cursor;       /* its content is taken over */
    const cs_format_t *format; /* NULL: the whole answer as one document (chatstream-complete) */
    size_t max_answer;         /* of a document */
    apr_time_t heartbeat;
    apr_time_t commit_after;
    uint64_t after_seq; /* what the client has already */
    uint64_t gap_to;    /* 0: nothing is missing */
    /*
     * Starts the stream; called once, when the reader stands ready: on the request thread, or from the hand-over. NULL: the stream
     * is under way, or over, already.
     */
    void (*ready)(void *baton);
    void *baton;
} cs_sink_spec_t;

/* Request thread, last thing a handler does. Returns what the handler must return: SUSPENDED, OK or an HTTP status. */
int cs_sink_serve(request_rec *r, const cs_sink_spec_t *spec);

/* ---- responses that are no stream -------------------------------------------------------------------------------- */

/*
 * Answers with application/problem+json (RFC 9457). Everything but the final flush, so it may be used on either thread.
 * Returns OK: the response is complete.
 */
int cs_response_problem(request_rec *r, const cs_result_t *problem);
/* Answers with a JSON document. */
int cs_response_json(request_rec *r, int status, const char *json, size_t len);
/* Only its head: the caller sends `len` bytes. */
void cs_response_json_head(request_rec *r, int status, size_t len);
/* Headers of an event stream; compression is kept off. */
void cs_response_event_stream(request_rec *r, const char *content_type);

#endif
