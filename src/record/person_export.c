/* SPDX-License-Identifier: Apache-2.0 */
/* Article 15: {"user":…,"sessions":[…],"messages":[…],"audit":[…]}, read in pages. */
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "audit_row.h"
#include "sql.h"

#define ID_SIZE 768 /* 255 characters of the schemas' ids, in UTF-8 */

typedef enum { AS_TEXT, AS_INTEGER, AS_BOOLEAN } as_e;

typedef struct {
    const char *name;
    as_e as;
} column_t;

static const column_t session_columns[] = {{"id", AS_TEXT},
                                           {"created_at", AS_TEXT},
                                           {"updated_at", AS_TEXT},
                                           {"completed_at", AS_TEXT},
                                           {"profile", AS_TEXT},
                                           {"user_key", AS_TEXT},
                                           {"user_email", AS_TEXT},
                                           {"connection_id", AS_TEXT},
                                           {"resource", AS_TEXT},
                                           {"status", AS_TEXT},
                                           {"error_code", AS_TEXT},
                                           {"query_hash", AS_TEXT},
                                           {"upstream", AS_TEXT},
                                           {"node", AS_TEXT},
                                           {"first_chunk_latency_ms", AS_INTEGER},
                                           {"duration_ms", AS_INTEGER},
                                           {"chunk_count", AS_INTEGER},
                                           {"bytes_sent", AS_INTEGER},
                                           {"reconnects", AS_INTEGER},
                                           {"prompt_tokens", AS_INTEGER},
                                           {"completion_tokens", AS_INTEGER},
                                           {"db_saved", AS_BOOLEAN}};

static const column_t message_columns[] = {
    {"id", AS_TEXT},      {"session_id", AS_TEXT}, {"conversation_id", AS_TEXT}, {"role", AS_TEXT},
    {"content", AS_TEXT}, {"created_at", AS_TEXT}, {"partial", AS_BOOLEAN}};

typedef struct {
    cs_buf_t *out;
    const column_t *columns;
    int count;
    char after[ID_SIZE];
    int rows;
    int total;
    apr_status_t rv;
} table_t;

static apr_status_t append_column(cs_buf_t *out, const column_t *column, const char *text)
{
    apr_status_t rv;

    switch (column->as) {
    case AS_TEXT:
        return cs_audit_json_text(out, column->name, text);
    case AS_INTEGER:
        return cs_audit_json_int(out, column->name, text);
    case AS_BOOLEAN:
        break;
    }
    rv = cs_buf_append_str(out, ",\"");
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, column->name);
    }
    return rv == APR_SUCCESS ? cs_buf_append_str(out, text != NULL && strcmp(text, "1") == 0 ? "\":true" : "\":false")
                             : rv;
}

static int export_row(void *baton, const char *const *columns)
{
    table_t *table = baton;
    int i;

    apr_cpystrn(table->after, columns[0] != NULL ? columns[0] : "", sizeof(table->after));
    table->rows++;
    table->rv = cs_buf_append_str(table->out, table->total++ > 0 ? ",\n{" : "\n{");
    for (i = 0; i < table->count && table->rv == APR_SUCCESS; i++) {
        table->rv = append_column(table->out, &table->columns[i], columns[i]);
    }
    if (table->rv == APR_SUCCESS) {
        table->rv = cs_buf_append_str(table->out, "}");
    }
    return table->rv != APR_SUCCESS;
}

static int export_audit_row(void *baton, const char *const *columns)
{
    table_t *table = baton;
    cs_audit_row_t row;
    int64_t id;
    int64_t seq;

    cs_audit_row_read(columns, &row, &id, &seq);
    cs_sql_number(table->after, id);
    table->rows++;
    table->rv = cs_buf_append_str(table->out, table->total++ > 0 ? ",\n" : "\n");
    if (table->rv == APR_SUCCESS) {
        table->rv = cs_audit_row_json(table->out, id, &row);
    }
    return table->rv != APR_SUCCESS;
}

/* `users`: how often the statement names the user before the id behind which it goes on. */
static cs_store_e export_table(cs_store_t *store, table_t *table, cs_stmt_e stmt, const char *user, int users,
                               int (*row)(void *baton, const char *const *columns), char *error, size_t size)
{
    const char *args[4];
    cs_store_e rv;
    int i;

    for (i = 0; i < users; i++) {
        args[i] = user;
    }
    args[users] = table->after;
    do {
        table->rows = 0;
        rv = cs_sql_select(store, stmt, args, row, table, error, size);
    } while (rv == CS_STORE_OK && table->rv == APR_SUCCESS && table->rows > 0);
    return rv;
}

cs_store_e cs_store_export_user(cs_store_t *store, const char *user, cs_buf_t *out, char *error, size_t size)
{
    table_t sessions = {out, session_columns, sizeof(session_columns) / sizeof(*session_columns), "", 0,
                        0,   APR_SUCCESS};
    table_t messages = {out, message_columns, sizeof(message_columns) / sizeof(*message_columns), "", 0,
                        0,   APR_SUCCESS};
    table_t audit = {out, NULL, 0, "0", 0, 0, APR_SUCCESS};
    size_t start = out->len;
    cs_store_e got = CS_STORE_OK;
    apr_status_t rv;

    rv = cs_buf_append_str(out, "{");
    if (rv == APR_SUCCESS) {
        rv = cs_audit_json_text(out, "user", user);
    }
    if (rv == APR_SUCCESS && (rv = cs_buf_append_str(out, ",\"sessions\":[")) == APR_SUCCESS) {
        got = export_table(store, &sessions, CS_STMT_EXPORT_SESSIONS, user, 1, export_row, error, size);
        rv = sessions.rv;
    }
    if (got == CS_STORE_OK && rv == APR_SUCCESS && (rv = cs_buf_append_str(out, "],\n\"messages\":[")) == APR_SUCCESS) {
        got = export_table(store, &messages, CS_STMT_EXPORT_MESSAGES, user, 2, export_row, error, size);
        rv = messages.rv;
    }
    if (got == CS_STORE_OK && rv == APR_SUCCESS && (rv = cs_buf_append_str(out, "],\n\"audit\":[")) == APR_SUCCESS) {
        got = export_table(store, &audit, CS_STMT_EXPORT_AUDIT, user, 3, export_audit_row, error, size);
        rv = audit.rv;
    }
    if (got == CS_STORE_OK && rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, "]}\n");
    }
    if (got == CS_STORE_OK && rv != APR_SUCCESS) {
        snprintf(error, size, "export: the document is too large for the memory it may have");
        got = CS_STORE_REFUSED;
    }
    if (got != CS_STORE_OK) {
        out->len = start;
    }
    return got;
}
