/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection: bytes in, bytes out, TLS or not, and how it ends. It knows nothing of HTTP; what it has to say it says
 * through the handler. It is made when accepted and frees itself when it is over, after `gone` was called; pointers to
 * it stay readable until the loop's turn ends.
 */
#ifndef UPSTREAM_CONN_H
#define UPSTREAM_CONN_H

#include "buf.h"
#include "loop.h"
#include "tls.h"

struct up_conn_t;

typedef struct up_conn_handler_t {
    void (*opened)(struct up_conn_t *c);
    void (*input)(struct up_conn_t *c);   /* more bytes are in c->in */
    void (*drained)(struct up_conn_t *c); /* what could not be sent at once is sent now */
    void (*gone)(struct up_conn_t *c);    /* the peer left or the connection was ended: the last call */
} up_conn_handler_t;

typedef struct up_conn_t {
    up_source_t source;
    up_timer_t linger;
    up_task_t piece;
    const up_conn_handler_t *handler;
    void *owner; /* the handler's */
    int fd;
    up_tls_t *tls;
    up_buf_t in;  /* the handler consumes */
    up_buf_t out; /* the handler appends, then calls up_conn_flush() */
    size_t split; /* 0, or the length of the pieces to send in */
    bool dead : 1;
    bool blocked : 1;   /* waits for EPOLLOUT */
    bool unread : 1;    /* stopped reading at the bound; up_conn_read_on() goes on */
    bool lingering : 1; /* our side is shut, theirs not yet */
} up_conn_t;

/* Takes the descriptor over, whatever happens. The context is NULL for plain bytes. */
void up_conn_accept(int fd, up_tls_context_t *context, const up_conn_handler_t *handler);

/*
 * Sends what is in c->out. True when nothing is left; false when the rest is sent later (`drained` follows) or the
 * connection died.
 */
bool up_conn_flush(up_conn_t *c);

/* Reads what was left unread because the bound had been reached. */
void up_conn_read_on(up_conn_t *c);

/* Shuts our side and waits two seconds at most for theirs, so that the last bytes are not lost to a reset. */
void up_conn_close(up_conn_t *c);

/* Ends the connection with a reset. */
void up_conn_cut(up_conn_t *c);

/* Ends the connection now. */
void up_conn_drop(up_conn_t *c);

/* How many connections are open. */
unsigned up_conn_open(void);

/* Ends all of them, for a clean exit. */
void up_conn_drop_all(void);

#endif
