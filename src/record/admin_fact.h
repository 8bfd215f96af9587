/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An audit row about what was done to the records and settings themselves: retention, erase, flag_change. Whoever owns the journal
 * may call.
 */
#ifndef CS_RECORD_ADMIN_FACT_H
#define CS_RECORD_ADMIN_FACT_H

#include "fact.h"
#include "journal.h"

/* This machine's name, as it stands in facts and audit_chains; cut at 255 bytes. */
#define CS_NODE_SIZE 256
void cs_admin_node(char out[CS_NODE_SIZE]);

/*
 * Fills in an INCIDENT of now and appends it. `detail` is a JSON object; `node` and `detail` are borrowed by `fact`. Errors as
 * cs_journal_append; `error` says so in a line.
 */
apr_status_t cs_admin_fact(cs_journal_t *journal, cs_fact_t *fact, const char *event, const char *node,
                           const cs_buf_t *detail, char *error, size_t size);

#endif
