/* SPDX-License-Identifier: Apache-2.0 */
/* format native: the module's own events, section 5 of the design. */
#include <string.h>

#include "event/format.h"

#define MESSAGE "event: message\ndata: "

/* Every byte of an event that is the same for all, and the digits of seq. */
#define FRAME_MAX 160

static char *put_bytes(char *to, const char *bytes, size_t len)
{
    memcpy(to, bytes, len);
    return to + len;
}

#define PUT_LITERAL(to, literal) put_bytes((to), (literal), sizeof(literal) - 1)

static char *put_digits(char *to, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    return put_bytes(to, digits + at, sizeof(digits) - at);
}

/* The event up to its data, built aside: one bounds check instead of five for what is written for every token. */
static apr_status_t put_head(cs_buf_t *out, const cs_stream_info_t *info, uint64_t seq, const char *data, size_t len)
{
    char head[FRAME_MAX];
    char *to = head;
    if (seq > 0) {
        to = PUT_LITERAL(to, "id: ");
        to = put_bytes(to, info->stream_id, CS_UUID_LEN);
        *to++ = ':';
        to = put_digits(to, seq);
        *to++ = '\n';
    }
    to = PUT_LITERAL(to, MESSAGE);
    to = put_bytes(to, data, len);
    return cs_buf_append(out, head, (size_t)(to - head));
}

#define PUT_HEAD(out, info, seq, literal) put_head((out), (info), (seq), (literal), sizeof(literal) - 1)

static apr_status_t close_event(cs_buf_t *out, size_t before, apr_status_t rv, const char *tail, size_t len)
{
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, tail, len);
    }
    if (rv != APR_SUCCESS) {
        out->len = before;
    }
    return rv;
}

static apr_status_t start(cs_buf_t *out, const cs_stream_info_t *info)
{
    size_t before = out->len;
    char created[CS_ISO8601_LEN + 1];
    cs_clock_iso8601(created, info->created_at);
    apr_status_t rv = PUT_HEAD(out, info, 1, "{\"type\":\"start\",\"stream_id\":\"");
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, info->stream_id, CS_UUID_LEN);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, "\",\"created_at\":\"");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, created, CS_ISO8601_LEN);
    }
    return close_event(out, before, rv, "\"}\n\n", 4);
}

static apr_status_t put_token(cs_buf_t *out, const cs_stream_info_t *info, const cs_event_t *event)
{
    size_t before = out->len;
    apr_status_t rv = PUT_HEAD(out, info, event->seq, "{\"type\":\"token\",\"content\":\"");
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json_part(out, event->data, event->len);
    }
    return close_event(out, before, rv, "\"}\n\n", 4);
}

/* The decoder made the data: one object on one line, without a "type". */
static apr_status_t put_metadata(cs_buf_t *out, const cs_stream_info_t *info, const cs_event_t *event)
{
    size_t before = out->len;
    int is_empty = event->len <= 2;
    apr_status_t rv = PUT_HEAD(out, info, event->seq, "{\"type\":\"metadata\"");
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, is_empty ? "}" : ",");
    }
    if (rv == APR_SUCCESS && !is_empty) {
        rv = cs_buf_append(out, event->data + 1, event->len - 1);
    }
    return close_event(out, before, rv, "\n\n", 2);
}

/* Logs of native streams hold none; should one be read as native after all, its text is not lost. */
static apr_status_t put_raw(cs_buf_t *out, const cs_stream_info_t *info, const cs_event_t *event)
{
    size_t before = out->len;
    apr_status_t rv = PUT_HEAD(out, info, event->seq, "{\"type\":\"metadata\",\"upstream_event\":");
    if (rv == APR_SUCCESS) {
        rv = event->name_len > 0 ? cs_buf_append_json(out, event->name, event->name_len)
                                 : cs_buf_append_str(out, "\"message\"");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"data\":");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, event->data, event->len);
    }
    return close_event(out, before, rv, "}\n\n", 3);
}

static apr_status_t put_event(cs_buf_t *out, const cs_stream_info_t *info, const cs_event_t *event)
{
    switch (event->kind) {
    case CS_EVENT_TOKEN:
        return put_token(out, info, event);
    case CS_EVENT_METADATA:
        return put_metadata(out, info, event);
    case CS_EVENT_RAW:
        break;
    }
    return put_raw(out, info, event);
}

static apr_status_t gap(cs_buf_t *out, const cs_stream_info_t *info, uint64_t from, uint64_t to)
{
    size_t before = out->len;
    apr_status_t rv = PUT_HEAD(out, info, to, "");
    if (rv == APR_SUCCESS) {
        rv = cs_format_put_gap(out, from, to);
    }
    return close_event(out, before, rv, "\n\n", 2);
}

static apr_status_t heartbeat(cs_buf_t *out, apr_time_t now)
{
    size_t before = out->len;
    char ts[CS_ISO8601_LEN + 1];
    cs_clock_iso8601(ts, now);
    apr_status_t rv = cs_buf_append_str(out, "event: heartbeat\ndata: {\"ts\":\"");
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, ts, CS_ISO8601_LEN);
    }
    return close_event(out, before, rv, "\"}\n\n", 4);
}

static apr_status_t put_ending(cs_buf_t *out, const cs_stream_info_t *info, const cs_ending_t *ending, uint64_t seq)
{
    size_t before = out->len;
    apr_status_t rv;
    if (ending->error_code != NULL) {
        rv = PUT_HEAD(out, info, seq, "");
        if (rv == APR_SUCCESS) {
            rv = cs_format_put_error(out, ending);
        }
        return close_event(out, before, rv, "\n\n", 2);
    }
    rv = PUT_HEAD(out, info, seq, "{\"type\":\"complete\",");
    if (rv == APR_SUCCESS) {
        rv = cs_format_put_outcome(out, ending);
    }
    return close_event(out, before, rv, "}\n\n", 3);
}

const cs_format_t cs_format_native = {
    "native", "text/event-stream", CS_DECODE_EVENTS, 1, cs_format_put_retry, start, put_event,
    gap,      heartbeat,           put_ending,
};
