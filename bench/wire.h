/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h: follows the framing of HTTP/1.1 responses on one connection, bytes in any portions.
 *
 * Shared by the load client (which wants the body) and the bare relay (which only wants to know where a response
 * ends), hence header-only. One wire_t per connection, owned by the caller, no allocation.
 *
 *     wire_reset(&w);
 *     while (n > 0 && w.state != WIRE_DONE && w.state != WIRE_BAD) {
 *         size_t used = wire_next(&w, p, n, &body, &body_len);    body_len is 0 when these bytes were framing
 *         p += used; n -= used;
 *     }
 *     at end of file: wire_eof(&w) says whether the response was whole
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE             /* strcasestr; so this header comes first */
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef enum {
    WIRE_HEAD, WIRE_CHUNK_SIZE, WIRE_CHUNK_DATA, WIRE_CHUNK_END, WIRE_TRAILER, WIRE_LENGTH, WIRE_UNTIL_CLOSE,
    WIRE_DONE, WIRE_BAD
} wire_state_t;

typedef struct {
    wire_state_t state;
    bool started;           /* a byte of this response was seen */
    bool keep;              /* the connection may be used again after the end */
    bool chunked;
    bool has_length;
    int status;             /* 0 until the status line was read */
    uint64_t left;          /* bytes left of the chunk or of the body */
    uint32_t line_len;      /* of the line being collected; what does not fit is dropped, only beginnings matter */
    char line[120];
} wire_t;

static inline void wire_reset(wire_t *w)
{
    memset(w, 0, offsetof(wire_t, line));
}

/* True when the response is whole although the peer closed: only a body that is delimited by the close is. */
static inline bool wire_eof(wire_t *w)
{
    w->keep = false;
    if (w->state == WIRE_UNTIL_CLOSE)
        w->state = WIRE_DONE;
    return w->state == WIRE_DONE;
}

/* Collects one line; *used is what was taken. True when w->line holds a whole line, NUL-terminated, without CRLF. */
static inline bool wire_line(wire_t *w, const char *p, size_t n, size_t *used)
{
    const char *lf = memchr(p, '\n', n);
    size_t len = lf ? (size_t)(lf - p) : n;
    size_t room = sizeof(w->line) - 1 - w->line_len;
    size_t copy = len < room ? len : room;

    memcpy(w->line + w->line_len, p, copy);
    w->line_len += (uint32_t)copy;
    *used = lf ? len + 1 : len;
    if (!lf)
        return false;
    if (w->line_len > 0 && w->line[w->line_len - 1] == '\r')
        w->line_len--;
    w->line[w->line_len] = '\0';
    w->line_len = 0;
    return true;
}

static inline void wire_body_start(wire_t *w)
{
    if (w->status / 100 == 1) {
        w->status = 0;
        return;
    }
    if (w->status == 204 || w->status == 304)
        w->state = WIRE_DONE;
    else if (w->chunked)
        w->state = WIRE_CHUNK_SIZE;
    else if (w->has_length)
        w->state = w->left ? WIRE_LENGTH : WIRE_DONE;
    else {
        w->keep = false;
        w->state = WIRE_UNTIL_CLOSE;
    }
}

static inline void wire_head_line(wire_t *w)
{
    const char *line = w->line;

    if (w->status == 0) {
        if (strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12)
            w->state = WIRE_BAD;
        else {
            w->status = atoi(line + 9);
            w->keep = line[7] == '1';
        }
    }
    else if (line[0] == '\0')
        wire_body_start(w);
    else if (strncasecmp(line, "transfer-encoding:", 18) == 0)
        w->chunked = strcasestr(line + 18, "chunked") != NULL;
    else if (strncasecmp(line, "content-length:", 15) == 0) {
        w->left = strtoull(line + 15, NULL, 10);
        w->has_length = true;
    }
    else if (strncasecmp(line, "connection:", 11) == 0 && strcasestr(line + 11, "close"))
        w->keep = false;
}

static inline void wire_framing_line(wire_t *w)
{
    char *end;

    switch (w->state) {
    case WIRE_HEAD:
        wire_head_line(w);
        break;
    case WIRE_CHUNK_SIZE:
        w->left = strtoull(w->line, &end, 16);
        if (end == w->line)
            w->state = WIRE_BAD;
        else
            w->state = w->left ? WIRE_CHUNK_DATA : WIRE_TRAILER;
        break;
    case WIRE_CHUNK_END:
        w->state = w->line[0] == '\0' ? WIRE_CHUNK_SIZE : WIRE_BAD;
        break;
    case WIRE_TRAILER:
        if (w->line[0] == '\0')
            w->state = WIRE_DONE;
        break;
    default:
        w->state = WIRE_BAD;
    }
}

/* Takes one step, n > 0, not in WIRE_DONE or WIRE_BAD. Returns the bytes taken, at least 1. */
static inline size_t wire_next(wire_t *w, const char *p, size_t n, const char **body, size_t *body_len)
{
    size_t used = n;

    w->started = true;
    *body_len = 0;
    switch (w->state) {
    case WIRE_CHUNK_DATA:
    case WIRE_LENGTH:
        if (used > w->left)
            used = (size_t)w->left;
        w->left -= used;
        *body = p;
        *body_len = used;
        if (w->left == 0)
            w->state = w->state == WIRE_LENGTH ? WIRE_DONE : WIRE_CHUNK_END;
        return used;
    case WIRE_UNTIL_CLOSE:
        *body = p;
        *body_len = n;
        return n;
    default:
        if (wire_line(w, p, n, &used))
            wire_framing_line(w);
        return used;
    }
}

#endif
