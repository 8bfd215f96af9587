/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ndjson: one JSON value per line, LF or CRLF. Blank lines mean nothing. Whether a line is JSON is for the dialect to
 * say, which is why a last line without its LF is passed on at the end: cut JSON will not parse.
 */
#include "event/framing.h"

#include <string.h>

typedef struct {
    cs_frame_fn *fn;
    void *baton;
    size_t max_event;
    cs_buf_t line;     /* the unfinished line */
    cs_buf_t repaired; /* a line that was not UTF-8 */
} ndjson_t;

static void init(void *state, size_t max_event, cs_frame_fn *fn, void *baton)
{
    ndjson_t *nd = state;
    nd->fn = fn;
    nd->baton = baton;
    nd->max_event = max_event;
    cs_buf_init(&nd->line, max_event);
    cs_buf_init(&nd->repaired, max_event);
}

static void reset(void *state)
{
    ndjson_t *nd = state;
    cs_buf_recycle(&nd->line);
    cs_buf_recycle(&nd->repaired);
}

static void release(void *state)
{
    ndjson_t *nd = state;
    cs_buf_free(&nd->line);
    cs_buf_free(&nd->repaired);
}

static int is_blank(const char *line, size_t len)
{
    while (len > 0 && (*line == ' ' || *line == '\t' || *line == '\r')) {
        line++;
        len--;
    }
    return len == 0;
}

static apr_status_t take_line(ndjson_t *nd, const char *line, size_t len)
{
    if (nd->line.len > 0) {
        apr_status_t rv = cs_buf_append(&nd->line, line, len);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        line = nd->line.data;
        len = nd->line.len;
        nd->line.len = 0;
    }
    if (len > nd->max_event) {
        return APR_ENOSPC;
    }
    if (len > 0 && line[len - 1] == '\r') {
        len--;
    }
    if (is_blank(line, len)) {
        return APR_SUCCESS;
    }
    if (!cs_utf8_valid(line, len)) {
        nd->repaired.len = 0;
        apr_status_t rv = cs_utf8_append_repaired(&nd->repaired, line, len);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        line = nd->repaired.data;
        len = nd->repaired.len;
    }
    cs_frame_t frame = {"", 0, line, len};
    return nd->fn(nd->baton, &frame);
}

static apr_status_t feed(void *state, const char *bytes, size_t len)
{
    ndjson_t *nd = state;
    while (len > 0) {
        const char *lf = memchr(bytes, '\n', len);
        if (lf == NULL) {
            return cs_buf_append(&nd->line, bytes, len);
        }
        apr_status_t rv = take_line(nd, bytes, (size_t)(lf - bytes));
        if (rv != APR_SUCCESS) {
            return rv;
        }
        len -= (size_t)(lf + 1 - bytes);
        bytes = lf + 1;
    }
    return APR_SUCCESS;
}

static apr_status_t finish(void *state, const char **why)
{
    *why = NULL;
    return take_line(state, "", 0);
}

const cs_framing_t cs_framing_ndjson = {sizeof(ndjson_t), init, reset, release, feed, finish};
