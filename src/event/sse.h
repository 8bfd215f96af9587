/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sse: the parser of WHATWG HTML section 9.2.6, "Interpreting an event stream". Incremental: the stream may be cut
 * anywhere, also between CR and LF or inside the byte order mark.
 */
#ifndef CHATSTREAM_EVENT_SSE_H
#define CHATSTREAM_EVENT_SSE_H

#include "event/framing.h"

typedef struct {
    cs_frame_fn *fn;
    void *baton;
    size_t max_event;
    int bom;       /* bytes of the byte order mark seen; BOM_DONE: no longer looked for */
    int after_cr;  /* the bytes so far end with CR: an LF now belongs to it */
    int64_t retry; /* -1: not given */
    cs_buf_t line; /* the unfinished line */
    cs_buf_t data; /* each data line with an LF behind it, as the standard's "data buffer" */
    cs_buf_t name; /* "event type buffer" */
    cs_buf_t id;   /* "last event ID buffer" */
} cs_sse_t;

void cs_sse_init(cs_sse_t *sse, size_t max_event, cs_frame_fn *fn, void *baton);
void cs_sse_reset(cs_sse_t *sse);
void cs_sse_release(cs_sse_t *sse);
apr_status_t cs_sse_feed(cs_sse_t *sse, const char *bytes, size_t len);
apr_status_t cs_sse_finish(cs_sse_t *sse, const char **why);

#endif
