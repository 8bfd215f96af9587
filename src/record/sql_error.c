/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose fault a failed statement is. REFUSED needs proof, in the form of the database's own error code, that it looked
 * at the values and will not have them; it costs the row its place in the database. Everything else is LOST: the fact
 * waits in its journal for a server to come back, a lock to go, a disk to be emptied or a schema to be repaired.
 *
 * The codes: MySQL's driver returns them. SQLite's is compiled against an interface that says SQLITE_ERROR for
 * everything and PostgreSQL's keeps SQLSTATE to itself, so their libraries, which are in the process when the drivers
 * are, get asked. Failing that, the words of the message decide.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "store_inner.h"

#define SQLSTATE 5

/* ---- codes -------------------------------------------------------------------------------------------------------- */

static void *library(const char *name)
{
    return dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
}

void cs_sql_error_codes(cs_store_t *store)
{
    int (*set_verbosity)(void *, int);
    void *self;

    switch (store->sql) {
    case CS_SQL_PGSQL: /* PQERRORS_VERBOSE: the first line becomes "ERROR:  23514: ..." */
        self = library("libpq.so.5");
        if (self != NULL && (*(void **)&set_verbosity = dlsym(self, "PQsetErrorVerbosity")) != NULL) {
            set_verbosity(apr_dbd_native_handle(store->driver, store->handle), 2);
        }
        break;
    case CS_SQL_SQLITE3:
        self = library("libsqlite3.so.0");
        if (self != NULL) {
            *(void **)&store->error_code = dlsym(self, "sqlite3_errcode");
        }
        break;
    case CS_SQL_MYSQL:
        break;
    }
}

/* "" when the message has none (a broken connection, another verbosity). */
static void sqlstate(char out[SQLSTATE + 1], const char *message)
{
    const char *at = strstr(message, ":  ");
    int i;

    out[0] = '\0';
    if (at == NULL) {
        return;
    }
    for (at += 3, i = 0; i < SQLSTATE && (isdigit((unsigned char)at[i]) || isupper((unsigned char)at[i])); i++) {}
    if (i == SQLSTATE && at[i] == ':') {
        memcpy(out, at, SQLSTATE);
        out[SQLSTATE] = '\0';
    }
}

static int pgsql_refuses(const char *message)
{
    char state[SQLSTATE + 1];

    sqlstate(state, message);
    if (state[0] == '\0') {
        return strstr(message, "violates ") != NULL || strstr(message, "value too long") != NULL;
    }
    return strncmp(state, "22", 2) == 0    /* data exception: too long, out of range, not in the encoding */
           || strncmp(state, "23", 2) == 0 /* integrity constraint */
           || strncmp(state, "44", 2) == 0 /* with check option */
           || strcmp(state, "54000") == 0  /* longer than an index row */
           || strcmp(state, "P0001") == 0; /* raised by a trigger of the site's */
}

static int sqlite3_refuses(const cs_store_t *store, const char *message)
{
    enum { TOOBIG = 18, CONSTRAINT = 19, MISMATCH = 20 };
    int code;

    if (store->error_code != NULL) {
        code = store->error_code(apr_dbd_native_handle(store->driver, store->handle)) & 0xff;
        if (code > 1) { /* SQLITE_ERROR says nothing */
            return code == CONSTRAINT || code == TOOBIG || code == MISMATCH;
        }
    }
    return strstr(message, "constraint failed") != NULL || strstr(message, "too big") != NULL
           || strstr(message, "datatype mismatch") != NULL;
}

static int mysql_refuses(int rc)
{
    switch (rc) {
    case 1048: /* column cannot be null */
    case 1062: /* duplicate, of a key the site added */
    case 1153: /* packet bigger than max_allowed_packet */
    case 1264: /* out of range */
    case 1265: /* truncated */
    case 1292: /* incorrect value for the type */
    case 1366:
    case 1406: /* too long */
    case 1451: /* foreign key */
    case 1452:
    case 1644: /* SIGNAL of a site's trigger */
    case 2020: /* packet, as the client library sees it */
    case 3819: /* CHECK, MySQL */
    case 4025: /* CHECK, MariaDB */
        return 1;
    default:
        return 0;
    }
}

