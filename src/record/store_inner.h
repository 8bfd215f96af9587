/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the lower files of the store share: the connection, its transaction and statements that have no label. Those
 * that ask and tell (audit, purge, ...) need sql.h only.
 */
#ifndef CS_RECORD_STORE_INNER_H
#define CS_RECORD_STORE_INNER_H

#include <apr_tables.h>

#include "sql.h"

struct cs_store_t {
    apr_pool_t *pool;
    apr_pool_t *scratch; /* of one statement; gives large blocks back to the system */
    apr_pool_t *row;     /* of one fact or one transaction's end: NUL-terminated copies */
    apr_pool_t *trans;   /* of one transaction: heads */
    const apr_dbd_driver_t *driver;
    apr_dbd_t *handle;
    cs_sql_e sql;
    apr_hash_t *prepared; /* of a mod_dbd connection: the site's own statements, and ours; NULL: our own connection */
    apr_dbd_prepared_t *stmt[CS_STMT_COUNT]; /* ours, prepared when first used */
    int parameters[CS_STMT_COUNT];           /* of stmt */
    size_t packet;                           /* MySQL: what the server takes in one; 0: no bound */
    int (*error_code)(void *native);         /* SQLite's own; NULL: not to be had */
    int open;                                /* in a transaction */
    cs_store_e failed;                       /* of the transaction: no commit any more */
    apr_array_header_t *heads;               /* of chains that got rows in this transaction */
};

/* The half of opening that has no connection yet. */
apr_status_t cs_store_make(cs_store_t **out, apr_pool_t *pool, cs_sql_e sql, const apr_dbd_driver_t *driver);

/* A statement without label and parameters; `what` names it in `error`. */
cs_store_e cs_sql_run(cs_store_t *store, const char *what, const char *text, char *error, size_t size);
/* The same with an answer: the first column of the first row, "" when there is none or NULL. */
cs_store_e cs_sql_ask(cs_store_t *store, const char *what, const char *text, char *answer, size_t answer_size,
                      char *error, size_t size);
/* Prepares what will be used in a transaction while there is none: on PostgreSQL a failure would end it. */
cs_store_e cs_sql_prepare(cs_store_t *store, cs_stmt_e first, cs_stmt_e last, char *error, size_t size);
/*
 * After what was LOST: ours are prepared again when next used, for they may be dead: SQLite's driver's die of any
 * change of the schema, and mod_dbd hands out a connection again that its driver has opened anew.
 */
void cs_sql_forget(cs_store_t *store);

/* ---- sql_error.c: the one place that decides ------------------------------------------------------------------------ */

/* Asks the driver's library for error codes that apr_dbd keeps to itself. */
void cs_sql_error_codes(cs_store_t *store);
/*
 * `rc` is what apr_dbd returned. Writes the error line, without anything of `args` in it, and says what the failure is.
 * Within a transaction that one has failed from then on.
 */
cs_store_e cs_sql_failure(cs_store_t *store, const char *what, int rc, const char *const *args, int count, char *error,
                          size_t size);
/* PostgreSQL: the statement could not be prepared because it is. */
int cs_sql_is_duplicate(cs_store_t *store);
/* SQLite: the schema has changed since the statement was compiled; it did nothing. */
int cs_sql_is_stale(cs_store_t *store, int rc);

#endif
