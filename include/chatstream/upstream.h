/* SPDX-License-Identifier: Apache-2.0 */
/*
 * upstream: the event loop of a child and the HTTP transfers it runs. The only room that knows libcurl.
 *
 * One thread runs the loop; everything here except cs_loop_post, cs_loop_stop and the functions marked "start-up" belongs to that
 * thread. Callbacks run on it and must not block.
 *
 *     request thread: cs_loop_post(loop, &task)
 *     loop thread:    task.run -> cs_transfer_start(...) -> headers, data, data, done
 */
#ifndef CHATSTREAM_UPSTREAM_H
#define CHATSTREAM_UPSTREAM_H

#include <apr_pools.h>

#include "chatstream/core.h"
#include "chatstream/event.h"

/* ---- loop -------------------------------------------------------------------------------------------------------- */

typedef struct cs_loop_t cs_loop_t;

/* What wakes the loop from outside: an eventfd somebody else owns, shared with what other processes tell this child. */
typedef struct {
    int fd;
    void (*wake)(void *baton);    /* any thread: makes fd readable */
    void (*drained)(void *baton); /* loop thread: fd was readable; must read it */
    void (*after)(void *baton);   /* loop thread: after each callback: do what it left to do */
    void *baton;
} cs_loop_wake_t;

apr_status_t cs_loop_create(cs_loop_t **out, const cs_loop_wake_t *wake);
void cs_loop_destroy(cs_loop_t *loop);
/* Runs until cs_loop_stop. The calling thread is the loop thread. */
void cs_loop_run(cs_loop_t *loop);
/* Any thread. */
void cs_loop_stop(cs_loop_t *loop);
/* Monotonic time as of the current round. */
apr_time_t cs_loop_now(const cs_loop_t *loop);

/* Work for the loop thread; lives in the poster's own struct and is free again when run() is called. */
typedef struct cs_task_t {
    struct cs_task_t *next;
    void (*run)(void *baton);
    void *baton;
} cs_task_t;

/* Any thread. Tasks of one thread run in the order of their posting. */
void cs_loop_post(cs_loop_t *loop, cs_task_t *task);

typedef struct {
    int fd; /* -1: not watched */
    void (*ready)(void *baton, uint32_t epoll_events);
    void *baton;
} cs_fd_watch_t;

/* `events` as for epoll. */
apr_status_t cs_loop_watch_fd(cs_loop_t *loop, cs_fd_watch_t *watch, uint32_t events);
apr_status_t cs_loop_rewatch_fd(cs_loop_t *loop, cs_fd_watch_t *watch, uint32_t events);
/* Before the fd is closed. No ready() comes any more, not even one that epoll has already reported. */
void cs_loop_unwatch_fd(cs_loop_t *loop, cs_fd_watch_t *watch);
/* The same for an fd that is closed right after this, for good: saves a system call. */
void cs_loop_forget_fd(cs_loop_t *loop, cs_fd_watch_t *watch);

typedef struct {
    apr_time_t when;
    uint32_t index; /* the heap's: place + 1; 0: not set */
    void (*fire)(void *baton);
    void *baton;
} cs_timer_t;

/* Sets or moves a timer; fires once, at or after `when` (monotonic), to the millisecond. */
void cs_loop_timer_set(cs_loop_t *loop, cs_timer_t *timer, apr_time_t when);
void cs_loop_timer_clear(cs_loop_t *loop, cs_timer_t *timer);

/* ---- where requests go (start-up) -------------------------------------------------------------------------------- */

typedef struct {
    const char *name;        /* for logs: scheme, host, port and path; no query, no user info */
    const char *url;         /* for libcurl */
    const char *host;        /* the header */
    const char *target;      /* path and query */
    const char *unix_socket; /* NULL: TCP */
    const char *ca_file;     /* NULL: the system's */
    const cs_dialect_t *dialect;
    apr_time_t connect_timeout;
    int is_tls;
    int backup;
    unsigned index; /* place in the engine's table of connections */
} cs_upstream_t;

/* Checks and takes apart `http[s]://…` or `unix:/path|http://host/path`. NULL: fine, else what is wrong with it. */
const char *cs_upstream_parse(apr_pool_t *pool, const char *text, cs_upstream_t *upstream);

/* ---- fetching --------------------------------------------------------------------------------------------------- */

