/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking sink: the request thread waits for the loop thread's signal, reads the log itself and writes itself. */
#include <stdlib.h>

#include <http_protocol.h>
#include <util_filter.h>

#include "waiter.h"

#define LOOK_AROUND apr_time_from_msec(250) /* HTTP/2 only marks an aborted stream; nobody signals it */

static void close_delivery(void *baton)
{
    cs_delivery_t *delivery = baton;

    cs_delivery_close(delivery);
    free(delivery);
    cs_sink_counted(-1);
}

static apr_time_t next_look(const cs_delivery_t *delivery)
{
    apr_time_t look = cs_clock_mono() + LOOK_AROUND, deadline = cs_delivery_deadline(delivery);

    return deadline >= 0 && deadline < look ? deadline : look;
}

static int deliver(cs_waiter_t *waiter, cs_delivery_t *delivery, request_rec *r)
{
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    cs_buf_t out;
    int here = 1;

    cs_buf_init(&out, SIZE_MAX / 2);
    while (here) {
        cs_delivery_e got = cs_delivery_fill(delivery, cs_clock_mono(), &out);

        if (out.len && (cs_filter_send(r, bb, &out) || r->connection->aborted)) {
            here = 0;
        }
        else if (got == CS_DELIVERY_DONE || got == CS_DELIVERY_ANSWERED) {
            break;
        }
        else if (got == CS_DELIVERY_WAIT && cs_log_want_wake(&delivery->cursor)) {
            here = cs_waiter_wait(waiter, next_look(delivery)) && !r->connection->aborted;
        }
    }
    cs_buf_free(&out);
    return here;
}

int cs_blocking_serve(request_rec *r, const cs_sink_spec_t *spec)
{
    static const cs_push_e push = CS_PUSH_FLUSH;
    cs_delivery_t *delivery = calloc(1, sizeof(*delivery));
    cs_waiter_t *waiter;

    if (!delivery || cs_delivery_open(delivery, r, spec)) {
        free(delivery);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    waiter = cs_waiter_create(delivery->cursor.slot, r->connection->master ? NULL : r->connection);
    if (!waiter) {
        cs_delivery_close(delivery);
        free(delivery);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    cs_sink_counted(1);
    if (spec->format) {
        cs_filter_add(r, &push);
    }
    cs_waiter_begin(waiter, spec->ready ? CS_WAITER_BEFORE_THE_STREAM : CS_WAITER_DURING_THE_STREAM);
    if (spec->ready) {
        spec->ready(spec->baton);
    }
    if (!deliver(waiter, delivery, r) && !r->connection->master) {
        r->connection->aborted = 1;
    }
    cs_waiter_end(waiter, close_delivery, delivery);
    return OK;
}
