/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named, sticky signals: how a test and a script shake hands instead of sleeping.
 */
#ifndef UPSTREAM_SIGNALS_H
#define UPSTREAM_SIGNALS_H

#include "exchange.h"

/* Raises a signal and wakes all who wait for it; it stays raised. False when there are too many. */
bool up_signals_raise(const char *name);

void up_signals_lower(const char *name);
void up_signals_lower_all(void);

/* True when the signal is raised; otherwise the exchange is resumed when it is. The name must stay valid until then. */
bool up_signals_wait(up_exchange_t *x, const char *name);

#endif
