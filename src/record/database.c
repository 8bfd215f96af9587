/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store thread's connection: mod_dbd's, where the server has a DBDriver, else a SQLite file in the state directory. Kept as long as it
 * works. Statements are prepared here and not by ap_dbd_prepare: mod_dbd would not open a connection whose tables are not there yet,
 * and forgets them when a driver connects anew.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_dbd.h>
#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>
#include <mod_dbd.h>

#include "recorder.h"

APLOG_USE_MODULE(chatstream);

#define FIRST_PAUSE apr_time_from_msec(250)
#define LONG_PAUSE  apr_time_from_sec(5)

struct cs_database_t {
    apr_pool_t *pool;
    apr_pool_t *connection; /* of one connection: store and statements */
    ap_dbd_t *dbd;
    cs_store_t *store;
    apr_time_t try_again; /* mono */
    apr_time_t pause;
    unsigned serial; /* prepared statements of two connections must not share a name on one server session */
    APR_OPTIONAL_FN_TYPE(ap_dbd_open) * open;
    APR_OPTIONAL_FN_TYPE(ap_dbd_close) * close;
};

apr_status_t cs_database_create(cs_database_t **out, apr_pool_t *pool)
{
    cs_database_t *database = apr_pcalloc(pool, sizeof(*database));

    database->pool = pool;
    database->pause = FIRST_PAUSE;
    if (cs_config_main_directive("DBDriver")) {
        database->open = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_open);
        database->close = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_close);
        if (!database->open || !database->close) {
            return APR_ENOTIMPL;
        }
    }
    *out = database;
    return APR_SUCCESS;
}

int cs_database_may_be_cancelled(void)
{
    const char *driver = cs_config_main_directive("DBDriver");

    return driver && strcmp(driver, "sqlite3") != 0; /* SQLite's locks are this process's own */
}

/* A site's own statements (DBDPrepareSQL), made anew for this connection. */
static apr_status_t prepare_own(cs_database_t *database, apr_hash_t **prepared, char *error, size_t size)
{
    apr_hash_t *texts = cs_config_prepared(database->connection, "chatstream_");
    apr_hash_index_t *at;

    *prepared = apr_hash_make(database->connection);
    for (at = apr_hash_first(database->connection, texts); at; at = apr_hash_next(at)) {
        apr_dbd_prepared_t *statement = NULL;
        const char *label = apr_hash_this_key(at);

        if (apr_dbd_prepare(database->dbd->driver, database->connection, database->dbd->handle, apr_hash_this_val(at),
                            apr_psprintf(database->connection, "%s_%d_%u", label, (int)getpid(), ++database->serial),
                            &statement)) {
            apr_snprintf(error, size, "DBDPrepareSQL %s cannot be prepared", label);
            return APR_EGENERAL;
        }
        apr_hash_set(*prepared, label, APR_HASH_KEY_STRING, statement);
    }
    return APR_SUCCESS;
}

static apr_status_t open_dbd(cs_database_t *database, char *error, size_t size)
{
    apr_hash_t *prepared;
    apr_status_t rv;

    database->dbd = database->open(database->connection, cs_recorder.server);
    if (!database->dbd) {
        apr_snprintf(error, size, "mod_dbd has no connection");
        return APR_EGENERAL;
    }
    rv = prepare_own(database, &prepared, error, size);
    return rv ? rv
              : cs_store_wrap(&database->store, database->connection, database->dbd->driver, database->dbd->handle,
                              prepared, error, size);
}

static apr_status_t open_file(cs_database_t *database, char *error, size_t size)
{
    const char *path = apr_pstrcat(database->connection, cs_recorder.conf.state_dir, "/chatstream.db", NULL);

    return cs_store_open(&database->store, database->connection, "sqlite3", path, error, size);
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
        database->close(cs_recorder.server, database->dbd);
        database->dbd = NULL;
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
    rv = database->open ? open_dbd(database, error, sizeof(error)) : open_file(database, error, sizeof(error));
    if (!rv) {
        rv = migrate(database->store, error, sizeof(error));
    }
    if (rv) {
        cs_database_lost(database, error);
        return NULL;
    }
    if (atomic_exchange(&cs_recorder.database, CS_DATABASE_OK) == CS_DATABASE_DOWN) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, cs_recorder.server, "chatstream: the database is back");
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

void cs_database_works(cs_database_t *database)
{
    database->pause = FIRST_PAUSE;
}

void cs_database_close(cs_database_t *database)
{
    if (database) {
        disconnect(database);
    }
}
