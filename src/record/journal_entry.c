/* SPDX-License-Identifier: Apache-2.0 */
#include "journal_entry.h"

#include <string.h>

#include "bytes.h"
#include "crc32c.h"

#define MAGIC   "csjournl"
#define VERSION 1

/* Places in a segment's head. */
enum { AT_VERSION = 8, AT_CHAIN = 16, AT_ARENA = 32, AT_NUMBER = 48, AT_SEQ = 56, AT_TS = 64, AT_HASH = 72 };
enum { AT_CREATED = 104, AT_NODE = 112, AT_CRC = CS_SEGMENT_HEAD - 4, HASH_LEN = 32 };

void cs_segment_head_put(char out[CS_SEGMENT_HEAD], const cs_segment_head_t *head)
{
    memset(out, 0, CS_SEGMENT_HEAD);
    memcpy(out, MAGIC, 8);
    put_le(out + AT_VERSION, VERSION, 4);
    memcpy(out + AT_CHAIN, head->chain.bytes, 16);
    memcpy(out + AT_ARENA, head->arena.bytes, 16);
    put_le(out + AT_NUMBER, head->number, 8);
    put_le(out + AT_SEQ, head->tip.seq, 8);
    put_le(out + AT_TS, (uint64_t)head->tip.ts, 8);
    get_hex(out + AT_HASH, head->tip.hash, HASH_LEN);
    put_le(out + AT_CREATED, (uint64_t)head->created, 8);
    memcpy(out + AT_NODE, head->node, strnlen(head->node, sizeof(head->node) - 1));
    put_le(out + AT_CRC, cs_crc32c(out, AT_CRC), 4);
}

apr_status_t cs_segment_head_get(cs_segment_head_t *head, const char *bytes, size_t len)
{
    if (len < CS_SEGMENT_HEAD || memcmp(bytes, MAGIC, 8) != 0
        || get_le(bytes + AT_CRC, 4) != cs_crc32c(bytes, AT_CRC)) {
        return APR_EINVAL;
    }
    if (get_le(bytes + AT_VERSION, 4) != VERSION) {
        return APR_ENOTIMPL;
    }
    memcpy(head->chain.bytes, bytes + AT_CHAIN, 16);
    memcpy(head->arena.bytes, bytes + AT_ARENA, 16);
    head->number = get_le(bytes + AT_NUMBER, 8);
    head->tip.seq = get_le(bytes + AT_SEQ, 8);
    head->tip.ts = (apr_time_t)get_le(bytes + AT_TS, 8);
    put_hex(head->tip.hash, bytes + AT_HASH, HASH_LEN);
    head->created = (apr_time_t)get_le(bytes + AT_CREATED, 8);
    memcpy(head->node, bytes + AT_NODE, sizeof(head->node));
    head->node[sizeof(head->node) - 1] = '\0';
    return APR_SUCCESS;
}

void cs_entry_head_put(char out[CS_ENTRY_HEAD], const char *fact, size_t len, apr_time_t at)
{
    memcpy(out, CS_ENTRY_MARKER, 4);
    put_le(out + 4, len, 4);
    put_le(out + 8, (uint64_t)at, 8);
    put_le(out + 16, cs_crc32c(fact, len), 4);
    put_le(out + 20, cs_crc32c(out, 20), 4);
}

int cs_entry_head_get(cs_entry_head_t *head, const char bytes[CS_ENTRY_HEAD])
{
    if (memcmp(bytes, CS_ENTRY_MARKER, 4) != 0 || get_le(bytes + 20, 4) != cs_crc32c(bytes, 20)) {
        return 0;
    }
    head->len = get_le(bytes + 4, 4);
    head->at = (apr_time_t)get_le(bytes + 8, 8);
    head->crc = (uint32_t)get_le(bytes + 16, 4);
    return head->len <= CS_FACT_MAX;
}
