/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What audit rows say about other rows, read before any chain is looked at:
 *
 *   anchors    in the first row of a chain: how far other chains were then
 *   bases      in `retention` rows: up to where rows of a chain may be gone
 *   erasures   in `erase` rows: which rows were made anonymous
 *
 * None of these is believed more than the row it stands in: that one is verified like any other. Ranges are kept, not rows, so it all
 * fits into memory where the table does not.
 */
#ifndef CS_RECORD_VERIFY_KNOWN_H
#define CS_RECORD_VERIFY_KNOWN_H

#include <apr_hash.h>
#include <apr_pools.h>
#include <apr_tables.h>

#include "store.h"

/* "Row `seq` of this chain has this hash." */
typedef struct {
    int64_t seq;
    const char *hash;
    const char *by; /* who says so, in words */
    int met;        /* verify_chain.c: the row is there */
} cs_anchor_t;

typedef struct {
    int64_t first;
    int64_t last;
} cs_range_t;

/* What is said about one chain. */
typedef struct {
    const char *chain;
    apr_array_header_t *anchors; /* cs_anchor_t, by seq */
    apr_array_header_t *erased;  /* cs_range_t, by first, none touches the next */
    int64_t base_seq;            /* up to here retention may have removed rows; 0: it may not */
    const char *base_hash;
    const char *base_chain; /* the retention row that says so */
    int64_t base_row;
} cs_known_chain_t;

/* An `erase` row must stay while there are rows that only it explains. */
typedef struct {
    const char *chain;
    int64_t seq;
    const char *target;
    int64_t last; /* the last row of `target` it names */
} cs_erasure_t;

typedef struct {
    apr_pool_t *pool;
    apr_hash_t *chains;           /* chain -> cs_known_chain_t */
    apr_array_header_t *erasures; /* cs_erasure_t */
} cs_known_t;

/* Everything in `known` lives in `pool`. */
cs_store_e cs_known_read(cs_store_t *store, cs_known_t *known, apr_pool_t *pool, char *error, size_t size);
/* One more anchor; texts are copied. Only before cs_known_sort. */
void cs_known_anchor(cs_known_t *known, const char *chain, int64_t seq, const char *hash, const char *by);
/* Once, when all is in: lookups need the order. */
void cs_known_sort(cs_known_t *known);
/* NULL: nothing is said about it. */
cs_known_chain_t *cs_known_chain(const cs_known_t *known, const char *chain);
/* `chain` may be NULL. */
int cs_known_is_erased(const cs_known_chain_t *chain, int64_t seq);

#endif
