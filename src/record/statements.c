/* SPDX-License-Identifier: Apache-2.0 */
#include <apr_lib.h>

#include "statements.h"

const cs_statement_t cs_statements[CS_STMT_COUNT] = {
#define CS_STATEMENT(name, label, sqlite3, pgsql, mysql) {"chatstream_" label, {sqlite3, pgsql, mysql}},
#include "statements_record.inc"
#include "statements_admin.inc"
#undef CS_STATEMENT
};

int cs_statement_parameters(const char *text)
{
    int count = 0;

    for (; *text; text++) {
        if (text[0] == '%' && text[1] == '%') {
            text++;
        }
        else if (text[0] == '%' && apr_isalpha(text[1])) {
            count++;
        }
    }
    return count;
}
