/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "store_inner.h"

#define STALE_TRIES 5 /* between compiling and running somebody may change the schema, and again */

const char *cs_sql_number(char buf[CS_SQL_NUMBER], int64_t value)
{
    if (value == CS_NUM_NONE) {
        return NULL;
    }
    snprintf(buf, CS_SQL_NUMBER, "%" PRId64, value);
    return buf;
}

const char *cs_sql_time(char buf[CS_SQL_TIME], apr_time_t when)
{
    cs_chain_ts(buf, when);
    return buf;
}

/* ---- statements with a label -------------------------------------------------------------------------------------- */

/*
 * On mod_dbd's connections statements are kept where its own are, in the connection's hash, for the next store on the
 * same one: a driver cannot give one back. Ours have the label with its NUL as a key, so that they are not taken for
 * the site's.
 */
static apr_dbd_prepared_t *kept(const cs_store_t *store, cs_stmt_e stmt)
{
    const char *label = cs_statements[stmt].label;

    return store->prepared != NULL ? apr_hash_get(store->prepared, label, (apr_ssize_t)strlen(label) + 1) : NULL;
}

static void keep(cs_store_t *store, cs_stmt_e stmt, apr_dbd_prepared_t *prepared)
{
    const char *label = cs_statements[stmt].label;

    store->stmt[stmt] = prepared;
    if (store->prepared != NULL) {
        apr_hash_set(store->prepared, label, (apr_ssize_t)strlen(label) + 1, prepared);
    }
}

/*
 * PostgreSQL keeps a prepared statement under its name with the connection. The name may be taken there, by the same
 * text; nobody may find that out within a transaction, which it would end, so there the statement goes without a name.
 */
static cs_store_e make(cs_store_t *store, cs_stmt_e stmt, apr_dbd_prepared_t **prepared, char *error, size_t size)
{
    const cs_statement_t *statement = &cs_statements[stmt];
    int nameless = store->sql == CS_SQL_PGSQL && store->prepared != NULL && store->open, rc;
    apr_pool_t *pool = nameless                  ? store->scratch
                       : store->prepared != NULL ? apr_hash_pool_get(store->prepared)
                                                 : store->pool;

    *prepared = NULL;
    rc = apr_dbd_prepare(store->driver, pool, store->handle, statement->text[store->sql],
                         nameless ? NULL : statement->label, prepared);
    if (rc != 0 && !(store->sql == CS_SQL_PGSQL && *prepared != NULL && cs_sql_is_duplicate(store))) {
        return cs_sql_failure(store, statement->label, rc, NULL, 0, error, size);
    }
    if (!nameless) {
        keep(store, stmt, *prepared);
    }
    return CS_STORE_OK;
}

static cs_store_e prepare(cs_store_t *store, cs_stmt_e stmt, apr_dbd_prepared_t **prepared, char *error, size_t size)
{
    *prepared = store->stmt[stmt];
    if (*prepared == NULL && store->prepared != NULL) {
        *prepared = apr_hash_get(store->prepared, cs_statements[stmt].label, APR_HASH_KEY_STRING);
        if (*prepared == NULL) {
            *prepared = store->stmt[stmt] = kept(store, stmt);
        }
    }
    return *prepared != NULL ? CS_STORE_OK : make(store, stmt, prepared, error, size);
}

cs_store_e cs_sql_prepare(cs_store_t *store, cs_stmt_e first, cs_stmt_e last, char *error, size_t size)
{
    apr_dbd_prepared_t *prepared;
    cs_store_e got = CS_STORE_OK;

    for (; got == CS_STORE_OK && first <= last; first++) {
        got = prepare(store, first, &prepared, error, size);
    }
    return got;
}

void cs_sql_forget(cs_store_t *store)
{
    unsigned i;

    if (store->sql == CS_SQL_SQLITE3 || store->prepared != NULL) {
        for (i = 0; i < CS_STMT_COUNT; i++) {
            keep(store, (cs_stmt_e)i, NULL);
        }
    }
}

/*
 * MySQL's server hangs up on a packet that is too large, which would look like a server that went away: for ever, since
 * the same row comes again. So it is measured here. Parameters go in one packet with the statement's number and their
 * types.
 */
static int fits_packet(const cs_store_t *store, const char *const *args, int count)
{
    size_t need = 256;
    int i;

    for (i = 0; i < count; i++) {
        need += args[i] != NULL ? strlen(args[i]) + 16 : 16;
    }
    return store->packet == 0 || need <= store->packet;
}

/* What both kinds do first. */
static cs_store_e ready(cs_store_t *store, cs_stmt_e stmt, const char *const *args, apr_dbd_prepared_t **prepared,
                        int *count, char *error, size_t size)
{
    if (store->open && store->failed != CS_STORE_OK) {
        snprintf(error, size, "%s: the transaction has failed before", cs_statements[stmt].label);
        return store->failed;
    }
    *count = store->parameters[stmt];
    if (prepare(store, stmt, prepared, error, size) != CS_STORE_OK) {
        return CS_STORE_LOST; /* never the row's fault */
    }
    if (!fits_packet(store, args, *count)) {
        snprintf(error, size, "%s: longer than the server's max_allowed_packet of %" APR_SIZE_T_FMT " bytes",
                 cs_statements[stmt].label, store->packet);
        if (store->open) {
            store->failed = CS_STORE_REFUSED;
        }
        return CS_STORE_REFUSED;
    }
    return CS_STORE_OK;
}

/* The driver wants a list that is not const, and reads only. */
static const char **plain(const char *const *args)
{
    static const char *none[1];

    return args != NULL ? (const char **)(intptr_t)args : none;
}

/*
 * SQLite's driver compiles for an interface whose statements die when anybody changes the schema, an index by an
 * administrator, say. They die before they did anything, so ours are made again; one of the site's own cannot be.
 */
