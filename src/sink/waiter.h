/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a request thread waits for what happens to a slot. The waiter lives on the C heap and is touched by both threads: the request
 * thread makes it, begins it and waits; the loop thread watches the slot. When the stream has ended the loop lets go by itself;
 * then the request thread frees the waiter without asking the loop, else it posts the end.
 *
 *     waiter = cs_waiter_create(slot, client)     request thread
 *     cs_waiter_begin(waiter, ...)
 *     while (...) cs_waiter_wait(waiter, until)
 *     cs_waiter_end(waiter, close, baton)         close(baton) runs on either thread
 *  or cs_waiter_dismiss(waiter)                   loop thread, after a hand-over
 */
#ifndef CS_SINK_WAITER_H
#define CS_SINK_WAITER_H

#include "sink.h"

typedef struct cs_waiter_t cs_waiter_t;

/* `client`: notice when it closes its connection; NULL: do not. NULL when out of memory. */
cs_waiter_t *cs_waiter_create(uint32_t slot, conn_rec *client);
typedef enum { CS_WAITER_BEFORE_THE_STREAM, CS_WAITER_DURING_THE_STREAM } cs_waiter_begin_e;
/* Posts it to the loop, ahead of a stream that is started afterwards. */
void cs_waiter_begin(cs_waiter_t *waiter, cs_waiter_begin_e when);
/* Until the stream is active and its slot changes, the client leaves, or `until` (monotonic). 0: the client is gone. */
int cs_waiter_wait(cs_waiter_t *waiter, apr_time_t until);
/* The waiter is not the caller's any more. `close` runs when the slot is no longer watched: at once, or on the loop thread. */
void cs_waiter_end(cs_waiter_t *waiter, void (*close)(void *baton), void *baton);
/* Loop thread. */
void cs_waiter_dismiss(cs_waiter_t *waiter);

#endif
