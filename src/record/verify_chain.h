/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One chain, row by row from the front, in pages: only the row before is remembered. verify.c looks at whole chains with it, purge.c at
 * what it is about to remove.
 */
#ifndef CS_RECORD_VERIFY_CHAIN_H
#define CS_RECORD_VERIFY_CHAIN_H

#include "chain.h"
#include "store.h"
#include "verify_known.h"

/* A row of audit_chains. */
typedef struct {
    int is_there;
    int64_t head_seq;
    int64_t base_seq;
    char head_hash[65];
    char base_hash[65];
} cs_chain_entry_t;

/* One row's hash. */
typedef struct {
    int is_there;
    char hash[65];
} cs_chain_hash_t;

cs_store_e cs_chain_hash_read(cs_store_t *store, const char *chain, int64_t seq, cs_chain_hash_t *hash, char *error,
                              size_t size);
cs_store_e cs_chain_entry_read(cs_store_t *store, const char *chain, cs_chain_entry_t *entry, char *error, size_t size);

typedef struct {
    /* set by the caller */
    cs_store_t *store;
    const char *chain;
    cs_known_chain_t *known; /* may be NULL */
    void (*finding)(void *baton, int64_t seq, const char *what);
    /* After each row that is as it was, NULL: not asked. Non-zero stops. */
    int (*row)(void *baton, const cs_audit_row_t *row);
    void *baton;
    /* the last row that was read, before the first: the base it has to start from */
    int64_t seq;
    char hash[65];
    char ts[CS_CHAIN_TS_LEN + 1];
    /* counted */
    uint64_t rows;
    uint64_t erased;
    unsigned findings;
    /* verify_chain.c's own */
    int64_t base_seq;
    int64_t page_seq;
    int64_t page_id;
    int page_rows;
    int next_anchor;
    int is_doubtful; /* what the last row says about itself is wrong: it cannot speak for the next one */
    int stopped;
} cs_chain_walk_t;

/* Fields of the caller are set by the caller, before or after. */
void cs_chain_walk_init(cs_chain_walk_t *walk, int64_t base_seq, const char *base_hash);
/* To the last row there is, or until `row` stops it. */
cs_store_e cs_chain_walk(cs_chain_walk_t *walk, char *error, size_t size);

#endif
