/* SPDX-License-Identifier: Apache-2.0 */
#include "admin_fact.h"

#include <stdio.h>
#include <unistd.h>

#include <apr_strings.h>

void cs_admin_node(char out[CS_NODE_SIZE])
{
    if (gethostname(out, CS_NODE_SIZE) != 0) {
        apr_cpystrn(out, "localhost", CS_NODE_SIZE);
    }
    out[CS_NODE_SIZE - 1] = '\0';
}

apr_status_t cs_admin_fact(cs_journal_t *journal, cs_fact_t *fact, const char *event, const char *node,
                           const cs_buf_t *detail, char *error, size_t size)
{
    char reason[120];
    apr_status_t rv;

    cs_fact_init(fact, CS_FACT_INCIDENT);
    cs_fact_set(fact, CS_TXT_EVENT, event);
    cs_fact_set(fact, CS_TXT_NODE, node);
    fact->text[CS_TXT_DETAIL].data = detail->data;
    fact->text[CS_TXT_DETAIL].len = detail->len;
    fact->number[CS_NUM_WANTS] = CS_WANT_AUDIT;
    fact->number[CS_NUM_AT] = apr_time_now();
    rv = cs_journal_append(journal, fact);
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "the %s row cannot be written to the journal: %s", event,
                 apr_strerror(rv, reason, sizeof(reason)));
    }
    return rv;
}
