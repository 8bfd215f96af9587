/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store thread's connection: mod_dbd's, where the server has a DBDriver, else a SQLite file in the state directory. Kept as long as it
 * works. Statements are prepared here and not by ap_dbd_prepare: mod_dbd would not open a connection whose tables are not there yet,
 * and forgets them when a driver connects anew.
 *
 * A SQLite file is opened here also when DBDriver names one. It may be locked by others for seconds, the thread that waits cannot be
 * cancelled (the locks are this process's own), and mod_dbd's pool aborts the process when it goes and something is still lent.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_dbd.h>
#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>
#include <mod_dbd.h>

#include "recorder.h"

APLOG_USE_MODULE(chatstream);

#define FIRST_PAUSE apr_time_from_msec(250)
#define LONG_PAUSE  apr_time_from_sec(5)

#define MYSQL_CONNECT_TIMEOUT "2" /* seconds */

struct cs_database_t {
    apr_pool_t *pool;
    apr_pool_t *connection; /* of one connection: store and statements */
    ap_dbd_t *dbd;
    cs_store_t *store;
    apr_time_t try_again; /* mono */
    apr_time_t pause;
    unsigned serial;  /* prepared statements of two connections must not share a name on one server session */
    const char *file; /* SQLite's; NULL: a server's */
    int is_mysql;
    APR_OPTIONAL_FN_TYPE(ap_dbd_open) * open;
    APR_OPTIONAL_FN_TYPE(ap_dbd_close) * close;
};

/* A directive of mod_dbd without its quotes; NULL: there is none. */
static const char *word_of(apr_pool_t *pool, const char *name)
{
    const char *args = cs_config_main_directive(name);

    return args ? ap_getword_conf(pool, &args) : NULL;
}

apr_status_t cs_database_create(cs_database_t **out, apr_pool_t *pool)
{
    cs_database_t *database = apr_pcalloc(pool, sizeof(*database));
    const char *driver = word_of(pool, "DBDriver");

    if (!driver) {
        database->file = apr_pstrcat(pool, cs_recorder.conf.state_dir, "/chatstream.db", NULL);
    }
    else if (!strcmp(driver, "sqlite3")) {
        database->file = word_of(pool, "DBDParams");
        database->file = database->file ? database->file : "";
    }
    else {
        database->is_mysql = !strcmp(driver, "mysql");
    }
    database->pool = pool;
    database->pause = FIRST_PAUSE;
    if (!database->file) {
        database->open = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_open);
        database->close = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_close);
        if (!database->open || !database->close) {
            return APR_ENOTIMPL;
        }
    }
    *out = database;
    return APR_SUCCESS;
}

int cs_database_may_be_cancelled(const cs_database_t *database)
{
    return !database->file;
}

/* A site's own statements (DBDPrepareSQL), made anew for this connection. */
static apr_status_t wrap(cs_database_t *database, const apr_dbd_driver_t *driver, apr_dbd_t *handle, char *error,
                         size_t size)
{
    apr_pool_t *pool = database->connection;
    apr_hash_t *texts = cs_config_prepared(pool, "chatstream_"), *prepared = apr_hash_make(pool);
    apr_hash_index_t *at;

    for (at = apr_hash_first(pool, texts); at; at = apr_hash_next(at)) {
        apr_dbd_prepared_t *statement = NULL;
        const char *label = apr_hash_this_key(at);

        if (apr_dbd_prepare(driver, pool, handle, apr_hash_this_val(at),
                            apr_psprintf(pool, "%s_%d_%u", label, (int)getpid(), ++database->serial), &statement)) {
            apr_snprintf(error, size, "DBDPrepareSQL %s cannot be prepared", label);
            return APR_EGENERAL;
        }
        apr_hash_set(prepared, label, APR_HASH_KEY_STRING, statement);
    }
    return cs_store_wrap(&database->store, pool, driver, handle, prepared, error, size);
}

/* mod_dbd's pool is locked in here, so whoever is cancelled here would leave it locked. */
static void call_mod_dbd(cs_database_t *database, int opens)
{
    int before;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    if (opens) {
        database->dbd = database->open(database->connection, cs_recorder.server);
    }
    else {
        database->close(cs_recorder.server, database->dbd);
        database->dbd = NULL;
    }
    pthread_setcancelstate(before, NULL);
}

/*
 * mod_dbd connects with its pool locked; a server that accepts and says nothing would keep it so, and the child could not end. libpq gives
 * up by itself (PGCONNECT_TIMEOUT, recorder.c), MySQL's library only when it is told in its parameters. So it is asked here first.
 */
