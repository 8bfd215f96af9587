/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "layout.h"

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        snprintf(why, size, __VA_ARGS__);                                                                              \
        return APR_EGENERAL;                                                                                           \
    } while (0)

static apr_status_t check_slots(cs_log_t *log, char *why, size_t size)
{
    const arena_head_t *head = log->head;
    uint32_t i, live = 0, kept = 0, unused = 0, listed = 0, at;

    for (i = 0; i < head->nslots; i++) {
        live += log->slots[i].life == LIFE_LIVE;
        kept += log->slots[i].life == LIFE_KEPT;
        unused += log->slots[i].life == LIFE_FREE;
    }
    if (live != head->live || kept != head->kept) {
        FAIL("slots: %u live and %u kept, counted as %u and %u", live, kept, head->live, head->kept);
    }
    for (at = head->free_slot; at != NONE && listed <= unused; at = log->slots[at].free_next) {
        if (log->slots[at].life != LIFE_FREE) {
            FAIL("slot %u is in use and on the free list", at);
        }
        listed++;
    }
    if (listed != unused) {
        FAIL("slots: %u are free, the list holds %u", unused, listed);
    }
    for (at = head->kept_first, listed = 0; at != NONE && listed <= kept; at = log->slots[at].kept_next) {
        listed++;
    }
    if (listed != kept) {
        FAIL("slots: %u are kept, the list holds %u", kept, listed);
    }
    return APR_SUCCESS;
}

static apr_status_t check_chain(cs_log_t *log, uint32_t index, char *why, size_t size)
{
    slot_t *slot = &log->slots[index];
    const log_head_t *head = head_of(slot);
    uint32_t at = atomic_load(&head->block), count = 0, last = NONE;
    uint64_t tail = atomic_load(&slot->tail_pos);

    while (at != NONE && count <= slot->blocks) {
        if (block_at(log, at)->owner != index + 1) {
            FAIL("slot %u: block %u in its chain belongs to %u", index, at, block_at(log, at)->owner);
        }
        count++;
        last = at;
        at = block_at(log, at)->next;
    }
    if (count != slot->blocks || (count && last != atomic_load(&slot->last_block))) {
        FAIL("slot %u: chain of %u blocks, counted as %u", index, count, slot->blocks);
    }
    if (head->pos > tail || count != blocks_between(head->pos, tail)) {
        FAIL("slot %u: %u blocks for bytes %llu to %llu", index, count, (unsigned long long)head->pos,
             (unsigned long long)tail);
    }
    return APR_SUCCESS;
}

static apr_status_t check_blocks(cs_log_t *log, char *why, size_t size)
{
    uint32_t i, owned = 0, chained = 0, listed = 0, at;

    for (i = 0; i < log->head->nblocks; i++) {
        owned += block_at(log, i)->owner != 0;
    }
    for (i = 0; i < log->head->nslots; i++) {
        if (log->slots[i].life != LIFE_FREE) {
            apr_status_t rv = check_chain(log, i, why, size);

            if (rv) {
                return rv;
            }
            chained += log->slots[i].blocks;
        }
    }
    if (owned != chained) {
        FAIL("blocks: %u are taken, %u are in chains", owned, chained);
    }
    for (at = log->head->free_block; at != NONE && listed <= log->head->nblocks; at = block_at(log, at)->next) {
        listed++;
    }
    if (listed != log->head->nblocks - owned || listed != atomic_load(&log->head->blocks_free)) {
        FAIL("blocks: %u are free, the list holds %u, counted as %u", log->head->nblocks - owned, listed,
             atomic_load(&log->head->blocks_free));
    }
    return APR_SUCCESS;
}

apr_status_t cs_log_validate(cs_log_t *log, char *why, size_t size)
{
    apr_status_t rv;

    cs_log_lock(log);
    rv = check_slots(log, why, size);
    if (!rv) {
        rv = check_blocks(log, why, size);
    }
    cs_log_unlock(log);
    return rv;
}
