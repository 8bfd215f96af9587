/* SPDX-License-Identifier: Apache-2.0 */
#include "event/sse.h"

#include <string.h>

static const char bom[3] = {'\xef', '\xbb', '\xbf'};
#define BOM_DONE 3

void cs_sse_init(cs_sse_t *sse, size_t max_event, cs_frame_fn *fn, void *baton)
{
    sse->fn = fn;
    sse->baton = baton;
    sse->max_event = max_event;
    cs_buf_init(&sse->line, max_event);
    /* One more, because the data buffer ends with an LF that is no part of the event. */
    cs_buf_init(&sse->data, max_event < SIZE_MAX ? max_event + 1 : max_event);
    cs_buf_init(&sse->name, max_event);
    cs_buf_init(&sse->id, max_event);
    cs_sse_reset(sse);
}

void cs_sse_reset(cs_sse_t *sse)
{
    sse->bom = 0;
    sse->after_cr = 0;
    sse->retry = -1;
    cs_buf_recycle(&sse->line);
    cs_buf_recycle(&sse->data);
    cs_buf_recycle(&sse->name);
    cs_buf_recycle(&sse->id);
}

void cs_sse_release(cs_sse_t *sse)
{
    cs_buf_free(&sse->line);
    cs_buf_free(&sse->data);
    cs_buf_free(&sse->name);
    cs_buf_free(&sse->id);
}

static apr_status_t dispatch(cs_sse_t *sse)
{
    apr_status_t rv = APR_SUCCESS;
    if (sse->data.len > 0) {
        cs_frame_t frame = {sse->name.len > 0 ? sse->name.data : "", sse->name.len, sse->data.data, sse->data.len - 1};
        rv = sse->fn(sse->baton, &frame);
        sse->data.len = 0;
    }
    sse->name.len = 0;
    return rv;
}

static apr_status_t replace(cs_buf_t *buf, const char *value, size_t len)
{
    buf->len = 0;
    return cs_buf_append_utf8(buf, value, len);
}

static void set_retry(cs_sse_t *sse, const char *value, size_t len)
{
    int64_t ms = 0;
    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9') {
            return;
        }
        ms = ms > INT32_MAX ? ms : ms * 10 + (value[i] - '0');
    }
    if (len > 0) {
        sse->retry = ms;
    }
}

static apr_status_t take_field(cs_sse_t *sse, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon ? (size_t)(colon - line) : len;
    const char *value = colon ? colon + 1 : line + len;
    size_t value_len = (size_t)(line + len - value);
    if (value_len > 0 && *value == ' ') {
        value++;
        value_len--;
    }
    if (name_len == 4 && memcmp(line, "data", 4) == 0) {
        apr_status_t rv = cs_buf_append_utf8(&sse->data, value, value_len);
        return rv == APR_SUCCESS ? cs_buf_append(&sse->data, "\n", 1) : rv;
    }
    if (name_len == 5 && memcmp(line, "event", 5) == 0) {
        return replace(&sse->name, value, value_len);
    }
    if (name_len == 2 && memcmp(line, "id", 2) == 0 && memchr(value, '\0', value_len) == NULL) {
        return replace(&sse->id, value, value_len);
    }
    if (name_len == 5 && memcmp(line, "retry", 5) == 0) {
        set_retry(sse, value, value_len);
    }
    return APR_SUCCESS;
}

/* `rest` is the line from where the last feed left it. */
static apr_status_t take_line(cs_sse_t *sse, const char *rest, size_t len)
{
    apr_status_t rv;
    if (sse->line.len > 0) {
        rv = cs_buf_append(&sse->line, rest, len);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        rest = sse->line.data;
        len = sse->line.len;
        sse->line.len = 0;
    }
    if (len == 0) {
        return dispatch(sse);
    }
    if (len > sse->max_event) {
        return APR_ENOSPC;
    }
    return *rest == ':' ? APR_SUCCESS : take_field(sse, rest, len);
}

static apr_status_t skip_bom(cs_sse_t *sse, const char **p, const char *end)
{
    while (sse->bom < BOM_DONE && *p < end) {
        if (**p != bom[sse->bom]) {
            apr_status_t rv = cs_buf_append(&sse->line, bom, (size_t)sse->bom);
            sse->bom = BOM_DONE;
            return rv;
        }
        sse->bom++;
        (*p)++;
    }
    return APR_SUCCESS;
}

static const char *find(const char *p, const char *end, char c)
{
    const char *hit = p < end ? memchr(p, c, (size_t)(end - p)) : NULL;
    return hit ? hit : end;
}

apr_status_t cs_sse_feed(cs_sse_t *sse, const char *bytes, size_t len)
{
    if (len == 0) {
        return APR_SUCCESS;
    }
    const char *p = bytes;
    const char *end = bytes + len;
    apr_status_t rv = skip_bom(sse, &p, end);
    if (sse->after_cr && p < end) {
        sse->after_cr = 0;
        p += *p == '\n';
    }
    /* Both positions are remembered, so that a stream with only one kind of line end is not searched again per line. */
    const char *lf = find(p, end, '\n');
    const char *cr = find(p, end, '\r');
    while (rv == APR_SUCCESS && p < end) {
        const char *eol = lf < cr ? lf : cr;
        if (eol == end) {
            return cs_buf_append(&sse->line, p, (size_t)(end - p));
        }
        rv = take_line(sse, p, (size_t)(eol - p));
        p = eol + 1;
        if (eol == cr) {
            sse->after_cr = p == end;
            p += p < end && *p == '\n';
            cr = find(p, end, '\r');
        }
        if (lf < p) {
            lf = find(p, end, '\n');
        }
    }
    return rv;
}

/* Could `line` be the beginning of `field`, or such a field whole? */
static int begins(const cs_buf_t *line, const char *field)
{
    size_t len = strlen(field);
    return line->len > 0 && memcmp(line->data, field, line->len < len ? line->len : len) == 0;
}

apr_status_t cs_sse_finish(cs_sse_t *sse, const char **why)
{
    /* The standard drops an unfinished event without a word; a truthful record needs the word. */
    if (sse->data.len > 0 || sse->name.len > 0 || begins(&sse->line, "data") || begins(&sse->line, "event")) {
        *why = "upstream's answer was cut in the middle of an event";
        return APR_INCOMPLETE;
    }
    return APR_SUCCESS;
}

static void init(void *state, size_t max_event, cs_frame_fn *fn, void *baton)
{
    cs_sse_init(state, max_event, fn, baton);
}

static void reset(void *state)
{
    cs_sse_reset(state);
}

static void release(void *state)
{
    cs_sse_release(state);
}

static apr_status_t feed(void *state, const char *bytes, size_t len)
{
    return cs_sse_feed(state, bytes, len);
}

static apr_status_t finish(void *state, const char **why)
{
    return cs_sse_finish(state, why);
}

const cs_framing_t cs_framing_sse = {sizeof(cs_sse_t), init, reset, release, feed, finish};
