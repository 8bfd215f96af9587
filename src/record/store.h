/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: facts in a SQL database, through apr_dbd. Knows no server: the recorder gives it mod_dbd's connections, chatstreamctl
 * its own.
 *
 * Every statement has a label `chatstream_<name>`, a text for each dialect and parameters in a fixed order (statements.h); a site that
 * keeps its own schema overrides one with DBDPrepareSQL.
 *
 * One thread at a time uses a store. Times are wall clock microseconds. `error` is one line for a log: the driver's words and the label,
 * never a value.
 */
#ifndef CS_RECORD_STORE_H
#define CS_RECORD_STORE_H

#include <apr_dbd.h>
#include <apr_hash.h>
#include <apr_pools.h>

#include "fact.h"

typedef enum { CS_SQL_SQLITE3, CS_SQL_PGSQL, CS_SQL_MYSQL } cs_sql_e;

/* apr_dbd's driver name -> dialect. APR_ENOTIMPL: none of ours. */
apr_status_t cs_sql_of_driver(cs_sql_e *sql, const char *driver);

typedef struct cs_store_t cs_store_t;

/* ---- opening ------------------------------------------------------------------------------------------------------ */

/* On a connection somebody else keeps (mod_dbd's). `prepared`: label -> apr_dbd_prepared_t. Everything dies with `pool`. */
apr_status_t cs_store_wrap(cs_store_t **out, apr_pool_t *pool, const apr_dbd_driver_t *driver, apr_dbd_t *handle,
                           apr_hash_t *prepared, char *error, size_t size);
/* A connection of its own, prepared lazily; closed with the pool. SQLite gets WAL and a busy time-out. */
apr_status_t cs_store_open(cs_store_t **out, apr_pool_t *pool, const char *driver, const char *params, char *error,
                           size_t size);
cs_sql_e cs_store_sql(const cs_store_t *store);

/* For ap_dbd_prepare at start-up: calls `fn` with each label and its default text in the dialect. */
void cs_store_statements(cs_sql_e sql, void (*fn)(void *baton, const char *label, const char *text), void *baton);
/* Creates what is missing, as conf/sql/<dialect>.sql says; harmless when all is there, also from two processes at once. */
apr_status_t cs_store_migrate(cs_store_t *store, char *error, size_t size);
/* The schema's version, 0: none. */
apr_status_t cs_store_version(cs_store_t *store, int *version, char *error, size_t size);

/* ---- applying ----------------------------------------------------------------------------------------------------- */

/*
 * What went wrong tells what to do. LOST: the connection or the server is gone, locked, full: rewind, open again, try later.
 * REFUSED: the database understood and will not take this row, ever (a constraint, a value its schema has no room for).
 */
typedef enum { CS_STORE_OK, CS_STORE_LOST, CS_STORE_REFUSED } cs_store_e;

cs_store_e cs_store_begin(cs_store_t *store, char *error, size_t size);
/* Idempotent: a fact that is there already changes nothing. `chain` is the journal's. */
cs_store_e cs_store_apply(cs_store_t *store, const char *chain, const char *node, const cs_fact_t *fact, char *error,
                          size_t size);
/* Writes the heads of the chains whose rows were applied, then commits. */
cs_store_e cs_store_commit(cs_store_t *store, char *error, size_t size);
void cs_store_rollback(cs_store_t *store);

/* ---- audit -------------------------------------------------------------------------------------------------------- */

#include "chain.h"
#include "journal.h"

typedef struct {
    const char *event, *user, *stream_id; /* NULL: any */
    apr_time_t from, until;               /* 0: open */
    int64_t after_id;                     /* paging: rows with a larger id */
    int limit;                            /* at most 1000 */
} cs_audit_filter_t;

/* In the order of `id`. Non-zero from `fn` stops. */
cs_store_e cs_store_audit(cs_store_t *store, const cs_audit_filter_t *filter,
                          int (*fn)(void *baton, int64_t id, const cs_audit_row_t *row), void *baton, char *error,
                          size_t size);

typedef struct {
    uint64_t rows, chains, erased;
    unsigned findings;
} cs_verify_t;

/*
 * Looks at every chain: each row's hash and identity, the order without gaps, timestamps, the head that audit_chains has, anchors of other
 * chains, what retention and erasures explain. `heads`: what the state directory knows (NULL: not asked). Calls `finding` with the row
 * after, or at, which the chain is not what it was: chain, seq (0: the whole chain), words.
 */
cs_store_e cs_store_verify(cs_store_t *store, const cs_head_t *heads, unsigned count,
                           void (*finding)(void *baton, const char *chain, uint64_t seq, const char *what), void *baton,
                           cs_verify_t *result, char *error, size_t size);

/*
 * Removes what is older than `before`: finished sessions and their messages, audit rows from the front of each chain, and writes the
 * `retention` row that lets the rest still verify through `journal` (its fact; the caller applies it like any other).
 */
cs_store_e cs_store_purge(cs_store_t *store, cs_journal_t *journal, apr_time_t before, uint64_t *sessions,
                          uint64_t *audit_rows, char *error, size_t size);

/* ---- a person's data (GDPR articles 15 and 17) -------------------------------------------------------------------- */

/* Appends one JSON document with the user's sessions, messages and audit rows. */
cs_store_e cs_store_export_user(cs_store_t *store, const char *user, cs_buf_t *out, char *error, size_t size);
/*
 * Messages deleted, sessions and audit rows without anything that identifies; an `erase` row through `journal` names the audit rows
 * that were touched, so that the chain still verifies.
 */
cs_store_e cs_store_erase_user(cs_store_t *store, cs_journal_t *journal, const char *user, uint64_t *sessions,
                               uint64_t *messages, uint64_t *audit_rows, char *error, size_t size);

#endif
