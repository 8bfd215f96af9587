/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http1: reads one HTTP/1.1 response (RFC 9112) as it arrives, cut anywhere. Knows no sockets.
 *
 *     cs_http1_t http = { 0 };
 *     cs_http1_init(&http, &events, baton);
 *     while (... bytes arrive ...) {
 *         result = cs_http1_feed(&http, bytes, len, &consumed);
 *     }
 *     cs_http1_release(&http);
 *
 * The body is handed on where it lies; nothing of it is kept. Only a line of the head that arrives in pieces is collected.
 * Interim responses (1xx) are skipped, all but 101: we never ask for another protocol, so that one is final.
 */
#ifndef CS_UPSTREAM_HTTP1_H
#define CS_UPSTREAM_HTTP1_H

#include "chatstream/upstream.h"

#define CS_HTTP1_HEAD_MAX 65536 /* bytes of all heads and trailers of a response */

typedef enum {
    CS_HTTP1_MORE,    /* all was taken, and it is not the end */
    CS_HTTP1_DONE,    /* the response is whole; what was not consumed does not belong to it */
    CS_HTTP1_PAUSED,  /* body() did not take it: feed again what was not consumed */
    CS_HTTP1_STOPPED, /* a callback said so */
    CS_HTTP1_GARBAGE  /* `error` says why */
} cs_http1_e;

typedef struct {
    cs_flow_e (*head)(void *baton); /* status and retry_after are known; PAUSE means ON */
    cs_flow_e (*body)(void *baton, const char *bytes, size_t len);
} cs_http1_events_t;

typedef struct {
    int status;
    char retry_after[40]; /* as it came; empty: none, or too long to mean anything */
    const char *error;    /* static words */

    /* private */
    const cs_http1_events_t *events;
    void *baton;
    cs_buf_t line; /* the beginning of a line whose end has not come */
    size_t head_len;
    uint64_t left; /* of the body, or of the chunk */
    uint64_t length;
    unsigned chunk_line; /* bytes of the chunk's size line */
    unsigned char state;
    unsigned char header; /* the last one's: whether a folded line would change what we know */
    unsigned char minor, has_length, chunked, says_close, says_keep, until_close;
} cs_http1_t;

/* `http` is zeroed, or was used before: then it keeps its memory. */
void cs_http1_init(cs_http1_t *http, const cs_http1_events_t *events, void *baton);
void cs_http1_release(cs_http1_t *http);
cs_http1_e cs_http1_feed(cs_http1_t *http, const char *bytes, size_t len, size_t *consumed);
/* The connection came to an orderly end. DONE when that is how this response ends, else MORE: it was cut. */
cs_http1_e cs_http1_finish(const cs_http1_t *http);
/* After DONE: whether the connection may serve again. */
int cs_http1_reusable(const cs_http1_t *http);

#endif