/*
 * GETs a small document, such as a key set; any thread that may block, for at most `timeout` microseconds. `out` bounds its size.
 * `error`: libcurl's words. Appended is what came, also before a failure.
 */
apr_status_t cs_fetch(const char *url, const char *ca_file, apr_time_t timeout, cs_buf_t *out, char *error,
                      size_t size);

/* ---- request templates ------------------------------------------------------------------------------------------- */

/*
 * The upstream request of ChatStreamRequestTemplate. The file is JSON; in it {message}, {history}, {user},
 * {user_email}, {user_role}, {conversation_id} and {model} stand for the question's values:
 *
 *     "prompt": "{message}"            the whole string is a placeholder: the value as JSON, null when absent
 *     "prompt": "Answer: {message}"    part of a string: the value's text, nothing when absent; {history} as its JSON
 *     text
 *
 * Keys stay as they are. Values are escaped, and never looked at again for placeholders, so nothing can be injected.
 *
 * A template is compiled once, at start-up, into pieces that no one writes to afterwards: any thread may render it.
 */
typedef struct cs_template_t cs_template_t;

/*
 * `text` is the file's content. APR_EINVAL: it is no JSON; `error` then says what is wrong and where, in one line.
 * `*out` is freed with cs_template_destroy.
 */
apr_status_t cs_template_create(cs_template_t **out, const char *text, size_t len, char *error, size_t error_size);
void cs_template_destroy(cs_template_t *tmpl);

/*
 * Appends the request body. APR_ENOSPC when `out` is full, APR_EINVAL when the history is not JSON; `out` is then as
 * before.
 */
apr_status_t cs_template_render(const cs_template_t *tmpl, const cs_question_t *question, cs_buf_t *out);

/* ---- transfers --------------------------------------------------------------------------------------------------- */

typedef struct cs_engine_t cs_engine_t;
typedef struct cs_transfer_t cs_transfer_t;

apr_status_t cs_engine_create(cs_engine_t **out, cs_loop_t *loop);
/* Aborts what still runs, without callbacks. */
void cs_engine_destroy(cs_engine_t *engine);

typedef struct {
    char *body; /* JSON, malloc'ed; the transfer takes it over, also when it cannot start */
    size_t body_len;
    const char *stream_id;      /* X-Request-Id */
    const char *traceparent;    /* NULL: none */
    const char *const *headers; /* "Name: value", NULL-terminated; ChatStreamUpstreamHeader */
} cs_transfer_request_t;

typedef enum { CS_FLOW_ON, CS_FLOW_PAUSE, CS_FLOW_STOP } cs_flow_e;

typedef enum {
    CS_TRANSFER_WHOLE,   /* the response came to its end as HTTP says */
    CS_TRANSFER_CONNECT, /* no connection: refused, unreachable, name unknown, TLS or certificate */
    CS_TRANSFER_CONNECT_TIMEOUT,
    CS_TRANSFER_CUT,     /* the connection ended too early, before or in the response */
    CS_TRANSFER_GARBAGE, /* not HTTP */
    CS_TRANSFER_STOPPED  /* a callback said so */
} cs_transfer_end_e;

typedef struct {
    /* A response's status and Retry-After (0: none) are known; data follows, if any. */
    cs_flow_e (*headers)(void *baton, int status, int retry_after);
    /* PAUSE: not taken, the same bytes come again after cs_transfer_resume. */
    cs_flow_e (*data)(void *baton, const char *bytes, size_t len);
    /* `reason`: static words, libcurl's or ours. The transfer is gone. */
    void (*done)(void *baton, cs_transfer_end_e end, const char *reason);
} cs_transfer_events_t;

/* APR_ENOMEM and the like; then nothing is called. */
apr_status_t cs_transfer_start(cs_transfer_t **out, cs_engine_t *engine, const cs_upstream_t *upstream,
                               const cs_transfer_request_t *request, const cs_transfer_events_t *events, void *baton);
void cs_transfer_resume(cs_transfer_t *transfer);
/* Closes the connection at once; no callback comes any more. Not from inside headers() or data(). NULL is fine. */
void cs_transfer_abort(cs_transfer_t *transfer);
/* The answer is known: reads what little is left so that the connection can serve again. No callback comes any more. */
void cs_transfer_let_go(cs_transfer_t *transfer);

#endif
