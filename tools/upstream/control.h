/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The paths that begin with /_ : scripts, signals, counts. They are answered on the same ports and never counted.
 */
#ifndef UPSTREAM_CONTROL_H
#define UPSTREAM_CONTROL_H

#include "exchange.h"

/* Obeys the request and makes the step function its answer's. */
void up_control_begin(up_exchange_t *x);

#endif
