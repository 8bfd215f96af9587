/* SPDX-License-Identifier: Apache-2.0 */
/* How much there is in the store: for `chatstreamctl status`. As store.h in everything else. */
#ifndef CS_RECORD_STORE_STATUS_H
#define CS_RECORD_STORE_STATUS_H

#include "store.h"

typedef struct {
    int64_t audit_rows;
    int64_t chains;
    int64_t messages;
} cs_store_rows_t;

cs_store_e cs_store_rows(cs_store_t *store, cs_store_rows_t *rows, char *error, size_t size);
/* Calls `fn` for each status that a session has: how many in all, and how many of them began at `since` or later. */
cs_store_e cs_store_sessions(cs_store_t *store, apr_time_t since,
                             void (*fn)(void *baton, const char *status, int64_t count, int64_t recent), void *baton,
                             char *error, size_t size);
/* How many sessions of the user have not ended. */
cs_store_e cs_store_active(cs_store_t *store, const char *user, int64_t *count, char *error, size_t size);

#endif
