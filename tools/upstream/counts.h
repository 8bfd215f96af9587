/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happened: counters, the last requests, and those who wait for a count. POST /_reset begins a new epoch; answers
 * of an older epoch go on but count no more.
 */
#ifndef UPSTREAM_COUNTS_H
#define UPSTREAM_COUNTS_H

#include "exchange.h"

typedef enum up_count_t { UP_REQUESTS, UP_ACTIVE, UP_FINISHED, UP_ABORTED, UP_COUNTS } up_count_t;
typedef enum up_outcome_t { UP_OUT_FINISHED, UP_OUT_ABORTED, UP_OUT_BROKEN } up_outcome_t;

/* Gives the request its number and remembers it. */
void up_counts_begin(up_exchange_t *x);

/* UP_OUT_BROKEN: the script ended the connection itself, which counts neither as finished nor as aborted. */
void up_counts_end(up_exchange_t *x, up_outcome_t outcome);

void up_counts_reset(void);

/* The documents of /_count and /_requests. */
void up_counts_report(up_buf_t *out);
void up_counts_requests(up_buf_t *out);

/* Makes the step function one that waits until the count is reached, `timeout` ms at most. */
void up_counts_wait(up_exchange_t *x, up_count_t which, uint64_t wanted, uint64_t timeout);

/* Frees the remembered requests. */
void up_counts_free(void);

#endif
