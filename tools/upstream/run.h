/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An answer that follows a script.
 */
#ifndef UPSTREAM_RUN_H
#define UPSTREAM_RUN_H

#include "exchange.h"

typedef struct up_run_t up_run_t;

/* Makes the step function the one that follows the script named in x->params; a 404 when there is no such script. */
void up_run_begin(up_exchange_t *x);

/* Accepts NULL. */
void up_run_free(up_run_t *run);

/* Frees what the room keeps between calls, at the end of the process. */
void up_run_forget(void);

#endif
