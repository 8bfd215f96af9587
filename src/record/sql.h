/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One statement by its place in the table of statements (statements.h). Arguments and columns are texts, NULL for NULL; the statements cast
 * where the database is strict. For the files of the store only.
 */
#ifndef CS_RECORD_SQL_H
#define CS_RECORD_SQL_H

#include "statements.h"
#include "store.h"

/* `affected`: rows, may be NULL. */
cs_store_e cs_sql_exec(cs_store_t *store, cs_stmt_e stmt, const char *const *args, int *affected, char *error,
                       size_t size);
/*
 * `columns` live until `row` returns. Non-zero from `row` stops reading (the rest is discarded, the result is OK). Within or outside
 * of a transaction.
 */
cs_store_e cs_sql_select(cs_store_t *store, cs_stmt_e stmt, const char *const *args,
                         int (*row)(void *baton, const char *const *columns), void *baton, char *error, size_t size);
/* "17", in a buffer of the caller's; "-9223372036854775808" (CS_NUM_NONE) becomes NULL. */
#define CS_SQL_NUMBER 24
const char *cs_sql_number(char buf[CS_SQL_NUMBER], int64_t value);
/* Wall clock as the statements take it: ISO 8601 with microseconds, UTC. */
#define CS_SQL_TIME 28
const char *cs_sql_time(char buf[CS_SQL_TIME], apr_time_t when);

#endif
