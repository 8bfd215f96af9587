/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit trail, filtered and paged. One statement for each way in (all, by user, by stream), so that the database has an index for
 * each; whatever else is asked for is compared on the way.
 */
#include "audit_row.h"
#include "sql.h"

#include <string.h>

#define PAGE_MAX 1000 /* as the statements say in their LIMIT */

typedef struct {
    int (*fn)(void *baton, int64_t id, const cs_audit_row_t *row);
    void *baton;
    int left; /* of the caller's limit */
} reader_t;

static int read_row(void *baton, const char *const *columns)
{
    reader_t *reader = baton;
    cs_audit_row_t row;
    int64_t id;
    int64_t seq;

    cs_audit_row_read(columns, &row, &id, &seq);
    reader->left--;
    return reader->fn(reader->baton, id, &row) != 0 || reader->left <= 0;
}

cs_store_e cs_store_audit(cs_store_t *store, const cs_audit_filter_t *filter,
                          int (*fn)(void *baton, int64_t id, const cs_audit_row_t *row), void *baton, char *error,
                          size_t size)
{
    reader_t reader = {fn, baton, filter->limit > 0 && filter->limit < PAGE_MAX ? filter->limit : PAGE_MAX};
    char id[CS_SQL_NUMBER];
    char from[CS_SQL_TIME];
    char until[CS_SQL_TIME];
    const char *args[6];
    cs_stmt_e stmt = CS_STMT_AUDIT_ALL;
    int n = 0;

    /* A page of the statement may be larger than what is asked for, never smaller: the way in comes first, then the same for all. */
    if (filter->stream_id != NULL) {
        stmt = CS_STMT_AUDIT_STREAM;
        args[n++] = filter->stream_id;
        args[n++] = filter->user;
    }
    else if (filter->user != NULL) {
        stmt = CS_STMT_AUDIT_USER;
        args[n++] = filter->user;
    }
    args[n++] = cs_sql_number(id, filter->after_id);
    args[n++] = cs_sql_time(from, filter->from);
    args[n++] = filter->until != 0 ? cs_sql_time(until, filter->until) : "9999-12-31T23:59:59.999999Z";
    args[n] = filter->event;
    return cs_sql_select(store, stmt, args, read_row, &reader, error, size);
}