static apr_status_t probe_mysql(cs_database_t *database, char *error, size_t size)
{
    apr_pool_t *pool = database->connection;
    const char *params = word_of(pool, "DBDParams"), *reason = NULL;
    const apr_dbd_driver_t *driver;
    apr_dbd_t *handle;
    apr_status_t rv = apr_dbd_get_driver(pool, "mysql", &driver);

    if (!rv) {
        /* The last of two equal keys holds: what the site says. */
        params = apr_pstrcat(pool, "connecttimeout=" MYSQL_CONNECT_TIMEOUT ",", params ? params : "", NULL);
        rv = apr_dbd_open_ex(driver, pool, params, &handle, &reason);
    }
    if (rv) {
        apr_snprintf(error, size, "mysql: %s", reason ? reason : "cannot be opened");
        return rv;
    }
    apr_dbd_close(driver, handle);
    return APR_SUCCESS;
}

static apr_status_t open_dbd(cs_database_t *database, char *error, size_t size)
{
    apr_status_t rv = database->is_mysql ? probe_mysql(database, error, size) : APR_SUCCESS;

    if (rv) {
        return rv;
    }
    call_mod_dbd(database, 1);
    if (!database->dbd) {
        apr_snprintf(error, size, "mod_dbd has no connection");
        return APR_EGENERAL;
    }
    return wrap(database, database->dbd->driver, database->dbd->handle, error, size);
}

typedef struct {
    const apr_dbd_driver_t *driver;
    apr_dbd_t *handle;
} file_t;

static apr_status_t close_file(void *baton)
{
    const file_t *file = baton;

    apr_dbd_close(file->driver, file->handle);
    return APR_SUCCESS;
}

static apr_status_t open_file(cs_database_t *database, char *error, size_t size)
{
    apr_pool_t *pool = database->connection;
    file_t *file = apr_pcalloc(pool, sizeof(*file));
    const char *reason = NULL;
    apr_status_t rv;

    if (!apr_hash_count(cs_config_prepared(pool, "chatstream_"))) {
        return cs_store_open(&database->store, pool, "sqlite3", database->file, error, size);
    }
    rv = apr_dbd_get_driver(pool, "sqlite3", &file->driver);
    if (!rv) {
        rv = apr_dbd_open_ex(file->driver, pool, database->file, &file->handle, &reason);
    }
    if (rv) {
        apr_snprintf(error, size, "sqlite3: %s", reason ? reason : "cannot be opened");
        return rv;
    }
    apr_pool_cleanup_register(pool, file, close_file, apr_pool_cleanup_null);
    return wrap(database, file->driver, file->handle, error, size);
}

static apr_status_t migrate(cs_store_t *store, char *error, size_t size)
{
    int version = 0;
    apr_status_t rv = cs_store_version(store, &version, error, size);

    return rv || version ? rv : cs_store_migrate(store, error, size);
}

static void disconnect(cs_database_t *database)
{
    if (database->connection) {
        apr_pool_clear(database->connection); /* the store goes before its connection does */
    }
    database->store = NULL;
    if (database->dbd) {
        call_mod_dbd(database, 0);
    }
}

static void say_down(const char *error)
{
    if (atomic_exchange(&cs_recorder.database, CS_DATABASE_DOWN) != CS_DATABASE_DOWN) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, cs_recorder.server,
                     "chatstream: the database is away: %s; records wait in '%s'", error, cs_recorder.conf.state_dir);
    }
}

cs_store_t *cs_database_store(cs_database_t *database)
{
    char error[512] = "";
    apr_status_t rv;

    if (database->store || cs_clock_mono() < database->try_again) {
        return database->store;
    }
    if (!database->connection && apr_pool_create(&database->connection, database->pool)) {
        return NULL;
    }
    atomic_store(&cs_recorder.asks, cs_clock_mono());
    rv = database->file ? open_file(database, error, sizeof(error)) : open_dbd(database, error, sizeof(error));
    if (!rv) {
        rv = migrate(database->store, error, sizeof(error));
    }
    atomic_store(&cs_recorder.asks, 0);
    if (rv) {
        cs_database_lost(database, error);
        return NULL;
    }
    return database->store;
}

void cs_database_lost(cs_database_t *database, const char *error)
{
    say_down(error);
    disconnect(database);
    database->try_again = cs_clock_mono() + database->pause;
    database->pause = database->pause * 2 < LONG_PAUSE ? database->pause * 2 : LONG_PAUSE;
}

/* Not when a connection is there: one that takes nothing (read only, a full disk) would come back with each try. */
void cs_database_works(cs_database_t *database)
{
    database->pause = FIRST_PAUSE;
    if (atomic_exchange(&cs_recorder.database, CS_DATABASE_OK) == CS_DATABASE_DOWN) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, cs_recorder.server, "chatstream: the database is back");
    }
}

void cs_database_close(cs_database_t *database)
{
    disconnect(database);
}
