/* SPDX-License-Identifier: Apache-2.0 */
#include "purge.h"

#include <apr_strings.h>

#include "sql.h"

#define AT_ONCE 500 /* as the statements say in their LIMIT */
#define ID_SIZE 65

typedef struct {
    char id[AT_ONCE][ID_SIZE];
    int count;
} batch_t;

static int take_id(void *baton, const char *const *columns)
{
    batch_t *batch = baton;

    if (columns[0] != NULL) {
        apr_cpystrn(batch->id[batch->count++], columns[0], ID_SIZE);
    }
    return batch->count == AT_ONCE;
}

static cs_store_e remove_batch(cs_store_t *store, const batch_t *batch, const cs_stmt_e *stmts, int *removed,
                               char *error, size_t size)
{
    cs_store_e rv = cs_store_begin(store, error, size);
    int i;
    int j;

    *removed = 0;
    if (rv != CS_STORE_OK) {
        return rv;
    }
    /* By id: a LIMIT within each DELETE might choose messages of one session and then another session. */
    for (i = 0; i < batch->count && rv == CS_STORE_OK; i++) {
        const char *id = batch->id[i];
        int affected = 0;

        for (j = 0; stmts[j] != CS_STMT_COUNT && rv == CS_STORE_OK; j++) {
            rv = cs_sql_exec(store, stmts[j], &id, &affected, error, size);
        }
        *removed += affected; /* of the last statement */
    }
    if (rv == CS_STORE_OK) {
        return cs_store_commit(store, error, size);
    }
    cs_store_rollback(store);
    return rv;
}

static cs_store_e remove_all(cs_store_t *store, cs_stmt_e which, const cs_stmt_e *stmts, const char *before,
                             uint64_t *count, char *error, size_t size)
{
    batch_t batch;
    cs_store_e rv;

    do {
        int removed = 0;

        batch.count = 0;
        rv = cs_sql_select(store, which, &before, take_id, &batch, error, size);
        if (rv == CS_STORE_OK && batch.count > 0) {
            rv = remove_batch(store, &batch, stmts, &removed, error, size);
        }
        if (rv == CS_STORE_OK) {
            *count += (uint64_t)removed;
            if (removed == 0) {
                break; /* somebody else is at it */
            }
        }
    } while (rv == CS_STORE_OK && batch.count == AT_ONCE);
    return rv;
}

cs_store_e cs_purge_sessions(cs_store_t *store, apr_time_t before, uint64_t *sessions, char *error, size_t size)
{
    static const cs_stmt_e of_session[] = {CS_STMT_PURGE_MESSAGES, CS_STMT_PURGE_SESSION, CS_STMT_COUNT};
    static const cs_stmt_e of_message[] = {CS_STMT_PURGE_MESSAGE, CS_STMT_COUNT};
    char text[CS_SQL_TIME];
    uint64_t messages = 0;
    cs_store_e rv;

    *sessions = 0;
    cs_sql_time(text, before);
    rv = remove_all(store, CS_STMT_PURGE_OLD_SESSIONS, of_session, text, sessions, error, size);
    if (rv == CS_STORE_OK) {
        rv = remove_all(store, CS_STMT_PURGE_OLD_MESSAGES, of_message, text, &messages, error, size);
    }
    return rv;
}
