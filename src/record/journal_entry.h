/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal_entry: the bytes of a segment.
 *
 *   segment   | head, 384 bytes | entry | entry | ...
 *   head      magic, version, chain, arena, number, tip (seq, ts, hash) before the first entry, when, node, CRC of all that
 *   entry     marker (4)  length of the fact (4)  when (8)  CRC of the fact (4)  CRC of these 20 bytes (4)  the fact
 *
 * The marker has bytes that no UTF-8 text holds, so that nobody can write an entry into a message. The head's own CRC tells an entry
 * that was cut short (good head, too few bytes) from one that was damaged.
 */
#ifndef CS_RECORD_JOURNAL_ENTRY_H
#define CS_RECORD_JOURNAL_ENTRY_H

#include "chain_link.h"

#define CS_SEGMENT_HEAD 384
#define CS_ENTRY_HEAD   24
#define CS_ENTRY_MARKER                                                                                                \
    "\xfe"                                                                                                             \
    "CS\xff"

typedef struct {
    cs_uuid_t chain, arena;
    uint64_t number;
    cs_tip_t tip;
    apr_time_t created;
    char node[256];
} cs_segment_head_t;

void cs_segment_head_put(char out[CS_SEGMENT_HEAD], const cs_segment_head_t *head);
/* APR_EINVAL: not a head. APR_ENOTIMPL: one of a later version. */
apr_status_t cs_segment_head_get(cs_segment_head_t *head, const char *bytes, size_t len);

typedef struct {
    size_t len; /* of the fact */
    apr_time_t at;
    uint32_t crc; /* of the fact */
} cs_entry_head_t;

void cs_entry_head_put(char out[CS_ENTRY_HEAD], const char *fact, size_t len, apr_time_t at);
/* 0: not the head of an entry. */
int cs_entry_head_get(cs_entry_head_t *head, const char bytes[CS_ENTRY_HEAD]);

#endif
