/* SPDX-License-Identifier: Apache-2.0 */
/* The half of retention that has no chain to keep whole; the other half is purge.c. */
#ifndef CS_RECORD_PURGE_H
#define CS_RECORD_PURGE_H

#include "store.h"

/*
 * Removes finished sessions that ended before `before` with their messages, and messages of then without a session, a few hundred in
 * a transaction. `sessions` is what was removed, also when it fails on the way.
 */
cs_store_e cs_purge_sessions(cs_store_t *store, apr_time_t before, uint64_t *sessions, char *error, size_t size);

#endif
