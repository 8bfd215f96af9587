/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer that the query string describes: so many tokens, this big, this fast.
 */
#ifndef UPSTREAM_STREAM_H
#define UPSTREAM_STREAM_H

#include "exchange.h"

/* Makes the step function the one for x->params; the speaker must be ready. */
void up_stream_begin(up_exchange_t *x);

/* Frees what the room keeps between calls, at the end of the process. */
void up_stream_free(void);

#endif
