/* SPDX-License-Identifier: Apache-2.0 */
/* chain_link: the audit chain's arithmetic on a fact instead of a row. For the journal's files and their tests. */
#ifndef CS_RECORD_CHAIN_LINK_H
#define CS_RECORD_CHAIN_LINK_H

#include "chain.h"
#include "fact.h"

/* Where a chain stands: its last row. seq 0: it has none yet. */
typedef struct {
    uint64_t seq;
    apr_time_t ts;
    char hash[CS_HASH_HEX + 1];
} cs_tip_t;

void cs_tip_init(cs_tip_t *tip);
void cs_tip_of(cs_tip_t *tip, const cs_link_t *link);

/* The link of the row that follows `tip`. `fact` is not changed. Errors: no random bytes, no memory for OpenSSL. */
apr_status_t cs_chain_link(cs_link_t *link, const char *chain, const cs_tip_t *tip, const cs_fact_t *fact,
                           apr_time_t now);
/* Is the fact's link what cs_chain_link made of it? What came before is the caller's to compare. */
int cs_chain_link_holds(const char *chain, const cs_fact_t *fact);

#endif