static int refuses(const cs_store_t *store, int rc, const char *message)
{
    switch (store->sql) {
    case CS_SQL_PGSQL:
        return pgsql_refuses(message);
    case CS_SQL_SQLITE3:
        return sqlite3_refuses(store, message);
    case CS_SQL_MYSQL:
        return mysql_refuses(rc);
    }
    return 0;
}

static const char *driver_message(const cs_store_t *store, int rc)
{
    const char *message = apr_dbd_error(store->driver, store->handle, rc);

    return message != NULL && *message != '\0' ? message : "no reason given";
}

int cs_sql_is_duplicate(cs_store_t *store)
{
    const char *message = driver_message(store, 0);
    char state[SQLSTATE + 1];

    sqlstate(state, message);
    return state[0] != '\0' ? strcmp(state, "42P05") == 0 : strstr(message, "already exists") != NULL;
}

int cs_sql_is_stale(cs_store_t *store, int rc)
{
    enum { SCHEMA = 17 };
    const char *message;

    if (store->sql != CS_SQL_SQLITE3 || rc == 0) {
        return 0;
    }
    if (store->error_code != NULL && store->error_code(apr_dbd_native_handle(store->driver, store->handle)) == SCHEMA) {
        return 1;
    }
    /* SQLite keeps no message for a statement that was stale before its first step. */
    message = driver_message(store, rc);
    return strcmp(message, "database schema has changed") == 0 || strcmp(message, "not an error") == 0;
}

/* ---- words -------------------------------------------------------------------------------------------------------- */

/* Databases quote names and values alike. What is part of a parameter, or has one in it, is a value. */
static int is_value(const char *quoted, size_t len, const char *const *args, int count)
{
    char text[256];
    int i;

    if (len == 0) {
        return 0;
    }
    if (len >= sizeof(text)) {
        return 1;
    }
    memcpy(text, quoted, len);
    text[len] = '\0';
    for (i = 0; i < count; i++) {
        if (args[i] != NULL && *args[i] != '\0' && (strstr(args[i], text) != NULL || strstr(text, args[i]) != NULL)) {
            return 1;
        }
    }
    return 0;
}

/* MySQL's "Incorrect string value: '\xF0\x9F...'" has been escaped, so it is not found among the parameters. */
static int follows_value(const char *message, const char *quote)
{
    static const char *const before[] = {"value: ", "value ", "entry ", "type "};
    size_t i, len;

    for (i = 0; i < sizeof(before) / sizeof(*before); i++) {
        len = strlen(before[i]);
        if ((size_t)(quote - message) >= len && strncmp(quote - len, before[i], len) == 0) {
            return 1;
        }
    }
    return 0;
}

/*
 * The first line only: PostgreSQL goes on with "DETAIL: Failing row contains (...)". "..." stands for what was a value;
 * the rest after a quote that is not closed goes too.
 */
static void tell(char *out, size_t size, const char *what, const char *message, const char *const *args, int count)
{
    size_t at = (size_t)snprintf(out, size, "%s: ", what), line = strcspn(message, "\r\n"), len;
    const char *p = message, *end = message + line, *close;

    while (p < end && at + 1 < size) {
        if ((*p == '\'' || *p == '"') && !(p > message && isalnum((unsigned char)p[-1]))) {
            close = memchr(p + 1, *p, (size_t)(end - p - 1));
            len = (size_t)((close != NULL ? close : end) - p - 1);
            if (close == NULL || follows_value(message, p) || is_value(p + 1, len, args, count)) {
                at += (size_t)snprintf(out + at, size - at, "%c...%c", *p, *p);
                p = close != NULL ? close + 1 : end;
                continue;
            }
        }
        out[at++] = *p++;
    }
    out[at < size ? at : size - 1] = '\0';
}

cs_store_e cs_sql_failure(cs_store_t *store, const char *what, int rc, const char *const *args, int count, char *error,
                          size_t size)
{
    const char *message = driver_message(store, rc);
    cs_store_e failed = refuses(store, rc, message) ? CS_STORE_REFUSED : CS_STORE_LOST;

    if (size > 0) {
        tell(error, size, what, message, args, count);
    }
    if (store->open) {
        store->failed = failed;
    }
    return failed;
}
