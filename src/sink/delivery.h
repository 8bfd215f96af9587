/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a reader gets next. Both sinks ask here, so they cannot differ: commit or fail, start, gap, events, heartbeat, ending.
 * One thread at a time: the loop's for suspended connections, the request's for blocking ones.
 */
#ifndef CS_SINK_DELIVERY_H
#define CS_SINK_DELIVERY_H

#include "chatstream/sink.h"

typedef struct {
    request_rec *r;
    cs_cursor_t cursor;
    const cs_format_t *format;
    cs_document_t *document;
    char id[CS_UUID_LEN + 1];
    cs_stream_info_t info;
    apr_time_t opened;    /* mono */
    apr_time_t last_sent; /* mono */
    apr_time_t heartbeat;
    apr_time_t commit_after;
    uint64_t after_seq;
    uint64_t gap_to;
    int committed;
} cs_delivery_t;

typedef enum {
    CS_DELIVERY_WAIT,    /* nothing (more) now */
    CS_DELIVERY_MORE,    /* `out` is full enough: send it, then ask again */
    CS_DELIVERY_DONE,    /* what is in `out` is the last; or the response was sent whole already */
    CS_DELIVERY_ANSWERED /* a whole response was passed on (problem, document); nothing in `out` */
} cs_delivery_e;

/* The cursor is the delivery's from now on. APR_ENOMEM. */
apr_status_t cs_delivery_open(cs_delivery_t *delivery, request_rec *r, const cs_sink_spec_t *spec);
/* Appends to `out` what is due at `now`. The first time something is due, sets the response's headers. */
cs_delivery_e cs_delivery_fill(cs_delivery_t *delivery, apr_time_t now, cs_buf_t *out);
/* When to ask again although nobody signalled; -1: never. */
apr_time_t cs_delivery_deadline(const cs_delivery_t *delivery);
/* `r` may be gone by now. */
void cs_delivery_close(cs_delivery_t *delivery);

#endif
