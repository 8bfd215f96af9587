/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections. Whoever owns the process has called apr_dbd_init once (mod_dbd has); drivers are loaded into its pool.
 *
 * No apr_dbd_transaction anywhere: BEGIN, COMMIT and ROLLBACK are statements here, because the drivers' own
 * transactions go on without one when BEGIN failed (sqlite3) and reconnect in the middle (mysql).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <apr_allocator.h>
#include <apr_strings.h>

#include "store_inner.h"

/* Answers of several megabytes go back to the system, not into the recorder's working set. */
#define KEEP_FREE (256 * 1024)

/* apr_dbd repeats what found SQLite busy 15 times, 100 ms apart, and each takes this long: up to 10 s. */
#define SQLITE_BUSY_MS "500"

/* A column longer than this would be cut by MySQL's driver; one that is selected takes as much address space, untouched. */
#define MYSQL_FIELD "67108864"

apr_status_t cs_sql_of_driver(cs_sql_e *sql, const char *driver)
{
    static const char *const names[] = {"sqlite3", "pgsql", "mysql"};
    unsigned i;

    for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (driver != NULL && strcmp(driver, names[i]) == 0) {
            *sql = (cs_sql_e)i;
            return APR_SUCCESS;
        }
    }
    return APR_ENOTIMPL;
}

cs_sql_e cs_store_sql(const cs_store_t *store)
{
    return store->sql;
}

void cs_store_statements(cs_sql_e sql, void (*fn)(void *baton, const char *label, const char *text), void *baton)
{
    unsigned i;

    for (i = 0; i < CS_STMT_COUNT; i++) {
        fn(baton, cs_statements[i].label, cs_statements[i].text[sql]);
    }
}

static apr_status_t make_pool(apr_pool_t **pool, apr_pool_t *parent)
{
    apr_allocator_t *allocator;
    apr_status_t rv = apr_allocator_create(&allocator);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    apr_allocator_max_free_set(allocator, KEEP_FREE);
    rv = apr_pool_create_ex(pool, parent, NULL, allocator);
    if (rv != APR_SUCCESS) {
        apr_allocator_destroy(allocator);
        return rv;
    }
    apr_allocator_owner_set(allocator, *pool);
    return APR_SUCCESS;
}

apr_status_t cs_store_make(cs_store_t **out, apr_pool_t *pool, cs_sql_e sql, const apr_dbd_driver_t *driver)
{
    cs_store_t *store = apr_pcalloc(pool, sizeof(*store));
    apr_status_t rv;
    unsigned i;

    store->pool = pool;
    store->sql = sql;
    store->driver = driver;
    for (i = 0; i < CS_STMT_COUNT; i++) {
        store->parameters[i] = cs_statement_parameters(cs_statements[i].text[sql]);
    }
    (void)((rv = make_pool(&store->scratch, pool)) || (rv = make_pool(&store->row, pool))
           || (rv = make_pool(&store->trans, pool)));
    *out = store;
    return rv;
}

/* ---- what a session needs ----------------------------------------------------------------------------------------- */

typedef struct {
    const char *what;
    const char *text;
} setting_t;

/*
 * FULL, not the NORMAL that is usual with WAL: a commit that a power cut takes back would be missing from the journal
 * as well, which drops what is committed. It is one sync for a batch. secure_delete: what erase and purge remove is to
 * be gone from the file.
 */
static const setting_t sqlite3_settings[] = {
    {"busy_timeout", "PRAGMA busy_timeout = " SQLITE_BUSY_MS},
    {"synchronous", "PRAGMA synchronous = FULL"},
    {"secure_delete", "PRAGMA secure_delete = ON"},
    {NULL, NULL},
};

static const setting_t pgsql_settings[] = {
    {"client_encoding", "SET client_encoding = 'UTF8'"},
    {NULL, NULL},
};

/* Without STRICT a text that is too long would be cut and called a success. */
static const setting_t mysql_settings[] = {
    {"names", "SET NAMES utf8mb4"},
    {"sql_mode", "SET SESSION sql_mode = CONCAT_WS(',', @@SESSION.sql_mode, 'STRICT_ALL_TABLES')"},
    {NULL, NULL},
};

/*
 * Writers and readers at once. The mode stays with the file; changing it takes the file for itself, without the busy
 * handler, when several processes start at once.
 */
static cs_store_e sqlite3_wal(cs_store_t *store, char *error, size_t size)
{
    char mode[16];
    cs_store_e got = CS_STORE_LOST;
    int i;

    for (i = 0; i < 50; i++) {
        got = cs_sql_ask(store, "journal_mode", "PRAGMA journal_mode", mode, sizeof(mode), error, size);
        if (got == CS_STORE_OK && strcmp(mode, "wal") == 0) {
            return CS_STORE_OK;
        }
        got = cs_sql_ask(store, "journal_mode", "PRAGMA journal_mode = WAL", mode, sizeof(mode), error, size);
        if (got == CS_STORE_OK) {
            return CS_STORE_OK; /* or it cannot (memory, a network file system): its own mode is as safe, and slower */
        }
        apr_sleep(apr_time_from_msec(20));
    }
    return got;
}

