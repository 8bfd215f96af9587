/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the store share: facts of made-up streams, with links that are well-formed but do not verify. */
#ifndef T_UNIT_STORE_FIXTURE_H
#define T_UNIT_STORE_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "record/store.h"

#define STORE_WANTS_ALL (CS_WANT_SESSIONS | CS_WANT_TRANSCRIPT | CS_WANT_AUDIT)
#define STORE_AT        1771322400123456 /* 2026-02-17T10:00:00.123456Z */

static inline void store_link(cs_fact_t *fact, uint64_t seq)
{
    cs_link_t *link = &fact->link;

    link->seq = seq;
    link->ts = fact->number[CS_NUM_AT];
    snprintf(link->salt, sizeof(link->salt), "%032llx", (unsigned long long)seq);
    snprintf(link->identity, sizeof(link->identity), "%064llx", (unsigned long long)seq);
    snprintf(link->prev_hash, sizeof(link->prev_hash), "%064llx", (unsigned long long)seq - 1);
    snprintf(link->hash, sizeof(link->hash), "%064llx", (unsigned long long)seq);
}

static inline cs_fact_t store_fact(cs_fact_kind_e kind, const char *id)
{
    cs_fact_t fact;

    cs_fact_init(&fact, kind);
    fact.number[CS_NUM_WANTS] = STORE_WANTS_ALL;
    fact.number[CS_NUM_AT] = STORE_AT;
    cs_fact_set(&fact, CS_TXT_STREAM_ID, id);
    cs_fact_set(&fact, CS_TXT_PROFILE, "chat");
    cs_fact_set(&fact, CS_TXT_USER_KEY, "user-1");
    cs_fact_set(&fact, CS_TXT_USER_EMAIL, "user-1@example.org");
    cs_fact_set(&fact, CS_TXT_CONNECTION_ID, "connection-1");
    cs_fact_set(&fact, CS_TXT_RESOURCE, "/api/chat");
    cs_fact_set(&fact, CS_TXT_CONVERSATION_ID, "conversation-1");
    cs_fact_set(&fact, CS_TXT_QUERY_HASH, CS_CHAIN_GENESIS);
    cs_fact_set(&fact, CS_TXT_UPSTREAM, "http://127.0.0.1:8000");
    cs_fact_set(&fact, CS_TXT_NODE, "node-1");
    return fact;
}

static inline cs_fact_t store_opening(const char *id, uint64_t seq)
{
    cs_fact_t fact = store_fact(CS_FACT_OPEN, id);

    cs_fact_set(&fact, CS_TXT_MESSAGE, "What is a \"stream\"? \xe2\x82\xac 100%");
    cs_fact_set(&fact, CS_TXT_EVENT, "stream_open");
    cs_fact_set(&fact, CS_TXT_DETAIL, "{\"profile\": \"chat\",  \"b\":1,\"a\":2}");
    if (seq > 0) {
        store_link(&fact, seq);
    }
    return fact;
}

static inline cs_fact_t store_ending(const char *id, uint64_t seq, const char *status)
{
    cs_fact_t fact = store_fact(CS_FACT_CLOSE, id);

    fact.number[CS_NUM_AT] += apr_time_from_msec(1500);
    fact.number[CS_NUM_FIRST_CHUNK_MS] = 120;
    fact.number[CS_NUM_DURATION_MS] = 1500;
    fact.number[CS_NUM_CHUNK_COUNT] = 42;
    fact.number[CS_NUM_BYTES_SENT] = 4242;
    fact.number[CS_NUM_RECONNECTS] = 1;
    cs_fact_set(&fact, CS_TXT_STATUS, status);
    cs_fact_set(&fact, CS_TXT_ANSWER, "A stream is \xf0\x9f\x8c\x8a.");
    cs_fact_set(&fact, CS_TXT_EVENT, "stream_close");
    cs_fact_set(&fact, CS_TXT_DETAIL, "{\"status\":\"completed\"}");
    if (seq > 0) {
        store_link(&fact, seq);
    }
    return fact;
}

#endif
