/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1 requests, parsed as they come, whole or byte by byte. The head and the (unchunked) body are copied into the
 * request; everything has a bound. After UP_HTTP_DONE the request is valid until up_http_reset().
 *
 *     switch (up_http_parse(&r, data, len, &used)) { ... }
 */
#ifndef UPSTREAM_HTTP_H
#define UPSTREAM_HTTP_H

#include "buf.h"

#include <stdint.h>

#define UP_HTTP_MAX_HEAD 65536
#define UP_HTTP_MAX_BODY (8 * 1024 * 1024)

typedef enum up_http_t {
    UP_HTTP_MORE,     /* all bytes were used, the request is not complete */
    UP_HTTP_CONTINUE, /* like MORE, and the client waits for "100 Continue" */
    UP_HTTP_DONE,
    UP_HTTP_ERROR /* r->error is the status to answer with; the connection cannot go on */
} up_http_t;

typedef struct up_request_t {
    up_buf_t head; /* the method, path and query point into it, NUL-terminated */
    up_buf_t body;
    const char *method;
    const char *path;
    const char *query; /* "" when there is none */
    size_t fields;     /* where the header fields begin in head */
    int minor;         /* HTTP/1.minor */
    int state;
    int error;
    bool keep_alive;
    bool size_over; /* inside a chunk-size line, behind the digits */
    uint64_t left;  /* of the body, or of the chunk */
    size_t line;    /* length of the chunk-size or trailer line so far */
} up_request_t;

up_http_t up_http_parse(up_request_t *r, const char *data, size_t len, size_t *used);

/* Iterates the header fields: name and value are slices of the head. Start with *at = 0; false at the end. */
bool up_http_field(const up_request_t *r, size_t *at, const char **name, size_t *name_len, const char **value,
                   size_t *value_len);

/* The first field of that name (any case), or NULL. */
const char *up_http_header(const up_request_t *r, const char *name, size_t *len);

/* Back to the state before the first byte, keeping no memory. */
void up_http_reset(up_request_t *r);

/* The reason phrase; "Unknown" for a code without one. */
const char *up_http_reason(int status);

#endif
