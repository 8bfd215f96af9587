/* SPDX-License-Identifier: Apache-2.0 */
#include "serve.h"

#include "control.h"
#include "counts.h"
#include "exchange.h"
#include "run.h"
#include "stream.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

/* A delayed answer waits before anything else; afterwards it is what it was. */
static up_step_t delayed(up_exchange_t *x)
{
    if (x->params.script[0] != '\0') {
        up_run_begin(x);
    }
    else {
        up_stream_begin(x);
    }
    return UP_WROTE;
}

static up_step_t delay(up_exchange_t *x)
{
    x->step = delayed;
    if (x->params.delay > 0) {
        up_exchange_sleep(x, up_loop_clock() + x->params.delay * UP_MS);
        return UP_WAIT;
    }
    return delayed(x);
}

static void begin_answer(up_exchange_t *x)
{
    const struct up_dialect_t *dialect = up_dialect_find(x->req.path);
    char wrong[256];

    up_counts_begin(x);
    if (dialect == NULL) {
        up_exchange_error(x, 404, "no dialect has this path");
        return;
    }
    if (!up_params_parse(&x->params, x->req.query, wrong, sizeof wrong)) {
        up_exchange_error(x, 400, wrong);
        return;
    }
    if (x->params.close) {
        x->keep_alive = false;
    }
    x->question = up_text_question(up_buf_data(&x->req.body), x->req.body.len);
    up_dialect_start(&x->speaker, dialect, x->n, up_text_words(x->question), x->params.usage);
    x->conn->split = x->params.split;
    up_buf_free(&x->req.body);
    x->step = delay;
}

static void begin(up_exchange_t *x)
{
    x->busy = true;
    x->keep_alive = x->req.keep_alive;
    if (strncmp(x->req.path, "/_", 2) == 0) {
        up_control_begin(x);
    }
    else {
        begin_answer(x);
    }
}

/* True when a whole request was there and its answer has begun. */
static bool next_request(up_exchange_t *x)
{
    up_conn_t *c = x->conn;

    while (!c->dead && !c->lingering && c->in.len > 0) {
        size_t used;
        up_http_t result = up_http_parse(&x->req, up_buf_data(&c->in), c->in.len, &used);

        up_buf_consume(&c->in, used);
        switch (result) {
        case UP_HTTP_DONE:
            begin(x);
            break;
        case UP_HTTP_CONTINUE:
            up_buf_str(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
            if (!up_conn_flush(c)) {
                return false;
            }
            break;
        case UP_HTTP_ERROR:
            x->busy = true;
            x->keep_alive = false;
            up_exchange_error(x, (unsigned)x->req.error, "malformed or oversized request");
            break;
        default:
            break;
        }
        if (x->busy) {
            break;
        }
    }
    if (!c->dead && c->in.len == 0) {
        up_buf_free(&c->in);
    }
    return x->busy;
}

/* Everything was sent. True when the connection stays open for another request. */
static bool finish(up_exchange_t *x)
{
    up_step_t last = x->last;
    bool keep_alive = x->keep_alive;
    up_conn_t *c = x->conn;

    up_counts_end(x, last == UP_END ? UP_OUT_FINISHED : UP_OUT_BROKEN);
    up_exchange_reset(x);
    if (last == UP_CUT) {
        up_conn_cut(c);
        return false;
    }
    if (last == UP_CLOSE || !keep_alive) {
        up_conn_close(c);
        return false;
    }
    return true;
}

static void pump(up_exchange_t *x)
{
    up_conn_t *c = x->conn;

    while (up_conn_flush(c) && x->busy && !x->waiting) {
        up_step_t next;

        if (x->ending) {
            if (!finish(x)) {
                return;
            }
            if (!next_request(x)) {
                up_conn_read_on(c);
                return;
            }
            continue;
        }
        next = x->step(x);
        if (next == UP_WAIT) {
            x->waiting = true;
        }
        else if (next != UP_WROTE) {
            x->ending = true;
            x->last = next;
            if (next == UP_END) {
                up_exchange_body_end(x);
            }
        }
    }
}

static void on_wake(up_task_t *task)
{
    up_exchange_t *x = UP_CONTAINER(task, up_exchange_t, wake);

    x->waiting = false;
    pump(x);
}

static void on_due(up_timer_t *timer)
{
    up_exchange_t *x = UP_CONTAINER(timer, up_exchange_t, timer);

    x->waiting = false;
    pump(x);
}

static void opened(up_conn_t *c)
{
    up_exchange_t *x = up_alloc(sizeof *x);

    c->owner = x;
    x->conn = c;
    x->timer.on_due = on_due;
    x->wake.run = on_wake;
}

static void input(up_conn_t *c)
{
    up_exchange_t *x = c->owner;

    if (!x->busy && next_request(x)) {
        pump(x);
    }
}

static void drained(up_conn_t *c)
{
    pump(c->owner);
}

static void gone(up_conn_t *c)
{
    up_exchange_t *x = c->owner;

    up_counts_end(x, UP_OUT_ABORTED);
    up_exchange_reset(x);
    up_loop_free_later(x);
}

const up_conn_handler_t up_serve_handler = {opened, input, drained, gone};
