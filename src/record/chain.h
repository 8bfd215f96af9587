/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit chain: each writer (a journal) has one; a row's hash covers the row and the hash before it.
 *
 *   identity = SHA-256(salt, user_key, user_email, ip, query_hash)        what erasing a person takes away
 *   hash     = SHA-256(prev_hash, chain, seq, ts, event, stream_id, detail, identity)
 *
 * All members go in as canonical text: each either "-" for NULL or "<length in bytes>:<bytes>", one after the other, so that nothing
 * can be moved from one member to the next. ts is the ISO 8601 text with microseconds, "2026-02-17T10:00:00.000000Z". The first row's
 * prev_hash is 64 zeros, and the `anchors` in its detail say how far the other chains were then:
 *
 *   {"anchors":[{"chain":"…","seq":17,"hash":"…"}], …}
 */
#ifndef CS_RECORD_CHAIN_H
#define CS_RECORD_CHAIN_H

#include "chatstream/core.h"

#define CS_CHAIN_GENESIS "0000000000000000000000000000000000000000000000000000000000000000"
#define CS_CHAIN_TS_LEN  27

/* One row, as it lies in the database; NULL where the column is NULL. */
typedef struct {
    const char *chain;
    uint64_t seq;
    const char *ts; /* ISO 8601 with microseconds */
    const char *event;
    const char *stream_id;
    const char *user_key;
    const char *user_email;
    const char *ip;
    const char *query_hash;
    const char *detail;
    const char *salt; /* NULL: the identity was erased */
    const char *identity;
    const char *prev_hash;
    const char *hash;
} cs_audit_row_t;

/*
 * Hexadecimal, lower case, and a NUL. Computed from the row's members: identity from the five it covers, whatever row->identity says;
 * hash from its eight, row->identity among them, whatever row->hash says. An empty string, which no row has, when OpenSSL has no memory.
 */
void cs_chain_identity(char out[65], const cs_audit_row_t *row);
void cs_chain_hash(char out[65], const cs_audit_row_t *row);
/* 16 random bytes as hexadecimal. */
apr_status_t cs_chain_salt(char out[33]);
void cs_chain_ts(char out[CS_CHAIN_TS_LEN + 1], apr_time_t ts);

/* SHA-256, or HMAC-SHA-256 when there is a key, of a message: what `query_hash` is. */
void cs_query_hash(char out[65], const char *key, size_t key_len, const char *text, size_t len);

#endif
