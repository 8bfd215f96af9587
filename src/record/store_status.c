/* SPDX-License-Identifier: Apache-2.0 */
#include "store_status.h"

#include <string.h>

#include <apr_strings.h>

#include "sql.h"

static int64_t number_of(const char *text)
{
    return text != NULL ? apr_strtoi64(text, NULL, 10) : 0;
}

static int read_rows(void *baton, const char *const *columns)
{
    cs_store_rows_t *rows = baton;

    rows->audit_rows = number_of(columns[0]);
    rows->chains = number_of(columns[1]);
    rows->messages = number_of(columns[2]);
    return 1;
}

cs_store_e cs_store_rows(cs_store_t *store, cs_store_rows_t *rows, char *error, size_t size)
{
    memset(rows, 0, sizeof(*rows));
    return cs_sql_select(store, CS_STMT_STATUS_ROWS, NULL, read_rows, rows, error, size);
}

typedef struct {
    void (*fn)(void *baton, const char *status, int64_t count, int64_t recent);
    void *baton;
} reader_t;

static int read_status(void *baton, const char *const *columns)
{
    reader_t *reader = baton;

    reader->fn(reader->baton, columns[0] != NULL ? columns[0] : "", number_of(columns[1]), number_of(columns[2]));
    return 0;
}

cs_store_e cs_store_sessions(cs_store_t *store, apr_time_t since,
                             void (*fn)(void *baton, const char *status, int64_t count, int64_t recent), void *baton,
                             char *error, size_t size)
{
    reader_t reader = {fn, baton};
    char text[CS_SQL_TIME];
    const char *arg = cs_sql_time(text, since);

    return cs_sql_select(store, CS_STMT_STATUS_SESSIONS, &arg, read_status, &reader, error, size);
}

static int read_count(void *baton, const char *const *columns)
{
    *(int64_t *)baton = number_of(columns[0]);
    return 1;
}

cs_store_e cs_store_active(cs_store_t *store, const char *user, int64_t *count, char *error, size_t size)
{
    *count = 0;
    return cs_sql_select(store, CS_STMT_USER_ACTIVE, &user, read_count, count, error, size);
}
