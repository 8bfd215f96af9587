/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "schema.h"
#include "store_inner.h"

#define TABLES                                                                                                         \
    "'streaming_sessions', 'chat_messages', 'outline_sessions', 'audit_log', 'audit_chains', 'chatstream_schema'"
#define TABLES_COUNT 6

typedef struct {
    const char *has_version; /* whether the table with the version is there */
    const char *tables;      /* how many of ours are */
    const char *lock;        /* waits until no other process migrates; answers */
    const char *begin;       /* NULL: DDL commits by itself */
    const char *stamp;
    const char *commit;
    const char *unlock; /* NULL: the end of the transaction does; answers */
} migration_t;

/* PostgreSQL's CREATE ... IF NOT EXISTS can fail when two do it at once, hence the lock. */
static const migration_t migrations[] = {
    {
        .has_version = "SELECT count(*) FROM sqlite_master WHERE name = 'chatstream_schema'",
        .tables = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view') AND name IN (" TABLES ")",
        .begin = "BEGIN IMMEDIATE",
        .stamp = "INSERT INTO chatstream_schema (version) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM chatstream_schema)",
        .commit = "COMMIT",
    },
    {
        .has_version = "SELECT count(*) FROM (SELECT to_regclass('chatstream_schema') AS it) AS t WHERE it IS NOT NULL",
        .tables = "SELECT count(*) FROM unnest(ARRAY[" TABLES "]) AS name WHERE to_regclass(name) IS NOT NULL",
        .lock = "SELECT pg_advisory_xact_lock(7165090513146863476)", /* any number, but always this one */
        .begin = "BEGIN",
        .stamp = "INSERT INTO chatstream_schema (version) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM chatstream_schema)",
        .commit = "COMMIT",
    },
    {
        .has_version = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"
                       " AND table_name = 'chatstream_schema'",
        .tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"
                  " AND table_name IN (" TABLES ")",
        .lock = "SELECT GET_LOCK(CONCAT('chatstream_migrate.', DATABASE()), 60)",
        .stamp = "INSERT INTO chatstream_schema (version) SELECT 1 FROM DUAL"
                 " WHERE NOT EXISTS (SELECT 1 FROM chatstream_schema)",
        .unlock = "SELECT RELEASE_LOCK(CONCAT('chatstream_migrate.', DATABASE()))",
    },
};

/* The first column as a number. */
static cs_store_e ask_number(cs_store_t *store, const char *what, const char *text, int *number, char *error,
                             size_t size)
{
    char answer[32];
    cs_store_e got = cs_sql_ask(store, what, text, answer, sizeof(answer), error, size);

    *number = atoi(answer);
    return got;
}

static cs_store_e read_version(cs_store_t *store, int *version, char *error, size_t size)
{
    int there = 0;
    cs_store_e got = ask_number(store, "version", migrations[store->sql].has_version, &there, error, size);

    *version = 0;
    if (got == CS_STORE_OK && there > 0) {
        got = ask_number(store, "version", "SELECT MAX(version) FROM chatstream_schema", version, error, size);
    }
    return got;
}

apr_status_t cs_store_version(cs_store_t *store, int *version, char *error, size_t size)
{
    return read_version(store, version, error, size) == CS_STORE_OK ? APR_SUCCESS : APR_EGENERAL;
}

/*
 * Nothing to do, so nothing is tried: the server's database user may be one that must not create.
 */
static cs_store_e is_current(cs_store_t *store, int *current, char *error, size_t size)
{
    int version, tables = 0;
    cs_store_e got = read_version(store, &version, error, size);

    *current = 0;
    if (got == CS_STORE_OK && version > CS_SCHEMA_VERSION) {
        snprintf(error, size, "the schema's version %d is newer than %d, which this program knows", version,
                 CS_SCHEMA_VERSION);
        return CS_STORE_REFUSED;
    }
    if (got == CS_STORE_OK && version == CS_SCHEMA_VERSION) {
        got = ask_number(store, "tables", migrations[store->sql].tables, &tables, error, size);
        *current = tables == TABLES_COUNT;
    }
    return got;
}

static cs_store_e create(cs_store_t *store, char *error, size_t size)
{
    const migration_t *migration = &migrations[store->sql];
    const char *const *text = cs_schema[store->sql];
    cs_store_e got = CS_STORE_OK;
    int locked;

    if (migration->begin != NULL) {
        got = cs_sql_run(store, "migrate: begin", migration->begin, error, size);
    }
    if (got == CS_STORE_OK && migration->lock != NULL) {
        got = ask_number(store, "migrate: lock", migration->lock, &locked, error, size);
    }
    for (; got == CS_STORE_OK && *text != NULL; text++) {
        got = cs_sql_run(store, "migrate", *text, error, size);
    }
    if (got == CS_STORE_OK) {
        got = cs_sql_run(store, "migrate: version", migration->stamp, error, size);
    }
    if (got == CS_STORE_OK && migration->commit != NULL) {
        got = cs_sql_run(store, "migrate: commit", migration->commit, error, size);
    }
    return got;
}

apr_status_t cs_store_migrate(cs_store_t *store, char *error, size_t size)
{
    const migration_t *migration = &migrations[store->sql];
    char ignored[256], answer[8];
    cs_store_e got;
    int current;

    got = is_current(store, &current, error, size);
    if (got != CS_STORE_OK || current) {
        return got == CS_STORE_OK ? APR_SUCCESS : APR_EGENERAL;
    }
    got = create(store, error, size);
    if (got != CS_STORE_OK) {
        cs_store_rollback(store);
    }
    if (migration->unlock != NULL) {
        cs_sql_ask(store, "migrate: unlock", migration->unlock, answer, sizeof(answer), ignored, sizeof(ignored));
    }
    cs_sql_forget(store);
    return got == CS_STORE_OK ? APR_SUCCESS : APR_EGENERAL;
}
