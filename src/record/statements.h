/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of statements: for each a label and a text per dialect, in apr_dbd's notation: %s is a parameter, %% a per
 * cent sign. Parameters are texts and come in the same order in every dialect, for that is what a site's own statement
 * of the same label is given; what the order is stands with each statement in statements_record.inc (what the recorder
 * writes) and statements_admin.inc (what people ask). A new one is one entry there and nowhere else.
 *
 * Constant data; any thread.
 */
#ifndef CS_RECORD_STATEMENTS_H
#define CS_RECORD_STATEMENTS_H

typedef enum {
#define CS_STATEMENT(name, label, sqlite3, pgsql, mysql) CS_STMT_##name,
#include "statements_record.inc"
#include "statements_admin.inc"
#undef CS_STATEMENT
    CS_STMT_COUNT
} cs_stmt_e;

typedef struct {
    const char *label;   /* "chatstream_session_open" */
    const char *text[3]; /* by cs_sql_e */
} cs_statement_t;

extern const cs_statement_t cs_statements[CS_STMT_COUNT];

/* How many parameters a text has. */
int cs_statement_parameters(const char *text);

#endif
