/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format raw: the upstream's own events with our ids, so that a client written for the upstream can resume. What is
 * ours (gap, failure) has an event name of its own; a heartbeat is a comment, because such a client takes every event
 * for one of its upstream's.
 */
#include <string.h>

#include "event/format.h"

static apr_status_t start(cs_buf_t *out, const cs_stream_info_t *info)
{
    (void)out;
    (void)info;
    return APR_SUCCESS;
}

static apr_status_t settle(cs_buf_t *out, size_t before, apr_status_t rv)
{
    if (rv != APR_SUCCESS) {
        out->len = before;
    }
    return rv;
}

static size_t line_len(const char *text, size_t len)
{
    size_t at = 0;
    while (at < len && text[at] != '\n' && text[at] != '\r') {
        at++;
    }
    return at;
}

/*
 * One data line per line. Data that came as SSE holds no CR, but text may, and a CR passed on would end our line: what
 * follows it could then pose as a field.
 */
static apr_status_t put_data(cs_buf_t *out, const char *data, size_t len)
{
    for (;;) {
        size_t run = line_len(data, len);
        apr_status_t rv = run > 0 ? cs_buf_append(out, "data: ", 6) : cs_buf_append(out, "data:", 5);
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append(out, data, run);
        }
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append(out, "\n", 1);
        }
        if (rv != APR_SUCCESS || run == len) {
            return rv;
        }
        run += data[run] == '\r' && run + 1 < len && data[run + 1] == '\n' ? 2 : 1;
        data += run;
        len -= run;
    }
}

static apr_status_t put_name(cs_buf_t *out, const char *name, size_t len)
{
    if (len == 0 || (len == 7 && memcmp(name, "message", 7) == 0)) {
        return APR_SUCCESS;
    }
    apr_status_t rv = cs_buf_append(out, "event: ", 7);
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, name, len);
    }
    return rv == APR_SUCCESS ? cs_buf_append(out, "\n", 1) : rv;
}

static apr_status_t put_event(cs_buf_t *out, const cs_stream_info_t *info, const cs_event_t *event)
{
    size_t before = out->len;
    apr_status_t rv = cs_format_put_id(out, info, event->seq);
    if (rv == APR_SUCCESS) {
        rv = put_name(out, event->name, event->name_len);
    }
    if (rv == APR_SUCCESS) {
        rv = put_data(out, event->data, event->len);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, "\n", 1);
    }
    return settle(out, before, rv);
}

static apr_status_t gap(cs_buf_t *out, const cs_stream_info_t *info, uint64_t from, uint64_t to)
{
    size_t before = out->len;
    apr_status_t rv = cs_format_put_id(out, info, to);
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, "event: gap\ndata: ");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_format_put_gap(out, from, to);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, "\n\n", 2);
    }
    return settle(out, before, rv);
}

static apr_status_t heartbeat(cs_buf_t *out, apr_time_t now)
{
    (void)now;
    return cs_buf_append_str(out, ": heartbeat\n\n");
}

/*
 * A whole answer ends as the upstream ended it; only what the upstream could not say is said here. No seq of its own.
 */
static apr_status_t put_ending(cs_buf_t *out, const cs_stream_info_t *info, const cs_ending_t *ending, uint64_t seq)
{
    size_t before = out->len;
    (void)info;
    (void)seq;
    if (ending->error_code == NULL) {
        return APR_SUCCESS;
    }
    apr_status_t rv = cs_buf_append_str(out, "event: error\ndata: ");
    if (rv == APR_SUCCESS) {
        rv = cs_format_put_error(out, ending);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, "\n\n", 2);
    }
    return settle(out, before, rv);
}

const cs_format_t cs_format_raw = {
    "raw", "text/event-stream", CS_DECODE_RAW, 0, cs_format_put_retry, start, put_event, gap, heartbeat, put_ending,
};
