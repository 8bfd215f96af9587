/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request and its answer. A connection owns one exchange and uses it again for the next request.
 *
 * An answer is a step function that is called whenever everything it said before was sent. It appends to the
 * connection's out buffer through the calls below and says what comes next; it never sends. So a slow client costs no
 * memory.
 *
 *     static up_step_t hello(up_exchange_t *x)
 *     {
 *         up_exchange_head(x, 200, "text/plain", NULL);
 *         up_exchange_body(x, "hello\n", 6);
 *         return UP_END;
 *     }
 */
#ifndef UPSTREAM_EXCHANGE_H
#define UPSTREAM_EXCHANGE_H

#include "conn.h"
#include "dialect.h"
#include "http.h"
#include "params.h"

struct up_exchange_t;
struct up_run_t;

typedef enum up_step_t {
    UP_WROTE, /* send what was appended, then call again */
    UP_WAIT,  /* send what was appended, then wait for up_exchange_resume() or the sleep's end */
    UP_END,   /* the body is complete: end it properly */
    UP_CLOSE, /* send, then FIN, without ending the body */
    UP_CUT    /* send, then reset */
} up_step_t;

typedef enum up_framing_t { UP_CHUNKED, UP_LENGTH, UP_TO_CLOSE, UP_NO_BODY } up_framing_t;

typedef struct up_waiter_t {
    struct up_waiter_t *next;
    struct up_waiter_t **link; /* what points at this waiter; NULL: not waiting */
} up_waiter_t;

typedef struct up_exchange_t {
    up_conn_t *conn;
    up_request_t req;
    up_params_t params;

    up_step_t (*step)(struct up_exchange_t *x);
    up_timer_t timer;
    up_task_t wake;
    bool busy;    /* a request is being answered */
    bool waiting; /* for up_exchange_resume() */
    bool ending;  /* everything is in the out buffer; `last` says what follows */
    bool counted; /* an answer the counters know, of the given epoch */
    bool head_sent;
    bool keep_alive;
    up_step_t last;
    unsigned epoch;
    unsigned conn_epoch; /* the epoch in which this connection was counted */
    uint64_t n;          /* the running request number */

    up_framing_t framing;
    uint64_t length; /* UP_LENGTH: still to be sent */
    bool overrun;    /* UP_LENGTH: more was sent than announced */

    up_speaker_t speaker;
    char *question;       /* malloc'ed, or NULL */
    up_buf_t text;        /* of a JSON answer, or what is left of the echo reply */
    unsigned status;      /* of a JSON answer */
    uint64_t next;        /* the token to come */
    uint64_t started;     /* clock at the first token */
    struct up_run_t *run; /* a script's state */

    up_waiter_t waiter; /* for a signal or a count */
    const char *signal; /* which signal */
    int count;          /* which count, an up_count_t */
    uint64_t wanted;    /* and its value */
} up_exchange_t;

/* Appends the head, framed as x->framing says; `extra` is more header lines or NULL. */
void up_exchange_head(up_exchange_t *x, unsigned status, const char *content_type, const char *extra);

/* Appends a piece of the body. */
void up_exchange_body(up_exchange_t *x, const char *data, size_t len);

/* Appends what ends the body. */
void up_exchange_body_end(up_exchange_t *x);

/* Makes the step function one that answers with this document (which is copied). */
void up_exchange_json(up_exchange_t *x, unsigned status, const char *text, size_t len);
void up_exchange_error(up_exchange_t *x, unsigned status, const char *message);

/* For steps that return UP_WAIT: resume at `due`, or whenever somebody calls up_exchange_resume(). */
void up_exchange_sleep(up_exchange_t *x, uint64_t due);
void up_exchange_resume(up_exchange_t *x);

/* Forgets the request and everything that belonged to its answer. */
void up_exchange_reset(up_exchange_t *x);

void up_waiter_add(up_waiter_t **list, up_waiter_t *waiter);
void up_waiter_remove(up_waiter_t *waiter);

#endif