static int renew(cs_store_t *store, cs_stmt_e stmt, int rc, int *tries, apr_dbd_prepared_t **prepared, char *error,
                 size_t size)
{
    if (rc == 0 || (*tries)++ >= STALE_TRIES || store->stmt[stmt] != *prepared || !cs_sql_is_stale(store, rc)) {
        return 0;
    }
    return make(store, stmt, prepared, error, size) == CS_STORE_OK;
}

cs_store_e cs_sql_exec(cs_store_t *store, cs_stmt_e stmt, const char *const *args, int *affected, char *error,
                       size_t size)
{
    apr_dbd_prepared_t *prepared = NULL;
    int rows = 0, count = 0, tries = 0, rc;
    cs_store_e got = ready(store, stmt, args, &prepared, &count, error, size);

    if (got == CS_STORE_OK) {
        do {
            rc = apr_dbd_pquery(store->driver, store->scratch, store->handle, &rows, prepared, 0, plain(args));
        } while (renew(store, stmt, rc, &tries, &prepared, error, size));
        if (rc != 0) {
            got = cs_sql_failure(store, cs_statements[stmt].label, rc, args, count, error, size);
        }
    }
    if (affected != NULL) {
        *affected = rows;
    }
    apr_pool_clear(store->scratch);
    return got;
}

/* get_entry would make an empty text of PostgreSQL's NULL. */
static const char *column(const cs_store_t *store, apr_dbd_row_t *row, int n)
{
    char *text = NULL;

    return apr_dbd_datum_get(store->driver, row, n, APR_DBD_TYPE_STRING, &text) == APR_SUCCESS ? text : NULL;
}

/* PostgreSQL's driver tells errors only when it may fetch everything at once ("random"); the others fetch anyway. */
static int wants_all(const cs_store_t *store)
{
    return store->sql == CS_SQL_PGSQL;
}

static cs_store_e each_row(cs_store_t *store, apr_pool_t *pool, apr_dbd_results_t *results, const char *what,
                           int (*fn)(void *baton, const char *const *columns), void *baton, char *error, size_t size)
{
    apr_dbd_row_t *row = NULL;
    int width = apr_dbd_num_cols(store->driver, results), i, rc;
    const char **columns = apr_palloc(pool, sizeof(*columns) * (size_t)(width + 1));

    while ((rc = apr_dbd_get_row(store->driver, pool, results, &row, -1)) == 0) {
        for (i = 0; i < width; i++) {
            columns[i] = column(store, row, i);
        }
        if (fn(baton, columns) != 0) {
            return CS_STORE_OK;
        }
    }
    return rc == -1 ? CS_STORE_OK : cs_sql_failure(store, what, rc, NULL, 0, error, size);
}

cs_store_e cs_sql_select(cs_store_t *store, cs_stmt_e stmt, const char *const *args,
                         int (*row)(void *baton, const char *const *columns), void *baton, char *error, size_t size)
{
    apr_dbd_prepared_t *prepared = NULL;
    apr_dbd_results_t *results = NULL;
    apr_pool_t *pool = NULL; /* its own, for `row` may use the store */
    int count = 0, tries = 0, rc;
    cs_store_e got = ready(store, stmt, args, &prepared, &count, error, size);

    if (got != CS_STORE_OK) {
        goto cleanup;
    }
    apr_pool_create_ex(&pool, store->pool, NULL, apr_pool_allocator_get(store->scratch));
    do {
        rc = apr_dbd_pselect(store->driver, pool, store->handle, &results, prepared, wants_all(store), 0, plain(args));
    } while (renew(store, stmt, rc, &tries, &prepared, error, size));
    if (rc != 0) {
        got = cs_sql_failure(store, cs_statements[stmt].label, rc, args, count, error, size);
    }
    else {
        got = each_row(store, pool, results, cs_statements[stmt].label, row, baton, error, size);
    }

cleanup:
    if (pool != NULL) {
        apr_pool_destroy(pool);
    }
    apr_pool_clear(store->scratch);
    return got;
}

/* ---- statements without ------------------------------------------------------------------------------------------- */

cs_store_e cs_sql_run(cs_store_t *store, const char *what, const char *text, char *error, size_t size)
{
    int rows = 0, rc, tries = 0;

    do {
        rc = apr_dbd_query(store->driver, store->handle, &rows, text);
    } while (rc != 0 && tries++ < STALE_TRIES && cs_sql_is_stale(store, rc));
    return rc == 0 ? CS_STORE_OK : cs_sql_failure(store, what, rc, NULL, 0, error, size);
}

typedef struct {
    char *text;
    size_t size;
} answer_t;

static int keep_first(void *baton, const char *const *columns)
{
    answer_t *answer = baton;

    apr_cpystrn(answer->text, columns[0] != NULL ? columns[0] : "", answer->size);
    return 1;
}

cs_store_e cs_sql_ask(cs_store_t *store, const char *what, const char *text, char *answer, size_t answer_size,
                      char *error, size_t size)
{
    apr_dbd_results_t *results = NULL;
    answer_t first = {answer, answer_size};
    cs_store_e got = CS_STORE_OK;
    int rc, tries = 0;

    *answer = '\0';
    do {
        rc = apr_dbd_select(store->driver, store->scratch, store->handle, &results, text, wants_all(store));
    } while (rc != 0 && tries++ < STALE_TRIES && cs_sql_is_stale(store, rc));
    if (rc != 0) {
        got = cs_sql_failure(store, what, rc, NULL, 0, error, size);
    }
    else if (results != NULL) {
        got = each_row(store, store->scratch, results, what, keep_first, &first, error, size);
    }
    apr_pool_clear(store->scratch);
    return got;
}
