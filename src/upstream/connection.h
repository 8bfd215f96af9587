/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connection: a connection to an upstream, made by libcurl, kept for the next transfer when it may serve again. Loop thread.
 *
 *     conn = cs_connection_take(engine, upstream, CS_CONNECTION_ANY, &events, baton);
 *     if (cs_connection_is_open(conn)) { send at once } else { opened() or failed() follows }
 *     ...
 *     cs_connection_keep(conn) or cs_connection_close(conn)
 *
 * A connection that nobody uses stays in epoll: as soon as it speaks or is closed, it is dropped.
 */
#ifndef CS_UPSTREAM_CONNECTION_H
#define CS_UPSTREAM_CONNECTION_H

#include <sys/uio.h>

#include "engine.h"

typedef struct cs_connection_t cs_connection_t;

typedef struct {
    void (*opened)(void *baton);
    void (*failed)(void *baton, CURLcode code); /* the connection is gone */
    void (*writable)(void *baton);              /* must not close the connection */
    void (*readable)(void *baton);
} cs_connection_events_t;

typedef enum { CS_CONNECTION_ANY, CS_CONNECTION_NEW } cs_connection_which_e;

typedef enum {
    CS_IO_OK,
    CS_IO_AGAIN, /* nothing went through now */
    CS_IO_END,   /* recv: an orderly end */
    CS_IO_FAILED
} cs_io_e;

/* NULL: no memory. */
cs_connection_t *cs_connection_take(cs_engine_t *engine, const cs_upstream_t *upstream, cs_connection_which_e which,
                                    const cs_connection_events_t *events, void *baton);
int cs_connection_is_open(const cs_connection_t *conn);
/* It served before, so the upstream may have closed it meanwhile. */
int cs_connection_is_reused(const cs_connection_t *conn);
/* Not in the middle of a call to libcurl: see engine.c. */
void cs_connection_close(cs_connection_t *conn);
void cs_connection_keep(cs_connection_t *conn);
void cs_connection_watch(cs_connection_t *conn, uint32_t epoll_events); /* 0: none, not even a hang-up */
/* readable() follows in the next round, whatever the socket says. */
void cs_connection_again(cs_connection_t *conn);

/* After AGAIN, the same bytes must come again from the same place: TLS insists. `len` is what went through. */
cs_io_e cs_connection_send(cs_connection_t *conn, const struct iovec *bytes, int count, size_t *len);
cs_io_e cs_connection_recv(cs_connection_t *conn, char *buffer, size_t size, size_t *len);
/* Whether more may wait inside TLS, where epoll does not see it: read until AGAIN. */
int cs_connection_hides_bytes(const cs_connection_t *conn);

/* For engine.c: libcurl has made the connection, or not. */
void cs_connection_made(CURL *easy, CURLcode code);
void cs_connection_drop_all(cs_engine_t *engine);

#endif