static cs_store_e settle(cs_store_t *store, char *error, size_t size)
{
    static const setting_t *const settings[] = {sqlite3_settings, pgsql_settings, mysql_settings};
    const setting_t *setting;
    char answer[64];
    cs_store_e got = CS_STORE_OK;

    cs_sql_error_codes(store);
    for (setting = settings[store->sql]; got == CS_STORE_OK && setting->what != NULL; setting++) {
        got = store->sql == CS_SQL_SQLITE3 /* a PRAGMA may answer */
                  ? cs_sql_ask(store, setting->what, setting->text, answer, sizeof(answer), error, size)
                  : cs_sql_run(store, setting->what, setting->text, error, size);
    }
    if (got == CS_STORE_OK && store->sql == CS_SQL_SQLITE3) {
        got = sqlite3_wal(store, error, size);
    }
    if (got == CS_STORE_OK && store->sql == CS_SQL_MYSQL) {
        got =
            cs_sql_ask(store, "max_allowed_packet", "SELECT @@max_allowed_packet", answer, sizeof(answer), error, size);
        store->packet = got == CS_STORE_OK ? (size_t)apr_atoi64(answer) : 0;
    }
    return got;
}

/* ---- the two ways ------------------------------------------------------------------------------------------------- */

/*
 * `pool` has to go before the connection is given back. A statement of the site's dies with the server's connection and
 * there is no text to make it again from; after LOST such a connection is of no use (DBDPersist Off, or one that is
 * thrown away).
 */
apr_status_t cs_store_wrap(cs_store_t **out, apr_pool_t *pool, const apr_dbd_driver_t *driver, apr_dbd_t *handle,
                           apr_hash_t *prepared, char *error, size_t size)
{
    cs_store_t *store;
    cs_sql_e sql;
    apr_status_t rv = cs_sql_of_driver(&sql, apr_dbd_name(driver));

    *out = NULL;
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "no statements for the driver %s", apr_dbd_name(driver));
        return rv;
    }
    rv = cs_store_make(&store, pool, sql, driver);
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "out of memory");
        return rv;
    }
    store->handle = handle;
    store->prepared = prepared != NULL ? prepared : apr_hash_make(pool);
    if (settle(store, error, size) != CS_STORE_OK) {
        return APR_EGENERAL;
    }
    *out = store;
    return APR_SUCCESS;
}

static apr_status_t close_handle(void *baton)
{
    cs_store_t *store = baton;

    apr_dbd_close(store->driver, store->handle);
    return APR_SUCCESS;
}

/*
 * Without reconnect, which is the driver's default: it forgets the settings and the prepared statements. The first of
 * two equal keys counts for nothing, the last one wins, so what the site says about fldsz comes last.
 */
static const char *own_params(apr_pool_t *pool, cs_sql_e sql, const char *params)
{
    return sql == CS_SQL_MYSQL ? apr_pstrcat(pool, "fldsz=" MYSQL_FIELD ",", params, ",reconnect=0", NULL) : params;
}

/*
 * Conversations are nobody else's business. SQLite would go by the umask; its other files take after this one. What is
 * not a path is SQLite's affair.
 */
static void sqlite3_create(const char *path)
{
    int fd = *path == '/' ? open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0640) : -1;

    if (fd >= 0) {
        close(fd);
    }
}

apr_status_t cs_store_open(cs_store_t **out, apr_pool_t *pool, const char *driver, const char *params, char *error,
                           size_t size)
{
    const apr_dbd_driver_t *found;
    const char *reason = NULL;
    cs_store_t *store;
    cs_sql_e sql;
    apr_status_t rv = cs_sql_of_driver(&sql, driver);

    *out = NULL;
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "no statements for the driver %s", driver);
        return rv;
    }
    rv = apr_dbd_get_driver(pool, driver, &found);
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "apr_dbd_%s cannot be loaded", driver);
        return rv;
    }
    rv = cs_store_make(&store, pool, sql, found);
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "out of memory");
        return rv;
    }
    if (sql == CS_SQL_SQLITE3) {
        sqlite3_create(params);
    }
    rv = apr_dbd_open_ex(found, pool, own_params(pool, sql, params), &store->handle, &reason);
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "%s: %.*s", driver, reason != NULL ? (int)strcspn(reason, "\r\n") : 15,
                 reason != NULL ? reason : "no reason given");
        return rv;
    }
    apr_pool_cleanup_register(pool, store, close_handle, apr_pool_cleanup_null);
    if (settle(store, error, size) != CS_STORE_OK) {
        return APR_EGENERAL;
    }
    *out = store;
    return APR_SUCCESS;
}
